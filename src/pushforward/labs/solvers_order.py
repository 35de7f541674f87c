"""A solver of order p halves its steps' size and divides its error by 2^p: does each do what its paper says?

On a Gaussian the probability-flow ODE has a closed form, so that errors are known to the last digit. All go the same levels, even in the log ratio of signal and noise, from nearly pure noise
to nearly clean data; the slope of log error against log steps is the order. What a user pays is evaluations of the network, of which Heun's method takes two a step.

Reference: Song et al. 2020, arXiv 2010.02502 (DDIM); Karras et al. 2022, arXiv 2206.00364 (Euler, Heun); Lu et al. 2022, arXiv 2211.01095 (DPM-Solver++); Zhao et al. 2023, arXiv 2302.04867 (UniPC).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pushforward.errors import ConfigError
from pushforward.families.diffusion.denoisers import Counted, GaussianDenoiser
from pushforward.families.diffusion.schedules import VP, Schedule
from pushforward.families.diffusion.solvers import ddim, dpmpp_2m, euler, final, heun, unipc
from pushforward.labs import Finding
from pushforward.labs.drawing import panels
from pushforward.report.figures import COLOURS
from pushforward.theory.diffusion import gaussian_flow
from pushforward.training.checkpoint import write_atomic

STATED: dict[str, tuple[Callable[..., object], int]] = {
    "DDIM": (ddim, 1),
    "Euler": (euler, 1),
    "Heun": (heun, 2),
    "DPM-Solver++(2M)": (dpmpp_2m, 2),
    "UniPC-1": (partial(unipc, order=1), 2),
    "UniPC-2": (partial(unipc, order=2), 3),
}
"""Solver -> function and order; UniPC-p is of order p + 1, since its corrector adds one."""
MEAN, VARIANCE = torch.tensor([1.0, -0.5]).double(), torch.tensor([0.5, 0.05]).double()
FIRST, LAST = 0.95, 0.05  # level at which the points start, and ratio sigma / alpha at which they end
FEW = 10  # evaluations of a user in a hurry
Errors = dict[str, dict[int, tuple[int, float]]]


def run(out: Path, *, longest: int = 512, points: int = 64, seed: int = 0, quiet: bool = False) -> list[Finding]:
    """Measure the error of every solver at doubling numbers of steps.

    Args:
        out: Folder of orders.json and orders.png.
        longest: Most steps; orders are fitted from an eighth of them on.
        points: Carried through.
        seed: Of where they start.
        quiet: Show no progress.
    """
    if longest < 64:
        raise ConfigError(f"longest={longest}: at least 64, or no slope can be fitted.")
    if points < 1:
        raise ConfigError(f"points={points}: at least 1.")
    schedule = VP()
    start = torch.randn(points, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = start * schedule(torch.tensor(FIRST).double())[1]
    errors: Errors = {}
    for name, (solve, _) in STATED.items():
        errors[name] = {}
        for steps in [2**k for k in range(2, int(math.log2(longest)) + 1)]:
            grid = _levels(schedule, steps)
            counted = Counted(GaussianDenoiser(MEAN, torch.diag(VARIANCE), schedule))
            made = final(solve(counted, x, grid))  # type: ignore[arg-type]
            truth = gaussian_flow(MEAN, VARIANCE, x, high=_level(schedule, grid[0]), low=_level(schedule, grid[-1]))
            errors[name][steps] = (counted.evaluations, float((made - truth).square().mean().sqrt()))
    orders = {name: _order(e, longest) for name, e in errors.items()}
    write_atomic(out / "orders.json", json.dumps({"orders": orders, "errors": errors}, indent=1))
    with panels(out / "orders.png", 2, width=4.6) as (left, right):
        for colour, (name, by) in zip(COLOURS, errors.items(), strict=False):
            left.loglog(list(by), [e for _, e in by.values()], "o-", ms=3, color=colour, label=f"{name}: {orders[name]:.2f}")  # fmt: skip
            right.loglog([c for c, _ in by.values()], [e for _, e in by.values()], "o-", ms=3, color=colour)
        left.set(title="error on a Gaussian, and measured order", xlabel="steps", ylabel="root mean square error")
        right.set(title="the same by what it costs", xlabel="evaluations of the network")
        left.legend(fontsize=8)
    return findings(orders, {name: _at(e, FEW) for name, e in errors.items()})


def _levels(schedule: Schedule, steps: int) -> Tensor:
    high = float(schedule.ratio(torch.tensor(FIRST).double()))
    grid = schedule.time(torch.linspace(math.log(high), math.log(LAST), steps + 1, dtype=torch.float64).exp())
    grid[0] = FIRST
    return grid


def _level(schedule: Schedule, t: Tensor) -> tuple[float, float]:
    alpha, sigma = schedule(t)
    return float(alpha), float(sigma)


def _order(by: dict[int, tuple[int, float]], longest: int) -> float:
    steps = [s for s in by if s >= longest // 8]
    return -float(np.polyfit(np.log(steps), np.log([by[s][1] for s in steps]), 1)[0])


def _at(by: dict[int, tuple[int, float]], evaluations: int) -> float:
    """The error at some number of evaluations, log-linear between those measured."""
    counts, errors = zip(*by.values(), strict=True)
    return float(np.exp(np.interp(np.log(evaluations), np.log(counts), np.log(errors))))


def findings(orders: dict[str, float], few: dict[str, float]) -> list[Finding]:
    """Each order, and who is best for few evaluations."""
    out = [
        Finding(f"{name} is of order {stated}.", "supported" if abs(orders[name] - stated) < 0.15 else "not supported", f"{orders[name]:.3f} measured.")
        for name, (_, stated) in STATED.items()
    ]  # fmt: skip
    best = min(few, key=lambda k: few[k])
    claim = f"For {FEW} evaluations the multistep solvers of higher order have a smaller error than DDIM and Heun."
    good = max(few["DPM-Solver++(2M)"], few["UniPC-2"]) < min(few["DDIM"], few["Heun"])
    said = ", ".join(f"{k} {v:.2g}" for k, v in few.items())
    return [
        *out,
        Finding(
            claim,
            "supported" if good else "not supported",
            f"{said} (between those measured, by interpolation); {best} is best.",
        ),
    ]
