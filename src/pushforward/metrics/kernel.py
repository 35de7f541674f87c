r"""Kernel distance between two sets of features (KID when the features are Inception's).

.. math:: \mathrm{MMD}^2 = \mathbb{E} k(x, x') + \mathbb{E} k(y, y') - 2 \mathbb{E} k(x, y), \quad k(a, b) = (a \cdot b / d + 1)^3

All pairs are used (the U-statistic), not random subsets: the estimate is unbiased, and may be negative.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from pushforward.metrics.measurement import Measurement, as_pair

GROUPS = 40  # of the jackknife


def _sums(a: Tensor, b: Tensor, groups_a: list[slice], groups_b: list[slice], *, same: bool) -> Tensor:
    """Sums of the kernel over pairs of groups, float64 (G, G); without the diagonal pairs when both sets are one."""
    d = a.shape[1]
    out = torch.zeros(len(groups_a), len(groups_b), dtype=torch.float64)
    for i, rows in enumerate(groups_a):
        first = groups_b[i].start if same else 0  # symmetric: only blocks on and above the diagonal
        kernel = (a[rows] @ b[first:].T).div_(d).add_(1)
        kernel = kernel * kernel * kernel
        if same:
            kernel.diagonal().zero_()
        columns = kernel.sum(dim=0).double()
        for j in range(i if same else 0, len(groups_b)):
            out[i, j] = columns[groups_b[j].start - first : groups_b[j].stop - first].sum()
    return out + out.triu(1).T if same else out


def kernel_distance(*, real: Tensor | np.ndarray, fake: Tensor | np.ndarray) -> Measurement:
    """Squared maximum mean discrepancy with the cubic polynomial kernel: the U-statistic over all pairs.

    Args:
        real: Features, (n, d), n >= 2.
        fake: Features, (m, d), m >= 2.

    Returns:
        The estimate, with the standard error of a jackknife over 40 groups of consecutive rows (fewer in small sets); where
        both distributions are equal the jackknife is somewhat too large, never too small.

    Raises:
        ValueError: as every metric.

    Reference: Binkowski et al. 2018, section 3, arXiv 1801.01401.

    Example:
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> kernel_distance(real=x, fake=x + 1).value  # 1 + 27 - 2 (1 + 1 + 8 + 27) / 4
        9.5
    """
    x, y = (t.float() for t in as_pair(real, fake))
    n, m = len(x), len(y)
    count = min(GROUPS, n, m)
    edges = [[round(i * size / count) for i in range(count + 1)] for size in (n, m)]
    gx, gy = ([slice(lo, hi) for lo, hi in itertools.pairwise(e)] for e in edges)
    sxx, syy, sxy = _sums(x, x, gx, gx, same=True), _sums(y, y, gy, gy, same=True), _sums(x, y, gx, gy, same=False)

    def estimate(kept_x: float, kept_y: float, xx: float, yy: float, xy: float) -> float:
        return xx / (kept_x * (kept_x - 1)) + yy / (kept_y * (kept_y - 1)) - 2 * xy / (kept_x * kept_y)

    value = estimate(n, m, float(sxx.sum()), float(syy.sum()), float(sxy.sum()))
    if not math.isfinite(value):
        raise ValueError("the cubic kernel overflows on features this large; scale both sides by one factor.")
    without = []
    for g in range(count):
        kept_x, kept_y = n - (gx[g].stop - gx[g].start), m - (gy[g].stop - gy[g].start)
        if min(kept_x, kept_y) < 2:
            continue
        xx = float(sxx.sum() - 2 * sxx[g].sum() + sxx[g, g])
        yy = float(syy.sum() - 2 * syy[g].sum() + syy[g, g])
        xy = float(sxy.sum() - sxy[g].sum() - sxy[:, g].sum() + sxy[g, g])
        without.append(estimate(kept_x, kept_y, xx, yy, xy))
    if len(without) < 2:
        return Measurement(value, math.nan, "none: too few rows", n, m)
    spread = np.var(without) * (len(without) - 1)
    return Measurement(value, math.sqrt(spread), f"jackknife over {count} groups", n, m)
