"""`make demo`: three GANs on real digits, judged, on one page. It runs the commands that a user would type.

    python tools/demo.py [--out demo] [--fast]

A demo that was interrupted goes on where it stopped; a finished one is not trained again.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

RECIPES = {"vanilla": 1800, "lsgan": 1800, "dcgan": 1000}  # training steps


def pushforward(*words: object) -> None:
    print("\n$ pushforward", shlex.join(map(str, words)), flush=True)
    subprocess.run([sys.executable, "-m", "pushforward", *map(str, words)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo"))
    parser.add_argument("--fast", action="store_true", help="a hundredth of the steps: a check of the plumbing")
    args = parser.parse_args()
    start = time.perf_counter()
    runs = []
    for name, steps in RECIPES.items():
        steps = max(steps // 100, 10) if args.fast else steps
        run = args.out / name
        pushforward(
            "train", f"gan/{name}", "--data", "mnist-5k", "--out", run, "--resume",
            "--set", f"train.steps={steps}", "--set", f"train.sample_every={max(steps // 30, 1)}",
        )  # fmt: skip
        runs.append(run)
    pushforward("evaluate", *runs)
    page = args.out / "report.html"
    pushforward("report", *runs, "--out", page)
    print(f"\nDone in {time.perf_counter() - start:.0f} s. Open {page.resolve()} in a browser.")


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, subprocess.CalledProcessError) as error:
        sys.exit(getattr(error, "returncode", 130))
