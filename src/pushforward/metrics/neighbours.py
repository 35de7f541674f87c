"""Metrics on nearest neighbours: is a fake near the data, is the data near a fake, is a fake a copy?

Distances are blocks of one float32 product of centred features; whatever a comparison leaves in doubt at that precision is decided
anew in float64, so the answer is that of exact distances. Memory grows with n times the block, never with n squared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pushforward.metrics.measurement import Measurement, as_features, as_pair

BLOCK = 1024
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


class _Points:
    """Features ready for blocks of squared distances."""

    def __init__(self, x: Tensor, centre: Tensor) -> None:
        self.exact = x
        self.centre = centre
        self.x = x.sub(centre).float() if x.dtype == torch.float32 else (x.double() - centre).float()
        self.norms = self.x.square().sum(dim=1)

    def __len__(self) -> int:
        return len(self.x)

    def rows(self, index: Tensor) -> Tensor:
        """Some rows in float64."""
        return self.exact[index].double()


def _centred(*sets: Tensor) -> list[_Points]:
    """All sets about one common point: the distance of far-off clouds keeps its digits."""
    centre = torch.stack([s.double().mean(dim=0) for s in sets]).mean(dim=0)
    return [_Points(s, centre.to(s.dtype)) for s in sets]


def _trust(d: int) -> float:
    """Relative to the squared norms of a pair, a bound on the float32 rounding error of its squared distance."""
    return torch.finfo(torch.float32).eps * (2 * math.sqrt(d) + 8)


def _block(a: _Points, rows: slice, b: _Points, columns: slice = slice(None), *, lower: bool = False) -> Tensor:
    """Squared distances of some rows of a to some of b, float32; with `lower` bounds that no exact distance is below."""
    keep = 1 - _trust(a.x.shape[1]) if lower else 1.0
    products = torch.addmm(b.norms[columns] * keep, a.x[rows], b.x[columns].T, alpha=-2)
    return products.add_(a.norms[rows, None] * keep)


def _exact(a: _Points, i: Tensor, b: _Points, j: Tensor) -> Tensor:
    """Squared distances of pairs in float64."""
    size = max(1, 4_000_000 // a.x.shape[1])
    parts = [(a.rows(p) - b.rows(q)).square().sum(dim=-1) for p, q in zip(i.split(size), j.split(size), strict=True)]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)


def _slices(n: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


def _candidates(x: _Points, wanted: int) -> tuple[Tensor, Tensor]:
    """The `wanted` other points with the smallest lower bounds of each point, and the largest of those bounds.

    Itself is left out by index. Distances are symmetric: each block serves its rows and its columns.
    """
    n = len(x)
    best = torch.full((n, wanted), math.inf)
    near = torch.zeros(n, wanted, dtype=torch.int64)

    def merge(rows: slice, bounds: Tensor, first: int) -> None:
        values, index = bounds.topk(min(wanted, bounds.shape[1]), dim=1, largest=False)
        values, index = torch.cat([best[rows], values], dim=1), torch.cat([near[rows], index + first], dim=1)
        best[rows], order = values.topk(wanted, dim=1, largest=False)
        near[rows] = index.gather(1, order)

    slices = _slices(n)
    for i, rows in enumerate(slices):
        for columns in slices[i:]:
            bounds = _block(x, rows, x, columns, lower=True)
            if rows == columns:
                merge(rows, bounds.fill_diagonal_(math.inf), columns.start)
            else:
                merge(rows, bounds, columns.start)
                merge(columns, bounds.T, rows.start)
    return near, best[:, -1]


def _nearest_exact(x: _Points, rows: Tensor, y: _Points, near: Tensor) -> tuple[Tensor, Tensor]:
    """Exact squared distances of some rows to their candidates, ascending, and the candidates in that order."""
    wanted = near.shape[1]
    exact = _exact(x, rows[:, None].expand(-1, wanted).flatten(), y, near.flatten()).reshape(-1, wanted)
    values, order = exact.sort(dim=1)
    return values, near.gather(1, order)


def _slow_rows(x: _Points, rows: Tensor, y: _Points, wanted: int, *, same: bool) -> tuple[Tensor, Tensor]:
    """What `_nearest_exact` gives, for rows whose neighbours float32 cannot tell apart: candidates by float64."""
    values, index = [], []
    for part in rows.split(256):
        distances = torch.cdist(x.rows(part) - x.centre.double(), y.exact.double() - y.centre.double())
        if same:
            distances[torch.arange(len(part)), part] = math.inf
        found = _nearest_exact(x, part, y, distances.topk(wanted, dim=1, largest=False).indices)
        values.append(found[0])
        index.append(found[1])
    return torch.cat(values), torch.cat(index)


def _radii(x: _Points, ks: Sequence[int]) -> list[Tensor]:
    """Squared distances of each point to its k-th nearest other points, exact, one (n,) for each k."""
    n, wanted = len(x), min(max(ks) + _SPARE, len(x) - 1)
    near, beyond = _candidates(x, wanted)
    exact, _ = _nearest_exact(x, torch.arange(n), x, near)
    if wanted < n - 1:  # whoever is not a candidate is at least `beyond` away
        doubtful = (exact[:, max(ks) - 1] > beyond.double()).nonzero().squeeze(1)
        if len(doubtful):
            exact[doubtful] = _slow_rows(x, doubtful, x, wanted, same=True)[0]
    return [exact[:, k - 1].clone() for k in ks]


class _Hits(NamedTuple):
    """How the fakes lie in the data's balls and the data in the fakes'."""

    fake_inside: Tensor  # bool (m,): in some ball of the data, border included
    real_inside: Tensor  # bool (n,): in some ball of the fakes, border included
    fake_balls: Tensor  # int64 (m,): balls of the data that hold it, border excluded
    real_covered: Tensor  # bool (n,): its ball holds a fake, border excluded


def _hits(real: _Points, fake: _Points, k_border: int, k_open: int) -> _Hits:
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
    for rows in _slices(m):
        distances = _block(fake, rows, real)
        doubt = (fake.norms[rows, None] + real.norms).mul_(_trust(real.x.shape[1]))
        if (doubt > 0.05 * distances).float().mean() > 0.05:  # far-apart clusters: float32 says nothing of near pairs
            a, b = fake.exact[rows].double() - fake.centre.double(), real.exact.double() - real.centre.double()
            distances, doubt = torch.cdist(a, b).square_(), doubt.double().mul_(1e-7)

        def decide(radii: Tensor, strict: bool) -> Tensor:
            """Whether each pair is within the radius, (rows, 1) or (n,); pairs in doubt are looked at in float64."""
            limits = radii.to(distances.dtype)  # noqa: B023  called within this turn
            excess = distances - limits  # noqa: B023
            inside = excess < 0
            i, j = (excess.abs_() <= doubt + limits * torch.finfo(limits.dtype).eps).nonzero(as_tuple=True)  # noqa: B023
            if len(i):
                exact, limit = _exact(fake, i + rows.start, real, j), radii.expand_as(inside)[i, j]  # noqa: B023
                inside[i, j] = exact < limit if strict else exact <= limit
            return inside

        hits.fake_inside[rows] = decide(closed, False).any(dim=1)
        hits.real_inside.logical_or_(decide(fake_closed[rows, None], False).any(dim=0))
        strictly = decide(opened, True)
        hits.fake_balls[rows] = strictly.sum(dim=1)
        hits.real_covered.logical_or_(strictly.any(dim=0))
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
    a, b = _centred(x, y)
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
    x, y = _centred(a, b)
    kept = min(1 + _SPARE, len(y))
    tops = [_block(x, rows, y, lower=True).topk(kept, dim=1, largest=False) for rows in _slices(len(x))]
    values, index = _nearest_exact(x, torch.arange(len(x)), y, torch.cat([t.indices for t in tops]))
    if kept < len(y):
        doubtful = (values[:, 0] > torch.cat([t.values[:, -1] for t in tops]).double()).nonzero().squeeze(1)
        if len(doubtful):
            values[doubtful], index[doubtful] = _slow_rows(x, doubtful, y, kept, same=False)
    return values[:, 0].sqrt(), index[:, 0]


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
