"""A run read back: its model with averaged weights, and samples by index."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pushforward import config as configs
from pushforward.build import build_model, resolve
from pushforward.config import RunConfig
from pushforward.data.images import ImageSet, to_model
from pushforward.errors import CheckpointError, NotSupported
from pushforward.model import GenerativeModel
from pushforward.pictures import POINTS
from pushforward.randomness import SampleStream, derive_seed
from pushforward.runs.parts import load_data
from pushforward.training import checkpoint
from pushforward.training.logs import Progress
from pushforward.training.memory import keep_freed_memory
from pushforward.training.precision import computing_in


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
    precision: str = "no",
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
        precision: "bf16" runs the networks in bfloat16 where that is safe; faster on processors that have it (docs/results.md).
        quiet: Show no progress.

    Returns:
        (n, *shape) on the CPU, in the model's range.

    Raises:
        NotSupported: a label for a model that has none, or one that it does not know.
    """
    keep_freed_memory()
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
            with computing_in(precision, device.type):
                x = model.sample(len(index), labels=labels, generator=stream)
            parts.append(x.float().cpu())
            progress.update(int(index[-1]) + 1 - start)
    return torch.cat(parts)


def give_data(run: Run) -> None:
    """Hand a model whose sampler starts at data the test data of its run."""
    if getattr(getattr(run.model, "sampler", None), "start", None) != "data":
        return
    data = load_data(run.config, "test")
    run.model.data = to_model(data.images) if isinstance(data, ImageSet) else data.sample(POINTS)  # type: ignore[assignment]
