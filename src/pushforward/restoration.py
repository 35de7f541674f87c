"""Images behind measurements: what `pushforward restore` does, and what its picture and its figures show."""

from __future__ import annotations

import inspect
import io
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pushforward.build.components import options_of
from pushforward.config import override
from pushforward.data.fetch import load_path
from pushforward.data.images import save_grid, to_bytes, to_model
from pushforward.errors import ConfigError, DataError, NotSupported, nearest
from pushforward.families.diffusion.denoisers import Counted
from pushforward.families.diffusion.model import Diffusion
from pushforward.families.diffusion.operators import OPERATORS, Mask, Operator, count_photons, measure
from pushforward.families.diffusion.posterior import METHODS, Noise, sample_posterior
from pushforward.families.diffusion.solvers import start
from pushforward.metrics.restoration import psnr, ssim
from pushforward.model import GenerativeModel
from pushforward.networks.blocks import frozen
from pushforward.randomness import SampleStream, derive_seed
from pushforward.training.checkpoint import write_atomic
from pushforward.training.logs import Progress


@dataclass(frozen=True)
class Restoration:
    """Draws from the posterior of several measurements.

    Args:
        truth: Images in [-1, 1], (B, C, H, W).
        measured: What was seen of each, (B, ...).
        draws: Reconstructions, (K, B, C, H, W).
        evaluations: Of the denoiser, for each draw.
        seconds: For all draws together.
        options: Of operator and method, as used.
    """

    truth: Tensor
    measured: Tensor
    draws: Tensor
    evaluations: int
    seconds: float
    options: dict[str, Any]

    def figures(self, operator: Operator) -> dict[str, Tensor]:
        """Per image, (B,): PSNR and SSIM of the first draw and of the mean of all, the root mean square residual, the draws' spread."""
        mean, first = self.draws.mean(dim=0), self.draws[0]
        residual = (self.measured - operator(first)).flatten(1).square().mean(dim=1).sqrt()
        found = {
            "psnr": psnr(first, self.truth),
            "psnr of the mean": psnr(mean, self.truth),
            "residual": residual.double(),
        }
        if min(self.truth.shape[2:]) >= 11:
            found |= {"ssim": ssim(first, self.truth), "ssim of the mean": ssim(mean, self.truth)}
        if len(self.draws) > 1:
            found["spread"] = self.draws.double().std(dim=0).flatten(1).mean(dim=1)
        return found


def restore(
    model: GenerativeModel,
    truth: Tensor,
    *,
    operator: str,
    method: str,
    steps: int | None = None,
    noise: float = 0.05,
    photons: float | None = None,
    draws: int = 4,
    settings: Sequence[str] = (),
    seed: int = 0,
    quiet: bool = True,
) -> tuple[Restoration, Operator]:
    """Measure images and draw what may lie behind.

    Args:
        model: A trained diffusion model.
        truth: Images in [-1, 1], (B, C, H, W).
        operator: Name of the measurement.
        method: Name of the posterior method.
        steps: Levels of its grid; the method's own number when absent.
        noise: Standard deviation of the measurement's noise.
        photons: Poisson noise in its place: photons counted where it is brightest. The methods, all of Gaussian noise, are told its mean variance in each measurement.
        draws: Reconstructions of each image.
        settings: KEY=VALUE, options of the operator and of the method.
        seed: Of noise and draws.
        quiet: Show no progress.

    Raises:
        NotSupported: no diffusion model, or a method that cannot use the operator.
        ConfigError: unknown names or settings, or values out of range.
    """
    if not isinstance(model, Diffusion):
        raise NotSupported("restoring needs a diffusion model; train one: `pushforward train diffusion/edm`.")
    if model.classes is not None and not model.label_dropout:
        raise NotSupported("this model was trained with labels alone (label_dropout = 0): it is no prior without them.")
    if operator not in OPERATORS:
        raise ConfigError(f"--operator {operator}: {nearest(operator, OPERATORS)}")
    if method not in METHODS:
        raise ConfigError(f"--method {method}: {nearest(method, METHODS)}")
    if not 0 <= noise < math.inf:
        raise ConfigError(f"--noise {noise}: at least 0 and finite.")
    if truth.shape[1:] != torch.Size(model.shape):
        raise DataError(f"the images have shape {tuple(truth.shape[1:])}, the model makes {tuple(model.shape)}.")
    entry, shape = METHODS[method], tuple(model.shape)
    of_operator, of_method = _sorted_settings(operator, method, settings)
    schedule = model.denoiser.schedule
    try:
        a: Operator = OPERATORS[operator](shape, **of_operator)
        grid = entry.grid(schedule, steps or entry.steps)
    except ValueError as error:
        raise ConfigError(f"{operator}: {error}.") from error
    stream = partial(_stream, seed, len(truth))
    y, sd = _measured(a, truth, operator, noise, photons, stream("noise"))
    counted = Counted(model.denoiser)
    found, began = [], time.perf_counter()
    with frozen(model), Progress(f"restore by {method}", draws * (len(grid) - 1), quiet=quiet) as progress:
        for k in range(draws):
            generator = stream("draw", k)
            x = start(schedule, (len(truth), *shape), grid, generator=generator)
            try:
                walk = sample_posterior(
                    method,
                    counted,
                    a,
                    y,
                    x,
                    grid,
                    noise=sd,
                    generator=generator,
                    **of_method,
                )
                for i, step in enumerate(walk):
                    x = step.x
                    progress.update(k * (len(grid) - 1) + i + 1, images_per_step=len(truth))
            except ValueError as error:
                raise ConfigError(f"{method}: {error}.") from error
            found.append(x.clamp(-1, 1))
    seconds = time.perf_counter() - began
    lost = sum(int((~torch.isfinite(x)).flatten(1).any(dim=1).sum()) for x in found)
    if lost:
        raise NotSupported(
            f"{method} in {len(grid) - 1} steps diverged on {lost} of {draws * len(truth)} reconstructions. Take more --steps, a smaller step of its own (--set), or a run that was trained for longer."
        )
    options = {
        "steps": len(grid) - 1,
        "noise": float(torch.as_tensor(sd, dtype=torch.float64).mean()),
        **of_operator,
        **of_method,
    }
    if photons is not None:
        options["photons"] = photons
    return Restoration(truth, y, torch.stack(found), counted.evaluations // draws, seconds, options), a


def _stream(seed: int, n: int, what: str, k: int = 0) -> SampleStream:
    return SampleStream(derive_seed(seed, what, k), torch.arange(n))


def _measured(
    a: Operator, truth: Tensor, name: str, noise: float, photons: float | None, generator: SampleStream
) -> tuple[Tensor, Noise]:
    """Measurements, and the standard deviation of their noise."""
    if photons is None:
        return measure(a, truth, noise=noise, generator=generator), noise
    if name == "phase-retrieval":
        raise NotSupported(
            "photons are counted where a measurement is a brightness; phase retrieval's are amplitudes. Use --noise."
        )
    if not 0 < photons < math.inf:
        raise ConfigError(f"--photons {photons}: above 0 and finite.")
    y = count_photons(a, truth, peak=photons, generator=generator)
    seen = a.mask.expand(y.shape).double() if isinstance(a, Mask) else torch.ones_like(y, dtype=torch.float64)
    y = torch.where(seen > 0, y, 0.0)  # where nothing is seen, nothing is counted
    many = seen.flatten(1).sum(dim=1).clamp(min=1)
    brightness = (seen * (y.double() + 1) / 2).flatten(1).sum(dim=1) / many
    brightness = brightness.maximum(1 / (many * photons))  # where none came, as if one had
    return y, 2 * (brightness / photons).sqrt().reshape(-1, 1, 1, 1)  # a count's variance is its mean


def _sorted_settings(operator: str, method: str, settings: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of operator and method, each setting given to the one that knows it."""
    entry, given = METHODS[method], override({}, settings)
    house = {"operator", "y", "noise", "grid", "generator"}
    makers: list[tuple[Callable[..., Any], set[str]]] = [(OPERATORS[operator], _options(OPERATORS[operator]))]
    main = entry.wrap or entry.solve
    makers.append((main, _options(main) - house))
    if entry.wrap is not None:
        makers.append((entry.solve, set(entry.solver_options)))
    known = sorted(set.union(*(own for _, own in makers)))
    for key in given:
        if key not in known:
            raise ConfigError(f"--set {key}: {nearest(key, known)}")
    found = [
        options_of(maker, {k: v for k, v in given.items() if k in own}, "--set", supplied=_options(maker) - own)
        for maker, own in makers
    ]
    return found[0], {k: v for options in found[1:] for k, v in options.items()}


def _options(factory: Callable[..., Any]) -> set[str]:
    parameters = inspect.signature(factory).parameters
    return {n for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def pictures(found: Restoration) -> Tensor:
    """One row an image: truth, what was measured, each draw, and the draws' standard deviation (white: 0.5 and more); bytes (rows * columns, C, H, W)."""
    shape = found.truth.shape[1:]
    columns = [to_bytes(found.truth), to_bytes(_shown(found.measured, shape))]
    columns += [to_bytes(d) for d in found.draws]
    if len(found.draws) > 1:
        columns.append(to_bytes((found.draws.std(dim=0) * 4 - 1).clamp(-1, 1)))
    return torch.stack(columns, dim=1).flatten(0, 1)


def _shown(y: Tensor, shape: torch.Size) -> Tensor:
    """A measurement as an image of the size of the others."""
    if y.shape[1:] == shape:
        return y.clamp(-1, 1)
    if y.shape[-1] < shape[-1]:
        return F.interpolate(y, size=tuple(shape[-2:]), mode="nearest").clamp(-1, 1)
    # phase retrieval: the spectrum's logarithm, low frequencies in the middle; noise makes some amplitudes negative
    amplitude = torch.fft.fftshift(y, dim=(-2, -1)).clamp(min=1e-6).log()
    low, high = amplitude.flatten(1).quantile(0.02, dim=1), amplitude.flatten(1).amax(dim=1)
    scaled = (amplitude - low.reshape(-1, 1, 1, 1)) / (high - low).clamp(min=1e-6).reshape(-1, 1, 1, 1)
    return F.interpolate(scaled * 2 - 1, size=tuple(shape[-2:]), mode="area").clamp(-1, 1)


def read_images(paths: Sequence[Path], shape: Sequence[int]) -> Tensor:
    """Image files, folders and arrays as floats in [-1, 1], (B, C, H, W).

    Raises:
        DataError: nothing readable, or images of another shape than the model's.
    """
    found = []
    for path in paths:
        x = load_path(path, "test").images
        if x.shape[1:] != torch.Size(shape):
            raise DataError(f"{path} has images of shape {tuple(x.shape[1:])}, the model makes {tuple(shape)}.")
        found.append(x)
    return to_model(torch.cat(found))


def write(found: Restoration, a: Operator, out: Path, *, operator: str, method: str, seed: int) -> None:
    """restored.png (see `pictures`), restored.json (each image's figures) and restored.npz (truth, measured, draws as floats)."""
    out.mkdir(parents=True, exist_ok=True)
    table = {
        "operator": operator,
        "method": method,
        "seed": seed,
        "options": found.options,
        "evaluations": found.evaluations,
        "seconds": found.seconds,
        "figures": {k: v.tolist() for k, v in found.figures(a).items()},
    }
    write_atomic(out / "restored.json", json.dumps(table, indent=1))
    stream = io.BytesIO()
    np.savez_compressed(stream, truth=found.truth.numpy(), measured=found.measured.numpy(), draws=found.draws.numpy())
    write_atomic(out / "restored.npz", stream.getvalue())
    save_grid(pictures(found), out / "restored.png", columns=2 + len(found.draws) + (len(found.draws) > 1), scale=2)
