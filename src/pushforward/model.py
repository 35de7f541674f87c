"""The whole contract: what a generative model is, to the trainer, to the judge and to you.

A model turns noise into data, `sample`, and says how it is trained, `phases`. A flow, a diffusion and an energy
model have one phase; a GAN has two. So who moves when is data and not a subclass of a trainer: one loop trains all.

Whatever else a model can do is a small protocol (`HasLogProb`, `HasEnergy`, `HasScore`, `HasEncoder`); a metric says
which it needs, and a table shows "-" where a model has it not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pushforward.randomness import Generator, SampleStream


@dataclass(frozen=True)
class Batch:
    """What one call of a phase's loss sees.

    Args:
        x: Data in [-1, 1], (B, *shape).
        labels: Classes, int64 (B,), or None.
        step: The training step, from 0.
        generator: One random stream a sample, keyed by (seed, step, phase, repeat): every draw of a loss comes from here.
    """

    x: Tensor
    labels: Tensor | None
    step: int
    generator: SampleStream


Terms = dict[str, Tensor]
"""Named per-sample terms, each (B,). The trainer takes the mean of each and their weighted sum."""


@dataclass(frozen=True)
class Phase:
    """One player's move in a training step.

    Args:
        name: Names the phase in the log, the recipe's optimiser and the checkpoint.
        module: Its parameters move, and no others.
        loss: batch -> named per-sample terms (B,).
        repeats: How often the phase moves in one step, each time on a fresh batch.
        weights: Factor of each term in the sum; 1 where absent.
        fresh_batch: Each move draws a new batch; False: it sees that of the move before it.
        variant: step -> which form the loss takes on it (which lazy terms are due): one compiled graph for each.
        compilable: False: the loss hands something on by a side effect, depends on the step, or differentiates twice through a network.
        finish: Called after each optimiser step with the terms' means over all processes and the images in the global batch (weight
            clipping, moving averages, controllers).
        meet: Called with the phase's optimiser before training, for a loss that foresees its moves.
    """

    name: str
    module: nn.Module
    loss: Callable[[Batch], Terms]
    repeats: int = 1
    weights: Mapping[str, float] = field(default_factory=dict)
    fresh_batch: bool = True
    variant: Callable[[int], Hashable] = lambda step: None
    compilable: bool = True
    finish: Callable[[Mapping[str, Tensor], int], None] | None = None
    meet: Callable[[torch.optim.Optimizer], None] | None = None

    def total(self, means: Mapping[str, Tensor]) -> Tensor:
        """The number that the phase minimises: the means of its terms times their weights."""
        return torch.stack([w * m for n, m in means.items() if (w := self.weights.get(n, 1.0)) != 0]).sum()


class GenerativeModel(nn.Module, ABC):
    """Noise to data. Subclasses are final: wrap a model to change it."""

    @abstractmethod
    def phases(self) -> tuple[Phase, ...]:
        """The moves of one training step, in order."""

    @abstractmethod
    def sample(self, n: int, *, labels: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        """Draw n samples.

        Args:
            n: How many.
            labels: Classes, int64 (n,), for models that are conditional.
            generator: Where all randomness comes from. A `SampleStream` of n samples makes sample i independent
                of the batch that it is drawn in.

        Returns:
            Samples in the model's range ([-1, 1] for images), (n, *shape), without gradient.

        Raises:
            NotSupported: labels for a model that has none, or the other way round.
        """

    def averaged(self) -> nn.Module:
        """The part whose moving average is sampled from (all of it by default)."""
        return self

    def prepare(self, x: Tensor, labels: Tensor | None = None) -> None:
        """Look at some training data once before training (scales that are set from data); the same data on every process."""

    def signs(self) -> dict[str, float]:
        """What the model itself knows of its health, "monitor/..." -> number, for the log; asked when samples are drawn."""
        return {}

    def notes(self) -> tuple[str, ...]:
        """What one should know of how it samples, in sentences."""
        return ()

    def collect(self, gather: Callable[[Tensor], Tensor]) -> None:
        """Bring together what processes hold apart, before a checkpoint is written; every process calls it.

        Args:
            gather: A tensor of each process -> all of them, joined along the first side, on every process.
        """

    def settle(self) -> None:
        """Mend, once before sampling, what averaging the weights broke (batch-norm statistics)."""


@runtime_checkable
class HasLogProb(Protocol):
    """A model with a density: log p(x) in nats, (B, *shape) -> (B,)."""

    def log_prob(self, x: Tensor) -> Tensor: ...


@runtime_checkable
class HasEnergy(Protocol):
    """A model with an energy E, p proportional to exp(-E): (B, *shape) -> (B,)."""

    def energy(self, x: Tensor) -> Tensor: ...


@runtime_checkable
class HasScore(Protocol):
    """A model with the score of its noised density, grad_x log p_t(x): (B, *shape), (B,) -> (B, *shape)."""

    def score(self, x: Tensor, t: Tensor) -> Tensor: ...


@runtime_checkable
class HasTrajectory(Protocol):
    """A model whose samples come about step by step: x at the start and after each step, the last one as `sample` gives it."""

    def trajectory(
        self, n: int, *, labels: Tensor | None = None, generator: Generator | None = None
    ) -> Iterator[Tensor]: ...


@runtime_checkable
class HasEncoder(Protocol):
    """A model that maps data to latents: (B, *shape) -> (B, d)."""

    def encode(self, x: Tensor) -> Tensor: ...


@runtime_checkable
class HasInterpolation(Protocol):
    """A model that goes from one sample to another through its latents: (B, *shape) twice -> (steps, B, *shape), both ends counted."""

    def interpolate(self, a: Tensor, b: Tensor, steps: int, *, labels: Tensor | None = None) -> Tensor: ...


@runtime_checkable
class HasPaths(Protocol):
    """A model without a way from data to latents, which goes from drawn latents to others: (steps, n, *shape)."""

    def paths(
        self, n: int, steps: int, *, labels: Tensor | None = None, generator: Generator | None = None
    ) -> Tensor: ...
