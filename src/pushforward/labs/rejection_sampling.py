"""The discriminator of a trained GAN knows which samples are bad: can they be thrown away, and what does it cost?

Discriminator rejection sampling keeps a sample with a probability that its logit gives, Metropolis-Hastings lets a chain choose among many; both trust the logit to be log p_data / p_model. So the logit is taken as it is,
and calibrated on images that training never saw. The discriminator first goes on alone for some moves against the averaged generator.

Reference: Azadi et al. 2018, arXiv 1810.06758; Turner et al. 2019, arXiv 1811.11357 (and its calibration).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from pushforward import runs
from pushforward.data.images import ImageSet, save_grid, to_bytes, to_model
from pushforward.errors import ConfigError, NotSupported, PushforwardError
from pushforward.evaluation import Sides, measure, reference
from pushforward.evaluation.reference import Reference
from pushforward.families.gan.model import GAN
from pushforward.families.gan.sampling import drs, keep_training, log_ratio, mh
from pushforward.labs import Finding
from pushforward.labs.contest import above, averaged, below, config_of, images_of, train_for
from pushforward.labs.drawing import panels
from pushforward.model import Batch
from pushforward.randomness import SampleStream, derive_seed
from pushforward.report.figures import COLOURS
from pushforward.samplers.rejection import Drawn
from pushforward.training.checkpoint import write_atomic
from pushforward.training.trainer import Trainer

KEPT = ("frechet", "precision", "recall", "density", "coverage", "class entropy")
WAYS = ("plain", "drs", "drs, calibrated", "mh", "mh, calibrated")
Ways = dict[str, dict[str, float]]


def run(
    out: Path, *, recipe: str = "gan/vanilla", data: str = "mnist-5k", seeds: int = 3, cpu_seconds: float = 60.0, n: int = 1000, moves: int = 200, chain: int = 50, quiet: bool = False
) -> list[Finding]:  # fmt: skip
    """Train a GAN with each seed, sample it five ways, judge.

    Args:
        out: Folder of ways.json, ways.png and samples of each way.
        recipe: An unconditional GAN with a cross-entropy objective.
        data: A sixth of its training images is held out to calibrate on.
        seeds: How many.
        cpu_seconds: Of training.
        n: Samples of each way.
        moves: Of the discriminator alone.
        chain: Moves of each Metropolis-Hastings chain.
        quiet: Show no progress.
    """
    if seeds < 2 or moves < 0 or chain < 1:
        raise ConfigError("seeds is at least 2, moves at least 0, chain at least 1.")
    side, rows, used = reference(data, n=n), [], 0
    for seed in range(seeds):
        config = config_of(recipe, (), data=data, seed=seed)
        whole = images_of(config)
        order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))
        part = len(whole) - len(whole) // 6
        seen, held = whole.subset(order[:part]), whole.subset(order[part:])
        used = calibrating(held)
        trainer = train_for(config, seen, cpu_seconds)
        rows.append(five_ways(trainer, held, side, n=n, moves=moves, chain=chain, seed=seed, out=out))
        if not quiet:
            print(f"seed {seed}: " + ", ".join(f"{k} {v['frechet']:.1f}" for k, v in rows[-1].items()), flush=True)
    write_atomic(
        out / "ways.json", json.dumps({"recipe": recipe, "n": n, "calibrated_on": used, "seeds": rows}, indent=1)
    )
    with panels(out / "ways.png", 3, width=3.6, height=2.6) as axes:
        for ax, key in zip(axes, ("frechet", "recall", "proposals"), strict=True):
            for i, way in enumerate(WAYS):
                ax.plot(
                    [r[way][key] for r in rows if way in r],
                    [i] * sum(way in r for r in rows),
                    "o",
                    color=COLOURS[i % len(COLOURS)],
                    alpha=0.7,
                )
            ax.set(
                title={"proposals": "proposals a sample"}.get(key, key),
                yticks=range(len(WAYS)),
                ylim=(len(WAYS) - 0.5, -0.5),
            )
            ax.set_yticklabels(WAYS if ax is axes[0] else [], fontsize=8)
        axes[2].set_xscale("log")
    return findings(rows)


def calibrating(held: ImageSet) -> int:
    """How many of the images held out a logit is calibrated on."""
    return min(5000, len(held))


def five_ways(
    trainer: Trainer, held: ImageSet, side: Reference, *, n: int, moves: int = 200, chain: int = 50, seed: int = 0, out: Path | None = None
) -> Ways:  # fmt: skip
    """Sample the averaged generator plainly, by rejection and by Metropolis-Hastings, with the logit as it is and calibrated on `held`.

    Returns:
        Way -> acceptance, proposals a sample, CPU milliseconds a sample, and the figures of `KEPT`; a way whose logit was no density ratio is not there.
    """
    model = trainer.model
    if not isinstance(model, GAN):
        raise NotSupported("rejection sampling is for GANs: it wants a discriminator.")

    def judged(name: str, way: Callable[[], Drawn]) -> dict[str, float]:
        began = time.process_time()
        found = way()
        seconds, x = time.process_time() - began, to_bytes(found.x)
        if out is not None and seed == 0:
            save_grid(x[:40], out / f"{name.replace(', ', '-')}.png", columns=10)
        values = measure(
            Sides(side.real, side.by(x), side.floor["floor"]),
            ["frechet", "precision-recall", "density-coverage", "classes"],
        )
        return {"acceptance": found.acceptance, "proposals": found.cost, "ms": 1000 * seconds / len(x), **{k: values[k].value for k in KEPT}}  # fmt: skip

    with averaged(trainer):
        model.train()
        batches = []
        for k in range(moves):
            x, labels = trainer.batches.next()
            batches.append(
                Batch(x, labels, trainer.step + k, SampleStream(derive_seed(seed, "alone", k), torch.arange(len(x))))
            )
        keep_training(model, trainer.optimisers["discriminator"], batches)
        model.eval()
        plain = log_ratio(model)
        used = calibrating(held)
        real = to_model(held.images[:used])
        ways: dict[str, Callable[[], Drawn]] = {
            "plain": lambda: Drawn(runs.sample(model, n, seed=seed), n, 1.0),
            "drs": lambda: drs(model, n, plain, percentile=80.0, seed=seed),
            "drs, calibrated": lambda: drs(
                model, n, log_ratio(model, real=real, fakes=used, seed=seed), percentile=80.0, seed=seed
            ),
            "mh": lambda: mh(model, n, plain, steps=chain, seed=seed),
            "mh, calibrated": lambda: mh(
                model, n, log_ratio(model, real=real, fakes=used, seed=seed), steps=chain, seed=seed
            ),
        }
        rows = {}
        for name, way in ways.items():
            try:
                rows[name] = judged(name, way)
            except PushforwardError:
                raise
            except ValueError:  # a logit that separates data and samples wholly, or gives a few samples huge ratios
                continue
        return rows


def findings(rows: list[Ways]) -> list[Finding]:
    """Whether each helps, and whether calibration does; what a sample costs follows from the percentile and is in the table."""

    def pair(a: str, b: str, figure: str) -> tuple[list[float], list[float]]:  # of the seeds that have both ways
        both = [r for r in rows if a in r and b in r]
        return [r[a][figure] for r in both], [r[b][figure] for r in both]

    claims = (
        (below, "Rejection by the discriminator lowers the Frechet distance.", "drs", "plain", "frechet"),
        (below, "Metropolis-Hastings lowers it.", "mh", "plain", "frechet"),
        (below, "Rejection helps more when the logit is calibrated.", "drs, calibrated", "drs", "frechet"),
        (above, "Rejection raises precision.", "drs", "plain", "precision"),
    )
    out = [test(claim, *pair(*sides), paired=True, tried=len(claims)) for test, claim, *sides in claims]
    lost = sum("drs" not in r for r in rows)
    if lost:
        said = f" On {lost} of {len(rows)} seeds the logit was no density ratio."
        out = [replace(f, evidence=f.evidence + said) for f in out]
    return out
