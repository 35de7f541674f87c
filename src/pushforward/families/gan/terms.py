"""Terms that add to any objective: each a pure function `term(context, **options) -> (B,)`.

To add one: write it here, give it a line in `build.TERMS` and a test. Your own needs no entry: name it
"my_module:my_term" in the recipe and say whose move it joins (player = "discriminator" or "generator").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pushforward.families.gan.context import Context, Need, Player
from pushforward.penalties import squared_norm, unit_slope_penalty


@dataclass(frozen=True)
class Term:
    """A term in a recipe.

    Args:
        name: In the log.
        function: (context, **options) -> (B,).
        player: Whose loss it joins.
        weight: Its factor.
        every: Apply it on every n-th step only, n times as strong ("lazy").
        options: Further arguments of the function.
        needs: Slopes that the function reads from the context.
    """

    name: str
    function: Callable[..., Tensor]
    player: Player
    weight: float = 1.0
    every: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    needs: frozenset[Need] = frozenset()


def interpolate_penalty(context: Context, *, target: float = 1.0) -> Tensor:
    """(||grad D|| - target)^2 at points between data and fakes (WGAN-GP; the paper's weight is 10).

    Args:
        target: The slope wanted.

    Reference: Gulrajani et al. 2017, equation 3, arXiv 1704.00028.
    """
    x = context.interpolates
    with torch.autocast(x.device.type, enabled=False):
        return unit_slope_penalty(context.discriminate, x.float(), target=target)


def r1(context: Context) -> Tensor:
    """||grad D(x)||^2 on data; the usual weight is gamma / 2.

    Reference: Mescheder, Geiger, Nowozin 2018, equation 9, arXiv 1801.04406.
    """
    return squared_norm(context.real_slope)


def r2(context: Context) -> Tensor:
    """||grad D(G(z))||^2 on fakes; the usual weight is gamma / 2.

    Reference: Mescheder, Geiger, Nowozin 2018, equation 10, arXiv 1801.04406.
    """
    return squared_norm(context.fake_slope)
