"""Rejection sampling with a learned log density ratio, and the choice of the best."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward.randomness import SampleStream, derive_seed

Propose = Callable[[SampleStream], tuple[Tensor, Tensor]]
"""One stream a proposal -> proposals (n, *shape) and their log ratios log p_data / p_model (n,)."""


@dataclass(frozen=True)
class Drawn:
    """Samples and what they cost.

    Args:
        x: Samples, (n, *shape).
        proposals: How many were made, the burn-in's included.
        acceptance: Share of the proposals after the burn-in that were taken.
    """

    x: Tensor
    proposals: int
    acceptance: float

    @property
    def cost(self) -> float:
        """Proposals for each sample that was kept."""
        return self.proposals / len(self.x)


def acceptance_logit(ratio: Tensor, largest: Tensor | float, *, gamma: Tensor | float, epsilon: float) -> Tensor:
    r"""The logit of keeping a proposal, (n,) -> (n,).

    .. math:: F(x) = D(x) - D^*_M - \log(1 - e^{D(x) - D^*_M - \epsilon}) - \gamma

    With gamma = 0 and epsilon -> 0 it is kept with probability exp(D - D*_M), which is exact rejection sampling.

    Args:
        ratio: Log density ratio D of the proposals.
        largest: D*_M, the largest seen.
        gamma: Larger keeps fewer and better.
        epsilon: Keeps the logarithm finite at the largest.

    Reference: Azadi et al. 2018, equations 6 to 8, arXiv 1810.06758.
    """
    gap = ratio - largest
    return gap - torch.log1p(-torch.exp(gap - epsilon)) - gamma


def rejection(
    propose: Propose,
    n: int,
    *,
    percentile: float | None = 95.0,
    gamma: float = 0.0,
    epsilon: float = 1e-8,
    burn_in: int = 10_000,
    batch: int = 500,
    budget: int = 1000,
    seed: int = 0,
) -> Drawn:
    """Discriminator rejection sampling.

    Args:
        propose: Makes proposals and their log ratios.
        n: Samples wanted.
        percentile: gamma is this percentile of F in each batch; None takes `gamma` itself.
        gamma: Used when there is no percentile.
        epsilon: As in `acceptance_logit`.
        burn_in: Proposals that estimate the largest ratio; it rises later when a larger one appears.
        batch: Proposals at a time.
        budget: Proposals a wanted sample after which it gives up.
        seed: Of all draws; proposal i is the same whatever n.

    Raises:
        ValueError: the budget is spent: the ratio has a few huge values, so that nearly nothing is kept.

    Reference: Azadi et al. 2018, algorithm 1, arXiv 1810.06758.
    """
    if percentile is not None and not 0 <= percentile <= 100:
        raise ValueError(f"percentile = {percentile}: must be between 0 and 100.")
    if burn_in < 1:
        raise ValueError(f"burn_in = {burn_in}: must be at least 1.")
    made, largest = 0, -math.inf

    def block() -> tuple[Tensor, Tensor, SampleStream]:
        nonlocal made
        stream = SampleStream(derive_seed(seed, "rejection"), torch.arange(made, made + batch))
        made += batch
        x, ratio = propose(stream)
        return x, ratio.double(), stream

    while made < burn_in:
        largest = max(largest, float(block()[1].max()))
    kept: list[Tensor] = []
    count, start = 0, made
    while count < n:
        if made - start >= budget * n:
            raise ValueError(
                f"{made - start} proposals gave {count} of {n} samples: the density ratio has a few huge values. Lower gamma or the percentile."
            )
        x, ratio, stream = block()
        largest = max(largest, float(ratio.max()))
        logit = acceptance_logit(ratio, largest, gamma=0.0, epsilon=epsilon)
        logit -= gamma if percentile is None else logit.quantile(percentile / 100)
        taken = x[stream.uniform((batch,)).double() < logit.sigmoid()]
        kept.append(taken)
        count += len(taken)
    return Drawn(torch.cat(kept)[:n], made, count / (made - start))


def best_of(propose: Propose, n: int, *, candidates: int = 4, seed: int = 0) -> Drawn:
    """Of `candidates` proposals for each sample, the one with the largest log ratio ("top-k"); sharper and less diverse.

    Reference: Sinha et al. 2020, arXiv 2002.06224 (in training); here after it.
    """
    if candidates < 1:
        raise ValueError(f"candidates = {candidates}: must be at least 1.")
    best: Tensor | None = None
    top = torch.full((n,), -math.inf)
    for k in range(candidates):
        x, ratio = propose(SampleStream(derive_seed(seed, "best-of", k), torch.arange(n)))
        better = ratio > top
        best = x if best is None else torch.where(better.reshape(-1, *[1] * (x.ndim - 1)), x, best)
        top = torch.where(better, ratio, top)
    assert best is not None
    return Drawn(best, candidates * n, 1 / candidates)


@dataclass(frozen=True)
class Calibration:
    """Logits to log density ratios: scale * logit + offset."""

    scale: float
    offset: float

    def __call__(self, logits: Tensor) -> Tensor:
        return self.scale * logits + self.offset


def calibrate(real: Tensor, fake: Tensor, *, steps: int = 100) -> Calibration:
    """Logistic regression of "is it data?" on the logit, by Newton's method, both classes weighing the same.

    Args:
        real: Logits of data that the discriminator was not trained on, (n,).
        fake: Logits of samples, (m,).
        steps: At most.

    Raises:
        ValueError: the logits separate the two sets wholly, or are no higher on data, so no ratio can be read off them.

    Reference: Turner et al. 2019, section 3.2, arXiv 1811.11357 (that a calibration is needed); Platt 1999.
    """
    x = torch.cat([real, fake]).double()
    centre, spread = x.mean(), x.std().clamp(min=1e-12)
    design = torch.stack([(x - centre) / spread, torch.ones_like(x)], dim=1)
    target = torch.cat([torch.ones(len(real)), torch.zeros(len(fake))]).double()
    weight = torch.cat([torch.full((len(real),), 0.5 / len(real)), torch.full((len(fake),), 0.5 / len(fake))]).double()
    if float(real.min()) > float(fake.max()) or float(real.max()) < float(fake.min()):
        raise ValueError("the logits separate data and samples wholly: no density ratio can be read off them.")
    beta = torch.zeros(2, dtype=torch.float64)
    for _ in range(steps):
        p = (design @ beta).sigmoid()
        gradient = design.T @ (weight * (p - target))
        hessian = (design * (weight * p * (1 - p))[:, None]).T @ design + 1e-10 * torch.eye(2, dtype=torch.float64)
        step = torch.linalg.solve(hessian, gradient)
        beta -= step * min(1.0, 5.0 / float(step.norm().clamp(min=1e-12)))
        if float(step.abs().max()) < 1e-10:
            break
    scale = float(beta[0] / spread)
    if scale <= 0:
        raise ValueError(
            "the logit is no higher on data than on samples: the discriminator tells nothing of their ratio."
        )
    return Calibration(scale, float(beta[1]) - scale * float(centre))
