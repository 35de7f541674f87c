"""The rest of the GAN family against closed forms: penalties, consistency, look ahead, packing, labels, priors, views."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import check_resumes_bit_equal, check_sampling_is_addressed
from oracles import AffineGenerator, LinearCritic, QuadraticCritic
from torch import Tensor, nn
from torch.func import functional_call

from pushforward import build
from pushforward.config import RunConfig, load_recipe
from pushforward.data.batches import Batches, ImageBatches
from pushforward.data.images import ImageSet
from pushforward.errors import ConfigError, NotSupported
from pushforward.families.gan import augment, losses, terms
from pushforward.families.gan import model as gan_model
from pushforward.families.gan.augment import Look, View
from pushforward.families.gan.context import Context
from pushforward.families.gan.model import GAN
from pushforward.families.gan.sampling import SAMPLERS
from pushforward.families.gan.terms import Term
from pushforward.families.gan.unroll import adam, descent, unrolled
from pushforward.model import Batch
from pushforward.networks.mlp import MLPDiscriminator, MLPGenerator
from pushforward.networks.wrappers import Packed, Projection
from pushforward.priors import GaussianMixture, Normal
from pushforward.randomness import SampleStream
from pushforward.training.optimisers import sgd
from pushforward.training.trainer import Trainer


def term(name: str, weight: float = 1.0, **options: object) -> Term:
    entry = build.gan.TERMS[name]
    return Term(name, entry.function, entry.player, weight, 1, dict(options), entry.needs)


def gan(critic: nn.Module, objective: losses.Objective | None = None, **options) -> GAN:
    return GAN(
        generator=AffineGenerator(2.0, 1.0),
        discriminator=critic,
        prior=options.pop("prior", Normal(dim=4)),
        objective=objective or losses.non_saturating(),
        **options,
    )


def batch(n: int, d: int = 4, step: int = 0) -> Batch:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(2))
    return Batch(x, None, step, SampleStream(1, torch.arange(n)))


W = torch.tensor([3.0, 0.0, 4.0, 0.0])


# --- penalties ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 64])
def test_roth_on_a_linear_critic(n: int) -> None:
    """|grad D| = 5 everywhere, so each sample has 25 ((1 - p(x))^2 + p(G(z))^2)."""
    model = gan(LinearCritic(W / 10, 0.3), terms=(term("roth"),))
    fake = Context(model, batch(n), "discriminator").fake
    found = model.discriminator_loss(batch(n))["roth"]
    real_p, fake_p = (torch.sigmoid(t @ (W / 10) + 0.3) for t in (batch(n).x, fake))
    torch.testing.assert_close(found, 0.25 * ((1 - real_p) ** 2 + fake_p**2))


@pytest.mark.parametrize("n", [1, 64])
def test_roth_on_a_quadratic_critic(n: int) -> None:
    """The slope of |x|^2 / 2 is x itself."""
    model = gan(QuadraticCritic(), terms=(term("roth"),))
    fake = Context(model, batch(n), "discriminator").fake
    found = model.discriminator_loss(batch(n))["roth"]
    real, made = batch(n).x.square().sum(1), fake.square().sum(1)
    torch.testing.assert_close(found, (1 - torch.sigmoid(real / 2)) ** 2 * real + torch.sigmoid(made / 2) ** 2 * made)


def test_a_misspelt_key_of_a_term_is_told_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'model.terms.0.weigth': .*weight"):
        build.resolve(load_recipe("gan/vanilla", ['model.terms=[{name="r1", weigth=3}]']))
    with pytest.raises(ConfigError, match=r"unknown key 'model.terms.0.sdd': .*sd"):
        build.resolve(load_recipe("gan/vanilla", ['model.terms=[{name="dragan", sdd=3}]']))


@pytest.mark.parametrize("name", ["r1", "r2", "roth", "dragan", "interpolate-penalty"])
def test_penalties_are_in_float32_outside_autocast(name: str) -> None:
    torch.manual_seed(0)
    model = gan(
        nn.Sequential(nn.Linear(4, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1), nn.Flatten(0)), terms=(term(name),)
    )
    plain = model.discriminator_loss(batch(64))[name]
    with torch.autocast("cpu", torch.bfloat16):
        found = model.discriminator_loss(batch(64))
    assert found[name].dtype == torch.float32
    # Roth's weights p are those of the logits at hand, which bfloat16 rounds; slopes are not rounded
    torch.testing.assert_close(found[name], plain, rtol=0.02 if name == "roth" else 1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["r1", "r2", "roth", "dragan", "interpolate-penalty"])
def test_penalties_train_the_discriminator(name: str) -> None:
    """Their gradient in the weights against differences, and the same under autocast: a penalty that is a constant trains nothing."""
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1), nn.Flatten(0))
    model = gan(critic, terms=(term(name),))
    way = [torch.randn_like(p) for p in critic.parameters()]

    def value(at: float) -> float:
        with torch.no_grad():
            for p, w in zip(critic.parameters(), way, strict=True):
                p.add_(at * w)
        found = float(model.discriminator_loss(batch(64))[name].detach().double().mean())
        with torch.no_grad():
            for p, w in zip(critic.parameters(), way, strict=True):
                p.sub_(at * w)
        return found

    exact = (8 * (value(0.005) - value(-0.005)) - (value(0.01) - value(-0.01))) / (12 * 0.005)
    assert abs(exact) > 0.05
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            found = model.discriminator_loss(batch(64))[name].mean()
        slopes = torch.autograd.grad(found, [*critic.parameters()], allow_unused=True)
        along = sum(float((s * w).sum()) for s, w in zip(slopes, way, strict=True) if s is not None)
        assert along == pytest.approx(exact, rel=0.05 if half else 5e-3)


@pytest.mark.parametrize("n", [1, 64])
def test_dragan(n: int) -> None:
    """On a linear critic (5 - 1)^2; on |x|^2 / 2 the slope is the noisy point itself, so without noise (|x| - 1)^2."""
    found = gan(LinearCritic(W), terms=(term("dragan"),)).discriminator_loss(batch(n))["dragan"]
    torch.testing.assert_close(found, torch.full((n,), 16.0))
    still = gan(QuadraticCritic(), terms=(term("dragan", sd=0.0),)).discriminator_loss(batch(n))["dragan"]
    torch.testing.assert_close(still, (batch(n).x.norm(dim=1) - 1) ** 2, rtol=1e-4, atol=1e-5)
    noisy = gan(QuadraticCritic(), terms=(term("dragan", sd=0.5),)).discriminator_loss(batch(n))["dragan"]
    assert not torch.allclose(noisy, still)


def test_dragan_noise_has_its_spread() -> None:
    """With data at 0 and D = |x|^2 / 2 the slope is the noise: (|slope| - 0)^2 has mean d sd^2."""
    n, d, sd = 4000, 6, 0.5
    still = Batch(torch.zeros(n, d), None, 0, SampleStream(1, torch.arange(n)))
    model = gan(QuadraticCritic(), terms=(term("dragan", sd=sd, target=0.0),), prior=Normal(dim=d))
    found = model.discriminator_loss(still)["dragan"]
    assert float(found.mean()) == pytest.approx(d * sd**2, abs=4 * sd**2 * math.sqrt(2 * d / n))


@pytest.mark.parametrize("n", [1, 64])
def test_data_anchor_is_the_squared_distance(n: int) -> None:
    model = gan(LinearCritic(W), terms=(term("data-anchor"),))
    made = Context(model, batch(n), "generator").fake
    found = model.generator_loss(batch(n))["data-anchor"]
    torch.testing.assert_close(found, (made - batch(n).x).square().sum(1))
    found.mean().backward()
    assert model.generator.b.grad is not None  # type: ignore[union-attr]


# --- consistency ----------------------------------------------------------------------------------------------


class PixelSum(nn.Module):
    """D(x) = the mean of a fixed row of pixels, which a shift changes."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x[:, 0, 3].mean(dim=1)


class Picture(nn.Module):
    """G(z) = z as an image."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, z: Tensor) -> Tensor:
        return self.scale * z.reshape(-1, 1, 8, 8)


def picture_gan(*names: Term) -> GAN:
    return GAN(
        generator=Picture(),
        discriminator=PixelSum(),
        prior=Normal(dim=64),
        objective=losses.least_squares(),
        terms=names,
    )


def picture_batch(n: int = 16) -> Batch:
    x = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    return Batch(x, None, 0, SampleStream(3, torch.arange(n)))


def test_consistency_on_data_by_hand() -> None:
    model = picture_gan(term("consistency-real"))
    found = model.discriminator_loss(picture_batch())["consistency-real"]
    own = SampleStream(3, torch.arange(16))
    own.normal((16, 64))  # the latents come first
    moved = augment.translation(picture_batch().x, own)
    d = model.discriminator
    want = (d(picture_batch().x) - d(moved)) ** 2
    torch.testing.assert_close(found, want)
    slopes = [torch.autograd.grad(v.sum(), d.scale)[0] for v in (found, want)]  # both logits move
    torch.testing.assert_close(*slopes)
    assert float(found.detach().min()) >= 0 and float(found.detach().max()) > 0


def test_consistency_on_fakes_moves_only_the_discriminator() -> None:
    model = picture_gan(term("consistency-fake"))
    model.discriminator_loss(picture_batch())["consistency-fake"].mean().backward()
    assert model.generator.scale.grad is None  # type: ignore[union-attr]
    assert model.discriminator.scale.grad is not None  # type: ignore[union-attr]


def test_consistency_on_fakes_by_hand() -> None:
    model = picture_gan(term("consistency-fake"))
    found = model.discriminator_loss(picture_batch())["consistency-fake"]
    own = SampleStream(3, torch.arange(16))
    fake = model.generator(own.normal((16, 64))).detach()
    moved = augment.translation(fake, own)
    want = (model.discriminator(fake) - model.discriminator(moved)) ** 2
    torch.testing.assert_close(found, want)
    slopes = [torch.autograd.grad(v.sum(), model.discriminator.scale)[0] for v in (found, want)]  # type: ignore[arg-type]
    torch.testing.assert_close(*slopes)
    assert float(found.detach().max()) > 0


def test_latent_terms_by_hand() -> None:
    """G(z) = a z and linear D: D(G(z)) - D(G(z + dz)) = -a w.dz; the mean of (G(z) - G(z + dz))^2 is a^2 sd^2."""
    latent_terms_by_hand()


@pytest.mark.parametrize("options", [{"unroll_steps": 1}, {"share_fakes": True}], ids=str)
def test_latent_terms_know_the_latents_of_the_fakes_they_are_given(options: dict) -> None:
    latent_terms_by_hand(**options)


def latent_terms_by_hand(**options: Any) -> None:
    n, sd = 4000, 0.1
    model = gan(LinearCritic(W), terms=(term("latent-consistency", sd=sd), term("latent-diversity", sd=sd)), **options)
    pulled = model.discriminator_loss(batch(n))["latent-consistency"]
    expected = 2.0**2 * 25 * sd**2
    assert float(pulled.detach().mean()) == pytest.approx(expected, abs=4 * expected * math.sqrt(2 / n))
    (slope,) = torch.autograd.grad(pulled.sum(), model.discriminator.w)  # type: ignore[arg-type]
    # Both logits move: of second degree in w, so that by Euler w . slope is twice the sum.
    assert float((slope * W).sum()) == pytest.approx(2 * float(pulled.detach().sum()), rel=1e-4)
    other = Batch(batch(n).x, None, 0, SampleStream(2, torch.arange(n)))  # of the generator's move: other draws
    pushed = model.generator_loss(other)["latent-diversity"]
    expected = 2.0**2 * sd**2
    assert float(pushed.detach().mean()) == pytest.approx(-expected, abs=4 * expected * math.sqrt(2 / (4 * n)))
    pushed.mean().backward()
    # d/da of -a^2 sd^2 is -2 a sd^2
    assert model.generator.a.grad.item() == pytest.approx(-2 * 2 * sd**2, rel=0.1)  # type: ignore[union-attr]


# --- LeCam ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 64])
def test_drift_is_the_squared_logit_of_data(n: int) -> None:
    found = gan(LinearCritic(W, 0.5), terms=(term("drift"),)).discriminator_loss(batch(n))["drift"]
    torch.testing.assert_close(found, (batch(n).x @ W + 0.5) ** 2)
    found = gan(QuadraticCritic(), terms=(term("drift"),)).discriminator_loss(batch(n))["drift"]
    torch.testing.assert_close(found, batch(n).x.square().sum(1) ** 2 / 4)


def test_lecam_and_its_moving_averages_by_hand() -> None:
    model = gan(LinearCritic(W), terms=(term("lecam"),))
    assert [float(v) for v in model.logit_means()] == [0.0, 0.0]
    seen = [(1.0, -1.0), (3.0, 0.0), (2.0, 5.0)]
    for real, fake in seen:
        model.finish({"real_logit": torch.tensor(real), "fake_logit": torch.tensor(fake)}, 8)
    weights = [0.01 * 0.99 ** (2 - i) for i in range(3)]  # the paper's decay
    for k, found in enumerate(model.logit_means()):
        assert float(found) == pytest.approx(
            sum(w * s[k] for w, s in zip(weights, seen, strict=True)) / sum(weights), rel=1e-5
        )
    a_real, a_fake = (float(v) for v in model.logit_means())
    for n in (1, 64):
        found = model.discriminator_loss(batch(n))
        fake = Context(model, batch(n), "discriminator").fake
        torch.testing.assert_close(found["lecam"], (batch(n).x @ W - a_fake) ** 2 + (fake @ W - a_real) ** 2)
        (slope,) = torch.autograd.grad(found["lecam"].sum(), [model.discriminator.w])  # type: ignore[list-item]
        real_half, fake_half = 2 * (batch(n).x @ W - a_fake) @ batch(n).x, 2 * (fake @ W - a_real) @ fake
        torch.testing.assert_close(slope, real_half + fake_half, rtol=1e-4, atol=1e-3)
    logged = model.discriminator_loss(batch(64))
    torch.testing.assert_close(logged["real_logit"], batch(64).x @ W)
    torch.testing.assert_close(logged["fake_logit"], fake @ W)
    model.discriminator = QuadraticCritic()
    real, made = batch(64).x.square().sum(1) / 2, fake.square().sum(1) / 2
    found = model.discriminator_loss(batch(64))["lecam"]
    torch.testing.assert_close(found, (real - a_fake) ** 2 + (made - a_real) ** 2)


# --- look ahead -----------------------------------------------------------------------------------------------


def test_unrolling_one_step_of_two_parameters_by_hand() -> None:
    """D = w x, G = b (constant), Wasserstein, data mean m: the game is f = w (m - b), w' = w + r df/dw = w + r (m - b).

    After it f = w (m - b) + r (m - b)^2, so that df/db = -w - 2 r (m - b): Metz et al. 2017, equation 10.
    """
    w, b, r = 0.7, 0.4, 0.3
    model = GAN(
        generator=AffineGenerator(0.0, b),
        discriminator=LinearCritic(torch.tensor([w])),
        prior=Normal(dim=1),
        objective=losses.wasserstein(),
        unroll_steps=1,
        unroll_rate=r,
    )
    given = batch(16, d=1)
    m = float(given.x.mean())
    loss = model.generator_loss(given)["adversarial"]
    assert loss.mean().item() == pytest.approx(-(w + r * (m - b)) * b, rel=1e-5)  # what is logged is L_G
    loss.mean().backward()
    assert model.generator.b.grad.item() == pytest.approx(-w - 2 * r * (m - b), rel=1e-5)  # type: ignore[union-attr]
    assert model.discriminator.w.grad is None  # type: ignore[union-attr]


class Line(nn.Module):
    """slope v + offset."""

    def __init__(self, slope: float, offset: float) -> None:
        super().__init__()
        self.slope, self.offset = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (slope, offset))

    def forward(self, v: Tensor) -> Tensor:
        out: Tensor = self.slope * v + self.offset
        return out


class FlatLine(Line):
    def forward(self, v: Tensor) -> Tensor:
        return super().forward(v).squeeze(1)


class Given(Normal):
    """Always the same latents."""

    def sample(self, n: int, *, generator: object = None) -> Tensor:
        return torch.randn(n, 1, generator=torch.Generator().manual_seed(5)).double()


def sure(logit: Tensor) -> Tensor:
    return torch.sigmoid(logit).log()


GAMES: dict[
    str, tuple[Callable[[], losses.Objective], Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]
] = {
    "minimax": (losses.minimax, lambda r, f: -(sure(r) + sure(-f)).mean(), lambda r, f: sure(-f).mean()),
    "non-saturating": (losses.non_saturating, lambda r, f: -(sure(r) + sure(-f)).mean(), lambda r, f: -sure(f).mean()),
    "wasserstein": (losses.wasserstein, lambda r, f: (f - r).mean(), lambda r, f: -f.mean()),
    "pearson": (
        lambda: losses.least_squares(a=-1.0, b=1.0, c=0.0),
        lambda r, f: ((r - 1) ** 2 + (f + 1) ** 2).mean() / 2,
        lambda r, f: (f**2).mean() / 2,
    ),
    "relativistic": (losses.relativistic, lambda r, f: -sure(r - f).mean(), lambda r, f: -sure(f - r).mean()),
}  # L_D and L_G of both logits, written out


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("game", GAMES)
def test_unrolling_is_the_game_by_autograd(game: str, steps: int) -> None:
    """D = w x + c, G = b + s z: updates and losses written out; with the saddle loss and Wasserstein's, the slope of f_K = -L_D as one expression."""
    objective, l_d, l_g = GAMES[game]
    x = batch(16, d=1).x.double() + 2
    w, c, b, s = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.7, -0.2, 0.4, 0.8))
    fake = b + s * Given(dim=1).sample(16)
    ws, cs = w, c
    for _ in range(steps):
        gw, gc = torch.autograd.grad(l_d(ws * x + cs, ws * fake + cs), (ws, cs), create_graph=True)
        ws, cs = ws - 0.3 * gw, cs - 0.3 * gc
    if game in ("minimax", "wasserstein"):
        want = torch.autograd.grad(-l_d(ws * x + cs, ws * fake + cs), (b, s))
    else:
        fixed, still = (ws.detach(), cs.detach()), fake.detach()
        direct = l_g(fixed[0] * x + fixed[1], fixed[0] * fake + fixed[1])
        want = torch.autograd.grad(direct - l_d(ws * x + cs, ws * still + cs), (b, s))
    model = GAN(
        generator=Line(0.8, 0.4),
        discriminator=FlatLine(0.7, -0.2),
        prior=Given(dim=1),
        objective=objective(),
        unroll_steps=steps,
        unroll_rate=0.3,
    )
    found = model.generator_loss(dataclasses.replace(batch(16, d=1), x=x))["adversarial"].mean()
    assert float(found.detach()) == pytest.approx(float(l_g(ws * x + cs, ws * fake + cs)))  # what is logged is L_G
    found.backward()
    grads = model.generator.offset.grad, model.generator.slope.grad  # type: ignore[union-attr]
    torch.testing.assert_close(grads, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("objective", [*build.gan.OBJECTIVES, "pearson"])
def test_a_generator_with_the_datas_law_stays_however_far_it_looks(objective: str) -> None:
    """Data and fakes the same points, D at its best: no objective may drive G away, wherever the origin lies."""
    loss = GAMES["pearson"][0]() if objective == "pearson" else build.gan.OBJECTIVES[objective]()
    model = GAN(
        generator=AffineGenerator(0.0, 3.0),
        discriminator=LinearCritic(torch.tensor([0.0]), loss.neutral or 0.0),
        prior=Normal(dim=1),
        objective=loss,
        unroll_steps=5,
        unroll_rate=0.3,
    )
    given = batch(16, d=1)
    model.generator_loss(dataclasses.replace(given, x=torch.full_like(given.x, 3.0)))["adversarial"].mean().backward()
    assert abs(model.generator.b.grad.item()) < 1e-6  # type: ignore[union-attr]


def small_images(n: int = 64, side: int = 8) -> ImageSet:
    g = torch.Generator().manual_seed(0)
    return ImageSet(torch.randint(256, (n, 1, side, side), generator=g, dtype=torch.int16).to(torch.uint8))


MLPS = {
    "generator": {"name": "mlp", "hidden": [16]},
    "discriminator": {"name": "mlp", "hidden": [16]},
    "prior": {"name": "normal", "dim": 8},
}


def config(**model: object) -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": {"family": "gan", "objective": "non-saturating", **MLPS, **model},
            "optimiser": {"discriminator": {"name": "adam", "lr": 1e-3}, "generator": {"name": "adam", "lr": 1e-3}},
            "train": {"steps": 20, "batch_size": 8},
        }
    )


def trainer_of(run: RunConfig, data: ImageSet | None = None) -> Trainer:
    run = build.resolve(run)
    model = build.build_model(run, (1, 8, 8))
    batches: Batches = ImageBatches(data or small_images(), batch_size=8, seed=3)
    return Trainer(model, batches, build.build_optimisers(run, model), seed=1, ema=0.9)


def weights_after(run: RunConfig, steps: int = 5) -> dict[str, Tensor]:
    trainer = trainer_of(run)
    for _ in trainer.steps(steps):
        pass
    return trainer.model.state_dict()


def test_unrolling_by_no_step_is_the_plain_gan_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through all that looking ahead does, but for its steps."""
    plain = weights_after(config())
    with monkeypatch.context() as patch:
        patch.setattr(
            gan_model, "unrolled", lambda start, loss, *, steps, update: unrolled(start, loss, steps=0, update=update)
        )
        zero = weights_after(config(unroll_steps=1))
    assert all(torch.equal(plain[k], zero[k]) for k in plain)
    ahead = weights_after(config(unroll_steps=2))
    assert any(not torch.equal(plain[k], ahead[k]) for k in plain)


def test_looking_ahead_leaves_power_iterations_alone() -> None:
    critic = MLPDiscriminator(shape=(4,), hidden=(8,), norm="spectral").train()
    model = gan(critic, unroll_steps=3, unroll_rate=0.1).train()
    before = {k: v.clone() for k, v in critic.state_dict().items()}
    model.generator_loss(batch(16))["adversarial"].mean().backward()
    assert any("_u" in k for k in before)
    assert all(torch.equal(before[k], v) for k, v in critic.state_dict().items())
    model.discriminator_loss(batch(16))
    assert any(not torch.equal(before[k], v) for k, v in critic.state_dict().items())


def test_unrolling_two_steps_against_autograd_by_hand() -> None:
    """A quadratic loss: w <- w - r (w - c) twice, and its slope in c."""
    c = torch.tensor(2.0, requires_grad=True)
    end = unrolled({"w": torch.tensor(5.0)}, lambda p: (p["w"] - c) ** 2 / 2, steps=2, update=descent(0.5))["w"]
    assert end.item() == pytest.approx(2.75)  # 5 -> 3.5 -> 2.75
    end.backward()
    assert c.grad.item() == pytest.approx(0.75)  # 1 - (1 - r)^2


def adam_started(steps: int) -> tuple[nn.Linear, torch.optim.Optimizer, Tensor]:
    """A layer in float64 whose Adam has made some updates, and the points that it learns from."""
    torch.manual_seed(3)
    layer, x = nn.Linear(3, 2).double(), torch.randn(7, 3, dtype=torch.float64)
    groups = [{"params": [layer.weight]}, {"params": [layer.bias], "lr": 0.05, "betas": (0.3, 0.8)}]
    optimiser = torch.optim.Adam(groups, lr=0.02, betas=(0.5, 0.9), eps=1e-3)
    for k in range(steps):
        if k == 2:  # a schedule
            optimiser.param_groups[0]["lr"] = 0.01
        optimiser.zero_grad()
        layer(x).square().sum().backward()
        optimiser.step()
    return layer, optimiser, x


@pytest.mark.parametrize("before", [3, 5])
def test_the_look_ahead_by_adam_is_what_adam_does_next(before: int) -> None:
    """Against PyTorch's optimiser, from the moments and at the rates that it has now; and its slope in the data against differences."""
    layer, optimiser, x = adam_started(before)
    state = {k: v.clone() for k, v in layer.state_dict().items()}

    def ahead(data: Tensor) -> dict[str, Tensor]:
        def loss(p: Mapping[str, Tensor]) -> Tensor:
            return functional_call(layer, dict(p), data).square().sum()

        return unrolled(dict(layer.named_parameters()), loss, steps=4, update=adam(optimiser, layer))

    found = ahead(x)
    assert all(torch.equal(state[k], v) for k, v in layer.state_dict().items())  # it has only looked
    moving = x.clone().requires_grad_()
    ahead(moving)["weight"].sum().backward()
    h = torch.zeros_like(x)
    h[2, 1] = 1e-6
    slope = (ahead(x + h)["weight"].sum() - ahead(x - h)["weight"].sum()) / 2e-6
    assert moving.grad[2, 1].item() == pytest.approx(slope.item(), rel=1e-5)  # type: ignore[index]
    layer, optimiser, x = adam_started(before + 4)
    for name, p in layer.named_parameters():
        torch.testing.assert_close(found[name], p.detach(), rtol=1e-10, atol=0)


def test_a_look_ahead_through_units_that_never_fired_has_a_finite_slope() -> None:
    torch.manual_seed(0)
    layer, c = nn.Linear(2, 1), torch.ones((), requires_grad=True)
    dead = unrolled(
        dict(layer.named_parameters()),
        lambda p: c * (0 * p["weight"].sum() + p["bias"].square().sum()),
        steps=2,
        update=adam(torch.optim.Adam(layer.parameters()), layer),
    )
    (dead["weight"].sum() + dead["bias"].sum()).backward()
    assert torch.equal(dead["weight"], layer.weight.detach())
    assert c.grad is not None
    assert c.grad.isfinite()


def test_the_look_ahead_follows_the_optimiser_of_the_discriminator() -> None:
    """Other moments, another generator; and another optimiser is refused before a step is made."""
    adams = {"name": "adam", "lr": 1e-3}
    one, other = (config(unroll_steps=1, unroll_update="adam") for _ in range(2))
    other.optimiser["discriminator"] = adams | {"betas": (0.9, 0.9)}
    for run in (one, other):  # G's own Adam would keep the sign of its slope alone
        run.optimiser["generator"] = {"name": "sgd", "lr": 1.0}
    a, b = weights_after(one, steps=1), weights_after(other, steps=1)
    # D's first step is the rate times the sign whatever the betas (but for eps); G has foreseen the second, where they tell.
    torch.testing.assert_close(
        *({k: v for k, v in w.items() if "discriminator" in k} for w in (a, b)), rtol=0, atol=1e-6
    )
    assert any(not torch.allclose(a[k], b[k], rtol=0, atol=1e-5) for k in a if k.startswith("generator"))
    plain = config(unroll_steps=1, unroll_update="adam")
    plain.optimiser["discriminator"] = {"name": "sgd", "lr": 1e-3}
    with pytest.raises(ConfigError, match=r"optimiser\.discriminator\.name"):
        trainer_of(plain)
    plain.model["unroll_update"] = "descent"
    weights_after(plain, steps=1)


@pytest.mark.parametrize("option", ["weight_decay", "amsgrad", "maximize"])
def test_the_look_ahead_refuses_an_adam_that_it_does_not_foresee(option: str) -> None:
    layer = nn.Linear(2, 1)
    with pytest.raises(ConfigError, match=option):
        adam(torch.optim.Adam(layer.parameters(), **{option: 1}), layer)
    with pytest.raises(ConfigError, match="all the discriminator's weights"):
        adam(torch.optim.Adam([layer.weight]), layer)
    layer.bias.requires_grad_(False)
    assert adam(torch.optim.Adam([layer.weight]), layer)({"weight": layer.weight}, {"weight": layer.weight}).keys() == {
        "weight"
    }


def test_mlps_start_from_orthogonal_weights_of_a_gain_and_scale_the_data() -> None:
    d = MLPDiscriminator(shape=(2,), hidden=(8, 8), slope=0.0, gain=0.8, scale=0.25)
    w = d.body[3].weight
    torch.testing.assert_close(w @ w.T, 0.64 * torch.eye(8), atol=1e-5, rtol=0)
    assert not d.head.bias.any()
    x = torch.randn(5, 2)
    # Without biases and with ReLU the logit is as steep as its input.
    torch.testing.assert_close(d(4 * x), 4 * d(x))
    same = MLPDiscriminator(shape=(2,), hidden=(8, 8), slope=0.0, gain=0.8)
    same.load_state_dict(d.state_dict())
    torch.testing.assert_close(d(x), same(x / 4))
    g = MLPGenerator(latent=6, shape=(2,), hidden=(8,), gain=2.0)
    torch.testing.assert_close(g.body[0].weight.T @ g.body[0].weight, 4 * torch.eye(6), atol=1e-5, rtol=0)
    for options in ({"gain": 0.0}, {"scale": 0.0}, {"scale": math.inf}):
        with pytest.raises(ValueError, match="above 0"):
            MLPDiscriminator(shape=(2,), **options)


# --- Dirac-GAN ------------------------------------------------------------------------------------------------


class Point(nn.Module):
    """G puts all its mass on one point."""

    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor(1.0))

    def forward(self, z: Tensor) -> Tensor:
        return self.at.expand(len(z), 1)


class Slope(nn.Module):
    """D(x) = psi x."""

    def __init__(self) -> None:
        super().__init__()
        self.psi = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.psi * x[:, 0]


def dirac_radius(objective: losses.Objective, *added: Term, steps: int = 500) -> list[float]:
    """Distance of (theta, psi) from the equilibrium (0, 0) along alternating gradient descent; data at 0."""
    model = GAN(generator=Point(), discriminator=Slope(), prior=Normal(dim=1), objective=objective, terms=added)
    optimisers = {p.name: sgd(p.module.parameters(), lr=0.05) for p in model.phases()}
    radii = []
    for step in range(steps):
        for phase in model.phases():
            found = phase.loss(Batch(torch.zeros(4, 1), None, step, SampleStream(step, torch.arange(4))))
            optimisers[phase.name].zero_grad()
            phase.total({k: v.mean() for k, v in found.items()}).backward()
            optimisers[phase.name].step()
        radii.append(math.hypot(model.generator.at.item(), model.discriminator.psi.item()))  # type: ignore[union-attr,operator]
    return radii


def test_dirac_gan_circles_without_and_settles_with_zero_centred_penalties() -> None:
    """Mescheder et al. 2018, section 2: eigenvalues on the circle without; inside it with R1 and instance-noise-like penalties."""
    circling = dirac_radius(losses.wasserstein())
    assert min(circling) > 1.3  # it starts at sqrt(2)
    assert max(circling) < 1.6
    assert dirac_radius(losses.wasserstein(), term("r1", weight=0.5))[-1] < 0.01
    saddle = dirac_radius(losses.minimax())
    assert min(saddle) > 1.38 and max(saddle) < 1.45
    assert dirac_radius(losses.non_saturating(), term("r1", weight=0.5))[-1] < 0.01
    assert dirac_radius(losses.non_saturating(), term("roth", weight=0.5))[-1] < 0.05


def test_dirac_wgan_gp_does_not_settle() -> None:
    """The same alternating steps written out, L_D = psi theta + (|psi| - 1)^2 and L_G = -psi theta: the same path, and it stays away from (0, 0)."""
    radii = dirac_radius(losses.wasserstein(), term("interpolate-penalty", weight=1.0))
    theta, psi, want = 1.0, 1.0, []
    for _ in range(500):
        psi -= 0.05 * (theta + 2 * (abs(psi) - 1) * math.copysign(1, psi))
        theta += 0.05 * psi
        want.append(math.hypot(theta, psi))
    assert radii[:100] == pytest.approx(want[:100], rel=1e-3)
    assert min(radii[-150:]) == pytest.approx(min(want[-150:]), rel=0.05)
    assert min(radii[-150:]) > 0.2


# --- packing, labels ------------------------------------------------------------------------------------------


def test_a_pack_is_judged_together() -> None:
    critic = LinearCritic(torch.arange(8.0))
    packed = Packed(critic, 2)
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    logits = packed(x)
    torch.testing.assert_close(logits, critic(x.reshape(3, 8)).repeat_interleave(2))
    with pytest.raises(ValueError, match="packed by 2"):
        packed(x[:5])


def test_packs_of_images_stack_channels() -> None:
    x = torch.randn(4, 1, 8, 8)
    seen: list[Tensor] = []
    probe = nn.Flatten()
    probe.register_forward_hook(lambda m, i, o: seen.append(i[0]))
    Packed(nn.Sequential(probe, nn.Linear(128, 1), nn.Flatten(0)), 2)(x)
    assert torch.equal(seen[0][0, 1], x[1, 0])


def labelled(n: int = 64) -> ImageSet:
    data = small_images(n)
    return ImageSet(data.images, torch.arange(n) % 3, classes=("a", "b", "c"))


def test_projection_by_hand() -> None:
    torch.manual_seed(0)
    trainer = trainer_of(config(classes=3), labelled())
    d = trainer.model.discriminator
    assert isinstance(d, Projection)
    x, y = torch.randn(5, 1, 8, 8), torch.tensor([0, 1, 2, 1, 0])
    features = d.discriminator.features(x)  # type: ignore[operator]
    want = d.discriminator(x) + torch.einsum("bw,bw->b", features, d.embed.weight[y])
    torch.testing.assert_close(d(x, y), want)


def test_both_players_judge_fakes_by_the_labels_they_were_made_for() -> None:
    """Data and fakes lie about 100 times their label, so that each row that D is shown says which label it should come with."""

    class Labelled(nn.Module):
        def forward(self, z: Tensor, y: Tensor) -> Tensor:
            return z + 100 * y[:, None]

    class Noting(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            seen.append((x.detach(), y))
            return x.sum(dim=1)

    seen: list[tuple[Tensor, Tensor]] = []
    y = torch.tensor([2, 0, 1, 2, 1])
    model = GAN(
        generator=Labelled(),
        discriminator=Noting(),
        prior=Normal(dim=4),
        objective=losses.non_saturating(),
        classes=3,
    )
    shown = Batch(batch(5).x + 100 * y[:, None], y, 0, SampleStream(1, torch.arange(5)))
    model.discriminator_loss(shown)
    model.generator_loss(shown)
    assert sum(len(labels) for _, labels in seen) == 15  # data and fakes, then fakes
    for x, labels in seen:
        assert torch.equal((x.mean(dim=1) / 100).round().long(), labels)


@pytest.mark.parametrize("objective", build.gan.OBJECTIVES)
def test_conditional_gans_train_and_sample_by_label(objective: str) -> None:
    trainer = trainer_of(config(objective=objective, classes=3), labelled())
    for _ in trainer.steps(3):
        pass
    model = trainer.model.eval()
    stream = lambda: SampleStream(1, torch.arange(6))  # noqa: E731
    zero, one = (model.sample(6, labels=torch.full((6,), k, dtype=torch.int64), generator=stream()) for k in (0, 1))
    assert not torch.equal(zero, one)
    check_sampling_is_addressed(model)


# --- priors ---------------------------------------------------------------------------------------------------


def test_version_1s_means_lie_on_a_circle() -> None:
    means = GaussianMixture(dim=4, components=3, layout="circle", spread=2.0, sd=1.0).means
    corners = torch.tensor([[2.0, 0, 0, 0], [-1, math.sqrt(3), 0, 0], [-1, -math.sqrt(3), 0, 0]])
    torch.testing.assert_close(means, corners)


def test_version_2s_means_fill_their_box() -> None:
    """Uniform on [-c, c] in every coordinate: both halves, up to the ends, sd c / sqrt(3)."""
    means = GaussianMixture(dim=100, components=10, layout="uniform", spread=0.1, sd=0.15).means
    assert 0.099 < float(means.max()) <= 0.1 and -0.1 <= float(means.min()) < -0.099
    assert float(means.mean()) == pytest.approx(0, abs=4 * 0.1 / math.sqrt(3 * 1000))
    assert float(means.std()) == pytest.approx(0.1 / math.sqrt(3), rel=0.06)


@pytest.mark.parametrize("layout", ["circle", "uniform"])
def test_mixture_prior_against_torch(layout: str) -> None:
    prior = GaussianMixture(dim=5, components=4, layout=layout, spread=1.5, sd=0.7)  # type: ignore[arg-type]
    d = torch.distributions
    peer = d.MixtureSameFamily(
        d.Categorical(torch.ones(4)), d.Independent(d.Normal(prior.means, torch.full((4, 5), 0.7)), 1)
    )
    z = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(prior.log_prob(z), peer.log_prob(z), rtol=1e-5, atol=1e-5)
    draws = prior.sample(20_000, generator=torch.Generator().manual_seed(1))
    n = len(draws)
    want_mean, want_var = prior.means.mean(0), 0.7**2 + prior.means.var(0, unbiased=False)
    assert ((draws.mean(0) - want_mean).abs() < 4.5 * (want_var / n).sqrt()).all()
    assert ((draws.var(0) / want_var - 1).abs() < 4.5 * math.sqrt(2 / n)).all()


def test_mixture_prior_of_unequal_spreads_against_torch() -> None:
    """As learned ones become."""
    prior, sds = GaussianMixture(dim=3, components=3, learned=True), torch.tensor([0.2, 1.0, 3.0])
    with torch.no_grad():
        prior.log_sd.copy_(sds.log())
    d = torch.distributions
    peer = d.MixtureSameFamily(
        d.Categorical(torch.ones(3)), d.Independent(d.Normal(prior.means, sds[:, None].expand(3, 3)), 1)
    )
    z = 2 * torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(prior.log_prob(z), peer.log_prob(z), rtol=1e-5, atol=1e-5)
    draws = prior.sample(20_000, generator=torch.Generator().manual_seed(1)).detach()
    torch.manual_seed(2)
    theirs = peer.sample((20_000,))
    for k in range(3):  # as many draws about each mean
        ours, want = (float(((x - prior.means[k]).norm(dim=1) < sds[k]).double().mean()) for x in (draws, theirs))
        assert ours == pytest.approx(want, abs=5 * math.sqrt(2 * want / 20_000))


def test_a_learned_prior_moves_with_the_generator() -> None:
    prior = {"name": "gaussian-mixture", "dim": 8, "components": 3, "learned": True}
    trainer = trainer_of(config(prior=prior))
    before = trainer.model.prior.means.clone()
    for _ in trainer.steps(3):
        pass
    assert not torch.equal(trainer.model.prior.means, before)
    names = trainer.ema.shadow if trainer.ema is not None else {}
    assert {"prior.means", "prior.log_sd"} <= set(names)
    assert not any(k.startswith("_maker") for k in trainer.model.state_dict())


def test_a_flow_prior_learns_with_the_generator() -> None:
    trainer = trainer_of(config(prior={"name": "flow", "dim": 8, "hidden": [8]}))
    before = {k: v.clone() for k, v in trainer.model.prior.named_parameters()}
    for _ in trainer.steps(3):
        pass
    moved = [k for k, v in trainer.model.prior.named_parameters() if not torch.equal(v, before[k])]
    assert len(moved) == len(before) > 0


# --- views ----------------------------------------------------------------------------------------------------


def test_translation_moves_whole_pictures() -> None:
    x = torch.arange(64.0).reshape(1, 1, 8, 8).expand(200, -1, -1, -1)
    moved = augment.translation(x, SampleStream(0, torch.arange(200)), reach=0.25)
    position = torch.arange(8)
    shifts = set()
    for picture in moved:
        for dy, dx in itertools.product(range(-2, 3), repeat=2):
            rows, columns = (position + dy).clamp(0, 7), (position + dx).clamp(0, 7)
            if torch.equal(picture[0], x[0, 0][rows][:, columns]):
                shifts.add((dy, dx))
                break
        else:
            raise AssertionError("not a shift of the picture")
    assert len(shifts) == 25


def test_cutout_hides_a_square() -> None:
    x = torch.ones(500, 2, 12, 12)
    hidden = augment.cutout(x, SampleStream(0, torch.arange(500)), side=0.5) == 0
    assert int(hidden.sum(dim=(1, 2, 3)).max()) == 2 * 36
    assert torch.equal(hidden[:, 0], hidden[:, 1])
    assert hidden[:, 0].any(dim=0).all()  # anywhere, not in one place
    assert float(hidden[:, 0].double().mean(dim=0).max()) < 0.6


def test_contrast_keeps_the_mean_and_brightness_the_shape() -> None:
    x = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    stream = lambda: SampleStream(0, torch.arange(8))  # noqa: E731
    stretched = augment.contrast(x, stream())
    torch.testing.assert_close(stretched.mean(dim=(1, 2, 3)), x.mean(dim=(1, 2, 3)), atol=1e-6, rtol=0)
    lighter = augment.brightness(x, stream()) - x
    assert float(lighter.flatten(1).std(dim=1).max()) < 1e-6
    many = torch.tensor([-1.0, 1.0]).reshape(1, 1, 1, 2).expand(4000, -1, -1, -1)  # of mean 0
    factors = augment.contrast(many, SampleStream(0, torch.arange(4000)))[:, 0, 0, 1]
    shifts = augment.brightness(many, SampleStream(0, torch.arange(4000)))[:, 0, 0, 1] - 1
    for found, middle in ((factors, 1.0), (shifts, 0.0)):  # uniform, half wide on each side
        assert (
            middle - 0.5 <= float(found.min()) < middle - 0.495 and middle + 0.495 < float(found.max()) <= middle + 0.5
        )
        assert float(found.mean()) == pytest.approx(middle, abs=4 / math.sqrt(12 * 4000))


def test_every_change_goes_through_a_penalty_on_slopes() -> None:
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    for name in augment.CHANGES:
        changed = augment.augment(x, SampleStream(0, torch.arange(4)), [name])
        (slope,) = torch.autograd.grad((changed**3).sum(), x, create_graph=True)
        (again,) = torch.autograd.grad(slope.square().sum(), x)
        assert torch.isfinite(again).all() and float(again.abs().max()) > 0


def test_instance_noise_fades() -> None:
    x = torch.zeros(3000, 2)

    def spread(step: int) -> float:
        look = Look(SampleStream(0, torch.arange(3000)), step, torch.zeros(()))
        return float(augment.instance_noise(x, look, sd=0.4, until=100).std())

    assert spread(0) == pytest.approx(0.4, rel=0.05)
    assert spread(50) == pytest.approx(0.2, rel=0.05)
    assert spread(100) == spread(1000) == 0.0


def test_ada_steers_to_its_target() -> None:
    model = gan(LinearCritic(W), views=(View("ada", augment.ada),), ada_target=0.5, ada_images=1000)
    sure, unsure = {"real_sign": torch.tensor(0.9)}, {"real_sign": torch.tensor(0.1)}
    for _ in range(5):
        model.finish(sure, 100)
    assert float(model.strength) == pytest.approx(0.5)
    model.finish(unsure, 50)
    assert float(model.strength) == pytest.approx(0.45)  # half as many images, half the way
    for _ in range(30):
        model.finish(sure, 100)
    assert float(model.strength) == 1.0


def test_ada_changes_a_share_of_the_images() -> None:
    x = torch.ones(2000, 1, 8, 8)
    look = Look(SampleStream(0, torch.arange(2000)), 0, torch.tensor(0.3))
    changed = augment.ada(x, look, changes=("brightness",)) != x
    share = float(changed.any(dim=(1, 2, 3)).double().mean())
    assert share == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 2000))
    nothing = Look(SampleStream(0, torch.arange(2000)), 0, torch.tensor(0.0))
    assert torch.equal(augment.ada(x, nothing), x)


def test_data_and_fakes_are_shown_through_the_same_view() -> None:
    seen = []

    def note(x: Tensor, look: Look) -> Tensor:
        seen.append(len(x))
        return x + 1

    model = gan(LinearCritic(W), views=(View("note", note),))
    plain = gan(LinearCritic(W))
    viewed, bare = (m.discriminator_loss(batch(8)) for m in (model, plain))
    torch.testing.assert_close(viewed["real_logit"], bare["real_logit"] + W.sum())
    torch.testing.assert_close(viewed["fake_logit"], bare["fake_logit"] + W.sum())
    model.generator_loss(batch(8))
    assert seen == [8, 8, 8]


# --- together -------------------------------------------------------------------------------------------------

PRIORS = [
    "normal",
    "uniform",
    "gaussian-mixture",
    {"name": "gaussian-mixture", "layout": "uniform", "spread": 0.1, "sd": 0.15},
    {"name": "gaussian-mixture", "learned": True},
    {"name": "flow"},
]


@pytest.mark.parametrize("objective", build.gan.OBJECTIVES)
@pytest.mark.parametrize("name", build.gan.TERMS)
def test_any_objective_with_any_term_and_any_prior_trains(objective: str, name: str) -> None:
    if name == "roth" and objective not in ("minimax", "non-saturating"):
        with pytest.raises(ConfigError, match="no logit of a probability"):
            build.resolve(config(objective=objective, terms=[name]))
        return
    for prior in PRIORS:
        table = {"name": prior} if isinstance(prior, str) else prior
        weight = 0.001 if name == "data-anchor" else 0.1
        weights = weights_after(
            config(objective=objective, terms=[{"name": name, "weight": weight}], prior={**table, "dim": 8}), steps=20
        )
        assert all(torch.isfinite(w).all() for w in weights.values())
        assert differ(weights, plain_weights(objective, json.dumps(table)))


@functools.cache
def plain_weights(objective: str, prior: str) -> dict[str, Tensor]:
    return weights_after(config(objective=objective, prior={**json.loads(prior), "dim": 8}), steps=20)


def differ(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether what was added has done anything at all."""
    return any(not torch.equal(a[k], b[k]) for k in a.keys() & b.keys())


@pytest.mark.parametrize("objective", build.gan.OBJECTIVES)
@pytest.mark.parametrize(
    "options",
    [
        {"views": ["diffaugment"]},
        {"views": ["ada"], "ada_images": 200},
        {"views": [{"name": "instance-noise", "until": 10}]},
        {"unroll_steps": 2},
        {"pack": 2},
        {"weight_clip": 0.1, "discriminator_steps": 2},
        {"terms": [{"name": "r1"}, {"name": "r2"}, {"name": "lecam", "weight": 0.1}], "views": ["diffaugment"]},
    ],
    ids=lambda o: "+".join(o),
)
def test_any_objective_with_any_trick_trains(objective: str, options: dict) -> None:
    if options.get("views") == ["ada"] and objective in ("wasserstein", "relativistic"):
        with pytest.raises(ConfigError, match="no level at which it is undecided"):
            build.resolve(config(objective=objective, **options))
        return
    weights = weights_after(config(objective=objective, **options), steps=20)
    assert all(torch.isfinite(w).all() for w in weights.values())
    assert differ(weights, weights_after(config(objective=objective), steps=20))


@pytest.mark.parametrize(
    "options",
    [
        *({"terms": [{"name": t, "weight": 0.001 if t == "data-anchor" else 0.1}]} for t in build.gan.TERMS),
        {"views": ["diffaugment"]},
        {"views": ["ada"], "ada_images": 200},
        {"views": [{"name": "instance-noise", "until": 10}]},
        {"unroll_steps": 2},
        {"weight_clip": 0.1, "discriminator_steps": 2},
        {"prior": {"name": "gaussian-mixture", "dim": 8, "learned": True}},
        {"prior": {"name": "flow", "dim": 8}},
    ],
    ids=lambda o: o["terms"][0]["name"] if "terms" in o else "+".join(o),
)
def test_any_part_trains_with_labels(options: dict) -> None:
    """Labels reach every look at D and at G: a term that lost them would fail or change nothing."""

    def after(**more: object) -> dict[str, Tensor]:
        trainer = trainer_of(config(classes=3, **more), labelled())
        for _ in trainer.steps(20):
            pass
        return trainer.model.state_dict()

    weights = after(**options)
    assert all(torch.isfinite(w).all() for w in weights.values())
    assert differ(weights, after())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pack": 2, "terms": [{"name": "r1"}]}, "no slope of one sample"),
        ({"pack": 2, "classes": 3}, "a pack mixes classes"),
        ({"unroll_steps": 1, "share_fakes": True}, "fakes of its own"),
        ({"unroll_steps": 1, "weight_clip": 0.1}, "knows nothing of the clip"),
        ({"unroll_steps": 1, "terms": ["r1"]}, "takes the objective alone"),
        ({"views": ["diffaugment", "ada"]}, "Leave one out"),
        ({"views": ["ada", "ada"]}, "listed twice"),
        ({"views": ["difaugment"]}, "diffaugment"),
        ({"pack": 0}, "at least 1"),
        ({"classes": 1}, "at least 2"),
        ({"unroll_rate": 0.0}, "above 0"),
        ({"unroll_rate": 0.5}, "does nothing without model.unroll_steps"),
        ({"unroll_update": "adam"}, "does nothing without model.unroll_steps"),
        ({"unroll_steps": 1, "unroll_update": "adam", "unroll_rate": 0.5}, 'without model.unroll_update = "descent"'),
        ({"ada_target": 0.3}, "does nothing without the view ada"),
        ({"ada_images": 10}, "does nothing without the view ada"),
        ({"objective": {"name": "least-squares", "a": 1.0}}, "the same of data and fakes"),
        ({"objective": {"name": "least-squares", "factor": -1.0}}, "factor = -1"),
        ({"objective": "hinge", "terms": ["roth"]}, "no logit of a probability"),
        ({"terms": [{"name": "dragan", "sd": -1.0}]}, "sd"),
        ({"terms": [{"name": "dragan", "target": -1.0}]}, "target"),
        ({"terms": [{"name": "interpolate-penalty", "target": -1.0}]}, "target"),
        ({"terms": [{"name": "latent-consistency", "sd": 0.0}]}, "sd"),
        ({"terms": [{"name": "latent-diversity", "sd": -0.1}]}, "sd"),
        ({"terms": [{"name": "consistency-real", "changes": []}]}, "changes"),
        ({"views": [{"name": "diffaugment", "changes": []}]}, "changes"),
    ],
    ids=lambda v: "" if isinstance(v, dict) else v,
)
def test_senseless_pairs_are_refused_with_the_reason(options: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build.resolve(config(**options))


def test_a_part_that_is_switched_off_leaves_its_settings() -> None:
    """As `--set model.unroll_steps=0` on gan/unrolled; and a view of one's own may be ADA."""
    assert build.resolve(config(unroll_steps=0, unroll_rate=0.5)).model["unroll_rate"] == 0.5
    assert build.resolve(config(views=[], ada_images=10)).model["ada_images"] == 10
    own = build.resolve(config(views=["pushforward.families.gan.augment:ada"], ada_images=10))
    assert own.model["ada_images"] == 10
    assert build.resolve(own) == own


def test_what_does_not_fit_is_refused_when_built() -> None:
    unrolled_norm = {"unroll_steps": 1, "discriminator": {"name": "mlp", "hidden": [8], "norm": "batch"}}
    with pytest.raises(ConfigError, match="batch norm"):
        build.build_model(build.resolve(config(**unrolled_norm)), (1, 8, 8))
    norm = {"discriminator": {"name": "mlp", "hidden": [8], "norm": "batch"}, "terms": [{"name": "r1"}]}
    with pytest.raises(ConfigError, match="no slope of one sample"):
        build.build_model(build.resolve(config(**norm)), (1, 8, 8))
    clipped = {"weight_clip": 0.1, "discriminator": {"name": "mlp", "hidden": [8], "norm": "spectral"}}
    with pytest.raises(ConfigError, match="it bounds nothing"):
        build.build_model(build.resolve(config(**clipped)), (1, 8, 8))
    with pytest.raises(ConfigError, match="until"):
        build.resolve(config(views=[{"name": "instance-noise", "until": 0}]))
    with pytest.raises(ConfigError, match="no multiple"):
        build.build_model(build.resolve(config(pack=3)), (1, 8, 8))
    for options in ({"views": ["ada"]}, {"terms": [{"name": "consistency-real"}]}):
        with pytest.raises(ConfigError, match="points of shape"):
            build.build_model(build.resolve(config(**options)), (2,))


@pytest.mark.parametrize(
    "options",
    [
        {"terms": [{"name": "lecam", "weight": 0.1}]},
        {"views": ["ada"], "ada_images": 100},
        {"views": [{"name": "instance-noise", "until": 8}]},
        {"prior": {"name": "gaussian-mixture", "dim": 8, "learned": True}},
        {"unroll_steps": 1},
        {"pack": 2},
    ],
    ids=["lecam", "ada", "instance-noise", "learned-prior", "unrolled", "packed"],
)
def test_stateful_parts_resume_bit_equal(tmp_path: Path, options: dict) -> None:
    make: Callable[[], Trainer] = lambda: trainer_of(config(**options))  # noqa: E731
    check_resumes_bit_equal(make, tmp_path)


def test_only_the_discriminators_move_turns_the_power_iteration_and_once() -> None:
    """Spectral norm: terms that look again at D, and the generator's move, leave its vectors as they are."""
    settings = {"discriminator": {"name": "mlp", "hidden": [8], "norm": "spectral"}}
    extra = [{"name": "consistency-real"}, {"name": "latent-consistency"}]
    moved = []
    for listed in ([], extra):
        model = build.build_model(build.resolve(config(terms=listed, **settings)), (1, 8, 8))
        assert isinstance(model, GAN)
        images = Batch(
            torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(3)),
            None,
            0,
            SampleStream(1, torch.arange(4)),
        )
        model.discriminator_loss(images)
        moved.append({k: v.clone() for k, v in model.discriminator.named_buffers()})
        model.generator_loss(images)
        assert all(torch.equal(v, moved[-1][k]) for k, v in model.discriminator.named_buffers())
    assert moved[0]
    assert all(torch.equal(moved[0][k], moved[1][k]) for k in moved[0])


def test_ada_steers_by_the_level_at_which_the_objective_is_undecided() -> None:
    """D = 1/2 everywhere knows nothing under least squares: no sign, so the probability falls towards 0."""
    model = build.build_model(build.resolve(config(objective="least-squares", views=["ada"])), (1, 8, 8))
    assert isinstance(model, GAN)
    with torch.no_grad():
        for p in model.discriminator.parameters():
            p.zero_()
        model.discriminator.head.bias.fill_(0.5)  # type: ignore[union-attr, operator]
    images = Batch(torch.rand(4, 1, 8, 8), None, 0, SampleStream(1, torch.arange(4)))
    assert model.discriminator_loss(images)["real_sign"].abs().max() == 0


@pytest.mark.parametrize("options", [{"pack": 2}, {"classes": 3}])
def test_ddls_refuses_what_it_would_sample_wrongly(options: dict) -> None:
    model = build.build_model(build.resolve(config(**options)), (1, 8, 8))
    assert isinstance(model, GAN)
    with pytest.raises(NotSupported, match="unconditional"):
        SAMPLERS["ddls"](model, 4, lambda x: x)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"step_size": -0.1}, {"step_size": 1e300}])
def test_ddls_refuses_settings_with_which_nothing_walks(settings: dict) -> None:
    model = build.build_model(build.resolve(config()), (1, 8, 8))
    with pytest.raises(ValueError, match="step"):
        SAMPLERS["ddls"](model, 4, lambda x: x, **settings)


def test_an_unconditional_gan_refuses_labels() -> None:
    with pytest.raises(NotSupported, match="unconditional"):
        gan(LinearCritic(W)).sample(2, labels=torch.zeros(2, dtype=torch.int64))


def test_the_table_of_terms_names_each_function_once() -> None:
    functions = [e.function for e in build.gan.TERMS.values()]
    assert len(set(functions)) == len(functions)
    assert all(getattr(terms, f.__name__) is f for f in functions)


def test_spectral_norm_bounds_the_embedding_of_labels_too() -> None:
    settings = ["model.classes=10", 'model.discriminator.norm="spectral"', "model.discriminator.hidden=[8]"]
    model = build.build_model(build.resolve(load_recipe("gan/lsgan", settings)), (1, 28, 28))
    embed = model.discriminator.embed  # type: ignore[union-attr]
    with torch.no_grad():
        embed.parametrizations.weight.original.mul_(100)  # type: ignore[union-attr]
    for _ in range(30):
        weight = embed.weight  # a power iteration each
    assert float(torch.linalg.matrix_norm(weight, 2)) == pytest.approx(1, rel=0.02)  # type: ignore[arg-type]


@pytest.mark.parametrize("weight", ["-1.0", "inf", "nan"])
def test_weights_of_terms_are_finite_and_not_negative(weight: str) -> None:
    with pytest.raises(ConfigError, match="at least 0 and finite"):
        build.resolve(load_recipe("gan/r1", [f"model.terms.0.weight={weight}"]))
