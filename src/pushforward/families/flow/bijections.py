r"""Invertible maps with known volume change: forward is data -> noise, inverse is noise -> data.

.. math:: \log p(x) = \log p_z(f(x)) + \log |\det \partial f / \partial x|

Each is a module: `forward(x, context) -> (z, ladj)`, ladj = log |det dz/dx| of each sample (B,), and `inverse(z, context) -> x`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pushforward.families.flow.splines import MOST, rational_quadratic


class Bijection(nn.Module, ABC):
    """An invertible map. `context` is a vector for each sample (B, c), or None."""

    @abstractmethod
    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data to noise, and log |det| of each sample."""

    @abstractmethod
    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Noise to data."""

    def prepare(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Look at some data once before training; gives what `forward` makes of it then."""
        return self.forward(x, context)[0]


class Chain(Bijection):
    """One after another."""

    def __init__(self, parts: Sequence[Bijection]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(len(x))
        for part in self.parts:
            x, ladj = part(x, context)
            total = total + ladj
        return x, total

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        for part in reversed(self.parts):  # type: ignore[arg-type]
            z = part.inverse(z, context)  # type: ignore[operator]
        return z

    def prepare(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        for part in self.parts:
            x = part.prepare(x, context)  # type: ignore[operator]
        return x


class Logit(Bijection):
    """(0, 1) to the reals: log(y / (1 - y)), y = alpha + (1 - 2 alpha) x."""

    def __init__(self, alpha: float = 1e-6) -> None:
        super().__init__()
        if not 0 <= alpha < 0.5:
            raise ValueError(f"alpha = {alpha}: must lie in [0, 0.5)")
        self.alpha = alpha

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = self.alpha + (1 - 2 * self.alpha) * x
        log_y, log_rest = y.log(), torch.log1p(-y)
        scale = torch.log1p(torch.tensor(-2 * self.alpha, dtype=x.dtype, device=x.device))
        return log_y - log_rest, (scale - log_y - log_rest).flatten(1).sum(dim=1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return (torch.sigmoid(z) - self.alpha) / (1 - 2 * self.alpha)


class Equalise(Bijection):
    """[0, 1] to itself by a piecewise linear function, `bins` even bins of learned height: at first the histogram's cumulative sum.

    Bytes that are made continuous by uniform noise are uniform within each bin, so that every pixel comes out uniform; what is left to learn is how pixels depend on one another.
    Without it a flow must learn first that four pixels in five lie in the first of 256 bins.
    """

    def __init__(self, bins: int = 256) -> None:
        super().__init__()
        if bins < 2:
            raise ValueError(f"bins = {bins}: must be at least 2")
        self.logits = nn.Parameter(torch.zeros(bins))

    def _knots(self) -> tuple[Tensor, Tensor]:
        heights = self.logits.double().softmax(0)
        return heights, F.pad(heights.cumsum(0), (1, 0))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        heights, knots = self._knots()
        bins = len(heights)
        k = (x.detach() * bins).long().clamp_(0, bins - 1)
        z = knots[k] + (x.double() * bins - k) * heights[k]
        return z.to(x.dtype), (heights * bins).log()[k].flatten(1).sum(dim=1).to(x.dtype)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        heights, knots = self._knots()
        bins, y = len(heights), z.double()
        k = (torch.searchsorted(knots, y.contiguous(), right=True) - 1).clamp_(0, bins - 1)
        return (((y - knots[k]) / heights[k] + k) / bins).to(z.dtype)

    @torch.no_grad()
    def prepare(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        bins = len(self.logits)
        counts = (x * bins).long().clamp_(0, bins - 1).flatten().bincount(minlength=bins).double()
        self.logits.copy_(((counts + 1) / (counts.sum() + bins)).log())  # Laplace's rule: no bin is empty
        return self.forward(x, context)[0]


class ActNorm(Bijection):
    """A scale and a shift for each channel, at first those that give some data mean 0 and variance 1 (Kingma and Dhariwal 2018, section 3.1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def _shaped(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, -1, *[1] * (x.ndim - 2))
        return self.log_scale.reshape(shape), self.shift.reshape(shape)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._shaped(x)
        places = x[0, 0].numel()
        return (x + shift) * log_scale.exp(), (places * self.log_scale.sum()).expand(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        log_scale, shift = self._shaped(z)
        return z * (-log_scale).exp() - shift

    @torch.no_grad()
    def prepare(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        sides = [0, *range(2, x.ndim)]
        self.shift.copy_(-x.mean(dim=sides))
        self.log_scale.copy_(-x.std(dim=sides).clamp(min=1e-6).log())
        return self.forward(x, context)[0]


class Conv1x1(Bijection):
    """A mixing of channels whose determinant is known: W = P L (U + diag(sign exp s)), P fixed (Kingma and Dhariwal 2018, section 3.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        q, _ = torch.linalg.qr(torch.randn(channels, channels))
        p, lower, upper = torch.linalg.lu(q)
        self.permutation: Tensor
        self.sign: Tensor
        self.register_buffer("permutation", p)
        diagonal = upper.diagonal()
        self.register_buffer("sign", diagonal.sign())
        self.log_size = nn.Parameter(diagonal.abs().log())
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))

    def _weight(self) -> Tensor:
        lower = self.lower.tril(-1) + torch.eye(len(self.sign), dtype=self.lower.dtype, device=self.lower.device)
        upper = self.upper.triu(1) + torch.diag(self.sign * self.log_size.exp())
        return self.permutation @ lower @ upper

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        places = x[0, 0].numel()
        with torch.autocast(x.device.type, enabled=False):  # what is rounded here is rounded in the density
            z = torch.einsum("ij,bj...->bi...", self._weight(), x)
        return z, (places * self.log_size.sum()).expand(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            inverse = torch.linalg.inv(self._weight().double()).to(z.dtype)
            return torch.einsum("ij,bj...->bi...", inverse, z)


class Squeeze(Bijection):
    """2x2 places into channels, (B, C, H, W) -> (B, 4C, H/2, W/2): an order, so its determinant is 1."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return F.pixel_unshuffle(x, 2), x.new_zeros(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return F.pixel_shuffle(z, 2)


class Coupling(Bijection):
    r"""One part of x is scaled and shifted by functions of the other, which stays: z = m x + (1 - m) (x exp(s) + t).

    Args:
        mask: 1 where x stays, broadcastable to a sample.
        network: (masked x, context) -> (B, 2C, ...), log-scale and shift.
        largest: Bound on |s|, s = largest tanh(raw / largest).

    Reference: Dinh et al. 2017, equations 7 and 8, arXiv 1605.08803.
    """

    def __init__(self, mask: Tensor, network: nn.Module, *, largest: float = 3.0) -> None:
        super().__init__()
        self.mask: Tensor
        self.register_buffer("mask", mask, persistent=False)
        self.network, self.largest = network, largest

    def _parts(self, kept: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        raw, shift = self.network(kept, context).to(kept.dtype).chunk(2, dim=1)
        free = 1 - self.mask
        return free * self.largest * torch.tanh(raw / self.largest), free * shift

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        s, t = self._parts(self.mask * x, context)
        return x * s.exp() + t, s.flatten(1).sum(dim=1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        s, t = self._parts(self.mask * z, context)  # the part that stays is the same in z
        return (z - t) * (-s).exp()


class SplineCoupling(Bijection):
    """One part of x is scaled, shifted and then bent by monotonic rational-quadratic splines, all told by the other part, which stays.

    An affine coupling can only stretch what it is given: a pixel that is either black or white, given those around it, wants more. The spline acts
    within +-bound, beyond is the identity; at first it is the identity everywhere.

    Args:
        mask: 1 where x stays, broadcastable to a sample.
        network: (masked x, context) -> (B, (3 bins + 1) c, H, W): log-scale, shift, bins widths, bins heights, bins - 1 slopes, each of c channels:
            all, or only those that move where whole channels do.
        shape: Of a sample.
        bins: Of a spline.
        bound: See above.
        largest: Bound on the log-scale.

    Reference: Durkan et al. 2019, section 3, arXiv 1906.04032.
    """

    def __init__(
        self,
        mask: Tensor,
        network: nn.Module,
        shape: Sequence[int],
        *,
        bins: int = 8,
        bound: float = 8.0,
        largest: float = 3.0,
    ) -> None:
        super().__init__()
        if not 2 <= bins <= MOST or not bound > 0:
            raise ValueError(f"bins = {bins}, bound = {bound}: 2 to {MOST}, and above 0")
        self.mask: Tensor
        self.free: Tensor
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("free", (mask.expand(1, *shape).flatten() == 0).nonzero().squeeze(1), persistent=False)
        self.network, self.bins, self.bound, self.largest = network, bins, bound, largest

    def _told(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        raw = self.network(self.mask * x, context).to(x.dtype).reshape(len(x), 3 * self.bins + 1, -1)
        if raw.shape[2] > len(self.free):
            raw = raw[..., self.free]
        s, t, *knots = raw.split([1, 1, self.bins, self.bins, self.bins - 1], dim=1)
        return self.largest * torch.tanh(s.squeeze(1) / self.largest), t.squeeze(1), tuple(knots)

    def _with(self, x: Tensor, free: Tensor) -> Tensor:
        return x.flatten(1).index_copy(1, self.free, free).reshape(x.shape)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = x.to(torch.promote_types(x.dtype, torch.float32))  # splines need the digits
        s, t, knots = self._told(x, context)
        z, ladj = rational_quadratic(x.flatten(1)[:, self.free] * s.exp() + t, *knots, bound=self.bound)
        return self._with(x, z), (s + ladj).sum(dim=1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        s, t, knots = self._told(z, context)
        y, _ = rational_quadratic(z.flatten(1)[:, self.free], *knots, bound=self.bound, inverse=True)
        return self._with(z, (y - t) * (-s).exp())


def checkerboard(shape: Sequence[int], *, odd: bool) -> Tensor:
    """1 on every other place, (1, 1, H, W)."""
    rows, columns = torch.meshgrid(torch.arange(shape[1]), torch.arange(shape[2]), indexing="ij")
    return ((rows + columns + odd) % 2).float()[None, None]


def channelwise(shape: Sequence[int], *, odd: bool) -> Tensor:
    """1 on the first half of the channels, or the second, (1, C, 1, 1)."""
    first = torch.arange(shape[0]) < shape[0] // 2
    return (~first if odd else first).float().reshape(1, -1, 1, 1)


class MultiScale(Bijection):
    """Levels of steps; behind each but the last, half of the channels are let go and the rest is squeezed (Dinh et al. 2017, section 3.6).

    What comes out is flat, (B, d): the parts in the order in which they were let go.

    Args:
        levels: Steps at each level, every one of them on images.
        shapes: Of what enters each level.
    """

    def __init__(self, levels: Sequence[Bijection], shapes: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.levels, self.squeeze = nn.ModuleList(levels), Squeeze()
        self.shapes = [tuple(s) for s in shapes]

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        total, gone = x.new_zeros(len(x)), []
        for k, level in enumerate(self.levels):
            x, ladj = level(x, context)
            total = total + ladj
            if k < len(self.levels) - 1:
                x, out = x.chunk(2, dim=1)
                gone.append(out.flatten(1))
                x, _ = self.squeeze(x)
        return torch.cat([*gone, x.flatten(1)], dim=1), total

    def _sizes(self) -> list[int]:
        sizes = []
        for k, (c, h, w) in enumerate(self.shapes):
            sizes.append(c * h * w // (1 if k == len(self.shapes) - 1 else 2))
        return sizes

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        parts = z.split(self._sizes(), dim=1)
        x = parts[-1].reshape(-1, *self.shapes[-1])
        for k in reversed(range(len(self.levels))):
            if k < len(self.levels) - 1:
                c, h, w = self.shapes[k]
                x = torch.cat([self.squeeze.inverse(x), parts[k].reshape(-1, c // 2, h, w)], dim=1)
            x = self.levels[k].inverse(x, context)  # type: ignore[operator]
        return x

    @torch.no_grad()
    def prepare(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        gone = []
        for k, level in enumerate(self.levels):
            x = level.prepare(x, context)  # type: ignore[operator]
            if k < len(self.levels) - 1:
                x, out = x.chunk(2, dim=1)
                gone.append(out.flatten(1))
                x, _ = self.squeeze(x)
        return torch.cat([*gone, x.flatten(1)], dim=1)
