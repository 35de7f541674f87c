"""z = x + g(x) with g contractive is undone by x <- z - g(x), as fast as Banach says.

On a line, g(x) = L sin(x): cobwebs at several constants L, the measured rate, and the a priori bound L^k / (1 - L) |x_1 - x_0|. At L > 1 the map is not one to one, and the iteration need not settle: it is refused.

Reference: Banach 1922; Behrmann et al. 2019, algorithm 1 and theorem 1, arXiv 1811.00995.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pushforward.errors import NotSupported
from pushforward.families.flow.fixed_point import fixed_point
from pushforward.labs import Finding
from pushforward.labs.drawing import panels
from pushforward.report.figures import COLOURS
from pushforward.theory.variables import cobweb
from pushforward.training.checkpoint import write_atomic

CONSTANTS = (0.3, 0.6, 0.9)


def run(out: Path, *, n: int = 1000, quiet: bool = False) -> list[Finding]:
    """Invert a line of points for each constant.

    Args:
        out: Folder of inverse.png and inverse.json.
        n: Points between -6 and 6.
        quiet: Show no progress.
    """
    z = torch.linspace(-6, 6, n, dtype=torch.float64)[:, None]
    rows = []
    with panels(out / "inverse.png", len(CONSTANTS) + 1) as axes:
        at = 3.3  # its inverse is near pi, where the slope of g is steepest
        for ax, constant in zip(axes, CONSTANTS, strict=False):
            found = fixed_point(lambda x, c=constant: z - c * torch.sin(x), z, lipschitz=constant, tolerance=1e-10)  # type: ignore[misc]
            rows.append({
                "L": constant,
                "error": float((found.x - by_bisection(z, constant)).abs().max()),
                "rate": float(found.rate.max()),
                "iterations": int(found.iterations.max()),
                "within_bound": bool((found.iterations <= found.bound).all()),
                "bound": float(found.bound[torch.isfinite(found.bound)].max()),
            })  # fmt: skip
            path = cobweb(lambda x, c=constant: at - c * math.sin(x), 0.0, 30)  # type: ignore[misc]
            line = np.linspace(-0.5, 4, 300)
            ax.plot(line, at - constant * np.sin(line), color=COLOURS[0])
            ax.plot(line, line, color="#999999", lw=0.8)
            ax.plot(*path.T, color=COLOURS[1], lw=0.9)
            ax.set(
                title=f"L = {constant:g}: {rows[-1]['iterations']} iterations, bound {rows[-1]['bound']:.0f}",
                xlabel="x",
            )
            ax.title.set_fontsize(9)
            errors, x = [], torch.zeros(1, 1, dtype=torch.float64)
            exact = fixed_point(lambda v, c=constant: at - c * torch.sin(v), x, tolerance=1e-14).x  # type: ignore[misc]
            for _ in range(60):
                errors.append(float((x - exact).abs()))
                x = at - constant * torch.sin(x)
            axes[-1].semilogy(
                np.maximum(errors, 1e-17), color=COLOURS[CONSTANTS.index(constant)], label=f"L = {constant:g}"
            )
            if not quiet:
                print(f"L = {constant:g}: rate {rows[-1]['rate']:.4f}, error {rows[-1]['error']:.1g}", flush=True)
        axes[-1].set(xlabel="iteration", title="distance from the inverse", ylim=(1e-16, 10))
        axes[-1].legend(fontsize=8)
    try:
        fixed_point(lambda x: z - 2.5 * torch.sin(x), z, lipschitz=2.5, tolerance=1e-10)
        refused = False
    except NotSupported:
        refused = True
    write_atomic(out / "inverse.json", json.dumps({"contractions": rows, "refused_at_2.5": refused}, indent=1))
    return findings(rows, refused)


def by_bisection(z: Tensor, constant: float) -> Tensor:
    """x with x + c sin x = z, c < 1: an increasing function, whose zero lies within c of z."""
    low, high = z - constant, z + constant
    for _ in range(60):
        middle = (low + high) / 2
        above = middle + constant * torch.sin(middle) > z
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (low + high) / 2


def findings(rows: list[dict[str, float]], refused: bool) -> list[Finding]:
    """The three claims."""
    within = all(r["within_bound"] for r in rows)
    slow = all(r["rate"] <= r["L"] + 1e-6 for r in rows)
    worst = max(r["error"] for r in rows)
    return [
        Finding("A contractive residual block is inverted by Banach's iteration.", "supported" if worst < 1e-8 else "not supported", f"Largest error {worst:.1g} at L = {', '.join(str(r['L']) for r in rows)}."),
        Finding("It takes no more iterations k than L^(k - 1) |x_1 - x_0| < tolerance asks for, and no step shrinks less than by L.", "supported" if within and slow else "not supported", "; ".join(f"L = {r['L']:g}: {r['iterations']:.0f} of {r['bound']:.0f}, rate {r['rate']:.3f}" for r in rows) + "."),
        Finding("A map that does not contract is refused.", "supported" if refused else "not supported", "L = 2.5: " + ("an error that names the rate." if refused else "it went through.")),
    ]  # fmt: skip
