from __future__ import annotations

import math

import pytest
import torch
from oracles import LinearCritic, QuadraticCritic
from torch.distributions import Independent, Normal, Uniform

from pushforward import priors
from pushforward.penalties import gradient_penalty, unit_slope_penalty


def test_normal_prior_against_torch() -> None:
    z = torch.randn(7, 5)
    expected = Independent(Normal(torch.zeros(5), torch.ones(5)), 1).log_prob(z)
    torch.testing.assert_close(priors.Normal(dim=5).log_prob(z), expected)


def test_uniform_prior_against_torch() -> None:
    z = torch.rand(7, 5) * 2 - 1
    expected = Independent(Uniform(-torch.ones(5), torch.ones(5)), 1).log_prob(z)
    torch.testing.assert_close(priors.Uniform(dim=5).log_prob(z), expected)


def test_uniform_prior_fills_its_cube() -> None:
    z = priors.Uniform(dim=3).sample(20000, generator=torch.Generator().manual_seed(0))
    assert -1 <= z.min() < -0.999 and 0.999 < z.max() <= 1
    assert z.var(dim=0).numpy() == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.parametrize("batch", [1, 64])
def test_penalties_of_a_linear_critic(batch: int) -> None:
    critic = LinearCritic(torch.tensor([3.0, 0.0, 4.0, 0.0]))
    x = torch.randn(batch, 1, 2, 2)
    torch.testing.assert_close(gradient_penalty(critic, x), torch.full((batch,), 25.0))
    torch.testing.assert_close(unit_slope_penalty(critic, x), torch.full((batch,), 16.0))


@pytest.mark.parametrize("batch", [1, 64])
def test_penalties_of_a_quadratic_critic_are_per_sample(batch: int) -> None:
    x = torch.randn(batch, 3, 2)
    norm = x.flatten(1).norm(dim=1)
    torch.testing.assert_close(gradient_penalty(QuadraticCritic(), x), norm.square())
    torch.testing.assert_close(unit_slope_penalty(QuadraticCritic(), x, target=2.0), (norm - 2).square())


def test_penalty_trains_the_field() -> None:
    """d/ds of s^2 |x|^2 at s = 1 is 2 |x|^2."""
    critic = QuadraticCritic()
    x = torch.randn(6, 4)
    gradient_penalty(critic, x).sum().backward()
    assert critic.scale.grad is not None
    assert critic.scale.grad.item() == pytest.approx(2 * x.square().sum().item(), rel=1e-5)


def test_flat_critic_has_a_finite_gradient() -> None:
    critic = LinearCritic(torch.zeros(4))
    unit_slope_penalty(critic, torch.randn(2, 4)).sum().backward()
    assert critic.w.grad is not None and torch.isfinite(critic.w.grad).all()


def test_a_flow_prior_is_normalised_and_draws_from_its_density() -> None:
    torch.manual_seed(0)
    prior = priors.FlowPrior(dim=2, transforms=2, hidden=(8,))
    with torch.no_grad():
        for p in prior.parameters():
            p.add_(0.3 * torch.randn_like(p))
        line = torch.linspace(-12, 12, 601)
        log = prior.log_prob(torch.cartesian_prod(line, line)).double()
        cell = float(line[1] - line[0]) ** 2
        assert float(log.exp().sum()) * cell == pytest.approx(1, abs=2e-3)
        found = prior.log_prob(prior.sample(20_000, generator=torch.Generator().manual_seed(0)))
    mass = log.exp() * cell
    exact = float((mass * log).sum())
    spread = math.sqrt(float((mass * (log - exact).square()).sum()))  # of the density's own, not of what was drawn
    assert float(found.mean()) == pytest.approx(exact, abs=4 * spread / math.sqrt(20_000))
    with pytest.raises(ValueError, match="at least 2"):
        priors.FlowPrior(dim=1)


def test_log_densities_are_normalised_in_one_dimension() -> None:
    z = torch.linspace(-9, 9, 18001)[:, None]
    for prior in (priors.Normal(dim=1), priors.Uniform(dim=1)):
        assert torch.trapezoid(prior.log_prob(z).exp(), z[:, 0]).item() == pytest.approx(1, abs=1e-3)
    assert math.isinf(priors.Uniform(dim=1).log_prob(torch.tensor([[1.5]])).item())
