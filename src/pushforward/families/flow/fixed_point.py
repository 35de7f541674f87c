r"""Banach's iteration: x = T(x) for a contraction T, each sample by itself, with what it takes to trust it.

If |T(a) - T(b)| <= L |a - b| with L < 1, then after k steps from x_0

.. math:: \lVert x_k - x^* \rVert \le \frac{L^k}{1 - L} \lVert x_1 - x_0 \rVert

(a priori), and what the last step moved bounds what is left: L / (1 - L) |x_k - x_(k-1)| (a posteriori). All norms are Euclidean: it is there that the maps of flows contract,
and a map that turns may enlarge the largest entry of a move that it shrinks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward.errors import NotSupported


@dataclass(frozen=True)
class FixedPoint:
    """Where an iteration ended.

    Args:
        x: (B, *shape).
        residual: |T(x) - x| of each sample, (B,), no less than its largest entry.
        iterations: That each sample took, int64 (B,).
        converged: Whether its residual came under the tolerance, (B,).
        bound: Iterations that it may take, (B,): k with L^(k - 1) |x_1 - x_0| below the tolerance, which bounds the k-th move; inf where L is not below 1.
        error: A bound on the distance to the fixed point, residual / (1 - L), (B,); inf where L is not below 1.
        rate: Largest ratio of one move to the one before, of each sample: an estimate of L from below, (B,).
    """

    x: Tensor
    residual: Tensor
    iterations: Tensor
    converged: Tensor
    bound: Tensor
    error: Tensor
    rate: Tensor


@torch.no_grad()
def fixed_point(
    move: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    lipschitz: float = math.nan,
    tolerance: float = 1e-6,
    most: int = 1000,
    strict: bool = True,
) -> FixedPoint:
    """Iterate until each sample moves less than `tolerance`; samples that have come to rest stay where they are.

    Args:
        move: T, (B, *shape) -> the same; row b may depend on row b alone.
        x: Where to begin.
        lipschitz: L, for the a priori bound.
        tolerance: Of the residual, absolute.
        most: Iterations.
        strict: Raise where a sample does not come to rest.

    Raises:
        NotSupported: some samples did not; their number and the rate are named.
    """
    iterations = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    residual = torch.full((len(x),), math.inf, dtype=torch.float64, device=x.device)
    going = torch.ones(len(x), dtype=torch.bool, device=x.device)
    rate = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    rounding = torch.finfo(x.dtype).eps
    first = last = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for k in range(most):
        new = move(x)
        step = (new - x).flatten(1).double()
        size = step.norm(dim=1)
        if k == 0:
            first = size
        else:
            measurable = going & (last > 1e3 * torch.clamp(rounding * x.flatten(1).double().norm(dim=1), min=tolerance))
            rate = torch.where(measurable, torch.maximum(rate, size / last.clamp(min=1e-300)), rate)
        last = size
        x = torch.where(going.reshape(-1, *[1] * (x.ndim - 1)), new, x)
        iterations += going
        residual = torch.where(going, size, residual)
        going = going & ~(size < tolerance) & torch.isfinite(size)
        if not going.any():
            break
    # `residual` is of the last move; the point after it has at most L times as much, and is measured
    left = (move(x) - x).flatten(1).double()
    residual = left.norm(dim=1)
    converged = residual < tolerance
    error = residual / (1 - lipschitz) if lipschitz < 1 else torch.full_like(residual, math.inf)
    bound = torch.full_like(residual, math.inf)
    if lipschitz < 1:
        log_l = math.log(max(lipschitz, 1e-300))
        bound = (torch.log(tolerance / first.clamp(min=1e-300)) / log_l + 1).ceil().clamp(min=1)
    if strict and not converged.all():
        lost, fastest = ~converged, float(rate[~converged].max())
        why = "the map does not contract"
        if not torch.isfinite(residual[lost]).all():
            why = "what goes in is not finite, or the map does not contract"
        elif fastest < 1:
            why = f"the map contracts, but too slowly for {most} iterations, or the tolerance {tolerance:g} is below what its precision can reach"
        raise NotSupported(
            f"{int(lost.sum())} of {len(x)} fixed points were not found in {int(iterations[lost].max())} iterations (residual {float(residual[lost].max()):.2g}, rate {fastest:.3f}): {why}."
        )
    return FixedPoint(x, residual, iterations, converged, bound, error, rate)
