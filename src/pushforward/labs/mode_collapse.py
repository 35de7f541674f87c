"""Mode collapse on Gaussians in the plane: who finds all of them, how well, over ten seeds.

As in VEEGAN and PacGAN, 2,500 samples of each trained generator are judged: a sample is of high quality within three standard deviations of a
centre, and a mode is found if at least one such sample is nearest to it. Ring: 8 Gaussians, radius 2, sd 0.02; grid: 5 x 5, spacing 2, sd 0.05.
By that measure alone a law that knows nothing of the modes finds many, for one sample in a hundred is enough: the *blind* row is a Gaussian of the
data's mean and covariance. So a recipe counts as a repair only if it finds more modes than the plain GAN and most of its samples lie on them.

What is in print, and what is here:

- Unrolled GAN: two layers of 128 on each side, 256 latents, Adam at 1e-3 and 1e-4 (discriminator), batches of 512, the saddle loss, 5 or 10 of Adam's
  steps ahead, 25,000 steps.
- VEEGAN (as in its authors' notebook): two layers of 128 on each side, 254 latents, batches of 500.
- PacGAN: four layers of 400 with batch norm against three of 200 with five-fold maxout, 2 latents, Adam at 1e-4 (beta1 0.8), 400,000 steps of 100.
- Ours: `toy` is in the manner of the first, with ReLU, orthogonal weights of gain 0.8 and points divided by 4 before the discriminator, for fewer steps;
  `toy-unrolled` and `toy-pac*` differ from it in one thing each. `toy-r3gan` differs in more: equal rates that decay, 2 latents from a learned
  mixture of 25, batches of 128, PyTorch's first weights. Its controls: `toy-mixture` has all of that and the non-saturating loss, `toy-equal` the
  same without the mixture, `toy-relativistic` is `toy` with its loss and penalties alone.
  The means of the mixture begin at one draw for all seeds. `toy-maxout` and `toy-maxout-pac2` are the third's networks, rates and batches (PyTorch's
  first weights, and no batch norm in the first layer); their 400,000 steps take more than two hours, ours fewer.

Figures in print stand beside ours as a reminder, not as a target: they come of other networks, rates and steps. They are of the last weights, and so
are our comparisons; averaged weights, which one would sample from, are judged beside them (those of a generator that hops from mode to mode lie
between the modes).

Reference: Srivastava et al. 2017, table 1, arXiv 1705.07761; Lin et al. 2018, table 1, arXiv 1712.04086; Metz et al. 2017, arXiv 1611.02163.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from pushforward import runs
from pushforward.config import load_recipe
from pushforward.data.toy import Mixture
from pushforward.errors import ConfigError, DataError
from pushforward.labs import Finding, Verdict, recipes_of
from pushforward.labs.collapse import Outcome, blind, draw, one
from pushforward.labs.contest import above
from pushforward.training.checkpoint import write_atomic

BEST, CONTROL, RATES, LOSS = "gan/toy-r3gan", "gan/toy-mixture", "gan/toy-equal", "gan/toy-relativistic"
REPAIRED = 0.5  # share of samples on modes that a repair has at least
PUBLISHED = {  # modes found (mean, spread as printed), by data set and recipe
    ("ring-8", "gan/toy"): "6.3 +- 0.5",
    ("ring-8", "gan/toy-unrolled"): "7.6",
    ("ring-8", "gan/toy-pac4"): "7.8",
    ("grid-25", "gan/toy"): "17.3 +- 0.8",
    ("grid-25", "gan/toy-maxout"): "17.3 +- 0.8",
    ("grid-25", "gan/toy-unrolled"): "23.6",
    ("grid-25", "gan/toy-pac4"): "24.8 (93.6 % of high quality)",
}


def run(
    out: Path,
    *,
    data: str = "ring-8",
    recipes: str = "gan/toy,gan/toy-unrolled,gan/toy-pac2,gan/toy-pac4,gan/toy-relativistic,gan/toy-equal,gan/toy-r3gan,gan/toy-mixture",
    seeds: int = 10,
    steps: int = 10_000,
    jobs: int = 2,
    quiet: bool = False,
) -> list[Finding]:
    """Train every recipe with every seed, and compare.

    Args:
        out: Folder of collapse.png and collapse.json; each run's outcome is kept in cells/ there, and not repeated.
        data: ring-8 or grid-25.
        recipes: Comma-separated; the first is what the others are compared with.
        seeds: How many.
        steps: Of training.
        jobs: Processes of one thread each.
        quiet: Show no progress.
    """
    density = runs.load_data(load_recipe("gan/toy", data=data))
    if not isinstance(density, Mixture) or density.dim != 2:
        raise DataError(f"{data} is no mixture of Gaussians in the plane; there are ring-8 and grid-25.")
    names = recipes_of(recipes)
    if seeds < 2 or steps < 1 or jobs < 1:
        raise ConfigError("seeds must be at least 2, steps and jobs at least 1.")
    cells = [(r, s) for r in names for s in range(seeds)]
    found: dict[str, list[Outcome]] = {r: [] for r in names}
    kept = out / "cells"
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) if jobs > 1 else nullcontext() as pool:
        work = [
            pool.submit(one, r, data, s, steps, kept).result if pool else partial(one, r, data, s, steps, kept)
            for r, s in cells
        ]
        for (recipe, seed), outcome_of in zip(cells, work, strict=True):
            outcome = outcome_of()
            found[recipe].append(outcome)
            if not quiet:
                (modes, quality), (m, q) = outcome.averaged, outcome.last
                print(
                    f"{recipe} seed {seed}: {modes} modes, {quality:.1%} of high quality; last weights {m}, {q:.1%}",
                    flush=True,
                )
    table = [_row(r, data, found[r]) for r in names]
    title = f"{data}, {steps:,} steps, averaged weights: points of seed 0, figures of {seeds} seeds"
    write_atomic(
        out / "collapse.json",
        json.dumps(
            {
                "data": data,
                "steps": steps,
                "seeds": seeds,
                "modes": len(density.means),
                "blind": blind(density),
                "rows": table,
            },
            indent=1,
        ),
    )
    draw(found, density, out / "collapse.png", title)
    return _findings(found, names, density)


def _row(recipe: str, data: str, outcomes: list[Outcome]) -> dict[str, object]:
    def mean(values: Sequence[float]) -> list[float]:
        return [float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))]

    judged = {"averaged": [o.averaged for o in outcomes], "last": [o.last for o in outcomes]}
    return {
        "recipe": recipe,
        **{f"{k}_modes": mean([m for m, _ in v]) for k, v in judged.items()},
        **{f"{k}_high_quality": mean([q for _, q in v]) for k, v in judged.items()},
        **{f"{k}_each": [[m, round(q, 4)] for m, q in v] for k, v in judged.items()},
        "cpu_seconds": float(np.mean([o.cpu_seconds for o in outcomes])),
        "published_modes": PUBLISHED.get((data, recipe)),
    }


def _findings(found: dict[str, list[Outcome]], names: list[str], density: Mixture) -> list[Finding]:
    every, noise = len(density.means), blind(density)
    plain = [o.last[0] for o in found[names[0]]]
    lost = sum(m < every for m in plain)
    verdict: Verdict = "supported" if lost > len(plain) / 2 else "not supported"
    findings = [
        Finding(
            f"{names[0]} does not find all modes.",
            verdict,
            f"On {lost} of {len(plain)} seeds; {np.mean(plain):.1f} of {every} on average.",
        )
    ]
    best, control = found.get(BEST), found.get(CONTROL)
    tried = len(names) - 1 + (best is not None and control is not None)
    for name in names[1:]:
        findings.append(
            repaired(name, [o.last for o in found[name]], names[0], plain, noise, tried=tried, beside=names)
        )
    if best is not None and control is not None:
        claim = f"{BEST} finds more modes than {CONTROL}, which has its prior and its rates but not its loss."
        findings.append(above(claim, *([o.last[0] for o in side] for side in (best, control)), tried=tried))
    if best is not None:
        whole, last = (
            sum(m == every and q >= 0.95 for m, q in judged)
            for judged in ([o.averaged for o in best], [o.last for o in best])
        )
        verdict = "supported" if whole >= 0.9 * len(best) else "not supported"
        claim = f"{BEST} finds all {every} modes with 95 % of high quality on nine of ten seeds (averaged weights)."
        findings.append(Finding(claim, verdict, f"On {whole} of {len(best)} seeds; by its last weights on {last}."))
    return findings


def repaired(
    name: str,
    judged: list[tuple[int, float]],
    other: str,
    plain: list[int],
    noise: tuple[float, float],
    *,
    tried: int = 1,
    beside: Sequence[str] = (),
) -> Finding:
    """Whether one finds more modes than the other, with most of its samples on them; `beside` it the controls that were run tell why."""
    found = above(f"{name} repairs the collapse of {other}.", [m for m, _ in judged], plain, tried=tried)
    quality = float(np.mean([q for _, q in judged]))
    said = f"Modes: {found.evidence} {quality:.1%} of its samples lie on them (blind: {noise[0]:.1f} modes, {noise[1]:.1%})."
    parts = {CONTROL: "prior and rates", RATES: "rates", LOSS: "loss"}
    if name == BEST and (known := [f"{k} has its {v}" for k, v in parts.items() if k in beside]):
        said += f" Which part of it does so, its controls tell: {', '.join(known)}."
    return Finding(found.claim, found.verdict if quality >= REPAIRED else "not supported", said)
