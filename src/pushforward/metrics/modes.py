"""Which classes are there, and how evenly: what a classifier says of the fakes."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from pushforward.metrics.measurement import Measurement, as_features


def class_histogram(logits: Tensor | np.ndarray) -> list[Measurement]:
    """Share of each class among the most likely classes, with binomial standard errors.

    Args:
        logits: Of a classifier, (n, classes).

    Example:
        >>> [m.value for m in class_histogram(torch.eye(2)[[0, 0, 0, 1]])]
        [0.75, 0.25]
    """
    x = as_features(logits, "logits", minimum=1)
    n = len(x)
    shares = torch.bincount(x.argmax(dim=1), minlength=x.shape[1]).double() / n
    return [Measurement(p, math.sqrt(p * (1 - p) / n), "binomial", 0, n) for p in shares.tolist()]


def class_entropy(logits: Tensor | np.ndarray) -> Measurement:
    """Entropy of the class shares in nats: log(classes) when all come equally often, 0 when one is all there is.

    The standard error is the delta method's, sqrt(Var[log p(class)] / n).

    Example:
        >>> round(class_entropy(torch.eye(2)[[0, 1]]).value, 4)  # log 2
        0.6931
    """
    shares = torch.tensor([m.value for m in class_histogram(logits)], dtype=torch.float64)
    n = len(logits)
    surprise = torch.where(shares > 0, -shares.clamp(min=1e-300).log(), 0.0)
    entropy = float((shares * surprise).sum())
    variance = max(float((shares * surprise.square()).sum()) - entropy**2, 0.0)
    return Measurement(entropy, math.sqrt(variance / n), "delta method", 0, n)


def mode_count(logits: Tensor | np.ndarray, *, minimum: int = 1) -> int:
    """How many classes have at least `minimum` samples.

    Example:
        >>> mode_count(torch.eye(4)[[0, 0, 2]])
        2
    """
    x = as_features(logits, "logits", minimum=1)
    return int((torch.bincount(x.argmax(dim=1), minlength=x.shape[1]) >= minimum).sum())


def reverse_kl(logits: Tensor | np.ndarray, *, reference: Tensor | np.ndarray | None = None) -> Measurement:
    """KL(fake || real) between class shares, in nats: what the bench of mode collapse reports beside the count.

    Args:
        logits: Of the fakes, (n, classes).
        reference: Shares of the real classes, (classes,), all above 0 where the fakes have any; uniform when absent.

    Returns:
        The divergence with the delta method's standard error.

    Raises:
        ValueError: fakes in a class that the reference says never comes.

    Reference: Metz et al. 2017, section 3.3.1, arXiv 1611.02163.

    Example:
        >>> round(reverse_kl(torch.eye(2)[[0, 0]]).value, 4)  # all in one of two classes: log 2
        0.6931
    """
    q = torch.tensor([m.value for m in class_histogram(logits)], dtype=torch.float64)
    p = torch.full_like(q, 1 / len(q)) if reference is None else torch.as_tensor(reference, dtype=torch.float64)
    if p.shape != q.shape or not bool((p >= 0).all()) or not abs(float(p.sum()) - 1) <= 1e-6:
        raise ValueError(f"reference must be {len(q)} shares that sum to 1.")
    if ((p == 0) & (q > 0)).any():
        raise ValueError("some fakes are of a class that the reference has not: the divergence is infinite.")
    ratio = torch.where(q > 0, (q.clamp(min=1e-300) / p.clamp(min=1e-300)).log(), 0.0)
    value = float((q * ratio).sum())
    variance = max(float((q * ratio.square()).sum()) - value**2, 0.0)
    return Measurement(value, math.sqrt(variance / len(logits)), "delta method", 0, len(logits))
