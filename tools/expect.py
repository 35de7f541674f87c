"""Write what recipes were seen to reach into their [expect], from docs/results: quality.jsonl where a recipe is in it, else family.jsonl, collapse-*.json, stacked.json."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BUDGET = 120.0  # CPU seconds, of family.jsonl
FLOOR = json.loads((ROOT / "docs/results/floor.json").read_text())["ladder"]
LADDER = f"floor {FLOOR['floor']:.1f}, noise-10 {FLOOR['noise-10']:.0f}"


def rows(name: str) -> list[dict[str, Any]]:
    file = ROOT / "docs/results" / name
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def mean(found: list[dict[str, Any]], key: str) -> float:
    return sum(r["values"][key][0] for r in found) / len(found)


def seeds(found: list[dict[str, Any]]) -> str:
    n = len({r["seed"] for r in found})
    return "one seed" if n == 1 else f"{n} seeds"


def of_time(recipe: str) -> tuple[str, str] | None:
    """After several budgets."""
    mine = [r for r in rows("quality.jsonl") if r["recipe"] == recipe and not r["settings"] and r["n"] == 10_000]
    if not mine:
        return None
    every, mine = mine, [r for r in mine if r["precision"] == mine[0]["precision"]]  # as the table keeps them apart
    each = {m: [r for r in mine if r["cpu_minutes"] == m] for m in sorted({r["cpu_minutes"] for r in mine})}
    listed = {k: " / ".join(f"{mean(v, k):{'.3g' if k == 'frechet' else '.2f'}}" for v in each.values()) for k in ("frechet", "precision", "recall")}  # fmt: skip
    after = " / ".join(f"{m:g}" for m in each)
    steps = " / ".join(f"{sum(r['steps'] for r in v) / len(v):,.0f}" for v in each.values())
    many = sorted({len({r["seed"] for r in v}) for v in each.values()})
    told = seeds(mine) if len(many) == 1 else f"{many[0]} to {many[-1]} seeds"
    kind = "bfloat16" if mine[0]["precision"] == "bf16" else "float32"
    quality = f"full MNIST, {told}, after {after} CPU minutes: Frechet {listed['frechet']} ({LADDER}), precision {listed['precision']}, recall {listed['recall']}"
    for r in every:
        if r["precision"] != mine[0]["precision"]:
            quality += f"; seed {r['seed']}, in {'bfloat16' if r['precision'] == 'bf16' else 'float32'}: {r['values']['frechet'][0]:.3g} after {r['cpu_minutes']:g}"
    return (
        quality,
        f"{steps} steps in {after} CPU minutes, {kind}; {mine[0]['evaluations']} evaluation{'s' if mine[0]['evaluations'] > 1 else ''} a sample",
    )


def of_family(recipe: str) -> tuple[str, str] | None:
    """After the one budget of all."""
    mine = [
        r
        for r in rows("family.jsonl")
        if r["recipe"] == recipe
        and not r.get("settings")
        and r.get("precision", "no") == "no"
        and r["budget"] == BUDGET
    ]
    if not mine:
        return None
    quality = f"full MNIST, {seeds(mine)}: Frechet {mean(mine, 'frechet'):.0f} ({LADDER}), precision {mean(mine, 'precision'):.2f}, recall {mean(mine, 'recall'):.2f}"
    return (
        quality,
        f"{sum(r['steps'] for r in mine) / len(mine):,.0f} steps in {mine[0]['budget']:.0f} s of one thread, float32",
    )


def of_collapse(recipe: str) -> tuple[str, str] | None:
    """On the ring and the grid, last weights."""
    said, cost = [], []
    for data, name in (("ring-8", "ring of 8"), ("grid-25", "grid of 25"), ("grid-25-maxout", "grid of 25")):
        file = ROOT / f"docs/results/collapse-{data}.json"
        found = json.loads(file.read_text()) if file.exists() else {"rows": []}
        for r in found["rows"]:
            if r["recipe"] == recipe:
                modes, quality = r["last_modes"], r["last_high_quality"]
                said.append(
                    f"{name}, {found['seeds']} seeds, {found['steps']:,} steps: {modes[0]:.1f} ± {modes[1]:.1f} modes, {quality[0]:.1%} of samples on them"
                )
                cost.append(f"{r['cpu_seconds']:.0f} CPU s ({name})")
    if not said:
        return None
    return "last weights; " + "; ".join(said), ", ".join(cost)


def of_stacked(recipe: str) -> tuple[str, str] | None:
    """Of the 1,000 modes of stacked MNIST."""
    file = ROOT / "docs/results/stacked.json"
    mine = [r for r in json.loads(file.read_text())["rows"] if r["recipe"] == recipe] if file.exists() else []
    if not mine:
        return None
    quality = f"stacked MNIST, {seeds(mine)}: {sum(r['modes'] for r in mine) / len(mine):.0f} modes of 1,000, reverse KL {sum(r['reverse_kl'] for r in mine) / len(mine):.2f}"
    return quality, f"{sum(r['steps'] for r in mine) / len(mine):,.0f} steps in {mine[0]['cpu_seconds']:.0f} CPU s"


def main() -> None:
    for file in sorted((ROOT / "src/pushforward/recipes").rglob("*.toml")):
        recipe = f"{file.parent.name}/{file.stem}"
        found = of_time(recipe) or of_family(recipe) or of_collapse(recipe) or of_stacked(recipe)
        if found is None:
            continue
        text = file.read_text()
        for key, said in zip(("quality", "cost"), found, strict=True):
            text, n = re.subn(
                rf'(?m)^{key} = ".*"$',
                lambda _, k=key, s=said: f"{k} = {json.dumps(s, ensure_ascii=False)}",
                text,
                count=1,
            )
            assert n == 1, f"{file}: no {key} in [expect]"
        file.write_text(text)


if __name__ == "__main__":
    main()
