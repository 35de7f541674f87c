"""Where cells run: processes of this machine, or a Ray cluster."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from pushforward.compare.plan import Entry, Plan
from pushforward.errors import NotSupported

PARENT = "PUSHFORWARD_COMPARISON"
"""In a cell's environment: the process with which it ends."""

Cell = tuple[Entry, int]
Ended = tuple[Cell, str | None]
"""A cell that is over, and how its process died if it did."""
Tell = Callable[[Sequence[Cell]], None]
"""Called now and then with the cells that run at the moment."""

PATIENCE = 120.0  # seconds that a cell has to save itself when the comparison is stopped


def local(out: Path, plan: Plan, cells: Sequence[Cell], *, jobs: int, tell: Tell) -> Iterator[Ended]:
    """Run cells as processes of `plan.threads` threads, `jobs` at a time; yields each when it is over, with how it died if it did.

    On Ctrl-C the running ones are asked to save and stop; they go on from there at the next call.
    """
    waiting = list(cells)
    running: dict[Cell, subprocess.Popen[bytes]] = {}
    count = str(plan.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, PARENT: str(os.getpid())}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                entry, seed = cell = waiting.pop(0)
                words = [sys.executable, "-m", "pushforward.compare.cell", str(out), entry.name, str(seed)]
                log = (out / "cells" / entry.name / f"seed-{seed}.log").open("ab")
                with log:
                    # A session of its own: Ctrl-C reaches this process alone, which then asks them one by one.
                    running[cell] = subprocess.Popen(
                        words, stdout=log, stderr=log, env=environment, start_new_session=True
                    )
            tell(list(running))
            time.sleep(0.2)
            for cell in [c for c, process in running.items() if process.poll() is not None]:
                yield cell, _death(running.pop(cell).returncode)
    finally:
        for process in running.values():
            process.send_signal(signal.SIGTERM)
        for process in running.values():
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


def _death(code: int) -> str | None:
    """How a cell's process ended, unless it wrote that down itself."""
    if code < 0:
        return f"its process was ended by signal {-code} ({signal.Signals(-code).name}); out of memory, perhaps."
    return None if code in (0, 3) else f"its process ended with code {code}; the .log beside its folder says why."


def on_ray(out: Path, plan: Plan, cells: Sequence[Cell], *, address: str | None, tell: Tell) -> Iterator[Ended]:
    """Run each cell as a Ray task with its threads as cores, and a GPU where the cluster has some.

    The folder must be one that every node sees. Without an address a cluster is started on this machine.

    Raises:
        NotSupported: ray is not installed.
    """
    if find_spec("ray") is None:
        raise NotSupported("--engine ray needs the package ray: pip install 'pushforward[cluster]'.")
    import ray

    if address is None:  # Ray makes its workers nice by 15, so that any other work on this machine starves them
        os.environ.setdefault("RAY_worker_niceness", "0")
    started = not ray.is_initialized()
    if started:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    try:
        gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0

        @ray.remote(num_cpus=plan.threads, num_gpus=gpus, max_calls=1)  # type: ignore[untyped-decorator]
        def work(name: str, seed: int) -> None:
            from pushforward.compare.cell import run_cell

            run_cell(out.resolve(), name, seed)

        tasks = {work.remote(entry.name, seed): (entry, seed) for entry, seed in cells}
        while tasks:
            tell(list(tasks.values()))
            done, _ = ray.wait(list(tasks), num_returns=1, timeout=1.0)
            for task in done:
                try:
                    ray.get(task)
                    died = None
                except Exception as error:  # whatever Ray or the worker raised
                    died = f"its Ray task ended: {' '.join(str(error).split())[:300]}"
                yield tasks.pop(task), died
    finally:
        if started:
            ray.shutdown()
