"""What is compared, written down once: a plan is compare.json in the comparison's folder, and each cell of it is a run of its own."""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pushforward import __version__
from pushforward.build import resolve
from pushforward.config import RunConfig, parse
from pushforward.errors import CheckpointError, ConfigError
from pushforward.training import checkpoint
from pushforward.training.checkpoint import write_atomic

FILE = "compare.json"
FRAMES, FEWEST = 30, 20  # pictures of each run as it goes on, and steps between them at least


@dataclass(frozen=True)
class Entry:
    """One recipe of the comparison, or one run that was trained before.

    Args:
        name: In the table.
        toml: The resolved run; its seed is each cell's own.
        source: Recipe, file or folder that the user named.
        run: Folder of a run that is judged as it is; None to train.
        steps: Of training, once the budget has been turned into them.
        tried: Its precision was chosen by a trial here.
    """

    name: str
    toml: str
    source: str
    run: str | None = None
    steps: int | None = None
    tried: bool = False

    def resolved(self, seed: int) -> RunConfig:
        """The run of one cell: its seed and steps, and pictures, checkpoints and log lines to go with them."""
        config = parse(tomllib.loads(self.toml), self.source)
        steps = self.steps or config.train.steps
        changed = {
            "seed": seed,
            "steps": steps,
            "sample_every": max(FEWEST, steps // FRAMES),
            "checkpoint_every": max(5 * FEWEST, steps // 10),
            "log_every": max(1, min(config.train.log_every, steps // 100)),
        }
        return config.model_copy(update={"train": config.train.model_copy(update=changed)})


@dataclass(frozen=True)
class Plan:
    """A comparison.

    Args:
        entries: What is compared.
        data: The data section that all share, as plain data.
        seeds: Of training, one cell each for every entry.
        budget: As the user wrote it; the entries' steps follow from it.
        metrics: Names in `evaluation.METRICS`; None for those that apply.
        n: Samples judged of each cell.
        extractor: None for the one that fits.
        threads: Of each cell: part of the plan, since results depend on it in the last digits.
        processes: Of each cell, through accelerate: one a GPU, say.
        command: What the user typed.
        version: Of this package.
    """

    entries: tuple[Entry, ...]
    data: dict[str, Any]
    seeds: tuple[int, ...]
    budget: str
    metrics: tuple[str, ...] | None
    n: int | None
    extractor: str | None
    threads: int
    processes: int = 1
    command: str = ""
    version: str = field(default=__version__)

    def cells(self) -> list[tuple[Entry, int]]:
        """Entry and seed of each cell, seed by seed, so that an interrupted comparison is already one of fewer seeds."""
        first = self.seeds[0]
        return [(e, s) for s in self.seeds for e in self.entries if e.run is None or s == first]

    def stamp(self, entry: Entry, seed: int) -> str:
        """What a cell's outcome depends on, hashed: outcomes of another plan, or of a run that was trained on since, do not count."""
        protocol = [self.data, self.metrics, self.n, self.extractor, self.threads, self.processes]
        if entry.run is None:
            made: Any = entry.resolved(seed).model_dump(mode="json", exclude={"about", "expect"})
        else:
            last = checkpoint.newest(Path(entry.run) / "checkpoints")
            made = (
                None
                if last is None
                else [last.name, hashlib.sha256((last / "model.safetensors").read_bytes()).hexdigest()]
            )
        return hashlib.sha256(json.dumps([protocol, made], sort_keys=True).encode()).hexdigest()[:16]

    def save(self, out: Path) -> None:
        """Write compare.json."""
        write_atomic(out / FILE, json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, out: Path) -> Plan:
        """Read compare.json.

        Raises:
            CheckpointError: it is not there, or damaged.
        """
        try:
            table = json.loads((out / FILE).read_text(encoding="utf8"))
            entries = tuple(Entry(**e) for e in table.pop("entries"))
            seeds, metrics = tuple(table.pop("seeds")), table.pop("metrics")
            return cls(entries=entries, seeds=seeds, metrics=None if metrics is None else tuple(metrics), **table)
        except OSError as error:
            raise CheckpointError(f"{out} is no comparison (it has no {FILE}).") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{out / FILE} is damaged ({error}). Choose another --out.") from error


def goes_on(new: Plan, old: Plan, out: Path) -> Plan:
    """The plan of a resumed comparison: more entries or seeds may come, all else stays; steps and threads are the old ones.

    Raises:
        ConfigError: something else differs.
    """
    for key in ("data", "budget", "metrics", "n", "extractor", "processes"):
        if getattr(new, key) != getattr(old, key):
            raise ConfigError(
                f"{out} holds a comparison with {key} = {getattr(old, key)!r}, this one has {getattr(new, key)!r}. "
                "Use its settings to go on with it, or choose another --out."
            )
    known = {e.name: e for e in old.entries}
    entries = []
    for entry in new.entries:
        before = known.get(entry.name)
        if before is not None and _settings(before) != _settings(entry):
            raise ConfigError(
                f"{out} holds {entry.name} with other settings; choose another --out, or name a copy of the recipe."
            )
        entries.append(before or entry)
    return replace(old, entries=tuple(entries), seeds=new.seeds, command=new.command)


def _settings(entry: Entry) -> dict[str, Any]:
    """What makes a recipe another one: all but what it says of itself, and the precision that a trial chose; settings that came since it was stored have their defaults."""
    kept = resolve(parse(tomllib.loads(entry.toml), entry.source)).model_dump(mode="json", exclude={"about", "expect"})
    if entry.tried:
        kept["train"].pop("precision", None)
    return {"config": kept, "run": entry.run}


def cell_folder(out: Path, entry: Entry, seed: int) -> Path:
    """Where a cell's run lies."""
    return Path(entry.run) if entry.run is not None else out / "cells" / entry.name / f"seed-{seed}"


def cell_file(out: Path, entry: Entry, seed: int) -> Path:
    """Where a cell's outcome lies."""
    return out / "cells" / entry.name / f"seed-{seed}.json"
