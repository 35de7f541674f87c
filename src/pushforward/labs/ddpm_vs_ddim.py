"""DDPM in 1,000 steps against solvers that take 50, 10 or fewer: seconds, quality and diversity of the same network.

A solver spends its time in the network, so that seconds should be as evaluations are: 1000 : 50 = 20. And a better solver of the same
equation should need few of them for the same samples.

A Frechet distance of n samples cannot fall below that of n real images (docs/results.md has this floor): at n = 500 it is most of what is seen here, so
"reaches" says that no difference shows above the errors, not that there is none. Take more samples to see smaller ones.

Reference: Song, Meng, Ermon 2021, table 1, arXiv 2010.02502; Lu et al. 2022, arXiv 2211.01095; Zhao et al. 2023, arXiv 2302.04867.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from scipy import stats

from pushforward import runs
from pushforward.data.images import save_grid, to_bytes
from pushforward.evaluation import Values, reference
from pushforward.labs import Finding, Verdict
from pushforward.labs.trained import diffusion_run, judged, seconds_in_turn, with_sampler
from pushforward.report.figures import COLOURS, STYLE, plt
from pushforward.training.checkpoint import write_atomic

CASES: dict[str, dict[str, Any]] = {
    "DDPM-1000": {"solver": "ddpm", "steps": 1000},
    "DDIM-50": {"solver": "ddim", "steps": 50},
    "DDIM-10": {"solver": "ddim", "steps": 10},
    "DPM-Solver++(2M)-10": {"solver": "dpmpp-2m", "steps": 10},
    "DPM-Solver++(SDE)-12": {"solver": "dpmpp-sde", "steps": 12},
    "UniPC-10": {"solver": "unipc", "steps": 10},
    "UniPC-7": {"solver": "unipc", "steps": 7},
    "Heun-6": {"solver": "heun", "steps": 6},
}
FEW = 12


@dataclass(frozen=True)
class Outcome:
    """What one solver did."""

    evaluations: int
    seconds: float
    values: Values


def run(
    out: Path,
    *,
    run: str = "",
    recipe: str = "diffusion/ddpm",
    data: str = "mnist-5k",
    train_steps: int = 2000,
    width: int = 64,
    n: int = 500,
    timed: int = 10,
    rounds: int = 3,
    seed: int = 0,
    quiet: bool = False,
) -> list[Finding]:
    """Sample by every solver, time and judge.

    Args:
        out: Folder of solvers.json, solvers.png and a grid of each solver.
        run: A diffusion run's folder; one is trained when empty.
        recipe: Of the run that is trained.
        data: What it is trained on and judged by.
        train_steps: Of its training.
        width: Of its network.
        n: Samples judged of each solver.
        timed: Images that are timed.
        rounds: How often each is timed, in turn.
        seed: Of training and samples: all solvers begin at the same noise.
        quiet: Show no progress.
    """
    model = diffusion_run(run, out, recipe=recipe, data=data, steps=train_steps, seed=seed, quiet=quiet, width=width)
    side = reference(data, n=n)

    def draw(case: dict[str, Any], count: int) -> torch.Tensor:
        return runs.sample(with_sampler(model, **case), count, seed=seed)

    seconds = seconds_in_turn({name: partial(draw, case, timed) for name, case in CASES.items()}, rounds)
    found: dict[str, Outcome] = {}
    for name, case in CASES.items():
        x = draw(case, n)
        save_grid(to_bytes(x[:64]), out / f"{name}.png", columns=8)
        found[name] = Outcome(model.sampler.evaluations(), seconds[name], judged(side, x))
        if not quiet:
            print(f"{name}: {seconds[name]:.2f} s, Frechet {found[name].values['frechet'].value:.1f}", flush=True)
    table = {
        name: {
            "evaluations": o.evaluations,
            "seconds": o.seconds,
            "values": {k: [m.value, m.stderr] for k, m in o.values.items()},
        }
        for name, o in found.items()
    }
    write_atomic(out / "solvers.json", json.dumps({"timed": timed, "n": n, "solvers": table}, indent=1, default=str))
    _draw(found, out / "solvers.png", f"{n} samples, {timed} timed")
    return findings(found, n)


def findings(found: dict[str, Outcome], n: int) -> list[Finding]:
    """The three claims."""
    long, fast = found["DDPM-1000"], found["DDIM-50"]
    ratio = long.seconds / fast.seconds
    cost: Verdict = "supported" if abs(ratio / 20 - 1) <= 0.05 else "not supported"
    base = long.values["frechet"]
    few = {k: o for k, o in found.items() if o.evaluations <= FEW}
    best = min(few, key=lambda k: few[k].values["frechet"].value)
    gap = few[best].values["frechet"].value - base.value
    error = math.hypot(few[best].values["frechet"].stderr, base.stderr)
    margin, z = 0.1 * base.value, float(stats.norm.isf(0.05 / len(few)))  # the best of so many: Bonferroni
    reached: Verdict = (
        "supported" if gap + z * error < margin else "not supported" if gap - z * error > margin else "unclear"
    )
    spread, more = fast.values["recall"], long.values["recall"]
    less = more.value - spread.value
    both = math.hypot(spread.stderr, more.stderr)
    diverse: Verdict = "supported" if less > 2 * both else "not supported" if less < -2 * both else "unclear"
    return [
        Finding("DDPM in 1,000 steps costs 20 times as much as DDIM in 50, to 5 %.", cost, f"{long.seconds:.2f} s : {fast.seconds:.3f} s = {ratio:.2f}."),
        Finding(
            f"A solver of at most {FEW} evaluations reaches the Frechet distance of DDPM-1000, to a tenth of it.",
            reached,
            f"{best}: {few[best].values['frechet'].value:.1f} ± {few[best].values['frechet'].stderr:.1f} against {base.value:.1f} ± {base.stderr:.1f}; the best of {len(few)} (Bonferroni), seen on the same {n:,} samples that it is judged by.",
        ),
        Finding("DDIM is faster than DDPM but less diverse.", diverse, f"Recall {spread.value:.3f} ± {spread.stderr:.3f} against {more.value:.3f} ± {more.stderr:.3f}."),
    ]  # fmt: skip


def _draw(found: dict[str, Outcome], path: Path, title: str) -> None:
    with mpl.rc_context(STYLE | {"figure.facecolor": "white", "savefig.facecolor": "white"}):
        figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.6))
        for k, (name, o) in enumerate(found.items()):
            for ax, metric in zip(axes, ("frechet", "recall"), strict=True):
                m = o.values[metric]
                ax.errorbar(o.seconds, m.value, m.stderr, fmt="o", ms=7, capsize=3, color=COLOURS[k], label=name)
        axes[0].set(xlabel="seconds", ylabel="Frechet distance (lower is better)", xscale="log", yscale="log")
        axes[1].set(xlabel="seconds", ylabel="recall", xscale="log")
        axes[1].legend(fontsize=8, bbox_to_anchor=(1.0, 1.0), loc="upper left")
        figure.suptitle(title, fontsize=10)
        figure.tight_layout()
        figure.savefig(path, dpi=120)
        plt.close(figure)
