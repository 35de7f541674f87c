"""A run is a folder: how one is started, gone on with, and read back.

config.toml  environment.json  log.jsonl  checkpoints/STEP/  samples/STEP.png  result.json  report.html
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from torch import Tensor, nn

from pushforward import config as configs
from pushforward.build import build_model, build_optimisers, resolve
from pushforward.config import RunConfig, TrainConfig
from pushforward.data.batches import Batches, DensityBatches, ImageBatches
from pushforward.data.fetch import load
from pushforward.data.images import ImageSet, to_model
from pushforward.data.toy import Density
from pushforward.errors import CheckpointError, ConfigError, DataError, Diverged, NotSupported, TrainingError
from pushforward.model import GenerativeModel
from pushforward.monitors import alarms, signs
from pushforward.pictures import GRID, POINTS, draw_grid, save_picture
from pushforward.provenance import environment, peak_memory
from pushforward.randomness import SampleStream, derive_seed
from pushforward.training import checkpoint
from pushforward.training.checkpoint import write_atomic
from pushforward.training.logs import JsonLog, Meter, Progress, read_log
from pushforward.training.precision import faster_precision
from pushforward.training.schedules import factor
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


def load_data(config: RunConfig, split: str = "train") -> ImageSet | Density:
    """The data set that a config names."""
    d = config.data
    place = Path(d.path) if d.path else None
    return load(d.name, split, path=place, size=d.size, channels=d.channels, without=d.without)


def shape_of(data: ImageSet | Density) -> tuple[int, ...]:
    """Shape of one sample."""
    return data.shape if isinstance(data, ImageSet) else (data.dim,)


def check_labels(config: RunConfig, data: ImageSet | Density) -> None:
    """Refuse to train a conditional model on data without labels, or with more classes than it has.

    Raises:
        DataError: as said.
    """
    classes = config.model.get("classes")
    if classes is None:
        return
    if not isinstance(data, ImageSet) or data.labels is None:
        raise DataError(f"model.classes = {classes}: this data has no labels; leave model.classes out.")
    if int(data.labels.max()) + 1 != classes:
        raise DataError(f"model.classes = {classes}: {data.name} has labels up to {int(data.labels.max())}.")


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


def read_retries(out: Path) -> list[dict[str, Any]]:
    """Each time a run went back to an earlier step: where, why, and to which.

    Raises:
        CheckpointError: the list is damaged.
    """
    file = out / "retries.json"
    try:
        found = json.loads(file.read_text(encoding="utf8")) if file.exists() else []
        return [{"step": int(r["step"]), "back_to": int(r["back_to"]), "why": str(r["why"])} for r in found]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{file} is damaged ({error}). Remove it; the run then forgets how often it went back."
        ) from None


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


def make_trainer(config: RunConfig, data: ImageSet | Density, *, project_dir: str | None = None) -> Trainer:
    """Model, batches and optimisers of a resolved config, ready to go their steps.

    Args:
        config: As `build.resolve` gives it; its precision is decided.
        data: What to train on.
        project_dir: Where a tracker writes.

    Raises:
        ConfigError: a device or a tracker that is not here.
    """
    t = config.train
    if t.device in ("cuda", "mps") and not {"cuda": torch.cuda, "mps": torch.mps}[t.device].is_available():
        raise ConfigError(f"train.device = {t.device!r}: there is none here; use 'auto' or 'cpu'.")
    if t.tracker is not None and t.tracker not in {
        str(getattr(name, "value", name)) for name in get_available_trackers()
    }:
        raise ConfigError(
            f"train.tracker = {t.tracker!r}: accelerate knows no such tracker, or its package is not installed."
        )
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != t.precision:
        AcceleratorState._reset_state()  # an earlier run of this process had another precision
    # Without any GPU, "auto" is the CPU: accelerate joins several processes there only if it is told.
    none = not (torch.cuda.is_available() or torch.backends.mps.is_available())
    accelerator = Accelerator(
        cpu=t.device == "cpu" or none, mixed_precision=t.precision, log_with=t.tracker, project_dir=project_dir
    )
    model = build_model(config, shape_of(data))
    model.prepare(*_glance(data))
    batches = make_batches(
        config, data, model, rank=accelerator.process_index, world=accelerator.num_processes, device=accelerator.device
    )
    return Trainer(
        model,
        batches,
        build_optimisers(config, model),
        accelerator=accelerator,
        seed=t.seed,
        rate=partial(factor, steps=t.steps, schedule=t.schedule, warmup=t.warmup) if changing(t) else None,
        ema=t.ema,
        measure_every=t.log_every,
        metadata={"shape": list(shape_of(data))},
    )


def _glance(data: ImageSet | Density) -> tuple[Tensor, Tensor | None]:
    """Some training data, always the same: what a model sets its scales by."""
    if isinstance(data, Density):
        return data.sample(4096, generator=SampleStream(derive_seed("glance"), torch.arange(4096))), None
    index = spread(len(data), 512)
    return to_model(data.images[index]), None if data.labels is None else data.labels[index]


def changing(t: TrainConfig) -> bool:
    """Whether learning rates change over the run."""
    return t.schedule != "constant" or t.warmup > 0


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


def make_batches(config: RunConfig, data: ImageSet | Density, model: nn.Module, **place: Any) -> Batches:
    """Training batches of a data set, in the memory layout that the model's layers prefer."""
    t = config.train
    if isinstance(data, Density):
        return DensityBatches(data.draw, batch_size=t.batch_size, seed=t.seed, **place)
    convolutional = any(isinstance(m, nn.Conv2d) for m in model.modules())
    return ImageBatches(data, batch_size=t.batch_size, seed=t.seed, channels_last=convolutional, **place)


def with_precision(config: RunConfig, old: RunConfig | None = None) -> RunConfig:
    """ "auto" decided: as the run to be resumed was, or by a trial."""
    t = config.train
    if t.precision != "auto":
        return config
    if old is not None and old.train.precision != "auto":
        found = old.train.precision
    else:
        device = t.device if t.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
        found = faster_precision(device)
    return config.model_copy(update={"train": t.model_copy(update={"precision": found})})


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


def spread(n: int, count: int) -> Tensor:
    """`count` indices spread evenly over n, shuffled, always the same."""
    index = torch.linspace(0, n - 1, min(count, n)).long()
    return index[torch.randperm(len(index), generator=torch.Generator().manual_seed(0))]


@dataclass(frozen=True)
class Run:
    """A trained run, ready to sample from.

    Args:
        path: Its folder.
        config: As resolved when it was trained.
        model: With its averaged weights, in evaluation mode.
        step: Of the checkpoint.
        seconds: Spent in training steps until then.
        retries: How often it diverged and went back.
    """

    path: Path
    config: RunConfig
    model: GenerativeModel
    step: int
    seconds: float
    retries: int = 0


def is_run(path: Path) -> bool:
    """Whether a folder is a run."""
    return (path / "config.toml").is_file()


def load_run(path: Path, *, averaged: bool = True) -> Run:
    """The model of a run's newest checkpoint.

    Args:
        path: The run's folder.
        averaged: Take the moving average of the weights where there is one.

    Raises:
        CheckpointError: no run, no checkpoint yet, or a damaged one.
    """
    if not is_run(path):
        raise CheckpointError(
            f"{path} is not a run (it has no config.toml). `pushforward train RECIPE --out {path}` makes one."
        )
    config = resolve(configs.parse(configs.read(path / "config.toml"), str(path / "config.toml")))
    last = checkpoint.newest(path / "checkpoints")
    if last is None:
        raise CheckpointError(f"{path} has no checkpoint yet; train it further with --resume.")
    tensors, state = checkpoint.load(last)
    model = build_model(config, state["shape"])
    checkpoint.assign(model, tensors["model"], str(last / "model.safetensors"))
    if averaged and "ema" in tensors:
        part = model.averaged()
        checkpoint.assign(part, {**part.state_dict(), **tensors["ema"]}, str(last / "ema.safetensors"))
        model.settle()
    return Run(path, config, model.eval(), state["step"], state["seconds"], len(read_retries(path)))


def sample(
    model: GenerativeModel,
    n: int,
    *,
    seed: int = 0,
    start: int = 0,
    batch_size: int = 500,
    label: int | None = None,
    quiet: bool = True,
) -> Tensor:
    """Samples start .. start + n - 1 of a seed, the same whatever the batch size.

    Args:
        model: Any model.
        n: How many.
        seed: Names the samples.
        start: The first one's index.
        batch_size: Samples at a time.
        label: A class, for conditional models; each sample's is drawn when absent.
        quiet: Show no progress.

    Returns:
        (n, *shape) on the CPU, in the model's range.

    Raises:
        NotSupported: a label for a model that has none, or one that it does not know.
    """
    device = next(model.parameters()).device
    classes = getattr(model, "classes", None)
    if label is not None and classes is not None and not 0 <= label < classes:
        raise NotSupported(f"label {label}: the model has the classes 0 to {classes - 1}.")
    parts: list[Tensor] = []
    with Progress("sample", n, quiet=quiet) as progress:
        for low in range(start, start + n, batch_size):
            index = torch.arange(low, min(low + batch_size, start + n), device=device)
            labels = None if label is None else torch.full_like(index, label)
            stream = SampleStream(derive_seed(seed, "sample"), index)
            parts.append(model.sample(len(index), labels=labels, generator=stream).cpu())
            progress.update(int(index[-1]) + 1 - start)
    return torch.cat(parts)


def give_data(run: Run) -> None:
    """Hand a model whose sampler starts at data the test data of its run."""
    if getattr(getattr(run.model, "sampler", None), "start", None) != "data":
        return
    data = load_data(run.config, "test")
    run.model.data = to_model(data.images) if isinstance(data, ImageSet) else data.sample(POINTS)  # type: ignore[assignment]
