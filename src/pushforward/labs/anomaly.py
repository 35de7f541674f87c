"""A model of digits should find what is no digit strange. Each family has a measure of it: an energy, a density, a discriminator's logit.

The same suite of shifts, noises, constants and damage is put to all of them; a figure is the AUROC of test images against each set, 0.5 for a coin, below it for a model that takes the outliers for better digits than digits.

Reference: Grathwohl et al. 2019, section 5.3, arXiv 1912.03263; Nalisnick et al. 2018, arXiv 1810.09136; Mu and Gilmer 2019, arXiv 1906.02337 (damage).
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from scipy import stats

from pushforward import anomaly
from pushforward.labs import Finding, recipes_of
from pushforward.labs.contest import images_of, trained
from pushforward.labs.drawing import panels
from pushforward.training.checkpoint import write_atomic

GOALS = {
    "noise 0.1": 0.90,
    "rot180": 0.80,
    "half size": 0.95,
    "black": 0.95,
    "grey": 0.95,
    "white": 0.95,
    "fashion-mnist": 0.99,
}
Table = dict[str, dict[str, float]]


def run(
    out: Path, *, run: str = "", recipes: str = "energy/pcd,flow/multiscale-mnist,gan/dcgan", data: str = "mnist-5k", suite: str = "mnist", cpu_seconds: float = 600.0, n: int = 500, seed: int = 0, quiet: bool = False
) -> list[Finding]:  # fmt: skip
    """Score every model by the suite.

    Args:
        out: Folder of auroc.json and auroc.png.
        run: Folders of runs, comma-separated, the energy model first; `recipes` are trained when empty.
        recipes: Comma-separated, the energy model first.
        data: What they are trained on.
        suite: "mnist", or "shifts" without other data sets.
        cpu_seconds: Of each one's training.
        n: Test images, and images of each set.
        seed: Of all.
        quiet: Show no progress.
    """
    models = trained(run, recipes_of(recipes), data=data, cpu_seconds=cpu_seconds, seed=seed, out=out)
    images_of(next(iter(models.values())).config)  # refuses what is no digit before hours of scoring
    table: Table = {}
    errors: Table = {}
    for name, each in models.items():
        report = anomaly.score(each, suite=suite, n=n, seed=seed, quiet=quiet)
        table[name] = {s: row["AUROC"].value for s, row in report.scores[report.kind].items()}
        errors[name] = {s: row["AUROC"].stderr for s, row in report.scores[report.kind].items()}
        if not quiet:
            worst = min(table[name], key=lambda s: table[name][s])
            print(
                f"{name}: mean {np.mean(list(table[name].values())):.3f}, worst {worst} {table[name][worst]:.3f}",
                flush=True,
            )
    write_atomic(out / "auroc.json", json.dumps({"n": n, "table": table, "errors": errors}, indent=1))
    sets = list(next(iter(table.values())))
    with panels(out / "auroc.png", 1, width=9.5, height=1.4 + 0.35 * len(table)) as (ax,):
        shades = np.array([[table[m][s] for s in sets] for m in table])
        ax.imshow(shades, cmap="RdBu", vmin=0, vmax=1, aspect="auto")
        for (i, j), v in np.ndenumerate(shades):
            ax.text(
                j,
                i,
                f"{v:.2f}",
                ha="center",
                va="center",
                fontsize=5.5,
                color="white" if abs(v - 0.5) > 0.35 else "black",
            )
        ax.set_xticks(range(len(sets)), sets, rotation=60, ha="right", fontsize=7)
        ax.set_yticks(range(len(table)), list(table), fontsize=8)
        ax.grid(False)
        ax.set(title="AUROC against each set")
    return findings(table, errors)


def findings(table: Table, errors: Table) -> list[Finding]:
    """The energy model's goals, its rivals, and whether anything slips through."""
    first, *others = table
    mine = table[first]
    asked = {s: goal for s, goal in GOALS.items() if s in mine}
    absent = "".join(f" {s} was not at hand." for s in GOALS if s not in mine)
    missed = [f"{s} {mine[s]:.3f} < {goal}" for s, goal in asked.items() if mine[s] < goal]
    out = [
        Finding(f"{first} finds noise, turned, small and black images strange, as the goals ask.", "not supported" if missed else "supported", ("Missed: " + "; ".join(missed) if missed else ", ".join(f"{s} {mine[s]:.3f}" for s in asked)) + "." + absent),
    ]  # fmt: skip
    for name in others:
        theirs = table[name]
        bar = {s: 2 * math.hypot(errors[first][s], errors[name][s]) for s in mine}
        wins, losses = (sum(sign * (mine[s] - theirs[s]) > bar[s] for s in mine) for sign in (1, -1))
        p, q = (float(stats.binomtest(k, max(wins + losses, 1), alternative="greater").pvalue) for k in (wins, losses))
        out.append(Finding(f"{first} tells more sets from digits than {name}.", "supported" if p < 0.05 else "not supported" if q < 0.05 else "unclear", f"Better on {wins} of {len(mine)} and worse on {losses} by two standard errors, sign test p = {p:.2g}; mean {np.mean(list(mine.values())):.3f} against {np.mean(list(theirs.values())):.3f}."))  # fmt: skip
    z = float(stats.norm.isf(0.05 / sum(map(len, table.values()))))  # of so many: Bonferroni
    fooled = {m: [s for s, v in row.items() if v + z * errors[m][s] < 0.5] for m, row in table.items()}
    some = {m: s for m, s in fooled.items() if s}
    out.append(Finding("Some model takes what is no digit for a better digit than digits (AUROC below one half at 5 %, Bonferroni for all sets and models).", "supported" if some else "not supported", "; ".join(f"{m}: {', '.join(s)}" for m, s in some.items()) + "." if some else "None does."))  # fmt: skip
    return out
