"""Sampling with the discriminator's help, after training: each wraps any generator and discriminator.

Density ratios are read off a logit only where the objective calibrates it (`Objective.calibrated`); else a calibration is needed. Latents are drawn as in training, whatever the model's temperature:
the discriminator never saw others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pushforward.errors import NotSupported
from pushforward.families.gan.model import GAN
from pushforward.model import Batch
from pushforward.networks.wrappers import Packed
from pushforward.priors import Normal
from pushforward.randomness import SampleStream, derive_seed
from pushforward.samplers.langevin import sample_langevin
from pushforward.samplers.metropolis import metropolis_hastings
from pushforward.samplers.rejection import Calibration, Drawn, Propose, best_of, calibrate, rejection


@torch.no_grad()
def logits_of(gan: GAN, x: Tensor, *, batch: int = 500) -> Tensor:
    """Logits of given images by the discriminator as it is, in evaluation mode, (n, *shape) -> (n,)."""
    training = gan.discriminator.training
    gan.discriminator.eval()
    try:
        return torch.cat([gan.discriminator(part) for part in x.split(batch)])
    finally:
        gan.discriminator.train(training)


def log_ratio(gan: GAN, *, real: Tensor | None = None, fakes: int = 2000, seed: int = 0) -> Callable[[Tensor], Tensor]:
    """Images -> log p_data / p_model, (n, *shape) -> (n,).

    Args:
        gan: The model.
        real: Data, in the model's range, to calibrate on: best such that the discriminator was not trained on.
        fakes: Samples to calibrate with.
        seed: Of those.

    Raises:
        NotSupported: a conditional or packed model; an uncalibrated objective and no data to calibrate on.
    """
    _refuse_unsuited(gan)
    if real is None:
        if not gan.objective.calibrated:
            raise NotSupported(
                "this objective's logit is no density ratio; calibrate it on data (--calibrate), or use a cross-entropy objective."
            )
        return lambda x: logits_of(gan, x)
    made = _fakes(gan, SampleStream(derive_seed(seed, "calibrate"), torch.arange(fakes)))
    found: Calibration = calibrate(logits_of(gan, real), logits_of(gan, made))
    return lambda x: found(logits_of(gan, x))


def _refuse_unsuited(gan: GAN) -> None:
    if gan.classes is not None or isinstance(gan.discriminator, Packed):
        raise NotSupported(
            "sampling with the discriminator's help is for unconditional models that judge one sample at a time."
        )


def _fakes(gan: GAN, stream: SampleStream) -> Tensor:
    return gan.decode(gan.prior.sample(len(stream), generator=stream))


def proposals(gan: GAN, ratio: Callable[[Tensor], Tensor]) -> Propose:
    """The generator's samples with their log ratios."""

    def propose(stream: SampleStream) -> tuple[Tensor, Tensor]:
        x = _fakes(gan, stream)
        return x, ratio(x)

    return propose


def drs(
    gan: GAN,
    n: int,
    ratio: Callable[[Tensor], Tensor],
    *,
    percentile: float = 95.0,
    gamma: float | None = None,
    burn_in: int = 10_000,
    seed: int = 0,
) -> Drawn:
    """Discriminator rejection sampling (Azadi et al. 2018, arXiv 1810.06758).

    Args:
        percentile: Of F in each batch that gamma is set to; larger keeps fewer.
        gamma: A fixed one in its place; 0 is exact rejection sampling, if the ratio is right.
        burn_in: Proposals that estimate the largest ratio.
    """
    fixed = gamma is not None
    return rejection(
        proposals(gan, ratio),
        n,
        percentile=None if fixed else percentile,
        gamma=gamma or 0.0,
        burn_in=burn_in,
        seed=seed,
    )


def mh(gan: GAN, n: int, ratio: Callable[[Tensor], Tensor], *, steps: int = 100, seed: int = 0) -> Drawn:
    """Independence Metropolis-Hastings (Turner et al. 2019, arXiv 1811.11357), chains begun at samples.

    Args:
        steps: Moves of each chain.
    """
    return metropolis_hastings(proposals(gan, ratio), n, steps=steps, seed=seed)


def top(gan: GAN, n: int, ratio: Callable[[Tensor], Tensor], *, candidates: int = 4, seed: int = 0) -> Drawn:
    """The best of several candidates for each sample.

    Args:
        candidates: For each.
    """
    return best_of(proposals(gan, ratio), n, candidates=candidates, seed=seed)


def ddls(
    gan: GAN, n: int, ratio: Callable[[Tensor], Tensor], *, steps: int = 50, step_size: float = 0.01, seed: int = 0
) -> Drawn:
    """Langevin dynamics of the latents on E(z) = -log p(z) - D(G(z)) (Che et al. 2020, arXiv 2003.06060).

    Args:
        steps: Moves of each chain.
        step_size: Of a move.

    Raises:
        NotSupported: a prior whose density has no slope; a conditional or packed model; an uncalibrated objective.
        ValueError: settings with which no chain can walk, or one that left the finite numbers.
    """
    del ratio  # the slope goes through the discriminator itself
    _refuse_unsuited(gan)
    if steps < 1 or not 0 < step_size < math.inf:
        raise ValueError(f"steps = {steps} and step_size = {step_size}: must be at least 1, and above 0 and finite.")
    if not gan.objective.calibrated:
        raise NotSupported("ddls follows the slope of a calibrated logit; use a cross-entropy objective.")
    stream = SampleStream(derive_seed(seed, "ddls"), torch.arange(n))
    z = gan.prior.sample(n, generator=stream)
    if not torch.isfinite(gan.prior.log_prob(z + 10)).all():
        raise NotSupported("ddls walks through latents; a uniform prior has walls. Use a normal or mixture prior.")
    training = gan.training
    gan.eval()

    def energy(z: Tensor) -> Tensor:
        parts = [-gan.prior.log_prob(p) - gan.discriminator(gan.generate(p)) for p in z.split(500)]
        return torch.cat(parts)

    try:
        z = sample_langevin(energy, z, steps=steps, step_size=step_size, generator=stream)
    finally:
        gan.train(training)
    if not torch.isfinite(z).all():
        raise ValueError(f"some chains left the finite numbers; take a smaller step_size than {step_size}.")
    return Drawn(gan.decode(z), n * (steps + 1), 1.0)


def truncated(
    gan: GAN,
    n: int,
    ratio: Callable[[Tensor], Tensor],
    *,
    limit: float = 1.0,
    label: int | None = None,
    seed: int = 0,
) -> Drawn:
    """Latents whose coordinates are drawn again until all lie within `limit`: safer samples, fewer kinds of them.

    Args:
        limit: Of each coordinate's size, in standard deviations.
        label: A class, of a conditional GAN; each sample's is drawn when absent.

    Raises:
        NotSupported: a label for a GAN that has none, or one that it does not know; a prior that is not standard normal.

    Reference: Brock, Donahue, Simonyan 2018, section 3.1, arXiv 1809.11096.
    """
    del ratio
    if not isinstance(gan.prior, Normal):
        raise NotSupported("truncation is for a standard normal prior.")
    if not 0 < limit < math.inf:
        raise NotSupported(f"limit = {limit}: must be above 0 and finite.")
    if label is not None and not 0 <= label < (gan.classes or 0):
        known = "it was trained without labels" if gan.classes is None else f"it has the classes 0 to {gan.classes - 1}"
        raise NotSupported(f"label {label}: {known}.")
    stream = SampleStream(derive_seed(seed, "truncated"), torch.arange(n))
    # Inverse distribution function of the truncated normal: one draw a coordinate.
    low = 0.5 * math.erfc(limit / math.sqrt(2))
    u = low + (1 - 2 * low) * stream.uniform((n, gan.prior.dim)).double()
    z = (math.sqrt(2) * torch.erfinv(2 * u - 1)).float()
    labels = None
    if gan.classes is not None:
        labels = stream.integers(gan.classes, (n,)) if label is None else torch.full((n,), label)
    parts = [gan.decode(z[i : i + 500], None if labels is None else labels[i : i + 500]) for i in range(0, n, 500)]
    return Drawn(torch.cat(parts), n, 1.0)


SAMPLERS: dict[str, Callable[..., Drawn]] = {"drs": drs, "mh": mh, "top": top, "ddls": ddls, "truncated": truncated}


def keep_training(gan: GAN, optimiser: torch.optim.Optimizer, batches: Sequence[Batch]) -> None:
    """More moves of the discriminator alone, as rejection sampling wants before it trusts the logit.

    Args:
        gan: Its generator is what will be sampled from.
        optimiser: Over the discriminator's parameters.
        batches: One a move.
    """
    phase = gan.phases()[0]
    for batch in batches:
        means = {k: v.mean() for k, v in phase.loss(batch).items()}
        optimiser.zero_grad()
        phase.total(means).backward()
        optimiser.step()
        if phase.finish is not None:
            phase.finish({k: v.detach() for k, v in means.items()}, len(batch.x))
    gan.settle()  # the moves made fakes in training mode, which shifts batch-norm statistics of averaged weights
