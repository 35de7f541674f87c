"""What the terms of one player's move share: fakes, logits, slopes. Each is computed on first use, and once.

So a sum of any number of terms costs each forward pass once. Every draw of a step comes from the batch's stream.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.func import functional_call

from pushforward.errors import NotSupported
from pushforward.families.gan.augment import Look
from pushforward.families.gan.unroll import Parameters
from pushforward.model import Batch
from pushforward.networks.blocks import has_batch_norm
from pushforward.penalties import slope

if TYPE_CHECKING:
    from pushforward.families.gan.model import GAN

Player = Literal["discriminator", "generator"]
Need = Literal["real_slope", "fake_slope", "slope", "anchors", "images"]


class Context:
    """One player's view of one batch.

    Args:
        gan: The model.
        batch: Data, labels and the random streams.
        player: Whose move it is. The discriminator sees fakes without their graph; the generator sees through them.
        needs: Slopes that some term will ask for: their inputs must carry gradients before the forward pass.
        given: Fakes (with their graph) and their latents, in the place of new ones.
        parameters: Of the discriminator, in the place of its own.
    """

    def __init__(
        self,
        gan: GAN,
        batch: Batch,
        player: Player,
        *,
        needs: frozenset[Need] = frozenset(),
        given: tuple[Tensor, Tensor] | None = None,
        parameters: Parameters | None = None,
    ) -> None:
        self.gan = gan
        self.batch = batch
        self.player = player
        self._needs = needs
        self._given = given
        self._parameters = parameters

    @cached_property
    def real(self) -> Tensor:
        """Data, (B, *shape)."""
        return self.batch.x.detach().requires_grad_() if "real_slope" in self._needs else self.batch.x

    @cached_property
    def z(self) -> Tensor:
        """Latents, (B, dim)."""
        return (
            self._given[1]
            if self._given is not None
            else self.gan.prior.sample(len(self.batch.x), generator=self.batch.generator)
        )

    def generate(self, z: Tensor) -> Tensor:
        """Fakes of any latents, (B, dim) -> (B, *shape); with a graph in the generator's move alone."""
        with torch.set_grad_enabled(self.player == "generator" or self.gan.share_fakes):
            return self.gan.generate(z, self.batch.labels)

    @cached_property
    def made(self) -> Tensor:
        """Fakes with whatever graph they were made with, (B, *shape)."""
        return self._given[0] if self._given is not None else self.generate(self.z)

    @cached_property
    def fake(self) -> Tensor:
        """Fakes as this player sees them: a constant for the discriminator, a function of z for the generator."""
        if self.player == "generator":
            return self.made
        fake = self.made.detach()
        return fake.requires_grad_() if "fake_slope" in self._needs else fake

    def shown(self, x: Tensor) -> Tensor:
        """Images as the discriminator is shown them: through the model's views, with fresh draws."""
        look = Look(self.batch.generator, self.batch.step, self.gan.strength)
        for view in self.gan.views:
            x = view.function(x, look, **view.options)
        return x

    def discriminate(self, x: Tensor) -> Tensor:
        """Logits of any images, one for each row of the batch, (B, *shape) -> (B,)."""
        return self._logits(self.shown(x), self.batch.labels)

    def _logits(self, x: Tensor, labels: Tensor | None) -> Tensor:
        given = (x,) if self.gan.classes is None else (x, labels)
        if self._parameters is None:
            return self.gan.discriminator(*given)
        return functional_call(self.gan.discriminator, dict(self._parameters), given)

    @cached_property
    def _both(self) -> tuple[Tensor, Tensor]:
        """Logits of data and fakes: one forward pass where the batch does not matter, two under batch norm."""
        if has_batch_norm(self.gan.discriminator):
            return self.discriminate(self.real), self.discriminate(self.fake)
        labels = self.batch.labels
        both = torch.cat([self.shown(self.real), self.shown(self.fake)])
        real, fake = self._logits(both, None if labels is None else torch.cat([labels, labels])).chunk(2)
        return real, fake

    @cached_property
    def real_logits(self) -> Tensor:
        """D(x), (B,)."""
        if self.player == "generator":
            with torch.set_grad_enabled(self._parameters is not None and torch.is_grad_enabled()):
                return self.discriminate(self.real)
        return self._both[0]

    @cached_property
    def fake_logits(self) -> Tensor:
        """D(G(z)), (B,)."""
        return self.discriminate(self.fake) if self.player == "generator" else self._both[1]

    @cached_property
    def real_slope(self) -> Tensor:
        """Gradient of D at the data, (B, *shape), differentiable."""
        self._needed("real_slope")
        return self._slope(self.real, self.real_logits)

    @cached_property
    def fake_slope(self) -> Tensor:
        """Gradient of D at the fakes, (B, *shape), differentiable."""
        self._needed("fake_slope")
        return self._slope(self.fake, self.fake_logits)

    def _needed(self, what: Need) -> None:
        if what not in self._needs:
            raise NotSupported(
                f'a term reads context.{what} and does not say so before the forward pass: my_term.needs = {{"{what}"}}, beside its definition.'
            )

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
