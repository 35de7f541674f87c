"""From a config to what it names: the data, the batches, and a trainer ready to go."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from torch import Tensor, nn

from pushforward.build import build_model, build_optimisers
from pushforward.config import RunConfig, TrainConfig
from pushforward.data.batches import Batches, DensityBatches, ImageBatches
from pushforward.data.fetch import load
from pushforward.data.images import ImageSet, to_model
from pushforward.data.toy import Density
from pushforward.errors import ConfigError, DataError
from pushforward.randomness import SampleStream, derive_seed
from pushforward.training.precision import faster_precision
from pushforward.training.schedules import factor
from pushforward.training.trainer import Trainer


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


def make_batches(config: RunConfig, data: ImageSet | Density, model: nn.Module, **place: Any) -> Batches:
    """Training batches of a data set, in the memory layout that the model's layers prefer."""
    t = config.train
    if isinstance(data, Density):
        return DensityBatches(data.draw, batch_size=t.batch_size, seed=t.seed, **place)
    convolutional = any(isinstance(m, nn.Conv2d) for m in model.modules())
    return ImageBatches(data, batch_size=t.batch_size, seed=t.seed, channels_last=convolutional, **place)


def _glance(data: ImageSet | Density) -> tuple[Tensor, Tensor | None]:
    """Some training data, always the same: what a model sets its scales by."""
    if isinstance(data, Density):
        return data.sample(4096, generator=SampleStream(derive_seed("glance"), torch.arange(4096))), None
    index = spread(len(data), 512)
    return to_model(data.images[index]), None if data.labels is None else data.labels[index]


def changing(t: TrainConfig) -> bool:
    """Whether learning rates change over the run."""
    return t.schedule != "constant" or t.warmup > 0


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


def spread(n: int, count: int) -> Tensor:
    """`count` indices spread evenly over n, shuffled, always the same."""
    index = torch.linspace(0, n - 1, min(count, n)).long()
    return index[torch.randperm(len(index), generator=torch.Generator().manual_seed(0))]
