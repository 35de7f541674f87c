"""A diffusion model: one phase, that of its denoiser, and a sampler that may be changed after training.

x_t = alpha_t x_0 + sigma_t eps,   loss = weight(t) |D(x_t, t) - x_0|^2,   sample = solver(denoiser, noise, grid)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from pushforward.errors import NotSupported
from pushforward.families.diffusion.denoisers import Denoiser, Labelled, NetworkDenoiser, Scaling
from pushforward.families.diffusion.editing import interpolate
from pushforward.families.diffusion.guidance import ClassifierFree, Clipped, DynamicThreshold
from pushforward.families.diffusion.solvers import SOLVERS, start
from pushforward.model import Batch, GenerativeModel, Phase, Terms
from pushforward.randomness import Generator, SampleStream, draw_integers

Weighting = Literal["plain", "min-snr", "edm"]
Times = Literal["uniform", "discrete", "log-normal", "logit-normal"]
EARLIEST = 1e-3  # no time below is trained on where times are uniform


# --- what is drawn and how it is weighed ------------------------------------------------------------------------


def draw_times(denoiser: NetworkDenoiser, kind: Times, stream: SampleStream, *, centre: float = -1.2) -> Tensor:
    """A time for each sample, float64 (B,).

    "uniform" on [0.001, 1]; "discrete", one of the schedule's own levels; "log-normal", log(sigma / alpha) ~ N(centre, 1.2^2) (Karras et al.
    2022, table 1, where the centre is -1.2); "logit-normal", t the sigmoid of a standard normal (Esser et al. 2024, arXiv 2403.03206).
    """
    schedule = denoiser.schedule
    if kind == "uniform":
        return EARLIEST + (1 - EARLIEST) * stream.uniform((len(stream),)).double()
    if kind == "discrete":
        levels: int = schedule.steps  # type: ignore[attr-defined]
        return (stream.integers(levels, (len(stream),)).double() + 1) / levels
    z = stream.normal((len(stream),)).double()
    if kind == "logit-normal":
        return torch.sigmoid(z)
    return schedule.time(torch.exp(1.2 * z + centre)).clamp(max=1)


def weigh(kind: Weighting, alpha: Tensor, sigma: Tensor, scaling: Scaling, data_sd: float) -> Tensor:
    r"""Weight of the squared error of the network's output, (B, 1, ...).

    As a weight of |D - x_0|^2: "plain" is 1 / out^2, an unweighted error of what the network gives; "min-snr" is min(alpha^2 / sigma^2, 5) (Hang et al.
    2023, arXiv 2303.09556); "edm" is (s^2 + sd^2) / (s sd)^2 with s = sigma / alpha.
    """
    if kind == "plain":
        return torch.ones_like(alpha)
    out = scaling.out.double()
    if kind == "min-snr":
        return ((alpha.double() / sigma.double()).square().clamp(max=5.0) * out.square()).to(alpha.dtype)
    gain = (out * alpha.double() / sigma.double()).square() + (out / data_sd).square()  # finite products before squares
    return gain.to(alpha.dtype)


# --- sampling ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """How noise becomes data: by which solver, in how many steps, with which guidance.

    Args:
        solver: Its name.
        steps: Of its grid; the solver's own number when None.
        guidance: Scale s of classifier-free guidance; 1 is the conditional model, 0 the unconditional one.
        guidance_options: Of `ClassifierFree`.
        solver_options: Of the solver.
        grid_options: Of its grid.
        clip: What is done to denoised data: nothing, "static" ([-1, 1]) or "dynamic" (a percentile).
    """

    solver: str = "heun"
    steps: int | None = None
    guidance: float = 1.0
    guidance_options: Mapping[str, Any] = field(default_factory=dict)
    solver_options: Mapping[str, Any] = field(default_factory=dict)
    grid_options: Mapping[str, Any] = field(default_factory=dict)
    clip: Literal["none", "static", "dynamic"] = "none"

    def evaluations(self) -> int:
        """Of the denoiser, for each sample (guidance takes two at once)."""
        entry = SOLVERS[self.solver]
        return entry.evaluations(self.steps or entry.steps)


class Diffusion(GenerativeModel):
    """A denoiser that is trained, and a sampler.

    Args:
        denoiser: A network with its schedule.
        shape: Of one sample.
        sampler: By which `sample` draws; assign another at any time.
        classes: Number of classes; None: unconditional.
        label_dropout: Share of labels that are hidden in training, for guidance.
        weighting: Of the loss.
        times: How times are drawn.
        times_centre: Mean of log(sigma / alpha) when they are log-normal: the higher, the more is learned of the whole and the less of edges.
    """

    def __init__(
        self,
        *,
        denoiser: NetworkDenoiser,
        shape: tuple[int, ...],
        sampler: Sampler,
        classes: int | None = None,
        label_dropout: float = 0.1,
        weighting: Weighting = "plain",
        times: Times = "uniform",
        times_centre: float = -1.2,
    ) -> None:
        super().__init__()
        self.denoiser, self.shape, self.sampler, self.classes = denoiser, shape, sampler, classes
        self.label_dropout, self.weighting, self.times, self.times_centre = (
            label_dropout,
            weighting,
            times,
            times_centre,
        )

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("denoiser", self.denoiser, self.loss),)

    def loss(self, batch: Batch) -> Terms:
        """The weighted squared error of the network's output, a mean over the entries of each sample."""
        x, stream = batch.x, batch.generator
        labels = batch.labels if self.classes is not None else None
        if labels is not None and self.label_dropout:
            hidden = stream.uniform((len(x),)) < self.label_dropout
            labels = labels.masked_fill(hidden.to(labels.device), self.null)
        t = draw_times(self.denoiser, self.times, stream, centre=self.times_centre)
        eps = stream.normal(x.shape)
        shape = (-1, *[1] * (x.ndim - 1))
        alpha, sigma = (v.reshape(shape).to(x.dtype) for v in self.denoiser.schedule.levels(t))
        noised = alpha * x + sigma * eps
        if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
            noised = noised.contiguous(memory_format=torch.channels_last)
        c, raw = self.denoiser.raw(noised, t, labels)
        error = (raw - self._target(x, eps, alpha, sigma, c)).square()
        weight = weigh(self.weighting, alpha, sigma, c, self.denoiser.data_sd)
        return {"denoising": (weight * error).flatten(1).mean(dim=1)}

    def _target(self, x: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor, c: Scaling) -> Tensor:
        """What the network should give, (x_0 - skip x_t) / out, written so that no digits are lost at small sigma."""
        match self.denoiser.parametrisation:
            case "eps":
                return eps
            case "x0":
                return x
            case "v":
                return alpha * eps - sigma * x
            case "flow":
                return eps - x
            case _:
                sd = self.denoiser.data_sd
                return (sigma / sd * x - alpha * sd * eps) * c.into

    @property
    def null(self) -> int:
        """The label that means none."""
        assert self.classes is not None
        return self.classes

    @property
    def evaluations(self) -> int:
        """Of the denoiser, for each sample."""
        return self.sampler.evaluations()

    def guided(self, labels: Tensor | None) -> Denoiser:
        """The denoiser as the sampler wants it, its labels bound."""
        s = self.sampler
        out: Denoiser = self.denoiser
        if labels is not None:
            out = Labelled(out, labels)
            if s.guidance != 1:
                out = ClassifierFree(
                    self.denoiser, labels, null=self.null, scale=s.guidance, **dict(s.guidance_options)
                )
        if s.clip == "static":
            out = Clipped(out)
        elif s.clip == "dynamic":
            out = DynamicThreshold(out)
        return out

    def grid(self) -> Tensor:
        """The sampler's times."""
        entry = SOLVERS[self.sampler.solver]
        return entry.grid(self.denoiser.schedule, self.sampler.steps or entry.steps, **dict(self.sampler.grid_options))

    def draw_labels(self, n: int, labels: Tensor | None, generator: Generator | None) -> Tensor | None:
        """The labels asked for, or drawn ones where the model needs some."""
        if self.classes is None:
            if labels is not None:
                raise NotSupported(
                    "this diffusion model is unconditional: it was trained without labels and cannot sample by label."
                )
            return None
        device = next(self.parameters()).device
        if labels is None:
            return draw_integers(self.classes, (n,), generator=generator, device=device)
        return labels.to(device)

    @torch.no_grad()
    def sample(self, n: int, *, labels: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        last: Tensor = deque(self.trajectory(n, labels=labels, generator=generator), maxlen=1)[0]
        return last.contiguous()

    @torch.no_grad()
    def trajectory(
        self, n: int, *, labels: Tensor | None = None, generator: Generator | None = None
    ) -> Iterator[Tensor]:
        """x at the first level, and after each step of the solver."""
        entry, device = SOLVERS[self.sampler.solver], next(self.parameters()).device
        labels = self.draw_labels(n, labels, generator)
        grid = self.grid()
        x = start(self.denoiser.schedule, (n, *self.shape), grid, generator=generator, device=device)
        yield x
        for step in entry.solve(self.guided(labels), x, grid, generator=generator, **dict(self.sampler.solver_options)):
            yield step.x

    @torch.no_grad()
    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Score of the noised density, of the unconditional model where there is one."""
        return self.denoiser.score(x, t)

    def interpolate(self, a: Tensor, b: Tensor, steps: int, *, labels: Tensor | None = None) -> Tensor:
        """Between pairs of images, (steps, B, *shape), by DDIM there and back with the sampler's number of steps; without guidance, which cannot be undone."""
        if steps < 2:
            raise ValueError(f"steps = {steps}: at least the two ends")
        labels = self.draw_labels(len(a), labels, None)
        entry = SOLVERS["ddim"]
        grid = entry.grid(self.denoiser.schedule, self.sampler.steps or entry.steps)
        denoiser = self.denoiser if labels is None else Labelled(self.denoiser, labels)
        return interpolate(denoiser, a, b, grid, between=steps - 2)
