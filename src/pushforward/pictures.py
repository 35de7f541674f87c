"""Samples as pictures: grids of images, scatter plots of points, and how either came about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from pushforward.data.images import save_grid, to_bytes
from pushforward.errors import DataError, NotSupported
from pushforward.model import GenerativeModel, HasEnergy, HasInterpolation, HasLogProb, HasPaths, HasTrajectory
from pushforward.randomness import SampleStream, derive_seed
from pushforward.training.trainer import Trainer

WATCHED = 250  # samples that are looked at for signs of collapse then
GRID, POINTS = 64, 2000  # images, or points, in the pictures that are drawn as training goes on


def draw_grid(trainer: Trainer, shape: Sequence[int], path: Path) -> Tensor:
    """A picture of samples from latents that stay the same through the run, from the averaged weights; and the samples."""
    model, ema = trainer.model, trainer.ema
    watched = (
        WATCHED if getattr(model, "evaluations", 1) == 1 else GRID
    )  # what is dear to sample is watched by its grid alone
    count = watched if len(shape) == 3 else POINTS
    stream = SampleStream(derive_seed(trainer.seed, "grid"), torch.arange(count, device=trainer.accelerator.device))
    with ema.swapped_in() if ema is not None else nullcontext():
        if ema is not None:
            model.settle()
        x = model.sample(count, generator=stream).cpu()
    save_picture(x[:GRID] if len(shape) == 3 else x, path, field=density_of(model, x))
    return x


def density_of(model: GenerativeModel, x: Tensor) -> Callable[[float], Tensor] | None:
    """reach -> the density up to a factor on a grid of [-reach, reach]^2, of a model of points in the plane that has one."""
    if x.ndim != 2 or x.shape[1] != 2 or not isinstance(model, HasEnergy | HasLogProb):
        return None

    @torch.no_grad()
    def field(reach: float) -> Tensor:
        line = torch.linspace(-reach, reach, 150, device=next(model.parameters()).device)
        points = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1).reshape(-1, 2)
        log = model.log_prob(points) if isinstance(model, HasLogProb) else -model.energy(points)
        return (log - log.max()).exp().reshape(150, 150).cpu()

    return field


def save_picture(
    x: Tensor, path: Path, *, columns: int | None = None, field: Callable[[float], Tensor] | None = None
) -> None:
    """Samples as a picture: a grid of images (bytes, or floats in [-1, 1]), a scatter plot of points over their density, a histogram of numbers."""
    if path.suffix != ".png":
        raise DataError(f"{path}: a picture's file ends in .png.")
    if x.ndim == 4:
        return save_grid(x if x.dtype == torch.uint8 else to_bytes(x), path, columns=columns)
    from pushforward.report.figures import points_figure

    path.parent.mkdir(parents=True, exist_ok=True)
    reach = 1.15 * float(x.abs().max())
    return points_figure(x.numpy(), path, field=None if field is None else (field(reach).numpy(), reach))


def save_frames(
    model: GenerativeModel, n: int, frames: int, path: Path, *, seed: int = 0, label: int | None = None
) -> None:
    """A picture of how samples come about: a row a sample, a column a moment, evenly spread from first to last.

    Raises:
        NotSupported: a model that samples in one jump, or points.
    """
    if not isinstance(model, HasTrajectory):
        raise NotSupported("this model samples in one jump; there is no way to show.")
    stream = SampleStream(derive_seed(seed, "sample"), torch.arange(n, device=next(model.parameters()).device))
    labels = None if label is None else torch.full((n,), label, device=stream.index.device)
    every = list(model.trajectory(n, labels=labels, generator=stream))
    if every[0].ndim != 4:
        raise NotSupported("frames are for images; this model makes points.")
    shown = [every[i].cpu() for i in torch.linspace(0, len(every) - 1, frames).long().tolist()]
    save_picture(torch.stack(shown, dim=1).flatten(0, 1).clamp(-1, 1), path, columns=frames)


def save_paths(
    model: GenerativeModel,
    n: int,
    steps: int,
    path: Path,
    *,
    images: Callable[[int], Tensor],
    seed: int = 0,
    label: int | None = None,
) -> None:
    """A picture of what lies between two samples: a row a pair, from one to the other in as many columns as steps.

    Args:
        images: count -> that many images, in [-1, 1], asked for where the model encodes data; other models go from latents to latents.

    Raises:
        NotSupported: a model without latents, points, or a conditional model that encodes data, without a label.
    """
    stream = SampleStream(derive_seed(seed, "sample"), torch.arange(n, device=next(model.parameters()).device))
    labels = None if label is None else torch.full((n,), label, device=stream.index.device)
    if isinstance(model, HasPaths):
        way = model.paths(n, steps, labels=labels, generator=stream)
    elif isinstance(model, HasInterpolation):
        if labels is None and getattr(model, "classes", None) is not None:
            raise NotSupported("between two images of a conditional model one needs their class: give --label.")
        x = images(2 * n).to(stream.index.device)
        if len(x) < 2 * n:
            raise NotSupported(f"{n} pairs take {2 * n} images, and there are {len(x)}; ask for fewer by -n.")
        way = model.interpolate(x[:n], x[n:], steps, labels=labels)
    else:
        raise NotSupported("an energy has no latents to go between.")
    if way.ndim != 5:
        raise NotSupported("ways from one to another are for images; this model makes points.")
    save_picture(way.cpu().transpose(0, 1).flatten(0, 1).clamp(-1, 1), path, columns=steps)
