"""A Frechet distance of few samples is too large, by about a constant over n: two figures at different n cannot be compared.

Training images against other training images, whose true distance is 0, at growing n; then the line in 1/n and where it meets 0, which is what `frechet-infinity` reports.

Reference: Chong and Forsyth 2020, arXiv 1911.07023.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from pushforward.data.fetch import load
from pushforward.data.images import ImageSet
from pushforward.errors import DataError
from pushforward.labs import Finding, Verdict
from pushforward.labs.drawing import panels
from pushforward.metrics import frechet_distance
from pushforward.metrics.features import cached_features, extractor
from pushforward.report.figures import COLOURS
from pushforward.training.checkpoint import write_atomic

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


def run(out: Path, *, data: str = "mnist-5k", repeats: int = 10, seed: int = 0, quiet: bool = False) -> list[Finding]:
    """Measure halves of a data set against each other.

    Args:
        out: Folder of bias.png and bias.json.
        data: A set of grey images of 28 x 28.
        repeats: Draws at each n.
        seed: Of them.
        quiet: Show no progress.
    """
    found = load(data, "train")
    if not isinstance(found, ImageSet) or found.shape != (1, 28, 28):
        raise DataError(f"{data}: this lab uses the digit encoder, which wants grey images of 28 x 28.")
    features = cached_features(found.images, found.sha256, extractor("digits")).features
    g = torch.Generator().manual_seed(seed)
    half = len(features) // 2
    sizes = [max(2, round(s * half)) for s in SHARES]
    values = np.empty((len(sizes), repeats))
    for r in range(repeats):
        order = torch.randperm(len(features), generator=g)
        a, b = features[order[:half]], features[order[half : 2 * half]]
        for i, n in enumerate(sizes):
            values[i, r] = frechet_distance(real=a[:n], fake=b[:n]).value
        if not quiet:
            print(f"draw {r + 1}: {', '.join(f'{v:.1f}' for v in values[:, r])}", flush=True)
    x = 1 / np.array(sizes)
    large = x < 1 / 500 if (x < 1 / 500).sum() >= 3 else x <= np.sort(x)[2]
    fits = [stats.linregress(x[large], values[large, r]) for r in range(repeats)]
    limits = np.array([f.intercept for f in fits])
    mean = values.mean(axis=1)
    with panels(out / "bias.png", 2) as axes:
        axes[0].errorbar(sizes, mean, values.std(axis=1, ddof=1), fmt="o-", color=COLOURS[0], capsize=3)
        axes[0].set(xlabel="n", ylabel="Frechet distance of data to data", xscale="log", yscale="log")
        axes[1].plot(x, mean, "o", color=COLOURS[0])
        line = np.linspace(0, x[large].max(), 10)
        axes[1].plot(line, limits.mean() + np.mean([f.slope for f in fits]) * line, color=COLOURS[1])
        axes[1].set(xlabel="1 / n", ylim=(min(0, limits.mean()) - 0.02 * mean.max(), None))
    write_atomic(
        out / "bias.json", json.dumps({"n": sizes, "values": values.tolist(), "limits": limits.tolist()}, indent=1)
    )
    powers = np.array([stats.linregress(np.log(x[large]), np.log(values[large, r])).slope for r in range(repeats)])
    return findings(sizes, mean.tolist(), limits, powers)


def findings(sizes: list[int], mean: list[float], limits: np.ndarray, powers: np.ndarray) -> list[Finding]:
    """The three claims; the true distance is 0, and the power of 1 / n by which the distance falls would be 1."""
    near: Verdict
    constant: Verdict
    falls = all(b < a for a, b in itertools.pairwise(mean))
    error = float(limits.std(ddof=1)) / len(limits) ** 0.5
    limit = float(limits.mean())
    off, sure = abs(limit) <= 2 * error, abs(limit) + 2 * error < mean[-1]
    near = "not supported" if not off else "supported" if sure else "unclear"
    power, spread = float(powers.mean()), 2 * float(powers.std(ddof=1)) / len(powers) ** 0.5
    constant = "not supported" if abs(power - 1) > spread else "supported" if spread < 0.1 else "unclear"
    return [
        Finding("The Frechet distance of data to itself is above 0, and falls with n.", "supported" if falls else "not supported", f"From {mean[0]:.1f} at n = {sizes[0]} to {mean[-1]:.2f} at n = {sizes[-1]}."),
        Finding("The bias is a constant over n.", constant, f"It falls by the power {power:.3f} ± {spread / 2:.3f} of 1 / n at the larger n."),
        Finding("The line in 1 / n meets n = infinity near the truth, 0.", near, f"At {limit:.2f} ± {error:.2f} (between draws of the same images), against {mean[-1]:.2f} at n = {sizes[-1]}."),
    ]  # fmt: skip
