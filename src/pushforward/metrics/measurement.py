"""A number with its uncertainty, and the checks that every metric makes of its input."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BLOCK = 16_384  # rows looked at together: what is on disk alone stays there
LARGEST = 1e15
"""Features beyond this size are refused: squares and cubes of them overflow."""


@dataclass(frozen=True)
class Measurement:
    """A measured value.

    Args:
        value: The estimate.
        stderr: Its standard error; NaN where none can be given.
        method: How the standard error was found.
        n_real: Samples on the real side.
        n_fake: Samples on the fake side.
    """

    value: float
    stderr: float
    method: str
    n_real: int
    n_fake: int

    def __str__(self) -> str:
        return f"{self.value:.4g} +- {self.stderr:.2g}"


def as_features(x: Tensor | np.ndarray, name: str, *, minimum: int = 2) -> Tensor:
    """Features as a float tensor (n, d), checked.

    Raises:
        ValueError: not (n, d), too few rows, or rows that are not finite (their number is named).
    """
    x = x if isinstance(x, Tensor) else _from_numpy(x, name)
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"{name} must be features of shape (n, d); got {tuple(x.shape)}.")
    if len(x) < minimum:
        raise ValueError(f"{name} has {len(x)} rows; at least {minimum} are needed.")
    if x.is_complex():
        raise ValueError(f"{name} is complex; features are real numbers.")
    x = x.detach().cpu()
    if x.dtype not in (torch.float32, torch.float64):
        x = x.to(torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else torch.float64)
    largest = _largest(x)
    if not math.isfinite(largest):
        bad = torch.cat([~torch.isfinite(block).all(dim=1) for block in x.split(BLOCK)]).nonzero()
        raise ValueError(f"{name}: {len(bad)} of {len(x)} rows are not finite (the first is row {int(bad[0])}).")
    if largest > LARGEST:
        raise ValueError(
            f"{name} has values up to {largest:.1g}; beyond {LARGEST:.0e} their squares lose all meaning. Scale them."
        )
    return x


def _from_numpy(x: np.ndarray, name: str) -> Tensor:
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise ValueError(
            f"{name} is a masked array with {int(np.ma.getmaskarray(x).sum())} masked entries; fill or drop them."
        )
    array = np.asarray(x)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} holds {array.dtype} entries; features are real numbers.")
    if array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)))


def _largest(x: Tensor) -> float:
    """The largest absolute value; infinity where something is not finite."""
    found = 0.0
    for block in x.split(BLOCK):
        low, high = (float(v) for v in block.aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            return math.inf
        found = max(found, -low, high)
    return found


def as_pair(real: Tensor | np.ndarray, fake: Tensor | np.ndarray, *, minimum: int = 2) -> tuple[Tensor, Tensor]:
    """Both sides, checked, of one width."""
    a, b = as_features(real, "real", minimum=minimum), as_features(fake, "fake", minimum=minimum)
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"real has {a.shape[1]} features a row and fake {b.shape[1]}; they must come from one extractor."
        )
    return a, b
