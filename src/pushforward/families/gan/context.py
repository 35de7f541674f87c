"""What the terms of one player's move share: fakes, logits, slopes. Each is computed on first use, and once.

So a sum of any number of terms costs each forward pass once. Every draw of a step comes from the batch's stream.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from pushforward.model import Batch
from pushforward.networks.blocks import has_batch_norm
from pushforward.penalties import slope

if TYPE_CHECKING:
    from pushforward.families.gan.model import GAN

Player = Literal["discriminator", "generator"]
Need = Literal["real_slope", "fake_slope"]


class Context:
    """One player's view of one batch.

    Args:
        gan: The model.
        batch: Data, labels and the random streams.
        player: Whose move it is. The discriminator sees fakes without their graph; the generator sees through them.
        needs: Slopes that some term will ask for: their inputs must carry gradients before the forward pass.
        fake: Fakes made in the other player's move, to be shared (with their graph).
    """

    def __init__(
        self,
        gan: GAN,
        batch: Batch,
        player: Player,
        *,
        needs: frozenset[Need] = frozenset(),
        fake: Tensor | None = None,
    ) -> None:
        self.gan = gan
        self.batch = batch
        self.player = player
        self._needs = needs
        self._shared = fake

    @cached_property
    def real(self) -> Tensor:
        """Data, (B, *shape)."""
        return self.batch.x.detach().requires_grad_() if "real_slope" in self._needs else self.batch.x

    @cached_property
    def z(self) -> Tensor:
        """Latents, (B, dim)."""
        return self.gan.prior.sample(len(self.batch.x), generator=self.batch.generator)

    @cached_property
    def made(self) -> Tensor:
        """Fakes with whatever graph they were made with, (B, *shape)."""
        if self._shared is not None:
            return self._shared
        with torch.set_grad_enabled(self.player == "generator" or self.gan.share_fakes):
            return self.gan.generator(self.z)

    @cached_property
    def fake(self) -> Tensor:
        """Fakes as this player sees them: a constant for the discriminator, a function of z for the generator."""
        if self.player == "generator":
            return self.made
        fake = self.made.detach()
        return fake.requires_grad_() if "fake_slope" in self._needs else fake

    def discriminate(self, x: Tensor) -> Tensor:
        """Logits of any images, (B, *shape) -> (B,)."""
        return self.gan.discriminator(x)

    @cached_property
    def _both(self) -> tuple[Tensor, Tensor]:
        """Logits of data and fakes: one forward pass where the batch does not matter, two under batch norm."""
        if has_batch_norm(self.gan.discriminator):
            return self.discriminate(self.real), self.discriminate(self.fake)
        real, fake = self.discriminate(torch.cat([self.real, self.fake])).chunk(2)
        return real, fake

    @cached_property
    def real_logits(self) -> Tensor:
        """D(x), (B,)."""
        if self.player == "generator":
            with torch.no_grad():
                return self.discriminate(self.real)
        return self._both[0]

    @cached_property
    def fake_logits(self) -> Tensor:
        """D(G(z)), (B,)."""
        return self.discriminate(self.fake) if self.player == "generator" else self._both[1]

    @cached_property
    def real_slope(self) -> Tensor:
        """Gradient of D at the data, (B, *shape), differentiable."""
        return self._slope(self.real, self.real_logits)

    @cached_property
    def fake_slope(self) -> Tensor:
        """Gradient of D at the fakes, (B, *shape), differentiable."""
        return self._slope(self.fake, self.fake_logits)

    def _slope(self, x: Tensor, logits: Tensor) -> Tensor:
        """The slope at x, through the logits at hand; under autocast anew in float32, where penalties belong."""
        if not torch.is_autocast_enabled(x.device.type):
            return slope(logits, x)
        with torch.autocast(x.device.type, enabled=False):
            x = x.detach().float().requires_grad_()
            return slope(self.discriminate(x), x)

    @cached_property
    def interpolates(self) -> Tensor:
        """Points between a data point and a fake, one uniform weight a sample, (B, *shape)."""
        epsilon = self.batch.generator.uniform((len(self.real), *[1] * (self.real.ndim - 1)))
        return torch.lerp(self.real.detach(), self.fake.detach(), epsilon)
