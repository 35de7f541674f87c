"""Langevin dynamics on an energy: a gradient step and noise, over and over."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pushforward.randomness import Generator, draw_normal


def sample_langevin(
    energy: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    steps: int,
    step_size: float,
    temperature: float = 1.0,
    generator: Generator | None = None,
) -> Tensor:
    r"""Moves points towards low energy, with noise that keeps their law at exp(-E / temperature).

    .. math:: x \leftarrow x - \tfrac{\eta}{2} \nabla E(x) + \sqrt{\eta T}\, \xi, \qquad \xi \sim N(0, I)

    Unadjusted: its law is off by an amount of order eta.

    Args:
        energy: (n, *shape) -> (n,).
        x: Where the chains begin, (n, *shape).
        steps: Moves.
        step_size: eta.
        temperature: T; 0 is gradient descent.
        generator: Of the noise.

    Returns:
        Where they end, (n, *shape), without gradient.

    Reference: Welling and Teh 2011, equation 3; Roberts and Tweedie 1996.

    Example:
        >>> sample_langevin(lambda x: x.square().sum(1) / 2, torch.ones(1, 1), steps=1, step_size=0.5, temperature=0.0).item()
        0.75
    """
    x = x.detach().clone()
    for _ in range(steps):
        with torch.enable_grad():
            x.requires_grad_()
            (slope,) = torch.autograd.grad(energy(x).sum(), x)
        x = x.detach() - 0.5 * step_size * slope
        if temperature:
            x = x + math.sqrt(step_size * temperature) * draw_normal(x.shape, generator=generator, device=x.device)
    return x
