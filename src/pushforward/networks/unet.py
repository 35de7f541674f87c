"""A small U-Net that is told the noise level, and the class where there is one, sized for small images.

The 2x2 pixels of a square are folded into channels first, so that nothing wide runs at full resolution; sides that do not halve are padded.
Each block ends in a convolution that starts at zero, so that a deep network begins as a shallow one.

Reference: Ho, Jain, Abbeel 2020, appendix B, arXiv 2006.11239; scale and shift by the embedding: Dhariwal and Nichol 2021, arXiv 2105.05233.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pushforward.networks.blocks import prefer_channels_last


class LevelEmbedding(nn.Module):
    """Sines and cosines of a number at geometric frequencies, and two layers, (B,) -> (B, width)."""

    def __init__(self, width: int, features: int = 64) -> None:
        super().__init__()
        self.frequencies: Tensor
        steps = torch.linspace(math.log(0.25), math.log(16.0), features // 2)
        self.register_buffer("frequencies", steps.exp(), persistent=False)
        self.layers = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, level: Tensor) -> Tensor:
        angle = level[:, None] * self.frequencies
        return self.layers(torch.cat([angle.cos(), angle.sin()], dim=1))


class PlaceNorm(nn.Module):
    """Layer normalisation over the channels of each place, (B, c, H, W) -> the same. Several times cheaper than group norm on a CPU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias).permute(0, 3, 1, 2)


class Block(nn.Module):
    """x + conv(act(norm(conv(act(norm(x)))))), scaled and shifted in the middle by the embedding; (B, c_in, H, W) -> (B, c_out, H, W)."""

    def __init__(self, c_in: int, c_out: int, embedding: int) -> None:
        super().__init__()
        self.norm1 = PlaceNorm(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.told = nn.Linear(embedding, 2 * c_out)
        self.norm2 = PlaceNorm(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.told(embedding)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return self.skip(x) + self.conv2(F.silu(h))


class Attention(nn.Module):
    """Self-attention over all places, added to the input; (B, c, H, W) -> the same."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm = PlaceNorm(channels)
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        tokens = self.norm(x).permute(0, 2, 3, 1).reshape(b, h * w, c)
        q, k, v = self.qkv(tokens).reshape(b, h * w, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        # written out: on a CPU the fused kernel is several times slower in bfloat16, and there are few places here
        share = torch.softmax(q @ k.transpose(-1, -2) * (c // self.heads) ** -0.5, dim=-1)
        mixed = (share @ v).transpose(1, 2).reshape(b, h * w, c)
        return x + self.out(mixed).reshape(b, h, w, c).permute(0, 3, 1, 2)


class Stage(nn.Module):
    """A change of resolution, what was kept on the way down where there is any, and blocks."""

    def __init__(self, step: nn.Module, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.step, self.blocks = step, nn.ModuleList(blocks)

    def forward(self, h: Tensor, embedding: Tensor, kept: Tensor | None = None) -> Tensor:
        h = self.step(h)
        if kept is not None:
            h = torch.cat([h, kept], dim=1)
        for block in self.blocks:
            h = block(h, embedding)
        return h


class UNet(nn.Module):
    """Images and noise level (and class) to images of the same shape.

    Args:
        shape: (C, H, W).
        width: Channels at the first level.
        multipliers: Of the width, one for each level; each level has half the side of the one before.
        blocks: A level, on the way down and on the way up.
        fold: Side of the squares of pixels that are folded into channels before the first level.
        attention: Self-attention in the middle.
        classes: Number of classes; label `classes` is "no label". None: no labels.
    """

    def __init__(
        self,
        *,
        shape: Sequence[int],
        width: int = 64,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 2,
        fold: int = 2,
        attention: bool = True,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        if len(shape) != 3:
            raise ValueError(f"a U-Net needs images; got shape {tuple(shape)}")
        if width < 1 or blocks < 1 or fold < 1 or not multipliers or min(multipliers) < 1:
            raise ValueError(
                f"width = {width}, blocks = {blocks}, fold = {fold}, multipliers = {list(multipliers)}: each at least 1"
            )
        widths = [width * m for m in multipliers]
        self.shape, self.fold = tuple(shape), fold
        self.multiple = fold * 2 ** (len(widths) - 1)
        embedding = 4 * width
        self.level = LevelEmbedding(embedding)
        self.label = None if classes is None else nn.Embedding(classes + 1, embedding)
        if self.label is not None:
            nn.init.normal_(self.label.weight, 0.0, 0.5)
        self.stem = nn.Conv2d(fold**2 * shape[0], width, 3, padding=1)
        down: list[Stage] = []
        up: list[Stage] = []
        c = width
        for k, wide in enumerate(widths):
            step: nn.Module = nn.Identity() if k == 0 else nn.Conv2d(c, wide, 2, stride=2)
            down.append(Stage(step, [Block(wide, wide, embedding) for _ in range(blocks)]))
            c = wide
        heads = next(h for h in range(max(1, c // 32), 0, -1) if c % h == 0)  # of about 32 channels each
        self.middle = Attention(c, heads) if attention else nn.Identity()
        for k, wide in reversed(list(enumerate(widths))):
            step = nn.Identity() if k == len(widths) - 1 else nn.ConvTranspose2d(c, wide, 2, stride=2)
            first = Block(2 * wide, wide, embedding)
            up.append(Stage(step, [first, *(Block(wide, wide, embedding) for _ in range(blocks - 1))]))
            c = wide
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
        self.norm = PlaceNorm(width)
        self.head = nn.Conv2d(width, fold**2 * shape[0], 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        prefer_channels_last(self)

    def forward(self, x: Tensor, level: Tensor, labels: Tensor | None = None) -> Tensor:
        height, width = x.shape[-2:]
        low, right = -height % self.multiple, -width % self.multiple
        if low or right:
            x = F.pad(x, (0, right, 0, low))
        embedding = self.level(level)
        if self.label is not None:
            if labels is None:
                labels = torch.full((len(x),), self.label.num_embeddings - 1, device=x.device)
            embedding = embedding + self.label(labels)
        embedding = F.silu(embedding)
        h = self.stem(F.pixel_unshuffle(x, self.fold))
        kept = []
        for stage in self.down:
            h = stage(h, embedding)
            kept.append(h)
        h = self.middle(h)
        for stage in self.up:
            h = stage(h, embedding, kept.pop())
        out = F.pixel_shuffle(self.head(F.silu(self.norm(h))), self.fold)
        return out[..., :height, :width]


class MLPDenoiserNetwork(nn.Module):
    """Points and noise level (and class) to points: a residual MLP for toy data, (B, *shape) -> (B, *shape).

    Args:
        shape: Shape of one sample.
        hidden: Width.
        depth: Residual layers.
        classes: As in `UNet`.
    """

    def __init__(self, *, shape: Sequence[int], hidden: int = 128, depth: int = 3, classes: int | None = None) -> None:
        super().__init__()
        if hidden < 1 or depth < 1:
            raise ValueError(f"hidden = {hidden}, depth = {depth}: each at least 1")
        self.shape = tuple(shape)
        flat = math.prod(shape)
        self.level = LevelEmbedding(hidden)
        self.label = None if classes is None else nn.Embedding(classes + 1, hidden)
        self.stem = nn.Linear(flat, hidden)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
            for _ in range(depth)
        )
        self.head = nn.Linear(hidden, flat)

    def forward(self, x: Tensor, level: Tensor, labels: Tensor | None = None) -> Tensor:
        told = self.level(level)
        if self.label is not None:
            if labels is None:
                labels = torch.full((len(x),), self.label.num_embeddings - 1, device=x.device)
            told = told + self.label(labels)
        h = self.stem(x.flatten(1))
        for layer in self.layers:
            h = h + layer(h + told)
        return self.head(F.silu(h)).reshape(-1, *self.shape)
