"""Quality against training time: recipes on full MNIST, judged against the test images whenever a budget is spent; resumable, a line a judgement.

    PUSHFORWARD_DATA=../shared/data python benchmarks/quality.py gan/dcgan-conditional diffusion/edm [--seeds 0 1 2] [--cpu-minutes 6 20 60] [--jobs 2]

A run is one thread, so that two of them side by side fill two cores, and its time is that of its thread: 6 CPU minutes are 3 minutes of two cores. Only
training counts; sampling and judging do not. A recipe whose learning rate falls is trained for each budget by itself, its rate reaching 0 where the budget ends.
Recipes were chosen on training images held out, but for the solver and the constant rate of diffusion/edm*: their trials (the rows with settings, and with
n = 2,000) were judged against the test images, by differences within the error of two runs.
What is in the file already is not repeated. A run goes on from the checkpoint that `--keep` left of it, where its last judgement stands in the file and its rate
is constant; else it is trained anew.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pushforward.config import RunConfig
    from pushforward.data.images import ImageSet
    from pushforward.training.trainer import Trainer

METRICS = ["frechet", "kid", "precision-recall", "density-coverage", "classes"]
KEPT = ("frechet", "kid", "precision", "recall", "density", "coverage", "class entropy")


def rows_of(out: Path) -> list[dict]:
    """The judgements that are in the file."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def go_on(
    config: RunConfig, data: ImageSet, folder: Path, rows: list[dict], first: float
) -> tuple[Trainer | None, float]:
    """The run as it was kept and the CPU seconds in it, where it can go on to the first of the budgets; None and 0, and a line that says why, where it cannot."""

    def anew(why: str) -> tuple[None, float]:
        print(f"{folder.name}: {why}; it is trained anew", flush=True)
        return None, 0.0

    from pushforward import runs
    from pushforward.build import resolve
    from pushforward.config import parse, read
    from pushforward.training import checkpoint

    path = checkpoint.newest(folder / "checkpoints")
    if path is None:
        return anew("no run is kept")
    if config.train.schedule != "constant":
        return anew("its learning rate ends with the budget")
    both = (config, resolve(parse(read(folder / "config.toml"), "config.toml")))  # a file leaves out what is None
    if len({json.dumps(c.model_dump(mode="json", exclude={"about", "expect"}), sort_keys=True) for c in both}) > 1:
        return anew("the kept run has other settings")
    minutes = [r["cpu_minutes"] for r in rows if r["steps"] == int(path.name) and "network" not in r]
    if len(minutes) != 1:
        return anew(f"{len(minutes)} rows of the file are of its step {int(path.name)}")
    if minutes[0] >= first:
        return anew(f"the kept run is of {minutes[0]:g} minutes already")
    trainer = runs.make_trainer(config, data)
    trainer.restore(path)
    return trainer, 60 * minutes[0]


def one(
    recipe: str, seed: int, minutes: list[float], n: int, settings: list[str], out: Path, keep: Path | None
) -> None:
    """Train one run and append a line at each budget."""
    import torch

    torch.set_num_threads(1)
    from pushforward import runs
    from pushforward.config import dump
    from pushforward.data.images import save_grid, to_bytes
    from pushforward.evaluation import Sides, measure, reference
    from pushforward.labs.contest import averaged, config_of, images_of, train_for

    config = config_of(recipe, settings, data="mnist", seed=seed)
    data, side = images_of(config), reference("mnist", n=n)
    trainer, spent, older = None, 0.0, False
    folder = None if keep is None else keep / f"{recipe.replace('/', '-')}-{seed}"
    if folder is not None:
        same = [r for r in rows_of(out) if (r["recipe"], r["settings"], r["seed"]) == (recipe, settings, seed)]
        trainer, spent = go_on(config, data, folder, same, min(minutes))
        older = trainer is None
        if trainer is not None:
            print(f"{recipe} {seed} goes on from step {trainer.step}", flush=True)
    for budget in sorted(minutes):
        if config.train.schedule != "constant":
            trainer, spent = None, 0.0
        trainer = train_for(config, data, 60 * budget - spent, trainer)
        spent = 60 * budget
        model = trainer.model
        start = time.process_time()
        with averaged(trainer):
            x = to_bytes(runs.sample(model, n, seed=seed, precision=config.train.precision))
        model.train()
        sampling = time.process_time() - start
        values = measure(Sides(side.real, side.by(x), side.floor["floor"]), METRICS)
        shares = [values[f"class {k}"].value for k in range(10)]
        row = {
            "recipe": recipe,
            "settings": settings,
            "seed": seed,
            "cpu_minutes": budget,
            "steps": trainer.step,
            "images": trainer.step * config.train.batch_size,
            "precision": config.train.precision,
            "sampling_precision": config.train.precision,
            "n": n,
            "extractor_sha256": side.by.sha256,
            "sampling_cpu_ms": 1000 * sampling / n,
            "evaluations": model.sampler.evaluations() if hasattr(model, "sampler") else 1,
            "values": {k: [values[k].value, values[k].stderr] for k in KEPT},
            "rarest": min(shares),
            "commonest": max(shares),
        }
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if seed == 0:
            save_grid(x[:100], out.with_name(f"quality-{recipe.replace('/', '-')}-{budget:g}.png"), scale=1)
        v = row["values"]
        print(f"{recipe} {seed} {budget:g} CPU min, step {trainer.step}: Frechet {v['frechet'][0]:.1f}, R {v['recall'][0]:.3f}, classes {row['rarest']:.3f} to {row['commonest']:.3f}", flush=True)  # fmt: skip
        if folder is not None:
            if older:  # only now that there is a run in its place; a longer one would be taken for the newest
                shutil.rmtree(folder, ignore_errors=True)
                older = False
            trainer.save(folder / "checkpoints", keep=1)
            (folder / "config.toml").write_text(dump(config))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cpu-minutes", type=float, nargs="+", default=[6, 20, 60])
    parser.add_argument("-n", type=int, default=10_000, help="samples judged; the table is of 10,000")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs/results/quality.jsonl"))
    parser.add_argument(
        "--keep",
        type=Path,
        help="folder for the trained runs, for labs to look at; one of the same recipe and seed there is replaced, if it cannot be gone on with",
    )
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args.recipes[0], args.seeds[0], args.cpu_minutes, args.n, args.settings, args.out, args.keep)
        return
    done = {(r["recipe"], r["seed"], r["cpu_minutes"]) for r in rows_of(args.out) if r["settings"] == args.settings}

    def work(cell: tuple[str, int]) -> None:
        left = [m for m in args.cpu_minutes if (*cell, m) not in done]
        if not left:
            return
        words = [
            sys.executable,
            __file__,
            cell[0],
            "--one",
            "--seeds",
            str(cell[1]),
            "--out",
            str(args.out),
            "-n",
            str(args.n),
        ]
        words += ["--cpu-minutes", *map(str, left), *(w for s in args.settings for w in ("--set", s))]
        words += ["--keep", str(args.keep)] if args.keep else []
        ran = subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if ran.returncode:
            print(f"{cell[0]} seed {cell[1]} failed", flush=True)

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(work, [(r, s) for s in args.seeds for r in args.recipes]))


if __name__ == "__main__":
    main()
