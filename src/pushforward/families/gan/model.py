"""A generative adversarial network: two networks, a prior, an objective and any number of terms; two phases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm

from pushforward.errors import NotSupported
from pushforward.families.gan.augment import View, ada
from pushforward.families.gan.context import Context, Player
from pushforward.families.gan.losses import Objective
from pushforward.families.gan.terms import Term
from pushforward.families.gan.unroll import Parameters, Update, adam, descent, unrolled
from pushforward.model import Batch, GenerativeModel, Phase, Terms
from pushforward.networks.blocks import frozen, has_batch_norm
from pushforward.networks.wrappers import Packed
from pushforward.priors import Normal, Prior, between
from pushforward.randomness import Generator, SampleStream, draw_integers

ANCHOR_DECAY = 0.99  # of LeCam's moving averages, as its authors chose
SETTLE_BATCHES, SETTLE_BATCH_SIZE = 20, 128


@contextmanager
def steady(module: nn.Module) -> Iterator[None]:
    """The power iterations of spectral norm stand still inside: they are a part of the discriminator's own moves."""
    iterating = [m for m in module.modules() if isinstance(m, _SpectralNorm) and m.training]
    for m in iterating:
        m.eval()
    try:
        yield
    finally:
        for m in iterating:
            m.train()


class GAN(GenerativeModel):
    """Two players: D learns to tell data from fakes, G to make fakes that D takes for data.

    Args:
        generator: Latents (B, dim) -> data (B, *shape).
        discriminator: Data (B, *shape) -> logits (B,).
        prior: Distribution of the latents; a learned one moves with the generator.
        objective: What the players minimise.
        terms: Penalties and the like, added to a player's loss.
        views: Changes to whatever D is shown, in order.
        discriminator_steps: Moves of D for each move of G, each on a fresh batch.
        share_fakes: G's move re-uses the fakes of D's last move instead of making new ones: one forward pass of G
            fewer a step; both players then see the same z.
        weight_clip: Clip each weight of D to [-c, c] after each of its moves (WGAN, Arjovsky et al. 2017).
        unroll_steps: G looks ahead through this many updates of D (`unroll.py`); 0 is the plain GAN.
        unroll_update: "descent" takes plain gradient steps; "adam" the next updates of D's own Adam, from the moments that it holds.
        unroll_rate: Size of a plain gradient step.
        pack: D judges this many samples at a time (PacGAN, Lin et al. 2018, arXiv 1712.04086); the one given must be made for that.
        classes: Number of classes of a conditional GAN, whose networks take labels as well.
        ada_target: Mean sign of D on data that ADA steers to.
        ada_images: Images after which ADA's probability could at most have gone from 0 to 1.
        temperature: Standard deviation of the normal latents of samples, which is 1 in training. Above 1 there is more variety and
            less care, below 1 the other way round.
    """

    def __init__(
        self,
        *,
        generator: nn.Module,
        discriminator: nn.Module,
        prior: Prior,
        objective: Objective,
        terms: Sequence[Term] = (),
        views: Sequence[View] = (),
        discriminator_steps: int = 1,
        share_fakes: bool = False,
        weight_clip: float | None = None,
        unroll_steps: int = 0,
        unroll_update: Literal["descent", "adam"] = "descent",
        unroll_rate: float = 0.1,
        pack: int = 1,
        classes: int | None = None,
        ada_target: float = 0.6,
        ada_images: int = 500_000,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.generator = generator
        self.discriminator = Packed(discriminator, pack) if pack > 1 else discriminator
        self.prior = prior
        self.objective = objective
        self.terms = tuple(terms)
        self.views = tuple(views)
        self.discriminator_steps = discriminator_steps
        self.share_fakes = share_fakes
        self.weight_clip = weight_clip
        self.unroll_steps = unroll_steps
        self.unroll_update = unroll_update
        self.unroll_rate = unroll_rate
        self._optimiser: torch.optim.Optimizer | None = None
        self.classes = classes
        self.ada_target = ada_target
        self.ada_images = ada_images
        self.temperature = temperature
        self._handed: tuple[Tensor, Tensor] | None = None  # fakes and latents on their way from D's move to G's
        self._adaptive = any(v.function is ada for v in self.views)
        self._anchored = any("anchors" in t.needs for t in self.terms)
        self.strength: Tensor
        self.anchors: Tensor
        self.register_buffer("strength", torch.zeros(()), persistent=self._adaptive)
        # Moving averages of D's logits of data and of fakes, and the weight that they have gathered so far.
        self.register_buffer("anchors", torch.zeros(3), persistent=self._anchored)
        learned = any(True for _ in prior.parameters())
        # Hidden from the module tree: the same weights must not be saved under two names.
        self.__dict__["_maker"] = nn.ModuleDict({"generator": generator, "prior": prior}) if learned else generator

    def phases(self) -> tuple[Phase, ...]:
        compilable = not self.share_fakes and not self.unroll_steps and not any(v.stepwise for v in self.views)
        return (
            Phase(
                "discriminator",
                self.discriminator,
                self.discriminator_loss,
                repeats=self.discriminator_steps,
                variant=lambda step: tuple(t.name for t in self._due("discriminator", step)),
                compilable=compilable,
                weights=self._weights("discriminator"),
                finish=self.finish,
                meet=self._meet if self.unroll_steps and self.unroll_update == "adam" else None,
            ),
            Phase(
                "generator",
                self.__dict__["_maker"],
                self.generator_loss,
                weights=self._weights("generator"),
                fresh_batch=False,
                variant=lambda step: tuple(t.name for t in self._due("generator", step)),
                compilable=compilable,
            ),
        )

    def _weights(self, player: Player) -> dict[str, float]:
        # A lazy term counts `every` times when it comes; logits, and how often a fake beats data, are logged and weigh nothing.
        weights = {t.name: t.weight * t.every for t in self.terms if t.player == player}
        return weights | dict.fromkeys(("real_logit", "fake_logit", "overlap", "real_sign"), 0.0)

    def discriminator_loss(self, batch: Batch) -> Terms:
        """Terms of D's move."""
        with parametrize.cached():  # one power iteration of spectral norm a move, however often D looks
            return self._discriminator_terms(batch)

    def _discriminator_terms(self, batch: Batch) -> Terms:
        due = self._due("discriminator", batch.step)
        context = Context(self, batch, "discriminator", needs=frozenset().union(*(t.needs for t in due)))
        real, fake = context.real_logits, context.fake_logits
        if self.share_fakes:
            self._handed = (context.made, context.z)
        logged = {"real_logit": real.detach(), "fake_logit": fake.detach(), "overlap": (fake > real).float()}
        if self._adaptive:
            logged["real_sign"] = (real.detach() - (self.objective.neutral or 0.0)).sign()
        return {"adversarial": self.objective.discriminator(real, fake), **logged} | {
            t.name: t.function(context, **t.options) for t in due
        }

    def generator_loss(self, batch: Batch) -> Terms:
        """Terms of G's move; D's weights are constants in it, or functions of the fakes when G looks ahead."""
        due = self._due("generator", batch.step)
        handed, self._handed = self._handed, None
        context = Context(self, batch, "generator", given=handed)
        if self.unroll_steps:
            given = (context.made, context.z)
            with steady(self.discriminator):
                end = unrolled(
                    {n: p for n, p in self.discriminator.named_parameters() if p.requires_grad},
                    lambda parameters: self._look_ahead(batch, given, parameters),
                    steps=self.unroll_steps,
                    update=self._update(),
                )
            context = Context(self, batch, "generator", given=given, parameters={n: p.detach() for n, p in end.items()})
        with frozen(self.discriminator), steady(self.discriminator):
            fake = context.fake_logits
            logits = (context.real_logits, fake) if self.objective.paired else (fake,)
            adversarial = self.objective.generator(*logits)
            if self.unroll_steps:
                ahead = -self._look_ahead(batch, (given[0].detach(), given[1]), end)
                adversarial = adversarial + (ahead - ahead.detach())  # its slope alone: the log is of L_G
            return {"adversarial": adversarial} | {t.name: t.function(context, **t.options) for t in due}

    def _meet(self, optimiser: torch.optim.Optimizer) -> None:
        self._optimiser = optimiser
        self._update()  # refuses what it cannot foresee

    def _update(self) -> Update:
        if self.unroll_update == "descent":
            return descent(self.unroll_rate)
        if self._optimiser is None:
            raise NotSupported(
                "a look ahead by the discriminator's Adam needs a trainer; without one, it goes by descent."
            )
        return adam(self._optimiser, self.discriminator)

    def _look_ahead(self, batch: Batch, given: tuple[Tensor, Tensor], parameters: Parameters) -> Tensor:
        """D's adversarial loss as G foresees it."""
        context = Context(self, batch, "generator", given=given, parameters=parameters)
        return self.objective.discriminator(context.real_logits, context.fake_logits).mean()

    @torch.no_grad()
    def finish(self, means: Mapping[str, Tensor], images: int) -> None:
        """After each move of D: clip its weights, move LeCam's anchors and ADA's probability.

        Args:
            means: Of the move's terms, over all processes.
            images: In the global batch.
        """
        if self.weight_clip is not None:
            for p in self.discriminator.parameters():
                p.clamp_(-self.weight_clip, self.weight_clip)
        if self._anchored:
            now = torch.stack([means["real_logit"], means["fake_logit"], torch.ones_like(means["real_logit"])])
            self.anchors.lerp_(now.float(), 1 - ANCHOR_DECAY)
        if self._adaptive:
            step = (means["real_sign"] - self.ada_target).sign() * images / self.ada_images
            self.strength.add_(step).clamp_(0, 1)

    def logit_means(self) -> tuple[Tensor, Tensor]:
        """Moving averages of D's logits of data and of fakes; 0 before the first move."""
        real, fake = self.anchors[:2] / self.anchors[2].clamp(min=1e-12)
        return real, fake

    def _due(self, player: Player, step: int) -> list[Term]:
        return [t for t in self.terms if t.player == player and step % t.every == 0]

    def generate(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Samples of given latents (and labels), (n, dim) -> (n, *shape), in whatever mode the generator is."""
        made: Tensor = self.generator(z) if self.classes is None else self.generator(z, labels)
        return made.to(z.dtype)  # samples are never of lower precision, whatever the layers ran in

    @torch.no_grad()
    def sample(self, n: int, *, labels: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        if labels is not None and self.classes is None:
            raise NotSupported("this GAN is unconditional: it was trained without labels and cannot sample by label.")
        z = self.temperature * self.prior.sample(n, generator=generator)
        if self.classes is not None and labels is None:
            labels = draw_integers(self.classes, (n,), generator=generator, device=z.device)
        return self.decode(z, labels)

    @torch.no_grad()
    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Samples of given latents, (n, dim) -> (n, *shape), with the statistics of evaluation mode."""
        training = self.generator.training
        self.generator.eval()
        try:
            return self.generate(z, labels)
        finally:
            self.generator.train(training)

    @torch.no_grad()
    def paths(self, n: int, steps: int, *, labels: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        """Samples on the ways between n pairs of latents, (steps, n, *shape): as `priors.between` says for normal ones, straight for others."""
        if labels is not None and self.classes is None:
            raise NotSupported("this GAN is unconditional: it was trained without labels and cannot sample by label.")
        p, q = (self.temperature * self.prior.sample(n, generator=generator) for _ in range(2))
        if self.classes is not None and labels is None:
            labels = draw_integers(self.classes, (n,), generator=generator, device=p.device)
        if isinstance(self.prior, Normal):
            way = between(p, q, steps)
        else:
            way = torch.stack([p.lerp(q, s) for s in torch.linspace(0, 1, steps).tolist()])
        return torch.stack([self.decode(z, labels) for z in way])

    def averaged(self) -> nn.Module:
        maker: nn.Module = self.__dict__["_maker"]
        return maker

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
            stream = SampleStream(k, torch.arange(SETTLE_BATCH_SIZE, device=device))
            z = self.prior.sample(SETTLE_BATCH_SIZE, generator=stream)
            self.generate(z, None if self.classes is None else stream.integers(self.classes, (SETTLE_BATCH_SIZE,)))
        self.generator.train(training)
        for m, momentum in zip(norms, momenta, strict=True):
            m.momentum = momentum
