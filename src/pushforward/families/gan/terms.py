"""Terms that add to any objective: each a pure function `term(context, **options) -> (B,)`.

To add one: write it here, give it a line in `build.gan.TERMS` and a test. Your own needs no entry: name it
"my_module:my_term" in the recipe and say whose move it joins (player = "discriminator" or "generator"). One that reads
a slope of the context says so beside its definition: `my_term.needs = {"real_slope"}`, or "fake_slope"; one that takes
slopes by itself says "slope", so that packs and batch norm, which have none of one sample, are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from pushforward.families.gan.augment import Changes, augment
from pushforward.families.gan.context import Context, Need, Player
from pushforward.penalties import squared_norm, unit_slope_penalty

Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Term:
    """A term in a recipe.

    Args:
        name: In the log.
        function: (context, **options) -> (B,).
        player: Whose loss it joins.
        weight: Its factor.
        every: Apply it on every n-th step only, n times as strong ("lazy").
        options: Further arguments of the function.
        needs: What the function reads that is not there by itself: slopes, anchors, images.
    """

    name: str
    function: Callable[..., Tensor]
    player: Player
    weight: float = 1.0
    every: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    needs: frozenset[Need] = frozenset()


def interpolate_penalty(context: Context, *, target: Annotated[float, Field(ge=0)] = 1.0) -> Tensor:
    """(||grad D|| - target)^2 at points between data and fakes (WGAN-GP; the paper's weight is 10).

    Args:
        target: The slope wanted.

    Reference: Gulrajani et al. 2017, equation 3, arXiv 1704.00028.
    """
    x = context.interpolates
    with torch.autocast(x.device.type, enabled=False):
        return unit_slope_penalty(context.discriminate, x.float(), target=target)


def r1(context: Context) -> Tensor:
    """||grad D(x)||^2 on data; the usual weight is gamma / 2.

    Reference: Mescheder, Geiger, Nowozin 2018, equation 9, arXiv 1801.04406.
    """
    return squared_norm(context.real_slope)


def r2(context: Context) -> Tensor:
    """||grad D(G(z))||^2 on fakes; the usual weight is gamma / 2.

    Reference: Mescheder, Geiger, Nowozin 2018, equation 10, arXiv 1801.04406.
    """
    return squared_norm(context.fake_slope)


def roth(context: Context) -> Tensor:
    """(1 - p(x))^2 ||grad D(x)||^2 + p(G(z))^2 ||grad D(G(z))||^2 with p = sigmoid(D); the usual weight is gamma / 2.

    Noise on both inputs, integrated out to first order: it weighs most where D is wrong.
    Reference: Roth et al. 2017, equation 21, arXiv 1705.09367.
    """
    real, fake = context.real_logits.float().sigmoid(), context.fake_logits.float().sigmoid()
    return (1 - real).square() * squared_norm(context.real_slope) + fake.square() * squared_norm(context.fake_slope)


def dragan(context: Context, *, sd: Positive = 0.25, target: Annotated[float, Field(ge=0)] = 1.0) -> Tensor:
    """(||grad D|| - target)^2 at data with Gaussian noise (the paper's weight is 10).

    Args:
        sd: Of the noise, in the model's range.
        target: The slope wanted.

    Reference: Kodali et al. 2017, section 2.3, arXiv 1705.07215.
    """
    x = context.real.detach()
    x = x + sd * context.batch.generator.normal(x.shape)
    with torch.autocast(x.device.type, enabled=False):
        return unit_slope_penalty(context.discriminate, x.float(), target=target)


def data_anchor(context: Context) -> Tensor:
    """||G(z) - x||^2: each fake is drawn to the data point beside it in the batch (CN-LSGAN; weight 0.001).

    Reference: Nie et al. 2021 (constrained least squares).
    """
    return (context.fake - context.batch.x).flatten(1).square().sum(dim=1)


def consistency_real(context: Context, *, changes: Changes = ("translation",)) -> Tensor:
    """(D(x) - D(T(x)))^2 on data (CR, and bCR's first half; weight 10).

    Args:
        changes: What T does; it must leave the class alone, so digits are never flipped.

    Reference: Zhang et al. 2019, equation 3, arXiv 1910.12027.
    """
    x = context.batch.x
    return (context.real_logits - context.discriminate(augment(x, context.batch.generator, changes))).square()


def consistency_fake(context: Context, *, changes: Changes = ("translation",)) -> Tensor:
    """(D(G(z)) - D(T(G(z))))^2 on fakes (bCR's second half; weight 10).

    Args:
        changes: As for `consistency_real`.

    Reference: Zhao et al. 2020, algorithm 1, arXiv 2002.04724.
    """
    x = context.fake.detach()
    return (context.fake_logits - context.discriminate(augment(x, context.batch.generator, changes))).square()


def _neighbours(context: Context, sd: float) -> Tensor:
    return context.generate(context.z + sd * context.batch.generator.normal(context.z.shape))


def latent_consistency(context: Context, *, sd: Positive = 0.05) -> Tensor:
    """(D(G(z)) - D(G(z + dz)))^2, dz ~ N(0, sd^2): zCR's pull on the discriminator (weight 5).

    Args:
        sd: Of dz.

    Reference: Zhao et al. 2020, algorithm 2, arXiv 2002.04724.
    """
    return (context.fake_logits - context.discriminate(_neighbours(context, sd).detach())).square()


def latent_diversity(context: Context, *, sd: Positive = 0.05) -> Tensor:
    """-|G(z) - G(z + dz)|^2, the mean over pixels: zCR's push on the generator (weight 0.5).

    The paper prints a norm. Here it is the mean over pixels, our choice: at the paper's weight the sum over 784 pixels overpowered the adversarial loss, and nothing was learned.

    Args:
        sd: Of dz.

    Reference: Zhao et al. 2020, algorithm 2, arXiv 2002.04724.
    """
    return -(context.made - _neighbours(context, sd)).flatten(1).square().mean(dim=1)


def lecam(context: Context) -> Tensor:
    """(D(x) - a_fake)^2 + (D(G(z)) - a_real)^2, the anchors being moving averages of D's logits (weight 0.3 or less).

    Pulls the logits of data and fakes together; for small data sets.
    Reference: Tseng et al. 2021, equation 6, arXiv 2104.03310.
    """
    real, fake = context.gan.logit_means()
    return (context.real_logits - fake).square() + (context.fake_logits - real).square()


def drift(context: Context) -> Tensor:
    """D(x)^2 on data: holds the level of a critic whose loss knows differences alone (ProGAN; weight 0.001).

    Reference: Karras et al. 2018, appendix A.1, arXiv 1710.10196.
    """
    return context.real_logits.square()
