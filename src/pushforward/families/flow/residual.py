r"""Contractive residual blocks: z = x + g(x) with the Lipschitz constant of g below 1 by construction, inverted by Banach's iteration.

Each layer's weight is divided by a bound on its norm where that exceeds the allowance: for dense layers the largest singular value itself, for 3x3 convolutions the bound of Singla and Feizi
(sqrt(9) times the least norm of four reshapings), both computed exactly at every pass, so that no number of power iterations can fake it. The activation's constant is 1.

The log-determinant is exact up to `EXACT` dimensions; beyond, an unbiased estimate by the power series of log(1 + J) with random truncation and random signs. Training takes few terms
for sure and stops early, as published: its variance is finite only where |J| < .7. Without gradients there are 20 sure terms, and the chance to go on exceeds L^2, so that the variance is
finite whatever the block; `log_det` gives the standard error, which is of that estimate.

Reference: Behrmann et al. 2019, arXiv 1811.00995; Chen et al. 2019, arXiv 1906.02735; Singla and Feizi 2021, arXiv 1911.10258.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial, reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pushforward.errors import NotSupported
from pushforward.families.flow.bijections import Bijection
from pushforward.families.flow.fixed_point import FixedPoint, fixed_point

EXACT = 16
SERIES, STOP = 4, 0.5  # in training: terms of the series that are always taken; chance to stop after each further one
SURE = 20  # of terms without gradients
SWISH_SLOPE = 1.0999  # the largest slope of x sigmoid(x) is 1.09984


class LipSwish(nn.Module):
    """Swish over its largest slope, with a learned sharpness; its Lipschitz constant is 1 (Chen et al. 2019, section 3.4)."""

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return _lipswish(x, self.sharpness)


def _lipswish(x: Tensor, sharpness: Tensor) -> Tensor:
    return x * torch.sigmoid(x * F.softplus(sharpness)) / SWISH_SLOPE


def norm_bound(weight: Tensor) -> Tensor:
    """A bound on the operator norm: of a matrix the norm itself; of a convolution's weight (c_out, c_in, k, k) with stride 1, whatever the image."""
    if weight.ndim == 2:
        return torch.linalg.matrix_norm(weight, ord=2)
    c_out, c_in, h, w = weight.shape
    shapes = (
        weight.permute(0, 2, 1, 3).reshape(c_out * h, c_in * w),
        weight.permute(0, 3, 1, 2).reshape(c_out * w, c_in * h),
        weight.reshape(c_out, c_in * h * w),
        weight.transpose(0, 1).reshape(c_in, c_out * h * w),
    )
    return math.sqrt(h * w) * torch.stack([torch.linalg.matrix_norm(s, ord=2) for s in shapes]).amin()


class Bounded(nn.Module):
    """A dense layer or a 3x3 convolution whose norm is at most `largest`."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, largest: float) -> None:
        super().__init__()
        self.layer, self.largest = layer, largest

    def weight(self) -> Tensor:
        """The weight as it is used."""
        w = self.layer.weight
        return w * (self.largest / norm_bound(w)).clamp(max=1.0)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.layer, nn.Conv2d):
            return F.conv2d(x, self.weight(), self.layer.bias, padding=self.layer.padding)  # type: ignore[arg-type]
        return F.linear(x, self.weight(), self.layer.bias)


class ResidualBlock(Bijection):
    """z = x + g(x), g of dense layers or of 3x3 convolutions.

    Args:
        shape: Of one sample.
        hidden: Widths of the hidden layers (channels, on images).
        lipschitz: Bound on g's constant, below 1.
        tolerance: Of the inverse: a bound on its error in each entry.
        most: Iterations of the inverse.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        hidden: Sequence[int],
        lipschitz: float = 0.9,
        tolerance: float = 1e-6,
        most: int = 1000,
    ) -> None:
        super().__init__()
        if not 0 < lipschitz < 1:
            raise ValueError(f"lipschitz = {lipschitz}: must lie in (0, 1), or there is no inverse")
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance = {tolerance}: must lie in (0, 1)")
        self.lipschitz, self.tolerance, self.most = lipschitz, tolerance, most
        each = lipschitz ** (1 / (len(hidden) + 1))
        images = len(shape) == 3
        widths = [shape[0], *hidden, shape[0]]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layer = nn.Conv2d(a, b, 3, padding=1) if images else nn.Linear(a, b)
            with torch.no_grad():  # as steep as it may be: what begins flat stays flat for long
                nn.init.orthogonal_(layer.weight)
                layer.weight.mul_(each / norm_bound(layer.weight))
            layers += [Bounded(layer, each), LipSwish()]
        self.body = nn.Sequential(*layers[:-1])
        self.dims = math.prod(shape)

    def g(self, x: Tensor) -> Tensor:
        """The residual."""
        out: Tensor = self.body(x)
        return out

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.dims <= EXACT:
            return _exact(self.g, x)
        if torch.is_grad_enabled():
            return _series(self.g, x)
        return _series(self.g, x, sure=SURE, stop=(1 - self.lipschitz**2) / 2)

    @torch.no_grad()
    def prepare(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Nothing to set, and no log-determinant asked for."""
        return x + self.g(x)

    @torch.no_grad()
    def _plain(self) -> Callable[[Tensor], Tensor]:
        """g in float64 with its weights bounded once, and not at every pass."""
        layers: list[Callable[[Tensor], Tensor]] = []
        for m in self.body:
            if isinstance(m, Bounded):
                weight, bias = m.weight().double(), m.layer.bias.double()  # type: ignore[union-attr]
                if isinstance(m.layer, nn.Conv2d):
                    layers.append(partial(F.conv2d, weight=weight, bias=bias, padding=m.layer.padding))  # type: ignore[arg-type]
                else:
                    layers.append(partial(F.linear, weight=weight, bias=bias))
            else:
                assert isinstance(m, LipSwish)
                layers.append(partial(_lipswish, sharpness=m.sharpness.double()))
        return lambda x: reduce(lambda h, layer: layer(h), layers, x)

    def solve(self, z: Tensor) -> FixedPoint:
        """x with x + g(x) = z: the fixed point of x -> z - g(x), in float64, where float32 would stall above a small tolerance."""
        g, z = self._plain(), z.double()
        residual = self.tolerance * (1 - self.lipschitz)  # an error is up to residual / (1 - L)
        return fixed_point(lambda x: z - g(x), z, lipschitz=self.lipschitz, tolerance=residual, most=self.most)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """x with x + g(x) = z; gradients go through the fixed point by the implicit function theorem, their solution by Banach's iteration again."""
        found = self.solve(z).x.to(z.dtype)
        if not torch.is_grad_enabled():
            return found
        at = found.detach().requires_grad_()
        out = self.g(at)
        x = z - self.g(
            found.detach()
        )  # the value is the fixed point's; its gradients in z and in the weights are taken at `found`
        if x.requires_grad:
            x.register_hook(partial(self._adjoint, at, out))
        return x

    def _adjoint(self, at: Tensor, out: Tensor, gradient: Tensor | None) -> Tensor | None:
        """y with y + J^T y = gradient.

        Raises:
            NotSupported: derivatives of derivatives are asked for, or the iteration stalls.
        """
        if gradient is None:
            return None
        if torch.is_grad_enabled():
            raise NotSupported("a residual block's inverse has first derivatives alone.")

        def move(y: Tensor) -> Tensor:
            with torch.enable_grad():
                (back,) = torch.autograd.grad(out, at, y, retain_graph=True)
            return gradient - back

        size = float(gradient.flatten(1).norm(dim=1).max().clamp(min=1e-30))
        small = size * (1e-6 if gradient.dtype == torch.float32 else 1e-12)
        found = fixed_point(move, gradient, lipschitz=self.lipschitz, tolerance=small, most=self.most, strict=False)
        if not (found.residual <= 1e3 * small).all():  # float32 may stall above `small`
            raise NotSupported(
                f"gradients of an inverse did not converge: residual {float(found.residual.max() / size):.2g} of the largest."
            )
        return found.x


def _exact(g: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """x + g(x) and log det (I + J), row by row of the Jacobian."""
    grad = torch.is_grad_enabled()
    with torch.enable_grad():
        at = x if x.requires_grad else x.detach().requires_grad_()
        out = g(at)
        flat = out.flatten(1)
        rows = [
            torch.autograd.grad(flat[:, i].sum(), at, create_graph=grad, retain_graph=True)[0].flatten(1)
            for i in range(flat.shape[1])
        ]
        jacobian = torch.stack(rows, dim=1)
        ladj = torch.linalg.slogdet(torch.eye(flat.shape[1], dtype=x.dtype, device=x.device) + jacobian).logabsdet
    return (x + out, ladj) if grad else ((x + out).detach(), ladj.detach())


def _series(
    g: Callable[[Tensor], Tensor], x: Tensor, *, sure: int = SERIES, stop: float = STOP
) -> tuple[Tensor, Tensor]:
    """x + g(x) and an unbiased estimate of log det (I + J) = sum over k of (-1)^(k + 1) tr J^k / k, from torch's global generator."""
    grad = torch.is_grad_enabled()
    extra = int(torch.distributions.Geometric(torch.tensor(stop)).sample())
    with torch.enable_grad():
        at = x if x.requires_grad else x.detach().requires_grad_()
        out = g(at)
        probe = torch.randn_like(x).sign()
        product, ladj = probe, x.new_zeros(len(x))
        for k in range(1, sure + extra + 1):
            (product,) = torch.autograd.grad(out, at, product, create_graph=grad, retain_graph=True)
            survival = 1.0 if k <= sure else (1 - stop) ** (k - sure)  # P(extra >= k - sure)
            sign = 1.0 if k % 2 else -1.0
            ladj = ladj + sign / (k * survival) * (product * probe).flatten(1).sum(dim=1)
    return (x + out, ladj) if grad else ((x + out).detach(), ladj.detach())


def log_det(block: ResidualBlock, x: Tensor, *, repeats: int = 20) -> tuple[Tensor, Tensor]:
    """log |det| of each sample and its standard error, 0 where it is exact, (B,) both; draws from torch's global generator."""
    if block.dims <= EXACT:
        found = _exact(block.g, x)[1].detach()
        return found, torch.zeros_like(found)
    with torch.no_grad():
        draws = torch.stack([block(x)[1] for _ in range(repeats)])
    return draws.mean(dim=0), draws.std(dim=0) / math.sqrt(repeats)
