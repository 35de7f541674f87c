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
