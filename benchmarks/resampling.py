"""Rejection and Metropolis-Hastings sampling on full MNIST: what is kept, what a kept sample costs, what is gained.

    PUSHFORWARD_DATA=../shared/data python benchmarks/resampling.py [gan/vanilla ...] [--seeds 0 1 2] [--cpu-seconds 120]

Each GAN trains on the first 50,000 training images on one thread; then its discriminator goes on alone for some moves against the averaged generator.
The logit is taken as it is, or calibrated on the 10,000 training images that were held out. 10,000 samples each way against the 10,000 test images.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from pushforward import build, runs
from pushforward.config import load_recipe
from pushforward.data.fetch import load
from pushforward.data.images import ImageSet, to_bytes, to_model
from pushforward.evaluation import Sides, measure, reference
from pushforward.families.gan.model import GAN
from pushforward.families.gan.sampling import drs, keep_training, log_ratio, mh
from pushforward.model import Batch
from pushforward.randomness import SampleStream, derive_seed
from pushforward.samplers.rejection import Drawn

N, MOVES, CHAIN = 10_000, 200, 50
KEPT = ("frechet", "precision", "recall", "density", "coverage", "class entropy")


def one(recipe: str, seed: int, budget: float) -> dict[str, object]:
    config = build.resolve(load_recipe(recipe, [f"train.seed={seed}"], data="mnist"))
    full = load("mnist")
    assert isinstance(full, ImageSet)
    seen, held = full.subset(slice(0, 50_000)), full.subset(slice(50_000, 60_000))
    trainer = runs.make_trainer(config, seen)
    start = time.process_time()
    for _ in trainer.steps(10**9):
        if time.process_time() - start >= budget:
            break
    model = trainer.model
    assert isinstance(model, GAN)
    assert trainer.ema is not None
    side = reference("mnist", n=N)

    def judged(found: Drawn, seconds: float) -> dict[str, object]:
        x = to_bytes(found.x)
        values = measure(
            Sides(side.real, side.by(x), side.floor["floor"]),
            ["frechet", "precision-recall", "density-coverage", "classes"],
        )
        return {
            "acceptance": found.acceptance,
            "proposals_a_sample": found.cost,
            "ms_a_sample": 1000 * seconds / len(x),
            "values": {k: [values[k].value, values[k].stderr] for k in KEPT},
        }

    with trainer.ema.swapped_in():
        model.settle()
        batches = []
        for k in range(MOVES):
            x, labels = trainer.batches.next()
            batches.append(Batch(x, labels, 1, SampleStream(derive_seed(seed, "alone", k), torch.arange(len(x)))))
        keep_training(model, trainer.optimisers["discriminator"], batches)
        model.eval()
        plain = log_ratio(model)
        calibrated = log_ratio(model, real=to_model(held.images[:5000]), fakes=5000, seed=seed)
        ways = {
            "plain": lambda: Drawn(runs.sample(model, N, seed=seed), N, 1.0),
            "drs": lambda: drs(model, N, plain, percentile=80.0, seed=seed),
            "drs, calibrated": lambda: drs(model, N, calibrated, percentile=80.0, seed=seed),
            "mh": lambda: mh(model, N, plain, steps=CHAIN, seed=seed),
            "mh, calibrated": lambda: mh(model, N, calibrated, steps=CHAIN, seed=seed),
        }
        rows = {}
        for name, way in ways.items():
            began = time.process_time()
            found = way()
            rows[name] = judged(found, time.process_time() - began)
    return {"recipe": recipe, "seed": seed, "budget": budget, "steps": trainer.step, "ways": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=["gan/vanilla"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cpu-seconds", type=float, default=120)
    parser.add_argument("--out", type=Path, default=Path("docs/results/resampling.jsonl"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    done = {(r["recipe"], r["seed"], r["budget"]) for r in map(json.loads, lines)}
    for seed in args.seeds:
        for recipe in args.recipes:
            if (recipe, seed, args.cpu_seconds) in done:
                continue
            row = one(recipe, seed, args.cpu_seconds)
            with args.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(
                recipe, seed, {k: round(v["values"]["frechet"][0], 1) for k, v in row["ways"].items()}, file=sys.stderr
            )  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
