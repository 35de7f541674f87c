"""How learning rates change over a run: a factor for each step, the same for every phase.

Decay takes the noise out of the last iterates, which constant rates leave to the averaged weights alone.
"""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine"]


def factor(step: int, steps: int, *, schedule: Schedule = "constant", warmup: int = 0) -> float:
    """What learning rates are multiplied by at a step.

    Args:
        step: From 0.
        steps: Of the whole run.
        schedule: "constant", or down to 0 at the end: "linear", or "cosine", half a period (Loshchilov and Hutter 2016, arXiv 1608.03983).
        warmup: Steps over which it first rises linearly to 1.

    Example:
        >>> [factor(k, 4, schedule="linear") for k in range(4)]
        [1.0, 0.75, 0.5, 0.25]
        >>> [factor(k, 100, warmup=4) for k in range(5)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    return risen(step, warmup) * fallen(max(0, step - warmup) / max(1, steps - warmup), schedule)


def risen(step: int, warmup: int) -> float:
    """The rise alone, to 1 at the end of the warm-up."""
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def fallen(share: float, schedule: Schedule) -> float:
    """The decay alone, after a share of the run (or of the time that it is given); 0 at its end and beyond.

    Example:
        >>> [fallen(s, "cosine") for s in (0.0, 1.0, 1.5)]
        [1.0, 0.0, 0.0]
    """
    share = min(1.0, share)
    if schedule == "linear":
        return 1 - share
    return 0.5 * (1 + math.cos(math.pi * share)) if schedule == "cosine" else 1.0
