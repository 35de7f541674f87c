"""How near a reconstruction is to the truth, image by image: PSNR and SSIM."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _checked(x: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    if x.shape != truth.shape or x.ndim != 4:
        raise ValueError(
            f"two sets of images (B, C, H, W) of one shape are needed; got {tuple(x.shape)} and {tuple(truth.shape)}."
        )
    for name, v in (("the reconstruction", x), ("the truth", truth)):
        if not v.is_floating_point():
            raise ValueError(f"{name} must be floats in [-1, 1]; got {v.dtype}.")
        if not torch.isfinite(v).all():
            raise ValueError(f"{name} has values that are not finite.")
    return x.double().clamp(-1, 1), truth.double().clamp(-1, 1)


def psnr(x: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, 10 log10(peak^2 / mean squared error), the peak being the width 2 of [-1, 1].

    Args:
        x: Reconstructions in [-1, 1] (cut to it), (B, C, H, W).
        truth: The same shape.

    Returns:
        float64 (B,); infinite where both are equal.

    Example:
        >>> round(psnr(torch.full((1, 1, 2, 2), 0.2), torch.zeros(1, 1, 2, 2)).item(), 4)
        20.0
    """
    x, truth = _checked(x, truth)
    return 10 * torch.log10(4 / (x - truth).square().flatten(1).mean(dim=1))


def ssim(x: Tensor, truth: Tensor, *, sd: float = 1.5) -> Tensor:
    """Structural similarity of brightnesses in [0, 1] under a Gaussian window of 11 x 11, the mean over all places where it fits.

    Args:
        x: Reconstructions in [-1, 1] (cut to it), (B, C, H, W), sides of at least 11.
        truth: The same shape.
        sd: Of the window, in pixels.

    Returns:
        float64 (B,), 1 where both are equal.

    Reference: Wang, Bovik, Sheikh, Simoncelli 2004, equation 13, with K1 = .01 and K2 = .03.
    """
    x, truth = ((v + 1) / 2 for v in _checked(x, truth))
    if min(x.shape[2:]) < 11:
        raise ValueError(f"SSIM's window is 11 x 11; these images have {x.shape[2]} x {x.shape[3]}.")
    row = torch.exp(-0.5 * ((torch.arange(11, dtype=torch.float64, device=x.device) - 5) / sd).square())
    window = (row[:, None] * row / row.sum() ** 2)[None, None]
    n, c, h, w = x.shape

    def local(v: Tensor) -> Tensor:
        return F.conv2d(v.reshape(n * c, 1, h, w), window)

    mx, my = local(x), local(truth)
    vx, vy, cov = local(x * x) - mx**2, local(truth * truth) - my**2, local(x * truth) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    found = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return found.reshape(n, -1).mean(dim=1)
