"""Penalties on the slope of a scalar field: for discriminators, critics and energies alike."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def slope(field_values: Tensor, x: Tensor) -> Tensor:
    """Gradient of a scalar field at each point, differentiable once more.

    Args:
        field_values: The field at x, (B,); row b may depend on x[b] only.
        x: Points that require grad, (B, *).

    Returns:
        Gradient, (B, *).
    """
    (gradient,) = torch.autograd.grad(field_values.sum(), x, create_graph=True)
    return gradient


def squared_norm(gradient: Tensor) -> Tensor:
    """Squared Euclidean norm of each sample's gradient, (B, *) -> (B,), in float32."""
    return gradient.float().flatten(1).square().sum(dim=1)


def gradient_penalty(field: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    r"""Squared slope of a scalar field, to keep critics and energies smooth.

    .. math:: \lVert \nabla_x f(x) \rVert_2^2

    On data this is R1, on generated points R2; the usual weight is gamma / 2.

    Args:
        field: Discriminator logit or energy, (B, *) -> (B,).
        x: Points to probe, (B, *). Detached: the penalty trains `field`, not `x`.

    Returns:
        The penalty at each point, (B,).

    Reference: Mescheder, Geiger, Nowozin 2018, equation 9, arXiv 1801.04406.

    Example:
        >>> gradient_penalty(lambda x: 3 * x[:, 0], torch.zeros(2, 4)).tolist()
        [9.0, 9.0]
    """
    x = x.detach().requires_grad_()
    return squared_norm(slope(field(x), x))


def unit_slope_penalty(field: Callable[[Tensor], Tensor], x: Tensor, *, target: float = 1.0) -> Tensor:
    r"""How far the slope is from `target`: (||grad f(x)|| - target)^2, the penalty of WGAN-GP at interpolates.

    Args:
        field: (B, *) -> (B,).
        x: Points to probe, (B, *).
        target: The slope wanted.

    Returns:
        The penalty at each point, (B,).

    Reference: Gulrajani et al. 2017, equation 3, arXiv 1704.00028.

    Example:
        >>> unit_slope_penalty(lambda x: 3 * x[:, 0], torch.zeros(2, 4)).tolist()
        [4.0, 4.0]
    """
    x = x.detach().requires_grad_()
    # The square root has no derivative at 0; a tiny constant inside keeps a flat critic trainable.
    return (squared_norm(slope(field(x), x)).add(1e-12).sqrt() - target).square()
