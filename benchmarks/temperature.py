"""Trained GANs sampled at several temperatures, judged against training images: how a recipe's `model.temperature` is chosen without a look at test images.

    PUSHFORWARD_DATA=../shared/data python benchmarks/quality.py gan/r3gan-conditional --seeds 2 --keep runs
    PUSHFORWARD_DATA=../shared/data python benchmarks/temperature.py runs/gan-r3gan-conditional-2 [--temperatures 1 1.05 1.1] [--json docs/results/temperature.json]

10,000 training images, the same for every run and temperature, stand where test images stand elsewhere; the latents are the same but for their width.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

METRICS = ("frechet", "precision", "recall")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2])
    parser.add_argument("-n", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    from pushforward import runs
    from pushforward.build import change_sampler
    from pushforward.data.fetch import load
    from pushforward.data.images import to_bytes
    from pushforward.evaluation import Sides, measure, reference
    from pushforward.labs.contest import some

    side = reference("mnist", n=args.n)
    real = side.by(some(load("mnist", "train"), args.n))
    rows = []
    for folder in args.runs:
        run = runs.load_run(folder)
        for temperature in args.temperatures:
            change_sampler(run.model, None, [f"temperature={temperature}"])
            fake = side.by(to_bytes(runs.sample(run.model, args.n, seed=11)))
            values = measure(Sides(real, fake, side.floor["floor"]), ["frechet", "precision-recall"])
            row = {"run": folder.name, "steps": run.step, "temperature": temperature}
            rows.append(row | {k: [values[k].value, values[k].stderr] for k in METRICS})
            print(folder.name, temperature, *(f"{k} {values[k].value:.4g}" for k in METRICS), flush=True)
    if args.json:
        told = " ".join(f"{t:g}" for t in args.temperatures)
        command = f"benchmarks/temperature.py {' '.join(r.name for r in args.runs)} --temperatures {told} -n {args.n}"
        args.json.write_text(json.dumps({"command": command, "n": args.n, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
