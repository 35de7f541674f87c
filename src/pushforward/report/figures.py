"""Figures of runs, drawn from files alone. Colours are Okabe and Ito's, which colour-blind readers tell apart."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from pushforward.report.tables import SHOWN

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#666666")
_INK = "#123457"  # stands for "the page's text colour"; replaced in the SVG, so that figures follow light and dark

STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "pushforward",
}


def to_svg(figure: Figure) -> str:
    """A figure as an inline SVG in the page's colours."""
    out = io.StringIO()
    figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    text = out.getvalue()
    return text[text.index("<svg") :].replace(_INK, "currentColor")


PANELS: tuple[tuple[str, dict[str, str]], ...] = (
    (
        "loss",
        {
            "discriminator/adversarial": "discriminator",
            "generator/adversarial": "generator",
            "denoiser/denoising": "denoising",
            "energy/contrastive": "contrastive",
            "energy/denoising": "denoising",
            "energy/sliced": "sliced score",
            "flow/bits_per_dim": "bits a dimension",
        },
    ),
    ("mean logit", {"discriminator/real_logit": "D(x)", "discriminator/fake_logit": "D(G(z))"}),
    ("mean energy", {"energy/data_energy": "data", "energy/chain_energy": "chains"}),
    (
        "gradient norm",
        {f"{p}/gradient_norm": p for p in ("discriminator", "generator", "denoiser", "energy", "flow")},
    ),
    (
        "share",
        {
            "monitor/modes": "modes that are there",
            "monitor/high_quality": "samples on modes",
            "monitor/spread": "spread (data: 1)",
            "discriminator/overlap": "fakes that beat data",
        },
    ),
)
"""What `curves` draws of a log: a row's axis, and of its lines the key and the label."""


def curves(logs: Mapping[str, Sequence[Mapping[str, Any]]], alarms: Mapping[str, Sequence[int]] | None = None) -> str:
    """What the log says of each run against the step: one column a run, one row for each panel that any has.

    Args:
        logs: Lines of log.jsonl by run.
        alarms: Steps to mark, by run.
    """
    there = {key for rows in logs.values() for r in rows for key in r}
    panels = [(axis, lines) for axis, lines in PANELS if there & lines.keys()]
    with mpl.rc_context(STYLE):
        size = (3.6 * max(len(logs), 2), 0.6 + 2 * len(panels))
        figure, axes = plt.subplots(len(panels), len(logs), figsize=size, sharex="col", squeeze=False)
        for column, (name, rows) in enumerate(logs.items()):
            for ax, (axis, lines) in zip(axes[:, column], panels, strict=True):
                for colour, (key, label) in zip(
                    COLOURS, ((k, v) for k, v in lines.items() if k in there), strict=False
                ):
                    _line(ax, [r["step"] for r in rows], [_value(r, key) for r in rows], colour, label)
                for step in (alarms or {}).get(name, ()):
                    ax.axvline(step, color=COLOURS[1], ls=":", lw=1)
                if axis == "gradient norm" and ax.lines:
                    ax.set_yscale("log")
                if axis == "share":
                    ax.set_ylim(-0.03, 1.6)
                if ax.get_legend_handles_labels()[0]:
                    ax.legend(fontsize=8)
            axes[0, column].set_title(name)
            axes[-1, column].set_xlabel("training step")
        for row, (axis, _) in zip(axes, panels, strict=True):
            drawn = [ax for ax in row if ax.get_legend() is not None]
            drawn[0].set_ylabel(axis)
            for ax in set(row) - set(drawn):
                ax.set_visible(False)
        figure.tight_layout()
        return to_svg(figure)


def _value(row: Mapping[str, Any], key: str) -> float | None:
    if key == "monitor/modes" and key in row:
        return float(row[key] / row["monitor/all_modes"])
    value = row.get(key)
    return None if value is None else float(value)


def _line(ax: Any, x: Sequence[float], y: Sequence[float | None], colour: str, label: str) -> None:
    points = [(a, b) for a, b in zip(x, y, strict=True) if b is not None]
    if points:
        alone = "." if len(points) == 1 else None
        ax.plot(*zip(*points, strict=True), color=colour, lw=1.2, marker=alone, label=label)


def quality(results: list[dict[str, Any]], floor: dict[str, Any]) -> str:
    """Frechet distance against training time, and recall against precision; the floor and the ladder beside them."""
    with mpl.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
        for colour, r in zip(COLOURS * 9, results, strict=False):
            v = r["values"]
            left.errorbar(
                r["training_seconds"],
                v["frechet"]["value"],
                yerr=v["frechet"]["stderr"],
                fmt="o",
                ms=8,
                capsize=4,
                color=colour,
                label=r["name"],
            )
            if "precision" in v:
                right.errorbar(
                    v["precision"]["value"], v["recall"]["value"], xerr=v["precision"]["stderr"], yerr=v["recall"]["stderr"],
                    fmt="o", ms=8, capsize=3, color=colour, label=r["name"],
                )  # fmt: skip
        for rung, dashes in (("floor", ":"), ("noise-10", "--")):
            if rung in floor:
                left.axhline(floor[rung]["frechet"]["value"], ls=dashes, color=_INK, lw=1)
                left.annotate(
                    rung,
                    (0.99, floor[rung]["frechet"]["value"]),
                    xycoords=("axes fraction", "data"),
                    ha="right",
                    va="bottom",
                    fontsize=8,
                )
        left.set(yscale="log", xlabel="training time (s)", ylabel="Frechet distance (lower is better)")
        left.set_xlim(left=0)
        if "floor" in floor and "precision" in floor["floor"]:
            right.plot(
                floor["floor"]["precision"]["value"],
                floor["floor"]["recall"]["value"],
                "*",
                ms=13,
                color=_INK,
                label="training images",
            )
        right.set(xlabel="precision", ylabel="recall", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        right.legend(fontsize=8)
        figure.tight_layout()
        return to_svg(figure)


def classes(results: list[dict[str, Any]]) -> str:
    """Share of each class among the samples, with standard errors; the dashed line is an even share."""
    with mpl.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(9, 2.8))
        width = 0.8 / len(results)
        count = 1
        for k, (colour, r) in enumerate(zip(COLOURS * 9, results, strict=False)):
            shares = [
                (v["value"], v["stderr"])
                for name, v in r["values"].items()
                if name.startswith("class ") and name[6:].isdigit()
            ]
            count = len(shares)
            x = np.arange(count) + (k - (len(results) - 1) / 2) * width
            ax.bar(
                x,
                [100 * s for s, _ in shares],
                width,
                yerr=[100 * e for _, e in shares],
                color=colour,
                label=r["name"],
                error_kw={"ecolor": _INK, "lw": 0.8},
            )
        ax.axhline(100 / count, ls="--", lw=1, color=_INK)
        ax.set(xticks=range(count), xlabel="class, as the digit encoder sees it", ylabel="share of samples (%)")
        ax.grid(axis="x", visible=False)
        ax.legend(fontsize=8, ncols=min(4, len(results)), loc="lower center", bbox_to_anchor=(0.5, 1.0))
        return to_svg(figure)


def measurements(found: dict[str, Any]) -> str:
    """Each measured figure of each candidate with its standard error, beside the floor (dotted) and noise-10 (dashed)."""
    keys = [k for k in SHOWN if any(k in r["values"] for r in found["results"])]
    with mpl.rc_context({**STYLE, "figure.facecolor": "white"}):
        columns = min(4, len(keys))
        rows = -(-len(keys) // columns)
        figure, axes = plt.subplots(rows, columns, figsize=(3.2 * columns, 2.6 * rows), squeeze=False)
        for ax, key in zip(axes.flat, keys, strict=False):
            for i, (colour, r) in enumerate(zip(COLOURS * 9, found["results"], strict=False)):
                if key in r["values"]:
                    v = r["values"][key]
                    ax.errorbar(i, v["value"], yerr=v["stderr"] or 0, fmt="o", capsize=4, color=colour)
            for rung, dashes in (("floor", ":"), ("noise-10", "--")):
                if key in found["floor"].get(rung, {}):
                    ax.axhline(found["floor"][rung][key]["value"], ls=dashes, lw=1, color=_INK)
            ax.set(title=SHOWN[key], xticks=range(len(found["results"])), xlim=(-0.5, len(found["results"]) - 0.5))
            ax.set_xticklabels([r["name"] for r in found["results"]], rotation=20, ha="right", fontsize=8)
        for ax in list(axes.flat)[len(keys) :]:
            ax.remove()
        figure.tight_layout()
        return to_svg(figure).replace("currentColor", "#222222")


def points_figure(x: np.ndarray, path: Path, *, field: tuple[np.ndarray, float] | None = None) -> None:
    """Points of a toy model: a scatter plot in two dimensions, a histogram in one.

    Args:
        x: (n, 1) or (n, 2).
        path: The picture.
        field: An unnormalised density on an even grid over [-reach, reach]^2, rows upwards, and reach; drawn behind the points.
    """
    with mpl.rc_context(
        {**STYLE, "figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white"}
    ):
        figure, ax = plt.subplots(figsize=(4.5, 4.5))
        if x.shape[1] == 1:
            ax.hist(x[:, 0], bins=80, density=True, color=COLOURS[0])
            ax.set(xlabel="x", ylabel="density")
        else:
            if field is not None:
                values, reach = field
                ax.imshow(
                    values,
                    origin="lower",
                    extent=(-reach, reach, -reach, reach),
                    cmap="Oranges",
                    interpolation="bilinear",
                )
                ax.set(xlim=(-reach, reach), ylim=(-reach, reach))
            ax.scatter(x[:, 0], x[:, 1], s=3, alpha=0.4, color=COLOURS[0], linewidths=0)
            ax.set_aspect("equal")
        temporary = path.with_name(path.name + ".tmp")
        figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight")
        plt.close(figure)
        temporary.replace(path)


def bands(logs: dict[str, list[list[dict[str, Any]]]]) -> str:
    """Both players' losses against the step: the mean over seeds in a band from the lowest to the highest, one panel a model."""
    with mpl.rc_context(STYLE):
        columns = min(3, len(logs))
        rows = -(-len(logs) // columns)
        figure, axes = plt.subplots(rows, columns, figsize=(3.4 * columns, 2.5 * rows), squeeze=False)
        for ax, (name, seeds) in zip(axes.flat, logs.items(), strict=False):
            terms = [k for k in seeds[0][-1] if k.endswith("/adversarial")] or [k for k in seeds[0][-1] if "/" in k][:1]
            for colour, term in zip(COLOURS, terms, strict=False):
                series = [{r["step"]: r[term] for r in rows if term in r} for rows in seeds]
                steps = sorted(set.intersection(*(set(s) for s in series)))
                if not steps:
                    continue
                values = np.array([[s[k] for k in steps] for s in series])
                ax.plot(steps, values.mean(axis=0), color=colour, lw=1.2, label=term.split("/")[0])
                if len(values) > 1:
                    ax.fill_between(steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.22, lw=0)
            ax.set_title(name, fontsize=10)
            ax.legend(fontsize=8)
        for ax in list(axes.flat)[len(logs) :]:
            ax.remove()
        for ax in axes.flat[max(0, len(logs) - columns) : len(logs)]:  # the lowest of each column
            ax.set_xlabel("training step")
        for ax in axes[:, 0]:
            ax.set_ylabel("loss")
        figure.tight_layout()
        return to_svg(figure)


def _look(k: int) -> tuple[str, str]:
    """Colour and marker of the k-th model: no two alike among the first 72."""
    return COLOURS[k % len(COLOURS)], "os^DvP*X<"[k // len(COLOURS) % 9]


def fronts(models: list[dict[str, Any]], floor: dict[str, Any]) -> str:
    """Frechet distance against training time and against sampling time, with the models that no other beats in both."""
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(9.4, 3.7), sharey=True)
        for ax, cost, label in zip(
            axes, ("training seconds", "sampling ms"), ("training time (s)", "sampling time (ms/image)"), strict=True
        ):
            points = []
            for k, m in enumerate(models):
                colour, marker = _look(k)
                x, (y, error) = m["row"]["costs"][cost], m["quality"]["frechet"]
                ax.errorbar(x, y, yerr=error, fmt=marker, ms=8, capsize=4, color=colour, label=m["name"])
                points.append((x, y))
            best = front(points)
            ax.plot(*zip(*best, strict=True), ls="-", lw=1, color=_INK, alpha=0.6, drawstyle="steps-post", zorder=0)
            for rung, dashes in (("floor", ":"), ("noise-10", "--")):
                if "frechet" in floor.get(rung, {}):
                    y = floor[rung]["frechet"]["value"]
                    ax.axhline(y, ls=dashes, color=_INK, lw=1)
                    ax.annotate(
                        rung, (0.99, y), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8
                    )
            ax.set(xlabel=label, yscale="log", xlim=(0, 1.15 * max(x for x, _ in points)))
        axes[0].set_ylabel("Frechet distance (lower is better)")
        axes[1].legend(fontsize=8)
        figure.tight_layout()
        return to_svg(figure)


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that none other beats in both coordinates (smaller is better), by the first.

    Example:
        >>> front([(1.0, 5.0), (2.0, 3.0), (3.0, 4.0), (2.5, 1.0)])
        [(1.0, 5.0), (2.0, 3.0), (2.5, 1.0)]
    """
    out: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not out or y < out[-1][1]:
            out.append((x, y))
    return out


def plane(models: list[dict[str, Any]], floor: dict[str, Any]) -> str:
    """Recall against precision, a small dot a seed, a large one their mean; the star is the floor."""
    with mpl.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(4.8, 4.2))
        for k, m in enumerate(models):
            colour, marker = _look(k)
            ax.plot(
                m["row"]["quality"]["precision"], m["row"]["quality"]["recall"], marker, ms=4, alpha=0.5, color=colour
            )
            (p, dp), (r, dr) = m["quality"]["precision"], m["quality"]["recall"]
            ax.errorbar(p, r, xerr=dp, yerr=dr, fmt=marker, ms=9, capsize=3, color=colour, label=m["name"])
        if "precision" in floor.get("floor", {}):
            f = floor["floor"]
            ax.plot(f["precision"]["value"], f["recall"]["value"], "*", ms=13, color=_INK, label="training images")
        ax.set(xlabel="precision", ylabel="recall", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return to_svg(figure)


def score_histograms(inliers: Any, outliers: Mapping[str, Any], path: Path, label: str) -> None:
    """One small histogram an outlier set, over that of the inliers; what lies beyond the middle 98 % of both stands at the edges."""
    columns = 6
    rows = -(-len(outliers) // columns)
    with mpl.rc_context(STYLE | {"figure.facecolor": "white", "savefig.facecolor": "white", "axes.grid": False}):
        figure, axes = plt.subplots(rows, columns, figsize=(12, 1.5 * rows + 0.4), squeeze=False)
        for ax in axes.flat[len(outliers) :]:
            ax.axis("off")
        a = np.asarray(inliers)
        for ax, (name, values) in zip(axes.flat, outliers.items(), strict=False):
            b = np.asarray(values)
            ends = np.concatenate([np.quantile(s, [0.01, 0.99]) for s in (a, b)])
            low, high = ends.min(), ends.max()
            bins = np.linspace(low, high + 1e-9 + 1e-6 * abs(high), 50)
            for scores, colour in ((a, COLOURS[0]), (b, COLOURS[1])):
                ax.hist(scores.clip(low, high), bins=bins, density=True, color=colour, alpha=0.6)
            ax.set_title(name, fontsize=9)
            ax.set_yticks([])
            ax.tick_params(labelsize=7)
        figure.suptitle(f"{label}: data (blue), other images (orange)", fontsize=10)
        figure.tight_layout()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
        plt.close(figure)
