"""One evaluation: samples and data to features, features to numbers, numbers to result.json.

Whatever made the images, a run, a folder, an array, goes the same way: n fakes against n real images of the test set, by one extractor,
beside the *floor* (as many training images in the place of fakes) and the *ladder* of damaged training images, which
gives a distance without unit a meaning.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pushforward import __version__
from pushforward.data.fetch import load, load_path
from pushforward.data.images import ImageSet, to_bytes
from pushforward.data.toy import Density
from pushforward.errors import DataError, NotSupported, nearest
from pushforward.metrics import (
    DensityCoverage,
    Measurement,
    PrecisionRecall,
    class_entropy,
    class_histogram,
    frechet_distance,
    frechet_infinity,
    inception_score,
    kernel_distance,
    memorisation,
    mode_count,
    prdc,
    reverse_kl,
    sliced_wasserstein,
)
from pushforward.metrics.features import Extractor, Features, cached_features, extractor
from pushforward.randomness import SampleStream, derive_seed
from pushforward.runs import is_run, load_run, sample
from pushforward.training.checkpoint import write_atomic

Values = dict[str, Measurement]
MAXIMUM = 10_000  # samples, unless more are asked for


class Sides:
    """What a metric is given: features of both sides, and of training data. What two metrics share is computed once."""

    def __init__(self, real: Features, fake: Features, train: Features) -> None:
        self.real, self.fake, self.train = real, fake, train

    @cached_property
    def prdc(self) -> tuple[PrecisionRecall, DensityCoverage]:
        return prdc(real=self.real.features, fake=self.fake.features)

    @property
    def logits(self) -> Tensor:
        if self.fake.logits is None:
            raise NotSupported("class shares need an extractor that classifies (digits, inception).")
        return self.fake.logits


def _classes(s: Sides) -> Values:
    shares = class_histogram(s.logits)
    count = float(mode_count(s.logits))
    modes = Measurement(count, math.nan, "none: a count", 0, len(s.logits))
    rest = {"class entropy": class_entropy(s.logits), "reverse KL": reverse_kl(s.logits), "modes": modes}
    return {f"class {i}": m for i, m in enumerate(shares)} | rest


def _memorisation(s: Sides) -> Values:
    found = memorisation(train=s.train.features, test=s.real.features, fake=s.fake.features)
    return {"nearest training distance": found.nearest, "memorisation": found.score}


@dataclass(frozen=True)
class Metric:
    """A metric of the command line.

    Args:
        function: What it computes.
        needs_logits: It needs an extractor that classifies.
        default: Computed when no metric is named.
        of_floor: It says something of training images in the place of fakes.
    """

    function: Callable[[Sides], Values]
    needs_logits: bool = False
    default: bool = True
    of_floor: bool = True


METRICS: dict[str, Metric] = {
    "frechet": Metric(lambda s: {"frechet": frechet_distance(real=s.real.features, fake=s.fake.features)}),
    "frechet-infinity": Metric(
        lambda s: {"frechet infinity": frechet_infinity(real=s.real.features, fake=s.fake.features).limit},
        default=False,
    ),
    "kid": Metric(lambda s: {"kid": kernel_distance(real=s.real.features, fake=s.fake.features)}),
    "precision-recall": Metric(lambda s: {"precision": s.prdc[0].precision, "recall": s.prdc[0].recall}),
    "density-coverage": Metric(lambda s: {"density": s.prdc[1].density, "coverage": s.prdc[1].coverage}),
    "classes": Metric(_classes, needs_logits=True),
    "inception-score": Metric(
        lambda s: {"inception score": inception_score(s.logits)}, needs_logits=True, default=False
    ),
    "sliced-wasserstein": Metric(
        lambda s: {"sliced W2": sliced_wasserstein(real=s.real.features, fake=s.fake.features)}, default=False
    ),
    "memorisation": Metric(_memorisation, default=False, of_floor=False),
}


@dataclass(frozen=True)
class Candidate:
    """Something to be judged: uint8 images (n, C, H, W) or points (n, d), and what is known of how they were made."""

    name: str
    x: Tensor
    about: dict[str, Any]


def candidate(target: str, n: int, *, seed: int = 0, quiet: bool = True) -> Candidate:
    """Samples of a run, or the images of a folder or an .npz/.npy file (all of them, or the first n).

    Raises:
        DataError, CheckpointError: nothing usable there.
    """
    path = Path(target)
    if is_run(path):
        run = load_run(path)
        start = time.perf_counter()
        x = sample(run.model, n, seed=seed, quiet=quiet)
        took = time.perf_counter() - start
        about = {
            "kind": "run",
            "step": run.step,
            "training_seconds": run.seconds,
            "sampling_ms_an_image": 1000 * took / n,
            "seed": seed,
        }
        return Candidate(path.resolve().name, to_bytes(x) if x.ndim == 4 else x, about)
    if not path.exists():
        raise DataError(f"{target}: no run, folder or file of that name.")
    images = load_path(path).images
    return Candidate(path.stem, images[:n], {"kind": "folder" if path.is_dir() else "array"})


@dataclass(frozen=True)
class Reference:
    """The real side: n test samples, as many training samples for the floor and its ladder, and the extractor."""

    name: str
    real: Features
    floor: dict[str, Features]
    by: Extractor
    n: int
    sha256: str


def reference(data: str, *, n: int | None = None, by: str | None = None, path: Path | None = None) -> Reference:
    """Features of test data, and of training data in the place of fakes.

    Args:
        data: As `--data`.
        n: Samples; the size of the test set, at most 10,000, when absent.
        by: Extractor; `digits` for 28x28 grey images, `points` for toy densities, else `pixels`, when absent.
        path: Where a named data set lies.
    """
    train, test = load(data, "train", path=path), load(data, "test", path=path)
    if isinstance(train, Density) or isinstance(test, Density):
        n = n or MAXIMUM
        assert isinstance(train, Density)
        draws = [train.sample(n, generator=SampleStream(derive_seed(k), torch.arange(n))) for k in ("test", "train")]
        judge = extractor("points")
        return Reference(data, judge(draws[0]), {"floor": judge(draws[1])}, judge, n, "fresh draws")
    n = min(n or MAXIMUM, len(train), len(test))
    judge = extractor(by or ("digits" if train.shape == (1, 28, 28) else "pixels"))
    shuffler = torch.Generator().manual_seed(0)
    held = test.subset(torch.randperm(len(test), generator=shuffler)[:n])
    seen = train.subset(torch.randperm(len(train), generator=shuffler)[:n])
    floor = {"floor": cached_features(seen.images, seen.sha256, judge)}
    for rung, damaged in _ladder(seen).items():
        floor[rung] = cached_features(damaged, f"{seen.sha256} {rung}", judge)
    return Reference(data, cached_features(held.images, held.sha256, judge), floor, judge, n, held.sha256)


def _ladder(data: ImageSet) -> dict[str, Tensor]:
    """The rungs of BENCHMARKS: training images with Gaussian noise of sd 25/255 (still legible), and uniform noise."""
    g = torch.Generator().manual_seed(0)
    noisy = data.images.float() + 25 * torch.randn(data.images.shape, generator=g)
    return {
        "noise-10": noisy.round_().clamp_(0, 255).to(torch.uint8),
        "noise": torch.randint(256, data.images.shape, generator=g, dtype=torch.int16).to(torch.uint8),
    }


def measure(sides: Sides, metrics: Sequence[str]) -> Values:
    """The metrics asked for, in order.

    Raises:
        NotSupported: an unknown metric; the nearest is named.
        DataError: a metric cannot be had from these features, with the reason.
    """
    values: Values = {}
    for name in metrics:
        if name not in METRICS:
            raise NotSupported(f"no metric is called {name!r}: {nearest(name, METRICS)}")
        try:
            values |= METRICS[name].function(sides)
        except ValueError as error:
            raise error if isinstance(error, DataError) else DataError(f"{name}: {error}") from error
    return values


def evaluate(
    targets: list[str],
    *,
    data: str,
    n: int | None = None,
    metrics: list[str] | None = None,
    by: str | None = None,
    path: Path | None = None,
    seed: int = 0,
    quiet: bool = True,
) -> dict[str, Any]:
    """Judge runs, folders and arrays by one protocol.

    Args:
        targets: Paths of runs, folders of images, .npz or .npy files.
        data: The data set that they imitate.
        n: Samples on each side; the size of the test set, at most 10,000, when absent.
        metrics: Names in `METRICS`; all that apply when absent.
        by: Extractor.
        path: Where a named data set lies.
        seed: Of the samples.

    Returns:
        A table of plain numbers, as in result.json; each run's folder gets its own result.json.
    """
    start = time.perf_counter()
    side = reference(data, n=n, by=by, path=path)
    has_logits = side.real.logits is not None
    chosen = metrics or [m for m, e in METRICS.items() if e.default and (has_logits or not e.needs_logits)]
    protocol = {
        "data": side.name,
        "against": "test",
        "data_sha256": side.sha256,
        "n": side.n,
        "extractor": side.by.name,
        "extractor_sha256": side.by.sha256,
        "metrics": chosen,
        "pushforward": __version__,
    }
    train = side.floor["floor"]
    of_floor = [m for m in chosen if m not in METRICS or METRICS[m].of_floor]
    floor = {rung: _plain(measure(Sides(side.real, f, train), of_floor)) for rung, f in side.floor.items()}
    results = []
    for target in targets:
        began = time.perf_counter()
        judged = candidate(target, side.n, seed=seed, quiet=quiet)
        if len(judged.x) < side.n:
            judged.about["warning"] = (
                f"{len(judged.x)} images against {side.n}: a Frechet distance of fewer images is larger for that alone; compare equal numbers."
            )
        values = measure(Sides(side.real, side.by(judged.x), train), chosen)
        result = {
            "name": judged.name,
            "n_fake": len(judged.x),
            **judged.about,
            "values": _plain(values),
            "seconds": round(time.perf_counter() - began, 2),
        }
        results.append(result)
        if is_run(Path(target)):
            write_atomic(
                Path(target) / "result.json", json.dumps({"protocol": protocol, "floor": floor, **result}, indent=1)
            )
    return {"protocol": protocol, "floor": floor, "results": results, "seconds": round(time.perf_counter() - start, 2)}


def _plain(values: Values) -> dict[str, dict[str, Any]]:
    return {
        k: {"value": v.value, "stderr": None if math.isnan(v.stderr) else v.stderr, "method": v.method}
        for k, v in values.items()
    }
