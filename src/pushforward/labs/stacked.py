"""Stacked MNIST: three digits make an image of three channels, and a generator should make all 1,000 combinations.

As in the unrolled GAN, VEEGAN and PacGAN, 26,000 samples are judged: a classifier of digits names each channel, so that each sample belongs to one of
1,000 modes; modes with at least one sample are counted, and the reverse KL divergence compares their shares with equal ones. The classifier is the
one that ships. The papers train DCGANs of several times the width for 50,000 steps of 64 on a GPU; ours have 32 channels at half resolution. Their
figures stand beside ours as a reminder, not as a target.

Reference: Metz et al. 2017, section 3.3.1, arXiv 1611.02163; Lin et al. 2018, table 3, arXiv 1712.04086; Huang et al. 2024, table 1, arXiv 2501.05441.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from scipy import stats
from torch import Tensor

from pushforward import build, runs
from pushforward.config import load_recipe
from pushforward.data.images import ImageSet, save_grid, to_bytes
from pushforward.errors import ConfigError, DataError
from pushforward.labs import Finding, Verdict, recipes_of
from pushforward.metrics import mode_count, reverse_kl
from pushforward.metrics.features import extractor
from pushforward.training.checkpoint import write_atomic

SAMPLES = 26_000
PUBLISHED = {  # modes of 1,000 and reverse KL, as printed
    "gan/stacked": "78.9 / 4.50 (DCGAN, VEEGAN's setting)",
    "gan/stacked-unrolled": "327 / 4.66 (10 steps)",
    "gan/stacked-pac2": "1000 / 0.06",
    "gan/stacked-r3gan": "1000",
}


def joint(x: Tensor) -> Tensor:
    """Logits of the 1,000 modes, uint8 images (n, 3, 28, 28) to (n, 1000): those of the channels' digits, added."""
    by = extractor("digits")
    each = [by(x[:, c : c + 1]).logits for c in range(3)]
    a, b, c = (logits.log_softmax(dim=1) for logits in each if logits is not None)
    return (a[:, :, None, None] + b[:, None, :, None] + c[:, None, None, :]).flatten(1)


def judged(x: Tensor) -> tuple[int, float]:
    """Modes with a sample, and the reverse KL divergence from equal shares in nats."""
    shares = torch.zeros(1000)
    for part in x.split(1000):
        shares += joint(part).argmax(dim=1).bincount(minlength=1000)
    logits = torch.eye(1000)[torch.arange(1000).repeat_interleave(shares.long())]
    return mode_count(logits), reverse_kl(logits).value


def run(
    out: Path,
    *,
    recipes: str = "gan/stacked,gan/stacked-unrolled,gan/stacked-pac2,gan/stacked-r3gan",
    data: str = "stacked-mnist",
    seeds: int = 4,
    cpu_seconds: float = 300.0,
    samples: int = SAMPLES,
    quiet: bool = False,
) -> list[Finding]:
    """Train every recipe for the same CPU time, and count modes.

    Args:
        out: Folder of stacked.json and a grid of each recipe; each run's outcome is kept in cells/ there, and not repeated.
        recipes: Comma-separated; the first is what the others are compared with.
        data: stacked-mnist, or stacked-mnist-5k.
        seeds: How many; the rank test of three recipes against the first has no verdict for fewer than four.
        cpu_seconds: Of training, a run.
        samples: Judged of each.
        quiet: Show no progress.
    """
    names = recipes_of(recipes)
    if seeds < 1 or cpu_seconds <= 0 or samples < 1:
        raise ConfigError("seeds, cpu_seconds and samples must be above 0.")
    rows = []
    for name in names:
        for seed in range(seeds):
            row = _one(name, data, seed, cpu_seconds, samples, out)
            rows.append(row)
            if not quiet:
                print(
                    f"{name} seed {seed}: {row['modes']} modes, reverse KL {row['reverse_kl']:.2f}, {row['steps']} steps",
                    flush=True,
                )
    write_atomic(out / "stacked.json", json.dumps({"data": data, "samples": samples, "rows": rows}, indent=1))
    return [_finding(name, names[0], rows, len(names) - 1) for name in names[1:]]


def _one(recipe: str, data: str, seed: int, budget: float, samples: int, out: Path) -> dict[str, object]:
    """Train and judge one generator, or read what an earlier call kept."""
    config = build.resolve(load_recipe(recipe, [f"train.seed={seed}"], data=data))
    if config.train.ema is None or runs.changing(config.train):
        raise ConfigError(
            f"{recipe}: this lab trains for a time and judges averaged weights; train.ema must be set, train.schedule constant."
        )
    about = {"config": config.model_dump(mode="json", exclude={"expect"}), "budget": budget, "samples": samples}
    file = out / "cells" / f"{recipe.replace('/', '-')}-{seed}.json"
    if file.exists():
        kept: dict[str, object] = json.loads(file.read_text())
        if kept.pop("about") == json.loads(json.dumps(about)):
            return kept
    found = runs.load_data(config)
    if not isinstance(found, ImageSet) or found.shape != (3, 28, 28):
        raise DataError(f"{data} does not hold stacks of three digits; there are stacked-mnist and stacked-mnist-5k.")
    trainer = runs.make_trainer(config, found)
    start = time.process_time()
    for _ in trainer.steps(10**9):
        if time.process_time() - start >= budget:
            break
    seconds, model = time.process_time() - start, trainer.model
    assert trainer.ema is not None
    with trainer.ema.swapped_in():
        model.settle()
        x = to_bytes(runs.sample(model.eval(), samples, seed=seed))
    modes, divergence = judged(x)
    save_grid(x[:64], out / f"{recipe.replace('/', '-')}-{seed}.png")
    row = {
        "recipe": recipe,
        "seed": seed,
        "modes": modes,
        "reverse_kl": divergence,
        "steps": trainer.step,
        "cpu_seconds": round(seconds, 1),
        "published": PUBLISHED.get(recipe),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, json.dumps({"about": about, **row}))
    return row


def _finding(name: str, other: str, rows: list[dict[str, object]], tried: int) -> Finding:
    """The exact rank test of Mann and Whitney, one-sided each way at 5 %, Bonferroni for all that are tried: three seeds each give p = 0.05 at the least, and four 0.014: enough for three recipes."""
    mine, plain = ([int(str(r["modes"])) for r in rows if r["recipe"] == n] for n in (name, other))
    more, fewer = (
        float(stats.mannwhitneyu(mine, plain, alternative=way, method="exact").pvalue) for way in ("greater", "less")
    )
    verdict: Verdict = "supported" if tried * more <= 0.05 else "not supported" if tried * fewer <= 0.05 else "unclear"
    steps = [round(sum(int(str(r["steps"])) for r in rows if r["recipe"] == n) / len(mine)) for n in (name, other)]
    how = "rank test" + (f", Bonferroni for {tried}" if tried > 1 else "")
    return Finding(
        f"{name} finds more modes than {other} in the same CPU time.",
        verdict,
        f"{', '.join(map(str, mine))} against {', '.join(map(str, plain))} of 1,000, seed by seed, after {steps[0]:,} and {steps[1]:,} steps; p = {min(1.0, tried * more):.2g} ({how}, one-sided).",
    )
