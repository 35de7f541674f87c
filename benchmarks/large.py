"""Metrics of features that lie on disk: seconds and peak memory against n, up to 200,000 x 2048.

    python benchmarks/large.py [--sizes 25000 50000 100000 200000] [--metrics frechet sliced-w2 kid prdc] [--json docs/results/large.json]

Features are memory maps, read block by block; each measurement is a process of its own, and its memory is what it allocated (pages of the
files, which the system may drop at any time, are not counted). The two sets take 3.3 GB of disk in the folder --at.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch


def make(folder: Path, n: int, d: int) -> None:
    """Two correlated clouds, like pooled activations: non-negative and unequal."""
    g = torch.Generator().manual_seed(0)
    mix = torch.randn(d, d, generator=g) / d**0.5
    for name, shift in (("real", 0.0), ("fake", 0.1)):
        out = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, (n, d))
        for start in range(0, n, 10_000):
            stop = min(start + 10_000, n)
            out[start:stop] = (torch.randn(stop - start, d, generator=g) @ mix + shift).relu().numpy()
        out.flush()


def allocated() -> float:
    """Megabytes that this process holds and that no file backs."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def one(metric: str, folder: Path, n: int) -> None:
    from pushforward import metrics
    from pushforward.training.memory import keep_freed_memory

    keep_freed_memory()
    x, y = (np.load(folder / f"{name}.npy", mmap_mode="c")[:n] for name in ("real", "fake"))
    table = {
        "frechet": lambda: metrics.frechet_distance(real=x, fake=y).value,
        "sliced-w2": lambda: metrics.sliced_wasserstein(real=x, fake=y).value,
        "kid": lambda: metrics.kernel_distance(real=x, fake=y).value,
        "prdc": lambda: metrics.prdc(real=x, fake=y)[1].coverage.value,
    }
    before, peak, done = allocated(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], allocated())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    value = table[metric]()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    print(json.dumps({"metric": metric, "n": n, "seconds": seconds, "peak_mb": peak[0] - before, "value": value}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[25_000, 50_000, 100_000, 200_000])
    parser.add_argument("--d", type=int, default=2048)
    parser.add_argument("--metrics", nargs="+", default=["frechet", "sliced-w2"])
    parser.add_argument("--at", type=Path, help="where to put the features; a temporary folder when absent")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args.one, args.at, args.sizes[0])
        return
    with tempfile.TemporaryDirectory(dir=args.at) as folder:
        make(Path(folder), max(args.sizes), args.d)
        rows = []
        for metric in args.metrics:
            for n in args.sizes:
                words = [sys.executable, __file__, "--one", metric, "--at", folder, "--sizes", str(n)]
                found = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
                rows.append(json.loads(found))
                print(found, flush=True)
    if args.json:
        args.json.write_text(json.dumps({"command": " ".join(sys.argv), "d": args.d, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
