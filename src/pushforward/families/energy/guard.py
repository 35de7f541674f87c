"""Signs that a chain-trained energy has come off its rails, averaged over steps, and said in one sentence."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

DECAY = 0.98
PATIENCE = 50  # steps before the averages mean anything
SEEN = ("data_energy", "chain_energy", "data_distance", "chain_distance")
LARGEST = 1e3  # that energies may grow to: `magnitude` keeps them near 1
TOGETHER = 0.02  # of the data's distance from one another; chains that are all black, all white or all alike


class Guard(nn.Module):
    """Moving averages of what each step saw, kept in the checkpoint, and a verdict.

    Args:
        flip: How far below data's the energy of chains may fall. A good model's chains stand a little above data; far below, they have found what data is not.
    """

    def __init__(self, *, flip: float = 2.0) -> None:
        super().__init__()
        self.flip = flip
        self.averages: Tensor
        self.register_buffer("averages", torch.zeros(len(SEEN) + 1, dtype=torch.float64))  # the last: steps seen

    def see(self, means: Mapping[str, Tensor]) -> str | None:
        """Take in a step's means over all processes; what is wrong, or None."""
        new = torch.stack([means[n].double() for n in SEEN]).to(self.averages.device)
        steps = float(self.averages[-1]) + 1
        self.averages[:-1].lerp_(new, max(1 - DECAY, 1 / steps))
        self.averages[-1] = steps
        if steps < PATIENCE:
            return None
        data, chains, apart, chains_apart = self.averages[:-1].tolist()
        for name, value in (("data", data), ("chains", chains)):
            if not abs(value) <= LARGEST:
                return f"the energies of {name} have grown to {value:.3g}"
        if chains - data < -self.flip:
            return f"chains have found energies {data - chains:.3g} below those of data"
        if chains_apart < TOGETHER * apart:
            return f"the chains have come together: all black, all white or all alike ({chains_apart / apart:.1%} of the data's distance)"
        return None
