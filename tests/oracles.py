"""Known truths that tests compare with."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LinearCritic(nn.Module):
    """D(x) = w . x + b: its gradient is w everywhere."""

    def __init__(self, w: Tensor, b: float = 0.0) -> None:
        super().__init__()
        self.w = nn.Parameter(w)
        self.b = nn.Parameter(torch.tensor(b))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.w + self.b


class QuadraticCritic(nn.Module):
    """D(x) = |x|^2 / 2: its gradient is x."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.flatten(1).square().sum(dim=1) / 2


class AffineGenerator(nn.Module):
    """G(z) = a z + b, so that everything about a small GAN can be done by hand."""

    def __init__(self, a: float = 1.0, b: float = 0.0) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a))
        self.b = nn.Parameter(torch.tensor(b))

    def forward(self, z: Tensor) -> Tensor:
        return self.a * z + self.b


def gaussian_frechet(m1: Tensor, s1: Tensor, m2: Tensor, s2: Tensor) -> float:
    """Squared Frechet distance of Gaussians by a matrix square root (scipy), in float64."""
    from scipy.linalg import sqrtm

    root = torch.from_numpy(sqrtm((s1 @ s2).numpy()).real)
    return float((m1 - m2).square().sum() + torch.trace(s1 + s2 - 2 * root))
