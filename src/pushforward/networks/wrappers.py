"""Networks around networks: labels for both players, several samples at a time for a discriminator."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class Conditional(nn.Module):
    """A generator of latents and labels: the latent is extended by a learned embedding of the class.

    Args:
        generator: Made for latents of dimension `latent + embedding`.
        classes: How many.
        embedding: Its dimension.
    """

    def __init__(self, generator: nn.Module, classes: int, embedding: int) -> None:
        super().__init__()
        self.generator = generator
        self.embed = nn.Embedding(classes, embedding)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return self.generator(torch.cat([z, self.embed(labels)], dim=1))


class Projection(nn.Module):
    """A discriminator of images and labels: D(x, y) = D(x) + <embedding of y, features of x>.

    Args:
        discriminator: With `features(x) -> (B, width)`, `head: (B, width) -> (B, 1)` and `width`.
        classes: How many.
        spectral: Bound the embedding's norm by spectral normalisation too, as the other layers'.

    Raises:
        ValueError: the discriminator has no features to project on.

    Reference: Miyato and Koyama 2018, equation 3, arXiv 1802.05637.
    """

    def __init__(self, discriminator: nn.Module, classes: int, *, spectral: bool = False) -> None:
        super().__init__()
        if not all(hasattr(discriminator, part) for part in ("features", "head", "width")):
            raise ValueError("a conditional discriminator needs `features`, `head` and `width`; see networks/mlp.py")
        self.discriminator = discriminator
        self.embed = nn.Embedding(classes, int(discriminator.width))  # type: ignore[arg-type]
        nn.init.normal_(self.embed.weight, 0.0, 0.02)
        if spectral:
            spectral_norm(self.embed)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        features = self.discriminator.features(x)  # type: ignore[operator]
        plain: Tensor = self.discriminator.head(features).squeeze(1)  # type: ignore[operator]
        return plain + (features * self.embed(labels)).sum(dim=1)


class Packed(nn.Module):
    """A discriminator that judges m samples together: their channels (or coordinates) are stacked.

    Each sample is given its pack's logit, so losses stay one a sample.

    Args:
        discriminator: Made for m times the channels.
        m: Samples a pack.

    Raises:
        ValueError: a batch that is no multiple of m.

    Reference: Lin, Khetan, Fanti, Oh 2018, section 3, arXiv 1712.04086.
    """

    def __init__(self, discriminator: nn.Module, m: int) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.m = m

    def forward(self, x: Tensor) -> Tensor:
        if len(x) % self.m:
            raise ValueError(f"a batch of {len(x)} cannot be packed by {self.m}; choose a multiple of it.")
        packs = x.reshape(len(x) // self.m, self.m * x.shape[1], *x.shape[2:])
        logits: Tensor = self.discriminator(packs)
        return logits.repeat_interleave(self.m)
