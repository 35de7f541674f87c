"""Which differences between models are real, over seeds that all of them were trained with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

DRAWS, RESAMPLED = 10_000, 10
"""Draws of a bootstrap, and seeds from which on one is taken."""


@dataclass(frozen=True)
class Difference:
    """The mean of a - b over paired seeds.

    Args:
        mean: Of the differences.
        low: Lower end of the 95 % interval.
        high: Upper end.
        p: Two-sided, of no difference; nan with one seed. In a ranking it is corrected for the number of comparisons.
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

    From ten seeds on the interval is the paired bootstrap's, its percentiles moved outwards a little (Hesterberg 2015, section 5.3, arXiv 1411.5279:
    "expanded percentile"). Fewer say too little to be resampled (three seeds lie on one side by chance one time in four): there it is Student's.
    A difference counts as real only if Student's paired test says so too.

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
    error = float(d.std(ddof=1)) / math.sqrt(n)
    p = 2 * float(special.stdtr(n - 1, -abs(mean) / error))
    if n < RESAMPLED:
        reach = error * float(special.stdtrit(n - 1, 1 - level / 2))
        low, high = mean - reach, mean + reach
    else:
        means = d[np.random.default_rng(0).integers(n, size=(DRAWS, n))].mean(axis=1)
        tail = float(special.ndtr(math.sqrt(n / (n - 1)) * special.stdtrit(n - 1, level / 2)))
        low, high = (float(v) for v in np.quantile(means, [tail, 1 - tail]))
    return Difference(mean, low, high, p, (low > 0 or high < 0) and p < level, n)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number, so that at most 5 % of all families of equals have any below 5 % (Holm 1979).

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    out, largest = [0.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[i]))
        out[i] = largest
    return out


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean over seeds and its standard error; None of one seed.

    Example:
        >>> mean_and_error([1.0, 2.0, 3.0, 6.0]), mean_and_error([2.0])  # sqrt(14 / 3 / 4)
        ((3.0, 1.0801234497346435), (2.0, None))
    """
    x = np.asarray(values, dtype=np.float64)
    return float(x.mean()), float(x.std(ddof=1) / math.sqrt(len(x))) if len(x) > 1 else None
