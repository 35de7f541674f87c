"""Energy models on full MNIST: training time, divergences, samples at several lengths of chain, drift from data, steps to a digit, strangeness.

    PUSHFORWARD_DATA=../shared/data python benchmarks/energy.py energy/pcd [--seeds 0 1 2] [--cpu-minutes 25] [--set KEY=VALUE] [--jobs 2]

A run is one thread. Its steps are what 20 steps of its own took, scaled to the minutes asked for. Runs that are in the file already are not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

KEPT = ("frechet", "precision", "recall", "class entropy")
CALM = 0.005  # noise of a move in Lippe's tutorial, whose chains drift by 11.5 in 2,048 moves
LENGTHS = [((60, 256), 10_000), ((1024,), 1_000), ((4096,), 500)]  # moves, of one walk, and samples


def one(
    recipe: str, seed: int, minutes: float, settings: list[str], pictures: Path | None, quick: bool, keep: Path | None
) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    from pushforward import anomaly, provenance, runs
    from pushforward.build import resolve
    from pushforward.config import load_recipe
    from pushforward.data.images import save_grid, to_model
    from pushforward.evaluation import Sides, measure, reference
    from pushforward.families.energy.model import EnergyModel
    from pushforward.labs.contest import images_of, some
    from pushforward.labs.energies import along, drift, recognised
    from pushforward.training.precision import computing_in

    name = recipe.replace("/", "-")
    settings = [*settings, f"train.seed={seed}"]
    config = runs.with_precision(resolve(load_recipe(recipe, settings, data="mnist")))
    data = runs.load_data(config)
    trial = runs.make_trainer(config, data)
    for _ in trial.steps(3):
        pass
    began = time.process_time()
    for _ in trial.steps(23):
        pass
    steps = max(100, int(60 * minutes / ((time.process_time() - began) / 20)))
    rest = [f"train.steps={steps}", f"train.sample_every={steps}", f"train.checkpoint_every={max(100, steps // 20)}"]
    rest.append(f'train.precision="{config.train.precision}"')
    with tempfile.TemporaryDirectory() as folder:
        out = (keep or Path(folder)) / f"{name}-{seed}"
        shutil.rmtree(out, ignore_errors=True)  # a run of before
        began = time.process_time()
        runs.train(load_recipe(recipe, [*settings, *rest], data="mnist"), out, quiet=True)
        seconds = time.process_time() - began
        run = runs.load_run(out)
        log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    model = run.model
    assert isinstance(model, EnergyModel)
    found: dict[str, Any] = {
        "recipe": recipe, "seed": seed, "minutes": minutes, "settings": settings[:-1], "steps": steps, "cpu_seconds": round(seconds, 1),
        "precision": config.train.precision, "sampling_precision": config.train.precision, "parameters": provenance.parameters(model.network), "retries": run.retries,
        "gap": [[r["step"], r["energy/chain_energy"] - r["energy/data_energy"]] for r in log[:: max(1, len(log) // 60)] if "energy/chain_energy" in r],
    }  # fmt: skip
    side = reference("mnist", n=10_000)

    # samples from noise, at several lengths
    found["lengths"], after = {}, {}
    for lengths, n in LENGTHS[:1] if quick else LENGTHS:
        began = time.process_time()
        with computing_in(config.train.precision):
            walked = along(model, min(n, 1000) if quick else n, lengths, seed=seed)
        spent = time.process_time() - began
        after |= {k: (x, spent * k / max(lengths)) for k, x in walked.items()}
    for length, (x, spent) in after.items():
        n = len(x)
        if pictures is not None:
            save_grid(x[:100], pictures / f"energy-{name}-{seed}-{length}.png", columns=20)
        values = measure(Sides(side.real, side.by(x), side.floor["floor"]), ["frechet", "precision-recall", "classes"])
        shares = [values[f"class {k}"].value for k in range(10)]
        found["lengths"][length] = {
            "n": n, "cpu_seconds": round(spent, 1), "values": {k: [values[k].value, values[k].stderr] for k in KEPT},
            "rarest": min(shares), "commonest": max(shares),
        }  # fmt: skip

    # from data: how far chains go
    start = to_model(some(images_of(config, "test"), 200))
    with computing_in(config.train.precision):
        found["drift"] = drift(model, start, (60, 256) if quick else (60, 256, 512, 1024, 2048), seed=seed)

    own = model.sampler.noise
    with computing_in(config.train.precision):
        found["calm_drift"] = drift(model, start, (256,) if quick else (256, 2048), seed=seed, noise=CALM)
    model.sampler = replace(model.sampler, noise=own)

    # from noise: moves until the classifier is sure, and stays so, by the digit that it ends as
    with computing_in(config.train.precision):
        last, when = recognised(model, 500, 256 if quick else 1024, seed=seed)
    found["sure"] = {
        int(d): {
            "chains": int((last == d).sum()),
            "share_sure": float((when[last == d] >= 0).float().mean()) if (last == d).any() else 0.0,
            "median_moves": float(when[(last == d) & (when >= 0)].float().median()) if ((last == d) & (when >= 0)).any() else None,
        }
        for d in range(10)
    }  # fmt: skip
    report = anomaly.score(run, suite="mnist", n=1000 if quick else 5000, quiet=True)
    found["scores"] = {s: {k: v["AUROC"].value for k, v in t.items()} for s, t in report.scores.items()}
    found["figures"] = {k: {f: [m.value, m.stderr] for f, m in v.items()} for k, v in report.scores["energy"].items()}
    found["sizes"] = {"inliers": report.n, **{k: len(v) for k, v in report.outliers["energy"].items()}}
    found["skipped"] = report.skipped
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=["energy/pcd"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cpu-minutes", type=float, default=25)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--quick", action="store_true", help="fewer and shorter chains: for runs whose survival is the question"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/results/energy.jsonl"))
    parser.add_argument("--pictures", type=Path)
    parser.add_argument(
        "--keep",
        type=Path,
        help="folder for the trained runs, for labs to look at; one of the same recipe and seed there is replaced",
    )
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(
            json.dumps(
                one(
                    args.recipes[0],
                    args.seeds[0],
                    args.cpu_minutes,
                    args.settings,
                    args.pictures,
                    args.quick,
                    args.keep,
                )
            )
        )
        return
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    done = {
        (r["recipe"], r["seed"], r["minutes"], tuple(r["settings"]), "1024" not in r["lengths"])
        for r in map(json.loads, lines)
    }
    cells = [
        (r, s)
        for s in args.seeds
        for r in args.recipes
        if (r, s, args.cpu_minutes, tuple(args.settings), args.quick) not in done
    ]

    def work(cell: tuple[str, int]) -> None:
        words = [
            sys.executable,
            __file__,
            cell[0],
            "--one",
            "--seeds",
            str(cell[1]),
            "--cpu-minutes",
            str(args.cpu_minutes),
        ]
        words += [w for s in args.settings for w in ("--set", s)] + (["--quick"] if args.quick else [])
        words += ["--pictures", str(args.pictures)] if args.pictures else []
        words += ["--keep", str(args.keep)] if args.keep else []
        ran = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if ran.returncode:
            print(f"{cell[0]} seed {cell[1]} failed: {ran.stderr.strip().splitlines()[-1]}", flush=True)
            return
        line = ran.stdout.splitlines()[-1]
        with args.out.open("a") as file:
            file.write(line + "\n")
        r = json.loads(line)
        frechet = {k: round(v["values"]["frechet"][0], 1) for k, v in r["lengths"].items()}
        print(
            f"{cell[0]} {cell[1]}: {r['steps']} steps, {r['retries']} retries, Frechet {frechet}, drift {r['drift']}",
            flush=True,
        )

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(work, cells))


if __name__ == "__main__":
    main()
