"""Exponential moving average of weights: what is sampled from, since the last iterate of a game is noisy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """A shadow copy of a module's parameters, shadow <- d shadow + (1 - d) weights after each step.

    Only parameters are averaged. Batch-norm statistics of averaged weights are neither averaged nor copied but
    estimated anew before sampling (`GenerativeModel.settle`), since they belong to other weights.

    Args:
        module: What to average.
        decay: d in [0, 1). Early on min(decay, (1 + t) / (10 + t)), so that short runs forget their start.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1); got {decay}.")
        self.module, self.decay = module, decay
        self.shadow = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.shadow.values()), [p.detach() for p in self.module.parameters()], 1 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Inside, the module has the averaged weights; afterwards its own weights and buffers, as they were."""
        own = [p.detach().clone() for p in self.module.parameters()]
        buffers = [b.clone() for b in self.module.buffers()]
        with torch.no_grad():
            torch._foreach_copy_(list(self.module.parameters()), list(self.shadow.values()))
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(list(self.module.parameters()), own)
                for b, saved in zip(self.module.buffers(), buffers, strict=True):
                    b.copy_(saved)

    def state(self) -> dict[str, Tensor]:
        """The shadow weights by name."""
        return self.shadow
