"""What a run says while it trains: lines of JSON on disk, a progress bar or plain lines on the terminal."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from pushforward.training.checkpoint import write_atomic
from pushforward.training.trainer import StepReport


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log.jsonl; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


class Meter:
    """Means of a step's terms between two log lines, kept on the device until someone reads them."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._seconds: dict[str, float] = {}
        self._norms: dict[str, Tensor] = {}
        self.steps = 0

    def add(self, report: StepReport) -> None:
        for name, value in report.terms.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1
        for phase, s in report.seconds.items():
            self._seconds[phase] = self._seconds.get(phase, 0.0) + s
        self._norms |= report.gradient_norms
        self.steps += 1

    def read(self) -> dict[str, float]:
        """Means as plain numbers, "phase/term", "phase/gradient_norm" and "phase/seconds" (each a step); starts anew."""
        row = {name: (total / self._counts[name]).item() for name, total in self._sums.items()}
        row |= {f"{p}/gradient_norm": n.item() for p, n in self._norms.items()}
        row |= {f"{p}/seconds": s / max(self.steps, 1) for p, s in self._seconds.items()}
        self.__init__()  # type: ignore[misc]
        return row


class JsonLog:
    """`log.jsonl`, a line a logging step; on resuming, lines beyond the checkpoint are dropped."""

    def __init__(self, path: Path, *, upto: int) -> None:
        kept = [row for row in read_log(path) if row.get("step", math.inf) <= upto]
        write_atomic(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = path.open("a", encoding="utf8")

    def write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Force what is written onto the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class Progress:
    """Steps/s, images/s, the terms and the time left: a bar on a terminal, a line now and then elsewhere.

    Args:
        label: What is being done.
        total: Steps at the end.
        start: Steps already done.
        quiet: Say nothing.
    """

    EVERY = 10.0  # seconds between plain lines

    def __init__(self, label: str, total: int, *, start: int = 0, quiet: bool = False) -> None:
        self.label, self.total, self.quiet = label, total, quiet
        self._begin, self._start, self._last, self._note = time.perf_counter(), start, 0.0, ""
        self._bar: Any = None

    def __enter__(self) -> Self:
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
            )
            self._bar = RichProgress(*columns, console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=self.total, completed=self._start, note="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, *, images_per_step: int = 0, terms: dict[str, float] | None = None) -> None:
        """Show where we are; `terms` are shown from now on."""
        if self.quiet:
            return
        now = time.perf_counter()
        if terms is not None:
            rate = (step - self._start) / max(now - self._begin, 1e-9)
            shown = " ".join(
                f"{k.replace('discriminator', 'D').replace('generator', 'G')} {v:.3g}" for k, v in terms.items()
            )
            self._note = (
                f"{rate:.1f} steps/s"
                + (f", {rate * images_per_step:,.0f} images/s" if images_per_step else "")
                + f"  {shown}"
            )
        if self._bar is not None:
            self._bar.update(self._task, completed=step, note=self._note)
        elif now - self._last >= self.EVERY or step == self.total:
            self._last = now
            left = (self.total - step) * (now - self._begin) / max(step - self._start, 1)
            print(f"{self.label}: {step}/{self.total}  {self._note}  {left:.0f} s left", file=sys.stderr, flush=True)
