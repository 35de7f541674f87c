"""Chains on energies against the laws that they should have."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from pushforward.randomness import SampleStream
from pushforward.samplers.langevin import settled, slope, walk_hmc, walk_langevin, walk_mala

N = 4000


def gaussian(x: Tensor) -> Tensor:
    return x.square().sum(dim=1) / 2


def stream() -> SampleStream:
    return SampleStream(0, torch.arange(N))


@pytest.mark.parametrize("step_size", [0.5, 1.0, 2.0])
def test_langevins_bias_is_the_one_that_theory_states(step_size: float) -> None:
    """On E = x^2 / 2 the chain is x' = (1 - eta / 2) x + sqrt(eta) xi, whose variance is 1 / (1 - eta / 4): too wide, and less so with smaller steps."""
    x = settled(walk_langevin(gaussian, torch.zeros(N, 2), steps=80, step_size=step_size, generator=stream())).x
    variance = 1 / (1 - step_size / 4)
    assert stats.kstest(x.flatten().numpy() / math.sqrt(variance), "norm").pvalue > 1e-3
    assert stats.kstest(x.flatten().numpy(), "norm").pvalue < 1e-3 or step_size < 0.6


def test_temperature_and_noise_set_the_width() -> None:
    warm = settled(
        walk_langevin(gaussian, torch.zeros(N, 2), steps=150, step_size=0.1, temperature=4.0, generator=stream())
    )
    assert float(warm.x.var()) == pytest.approx(4 / (1 - 0.1 / 4), rel=0.05)
    set_apart = walk_langevin(gaussian, torch.zeros(N, 2), steps=150, step_size=0.1, noise=0.2, generator=stream())
    assert float(settled(set_apart).x.var()) == pytest.approx(0.4 / (1 - 0.1 / 4), rel=0.05)  # T = .2^2 / .1
    cold = settled(walk_langevin(gaussian, torch.ones(N, 2), steps=1, step_size=0.1, temperature=0.0))
    torch.testing.assert_close(cold.x, torch.full((N, 2), 0.95))


def test_clip_and_bounds() -> None:
    x = torch.tensor([[10.0, 0.1]])
    found = settled(walk_langevin(gaussian, x, steps=1, step_size=1.0, temperature=0.0, clip=0.5))
    torch.testing.assert_close(found.x, torch.tensor([[9.75, 0.05]]))
    assert found.energy is None  # it is not known where the chain stands
    found = settled(walk_langevin(gaussian, x, steps=1, step_size=1.0, temperature=0.0, bounds=(-1, 1)))
    torch.testing.assert_close(found.x, torch.tensor([[1.0, 0.05]]))


def mixture(x: Tensor) -> Tensor:
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.5]], dtype=x.dtype)
    return -torch.logsumexp(-(x[:, None] - means).square().sum(dim=2) / (2 * 0.5**2), dim=1)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("walk", ["mala", "hmc"])
def test_corrected_chains_have_the_exact_law_even_with_long_steps(walk: str, temperature: float) -> None:
    scaled = lambda x: temperature * gaussian(x)  # noqa: E731  whose law at that temperature is N(0, I)
    options = {"generator": stream(), "temperature": temperature}
    if walk == "mala":
        steps = walk_mala(scaled, torch.zeros(N, 2), steps=60, step_size=1.8 / temperature, **options)  # type: ignore[arg-type]
    else:
        steps = walk_hmc(scaled, torch.zeros(N, 2), steps=25, step_size=0.9, leaps=3, **options)  # type: ignore[arg-type]
    end = settled(steps)
    assert stats.kstest(end.x.flatten().numpy(), "norm").pvalue > 1e-3
    assert 0.5 < end.acceptance < 0.98
    assert end.energy is not None
    torch.testing.assert_close(end.energy, scaled(end.x))


@pytest.mark.parametrize("walk", ["mala", "hmc"])
def test_corrected_chains_cross_between_modes_as_often_as_they_should(walk: str) -> None:
    """Begun in one mode of two equal ones, half of the chains end in the other."""
    x = torch.tensor([[-1.0, 0.0]]).expand(N, 2)
    options = {"generator": stream(), "temperature": 1.0}
    end = settled(
        walk_mala(mixture, x, steps=120, step_size=0.4, **options)  # type: ignore[arg-type]
        if walk == "mala"
        else walk_hmc(mixture, x, steps=60, step_size=0.3, leaps=3, **options)  # type: ignore[arg-type]
    )
    middle = end.x @ torch.tensor([2.0, 0.5]) - 0.125  # the plane between the means
    share = float((middle > 0).double().mean())
    assert share == pytest.approx(0.5, abs=0.03)
    means = torch.where(middle[:, None] > 0, torch.tensor([1.0, 0.5]), torch.tensor([-1.0, 0.0]))
    assert float((end.x - means)[:, 1].var()) == pytest.approx(0.25, rel=0.08)


def uneven(x: Tensor) -> Tensor:
    """.7 N(-1.2, .6^2) + .3 N(1.2, .6^2), up to a constant."""
    logs = torch.stack([math.log(w) - (x[:, 0] - m).square() / (2 * 0.6**2) for w, m in ((0.7, -1.2), (0.3, 1.2))])
    return -logs.logsumexp(0)


def laws_on_a_grid(step_size: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A grid, the law exp(-E) on it, and that which x - eta E' / 2 + sqrt(eta) xi leaves as it is, by the chain's own transition matrix."""
    x = np.linspace(-6, 6, 601)
    parts = [w * stats.norm.pdf(x, m, 0.6) for w, m in ((0.7, -1.2), (0.3, 1.2))]
    law = sum(parts)
    slopes = (parts[0] * (x + 1.2) + parts[1] * (x - 1.2)) / (law * 0.6**2)
    moves = stats.norm.pdf(x[:, None], (x - step_size * slopes / 2)[None], math.sqrt(step_size))
    moves /= moves.sum(axis=0)
    kept = law / law.sum()
    for _ in range(2000):
        kept = moves @ kept
    return x, law / law.sum(), kept


def test_langevins_bias_on_a_mixture_is_its_own_and_shrinks_with_the_step() -> None:
    biases = []
    for step_size in (0.3, 0.15, 0.075):
        x, law, kept = laws_on_a_grid(step_size)
        biases.append((kept * x**4).sum() - (law * x**4).sum())
        start = torch.where(torch.arange(N) % 10 < 7, -1.2, 1.2)[:, None]
        end = settled(walk_langevin(uneven, start, steps=200, step_size=step_size, generator=stream())).x.double()
        for power in (1, 2, 4):
            found = end**power
            error = float(found.std()) / math.sqrt(N)
            assert float(found.mean()) == pytest.approx((kept * x**power).sum(), abs=4 * error)
        own, exact = (
            stats.kstest(end[:, 0].numpy(), lambda v, x=x, p=p: np.interp(v, x, p.cumsum())) for p in (kept, law)
        )
        assert own.pvalue > 1e-3
        assert exact.pvalue < 1e-4 or step_size < 0.3
    assert biases[1] / biases[0] == pytest.approx(0.5, abs=0.1)
    assert biases[2] / biases[1] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("walk", ["mala", "hmc"])
def test_corrected_chains_have_the_moments_of_a_mixture(walk: str) -> None:
    start = torch.full((N, 1), -1.2)
    steps = (
        walk_mala(uneven, start, steps=150, step_size=0.6, generator=stream())
        if walk == "mala"
        else walk_hmc(uneven, start, steps=60, step_size=0.5, leaps=4, generator=stream())
    )
    end = settled(steps).x.double()
    variance = 0.6**2 + 1.2**2 * (1 - 0.4**2)
    assert float(end.mean()) == pytest.approx(-0.4 * 1.2, abs=4 * math.sqrt(variance / N))
    assert float(end.square().mean()) == pytest.approx(
        0.6**2 + 1.2**2, abs=4 * float(end.square().std()) / math.sqrt(N)
    )


def test_a_correction_with_the_wrong_sign_would_be_seen() -> None:
    """At a step of 1.8 uncorrected Langevin is far off: the tests above can fail."""
    x = settled(walk_langevin(gaussian, torch.zeros(N, 2), steps=60, step_size=1.8, generator=stream())).x
    assert stats.kstest(x.flatten().numpy(), "norm").pvalue < 1e-6


def test_no_gradient_is_left_behind() -> None:
    net = torch.nn.Linear(2, 1)
    values, gradient = slope(lambda x: net(x).squeeze(1), torch.randn(3, 2))
    assert not values.requires_grad
    assert not gradient.requires_grad
    assert net.weight.grad is None
    for walk in (walk_langevin, walk_mala, walk_hmc):
        end = settled(walk(lambda x: net(x).squeeze(1), torch.randn(3, 2), steps=2, step_size=0.1))
        assert not end.x.requires_grad
        assert net.weight.grad is None


def test_a_chain_is_the_same_in_any_batch() -> None:
    def run(index: list[int]) -> Tensor:
        s = SampleStream(4, torch.tensor(index))
        return settled(walk_mala(mixture, torch.zeros(len(index), 2), steps=20, step_size=0.5, generator=s)).x

    assert torch.equal(run([0, 1, 2, 3])[2], run([2])[0])
