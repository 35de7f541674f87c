"""The Dirac-GAN: one number against one number, and which regularisers make it come to rest.

Data at 0, the generator at theta, D(x) = psi x. Minimax circles, the non-saturating game creeps inwards like sqrt(8 / t), R1, Roth's penalty and instance noise damp; WGAN circles too, and WGAN-GP, whose penalty wants the slope to be 1 and not 0, goes round a cycle for ever.

Reference: Mescheder, Geiger, Nowozin 2018, section 2 and table 1, arXiv 1801.04406.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import get_args

import numpy as np

from pushforward.labs import Finding
from pushforward.labs.drawing import panels
from pushforward.report.figures import COLOURS
from pushforward.theory.dirac import Kind, eigenvalues, trajectory
from pushforward.training.checkpoint import write_atomic

SETTLING: tuple[Kind, ...] = ("r1", "roth", "instance-noise")


def run(
    out: Path, *, steps: int = 100_000, step: float = 0.002, gamma: float = 0.5, quiet: bool = False
) -> list[Finding]:
    """Follow gradient descent from (1, 0).

    Args:
        out: Folder of dirac.png and dirac.json.
        steps: Of both players at once.
        step: Their size.
        gamma: Weight of what regularises.
        quiet: Show no progress.
    """
    ends: dict[str, float] = {}
    rates: dict[str, float] = {}
    kinds = get_args(Kind)
    with panels(out / "dirac.png", len(kinds), rows=2, width=2.6, height=2.7) as axes:
        for ax, kind, colour in zip(axes, kinds, COLOURS, strict=False):
            path = trajectory(kind, step=step, steps=steps, gamma=gamma)
            radius = np.hypot(*path.T)
            ends[kind] = float(radius[-len(radius) // 10 :].max())
            if kind in SETTLING:
                window = slice(len(radius) // 20, len(radius) // 5)
                rates[kind] = float(np.polyfit(step * np.arange(len(radius))[window], np.log(radius[window]), 1)[0])
            ax.plot(*path.T, color=colour, lw=0.7)
            ax.plot(*path[-1], "o", color="black", ms=4)
            ax.set(
                xlim=(-1.6, 1.6),
                ylim=(-1.6, 1.6),
                aspect="equal",
                title=kind,
                xlabel="θ",
                xticks=[-1, 0, 1],
                yticks=[-1, 0, 1],
            )
            if not quiet:
                print(f"{kind}: {ends[kind]:.3g} from the equilibrium at the end", flush=True)
        for ax in axes[::4]:
            ax.set(ylabel="ψ")
    wanted: dict[str, float] = {k: float(eigenvalues(k, gamma).real.max()) for k in SETTLING}
    write_atomic(out / "dirac.json", json.dumps({"distance": ends, "rate": rates, "eigenvalue": wanted}, indent=1))
    return findings(ends, rates, wanted, step * steps)


def findings(ends: dict[str, float], rates: dict[str, float], wanted: dict[str, float], time: float) -> list[Finding]:
    """The five claims."""
    creep = math.sqrt(8 / (time + 8))
    near = abs(ends["non-saturating"] / creep - 1) < 0.3
    match = all(abs(rates[k] / wanted[k] - 1) < 0.1 for k in wanted)
    return [
        Finding("Without regularisation the players of minimax and of WGAN circle and never settle.", "supported" if ends["minimax"] > 0.9 and ends["wgan"] > 0.9 else "not supported", f"Started 1 away, they are {ends['minimax']:.2f} and {ends['wgan']:.2f} away in the last tenth (steps of finite size spiral out)."),
        Finding("The non-saturating game comes nearer, but no faster than sqrt(8 / t).", "supported" if near else "not supported", f"{ends['non-saturating']:.3f} away after a time of {time:g}; the formula says {creep:.3f}."),
        Finding("R1, Roth's penalty and instance noise make the equilibrium attract.", "supported" if all(ends[k] < 1e-3 for k in SETTLING) else "not supported", ", ".join(f"{k} {ends[k]:.1g}" for k in SETTLING) + " away."),
        Finding("WGAN-GP does not converge.", "supported" if ends["wgan-gp"] > 0.1 else "not supported", f"{ends['wgan-gp']:.2f} away."),
        Finding("The speed is the real part of the linear part's eigenvalues.", "supported" if match else "not supported", ", ".join(f"{k}: measured {rates[k]:.4f}, eigenvalue {wanted[k]:.4f}" for k in wanted) + "."),
    ]  # fmt: skip
