"""The board of a comparison while it works: a live table on a terminal, a line a cell elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from pushforward.compare.plan import Entry, Plan, cell_folder
from pushforward.compare.table import read_cell
from pushforward.report.tables import duration

Cell = tuple[Entry, int]


class Board:
    """Shows each cell's state: waiting, the step it is at, its first metric, or that it failed.

    Args:
        out: The comparison's folder.
        plan: What is compared.
        quiet: Show nothing.
    """

    def __init__(self, out: Path, plan: Plan, *, quiet: bool) -> None:
        self.out, self.plan, self.quiet = out, plan, quiet
        self.start = time.perf_counter()
        self.running: Sequence[Cell] = ()
        console = Console(stderr=True)
        self.live = (
            Live(self._table(), console=console, refresh_per_second=2) if console.is_terminal and not quiet else None
        )

    def __enter__(self) -> Self:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.update(self._table())
            self.live.stop()

    def tell(self, running: Sequence[Cell]) -> None:
        """Which cells run now."""
        self.running = running
        if self.live is not None:
            self.live.update(self._table())

    def over(self, cell: Cell) -> None:
        """A cell ended, well or not."""
        self.running = [c for c in self.running if c != cell]
        if self.live is None and not self.quiet:
            over = sum(read_cell(self.out, self.plan, *c) is not None for c in self.plan.cells())
            print(
                f"[{over}/{len(self.plan.cells())}, {duration(time.perf_counter() - self.start)}] {cell[0].name} seed {cell[1]}: {self._state(cell)}",
                file=sys.stderr,
                flush=True,
            )

    def _state(self, cell: Cell) -> str:
        found = read_cell(self.out, self.plan, *cell)
        if cell not in self.running and found is not None:
            if "failed" in found:
                return f"failed: {found['failed'][:80]}"
            metric, value = next(iter(found["values"].items()))
            return f"{metric} {value['value']:.4g}"
        if cell not in self.running:
            return "ended without an outcome; see its .log" if found is None and self.live is None else "waiting"
        step = _last_step(cell_folder(self.out, *cell) / "log.jsonl")
        return f"step {step:,} of {cell[0].steps:,}" if cell[0].steps else "judging"

    def _table(self) -> Table:
        table = Table(title=f"{duration(time.perf_counter() - self.start)}, {len(self.plan.cells())} cells")
        table.add_column("model")
        for seed in self.plan.seeds:
            table.add_column(f"seed {seed}")
        cells = set(self.plan.cells())
        for entry in self.plan.entries:
            table.add_row(
                entry.name, *(self._state((entry, s)) if (entry, s) in cells else "" for s in self.plan.seeds)
            )
        return table


def _last_step(log: Path) -> int:
    """The step of a log's last whole line, reading its end alone."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            for line in reversed(file.read().splitlines()):
                try:
                    return int(json.loads(line)["step"])
                except (ValueError, KeyError, TypeError):
                    continue
    except OSError:
        pass
    return 0
