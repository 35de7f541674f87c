"""Optimal transport between two sets of points: sliced in many dimensions, exact where that is affordable."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from pushforward.metrics.measurement import Measurement, as_pair

BLOCK = 1024  # points that are projected at a time
EXACT_LIMIT = 5000  # points a side: the network simplex needs the whole distance matrix


def _one_dimensional(a: Tensor, b: Tensor, p: int) -> Tensor:
    """E|F^-1 - G^-1|^p of each column of sorted samples (n, k), (m, k): exact, unequal sizes included."""
    if len(a) == len(b):
        return (a - b).abs_().pow_(p).mean(dim=0)
    # Quantile functions are steps; between neighbouring steps of either one, both are constant.
    n, m = len(a), len(b)
    ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).sort().values  # in units of 1 / (n m)
    widths = torch.diff(ends, prepend=torch.zeros(1, dtype=torch.int64))
    middle = 2 * ends - widths  # twice the midpoint, still an integer
    i, j = (middle // (2 * m)).clamp(max=n - 1), (middle // (2 * n)).clamp(max=m - 1)
    return ((a[i] - b[j]).abs_().pow_(p) * (widths.to(a.dtype) / (n * m))[:, None]).sum(dim=0)


def _sorted_projections(x: Tensor, centre: Tensor, axes: Tensor) -> Tensor:
    """Of points about a centre onto each axis, ascending, float32 (axes, n)."""
    out = torch.empty(axes.shape[1], len(x))
    for start in range(0, len(x), BLOCK):
        block = (x[start : start + BLOCK] - centre).float()
        torch.mm(axes.T, block.T, out=out[:, start : start + BLOCK])
    return out.sort(dim=1).values


def sliced_wasserstein(
    *, real: Tensor | np.ndarray, fake: Tensor | np.ndarray, p: int = 2, directions: int = 128, seed: int = 0
) -> Measurement:
    """Sliced Wasserstein distance: the p-th root of the mean, over random directions, of W_p^p of the projections.

    Args:
        real: Points, (n, d).
        fake: Points, (m, d).
        p: 1 or 2.
        directions: How many random directions.
        seed: Of the directions.

    Returns:
        The distance, with the standard error over directions (delta method); the sampling of points is not in it.

    Reference: Bonneel et al. 2015, definition 3.

    Example:
        >>> x = torch.randn(100, 1)
        >>> round(sliced_wasserstein(real=x, fake=x + 3).value, 5)  # in one dimension every direction is the axis
        3.0
    """
    if p not in (1, 2):
        raise ValueError(f"p must be 1 or 2; got {p}.")
    if directions < 2:
        raise ValueError(f"directions must be at least 2; got {directions}.")
    x, y = as_pair(real, fake, minimum=1)
    axes = torch.randn(x.shape[1], directions, generator=torch.Generator().manual_seed(seed))
    axes /= axes.norm(dim=0)
    centre = x[:BLOCK].median(dim=0).values  # one far point must not cost the others their digits
    a, b = (_sorted_projections(t, centre, axes) for t in (x, y))
    costs = _one_dimensional(a.T, b.T, p).double()
    mean, spread = float(costs.mean()), float(costs.std()) / math.sqrt(directions)
    value = mean ** (1 / p)
    stderr = spread * value / (p * mean) if mean > 0 else 0.0
    return Measurement(value, stderr, f"over {directions} directions", len(x), len(y))


def wasserstein(*, real: Tensor | np.ndarray, fake: Tensor | np.ndarray, p: int = 1) -> Measurement:
    """Exact Wasserstein distance W_p of two sets of points under Euclidean cost, by the network simplex (POT).

    In one dimension by sorting, whatever the size.

    Args:
        real: Points, (n, d).
        fake: Points, (m, d).
        p: 1 or 2.

    Returns:
        The distance; no standard error is known in closed form.

    Raises:
        ValueError: more than 5,000 points a side in more than one dimension: use `sliced_wasserstein`.

    Example:
        >>> wasserstein(real=torch.tensor([[0.0, 0.0]]), fake=torch.tensor([[3.0, 4.0]])).value
        5.0
    """
    if p not in (1, 2):
        raise ValueError(f"p must be 1 or 2; got {p}.")
    x, y = (t.double() for t in as_pair(real, fake, minimum=1))
    if x.shape[1] == 1:
        cost = float(_one_dimensional(x.sort(dim=0).values, y.sort(dim=0).values, p))
    else:
        if max(len(x), len(y)) > EXACT_LIMIT:
            raise ValueError(
                f"{max(len(x), len(y))} points are too many for exact transport (at most {EXACT_LIMIT}); use sliced_wasserstein."
            )
        import ot

        costs = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").pow(p).numpy()
        largest = max(float(costs.max()), float(np.finfo(np.float64).tiny))  # the simplex stops at absolute tolerances
        plan = ot.emd2(ot.unif(len(x)), ot.unif(len(y)), costs / largest, numItermax=10_000_000)
        cost = float(plan) * largest
    return Measurement(cost ** (1 / p), math.nan, "none", len(x), len(y))
