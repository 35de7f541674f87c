"""Which differences between models are real, over seeds that all of them were trained with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

DRAWS = 10_000


@dataclass(frozen=True)
class Difference:
    """The mean of a - b over paired seeds.

    Args:
        mean: Of the differences.
        low: Lower end of the 95 % interval.
        high: Upper end.
        p: Two-sided, of no difference; nan with one seed.
        real: The interval excludes 0 and p is below 5 %.
        seeds: How many pairs.
    """

    mean: float
    low: float
    high: float
    p: float
    real: bool
    seeds: int


def paired_difference(a: Sequence[float], b: Sequence[float], *, level: float = 0.05) -> Difference:
    """Compare two models by the scores of the same seeds.

    The interval is the paired bootstrap's, with its percentiles moved outwards as few seeds demand (Hesterberg 2015, section 5.3,
    arXiv 1411.5279: "expanded percentile"). Of three seeds no resampling can tell that all lie on one side by chance (one time in four), so a
    difference counts as real only if Student's paired test says so too.

    Args:
        a: Scores of one model, a seed each.
        b: Scores of the other, in the same order.
        level: Of the test, and 1 - level of the interval.

    Raises:
        ValueError: other numbers of seeds, or none.

    Example:
        >>> paired_difference([1.0, 2.0, 3.0, 4.0], [0.0, 1.1, 2.0, 2.9]).real
        True
    """
    d = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    n = len(d)
    if n == 0 or len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} scores: give one of each model for each seed, at least one.")
    mean = float(d.mean())
    if n == 1:
        return Difference(mean, -math.inf, math.inf, math.nan, False, 1)
    if np.ptp(d) == 0:
        return Difference(mean, mean, mean, 0.0 if mean else 1.0, bool(mean), n)
    means = d[np.random.default_rng(0).integers(n, size=(DRAWS, n))].mean(axis=1)
    tail = float(stats.norm.cdf(math.sqrt(n / (n - 1)) * stats.t.ppf(level / 2, n - 1)))
    low, high = (float(v) for v in np.quantile(means, [tail, 1 - tail]))
    p = float(stats.ttest_1samp(d, 0.0).pvalue)
    return Difference(mean, low, high, p, (low > 0 or high < 0) and p < level, n)


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean over seeds and its standard error; None of one seed.

    Example:
        >>> mean_and_error([1.0, 3.0]), mean_and_error([2.0])
        ((2.0, 1.0), (2.0, None))
    """
    x = np.asarray(values, dtype=np.float64)
    return float(x.mean()), float(x.std(ddof=1) / math.sqrt(len(x))) if len(x) > 1 else None
