"""Metrics on nearest neighbours: is a fake near the data, is the data near a fake, is a fake a copy?

Distances come in blocks with bounds on their errors (`distances.py`); whatever a comparison leaves in doubt is decided anew in float64, so
the answer is that of exact distances. Memory grows with n times the block, never with n squared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pushforward.metrics.distances import Points, about_one_centre, block, exact, slices
from pushforward.metrics.measurement import Measurement, as_features, as_pair

_SPARE = 4  # candidates beyond k whose distances are computed exactly


class PrecisionRecall(NamedTuple):
    """Precision: fakes that lie on the data's manifold. Recall: data that lie on the fakes'."""

    precision: Measurement
    recall: Measurement


class DensityCoverage(NamedTuple):
    """Density: how many balls of the data hold a fake, over k. Coverage: data whose ball holds a fake."""

    density: Measurement
    coverage: Measurement


class Memorisation(NamedTuple):
    """Distance of fakes to the nearest training sample, and how often it is below that of test samples."""

    nearest: Measurement
    score: Measurement


class _Nearest:
    """For each row of a set the `wanted` smallest lower bounds of its distances to others, as blocks come in."""

    def __init__(self, n: int, wanted: int) -> None:
        self.bounds = torch.full((n, wanted), math.inf)
        self.index = torch.zeros(n, wanted, dtype=torch.int64)

    def merge(self, rows: slice, bounds: Tensor, first: int) -> None:
        """Lower bounds of some rows to the others from `first` on, (rows, others)."""
        wanted = self.bounds.shape[1]
        better = (bounds.amin(dim=1) < self.bounds[rows, -1]).nonzero().squeeze(1)  # in large sets few rows have any
        values, index = bounds[better].topk(min(wanted, bounds.shape[1]), dim=1, largest=False)
        where = better + rows.start
        values, index = torch.cat([self.bounds[where], values], 1), torch.cat([self.index[where], index + first], 1)
        self.bounds[where], order = values.topk(wanted, dim=1, largest=False)
        self.index[where] = index.gather(1, order)


def _candidates(x: Points, wanted: int) -> _Nearest:
    """Of all other points of the same set: itself is left out by index. Each block serves its rows and its columns."""
    found = _Nearest(len(x), wanted)
    for i, rows in enumerate(slices(len(x))):
        for columns in slices(len(x))[i:]:
            distances, doubt = block(x, rows, x, columns)
            lower = distances.sub_(doubt)
            if rows == columns:
                found.merge(rows, lower.fill_diagonal_(math.inf), columns.start)
            else:
                found.merge(rows, lower, columns.start)
                found.merge(columns, lower.T.contiguous(), rows.start)
    return found


def _nearest_exact(x: Points, rows: Tensor, y: Points, near: Tensor) -> tuple[Tensor, Tensor]:
    """Exact squared distances of some rows to their candidates, ascending, and the candidates in that order."""
    values, order = exact(x, rows, y, near).sort(dim=1)
    return values, near.gather(1, order)


def _slow_rows(x: Points, rows: Tensor, y: Points, wanted: int, *, same: bool) -> tuple[Tensor, Tensor]:
    """What `_nearest_exact` gives, for rows whose neighbours the fast bounds cannot tell apart: candidates by float64."""
    values, index = [], []
    centre = x.centre.double()
    for part in rows.split(256):
        found = _Nearest(len(part), wanted)
        found.bounds = found.bounds.double()
        for columns in slices(len(y)):
            distances = torch.cdist(
                x.given[part].double() - centre,
                y.given[columns].double() - centre,
                compute_mode="donot_use_mm_for_euclid_dist",
            )
            if same:
                distances[part[:, None] == torch.arange(columns.start, columns.stop)] = math.inf
            found.merge(slice(0, len(part)), distances, columns.start)
        near = _nearest_exact(x, part, y, found.index)
        values.append(near[0])
        index.append(near[1])
    return torch.cat(values), torch.cat(index)


def _radii(x: Points, ks: Sequence[int]) -> list[Tensor]:
    """Squared distances of each point to its k-th nearest other points, exact, one (n,) for each k."""
    n, wanted = len(x), min(max(ks) + _SPARE, len(x) - 1)
    found = _candidates(x, wanted)
    values, _ = _nearest_exact(x, torch.arange(n), x, found.index)
    if wanted < n - 1:  # whoever is not a candidate is at least as far as the largest of the bounds
        doubtful = (values[:, max(ks) - 1] > found.bounds[:, -1].double()).nonzero().squeeze(1)
        if len(doubtful):
            values[doubtful] = _slow_rows(x, doubtful, x, wanted, same=True)[0]
    return [values[:, k - 1].clone() for k in ks]


class _Hits(NamedTuple):
    """How the fakes lie in the data's balls and the data in the fakes'."""

    fake_inside: Tensor  # bool (m,): in some ball of the data, border included
    real_inside: Tensor  # bool (n,): in some ball of the fakes, border included
    fake_balls: Tensor  # int64 (m,): balls of the data that hold it, border excluded
    real_covered: Tensor  # bool (n,): its ball holds a fake, border excluded


def _near_pairs(
    fake: Points, rows: slice, real: Points, columns: slice, limits: Callable[[Tensor, Tensor], Tensor], widest: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of a block that may lie within `widest`, and squared distances that compare with every limit as exact ones do.

    Args:
        limits: Of pairs (i, j), float64 (limits, pairs).
        widest: The largest limit of each pair of the block, (rows, columns).
    """
    distances, doubt = block(fake, rows, real, columns)
    for _ in range(2):
        i, j = (distances - doubt <= widest).nonzero(as_tuple=True)
        near, error = distances[i, j].double(), doubt[i, j].double()
        i, j = i + rows.start, j + columns.start
        bounds = limits(i, j)
        unsure = ((near - bounds).abs() <= error + bounds * torch.finfo(torch.float32).eps).any(dim=0)
        if distances.dtype == torch.float64 or int(unsure.sum()) <= 0.02 * distances.numel():
            break
        # far-apart clusters: float32 says nothing of near pairs
        centre = fake.centre.double()
        distances = torch.cdist(
            (fake.given[rows].double() - centre) * fake.scale, (real.given[columns].double() - centre) * real.scale
        ).square_()
        doubt = doubt.double().mul_(1e-7)
    near[unsure] = exact(fake, i[unsure], real, j[unsure, None]).squeeze(1)
    return i, j, near


def _hits(real: Points, fake: Points, k_border: int, k_open: int) -> _Hits:
    """One pass over all pairs for all four metrics."""
    closed, opened = _radii(real, [k_border, k_open])
    (fake_closed,) = _radii(fake, [k_border])
    n, m = len(real), len(fake)
    hits = _Hits(
        torch.zeros(m, dtype=torch.bool),
        torch.zeros(n, dtype=torch.bool),
        torch.zeros(m, dtype=torch.int64),
        torch.zeros(n, dtype=torch.bool),
    )

    def limits(i: Tensor, j: Tensor) -> Tensor:
        return torch.stack([closed[j], opened[j], fake_closed[i]])

    largest = torch.maximum(closed, opened)
    for rows in slices(m):
        for columns in slices(n):
            widest = torch.maximum(fake_closed[rows, None].float(), largest[columns].float()).mul_(1 + 1e-6)
            i, j, near = _near_pairs(fake, rows, real, columns, limits, widest)
            hits.fake_inside[i[near <= closed[j]]] = True
            hits.real_inside[j[near <= fake_closed[i]]] = True
            inside = near < opened[j]
            hits.fake_balls[rows] += torch.bincount(i[inside] - rows.start, minlength=rows.stop - rows.start)
            hits.real_covered[j[inside]] = True
    return hits


def _share(hits: Tensor, n: int, m: int) -> Measurement:
    p = float(hits.double().mean())
    return Measurement(p, math.sqrt(p * (1 - p) / len(hits)), "binomial, the balls taken as given", n, m)


def prdc(
    *,
    real: Tensor | np.ndarray,
    fake: Tensor | np.ndarray,
    k_precision_recall: int = 3,
    k_density_coverage: int = 5,
) -> tuple[PrecisionRecall, DensityCoverage]:
    """Precision, recall, density and coverage for the price of one pass; see `precision_recall`, `density_coverage`."""
    for k in (k_precision_recall, k_density_coverage):
        if k < 1:
            raise ValueError(f"k must be at least 1; got {k}.")
    x, y = as_pair(real, fake, minimum=max(k_precision_recall, k_density_coverage) + 1)
    n, m = len(x), len(y)
    a, b = about_one_centre(x, y)
    hits = _hits(a, b, k_precision_recall, k_density_coverage)
    counts = hits.fake_balls.double() / k_density_coverage
    density = Measurement(float(counts.mean()), float(counts.std()) / math.sqrt(m), "standard error of the mean", n, m)
    return (
        PrecisionRecall(_share(hits.fake_inside, n, m), _share(hits.real_inside, n, m)),
        DensityCoverage(density, _share(hits.real_covered, n, m)),
    )


def precision_recall(*, real: Tensor | np.ndarray, fake: Tensor | np.ndarray, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall: the share of fakes within a k-NN ball of the data, and the other way round.

    A ball reaches to its centre's k-th nearest neighbour in its own set, the border included and itself left out. Precision alone is
    blind: visibly noisy digits score above .9. Never read it without recall.

    Args:
        real: Features, (n, d), n > k.
        fake: Features, (m, d), m > k.
        k: Which neighbour sets the radius.

    Returns:
        Both, each with the binomial standard error of its own sample (the other set's balls taken as given).

    Raises:
        ValueError: k below 1, too few rows, shapes that do not fit, rows that are not finite.

    Reference: Kynkaanniemi et al. 2019, equation 1, arXiv 1904.06991.

    Example:
        >>> x = torch.arange(10.0)[:, None]
        >>> p, r = precision_recall(real=x, fake=x[:5], k=1)
        >>> p.value, r.value  # every fake is near data; data 0..5 lie within 1 of a fake
        (1.0, 0.6)
    """
    return prdc(real=real, fake=fake, k_precision_recall=k, k_density_coverage=k)[0]


def density_coverage(*, real: Tensor | np.ndarray, fake: Tensor | np.ndarray, k: int = 5) -> DensityCoverage:
    """Density and coverage: robust relatives of precision and recall that ask the data's balls alone.

    Density counts, for each fake, the balls of the data that hold it, over k: about 1 for perfect fakes, and it may exceed 1.
    Coverage is the share of data whose ball holds a fake: about 1 - 2^-k for perfect fakes. A ball's border does not
    belong to it (so duplicated data, whose balls have radius 0, are covered by nothing).

    Args:
        real: Features, (n, d), n > k.
        fake: Features, (m, d), m > k.
        k: Which neighbour sets the radius.

    Returns:
        Both; density with the standard error of its mean over fakes, coverage with the binomial one over data.

    Raises:
        ValueError: as `precision_recall`.

    Reference: Naeem et al. 2020, equations 3 and 4, arXiv 2002.09797.

    Example:
        >>> x = torch.arange(10.0)[:, None]
        >>> d, c = density_coverage(real=x, fake=x[:5] + 0.25, k=1)
        >>> d.value, c.value  # each fake lies within 1 of two data points, which are 0..5
        (2.0, 0.6)
    """
    return prdc(real=real, fake=fake, k_precision_recall=k, k_density_coverage=k)[1]


def nearest_distances(*, queries: Tensor | np.ndarray, targets: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
    """Distance of each query to its nearest target, and which one that is.

    Args:
        queries: Features, (n, d).
        targets: Features, (m, d).

    Returns:
        Euclidean distances, float64 (n,), and indices, int64 (n,).
    """
    a, b = as_pair(queries, targets, minimum=1)
    x, y = about_one_centre(a, b)
    kept = min(1 + _SPARE, len(y))
    found = _Nearest(len(x), kept)
    for rows in slices(len(x)):
        for columns in slices(len(y)):
            distances, doubt = block(x, rows, y, columns)
            found.merge(rows, distances.sub_(doubt), columns.start)
    values, index = _nearest_exact(x, torch.arange(len(x)), y, found.index)
    if kept < len(y):
        doubtful = (values[:, 0] > found.bounds[:, -1].double()).nonzero().squeeze(1)
        if len(doubtful):
            values[doubtful], index[doubtful] = _slow_rows(x, doubtful, y, kept, same=False)
    return values[:, 0].sqrt() / x.scale, index[:, 0]


def memorisation(*, train: Tensor | np.ndarray, test: Tensor | np.ndarray, fake: Tensor | np.ndarray) -> Memorisation:
    """Are the fakes nearer to the training data than unseen data are?

    The score is the probability that a fake lies nearer to its nearest training sample than a test sample does to its own
    (the Mann-Whitney statistic): 1/2 for a model as far from its training data as fresh data, 1 for one that copies them.

    Args:
        train: Features of the training data, (n, d).
        test: Features of unseen data, (m, d).
        fake: Features of samples, (l, d).

    Returns:
        The mean distance, and the score with the standard error of a two-sample U-statistic.

    Reference: Meehan, Chaudhuri, Dasgupta 2020, section 3, arXiv 2004.05675.
    """
    from pushforward.metrics.outliers import auroc

    fakes = nearest_distances(queries=fake, targets=train)[0]
    unseen = nearest_distances(queries=as_features(test, "test"), targets=train)[0]
    mean = Measurement(
        float(fakes.mean()),
        float(fakes.std()) / math.sqrt(len(fakes)),
        "standard error of the mean",
        len(unseen),
        len(fakes),
    )
    return Memorisation(mean, auroc(inliers=fakes, outliers=unseen))
