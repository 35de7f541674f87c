"""Cells to a table: means over seeds with their standard errors, costs, capabilities, and which differences are real."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pushforward.compare.plan import Entry, Plan, cell_file
from pushforward.compare.statistics import Difference, holm, mean_and_error, paired_difference
from pushforward.errors import CheckpointError
from pushforward.report.comparison import amount, show
from pushforward.report.tables import SHOWN

COSTS = {
    "training seconds": "training (s)",
    "training images/s": "training images/s",
    "parameters": "parameters",
    "training FLOPs": "training FLOPs",
    "peak memory MB": "peak memory (MB)",
    "sampling ms": "sampling (ms/image)",
    "sampling FLOPs": "sampling FLOPs/image",
    "network evaluations": "network evaluations/sample",
}
"""Columns of cost, key -> heading."""
CAPABILITIES = {"log_prob": "likelihood", "energy": "energy", "score": "score", "encode": "encoder"}
LARGER_IS_BETTER = {"precision", "recall", "density", "coverage", "inception score", "class entropy"}


@dataclass(frozen=True)
class Row:
    """One model of the table.

    Args:
        name: Of the entry.
        seeds: That ended well.
        quality: Metric -> score of each seed, in the order of `seeds`.
        errors: Metric -> standard error of each seed's own measurement.
        costs: Cost -> mean over seeds.
        capabilities: What the model can do beside sampling.
        failed: Seed -> why it has no scores.
        warnings: What the judge said, once each.
    """

    name: str
    seeds: list[int]
    quality: dict[str, list[float]]
    errors: dict[str, list[float | None]]
    costs: dict[str, float | None]
    capabilities: dict[str, bool]
    failed: dict[int, str]
    warnings: list[str]

    def mean(self, metric: str) -> tuple[float, float | None]:
        """Over seeds, with its standard error: between seeds, or of the measurement where there is one seed."""
        mean, error = mean_and_error(self.quality[metric])
        return mean, self.errors[metric][0] if error is None else error


@dataclass(frozen=True)
class Table:
    """All rows, the protocol they share, and the floor."""

    rows: list[Row]
    protocol: dict[str, Any]
    floor: dict[str, Any]
    metrics: list[str]

    def ranking(self, metric: str) -> list[tuple[Row, Difference | None]]:
        """Best first, each with its difference from the best; None for the best itself and where no seed is common to both.

        The order is that of the means over the seeds that all rows of more than one seed share. Who is best is itself a choice among all pairs, so p is
        corrected (Holm) for the number of pairs, not only for those with the best.
        """
        scored = [r for r in self.rows if metric in r.quality]
        sign = -1 if metric in LARGER_IS_BETTER else 1
        several = [set(r.seeds) for r in scored if len(r.seeds) > 1]
        shared = set.intersection(*several) if several else set()

        def mean(row: Row) -> float:
            known = [v for s, v in zip(row.seeds, row.quality[metric], strict=True) if s in shared]
            return math.fsum(known) / len(known) if known else row.mean(metric)[0]

        scored.sort(key=lambda r: sign * mean(r))
        pairs = {
            (i, j): _difference(scored[i], scored[j], metric)
            for j in range(len(scored))
            for i in range(j + 1, len(scored))
        }
        tested = [k for k, d in pairs.items() if d is not None and not math.isnan(d.p)]
        for key, p in zip(tested, holm([pairs[k].p for k in tested]), strict=True):  # type: ignore[union-attr]
            found = pairs[key]
            assert found is not None
            pairs[key] = replace(found, p=p, real=found.real and p < 0.05)
        return [(row, pairs[i, 0] if i else None) for i, row in enumerate(scored)]


def _difference(row: Row, other: Row, metric: str) -> Difference | None:
    """Of the seeds that both have; None without any."""
    both = [s for s in row.seeds if s in other.seeds]
    mine, theirs = ([r.quality[metric][r.seeds.index(s)] for s in both] for r in (row, other))
    return paired_difference(mine, theirs) if both else None


def read_cell(out: Path, plan: Plan, entry: Entry, seed: int) -> dict[str, Any] | None:
    """A cell's outcome; None where there is none yet, or none of this plan."""
    try:
        found: dict[str, Any] = json.loads(cell_file(out, entry, seed).read_text(encoding="utf8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(found, dict) and ("failed" in found or {"protocol", "values", "costs"} <= found.keys())
    return found if whole and found.get("stamp") == plan.stamp(entry, seed) else None


def gather(out: Path, plan: Plan, floor: dict[str, Any]) -> Table:
    """The table of all cells that are over."""
    rows = []
    protocol: dict[str, Any] = {}
    for entry in plan.entries:
        cells = {s: c for e, s in plan.cells() if e is entry and (c := read_cell(out, plan, entry, s)) is not None}
        good = {s: c for s, c in cells.items() if "failed" not in c}
        for seed, cell in good.items():
            protocol = protocol or cell["protocol"]
            differ = [k for k in ("n", "data_sha256", "extractor_sha256") if cell["protocol"].get(k) != protocol.get(k)]
            if differ:
                raise CheckpointError(
                    f"{entry.name}, seed {seed}, was judged with another {differ[0]} than the cells before it: the data or the extractor changed. "
                    f"Remove {cell_file(out, entry, seed)} and go on by --resume."
                )
        metrics = list(next(iter(good.values()))["values"]) if good else []
        costs: dict[str, float | None] = {}
        for key in COSTS:
            known = [c["costs"][key] for c in good.values() if c["costs"][key] is not None]
            costs[key] = math.fsum(known) / len(known) if known else None
        rows.append(
            Row(
                entry.name,
                list(good),
                {m: [c["values"][m]["value"] for c in good.values()] for m in metrics},
                {m: [c["values"][m]["stderr"] for c in good.values()] for m in metrics},
                costs if good else {},
                next(iter(good.values()))["capabilities"] if good else {},
                {s: c["failed"] for s, c in cells.items() if "failed" in c},
                sorted({w for c in good.values() for w in c["warnings"]}),
            )
        )
    metrics = [m for m in SHOWN if any(m in r.quality for r in rows)]
    return Table(rows, protocol, floor, metrics)


def quality_cell(row: Row, metric: str) -> str:
    """A mean with its standard error, "-" where there is none."""
    if metric not in row.quality:
        return "-"
    return show(row.mean(metric))


def _cells(table: Table) -> tuple[list[str], list[list[str]]]:
    heads = ["model", "seeds", *(SHOWN[m] for m in table.metrics), *COSTS.values(), *CAPABILITIES.values()]
    body = []
    for row in table.rows:
        able = ["yes" if row.capabilities.get(c) else "-" for c in CAPABILITIES]
        seeds = f"{len(row.seeds)}" + (f" ({len(row.failed)} failed)" if row.failed else "")
        body.append(
            [
                row.name,
                seeds,
                *(quality_cell(row, m) for m in table.metrics),
                *(amount(c, row.costs.get(c)) for c in COSTS),
                *able,
            ]
        )
    return heads, body


def markdown(table: Table) -> str:
    """The table, its floor, its ranking and what failed, in Markdown."""
    heads, body = _cells(table)
    p = table.protocol
    lines = []
    if p:
        lines += [
            f"{p['n']} samples of each cell against {p['n']} {p['against']} images of {p['data']}; extractor {p['extractor']} ({p['extractor_sha256'][:12]}). "
            "Means over seeds ± standard error between seeds (of the measurement, where there is one seed).",
            "",
        ]
    for rung, values in table.floor.items():
        body.append([f"*{rung}*", "", *(_floor_cell(values, m) for m in table.metrics)])
        body[-1] += [""] * (len(heads) - len(body[-1]))
    lines += ["| " + " | ".join(heads) + " |", "| " + " | ".join(["---"] * len(heads)) + " |"]
    lines += ["| " + " | ".join(cells) + " |" for cells in body]
    if table.metrics:
        lines += ["", f"By {SHOWN[table.metrics[0]]}:", ""]
        ranked = table.ranking(table.metrics[0])
        lines += [
            f"{i + 1}. {row.name}{said(found) if found or not i else NO_SEED}" for i, (row, found) in enumerate(ranked)
        ]
    failed = [f"- {r.name}, seed {s}: {' '.join(why.split())}" for r in table.rows for s, why in r.failed.items()]
    if failed:
        lines += ["", "Failed:", "", *failed]
    return "\n".join([*lines, ""])


NO_SEED = ": no seed in common with the first"


def said(found: Difference | None) -> str:
    """A difference from the best in words.

    Example:
        >>> said(None), said(Difference(3.0, 1.0, 5.0, 0.01, True, 4))
        ('', ': 3 from the first (95 % interval 1 to 5, p = 0.01, 4 seeds): real')
    """
    if found is None:
        return ""
    if found.seeds == 1:
        return f": {found.mean:.4g} from the first, one seed: unclear"
    verdict = "real" if found.real else "unclear"
    return f": {found.mean:.4g} from the first (95 % interval {found.low:.4g} to {found.high:.4g}, p = {found.p:.2g}, {found.seeds} seeds): {verdict}"


def _floor_cell(values: dict[str, Any], metric: str) -> str:
    return show((values[metric]["value"], values[metric]["stderr"])) if metric in values else "-"


def latex(table: Table) -> str:
    """The table as a LaTeX tabular."""
    heads, body = _cells(table)

    def clean(text: str) -> str:
        for a, b in (
            ("\\", r"\textbackslash{}"),
            *((c, "\\" + c) for c in "&%#_$"),
            ("±", r"$\pm$"),
            ("→ ∞", r"$\to\infty$"),
        ):
            text = text.replace(a, b)
        return text

    lines = [r"\begin{tabular}{l" + "r" * (len(heads) - 1) + "}", r"\hline"]
    lines += [" & ".join(map(clean, heads)) + r" \\", r"\hline"]
    lines += [" & ".join(map(clean, cells)) + r" \\" for cells in body]
    return "\n".join([*lines, r"\hline", r"\end{tabular}", ""])


def to_csv(table: Table) -> str:
    """One line a model: each metric's mean and standard error as numbers, then the costs."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(
        ["model", "seeds", *(f"{m}{e}" for m in table.metrics for e in ("", " stderr")), *COSTS, *CAPABILITIES]
    )
    for row in table.rows:
        pairs = [row.mean(m) if m in row.quality else (None, None) for m in table.metrics]
        writer.writerow(
            [row.name, len(row.seeds), *(v for pair in pairs for v in pair), *(row.costs.get(c) for c in COSTS)]
            + [row.capabilities.get(c, False) for c in CAPABILITIES]
        )
    return stream.getvalue()


def as_json(table: Table, plan: Plan) -> str:
    """Everything, for other programs."""
    ranks = {
        m: [{"name": r.name, "difference": None if d is None else asdict(d)} for r, d in table.ranking(m)]
        for m in table.metrics
    }
    return json.dumps(_finite({"plan": asdict(plan), **asdict(table), "ranking": ranks}), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    """None for what JSON has no number for."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
