"""Regenerate docs/results.md from the JSON files in docs/results/, and docs/recipes.md from the recipes.

python tools/make_docs.py
"""

from __future__ import annotations

import json
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

from pushforward.config import recipe_names, recipe_text
from pushforward.report.tables import SHOWN, cell

DOCS = Path(__file__).parent.parent / "docs"


def read(name: str) -> Any | None:
    file = DOCS / "results" / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else None


def row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def quality() -> list[str]:
    lines = ["## Quality against training time, full MNIST", ""]
    for file in sorted((DOCS / "results").glob("quality-*.json")):
        found = json.loads(file.read_text())
        lines += [
            f"`{found['recipe']}`, seed {found['seed']}, {found['threads']} threads, {found['n']:,} samples against the {found['n']:,} test images, digit encoder",
            f"`{found['extractor_sha256'][:12]}`. Made by `python {found['command']}`.",
            "",
            row("", "step", "Frechet distance", "precision", "recall", "rarest and commonest class"),
            row(*["---"] * 6),
        ]
        for at in found["at"]:
            v = at["values"]
            shares = [m["value"] for k, m in v.items() if k.startswith("class ") and k[6:].isdigit()]
            lines.append(
                row(
                    f"{at['minutes']:g} min",
                    f"{at['step']:,}",
                    *(cell(v, k) for k in ("frechet", "precision", "recall")),
                    f"{min(shares):.1%}, {max(shares):.1%}",
                )
            )
        for rung, v in found["floor"].items():
            lines.append(row(f"*{rung}*", "", *(cell(v, k) for k in ("frechet", "precision", "recall")), ""))
        last = found["at"][-1]["minutes"]
        lines += ["", f"![after {last:g} minutes](results/{file.stem}-{last:g}min.png)", ""]
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
    found = read("lab-corruption")
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
        "Made by `pushforward lab corruption --set data=mnist --set n=10000`. Steps at which a metric grows worse with the damage: "
        + ", ".join(f"{metric} {count} of {total}" for metric, (count, total) in worse.items())
        + ".",
        "Blurred and noisy digits lie well within the data's balls, so k-NN precision alone must never be read.",
        "",
        "![metrics against damage](images/lab-corruption.png)",
        "",
    ]


def labs() -> list[str]:
    lines = []
    for name in ("gaussian", "collapse"):
        found = read(f"lab-{name}")
        if found is None:
            continue
        settings = " ".join(f"--set {k}={v}" for k, v in found["settings"].items())
        lines += [f"## {found['question']}", "", f"Made by `pushforward lab {name} {settings}`.", ""]
        lines += [f"- **{f['verdict']}**: {f['claim']} {f['evidence']}" for f in found["findings"]]
        if name == "collapse":
            lines.append(
                "- Samples come from averaged weights, which for a generator that hops from mode to mode lie between them. The protocol asks for ten seeds."
            )
        pictures = sorted((DOCS / "images").glob(f"lab-{name}*.png"))
        lines += ["", *(f"![{p.stem}](images/{p.name})" for p in pictures), ""]
    return lines


def family() -> list[str]:
    file = DOCS / "results" / "family.jsonl"
    if not file.exists():
        return []
    found = sorted(
        (json.loads(line) for line in file.read_text().splitlines()), key=lambda r: r["values"]["frechet"][0]
    )
    lines = [
        "## GAN recipes under one budget (under way: one seed, some recipes)",
        "",
        f"Full MNIST, {found[0]['budget']:.0f} seconds of one CPU thread each, float32, 10,000 samples of averaged weights against the 10,000 test images, digit encoder",
        f"`{found[0]['extractor_sha256'][:12]}`. Floor 3.3, noise-10 39. One seed says nothing of differences between neighbours. Made by `python benchmarks/family.py`.",
        "",
        row(
            "recipe",
            "seed",
            "steps",
            "Frechet",
            "KID",
            "precision",
            "recall",
            "density",
            "coverage",
            "class entropy",
            "rarest, commonest class",
        ),
        row(*["---"] * 11),
    ]
    for r in found:
        v = {k: f"{a:.4g} ± {b:.2g}" for k, (a, b) in r["values"].items()}
        shares = f"{r['rarest']:.1%}, {r['commonest']:.1%}"
        lines.append(row(f"`{r['recipe']}`", r["seed"], f"{r['steps']:,}", *v.values(), shares))
    return [*lines, ""]


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
                *labs(),
                *metrics(),
                *large(),
                *startup(),
            ]
        )
    )
    (DOCS / "recipes.md").write_text(recipes())
    print("docs/results.md, docs/recipes.md")


if __name__ == "__main__":
    main()
