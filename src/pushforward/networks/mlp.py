"""Multilayer perceptrons: the classic small pair, latent to data and data to logit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from pushforward.networks.blocks import DiscriminatorNorm, Norm, maybe_spectral

Output = Literal["tanh", "sigmoid", "identity"]


def _check(hidden: Sequence[int], slope: float) -> None:
    if any(wide < 1 for wide in hidden):
        raise ValueError(f"hidden = {list(hidden)}: each width must be at least 1")
    if not math.isfinite(slope):
        raise ValueError(f"slope = {slope}: must be a finite number")


class MLPGenerator(nn.Module):
    """Latent (B, latent) to data (B, *shape).

    Args:
        latent: Latent dimension.
        shape: Shape of one sample.
        hidden: Widths of the hidden layers.
        norm: "batch" puts batch norm behind each hidden layer but the first.
        slope: LeakyReLU's slope below zero.
        output: "tanh" for data in [-1, 1], "sigmoid" for data in [0, 1], "identity" for points of a plane.
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
    ) -> None:
        super().__init__()
        _check(hidden, slope)
        self.shape = tuple(shape)
        layers: list[nn.Module] = []
        width = latent
        for i, wide in enumerate(hidden):
            layers.append(nn.Linear(width, wide))
            if norm == "batch" and i > 0:
                layers.append(nn.BatchNorm1d(wide))
            layers.append(nn.LeakyReLU(slope, inplace=True))
            width = wide
        layers.append(nn.Linear(width, math.prod(self.shape)))
        if output != "identity":
            layers.append(nn.Tanh() if output == "tanh" else nn.Sigmoid())
        self.body = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        return self.body(z).reshape(-1, *self.shape)


class MLPDiscriminator(nn.Module):
    """Data (B, *shape) to a logit (B,).

    Args:
        shape: Shape of one sample.
        hidden: Widths of the hidden layers.
        norm: "spectral" bounds each layer's Lipschitz constant by 1; "batch" is batch norm.
        slope: LeakyReLU's slope below zero.
    """

    def __init__(
        self,
        *,
        shape: Sequence[int],
        hidden: Sequence[int] = (1024, 512, 256),
        norm: DiscriminatorNorm = "none",
        slope: float = 0.2,
    ) -> None:
        super().__init__()
        _check(hidden, slope)
        layers: list[nn.Module] = [nn.Flatten()]
        width = math.prod(shape)
        for wide in hidden:
            layers.append(maybe_spectral(nn.Linear(width, wide), norm))
            if norm == "batch":
                layers.append(nn.BatchNorm1d(wide))
            layers.append(nn.LeakyReLU(slope, inplace=True))
            width = wide
        self.body = nn.Sequential(*layers)
        self.width = width
        self.head = maybe_spectral(nn.Linear(width, 1), norm)

    def features(self, x: Tensor) -> Tensor:
        """What the head sees, (B, *shape) -> (B, width)."""
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)).squeeze(1)
