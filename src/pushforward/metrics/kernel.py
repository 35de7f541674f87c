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

from pushforward.metrics.measurement import Measurement, as_pair

GROUPS = 40  # of the jackknife
BLOCK = 1024  # rows and columns of the kernel that are held at a time


def _sums(a: Tensor, b: Tensor, groups: int, *, same: bool, dtype: torch.dtype) -> Tensor:
    """Sums of the kernel less 1 over pairs of groups, float64 (G, G); without the diagonal pairs when both sets are one.

    The 1 cancels in the distance, and would cost small features their digits: u (3 + u (3 + u)) = (1 + u)^3 - 1.
    """
    out = torch.zeros(groups, groups, dtype=torch.float64)
    of_a, of_b = (torch.arange(len(t)).mul_(groups).div_(len(t), rounding_mode="floor") for t in (a, b))
    for i in range(0, len(a), BLOCK):
        rows = a[i : i + BLOCK].to(dtype) / a.shape[1]
        for j in range(i if same else 0, len(b), BLOCK):
            u = rows @ b[j : j + BLOCK].to(dtype).T
            kernel = (u + 3).mul_(u).add_(3).mul_(u)
            if same and i == j:
                kernel.diagonal().zero_()
            block = (kernel @ F.one_hot(of_b[j : j + BLOCK], groups).to(dtype)).double()  # rows by groups
            total = torch.zeros_like(out).index_add_(0, of_a[i : i + BLOCK], block)
            out += total + total.T if same and i != j else total  # symmetric: on and above the diagonal
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
    found, scale = _estimate(x, y, torch.float32)
    noise = 0.1 * torch.finfo(torch.float32).eps * scale  # rounding errors of many pairs cancel for the most part
    if not math.isfinite(found.value) or not noise <= max(1e-4 * abs(found.value), 1e-2 * found.stderr):
        found, _ = _estimate(x, y, torch.float64)  # what the three sums have in common drowns their difference
    if not math.isfinite(found.value):
        raise ValueError("the cubic kernel overflows on features this large; scale both sides by one factor.")
    return found


def _estimate(x: Tensor, y: Tensor, dtype: torch.dtype) -> tuple[Measurement, float]:
    """The distance, and the size of the sums that it is the difference of."""
    n, m = len(x), len(y)
    count = min(GROUPS, n, m)
    sxx, syy = (_sums(t, t, count, same=True, dtype=dtype) for t in (x, y))
    sxy = _sums(x, y, count, same=False, dtype=dtype)
    sizes = [torch.bincount(torch.arange(k) * count // k).tolist() for k in (n, m)]

    def estimate(kept_x: float, kept_y: float, xx: float, yy: float, xy: float) -> float:
        return xx / (kept_x * (kept_x - 1)) + yy / (kept_y * (kept_y - 1)) - 2 * xy / (kept_x * kept_y)

    value = estimate(n, m, float(sxx.sum()), float(syy.sum()), float(sxy.sum()))
    scale = estimate(n, m, float(sxx.abs().sum()), float(syy.abs().sum()), -float(sxy.abs().sum()))
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
        return Measurement(value, math.nan, "none: too few rows", n, m), scale
    spread = np.var(without) * (len(without) - 1)
    return Measurement(value, math.sqrt(spread), f"jackknife over {count} groups", n, m), scale
