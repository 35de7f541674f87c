r"""Annealed importance sampling: the normalising constant of an energy, with its error, from chains that go from a known law to the unknown one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from pushforward.randomness import Generator, SampleStream, derive_seed
from pushforward.samplers.langevin import Energy, settled, walk_hmc


@dataclass(frozen=True)
class LogZ:
    """An estimate of log of the integral of exp(-E / T).

    Args:
        value: In nats.
        low, high: A 95 % interval by bootstrap over the chains; it knows nothing of modes that no chain has found, whose weight is missing from `value`.
        effective: Effective number of chains; near 1 the estimate rests on one of them.
        acceptance: Mean over all moves.
        log_weights: Of each chain, float64 (n,).
    """

    value: float
    low: float
    high: float
    effective: float
    acceptance: float
    log_weights: Tensor


def annealed_log_z(
    energy: Energy,
    base: Distribution,
    n: int,
    *,
    levels: int = 1000,
    step_size: float = 0.1,
    leaps: int = 5,
    temperature: float = 1.0,
    generator: Generator | None = None,
) -> LogZ:
    r"""Estimate log Z by weights along a path of laws between a base whose density is known and the energy's.

    .. math:: \pi_\beta \propto p_0^{1 - \beta} e^{-\beta E / T}, \qquad \log w = \sum_k (\beta_{k+1} - \beta_k) \, [-E(x_k) / T - \log p_0(x_k)]

    Its mean of weights is unbiased for Z, so that the value of log Z is too small in the mean, the more so the rarer good chains are.

    Args:
        energy: (n, *shape) -> (n,).
        base: Its samples have the shape of one point; it must reach wherever the energy is low.
        n: Chains.
        levels: beta goes from 0 to 1 in as many steps, denser near 0.
        step_size: Of the Hamiltonian moves between levels.
        leaps: Leapfrog steps a move.
        temperature: T > 0.
        generator: Of the momenta and decisions; the base draws from torch's own, seeded from it.

    Reference: Neal 2001, "Annealed importance sampling".
    """
    if n < 2 or levels < 1 or temperature <= 0:
        raise ValueError(f"n = {n}, levels = {levels}, temperature = {temperature}: at least 2 and 1, and above 0")
    seed = derive_seed(generator.initial_seed() if isinstance(generator, torch.Generator) else 0, "base")
    if isinstance(generator, SampleStream):
        seed = derive_seed(int(generator.keys[0]), "base")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        x = base.sample((n,))

    def known(x: Tensor) -> Tensor:
        found = base.log_prob(x)
        return found.flatten(1).sum(dim=1) if found.ndim > 1 else found

    betas = torch.linspace(0, 1, levels + 1, dtype=torch.float64).square()
    weights = torch.zeros(n, dtype=torch.float64)
    accepted = 0.0
    for low, high in zip(betas[:-1].tolist(), betas[1:].tolist(), strict=True):
        with torch.no_grad():
            weights += (high - low) * (-energy(x).double() / temperature - known(x).double())

        def between(x: Tensor, beta: float = high) -> Tensor:
            return beta * energy(x) / temperature - (1 - beta) * known(x)

        if high < 1:
            found = settled(walk_hmc(between, x, steps=1, step_size=step_size, leaps=leaps, generator=generator))
            x, accepted = found.x, accepted + found.acceptance
    value = float(weights.logsumexp(0)) - math.log(n)
    g = torch.Generator().manual_seed(0)
    index = torch.randint(n, (1000, n), generator=g)
    draws = weights[index].logsumexp(1) - math.log(n)
    low, high = draws.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    normal = (weights - weights.logsumexp(0)).exp()
    return LogZ(value, low, high, float(1 / normal.square().sum()), accepted / max(levels - 1, 1), weights)
