"""log Z by annealed importance sampling, where it is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from pushforward.data.toy import Mixture
from pushforward.samplers.annealed import annealed_log_z


def base(d: int, sd: float) -> Independent:
    return Independent(Normal(torch.zeros(d), sd * torch.ones(d)), 1)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_gaussians(temperature: float) -> None:
    d, sd = 5, 0.5

    def energy(x: Tensor) -> Tensor:
        return (x / sd).square().sum(dim=1) / 2 + 3.0

    exact = d * math.log(sd * math.sqrt(2 * math.pi * temperature)) - 3.0 / temperature
    found = annealed_log_z(
        energy,
        base(d, 2.0),
        400,
        levels=60,
        step_size=0.3,
        temperature=temperature,
        generator=torch.Generator().manual_seed(0),
    )
    assert found.low <= found.value <= found.high
    assert found.value == pytest.approx(exact, abs=0.15)
    assert found.low - 0.1 < exact < found.high + 0.1
    assert found.effective > 40
    assert found.acceptance > 0.5


def test_the_interval_covers_as_often_as_it_says() -> None:
    """A bootstrap interval of 95 % around a mean of weights that are known: over 60 seeds at least 48 cover, and not because it is endless."""
    covered, wide = 0, []
    for seed in range(60):
        found = annealed_log_z(
            lambda x: (x / 0.5).square().sum(dim=1) / 2,
            base(2, 1.0),
            200,
            levels=4,
            step_size=0.4,
            leaps=2,
            generator=torch.Generator().manual_seed(seed),
        )
        covered += found.low < 2 * math.log(0.5 * math.sqrt(2 * math.pi)) < found.high
        wide.append(found.high - found.low)
    assert covered >= 48
    assert max(wide) < 0.6


def test_a_mixtures_which_plain_importance_sampling_misses() -> None:
    mixture = Mixture([[-2.0, 0.0], [2.0, 1.0], [0.0, 2.5]], sd=0.15)
    found = annealed_log_z(
        lambda x: 7.0 - mixture.log_prob(x),
        base(2, 2.0),
        500,
        levels=150,
        step_size=0.1,
        generator=torch.Generator().manual_seed(1),
    )
    assert found.value == pytest.approx(-7.0, abs=0.15)
    one_step = annealed_log_z(
        lambda x: 7.0 - mixture.log_prob(x), base(2, 2.0), 500, levels=1, generator=torch.Generator().manual_seed(1)
    )
    assert one_step.effective < found.effective / 3


def test_the_mean_of_weights_is_unbiased() -> None:
    """Many estimates of Z of few chains, whose mean must be Z: what the definition of the weights promises."""

    def energy(x: Tensor) -> Tensor:
        return 2 * x.square().sum(dim=1)

    found = annealed_log_z(
        energy, base(1, 1.0), 4000, levels=3, step_size=0.4, generator=torch.Generator().manual_seed(2)
    )
    z = found.log_weights.exp()
    exact = math.sqrt(math.pi / 2)
    assert float(z.mean()) == pytest.approx(exact, abs=4 * float(z.std()) / math.sqrt(4000))
    assert float(z.std()) / exact > 0.02  # the bound above says something


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        annealed_log_z(lambda x: x.sum(1), base(1, 1.0), 1)
