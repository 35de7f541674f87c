"""`make demo`: three GANs on real digits, two seeds each, judged by one protocol, on one page. It runs the command that a user would type.

    python tools/demo.py [--out demo] [--budget 60s]

A demo that was interrupted goes on where it stopped; a finished one is not trained again.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

RECIPES = ("gan/vanilla", "gan/lsgan", "gan/dcgan-conditional")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo"))
    parser.add_argument("--budget", default="60s", help="training of each of the six runs")
    args = parser.parse_args()
    start = time.perf_counter()
    words = ["compare", *RECIPES, "--data", "mnist-5k", "--seeds", "2", "--budget", args.budget]
    words += ["--out", str(args.out), "--resume"]
    print("$ pushforward", shlex.join(words), flush=True)
    subprocess.run([sys.executable, "-m", "pushforward", *words], check=True)
    page = (args.out / "index.html").resolve()
    print(f"\nDone in {time.perf_counter() - start:.0f} s. Open {page} in a browser.")


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, subprocess.CalledProcessError) as error:
        sys.exit(getattr(error, "returncode", 130))
