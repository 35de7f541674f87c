"""Cheap signs of trouble while a GAN trains, and alarms in plain words.

Numbers go to the log; alarms are a function of the log alone, so that a resumed run raises the same ones.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward.data.fetch import STACKS
from pushforward.data.images import ImageSet, to_bytes
from pushforward.data.toy import Density, Mixture
from pushforward.metrics.features import extractor

PATIENCE = 500  # steps that a sign must last
NOISY = 1.3  # nearest neighbours this many times as far apart as data's are those of noise
HIT = 0.2  # of a mixture's samples lie within three standard deviations of a mean: below it the modes are missed
PRESENT = 0.1  # a class is there if its share is at least this part of an even one


def signs(x: Tensor, data: ImageSet | Density, name: str) -> dict[str, float]:
    """What samples say of collapse.

    Args:
        x: Samples in the model's range, (n, *shape).
        data: What is learned.
        name: The data set's name.

    Returns:
        "monitor/spread": mean distance to the nearest other sample, over that of as many data points (1: as varied; 0: all the same).
        "monitor/modes" and "monitor/all_modes": classes (MNIST, by the digit encoder) or Gaussians (mixtures, each sample counted for its nearest) that are there, and
        how many there are; of stacked MNIST, how many of its 1,000 kinds are among these samples, and among as many data; left out for other data.
    """
    n = len(x)
    g = torch.Generator().manual_seed(0)
    if isinstance(data, ImageSet):
        chosen = torch.randperm(len(data), generator=g)[:n]
        real = data.images[chosen].float() / 127.5 - 1
        x, n = x[: len(real)], len(real)  # of a small data set as many samples: nearest neighbours come closer with n
    else:
        real = data.sample(n, generator=g)
    found = {"monitor/spread": _nearest(x) / max(_nearest(real), 1e-12)}
    shares: Tensor | None = None
    if name in ("mnist", "mnist-5k") and isinstance(data, ImageSet):
        logits = extractor("digits")(to_bytes(x)).logits
        assert logits is not None
        shares = logits.argmax(dim=1).bincount(minlength=10) / n
    elif name in STACKS and isinstance(data, ImageSet) and data.labels is not None:
        digits = [extractor("digits")(to_bytes(x[:, c : c + 1])).logits for c in range(3)]
        read = sum(d.argmax(dim=1) * 10 ** (2 - c) for c, d in enumerate(digits) if d is not None)
        # A thousand kinds cannot all be among a few hundred samples: as many as among so many data are all there are.
        found["monitor/modes"] = float(len(torch.as_tensor(read).unique()))
        found["monitor/all_modes"] = float(len(data.labels[chosen].unique()))
    elif isinstance(data, Mixture):
        distances, which = torch.cdist(x.float(), data.means.float()).min(dim=1)
        found["monitor/high_quality"] = float((distances <= 3 * data.sd[which]).float().mean())
        # Which Gaussians are there is another question than how well they are hit: each sample counts for its nearest.
        shares = which.bincount(minlength=len(data.means)) / n
    if shares is not None:
        found["monitor/modes"] = float((shares >= PRESENT / len(shares)).sum())
        found["monitor/all_modes"] = float(len(shares))
    return found


def _nearest(x: Tensor) -> float:
    distances = torch.cdist(x.flatten(1).float(), x.flatten(1).float())
    return float(distances.fill_diagonal_(torch.inf).min(dim=1).values.mean())


@dataclass(frozen=True)
class Alarm:
    """Something is wrong since a step.

    Args:
        step: Where it was noticed.
        kind: "collapse", "sameness", "noise", "missed" or "saturation".
        text: What, and what usually helps.
    """

    step: int
    kind: str
    text: str


def alarms(rows: Sequence[dict[str, Any]]) -> list[Alarm]:
    """The first alarm of each kind in a log.

    Args:
        rows: Lines of log.jsonl, in order.
    """
    found = [_collapse(rows), _sameness(rows), _noise(rows), _missed(rows), _saturation(rows)]
    return sorted((a for a in found if a is not None), key=lambda a: a.step)


def _lasting(rows: Sequence[tuple[int, bool]]) -> tuple[int, int] | None:
    """Where a sign has lasted `PATIENCE` steps: (its step, since when); the first `PATIENCE` steps of a run do not count."""
    since: int | None = None
    for step, bad in rows:
        if not bad or step < PATIENCE:
            since = None
        else:
            since = step if since is None else since
            if step - since >= PATIENCE:
                return step, since
    return None


def _collapse(rows: Sequence[dict[str, Any]]) -> Alarm | None:
    seen = [r for r in rows if "monitor/modes" in r]
    lasting = _lasting(
        [(r["step"], r["monitor/modes"] <= 0.8 * r["monitor/all_modes"] - 1e-9 and not _noisy(r)) for r in seen]
    )
    if lasting is None:
        return None
    row = next(r for r in seen if r["step"] == lasting[0])
    return Alarm(
        lasting[0],
        "collapse",
        f"mode collapse: {row['monitor/modes']:.0f} of {row['monitor/all_modes']:.0f} modes for {lasting[0] - lasting[1]} steps. What usually helps: a penalty on the "
        "discriminator's slope (terms r1), packing (model.pack = 2), looking ahead (model.unroll_steps = 5), a lower generator learning rate.",
    )


def _sameness(rows: Sequence[dict[str, Any]]) -> Alarm | None:
    lasting = _lasting([(r["step"], r["monitor/spread"] < 0.2) for r in rows if "monitor/spread" in r])
    if lasting is None:
        return None
    return Alarm(
        lasting[0],
        "sameness",
        f"samples are nearly the same: their nearest neighbours have been under a fifth of the data's distance for {lasting[0] - lasting[1]} steps. What usually "
        "helps: as for mode collapse; or the run has only begun.",
    )


def _noisy(row: dict[str, Any]) -> bool:
    """Noise is of one class to a classifier, and yet no two samples are alike. (Points of a mixture lie apart whenever they miss its narrow Gaussians.)"""
    return "monitor/high_quality" not in row and bool(row.get("monitor/spread", 0.0) > NOISY)


def _noise(rows: Sequence[dict[str, Any]]) -> Alarm | None:
    lasting = _lasting([(r["step"], _noisy(r)) for r in rows])
    if lasting is None:
        return None
    return Alarm(
        lasting[0],
        "noise",
        f"samples are noise: their nearest neighbours have been more than {NOISY:g} times the data's distance for {lasting[0] - lasting[1]} steps. What usually "
        "helps: lower learning rates, batch norm in the generator, an objective that does not saturate; or the run has only begun.",
    )


def _missed(rows: Sequence[dict[str, Any]]) -> Alarm | None:
    """Samples between the Gaussians of a mixture: each is nearest to one, so that all modes seem to be there."""
    key = "monitor/high_quality"
    lasting = _lasting([(r["step"], r[key] < HIT) for r in rows if key in r])
    if lasting is None:
        return None
    share = next(r[key] for r in rows if key in r and r["step"] == lasting[0])
    return Alarm(
        lasting[0],
        "missed",
        f"samples miss the modes: {share:.1%} of them lie within three standard deviations of one, and under {HIT:.0%} have for {lasting[0] - lasting[1]} steps. What usually "
        "helps: learning rates that decay, averaged weights, a penalty on the discriminator's slope; or the run has only begun.",
    )


def _saturation(rows: Sequence[dict[str, Any]]) -> Alarm | None:
    """The generator's gradient, the median of ten log lines, has fallen far below its largest median of three (of as many as there are, so that the first line counts: most of a fall may lie in it).

    Far is 1000 times, or 100 where no fake beats data: runs that learn fall by about 10.
    """
    key, beaten = "generator/gradient_norm", "discriminator/overlap"
    seen = [r for r in rows if key in r]
    largest = 0.0
    for i, row in enumerate(seen):
        largest = max(largest, statistics.median(r[key] for r in seen[max(0, i - 2) : i + 1]))
        if i < 9:
            continue
        last = seen[i - 9 : i + 1]
        median = statistics.median(r[key] for r in last)
        apart = statistics.median(r.get(beaten, 1.0) for r in last) < 0.01
        if 0 <= median < largest / (100 if apart else 1000):
            told = ", which tells every fake from data" if apart else ""
            return Alarm(
                row["step"],
                "saturation",
                f"discriminator saturated{told}: the generator's gradient fell by {largest / max(median, 1e-30):,.0f}x. What usually helps: the non-saturating or "
                "least-squares objective, r1, instance noise, a lower discriminator learning rate.",
            )
    return None
