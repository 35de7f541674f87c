"""Signs that a chain-trained energy has come off its rails, averaged over steps, and said in one sentence."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

DECAY = 0.98
PATIENCE = 50  # steps before the averages mean anything
LATE = 1000  # steps after which chains must have left where they began
SEEN = ("data_energy", "chain_energy", "data_spread", "data_distance", "chain_distance")
INK = ("data_ink", "chain_ink")  # of images only
LARGEST = 1e3  # that energies may grow to: `magnitude` keeps them near 1
HIGH = 10.0  # spreads of data's energies above them that chains may stay
STAINED = 0.25  # by which the inked share of chains may differ from the data's
TOGETHER = 0.1  # of the data's distance from one another; chains that are all black, all white or all alike


class Guard(nn.Module):
    """Moving averages of what each step saw, kept in the checkpoint, and a verdict.

    Args:
        flip: How far below data's the energy of chains may fall, in spreads (mean deviations) of data's energies. A good model's chains stand a
            little above data; far below, they have found what data is not.
    """

    def __init__(self, *, flip: float = 1.0) -> None:
        super().__init__()
        self.flip = flip
        self.averages: Tensor
        n = len(SEEN) + len(INK) + 1  # the last: steps seen
        self.register_buffer("averages", torch.zeros(n, dtype=torch.float64))

    def see(self, means: Mapping[str, Tensor]) -> str | None:
        """Take in a step's means over all processes; what is wrong, or None."""
        zero = torch.zeros((), dtype=torch.float64)
        new = torch.stack([means.get(n, zero).double().cpu() for n in (*SEEN, *INK)]).to(self.averages.device)
        steps = float(self.averages[-1]) + 1
        self.averages[:-1].lerp_(new, max(1 - DECAY, 1 / steps))
        self.averages[-1] = steps
        if steps < PATIENCE:
            return None
        data, chains, spread, apart, chains_apart, ink, chain_ink = self.averages[:-1].tolist()
        for name, value in (("data", data), ("chains", chains)):
            if not abs(value) <= LARGEST:
                return f"the energies of {name} have grown to {value:.3g}"
        if chains - data < -self.flip * spread:
            return f"chains have found energies {data - chains:.3g} below those of data, which differ by {spread:.3g} among themselves"
        if chains_apart < TOGETHER * apart:
            return f"the chains have come together: all black, all white or all alike ({chains_apart / apart:.1%} of the data's distance)"
        if steps < LATE:
            return None
        if chains - data > HIGH * spread:
            return f"the chains are stuck at energies {chains - data:.3g} above those of data, which differ by {spread:.3g} among themselves"
        if abs(chain_ink - ink) > STAINED:
            return f"{chain_ink:.0%} of the chains' pixels are inked, and {ink:.0%} of the data's"
        return None
