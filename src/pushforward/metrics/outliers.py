"""How well a score tells outliers from inliers. A higher score means "more of an outlier" throughout.

Which class is the positive one changes a number's meaning; so every name says it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from pushforward.metrics.measurement import Measurement


def _scores(x: Tensor | np.ndarray, name: str) -> Tensor:
    x = (x if isinstance(x, Tensor) else torch.from_numpy(np.ascontiguousarray(x))).detach().double().flatten()
    if len(x) < 2:
        raise ValueError(f"{name} has {len(x)} scores; at least 2 are needed.")
    if torch.isnan(x).any():
        raise ValueError(f"{name}: {int(torch.isnan(x).sum())} of {len(x)} scores are not numbers.")
    return x


def _placements(a: Tensor, b: Tensor) -> Tensor:
    """For each of a, the share of b below it, ties counted half."""
    ordered = b.sort().values
    return (torch.searchsorted(ordered, a, right=False) + torch.searchsorted(ordered, a, right=True)).double() / (
        2 * len(b)
    )


def auroc(*, inliers: Tensor | np.ndarray, outliers: Tensor | np.ndarray) -> Measurement:
    """Area under the ROC curve: the probability that an outlier scores above an inlier, ties counted half.

    Args:
        inliers: Scores of inliers, (n,).
        outliers: Scores of outliers, (m,).

    Returns:
        The area with the standard error of DeLong, DeLong and Clarke-Pearson (1988).

    Example:
        >>> auroc(inliers=torch.tensor([0.0, 1.0]), outliers=torch.tensor([1.0, 2.0])).value
        0.875
    """
    a, b = _scores(inliers, "inliers"), _scores(outliers, "outliers")
    of_outliers, of_inliers = _placements(b, a), 1 - _placements(a, b)
    variance = float(of_outliers.var()) / len(b) + float(of_inliers.var()) / len(a)
    return Measurement(float(of_outliers.mean()), math.sqrt(variance), "DeLong", len(a), len(b))


def _average_precision(positive: Tensor, negative: Tensor) -> float:
    """Area under precision-recall by steps, thresholds at distinct scores; positives should score high."""
    scores = torch.cat([positive, negative])
    labels = torch.cat([torch.ones(len(positive)), torch.zeros(len(negative))]).double()
    order = scores.argsort(descending=True, stable=True)
    scores, labels = scores[order], labels[order]
    last = torch.ones(len(scores), dtype=torch.bool)
    last[:-1] = scores[1:] != scores[:-1]  # the end of each run of ties
    hits = labels.cumsum(0)[last]
    precision = hits / torch.arange(1, len(scores) + 1).double()[last]
    recall = hits / len(positive)
    return float((precision * torch.diff(recall, prepend=torch.zeros(1, dtype=torch.float64))).sum())


def _fpr_at_tpr(positive: Tensor, negative: Tensor, tpr: float = 0.95) -> float:
    """Share of negatives at or above the largest threshold that keeps at least `tpr` of the positives."""
    threshold = positive.sort(descending=True).values[math.ceil(tpr * len(positive)) - 1]
    return float((negative >= threshold).double().mean())


def _bootstrap(
    statistic: Callable[[Tensor, Tensor], float], a: Tensor, b: Tensor, repeats: int, seed: int
) -> Measurement:
    g = torch.Generator().manual_seed(seed)
    draws = [
        statistic(a[torch.randint(len(a), (len(a),), generator=g)], b[torch.randint(len(b), (len(b),), generator=g)])
        for _ in range(repeats)
    ]
    return Measurement(statistic(a, b), float(np.std(draws, ddof=1)), f"bootstrap, {repeats} draws", len(a), len(b))


def aupr_out(
    *, inliers: Tensor | np.ndarray, outliers: Tensor | np.ndarray, repeats: int = 100, seed: int = 0
) -> Measurement:
    """Average precision with outliers as the positive class (high scores)."""
    a, b = _scores(inliers, "inliers"), _scores(outliers, "outliers")
    return _bootstrap(lambda i, o: _average_precision(o, i), a, b, repeats, seed)


def aupr_in(
    *, inliers: Tensor | np.ndarray, outliers: Tensor | np.ndarray, repeats: int = 100, seed: int = 0
) -> Measurement:
    """Average precision with inliers as the positive class (low scores)."""
    a, b = _scores(inliers, "inliers"), _scores(outliers, "outliers")
    return _bootstrap(lambda i, o: _average_precision(-i, -o), a, b, repeats, seed)


def fpr95_inliers_positive(
    *, inliers: Tensor | np.ndarray, outliers: Tensor | np.ndarray, repeats: int = 100, seed: int = 0
) -> Measurement:
    """Share of outliers that pass as inliers at the threshold that accepts 95 % of the inliers."""
    a, b = _scores(inliers, "inliers"), _scores(outliers, "outliers")
    return _bootstrap(lambda i, o: _fpr_at_tpr(-i, -o), a, b, repeats, seed)


def fpr95_outliers_positive(
    *, inliers: Tensor | np.ndarray, outliers: Tensor | np.ndarray, repeats: int = 100, seed: int = 0
) -> Measurement:
    """Share of inliers that are flagged at the threshold that flags 95 % of the outliers."""
    a, b = _scores(inliers, "inliers"), _scores(outliers, "outliers")
    return _bootstrap(lambda i, o: _fpr_at_tpr(o, i), a, b, repeats, seed)
