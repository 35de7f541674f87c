"""The real side of an evaluation: test images, and training images in the place of fakes, clean and damaged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pushforward.config import DataConfig
from pushforward.data.fetch import load
from pushforward.data.images import ImageSet
from pushforward.data.toy import Density
from pushforward.errors import DataError, NotSupported
from pushforward.metrics.features import Extractor, Features, cached_features, extractor
from pushforward.randomness import SampleStream, derive_seed

MAXIMUM = 10_000  # samples, unless more are asked for


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
        "without": data.without,
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
