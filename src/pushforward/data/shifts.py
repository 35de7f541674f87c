"""Images that data is not: noise, flips, moves, constants and damage, for the question whether a model can tell.

Each shift is a function of bytes and a generator, (n, C, H, W) uint8 -> the same shape; noise strengths are on the scale of [-1, 1]. The damage is in the manner of MNIST-C
(Mu and Gilmer 2019, arXiv 1906.02337), written anew: the same kinds, not the same pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from pushforward.data.images import to_bytes, to_model

Shift = Callable[[Tensor, torch.Generator], Tensor]


def _floats(change: Callable[[Tensor, torch.Generator], Tensor]) -> Shift:
    """A change of floats in [0, 1] as one of bytes."""
    return lambda x, g: change(x.float() / 255, g).clamp(0, 1).mul(255).round().to(torch.uint8)


def noisy(sd: float) -> Shift:
    """Gaussian noise of that standard deviation on the scale of [-1, 1]."""
    return lambda x, g: to_bytes((to_model(x) + sd * torch.randn(x.shape, generator=g)).clamp(-1, 1))


def moved(down: int, right: int) -> Shift:
    """Moved by whole pixels; what comes in is black."""

    def shift(x: Tensor, g: torch.Generator) -> Tensor:
        return F.pad(x, (right, -right, down, -down))

    return shift


def affine(*, degrees: float = 0.0, shear: float = 0.0, scale: float = 1.0) -> Shift:
    """Turned, slanted and resized about the centre, each image to a random side, bilinear; what comes in is black."""

    def change(x: Tensor, g: torch.Generator) -> Tensor:
        side = torch.randint(2, (len(x),), generator=g) * 2 - 1
        angle = side * math.radians(degrees)
        slant = side * shear
        cos, sin, zero = angle.cos() / scale, angle.sin() / scale, torch.zeros(len(x))
        rows = torch.stack([torch.stack([cos, -sin + slant / scale, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
        where = F.affine_grid(rows, list(x.shape), align_corners=False)
        return F.grid_sample(x, where, align_corners=False)

    return _floats(change)


def constant(value: int) -> Shift:
    """One flat image of that byte, over and over."""
    return lambda x, g: torch.full_like(x, value)


def shuffled(x: Tensor, g: torch.Generator) -> Tensor:
    """Pixels in another order, the same for all images."""
    order = torch.randperm(x.shape[2] * x.shape[3], generator=g)
    return x.flatten(2)[:, :, order].reshape(x.shape)


def blurred(sd: float) -> Shift:
    """Gaussian blur of that standard deviation in pixels."""

    def change(x: Tensor, g: torch.Generator) -> Tensor:
        reach = math.ceil(3 * sd)
        line = torch.arange(-reach, reach + 1.0)
        kernel = torch.exp(-line.square() / (2 * sd**2))
        return _along(x, (kernel / kernel.sum())[None, :] * (kernel / kernel.sum())[:, None])

    return _floats(change)


def smeared(length: int) -> Shift:
    """Motion blur along the diagonal."""
    return _floats(lambda x, g: _along(x, torch.eye(length) / length))


def _along(x: Tensor, kernel: Tensor) -> Tensor:
    c, side = x.shape[1], kernel.shape[0]
    return F.conv2d(x, kernel.expand(c, 1, side, side), padding=side // 2, groups=c)[..., : x.shape[2], : x.shape[3]]


def impulses(share: float) -> Shift:
    """Salt and pepper: that share of pixels is black or white."""

    def change(x: Tensor, g: torch.Generator) -> Tensor:
        u = torch.rand(x.shape, generator=g)
        return torch.where(u < share / 2, 0.0, torch.where(u < share, 1.0, x))

    return _floats(change)


def shot(photons: float) -> Shift:
    """Poisson noise of a sensor that counts as many photons at white."""
    return _floats(lambda x, g: torch.poisson(x * photons, generator=g) / photons)


def striped(x: Tensor, g: torch.Generator) -> Tensor:
    """Inverted outside the middle: a quarter of the rows above and a quarter below."""
    out, quarter = 255 - x, x.shape[2] // 4
    out[:, :, quarter:-quarter] = x[:, :, quarter:-quarter]
    return out


def shattered(x: Tensor, g: torch.Generator) -> Tensor:
    """Glass blur: every pixel is one of the 25 about it, drawn by itself, and then blurred a little."""
    n, c, h, w = x.shape
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    near = torch.randint(-2, 3, (2, n, h, w), generator=g)
    at = (rows + near[0]).clamp(0, h - 1) * w + (columns + near[1]).clamp(0, w - 1)
    moved = x.flatten(2).gather(2, at.reshape(n, 1, h * w).expand(n, c, h * w)).reshape(x.shape)
    return _along(moved, torch.ones(3, 3) / 9)


def edged(x: Tensor, g: torch.Generator) -> Tensor:
    """Outlines alone: where Sobel's slope is steep."""
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    return ((_along(x, across).square() + _along(x, across.T).square()).sqrt() > 1.5).float()


def fogged(x: Tensor, g: torch.Generator) -> Tensor:
    """Smooth bright clouds, three octaves of noise."""
    n, _, h, w = x.shape
    cloud = torch.zeros(n, 1, h, w)
    for octave in (1, 2, 4):
        coarse = torch.rand(n, 1, 2 + 2 * octave, 2 + 2 * octave, generator=g)
        cloud += F.interpolate(coarse, size=(h, w), mode="bicubic", align_corners=False).clamp(0, 1) / octave
    return (x + cloud * 0.5).clamp(0, 1)


def spattered(x: Tensor, g: torch.Generator) -> Tensor:
    """Drops: blurred noise above a threshold, as bright as ink."""
    noise = _along(torch.randn(x.shape, generator=g), torch.ones(3, 3) / 9)
    return torch.maximum(x, (noise > 0.55).float() * 0.85)


def _line(x: Tensor, ys: Tensor, keep: Tensor) -> Tensor:
    """Ink a curve y(column), (n, W), where `keep`, about a pixel and a half thick."""
    rows = torch.arange(x.shape[2]).reshape(1, 1, -1, 1)
    ink = (1.5 - (rows - ys[:, None, None, :]).abs()).clamp(0, 1) * keep[:, None, None, :]
    return torch.maximum(x, ink.float().expand_as(x))


def dotted(x: Tensor, g: torch.Generator) -> Tensor:
    """A dotted straight line from side to side."""
    n, _, h, w = x.shape
    ends = torch.rand(n, 2, generator=g) * (h - 1)
    ys = ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * torch.linspace(0, 1, w)
    return _line(x, ys, (torch.arange(w) % 4 < 2).expand(n, w))


def zigzagged(x: Tensor, g: torch.Generator) -> Tensor:
    """A zigzag line from side to side."""
    n, _, h, w = x.shape
    ends = torch.rand(n, 2, generator=g) * (h - 9) + 4
    ys = ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * torch.linspace(0, 1, w)
    teeth = ((torch.arange(w) % 6).float() - 2.5).abs() - 1.25
    return _line(x, ys + 2.4 * teeth, torch.ones(n, w, dtype=torch.bool))


def halved(x: Tensor, g: torch.Generator) -> Tensor:
    """Half as large, in the middle of black."""
    small = F.avg_pool2d(x, 2)
    h, w = x.shape[2] - small.shape[2], x.shape[3] - small.shape[3]
    return F.pad(small, (w // 2, w - w // 2, h // 2, h - h // 2))


NOISES: Mapping[str, Shift] = {
    "uniform noise 0.3": _floats(lambda x, g: x + 0.3 * (torch.rand(x.shape, generator=g) - 0.5)),
    "uniform noise": lambda x, g: torch.randint(256, x.shape, generator=g, dtype=torch.uint8),
    "gaussian noise": lambda x, g: noisy(1.0)(torch.full_like(x, 128), g),
    "noise 0.1": noisy(0.1),
    "noise 0.3": noisy(0.3),
    "noise 0.5": noisy(0.5),
}
MOVES: Mapping[str, Shift] = {
    "hflip": lambda x, g: x.flip(3),
    "vflip": lambda x, g: x.flip(2),
    "rot90": lambda x, g: x.rot90(1, (2, 3)),
    "rot180": lambda x, g: x.flip(2, 3),
    "shift 4": moved(0, 4),
    "shift 2": moved(0, 2),
    "shift up 4": moved(-4, 0),
    "half size": _floats(halved),
    "inverted": lambda x, g: 255 - x,
    "shuffled pixels": shuffled,
}
CONSTANTS: Mapping[str, Shift] = {"black": constant(0), "grey": constant(128), "white": constant(255)}
DAMAGE: Mapping[str, Shift] = {
    "shot noise": shot(6.0),
    "impulse noise": impulses(0.2),
    "gaussian blur": blurred(1.5),
    "glass blur": _floats(shattered),
    "motion blur": smeared(7),
    "edges": _floats(edged),
    "rotate 30": affine(degrees=30),
    "shear": affine(shear=0.6),
    "scale 0.7": affine(scale=0.7),
    "bright": _floats(lambda x, g: x * 0.6 + 0.4),
    "stripe": striped,
    "fog": _floats(fogged),
    "spatter": _floats(spattered),
    "dotted line": _floats(dotted),
    "zigzag": _floats(zigzagged),
}
SHIFTS: Mapping[str, Shift] = {**NOISES, **MOVES, **CONSTANTS, **DAMAGE}
"""All of them by name."""
