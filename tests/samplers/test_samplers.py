"""Samplers against densities that are known: the law of what they give is the law they promise."""

from __future__ import annotations

import math

import pytest
import torch
from oracles import AffineGenerator, LinearCritic
from scipy import integrate, stats
from torch import Tensor

from pushforward.build import build_model, resolve
from pushforward.build.gan import draw_with
from pushforward.config import load_recipe
from pushforward.errors import NotSupported
from pushforward.families.gan import losses, sampling
from pushforward.families.gan.model import GAN
from pushforward.model import Batch
from pushforward.networks.mlp import MLPDiscriminator, MLPGenerator
from pushforward.priors import Normal, Uniform
from pushforward.randomness import SampleStream
from pushforward.samplers.langevin import sample_langevin
from pushforward.samplers.metropolis import metropolis_hastings
from pushforward.samplers.rejection import acceptance_logit, best_of, calibrate, rejection

TARGET, MODEL = stats.norm(0.5, 0.6), stats.norm(0.0, 1.0)


def propose(stream: SampleStream) -> tuple[Tensor, Tensor]:
    """Standard normals with the true log ratio to N(1/2, 0.6^2), which is bounded."""
    x = stream.normal((len(stream), 1))
    ratio = torch.from_numpy(TARGET.logpdf(x[:, 0].numpy()) - MODEL.logpdf(x[:, 0].numpy())).float()
    return x, ratio


def test_rejection_with_the_true_ratio_gives_the_target() -> None:
    found = rejection(propose, 4000, percentile=None, gamma=0.0, burn_in=20_000)
    assert stats.kstest(found.x[:, 0].numpy(), TARGET.cdf).pvalue > 0.01
    largest = math.log(1 / 0.6) + 0.5**2 / (2 * (1 - 0.6**2))  # of the log ratio, at x = 0.5 / (1 - 0.36)
    assert found.acceptance == pytest.approx(math.exp(-largest), rel=0.06)
    assert found.cost == pytest.approx(found.proposals / 4000)


def test_a_larger_gamma_keeps_fewer() -> None:
    rates = [rejection(propose, 500, percentile=None, gamma=g, burn_in=5000).acceptance for g in (-2.0, 0.0, 2.0)]
    assert rates[0] > rates[1] > rates[2]
    by_percentile = rejection(propose, 500, percentile=95, burn_in=5000).acceptance
    assert by_percentile < rates[1]


@pytest.mark.parametrize("percentile", [50.0, 80.0, 95.0])
def test_the_percentile_sets_gamma(percentile: float) -> None:
    """Log ratios log u, u uniform up to the largest, 0, have F = log u - log(1 - u): its percentile p is the logit of p."""

    def uniform(stream: SampleStream) -> tuple[Tensor, Tensor]:
        u = stream.uniform((len(stream), 1)).clamp(min=1e-6)
        return u, torch.where(stream.index == 0, 0.0, u[:, 0].double().log())

    found = rejection(uniform, 3000, percentile=percentile, burn_in=1000, batch=2000)
    q = percentile / 100
    kept, _ = integrate.quad(lambda u: u * (1 - q) / (u * (1 - q) + q * (1 - u)), 0, 1)
    assert found.acceptance == pytest.approx(kept, rel=4 / math.sqrt(3000) + 0.03)


def test_drs_takes_a_gamma_of_0_for_exact_rejection() -> None:
    model = GAN(
        generator=AffineGenerator(2.0, 1.0),
        discriminator=LinearCritic(torch.ones(4)),
        prior=Normal(dim=4),
        objective=losses.non_saturating(),
    )

    def alike(x: Tensor) -> Tensor:  # data and model are one: all are kept
        return torch.zeros(len(x))

    assert sampling.drs(model, 100, alike, gamma=0.0, burn_in=500).acceptance == 1.0
    fewer = sampling.drs(model, 100, alike, gamma=19.0, burn_in=500).acceptance  # F is -log epsilon = 18.4
    assert 0.1 < fewer < 0.6
    assert sampling.drs(model, 100, alike, burn_in=500).acceptance == pytest.approx(0.5, abs=0.2)

    def uneven(x: Tensor) -> Tensor:
        return x.sum(dim=1)

    usual, said, milder = (
        sampling.drs(model, 100, uneven, burn_in=500, **o).x for o in ({}, {"percentile": 95.0}, {"percentile": 50.0})
    )  # type: ignore[arg-type]
    assert torch.equal(usual, said) and not torch.equal(usual, milder)  # the paper's own where nothing is said


def test_acceptance_by_hand() -> None:
    """At D = D*_M - log 2, gamma 0, epsilon 0: F = -log 2 - log(1/2) = 0, kept with probability 1/2."""
    f = acceptance_logit(torch.tensor([3.0 - math.log(2)]), 3.0, gamma=0.0, epsilon=0.0)
    assert f.item() == pytest.approx(0.0, abs=1e-6)
    assert acceptance_logit(torch.tensor([3.0]), 3.0, gamma=0.0, epsilon=1e-6).item() > 10


def test_rejection_gives_up_in_words() -> None:
    def hopeless(stream: SampleStream) -> tuple[Tensor, Tensor]:
        x = torch.zeros(len(stream), 1)
        return x, torch.where(stream.index == 0, 0.0, -200.0)

    with pytest.raises(ValueError, match="a few huge values"):
        rejection(hopeless, 100, percentile=None, burn_in=500, budget=20)


def test_rejection_does_not_depend_on_how_many_are_wanted() -> None:
    few, many = (rejection(propose, n, burn_in=1000).x for n in (50, 300))
    assert torch.equal(few, many[:50])


def test_metropolis_with_the_true_ratio_gives_the_target() -> None:
    found = metropolis_hastings(propose, 4000, steps=60)
    assert stats.kstest(found.x[:, 0].numpy(), TARGET.cdf).pvalue > 0.01
    assert 0.3 < found.acceptance < 0.9


def test_metropolis_never_gives_data_back() -> None:
    """Chains begun at data of an unreachable ratio end at their best proposal."""
    start = torch.full((200,), 50.0)
    found = metropolis_hastings(propose, 200, steps=30, start=start)
    assert found.acceptance == 0.0
    assert float(found.x.mean()) == pytest.approx(0.5 / (1 - 0.36), abs=0.2)  # where the ratio is largest


def test_best_of_raises_the_ratio() -> None:
    one, eight = (propose_mean(best_of(propose, 2000, candidates=k).x) for k in (1, 8))
    assert eight > one + 0.3


def propose_mean(x: Tensor) -> float:
    return float((TARGET.logpdf(x[:, 0].numpy()) - MODEL.logpdf(x[:, 0].numpy())).mean())


def test_calibration_finds_the_ratio_behind_a_distorted_logit() -> None:
    """Data N(1, 1), samples N(-1, 1): the log ratio is 2 x. From the logit 7 x - 3 it is 2/7 of it plus 6/7."""
    g = torch.Generator().manual_seed(0)
    real, fake = torch.randn(40_000, generator=g) + 1, torch.randn(20_000, generator=g) - 1
    found = calibrate(7 * real - 3, 7 * fake - 3)
    assert found.scale == pytest.approx(2 / 7, rel=0.03)
    assert found.offset == pytest.approx(6 / 7, abs=0.05)
    with pytest.raises(ValueError, match="separate"):
        calibrate(torch.tensor([1.0, 2.0]), torch.tensor([-1.0, 0.0]))


def test_langevin_reaches_a_gaussian_with_its_known_bias() -> None:
    """Unadjusted Langevin on x^2 / 2 is an AR(1): variance 1 / (1 - eta / 4)."""
    eta, n = 0.2, 20_000
    x = sample_langevin(
        lambda x: x.square().sum(1) / 2,
        torch.full((n, 1), 3.0),
        steps=80,
        step_size=eta,
        generator=torch.Generator().manual_seed(0),
    )
    want = 1 / (1 - eta / 4)
    assert float(x.mean()) == pytest.approx(3.0 * (1 - eta / 2) ** 80, abs=4 * math.sqrt(want / n))
    assert float(x.var()) == pytest.approx(want, rel=4 * math.sqrt(2 / n))


def gan(objective: losses.Objective, prior: Normal | Uniform | None = None) -> GAN:
    torch.manual_seed(0)
    return GAN(
        generator=MLPGenerator(latent=3, shape=(2,), hidden=(8,), output="identity"),
        discriminator=MLPDiscriminator(shape=(2,), hidden=(8,)),
        prior=prior or Normal(dim=3),
        objective=objective,
    )


@pytest.mark.parametrize("name", sampling.SAMPLERS)
def test_samplers_wrap_any_pair(name: str) -> None:
    model = gan(losses.non_saturating())
    ratio = sampling.log_ratio(model)
    first, again = (sampling.SAMPLERS[name](model, 60, ratio, seed=3) for _ in range(2))
    assert first.x.shape == (60, 2)
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, sampling.SAMPLERS[name](model, 60, ratio, seed=4).x)
    assert first.proposals >= 60 and 0 < first.acceptance <= 1
    assert model.training


def test_uncalibrated_logits_are_refused_or_calibrated() -> None:
    model = gan(losses.wasserstein())
    with pytest.raises(NotSupported, match="no density ratio"):
        sampling.log_ratio(model)
    with pytest.raises(NotSupported, match="calibrated logit"):
        sampling.ddls(model, 5, lambda x: x)
    real = torch.randn(500, 2, generator=torch.Generator().manual_seed(1))
    assert sampling.log_ratio(model, real=real)(real).shape == (500,)


def test_ddls_refuses_walls_and_truncation_other_priors() -> None:
    model = gan(losses.non_saturating(), Uniform(dim=3))
    with pytest.raises(NotSupported, match="walls"):
        sampling.ddls(model, 5, lambda x: x)
    with pytest.raises(NotSupported, match="standard normal"):
        sampling.truncated(model, 5, lambda x: x)


def test_truncated_latents_follow_the_truncated_normal(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = gan(losses.non_saturating()), []
    monkeypatch.setattr(model, "decode", lambda z, labels=None: seen.append(z) or z)
    sampling.truncated(model, 2000, lambda x: x, limit=0.8)
    z = torch.cat(seen).flatten().numpy()
    assert stats.kstest(z, stats.truncnorm(-0.8, 0.8).cdf).pvalue > 0.01


def test_truncation_draws_the_class_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolve(load_recipe("gan/dcgan-conditional", data="mnist-5k"))
    model, seen = build_model(config, (1, 28, 28)), []
    monkeypatch.setattr(model, "decode", lambda z, labels: seen.append(labels) or z)
    draw_with("truncated", model, 600, [], label=7)
    assert torch.cat(seen).tolist() == [7] * 600
    seen.clear()
    draw_with("truncated", model, 600, [])
    assert torch.cat(seen).unique().tolist() == list(range(10))
    with pytest.raises(NotSupported, match="classes 0 to 9"):
        draw_with("truncated", model, 5, [], label=10)
    with pytest.raises(NotSupported, match="without labels"):
        draw_with("truncated", gan(losses.non_saturating()), 5, [], label=0)
    with pytest.raises(NotSupported, match="--label is for truncated"):
        draw_with("ddls", model, 5, [], label=3)


def test_ddls_lowers_the_energy() -> None:
    model = gan(losses.non_saturating())
    with torch.no_grad():
        model.discriminator.head.weight.mul_(20)
    ratio = sampling.log_ratio(model)
    plain = model.sample(500, generator=SampleStream(0, torch.arange(500)))
    walked = sampling.ddls(model, 500, ratio, steps=100, step_size=0.05)
    assert float(ratio(walked.x).mean()) > float(ratio(plain).mean()) + 0.1


def test_ddls_walks_to_the_prior_tilted_by_the_discriminator() -> None:
    """G(z) = z and D(x) = w.x: p(z) is proportional to N(z; 0, I) e^(w.z), a normal about w with the prior's variance."""
    w = torch.tensor([1.0, -0.5])
    model = GAN(
        generator=AffineGenerator(),
        discriminator=LinearCritic(w),
        prior=Normal(dim=2),
        objective=losses.non_saturating(),
    )
    x = sampling.ddls(model, 4000, lambda x: x, steps=150, step_size=0.05).x
    assert (x.mean(dim=0) - w).abs().max() < 5 / math.sqrt(4000)
    assert (x.var(dim=0) - 1).abs().max() < 0.03 + 5 * math.sqrt(2 / 4000)  # and the step's own bias


def test_rejection_learns_of_a_larger_ratio_late() -> None:
    """The burn-in saw ratios of 1 alone; one proposal in a hundred later has 20, and shall be kept 20 times as often."""

    def propose(stream: SampleStream) -> tuple[Tensor, Tensor]:
        late = (stream.index >= 500) & (stream.index % 100 == 0)
        return late[:, None].float(), torch.where(late, math.log(20.0), 0.0)

    found = rejection(propose, 2000, percentile=None, gamma=0.0, burn_in=500)
    share, want = float(found.x.mean()), 20 / (20 + 99)
    assert share == pytest.approx(want, abs=5 * math.sqrt(want / 2000))


def test_keep_training_leaves_batch_norm_settled() -> None:
    model = GAN(
        generator=MLPGenerator(latent=3, shape=(2,), hidden=(8, 8), norm="batch", output="identity"),
        discriminator=MLPDiscriminator(shape=(2,), hidden=(8,)),
        prior=Normal(dim=3),
        objective=losses.non_saturating(),
    )
    model.settle()
    before = {k: v.clone() for k, v in model.generator.state_dict().items()}
    assert any("running_mean" in k for k in before)
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0)) + 3
    batches = [Batch(x, None, k, SampleStream(k, torch.arange(64))) for k in range(5)]
    sampling.keep_training(model, torch.optim.SGD(model.discriminator.parameters(), lr=0.1), batches)
    assert all(torch.equal(v, before[k]) for k, v in model.generator.state_dict().items())


def test_keep_training_moves_the_discriminator_alone() -> None:
    model = gan(losses.non_saturating())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0)) + 3
    batches = [Batch(x, None, k, SampleStream(k, torch.arange(64))) for k in range(50)]
    sampling.keep_training(model, torch.optim.SGD(model.discriminator.parameters(), lr=0.1), batches)
    changed = {k.split(".")[0] for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"discriminator"}
    fakes = model.sample(200, generator=SampleStream(9, torch.arange(200)))
    assert float(sampling.logits_of(model, x).mean()) > float(sampling.logits_of(model, fakes).mean())


def test_a_logit_that_is_higher_on_fakes_is_no_ratio() -> None:
    g = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match="no higher"):
        calibrate(torch.randn(500, generator=g) - 1, torch.randn(500, generator=g) + 1)
