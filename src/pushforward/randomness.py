r"""Random numbers addressed by sample, so that sample i of seed s is the same in any batch, process or device.

A `torch.Generator` hands out numbers in the order it is asked: draw a batch of 7 instead of 64 and every later image
changes. A `SampleStream` has a separate stream for each sample: number j of sample i is a hash of (seed, i, j), so
it does not depend on who else is in the batch. It has no state to save beyond its cursor: training keys a new
stream with each step, and so a checkpoint needs no random state at all.

The hash is the SplitMix64 finaliser over a counter (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
generators"), computed in wrapping int64 arithmetic; normals come from Box and Muller (1958).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # int64 spelling of the 64-bit constants
_MIX1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX2 = 0x94D049BB133111EB - 2**64


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser, in place. `>>` is arithmetic on int64, so each shift is masked."""
    z.bitwise_xor_((z >> 30).bitwise_and_(0x3FFFFFFFF)).mul_(_MIX1)
    z.bitwise_xor_((z >> 27).bitwise_and_(0x1FFFFFFFFF)).mul_(_MIX2)
    return z.bitwise_xor_((z >> 31).bitwise_and_(0x1FFFFFFFF))


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that is a hash of its parts: (run seed, "generator", step) and the like never collide by accident."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class SampleStream:
    """One random stream a sample.

    Args:
        seed: Names the streams.
        index: Which samples, int64 (n,); row r of every draw belongs to sample index[r].

    Example:
        >>> whole = SampleStream(0, torch.arange(4)).normal((4, 3))
        >>> part = SampleStream(0, torch.arange(2, 4)).normal((2, 3))
        >>> torch.equal(whole[2:], part)
        True
    """

    def __init__(self, seed: int, index: Tensor) -> None:
        self.index = index
        self.cursor = 0
        self.keys = _mix(index.to(torch.int64) * _GOLDEN + derive_seed(seed))

    @classmethod
    def from_keys(cls, keys: Tensor, index: Tensor) -> SampleStream:
        """The fresh streams whose `keys` these are (for a traced graph, where the keys are an input)."""
        stream = cls.__new__(cls)
        stream.index, stream.cursor, stream.keys = index, 0, keys
        return stream

    def __len__(self) -> int:
        return len(self.index)

    def _bits(self, count: int) -> Tensor:
        """`count` fresh 64-bit words a sample, (n, count)."""
        counter = torch.arange(self.cursor + 1, self.cursor + count + 1, device=self.index.device)
        self.cursor += count
        return _mix(self.keys[:, None] + counter.mul_(_GOLDEN))

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Float32 in (0, 1), `shape[0]` = number of samples."""
        return self._draw(shape, lambda high, low: torch.stack([high, low], dim=-1).clamp_(max=1 - 2.0**-24))

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Float32 standard normals, `shape[0]` = number of samples."""

        def box_muller(u: Tensor, v: Tensor) -> Tensor:
            radius, angle = u.log_().mul_(-2).sqrt_(), v.mul_(2 * math.pi)
            return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)

        return self._draw(shape, box_muller)

    def integers(self, high: int, shape: Sequence[int]) -> Tensor:
        """int64 in [0, high), `shape[0]` = number of samples."""
        return (self.uniform(shape).double() * high).long().clamp_(max=high - 1)

    def _draw(self, shape: Sequence[int], pairs: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        if shape[0] != len(self):
            raise ValueError(
                f"a stream of {len(self)} samples cannot draw shape {tuple(shape)}: its first side must be {len(self)}."
            )
        wanted = math.prod(shape[1:])
        words = self._bits((wanted + 1) // 2)
        # Each word gives two floats of 32 bits, moved by half a step so that 0 (and its logarithm) never comes.
        high = ((words >> 32) & 0xFFFFFFFF).to(torch.float32).add_(0.5).mul_(2.0**-32)
        low = (words & 0xFFFFFFFF).to(torch.float32).add_(0.5).mul_(2.0**-32)
        return pairs(high, low).flatten(1)[:, :wanted].reshape(tuple(shape))


Generator = torch.Generator | SampleStream
"""What every draw in this library takes: torch's own, or one stream a sample."""


def draw_normal(shape: Sequence[int], *, generator: Generator | None, device: torch.device | str = "cpu") -> Tensor:
    """Standard normals from either kind of generator."""
    if isinstance(generator, SampleStream):
        return generator.normal(shape).to(device)
    return torch.randn(tuple(shape), generator=generator, device=device)


def draw_uniform(shape: Sequence[int], *, generator: Generator | None, device: torch.device | str = "cpu") -> Tensor:
    """Uniform numbers in [0, 1) from either kind of generator."""
    if isinstance(generator, SampleStream):
        return generator.uniform(shape).to(device)
    return torch.rand(tuple(shape), generator=generator, device=device)


def draw_integers(
    high: int, shape: Sequence[int], *, generator: Generator | None, device: torch.device | str = "cpu"
) -> Tensor:
    """int64 in [0, high) from either kind of generator."""
    if isinstance(generator, SampleStream):
        return generator.integers(high, shape).to(device)
    return torch.randint(high, tuple(shape), generator=generator, device=device)
