"""Every GAN recipe under one budget of CPU time, judged by one protocol on full MNIST; resumable, a line a run.

    PUSHFORWARD_DATA=../shared/data python benchmarks/family.py [--seeds 0 1 2] [--cpu-seconds 120] [--jobs 2]

A run is one thread: it trains until it has used its CPU seconds, then 10,000 samples of its averaged weights are judged against the 10,000 test images. Runs side by
side share caches and memory, so that the same CPU seconds can be half as many steps (compare rows of one hour alone); the steps are written down. Runs that are in the file already are not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

METRICS = ["frechet", "kid", "precision-recall", "density-coverage", "classes"]
KEPT = ("frechet", "kid", "precision", "recall", "density", "coverage", "class entropy")


def one(
    recipe: str, seed: int, budget: float, precision: str, settings: list[str], pictures: Path | None
) -> dict[str, object]:
    import torch

    torch.set_num_threads(1)
    from pushforward import runs
    from pushforward.data.images import to_bytes
    from pushforward.evaluation import Sides, measure, reference
    from pushforward.labs.contest import averaged, config_of, images_of, train_for
    from pushforward.pictures import save_picture

    config = config_of(recipe, settings, data="mnist", seed=seed)
    config = config.model_copy(update={"train": config.train.model_copy(update={"precision": precision})})  # all alike
    start = time.process_time()
    trainer = train_for(config, images_of(config), budget)
    seconds = time.process_time() - start
    with averaged(trainer) as model:
        x = to_bytes(runs.sample(model, 10_000, seed=seed))
    if pictures is not None:
        save_picture(x[:100], pictures / f"{recipe.replace('/', '-')}-{seed}.png", columns=10)
    side = reference("mnist", n=10_000)
    values = measure(Sides(side.real, side.by(x), side.floor["floor"]), METRICS)
    shares = [values[f"class {k}"].value for k in range(10)]
    return {
        "recipe": recipe,
        "seed": seed,
        "cpu_seconds": round(seconds, 1),
        "budget": budget,
        "when": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "precision": precision,
        **({"settings": settings} if settings else {}),
        "steps": trainer.step,
        "extractor_sha256": side.by.sha256,
        "values": {k: [values[k].value, values[k].stderr] for k in KEPT},
        "rarest": min(shares),
        "commonest": max(shares),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", help="all gan/* when absent")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cpu-seconds", type=float, default=120)
    parser.add_argument("--precision", choices=["no", "bf16"], default="no")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs/results/family.jsonl"))
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one, args.seeds[0], args.cpu_seconds, args.precision, args.settings, args.pictures)))
        return
    from pushforward.config import recipe_names

    recipes = args.recipes or [
        r for r in recipe_names() if r.startswith("gan/") and "toy" not in r and "stacked" not in r
    ]
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    done = {
        (r["recipe"], r["seed"], r["budget"], r.get("precision", "no"))
        for r in map(json.loads, lines)
        if r.get("settings", []) == args.settings
    }
    waiting = [(r, s) for s in args.seeds for r in recipes if (r, s, args.cpu_seconds, args.precision) not in done]

    def work(cell: tuple[str, int]) -> None:
        words = [sys.executable, __file__, "--one", cell[0], "--seeds", str(cell[1])]
        words += ["--cpu-seconds", str(args.cpu_seconds), "--precision", args.precision]
        words += [w for s in args.settings for w in ("--set", s)]
        words += ["--pictures", str(args.pictures)] if args.pictures else []
        ran = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if ran.returncode:
            print(f"{cell[0]} seed {cell[1]} failed: {ran.stderr.strip().splitlines()[-1]}", flush=True)
            return
        line = ran.stdout.splitlines()[-1]
        with args.out.open("a") as file:
            file.write(line + "\n")
        found = json.loads(line)
        print(
            f"{cell[0]:24} {cell[1]} {found['steps']:6} steps  Frechet {found['values']['frechet'][0]:.1f}", flush=True
        )

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(work, waiting))


if __name__ == "__main__":
    main()
