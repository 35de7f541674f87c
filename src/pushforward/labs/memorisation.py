"""A diffusion model that minimised its loss would copy its training images. When does a trained one?

The same network is trained for the same time on more and more images. A sample counts as a copy if its nearest training image is three times nearer (L2) than the nearest of the test images, which are as
many whatever the model was trained on: a rule that test images, held against the others, hardly ever meet.

Reference: Yoon et al. 2023, "Diffusion probabilistic models generalize when they fail to memorize"; Gu et al. 2023, arXiv 2310.02664.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from pushforward import runs
from pushforward.data.images import save_grid, to_bytes
from pushforward.errors import ConfigError
from pushforward.labs import Finding, Verdict
from pushforward.labs.contest import at_least, averaged, config_of, images_of, train_for, wilson
from pushforward.labs.drawing import panels
from pushforward.report.figures import COLOURS
from pushforward.training.checkpoint import write_atomic

RATIO = 1 / 3


def run(
    out: Path, *, data: str = "mnist-5k", sizes: str = "16,64,256,1024,4000", width: int = 64, cpu_seconds: float = 300.0, n: int = 200, seed: int = 0, quiet: bool = False
) -> list[Finding]:  # fmt: skip
    """Train on growing sets, sample, and look for copies.

    Args:
        out: Folder of memorisation.json, memorisation.png and, for each size, samples above their nearest training images.
        data: Whose first images are taken.
        sizes: Numbers of training images, comma-separated.
        width: Of the network.
        cpu_seconds: Of training, each.
        n: Samples looked at.
        seed: Of all.
        quiet: Show no progress.
    """
    try:
        counts = sorted({int(s) for s in sizes.split(",")})
    except ValueError:
        raise ConfigError(f"sizes={sizes}: whole numbers with commas between them.") from None
    at_least(2, n=n)
    config = config_of("diffusion/edm", [f"model.network.width={width}"], data=data, seed=seed)
    whole, test = images_of(config), images_of(config, "test")
    if len(counts) < 2 or counts[0] < 3 or counts[-1] > len(whole):
        raise ConfigError(f"sizes={sizes}: give at least two numbers between 3 and {len(whole)}, which {data} has.")
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))
    order_of_test = torch.randperm(len(test), generator=torch.Generator().manual_seed(seed))
    n = min(n, len(test) // 2)
    rows: dict[int, dict[str, float]] = {}
    for size in counts:
        data_set = whole.subset(order[:size])
        again = -(-config.train.batch_size // size)  # a few images fill a batch together
        trainer = train_for(config, data_set.subset(torch.arange(size).repeat(again)), cpu_seconds)
        with averaged(trainer) as model:
            x = to_bytes(runs.sample(model, n, seed=seed))
        nearest, which = neighbours(x, data_set.images)
        other, _ = neighbours(x, test.images)
        held = order_of_test[:n]
        control, _ = neighbours(test.images[held], data_set.images)
        control_other, _ = neighbours(test.images[held], test.images[order_of_test[n:]])
        rows[size] = {
            "copies": float((nearest < RATIO * other).double().mean()),
            "real copies": float((control < RATIO * control_other).double().mean()),
            "to training": float(nearest.mean()),
            "to test": float(other.mean()),
            "steps": trainer.step,
        }
        save_grid(torch.stack([x[:16], data_set.images[which[:16]]]).flatten(0, 1), out / f"of-{size}.png", columns=16)
        if not quiet:
            print(f"{size} images: {rows[size]['copies']:.1%} copies after {trainer.step} steps", flush=True)
    write_atomic(out / "memorisation.json", json.dumps(rows, indent=1))
    with panels(out / "memorisation.png", 2) as (left, right):
        left.semilogx(counts, [r["copies"] for r in rows.values()], "o-", color=COLOURS[0], label="samples")
        left.semilogx(counts, [r["real copies"] for r in rows.values()], "o--", color=COLOURS[2], label="test images")
        left.set(title="share of copies", xlabel="training images", ylim=(-0.03, 1.03))
        left.legend(fontsize=8)
        right.semilogx(
            counts, [r["to training"] for r in rows.values()], "o-", color=COLOURS[0], label="training image"
        )
        right.semilogx(counts, [r["to test"] for r in rows.values()], "o-", color=COLOURS[1], label="test image")
        right.set(title="distance of samples to the nearest", xlabel="training images", ylabel="L2 in bytes / 255")
        right.legend(fontsize=8)
    return findings({k: r["copies"] for k, r in rows.items()}, {k: r["real copies"] for k, r in rows.items()}, n)


def neighbours(x: Tensor, to: Tensor) -> tuple[Tensor, Tensor]:
    """Distances of images (n, ...) to the nearest of others, and which that is; bytes over 255, L2."""
    found = torch.cdist(x.flatten(1).float() / 255, to.flatten(1).float() / 255).min(dim=1)
    return found.values, found.indices


def findings(copies: dict[int, float], real: dict[int, float], n: int) -> list[Finding]:
    """Few images are copied, many are not, and the share falls between; by 95 % intervals."""
    least, most = min(copies), max(copies)
    low, high = wilson(copies[least], n)
    fall, rise = _gap(copies[least], copies[most], n), [_gap(b, a, n) for a, b in pairwise(copies.values())]
    risen = any(gap - reach > 0 for gap, reach in rise)
    gap, reach = _gap(copies[most], real[most], n)
    said = ", ".join(f"{k}: {v:.1%}" for k, v in copies.items())
    falls: Verdict = (
        "not supported" if risen or fall[0] + fall[1] < 0 else "supported" if fall[0] - fall[1] > 0 else "unclear"
    )
    return [
        Finding(f"Trained on {least} images, most samples are copies.", "supported" if low > 0.5 else "not supported" if high < 0.5 else "unclear", f"{copies[least]:.1%} of {n}, 95 % interval {low:.1%} to {high:.1%}."),
        Finding("The share of copies falls as the data grow.", falls, f"{said}."),
        Finding(f"Trained on {most} images, samples are copies no more often than test images are, to 5 %.", "supported" if gap + reach <= 0.05 else "not supported" if gap - reach > 0 else "unclear", f"{copies[most]:.1%} against {real[most]:.1%}, a difference of {gap:+.1%} ± {reach:.1%}."),
    ]  # fmt: skip


def _gap(a: float, b: float, n: int) -> tuple[float, float]:
    """Difference of two shares of n, and half of its 95 % interval, a success and a failure added to each (Agresti and Caffo 2000)."""
    p, q = (a * n + 1) / (n + 2), (b * n + 1) / (n + 2)
    return p - q, 1.96 * ((p * (1 - p) + q * (1 - q)) / (n + 2)) ** 0.5
