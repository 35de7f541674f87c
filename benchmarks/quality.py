"""Quality against training time: one recipe on full MNIST, judged at given minutes against the test images.

    PUSHFORWARD_DATA=../shared/data python benchmarks/quality.py gan/dcgan --minutes 1 3 10 --out docs/results/quality-dcgan

Time is that of training steps alone; judging and sampling are not counted. The recipe was chosen on training images only.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from pushforward import runs
from pushforward.build import resolve
from pushforward.config import load_recipe
from pushforward.data.images import save_grid, to_bytes
from pushforward.evaluation import Sides, measure, reference

METRICS = ["frechet", "precision-recall", "classes"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 3, 10])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--out", type=Path, required=True, help="stem of the .json and .png that are written")
    args = parser.parse_args()
    config = resolve(load_recipe(args.recipe, [*args.settings, f"train.seed={args.seed}"], data=args.data))
    config = runs.with_precision(config)
    side = reference(args.data)
    trainer = runs.make_trainer(config, runs.load_data(config))
    model = trainer.model
    assert trainer.ema is not None
    plain = lambda values: {k: {"value": m.value, "stderr": m.stderr} for k, m in values.items()}  # noqa: E731
    found: dict[str, Any] = {
        "command": " ".join(sys.argv),
        "recipe": args.recipe,
        "settings": args.settings,
        "seed": args.seed,
        "n": side.n,
        "extractor_sha256": side.by.sha256,
        "precision": config.train.precision,
        "threads": torch.get_num_threads(),
        "floor": {
            rung: plain(measure(Sides(side.real, f, side.floor["floor"]), METRICS)) for rung, f in side.floor.items()
        },
        "at": [],
    }
    waiting = sorted(args.minutes)
    for report in trainer.steps(10**9):
        if trainer.seconds < 60 * waiting[0]:
            continue
        minutes = waiting.pop(0)
        with trainer.ema.swapped_in():
            model.settle()
            x = to_bytes(runs.sample(model, side.n, seed=1))
        values = plain(measure(Sides(side.real, side.by(x), side.floor["floor"]), METRICS))
        found["at"].append(
            {"minutes": minutes, "step": report.step, "images": report.step * config.train.batch_size, "values": values}
        )
        save_grid(x[:100], args.out.with_name(f"{args.out.name}-{minutes:g}min.png"), scale=1)
        shares = [v["value"] for k, v in values.items() if k.startswith("class ") and k[6:].isdigit()]
        print(
            f"{args.recipe} {minutes:g} min, step {report.step}: Frechet {values['frechet']['value']:.1f}, precision {values['precision']['value']:.3f}, recall {values['recall']['value']:.3f}, classes {min(shares):.3f} to {max(shares):.3f}",
            flush=True,
        )
        args.out.with_suffix(".json").write_text(json.dumps(found, indent=1))
        if not waiting:
            break


if __name__ == "__main__":
    main()
