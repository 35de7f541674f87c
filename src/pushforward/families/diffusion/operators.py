r"""Measurements y = A(x): inpainting, super-resolution, blur, phase retrieval.

Images are in [-1, 1] and so are measurements of linear operators: they act on that range, and nothing is rescaled inside. A linear operator knows its
adjoint and any function of A^T A, exactly: masks, block means and circular convolutions all have singular vectors that one can write down.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pushforward.randomness import Generator, draw_normal, draw_uniform


class Operator(ABC):
    """A measurement, (B, C, H, W) -> (B, ...); rows do not mix."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor: ...


class LinearOperator(Operator):
    """A linear one."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y."""

    @abstractmethod
    def spectral(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """f(A^T A) x, where f acts on the squared singular values (elementwise, float64 in and out; its result may be another for each sample)."""

    def pseudoinverse(self, y: Tensor) -> Tensor:
        """A^+ y: the smallest x that explains y as well as any."""
        return self.spectral(
            self.adjoint(y), lambda s: torch.where(s > 1e-12, 1 / s.clamp(min=1e-12), torch.zeros_like(s))
        )


def _weights(f: Callable[[Tensor], Tensor], x: Tensor, *values: float) -> list[Tensor]:
    """f of each, to multiply x by: (1 or B, 1, 1, 1)."""
    return [f(torch.full((1, 1, 1, 1), v, dtype=torch.float64)).to(x) for v in values]


class Mask(LinearOperator):
    """Some pixels are seen, the others are not: A x = mask * x, with zeros where nothing is seen.

    Args:
        mask: 1 or True where a pixel is seen, broadcastable to (B, C, H, W).
    """

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask.to(torch.float32)

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.mask.to(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return y * self.mask.to(y)

    def spectral(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        unseen, seen = _weights(f, x, 0.0, 1.0)
        mask = self.mask.to(x)
        return x * (seen * mask + unseen * (1 - mask))


def inpaint_box(shape: tuple[int, ...], *, side: float = 0.5) -> Mask:
    """The square in the middle is lost.

    Args:
        shape: (C, H, W).
        side: Of the square, as a share of the image's.
    """
    if not 0 < side < 1:
        raise ValueError(f"side = {side}: must lie between 0 and 1")
    _, height, width = shape
    mask = torch.ones(1, 1, height, width)
    h, w = round(height * side), round(width * side)
    top, left = (height - h) // 2, (width - w) // 2
    mask[..., top : top + h, left : left + w] = 0
    return Mask(mask)


def inpaint_random(shape: tuple[int, ...], *, lost: float = 0.7, seed: int = 0) -> Mask:
    """Pixels are lost at random, the same in all channels and images.

    Args:
        shape: (C, H, W).
        lost: Share of lost pixels.
        seed: Of the choice.
    """
    if not 0 < lost < 1:
        raise ValueError(f"lost = {lost}: must lie between 0 and 1")
    g = torch.Generator().manual_seed(seed)
    return Mask(torch.rand(1, 1, *shape[1:], generator=g) >= lost)


class SuperResolution(LinearOperator):
    """Means over blocks of pixels.

    Args:
        factor: Side of a block.
    """

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.factor)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._spread(y) / self.factor**2

    def _spread(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(self.factor, dim=-1).repeat_interleave(self.factor, dim=-2)

    def spectral(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        within, mean = _weights(f, x, 0.0, 1 / self.factor**2)
        average = self._spread(F.avg_pool2d(x, self.factor))
        return within * (x - average) + mean * average


def super_resolution(shape: tuple[int, ...], *, factor: int = 4) -> SuperResolution:
    """Means over blocks of factor x factor pixels.

    Args:
        shape: (C, H, W), each side a multiple of the factor.
        factor: At least 2.
    """
    if factor < 2 or shape[1] % factor or shape[2] % factor:
        raise ValueError(
            f"factor = {factor}: at least 2, and it must divide the sides of {shape[1]} x {shape[2]} images"
        )
    return SuperResolution(factor)


class Blur(LinearOperator):
    """Convolution with a kernel, the image taken as periodic.

    Args:
        kernel: (h, w), centred, at most as large as the images.
        size: (H, W) of the images.
    """

    def __init__(self, kernel: Tensor, size: tuple[int, int]) -> None:
        h, w = kernel.shape
        if h > size[0] or w > size[1]:
            raise ValueError(f"a kernel of {h} x {w} is larger than images of {size[0]} x {size[1]}")
        whole = torch.zeros(size, dtype=torch.float64)
        whole[:h, :w] = kernel.double()
        self.spectrum = torch.fft.rfft2(whole.roll((-(h // 2), -(w // 2)), dims=(0, 1)))
        self.size = size

    def _filtered(self, x: Tensor, factor: Tensor) -> Tensor:
        wide = torch.complex128 if x.dtype == torch.float64 else torch.complex64
        return torch.fft.irfft2(torch.fft.rfft2(x) * factor.to(x.device, wide), s=self.size)

    def __call__(self, x: Tensor) -> Tensor:
        return self._filtered(x, self.spectrum)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._filtered(y, self.spectrum.conj())

    def spectral(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        return self._filtered(x, f(self.spectrum.abs().square()).to(torch.complex128))


def gaussian_blur(shape: tuple[int, ...], *, sd: float = 1.5) -> Blur:
    """A Gaussian kernel, cut at four standard deviations.

    Args:
        shape: (C, H, W).
        sd: In pixels.
    """
    if not 0 < sd < math.inf:
        raise ValueError(f"sd = {sd}: above 0 and finite")
    reach = min(math.ceil(4 * sd), (min(shape[1:]) - 1) // 2)
    row = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / sd).square())
    kernel = row[:, None] * row
    return Blur(kernel / kernel.sum(), (shape[1], shape[2]))


def motion_blur(shape: tuple[int, ...], *, length: int = 7, angle: float = 30.0) -> Blur:
    """The mean along a straight path.

    Args:
        shape: (C, H, W).
        length: Of the path, in pixels, at least 2.
        angle: Of the path against the horizontal, in degrees.
    """
    if not 2 <= length <= min(shape[1:]) or not math.isfinite(angle):
        raise ValueError(f"length = {length}, angle = {angle}: 2 to the images' side, and a finite angle")
    side = length if length % 2 else length + 1
    side = min(side, min(shape[1:]))
    kernel = torch.zeros(side, side, dtype=torch.float64)
    along = torch.linspace(-(length - 1) / 2, (length - 1) / 2, 16 * length, dtype=torch.float64)
    middle = side // 2  # where `Blur` has a kernel's centre
    column = (middle + along * math.cos(math.radians(angle))).round().long().clamp(0, side - 1)
    row = (middle - along * math.sin(math.radians(angle))).round().long().clamp(0, side - 1)
    kernel.index_put_((row, column), torch.ones_like(along), accumulate=True)
    return Blur(kernel / kernel.sum(), (shape[1], shape[2]))


class PhaseRetrieval(Operator):
    """Absolute values of the Fourier transform of the image, brightness in [0, 1] and padded with black: the phases are lost.

    Not linear; x and its mirror image measure alike.

    Args:
        oversample: How many times the image's side the padded one is.

    Reference: as in Chung et al. 2023, section 4.1, arXiv 2209.14687.
    """

    def __init__(self, oversample: float = 2.0) -> None:
        if not 1 <= oversample <= 8:
            raise ValueError(f"oversample = {oversample}: must lie in [1, 8]")
        self.oversample = oversample

    def __call__(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        side = (round(self.oversample * h), round(self.oversample * w))
        # a tiny floor: the absolute value has no slope at 0
        f = torch.fft.fft2((x + 1) / 2, s=side, norm="ortho")
        return (f.real.square() + f.imag.square() + 1e-12).sqrt()


def phase_retrieval(shape: tuple[int, ...], *, oversample: float = 2.0) -> PhaseRetrieval:
    """See `PhaseRetrieval`."""
    return PhaseRetrieval(oversample)


OPERATORS: Mapping[str, Callable[..., Any]] = {
    "inpaint-box": inpaint_box,
    "inpaint-random": inpaint_random,
    "super-resolution": super_resolution,
    "gaussian-blur": gaussian_blur,
    "motion-blur": motion_blur,
    "phase-retrieval": phase_retrieval,
}


def measure(operator: Operator, x: Tensor, *, noise: float = 0.0, generator: Generator | None = None) -> Tensor:
    """y = A(x) + noise * xi, xi standard normal.

    Args:
        operator: A.
        x: Images in [-1, 1], (B, C, H, W).
        noise: Its standard deviation in units of y.
        generator: Of xi.
    """
    y = operator(x)
    return y + noise * draw_normal(y.shape, generator=generator, device=y.device).to(y.dtype) if noise else y


def count_photons(operator: Operator, x: Tensor, *, peak: float, generator: Generator | None = None) -> Tensor:
    """Poisson noise: y in [-1, 1] is a brightness (y + 1) / 2, of which `peak` times as many photons are expected and counted.

    Args:
        operator: A, whose measurements are brightnesses too (masks, means, blurs).
        x: Images in [-1, 1], (B, C, H, W).
        peak: Photons expected where it is brightest.
        generator: Of the counts.
    """
    from scipy.stats import poisson

    if not 0 < peak < math.inf:
        raise ValueError(f"peak = {peak}: above 0 and finite")
    y = operator(x)
    u = draw_uniform(y.shape, generator=generator).double().numpy()
    expected = ((y.double() + 1) / 2).clamp(min=0).cpu().numpy() * peak
    return torch.from_numpy(poisson.ppf(u, expected)).to(y) * (2 / peak) - 1
