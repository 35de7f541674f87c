"""Layers that several networks share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

Norm = Literal["none", "batch"]
DiscriminatorNorm = Literal["none", "batch", "spectral"]


class UpsampleConv(nn.Module):
    r"""Nearest-neighbour upsampling by 2 and a 3x3 convolution, computed as one 4x4 transposed convolution.

    Copying a pixel four times and convolving reads each copy separately; adding up the kernel taps that meet the
    same pixel gives the same numbers with 4/9 of the multiplications. In one dimension, taps (w0, w1, w2) become
    the transposed taps (w2, w1 + w2, w0 + w1, w0) with stride 2 and padding 1; in two, the same on both axes.
    The parameters are those of the 3x3 convolution, so weights of the plain form load unchanged.

    Args:
        c_in, c_out: Channels.

    Returns:
        (B, c_in, H, W) -> (B, c_out, 2H, 2W).
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self._taps: Tensor
        plain = nn.Conv2d(c_in, c_out, 3)
        self.weight, self.bias = plain.weight, plain.bias
        taps = torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
        self.register_buffer("_taps", torch.einsum("ai,bj->abij", taps, taps).reshape(16, 9), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        c_out, c_in = self.weight.shape[:2]
        kernel = (self.weight.reshape(-1, 9) @ self._taps.T).reshape(c_out, c_in, 4, 4).transpose(0, 1)
        return F.conv_transpose2d(x, kernel, self.bias, stride=2, padding=1)


def maybe_spectral(layer: nn.Module, norm: str) -> nn.Module:
    """The layer with its weight divided by its largest singular value when `norm` is "spectral" (Miyato et al. 2018)."""
    return spectral_norm(layer) if norm == "spectral" else layer


def init_normal(module: nn.Module, sd: float = 0.02) -> None:
    """DCGAN's initialisation (Radford et al. 2015, section 4): weights N(0, sd), batch-norm scales N(1, sd), biases 0."""
    for m in module.modules():
        if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.normal_(m.weight, 0.0, sd)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        elif isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(m.weight, 1.0, sd)
            nn.init.zeros_(m.bias)


def prefer_channels_last(module: nn.Module) -> None:
    """Keep convolution weights in NHWC memory, which CPUs and tensor cores are faster with."""
    for p in module.parameters():
        if p.ndim == 4:
            p.data = p.data.contiguous(memory_format=torch.channels_last)


def has_batch_norm(module: nn.Module) -> bool:
    """Whether outputs of a training forward depend on the rest of the batch."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules())


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Parameters of `module` are constants to whatever graph is built inside."""
    moving = [p for p in module.parameters() if p.requires_grad]
    for p in moving:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in moving:
            p.requires_grad_(True)
