"""The DCGAN pair (Radford, Metz, Chintala 2015, arXiv 1511.06434), natively at 28x28, 32x32 and other sizes.

The side is halved while it is even and above 7: 28 = 7 * 2 * 2, 32 = 4 * 2 * 2 * 2. Channels double towards the small end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from pushforward.networks.blocks import (
    DiscriminatorNorm,
    Norm,
    UpsampleConv,
    init_normal,
    maybe_spectral,
    prefer_channels_last,
)


def pyramid(shape: Sequence[int]) -> tuple[int, int, int]:
    """Channels, smallest side and number of doublings of a square image.

    Example:
        >>> pyramid((1, 28, 28)), pyramid((3, 32, 32))
        ((1, 7, 2), (3, 4, 3))
    """
    if len(shape) != 3 or shape[1] != shape[2]:
        raise ValueError(f"a convolutional network needs square images; got shape {tuple(shape)}.")
    side, levels = shape[1], 0
    while side % 2 == 0 and side > 7:
        side //= 2
        levels += 1
    if levels == 0 or side > 8:
        raise ValueError(
            f"images of side {shape[1]} do not halve down to 8 or less; resize them (data.size), to 28, 32 or 64 say."
        )
    return shape[0], side, levels


class DCGANGenerator(nn.Module):
    """Latent (B, latent) to images (B, C, H, W) in [-1, 1].

    Args:
        latent: Latent dimension.
        shape: (C, H, W), square.
        width: Channels at half resolution; each smaller level has twice as many.
        norm: "batch" as in the paper, or "none".
        upsample: "transposed" = 4x4 stride-2 transposed convolutions (the paper); "nearest" = nearest upsampling and a 3x3
            convolution, computed exactly at 4/9 of the cost (`UpsampleConv`).
    """

    def __init__(
        self,
        *,
        latent: int,
        shape: Sequence[int],
        width: int = 64,
        norm: Norm = "batch",
        upsample: Literal["transposed", "nearest"] = "transposed",
    ) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width = {width}: must be at least 1")
        c_out, self.side, levels = pyramid(shape)
        channels = [width * 2**k for k in reversed(range(levels))]
        self.stem = nn.Linear(latent, channels[0] * self.side**2)
        body: list[nn.Module] = []
        for c_in, c_next in zip(channels, [*channels[1:], c_out], strict=True):
            if norm == "batch":
                body.append(nn.BatchNorm2d(c_in))
            body.append(nn.ReLU(inplace=True))
            body.append(
                nn.ConvTranspose2d(c_in, c_next, 4, 2, 1) if upsample == "transposed" else UpsampleConv(c_in, c_next)
            )
        self.body = nn.Sequential(*body, nn.Tanh())
        init_normal(self)
        prefer_channels_last(self)

    def forward(self, z: Tensor) -> Tensor:
        # (B, side, side, C) seen as (B, C, side, side): channels_last without a copy.
        h = self.stem(z).unflatten(1, (self.side, self.side, -1)).permute(0, 3, 1, 2)
        return self.body(h)


class DCGANDiscriminator(nn.Module):
    """Images (B, C, H, W) to a logit (B,).

    Args:
        shape: (C, H, W), square.
        width: Channels at half resolution; each smaller level has twice as many.
        norm: "batch" as in the paper (not at the input), "spectral", or "none".
        slope: LeakyReLU's slope below zero.
    """

    def __init__(
        self, *, shape: Sequence[int], width: int = 64, norm: DiscriminatorNorm = "batch", slope: float = 0.2
    ) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width = {width}: must be at least 1")
        c_in, side, levels = pyramid(shape)
        body: list[nn.Module] = []
        for k in range(levels):
            c_out = width * 2**k
            body.append(maybe_spectral(nn.Conv2d(c_in, c_out, 4, 2, 1, bias=norm != "batch" or k == 0), norm))
            if norm == "batch" and k > 0:
                body.append(nn.BatchNorm2d(c_out))
            body.append(nn.LeakyReLU(slope, inplace=True))
            c_in = c_out
        self.body = nn.Sequential(*body)
        self.width = c_in * side**2
        self.head = maybe_spectral(nn.Linear(self.width, 1), norm)
        if norm != "spectral":
            init_normal(self)
        prefer_channels_last(self)

    def features(self, x: Tensor) -> Tensor:
        """What the head sees, (B, C, H, W) -> (B, width)."""
        return self.body(x).permute(0, 2, 3, 1).flatten(1)  # a view when the memory is channels_last

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)).squeeze(1)
