"""Many recipes x seeds, one protocol, one table: what `pushforward compare` does.

A comparison is a folder: compare.json (the plan), cells/NAME/seed-K/ (a run each) and cells/NAME/seed-K.json (what it found), floor.json, and the
table as table.json, .md, .tex and .csv and index.html. Killing it at any instant and going on gives the same table.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from pushforward import provenance, runs
from pushforward.build import resolve
from pushforward.compare import engines, table
from pushforward.compare.budget import Budget, parse_budget, steps_for
from pushforward.compare.plan import FILE, Entry, Plan, cell_file, goes_on
from pushforward.compare.progress import Board
from pushforward.config import DataConfig, dump, load_recipe
from pushforward.config import parse as parse_config
from pushforward.config import read as read_config
from pushforward.errors import CheckpointError, ConfigError
from pushforward.evaluation import Judge, reference
from pushforward.report.comparison import write_page
from pushforward.training.checkpoint import write_atomic
from pushforward.training.trainer import Trainer


def compare(
    recipes: Sequence[str],
    out: Path,
    *,
    data: str = "mnist-5k",
    data_path: str | None = None,
    seeds: int = 3,
    budget: str = "3min",
    metrics: Sequence[str] | None = None,
    n: int | None = None,
    extractor: str | None = None,
    settings: Sequence[str] = (),
    jobs: int | None = None,
    threads: int | None = None,
    processes: int = 1,
    engine: str = "local",
    address: str | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> table.Table:
    """Train or load every recipe with every seed, judge all by one protocol, and write the table and the page.

    Args:
        recipes: Names, TOML files, or folders of runs that are judged as they are.
        out: The comparison's folder.
        data: What all train on and are judged by.
        data_path: Where it lies.
        seeds: How many: 0, 1, ...
        budget: Training of each cell, as in 3min, 20000steps or 1e15flops. Minutes and FLOPs become steps once, and are recorded so.
        metrics: Names in `evaluation.METRICS`; those that apply when absent.
        n: Samples judged of each cell.
        extractor: The one that fits when absent.
        settings: KEY=VALUE for every recipe.
        jobs: Cells at a time; as many as fill the cores when absent.
        threads: Of each cell; the cores shared among the jobs when absent.
        processes: Of each cell, through accelerate: one a GPU, say.
        engine: "local" or "ray".
        address: Of a Ray cluster; one is started here when absent.
        resume: Go on with the comparison in this folder.
        quiet: Show no progress.

    Returns:
        The table of all cells that ended, failed ones named in it.

    Raises:
        ConfigError: nothing to compare, or a folder that holds another comparison.
    """
    if engine not in ("local", "ray"):
        raise ConfigError(f"--engine {engine}: there are local and ray.")
    if processes < 1 or (processes > 1 and engine == "ray"):
        raise ConfigError("--processes is at least 1, and of the local engine: a Ray task is one process.")
    if address is not None and engine != "ray":
        raise ConfigError("--address is of a Ray cluster; add --engine ray.")
    if not recipes or seeds < 1 or (jobs is not None and jobs < 1) or (threads is not None and threads < 1):
        raise ConfigError("name at least one recipe; seeds, jobs and threads are at least 1.")
    used = _used(out, resume)
    allowed = parse_budget(budget)
    shared = jobs or max(1, min(_cores() // ((threads or 1) * processes), seeds * len(recipes)))
    section = DataConfig(name=data, path=data_path)
    plan = Plan(
        _entries(recipes, section, settings),
        section.model_dump(),
        tuple(range(seeds)),
        budget,
        None if metrics is None else tuple(metrics),
        n,
        extractor,
        threads or max(1, _cores() // (shared * processes)),
        processes,
        provenance.command_line(),
    )
    if used:
        plan = goes_on(plan, Plan.load(out), out)
        if threads not in (None, plan.threads):
            raise ConfigError(
                f"{out} holds a comparison with --threads {plan.threads}, on which results depend; leave --threads out, or choose another --out."
            )
    jobs = jobs or max(1, min(_cores() // (plan.threads * processes), len(plan.cells())))
    # Everything that can be wrong with the protocol is found before anything is trained.
    judge = Judge.of(reference(section, n=n, by=extractor), None if metrics is None else list(metrics))
    plan = _with_steps(plan, allowed, quiet=quiet)
    out.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(out):
        plan.save(out)
        write_atomic(out / "floor.json", json.dumps(judge.floor(), indent=1))
        for entry in plan.entries:
            (out / "cells" / entry.name).mkdir(parents=True, exist_ok=True)
        left = [(e, s) for e, s in plan.cells() if "values" not in (table.read_cell(out, plan, e, s) or {})]
        with Board(out, plan, quiet=quiet) as board:
            ended = (
                engines.local(out, plan, left, jobs=jobs, tell=board.tell)
                if engine == "local"
                else engines.on_ray(out, plan, left, address=address, tell=board.tell)
            )
            _gathered(out, plan, board, ended)
        return write_tables(out, plan, page=True)


def _used(out: Path, resume: bool) -> bool:
    """Whether the folder holds a comparison to go on with.

    Raises:
        ConfigError: it holds something, and that is no comparison or nobody said to go on with it.
    """
    used = out.exists() and any(p.name != ".lock" for p in out.iterdir())
    if used and not resume:
        raise ConfigError(f"{out} is not empty. Go on with that comparison by --resume, or choose another --out.")
    if used and not (out / FILE).exists():
        raise ConfigError(
            f"{out} is no comparison (it has no {FILE}), so there is nothing to go on with. Choose another --out."
        )
    return used


def _entries(recipes: Sequence[str], section: DataConfig, settings: Sequence[str]) -> tuple[Entry, ...]:
    entries = tuple(_entry(r, section, settings) for r in recipes)
    names = [e.name for e in entries]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"{next(x for x in names if names.count(x) > 1)} is named twice; give the recipe's file, or the run's folder, another name."
        )
    return entries


def _gathered(out: Path, plan: Plan, board: Board, ended: Iterable[tuple[tuple[Entry, int], str | None]]) -> None:
    """Write down each cell that ends, those that died with their reason, and the table as it then is."""
    for (entry, seed), died in ended:
        if died is not None and table.read_cell(out, plan, entry, seed) is None:
            lost = {"name": entry.name, "seed": seed, "stamp": plan.stamp(entry, seed), "failed": died}
            write_atomic(cell_file(out, entry, seed), json.dumps(lost, indent=1))
        board.over((entry, seed))
        write_tables(out, plan)


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _one_at_a_time(out: Path) -> Iterator[None]:
    """Refuse a second comparison in the same folder while one works there."""
    with (out / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"another comparison is at work in {out}; wait for it, or choose another --out."
            ) from None
        yield


def write_tables(out: Path, plan: Plan | None = None, *, page: bool = False) -> table.Table:
    """The table of a comparison's folder in every form, from its files alone.

    Args:
        out: The comparison's folder.
        plan: Read from the folder when absent.
        page: Make index.html too.
    """
    plan = plan or Plan.load(out)
    try:
        floor = json.loads((out / "floor.json").read_text(encoding="utf8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{out / 'floor.json'} is damaged or gone; `pushforward compare ... --resume` measures it anew."
        ) from error
    found = table.gather(out, plan, floor)
    write_atomic(out / "table.json", table.as_json(found, plan))
    write_atomic(out / "table.md", table.markdown(found))
    write_atomic(out / "table.tex", table.latex(found))
    write_atomic(out / "table.csv", table.to_csv(found))
    if page:
        heads = {"costs": table.COSTS, "capabilities": table.CAPABILITIES}
        write_page(out, json.loads((out / "table.json").read_text(encoding="utf8")), heads)
    return found


def _entry(source: str, data: DataConfig, settings: Sequence[str]) -> Entry:
    """What a word of the command line names: a run's folder, a TOML file or a recipe."""
    folder = Path(source)
    if runs.is_run(folder):
        config = resolve(parse_config(read_config(folder / "config.toml"), source))
        return Entry(_plain(folder.resolve().name), dump(config), source, str(folder.resolve()))
    if folder.exists() and folder.suffix != ".toml":
        raise ConfigError(
            f"{source} is neither a recipe (.toml) nor a run; `pushforward evaluate {source} --data ...` judges images of any origin."
        )
    config = load_recipe(source, settings, data=data.name)
    if data.path is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"path": data.path})})
    config = resolve(config)
    tried = config.train.precision == "auto"
    config = runs.with_precision(config)
    name = Path(source).stem if source.endswith(".toml") else source.replace("/", "-")
    return Entry(_plain(name), dump(config), source, tried=tried)


def _plain(name: str) -> str:
    """A name that folders, tables, LaTeX and figures all take as it is."""
    return re.sub(r"[^\w.+-]+", "-", name).strip("-") or "model"


def _with_steps(plan: Plan, budget: Budget, *, quiet: bool) -> Plan:
    """The plan with the budget turned into steps, for entries that do not have theirs yet."""
    kept = torch.get_num_threads()
    torch.set_num_threads(plan.threads)
    entries = []
    for entry in plan.entries:
        if entry.run is None and entry.steps is None:
            entry = replace(
                entry,
                steps=steps_for(budget, partial(_trial, entry), name=entry.name),
            )
            if not quiet and budget.unit != "steps":
                print(f"{entry.name}: {entry.steps:,} steps", file=sys.stderr)
        entries.append(entry)
    torch.set_num_threads(kept)
    return replace(plan, entries=tuple(entries))


def _trial(entry: Entry) -> Trainer:
    """A trainer of the entry's run, to be measured and thrown away."""
    config = resolve(entry.resolved(0))
    config = config.model_copy(update={"train": config.train.model_copy(update={"tracker": None})})
    return runs.make_trainer(config, runs.load_data(config))
