"""Chains that outlive a training step: row b of every batch owns `depth` of them and moves one at a time.

So the chains of a batch are distinct, they are written back where they were drawn, and with several processes each one owns the chains of its own rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pushforward.randomness import Generator, draw_integers, draw_normal, draw_uniform

Initial = Literal["uniform", "wide", "normal"]


def begin(
    kind: Initial, n: int, shape: Sequence[int], *, scale: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Where chains begin, (n, *shape).

    Args:
        kind: "uniform" in [-scale, scale]; "normal" with that standard deviation; "wide": a constant, uniform in [-scale, scale] for each sample, with
            normal noise of a strength that is uniform in [0, scale], cut to the range. Uniform noise in many dimensions is one grey image again and
            again; what is wide begins at dark and bright, flat and noisy images, so that none of them keeps an energy that no chain has ever seen.
        n: How many.
        shape: Of one.
        scale: Half the range.
        generator: Of the draws.
    """
    whole = (n, *shape)
    if kind == "uniform":
        return (2 * draw_uniform(whole, generator=generator) - 1) * scale
    if kind == "normal":
        return scale * draw_normal(whole, generator=generator)
    one = (n, *[1] * len(shape))
    centre, strength = draw_uniform(one, generator=generator), draw_uniform(one, generator=generator)
    return ((2 * centre - 1 + strength * draw_normal(whole, generator=generator)) * scale).clamp(-scale, scale)


class Replay(nn.Module):
    """The chains, as buffers of the model, and so part of its checkpoints.

    Args:
        shape: Of one sample.
        rows: Of the global batch.
        depth: Chains each row owns.
        begin: (n, generator) -> where new chains begin.
    """

    def __init__(
        self, *, shape: Sequence[int], rows: int, depth: int, begin: Callable[[int, Generator | None], Tensor]
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth = {depth}: must be at least 1")
        self.begin, self.depth = begin, depth
        self.chains: Tensor
        self.age: Tensor
        start = begin(rows * depth, None).reshape(rows, depth, *shape)
        self.register_buffer("chains", start.half() if len(shape) == 3 else start)
        self.register_buffer("age", torch.zeros(rows, depth, dtype=torch.int32))  # moves since the chain began

    def draw(
        self, rows: Tensor, restart: float, generator: Generator, *, data: Tensor, share: float = 0.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One chain of each row, each begun anew with the probability `restart`, of these the `share` at its row of `data`.

        Returns:
            The chains (B, *shape), which of its row's each is (B,), and which were begun anew, bool (B,).
        """
        which = draw_integers(self.depth, (len(rows),), generator=generator, device=rows.device)
        anew = draw_uniform((len(rows),), generator=generator, device=rows.device) < restart
        fresh = self.begin(len(rows), generator).to(
            self.chains.device
        )  # drawn for all: row b's numbers are then its own
        if share:
            at_data = draw_uniform((len(rows),), generator=generator, device=rows.device) < share
            fresh = torch.where(at_data.reshape(-1, *[1] * (data.ndim - 1)), data, fresh)
        x = self.chains[rows, which].float()
        return torch.where(anew.reshape(-1, *[1] * (x.ndim - 1)), fresh, x), which, anew

    def put(self, rows: Tensor, which: Tensor, x: Tensor, moves: int, anew: Tensor) -> None:
        """Write chains back where they were drawn, `moves` older than they were, or than 0 where they were begun anew."""
        self.chains[rows, which] = x.to(self.chains.dtype)
        self.age[rows, which] = torch.where(anew, 0, self.age[rows, which]) + moves

    def pick(self, n: int, generator: Generator | None) -> Tensor:
        """n chains at random, with replacement, (n, *shape)."""
        rows, depth = self.chains.shape[:2]
        at = draw_integers(rows * depth, (n,), generator=generator, device=self.chains.device)
        return self.chains.flatten(0, 1)[at].float()
