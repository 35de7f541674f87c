"""Blocks of squared distances between features, each with a bound on its error, and exact ones for the pairs in doubt.

Fast distances come from one product of centred features. Where the processor multiplies bytes several times faster than floats (AVX-512
VNNI and later), that product is taken of two 8-bit limbs a number, about 15 bits: both ways come with error bounds that hold always, and whoever
compares distances settles what the bounds leave open with `exact`. So answers do not depend on which way was taken.
"""

from __future__ import annotations

import math
import time
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 1024
KEPT = 1 << 29  # bytes of prepared rows that are kept; larger sets are prepared anew block by block
_WIDE = 256  # features from which limbs can pay


@lru_cache(maxsize=1)
def limbs_pay() -> bool:
    """Whether three products of bytes are faster here than one of floats: tried once, in some milliseconds."""
    x = torch.ones(1024, 2048)
    y = x.to(torch.int8)

    def seconds(product: object) -> float:
        best = math.inf
        for _ in range(4):  # the first calls prepare themselves
            start = time.perf_counter()
            product()  # type: ignore[operator]
            best = min(best, time.perf_counter() - start)
        return best

    g = torch.Generator().manual_seed(0)
    extreme = torch.where(torch.rand(64, 2048, generator=g) < 0.5, 127, -127).to(torch.int8)
    try:
        exact_product = extreme.double() @ extreme.double().T
        if not torch.equal(torch._int_mm(extreme, extreme.T).double(), exact_product):
            return False  # some processors' byte products overflow
        return 3.5 * seconds(lambda: torch._int_mm(y, y.T)) < seconds(lambda: x @ x.T)
    except RuntimeError:
        return False


class _Prepared(NamedTuple):
    """Some rows, ready to be multiplied: floats, or the limbs' high and low bytes with the unit of each row."""

    floats: Tensor | None
    high: Tensor | None
    low: Tensor | None
    unit: Tensor | None  # (n,)


class Points:
    """Features (n, d) about a common centre, in units in which they are about 1.

    Args:
        x: As given; it may lie on disk (a memory map).
        centre: A point in their midst, (1, d).
        scale: A power of two that brings them to about 1, so that no square underflows; distances are in these units.
        limbs: Products of bytes may stand for products of floats: for those who look at error bounds.
    """

    def __init__(self, x: Tensor, centre: Tensor, *, scale: float = 1.0, limbs: bool = True) -> None:
        self.given = x
        self.centre = centre
        self.scale = scale
        d = x.shape[1]
        self.limbs = limbs and _WIDE <= d <= 1 << 16 and limbs_pay()
        self.whole = self._room() if x.numel() * (2 if self.limbs else 4) <= KEPT else None
        self.last: tuple[int, _Prepared] | None = None  # one block is asked for many times in turn
        self.norms, self.errors = torch.empty(len(x)), torch.empty(len(x), 3)
        for rows in slices(len(x)):
            floats = self._floats(rows)
            part = self._prepare(floats)
            if self.whole is not None:
                for room, found in zip(self.whole, part, strict=True):
                    if room is not None and found is not None:
                        room[rows] = found
            self.norms[rows], self.errors[rows] = self._facts(floats, part)

    def _room(self) -> _Prepared:
        """For all rows at once: small pieces that stay, made between large ones that go, would scatter memory."""
        n, d = self.given.shape
        if not self.limbs:
            return _Prepared(torch.empty(n, d), None, None, None)
        return _Prepared(None, torch.empty(n, d, dtype=torch.int8), torch.empty(n, d, dtype=torch.int8), torch.empty(n))

    def __len__(self) -> int:
        return len(self.given)

    def _floats(self, rows: slice) -> Tensor:
        return ((self.given[rows] - self.centre) * self.scale).float()

    def _prepare(self, x: Tensor) -> _Prepared:
        if not self.limbs:
            return _Prepared(x, None, None, None)
        unit = x.abs().amax(dim=1).clamp_(min=torch.finfo(torch.float32).tiny * 2**16) / (127 * 128)
        whole = (x / unit[:, None]).round_()
        high = (whole / 128).round_()
        low = whole.sub_(high, alpha=128).to(torch.int8)
        return _Prepared(None, high.to(torch.int8), low, unit)

    def _facts(self, x: Tensor, part: _Prepared) -> tuple[Tensor, Tensor]:
        """Squared norms, and per row (|x|, |error of its limbs|, |its low limb|), from which error bounds follow."""
        norms = x.double().square().sum(dim=1).float()
        if part.unit is None or part.low is None or part.high is None:
            return norms, torch.zeros(len(x), 3)
        low = part.low.float().mul_(part.unit[:, None])
        rounding = x - part.high.float().mul_(128 * part.unit[:, None]) - low
        return norms, torch.stack([norms.sqrt(), rounding.norm(dim=1), low.norm(dim=1)], dim=1)

    def prepared(self, rows: slice) -> _Prepared:
        """One block of rows: `rows` starts at a multiple of BLOCK."""
        if self.whole is not None:
            return _Prepared(*(None if part is None else part[rows] for part in self.whole))
        if self.last is None or self.last[0] != rows.start:
            self.last = rows.start, self._prepare(self._floats(rows))
        return self.last[1]


def about_one_centre(*sets: Tensor, limbs: bool = True) -> list[Points]:
    """All sets about one common point: the distance of far-off clouds keeps its digits."""
    means = [sum((b.sum(dim=0, dtype=torch.float64) for b in s.split(BLOCK)), torch.zeros(1)) / len(s) for s in sets]
    centre = torch.stack(means).mean(dim=0)
    if all(s.dtype == torch.float32 for s in sets):
        centre = centre.float()  # rounded once, for all
    largest = max(float((b - centre).abs().max()) for s in sets for b in s.split(BLOCK))
    scale = 2.0 ** -math.frexp(largest)[1] if 0 < largest < math.inf else 1.0
    return [Points(s, centre, scale=scale, limbs=limbs) for s in sets]


def slices(n: int) -> list[slice]:
    """All rows in blocks."""
    return [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


def products(a: Points, rows: slice, b: Points, columns: slice) -> Tensor:
    """Inner products, about the centre, of a block of rows of a with a block of rows of b, float32."""
    x, y = a.prepared(rows), b.prepared(columns)
    if x.floats is not None and y.floats is not None:
        return x.floats @ y.floats.T
    assert x.high is not None and y.high is not None and x.low is not None and y.low is not None
    assert x.unit is not None and y.unit is not None
    mixed = torch._int_mm(x.high, y.low.T).add_(torch._int_mm(x.low, y.high.T))  # low times low is left out
    whole = torch._int_mm(x.high, y.high.T).float().add_(mixed, alpha=1 / 128)
    return whole.mul_(x.unit[:, None] * 128**2).mul_(y.unit)


def block(a: Points, rows: slice, b: Points, columns: slice) -> tuple[Tensor, Tensor]:
    """Squared distances of a block of rows of a to a block of rows of b, and bounds on their errors, float32 each."""
    distances = products(a, rows, b, columns).mul_(-2).add_(b.norms[columns]).add_(a.norms[rows, None])
    # Rounding: of a sum of d products in any order (limbs are exact), and of the few numbers added up here.
    thin = torch.finfo(torch.float32).eps * (8 if a.limbs and b.limbs else a.given.shape[1] / 2 + 8)
    # |error| <= thin (|x|^2 + |y|^2) + 2 (|x| |e_y| + |e_x| |y| + |l_x| |l_y|), as one product of five columns
    ex, ey = a.errors[rows], b.errors[columns]
    one_x, one_y = torch.ones(len(ex), 1), torch.ones(len(ey), 1)
    nx, ny = a.norms[rows, None] * thin, b.norms[columns, None] * thin
    left = torch.cat([2.01 * ex, nx, one_x], dim=1)
    right = torch.cat([ey[:, 1:2], ey[:, 0:1], ey[:, 2:], one_y, ny], dim=1)
    return distances, left @ right.T


def exact(a: Points, i: Tensor, b: Points, j: Tensor) -> Tensor:
    """Squared distances in float64 of points i to their points j, (n,) and (n, k) to (n, k)."""
    found = torch.empty(j.shape, dtype=torch.float64)  # at once: see `_room`
    size = max(1, 400_000 // (a.given.shape[1] * j.shape[1]))
    for p, q, out in zip(i.split(size), j.split(size), found.split(size), strict=True):
        torch.sum(((b.given[q].double() - a.given[p].double()[:, None]) * a.scale).square_(), dim=-1, out=out)
    return found
