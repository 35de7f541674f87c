from __future__ import annotations

import math

import pytest
import torch

from pushforward.data.toy import DENSITIES, Checkerboard, Density, Grid, Mixture, Moons, Ring, Spirals
from pushforward.errors import NotSupported
from pushforward.randomness import Generator, SampleStream

EXACT = {k: d for k, d in DENSITIES.items() if isinstance(d, (Mixture, Checkerboard))}


@pytest.mark.parametrize("name", DENSITIES)
def test_points_have_their_shape_and_address(name: str) -> None:
    density = DENSITIES[name]
    whole = density.sample(40, generator=SampleStream(3, torch.arange(40)))
    part = density.sample(3, generator=SampleStream(3, torch.tensor([30, 1, 7])))
    assert whole.shape == (40, density.dim)
    torch.testing.assert_close(part, whole[[30, 1, 7]])


@pytest.mark.parametrize(
    "density", [Mixture([[-1.0], [1.0]], [0.3, 0.6], [0.2, 0.8]), DENSITIES["mixture-1d"]], ids=["two", "named"]
)
def test_one_dimensional_density_integrates_to_one(density: Density) -> None:
    x = torch.linspace(-8, 8, 20001)[:, None]
    assert torch.trapezoid(density.log_prob(x).exp(), x[:, 0]).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("density", [Ring(sd=0.2), Grid(sd=0.2), Checkerboard()], ids=["ring", "grid", "checkerboard"])
def test_two_dimensional_density_integrates_to_one(density: Density) -> None:
    line = torch.linspace(-6, 6, 1201) + 0.005  # off the checkerboard's edges
    mass = density.log_prob(torch.cartesian_prod(line, line)).exp().sum() * 0.01**2
    assert mass.item() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("name", EXACT)
def test_samples_follow_the_density(name: str) -> None:
    """E[log p(x)] of samples is minus the entropy; for well-separated modes that is known in closed form."""
    density = DENSITIES[name]
    n = 20_000
    log_prob = density.log_prob(density.sample(n, generator=torch.Generator().manual_seed(0))).double()
    assert torch.isfinite(log_prob).all()
    if isinstance(density, Checkerboard):
        entropy = math.log(32)
    elif name == "mixture-1d":
        x = torch.linspace(-8, 8, 40001)[:, None]
        p = density.log_prob(x).double()
        entropy = -torch.trapezoid(p.exp() * p, x[:, 0].double()).item()
    else:
        assert isinstance(density, Mixture)
        gauss = density.dim * (0.5 + 0.5 * math.log(2 * math.pi)) + density.dim * density.sd[0].log().item()
        entropy = gauss + math.log(len(density.means))
    assert -log_prob.mean().item() == pytest.approx(entropy, abs=5 * log_prob.std().item() / math.sqrt(n) + 1e-5)


def test_modes_are_even() -> None:
    x = Ring().sample(8000, generator=torch.Generator().manual_seed(1))
    counts = torch.cdist(x, Ring().means).argmin(dim=1).bincount(minlength=8)
    assert (counts - 1000).abs().max() < 5 * math.sqrt(1000)


def test_no_density_is_said_not_invented() -> None:
    class Own(Density):
        def sample(self, n: int, *, generator: Generator | None = None) -> torch.Tensor:
            return torch.zeros(n, 2)

    with pytest.raises(NotSupported, match="no density in closed form"):
        Own().log_prob(torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("density", "centre"),
    [(Spirals(), (0.1, 0.0)), (Spirals(), (-1.9, 0.9)), (Moons(), (0.9, 0.9)), (Moons(0.3), (0.0, 0.5))],
)
def test_densities_along_curves_are_those_of_their_samples(density: Density, centre: tuple[float, float]) -> None:
    """The share of samples in a square against the density's integral over it."""
    half, n, side = 0.5, 60_000, 100
    x = density.sample(n, generator=torch.Generator().manual_seed(0)) - torch.tensor(centre)
    share = float((x.abs() < half).all(dim=1).double().mean())
    assert share > 0.01
    line = ((torch.arange(side) + 0.5) / side * 2 - 1) * half
    cells = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1).reshape(-1, 2) + torch.tensor(centre)
    integral = float(density.log_prob(cells).double().exp().mean()) * (2 * half) ** 2
    assert integral == pytest.approx(share, abs=4 * math.sqrt(share / n))
