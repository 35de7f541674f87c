"""Toy densities in one and two dimensions, with the exact log-density wherever there is one.

They answer what images cannot: is this mode missing, is this density right? All draws go through `randomness`, so a
`SampleStream` gives the same point i whatever the batch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from pushforward.errors import NotSupported
from pushforward.randomness import Generator, SampleStream, draw_integers, draw_normal, draw_uniform


class Density(ABC):
    """A distribution of points (n, dim)."""

    dim: int = 2

    @abstractmethod
    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        """Points, (n, dim)."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log-density in nats, (n, dim) -> (n,).

        Raises:
            NotSupported: there is no closed form.
        """
        raise NotSupported(
            f"{type(self).__name__} has no density in closed form; the named ones (`pushforward data`) have."
        )

    def draw(self, stream: SampleStream) -> Tensor:
        """`sample` in the shape that `DensityBatches` wants."""
        return self.sample(len(stream), generator=stream)


class Mixture(Density):
    """Equal or weighted isotropic Gaussians.

    Args:
        means: (k, dim).
        sd: One standard deviation for all, or one each.
        weights: Proportions; equal when absent.

    Example:
        >>> Mixture([[0.0]], sd=1.0).log_prob(torch.zeros(1, 1)).item()  # -log sqrt(2 pi)
        -0.9189385175704956
    """

    def __init__(
        self,
        means: Sequence[Sequence[float]] | Tensor,
        sd: float | Sequence[float],
        weights: Sequence[float] | None = None,
    ) -> None:
        self.means = torch.as_tensor(means, dtype=torch.float32)
        k, self.dim = self.means.shape
        self.sd = torch.as_tensor(sd, dtype=torch.float32).expand(k)
        w = torch.ones(k) if weights is None else torch.as_tensor(weights, dtype=torch.float32)
        self.weights = w / w.sum()

    def distribution(self) -> MixtureSameFamily:
        parts = Independent(Normal(self.means, self.sd[:, None].expand_as(self.means)), 1)
        return MixtureSameFamily(Categorical(self.weights), parts)

    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        u = draw_uniform((n, 1), generator=generator).contiguous()
        index = torch.searchsorted(self.weights.cumsum(0), u).squeeze(1).clamp_(max=len(self.weights) - 1)
        return self.means[index] + self.sd[index, None] * draw_normal((n, self.dim), generator=generator)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.distribution().log_prob(x)


class Ring(Mixture):
    """`modes` Gaussians on a circle (unrolled GAN, VEEGAN: 8 modes, radius 2, sd 0.02)."""

    def __init__(self, modes: int = 8, radius: float = 2.0, sd: float = 0.02) -> None:
        angle = torch.arange(modes) * (2 * math.pi / modes)
        super().__init__(radius * torch.stack([angle.cos(), angle.sin()], dim=1), sd)


class Grid(Mixture):
    """`side` x `side` Gaussians, `spacing` apart (VEEGAN, PacGAN: 5 x 5, spacing 2, sd 0.05)."""

    def __init__(self, side: int = 5, spacing: float = 2.0, sd: float = 0.05) -> None:
        line = (torch.arange(side) - (side - 1) / 2) * spacing
        super().__init__(torch.cartesian_prod(line, line), sd)


class Checkerboard(Density):
    """Uniform on the black squares of a `side` x `side` board that covers [-half, half]^2; `side` even."""

    def __init__(self, side: int = 4, half: float = 4.0) -> None:
        self.side, self.half = side, half

    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        row = draw_integers(self.side, (n, 1), generator=generator)
        column = 2 * draw_integers(self.side // 2, (n, 1), generator=generator) + row % 2
        cell = torch.cat([column, row], dim=1) + draw_uniform((n, 2), generator=generator)
        return cell * (2 * self.half / self.side) - self.half

    def log_prob(self, x: Tensor) -> Tensor:
        cell = ((x + self.half) * (self.side / (2 * self.half))).floor()
        black = (cell.sum(dim=1) % 2 == 0) & (cell >= 0).all(dim=1) & (cell < self.side).all(dim=1)
        area = (2 * self.half) ** 2 / 2
        return torch.where(black, -math.log(area), -math.inf)


class Curves(Density):
    """Points on curves with Gaussian noise of standard deviation `sd`."""

    sd: float

    @abstractmethod
    def points(self, n: int) -> tuple[Tensor, Tensor]:
        """Nodes of a quadrature along the curves, (m, 2), and their weights (m,), which add up to 1."""

    def log_prob(self, x: Tensor) -> Tensor:
        """By quadrature along the curves: nodes lie nearer to one another than half of the noise, so that the sum is exact to float32."""
        nodes, weights = self.points(max(256, math.ceil(self._longest / (0.5 * self.sd))))
        nodes, log_w = nodes.to(x), weights.log().to(x) - math.log(2 * math.pi * self.sd**2)
        parts = [(log_w - torch.cdist(b, nodes).square() / (2 * self.sd**2)).logsumexp(dim=1) for b in x.split(2000)]
        return torch.cat(parts)

    @property
    @abstractmethod
    def _longest(self) -> float:
        """The largest speed of a curve in its parameter, which goes from 0 to 1."""


class Spirals(Curves):
    """Two interleaved spirals with Gaussian noise."""

    def __init__(self, turns: float = 1.5, sd: float = 0.05) -> None:
        self.turns, self.sd = turns, sd

    def points(self, n: int) -> tuple[Tensor, Tensor]:
        radius = ((torch.arange(n) + 0.5) / n).double()[:, None]  # of density 2 r
        angle = radius * (2 * math.pi * self.turns)
        arm = 3 * radius * torch.cat([angle.cos(), angle.sin()], dim=1)
        return torch.cat([arm, -arm]), radius[:, 0].repeat(2) / n

    @property
    def _longest(self) -> float:
        return 3 * math.hypot(1, 2 * math.pi * self.turns)

    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        radius = draw_uniform((n, 1), generator=generator).sqrt()  # square root: even along the arm
        arm = draw_integers(2, (n, 1), generator=generator) * math.pi
        angle = radius * (2 * math.pi * self.turns) + arm
        curve = 3 * radius * torch.cat([angle.cos(), angle.sin()], dim=1)
        return curve + self.sd * draw_normal((n, 2), generator=generator)


class Moons(Curves):
    """Two interleaving half circles with Gaussian noise."""

    def __init__(self, sd: float = 0.05) -> None:
        self.sd = sd

    def points(self, n: int) -> tuple[Tensor, Tensor]:
        angle = math.pi * ((torch.arange(n) + 0.5) / n).double()[:, None]
        upper = torch.cat([angle.cos(), angle.sin()], dim=1)
        both = torch.cat([upper, torch.tensor([1.0, 0.5]).double() - upper])
        return 2 * (both - torch.tensor([0.5, 0.25])), torch.full((2 * n,), 0.5 / n, dtype=torch.float64)

    @property
    def _longest(self) -> float:
        return 2 * math.pi

    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        angle = draw_uniform((n, 1), generator=generator) * math.pi
        lower = draw_integers(2, (n, 1), generator=generator).float()
        upper = torch.cat([angle.cos(), angle.sin()], dim=1)
        curve = torch.where(lower.bool(), torch.tensor([1.0, 0.5]) - upper, upper)
        return 2 * (curve - torch.tensor([0.5, 0.25])) + self.sd * draw_normal((n, 2), generator=generator)


DENSITIES: dict[str, Density] = {
    "ring-8": Ring(),
    "grid-25": Grid(),
    "spirals": Spirals(),
    "moons": Moons(),
    "checkerboard": Checkerboard(),
    "gaussian-1d": Mixture([[4.0]], sd=0.5),
    "mixture-1d": Mixture([[-2.0], [0.5], [2.5]], sd=[0.4, 0.3, 0.6], weights=[0.3, 0.5, 0.2]),
}
"""The named densities of the command line (`--data ring-8`)."""
