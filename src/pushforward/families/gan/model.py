"""A generative adversarial network: two networks, a prior, an objective and any number of terms; two phases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pushforward.errors import NotSupported
from pushforward.families.gan.context import Context, Player
from pushforward.families.gan.losses import Objective
from pushforward.families.gan.terms import Term
from pushforward.model import Batch, GenerativeModel, Phase, Terms
from pushforward.networks.blocks import has_batch_norm
from pushforward.priors import Prior
from pushforward.randomness import Generator, SampleStream

SETTLE_BATCHES, SETTLE_BATCH_SIZE = 20, 128


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


class GAN(GenerativeModel):
    """Two players: D learns to tell data from fakes, G to make fakes that D takes for data.

    Args:
        generator: Latents (B, dim) -> data (B, *shape).
        discriminator: Data (B, *shape) -> logits (B,).
        prior: Distribution of the latents.
        objective: What the players minimise.
        terms: Penalties and the like, added to a player's loss.
        discriminator_steps: Moves of D for each move of G, each on a fresh batch.
        share_fakes: G's move re-uses the fakes of D's last move instead of making new ones: one forward pass of G
            fewer a step; both players then see the same z.
        weight_clip: Clip each weight of D to [-c, c] after each of its moves (WGAN, Arjovsky et al. 2017).
    """

    def __init__(
        self,
        *,
        generator: nn.Module,
        discriminator: nn.Module,
        prior: Prior,
        objective: Objective,
        terms: Sequence[Term] = (),
        discriminator_steps: int = 1,
        share_fakes: bool = False,
        weight_clip: float | None = None,
    ) -> None:
        super().__init__()
        self.generator = generator
        self.discriminator = discriminator
        self.prior = prior
        self.objective = objective
        self.terms = tuple(terms)
        self.discriminator_steps = discriminator_steps
        self.share_fakes = share_fakes
        self.weight_clip = weight_clip
        self._handed: Tensor | None = None  # fakes on their way from D's move to G's

    def phases(self) -> tuple[Phase, ...]:
        return (
            Phase(
                "discriminator",
                self.discriminator,
                self.discriminator_loss,
                repeats=self.discriminator_steps,
                variant=lambda step: tuple(t.name for t in self._due("discriminator", step)),
                self_contained=not self.share_fakes,
                weights=self._weights("discriminator"),
                project=self._clip_weights if self.weight_clip is not None else None,
            ),
            Phase(
                "generator",
                self.generator,
                self.generator_loss,
                weights=self._weights("generator"),
                fresh_batch=False,
                variant=lambda step: tuple(t.name for t in self._due("generator", step)),
                self_contained=not self.share_fakes,
            ),
        )

    def _weights(self, player: Player) -> dict[str, float]:
        # A lazy term counts `every` times when it comes; logits are logged and weigh nothing.
        weights = {t.name: t.weight * t.every for t in self.terms if t.player == player}
        return weights | {"real_logit": 0.0, "fake_logit": 0.0}

    def discriminator_loss(self, batch: Batch) -> Terms:
        """Terms of D's move."""
        due = self._due("discriminator", batch.step)
        context = Context(self, batch, "discriminator", needs=frozenset().union(*(t.needs for t in due)))
        real, fake = context.real_logits, context.fake_logits
        if self.share_fakes:
            self._handed = context.made
        return {
            "adversarial": self.objective.discriminator(real, fake),
            "real_logit": real.detach(),
            "fake_logit": fake.detach(),
        } | {t.name: t.function(context, **t.options) for t in due}

    def generator_loss(self, batch: Batch) -> Terms:
        """Terms of G's move; D's weights are constants in it."""
        due = self._due("generator", batch.step)
        handed, self._handed = self._handed, None
        context = Context(self, batch, "generator", fake=handed)
        with frozen(self.discriminator):
            fake = context.fake_logits
            logits = (context.real_logits, fake) if self.objective.paired else (fake,)
            return {"adversarial": self.objective.generator(*logits)} | {
                t.name: t.function(context, **t.options) for t in due
            }

    def _due(self, player: Player, step: int) -> list[Term]:
        return [t for t in self.terms if t.player == player and step % t.every == 0]

    @torch.no_grad()
    def _clip_weights(self) -> None:
        assert self.weight_clip is not None
        for p in self.discriminator.parameters():
            p.clamp_(-self.weight_clip, self.weight_clip)

    @torch.no_grad()
    def sample(self, n: int, *, labels: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        if labels is not None:
            raise NotSupported("this GAN is unconditional: it was trained without labels and cannot sample by label.")
        return self.decode(self.prior.sample(n, generator=generator))

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Samples of given latents, (n, dim) -> (n, *shape), with the statistics of evaluation mode."""
        training = self.generator.training
        self.generator.eval()
        try:
            return self.generator(z)
        finally:
            self.generator.train(training)

    def averaged(self) -> nn.Module:
        return self.generator

    @torch.no_grad()
    def settle(self) -> None:
        """Estimate batch-norm statistics anew: averaged weights never saw the batches behind the stored ones."""
        if not has_batch_norm(self.generator):
            return
        norms = [m for m in self.generator.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        momenta = [m.momentum for m in norms]
        training = self.generator.training
        for m in norms:
            m.reset_running_stats()
            m.momentum = None  # a plain average over the batches
        self.generator.train()
        device = next(self.generator.parameters()).device
        for k in range(SETTLE_BATCHES):
            rows = torch.arange(SETTLE_BATCH_SIZE, device=device)
            self.generator(self.prior.sample(SETTLE_BATCH_SIZE, generator=SampleStream(k, rows)))
        self.generator.train(training)
        for m, momentum in zip(norms, momenta, strict=True):
            m.momentum = momentum
