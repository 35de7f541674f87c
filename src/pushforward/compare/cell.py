"""One cell of a comparison: train a run, or go on with it, judge it, and write down what it found and cost.

Each cell is a process of its own (`python -m pushforward.compare.cell FOLDER NAME SEED`), so that its threads and its memory are its own, and
a crash is its own too.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pushforward import pictures, provenance, runs
from pushforward.build import resolve
from pushforward.compare.budget import Flops, flops_a_step
from pushforward.compare.engines import PARENT
from pushforward.compare.plan import Entry, Plan, cell_file, cell_folder
from pushforward.compare.table import read_cell
from pushforward.config import DataConfig
from pushforward.errors import ConfigError, PushforwardError, TrainingError
from pushforward.evaluation import Judge, nearest_picture, reference
from pushforward.training.checkpoint import write_atomic
from pushforward.training.logs import read_log

_STARTED = "PUSHFORWARD_CELL"  # in the environment of a cell's processes: who launched them
PICTURED = 64  # samples in each cell's grid


def run_cell(out: Path, name: str, seed: int) -> dict[str, Any]:
    """Train and judge one cell; what it found, or why it failed, is in its file when this returns.

    Args:
        out: The comparison's folder.
        name: Of the entry.
        seed: Of training.
    """
    plan, entry = _find(out, name)
    torch.set_num_threads(plan.threads)
    file, folder = cell_file(out, entry, seed), cell_folder(out, entry, seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    stamp = plan.stamp(entry, seed)
    with _alone(file.with_suffix(".lock")):
        before = read_cell(out, plan, entry, seed)
        if before is not None and "failed" not in before:
            return before  # another process did it while this one waited
        try:
            outcome = _work(plan, entry, seed, folder, file)
        except PushforwardError as error:
            outcome = {"failed": str(error)}
        except Exception as error:  # a user's own term may raise anything; the others go on
            outcome = {"failed": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        outcome = {"name": name, "seed": seed, "stamp": stamp, **outcome}
        write_atomic(file, json.dumps(outcome, indent=1))
    return outcome


def _find(out: Path, name: str) -> tuple[Plan, Entry]:
    plan = Plan.load(out)
    entry = next((e for e in plan.entries if e.name == name), None)
    if entry is None:
        raise ConfigError(f"{out} compares nothing called {name!r}.")
    return plan, entry


def _work(plan: Plan, entry: Entry, seed: int, folder: Path, file: Path) -> dict[str, Any]:
    if entry.run is None:
        if plan.processes > 1:
            _launch(plan.processes)  # what follows then finds the run at its end
        runs.train(entry.resolved(seed), folder, resume=True, quiet=True)
        joined = json.loads((folder / "environment.json").read_text(encoding="utf8"))["processes"]
        if joined != plan.processes:
            raise TrainingError(
                f"{plan.processes} processes were asked for, but {joined} trained: they did not find one another."
            )
    section = DataConfig.model_validate(plan.data)
    judge = Judge.of(
        reference(section, n=plan.n, by=plan.extractor), None if plan.metrics is None else list(plan.metrics)
    )
    judged, features = judge.candidate(str(folder))
    found = judge.judge(judged, features, target=str(folder))
    wrong = [m for m, v in found["values"].items() if not math.isfinite(v["value"])]
    if wrong:
        raise TrainingError(f"its {wrong[0]} is not a finite number.")
    if judge.side.train is not None:
        nearest_picture(
            judged.x, features, judge.side, file.with_name(f"seed-{seed}-neighbours.png"), rows=8, nearest=5
        )
        pictures.save_picture(judged.x[:PICTURED], file.with_name(f"seed-{seed}.png"), columns=8)
    else:
        pictures.save_picture(judged.x[: pictures.POINTS], file.with_name(f"seed-{seed}.png"))
    loaded = runs.load_run(folder)
    log = read_log(folder / "log.jsonl")
    with Flops() as counter:
        loaded.model.sample(8, generator=torch.Generator().manual_seed(0))
    return {
        "protocol": judge.protocol(),
        "values": found["values"],
        "warnings": found["warnings"],
        "costs": {
            "steps": loaded.step,
            "training seconds": loaded.seconds,
            "training images/s": log[-1]["images"] / max(loaded.seconds, 1e-9) if log else None,
            "parameters": sum(provenance.parameters(p.module) for p in loaded.model.phases()),
            "training FLOPs": loaded.step * _flops(entry, seed, folder),
            "peak memory MB": max((row["peak_memory_mb"] for row in log if "peak_memory_mb" in row), default=None),
            "sampling ms": found["sampling_ms_an_image"],
            "sampling FLOPs": counter.total / 8,
            "network evaluations": getattr(loaded.model, "evaluations", 1),
        },
        "capabilities": {c: hasattr(loaded.model, c) for c in ("log_prob", "energy", "score", "encode")},
    }


def _flops(entry: Entry, seed: int, folder: Path) -> float:
    """Operations of one training step, by a short trial on the same data."""
    config = runs.load_run(folder).config if entry.run is not None else resolve(entry.resolved(seed))
    config = config.model_copy(update={"train": config.train.model_copy(update={"tracker": None, "precision": "no"})})
    return flops_a_step(runs.make_trainer(config, runs.load_data(config)))


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Waits until no other process works on the cell; the lock of a process that died is free."""
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _die_with(parent: int) -> None:
    """End this process when `parent` is gone, so that no cell trains on unseen after a kill."""

    def watch() -> None:
        while _alive(parent):
            time.sleep(0.3)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _alive(process: int) -> bool:
    """Whether a process runs; one that ended and that nobody has asked after does not."""
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, IndexError):
        return False
    except OSError:  # not ours to signal, or a system without /proc
        return True


def _launch(processes: int) -> None:
    """Train the same cell as several processes under accelerate.

    Raises:
        TrainingError: they failed.
    """
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    words += ["-m", "pushforward.compare.cell", *sys.argv[1:]]
    ran = subprocess.run(words, env={**os.environ, _STARTED: str(os.getpid())})
    if ran.returncode:
        raise TrainingError(
            f"its {processes} processes ended with code {ran.returncode}; the .log beside its folder says why."
        )


def main() -> None:
    """Entry point of the process."""
    out, name, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    started = os.environ.get(_STARTED)
    _die_with(int(started or os.environ.get(PARENT) or os.getppid()))
    if started:  # one of several processes of a cell: it trains its share, who launched it judges
        plan, entry = _find(out, name)
        torch.set_num_threads(plan.threads)
        runs.train(entry.resolved(seed), cell_folder(out, entry, seed), resume=True, quiet=True)
        return
    outcome = run_cell(out, name, seed)
    if "failed" in outcome:
        print(outcome["failed"], file=sys.stderr)
        sys.exit(3)


if __name__ == "__main__":
    main()
