"""diffusers' UNet2DModel as one of our networks, for runs that others shall load (needs the extra hub)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pushforward.errors import NotSupported


class DiffusersUNet(nn.Module):
    """A UNet2DModel that is told the index of the noise level, as diffusers' pipelines tell it.

    Args:
        shape: (C, H, W), square, the side divisible by 2 at each level.
        width: Channels at the first level, a multiple of 32.
        multipliers: Of the width, one for each level.
        blocks: A level.
        attention: In the middle and at the last level.
        classes: Number of classes; label `classes` is "no label".

    Raises:
        NotSupported: diffusers is not installed.
    """

    def __init__(
        self,
        *,
        shape: Sequence[int],
        width: int = 64,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 1,
        attention: bool = True,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        try:
            from diffusers import UNet2DModel
        except ImportError as error:
            raise NotSupported("this network needs diffusers: pip install 'pushforward[hub]'.") from error
        side = 2 ** (len(multipliers) - 1)
        if len(shape) != 3 or shape[1] != shape[2] or shape[1] % side:
            raise ValueError(
                f"images of shape {tuple(shape)}: this network needs square ones whose side {side} divides"
            )
        levels = len(multipliers)
        down, up = ["DownBlock2D"] * levels, ["UpBlock2D"] * levels
        if attention:
            down[-1], up[0] = "AttnDownBlock2D", "AttnUpBlock2D"
        self.inner = UNet2DModel(
            sample_size=shape[1],
            in_channels=shape[0],
            out_channels=shape[0],
            block_out_channels=tuple(width * m for m in multipliers),
            layers_per_block=blocks,
            down_block_types=tuple(down),
            up_block_types=tuple(up),
            add_attention=attention,
            num_class_embeds=None if classes is None else classes + 1,
        )
        self.classes = classes
        self.table: Tensor
        self.register_buffer("table", torch.zeros(0, dtype=torch.float64), persistent=False)  # log ratio of each level

    def forward(self, x: Tensor, level: Tensor, labels: Tensor | None = None) -> Tensor:
        table = self.table.to(level.device)
        low = (torch.searchsorted(table, level.double().contiguous(), right=True) - 1).clamp(0, len(table) - 2)
        index = low + (level.double() - table[low]) / (table[low + 1] - table[low])
        index = index.clamp(min=0)  # below its table a network is told of its first level
        if self.classes is not None and labels is None:
            labels = torch.full((len(x),), self.classes, device=x.device)
        return self.inner(x, index.float(), class_labels=labels).sample  # type: ignore[operator]
