r"""Distances between two laws on a line whose densities are known, by quadrature, and what an adversary makes of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """Two densities on an even grid.

    Args:
        x: The grid, (n,).
        p: Of the data, (n,).
        q: Of the generator, (n,).
    """

    x: Array
    p: Array
    q: Array

    def integral(self, values: Array) -> float:
        """By the trapezoidal rule, which for smooth densities that vanish at both ends is exact to many digits."""
        return float(np.trapezoid(values, self.x))


def gaussians(mean: float, sd: float, *, reach: float = 12.0, points: int = 20_001) -> Line:
    """Data N(0, 1), generator N(mean, sd^2)."""
    x = np.linspace(-reach, reach, points)
    return Line(x, _normal(x, 0.0, 1.0), _normal(x, mean, sd))


def _normal(x: Array, mean: float, sd: float) -> Array:
    out: Array = np.exp(-0.5 * ((x - mean) / sd) ** 2) / (sd * math.sqrt(2 * math.pi))
    return out


def kl(line: Line) -> float:
    r"""KL(p || q) in nats; inf where q is 0 and p is not.

    Example:
        >>> round(kl(gaussians(1.0, 1.0)), 9)  # mean^2 / 2
        0.5
    """
    bad = (line.q <= 0) & (line.p > 0)
    if bad.any():
        return math.inf
    ratio = np.where(line.p > 0, np.log(np.maximum(line.p, 1e-320)) - np.log(np.maximum(line.q, 1e-320)), 0.0)
    return line.integral(line.p * ratio)


def jensen_shannon(line: Line) -> float:
    """JSD(p, q) in nats, between 0 and log 2."""
    middle = (line.p + line.q) / 2
    return 0.5 * (kl(Line(line.x, line.p, middle)) + kl(Line(line.x, line.q, middle)))


def wasserstein1(line: Line) -> float:
    """W1(p, q) on a line: the area between the distribution functions.

    Example:
        >>> round(wasserstein1(gaussians(1.5, 1.0)), 6)
        1.5
    """
    step = line.x[1] - line.x[0]
    return float(np.abs(np.cumsum(line.p - line.q) * step).sum() * step)


def pearson(line: Line) -> float:
    r"""Pearson's chi^2 between p + q and 2 q, which least squares with the codes b - c = 1, b - a = 2 minimises (Mao et al. 2017, equation 8)."""
    r = line.p + line.q
    inside = line.q + line.p > 0
    return line.integral(np.where(inside, (r - 2 * line.q) ** 2 / np.maximum(r, 1e-320), 0.0))


# --- the adversary ----------------------------------------------------------------------------------------------


def optimal_discriminator(line: Line) -> Array:
    """p / (p + q), the probability that a point is data (Goodfellow et al. 2014, proposition 1)."""
    out: Array = line.p / np.maximum(line.p + line.q, 1e-320)
    return out


def value(line: Line, d: Array) -> float:
    r"""V(D) = E_p log D + E_q log (1 - D), the minimax game's payoff."""
    d = np.clip(d, 1e-300, 1 - 1e-16)
    return line.integral(line.p * np.log(d) + line.q * np.log1p(-d))


def least_squares_value(line: Line, *, a: float = -1.0, b: float = 1.0, c: float = 0.0) -> float:
    r"""What the generator of least squares pays at D's best answer, E_p (D* - c)^2 + E_q (D* - c)^2 with D* = (b p + a q) / (p + q)."""
    best = (b * line.p + a * line.q) / np.maximum(line.p + line.q, 1e-320)
    return line.integral((line.p + line.q) * (best - c) ** 2)


# --- laws without a common density --------------------------------------------------------------------------------


def parallel_lines(a: float) -> tuple[float, float, float]:
    """KL, JSD and W1 of the uniform laws on two parallel segments at distance a (Arjovsky et al. 2017, example 1).

    Example:
        >>> parallel_lines(0.5)
        (inf, 0.6931471805599453, 0.5)
    """
    if a == 0:
        return 0.0, 0.0, 0.0
    return math.inf, math.log(2), abs(a)
