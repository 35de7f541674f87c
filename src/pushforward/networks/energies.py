"""Energies: data to one number, smooth by default, since a chain follows the gradient and score matching its gradient too.

Swish x sigmoid(x) has a slope everywhere; ReLU's energies are planes with creases, on which a gradient says nothing of what lies behind the next crease.
Reference: Du and Mordatch 2019, arXiv 1903.08689 (spectral norm, Swish); Li, Chen, Sommer 2019, section 4, arXiv 1910.07762 (the quadratic head).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from pushforward.networks.blocks import maybe_spectral, prefer_channels_last
from pushforward.networks.dcgan import pyramid

Activation = Literal["swish", "relu", "leaky-relu", "softplus"]
EnergyNorm = Literal["none", "spectral"]
Head = Literal["linear", "quadratic"]

_ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "swish": nn.SiLU,
    "relu": nn.ReLU,
    "leaky-relu": lambda: nn.LeakyReLU(0.2),
    "softplus": nn.Softplus,
}


class EnergyHead(nn.Module):
    """Features (B, d) to energies (B,): a linear function, or the product of two linear ones plus a weighted sum of squares.

    A linear head's energy grows like the distance from the data, a quadratic one's like its square, as a Gaussian's does.
    """

    def __init__(self, width: int, kind: Head, norm: EnergyNorm) -> None:
        super().__init__()
        self.first = maybe_spectral(nn.Linear(width, 1), norm)
        self.second = maybe_spectral(nn.Linear(width, 1), norm) if kind == "quadratic" else None
        self.squares = maybe_spectral(nn.Linear(width, 1), norm) if kind == "quadratic" else None

    def forward(self, h: Tensor) -> Tensor:
        out = self.first(h)
        if self.second is not None and self.squares is not None:
            out = out * self.second(h) + self.squares(h.square())
        return out.squeeze(1)


class MLPEnergy(nn.Module):
    """Data (B, *shape) to energies (B,).

    Args:
        shape: Shape of one sample.
        hidden: Widths of the hidden layers.
        activation: Behind each of them.
        norm: "spectral" divides each weight, as a matrix, by its largest singular value: a dense layer's Lipschitz constant is then 1, a convolution's may be larger.
        head: "linear" or "quadratic".
    """

    def __init__(
        self,
        *,
        shape: Sequence[int],
        hidden: Sequence[int] = (256, 256),
        activation: Activation = "swish",
        norm: EnergyNorm = "none",
        head: Head = "linear",
    ) -> None:
        super().__init__()
        if not hidden or any(wide < 1 for wide in hidden):
            raise ValueError(f"hidden = {list(hidden)}: at least one width, each at least 1")
        layers: list[nn.Module] = [nn.Flatten()]
        width = math.prod(shape)
        for wide in hidden:
            layers += [maybe_spectral(nn.Linear(width, wide), norm), _ACTIVATIONS[activation]()]
            width = wide
        self.body = nn.Sequential(*layers)
        self.head = EnergyHead(width, head, norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class ConvEnergy(nn.Module):
    """Square images (B, C, H, W) to energies (B,), by strided convolutions.

    Args:
        shape: (C, H, W), square.
        width: Channels at half resolution; each smaller level has twice as many.
        activation: Behind each convolution.
        norm: "spectral" divides each weight, as a matrix, by its largest singular value: a dense layer's Lipschitz constant is then 1, a convolution's may be larger.
        head: "linear" or "quadratic".
    """

    def __init__(
        self,
        *,
        shape: Sequence[int],
        width: int = 32,
        activation: Activation = "swish",
        norm: EnergyNorm = "none",
        head: Head = "linear",
    ) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width = {width}: must be at least 1")
        c_in, side, levels = pyramid(shape)
        body: list[nn.Module] = []
        for k in range(levels):
            c_out = width * 2**k
            body += [maybe_spectral(nn.Conv2d(c_in, c_out, 4, 2, 1), norm), _ACTIVATIONS[activation]()]
            c_in = c_out
        body += [maybe_spectral(nn.Conv2d(c_in, 2 * c_in, 4, 2, 1), norm), _ACTIVATIONS[activation]()]
        side = (side - 2) // 2 + 1
        self.body = nn.Sequential(*body)
        self.head = EnergyHead(2 * c_in * side**2, head, norm)
        prefer_channels_last(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).permute(0, 2, 3, 1).flatten(1))


class PatchEnergy(nn.Module):
    """Square images (B, C, H, W) to energies (B,): patches are folded into channels first, so that no layer is wide where pixels are many.

    Args:
        shape: (C, H, W), square, its side a multiple of `patch`.
        width: Channels of the first two convolutions; the third has twice as many at half the side.
        patch: Side of a patch.
        activation: Behind each convolution.
        norm: "spectral" divides each weight, as a matrix, by its largest singular value: a dense layer's Lipschitz constant is then 1, a convolution's may be larger.
        head: "linear" or "quadratic".
    """

    def __init__(
        self,
        *,
        shape: Sequence[int],
        width: int = 64,
        patch: int = 4,
        activation: Activation = "swish",
        norm: EnergyNorm = "none",
        head: Head = "linear",
    ) -> None:
        super().__init__()
        if len(shape) != 3 or shape[1] != shape[2]:
            raise ValueError(f"a convolutional network needs square images; got shape {tuple(shape)}.")
        c_in, side = shape[0], shape[1] // max(patch, 1)
        if width < 1 or patch < 1 or shape[1] % patch or side < 4:
            raise ValueError(
                f"width = {width} and patch = {patch}: must be at least 1, and a side of {shape[1]} be 4 patches or more"
            )
        act, self.patch = _ACTIVATIONS[activation], patch
        layers = [
            nn.Conv2d(c_in * patch**2, width, 3, padding=1),
            nn.Conv2d(width, width, 3, padding=1),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
        ]
        self.body = nn.Sequential(*(m for layer in layers for m in (maybe_spectral(layer, norm), act())))
        self.head = EnergyHead(2 * width * ((side - 2) // 2 + 1) ** 2, head, norm)
        prefer_channels_last(self)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.body(F.pixel_unshuffle(x, self.patch))
        return self.head(h.permute(0, 2, 3, 1).flatten(1))


class _Block(nn.Module):
    """x + conv(act(conv(act(x)))); the second convolution starts at zero unless its norm is bounded."""

    def __init__(self, channels: int, activation: Activation, norm: EnergyNorm) -> None:
        super().__init__()
        first, last = nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)
        if norm == "none":
            nn.init.zeros_(last.weight)
        act = _ACTIVATIONS[activation]
        self.body = nn.Sequential(act(), maybe_spectral(first, norm), act(), maybe_spectral(last, norm))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ResidualEnergy(nn.Module):
    """Square images (B, C, H, W) to energies (B,), by residual blocks; 2x2 pixels are folded into channels first.

    Args:
        shape: (C, H, W), square.
        width: Channels at half resolution; each smaller level has twice as many.
        blocks: Residual blocks a level.
        activation: In front of each convolution.
        norm: "spectral" divides each kernel, as a matrix, by its largest singular value; the convolution's Lipschitz constant may be larger than 1.
        head: "linear" or "quadratic".
    """

    def __init__(
        self,
        *,
        shape: Sequence[int],
        width: int = 32,
        blocks: int = 1,
        activation: Activation = "swish",
        norm: EnergyNorm = "none",
        head: Head = "linear",
    ) -> None:
        super().__init__()
        if width < 1 or blocks < 1:
            raise ValueError(f"width = {width} and blocks = {blocks}: must be at least 1")
        c_in, side, levels = pyramid(shape)
        channels = [width * 2**k for k in range(levels)]
        body: list[nn.Module] = [maybe_spectral(nn.Conv2d(4 * c_in, width, 3, padding=1), norm)]
        for k, c in enumerate(channels):
            if k:
                body.append(maybe_spectral(nn.Conv2d(channels[k - 1], c, 4, 2, 1), norm))
            body += [_Block(c, activation, norm) for _ in range(blocks)]
        self.body = nn.Sequential(*body, _ACTIVATIONS[activation]())
        self.head = EnergyHead(channels[-1] * side**2, head, norm)
        prefer_channels_last(self)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.body(F.pixel_unshuffle(x, 2))
        return self.head(h.permute(0, 2, 3, 1).flatten(1))
