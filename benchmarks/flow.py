"""Flows on full MNIST: bits/dim of the 10,000 test images with their standard error, samples, and how exactly they invert.

    PUSHFORWARD_DATA=../shared/data python benchmarks/flow.py flow/multiscale-mnist [--seeds 0] [--cpu-minutes 60] [--set KEY=VALUE]

A run is one thread. Its steps are what 20 of its own took, scaled to the minutes asked for, so that its schedule ends with them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from pathlib import Path
from typing import Any

import torch

from pushforward import provenance, runs
from pushforward.build import resolve
from pushforward.config import load_recipe, parse, read
from pushforward.data.images import ImageSet, save_grid, to_bytes, to_model
from pushforward.evaluation import Sides, measure, reference
from pushforward.families.flow.model import FlowModel
from pushforward.metrics.likelihood import likelihood


def one(recipe: str, seed: int, minutes: float, settings: list[str], folder: Path) -> dict[str, Any]:
    settings = [*settings, f"train.seed={seed}"]
    config = runs.with_precision(resolve(load_recipe(recipe, settings, data="mnist")))
    trial = runs.make_trainer(config, runs.load_data(config))
    for _ in trial.steps(3):
        pass
    began = time.process_time()
    for _ in trial.steps(23):
        pass
    steps = max(100, int(60 * minutes / ((time.process_time() - began) / 20)))
    mark = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]
    out = folder / f"{recipe.replace('/', '-')}-{seed}-{minutes:g}-{mark}"
    resumed = (out / "config.toml").exists()
    if resumed:
        config = parse(read(out / "config.toml"), str(out))
    else:
        rest = [
            f"train.steps={steps}",
            f"train.sample_every={steps}",
            f"train.checkpoint_every={max(100, steps // 20)}",
        ]
        rest.append(f'train.precision="{config.train.precision}"')
        config = load_recipe(recipe, [*settings, *rest], data="mnist")
    began = time.process_time()
    runs.train(config, out, quiet=True, resume=True)
    seconds = time.process_time() - began
    run = runs.load_run(out)
    model = run.model
    assert isinstance(model, FlowModel)
    test = runs.load_data(run.config, "test")
    assert isinstance(test, ImageSet)
    x = to_model(test.images)
    generator = torch.Generator().manual_seed(0)
    found: dict[str, Any] = {
        "recipe": recipe, "seed": seed, "minutes": minutes, "settings": settings[:-1], "steps": run.step, "cpu_seconds": None if resumed else round(seconds, 1),
        "precision": run.config.train.precision, "parameters": provenance.parameters(model), "retries": run.retries,
    }  # fmt: skip
    with torch.no_grad():
        for draws in (1,) if model.estimated else (1, 8):
            nats = torch.cat([model.log_prob(b, draws=draws, generator=generator) for b in x.split(250)])
            figure = likelihood(nats, dimensions=model.dims, kind="bound")
            found[f"bits_per_dim_{draws}"] = [figure.bits_per_dim.value, figure.bits_per_dim.stderr, len(x)]
        began = time.process_time()
        fakes = to_bytes(runs.sample(model, 10_000, seed=seed))
        found["sampling_cpu_seconds"] = round(time.process_time() - began, 1)
        again = model.decode(model.encode(x[:200]))
        found["bytes_that_do_not_return"] = int((to_bytes(again) != test.images[:200]).sum())
    save_grid(fakes[:100], folder / f"{recipe.replace('/', '-')}-{seed}-{minutes:g}.png", columns=20)
    side = reference("mnist", n=10_000)
    values = measure(Sides(side.real, side.by(fakes), side.floor["floor"]), ["frechet", "precision-recall"])
    found["values"] = {k: [values[k].value, values[k].stderr] for k in ("frechet", "precision", "recall")}
    found["nats"] = found["bits_per_dim_1"][0] * model.dims * math.log(2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=["flow/multiscale-mnist"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--cpu-minutes", type=float, default=60)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--out", type=Path, default=Path("docs/results/flow.jsonl"))
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/flow-benchmark"), help="where runs are kept; they go on after a stop"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.runs.mkdir(parents=True, exist_ok=True)
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    done = {(r["recipe"], r["seed"], r["minutes"], tuple(r["settings"])) for r in map(json.loads, lines)}
    for seed in args.seeds:
        for recipe in args.recipes:
            if (recipe, seed, args.cpu_minutes, tuple(args.settings)) in done:
                continue
            row = one(recipe, seed, args.cpu_minutes, args.settings, args.runs)
            with args.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)


if __name__ == "__main__":
    main()
