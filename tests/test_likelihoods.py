"""Likelihood everywhere: one data set whose density is known, judged through every kind."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from program import call, refused
from torch import Tensor, nn

from pushforward import runs
from pushforward.build import resolve
from pushforward.config import load_recipe
from pushforward.data.toy import DENSITIES, Mixture
from pushforward.errors import NotSupported
from pushforward.evaluation.likelihoods import likelihood_of
from pushforward.families.diffusion.denoisers import GaussianDenoiser
from pushforward.families.energy.model import EnergyModel
from pushforward.randomness import SampleStream, derive_seed
from pushforward.samplers.annealed import LogZ


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Mixture:
    """Data of the plane with a density: one broad Gaussian under the name of the moons."""
    law = Mixture([[0.3, -0.2]], sd=0.7)
    monkeypatch.setitem(DENSITIES, "moons", law)
    return law


def run_of(recipe: str, *settings: str) -> runs.Run:
    config = resolve(load_recipe(recipe, ["train.steps=1", *settings], data="moons"))
    return runs.Run(Path(), config, runs.make_trainer(config, runs.load_data(config)).model.eval(), 1, 0.0)


def exact(law: Mixture, n: int) -> float:
    x = law.sample(n, generator=SampleStream(derive_seed(0, "test"), torch.arange(n)))
    return float(-law.log_prob(x).mean())


def test_an_energy_by_ais(known: Mixture) -> None:
    run = run_of("energy/ebm-2d")
    assert isinstance(run.model, EnergyModel)

    class Exact(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.tensor(11.0))  # what log Z must undo

        def forward(self, x: Tensor) -> Tensor:
            return self.shift - known.log_prob(x)

    run.model.network = Exact()
    found = likelihood_of(run, 1000)
    assert found is not None
    assert found.kind == "AIS"
    assert found.nats.value == pytest.approx(exact(known, 1000), abs=0.1)
    assert "log Z, 95 % interval" in found.nats.method and "in effect" in found.nats.method
    assert found.nats.stderr > float(known.log_prob(known.sample(1000)).std()) / math.sqrt(1100)


def test_a_diffusion_model_by_its_ode(known: Mixture) -> None:
    run = run_of("diffusion/toy-edm")
    denoiser = GaussianDenoiser(known.means[0], 0.7**2 * torch.eye(2), run.model.denoiser.schedule)  # type: ignore[union-attr, arg-type]
    run.model._modules.pop("denoiser")
    run.model.__dict__["denoiser"] = denoiser
    found = likelihood_of(run, 500)
    assert found is not None
    assert found.kind == "ODE"
    assert found.nats.value == pytest.approx(exact(known, 500), abs=0.03)


def test_images_are_bytes_made_continuous_and_the_offset_is_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A density of 1 over [-1, 1]^d gives each byte 1 / 127.5 of it: log2(127.5) bits a dimension."""
    seen: list[Tensor] = []

    def flat(denoiser: object, x: Tensor, **_: object) -> Tensor:
        seen.append(x)
        return torch.zeros(len(x))

    monkeypatch.setattr("pushforward.evaluation.likelihoods.ode_log_prob", flat)
    small = ["model.network.width=16", "train.batch_size=8", "train.steps=1", 'train.precision="no"']
    config = resolve(load_recipe("diffusion/edm", small))
    run = runs.Run(Path(), config, runs.make_trainer(config, runs.load_data(config)).model.eval(), 1, 0.0)
    found = likelihood_of(run, 700)
    assert found is not None
    assert found.bits_per_dim.value == pytest.approx(math.log2(127.5))
    assert found.nats.method.startswith("ODE, n = 500;")
    x = torch.cat(seen)
    byte = (x + 1) * 127.5
    assert float((byte - byte.round()).abs().mean()) == pytest.approx(0.25, abs=0.01)  # uniform within their bytes
    assert float((byte - byte.round()).abs().max()) <= 0.5 + 1e-4


def test_an_energy_of_images_has_the_offset_of_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of [-1, 1]^784 by the density 1: again log2(127.5) bits a dimension."""
    log_z = LogZ(0.0, -19.6, 19.6, 100.0, 1.0, torch.zeros(200))
    monkeypatch.setattr("pushforward.evaluation.likelihoods.ais_log_prob", lambda m, x, g: (torch.zeros(len(x)), log_z))
    config = resolve(
        load_recipe(
            "energy/pcd", ["model.network.width=4", "train.batch_size=8", "train.steps=1", 'train.precision="no"']
        )
    )
    run = runs.Run(Path(), config, runs.make_trainer(config, runs.load_data(config)).model.eval(), 1, 0.0)
    found = likelihood_of(run, 20)
    assert found is not None and found.kind == "AIS"
    assert found.bits_per_dim.value == pytest.approx(math.log2(127.5))
    assert found.nats.stderr == pytest.approx(10.0)  # half of the interval over 1.96, and images that do not differ


def test_estimates_that_share_their_draws_share_an_error() -> None:
    """A log-determinant that errs by 1 nat for a batch at a time: the mean errs by 1 / sqrt(batches), whatever the images."""
    small = ["model.flow.blocks=1", "model.flow.hidden=[4]", "train.batch_size=8", "train.steps=1"]
    config = resolve(load_recipe("flow/residual-mnist", small))
    run = runs.Run(Path(), config, runs.make_trainer(config, runs.load_data(config)).model.eval(), 1, 0.0)
    assert run.model.kind == "estimated bound"  # type: ignore[union-attr]
    noise = torch.Generator().manual_seed(0)

    def log_prob(x: Tensor, *, generator: object) -> Tensor:
        return torch.randn((), generator=noise).expand(len(x))

    run.model.log_prob = log_prob  # type: ignore[union-attr, method-assign, assignment]
    found = likelihood_of(run, 400)
    assert found is not None and found.nats.method.startswith("estimated bound;")
    assert found.nats.stderr == pytest.approx(1 / math.sqrt(20), rel=0.4)
    assert found.bits_per_dim.stderr == pytest.approx(found.nats.stderr / (784 * math.log(2)))


def test_a_diffusion_model_that_always_saw_labels_has_no_density_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushforward.evaluation.likelihoods.ode_log_prob", lambda d, x, **_: torch.zeros(len(x)))
    small = ["model.network.width=16", "train.batch_size=8", "train.steps=1", 'train.precision="no"']
    for share, said in ((0.0, None), (0.1, "ODE without labels, n = ")):
        config = resolve(load_recipe("diffusion/edm-conditional", [*small, f"model.label_dropout={share}"]))
        run = runs.Run(Path(), config, runs.make_trainer(config, runs.load_data(config)).model.eval(), 1, 0.0)
        if said is None:
            with pytest.raises(NotSupported, match="every label shown"):
                likelihood_of(run, 20)
        else:
            found = likelihood_of(run, 1000)
            assert found is not None and found.nats.method.startswith(said)


def test_labels_go_with_their_images(monkeypatch: pytest.MonkeyPatch) -> None:
    small = [
        "model.classes=10",
        "train.steps=1",
        "train.batch_size=8",
        'train.precision="no"',
        "model.flow.width=4",
        "model.flow.steps=1",
    ]
    config = resolve(load_recipe("flow/multiscale-mnist", small))
    run = runs.Run(Path(), config, runs.make_trainer(config, runs.load_data(config)).model.eval(), 1, 0.0)
    told: list[tuple[Tensor, Tensor]] = []

    def log_prob(x: Tensor, *, labels: Tensor, generator: object) -> Tensor:
        told.append((x, labels))
        return torch.zeros(len(x))

    monkeypatch.setattr(run.model, "log_prob", log_prob)
    found = likelihood_of(run, 60)
    assert found is not None and found.nats.method.startswith("bound given the label;")
    test = runs.load_data(config, "test")
    images = {bytes(i.flatten().tolist()): int(k) for i, k in zip(test.images, test.labels, strict=True)}  # type: ignore[union-attr, arg-type]
    x, labels = (torch.cat(t) for t in zip(*told, strict=True))
    assert [images[bytes(((i + 1) * 127.5).round().to(torch.uint8).flatten().tolist())] for i in x] == labels.tolist()
    assert len(labels.unique()) > 5


def test_an_estimate_that_rests_on_few_chains_is_refused(known: Mixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A narrow law by importance sampling from a wide one, without annealing."""
    run = run_of("energy/ebm-2d")
    assert isinstance(run.model, EnergyModel)

    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unit = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return self.unit * 1e4 * (x - 2).square().sum(dim=1)

    run.model.network = Narrow()
    monkeypatch.setattr("pushforward.evaluation.likelihoods.LEVELS", 1)
    with pytest.raises(NotSupported, match="rests on"):
        likelihood_of(run, 100)
    assert all(p.requires_grad for p in run.model.parameters())


def test_a_flow_exactly_and_a_gan_not_at_all(known: Mixture) -> None:
    run = run_of("flow/nsf-2d")
    found = likelihood_of(run, 500)
    assert found is not None
    assert found.kind == "exact"
    x = known.sample(500, generator=SampleStream(derive_seed(0, "test"), torch.arange(500)))
    assert found.nats.value == pytest.approx(float(-run.model.log_prob(x).mean().detach()))  # type: ignore[operator]
    assert likelihood_of(run_of("gan/toy"), 10) is None


def test_the_column(tmp_path: Path) -> None:
    quick = ["--set", "train.steps=2", "--set", "train.batch_size=8", "--quiet"]
    call(
        "train",
        "flow/realnvp-mnist",
        *quick,
        "--set",
        "model.flow.width=8",
        "--set",
        "model.flow.steps=1",
        "--out",
        tmp_path / "flow",
    )
    call("train", "gan/vanilla", *quick, "--out", tmp_path / "gan")
    done = call(
        "evaluate",
        tmp_path / "flow",
        tmp_path / "gan",
        "-n",
        50,
        "--metrics",
        "frechet,likelihood",
        "--quiet",
        "--out",
        tmp_path / "o",
    )
    assert done.returncode == 0, done.stderr
    flow, gan = json.loads((tmp_path / "o/result.json").read_text())["results"]
    assert flow["values"]["bits per dim"]["method"].startswith("bound")
    assert flow["values"]["nats"]["value"] == pytest.approx(flow["values"]["bits per dim"]["value"] * 784 * math.log(2))
    assert "nats" not in gan["values"]
    none = ("evaluate", tmp_path / "gan", "-n", 50, "--metrics", "likelihood", "--quiet", "--out", tmp_path / "p")
    assert "a GAN has no likelihood" in refused(*none)
    call(
        "train",
        "energy/pcd",
        *quick,
        "--set",
        "model.network.width=4",
        "--set",
        "model.chains.steps=1",
        "--set",
        "model.sampler.steps=2",
        "--out",
        tmp_path / "pcd",
    )
    # with another sampler since, it is no less so
    config = tmp_path / "pcd/config.toml"
    head, _, rest = config.read_text().partition("[model.sampler]")
    own, bracket, after = rest.partition("\n[")
    told = "\n".join(line for line in own.split("\n") if not line.startswith(("noise", "clip")))
    assert told != own
    config.write_text(f"{head}[model.sampler]{told}{bracket}{after}")
    assert "tempered" in refused("evaluate", tmp_path / "pcd", "-n", 50, "--metrics", "likelihood", "--quiet")
