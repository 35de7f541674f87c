"""The diffusion model: its loss, its sampler, the contract of all families."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from contract import check_gradients, check_resumes_bit_equal, check_sampling_is_addressed, check_shapes
from torch import Tensor, nn

from pushforward import build
from pushforward.build.diffusion import change_sampler, make_sampler, sampler_table
from pushforward.config import load_recipe, parse, recipe_names
from pushforward.data.batches import ImageBatches
from pushforward.data.images import ImageSet
from pushforward.errors import ConfigError, NotSupported
from pushforward.families.diffusion.denoisers import PARAMETRISATIONS, EmpiricalDenoiser, NetworkDenoiser
from pushforward.families.diffusion.guidance import Clipped, DynamicThreshold
from pushforward.families.diffusion.model import Diffusion, Sampler, draw_times
from pushforward.families.diffusion.schedules import VE, VP, DiscreteDDPM, Rectified
from pushforward.model import Batch
from pushforward.networks.unet import MLPDenoiserNetwork, UNet
from pushforward.randomness import SampleStream
from pushforward.training.optimisers import adam
from pushforward.training.trainer import Trainer

RECIPES = [r for r in recipe_names() if r.startswith("diffusion/")]


def images(classes: bool = False) -> ImageSet:
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (64, 1, 8, 8), generator=g, dtype=torch.uint8)
    return ImageSet(x, torch.arange(64) % 3 if classes else None, classes=("a", "b", "c") if classes else ())


def small(*, classes: int | None = None, sampler: Sampler | None = None) -> Diffusion:
    torch.manual_seed(0)
    network = UNet(shape=(1, 8, 8), width=8, multipliers=(1, 2), blocks=1, classes=classes)
    for m in network.modules():  # what starts at zero would hide wrong wiring
        if isinstance(m, nn.Conv2d | nn.Linear) and not m.weight.any():
            nn.init.normal_(m.weight, 0.0, 0.1)
    denoiser = NetworkDenoiser(network, VE(), parametrisation="edm")
    sampler = sampler or Sampler(solver="heun", steps=4)
    return Diffusion(denoiser=denoiser, shape=(1, 8, 8), sampler=sampler, classes=classes, times="log-normal")


@pytest.mark.parametrize("classes", [None, 3])
def test_contract(classes: int | None, tmp_path: Path) -> None:
    sampler = Sampler(solver="heun", steps=4, guidance=2.0) if classes else None
    model = small(classes=classes, sampler=sampler)
    batches = ImageBatches(images(classes is not None), batch_size=8, seed=0)
    check_shapes(model, batches)
    check_gradients(model, batches)
    check_sampling_is_addressed(model)

    def trainer() -> Trainer:
        fresh = small(classes=classes)
        data = ImageBatches(images(classes is not None), batch_size=8, seed=0)
        return Trainer(fresh, data, {"denoiser": adam(fresh.denoiser.parameters(), lr=1e-3)}, seed=3, ema=0.9)

    check_resumes_bit_equal(trainer, tmp_path)


class Constant(nn.Module):
    """Gives `value` whatever it sees, and remembers what that was."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.seen: list[Tensor | None] = []

    def forward(self, x: Tensor, level: Tensor, labels: Tensor | None = None) -> Tensor:
        self.seen.append(labels)
        return self.value.expand_as(x)


def one_batch(x: Tensor, labels: Tensor | None = None) -> Batch:
    return Batch(x, labels, 0, SampleStream(11, torch.arange(len(x))))


@pytest.mark.parametrize("weighting", ["plain", "min-snr", "edm"])
@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
def test_the_loss_is_the_weighted_error_of_the_denoised_data(parametrisation: str, weighting: str) -> None:
    """Every parametrisation's loss equals weight(t) |D - x|^2, with weights written from the papers."""
    schedule, sd = DiscreteDDPM(), 0.5
    x = torch.randn(16, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.5
    denoiser = NetworkDenoiser(Constant(0.3), schedule, parametrisation=parametrisation, data_sd=sd)  # type: ignore[arg-type]
    model = Diffusion(
        denoiser=denoiser,
        shape=(1, 4, 4),
        sampler=Sampler(),
        times="discrete",
        weighting=weighting,  # type: ignore[arg-type]
    )
    loss = model.loss(one_batch(x))["denoising"]
    stream = SampleStream(11, torch.arange(16))  # the same draws
    t = draw_times(denoiser, "discrete", stream)
    eps = stream.normal(x.shape)
    alpha, sigma = (v.float().reshape(-1, 1, 1, 1) for v in schedule(t))
    noised = alpha * x + sigma * eps
    error = (denoiser(noised, t) - x).square()
    snr = (alpha / sigma).square()
    s = sigma / alpha
    plain = {
        "eps": snr,  # |eps error|^2 = snr |x error|^2
        "x0": torch.ones_like(snr),
        "v": snr + 1,  # for alpha^2 + sigma^2 = 1
        "flow": ((alpha + sigma) / sigma).square(),
        "edm": (s.square() + sd**2) / (s * sd).square(),
    }[parametrisation]
    weight = {"plain": plain, "min-snr": snr.clamp(max=5), "edm": (s.square() + sd**2) / (s * sd).square()}[weighting]
    torch.testing.assert_close(loss, (weight * error).flatten(1).mean(dim=1), rtol=2e-3, atol=1e-5)


def test_no_network_beats_the_empirical_denoiser_on_its_data() -> None:
    data = torch.randn(12, 1, 2, 2, generator=torch.Generator().manual_seed(0)) * 0.5
    schedule = VP()
    best = EmpiricalDenoiser(data, schedule)
    g = torch.Generator().manual_seed(1)
    for t in (0.2, 0.5, 0.8):
        alpha, sigma = schedule(torch.tensor(t, dtype=torch.float64))
        i = torch.randint(0, 12, (4000,), generator=g)
        x = data[i]
        noised = (alpha * x + sigma * torch.randn(x.shape, generator=g)).float()
        own = (best(noised, torch.tensor(t)) - x).square().mean()
        for other in (noised / float(alpha), data.mean(dim=0).expand_as(x), 0.8 * best(noised, torch.tensor(t))):
            assert own < (other - x).square().mean()


def test_labels_are_hidden_at_the_stated_rate() -> None:
    network = Constant(0.0)
    denoiser = NetworkDenoiser(network, VP(), parametrisation="v")
    model = Diffusion(denoiser=denoiser, shape=(1, 1, 1), sampler=Sampler(), classes=4, label_dropout=0.25)
    n = 8000
    labels = torch.arange(n) % 4
    model.loss(Batch(torch.zeros(n, 1, 1, 1), labels, 0, SampleStream(0, torch.arange(n))))
    (seen,) = network.seen
    assert seen is not None
    assert float((seen == 4).double().mean()) == pytest.approx(0.25, abs=0.02)
    assert torch.equal(seen[seen != 4], labels[seen != 4])


def test_times_have_their_laws() -> None:
    denoiser = NetworkDenoiser(Constant(0.0), VE(), parametrisation="edm")
    stream = SampleStream(0, torch.arange(20_000))
    log_ratio = VE().ratio(draw_times(denoiser, "log-normal", stream)).log()
    assert float(log_ratio.mean()) == pytest.approx(-1.2, abs=0.03)
    assert float(log_ratio.std()) == pytest.approx(1.2, abs=0.03)
    t = draw_times(denoiser, "logit-normal", stream)
    assert float(torch.logit(t).std()) == pytest.approx(1.0, abs=0.03)
    assert float(torch.logit(t).mean()) == pytest.approx(0.0, abs=0.03)
    t = draw_times(denoiser, "uniform", stream)
    assert 0.001 <= float(t.min()) < 0.003
    assert 0.999 < float(t.max()) <= 1
    assert float(t.mean()) == pytest.approx(0.5, abs=0.01)
    table = NetworkDenoiser(Constant(0.0), DiscreteDDPM(steps=10), parametrisation="eps")
    t = draw_times(table, "discrete", stream)
    assert sorted(set((t * 10).round().tolist())) == list(range(1, 11))


def test_sampling_an_exact_denoiser_gives_its_data_whatever_the_recipe() -> None:
    """The whole sampling path, with a network that happens to be perfect."""
    data = torch.tensor([[-0.5], [0.7]]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4).contiguous()

    class Perfect(nn.Module):
        def __init__(self, exact: EmpiricalDenoiser, denoiser: list[NetworkDenoiser]) -> None:
            super().__init__()
            self.exact, self.denoiser = exact, denoiser
            self.unused = nn.Parameter(torch.zeros(1))

        def forward(self, scaled: Tensor, level: Tensor, labels: Tensor | None = None) -> Tensor:
            t = self.exact.schedule.time(level.double().exp())
            alpha, sigma = (v.reshape(-1, 1, 1, 1) for v in self.exact.schedule.levels(t))
            c = self.denoiser[0].scaling(alpha, sigma, 0.5)
            x = scaled.double() / c.into
            return ((self.exact(x, t, labels) - c.skip * x) / c.out).float()

    for schedule, parametrisation in ((VE(), "edm"), (DiscreteDDPM(), "eps"), (Rectified(), "flow")):
        exact = EmpiricalDenoiser(data, schedule, labels=torch.tensor([0, 1]))
        holder: list[NetworkDenoiser] = []
        denoiser = NetworkDenoiser(Perfect(exact, holder), schedule, parametrisation=parametrisation)  # type: ignore[arg-type]
        holder.append(denoiser)
        model = Diffusion(denoiser=denoiser, shape=(1, 4, 4), sampler=Sampler(solver="dpmpp-2m"), classes=2)
        x = model.sample(4, labels=torch.tensor([0, 1, 1, 0]), generator=SampleStream(0, torch.arange(4)))
        torch.testing.assert_close(x, data[[0, 1, 1, 0]], atol=2e-3, rtol=0)


def test_labels_of_an_unconditional_model_are_refused() -> None:
    with pytest.raises(NotSupported, match="unconditional"):
        small().sample(2, labels=torch.tensor([0, 1]))


@pytest.mark.parametrize("side", [7, 9, 28, 30])
def test_unet_takes_any_size_and_every_pixel_counts(side: int) -> None:
    net = UNet(shape=(2, side, side), width=8, multipliers=(1, 2, 2), blocks=1)
    nn.init.normal_(net.head.weight, 0.0, 0.1)
    for m in net.modules():
        if isinstance(m, nn.Conv2d) and not m.weight.any():
            nn.init.normal_(m.weight, 0.0, 0.1)
    x = torch.randn(2, 2, side, side, requires_grad=True)
    out = net(x, torch.zeros(2))
    assert out.shape == x.shape
    (slope,) = torch.autograd.grad(out.square().sum(), x)
    assert (slope != 0).all()


def test_networks_are_told_level_and_class() -> None:
    for net in (
        UNet(shape=(1, 8, 8), width=8, classes=3),
        MLPDenoiserNetwork(shape=(2,), hidden=16, classes=3),
    ):
        for p in net.parameters():
            if not p.any():
                nn.init.normal_(p, 0.0, 0.1)
        x = torch.randn(1, *net.shape).expand(3, *net.shape)
        out = net(x, torch.tensor([0.0, 2.0, 0.0]), torch.tensor([0, 0, 1]))
        assert (out[0] - out[1]).abs().max() > 1e-4
        assert (out[0] - out[2]).abs().max() > 1e-4
        none = net(x, torch.zeros(3))
        torch.testing.assert_close(none, net(x, torch.zeros(3), torch.full((3,), 3)))


# --- recipes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_builds_and_steps(recipe: str) -> None:
    config = build.resolve(load_recipe(recipe))
    shape = (2,) if "2d" in recipe or "toy" in recipe else (1, 28, 28)
    model = build.build_model(config, shape)
    assert isinstance(model, Diffusion)
    optimiser = build.build_optimisers(config, model)["denoiser"]
    x = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    labels = None if model.classes is None else torch.tensor([0, 1, 2, 3])
    before = [p.clone() for p in model.parameters()]
    (phase,) = model.phases()
    loss = phase.total({n: t.mean() for n, t in phase.loss(one_batch(x, labels)).items()})
    loss.backward()
    optimiser.step()
    assert torch.isfinite(loss)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def refused(table: dict, said: str) -> None:
    base = {
        "family": "diffusion",
        "network": "unet",
        "schedule": "ve",
        "parametrisation": "edm",
    }
    with pytest.raises(ConfigError, match=said):
        config = parse({"model": base | table, "optimiser": {"denoiser": {"name": "adam"}}}, "test")
        build.build_model(build.resolve(config), (1, 28, 28))


def test_what_makes_no_sense_is_refused_with_the_reason() -> None:
    refused({"schedule": "rectified", "parametrisation": "eps"}, "pure noise")
    refused({"times": "discrete"}, "no levels of its own")
    refused({"sampler": {"solver": "heum"}}, "heun")
    refused({"sampler": {"solver": "heun", "eta": 1.0}}, "eta")
    refused({"sampler": {"guidance": 3.0}}, "classes")
    refused({"sampler": {"solver": "heun", "steps": 1}}, "at least 2")
    refused({"sampler": {"solver": "unipc", "order": 9}}, "order")
    refused({"wieghting": "plain"}, "weighting")
    refused({"sampler": {"rho": 0.0}}, "rho")
    refused({"sampler": {"low": 100.0, "high": 140.0}}, "largest ratio")
    refused({"sampler": {"churn": -1.0}}, "churn")
    refused({"sampler": {"solver": "ddim", "eta": 5.0}}, "eta")
    refused({"classes": 10, "sampler": {"guidance": 2.0, "guidance_rescale": 7.0}}, "rescale")
    refused({"classes": 10, "sampler": {"guidance": float("inf")}}, "finite")
    refused({"weighting": "heavy"}, "plain")
    refused({"network": {"name": "unet", "width": 0}}, "at least 1")
    refused({"label_dropout": 1.0}, "label_dropout")
    refused({"data_sd": 0.0}, "data_sd")


def test_a_sampler_is_changed_after_training() -> None:
    model = small(classes=3)
    change_sampler(model, None, ["steps=7", "guidance=2.5", "guidance_low=0.1"])
    assert model.sampler.steps == 7
    assert model.sampler.guidance == 2.5
    assert dict(model.sampler.guidance_options)["low"] == 0.1
    change_sampler(model, "ddim", ["eta=0.5"])
    assert model.sampler.solver == "ddim"
    assert model.sampler.guidance == 2.5  # kept
    assert model.sampler.steps is None  # the new solver's own
    assert dict(model.sampler.solver_options) == {"eta": 0.5}
    with pytest.raises(ConfigError, match="churn"):
        change_sampler(model, None, ["churn=3"])
    with pytest.raises(ConfigError, match="guidance"):
        change_sampler(small(), None, ["guidance=3"])


def test_sampler_tables_are_complete_and_read_back() -> None:
    table = sampler_table({"solver": "heun", "rho": 5}, "sampler")
    assert sampler_table(table, "sampler") == table
    sampler = make_sampler(table)
    assert dict(sampler.grid_options)["rho"] == 5
    assert dict(sampler.solver_options)["churn"] == 0


def test_the_samplers_options_reach_solver_grid_guidance_and_clip() -> None:
    model = small(classes=3, sampler=Sampler(solver="heun", steps=4, guidance=2.0))
    draw = lambda: model.sample(2, labels=torch.tensor([0, 1]), generator=SampleStream(0, torch.arange(2)))  # noqa: E731
    plain = draw()
    for change in ("churn=3", "rho=3", "guidance_rescale=0.7", "clip=static", "clip=dynamic", "guidance_high=0.3"):
        change_sampler(model, None, [change])
        assert not torch.equal(draw(), plain), change
        change_sampler(model, "ddim", [])
        change_sampler(model, "heun", ["steps=4", "clip=none", "guidance_rescale=0", "guidance_high=1"])
        assert torch.equal(draw(), plain), change
    change_sampler(model, None, ["clip=static"])
    assert float(draw().abs().max()) <= 1 + 1e-5
    assert type(model.guided(None)) is Clipped
    change_sampler(model, None, ["clip=dynamic"])
    assert type(model.guided(None)) is DynamicThreshold


def test_samples_without_labels_are_of_every_class() -> None:
    drawn = small(classes=3).draw_labels(300, None, SampleStream(0, torch.arange(300)))
    assert drawn is not None
    assert torch.bincount(drawn).tolist() == pytest.approx([100, 100, 100], abs=35)


def test_the_models_score_is_the_denoisers() -> None:
    model, x, t = small(), torch.rand(2, 1, 8, 8) - 0.5, torch.tensor(0.4, dtype=torch.float64)
    alpha, sigma = (float(v) for v in model.denoiser.schedule.levels(t))
    with torch.no_grad():
        torch.testing.assert_close(model.score(x, t), (alpha * model.denoiser(x, t) - x) / sigma**2)


def test_the_centre_of_log_normal_times_is_the_models() -> None:
    model = small()
    seen: list[Tensor] = []
    raw = model.denoiser.raw

    def spy(x: Tensor, t: Tensor, labels: Tensor | None = None) -> object:
        seen.append(VE().ratio(t).log())
        return raw(x, t, labels)

    model.denoiser.raw = spy  # type: ignore[assignment, method-assign]
    for centre in (-1.2, 1.0):
        model.times_centre = centre
        model.loss(one_batch(torch.zeros(4000, 1, 8, 8)))
        assert float(seen[-1].mean()) == pytest.approx(centre, abs=0.1)


def test_edms_target_keeps_its_digits_at_tiny_noise() -> None:
    x, eps = torch.tensor([[0.37]]), torch.tensor([[1.3]])
    model = Diffusion(
        denoiser=NetworkDenoiser(Constant(0.0), VE(), parametrisation="edm"), shape=(1,), sampler=Sampler()
    )
    for sigma in (1e-8, 1e-3, 1.0, 50.0):
        s = torch.tensor([[sigma]])
        c = model.denoiser.scaling(torch.ones(1, 1), s, 0.5)
        d, e, q = 0.37, 1.3, sigma
        want = (q * d / 0.5 - 0.5 * e) / (0.25 + q * q) ** 0.5
        assert float(model._target(x, eps, torch.ones(1, 1), s, c)) == pytest.approx(want, rel=1e-5)
