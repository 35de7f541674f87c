"""Can a model tell its data from what is none? One suite of shifts for every model that has an energy, a density or a discriminator.

Inliers are test images; outliers are the shifts of `data.shifts` of other test images, a class that training never saw, other data sets, your own files. A score is higher for what
looks less like the data; how well it tells is AUROC, both areas under precision and recall, and both false positive rates at 95 %, each by its full name.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mode
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pushforward import runs
from pushforward.data.fetch import load, load_path
from pushforward.data.images import ImageSet, to_model
from pushforward.data.shifts import SHIFTS
from pushforward.errors import ConfigError, DataError, NotSupported, nearest
from pushforward.families.diffusion.likelihood import ode_log_prob
from pushforward.families.diffusion.model import Diffusion
from pushforward.families.gan.model import GAN
from pushforward.metrics import Measurement, aupr_in, aupr_out, auroc, fpr95_inliers_positive, fpr95_outliers_positive
from pushforward.model import GenerativeModel, HasEnergy, HasLogProb
from pushforward.networks.wrappers import Packed
from pushforward.randomness import derive_seed
from pushforward.samplers.langevin import slope
from pushforward.training.checkpoint import write_atomic
from pushforward.training.logs import Progress

SUITES = ("mnist", "shifts", "none")
OTHERS = ("fashion-mnist",)
"""Data sets of the mnist suite that are other things, where they are at hand."""
Score = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Field:
    """What a model says of one image, (B, *shape) -> (B,): low for what looks like its data.

    Args:
        kind: "energy", "negative log-likelihood", "ODE negative log-likelihood", or of a GAN "logit of the discriminator, negated" ("output" where no density ratio is to be read off it).
        value: The function.
        differentiable: Whether its slope can be taken at a fair price.
        batch_size: Images at a time.
    """

    kind: str
    value: Score
    differentiable: bool = True
    batch_size: int = 500


def field_of(model: GenerativeModel, *, ode_steps: int = 10) -> Field:
    """The model's own measure of strangeness.

    Raises:
        NotSupported: it has none, or none without labels.
    """
    if isinstance(model, HasEnergy):
        return Field("energy", model.energy)
    if isinstance(model, HasLogProb):
        smooth = not getattr(model, "bytes", False)  # of bytes a density has no slope
        return Field("negative log-likelihood", lambda x: -model.log_prob(x), differentiable=smooth)
    if isinstance(model, Diffusion):
        if model.classes is not None and not model.label_dropout:
            raise NotSupported(
                "this diffusion model was trained with every label shown, and without labels it is no density to score by; train it with model.label_dropout, or score another."
            )
        denoiser = model.denoiser

        def ode(x: Tensor) -> Tensor:
            signs = torch.Generator().manual_seed(0)  # the same probes for all
            return -ode_log_prob(denoiser, x, steps=ode_steps, low=0.02, generator=signs)

        return Field("ODE negative log-likelihood", ode, differentiable=False, batch_size=100)
    if isinstance(model, GAN):
        if model.classes is not None or isinstance(model.discriminator, Packed):
            raise NotSupported(
                "a discriminator that wants labels or packs cannot score one image; score an unconditional GAN."
            )
        word = "logit" if model.objective.calibrated else "output"
        return Field(f"{word} of the discriminator, negated", lambda x: -model.discriminator(x))
    raise NotSupported(f"{type(model).__name__} has no energy, density or discriminator to score images by.")


def evaluate_field(field: Field, images: Tensor, *, slopes: bool = False) -> Tensor:
    """The field at bytes, float64 (n,); with `slopes` the norm of its gradient instead."""
    parts = []
    for batch in images.split(field.batch_size):
        x = to_model(batch)
        if slopes:
            parts.append(slope(field.value, x)[1].flatten(1).norm(dim=1).double())
        else:
            with torch.no_grad() if field.kind != "ODE negative log-likelihood" else torch.enable_grad():
                parts.append(field.value(x).detach().double())
    return torch.cat(parts)


def png_bits(images: Tensor) -> Tensor:
    """Bits of each image as a PNG: how complex it is, whatever the model.

    A likelihood prefers what is simple; its bits less these are the ratio to a universal coder.

    Args:
        images: uint8 (n, 1 or 3, H, W).

    Returns:
        float64 (n,).

    Reference: Serra et al. 2019, equation 3, arXiv 1909.11480.
    """
    sizes = []
    for image in images.permute(0, 2, 3, 1).squeeze(3).numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG", optimize=True)
        sizes.append(8 * file.tell())
    return torch.tensor(sizes, dtype=torch.float64)


@dataclass(frozen=True)
class Report:
    """What a suite found.

    Args:
        kind: Of the field that was scored.
        n: Inliers.
        scores: score -> set -> figure -> value.
        inliers: score -> values of the inliers, for histograms.
        outliers: score -> set -> values; n of each shift, at most n of another data set and of a held-out class, all of your own files.
        skipped: Set -> why it is not there.
    """

    kind: str
    n: int
    scores: dict[str, dict[str, dict[str, Measurement]]]
    inliers: dict[str, Tensor]
    outliers: dict[str, dict[str, Tensor]]
    skipped: dict[str, str]

    @property
    def sizes(self) -> dict[str, int]:
        """Outliers of each set."""
        return {name: len(values) for name, values in self.outliers[self.kind].items()}


def outlier_sets(
    suite: str,
    test: Tensor,
    *,
    shape: Sequence[int],
    files: Sequence[Path] = (),
    held_out: Tensor | None = None,
    trained: str | None = None,
    seed: int = 0,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Sets of images that are not the data, bytes, and those that could not be had.

    Args:
        suite: "mnist" is the shifts and other data sets; "shifts" only those; "none" nothing but what is given.
        test: Images that shifts are made of; none of them is an inlier.
        shape: Of one image.
        files: Folders or arrays of your own.
        held_out: Images of a class that training never saw.
        trained: The name of the data that the model was trained on.
        seed: Of the shifts.
    """
    if suite not in SUITES:
        raise ConfigError(f"--suite {suite}: {nearest(suite, SUITES)}")
    sets: dict[str, Tensor] = {}
    given: dict[str, Tensor] = {}
    skipped: dict[str, str] = {}
    for file in files:
        images = load_path(file).images
        if tuple(images.shape[1:]) != tuple(shape):
            raise DataError(f"{file}: images of shape {tuple(images.shape[1:])}, the model's are {tuple(shape)}.")
        if len(images) < 2:
            raise DataError(f"{file}: one image is too few to score by; give at least two.")
        given[f"{file} (given)" if str(file) in SHIFTS or str(file) in OTHERS else str(file)] = images
    if suite != "none":
        for name, shift in SHIFTS.items():
            sets[name] = shift(test, torch.Generator().manual_seed(derive_seed(seed, name)))
    if suite == "mnist":
        for name in OTHERS:
            try:
                other = load(name, "test")
            except DataError as error:
                skipped[name] = str(error).split(" (")[0].split(". ")[0]
                continue
            assert isinstance(other, ImageSet)
            if name == trained:
                skipped[name] = "it is what the run was trained on"
            elif tuple(other.shape) != tuple(shape):
                skipped[name] = f"its images are {tuple(other.shape)}, the model's {tuple(shape)}"
            else:
                sets[name] = other.images[: len(test)]
    if held_out is not None:
        sets["held-out class"] = held_out
    sets |= given
    if not sets:
        raise ConfigError("nothing to score: give --suite mnist, or folders of images.")
    return sets, skipped


def score(
    run: runs.Run,
    *,
    suite: str = "mnist",
    files: Sequence[Path] = (),
    n: int = 5000,
    background: runs.Run | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> Report:
    """Score a run's inliers and every outlier set.

    Args:
        run: Any with an energy, a density or a discriminator.
        suite: See `outlier_sets`.
        files: Folders or arrays of your own.
        n: Inliers, and images of each set, at most half the test images.
        background: Another run whose field is subtracted, for the likelihood ratio; two densities, or two energies.
        seed: Of the shifts.
        quiet: Show no progress.

    Returns:
        Scores by name: the field itself, the norm of its slope, "typicality" (its distance from its mean on training images), of a likelihood its bits less a PNG's ("less complexity"), and with a background the ratio.
    """
    train, test = runs.load_data(run.config, "train"), runs.load_data(run.config, "test")
    if background is not None:
        if background.path.resolve() == run.path.resolve():
            raise ConfigError(
                f"--background {background.path}: that is the run itself, and its ratio to itself is 1; give a run of another kind of data."
            )
        behind = runs.load_data(background.config, "test")
        if not isinstance(behind, ImageSet) or not isinstance(test, ImageSet) or behind.shape != test.shape:
            raise ConfigError(
                f"--background {background.path}: it was trained on other shapes than {run.path}; give a run of the same."
            )
    if not isinstance(train, ImageSet) or not isinstance(test, ImageSet):
        raise NotSupported("scoring is for images; this run was trained on points.")
    n = min(n, len(test) // 2)
    if n < 10:
        raise DataError(f"{len(test)} test images are too few to score by.")
    shuffled = test.images[torch.randperm(len(test), generator=torch.Generator().manual_seed(0))]
    inliers, rest = shuffled[:n], shuffled[n : 2 * n]
    held_out = None
    if run.config.data.without is not None:
        everything = run.config.data.model_copy(update={"without": None})
        whole = runs.load_data(run.config.model_copy(update={"data": everything}), "test")
        assert isinstance(whole, ImageSet) and whole.labels is not None
        held_out = whole.images[whole.labels == run.config.data.without][:n]
    sets, skipped = outlier_sets(
        suite, rest, shape=train.shape, files=files, held_out=held_out, trained=run.config.data.name, seed=seed
    )
    seen = train.images[runs.spread(len(train), n)]
    fields = {"field": field_of(run.model)}
    if background is not None:
        fields["background"] = field_of(background.model)
        own, behind_it = (fields[k].kind for k in ("field", "background"))
        alike = own == behind_it or (own.endswith("log-likelihood") and behind_it.endswith("log-likelihood"))
        if not alike or isinstance(run.model, GAN):
            raise NotSupported(
                f"--background {background.path}: {own} less {behind_it} is no likelihood ratio; give two densities, or two energies."
            )
    values: dict[str, dict[str, Tensor]] = {}
    judged = {"": inliers, "train": seen, **sets}
    with Progress("score", len(judged), quiet=quiet) as progress:
        for k, (name, images) in enumerate(judged.items()):
            found = {key: evaluate_field(f, images) for key, f in fields.items()}
            row = {fields["field"].kind: found["field"]}
            if fields["field"].differentiable:
                row["slope"] = evaluate_field(fields["field"], images, slopes=True)
            row["typicality"] = found["field"]
            if fields["field"].kind.endswith("log-likelihood"):
                row["less complexity"] = found["field"] / math.log(2) - png_bits(images)
            if background is not None:
                row["ratio to the background"] = found["field"] - found["background"]
            for key, v in row.items():
                values.setdefault(key, {})[name] = v
            progress.update(k + 1)
    typical = values["typicality"]
    centre = typical.pop("train").mean()
    values["typicality"] = {k: (v - centre).abs() for k, v in typical.items()}
    for each in values.values():
        each.pop("train", None)
    scores = {s: figures(v) for s, v in values.items()}
    return Report(
        fields["field"].kind,
        n,
        scores,
        {s: v[""] for s, v in values.items()},
        {s: {k: w for k, w in v.items() if k} for s, v in values.items()},
        skipped,
    )


def figures(values: Mapping[str, Tensor]) -> dict[str, dict[str, Measurement]]:
    """All five figures of each outlier set against the inliers, which are under "".

    Raises:
        NotSupported: a score is not a number.
    """
    inliers, out = values[""], {}
    for name, outliers in values.items():
        if not name:
            continue
        for which, scores in (("inliers", inliers), (name, outliers)):
            if torch.isnan(scores).any():
                raise NotSupported(f"the model gives no number for some images ({which}).")
        pair: dict[str, Any] = {"inliers": inliers, "outliers": outliers}
        out[name] = {
            "AUROC": auroc(**pair),
            "AUPR out": aupr_out(**pair, repeats=20),
            "AUPR in": aupr_in(**pair, repeats=20),
            "FPR95, inliers positive": fpr95_inliers_positive(**pair, repeats=20),
            "FPR95, outliers positive": fpr95_outliers_positive(**pair, repeats=20),
        }
    return out


def markdown(report: Report, title: str) -> str:
    """The report as tables: all five figures by the model's own field, AUROC by every score."""
    first = next(iter(report.scores))
    columns = list(next(iter(report.scores[first].values())))
    table, sizes = report.scores[first], report.sizes
    lines = [
        f"# {title}: outliers by {report.kind}",
        "",
        f"{report.n:,} test images against each set; higher AUROC and AUPR, lower FPR95 are better. AUPR depends on how many images a set has, so that its worst is among sets of the commonest size.",
        "",
    ]
    lines += ["| set | images | " + " | ".join(columns) + " |", "|---|---|" + "---|" * len(columns)]
    for name, row in table.items():
        cells = " | ".join(f"{m.value:.3f} ± {m.stderr:.3f}" for m in row.values())
        lines.append(f"| {name} | {sizes[name]:,} | {cells} |")
    common = mode(sizes.values())
    worst = {
        c: (min if c.startswith("AU") else max)(
            [k for k in table if sizes[k] == common or not c.startswith("AUPR")], key=lambda k: table[k][c].value
        )
        for c in columns
    }
    cells = " | ".join(f"{table[worst[c]][c].value:.3f} ({worst[c]})" for c in columns)
    lines.append(f"| **worst** | | {cells} |")
    lines += [
        "",
        "AUROC by each score:",
        "",
        "| set | " + " | ".join(report.scores) + " |",
        "|---|" + "---|" * len(report.scores),
    ]
    lines += [
        f"| {name} | " + " | ".join(f"{t[name]['AUROC'].value:.3f}" for t in report.scores.values()) + " |"
        for name in table
    ]
    lines += ["", *(f"{name} is not here: {why}." for name, why in report.skipped.items())]
    return "\n".join(lines).rstrip() + "\n"


def write(report: Report, folder: Path, name: str) -> str:
    """scores.json, scores.md and scores.png, the histograms of the field; returns the text."""
    from pushforward.report.figures import score_histograms

    text = markdown(report, name)
    table = {
        s: {k: {f: [m.value, m.stderr] for f, m in row.items()} for k, row in t.items()}
        for s, t in report.scores.items()
    }
    about = {
        "run": name,
        "field": report.kind,
        "n": report.n,
        "sizes": report.sizes,
        "skipped": report.skipped,
        "scores": table,
    }
    write_atomic(folder / "scores.json", json.dumps(about, indent=1))
    write_atomic(folder / "scores.md", text)
    score_histograms(report.inliers[report.kind], report.outliers[report.kind], folder / "scores.png", report.kind)
    return text
