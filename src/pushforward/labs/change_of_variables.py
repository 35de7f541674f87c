"""The change of variables, drawn and checked: densities of x^2 of a uniform, the logistic of a normal, a piecewise linear map.

The closed form is held against a histogram of a million draws (a chi-squared test) and against quadrature (a density's integral is 1). A flow is nothing else, many times over.

Reference: any textbook; Papamakarios et al. 2021, section 2.1, arXiv 1912.02762.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
from scipy import stats

from pushforward.labs import Finding
from pushforward.labs.drawing import panels
from pushforward.report.figures import COLOURS
from pushforward.theory.variables import logistic_of_normal, piecewise_linear, probability, square_of_uniform
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
    maps = (square_of_uniform(), logistic_of_normal(), piecewise_linear())
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


def findings(rows: list[dict[str, float | str]]) -> list[Finding]:
    """One claim, for each map."""
    out = []
    for r in rows:
        whole, p = abs(float(r["integral"]) - 1) < 1e-3, float(r["p"])
        verdict = "not supported" if not whole or p < 1e-4 else "unclear" if p < 0.01 else "supported"
        out.append(Finding(f"{r['name']}: the density is the old one over the slope, summed over all x.", verdict, f"It integrates to {float(r['integral']):.6f}; a histogram of draws agrees (chi-squared p = {p:.2f})."))  # type: ignore[arg-type]  # fmt: skip
    return out
