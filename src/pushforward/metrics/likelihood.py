"""Likelihoods as numbers that can be compared: nats, bits per dimension, and the kind of estimate they are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from pushforward.metrics.measurement import Measurement

Kind = Literal["exact", "estimate", "bound", "estimated bound", "AIS", "ODE"]


@dataclass(frozen=True)
class Likelihood:
    """Mean negative log-likelihood of a test set.

    Args:
        nats: A sample, in nats.
        bits_per_dim: The same over (dimensions log 2).
        kind: exact, a bound, or estimated by AIS or along the ODE.
    """

    nats: Measurement
    bits_per_dim: Measurement
    kind: Kind


def likelihood(log_prob: Tensor | np.ndarray, *, dimensions: int, kind: Kind) -> Likelihood:
    """Negative log-likelihood with its standard error.

    Args:
        log_prob: Of each test sample, in nats, (n,). A value that is not finite is a failure of the model and refused, never dropped.
        dimensions: Numbers in a sample (784 for 28x28 grey).
        kind: How it was found.

    Raises:
        ValueError: some values are not finite; their number is named.

    Example:
        >>> round(likelihood(torch.tensor([-math.log(256.0)] * 3), dimensions=1, kind="exact").bits_per_dim.value, 6)
        8.0
    """
    if dimensions < 1:
        raise ValueError(f"dimensions = {dimensions}: must be at least 1.")
    if kind not in get_args(Kind):
        raise ValueError(f"kind = {kind!r}: it is one of {', '.join(get_args(Kind))}.")
    x = (
        (log_prob if isinstance(log_prob, Tensor) else torch.from_numpy(np.ascontiguousarray(log_prob)))
        .detach()
        .double()
        .flatten()
    )
    if len(x) < 2:
        raise ValueError(f"{len(x)} log-likelihoods; at least 2 are needed.")
    if not torch.isfinite(x).all():
        raise ValueError(
            f"{int((~torch.isfinite(x)).sum())} of {len(x)} log-likelihoods are not finite: the model fails there."
        )
    mean, stderr = -float(x.mean()), float(x.std()) / math.sqrt(len(x))
    scale = dimensions * math.log(2)
    method = "standard error of the mean"
    return Likelihood(
        Measurement(mean, stderr, method, len(x), 0), Measurement(mean / scale, stderr / scale, method, len(x), 0), kind
    )
