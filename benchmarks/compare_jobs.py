"""Wall time of a comparison with one job and with several, cells of one thread each; in turn, medians.

    python benchmarks/compare_jobs.py [--jobs 2] [--rounds 2] [--json docs/results/compare-jobs.json]

Only the training and judging of cells is compared: the protocol (floor, features of the real side) is set up in both, and is part of both times.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPES = ["gan/vanilla", "gan/lsgan", "gan/icr"]


def seconds(jobs: int, steps: int) -> float:
    """Of one comparison of three recipes and two seeds, in a fresh folder."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "pushforward", "compare", *RECIPES, "--seeds", "2", "--budget", f"{steps}steps"]
        words += ["-n", "500", "--threads", "1", "--jobs", str(jobs), "--out", str(Path(folder) / "c"), "--quiet"]
        start = time.perf_counter()
        subprocess.run(words, check=True, capture_output=True)
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    spent: dict[int, list[float]] = {1: [], args.jobs: []}
    for _ in range(args.rounds):
        for jobs in spent:
            spent[jobs].append(seconds(jobs, args.steps))
            print(f"{jobs} at a time: {spent[jobs][-1]:.1f} s", flush=True)
    one, many = (statistics.median(v) for v in spent.values())
    print(f"{one / many:.2f} times faster with {args.jobs} jobs")
    if args.json:
        args.json.write_text(
            json.dumps(
                {"command": " ".join(sys.argv), "cells": 6, "steps": args.steps, "seconds": spent, "ratio": one / many},
                indent=1,
            )
        )


if __name__ == "__main__":
    main()
