"""Training into a folder: begun, gone on with, stopped by a signal, gone back after a divergence."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pushforward import config as configs
from pushforward.build import resolve
from pushforward.config import RunConfig
from pushforward.data.images import ImageSet
from pushforward.data.toy import Density
from pushforward.errors import ConfigError, Diverged, TrainingError
from pushforward.monitors import alarms, signs
from pushforward.pictures import GRID, POINTS, draw_grid, save_picture
from pushforward.provenance import environment, peak_memory
from pushforward.runs.parts import check_labels, load_data, make_trainer, spread, with_precision
from pushforward.runs.reading import read_retries
from pushforward.training import checkpoint
from pushforward.training.checkpoint import write_atomic
from pushforward.training.logs import JsonLog, Meter, Progress, read_log
from pushforward.training.trainer import Trainer

HIDDEN = (
    "seconds",
    "gradient_norm",
    "logit",
    "overlap",
    "sign",
    "modes",
    "quality",
    "energy",
    "distance",
    "slope",
)  # not on the progress line


FREE_TO_CHANGE = ("steps", "log_every", "checkpoint_every", "keep", "sample_every", "retries", "tracker", "device")


def train(config: RunConfig, out: Path, *, resume: bool = False, quiet: bool = False) -> Path:
    """Train a run into its folder.

    Args:
        config: The run; defaults are filled in here.
        out: The folder.
        resume: Go on from the newest checkpoint; starts from nothing where there is none.
        quiet: Show no progress.

    Returns:
        The folder.

    Raises:
        ConfigError: the folder holds a run and `resume` was not asked for, or it holds another run.
        CheckpointError, DataError, TrainingError: as they say.
    """
    config = resolve(config)
    checkpoints = out / "checkpoints"
    if not resume and out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty. Go on with that run by --resume, or choose another --out.")
    old = None
    if resume and (out / "config.toml").exists():
        old = configs.parse(configs.read(out / "config.toml"), str(out / "config.toml"))
    config = with_precision(config, old)
    if old is not None:
        _same_run(config, old, out)
    data = load_data(config)
    check_labels(config, data)
    t = config.train
    trainer = make_trainer(config, data, project_dir=str(out))
    accelerator, model = trainer.accelerator, trainer.model
    main = accelerator.is_main_process
    if main:
        out.mkdir(parents=True, exist_ok=True)
        checkpoint.clean(checkpoints)
    accelerator.wait_for_everyone()
    last = checkpoint.newest(checkpoints)
    if resume and last is not None:
        trainer.restore(last)
        if trainer.step > t.steps:
            raise ConfigError(
                f"{out} has gone {trainer.step} steps already, more than train.steps = {t.steps}. Its checkpoints stay; ask for more steps."
            )
    if main:
        write_atomic(out / "config.toml", configs.dump(config))
        if not (out / "environment.json").exists():
            write_atomic(out / "environment.json", json.dumps(environment(data, model, accelerator), indent=1))
            save_picture(
                data.images[spread(len(data), GRID)] if isinstance(data, ImageSet) else data.sample(POINTS),
                out / "samples" / "real.png",
            )
    if t.compile and trainer.step < t.steps:
        verdict = trainer.compile()
        if main and not quiet:
            print(f"train {out.name}: {verdict}", file=sys.stderr)
    if main and not quiet:
        for note in model.notes():
            print(f"train {out.name}: {note}", file=sys.stderr)
    if t.tracker is not None:
        accelerator.init_trackers("pushforward", init_kwargs={})
    trainer.retries = len(read_retries(out))
    while True:
        try:
            _loop(config, out, data, trainer, quiet=quiet or not main)
            break
        except Diverged as error:
            _go_back(trainer, out, error, t.retries, quiet=quiet or not main)
    if t.tracker is not None:
        accelerator.end_training()
    return out


def _same_run(new: RunConfig, old: RunConfig, out: Path) -> None:
    """Refuse to go on with a run under another config, naming the first key that differs."""

    def flat(table: Any, path: str = "") -> dict[str, Any]:
        if isinstance(table, dict):
            return {
                k: v for name, part in table.items() for k, v in flat(part, f"{path}.{name}" if path else name).items()
            }
        return {path: list(table) if isinstance(table, tuple) else table}

    ignored = {"about", *(f"train.{k}" for k in FREE_TO_CHANGE)}
    if new.train.schedule != "constant":
        ignored.remove("train.steps")  # where the learning rates end
    a, b = flat(new.model_dump(exclude={"expect"})), flat(resolve(old).model_dump(exclude={"expect"}))
    for key in sorted(a.keys() | b.keys()):
        if key not in ignored and a.get(key) != b.get(key):
            raise ConfigError(
                f"{out} holds a run with {key} = {b.get(key)!r}, this one has {a.get(key)!r}. Use its settings to resume it, or choose another --out."
            )


def _go_back(trainer: Trainer, out: Path, error: Diverged, limit: int, *, quiet: bool) -> None:
    """Back to the last good checkpoint; to the one before if that one led here already.

    Raises:
        TrainingError: not allowed, or too often.
    """
    folder, before = out / "checkpoints", read_retries(out)
    if len(before) >= limit:
        tried = f" It has gone back {limit} times already (train.retries)." if limit else ""
        raise TrainingError(f"{error}{tried}") from error
    known = checkpoint.steps(folder)
    if len(known) > 1 and before and before[-1]["back_to"] == known[-1] and trainer.accelerator.is_main_process:
        checkpoint.remove(folder, known[-1])
    trainer.accelerator.wait_for_everyone()
    last = checkpoint.newest(folder)
    assert last is not None, "a run that may go back saves its step 0"
    failed = trainer.step + 1
    trainer.restore(last)
    trainer.retries = len(before) + 1
    note = {"step": failed, "back_to": trainer.step, "why": str(error)}
    if trainer.accelerator.is_main_process:
        write_atomic(out / "retries.json", json.dumps([*before, note], indent=1))
    trainer.accelerator.wait_for_everyone()
    if not quiet:
        print(
            f"{out.name}, step {failed}: {error} Back to step {trainer.step}, retry {trainer.retries} of {limit}, at half the learning rate.",
            file=sys.stderr,
        )


def _loop(config: RunConfig, out: Path, data: ImageSet | Density, trainer: Trainer, *, quiet: bool) -> None:
    """The plain lines around the loop: log, checkpoints, grids, progress."""
    t, main = config.train, trainer.accelerator.is_main_process
    if t.retries and trainer.step == 0:
        trainer.save(out / "checkpoints", keep=t.keep)
    log = JsonLog(out / "log.jsonl", upto=trainer.step) if main else None
    meter, watch = Meter(), _Watch(read_log(out / "log.jsonl") if main else [], out.name, quiet=quiet)
    try:
        with (
            _stop_signals() as stopping,
            Progress(f"train {out.name}", t.steps, start=trainer.step, quiet=quiet) as progress,
        ):
            for report in trainer.steps(t.steps):
                meter.add(report)
                step, last, row = report.step, report.step == t.steps, None
                found: dict[str, float] = {}
                if main and (step % t.sample_every == 0 or last or step == 1):
                    x = draw_grid(trainer, trainer.metadata["shape"], out / "samples" / f"{step:08d}.png")
                    found = signs(x, data, config.data.name) | trainer.model.signs() if step > 1 else {}
                if log is not None and (step % t.log_every == 0 or last or found):
                    row = meter.read() | found
                    cost = {
                        "elapsed": round(trainer.seconds, 3),
                        "peak_memory_mb": round(peak_memory(trainer.accelerator.device)),
                    }
                    whole = {"step": step, "images": step * t.batch_size, **cost, **row}
                    log.write(whole)
                    watch.look(whole)
                    if t.tracker is not None:
                        trainer.accelerator.log(row, step=step)
                    row = {k: v for k, v in row.items() if not k.endswith(HIDDEN)}
                progress.update(step, images_per_step=t.batch_size, terms=row)
                if step % t.checkpoint_every == 0 or last or stopping:
                    if log is not None:
                        log.sync()
                    trainer.save(out / "checkpoints", keep=t.keep)
                if stopping:
                    raise KeyboardInterrupt
    finally:
        if log is not None:
            log.close()


class _Watch:
    """Says each alarm once, when it first sounds."""

    def __init__(self, rows: list[dict[str, Any]], name: str, *, quiet: bool) -> None:
        self.rows, self.name, self.quiet = rows, name, quiet
        self.said = {a.kind for a in alarms(rows)}

    def look(self, row: dict[str, Any]) -> None:
        """Read a line of the log, and say any alarm that is new."""
        self.rows.append(row)
        for alarm in alarms(self.rows):
            if alarm.kind not in self.said:
                self.said.add(alarm.kind)
                if not self.quiet:
                    print(f"{self.name}, step {alarm.step}: {alarm.text}", file=sys.stderr)


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collects Ctrl-C and SIGTERM, so that the step under way ends and is saved; a second one acts at once."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def note(number: int, frame: object) -> None:
        caught.append(number)
        signal.signal(number, previous[signal.Signals(number)])

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
