"""Multilayer perceptrons: the classic small pair, latent to data and data to logit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from pushforward.networks.blocks import DiscriminatorNorm, Norm, maybe_spectral

Output = Literal["tanh", "sigmoid", "identity"]


def _check(hidden: Sequence[int], slope: float, gain: float | None) -> None:
    if any(wide < 1 for wide in hidden):
        raise ValueError(f"hidden = {list(hidden)}: each width must be at least 1")
    if not math.isfinite(slope):
        raise ValueError(f"slope = {slope}: must be a finite number")
    if gain is not None and not 0 < gain < math.inf:
        raise ValueError(f"gain = {gain}: must be above 0 and finite")


def _linear(width: int, wide: int, gain: float | None) -> nn.Linear:
    layer = nn.Linear(width, wide)
    if gain is not None:
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
    return layer


class MLPGenerator(nn.Module):
    """Latent (B, latent) to data (B, *shape).

    Args:
        latent: Latent dimension.
        shape: Shape of one sample.
        hidden: Widths of the hidden layers.
        norm: "batch" puts batch norm behind each hidden layer but the first.
        slope: LeakyReLU's slope below zero.
        output: "tanh" for data in [-1, 1], "sigmoid" for data in [0, 1], "identity" for points of a plane.
        gain: Starts from orthogonal weights times this and no biases; None: from PyTorch's uniform ones.
    """

    def __init__(
        self,
        *,
        latent: int,
        shape: Sequence[int],
        hidden: Sequence[int] = (256, 512, 1024),
        norm: Norm = "none",
        slope: float = 0.2,
        output: Output = "tanh",
        gain: float | None = None,
    ) -> None:
        super().__init__()
        _check(hidden, slope, gain)
        self.shape = tuple(shape)
        layers: list[nn.Module] = []
        width = latent
        for i, wide in enumerate(hidden):
            layers.append(_linear(width, wide, gain))
            if norm == "batch" and i > 0:
                layers.append(nn.BatchNorm1d(wide))
            layers.append(nn.LeakyReLU(slope, inplace=True))
            width = wide
        layers.append(_linear(width, math.prod(self.shape), gain))
        if output != "identity":
            layers.append(nn.Tanh() if output == "tanh" else nn.Sigmoid())
        self.body = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        return self.body(z).reshape(-1, *self.shape)


class Maxout(nn.Module):
    """The largest of k linear pieces (Goodfellow et al. 2013, arXiv 1302.4389): (B, n k) -> (B, n), unit i of pieces i k to (i + 1) k - 1."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, h: Tensor) -> Tensor:
        return h.unflatten(1, (-1, self.pieces)).amax(dim=2)


class MLPDiscriminator(nn.Module):
    """Data (B, *shape) to a logit (B,).

    Args:
        shape: Shape of one sample.
        hidden: Widths of the hidden layers.
        norm: "spectral" bounds each layer's Lipschitz constant by 1; "batch" is batch norm.
        slope: LeakyReLU's slope below zero.
        gain: Starts from orthogonal weights times this and no biases; None: from PyTorch's uniform ones.
        scale: What the data are multiplied by first.
        pieces: Above 1, each unit is the largest of that many linear pieces (maxout) in place of LeakyReLU.
    """

    def __init__(
        self,
        *,
        shape: Sequence[int],
        hidden: Sequence[int] = (1024, 512, 256),
        norm: DiscriminatorNorm = "none",
        slope: float = 0.2,
        gain: float | None = None,
        scale: float = 1.0,
        pieces: int = 1,
    ) -> None:
        super().__init__()
        _check(hidden, slope, gain)
        if pieces < 1:
            raise ValueError(f"pieces = {pieces}: must be at least 1")
        if pieces > 1 and slope != 0.2:
            raise ValueError(f"slope = {slope} would not be read: units of {pieces} pieces have no slope of their own")
        if not 0 < scale < math.inf:
            raise ValueError(f"scale = {scale}: must be above 0 and finite")
        self.scale = scale
        layers: list[nn.Module] = [nn.Flatten()]
        width = math.prod(shape)
        for wide in hidden:
            layers.append(maybe_spectral(_linear(width, wide * pieces, gain), norm))
            if norm == "batch":
                layers.append(nn.BatchNorm1d(wide * pieces))
            layers.append(Maxout(pieces) if pieces > 1 else nn.LeakyReLU(slope, inplace=True))
            width = wide
        self.body = nn.Sequential(*layers)
        self.width = width
        self.head = maybe_spectral(_linear(width, 1, gain), norm)

    def features(self, x: Tensor) -> Tensor:
        """What the head sees, (B, *shape) -> (B, width)."""
        return self.body(x if self.scale == 1 else self.scale * x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)).squeeze(1)
