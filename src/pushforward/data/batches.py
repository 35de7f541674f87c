"""Batches without Python per sample, in an order that is a function of (seed, position) alone.

A position is the number of global batches handed out so far. Nothing else needs to be saved: the permutation of an
epoch is drawn from (seed, epoch), so any position can be jumped to, and a resumed run sees the very same batches.
Among `world` processes each takes its own contiguous rows of the global batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from pushforward.data.images import ImageSet, to_model
from pushforward.errors import DataError
from pushforward.randomness import SampleStream, derive_seed


class Batches(Protocol):
    """An endless, addressable source of training batches."""

    position: int

    def next(self) -> tuple[Tensor, Tensor | None]:
        """The next batch, x (B, *shape) in the model's range and labels (B,) or None; advances `position` by one."""
        ...

    @property
    def rows(self) -> Tensor:
        """Which rows of the global batch this process holds, int64 (B,)."""
        ...


def _rows(batch_size: int, rank: int, world: int) -> Tensor:
    if batch_size % world:
        raise DataError(
            f"a global batch of {batch_size} does not divide among {world} processes; choose a multiple (train.batch_size)."
        )
    local = batch_size // world
    return torch.arange(rank * local, (rank + 1) * local)


class ImageBatches:
    """Shuffled batches of an image set; the incomplete batch at the end of an epoch is left out.

    Args:
        data: The images, kept as uint8 on `device` when they fit there.
        batch_size: The global batch, over all processes.
        seed: Seeds the order.
        device: Where batches are wanted.
        channels_last: Hand out NHWC memory, which convolutions on CPUs and tensor cores prefer.
    """

    def __init__(
        self,
        data: ImageSet,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        channels_last: bool = False,
    ) -> None:
        if batch_size > len(data):
            raise DataError(
                f"{data.name} has {len(data)} images, fewer than one batch of {batch_size} (train.batch_size)."
            )
        self.rows = _rows(batch_size, rank, world).to(device)
        self.position = 0
        self._images = data.images.to(device)
        self._labels = None if data.labels is None else data.labels.to(device)
        self._per_epoch = len(data) // batch_size
        self._batch_size, self._seed = batch_size, seed
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def next(self) -> tuple[Tensor, Tensor | None]:
        epoch, k = divmod(self.position, self._per_epoch)
        if epoch != self._epoch:
            shuffler = torch.Generator().manual_seed(derive_seed(self._seed, "order", epoch))
            self._order = torch.randperm(len(self._images), generator=shuffler).to(self._images.device)
            self._epoch = epoch
        index = self._order[k * self._batch_size + self.rows]
        self.position += 1
        x = to_model(self._images.index_select(0, index)).contiguous(memory_format=self._layout)
        return x, None if self._labels is None else self._labels[index]


class DensityBatches:
    """Fresh points of a density in every batch: data without end.

    Args:
        draw: `SampleStream` of n -> points (n, d).
    """

    def __init__(
        self,
        draw: Callable[[SampleStream], Tensor],
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.rows = _rows(batch_size, rank, world).to(device)
        self.position = 0
        self._draw, self._seed = draw, seed

    def next(self) -> tuple[Tensor, Tensor | None]:
        stream = SampleStream(derive_seed(self._seed, "data", self.position), self.rows)
        self.position += 1
        return self._draw(stream), None
