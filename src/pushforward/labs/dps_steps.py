"""Posterior sampling with fewer and fewer steps: time against nearness to the truth, for four methods on one measurement.

DPS needs a thousand steps, each with a gradient; methods that use what they know of the operator are said to do as well with twenty to a hundred.
Beside PSNR and SSIM stands the distance in the features of the digit encoder, which forgives a stroke that is a pixel off.
The truth's own residual is the noise (dotted): below it, a method has copied noise into the image. Seconds are CPU seconds, those of 20 steps, all methods timed in turn, times the number of steps.

Reference: Chung et al. 2023, arXiv 2209.14687; Song et al. 2023 (PiGDM); Rozet et al. 2024, arXiv 2405.13712; Zhu et al. 2023, arXiv 2305.08995.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from scipy import stats
from torch import Tensor

from pushforward import runs
from pushforward.data.fetch import load
from pushforward.data.images import ImageSet, save_grid, to_bytes, to_model
from pushforward.errors import DataError, NotSupported
from pushforward.labs import Finding, Verdict
from pushforward.labs.trained import diffusion_run, seconds_in_turn, with_sampler
from pushforward.metrics.features import extractor
from pushforward.report.figures import COLOURS, STYLE, plt
from pushforward.restoration import pictures, restore
from pushforward.training.checkpoint import write_atomic

STEPS = {"dps": (1000, 800, 500, 200, 100, 50), "diffpir": (100, 50, 20), "mmps": (100, 50, 20), "pigdm": (100, 50, 20)}
Curves = dict[str, dict[int, dict[str, list[float]]]]


LOST = {"psnr": 0.0, "ssim": 0.0}
"""What counts where a method diverged: the image is lost. It has no residual and no distance."""
COUNTS_TRIED = max(len(v) for k, v in STEPS.items() if k != "dps")
SURE = float(stats.norm.ppf(1 - 0.025 / COUNTS_TRIED))
"""Standard errors on each side of a difference, when the best of so many numbers of steps is taken (Bonferroni)."""


def run(
    out: Path,
    *,
    run: str = "",
    data: str = "mnist-5k",
    train_steps: int = 2000,
    width: int = 64,
    operator: str = "inpaint-box",
    noise: float = 0.05,
    n: int = 20,
    longest: int = 1000,
    rounds: int = 3,
    seed: int = 0,
    quiet: bool = False,
) -> list[Finding]:
    """Restore the same images by every method in every number of steps.

    Args:
        out: Folder of posterior.json, posterior.png and pictures.
        run: A diffusion run's folder; `diffusion/ddpm` is trained when empty.
        data: What it is trained on; some of its test images are measured.
        train_steps: Of its training.
        width: Of its network.
        operator: The measurement.
        noise: Its standard deviation.
        n: Images.
        longest: Numbers of steps above it are left out.
        rounds: How often 20 steps of each method and of DDPM are timed, in turn.
        seed: Of training, noise and draws.
        quiet: Show no progress.
    """
    model = diffusion_run(
        run, out, recipe="diffusion/ddpm", data=data, steps=train_steps, seed=seed, quiet=quiet, width=width
    )
    test = load(data, "test")
    if not isinstance(test, ImageSet) or test.shape != (1, 28, 28):
        raise DataError(
            f"{data}: this lab looks at reconstructions by the digit encoder, which wants grey images of 28 x 28."
        )
    truth, by = to_model(test.images[runs.spread(len(test), n)]), extractor("digits")
    step = _step_seconds(model, truth[:10], operator, noise, rounds)
    curves: Curves = {}
    for method, counts in STEPS.items():
        curves[method] = {}
        for steps in (c for c in counts if c <= longest):
            try:
                found, a = restore(
                    model, truth, operator=operator, method=method, steps=steps, noise=noise, draws=1, seed=seed
                )
            except NotSupported as error:
                curves[method][steps] = {k: [v] * n for k, v in LOST.items()} | {"seconds an image": [0.0]}
                if not quiet:
                    print(f"{method} {steps}: {error}", flush=True)
                continue
            figures = {k: v.tolist() for k, v in found.figures(a).items() if "mean" not in k}
            figures["feature distance"] = _distance(by(to_bytes(found.draws[0])).features, by(to_bytes(truth)).features)
            figures["seconds an image"] = [steps * step[method]]
            curves[method][steps] = figures
            save_grid(pictures(found)[: 8 * 3], out / f"{method}-{steps}.png", columns=3)
            if not quiet:
                print(
                    f"{method} {steps}: {steps * step[method]:.2f} CPU s an image, PSNR {_mean(figures['psnr'])[0]:.2f} dB",
                    flush=True,
                )
    ratio = step["dps"] / step["ddpm"]
    write_atomic(
        out / "posterior.json",
        json.dumps({"operator": operator, "noise": noise, "n": n, "step_seconds": step, "curves": curves}, indent=1),
    )
    _draw(curves, noise, out / "posterior.png", f"{operator}, noise {noise:g}, {n} images")
    return findings(curves, ratio)


def _distance(a: Tensor, b: Tensor) -> list[float]:
    return (a - b).double().norm(dim=1).tolist()


def _step_seconds(
    model: Any, truth: Tensor, operator: str, noise: float, rounds: int, steps: int = 20
) -> dict[str, float]:
    """CPU seconds of one image's step by each method and by DDPM, in turn: the machine may be slower from one minute to the next."""
    with_sampler(model, solver="ddpm", steps=steps)

    def timed(method: str) -> None:
        with suppress(NotSupported):  # so few steps may diverge; they take as long
            restore(model, truth, operator=operator, method=method, steps=steps, noise=noise, draws=1)

    works: dict[str, Callable[[], object]] = {method: partial(timed, method) for method in STEPS}
    works["ddpm"] = partial(runs.sample, model, len(truth))
    for work in works.values():
        work()  # once for nothing
    return {k: v / steps / len(truth) for k, v in seconds_in_turn(works, rounds, time.process_time).items()}


def _mean(values: list[float]) -> tuple[float, float]:
    x = torch.tensor(values, dtype=torch.float64)
    return float(x.mean()), float(x.std()) / math.sqrt(len(x)) if len(x) > 1 else 0.0


def findings(curves: Curves, ratio: float) -> list[Finding]:
    """Cost of a step, what fewer steps cost DPS, and whether the others do as well with at most 100."""
    cheap: Verdict = "supported" if ratio <= 2.1 else "not supported"
    out = [
        Finding("A step of DPS costs at most 2.1 times a step of DDPM.", cheap, f"{ratio:.3f} times, in CPU seconds.")
    ]
    most, fewest = max(curves["dps"]), min(curves["dps"])
    out.append(
        _paired(
            f"DPS loses PSNR from {most} to {fewest} steps.", curves["dps"][most]["psnr"], curves["dps"][fewest]["psnr"]
        )
    )
    for method in ("diffpir", "mmps", "pigdm"):
        best = max(curves[method], key=lambda s: _mean(curves[method][s]["psnr"])[0])
        a, b = curves[method][best]["psnr"], curves["dps"][most]["psnr"]
        gap, error = _mean([u - v for u, v in zip(a, b, strict=True)])
        good: Verdict = (
            "supported" if gap - SURE * error > -1 else "not supported" if gap + SURE * error < -1 else "unclear"
        )
        if not curves["dps"][most]["seconds an image"][0]:  # diverged: no yardstick
            good = "unclear"
        out.append(
            Finding(
                f"{method} in at most 100 steps comes within 1 dB of DPS in {most}.",
                good,
                f"With {best} steps {gap:+.2f} ± {error:.2f} dB, the best of {len(curves[method])} numbers of steps.",
            )
        )
    return out


def _paired(claim: str, a: list[float], b: list[float]) -> Finding:
    gap, error = _mean([u - v for u, v in zip(a, b, strict=True)])
    verdict: Verdict = "supported" if gap > 2 * error else "not supported" if gap < -2 * error else "unclear"
    return Finding(claim, verdict, f"{gap:+.2f} ± {error:.2f} dB over {len(a)} images.")


def _draw(curves: Curves, noise: float, path: Path, title: str) -> None:
    with mpl.rc_context(STYLE | {"figure.facecolor": "white", "savefig.facecolor": "white"}):
        figure, axes = plt.subplots(1, 4, figsize=(13, 3.4))
        shown = {
            "psnr": "PSNR (dB)",
            "ssim": "SSIM",
            "feature distance": "distance in the encoder",
            "residual": "residual",
        }
        for ax, (key, name) in zip(axes, shown.items(), strict=True):
            for colour, (method, by_steps) in zip(COLOURS, curves.items(), strict=False):
                done = [s for s in by_steps if by_steps[s]["seconds an image"][0] > 0]
                x = [by_steps[s]["seconds an image"][0] for s in done]
                pairs = [_mean(by_steps[s][key]) for s in done]
                ax.errorbar(
                    x,
                    [p[0] for p in pairs],
                    [p[1] for p in pairs],
                    color=colour,
                    marker="o",
                    ms=4,
                    capsize=2,
                    label=method,
                )
            ax.set(title=name, xlabel="CPU seconds an image", xscale="log")
        axes[3].axhline(noise, color="#888888", ls=":", lw=1)  # the truth's own
        axes[3].legend(*axes[0].get_legend_handles_labels(), fontsize=8, bbox_to_anchor=(1.0, 1.0), loc="upper left")
        figure.suptitle(title, fontsize=10)
        figure.tight_layout()
        figure.savefig(path, dpi=120)
        plt.close(figure)
