r"""The Dirac-GAN: data at 0, a generator at theta, a discriminator D(x) = psi x (Mescheder et al. 2018).

The equilibrium is (0, 0). Minimax's gradient flow conserves theta^2 + psi^2: it circles. The non-saturating one loses psi theta tanh(psi theta / 2) of half of it in unit time, averaged over a turn r^4 / 16 when r is small, so that
r^2 = 8 / (t + 8 / r_0^2): nearer, but slower than any exponential. R1 adds -gamma psi to D's motion and makes the eigenvalues' real part -gamma / 2; Roth's
penalty and instance noise of variance gamma make it -gamma / 4, as the former is the latter to first order.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Kind = Literal["minimax", "non-saturating", "r1", "roth", "instance-noise", "wgan", "wgan-gp"]
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(24)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()  # of a standard normal


def field(theta: float, psi: float, kind: Kind, gamma: float = 1.0) -> tuple[float, float]:
    """(d theta / dt, d psi / dt) of gradient flow.

    Args:
        theta: The generator.
        psi: The discriminator's slope.
        kind: "minimax" and "non-saturating" as they are; "r1" is the latter with the penalty gamma / 2 psi^2; "roth" with gamma / 2 (1 / 4 + p(theta)^2) psi^2, p the sigmoid of D; "instance-noise" with
            normal noise of variance gamma on data and fakes (by quadrature);
            "wgan" and "wgan-gp" are Wasserstein, the latter with gamma / 2 (|psi| - 1)^2.
        gamma: Weight.
    """
    if kind.startswith("wgan"):
        pull = -gamma * (abs(psi) - 1) * math.copysign(1.0, psi) if kind == "wgan-gp" else 0.0
        return psi, -theta + pull
    if kind == "instance-noise":
        real, made = math.sqrt(gamma) * _NODES, theta + math.sqrt(gamma) * _NODES
        said = expit(psi * made)
        pull = _WEIGHTS @ (real * expit(-psi * real)) - _WEIGHTS @ (made * said)
        return psi * float(_WEIGHTS @ (1 - said)), float(pull)
    fake = 1 / (1 + math.exp(min(700.0, max(-700.0, -psi * theta))))  # what D says of the generator's point
    extra = 0.0
    if kind == "r1":
        extra = -gamma * psi
    elif kind == "roth":
        extra = -gamma * (psi * (0.25 + fake**2) + psi**2 * theta * fake**2 * (1 - fake))
    return psi * (fake if kind == "minimax" else 1 - fake), -theta * fake + extra


def eigenvalues(kind: Kind, gamma: float = 1.0) -> NDArray[np.complex128]:
    """Of the linear part at the equilibrium (0, 0), for the kinds that have one there.

    Example:
        >>> round(float(eigenvalues("minimax").imag.max()), 9)  # no damping: half a radian in unit time
        0.5
    """
    damping = {"minimax": 0.0, "non-saturating": 0.0, "r1": gamma, "roth": gamma / 2, "instance-noise": gamma / 2}
    if kind not in damping:
        raise ValueError(f"{kind} has no linear part at (0, 0)")
    return np.linalg.eigvals(np.array([[0.0, 0.5], [-0.5, -damping[kind]]])).astype(np.complex128)


def trajectory(
    kind: Kind,
    *,
    start: tuple[float, float] = (1.0, 0.0),
    step: float = 0.01,
    steps: int = 5000,
    gamma: float = 1.0,
    alternate: bool = False,
) -> NDArray[np.float64]:
    """Gradient descent of both players, (steps + 1, 2): at once, or the discriminator first."""
    theta, psi = start
    path = np.empty((steps + 1, 2))
    path[0] = theta, psi
    for k in range(steps):
        if alternate:
            psi += step * field(theta, psi, kind, gamma)[1]
            theta += step * field(theta, psi, kind, gamma)[0]
        else:
            a, b = field(theta, psi, kind, gamma)
            theta, psi = theta + step * a, psi + step * b
        path[k + 1] = theta, psi
    return path
