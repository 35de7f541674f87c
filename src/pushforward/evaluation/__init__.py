"""One evaluation: samples and data to features, features to numbers, numbers to result.json.

Whatever made the images, a run, a folder, an array, goes the same way: n fakes against n real images of the test set, by one extractor,
beside the *floor* (as many training images in the place of fakes) and the *ladder* of damaged training images, which
gives a distance without unit a meaning.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pushforward import __version__
from pushforward.config import DataConfig
from pushforward.data.images import save_grid
from pushforward.errors import NotSupported, nearest
from pushforward.evaluation.candidates import Candidate, candidate
from pushforward.evaluation.likelihoods import likelihood_of
from pushforward.evaluation.measures import METRICS, Metric, Sides, Values, measure
from pushforward.evaluation.reference import Reference, reference
from pushforward.metrics.features import Features, cached_features
from pushforward.metrics.guards import image_warnings, size_warnings
from pushforward.report.tables import SHOWN, cell
from pushforward.runs import is_run, load_run
from pushforward.training.checkpoint import write_atomic

__all__ = [
    "METRICS",
    "Candidate",
    "Judge",
    "Metric",
    "Reference",
    "Sides",
    "Values",
    "candidate",
    "evaluate",
    "markdown",
    "measure",
    "reference",
]


@dataclass(frozen=True)
class Judge:
    """One protocol, ready to judge any number of candidates.

    Args:
        side: The real side.
        metrics: Names in `METRICS`.
        train: Features that memorisation compares with.
    """

    side: Reference
    metrics: tuple[str, ...]
    train: Features

    @classmethod
    def of(cls, side: Reference, metrics: list[str] | None = None) -> Judge:
        """A judge by these metrics; by those that are cheap and apply when absent.

        Raises:
            NotSupported: no metric is named, or one that these data do not allow.
        """
        if metrics is not None and not [m for m in metrics if m.strip()]:
            raise NotSupported(f"no metric is named; there are {', '.join(METRICS)}.")
        for name in metrics or []:
            if name not in METRICS:
                raise NotSupported(f"no metric is called {name!r}: {nearest(name, METRICS)}")
        has_logits = side.real.logits is not None
        chosen = metrics or [m for m, e in METRICS.items() if e.default and (has_logits or not e.needs_logits)]
        train = side.floor["floor"]
        if "memorisation" in chosen:
            if side.train is None or side.against != "test" or side.notes:
                raise NotSupported(
                    "memorisation compares training images of an image set with test images that no model has seen."
                )
            train = cached_features(side.train.images, side.train.sha256, side.by)
        return cls(side, tuple(chosen), train)

    def protocol(self) -> dict[str, Any]:
        """What the figures were computed with."""
        return {
            "data": self.side.name,
            "against": self.side.against,
            "data_sha256": self.side.sha256,
            "n": self.side.n,
            "extractor": self.side.by.name,
            "extractor_sha256": self.side.by.sha256,
            "metrics": list(self.metrics),
            "notes": list(self.side.notes),
            "pushforward": __version__,
        }

    def floor(self) -> dict[str, Any]:
        """The same metrics of training images in the place of fakes, by rung of the ladder."""
        of_floor = [m for m in self.metrics if m not in METRICS or METRICS[m].of_floor]
        return {
            rung: _plain(measure(Sides(self.side.real, f, self.train), of_floor)) for rung, f in self.side.floor.items()
        }

    def candidate(
        self, target: str, *, seed: int = 0, ranks: int = 1, quiet: bool = True
    ) -> tuple[Candidate, Features]:
        """Samples of a target, in the number and shape of the real side, and their features."""
        shape = None if self.side.train is None else self.side.train.shape
        return candidate(target, self.side.n, self.side.by, shape=shape, seed=seed, ranks=ranks, quiet=quiet)

    def judge(self, judged: Candidate, features: Features, *, target: str | None = None) -> dict[str, Any]:
        """Figures and warnings of one candidate, as plain numbers; `target` is where it came from, for what only a run can tell."""
        by_samples = set(self.metrics) - {"likelihood"}
        warnings = size_warnings(self.side.n, len(judged.x), features.features.shape[1]) if by_samples else []
        if judged.x.ndim == 4:
            warnings += image_warnings(judged.x, train=None if self.side.train is None else self.side.train.images)
        values = measure(Sides(self.side.real, features, self.train), self.metrics)
        if "likelihood" in self.metrics and target is not None and is_run(Path(target)):
            run = load_run(Path(target))
            found = likelihood_of(run, self.side.n)
            if found is not None:
                if run.config.data.name != self.side.name:
                    warnings.append(
                        f"its likelihood is of the test samples of {run.config.data.name}, what it was trained on."
                    )
                values |= (
                    {"bits per dim": found.bits_per_dim, "nats": found.nats}
                    if judged.x.ndim == 4
                    else {"nats": found.nats}
                )
        return {
            "name": judged.name,
            "n_fake": len(judged.x),
            **judged.about,
            "warnings": warnings,
            "values": _plain(values),
        }


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
    start = time.perf_counter()
    by_one = Judge.of(reference(data, n=n, by=by, against=against), metrics)
    protocol, floor = by_one.protocol(), by_one.floor()
    results: list[dict[str, Any]] = []
    seen: dict[int, str] = {}
    for target in targets:
        began = time.perf_counter()
        judged, features = by_one.candidate(target, seed=seed, ranks=ranks, quiet=quiet)
        result = by_one.judge(judged, features, target=target)
        twin = seen.setdefault(hash(judged.x.numpy().tobytes()), target)
        if judged.x.ndim == 4 and twin != target:
            result["warnings"].append(f"these are the very images of {twin}.")
        result["seconds"] = round(time.perf_counter() - began, 2)
        results.append(result)
        if is_run(Path(target)):
            write_atomic(
                Path(target) / "result.json", json.dumps({"protocol": protocol, "floor": floor, **result}, indent=1)
            )
        if pictures is not None and by_one.side.train is not None:
            nearest_picture(judged.x, features, by_one.side, pictures / f"{judged.name}-neighbours.png")
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
