"""The metrics of the command line: each takes the features of both sides and gives named figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

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
from pushforward.metrics.features import Features

Values = dict[str, Measurement]


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
    "likelihood": Metric(lambda s: {}, default=False, of_floor=False),  # of a model and not of its samples: see Judge
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
