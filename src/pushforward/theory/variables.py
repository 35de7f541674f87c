r"""Change of variables on a line: y = f(x), p_y(y) = sum over the x that f takes to y of p_x(x) / |f'(x)|."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Function = Callable[[Array], Array]


@dataclass(frozen=True)
class Pushed:
    """A law and its image under a function.

    Args:
        name: In words.
        draw: (n, generator) -> draws of x.
        forward: f.
        density: p_y in closed form.
        support: Between which y.
    """

    name: str
    draw: Callable[[int, np.random.Generator], Array]
    forward: Function
    density: Function
    support: tuple[float, float]


def square_of_uniform() -> Pushed:
    r"""x uniform on (-1, 1), y = x^2: p(y) = 1 / (2 sqrt y) on (0, 1); two x go to each y."""
    return Pushed(
        "x², x uniform on (-1, 1)",
        lambda n, g: g.uniform(-1, 1, n),
        lambda x: x**2,
        lambda y: 0.5 / np.sqrt(y),
        (0.0, 1.0),
    )


def logistic_of_normal() -> Pushed:
    """x standard normal, y = 1 / (1 + exp(-x)): p(y) = phi(log(y / (1 - y))) / (y (1 - y)), the logit-normal."""

    def density(y: Array) -> Array:
        x = np.log(y) - np.log1p(-y)
        out: Array = np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi) / (y * (1 - y))
        return out

    return Pushed(
        "1 / (1 + exp(-x)), x normal",
        lambda n, g: g.standard_normal(n),
        lambda x: 1 / (1 + np.exp(-x)),
        density,
        (0.0, 1.0),
    )


def piecewise_linear(
    knots: Sequence[float] = (0.0, 0.2, 0.5, 1.0), values: Sequence[float] = (0.0, 0.6, 0.7, 1.0)
) -> Pushed:
    """x uniform on (0, 1), f linear between knots: p(y) is one over the slope, a histogram."""
    x, y = np.asarray(knots), np.asarray(values)
    if (np.diff(x) <= 0).any() or (np.diff(y) <= 0).any():
        raise ValueError(f"knots = {list(knots)} and values = {list(values)}: both must rise")
    heights = np.diff(x) / np.diff(y)

    def density(at: Array) -> Array:
        k = np.clip(np.searchsorted(y, at, side="right") - 1, 0, len(heights) - 1)
        out: Array = heights[k]
        return out

    return Pushed(
        "piecewise linear, x uniform on (0, 1)",
        lambda n, g: g.uniform(0, 1, n),
        lambda v: np.interp(v, x, y),
        density,
        (float(y[0]), float(y[-1])),
    )


def probability(pushed: Pushed, low: float, high: float, *, points: int = 200_001) -> float:
    """The closed form's mass of (low, high) by the midpoint rule in a variable that calms an end where the density is infinite."""
    a, b = pushed.support
    t0, t1 = (math.acos(1 - 2 * (min(max(v, a), b) - a) / (b - a)) for v in (low, high))
    t = t0 + (t1 - t0) * (np.arange(points) + 0.5) / points
    y = a + (b - a) * (1 - np.cos(t)) / 2
    y = np.clip(y, np.nextafter(a, b), np.nextafter(b, a))
    return float((pushed.density(y) * (b - a) * np.sin(t) / 2).mean() * (t1 - t0))


def cobweb(move: Callable[[float], float], start: float, steps: int) -> Array:
    """The corners of a cobweb plot, (2 steps + 1, 2): (x, x), (x, T x), (T x, T x), ..."""
    corners = [(start, start)]
    x = start
    for _ in range(steps):
        y = move(x)
        corners += [(x, y), (y, y)]
        x = y
    return np.array(corners)
