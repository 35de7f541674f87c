r"""The Frechet distance between two sets of features, each taken for a Gaussian: the "FID" when features are Inception's.

.. math:: \lVert \mu_1 - \mu_2 \rVert^2 + \operatorname{Tr}\bigl(S_1 + S_2 - 2 (S_1 S_2)^{1/2}\bigr)

With any factors S = L L^T the last trace is the sum of the singular values of L_1^T L_2: no matrix square root is taken,
and singular covariances need no special care.

Reference: Dowson and Landau 1982; Heusel et al. 2017, arXiv 1706.08500.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.linalg.blas import dsyrk
from scipy.linalg.lapack import dpotrf, dsygst
from torch import Tensor

from pushforward.metrics.measurement import Measurement, as_pair

BLOCK = 1024  # rows that are held in float64 at a time

SMALL = 256  # up to this many features full decompositions cost nothing
INFLUENCES = 2000  # rows a side whose influence is computed, in many dimensions


class _Side:
    """One set of features about its mean; the covariance and its factors only when asked for."""

    def __init__(self, x: Tensor) -> None:
        self.n = len(x)
        self.x = x
        total = torch.zeros(x.shape[1], dtype=torch.float64)
        for block in x.split(BLOCK):
            total += block.sum(dim=0, dtype=torch.float64)
        self.mean = total / self.n

    def centred(self, rows: Tensor | slice) -> Tensor:
        """Some rows about the mean, float64."""
        return self.x[rows].double() - self.mean

    @cached_property
    def upper(self) -> np.ndarray:
        """The covariance, float64 (d, d), its upper triangle alone: symmetric products cost half of full ones."""
        d = self.x.shape[1]
        out = np.zeros((d, d), order="F")
        for start in range(0, self.n, BLOCK):
            block = self.centred(slice(start, start + BLOCK)).numpy()
            out = dsyrk(1 / (self.n - 1), block.T, beta=1.0, c=out, overwrite_c=True)
        return out

    @property
    def covariance(self) -> Tensor:
        """Float64 (d, d)."""
        upper = torch.from_numpy(self.upper)
        return upper.triu() + upper.triu(1).T

    @cached_property
    def trace(self) -> float:
        """Of the covariance, which is formed only where it is needed anyway."""
        if "upper" in vars(self):
            return float(self.upper.diagonal().sum())
        rows = range(0, self.n, BLOCK)
        return sum(float(self.centred(slice(i, i + BLOCK)).square_().sum()) for i in rows) / (self.n - 1)

    @cached_property
    def spectral(self) -> tuple[Tensor, Tensor]:
        """A factor L (d, r) of the covariance, S = L L^T, and its pseudo-inverse (r, d), whatever the rank."""
        if self.n <= self.x.shape[1]:  # the data are a smaller factor than the covariance
            _, s, vt = torch.linalg.svd(self.centred(slice(None)) / math.sqrt(self.n - 1), full_matrices=False)
            kept = s > self.x.shape[1] * torch.finfo(torch.float64).eps * s[0]
            return vt[kept].T * s[kept], vt[kept] / s[kept, None]
        values, vectors = torch.linalg.eigh(self.covariance)
        kept = values > len(values) * torch.finfo(torch.float64).eps * values[-1].clamp(min=0)
        root, vectors = values[kept].sqrt(), vectors[:, kept]
        return vectors * root, (vectors / root).T


def _coupling(a: _Side, b: _Side) -> float:
    """Tr (S_a S_b)^(1/2): the sum of the singular values of L_b^T L_a for any factors L."""
    d = a.x.shape[1]
    if min(a.n, b.n) <= d and max(a.n, b.n) <= 8 * d:  # the centred data are factors: no covariance is needed
        gram = (a.centred(slice(None)) @ b.centred(slice(None)).T).div_(math.sqrt((a.n - 1) * (b.n - 1)))
        return float(torch.linalg.svdvals(gram).sum())
    if d > SMALL:
        factor, failed = dpotrf(b.upper)
        if not failed:
            inner, _ = dsygst(a.upper, factor, itype=2)  # U A U^T, U^T U = B
            values = np.linalg.eigvalsh(inner, UPLO="U")
            if values[0] > 1e-10 * values[-1]:  # otherwise roots of rounding errors would count
                return float(np.sqrt(values).sum())
    return float(torch.linalg.svdvals(b.spectral[0].T @ a.spectral[0]).sum())


def _stderr(a: _Side, b: _Side) -> float:
    """Infinitesimal jackknife: the spread of each sample's influence on the distance."""
    u, s, vt = torch.linalg.svd(b.spectral[0].T @ a.spectral[0], full_matrices=False)
    gap = b.mean - a.mean

    def variance(side: _Side, rotation: Tensor, sign: float) -> float:
        rows = (
            slice(None) if side.x.shape[1] <= SMALL else torch.linspace(0, side.n - 1, min(INFLUENCES, side.n)).long()
        )
        x = side.centred(rows)
        mapped = (x @ (side.spectral[1].T @ rotation)).square() @ s
        influence = 2 * sign * (x @ gap) + x.square().sum(dim=1) - mapped
        return float(influence.var()) / side.n

    return math.sqrt(variance(b, u, 1.0) + variance(a, vt.T, -1.0))


def frechet_distance(*, real: Tensor | np.ndarray, fake: Tensor | np.ndarray, uncertainty: bool = True) -> Measurement:
    """Frechet distance, with the standard error of its first-order expansion.

    It is biased upwards by about 1/n times a constant of the features: compare only equal n, and read it beside the
    floor. Its standard error is the infinitesimal jackknife (delta method): each sample's influence on the distance
    is 2 (mu_f - mu_r).(x - mu_f) + (x - mu_f)^T (I - A) (x - mu_f), A being the optimal map between the two Gaussians.

    Args:
        real: Features, (n, d), n >= 2.
        fake: Features, (m, d), m >= 2.
        uncertainty: Find the standard error too; in thousands of dimensions it costs more than the distance.

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
    a, b = _Side(x), _Side(y)
    coupling = _coupling(a, b)
    value = float((b.mean - a.mean).square().sum()) + a.trace + b.trace - 2 * coupling
    if value < -1e-8 * (a.trace + b.trace):
        raise ArithmeticError(
            f"a squared distance of {value:g} is below zero beyond rounding; please report these features."
        )
    stderr, method = (_stderr(a, b), "infinitesimal jackknife") if uncertainty else (math.nan, "none: not asked for")
    return Measurement(max(value, 0.0), stderr, method, len(x), len(y))


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
        found.append(frechet_distance(real=a, fake=b, uncertainty=size == sizes[-1]))
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
