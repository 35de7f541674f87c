"""Classifier-free guidance from 0 to 100: what it buys, what it costs, and what the repairs repair.

A larger scale makes samples more of their class; past some point they saturate and grow alike. An interval of times, rescaling, and leaving
out the part of the update that is parallel to the conditional (APG) are said to mend that: each is tried where nothing much is wrong yet, and where all is.

Reference: Ho and Salimans 2022, arXiv 2207.12598; Kynkaanniemi et al. 2024, arXiv 2404.07724; Lin et al. 2023, arXiv 2305.08891; Sadat et al. 2024, arXiv 2410.02416.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from scipy import stats
from torch import Tensor

from pushforward import runs
from pushforward.data.images import save_grid, to_bytes
from pushforward.errors import NotSupported
from pushforward.evaluation import Values, reference
from pushforward.labs import Finding, Verdict
from pushforward.labs.trained import diffusion_run, judged
from pushforward.metrics.measurement import Measurement
from pushforward.report.figures import COLOURS, STYLE, plt
from pushforward.training.checkpoint import write_atomic

SCALES = (0.0, 1.0, 3.0, 7.5, 30.0, 100.0)
REPAIRS: dict[str, dict[str, Any]] = {
    "interval": {"low": 0.3, "high": 0.7},
    "rescale": {"rescale": 0.7},
    "parallel": {"parallel": 0.0},
}
REPAIRED = (7.5, 30.0, 100.0)
BEYOND = 1.1  # a pixel is saturated; black ones lie a hair beyond -1 in any sample
SATURATION = f"share of pixels beyond ±{BEYOND}"
SAID = {"frechet": "Frechet distance", SATURATION: "share of saturated pixels"}
TESTS = 4 + len(SAID) * len(REPAIRS) * len(REPAIRED)
SURE = float(stats.norm.isf(0.025 / TESTS))  # standard errors: 5 % for all tests together (Bonferroni)


@dataclass(frozen=True)
class Outcome:
    """What one setting did: share of samples of the class asked for, and the figures, that of saturated pixels among them."""

    accuracy: float
    values: Values


def run(
    out: Path,
    *,
    run: str = "",
    data: str = "mnist-5k",
    train_steps: int = 2000,
    width: int = 64,
    n: int = 500,
    steps: int = 12,
    seed: int = 0,
    quiet: bool = False,
) -> list[Finding]:
    """Sample at every scale and with every repair, and judge.

    Args:
        out: Folder of guidance.json, guidance.png and a grid of each setting, a row a class.
        run: A conditional diffusion run's folder; `diffusion/edm-conditional` is trained when empty.
        data: What it is trained on and judged by.
        train_steps: Of its training.
        width: Of its network.
        n: Samples judged of each setting.
        steps: Of Heun's method.
        seed: Of training and samples.
        quiet: Show no progress.
    """
    model = diffusion_run(
        run, out, recipe="diffusion/edm-conditional", data=data, steps=train_steps, seed=seed, quiet=quiet, width=width
    )
    if model.classes is None:
        raise NotSupported("guidance needs a run that was trained with classes: diffusion/edm-conditional, say.")
    side, classes = reference(data, n=n), model.classes
    base = replace(model.sampler, solver="heun", steps=steps, solver_options={}, grid_options={})
    cases = {f"s = {s:g}": replace(base, guidance=s) for s in SCALES}
    cases |= {
        f"s = {s:g}, {name}": replace(base, guidance=s, guidance_options=options)
        for name, options in REPAIRS.items()
        for s in REPAIRED
    }
    found: dict[str, Outcome] = {}
    for name, sampler in cases.items():
        model.sampler = sampler
        per = -(-n // classes)
        x = torch.cat([runs.sample(model, per, seed=seed, start=k * per, label=k) for k in range(classes)])
        labels = torch.arange(classes).repeat_interleave(per)
        keep = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:n]
        found[name] = outcome(x[keep], labels[keep], side)
        save_grid(to_bytes(x.unflatten(0, (classes, per))[:, :8].flatten(0, 1)), out / f"{name}.png", columns=8)
        if not quiet:
            o = found[name]
            print(
                f"{name}: accuracy {o.accuracy:.3f}, Frechet {o.values['frechet'].value:.1f}, saturation {o.values[SATURATION].value:.3f}",
                flush=True,
            )
    table = {
        k: {
            "accuracy": o.accuracy,
            "values": {m: [v.value, v.stderr] for m, v in o.values.items()},
        }
        for k, o in found.items()
    }
    write_atomic(out / "guidance.json", json.dumps({"n": n, "settings": table}, indent=1, default=str))
    _draw(found, out / "guidance.png")
    return findings(found, n)


def outcome(x: Tensor, labels: Tensor, side: Any) -> Outcome:
    """Judge labelled samples."""
    logits = side.by(to_bytes(x)).logits
    if logits is None:
        raise NotSupported("class accuracy needs an extractor that classifies: digits.")
    right = float((logits.argmax(dim=1) == labels).double().mean())
    shares = (x.abs() > BEYOND).double().flatten(1).mean(dim=1)
    error = float(shares.std()) / math.sqrt(len(x))
    beyond = Measurement(float(shares.mean()), error, "over samples", 0, len(x))
    return Outcome(right, {**judged(side, x), SATURATION: beyond})


def findings(found: dict[str, Outcome], n: int) -> list[Finding]:
    """The claims: guidance sharpens the class, too much of it costs quality and diversity, each repair helps."""
    plain, some, much = (found[f"s = {s:g}"] for s in (1.0, 3.0, 100.0))
    right = [round(o.accuracy * n) for o in (plain, some)]
    sure = stats.fisher_exact([[right[0], n - right[0]], [right[1], n - right[1]]]).pvalue < 0.05 / TESTS
    out = [
        Finding(
            "Guidance of 3 makes more samples of the class that was asked for.",
            "unclear" if not sure else "supported" if right[1] > right[0] else "not supported",
            f"{plain.accuracy:.3f} without, {some.accuracy:.3f} with it.",
        )
    ]
    ways = (
        ("frechet", 1, "raises the Frechet distance"),
        ("recall", -1, "lowers recall"),
        (SATURATION, 1, "saturates"),
    )
    for metric, sign, said in ways:
        verdict, told = _change(much.values[metric], plain.values[metric], sign)
        out.append(Finding(f"Guidance of 100 {said}.", verdict, f"{told}."))
    at = ", ".join(f"{s:g}" for s in REPAIRED[:-1]) + f" and {REPAIRED[-1]:g}"
    for name in REPAIRS:
        for metric, said in SAID.items():
            each = [
                _change(found[f"s = {s:g}, {name}"].values[metric], found[f"s = {s:g}"].values[metric], -1)
                for s in REPAIRED
            ]
            verdicts = {verdict for verdict, _ in each}
            whole: Verdict = "not supported" if "not supported" in verdicts else "unclear" if len(verdicts) > 1 else verdicts.pop()  # fmt: skip
            told = "; ".join(f"s = {s:g}: {words}, {verdict}" for s, (verdict, words) in zip(REPAIRED, each, strict=True))  # fmt: skip
            out.append(Finding(f"At s = {at}, {name} lowers the {said}.", whole, f"{told}."))
    return out


def _change(a: Measurement, b: Measurement, sign: int) -> tuple[Verdict, str]:
    told = f"{b.value:.4g} ± {b.stderr:.2g} to {a.value:.4g} ± {a.stderr:.2g}"
    return _verdict(sign * (a.value - b.value), math.hypot(a.stderr, b.stderr)), told


def _verdict(change: float, error: float) -> Verdict:
    return "supported" if change > SURE * error else "not supported" if change < -SURE * error else "unclear"


def _draw(found: dict[str, Outcome], path: Path) -> None:
    with mpl.rc_context(STYLE | {"figure.facecolor": "white", "savefig.facecolor": "white"}):
        figure, axes = plt.subplots(1, 4, figsize=(13, 3.3))
        names = [f"s = {s:g}" for s in SCALES]
        for ax, (title, value) in zip(axes, _CURVES.items(), strict=True):
            ax.plot(range(len(SCALES)), [value(found[k]) for k in names], "o-", color=COLOURS[0], label="guidance")
            for i, name in enumerate(REPAIRS):
                ax.plot(
                    [SCALES.index(s) for s in REPAIRED],
                    [value(found[f"s = {s:g}, {name}"]) for s in REPAIRED],
                    "D--",
                    ms=4,
                    lw=1,
                    color=COLOURS[i + 1],
                    label=f"with {name}",
                )
            ax.set(title=title, xlabel="scale s", xticks=range(len(SCALES)), xticklabels=[f"{s:g}" for s in SCALES])
        axes[1].set_yscale("log")
        axes[0].legend(fontsize=8)
        figure.tight_layout()
        figure.savefig(path, dpi=120)
        plt.close(figure)


_CURVES = {
    "class accuracy": lambda o: o.accuracy,
    "Frechet distance": lambda o: o.values["frechet"].value,
    "recall": lambda o: o.values["recall"].value,
    SATURATION: lambda o: o.values[SATURATION].value,
}
