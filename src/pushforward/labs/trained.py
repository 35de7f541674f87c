"""What labs of trained models share: a run that is given or made, judges, and seconds that can be compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pushforward import runs
from pushforward.config import load_recipe
from pushforward.data.images import to_bytes
from pushforward.errors import NotSupported
from pushforward.evaluation import Sides, Values, measure
from pushforward.evaluation.reference import Reference
from pushforward.families.diffusion.model import Diffusion, Sampler


def diffusion_run(
    run: str, out: Path, *, recipe: str, data: str, steps: int, seed: int, quiet: bool, width: int = 64
) -> Diffusion:
    """The diffusion model of a run, or one that is trained into OUT/run first (and gone on with where it was left).

    Raises:
        NotSupported: a run of another family.
    """
    folder = Path(run) if run else out / "run"
    if not run:
        config = load_recipe(
            recipe, [f"train.steps={steps}", f"train.seed={seed}", f"model.network.width={width}"], data=data
        )
        runs.train(config, folder, resume=True, quiet=quiet)
    model = runs.load_run(folder).model
    if not isinstance(model, Diffusion):
        raise NotSupported(f"{folder} holds no diffusion model; this lab is about those.")
    return model


def with_sampler(model: Diffusion, **changes: object) -> Diffusion:
    """The model with parts of its sampler changed; a new solver begins from its own defaults."""
    if "solver" in changes:
        model.sampler = Sampler(solver=str(changes.pop("solver")), guidance=model.sampler.guidance)
    model.sampler = replace(model.sampler, **changes)  # type: ignore[arg-type]
    return model


def judged(side: Reference, x: Tensor, metrics: Sequence[str] = ("frechet", "precision-recall", "classes")) -> Values:
    """Figures of samples in [-1, 1]."""
    return measure(Sides(side.real, side.by(to_bytes(x)), side.floor["floor"]), list(metrics))


def seconds_in_turn(
    works: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds of each work, all of them in turn, `rounds` times: what disturbs one disturbs the others too.

    Args:
        works: By name.
        rounds: How often.
        clock: `time.process_time` for CPU seconds, which others on the machine hardly change.
    """
    spent: dict[str, list[float]] = {name: [] for name in works}
    with torch.no_grad():
        for _ in range(rounds):
            for name, work in works.items():
                began = clock()
                work()
                spent[name].append(clock() - began)
    return {name: statistics.median(v) for name, v in spent.items()}
