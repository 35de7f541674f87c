"""The score suite: figures against plain counting, the sets it makes, and what it says of models that cannot score."""

from __future__ import annotations

import io
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from program import call, refused
from torch import Tensor, nn

from pushforward import anomaly, build, runs
from pushforward.config import load_recipe
from pushforward.data.images import to_model, write_folder
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
    torch.testing.assert_close(report.outliers["slope"]["fog"], torch.full((200,), 1 / 28).double())  # of a mean of 784
    train = runs.load_data(loaded.config, "train").images  # type: ignore[union-attr]
    centre = to_model(train[runs.spread(len(train), 200)]).mean()
    far = (report.inliers["energy"] - centre).abs()  # from the mean of training images, not of those that are judged
    torch.testing.assert_close(report.inliers["typicality"], far, rtol=0, atol=1e-5)
    # by hand, for one set
    inliers, outliers = report.inliers["energy"], report.outliers["energy"]["noise 0.5"]
    pairs = (outliers[:, None] > inliers).double() + 0.5 * (outliers[:, None] == inliers).double()
    assert table["noise 0.5"]["AUROC"].value == pytest.approx(float(pairs.mean()), abs=1e-12)


def test_fields_grow_with_strangeness() -> None:
    """Of a GAN the logit, of a density the likelihood: both high for what looks like data, so that their fields are minus these."""
    x = torch.randn(5, 2)

    class Density(Ink):
        energy = None  # type: ignore[assignment]

        def log_prob(self, x: Tensor) -> Tensor:
            return -x.square().sum(dim=1)

    density = Density()
    assert torch.equal(anomaly.field_of(_Known(density)).value(x), x.square().sum(dim=1))
    gan = build.build_model(build.resolve(load_recipe("gan/toy", data="ring-8")), (2,))
    field = anomaly.field_of(gan)
    with torch.no_grad():
        assert torch.equal(field.value(x), -gan.discriminator(x))  # type: ignore[operator]
    assert field.kind == "logit of the discriminator, negated"
    critic = build.build_model(build.resolve(load_recipe("gan/wgan-gp", data="mnist-5k")), (1, 28, 28))
    assert anomaly.field_of(critic).kind == "output of the discriminator, negated"  # no probability to read off it


def test_bytes_have_no_slope() -> None:
    config = build.resolve(load_recipe("flow/multiscale-mnist", ["model.flow.width=4", "model.flow.steps=1"]))
    assert not anomaly.field_of(build.build_model(config, (1, 28, 28))).differentiable
    points = build.resolve(load_recipe("flow/nsf-2d"))
    assert anomaly.field_of(build.build_model(points, (2,))).differentiable


def test_figures_are_under_their_own_names() -> None:
    """Nine of ten inliers at 0 and one at 10 against outliers at 1: what each figure is can be counted."""
    g = torch.Generator().manual_seed(0)
    inliers = torch.cat([torch.zeros(90), torch.full((10,), 10.0)]).double()
    outliers = torch.ones(50).double() + 1e-6 * torch.rand(50, generator=g).double()
    found = anomaly.figures({"": inliers, "a": outliers})["a"]
    assert found["AUROC"].value == pytest.approx(0.9)
    assert found["FPR95, outliers positive"].value == pytest.approx(0.1)  # inliers above the outliers' 5 % quantile
    assert found["FPR95, inliers positive"].value == pytest.approx(1.0)  # outliers below the inliers' 95 % quantile
    ranked = [1] * 0 + [0] * 10 + [1] * 50  # from the strangest: ten inliers, then all outliers
    hits = [sum(ranked[: i + 1]) / (i + 1) for i, is_outlier in enumerate(ranked) if is_outlier]
    assert found["AUPR out"].value == pytest.approx(sum(hits) / len(hits), abs=0.01)
    assert found["AUPR in"].value > 0.93
    nan = outliers.clone()
    nan[0] = torch.nan
    with pytest.raises(NotSupported, match=r"\(a\)"):
        anomaly.figures({"": inliers, "a": nan})
    bad = inliers.clone()
    bad[0] = torch.nan
    with pytest.raises(NotSupported, match=r"\(inliers\)"):
        anomaly.figures({"": bad, "a": outliers})


def test_the_worst_of_each_figure_is_named() -> None:
    inliers = torch.arange(40.0).double()
    found = {"far": inliers + 100, "near": inliers + 10, "equal": inliers + 0.5}
    report = anomaly.Report(
        "energy", 40, {"energy": anomaly.figures({"": inliers, **found})}, {}, {"energy": found}, {}
    )
    (worst,) = (line for line in anomaly.markdown(report, "x").splitlines() if "**worst**" in line)
    assert worst.count("(equal)") == 5


def test_the_slope_is_the_gradients_norm() -> None:
    class Half(Ink):
        def energy(self, x: Tensor) -> Tensor:
            return x.flatten(1).square().sum(dim=1) / 2 * self.unit

    images = torch.randint(256, (3, 1, 4, 4), dtype=torch.uint8)
    found = anomaly.evaluate_field(anomaly.field_of(Half()), images, slopes=True)
    torch.testing.assert_close(found, to_model(images).flatten(1).norm(dim=1).double())


def test_inliers_are_not_among_what_shifts_are_made_of(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = runs.load_run(run)
    known = runs.Run(run, loaded.config, Ink(), 0, 0.0)
    seen: dict[str, Tensor] = {}
    monkeypatch.setattr(anomaly, "SHIFTS", {"same": lambda x, g: seen.setdefault("made of", x)})
    monkeypatch.setattr(
        anomaly, "evaluate_field", lambda f, x, **_: seen.setdefault(str(len(seen)), x)[:, 0, 0, 0].double()
    )
    anomaly.score(known, suite="shifts", n=100, quiet=True)
    inliers = seen["1"]
    made = seen["made of"]
    assert len(inliers) == len(made) == 100
    assert not (inliers.flatten(1)[:, None] == made.flatten(1)).all(dim=2).any()


def test_the_ratio_is_the_difference_of_two_fields(run: Path) -> None:
    loaded = runs.load_run(run)
    behind = runs.Run(run / "behind", loaded.config, Ink(), 0, 0.0)
    report = anomaly.score(loaded, suite="shifts", n=20, background=behind, quiet=True)
    own, ratio = report.outliers["energy"]["fog"], report.outliers["ratio to the background"]["fog"]
    assert not torch.allclose(own, ratio)
    alone = anomaly.score(runs.Run(run, loaded.config, Ink(), 0, 0.0), suite="shifts", n=20, quiet=True)
    torch.testing.assert_close(own - ratio, alone.outliers["energy"]["fog"])


class Bright(Ink):
    """A density, up to a factor, by the mean brightness."""

    energy = None  # type: ignore[assignment]

    def log_prob(self, x: Tensor) -> Tensor:
        return -x.flatten(1).mean(dim=1)


def test_a_ratio_is_of_two_of_a_kind(run: Path) -> None:
    """An energy less nats, one discriminator's logit less another's, or a run less itself say nothing."""
    loaded = runs.load_run(run)

    def behind(model: GenerativeModel) -> runs.Run:
        return runs.Run(run / "behind", loaded.config, model, 0, 0.0)

    with pytest.raises(NotSupported, match="energy less negative log-likelihood is no likelihood ratio"):
        anomaly.score(loaded, suite="shifts", n=20, background=behind(_Known(Bright())), quiet=True)
    with pytest.raises(NotSupported, match="negative log-likelihood less energy"):
        known = runs.Run(run, loaded.config, _Known(Bright()), 0, 0.0)
        anomaly.score(known, suite="shifts", n=20, background=behind(Ink()), quiet=True)
    gan = build.build_model(build.resolve(load_recipe("gan/vanilla")), (1, 28, 28))
    with pytest.raises(NotSupported, match="no likelihood ratio"):
        judged = runs.Run(run, loaded.config, gan, 0, 0.0)
        anomaly.score(judged, suite="shifts", n=20, background=behind(gan), quiet=True)
    assert "the run itself" in refused("score", run, "--background", run, "--suite", "shifts")


def test_a_density_that_needs_labels_scores_nothing() -> None:
    given = {"model.label_dropout": 0.0}
    whole = build.build_model(
        build.resolve(load_recipe("diffusion/edm-conditional", [f"{k}={v}" for k, v in given.items()])), (1, 28, 28)
    )
    with pytest.raises(NotSupported, match="every label shown"):
        anomaly.field_of(whole)
    some = build.build_model(build.resolve(load_recipe("diffusion/edm-conditional")), (1, 28, 28))
    assert anomaly.field_of(some).kind == "ODE negative log-likelihood"


def test_sets_have_their_sizes_and_aupr_is_compared_among_equals(run: Path, tmp_path: Path) -> None:
    """A small set of outliers has a low AUPR whatever the model: it is not the worst by that."""
    loaded = runs.load_run(run)
    few = tmp_path / "few"
    write_folder(torch.full((3, 1, 28, 28), 5, dtype=torch.uint8), few)
    known = runs.Run(run, loaded.config, Ink(), 0, 0.0)
    report = anomaly.score(known, suite="shifts", files=[few], n=30, quiet=True)
    assert report.sizes[str(few)] == 3 and report.sizes["fog"] == 30
    assert report.sizes["held-out class"] == int(report.outliers["energy"]["held-out class"].numel())
    text = anomaly.write(report, tmp_path / "out", "x")
    assert f"| {few} | 3 |" in text and "| fog | 30 |" in text
    assert json.loads((tmp_path / "out/scores.json").read_text())["sizes"] == report.sizes
    table = report.scores["energy"]
    lowest = min(table, key=lambda k: table[k]["AUPR out"].value)
    same = min((k for k in table if report.sizes[k] == 30), key=lambda k: table[k]["AUPR out"].value)
    assert lowest == str(few) != same  # by base rate alone
    last = next(line for line in text.splitlines() if "**worst**" in line).split("|")
    assert f"({same})" in last[4]


def test_bits_of_a_png_are_those_of_its_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for channels in (1, 3):
        noise = torch.randint(0, 256, (2, channels, 28, 28), dtype=torch.uint8)
        bits = anomaly.png_bits(torch.cat([noise, torch.zeros_like(noise[:1])]))
        assert float(bits[:2].min()) > 8 * noise[0].numel()  # what is random is not made smaller
        assert float(bits[2]) < 0.2 * float(bits[0])
        array = noise[0].permute(1, 2, 0).squeeze(2).numpy()
        Image.fromarray(array).save(tmp_path / "x.png", optimize=True)
        assert float(bits[0]) == 8 * (tmp_path / "x.png").stat().st_size


def test_a_likelihood_that_knows_nothing_less_complexity_ranks_by_complexity(run: Path) -> None:
    class Flat(Ink):
        energy = None  # type: ignore[assignment]

        def log_prob(self, x: Tensor) -> Tensor:
            return 0 * x.flatten(1).sum(dim=1) - math.log(2) * 1000 * self.unit.double()

    loaded = runs.load_run(run)
    report = anomaly.score(runs.Run(run, loaded.config, Flat(), 0, 0.0), suite="shifts", n=20, quiet=True)
    table = report.scores["less complexity"]
    assert (table["black"]["AUROC"].value, table["uniform noise"]["AUROC"].value) == (1, 0)
    white = Image.fromarray(np.full((28, 28), 255, dtype=np.uint8))
    file = io.BytesIO()
    white.save(file, "PNG", optimize=True)
    assert report.outliers["less complexity"]["white"].tolist() == pytest.approx([1000 - 8 * len(file.getvalue())] * 20)
    energy = anomaly.score(runs.Run(run, loaded.config, Ink(), 0, 0.0), suite="shifts", n=20, quiet=True)
    assert "less complexity" not in energy.scores  # an energy is not in nats


def test_a_class_that_training_never_saw_is_a_set_of_its_own(run: Path) -> None:
    loaded = runs.load_run(run)
    train = runs.load_data(loaded.config)
    assert 9 not in train.labels.tolist()  # type: ignore[union-attr]
    report = anomaly.score(loaded, suite="shifts", n=50, quiet=True)
    assert "held-out class" in report.scores["energy"]
    whole = runs.load_data(
        loaded.config.model_copy(update={"data": loaded.config.data.model_copy(update={"without": None})}), "test"
    )
    nines = whole.images[whole.labels == 9][:50]  # type: ignore[union-attr]
    with torch.no_grad():
        torch.testing.assert_close(
            report.outliers["energy"]["held-out class"], loaded.model.energy(to_model(nines)).double()
        )  # type: ignore[operator]


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
    one = tmp_path / "one"
    write_folder(torch.zeros(1, 1, 28, 28, dtype=torch.uint8), one)
    with pytest.raises(DataError, match="one image is too few"):
        anomaly.score(loaded, suite="none", files=[one], n=20)
    (tmp_path / "again").mkdir()
    shutil.copytree(run, tmp_path / "again/pcd")
    assert "two runs are named pcd" in refused("score", run, tmp_path / "again/pcd", "--suite", "shifts")
    points = call("train", "energy/ebm-2d", "--set", "train.steps=1", "--quiet", "--out", tmp_path / "points")
    assert points.returncode == 0, points.stderr
    assert "trained on other shapes" in refused("score", run, "--background", tmp_path / "points")
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


class _Known(GenerativeModel):
    """Has the density of another, and no energy."""

    def __init__(self, other: GenerativeModel) -> None:
        super().__init__()
        self.log_prob = other.log_prob  # type: ignore[attr-defined]

    def phases(self) -> tuple[Phase, ...]:
        return ()

    def sample(self, n: int, **_: object) -> Tensor:
        return torch.zeros(n, 1)


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
