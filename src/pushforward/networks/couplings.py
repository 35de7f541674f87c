"""What a coupling asks for scale and shift: networks of a masked input and a context, that begin by giving nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pushforward.networks.blocks import prefer_channels_last


class _Gated(nn.Module):
    """x + a * sigmoid(b), (a, b) = conv1x1(act(conv3x3(act(x)))) (Ho et al. 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, 2 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.last(F.silu(self.first(F.silu(x)))).chunk(2, dim=1)
        return x + a * torch.sigmoid(b)


class ConvConditioner(nn.Module):
    """(B, C, H, W) and a context to (B, n, H, W), zero at first.

    Args:
        channels: C.
        width: Of the hidden layers.
        blocks: Gated residual blocks.
        outputs: n; 2 C when absent.
        head: Side of the last convolution's kernel; 1 where n is large, for it would cost more than all else.
        context: Size of a context vector; 0 for none.
        image: Channels of a context image of the same size; 0 for none.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int,
        blocks: int,
        outputs: int | None = None,
        head: int = 3,
        context: int = 0,
        image: int = 0,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels + image, width, 3, padding=1)
        self.told = nn.Linear(context, width) if context else None
        self.image = image
        self.body = nn.Sequential(*(_Gated(width) for _ in range(blocks)))
        self.head = nn.Conv2d(width, outputs or 2 * channels, head, padding=head // 2)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        prefer_channels_last(self)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        if self.image:
            assert context is not None
            x = torch.cat([x, context], dim=1)
        h = self.stem(x.contiguous(memory_format=torch.channels_last))
        if self.told is not None:
            assert context is not None
            h = h + self.told(context)[:, :, None, None]
        out: Tensor = self.head(F.silu(self.body(h)))
        return out.contiguous()


class MLPConditioner(nn.Module):
    """(B, d) and a context to (B, 2d), zero at first.

    Args:
        dim: d.
        hidden: Widths of the hidden layers.
        context: Size of a context vector; 0 for none.
    """

    def __init__(self, dim: int, *, hidden: Sequence[int], context: int = 0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = dim + context
        for wide in hidden:
            layers += [nn.Linear(width, wide), nn.SiLU()]
            width = wide
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(width, 2 * dim)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        out: Tensor = self.head(self.body(x if context is None else torch.cat([x, context], dim=1)))
        return out
