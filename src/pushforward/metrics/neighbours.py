"""Metrics on nearest neighbours: is a fake near the data, is the data near a fake?

Distances are blocks of one float32 product of centred features; whatever a comparison leaves in doubt at that precision is decided
anew in float64, so the answer is that of exact distances. Memory grows with n times the block, never with n squared.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pushforward.metrics.measurement import Measurement, as_pair

BLOCK = 1024
_SPARE = 8  # candidates beyond k whose distances are computed exactly


class PrecisionRecall(NamedTuple):
    """Precision: fakes that lie on the data's manifold. Recall: data that lie on the fakes'."""

    precision: Measurement
    recall: Measurement


class _Points:
    """Features ready for blocks of squared distances."""

    def __init__(self, x: Tensor, centre: Tensor) -> None:
        self.exact = x.double() - centre
        self.x = self.exact.float()
        self.norms = self.x.square().sum(dim=1)

    def __len__(self) -> int:
        return len(self.x)


def _block(a: _Points, rows: slice, b: _Points) -> Tensor:
    """Squared distances of some rows of a to all of b, float32, with rounding errors up to `_doubt`."""
    return torch.addmm(b.norms, a.x[rows], b.x.T, alpha=-2).add_(a.norms[rows, None])


def _doubt(a: _Points, rows: slice, b: _Points) -> Tensor:
    """A bound on the error of `_block`, (rows, 1): norms carry it, since the distance is their difference."""
    eps = torch.finfo(torch.float32).eps
    return 4 * eps * math.sqrt(a.x.shape[1]) * (a.norms[rows, None] + b.norms.max())


def _exact(a: _Points, i: Tensor, b: _Points, j: Tensor) -> Tensor:
    """Squared distances of pairs in float64."""
    return torch.cat(
        [(a.exact[p] - b.exact[q]).square().sum(dim=-1) for p, q in zip(i.split(65536), j.split(65536), strict=True)]
    )


def _radii(x: _Points, k: int) -> Tensor:
    """Squared distance of each point to its k-th nearest other point, exact, (n,). Itself is left out by index."""
    out = torch.empty(len(x), dtype=torch.float64)
    spare = min(k + _SPARE, len(x) - 1)
    for start in range(0, len(x), BLOCK):
        rows = slice(start, min(start + BLOCK, len(x)))
        distances = _block(x, rows, x)
        index = torch.arange(rows.start, rows.stop)
        distances[torch.arange(len(index)), index] = math.inf
        near = distances.topk(spare, largest=False).indices
        exact = (x.exact[index, None] - x.exact[near]).square().sum(dim=2)
        out[rows] = exact.sort(dim=1).values[:, k - 1]
    return out


def _inside_any(points: _Points, centres: _Points, radii: Tensor) -> Tensor:
    """Whether each point lies in some ball around a centre, border included, bool (n,)."""
    inside = torch.zeros(len(points), dtype=torch.bool)
    bounds = radii.float()
    for start in range(0, len(points), BLOCK):
        rows = slice(start, min(start + BLOCK, len(points)))
        excess = _block(points, rows, centres).sub_(bounds)
        doubt = _doubt(points, rows, centres)
        sure = (excess < -doubt).any(dim=1)
        i, j = ((excess <= doubt) & ~sure[:, None]).nonzero(as_tuple=True)
        if len(i):
            holds = _exact(points, i + start, centres, j) <= radii[j]
            sure[i[holds]] = True
        inside[rows] = sure
    return inside


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
    if k < 1:
        raise ValueError(f"k must be at least 1; got {k}.")
    x, y = as_pair(real, fake, minimum=k + 1)
    centre = torch.cat([x.double().mean(dim=0, keepdim=True), y.double().mean(dim=0, keepdim=True)]).mean(dim=0)
    a, b = _Points(x, centre), _Points(y, centre)

    def share(hits: Tensor) -> Measurement:
        p = float(hits.double().mean())
        return Measurement(p, math.sqrt(p * (1 - p) / len(hits)), "binomial", len(x), len(y))

    return PrecisionRecall(share(_inside_any(b, a, _radii(a, k))), share(_inside_any(a, b, _radii(b, k))))
