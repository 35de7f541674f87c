r"""Monotonic rational-quadratic splines, element by element.

On bin k, of width w and height h, with mean slope s = h / w, slopes d and d' at its ends and u = (x - x_k) / w,

.. math:: z = y_k + h \frac{s u^2 + d u (1 - u)}{s + (d + d' - 2 s) u (1 - u)}

Bins lie along the second dimension, so that softmax and sums run over long rows.

Reference: Gregory and Delbourgo 1982; Durkan et al. 2019, section 3.1, arXiv 1906.04032.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST = 1e-3
"""Width and height of a bin at least, as shares of the whole, and slope at a knot at least."""
MOST = 100
"""Bins: with 1 / LEAST of them nothing would be left to learn."""
_UNIT = math.log(math.expm1(1 - LEAST))  # softplus of it is 1 - LEAST: raw slopes of 0 are slopes of 1
_TINY = 1e-30


def rational_quadratic(
    x: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor, *, bound: float, inverse: bool = False
) -> tuple[Tensor, Tensor]:
    """The spline at x and the logarithm of its slope there; the identity beyond +-bound, and everywhere if all that it is told is 0.

    Args:
        x: (B, n).
        widths, heights: Unconstrained, (B, K, n).
        slopes: At the inner knots, unconstrained, (B, K - 1, n); those at the ends are 1.
        bound: The spline maps [-bound, bound] to itself.
        inverse: Give the x of a z instead, and the logarithm of the inverse's slope.

    Returns:
        Two of (B, n).
    """
    inside = x.abs() < bound
    y = torch.where(inside, x, 0.0)
    w, h = _shares(widths, bound), _shares(heights, bound)
    left, low = w.cumsum(1) - w - bound, h.cumsum(1) - h - bound
    d = F.pad(F.softplus(slopes + _UNIT) + LEAST, (0, 0, 1, 1), value=1.0)
    k = (y[:, None] >= (low if inverse else left)[:, 1:]).sum(dim=1, keepdim=True)
    w, h, left, low, before, after = (
        a.gather(1, i).squeeze(1) for a, i in ((w, k), (h, k), (left, k), (low, k), (d, k), (d, k + 1))
    )
    s = h / w
    bend = before + after - 2 * s
    if inverse:
        up = y - low
        a, b, c = h * (s - before) + up * bend, h * before - up * bend, -s * up
        root = (b.square() - 4 * a * c).clamp(min=0).sqrt()
        # The same root in two forms: which of them does not cancel depends on b's sign, and a > 0 where b < 0.
        first = b >= 0
        u = torch.where(first, 2 * c, root - b) / torch.where(first, (-b - root).clamp(max=-_TINY), 2 * a)
        u = u.clamp(0, 1)
        out = left + u * w
    else:
        u = ((y - left) / w).clamp(0, 1)  # at a knot, rounding may put it a hair into the next bin
    v = u * (1 - u)
    below = s + bend * v
    log_slope = 2 * s.log() + (after * u.square() + 2 * s * v + before * (1 - u).square()).log() - 2 * below.log()
    if not inverse:
        out = low + h * (s * u.square() + before * v) / below
    return torch.where(inside, out, x), torch.where(inside, -log_slope if inverse else log_slope, 0.0)


def _shares(raw: Tensor, bound: float) -> Tensor:
    """Positive bins that fill [-bound, bound]."""
    return 2 * bound * (LEAST + (1 - LEAST * raw.shape[1]) * raw.softmax(1))
