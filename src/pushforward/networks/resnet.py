"""Residual pair without normalisation, in the spirit of R3GAN, sized for small images.

Nothing runs at full resolution: the discriminator first folds 2x2 pixels into channels and the generator unfolds them last, which
costs a quarter. Each block ends in a convolution that starts at zero, so that a deep pair begins as a shallow one.

Reference: Huang et al. 2024, section 4, arXiv 2501.05441; Zhang, Dauphin, Ma 2019, arXiv 1901.09321 (initialisation).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from pushforward.networks.blocks import prefer_channels_last
from pushforward.networks.dcgan import pyramid

LEAK = 0.05
"""Slope beyond tanh while training: without it a generator that has no norm either is driven to all black, where tanh is flat, and stays there."""


def _init(module: nn.Module, slope: float) -> None:
    for m in module.modules():
        if isinstance(m, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(m.weight, a=slope)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
    for m in module.modules():
        if isinstance(m, Residual):
            nn.init.zeros_(m.last.weight)


class Residual(nn.Module):
    """x + conv(act(conv(act(x)))), (B, c, H, W) -> the same."""

    def __init__(self, channels: int, slope: float) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.last = nn.Conv2d(channels, channels, 3, padding=1)
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(F.leaky_relu(x, self.slope))
        return x + self.last(F.leaky_relu(h, self.slope))


class ResidualGenerator(nn.Module):
    """Latent (B, latent) to images (B, C, H, W) in [-1, 1], a little beyond while training.

    Args:
        latent: Latent dimension.
        shape: (C, H, W), square.
        width: Channels at half resolution; each smaller level has twice as many.
        blocks: Residual blocks a level.
        slope: LeakyReLU's slope below zero.
    """

    def __init__(
        self, *, latent: int, shape: Sequence[int], width: int = 64, blocks: int = 1, slope: float = 0.2
    ) -> None:
        super().__init__()
        if width < 1 or blocks < 0:
            raise ValueError(f"width = {width} and blocks = {blocks}: must be at least 1 and 0")
        c_out, self.side, levels = pyramid(shape)
        channels = [width * 2**k for k in reversed(range(levels))]
        self.stem = nn.Linear(latent, channels[0] * self.side**2)
        body: list[nn.Module] = []
        for k, c in enumerate(channels):
            if k:
                body += [nn.Conv2d(channels[k - 1], c, 1), nn.Upsample(scale_factor=2, mode="bilinear")]
            body += [Residual(c, slope) for _ in range(blocks)]
        self.body = nn.Sequential(*body)
        self.head = nn.Conv2d(channels[-1], 4 * c_out, 3, padding=1)
        self.slope = slope
        _init(self, slope)
        prefer_channels_last(self)

    def forward(self, z: Tensor) -> Tensor:
        h = self.stem(z).unflatten(1, (self.side, self.side, -1)).permute(0, 3, 1, 2)
        x = F.pixel_shuffle(self.head(F.leaky_relu(self.body(h), self.slope)), 2)
        x = x.tanh() + LEAK * x
        return x if self.training else x.clamp(-1, 1)


class ResidualDiscriminator(nn.Module):
    """Images (B, C, H, W) to a logit (B,).

    Args:
        shape: (C, H, W), square.
        width: Channels at half resolution; each smaller level has twice as many.
        blocks: Residual blocks a level.
        slope: LeakyReLU's slope below zero.
    """

    def __init__(self, *, shape: Sequence[int], width: int = 64, blocks: int = 1, slope: float = 0.2) -> None:
        super().__init__()
        if width < 1 or blocks < 0:
            raise ValueError(f"width = {width} and blocks = {blocks}: must be at least 1 and 0")
        c_in, side, levels = pyramid(shape)
        channels = [width * 2**k for k in range(levels)]
        body: list[nn.Module] = [nn.Conv2d(4 * c_in, width, 3, padding=1)]
        for k, c in enumerate(channels):
            if k:
                body += [nn.AvgPool2d(2), nn.Conv2d(channels[k - 1], c, 1)]
            body += [Residual(c, slope) for _ in range(blocks)]
        self.body = nn.Sequential(*body, nn.LeakyReLU(slope))
        self.width = channels[-1] * side**2
        self.head = nn.Linear(self.width, 1)
        _init(self, slope)
        nn.init.normal_(self.head.weight, 0.0, 1 / math.sqrt(self.width))
        prefer_channels_last(self)

    def features(self, x: Tensor) -> Tensor:
        """What the head sees, (B, C, H, W) -> (B, width)."""
        return self.body(F.pixel_unshuffle(x, 2)).permute(0, 2, 3, 1).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)).squeeze(1)
