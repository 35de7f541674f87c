"""The one training loop. It knows phases, batches and optimisers; it knows no family.

    for report in trainer.steps(1000):
        ...                                  # your own behaviour is a plain line here: there are no callbacks

All randomness of step k is a function of (seed, k), and so is the batch; a checkpoint holds weights, averages, optimiser
moments and the position, and a resumed run takes the same steps, bit for bit on a CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pushforward.data.batches import Batches
from pushforward.errors import CheckpointError, Diverged, NotSupported
from pushforward.model import Batch, GenerativeModel, Phase, Terms
from pushforward.randomness import SampleStream, derive_seed
from pushforward.training import checkpoint
from pushforward.training.compiled import CompiledMove, PayBack
from pushforward.training.ema import EMA
from pushforward.training.memory import keep_freed_memory


@dataclass(frozen=True)
class StepReport:
    """What one step did.

    Args:
        step: Steps taken so far, this one included.
        terms: Mean of each term on this process, as "phase/term" -> 0-dimensional tensor (read it only when you need it).
        gradient_norms: Per phase, on the steps that measure them.
        seconds: Per phase.
    """

    step: int
    terms: dict[str, Tensor]
    gradient_norms: dict[str, Tensor]
    seconds: dict[str, float]


class _Move(nn.Module):
    """A phase as a module, so that it can be wrapped for several processes by itself: its forward is the loss."""

    def __init__(self, phase: Phase) -> None:
        super().__init__()
        self.module = phase.module
        self._loss = phase.loss

    def forward(self, batch: Batch) -> Terms:
        return self._loss(batch)


class Trainer:
    """Trains a model.

    Args:
        model: Any generative model.
        batches: Where data comes from; `batches.rows` says which rows of the global batch are ours.
        optimisers: One for each phase, over its module's parameters.
        accelerator: Device, processes and precision; a plain one when absent.
        seed: Of all draws.
        rate: Step (from 0) -> what the optimisers' learning rates are multiplied by; constant when absent.
        ema: Decay of the moving average of `model.averaged()`; None for none.
        measure_every: Measure gradient norms on every n-th step; 0 for never.
        metadata: Written into each checkpoint's state.json.
    """

    def __init__(
        self,
        model: GenerativeModel,
        batches: Batches,
        optimisers: Mapping[str, torch.optim.Optimizer],
        *,
        accelerator: Accelerator | None = None,
        seed: int = 0,
        rate: Callable[[int], float] | None = None,
        ema: float | None = None,
        measure_every: int = 0,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        keep_freed_memory()
        self.model, self.batches, self.seed, self.measure_every = model, batches, seed, measure_every
        self.accelerator = accelerator or Accelerator()
        self.model.to(self.accelerator.device)
        self.model.train()
        self.phases = model.phases()
        names = [p.name for p in self.phases]
        if sorted(optimisers) != sorted(names):
            raise ValueError(f"optimisers are for {sorted(optimisers)}, the model's phases are {names}.")
        self.moves = {p.name: self.accelerator.prepare(_Move(p)) for p in self.phases}
        self.optimisers = dict(optimisers)  # no wrapper: bfloat16 needs no loss scaling, and fp16 is not offered
        for phase in self.phases:
            if phase.meet is not None:
                phase.meet(self.optimisers[phase.name])
        self._own = {p.name: list(p.module.parameters()) for p in self.phases}
        self.rate = rate
        self.base_rates = {name: [g["lr"] for g in o.param_groups] for name, o in self.optimisers.items()}
        self._compiled: dict[str, CompiledMove] = {}
        self._batch: tuple[Tensor, Tensor | None] | None = None
        self.ema = EMA(model.averaged(), ema) if ema is not None else None
        self.metadata = dict(metadata or {})
        self.step = 0
        self.seconds = 0.0
        self.retries = 0  # how often this run has gone back: other draws and half the rate each time
        self._unchecked: list[tuple[int, str, list[str], Tensor]] = []

    def steps(self, until: int) -> Iterator[StepReport]:
        """Train up to step `until` (not: that many more), yielding after each step.

        Raises:
            Diverged: a term is not finite; step, phase and term are named.
        """
        while self.step < until:
            start = time.perf_counter()
            self._seed_global_generators()
            if self.rate is not None or self.retries:
                now = (1.0 if self.rate is None else self.rate(self.step)) * 0.5**self.retries
                for name, optimiser in self.optimisers.items():
                    for group, lr in zip(optimiser.param_groups, self.base_rates[name], strict=True):
                        group["lr"] = lr * now
            measure = bool(self.measure_every) and (self.step + 1) % self.measure_every == 0
            terms: dict[str, Tensor] = {}
            norms: dict[str, Tensor] = {}
            seconds: dict[str, float] = {}
            for phase in self.phases:
                began = time.perf_counter()
                for repeat in range(phase.repeats):
                    means, norm = self._move(phase, repeat, measure)
                terms |= {f"{phase.name}/{name}": mean for name, mean in means.items()}
                if norm is not None:
                    norms[phase.name] = norm
                seconds[phase.name] = time.perf_counter() - began
            if self.ema is not None:
                self.ema.update(self.step)
            self.step += 1
            self.seconds += time.perf_counter() - start
            yield StepReport(self.step, terms, norms, seconds)

    def compile(self) -> PayBack:
        """Compile each phase's loss and gradient from here on, and measure when that is earned back.

        Raises:
            NotSupported: several processes, or phases that hand things to one another.
        """
        if self.accelerator.num_processes > 1:
            raise NotSupported("compilation is for a single process; leave train.compile off, or run one.")
        if not all(p.compilable for p in self.phases):
            raise NotSupported(
                "phases that share fakes, look ahead or change with the step cannot be compiled; turn model.share_fakes, model.unroll_steps, instance noise or train.compile off."
            )
        kept = {n: b.clone() for n, b in self.model.named_buffers()}
        x, labels = self.batches.next()
        self.batches.position -= 1
        compiled = {p.name: CompiledMove(self.model, p) for p in self.phases}
        spent = {"eager": 0.0, "compiled": 0.0}
        for phase in self.phases:
            batch = lambda: Batch(x, labels, 1, SampleStream(0, self.batches.rows))  # noqa: E731  1: lazy terms are rare
            compiled[phase.name](batch())

            def eager(phase: Phase = phase, batch: Callable[[], Batch] = batch) -> None:
                means = {n: t.mean() for n, t in phase.loss(batch()).items()}
                torch.autograd.grad(phase.total(means), self._own[phase.name])

            def fast(phase: Phase = phase, batch: Callable[[], Batch] = batch) -> None:
                compiled[phase.name](batch())

            for name, move in (("eager", eager), ("compiled", fast)) * 5:
                began = time.perf_counter()
                move()
                spent[name] += phase.repeats * (time.perf_counter() - began) / 5
        with torch.no_grad():
            for n, b in self.model.named_buffers():
                b.copy_(kept[n])
        self._compiled = compiled
        return PayBack(sum(c.seconds for c in compiled.values()), spent["eager"], spent["compiled"])

    def _seed_global_generators(self) -> None:
        """Dropout and a user's own `torch.rand` draw from (seed, step, process) too, so that they resume.

        `torch.manual_seed` would do, but records a stack trace for every kind of device that is not there.
        """
        seed = self._derived(self.step, self.accelerator.process_index)
        torch.default_generator.manual_seed(seed)
        if self.accelerator.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _derived(self, *parts: int | str) -> int:
        """The seed of a draw; another one after each retry."""
        again = (f"retry {self.retries}",) if self.retries else ()
        return derive_seed(self.seed, *again, *parts)

    def _move(self, phase: Phase, repeat: int, measure: bool) -> tuple[dict[str, Tensor], Tensor | None]:
        """One move of one player: batch, loss, finite check, backward, optimiser, what follows it."""
        if phase.fresh_batch or self._batch is None:
            self._batch = self.batches.next()
        x, labels = self._batch
        stream = SampleStream(self._derived(self.step, phase.name, repeat), self.batches.rows)
        batch = Batch(x, labels, self.step, stream)
        optimiser, own = self.optimisers[phase.name], self._own[phase.name]
        if phase.name in self._compiled:
            means, gradients = self._compiled[phase.name](batch)
            self._check(phase.name, means)
            for p, g in zip(own, gradients, strict=True):
                p.grad = g
        else:
            means = {name: term.mean() for name, term in self.moves[phase.name](batch).items()}
            self._check(phase.name, {name: m.detach() for name, m in means.items()})
            for p in own:
                p.grad = None
            phase.total(means).backward()
            means = {name: m.detach() for name, m in means.items()}
        norm = nn.utils.get_total_norm([p.grad for p in own if p.grad is not None]) if measure else None
        optimiser.step()
        if phase.finish is not None:
            self._finish(phase, means)
        return means, norm

    def _finish(self, phase: Phase, means: dict[str, Tensor]) -> None:
        assert phase.finish is not None
        processes = self.accelerator.num_processes
        if processes > 1:
            whole = self.accelerator.reduce(torch.stack(list(means.values())), reduction="mean")
            means = dict(zip(means, whole.unbind(), strict=True))
        phase.finish(means, processes * len(self.batches.rows))

    def _check(self, phase: str, means: dict[str, Tensor]) -> None:
        """Refuse non-finite terms: at once on a CPU, where looking is free, else at the next `check`."""
        self._unchecked.append((self.step, phase, list(means), torch.stack(list(means.values()))))
        if self.accelerator.device.type == "cpu" or len(self._unchecked) >= 500:
            self.check()

    def check(self) -> None:
        """Look at every term since the last check.

        Raises:
            Diverged: one is not finite.
        """
        waiting, self._unchecked = self._unchecked, []
        for step, phase, names, values in waiting:
            if self.accelerator.num_processes > 1:  # what one process has seen all must know, or the others wait for it
                values = self.accelerator.reduce(values.clone(), reduction="mean")
            finite = torch.isfinite(values)
            if not finite.all():
                name = names[int((~finite).nonzero()[0])]
                raise Diverged(
                    f"step {step + 1}: the term '{name}' of the phase '{phase}' is {values[names.index(name)].item()}. The last good checkpoint "
                    f"stays; lower the learning rate (optimiser.{phase}.lr) or the term's weight, and start again from there."
                )

    # --- saving and restoring --------------------------------------------------------------------------------

    def save(self, folder: Path, *, keep: int = 2) -> Path | None:
        """Write `folder/STEP/`. Every process must call it; the first one writes.

        Raises:
            Diverged: a weight is not finite; nothing is written.
        """
        self.check()
        if self.accelerator.num_processes > 1:
            self.model.collect(self.accelerator.gather)
        weights = self.model.state_dict()
        for (
            name,
            w,
        ) in weights.items():  # in every process: they hold the same, and one that raised alone would be waited for
            if w.is_floating_point() and not torch.isfinite(w).all():
                raise Diverged(
                    f"step {self.step}: the weight {name} is no longer finite. The last good checkpoint stays; lower the learning rate."
                )
        if not self.accelerator.is_main_process:
            return None
        tensors: dict[str, dict[str, Tensor]] = {"model": weights, "optimisers": {}}
        if self.ema is not None:
            tensors["ema"] = self.ema.state()
        for phase in self.phases:
            state = self.optimisers[phase.name].state_dict()["state"]
            tensors["optimisers"] |= {
                f"{phase.name}.{i}.{key}": torch.as_tensor(value)
                for i, entry in state.items()
                for key, value in entry.items()
            }
        return checkpoint.save(
            folder,
            self.step,
            tensors,
            {
                **self.metadata,
                "seed": self.seed,
                "position": self.batches.position,
                "seconds": self.seconds,
                "torch": torch.__version__,
            },
            keep=keep,
        )

    def restore(self, path: Path) -> dict[str, Any]:
        """Go back to a checkpoint.

        Returns:
            Its state.json.

        Raises:
            CheckpointError: damaged, or of another model; the trainer is then not to be used.
        """
        tensors, state = checkpoint.load(path)
        for key in ("step", "position", "seconds"):
            if key not in state:
                raise CheckpointError(
                    f"{path / 'state.json'} lacks {key!r}: it is damaged. Remove the folder {path} to go on from the one before."
                )
        if not {"model", "optimisers"} <= tensors.keys():
            raise CheckpointError(
                f"{path} lacks the model or its optimisers: it is damaged. Remove the folder to go on from the one before."
            )
        if ("ema" in tensors) != (self.ema is not None):
            raise CheckpointError(
                f"{path} was made {'with' if 'ema' in tensors else 'without'} averaged weights (train.ema); use the setting it was made with."
            )
        checkpoint.assign(self.model, tensors["model"], str(path / "model.safetensors"))
        if self.ema is not None:
            for name, shadow in self.ema.shadow.items():
                if name not in tensors["ema"] or tensors["ema"][name].shape != shadow.shape:
                    raise CheckpointError(
                        f"{path / 'ema.safetensors'}: {name} is missing or of another shape. The checkpoint is of another architecture."
                    )
                shadow.copy_(tensors["ema"][name])
        for phase in self.phases:
            self._restore_optimiser(phase, tensors["optimisers"], path)
        self.step, self.batches.position, self.seconds = state["step"], state["position"], state["seconds"]
        self._unchecked.clear()  # what was seen after it is undone
        return state

    def _restore_optimiser(self, phase: Phase, saved: dict[str, Tensor], path: Path) -> None:
        optimiser = self.optimisers[phase.name]
        params = [p for group in optimiser.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in saved.items():
            name, index, entry = key.rsplit(".", 2)
            if name != phase.name:
                continue
            if int(index) >= len(params) or (value.ndim and value.shape != params[int(index)].shape):
                raise CheckpointError(
                    f"{path / 'optimisers.safetensors'}: {key} does not fit the model. The checkpoint is of another architecture."
                )
            p = params[int(index)]
            # Moments in the memory layout of their weights, as they were: the fused kernels walk both together.
            state.setdefault(int(index), {})[entry] = (
                torch.empty_like(p).copy_(value) if value.ndim == p.ndim and value.ndim else value
            )
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
