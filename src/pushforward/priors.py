"""Where latents come from: distributions over (n, dim) with draws and, each, its log-density."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from pushforward.randomness import Generator, draw_normal, draw_uniform


class Prior(nn.Module, ABC):
    """A latent distribution.

    Args:
        dim: Dimension of a latent.
    """

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim = {dim}: must be at least 1")
        self.dim = dim
        self._here: Tensor
        self.register_buffer("_here", torch.empty(0), persistent=False)  # knows the device

    @abstractmethod
    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        """Latents, (n, dim)."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats, (n, dim) -> (n,)."""


class Normal(Prior):
    """Standard normal.

    Example:
        >>> Normal(dim=2).log_prob(torch.zeros(1, 2)).item()  # -log(2 pi)
        -1.8378770351409912
    """

    def __init__(self, *, dim: int = 100) -> None:
        super().__init__(dim=dim)

    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        return draw_normal((n, self.dim), generator=generator, device=self._here.device)

    def log_prob(self, z: Tensor) -> Tensor:
        return -0.5 * (z.square().sum(dim=1) + self.dim * math.log(2 * math.pi))


class Uniform(Prior):
    """Uniform on [-1, 1]^dim.

    Example:
        >>> Uniform(dim=2).log_prob(torch.tensor([[0.0, 0.5], [0.0, 1.5]])).tolist()  # -2 log 2, outside
        [-1.3862943649291992, -inf]
    """

    def __init__(self, *, dim: int = 100) -> None:
        super().__init__(dim=dim)

    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        return draw_uniform((n, self.dim), generator=generator, device=self._here.device) * 2 - 1

    def log_prob(self, z: Tensor) -> Tensor:
        inside = (z.abs() <= 1).all(dim=1)
        return torch.where(inside, -self.dim * math.log(2.0), -math.inf)
