"""Regenerate docs/results.md and docs/labs.md from the JSON files in docs/results/, and docs/recipes.md from the recipes.

python tools/make_docs.py
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from itertools import pairwise
from math import hypot, log
from pathlib import Path
from statistics import correlation, fmean
from typing import Any

from scipy.stats import ttest_ind, ttest_rel

from pushforward.compare.statistics import holm, mean_and_error, paired_difference
from pushforward.config import recipe_names, recipe_text
from pushforward.labs import LABS, source_of
from pushforward.report.tables import SHOWN, cell, duration

DOCS = Path(__file__).parent.parent / "docs"


KEPT = ("frechet", "kid", "precision", "recall", "density", "coverage", "class entropy")


def read(name: str) -> Any | None:
    file = DOCS / "results" / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else None


def row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def as_set(settings: dict[str, Any]) -> str:
    """A lab's settings as the command line takes them."""
    return " ".join(f"--set {k}={json.dumps(v) if isinstance(v, bool) else v}" for k, v in settings.items())


ASKED = {6.0: (2, 2.5), 20.0: (0.8, 0.7), 60.0: (0.4, 0.25)}
"""Multiples of noise-10 that are asked of the best GAN and the best diffusion model, by CPU minutes."""
RECALL, SHARES = {20.0: 0.75, 60.0: 0.80}, (0.06, 0.14)
"""Recall that is asked for, by CPU minutes, and between what each class's share of the samples must lie."""
PRECISIONS = {"bf16": (), "no": ("float32",)}


def over_seeds(rows: list[dict[str, Any]], key: str) -> tuple[float, float]:
    """Mean, and its standard error: what seeds differ by, or the measurements' own where that is more (two seeds may agree by chance)."""
    value, error = mean_and_error([r["values"][key][0] for r in rows])
    return value, max(hypot(*(r["values"][key][1] for r in rows)) / len(rows), error or 0.0)


def quality() -> list[str]:
    lines: list[str] = []
    file = DOCS / "results" / "quality.jsonl"
    if file.exists():
        cells: dict[tuple[str, tuple[str, ...], float], list[dict[str, Any]]] = {}
        for r in map(json.loads, file.read_text().splitlines()):
            if "note" not in r and r["n"] == 10_000:
                cells.setdefault(
                    (r["recipe"], (*r["settings"], *PRECISIONS[r["precision"]]), r["cpu_minutes"]), []
                ).append(r)
        shipped: dict[str, set[float]] = {}  # recipes as they ship, whatever precision was found faster
        for (recipe, _, minutes), found in cells.items():
            if not found[0]["settings"]:
                shipped.setdefault(recipe, set()).add(minutes)
        some, ladder = next(iter(cells.values()))[0], read("floor")["ladder"]
        noise = ladder["noise-10"]
        lines += [
            "## Quality against training time, full MNIST",
            "",
            "One thread a run; 6 CPU minutes are 3 minutes of two cores. 10,000 samples of averaged weights against the 10,000 test images, digit encoder",
            f"`{some['extractor_sha256'][:12]}`; means over seeds ± standard error: the larger of that between them and that of the measurements; training images in the place of samples (the floor) have {ladder['floor']:.1f}, with noise on them (noise-10) {noise:.1f}. The Frechet distance asked for is 2, 0.8 and 0.4 times noise-10 of the best GAN,",
            "2.5, 0.7 and 0.25 times of the best diffusion model; of both a recall of .75 after 20 and .80 after 60 CPU minutes, and classes between 6 and 14 %. In bfloat16 where its probe found that faster. Made by `python benchmarks/quality.py "
            + " ".join(sorted(shipped))
            + "`; steps differ by what the shared machine gave on the day.",
            "",
            row(
                "recipe",
                "CPU min",
                "seeds",
                "steps",
                "Frechet distance",
                "asked (GAN, diffusion)",
                "precision",
                "recall",
                "rarest, commonest class",
                "evaluations",
                "sampling, CPU ms an image",
            ),
            row(*["---"] * 11),
        ]
        for (recipe, settings, minutes), found in sorted(cells.items()):
            values = []
            for key in ("frechet", "precision", "recall"):
                values.append("{:.4g} ± {:.2g}".format(*over_seeds(found, key)))
            shares = f"{min(r['rarest'] for r in found):.1%}, {max(r['commonest'] for r in found):.1%}"
            steps = sorted({min(r["steps"] for r in found), max(r["steps"] for r in found)})
            anew = (
                " (one network of `model.temperature=1.0` sampled anew)" if any("network" in r for r in found) else ""
            )
            ms = sum(r["sampling_cpu_ms"] for r in found) / len(found)
            lines.append(
                row(
                    ", ".join([f"`{recipe}`", *(f"`{each}`" for each in settings)]) + anew,
                    f"{minutes:g}",
                    len(found),
                    " to ".join(f"{k:,}" for k in steps),
                    values[0],
                    ", ".join(f"{k * noise:.3g}" for k in ASKED.get(minutes, ())),
                    *values[1:],
                    shares,
                    found[0]["evaluations"],
                    f"{ms:.2g}",
                )
            )
        asked = {k: v[0] * noise for k, v in ASKED.items()}
        lines += [
            "",
            "Which GANs, as they ship, meet what is asked of the best one: the distance, the recall and the classes (means over all their seeds, whatever the precision; no seed's classes outside):",
            "",
        ]
        for recipe in sorted(r for r in shipped if r.startswith("gan/")):
            met = []
            for minutes in sorted(asked):
                same = [
                    r
                    for k, found in cells.items()
                    if (k[0], k[2]) == (recipe, minutes)
                    for r in found
                    if not r["settings"]
                ]
                if not same:
                    met.append(f"{minutes:g} min: not measured")
                    continue
                mean, how = fmean(r["values"]["frechet"][0] for r in same), "s" if len(same) > 1 else ""
                missed = [] if mean <= asked[minutes] else ["the distance"]
                if fmean(r["values"]["recall"][0] for r in same) < RECALL.get(minutes, 0):
                    missed.append("the recall")
                if min(r["rarest"] for r in same) < SHARES[0] or max(r["commonest"] for r in same) > SHARES[1]:
                    missed.append("the classes")
                met.append(
                    f"{minutes:g} min: {mean:.1f} against {asked[minutes]:.1f}, {len(same)} seed{how}{' of the 3 asked' if len(same) < 3 else ''}, **{'missed by ' + ' and '.join(missed) if missed else 'met'}**"
                )
            lines.append(f"- `{recipe}`: " + "; ".join(met) + ".")
        lines += [
            "",
            "For `gan/dcgan` were tried, against training images: betas (.5, .999) and (0, .99), which it has now, relativistic pairing with R2, a quarter of R1, temperatures and a falling rate at the end.",
            "",
        ]
        for recipe, budgets in sorted(shipped.items()):
            last = max(budgets)
            stem = f"quality-{recipe.replace('/', '-')}-{last:g}.png"
            if (DOCS / "results" / stem).exists():
                lines += [f"`{recipe}`, {last:g} CPU minutes:", "", f"![{recipe}](results/{stem})", ""]
    return lines


def throughput() -> list[str]:
    found = read("throughput")
    if found is None:
        return []
    lines = [
        "## Training throughput",
        "",
        "Images/s of one full step at batch 64, the same networks, each measurement a process of its own, the usual script and ours in turn; medians.",
        "The limit is the step's multiplications over the float32 GEMM rate measured in the same run. The peers are our re-creations of the published",
        f"training steps (`benchmarks/throughput.py`). Made by `python {found['command']}`.",
        "",
        row(
            "networks",
            "usual script",
            "with allocator thresholds raised",
            "ours",
            "ours, compiled (one round)",
            "ratio",
            "goal",
            "GEMM, GFLOP/s",
            "limit",
            "share",
        ),
        row(*["---"] * 10),
    ]
    for r in found["rows"]:
        lines.append(
            row(
                r["case"],
                f"{r['peer']:,.0f}",
                f"{r['peer_malloc']:,.0f}",
                f"{r['ours']:,.0f}",
                f"{r['ours_compiled']:,.0f}",
                f"{r['ratio']:.2f}",
                r["goal"],
                f"{r['gemm']:.0f}",
                f"{r['limit']:,.0f}",
                f"{r['share']:.0%}",
            )
        )
    return [*lines, ""]


def floor() -> list[str]:
    found = read("floor")
    if found is None:
        return []
    shown = [k for k in SHOWN if any(k in r["values"] for r in found["rows"])]
    lines = [
        "## The floor of each metric",
        "",
        f"MNIST training images against test images, digit encoder `{found['extractor_sha256'][:12]}`. The Frechet distance falls with n: that is its bias.",
        f"Made by `python {found['command']}`.",
        "",
        row("n", *(SHOWN[k] for k in shown)),
        row(*["---"] * (len(shown) + 1)),
    ]
    return [*lines, *(row(f"{r['n']:,}", *(cell(r["values"], k) for k in shown)) for r in found["rows"]), ""]


def metrics() -> list[str]:
    files = [found for n in ("metrics-1000", "metrics", "metrics-50000") if (found := read(n)) is not None]
    lines = [
        "## Metrics against other libraries",
        "",
        "The same float32 features, each measurement a process of its own, ours and the peer in turn; medians. Memory is the growth of the peak.",
        *(f"Made by `python {found['command']}`." for found in files),
        "",
        row("metric", "who", "n", "d", "seconds", "extra MB", "time over ours", "value"),
        row(*["---"] * 8),
    ]
    for r in (r for found in files for r in found["rows"]):
        numbers = (f"{r['seconds']:.2f}", f"{r['extra_mb']:.0f}", f"{r['ratio']:.2f}", f"{r['value']:.6g}")
        lines.append(row(r["metric"], r["who"], f"{r['n']:,}", r["d"], *numbers))
    return [*lines, ""] if files else []


def large() -> list[str]:
    files = [found for n in ("large", "large-pairs") if (found := read(n)) is not None]
    lines = [
        "## Metrics of features on disk",
        "",
        "Two memory-mapped sets of n features; memory is what the process allocated at its peak. Frechet (with its standard error) and sliced",
        "distances grow with n, those of all pairs (KID; precision, recall, density and coverage together) with its square.",
        *(f"Made by `python {found['command']}`. {found.get('note', '')}".rstrip() for found in files),
        "",
        row("metric", "n", "d", "seconds", "peak MB"),
        row(*["---"] * 5),
    ]
    for found in files:
        for r in found["rows"]:
            lines.append(row(r["metric"], f"{r['n']:,}", found["d"], f"{r['seconds']:.1f}", f"{r['peak_mb']:.0f}"))
    return [*lines, ""] if files else []


def corruption() -> list[str]:
    found = read("lab-fid-under-corruption-curves")
    if found is None:
        return []
    worse = {}
    for metric, way in (("frechet", 1), ("kid", 1), ("precision", -1), ("recall", -1)):
        curves = [[step[metric][0] for step in curve] for curve in found["curves"].values()]
        steps = [way * (b - a) > 0 for curve in curves for a, b in pairwise(curve)]
        worse[metric] = sum(steps), len(steps)
    return [
        "## Metrics against growing damage",
        "",
        f"Full MNIST, 10,000 training images damaged in five ways at five strengths against the test images, digit encoder `{found['extractor_sha256'][:12]}`.",
        "Made by `pushforward lab run fid-under-corruption --set data=mnist --set n=10000`. Steps at which a metric grows worse with the damage: "
        + ", ".join(f"{metric} {count} of {total}" for metric, (count, total) in worse.items())
        + ".",
        "Blurred and noisy digits lie well within the data's balls, so k-NN precision alone must never be read.",
        "",
        "![metrics against damage](images/lab-fid-under-corruption.png)",
        "",
    ]


def labs() -> list[str]:
    found = read("lab-gaussian-1d")
    if found is None:
        return []
    settings = as_set(found["settings"])
    lines = [f"## {found['question']}", "", f"Made by `pushforward lab run gaussian-1d {settings}`.", ""]
    lines += [f"- **{f['verdict']}**: {f['claim']} {f['evidence']}" for f in found["findings"]]
    pictures = sorted((DOCS / "images").glob("lab-gaussian-1d*.*"))
    return [*lines, "", *(f"![{p.stem}](images/{p.name})" for p in pictures), ""]


COLLAPSES = {
    "ring-8": "ring-8",
    "ring-8-25000": "ring-8, as many steps as the unrolled GAN's authors",
    "grid-25": "grid-25",
    "grid-25-maxout": "grid-25, PacGAN's own networks and rates",
}  # tables of the collapse lab, and their headings


def collapse() -> list[str]:
    """Rings and grids: every recipe over its seeds, beside what the papers print."""
    lines: list[str] = []
    for data in COLLAPSES:
        found, lab = read(f"collapse-{data}"), read(f"lab-mode-collapse-{data}")
        if found is None or lab is None:
            continue
        settings = as_set(lab["settings"])
        lines += [
            f"### {COLLAPSES[data]}",
            "",
            f"{found['seeds']} seeds, {found['steps']:,} steps, {found['modes']} modes, 2,500 samples of each. Made by `pushforward lab run mode-collapse {settings}`.",
            "",
            row(
                "recipe",
                "modes, last weights",
                "of high quality",
                "modes, averaged weights",
                "of high quality",
                "CPU s a run",
                "modes in print",
            ),
            row(*["---"] * 7),
        ]
        for r in found["rows"]:
            modes = ["{:.1f} ± {:.1f}".format(*r[f"{w}_modes"]) for w in ("last", "averaged")]
            quality = ["{:.1%} ± {:.1%}".format(*r[f"{w}_high_quality"]) for w in ("last", "averaged")]
            published = r["published_modes"] or "-"
            lines.append(
                row(
                    f"`{r['recipe']}`", modes[0], quality[0], modes[1], quality[1], f"{r['cpu_seconds']:.0f}", published
                )
            )
        modes, quality = found["blind"]
        lines.append(
            row("blind (a Gaussian)", f"{modes:.1f}", f"{quality:.1%}", f"{modes:.1f}", f"{quality:.1%}", "-", "-")
        )
        lines += ["", *(f"- **{f['verdict']}**: {f['claim']} {f['evidence']}" for f in lab["findings"]), ""]
        lines += [f"![{data}](images/lab-mode-collapse-{data}.png)", ""]
    if not lines:
        return []
    head = [
        "## Mode collapse on Gaussians in the plane",
        "",
        "The plain GAN, looking ahead and packing are trained on the unrolled GAN's base (`labs/mode_collapse.py` lists the papers' networks and ours), and in the last table on PacGAN's own networks, for 8,000 steps; the plain GAN and looking ahead also for the 25,000 of the unrolled GAN's authors.",
        "PacGAN's authors take 400,000 (two hours and more a run here), so compare with their figures in kind only: ours have not converged, and on the grid few of their samples lie on modes where theirs do (93.6 % for PacGAN4). `toy-r3gan` differs in all of that, and in its latents (a learned mixture of 25, whose means begin at one draw for all seeds) and rates that fall: what its loss does is seen beside `toy-mixture`, which has the rest, `toy-equal`, which has the rates alone, and `toy-relativistic`, which has the loss alone.",
        "One sample in a hundred on a mode is enough to find it, so that noise finds many: a repair must also put most samples on modes.",
        "",
    ]
    return [*head, *lines]


def temperature() -> list[str]:
    found = read("temperature")
    if found is None:
        return []
    lines = [
        "## Latents of another width",
        "",
        f"{found['n']:,} samples of kept runs at several temperatures against {found['n']:,} *training* images, by which recipes were given theirs. Made by `python {found['command']}`.",
        "",
        row("run", "steps", "temperature", "Frechet distance", "precision", "recall"),
        row(*["---"] * 6),
    ]
    for r in found["rows"]:
        values = ("{:.4g} ± {:.1g}".format(*r[k]) for k in ("frechet", "precision", "recall"))
        lines.append(row(r["run"], f"{r['steps']:,}", f"{r['temperature']:g}", *values))
    return [*lines, ""]


def stacked() -> list[str]:
    found, lab = read("stacked"), read("lab-stacked")
    if found is None or lab is None:
        return []
    settings = as_set(lab["settings"])
    lines = [
        "## Stacked MNIST",
        "",
        f"{found['samples']:,} samples, modes of 1,000 and reverse KL divergence. Made by `pushforward lab run stacked {settings}`.",
        "",
        row("recipe", "seed", "modes", "reverse KL", "steps", "CPU s", "modes / reverse KL in print"),
        row(*["---"] * 7),
    ]
    for r in found["rows"]:
        lines.append(
            row(
                f"`{r['recipe']}`",
                r["seed"],
                r["modes"],
                f"{r['reverse_kl']:.2f}",
                f"{r['steps']:,}",
                r["cpu_seconds"],
                r["published"] or "-",
            )
        )
    lines.append("")
    for name in dict.fromkeys(r["recipe"] for r in found["rows"]):
        mine = [r for r in found["rows"] if r["recipe"] == name]
        modes, kl = (mean_and_error([float(r[k]) for r in mine]) for k in ("modes", "reverse_kl"))
        lines.append(f"- `{name}`: {modes[0]:.0f} ± {modes[1]:.0f} modes, reverse KL {kl[0]:.2f} ± {kl[1]:.2f}.")
    steps = {k: fmean(r["steps"] for r in found["rows"] if r["recipe"] == f"gan/{k}") for k in ("stacked", "stacked-unrolled")}  # fmt: skip
    slower = f" Looking ahead makes {steps['stacked'] / steps['stacked-unrolled']:.1f} times fewer steps in this time."
    lines += [
        "",
        f"The plain GAN does not collapse here as in print, so that there is little for packing to repair.{slower}",
        "`stacked-unrolled` has no batch norm in D and looks 5 plain steps of .01 ahead; `stacked-r3gan` has none either, and five times the rate of the plain GAN: what its loss alone does has no control here.",
    ]
    return [*lines, ""]


CLAIMS = (  # of the reference report: what should have the lower Frechet distance
    ("LSGAN beats vanilla", "gan/lsgan", "gan/vanilla"),
    ("DCGAN (no batch norm in D, R1, betas 0, .99) beats vanilla", "gan/dcgan", "gan/vanilla"),
    ("DCGAN (the same) beats LSGAN", "gan/dcgan", "gan/lsgan"),
    ("ICR (sigma .03, the generator's term a mean over pixels) hurts LSGAN", "gan/lsgan", "gan/icr"),
    ("the circle prior beats the uniform one", "gan/gm-gan", "gan/gm-gan-uniform"),
)


def steps_tell(recipes: dict[str, dict[int, dict[str, Any]]]) -> float:
    """How log(steps) goes with log(Frechet distance) within recipes."""
    steps, distances = [], []
    for runs in recipes.values():
        for rest, of in ((steps, lambda r: r["steps"]), (distances, lambda r: r["values"]["frechet"][0])):
            logs = [log(of(r)) for r in runs.values()]
            rest += [v - fmean(logs) for v in logs]
    return correlation(steps, distances)


def family() -> list[str]:
    file = DOCS / "results" / "family.jsonl"
    if not file.exists():
        return []
    cells: dict[tuple[float, str], dict[str, dict[int, dict[str, Any]]]] = {}
    for r in map(json.loads, file.read_text().splitlines()):
        group = cells.setdefault((r["budget"], r.get("precision", "no")), {})
        group.setdefault(" ".join([r["recipe"], *r.get("settings", [])]), {})[r["seed"]] = r
    lines = ["## GAN recipes under one budget", ""]
    for (budget, precision), recipes in sorted(cells.items()):
        some = next(iter(next(iter(recipes.values())).values()))
        told = "" if precision == "no" else f" {' '.join(sorted(recipes))} --precision {precision}"
        command = f"python benchmarks/family.py{told}" + ("" if budget == 120 else f" --cpu-seconds {budget:g}")
        lines += [
            f"Full MNIST, {budget:.0f} seconds of one CPU thread each, {'float32' if precision == 'no' else precision}, 10,000 samples of averaged weights against the 10,000 test images,",
            f"digit encoder `{some['extractor_sha256'][:12]}`. ± is the larger of the standard error between seeds and of that of the",
            f"measurements; of one seed it says nothing of differences between neighbours. Steps differ, between seeds and between recipes that were run on different days, by what the shared machine gave: compare rows whose steps are alike, and that were kept about the same hour (that of the commit; older runs were kept several at a time). Made by `{command}`; with `--set KEY=VALUE` where a row names a setting.",
            "",
            row("recipe", "seeds", "CPU s", "steps", *KEPT, "rarest, commonest class", "kept (UTC)"),
            row(*["---"] * (len(KEPT) + 6)),
        ]

        if any(len(runs) > 1 for runs in recipes.values()):
            lines[-4] += (
                f" About their recipes' means the logarithms of steps and of Frechet distances have a correlation of {steps_tell(recipes):.2f}: some of what differs may be how far they came."
            )

        def mean(runs: dict[int, dict[str, Any]], key: str) -> tuple[float, float]:
            return over_seeds(list(runs.values()), key)

        for recipe, runs in sorted(recipes.items(), key=lambda item: mean(item[1], "frechet")[0]):
            values = ["{:.4g} ± {:.2g}".format(*mean(runs, k)) for k in KEPT]
            steps = sorted({f([r["steps"] for r in runs.values()]) for f in (min, max)})
            seconds = sum(r["cpu_seconds"] for r in runs.values()) / len(runs)
            name = ", ".join(f"`{k}`" for k in recipe.split())
            shares = f"{min(r['rarest'] for r in runs.values()):.1%}, {max(r['commonest'] for r in runs.values()):.1%}"
            hours = ", ".join(sorted({r["when"][8:13].replace(" ", ". ") + " h" for r in runs.values()}))
            lines.append(
                row(name, len(runs), f"{seconds:.0f}", " to ".join(f"{k:,}" for k in steps), *values, shares, hours)
            )
        floor = next(r for r in read("floor")["rows"] if r["n"] == 10_000)["values"]
        known = ("{value:.4g} ± {stderr:.2g}".format(**floor[k]) if k in floor else "-" for k in KEPT)
        shares = [v["value"] for k, v in floor.items() if k.startswith("class ") and k != "class entropy"]
        spread = f"{min(shares):.1%}, {max(shares):.1%}"
        lines += [row("*training images (floor)*", "", "", "", *known, spread, ""), ""]
        blank = [n for n, runs in recipes.items() if max(r["rarest"] for r in runs.values()) < 1e-3]
        if blank:
            lines[-1:] = [
                "",
                f"{', '.join(f'`{n}`' for n in sorted(blank))} have not learned to draw within this time, at the rate of 5e-5 of the WGAN paper: nearly all samples are of one class, and a precision of 1 beside a recall of 0 says that they lie in the middle of the data, not that they are good.",
                "",
            ]
        pairs = []
        for claim, better, worse in CLAIMS:
            both = sorted(recipes.get(better, {}).keys() & recipes.get(worse, {}).keys())
            far = " and ".join(
                "{:,.0f}".format(fmean(recipes[n][s]["steps"] for s in both)) for n in (better, worse) if both
            )
            pairs.append(
                (
                    claim,
                    *([recipes[name][s]["values"]["frechet"][0] for s in both] for name in (better, worse)),
                    f"after {far} steps, Welch",
                )
            )
        ways, lab = read("rejection-ways"), read("lab-rejection-sampling")
        alike = {"data": "mnist", "cpu_seconds": budget, "n": 10_000, "recipe": "gan/vanilla"}
        if (
            precision == "no"
            and lab is not None
            and alike.items() <= ({"recipe": "gan/vanilla"} | lab["settings"]).items()
        ):
            drs, plain = ([r[k]["frechet"] for r in ways["seeds"] if "drs" in r] for k in ("drs", "plain"))
            pairs.append(("DRS helps vanilla (80th percentile, see below)", drs, plain, "paired"))  # of one network
        tested = [
            (*pair, ttest_rel(*pair[1:3]) if pair[3].endswith("paired") else ttest_ind(*pair[1:3], equal_var=False))
            for pair in pairs
            if len(pair[1]) > 1
        ]
        if tested:
            lines += [
                "After this budget (Welch's test of two recipes, Student's paired one of two ways with one network; Holm's correction). `gan/dcgan` is the recipe that ships; with betas (.5, .999), on a slower day at half the steps (its row is above), it lost to vanilla and LSGAN of that day, whose rows are no longer kept.",
                "ICR made half as many steps as LSGAN within the same time:",
                "",
            ]
        for (claim, a, b, kind, test), p in zip(tested, holm([float(t[-1].pvalue) for t in tested]), strict=True):
            verdict = "unclear" if p >= 0.05 else "supported" if fmean(a) < fmean(b) else "not supported"
            low, high = test.confidence_interval()
            lines.append(
                f"- {claim}: **{verdict}** (Frechet {fmean(a):.1f} against {fmean(b):.1f}, difference {fmean(a) - fmean(b):+.1f}, 95 % interval {low:.1f} to {high:.1f}, {kind} p = {test.pvalue:.2g}, {p:.2g} corrected for {len(tested)} claims, {len(a)} seeds)"
            )
        lines.append("")
    return lines


def jobs() -> list[str]:
    found = read("compare-jobs")
    if found is None:
        return []
    times = "; ".join(
        f"{n} at a time: {', '.join(f'{v:.0f}' for v in values)} s" for n, values in found["seconds"].items()
    )
    return [
        "## Comparisons side by side",
        "",
        f"Three recipes and two seeds, {found['steps']} steps a cell, one thread a cell. {times}: **{found['ratio']:.2f} times** faster. Made by `python {found['command']}`.",
        "",
    ]


def resampling() -> list[str]:
    found, lab = read("rejection-ways"), read("lab-rejection-sampling")
    if found is None or lab is None:
        return []
    settings = as_set(lab["settings"])
    runs = found["seeds"]
    lines = [
        "## Sampling with the discriminator's help",
        "",
        f"{lab['settings'].get('data', 'mnist-5k')}: `{found['recipe']}`, {lab['settings']['cpu_seconds']:g} CPU seconds on five sixths of the training images; the logit as it is, or calibrated on {found['calibrated_on']:,} of the rest; DRS at the 80th percentile of F.",
        f"{found['n']:,} samples each way; means over {len(runs)} seeds ± standard error between them; the gain is paired. Made by `pushforward lab run rejection-sampling {settings}`.",
        "",
        row(
            "way",
            "seeds",
            "accepted",
            "proposals a sample",
            "ms a sample",
            "Frechet",
            "gain",
            "p",
            "precision",
            "recall",
            "class entropy",
        ),
        row(*["---"] * 11),
    ]
    for way in dict.fromkeys(k for r in runs for k in r):
        rows = [r[way] for r in runs if way in r]
        gains = [r["plain"]["frechet"] - r[way]["frechet"] for r in runs if way in r]
        gain, error = mean_and_error(gains)
        said = ("", "")
        if way != "plain" and len(rows) > 1:
            test = paired_difference(*([r[k]["frechet"] for r in runs if way in r] for k in ("plain", way)))
            said = (f"{gain:+.1f} ± {error or 0:.1f}", f"{test.p:.2g}")
        means = {
            k: mean_and_error([r[k] for r in rows])
            for k in ("acceptance", "proposals", "ms", "frechet", "precision", "recall", "class entropy")
        }
        lines.append(
            row(
                way,
                len(rows),
                f"{means['acceptance'][0]:.1%}",
                f"{means['proposals'][0]:.1f}",
                f"{means['ms'][0]:.2f}",
                "{:.1f} ± {:.1f}".format(*(v or 0 for v in means["frechet"])),
                *said,
                *(
                    "{:.3f} ± {:.3f}".format(*(v or 0 for v in means[k]))
                    for k in ("precision", "recall", "class entropy")
                ),
            )
        )
    return [*lines, "", *(f"- **{f['verdict']}**: {f['claim']} {f['evidence']}" for f in lab["findings"]), ""]


def startup() -> list[str]:
    found = read("startup")
    if found is None:
        return []
    lines = [
        "## Start-up",
        "",
        f"Medians of 9 processes. Made by `python {found['command']}`.",
        "",
        row("", "seconds"),
        row("---", "---"),
    ]
    return [*lines, *(row(f"`{name}`", f"{s:.3f}") for name, s in found["median_seconds"].items()), ""]


def energy() -> list[str]:
    """Energy models: chains of several lengths, drift, strangeness, a row a run."""
    file = DOCS / "results" / "energy.jsonl"
    if not file.exists():
        return []
    runs = [json.loads(line) for line in file.read_text().splitlines()]
    lengths = sorted({int(k) for r in runs for k in r["lengths"]})
    lines = [
        "## Energy models",
        "",
        "Full MNIST, one thread a run; Frechet distance of chains from noise after so many moves, against the 10,000 test images (10,000 chains up to 256 moves, 1,000 or 500 beyond, and 1,000 of the runs of two and five minutes, made with `--quick`: the floor of fewer",
        "is higher); drift is the mean distance from the test digit that a chain began at, of the recipe's sampler and of calm chains (noise .005 a move, as in the tutorial whose chains go 11.5). Made by `python benchmarks/energy.py`.",
        "",
        row(
            "recipe",
            "seed",
            "CPU min",
            "steps",
            "retries",
            *(f"after {k}" for k in lengths),
            "recall (256)",
            "rarest class (256)",
            "drift after 256, 2,048",
            "of calm chains",
        ),
        row(*["---"] * (9 + len(lengths))),
    ]
    for r in runs:
        cells = [
            f"{r['lengths'][str(k)]['values']['frechet'][0]:.0f}" if str(k) in r["lengths"] else "-" for k in lengths
        ]
        at = r["lengths"]["256"]
        far = r["drift"].get("2048")
        lines.append(
            row(
                f"`{r['recipe']}`" + (f" ({', '.join(r['settings'])})" if r["settings"] else ""),
                r["seed"], f"{r['cpu_seconds'] / 60:.1f}", f"{r['steps']:,}", r["retries"], *cells, f"{at['values']['recall'][0]:.2f}", f"{at['rarest']:.1%}",
                f"{r['drift']['256']:.1f}, {'-' if far is None else f'{far:.1f}'}",
                ", ".join(f"{v:.1f}" for v in r.get("calm_drift", {}).values()) or "-",
            )
        )  # fmt: skip
    gone = [r["drift"]["2048"] for r in runs if "2048" in r["drift"]]
    if gone:
        calm = [r["calm_drift"]["2048"] for r in runs if "2048" in r.get("calm_drift", {})]
        lines += [
            "",
            f"Asked for was a drift below 4 after 2,048 moves: **missed**, {min(gone):.1f} to {max(gone):.1f}"
            + (f", and {min(calm):.1f} to {max(calm):.1f} by calm chains." if calm else "."),
        ]
    whole = [r for r in runs if not r["settings"] and "1024" in r["lengths"]]
    if whole:
        lines += [
            "",
            "Chains from noise by the digit that each ends as (500 a run): the share of which the classifier is sure (.9) in the end, and the median of the moves after which it is and stays so, each run's.",
            "",
            row("digit", *(f"`{r['recipe']}` seed {r['seed']}: chains, sure, moves" for r in whole)),
            row(*["---"] * (1 + len(whole))),
        ]
        for d in map(str, range(10)):
            found = [r["sure"][d] for r in whole]
            lines.append(row(d, *(f"{f['chains']}, {f['share_sure']:.0%}, {f['median_moves']:.0f}" for f in found)))
        grids = [(k, f"results/energy-pcd-{k}.png") for k in lengths if (DOCS / f"results/energy-pcd-{k}.png").exists()]
        for k, picture in grids:
            lines += [
                "",
                f"After {k:,} moves (`energy/pcd`, seed {whole[-1]['seed']}):",
                "",
                f"![{k} moves]({picture})",
            ]
    return [*lines, *strangeness([r for r in runs if not r["settings"]]), *left_out(runs)]


PUBLIC = {
    "uniform noise": "1.00",
    "noise 0.3": ".978",
    "noise 0.1": ".69",
    "shift 4": ".95",
    "half size": ".84",
    "rot90": ".81",
    "rot180": ".64",
    "hflip": ".65",
    "black": ".11",
    "fashion-mnist": ".986",
}  # a widely used MNIST energy model of 77,000 parameters
SCORE_GOALS = {"noise 0.1": ".90", "rot180": ".80", "half size": ".95", "black": ".95", "grey": ".95", "white": ".95"}


def mean_of(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.3f}" if values else "-"
    return "{:.3f} ± {:.3f}".format(*mean_and_error(values))


def strangeness(runs: list[dict[str, Any]]) -> list[str]:
    """How well energies tell digits from what is none, by recipe and minutes; by other scores, and by other figures."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for r in runs:
        groups.setdefault(f"{r['recipe']}, {r['minutes']:g} min", []).append(r)
    named = {f"{name}, {seeds_of(each)}": each for name, each in groups.items()}
    sets = list(dict.fromkeys(k for r in runs for k in r["scores"]["energy"]))
    there = "fashion-mnist" in sets
    values = {
        n: {k: [t[k] for r in each if k in (t := r["scores"]["energy"])] for k in sets} for n, each in named.items()
    }
    whole = {n: len(each) for n, each in named.items()}

    def cell(name: str, k: str) -> str:
        found = values[name][k]
        return mean_of(found) + (f" ({len(found)})" if 0 < len(found) < whole[name] else "")

    def worst(found: Mapping[str, list[float]]) -> str:
        k = min((k for k in found if found[k]), key=lambda k: fmean(found[k]))
        return f"{fmean(found[k]):.3f} ({k})"

    lines = [
        "",
        "### Strangeness",
        "",
        "AUROC of test digits against what is none, by the energy, mean and standard error over seeds (in brackets the seeds that have a set, where some have not); 5,000 of each, 1,000 of the shorter runs. The public model is a widely used MNIST energy model of 77,000 parameters, its figures as printed elsewhere. A longer training is not better at all sets."
        + ("" if there else " Fashion-MNIST was not at hand (goal .99); the public model has .986 on it."),
        "",
        row("set", *named, "the public model", "goal"),
        row(*["---"] * (3 + len(named))),
        *(row(k, *(cell(n, k) for n in named), PUBLIC.get(k, ""), SCORE_GOALS.get(k, "")) for k in sets),
        row("**worst**", *(worst(values[n]) for n in named), "", ""),
        "",
    ]
    long = max(r["minutes"] for r in runs if r["recipe"] == "energy/pcd")
    mine = [r for r in runs if r["recipe"] == "energy/pcd" and r["minutes"] == long]
    scores = list(mine[0]["scores"])
    each = {s: {k: [t[k] for r in mine if k in (t := r["scores"][s])] for k in sets} for s in scores}
    lines += [
        f"By other scores (`energy/pcd`, {long:g} min, {seeds_of(mine)}), AUROC: slope is the norm of the energy's gradient, typicality the energy's distance from its mean on training images.",
        "",
        row("set", *scores),
        row(*["---"] * (1 + len(scores))),
        *(row(k, *(mean_of(each[s][k]) for s in scores)) for k in sets),
        row("**worst**", *(worst(each[s]) for s in scores)),
        "",
    ]
    for r in (r for r in mine if "figures" in r):
        columns = list(next(iter(r["figures"].values())))
        lines += [
            f"All figures by the energy, `energy/pcd` seed {r['seed']}, {r['sizes']['inliers']:,} test images and as many of each set:",
            "",
            row("set", *columns),
            row(*["---"] * (1 + len(columns))),
            *(row(k, *(f"{v:.3f} ± {e:.3f}" for v, e in f.values())) for k, f in r["figures"].items()),
            "",
        ]
    return lines


def left_out(runs: list[dict[str, Any]]) -> list[str]:
    """A digit that training never saw."""
    lines = []
    for r in runs:
        for k, (v, e) in f["held-out class"].items() if "held-out class" in (f := r.get("figures", {})) else ():
            if k == "AUROC":
                without = next(s for s in r["settings"] if s.startswith("data.without="))
                lines += [
                    f"A digit left out of training: `{r['recipe']}` with `--set {without}`, {r['cpu_seconds'] / 60:.1f} CPU minutes, seed {r['seed']}: AUROC {v:.3f} ± {e:.3f} of {r['sizes']['inliers']:,} test images of the other nine against {r['sizes']['held-out class']:,} of it, by the energy; by slope {r['scores']['slope']['held-out class']:.3f}, by typicality {r['scores']['typicality']['held-out class']:.3f}.",
                    "",
                ]
    return lines


def seeds_of(runs: list[dict[str, Any]]) -> str:
    return "1 seed" if len(runs) == 1 else f"{len(runs)} seeds"


def activations() -> list[str]:
    """Swish and ReLU, with and without the penalty on energies."""
    kept = [(read(f"lab-swish-vs-relu{k}"), read(f"lab-swish-vs-relu{k}-contest")) for k in ("", "-0")]
    kept = [(lab, found) for lab, found in kept if lab and found]
    if not kept:
        return []
    about = kept[0][1]
    lines = [
        "### Activations and the penalty on energies",
        "",
        f"`energy/pcd` with Swish and with ReLU, {about['data']}, {about['cpu_seconds']:g} CPU seconds, {about['n']:,} samples of 256 moves; means and standard errors over the seeds that came through (those that diverged are no part of them). Made by "
        + " and ".join(f"`{lab['command']}`" for lab, _ in kept)
        + "; verdicts in [labs](labs.md).",
        "",
        row(
            "activation",
            "weight",
            "seeds",
            "diverged",
            "steps",
            "Frechet",
            "recall",
            "drift",
            "root mean square energy of data",
        ),
        row(*["---"] * 9),
    ]
    for lab, found in kept:
        for name, rows in found["rows"].items():
            came = [r for r in rows if not r["diverged"]]
            each = (mean_and_error([r[k] for r in came]) for k in ("frechet", "recall", "drift", "size of the energy"))
            told = [f"{m:.3g} ± {e:.2g}" if e is not None and len(came) > 1 else f"{m:.3g}" for m, e in each]
            steps = f"{fmean(r['steps'] for r in came):,.0f}"
            weight = f"{lab['settings']['regulariser']:g}"
            lines.append(row(name, weight, len(rows), len(rows) - len(came), steps, *told))
    return [*lines, ""]


def flow() -> list[str]:
    """Flows: bits a dimension."""
    file = DOCS / "results" / "flow.jsonl"
    if not file.exists():
        return []
    lines = [
        "## Flows",
        "",
        "Full MNIST, one thread a run: bits/dim of the 10,000 test images, a bound by dequantising noise (one draw of it), and that of 8 draws (as references have it). Made by `python benchmarks/flow.py`.",
        "",
        row(
            "recipe",
            "seed",
            "CPU min",
            "steps",
            "parameters",
            "bits/dim",
            "8 draws",
            "images of these",
            "Frechet distance",
            "10,000 samples, CPU s",
            "bytes of 200 images that do not come back",
        ),
        row(*["---"] * 11),
    ]
    for r in map(json.loads, file.read_text().splitlines()):
        one, eight = r["bits_per_dim_1"], r.get("bits_per_dim_8")
        lines.append(
            row(
                f"`{r['recipe']}`" + (f" ({', '.join(r['settings'])})" if r["settings"] else ""),
                r["seed"], f"{r['cpu_seconds'] / 60:.0f}" if r["cpu_seconds"] else "-", f"{r['steps']:,}", f"{r['parameters']:,}", f"{one[0]:.3f} ± {one[1]:.3f}", f"{eight[0]:.3f} ± {eight[1]:.3f}" if eight else "-", f"{one[2]:,}",
                f"{r['values']['frechet'][0]:.0f}", r["sampling_cpu_seconds"], r["bytes_that_do_not_return"],
            )
        )  # fmt: skip
    picture = DOCS / "results" / "flow-multiscale-mnist.png"
    if picture.exists():
        lines += [
            "",
            "Samples of `flow/multiscale-mnist`, seed 0:",
            "",
            "![samples](results/flow-multiscale-mnist.png)",
        ]
    return [*lines, ""]


def likelihoods() -> list[str]:
    """Bits a dimension of test images by every family that has a density of them."""
    found = read("likelihoods")
    if found is None:
        return []
    lines = [
        "## Likelihood of every family",
        "",
        "Full MNIST's test images, one run each, bytes made continuous by uniform noise; made by `pushforward evaluate RUN --metrics likelihood -n 1000`.",
        "",
        row("recipe", "steps", "bits/dim", "nats", "how"),
        row(*["---"] * 5),
    ]
    for r in found:
        bits, nats = (r["values"][k] for k in ("bits per dim", "nats"))
        told = [f"{v['value']:.{d}f} ± {v['stderr']:.{d}f}" for v, d in ((bits, 3), (nats, 1))]
        lines.append(row(f"`{r['recipe']}`", f"{r['steps']:,}", *told, nats["method"]))
    return [*lines, ""]


def toys() -> list[str]:
    """Flows and energies on toys whose entropy is known."""
    file = DOCS / "results" / "flow-toys.jsonl"
    if not file.exists():
        return []
    lines = [
        "## Flows and energies on toys",
        "",
        "How many nats the model's negative log-likelihood lies above the true entropy, on 20,000 fresh points (the Kullback-Leibler divergence; asked of flows: 0.05); an energy's by AIS. The error is that of the points and of log Z, not of training: seeds differ by more. One thread; made by `python benchmarks/flow_toys.py`.",
        "",
        row("recipe", "data", "seed", "steps", "CPU s", "entropy, nats", "above it, nats"),
        row(*["---"] * 7),
    ]
    for r in map(json.loads, file.read_text().splitlines()):
        name = f"`{r['recipe']}`" + (f" ({', '.join(r['settings'])})" if r["settings"] else "")
        lines.append(
            row(
                name,
                r["data"],
                r["seed"],
                f"{r['steps']:,}",
                f"{r['cpu_seconds']:.0f}",
                f"{r['entropy']:.3f}",
                f"{r['gap'][0]:.4f} ± {r['gap'][1]:.4f}",
            )
        )
    lines.append("")
    for data in ("ring-8", "grid-25", "spirals", "moons", "checkerboard"):
        if (DOCS / "results" / f"flow-toys-{data}.png").exists():
            lines += [f"![{data}](results/flow-toys-{data}.png)"]
    return [*lines, ""]


def inverses() -> list[str]:
    """Trained residual flows there and back."""
    rows = read("inverse")
    if rows is None:
        return []
    lines = [
        "## Inverses of trained residual flows",
        "",
        "Largest error of any entry after data to noise and back and the other way round (asked: 1e-5), the steepest block at data (allowed: L), the most Banach iterations that a sample took, and the largest share of the number that the a priori bound allows. Made by `python benchmarks/inverse.py RUN --json docs/results/inverse.json` of a run of the recipe.",
        "",
        row("run", "steps", "dimensions", "samples", "data, noise, data", "noise, data, noise", "of one block", "steepest (L)", "iterations", "share of the bound"),
        row(*["---"] * 10),
    ]  # fmt: skip
    for r in rows:
        errors = (f"{r[k]:.1e}" for k in ("data_noise_data", "noise_data_noise", "block_error"))
        steep = f"{r['steepest']:.3f} ({r['lipschitz']:g})"
        rest = (steep, r["most_iterations"], f"{r['iterations_over_bound']:.2f}")
        lines.append(row(f"`{r['run']}`", f"{r['steps']:,}", r["dims"], f"{r['n']:,}", *errors, *rest))
    return [*lines, ""]


def speeds() -> list[str]:
    """Diffusion against diffusers and denoising-diffusion-pytorch, flows against normflows and nflows."""
    lines = []
    if (DOCS / "results" / "diffusion-speed.json").exists():
        found = read("diffusion-speed")
        lines += [
            "## Speed of diffusion",
            "",
            f"U-Nets of equal FLOPs on 32 x 32 images, {found['threads']} thread{'s' if found['threads'] > 1 else ''}; the limit is the step's multiplications over the machine's float32 GEMM rate. Made by `python {found['command']}`.",
            "",
            row(
                "images a second (sampling: image evaluations)",
                "library",
                "theirs",
                "pushforward",
                "ratio",
                "goal",
                "share of the limit",
            ),
            row(*["---"] * 7),
            *(
                row(
                    r["kind"],
                    r["peer"],
                    f"{r['theirs']:.0f}",
                    f"{r['ours']:.0f}",
                    f"{r['ratio']:.2f}",
                    r["goal"],
                    "-" if r["share"] is None else f"{r['share']:.0%}",
                )
                for r in found["rows"]
            ),
            "",
        ]
    if (DOCS / "results" / "energy-speed.json").exists():
        found = read("energy-speed")
        minutes = {k: v / 60 for k, v in found["cpu_seconds"].items()}
        parameters = json.loads((DOCS / "results" / "energy.jsonl").read_text().splitlines()[0])["parameters"]
        lines += [
            "## Cost of energy models",
            "",
            f"The public tutorial's recipe against `energy/pcd`, CPU minutes of one thread: training {minutes['tutorial training']:.0f} ({found['steps'][0]:,} steps of 60 moves of 128 chains in float32, from the time of some) against "
            f"{minutes['our training']:.0f} ({found['steps'][1]:,.0f} steps, the mean of the seeds above, of 10 moves of 64 chains, {'bfloat16' if found['precision'] == 'bf16' else 'float32'}), 10,000 samples of 256 moves {minutes['tutorial sampling']:.1f} against {minutes['our sampling']:.1f}: training {found['ratios']['training']:.0f} times, sampling {found['ratios']['sampling']:.2f} times (our network has {parameters:,} parameters, theirs 77,000), both together {found['ratio']:.0f} times cheaper (goal 5). "
            f"Chain moves a second on the tutorial's network in float32: {found['moves_a_second']['ours on its network']:,.0f}, torchebm {found['moves_a_second']['torchebm']:,.0f}, ratio {found['moves_ratio']:.2f} (goal 1.5: {'met' if found['moves_ratio'] >= 1.5 else '**missed**'}). "
            "Made by `python benchmarks/energy_speed.py`.",
            "",
        ]
    if (DOCS / "results" / "flow-speed.json").exists():
        found = read("flow-speed")
        kinds = ("log_prob", "training pass", "sample")
        lines += [
            "## Speed of flows",
            "",
            f"The peers' widths are those whose FLOPs are nearest to ours; {found['threads']} threads, medians of {found['rounds']} rounds in turn; {', '.join(f'{k} {v}' for k, v in found['versions'].items())}; ratios are a peer's time over ours. Made by `python benchmarks/flow_speed.py`.",
            "",
            row(
                "case",
                "library",
                "FLOPs over ours",
                "parameters",
                *(f"{k}, ms" for k in kinds),
                *(f"{k}, ratio" for k in kinds),
            ),
            row(*["---"] * 10),
        ]
        for case, libraries in found["cases"].items():
            for name, r in libraries.items():
                lines.append(
                    row(
                        case,
                        name,
                        f"{r['flops'] / libraries['pushforward']['flops']:.3f}",
                        f"{r['parameters']:,}",
                        *(f"{r[k]['ms']:.1f}" for k in kinds),
                        *(f"{r[k]['ratio']:.2f}" for k in kinds),
                    )
                )
        lines.append("")
    return lines


def cells_seconds(lab: dict[str, Any]) -> float:
    """CPU seconds of all runs of a collapse lab, whose cells are kept: it is called again when a recipe joins."""
    if lab["lab"] != "mode-collapse":
        return 0.0
    asked = lab["settings"]
    tables = [found for name in COLLAPSES if (found := read(f"collapse-{name}")) is not None]
    told = (asked["data"], asked["recipes"])
    (mine,) = (t for t in tables if (t["data"], ",".join(r["recipe"] for r in t["rows"])) == told)
    return float(sum(r["cpu_seconds"] for r in mine["rows"]) * mine["seeds"])


TEN = (
    ("optimal-discriminator", "what a GAN's discriminator knows", "families/gan/losses.py"),
    ("vanishing-gradients", "why the generator's loss is not the textbook's", "families/gan/model.py"),
    ("divergences-of-parallel-lines", "why divergences can be silent", "theory/divergences.py"),
    ("kantorovich", "what a critic measures", "penalties.py"),
    ("dirac-gan", "why training circles, and what damps it", "families/gan/terms.py"),
    ("mode-collapse", "what it looks like when modes are lost", "monitors.py"),
    ("diffusion-kernel", "what noise does to data", "families/diffusion/schedules.py"),
    ("closest-point", "what diffusion's loss would do if it were minimised", "families/diffusion/denoisers.py"),
    ("fixed-point-inverse", "how a flow of residual blocks is undone", "families/flow/residual.py"),
    ("fid-under-corruption", "what the metrics see", "metrics/frechet.py"),
)


def laboratory() -> str:
    """docs/labs.md: an index by theme, the claims with their verdicts, and a path for newcomers."""
    kept = {}
    for file in sorted((DOCS / "results").glob("lab-*.json")):
        found = json.loads(file.read_text())
        if "findings" in found:
            kept.setdefault(found["lab"], []).append(found)
    lines = [
        "# Labs",
        "",
        "The field is taught through claims. Each lab states some, measures them on the public API, and says whether the evidence supports them: `pushforward lab run NAME`, `pushforward lab run --all --quick`, `pushforward lab open`.",
        "The verdicts here are of the full runs that are kept in `docs/results/lab-*.json`; `make docs` writes this page. A run that a lab's command names (`runs/diffusion-edm-conditional-0`) is one that `python benchmarks/quality.py diffusion/edm-conditional --seeds 0 --keep runs` leaves, `runs/energy-pcd-2` one that `python benchmarks/energy.py energy/pcd --seeds 2 --keep runs` does.",
        "",
        "## Learn the field in ten labs",
        "",
        "Each takes a minute or less, but for `mode-collapse` and `fid-under-corruption`; open the code beside it.",
        "",
        *(
            f"{k}. `pushforward lab run {name}`: {what}; read [{code}](../src/pushforward/{code}) and [the lab](../src/pushforward/labs/{name.replace('-', '_')}.py)."
            for k, (name, what, code) in enumerate(TEN, 1)
        ),
        "",
        "## By theme",
        "",
        row("lab", "question", "full run"),
        row("---", "---", "---"),
    ]
    theme = ""
    for name, entry in LABS.items():
        if entry.theme != theme:
            theme = entry.theme
            lines.append(row(f"**{theme}**", "", ""))
        seconds = [cells_seconds(f) or f["seconds"] for f in kept.get(name, []) if f.get("seconds") is not None]
        took = duration(max(seconds)) if seconds else "see results.md" if name in kept else "not run yet"
        lines.append(row(f"`{name}`", entry.question, took))
    lines += [
        "",
        "## By claim",
        "",
        "Where competing recipes were trained over seeds, tests are one-sided, at 5 % each way, corrected for the number of a lab's claims; elsewhere a verdict is a bound or two standard errors, as the evidence says, without correction. [The table of recipes](results.md) is two-sided, on full MNIST and 10,000 samples, and may leave open what a lab calls supported on its own data (in the last column).",
        "",
    ]
    lines += [row("claim", "source", "evidence", "verdict", "lab"), row(*["---"] * 5)]
    for name in LABS:
        for found in kept.get(name, []):
            apart = [k for k, v in found["settings"].items() if any(f["settings"].get(k) != v for f in kept[name])]
            told = [
                f"{k}={found['settings'][k]}"
                for k in dict.fromkeys(("data", "cpu_seconds", "steps", "seeds", "n", *apart))
                if k in found["settings"] and k not in ("recipes", "jobs")
            ]
            where = ", ".join([f"`{name}`", *told])
            lines += [
                row(f["claim"], source_of(name), f["evidence"], f"**{f['verdict']}**", where) for f in found["findings"]
            ]
    lines += ["", "## Figures", ""]
    for name in LABS:
        for picture in sorted((DOCS / "images").glob(f"lab-{name}*.png")):
            lines += [f"![{name}](images/{picture.name})", f"*{LABS[name].question}*", ""]
    return "\n".join(lines) + "\n"


def recipes() -> str:
    lines = [
        "# Recipes",
        "",
        "Made by `make docs` from the recipes themselves.",
        "",
        row("recipe", "what it is", "quality", "cost"),
        row(*["---"] * 4),
    ]
    for name in recipe_names():
        table = tomllib.loads(recipe_text(name))
        lines.append(row(f"`{name}`", table["about"], table["expect"]["quality"], table["expect"]["cost"]))
    return "\n".join(lines) + "\n"


def main() -> None:
    head = [
        "# Results",
        "",
        "Every figure here was made by the command beside it; `make docs` writes this page from `docs/results/*.json`.",
        "",
    ]
    (DOCS / "results.md").write_text(
        "\n".join(
            [
                *head,
                *quality(),
                *throughput(),
                *floor(),
                *corruption(),
                *family(),
                *resampling(),
                *temperature(),
                *collapse(),
                *stacked(),
                *labs(),
                *energy(),
                *activations(),
                *flow(),
                *likelihoods(),
                *toys(),
                *inverses(),
                *speeds(),
                *metrics(),
                *large(),
                *startup(),
            ]
        )
    )
    (DOCS / "recipes.md").write_text(recipes())
    (DOCS / "labs.md").write_text(laboratory())
    print("docs/results.md, docs/recipes.md, docs/labs.md")


if __name__ == "__main__":
    main()
