from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from contract import check_gradients, check_resumes_bit_equal, check_sampling_is_addressed, check_shapes
from oracles import AffineGenerator, LinearCritic, QuadraticCritic
from torch import Tensor, nn

from pushforward import build
from pushforward.config import load_recipe
from pushforward.data.batches import ImageBatches
from pushforward.data.images import ImageSet
from pushforward.errors import ConfigError, NotSupported
from pushforward.families.gan import losses, terms
from pushforward.families.gan.context import Context
from pushforward.families.gan.model import GAN
from pushforward.families.gan.sampling import proposals
from pushforward.families.gan.terms import Term
from pushforward.model import Batch
from pushforward.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from pushforward.networks.mlp import MLPDiscriminator, MLPGenerator
from pushforward.priors import Normal, Uniform
from pushforward.randomness import SampleStream
from pushforward.training.optimisers import adam
from pushforward.training.trainer import Trainer

OBJECTIVES = {
    "minimax": losses.minimax,
    "non-saturating": losses.non_saturating,
    "least-squares": losses.least_squares,
    "wasserstein": losses.wasserstein,
    "hinge": losses.hinge,
    "relativistic": losses.relativistic,
}
LOG2, LOG3 = math.log(2), math.log(3)

# At logits real = log 3 (p = 3/4) and fake = -log 3 (p = 1/4), by hand: value of D's and G's loss.
BY_HAND = {
    "minimax": (2 * math.log(4 / 3), math.log(3 / 4)),
    "non-saturating": (2 * math.log(4 / 3), math.log(4)),
    "least-squares": (((LOG3 - 1) ** 2 + LOG3**2) / 2, (LOG3 + 1) ** 2 / 2),
    "wasserstein": (-2 * LOG3, LOG3),
    "hinge": (0.0, LOG3),
    "relativistic": (math.log(10 / 9), math.log(10)),
}
# Derivatives there: of D's loss by (real, fake), of G's by fake.
SLOPES = {
    "minimax": ((-1 / 4, 1 / 4), -1 / 4),
    "non-saturating": ((-1 / 4, 1 / 4), -3 / 4),
    "least-squares": ((LOG3 - 1, -LOG3), -LOG3 - 1),
    "wasserstein": ((-1.0, 1.0), -1.0),
    "hinge": ((0.0, 0.0), -1.0),
    "relativistic": ((-1 / 10, 1 / 10), -9 / 10),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective_by_hand(name: str) -> None:
    objective = OBJECTIVES[name]()
    real = torch.tensor([LOG3], dtype=torch.float64, requires_grad=True)
    fake = torch.tensor([-LOG3], dtype=torch.float64, requires_grad=True)
    d = objective.discriminator(real, fake)
    g = objective.generator(real, fake) if objective.paired else objective.generator(fake)
    assert (d.item(), g.item()) == pytest.approx(BY_HAND[name], abs=1e-12)
    d_slopes = torch.autograd.grad(d.sum(), [real, fake], allow_unused=True)
    assert [s.item() for s in d_slopes] == pytest.approx(SLOPES[name][0], abs=1e-12)
    (g_slope,) = torch.autograd.grad(g.sum(), fake)
    assert g_slope.item() == pytest.approx(SLOPES[name][1], abs=1e-12)


@pytest.mark.parametrize(
    ("at", "value", "slopes"), [((0.3, 0.2), 1.9, (-1, 1)), ((2, -0.5), 0.5, (0, 1)), ((0.5, -3), 0.5, (-1, 0))]
)
def test_the_hinge_inside_its_margins(at: tuple[float, float], value: float, slopes: tuple[float, float]) -> None:
    """(1 - real)+ + (1 + fake)+; at the point above both are 0."""
    real, fake = (torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in at)
    loss = losses.hinge().discriminator(real, fake)
    assert loss.item() == pytest.approx(value, abs=1e-12)
    assert [s.item() for s in torch.autograd.grad(loss.sum(), [real, fake])] == pytest.approx(slopes, abs=1e-12)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_stay_finite_at_huge_logits(name: str) -> None:
    objective = OBJECTIVES[name]()
    huge = torch.tensor([-1e4, 1e4])
    assert torch.isfinite(objective.discriminator(huge, huge.flip(0))).all()


def test_least_squares_codings() -> None:
    objective = losses.least_squares(a=-1, b=1, c=0)
    real, fake = torch.tensor([0.5]), torch.tensor([0.25])
    assert objective.discriminator(real, fake).item() == pytest.approx((0.25 + 1.5625) / 2)
    assert objective.generator(fake).item() == pytest.approx(0.03125)
    whole = losses.least_squares(a=-1, b=1, c=0, factor=1.0)  # without the halves
    assert whole.discriminator(real, fake).item() == pytest.approx(0.25 + 1.5625)
    assert whole.generator(fake).item() == pytest.approx(0.0625)


def small_data(n: int = 64, side: int = 28) -> ImageSet:
    g = torch.Generator().manual_seed(0)
    return ImageSet(torch.randint(256, (n, 1, side, side), generator=g, dtype=torch.int16).to(torch.uint8))


def make_gan(kind: str = "mlp", objective: str = "non-saturating", **options) -> GAN:
    torch.manual_seed(0)
    shape = (1, 28, 28)
    nets: tuple[nn.Module, nn.Module]
    if kind == "mlp":
        nets = MLPGenerator(latent=8, shape=shape, hidden=(16,)), MLPDiscriminator(shape=shape, hidden=(16,))
    else:
        nets = DCGANGenerator(latent=8, shape=shape, width=4), DCGANDiscriminator(shape=shape, width=4)
    return GAN(
        generator=nets[0], discriminator=nets[1], prior=Normal(dim=8), objective=OBJECTIVES[objective](), **options
    )


def a_batch(n: int = 8, step: int = 0) -> Batch:
    x = torch.rand(n, 1, 28, 28, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return Batch(x, None, step, SampleStream(5, torch.arange(n)))


R1 = Term("r1", terms.r1, "discriminator", needs=frozenset({"real_slope"}))
R2 = Term("r2", terms.r2, "discriminator", needs=frozenset({"fake_slope"}))
GP = Term("interpolate-penalty", terms.interpolate_penalty, "discriminator", weight=10.0)


@pytest.mark.parametrize("kind", ["mlp", "dcgan"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_contract(kind: str, objective: str) -> None:
    model = make_gan(kind, objective, terms=(R1, R2, GP))
    check_shapes(model, ImageBatches(small_data(), batch_size=8, seed=0))
    check_gradients(model, ImageBatches(small_data(), batch_size=8, seed=0))
    model.eval()
    check_sampling_is_addressed(model)


@pytest.mark.parametrize(
    "options",
    [{}, {"share_fakes": True}, {"discriminator_steps": 3, "terms": (GP,)}, {"weight_clip": 0.01}],
    ids=["plain", "shared", "critic", "clipped"],
)
@pytest.mark.parametrize("kind", ["mlp", "dcgan"])
def test_resumes_bit_equal(tmp_path: Path, kind: str, options: dict) -> None:
    def make() -> Trainer:
        model = make_gan(kind, **options)
        optimisers = {p.name: adam(p.module.parameters(), lr=1e-3) for p in model.phases()}
        batches = ImageBatches(small_data(), batch_size=8, seed=4, channels_last=kind == "dcgan")
        return Trainer(model, batches, optimisers, seed=9, ema=0.9)

    check_resumes_bit_equal(make, tmp_path)


def counting(module: nn.Module) -> list[int]:
    calls: list[int] = []
    module.register_forward_hook(lambda m, i, o: calls.append(len(i[0])))
    return calls


def test_each_forward_pass_is_made_once() -> None:
    """Objective, R1 and R2 together: one discriminator pass over data and fakes, one generator pass."""
    model = make_gan(terms=(R1, R2))
    d, g = counting(model.discriminator), counting(model.generator)
    model.discriminator_loss(a_batch(8))
    assert (d, g) == ([16], [8])
    model.generator_loss(a_batch(8))
    assert (d, g) == ([16, 8], [8, 8])


def test_under_batch_norm_data_and_fakes_are_kept_apart() -> None:
    model = make_gan("dcgan")
    d = counting(model.discriminator)
    model.discriminator_loss(a_batch(8))
    assert d == [8, 8]


def test_shared_fakes_are_made_once_and_give_the_same_gradient() -> None:
    """With D untouched in between, sharing changes nothing but the number of forward passes."""
    apart, shared = make_gan(), make_gan(share_fakes=True)
    g = counting(shared.generator)
    shared.discriminator_loss(a_batch())
    shared.generator_loss(a_batch())["adversarial"].sum().backward()
    assert g == [8]
    apart.generator_loss(a_batch())["adversarial"].sum().backward()
    for a, b in zip(apart.generator.parameters(), shared.generator.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    assert shared._handed is None, "fakes are handed over once"


def hand_gan(critic: nn.Module, **options) -> GAN:
    return GAN(
        generator=AffineGenerator(2.0, 1.0),
        discriminator=critic,
        prior=Normal(dim=4),
        objective=losses.wasserstein(),
        **options,
    )


def hand_batch(n: int) -> Batch:
    return Batch(
        torch.randn(n, 4, generator=torch.Generator().manual_seed(2)), None, 0, SampleStream(1, torch.arange(n))
    )


@pytest.mark.parametrize("n", [1, 64])
@pytest.mark.parametrize("term", [R1, R2, GP], ids=lambda t: t.name)
def test_terms_on_a_linear_critic(term: Term, n: int) -> None:
    """|w| = 5 everywhere: R1 = R2 = 25, (|w| - 1)^2 = 16, for each sample and any batch."""
    found = hand_gan(LinearCritic(torch.tensor([3.0, 0.0, 4.0, 0.0])), terms=(term,)).discriminator_loss(hand_batch(n))[
        term.name
    ]
    torch.testing.assert_close(found, torch.full((n,), 16.0 if term is GP else 25.0))


@pytest.mark.parametrize("n", [1, 64])
def test_terms_on_a_quadratic_critic(n: int) -> None:
    """grad D = x: R1 is |x|^2, R2 is |G(z)|^2, the penalty sits on the segment between them."""
    gan, batch = hand_gan(QuadraticCritic(), terms=(R1, R2, GP)), hand_batch(n)
    context = Context(gan, hand_batch(n), "discriminator")
    fake = context.fake
    found = gan.discriminator_loss(batch)
    torch.testing.assert_close(found["r1"], batch.x.square().sum(1))
    torch.testing.assert_close(found["r2"], fake.square().sum(1))
    between = context.interpolates
    along = ((between - batch.x) * (fake - batch.x)).sum(1) / (fake - batch.x).square().sum(1)
    assert ((along >= 0) & (along <= 1)).all()
    if n == 64:  # uniform: mean within four standard errors, both ends reached
        assert abs(float(along.mean()) - 0.5) < 4 / math.sqrt(12 * n)
        assert along.min() < 0.1 and along.max() > 0.9
    torch.testing.assert_close(batch.x + along[:, None] * (fake - batch.x), between, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["interpolate-penalty"], (between.norm(dim=1) - 1).square(), rtol=1e-4, atol=1e-5)


def test_wasserstein_step_by_hand() -> None:
    """D = w.x: dL_D/dw is mean(G(z)) - mean(x), dL_G/db is -sum(w)."""
    critic = LinearCritic(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    gan, batch = hand_gan(critic), hand_batch(16)
    fake = Context(gan, hand_batch(16), "discriminator").fake
    gan.discriminator_loss(batch)["adversarial"].mean().backward()
    torch.testing.assert_close(critic.w.grad, fake.mean(0) - batch.x.mean(0))
    gan.generator_loss(hand_batch(16))["adversarial"].mean().backward()
    generator = gan.generator
    assert isinstance(generator, AffineGenerator) and generator.b.grad is not None
    assert generator.b.grad.item() == pytest.approx(-10.0, rel=1e-5)


def test_lazy_terms_come_on_their_steps_at_full_strength() -> None:
    term = Term("r1", terms.r1, "discriminator", weight=0.5, every=4, needs=frozenset({"real_slope"}))
    gan = hand_gan(QuadraticCritic(), terms=(term,))
    assert gan.phases()[0].weights["r1"] == 2.0
    lazy = Term("data-anchor", terms.data_anchor, "generator", weight=0.5, every=4)
    assert hand_gan(QuadraticCritic(), terms=(lazy,)).phases()[1].weights["data-anchor"] == 2.0
    for step in range(9):
        found = gan.discriminator_loss(Batch(hand_batch(4).x, None, step, SampleStream(1, torch.arange(4))))
        assert ("r1" in found) == (step % 4 == 0)


def test_clip_holds_after_each_critic_step() -> None:
    """Both losses see clipped weights after every one of the critic's moves, not after the last of a round."""
    model = make_gan(objective="wasserstein", weight_clip=0.01, discriminator_steps=3)
    largest: list[float] = []
    for name in ("discriminator_loss", "generator_loss"):
        loss = getattr(model, name)

        def watched(batch: Batch, loss=loss):
            largest.append(max(p.abs().max().item() for p in model.discriminator.parameters()))
            return loss(batch)

        setattr(model, name, watched)
    optimisers = {p.name: adam(p.module.parameters(), lr=0.1) for p in model.phases()}
    for _ in Trainer(model, ImageBatches(small_data(), batch_size=8, seed=0), optimisers).steps(2):
        pass
    assert len(largest) == 8 and largest[0] > 0.01  # the weights it began with
    assert max(largest[1:]) == pytest.approx(0.01)


def test_the_discriminator_moves_so_many_times_on_batches_of_their_own() -> None:
    model = make_gan(discriminator_steps=3)
    seen: list[tuple[str, torch.Tensor]] = []
    for name in ("discriminator_loss", "generator_loss"):
        loss = getattr(model, name)
        setattr(model, name, lambda batch, name=name, loss=loss: (seen.append((name, batch.x)), loss(batch))[1])
    optimisers = {p.name: adam(p.module.parameters(), lr=0.1) for p in model.phases()}
    for _ in Trainer(model, ImageBatches(small_data(), batch_size=8, seed=0), optimisers).steps(2):
        pass
    assert [name for name, _ in seen] == ["discriminator_loss"] * 3 + ["generator_loss"] + [
        "discriminator_loss"
    ] * 3 + ["generator_loss"]
    assert not torch.equal(seen[0][1], seen[1][1]) and not torch.equal(seen[1][1], seen[2][1])


def test_overlap_is_the_share_of_fakes_that_beat_data() -> None:
    """D(x) = 3 + x summed; fakes 2 z + 1: by hand, pair by pair."""
    gan = hand_gan(LinearCritic(torch.ones(4), 3.0))
    batch = hand_batch(64)
    found = gan.discriminator_loss(batch)
    fake = Context(gan, hand_batch(64), "discriminator").fake
    wins = (fake.sum(dim=1) > batch.x.flatten(1).sum(dim=1)).float()
    assert torch.equal(found["overlap"], wins)
    assert 0.1 < float(wins.mean()) < 0.9


def test_labels_are_refused_by_a_model_without() -> None:
    with pytest.raises(NotSupported, match="unconditional"):
        make_gan().sample(2, labels=torch.zeros(2, dtype=torch.int64))


def test_sampling_leaves_training_mode_and_statistics_alone() -> None:
    model = make_gan("dcgan").train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.sample(4, generator=SampleStream(0, torch.arange(4)))
    assert model.generator.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_settle_finds_the_statistics_of_the_weights_at_hand() -> None:
    """After `settle`, evaluation mode normalises a large fresh batch to what training mode would."""
    model = make_gan("dcgan")
    model.settle()
    z = model.prior.sample(4000, generator=torch.Generator().manual_seed(3))
    evaluated = model.decode(z)
    model.generator.train()
    with torch.no_grad():
        trained: Tensor = model.generator(z)
    torch.testing.assert_close(evaluated, trained, rtol=0, atol=0.02)
    norm = next(m for m in model.generator.modules() if isinstance(m, nn.BatchNorm2d))
    assert norm.momentum == 0.1


def test_temperature_widens_the_latents_of_samples_alone() -> None:
    stream = lambda: SampleStream(0, torch.arange(8))  # noqa: E731
    gan = make_gan()
    z = gan.prior.sample(8, generator=stream())
    torch.testing.assert_close(gan.sample(8, generator=stream()), gan.decode(z), rtol=0, atol=0)
    build.change_sampler(gan, None, ["temperature=1.5"])
    torch.testing.assert_close(gan.sample(8, generator=stream()), gan.decode(1.5 * z), rtol=0, atol=0)
    assert torch.equal(Context(gan, a_batch(), "generator").z, Context(make_gan(), a_batch(), "generator").z)
    for setting, said in (("temperature=0", "above 0"), ("percentile=80", "drs")):
        with pytest.raises(ConfigError, match=said):
            build.change_sampler(gan, None, [setting])
    proposed, _ = proposals(gan, lambda x: x.flatten(1).sum(dim=1))(stream())  # as in training: D never saw others
    torch.testing.assert_close(proposed, gan.decode(z), rtol=0, atol=0)
    config = build.resolve(load_recipe("gan/vanilla", ["model.temperature=1.2"]))
    made = build.build_model(config, (1, 28, 28))
    assert isinstance(made, GAN) and made.temperature == 1.2
    flat = make_gan()
    flat.prior = Uniform(dim=8)
    build.change_sampler(flat, None, ["temperature=1"])
    with pytest.raises(NotSupported, match="normal"):
        build.change_sampler(flat, None, ["temperature=1.1"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["model.temperature=0"], "above 0"),
        (["model.temperature=inf"], "finite"),
        (["model.temperature=1.1", 'model.prior={name="uniform"}'], "normal latents"),
    ],
)
def test_temperatures_that_mean_nothing_are_refused(settings: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build.resolve(load_recipe("gan/vanilla", settings))


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_ways_between_latents_turn_where_latents_are_normal(kind: str) -> None:
    g = torch.Generator().manual_seed(0)
    model = make_gan()
    model.prior = Normal(dim=8) if kind == "normal" else Uniform(dim=8)
    stream = lambda: SampleStream(3, torch.arange(5))  # noqa: E731
    ways = model.paths(5, 7, generator=stream())
    again = stream()
    p, q = model.prior.sample(5, generator=again), model.prior.sample(5, generator=again)
    torch.testing.assert_close(ways[0], model.decode(p))
    torch.testing.assert_close(ways[6], model.decode(q))
    torch.testing.assert_close(ways[0], model.sample(5, generator=stream()))
    assert (ways[0] - ways[6]).abs().max() > 0.01
    if kind == "uniform":
        middle = (p + q) / 2
    else:  # half of the way round, and half of the way from length to length
        u, v = p / p.norm(dim=1, keepdim=True), q / q.norm(dim=1, keepdim=True)
        half = (u + v) / (u + v).norm(dim=1, keepdim=True)
        middle = half * (p.norm(dim=1, keepdim=True) + q.norm(dim=1, keepdim=True)) / 2
    torch.testing.assert_close(ways[3], model.decode(middle))
    with pytest.raises(NotSupported, match="unconditional"):
        model.paths(2, 3, labels=torch.zeros(2, dtype=torch.long), generator=g)
