"""The one-dimensional Gaussian GAN in full: losses, the discriminator's curve as it learns, learning rates, batch sizes.

Data are draws of N(3, 0.8^2). The generator is G(z) = a z + b, so that the law of its samples, N(b, a^2), and with it the optimal discriminator
p / (p + q), are known at every step. The discriminator is a small network; both players take plain Adam steps on the non-saturating loss.

Reference: Goodfellow et al. 2014, figure 1 and proposition 1, arXiv 1406.2661.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy import stats

from pushforward.errors import ConfigError
from pushforward.labs import Finding, Verdict
from pushforward.labs.one_gaussian import AXIS, MEAN, POINTS, RATES, SD, Path1D, draw, train
from pushforward.training.checkpoint import write_atomic

NEAR = 0.25  # Wasserstein-2 distance at which the samples have arrived


def run(out: Path, *, steps: int = 2000, seeds: int = 10, frames: int = 24, quiet: bool = False) -> list[Finding]:
    """Train, sweep, draw.

    Args:
        out: Folder of losses.png, discriminator.png, discriminator.gif, rates.png, batches.png and gaussian.json.
        steps: Of each run.
        seeds: Runs of each setting.
        frames: Of the animation.
        quiet: Show no progress.
    """
    if steps < 20 or seeds < 2 or frames < 2:
        raise ConfigError("steps must be at least 20, seeds and frames at least 2.")

    def say(text: str) -> None:
        if not quiet:
            print(text, flush=True)

    plain = [train(steps, rates=(1e-2, 1e-2), batch_size=POINTS, seed=s, frames=frames) for s in range(seeds)]
    say(f"full batch: error {np.mean([p.error() for p in plain]):.3f}")
    single = [train(steps, rates=(1e-2, 1e-2), batch_size=1, seed=s) for s in range(seeds)]
    say(f"one example: error {np.mean([p.error() for p in single]):.3f}")
    sweep: dict[tuple[float, float], list[float]] = {}
    for rates in itertools.product(RATES, RATES):
        sweep[rates] = [train(steps, rates=rates, batch_size=64, seed=s).error() for s in range(seeds)]
        say(f"rates D {rates[0]:g}, G {rates[1]:g}: error {np.mean(sweep[rates]):.3f}")
    draw(plain, single, sweep, out)
    write_atomic(
        out / "gaussian.json",
        json.dumps(
            {
                "full_batch": [p.error() for p in plain],
                "one_example": [p.error() for p in single],
                "rates": {f"{d:g} {g:g}": e for (d, g), e in sweep.items()},
            },
            indent=1,
        ),
    )
    return _findings(plain, single, sweep)


def _findings(
    plain: list[Path1D], single: list[Path1D], sweep: dict[tuple[float, float], list[float]]
) -> list[Finding]:
    errors, noisy = [p.error() for p in plain], [p.error() for p in single]
    verdict: Verdict = "supported" if max(errors) < NEAR else "not supported"
    found = [
        Finding(
            "The samples' law comes to the data's.",
            verdict,
            f"Wasserstein-2 distance over the last tenth of the steps: {np.mean(errors):.3f} on average, {max(errors):.3f} at most, {math.hypot(MEAN, SD - 1):.2f} at the start.",
        )
    ]
    inside = (AXIS.numpy() > MEAN - 2 * SD) & (AXIS.numpy() < MEAN + 2 * SD)
    gaps = [float(np.abs(p.curves[max(p.curves)] - 0.5)[inside].max()) for p in plain]
    verdict = "supported" if max(gaps) < 0.1 else "not supported"
    found.append(
        Finding(
            "At the end the discriminator says 1/2 where the data are.",
            verdict,
            f"Within two standard deviations it is off by {np.mean(gaps):.2f} on average, {max(gaps):.2f} at most.",
        )
    )
    found.append(_less("Full-batch steps end nearer than as many one-example steps, which see 256 times fewer points.", errors, noisy, claims=1 + len(_arrived(sweep))))  # fmt: skip
    return found + _speeds(sweep)


def _arrived(sweep: Mapping[tuple[float, float], list[float]]) -> list[float]:
    """The generator's rates that have a faster and a slower discriminator on the grid, and come near the data with one of them: at others the steps end on the way."""
    return [g for g in RATES[1:-1] if min(float(np.median(sweep[d, g])) for d in RATES) < NEAR]


def _speeds(sweep: Mapping[tuple[float, float], list[float]]) -> list[Finding]:
    """At each of the generator's rates that has both on the grid: a discriminator ten times faster than it against one ten times slower.

    Rates of D are compared at one rate of G, which by itself decides how far the samples can come in so many steps.
    """
    out, arrived = [], _arrived(sweep)
    for slow, g, fast in zip(RATES, RATES[1:], RATES[2:], strict=False):
        claim = f"At the generator's rate {g:g} a discriminator ten times faster than it ends nearer than one ten times slower."
        if g in arrived:
            out.append(_less(claim, sweep[fast, g], sweep[slow, g], claims=1 + len(arrived)))
        else:
            best = min(float(np.median(sweep[d, g])) for d in RATES)
            out.append(Finding(claim, "unclear", f"With no discriminator on the grid do the samples come within {NEAR:g} of the data at this rate ({best:.3f} at best): the steps end on the way."))  # fmt: skip
    return out


def _less(claim: str, a: list[float], b: list[float], *, claims: int = 1) -> Finding:
    """Whether a is smaller, seed by seed: Student's paired test on logarithms, one-sided each way at 5 % over so many claims (Bonferroni)."""
    p = float(stats.ttest_rel(np.log(a), np.log(b), alternative="less").pvalue)
    level = 0.05 / claims
    verdict: Verdict = "supported" if p < level else "not supported" if p > 1 - level else "unclear"
    corrected = "" if claims == 1 else f", at {level:g} each way for {claims} claims"
    said = f"{np.median(a):.3f} against {np.median(b):.3f} (medians of {len(a)} seeds), p = {p:.2g} (paired t-test of logarithms, one-sided{corrected})."
    return Finding(claim, verdict, said)
