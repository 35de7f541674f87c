"""Flows and energies on toys whose density is known: how many nats they are short of the true entropy.

    python benchmarks/flow_toys.py [flow/nsf-2d ...] [--data ring-8 ...] [--seeds 0] [--set train.steps=8000] [--out docs/results/flow-toys.jsonl]

On 20,000 fresh samples x of the data's law p, the mean of log p(x) - log q(x) is the Kullback-Leibler divergence KL(p || q), by which the model's negative log-likelihood exceeds the entropy; of an energy by AIS, with log Z's error in its own. One thread; resumable, a line a run.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from contextlib import nullcontext
from pathlib import Path

import torch

from pushforward import provenance, runs
from pushforward.build import resolve
from pushforward.config import load_recipe
from pushforward.data.toy import Density
from pushforward.evaluation.likelihoods import ais_log_prob
from pushforward.families.energy.model import EnergyModel
from pushforward.families.flow.model import FlowModel

TOYS, N = ("ring-8", "grid-25", "spirals", "moons", "checkerboard"), 20_000


def one(recipe: str, data: str, seed: int, settings: list[str], pictures: Path | None) -> dict[str, object]:
    config = resolve(load_recipe(recipe, [*settings, f"train.seed={seed}"], data=data))
    density = runs.load_data(config)
    assert isinstance(density, Density)
    trainer = runs.make_trainer(config, density)
    began = time.process_time()
    for _ in trainer.steps(config.train.steps):
        pass
    seconds, model = time.process_time() - began, trainer.model
    assert isinstance(model, FlowModel | EnergyModel)
    with trainer.ema.swapped_in() if trainer.ema else nullcontext():
        model.settle()
        x = density.sample(N, generator=torch.Generator().manual_seed(10_000 + seed))
        p, unsure = density.log_prob(x).double(), 0.0
        if isinstance(model, EnergyModel):
            q, log_z = ais_log_prob(model.eval(), x, torch.Generator().manual_seed(seed))
            unsure = (log_z.high - log_z.low) / (2 * 1.96)
        else:
            with torch.no_grad():
                q = torch.cat([model.eval().log_prob(part) for part in x.split(1000)]).double()
        if pictures is not None:
            from pushforward.pictures import density_of, save_picture

            shown = model.sample(2000, generator=torch.Generator().manual_seed(0))
            save_picture(shown, pictures / f"flow-toys-{data}.png", field=density_of(model, shown))
    gap = p - q
    return {
        "recipe": recipe, "data": data, "seed": seed, "settings": settings, "steps": trainer.step, "cpu_seconds": round(seconds, 1), "n": N,
        "parameters": provenance.parameters(model), "entropy": -float(p.mean()), "gap": [float(gap.mean()), math.hypot(float(gap.std()) / math.sqrt(N), unsure)],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=["flow/nsf-2d"])
    parser.add_argument("--data", nargs="+", default=TOYS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--out", type=Path, default=Path("docs/results/flow-toys.jsonl"))
    parser.add_argument("--pictures", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    done = {(r["recipe"], r["data"], r["seed"], tuple(r["settings"])) for r in map(json.loads, lines)}
    for recipe in args.recipes:
        for data in args.data:
            for seed in args.seeds:
                if (recipe, data, seed, tuple(args.settings)) in done:
                    continue
                row = one(recipe, data, seed, args.settings, args.pictures)
                with args.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(f"{recipe} {data} seed {seed}: {row['gap'][0]:.4f} ± {row['gap'][1]:.4f} nats above {row['entropy']:.3f}, {row['cpu_seconds']} CPU s", flush=True)  # type: ignore[index]  # fmt: skip


if __name__ == "__main__":
    main()
