"""`make bench`: every benchmark that needs no data beyond what ships, one after the other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent

for script in ("startup.py", "throughput.py"):
    print(f"\n== {script}", flush=True)
    subprocess.run(
        [
            sys.executable,
            str(HERE / script),
            "--json",
            str(HERE.parent / "docs/results" / script.replace(".py", ".json")),
        ],
        check=True,
    )
