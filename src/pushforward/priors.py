"""Where latents come from: distributions over (n, dim) with draws and, each, its log-density."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pushforward.randomness import Generator, SampleStream, draw_integers, draw_normal, draw_uniform


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


def between(p: Tensor, q: Tensor, steps: int) -> Tensor:
    """The way from normal latents to others, (n, dim) twice -> (steps, n, dim), both ends counted.

    The direction turns at an even speed from the one to the other, while the length goes evenly from the one to the other; where the directions are
    all but opposite (on a line always), it goes straight.

    Reference: White 2016, section 2.1, arXiv 1609.04468 (a straight line leaves the sphere near which normal latents lie).

    Raises:
        ValueError: fewer than 2 steps.

    Example:
        >>> between(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]]), 3)[1]
        tensor([[1.4142, 1.4142]])
    """
    if steps < 2:
        raise ValueError(f"steps = {steps}: at least the two ends")
    long_p, long_q = (v.norm(dim=1, keepdim=True).clamp(min=1e-12) for v in (p, q))
    angle = (p / long_p * (q / long_q)).sum(dim=1, keepdim=True).clamp(-1, 1).arccos()
    straight, size = angle.sin() < 1e-3, angle.sin().clamp(min=1e-3)
    found = []
    for s in torch.linspace(0, 1, steps, device=p.device):
        turned = (torch.sin((1 - s) * angle) * p / long_p + torch.sin(s * angle) * q / long_q) / size
        found.append(torch.where(straight, (1 - s) * p + s * q, turned * ((1 - s) * long_p + s * long_q)))
    return torch.stack(found)


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


class GaussianMixture(Prior):
    """Equally likely isotropic Gaussians (GM-GAN): one for each cluster that the data may have.

    Args:
        dim: Dimension of a latent.
        components: How many.
        layout: "circle": means evenly spaced on a circle in the first two dimensions, zero elsewhere (version 1); "uniform": each coordinate
            uniform in [-spread, spread] (version 2), the same draw in every run.
        spread: The circle's radius, or half the side of the cube.
        sd: Of each component.
        learned: Means and scales are parameters that move with the generator ("dynamic").

    Reference: Ben-Yosef and Weinshall 2018, section 2, arXiv 1808.10356.

    Example:
        >>> GaussianMixture(dim=2, components=4, spread=1.0).means.round().int().tolist()
        [[1, 0], [0, 1], [-1, 0], [0, -1]]
    """

    def __init__(
        self,
        *,
        dim: int = 100,
        components: int = 8,
        layout: Literal["circle", "uniform"] = "circle",
        spread: float = 2.0,
        sd: float = 1.0,
        learned: bool = False,
    ) -> None:
        super().__init__(dim=dim)
        if components < 1:
            raise ValueError(f"components = {components}: must be at least 1")
        if not (0 < sd < math.inf and 0 <= spread < math.inf):
            raise ValueError(f"sd = {sd} and spread = {spread}: must be finite, sd above 0 and spread not below")
        if layout == "circle":
            if dim < 2:
                raise ValueError(f"dim = {dim}: a circle needs at least 2")
            angle = torch.arange(components) * (2 * math.pi / components)
            means = torch.zeros(components, dim)
            means[:, 0], means[:, 1] = spread * angle.cos(), spread * angle.sin()
        else:
            stream = SampleStream(0, torch.arange(components))  # the same means whatever the run's seed
            means = spread * (2 * stream.uniform((components, dim)) - 1)
        log_sd = torch.full((components,), math.log(sd))
        self.means: Tensor
        self.log_sd: Tensor
        if learned:
            self.means, self.log_sd = nn.Parameter(means), nn.Parameter(log_sd)
        else:
            self.register_buffer("means", means)
            self.register_buffer("log_sd", log_sd)

    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        which = draw_integers(len(self.means), (n,), generator=generator, device=self._here.device)
        noise = draw_normal((n, self.dim), generator=generator, device=self._here.device)
        return self.means[which] + self.log_sd.exp()[which, None] * noise  # differentiable in means and scales

    def log_prob(self, z: Tensor) -> Tensor:
        distances = (z[:, None] - self.means).square().sum(dim=2) / self.log_sd.exp().square()
        each = -0.5 * (distances + self.dim * math.log(2 * math.pi)) - self.dim * self.log_sd
        return each.logsumexp(dim=1) - math.log(len(self.means))


class FlowPrior(Prior):
    """A learned law: standard normals through invertible couplings (zuko's RealNVP), so that it has a density as the mixtures have.

    It begins close to the standard normal. Trained with a GAN's generator it takes on what structure the latents want, islands for one.

    Args:
        dim: Dimension of a latent, at least 2.
        transforms: Couplings.
        hidden: Widths of their networks.
    """

    def __init__(self, *, dim: int = 100, transforms: int = 3, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__(dim=dim)
        if dim < 2 or transforms < 1:
            raise ValueError(f"dim = {dim} and transforms = {transforms}: must be at least 2 and 1")
        import zuko

        self.flow = zuko.flows.RealNVP(dim, transforms=transforms, hidden_features=tuple(hidden), randmask=False)

    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        noise = draw_normal((n, self.dim), generator=generator, device=self._here.device)
        z: Tensor = self.flow().transform.inv(noise)
        return z

    def log_prob(self, z: Tensor) -> Tensor:
        found: Tensor = self.flow().log_prob(z)
        return found
