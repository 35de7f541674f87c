r"""The Frechet distance between two sets of features, each taken for a Gaussian: the "FID" when features are Inception's.

.. math:: \lVert \mu_1 - \mu_2 \rVert^2 + \operatorname{Tr}\bigl(S_1 + S_2 - 2 (S_1 S_2)^{1/2}\bigr)

With any factors S = L L^T the last trace is the sum of the singular values of L_1^T L_2: no matrix square root is taken,
and singular covariances need no special care.

Reference: Dowson and Landau 1982; Heusel et al. 2017, arXiv 1706.08500.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pushforward.metrics.measurement import Measurement, as_pair


@dataclass(frozen=True)
class _Side:
    """Mean, factor L (d, r) of the covariance and its pseudo-inverse (r, d), in float64."""

    n: int
    mean: Tensor
    factor: Tensor
    inverse: Tensor
    trace: float
    centred: Tensor


def _side(x: Tensor) -> _Side:
    n, d = x.shape
    shift = x[:1].double()
    centred = x.double() - shift  # sums about a point of the data: an offset of 1e4 costs no digits
    mean = centred.mean(dim=0)
    centred -= mean
    covariance = centred.T @ centred / (n - 1)
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > d * torch.finfo(torch.float64).eps * values[-1].clamp(min=0)
    root = values[kept].clamp(min=0).sqrt()
    vectors = vectors[:, kept]
    return _Side(n, mean + shift[0], vectors * root, (vectors / root).T, float(covariance.trace()), centred)


def frechet_distance(*, real: Tensor | np.ndarray, fake: Tensor | np.ndarray) -> Measurement:
    """Frechet distance, with the standard error of its first-order expansion.

    It is biased upwards by about 1/n times a constant of the features: compare only equal n, and read it beside the
    floor. Its standard error is the infinitesimal jackknife (delta method): each sample's influence on the distance
    is 2 (mu_f - mu_r).(x - mu_f) + (x - mu_f)^T (I - A) (x - mu_f), A being the optimal map between the two Gaussians.

    Args:
        real: Features, (n, d), n >= 2.
        fake: Features, (m, d), m >= 2.

    Returns:
        The squared distance.

    Raises:
        ValueError: shapes that do not fit, too few rows or rows that are not finite.

    Example:
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> frechet_distance(real=x, fake=x + 3).value  # equal spread, means 3 apart
        9.0
    """
    x, y = as_pair(real, fake)
    a, b = _side(x), _side(y)
    u, s, vt = torch.linalg.svd(b.factor.T @ a.factor, full_matrices=False)
    gap = b.mean - a.mean
    value = float(gap.square().sum()) + a.trace + b.trace - 2 * float(s.sum())
    scale = a.trace + b.trace
    if value < -1e-8 * scale:
        raise ArithmeticError(
            f"a squared distance of {value:g} is below zero beyond rounding; please report these features."
        )

    def variance(side: _Side, rotation: Tensor, sign: float) -> float:
        mapped = (side.centred @ side.inverse.T @ rotation).square() @ s
        influence = 2 * sign * (side.centred @ gap) + side.centred.square().sum(dim=1) - mapped
        return float(influence.var()) / side.n

    stderr = math.sqrt(variance(b, u, 1.0) + variance(a, vt.T, -1.0))
    return Measurement(max(value, 0.0), stderr, "infinitesimal jackknife", len(x), len(y))


@dataclass(frozen=True)
class Extrapolation:
    """A distance extrapolated to endless data.

    Args:
        limit: The intercept.
        sizes: Samples a side at each point of the fit.
        values: The distance there.
        slope: Of the distance against 1/n: the bias is about slope / n.
    """

    limit: Measurement
    sizes: tuple[int, ...]
    values: tuple[float, ...]
    slope: float


def frechet_infinity(
    *, real: Tensor | np.ndarray, fake: Tensor | np.ndarray, points: int = 8, seed: int = 0
) -> Extrapolation:
    """Frechet distance without its bias: a line through the distances of growing subsets against 1/n, read at 1/n = 0.

    Both sides shrink together, so the biases of both are taken out (the published form shrinks the fakes alone).

    Args:
        real: Features, (n, d).
        fake: Features, (m, d).
        points: Sizes in the fit, evenly spaced in 1/n from a quarter of the smaller set to all of it.
        seed: Of the subsets.

    Returns:
        The limit and the fit. Its standard error joins that of the full distance to the scatter about the line.

    Raises:
        ValueError: fewer than 8 samples a feature on either side, where the distance is not yet linear in 1/n.

    Reference: Chong and Forsyth 2020, section 3, arXiv 1911.07023.
    """
    x, y = as_pair(real, fake)
    n = min(len(x), len(y))
    if n < 8 * x.shape[1]:
        raise ValueError(
            f"{n} samples are too few to extrapolate {x.shape[1]} features; at least {8 * x.shape[1]} are needed."
        )
    if points < 3:
        raise ValueError(f"points must be at least 3; got {points}.")
    g = torch.Generator().manual_seed(seed)
    sizes = [round(1 / inverse) for inverse in np.linspace(4 / n, 1 / n, points)]
    found = []
    for size in sizes:
        a, b = (t[torch.randperm(len(t), generator=g)[:size]] for t in (x, y))
        found.append(frechet_distance(real=a, fake=b))
    values = np.array([m.value for m in found])
    design = np.stack([np.ones(points), 1 / np.array(sizes)], axis=1)
    weights = np.sqrt(np.array(sizes))[:, None]  # the distance of n samples has variance of order 1/n
    (limit, slope), *_ = np.linalg.lstsq(design * weights, values * weights[:, 0], rcond=None)
    residual = (values - design @ [limit, slope]) * weights[:, 0]
    scatter = residual @ residual / (points - 2) * np.linalg.inv((design * weights).T @ (design * weights))[0, 0]
    stderr = math.sqrt(scatter + found[-1].stderr ** 2)
    return Extrapolation(
        Measurement(float(limit), stderr, "infinitesimal jackknife and scatter of the fit", len(x), len(y)),
        tuple(sizes),
        tuple(values.tolist()),
        float(slope),
    )
