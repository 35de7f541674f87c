"""Results as table cells."""

from __future__ import annotations

import math
from typing import Any

SHOWN = {
    "frechet": "Frechet distance",
    "frechet infinity": "Frechet, n → ∞",
    "kid": "KID",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "inception score": "inception score",
    "sliced W2": "sliced W2",
    "memorisation": "memorisation",
    "class entropy": "class entropy (nats)",
    "bits per dim": "bits/dim",
    "nats": "-log p (nats)",
}
"""Columns of a result table, key -> heading, in this order; those that were measured are shown."""
LIKELIHOODS = ("bits per dim", "nats")  # whose method begins with the kind: exact, bound, ODE, AIS


def cell(values: dict[str, Any], key: str) -> str:
    """A value with its standard error, "-" where there is none; a likelihood with its kind.

    Example:
        >>> cell({"a": {"value": 12.345, "stderr": 0.25}}, "a"), cell({}, "a")
        ('12.35 ± 0.25', '-')
        >>> cell({"nats": {"value": 1.5, "stderr": None, "method": "ODE, n = 500; standard error of the mean"}}, "nats")
        '1.5 (ODE, n = 500)'
    """
    if key not in values:
        return "-"
    value, stderr = values[key]["value"], values[key]["stderr"]
    said = number(value, stderr) if stderr is None else f"{number(value, stderr)} ± {number(stderr, stderr)}"
    return f"{said} ({values[key]['method'].split(';')[0]})" if key in LIKELIHOODS else said


def number(value: float, stderr: float | None) -> str:
    """A value to as many decimals as its standard error's second digit."""
    if not stderr or not math.isfinite(stderr):
        return f"{value:.4g}"
    return f"{value:.{max(0, 1 - math.floor(math.log10(stderr)))}f}"


def duration(seconds: float) -> str:
    """Seconds as people say them.

    Example:
        >>> duration(42.3), duration(95), duration(7260)
        ('42 s', '1 min 35 s', '2 h 1 min')
    """
    s = round(seconds)
    if s < 60:
        return f"{s} s"
    if s < 3600:
        return f"{s // 60} min {s % 60} s"
    return f"{s // 3600} h {s % 3600 // 60} min"
