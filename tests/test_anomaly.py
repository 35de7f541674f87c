"""The score suite: figures against plain counting, the sets it makes, and what it says of models that cannot score."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from program import call, refused
from torch import Tensor, nn

from pushforward import anomaly, runs
from pushforward.data.images import write_folder
from pushforward.errors import ConfigError, DataError, NotSupported
from pushforward.model import GenerativeModel, Phase

QUICK = ["--set", "train.steps=2", "--set", "train.batch_size=16", "--quiet"]
ENERGY = [*QUICK, "--set", "model.network.width=4", "--set", "model.chains.steps=1", "--set", "model.sampler.steps=2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "pcd"
    assert call("train", "energy/pcd", *ENERGY, "--set", "data.without=9", "--out", out).returncode == 0
    return out


class Ink(GenerativeModel):
    """Energy: the mean brightness."""

    def __init__(self) -> None:
        super().__init__()
        self.unit = nn.Parameter(torch.ones(()))

    def phases(self) -> tuple[Phase, ...]:
        return ()

    def sample(self, n: int, **_: object) -> Tensor:
        return torch.zeros(n, 1, 28, 28)

    def energy(self, x: Tensor) -> Tensor:
        return x.flatten(1).mean(dim=1) * self.unit


def test_an_energy_that_is_known_ranks_what_it_must(run: Path) -> None:
    loaded = runs.load_run(run)
    known = runs.Run(loaded.path, loaded.config, Ink(), 0, 0.0)
    report = anomaly.score(known, suite="shifts", n=200, quiet=True)
    table = report.scores["energy"]
    assert table["white"]["AUROC"].value == 1
    assert table["black"]["AUROC"].value == 0
    assert table["inverted"]["AUROC"].value == 1
    assert table["hflip"]["AUROC"].value == pytest.approx(0.5, abs=0.08)  # other digits, as bright in the mean
    assert table["black"]["FPR95, inliers positive"].value == 1
    assert table["white"]["FPR95, inliers positive"].value == 0
    assert report.scores["typicality"]["black"]["AUROC"].value > 0.95  # less ink than any digit is as untypical as more
    assert "slope" in report.scores
    # by hand, for one set
    inliers, outliers = report.inliers["energy"], report.outliers["energy"]["noise 0.5"]
    pairs = (outliers[:, None] > inliers).double() + 0.5 * (outliers[:, None] == inliers).double()
    assert table["noise 0.5"]["AUROC"].value == pytest.approx(float(pairs.mean()), abs=1e-12)


def test_the_ratio_is_the_difference_of_two_fields(run: Path) -> None:
    loaded = runs.load_run(run)
    report = anomaly.score(
        loaded, suite="shifts", n=20, background=runs.Run(run, loaded.config, Ink(), 0, 0.0), quiet=True
    )
    own, ratio = report.outliers["energy"]["fog"], report.outliers["ratio to the background"]["fog"]
    assert not torch.allclose(own, ratio)
    alone = anomaly.score(runs.Run(run, loaded.config, Ink(), 0, 0.0), suite="shifts", n=20, quiet=True)
    torch.testing.assert_close(own - ratio, alone.outliers["energy"]["fog"])


def test_a_class_that_training_never_saw_is_a_set_of_its_own(run: Path) -> None:
    loaded = runs.load_run(run)
    train = runs.load_data(loaded.config)
    assert 9 not in train.labels.tolist()  # type: ignore[union-attr]
    report = anomaly.score(loaded, suite="shifts", n=50, quiet=True)
    assert "held-out class" in report.scores["energy"]


def test_the_command(run: Path, tmp_path: Path) -> None:
    own = tmp_path / "mine"
    write_folder(torch.randint(256, (12, 1, 28, 28), dtype=torch.uint8), own)
    done = call("score", run, own, "-n", 30, "--out", tmp_path / "scored", "--quiet")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "scored/scores.json").read_text())
    assert found["n"] == 30
    assert str(own) in found["scores"]["energy"]
    assert "**worst**" in done.stdout
    assert (tmp_path / "scored/scores.png").stat().st_size > 20_000
    assert "fashion-mnist" in found["skipped"] or "fashion-mnist" in found["scores"]["energy"]


def test_what_cannot_score_says_so(tmp_path: Path, run: Path) -> None:
    class Mute(Ink):
        energy = None  # type: ignore[assignment]

    with pytest.raises(NotSupported, match="no energy, density or discriminator"):
        anomaly.field_of(_without_energy())
    loaded = runs.load_run(run)
    with pytest.raises(ConfigError, match="did you mean"):
        anomaly.score(loaded, suite="mnis", n=20)
    with pytest.raises(ConfigError, match="nothing to score"):
        anomaly.score(
            runs.Run(
                run,
                loaded.config.model_copy(update={"data": loaded.config.data.model_copy(update={"without": None})}),
                Ink(),
                0,
                0.0,
            ),
            suite="none",
            n=20,
        )
    wrong = tmp_path / "wrong"
    write_folder(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), wrong)
    with pytest.raises(DataError, match="shape"):
        anomaly.score(loaded, suite="none", files=[wrong], n=20)
    assert "at least one run" in refused("score", wrong)
    conditional = tmp_path / "conditional"
    call(
        "train",
        "gan/dcgan-conditional",
        *QUICK,
        "--set",
        "model.generator.width=4",
        "--set",
        "model.discriminator.width=4",
        "--out",
        conditional,
    )
    assert "unconditional GAN" in refused("score", conditional, "-n", 20)


def _without_energy() -> GenerativeModel:
    class Plain(GenerativeModel):
        def phases(self) -> tuple[Phase, ...]:
            return ()

        def sample(self, n: int, **_: object) -> Tensor:
            return torch.zeros(n, 1)

    return Plain()


def test_gans_and_diffusion_models_score_too(tmp_path: Path) -> None:
    call("train", "gan/vanilla", *QUICK, "--out", tmp_path / "gan")
    call(
        "train",
        "diffusion/edm",
        *QUICK,
        "--set",
        "model.network.width=16",
        "--set",
        "model.sampler.steps=2",
        "--out",
        tmp_path / "edm",
    )
    done = call(
        "score",
        tmp_path / "gan",
        tmp_path / "edm",
        "--suite",
        "none",
        _noise(tmp_path),
        "-n",
        10,
        "--out",
        tmp_path / "s",
        "--quiet",
    )
    assert done.returncode == 0, done.stderr
    kinds = {name: json.loads((tmp_path / "s" / name / "scores.json").read_text())["field"] for name in ("gan", "edm")}
    assert kinds == {"gan": "logit of the discriminator, negated", "edm": "ODE negative log-likelihood"}


def _noise(tmp_path: Path) -> Path:
    write_folder(torch.randint(256, (10, 1, 28, 28), dtype=torch.uint8), tmp_path / "noise")
    return tmp_path / "noise"


def test_data_without_a_class_is_refused_where_there_is_none(tmp_path: Path) -> None:
    assert "has the labels 0, 1" in refused(
        "train", "gan/vanilla", *QUICK, "--set", "data.without=12", "--out", tmp_path / "a"
    )
    assert "no labels" in refused("train", "gan/toy", *QUICK, "--set", "data.without=1", "--out", tmp_path / "b")
