"""Classifier-free guidance from 0 to 100: what it buys, what it costs, and what the repairs repair.

A larger scale makes samples more of their class; past some point they saturate and grow alike. An interval of times, rescaling, and leaving
out the part of the update that is parallel to the conditional (APG) are said to mend that.

Reference: Ho and Salimans 2022, arXiv 2207.12598; Kynkaanniemi et al. 2024, arXiv 2404.07724; Lin et al. 2023, arXiv 2305.08891.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from torch import Tensor

from pushforward import runs
from pushforward.data.images import save_grid, to_bytes
from pushforward.errors import NotSupported
from pushforward.evaluation import Values, reference
from pushforward.labs import Finding, Verdict
from pushforward.labs.trained import diffusion_run, judged
from pushforward.report.figures import COLOURS, STYLE, plt
from pushforward.training.checkpoint import write_atomic

SCALES = (0.0, 1.0, 3.0, 7.5, 30.0, 100.0)
REPAIRS: dict[str, dict[str, Any]] = {
    "interval": {"low": 0.3, "high": 0.7},
    "rescale": {"rescale": 0.7},
    "parallel": {"parallel": 0.0},
}
REPAIRED = 7.5


BEYOND = 1.1  # a pixel is saturated; black ones lie a hair beyond -1 in any sample


@dataclass(frozen=True)
class Outcome:
    """What one setting did: share of samples of the class asked for, of saturated pixels, and the figures."""

    accuracy: float
    saturation: float
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
        f"s = {REPAIRED:g}, {name}": replace(base, guidance=REPAIRED, guidance_options=options)
        for name, options in REPAIRS.items()
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
                f"{name}: accuracy {o.accuracy:.3f}, Frechet {o.values['frechet'].value:.1f}, saturation {o.saturation:.3f}",
                flush=True,
            )
    table = {
        k: {
            "accuracy": o.accuracy,
            "saturation": o.saturation,
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
    return Outcome(right, float((x.abs() > BEYOND).double().mean()), judged(side, x))


def findings(found: dict[str, Outcome], n: int) -> list[Finding]:
    """The claims: guidance sharpens the class, too much of it costs quality and diversity, each repair helps."""
    plain, some, much = (found[f"s = {s:g}"] for s in (1.0, 3.0, 100.0))
    error = math.sqrt(max(plain.accuracy * (1 - plain.accuracy), 1 / n) * 2 / n)
    gain = some.accuracy - plain.accuracy
    sharper: Verdict = "supported" if gain > 2 * error else "not supported" if gain < 0 else "unclear"
    out = [
        Finding(
            "Guidance of 3 makes more samples of the class that was asked for.",
            sharper,
            f"{plain.accuracy:.3f} without, {some.accuracy:.3f} with it.",
        )
    ]
    for metric, sign, said in (("frechet", 1, "raises the Frechet distance"), ("recall", -1, "lowers recall")):
        out.append(_change(f"Guidance of 100 {said}.", much.values[metric], plain.values[metric], sign))
    for name in REPAIRS:
        mended, bare = found[f"s = {REPAIRED:g}, {name}"], found[f"s = {REPAIRED:g}"]
        out.append(
            _change(
                f"At s = {REPAIRED:g}, {name} lowers the Frechet distance.",
                mended.values["frechet"],
                bare.values["frechet"],
                -1,
            )
        )
    return out


def _change(claim: str, a: Any, b: Any, sign: int) -> Finding:
    change, error = sign * (a.value - b.value), math.hypot(a.stderr, b.stderr)
    verdict: Verdict = "supported" if change > 2 * error else "not supported" if change < -2 * error else "unclear"
    return Finding(claim, verdict, f"{b.value:.4g} ± {b.stderr:.2g} to {a.value:.4g} ± {a.stderr:.2g}.")


def _draw(found: dict[str, Outcome], path: Path) -> None:
    with mpl.rc_context(STYLE | {"figure.facecolor": "white", "savefig.facecolor": "white"}):
        figure, axes = plt.subplots(1, 4, figsize=(13, 3.3))
        names = [f"s = {s:g}" for s in SCALES]
        for ax, (title, value) in zip(axes, _CURVES.items(), strict=True):
            ax.plot(range(len(SCALES)), [value(found[k]) for k in names], "o-", color=COLOURS[0], label="guidance")
            for i, name in enumerate(REPAIRS):
                ax.plot(
                    SCALES.index(REPAIRED),
                    value(found[f"s = {REPAIRED:g}, {name}"]),
                    "D",
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
    f"share of pixels beyond ±{BEYOND}": lambda o: o.saturation,
}
