"""One player's move, traced whole and compiled: loss, penalties and gradients in one graph.

Compiling the networks one by one breaks double backward and leaves the many small operations between them as they are. Here the whole
of `phase.loss` and its gradient is traced once on fake tensors (so any Python in a user's term is fine) and handed to Inductor. Compiling costs tens of seconds, so `pays_back` measures when that is worth it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from pushforward.model import Batch, GenerativeModel, Phase, Terms
from pushforward.randomness import SampleStream

Gradients = tuple[Tensor, list[Tensor]]


class _Loss(nn.Module):
    """A phase's loss as a module of the whole model, so that every weight and buffer can be swapped for a traced one."""

    def __init__(self, model: GenerativeModel, phase: Phase) -> None:
        super().__init__()
        self.model = model
        self._loss = phase.loss

    def forward(self, batch: Batch) -> Terms:
        return self._loss(batch)


class CompiledMove:
    """Means of a phase's terms and the gradient of their weighted sum, compiled.

    A graph is made for each variant of the loss (`Phase.variant`: a lazy term is there or not) and each shape of the batch.

    Args:
        model: The model whose phase it is.
        phase: The phase.
    """

    def __init__(self, model: GenerativeModel, phase: Phase) -> None:
        self.phase = phase
        self._loss = _Loss(model, phase)
        own = set(phase.module.parameters())
        self._parameters = dict(self._loss.named_parameters())
        self._own = [n for n, p in self._parameters.items() if p in own]
        self._graphs: dict[object, tuple[list[str], Callable[..., Gradients]]] = {}
        self.seconds = 0.0

    def __call__(self, batch: Batch) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Term means by name, and gradients in the order of `phase.module.parameters()`."""
        state = {**self._parameters, **dict(self._loss.named_buffers())}
        inputs = (batch.x, batch.labels, batch.generator.keys, *state.values())
        key = (self.phase.variant(batch.step), batch.x.shape)
        if key not in self._graphs:
            start = time.perf_counter()
            self._graphs[key] = self._compile(batch, list(state), inputs)
            names, graph = self._graphs[key]
            kept = {n: b.clone() for n, b in self._loss.named_buffers()}
            with torch.no_grad():
                graph(*inputs)  # compiles; what it did to the buffers is undone
                for n, b in self._loss.named_buffers():
                    b.copy_(kept[n])
            self.seconds += time.perf_counter() - start
        names, graph = self._graphs[key]
        with torch.no_grad():
            means, gradients = graph(*inputs)
        return dict(zip(names, means.unbind(), strict=True)), gradients

    def _compile(
        self, batch: Batch, state: list[str], inputs: tuple[Tensor | None, ...]
    ) -> tuple[list[str], Callable[..., Gradients]]:
        names: list[str] = []

        def move(x: Tensor, labels: Tensor | None, keys: Tensor, *values: Tensor) -> Gradients:
            swapped = {
                n: v.detach().requires_grad_() if n in self._parameters else v
                for n, v in zip(state, values, strict=True)
            }
            stream = SampleStream.from_keys(keys, batch.generator.index)
            terms = functional_call(self._loss, swapped, (Batch(x, labels, batch.step, stream),))
            names[:] = list(terms)
            means = {n: t.mean() for n, t in terms.items()}
            gradients = torch.autograd.grad(self.phase.total(means), [swapped[n] for n in self._own])
            return torch.stack([m.detach() for m in means.values()]), [g.detach() for g in gradients]

        graph = make_fx(move, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
        return names, torch.compile(graph, fullgraph=True)


@dataclass(frozen=True)
class PayBack:
    """What compilation cost and when it is earned back."""

    compile_seconds: float
    eager_step: float
    compiled_step: float

    @property
    def steps(self) -> float:
        """Steps after which compiling was worth it; infinite when it is not."""
        gain = self.eager_step - self.compiled_step
        return self.compile_seconds / gain if gain > 0 else float("inf")

    def __str__(self) -> str:
        text = f"compiled in {self.compile_seconds:.0f} s; a step takes {1000 * self.compiled_step:.1f} ms instead of {1000 * self.eager_step:.1f}"
        return (
            f"{text}: pays back after {self.steps:,.0f} steps"
            if self.steps < float("inf")
            else f"{text}: it does not pay here, leave train.compile off"
        )
