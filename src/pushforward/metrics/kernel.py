r"""Kernel distance between two sets of features (KID when the features are Inception's).

.. math:: \mathrm{MMD}^2 = \mathbb{E} k(x, x') + \mathbb{E} k(y, y') - 2 \mathbb{E} k(x, y), \quad k(a, b) = (a \cdot b / d + 1)^3

All pairs are used (the U-statistic), not random subsets: the estimate is unbiased, and may be negative.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pushforward.metrics.distances import Points, about_one_centre, products, slices
from pushforward.metrics.measurement import Measurement, as_pair

GROUPS = 40  # of the jackknife
BLOCK = 2048  # rows that are held in float64 at a time


def _linear(x: Points) -> Tensor:
    """What centring took from inner products: (a + c).(b + c) = a.b + linear(a) + linear(b), float64 (n,)."""
    centre = x.centre.double().flatten()
    return torch.cat([block.double() @ centre for block in x.given.split(BLOCK)]) - centre.square().sum() / 2


def _sums(a: Points, b: Points, groups: int, *, same: bool) -> Tensor:
    """Sums of the kernel over pairs of groups, float64 (G, G); without the diagonal pairs when both sets are one."""
    out = torch.zeros(groups, groups, dtype=torch.float64)
    d = a.given.shape[1]
    of_a, of_b = (torch.arange(len(t)).mul_(groups).div_(len(t), rounding_mode="floor") for t in (a, b))
    left, right = ((_linear(t) / d + 0.5).float() for t in (a, b))
    for i, rows in enumerate(slices(len(a))):
        for columns in slices(len(b))[i if same else 0 :]:
            inner = products(a, rows, b, columns).div_(d).add_(left[rows, None]).add_(right[columns])
            kernel = inner.square().mul_(inner)
            if same and rows == columns:
                kernel.diagonal().zero_()
            block = (kernel @ F.one_hot(of_b[columns], groups).float()).double()  # rows by groups
            total = torch.zeros_like(out).index_add_(0, of_a[rows], block)
            out += total + total.T if same and rows != columns else total  # symmetric: on and above the diagonal
    return out


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
    x, y = as_pair(real, fake)
    n, m = len(x), len(y)
    count = min(GROUPS, n, m)
    a, b = about_one_centre(x, y, limbs=False)
    sxx, syy, sxy = _sums(a, a, count, same=True), _sums(b, b, count, same=True), _sums(a, b, count, same=False)
    sizes = [torch.bincount(torch.arange(k) * count // k).tolist() for k in (n, m)]

    def estimate(kept_x: float, kept_y: float, xx: float, yy: float, xy: float) -> float:
        return xx / (kept_x * (kept_x - 1)) + yy / (kept_y * (kept_y - 1)) - 2 * xy / (kept_x * kept_y)

    value = estimate(n, m, float(sxx.sum()), float(syy.sum()), float(sxy.sum()))
    if not math.isfinite(value):
        raise ValueError("the cubic kernel overflows on features this large; scale both sides by one factor.")
    without = []
    for g in range(count):
        kept_x, kept_y = n - sizes[0][g], m - sizes[1][g]
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
