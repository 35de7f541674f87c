"""Independence Metropolis-Hastings with a learned log density ratio (MH-GAN)."""

from __future__ import annotations

import torch
from torch import Tensor

from pushforward.randomness import SampleStream, derive_seed
from pushforward.samplers.rejection import Drawn, Propose


def metropolis_hastings(
    propose: Propose, n: int, *, steps: int = 100, start: Tensor | None = None, seed: int = 0
) -> Drawn:
    """Chains that move to a proposal x' with probability min(1, exp(D(x') - D(x))): their law tends to the data's.

    Args:
        propose: Makes proposals and their log ratios.
        n: Chains; the last state of each is a sample.
        steps: Moves of each chain.
        start: Log ratios, (n,), of data points that the chains begin at; a chain that never moves from there begins anew at its
            best proposal, so that no data are given back. Absent: they begin at a proposal.
        seed: Of all draws.

    Returns:
        The last states; the acceptance is the share of moves made.

    Reference: Turner et al. 2019, algorithm 1, arXiv 1811.11357.
    """

    if steps < 1:
        raise ValueError(f"steps = {steps}: must be at least 1.")

    def block(k: int) -> tuple[Tensor, Tensor, SampleStream]:
        stream = SampleStream(derive_seed(seed, "metropolis", k), torch.arange(n))
        return *propose(stream), stream

    x, current, _ = block(0)
    if start is not None:
        current = start.clone()
    moved = torch.zeros(n, dtype=torch.bool) if start is not None else torch.ones(n, dtype=torch.bool)
    best, accepted = current.clone() if start is None else torch.full((n,), -torch.inf), 0
    for k in range(1, steps + 1):
        proposal, ratio, stream = block(k)
        move = stream.uniform((n,)).log() < ratio - current
        # What has not left the data yet holds its best proposal, in case it never does.
        hold = ~moved & ~move & (ratio > best)
        best = torch.where(hold, ratio, best)
        take = (move | hold).reshape(-1, *[1] * (x.ndim - 1))
        x = torch.where(take, proposal, x)
        current = torch.where(move, ratio, current)
        moved |= move
        accepted += int(move.sum())
    return Drawn(x, n * (steps + 1), accepted / (n * steps))
