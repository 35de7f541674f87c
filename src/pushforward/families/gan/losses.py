r"""Adversarial objectives: what each player minimises, per sample, from logits alone.

D returns a logit; p = sigmoid(D). `softplus(-l)` is -log sigmoid(l) without overflow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Objective:
    """A pair of losses.

    Args:
        discriminator: (real_logits (B,), fake_logits (B,)) -> (B,).
        generator: fake_logits (B,) -> (B,), or with `paired` (real_logits, fake_logits) -> (B,).
        paired: The generator's loss looks at real logits too.
        calibrated: At the optimum the logit is log p_data / p_model, so density ratios may be read off it.
        neutral: The logit of a discriminator that is undecided; None where only differences of logits mean something.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[..., Tensor]
    paired: bool = False
    calibrated: bool = False
    neutral: float | None = 0.0


def _cross_entropy(real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(-real) + F.softplus(fake)


def minimax() -> Objective:
    r"""The zero-sum game: D minimises -log p(x) - log(1 - p(G(z))), and G minimises log(1 - p(G(z))).

    The generator's gradient vanishes where D is sure; kept because the theory is about this game.
    Reference: Goodfellow et al. 2014, equation 1, arXiv 1406.2661.
    """
    return Objective(_cross_entropy, lambda fake: -F.softplus(fake), calibrated=True)


def non_saturating() -> Objective:
    """Minimax's discriminator; G minimises -log p(G(z)), whose gradient is strong where D is sure ("vanilla").

    Reference: Goodfellow et al. 2014, section 3, arXiv 1406.2661.
    """
    return Objective(_cross_entropy, lambda fake: F.softplus(-fake), calibrated=True)


def least_squares(*, a: float = 0.0, b: float = 1.0, c: float = 1.0, factor: float = 0.5) -> Objective:
    """D minimises ((D(x) - b)^2 + (D(G(z)) - a)^2) / 2, G minimises (D(G(z)) - c)^2 / 2, on the raw output.

    Args:
        a: Target of D for fakes.
        b: Target of D for data.
        c: What G wants D to say of fakes. With b - c = 1, b - a = 2 the game minimises Pearson's chi-squared.
        factor: In the place of 1/2; CN-LSGAN has 1.

    Raises:
        ValueError: a = b, which asks the same of data and fakes, or a factor that is not above 0.

    Reference: Mao et al. 2016, equation 2, arXiv 1611.04076.
    """
    if a == b:
        raise ValueError(f"a = b = {a:g}: the discriminator would be asked for the same of data and fakes")
    if not factor > 0:
        raise ValueError(f"factor = {factor:g}: must be above 0")
    return Objective(
        lambda real, fake: factor * ((real - b).square() + (fake - a).square()),
        lambda fake: factor * (fake - c).square(),
        neutral=(a + b) / 2,
    )


def wasserstein() -> Objective:
    """D minimises D(G(z)) - D(x), G minimises -D(G(z)); D must be kept 1-Lipschitz by a clip, a penalty or its norm.

    Reference: Arjovsky, Chintala, Bottou 2017, algorithm 1, arXiv 1701.07875.
    """
    return Objective(lambda real, fake: fake - real, lambda fake: -fake, neutral=None)


def hinge() -> Objective:
    """D minimises max(0, 1 - D(x)) + max(0, 1 + D(G(z))), G minimises -D(G(z)).

    Reference: Miyato et al. 2018, equations 16 and 17, arXiv 1802.05957.
    """
    return Objective(lambda real, fake: F.relu(1 - real) + F.relu(1 + fake), lambda fake: -fake)


def relativistic() -> Objective:
    """Each logit is judged against its partner: D minimises softplus(-(D(x) - D(G(z)))), G the same with roles swapped.

    Reference: Jolicoeur-Martineau 2018, arXiv 1807.00734 (paired form); Huang et al. 2024, arXiv 2501.05441.
    """
    return Objective(
        lambda real, fake: F.softplus(fake - real),
        lambda real, fake: F.softplus(real - fake),
        paired=True,
        neutral=None,
    )
