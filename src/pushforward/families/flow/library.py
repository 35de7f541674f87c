"""Whole flows by name: our couplings and residual flows, and zuko's splines, autoregressive and continuous ones behind a thin adapter.

Each function gives a bijection of data of a shape to noise; what belongs in front of images (histogram, logit) is put there by the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pushforward.families.flow.bijections import (
    ActNorm,
    Bijection,
    Chain,
    Conv1x1,
    Coupling,
    MultiScale,
    SplineCoupling,
    Squeeze,
    channelwise,
    checkerboard,
)
from pushforward.families.flow.residual import ResidualBlock
from pushforward.families.flow.splines import MOST
from pushforward.networks.couplings import ConvConditioner, MLPConditioner


class Zuko(Bijection):
    """A lazy flow of zuko as a bijection of flat data.

    Args:
        flow: `zuko.flows.NSF(...)` and the like, whose base is standard normal.
        shape: Of one sample; flattened on the way in.

    Raises:
        ValueError: its base is another one.
    """

    def __init__(self, flow: torch.nn.Module, shape: Sequence[int]) -> None:
        super().__init__()
        from zuko.distributions import DiagNormal

        self.flow, self.shape = flow, tuple(shape)
        law = getattr(getattr(flow, "base", None), "f", DiagNormal)
        if law is not DiagNormal:
            raise ValueError(f"the base of {type(flow).__name__} is {law.__name__}; a flow's noise here is normal")

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, ladj = self.flow(context).transform.call_and_ladj(x.flatten(1))
        return z, ladj

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        x: Tensor = self.flow(context).transform.inv(z.flatten(1))
        return x.reshape(-1, *self.shape)


def _widths(hidden: Sequence[int]) -> tuple[int, ...]:
    if any(wide < 1 for wide in hidden):
        raise ValueError(f"hidden = {list(hidden)}: each width must be at least 1")
    return tuple(hidden)


def nsf(
    *,
    shape: Sequence[int],
    context: int,
    transforms: int = 3,
    bins: int = 8,
    hidden: Sequence[int] = (64, 64),
    bound: float = 5.0,
) -> Bijection:
    """Autoregressive rational-quadratic splines (Durkan et al. 2019); in one dimension a single learned spline. The spline acts within +-5, beyond is the identity."""
    import zuko

    if transforms < 1 or not 2 <= bins <= MOST or not 0 < bound < math.inf:
        raise ValueError(
            f"transforms = {transforms}, bins = {bins}, bound = {bound}: at least 1, 2 to {MOST}, above 0 and finite"
        )
    scale = _Scale(5.0 / bound)
    flow = zuko.flows.NSF(math.prod(shape), context, transforms=transforms, bins=bins, hidden_features=_widths(hidden))
    return Chain([scale, Zuko(flow, shape)])


class _Scale(Bijection):
    """x times a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.factor * x, torch.full(
            (len(x),), x[0].numel() * math.log(self.factor), dtype=x.dtype, device=x.device
        )

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return z / self.factor


def maf(*, shape: Sequence[int], context: int, transforms: int = 5, hidden: Sequence[int] = (512, 512)) -> Bijection:
    """Masked autoregressive flow (Papamakarios et al. 2017): each number scaled and shifted by those before it; sampling takes a pass for each."""
    import zuko

    if transforms < 1:
        raise ValueError(f"transforms = {transforms}: must be at least 1")
    flow = zuko.flows.MAF(
        math.prod(shape), context, transforms=transforms, hidden_features=_widths(hidden), randperm=False
    )
    return Zuko(flow, shape)


def cnf(*, shape: Sequence[int], context: int, hidden: Sequence[int] = (64, 64), tolerance: float = 1e-5) -> Bijection:
    """A continuous flow, the solution of an ODE whose trace is exact (Chen et al. 2018; Grathwohl et al. 2019)."""
    import zuko

    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance = {tolerance}: must lie in (0, 1)")
    d = math.prod(shape)
    flow = zuko.flows.CNF(
        d,
        context,
        hidden_features=_widths(hidden),
        activation=torch.nn.SiLU,
        atol=tolerance,
        rtol=tolerance,
        exact=True,
    )
    return Zuko(flow, shape)


def coupling(
    *,
    shape: Sequence[int],
    context: int,
    levels: int = 2,
    steps: int = 4,
    width: int = 64,
    blocks: int = 1,
    checkerboards: int = 4,
    bins: int = 0,
) -> Bijection:
    """Couplings of images, affine or by splines: 2x2 pixels into channels, couplings on checkerboards, then levels of scale, mixing and coupling by channels.

    Args:
        shape: (C, H, W).
        context: Size of the context vector.
        levels: After each but the last, half of the channels are let go.
        steps: Of scale, mixing and coupling at each level.
        width: Of the networks' hidden layers.
        blocks: Residual blocks of a network.
        checkerboards: Couplings of pixels by pixels in front.
        bins: Of each coupling's splines; 0 for none.
    """
    if levels < 1 or steps < 1 or width < 1 or blocks < 0 or checkerboards < 0:
        raise ValueError("levels, steps and width must be at least 1, blocks and checkerboards at least 0")
    if bins and not 2 <= bins <= MOST:
        raise ValueError(f"bins = {bins}: 0, or 2 to {MOST}")
    if len(shape) != 3 or any(side % 2**levels for side in shape[1:]):
        raise ValueError(f"coupling needs images whose sides halve {levels} times; got shape {tuple(shape)}")

    def couple(mask: Tensor, shape: tuple[int, ...]) -> Bijection:
        common = {"width": width, "blocks": blocks, "context": context}
        if not bins:
            return Coupling(mask, ConvConditioner(shape[0], **common))
        moved = int((mask.amin(dim=(2, 3)) == 0).sum()) if mask.shape[1] > 1 else shape[0]
        network = ConvConditioner(shape[0], outputs=(3 * bins + 1) * moved, head=1, **common)
        return SplineCoupling(mask, network, shape, bins=bins)

    c, h, w = 4 * shape[0], shape[1] // 2, shape[2] // 2
    front: list[Bijection] = [Squeeze()]
    for k in range(checkerboards):
        front.append(couple(checkerboard((c, h, w), odd=bool(k % 2)), (c, h, w)))
    made: list[Bijection] = []
    shapes = []
    for _ in range(levels):
        parts: list[Bijection] = []
        for k in range(steps):
            parts += [ActNorm(c), Conv1x1(c), couple(channelwise((c, h, w), odd=bool(k % 2)), (c, h, w))]
        made.append(Chain(parts))
        shapes.append((c, h, w))
        c, h, w = 2 * c, h // 2, w // 2
    return Chain([*front, MultiScale(made, shapes)])


def coupling_points(
    *, shape: Sequence[int], context: int, transforms: int = 8, hidden: Sequence[int] = (64, 64)
) -> Bijection:
    """Affine couplings of points: every other number moves the rest (RealNVP, Dinh et al. 2017)."""
    if len(shape) != 1 or shape[0] < 2 or transforms < 1:
        raise ValueError(
            f"coupling-points needs points of two dimensions or more and transforms >= 1; got shape {tuple(shape)}"
        )
    d = shape[0]
    parts: list[Bijection] = []
    for k in range(transforms):
        mask = ((torch.arange(d) + k) % 2).float()[None]
        parts += [ActNorm(d), Coupling(mask, MLPConditioner(d, hidden=_widths(hidden), context=context))]
    return Chain(parts)


def residual(
    *,
    shape: Sequence[int],
    context: int,
    blocks: int = 8,
    hidden: Sequence[int] = (64, 64),
    lipschitz: float = 0.9,
    tolerance: float = 1e-6,
) -> Bijection:
    """Contractive residual blocks with a scale for each channel between them; images are folded 2x2 into channels twice."""
    if context:
        raise ValueError("the residual flow takes no labels")
    if blocks < 1:
        raise ValueError(f"blocks = {blocks}: must be at least 1")
    parts: list[Bijection] = []
    inner = tuple(shape)
    if len(shape) == 3:
        if shape[1] % 4 or shape[2] % 4:
            raise ValueError(f"residual needs images whose sides are multiples of 4; got shape {tuple(shape)}")
        parts, inner = [Squeeze(), Squeeze()], (16 * shape[0], shape[1] // 4, shape[2] // 4)
    for _ in range(blocks):
        parts += [
            ActNorm(inner[0]),
            ResidualBlock(inner, hidden=_widths(hidden), lipschitz=lipschitz, tolerance=tolerance),
        ]
    return Chain([*parts, ActNorm(inner[0])])


FLOWS: dict[str, Callable[..., Bijection]] = {
    "coupling": coupling,
    "coupling-points": coupling_points,
    "residual": residual,
    "nsf": nsf,
    "maf": maf,
    "cnf": cnf,
}
