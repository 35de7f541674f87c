"""Damage to images, by kind and strength: what metrics and anomaly scores are tried on.

All take and return uint8 images (n, C, H, W).

Reference: Heusel et al. 2017, section A1.1, arXiv 1706.08500 (the kinds); Mu and Gilmer 2019, arXiv 1906.02337 (on digits).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def _to_bytes(x: Tensor) -> Tensor:
    return x.round_().clamp_(0, 255).to(torch.uint8)


def noise(images: Tensor, sd: float, *, generator: torch.Generator) -> Tensor:
    """Gaussian noise of a standard deviation in grey levels."""
    return _to_bytes(images.float() + sd * torch.randn(images.shape, generator=generator))


def blur(images: Tensor, sigma: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Gaussian blur of a standard deviation in pixels; borders are repeated."""
    if sigma <= 0:
        return images.clone()
    reach = max(1, math.ceil(3 * sigma))
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    n, c, h, w = images.shape
    x = F.pad(images.float().reshape(n * c, 1, h, w), (reach,) * 4, mode="replicate")
    return _to_bytes(F.conv2d(F.conv2d(x, weights[None, None, None]), weights[None, None, :, None]).reshape(n, c, h, w))


def swirl(images: Tensor, turn: float, *, generator: torch.Generator | None = None) -> Tensor:
    """A whirl about the centre: `turn` radians there, fading as exp(-r) with r = 1 halfway to the border.

    Example:
        >>> x = torch.arange(25, dtype=torch.uint8).reshape(1, 1, 5, 5)
        >>> torch.equal(swirl(x, 0.0), x)
        True
    """
    h, w = images.shape[-2:]
    y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    angle = turn * torch.exp(-2 * (x.square() + y.square()).sqrt())
    grid = torch.stack([x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()], dim=-1)
    moved = F.grid_sample(images.float(), grid.expand(len(images), -1, -1, -1), align_corners=True)
    return _to_bytes(moved)


def mask(images: Tensor, share: float, *, generator: torch.Generator) -> Tensor:
    """A black square over a share of the image's area, at a random place."""
    n, _, h, w = images.shape
    tall, wide = round(h * math.sqrt(share)), round(w * math.sqrt(share))
    top, left = (
        torch.randint(0, most - size + 1, (n, 1, 1, 1), generator=generator) for most, size in ((h, tall), (w, wide))
    )
    y, x = torch.arange(h).reshape(1, 1, h, 1), torch.arange(w).reshape(1, 1, 1, w)
    hidden = (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide)
    return images.masked_fill(hidden, 0)


def salt_and_pepper(images: Tensor, share: float, *, generator: torch.Generator) -> Tensor:
    """A share of the pixels turned black or white, each with probability 1/2."""
    n, _, h, w = images.shape
    draw = torch.rand((n, 1, h, w), generator=generator)
    return images.masked_fill(draw < share / 2, 0).masked_fill((draw >= share / 2) & (draw < share), 255)


@dataclass(frozen=True)
class Corruption:
    """A kind of damage and five strengths of it, from barely seen to hardly legible."""

    function: Callable[..., Tensor]
    strengths: tuple[float, float, float, float, float]
    unit: str


CORRUPTIONS: dict[str, Corruption] = {
    "noise": Corruption(noise, (10, 25, 50, 80, 120), "grey levels"),
    "blur": Corruption(blur, (0.5, 0.75, 1.0, 1.5, 2.5), "pixels"),
    "swirl": Corruption(swirl, (0.25, 0.5, 1.0, 2.0, 4.0), "radians"),
    "mask": Corruption(mask, (0.02, 0.05, 0.1, 0.2, 0.4), "of the area"),
    "salt-and-pepper": Corruption(salt_and_pepper, (0.01, 0.03, 0.06, 0.12, 0.25), "of the pixels"),
}
