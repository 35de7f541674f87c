"""Start-up: `pushforward --help`, and `import pushforward` beside `import torch`; medians of 9 processes each, in turn.

python benchmarks/startup.py [--json docs/results/startup.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = {
    "pushforward --help": ["-m", "pushforward", "--help"],
    "pushforward train --help": ["-m", "pushforward", "train", "--help"],
    "import pushforward, load a recipe": ["-c", "import pushforward as pf; pf.load_recipe('gan/lsgan')"],
    "import torch": ["-c", "import torch"],
    "import pushforward's trainer": ["-c", "import pushforward as pf; pf.Trainer"],
    "python -c pass": ["-c", "pass"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(9):
        for name, words in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *words], check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(s) for name, s in seconds.items()}
    for name, median in medians.items():
        print(f"{name:36} {median:.3f} s")
    if args.json:
        args.json.write_text(json.dumps({"command": " ".join(sys.argv), "median_seconds": medians}, indent=1))


if __name__ == "__main__":
    main()
