"""The change of variables, drawn and checked: densities of x^2 of a uniform, the logistic of a normal, a monotone spline of one, a piecewise linear map.

The closed form is held against a histogram of a million draws (a chi-squared test) and against quadrature (a density's integral is 1). A flow is nothing else, many times over.

Reference: any textbook; Papamakarios et al. 2021, section 2.1, arXiv 1912.02762.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from pushforward.families.flow.splines import rational_quadratic
from pushforward.labs import Finding
from pushforward.labs.drawing import panels
from pushforward.report.figures import COLOURS
from pushforward.theory.variables import (
    Array,
    Pushed,
    logistic_of_normal,
    piecewise_linear,
    probability,
    square_of_uniform,
)
from pushforward.training.checkpoint import write_atomic

BINS = 40


def run(out: Path, *, n: int = 1_000_000, seed: int = 0, quiet: bool = False) -> list[Finding]:
    """Draw, bin, compare.

    Args:
        out: Folder of variables.png and variables.json.
        n: Draws.
        seed: Of them.
        quiet: Show no progress.
    """
    g = np.random.default_rng(seed)
    rows: list[dict[str, float | str]] = []
    maps = (square_of_uniform(), logistic_of_normal(), monotone_spline(), piecewise_linear())
    with panels(out / "variables.png", len(maps)) as axes:
        for ax, pushed in zip(axes, maps, strict=True):
            y = pushed.forward(pushed.draw(n, g))
            edges = np.linspace(*pushed.support, BINS + 1)
            counts = np.histogram(y, edges)[0]
            masses = np.array([probability(pushed, a, b, points=2001) for a, b in itertools.pairwise(edges)])
            total = probability(pushed, *pushed.support)
            p = float(stats.chisquare(counts, n * masses / masses.sum()).pvalue)
            rows.append({"name": pushed.name, "integral": total, "p": p})
            ax.stairs(counts / n / np.diff(edges), edges, fill=True, color=COLOURS[5], alpha=0.5, label="draws")
            line = np.linspace(*pushed.support, 2001)[1:-1]
            ax.plot(line, pushed.density(line), color=COLOURS[1], lw=1.3, label="closed form")
            ax.set(title=pushed.name, xlabel="y", ylim=(0, 1.3 * np.quantile(counts / n / np.diff(edges), 0.97)))
            ax.title.set_fontsize(10)
            if not quiet:
                print(f"{pushed.name}: integral {total:.6f}, chi-squared p = {p:.2f}", flush=True)
        axes[0].legend(fontsize=8)
    write_atomic(out / "variables.json", json.dumps(rows, indent=1))
    return findings(rows)


def monotone_spline(
    widths: Sequence[float] = (0.3, -0.3, -0.3, 0.3),
    heights: Sequence[float] = (-0.3, 0.4, 0.4, -0.3),
    slopes: Sequence[float] = (-0.5, 1.0, -0.5),
    *,
    bound: float = 3.0,
) -> Pushed:
    """x standard normal, f a rising rational-quadratic spline of [-bound, bound], as in spline flows: p(y) = phi(x) / f'(x) at the one x with f(x) = y."""
    told = [torch.tensor(v, dtype=torch.float64)[None, :, None] for v in (widths, heights, slopes)]

    def spline(at: Array, *, inverse: bool) -> tuple[Array, Array]:
        column = torch.from_numpy(np.ascontiguousarray(at))[:, None]
        found, log_slope = rational_quadratic(
            column, *(t.expand(len(column), -1, -1) for t in told), bound=bound, inverse=inverse
        )
        return found[:, 0].numpy(), log_slope[:, 0].numpy()

    def density(y: Array) -> Array:
        x, log_slope = spline(y, inverse=True)
        out: Array = np.exp(-0.5 * x**2 + log_slope) / math.sqrt(2 * math.pi)
        return out

    return Pushed(
        "a monotone spline, x normal",
        lambda n, g: g.standard_normal(n),
        lambda x: spline(x, inverse=False)[0],
        density,
        (-bound - 3.0, bound + 3.0),
    )


def findings(rows: list[dict[str, float | str]]) -> list[Finding]:
    """One claim, for each map."""
    out = []
    for r in rows:
        whole, p = abs(float(r["integral"]) - 1) < 1e-3, float(r["p"])
        verdict = "not supported" if not whole or p < 1e-4 else "unclear" if p < 0.01 else "supported"
        out.append(Finding(f"{r['name']}: the density is the old one over the slope, summed over all x.", verdict, f"It integrates to {float(r['integral']):.6f}; a histogram of draws agrees (chi-squared p = {p:.2f})."))  # type: ignore[arg-type]  # fmt: skip
    return out
