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
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward import __version__
from pushforward.config import DataConfig
from pushforward.data.fetch import load, load_path
from pushforward.data.images import ImageSet, save_grid, to_bytes
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
from pushforward.metrics.guards import image_warnings, size_warnings
from pushforward.randomness import SampleStream, derive_seed
from pushforward.report.tables import SHOWN, cell
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


def candidate(
    target: str,
    n: int,
    by: Extractor,
    *,
    shape: tuple[int, ...] | None = None,
    seed: int = 0,
    ranks: int = 1,
    quiet: bool = True,
) -> tuple[Candidate, Features]:
    """Samples of a run, or the images of a folder or an .npz/.npy file (all, or a random n of them), and their features.

    Args:
        target: A run, a folder or a file.
        n: How many.
        by: The extractor.
        shape: Of one real image; others are refused.
        seed: Of a run's samples.
        ranks: Processes that share the work by index: each image is made and counted once.
        quiet: Show no progress.

    Raises:
        DataError, CheckpointError: nothing usable there.
    """
    path = Path(target)
    if not path.exists():
        raise DataError(f"{target}: no run, folder or file of that name.")
    start = time.perf_counter()
    if ranks > 1:
        x, features, sampling = _in_processes(target, n, by.name, seed, ranks)
        _same_shape(x, shape, target)
    else:
        x, sampling = _images(path, n, 0, n, seed, points=by.name == "points", quiet=quiet)
        _same_shape(x, shape, target)
        features = by(x)
    if not is_run(path):
        return Candidate(path.stem, x, {"kind": "folder" if path.is_dir() else "array"}), features
    run = load_run(path)
    about = {
        "kind": "run",
        "step": run.step,
        "training_seconds": run.seconds,
        "sampling_ms_an_image": 1000 * sampling / n,
        "sampling_and_features_seconds": round(time.perf_counter() - start, 2),
        "seed": seed,
    }
    return Candidate(path.resolve().name, x, about), features


def _same_shape(x: Tensor, shape: tuple[int, ...] | None, target: str) -> None:
    if shape is not None and tuple(x.shape[1:]) != shape:
        raise DataError(
            f"{target}: images of shape {tuple(x.shape[1:])} against data of shape {shape}; bring them to one size first."
        )


def _images(path: Path, n: int, start: int, stop: int, seed: int, *, points: bool, quiet: bool) -> tuple[Tensor, float]:
    """Images start .. stop - 1 of a target, and the seconds that sampling them took."""
    if not is_run(path):
        x = _points(path) if points else load_path(path).images
        # A folder is often sorted by class: judge a random part of it, always the same.
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:n].sort().values
        return x[order[start:stop]], 0.0
    model = load_run(path).model
    began = time.perf_counter()
    x = sample(model, stop - start, seed=seed, start=start, quiet=quiet)
    return (to_bytes(x) if x.ndim == 4 else x), time.perf_counter() - began


def _points(path: Path) -> Tensor:
    """Points (n, d) of an .npz that `pushforward sample` wrote."""
    try:
        with np.load(path, allow_pickle=False) as loaded:
            x = torch.from_numpy(np.ascontiguousarray(loaded["images"], dtype=np.float32))
    except Exception as error:  # numpy raises many kinds on damaged files
        raise DataError(f"{path}: no .npz with points under 'images' ({error}).") from error
    if x.ndim != 2:
        raise DataError(f"{path}: shape {tuple(x.shape)}; points are (n, d).")
    return x


def _share(target: str, n: int, start: int, stop: int, by: str, seed: int, threads: int) -> tuple[Any, Any, Any, float]:
    """One process's part, as numpy arrays."""
    torch.set_num_threads(threads)
    x, seconds = _images(Path(target), n, start, stop, seed, points=by == "points", quiet=True)
    found = extractor(by)(x)
    return x.numpy(), found.features.numpy(), None if found.logits is None else found.logits.numpy(), seconds


def _in_processes(target: str, n: int, by: str, seed: int, ranks: int) -> tuple[Tensor, Features, float]:
    """The work of `candidate` shared among processes, each image once and in order."""
    if not is_run(Path(target)):
        n = min(n, len(load_path(Path(target)).images))
    edges = [round(n * r / ranks) for r in range(ranks + 1)]
    threads = max(1, torch.get_num_threads() // ranks)
    with ProcessPoolExecutor(ranks, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(_share, target, n, a, b, by, seed, threads) for a, b in pairwise(edges) if b > a]
        parts = [job.result() for job in jobs]
    x, features = (torch.cat([torch.from_numpy(p[k]) for p in parts]) for k in (0, 1))
    assert len(x) == n, f"{len(x)} images came back from {ranks} processes, {n} were asked for"
    logits = None if parts[0][2] is None else torch.cat([torch.from_numpy(p[2]) for p in parts])
    return x, Features(features, logits), max(p[3] for p in parts)


@dataclass(frozen=True)
class Reference:
    """The real side, the other split in the place of fakes (the floor) with its ladder, and the extractor.

    Args:
        name: Of the data set.
        against: The split on the real side.
        real: Its features.
        floor: Features of the other split, by rung.
        train: All training images, to look for copies; None for densities.
        by: The extractor.
        n: Samples a side.
        sha256: Hash of the real images.
        notes: What a reader must know of the data.
    """

    name: str
    against: str
    real: Features
    floor: dict[str, Features]
    train: ImageSet | None
    by: Extractor
    n: int
    sha256: str
    notes: tuple[str, ...] = ()


def reference(
    data: DataConfig | str, *, n: int | None = None, by: str | None = None, against: str = "test"
) -> Reference:
    """Features of real data, and of the other split in the place of fakes.

    Args:
        data: As `--data`, or a run's data section.
        n: Samples a side; the size of the smaller split, at most 10,000, when absent.
        by: Extractor; `digits` for 28x28 grey images, `points` for toy densities, else `pixels`, when absent.
        against: "test", or "train" for the habit of judging by the training images.

    Raises:
        DataError: fewer real images than n.
    """
    if isinstance(data, str):
        data = DataConfig(name=data)
    place: dict[str, Any] = {
        "path": Path(data.path) if data.path else None,
        "size": data.size,
        "channels": data.channels,
    }
    train, test = load(data.name, "train", **place), load(data.name, "test", **place)
    notes: tuple[str, ...] = ()
    if not (isinstance(train, ImageSet) and isinstance(test, ImageSet)):
        assert isinstance(train, Density)
        if by not in (None, "points"):
            raise NotSupported(f"{data.name} has points and no images; leave --extractor {by} out.")
        n, judge = n or MAXIMUM, extractor("points")
        draws = [train.sample(n, generator=SampleStream(derive_seed(k), torch.arange(n))) for k in ("test", "train")]
        return Reference(data.name, against, judge(draws[0]), {"floor": judge(draws[1])}, None, judge, n, "fresh draws")
    every = train
    if train.sha256 == test.sha256:
        notes = (
            "this data set has no test split: every second image stands for test, but a model trained on it has seen them all.",
        )
        train, test = train.subset(slice(0, None, 2)), train.subset(slice(1, None, 2))
    most = min(len(train), len(test))
    if n is not None and n > most:
        raise DataError(
            f"{n} samples a side were asked for, but {data.name} has {len(train)} training and {len(test)} test images; use -n {most} or less."
        )
    n = n or min(MAXIMUM, most)
    judge = extractor(by or ("digits" if train.shape == (1, 28, 28) else "pixels"))
    shuffler = torch.Generator().manual_seed(0)
    held = test.subset(torch.randperm(len(test), generator=shuffler)[:n])
    seen = train.subset(torch.randperm(len(train), generator=shuffler)[:n])
    if against == "train":
        held, seen = seen, held
    floor = {"floor": cached_features(seen.images, seen.sha256, judge)}
    for rung, damaged in _ladder(seen).items():
        floor[rung] = cached_features(damaged, f"{seen.sha256} {rung}", judge)
    return Reference(
        data.name, against, cached_features(held.images, held.sha256, judge), floor, every, judge, n, held.sha256, notes
    )


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
    data: DataConfig | str,
    n: int | None = None,
    metrics: list[str] | None = None,
    by: str | None = None,
    against: str = "test",
    seed: int = 0,
    ranks: int = 1,
    pictures: Path | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """Judge runs, folders and arrays by one protocol.

    Args:
        targets: Paths of runs, folders of images, .npz or .npy files.
        data: The data set that they imitate.
        n: Samples on each side; the size of the smaller split, at most 10,000, when absent.
        metrics: Names in `METRICS`; those that are cheap and apply when absent.
        by: Extractor.
        against: The split on the real side.
        seed: Of the samples.
        ranks: Processes that share sampling and extraction.
        pictures: Folder for a picture of each candidate's samples with their nearest training images.
        quiet: Show no progress.

    Returns:
        A table of plain numbers, as in result.json; each run's folder gets its own result.json.
    """
    if metrics is not None and not [m for m in metrics if m.strip()]:
        raise NotSupported(f"no metric is named; there are {', '.join(METRICS)}.")
    start = time.perf_counter()
    side = reference(data, n=n, by=by, against=against)
    has_logits = side.real.logits is not None
    chosen = metrics or [m for m, e in METRICS.items() if e.default and (has_logits or not e.needs_logits)]
    protocol = {
        "data": side.name,
        "against": side.against,
        "data_sha256": side.sha256,
        "n": side.n,
        "extractor": side.by.name,
        "extractor_sha256": side.by.sha256,
        "metrics": chosen,
        "notes": list(side.notes),
        "pushforward": __version__,
    }
    train = side.floor["floor"]
    if "memorisation" in chosen:
        if side.train is None or against != "test" or side.notes:
            raise NotSupported(
                "memorisation compares training images of an image set with test images that no model has seen."
            )
        train = cached_features(side.train.images, side.train.sha256, side.by)
    of_floor = [m for m in chosen if m not in METRICS or METRICS[m].of_floor]
    floor = {rung: _plain(measure(Sides(side.real, f, train), of_floor)) for rung, f in side.floor.items()}
    results: list[dict[str, Any]] = []
    seen: dict[int, str] = {}
    for target in targets:
        began = time.perf_counter()
        judged, features = candidate(
            target,
            side.n,
            side.by,
            shape=None if side.train is None else side.train.shape,
            seed=seed,
            ranks=ranks,
            quiet=quiet,
        )
        warnings = size_warnings(side.n, len(judged.x), features.features.shape[1])
        if judged.x.ndim == 4:
            warnings += image_warnings(judged.x, train=None if side.train is None else side.train.images)
            twin = seen.setdefault(hash(judged.x.numpy().tobytes()), target)
            if twin != target:
                warnings.append(f"these are the very images of {twin}.")
        values = measure(Sides(side.real, features, train), chosen)
        result = {
            "name": judged.name,
            "n_fake": len(judged.x),
            **judged.about,
            "warnings": warnings,
            "values": _plain(values),
            "seconds": round(time.perf_counter() - began, 2),
        }
        results.append(result)
        if is_run(Path(target)):
            write_atomic(
                Path(target) / "result.json", json.dumps({"protocol": protocol, "floor": floor, **result}, indent=1)
            )
        if pictures is not None and side.train is not None:
            nearest_picture(judged.x, features, side, pictures / f"{judged.name}-neighbours.png")
    return {"protocol": protocol, "floor": floor, "results": results, "seconds": round(time.perf_counter() - start, 2)}


def nearest_picture(
    x: Tensor, features: Features, side: Reference, out: Path, *, rows: int = 10, nearest: int = 7
) -> None:
    """Samples, each followed by its nearest training images in the extractor's features: are they copies?"""
    assert side.train is not None
    chosen = torch.linspace(0, len(x) - 1, min(rows, len(x))).long()
    known = cached_features(side.train.images, side.train.sha256, side.by).features
    distances = torch.cdist(features.features[chosen].double(), known.double())
    near = distances.topk(min(nearest, len(known)), largest=False).indices
    sheet = torch.cat(
        [torch.cat([x[i : i + 1], side.train.images[j]]) for i, j in zip(chosen.tolist(), near, strict=True)]
    )
    save_grid(sheet, out, columns=1 + near.shape[1])


def markdown(found: dict[str, Any]) -> str:
    """A result as a Markdown table with its protocol, floor and warnings."""
    shown = [k for k in SHOWN if any(k in r["values"] for r in found["results"])]
    p = found["protocol"]
    lines = [
        f"{p['n']} samples against {p['n']} {p['against']} images of {p['data']}; extractor {p['extractor']} ({p['extractor_sha256'][:12]}).",
        "",
        "| | " + " | ".join(SHOWN[k] for k in shown) + " |",
        "|---" * (len(shown) + 1) + "|",
    ]
    rows = [(r["name"], r["values"]) for r in found["results"]] + [(f"*{k}*", v) for k, v in found["floor"].items()]
    lines += ["| " + " | ".join([name, *(cell(values, k) for k in shown)]) + " |" for name, values in rows]
    said = [f"- {note}" for note in p["notes"]] + [
        f"- {r['name']}: {w}" for r in found["results"] for w in r["warnings"]
    ]
    return "\n".join([*lines, "", *said, ""]).rstrip() + "\n"


def _plain(values: Values) -> dict[str, dict[str, Any]]:
    return {
        k: {"value": v.value, "stderr": None if math.isnan(v.stderr) else v.stderr, "method": v.method}
        for k, v in values.items()
    }
