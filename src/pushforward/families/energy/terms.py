r"""What an energy is trained by, as terms that add up: each a pure function of the step's context, one number a sample.

`contrastive` needs chains, negative samples that a Markov chain drew from the energy itself; the others do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pushforward.model import Batch
from pushforward.penalties import slope, squared_norm

Energy = Callable[[Tensor], Tensor]


@dataclass
class Context:
    """What the terms of one step share; energies of data and chains are computed once, in one forward pass.

    Args:
        energy: (B, *shape) -> (B,).
        batch: Of data; every draw comes from its generator.
        chains: Negative samples (B, *shape), or None where no term needs any.
        jitter: Standard deviation of the noise on data in the energies' pass, so that pixels that never change give no slope of their own.
    """

    energy: Energy
    batch: Batch
    chains: Tensor | None = None
    jitter: float = 0.0

    @cached_property
    def _energies(self) -> tuple[Tensor, Tensor | None]:
        x = self.batch.x
        if self.jitter:
            x = x + self.jitter * self.batch.generator.normal(x.shape).to(x.device)
        if self.chains is None:
            return self.energy(x), None
        both = torch.cat([x, self.chains])
        if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
            both = both.contiguous(memory_format=torch.channels_last)
        data, chains = self.energy(both).chunk(2)
        return data, chains

    @property
    def data_energy(self) -> Tensor:
        """E(x+), (B,)."""
        return self._energies[0]

    @property
    def chain_energy(self) -> Tensor:
        """E(x-), (B,)."""
        found = self._energies[1]
        assert found is not None, "this term needs chains"
        return found


def contrastive(context: Context) -> Tensor:
    r"""Lower the energy of data and raise that of chains: the gradient of the negative log-likelihood, as far as the chains follow the energy's law.

    .. math:: \nabla_\theta \, [-\log p_\theta(x^+)] \approx \nabla_\theta \, [E_\theta(x^+) - E_\theta(x^-)], \qquad x^- \sim p_\theta

    Its value is no loss: it is near 0 for a good model, and for a bad one whose chains keep up.

    Reference: Hinton 2002 (chains from data); Tieleman 2008 (persistent chains).
    """
    return context.data_energy - context.chain_energy


def magnitude(context: Context) -> Tensor:
    r"""E(x+)^2 + E(x-)^2, which pins the energies near 0: the contrastive term fixes only their difference.

    Reference: Du and Mordatch 2019, section 3.2, arXiv 1903.08689.
    """
    squares = context.data_energy.square()
    return squares if context.chains is None else squares + context.chain_energy.square()


def denoising(
    context: Context, *, sigma: float = 0.3, widest: float | None = None, scale: float | None = None
) -> Tensor:
    r"""Denoising score matching: at data with noise, the slope of the energy must point away from the data, as the noise did.

    .. math:: \frac1d \lVert s^2 \nabla E(x + \sigma \epsilon) / \sigma - \epsilon \rVert^2

    With s = sigma the minimiser is the energy of the data's density with that noise added, at temperature 1. With levels log-uniform between `sigma` and
    `widest` and one s for all, it is the multiscale form, an energy without the noise level as an input: about half the squared distance to the data in units of s.

    Args:
        context: Of the step.
        sigma: Standard deviation of the noise, or its smallest.
        widest: Its largest; `sigma` alone when None.
        scale: s; sigma when None.

    Reference: Vincent 2011, equation 14; Li, Chen, Sommer 2019, equation 6, arXiv 1910.07762.
    """
    x, stream = context.batch.x, context.batch.generator
    level = torch.full((len(x),), sigma, device=x.device)
    if widest is not None:
        level = sigma * (widest / sigma) ** stream.uniform((len(x),)).to(x.device)
    level = level.reshape(-1, *[1] * (x.ndim - 1))
    eps = stream.normal(x.shape).to(x.device)
    noised = (x + level * eps).detach().requires_grad_()
    found = slope(context.energy(noised).float(), noised)
    square = sigma**2 if scale is None and widest is None else (scale or sigma) ** 2
    return (square / level * found - eps).square().flatten(1).mean(dim=1)


def sliced(context: Context, *, probes: int = 1) -> Tensor:
    r"""Sliced score matching with its variance reduced: the density's own score, without noise and without a trace.

    .. math:: \tfrac12 \lVert \nabla E(x) \rVert^2 - v^\top \nabla^2 E(x) \, v, \qquad v \sim \{-1, 1\}^d

    Args:
        context: Of the step.
        probes: Vectors v for each sample.

    Reference: Song et al. 2019, equation 8, arXiv 1905.07088.
    """
    x, stream = context.batch.x.detach().requires_grad_(), context.batch.generator
    found = slope(context.energy(x).float(), x)
    curvature = torch.zeros(len(x), device=x.device)
    for _ in range(probes):
        v = (stream.uniform(x.shape) - 0.5).sign().to(x.device)
        (product,) = torch.autograd.grad((found * v).sum(), x, create_graph=True)
        curvature = curvature + (product * v).flatten(1).sum(dim=1)
    return 0.5 * squared_norm(found) - curvature / probes


def flatness(context: Context) -> Tensor:
    """Squared slope at the chains, which keeps an energy smooth enough for a chain's step (Mescheder's R2, of energies)."""
    assert context.chains is not None, "this term needs chains"
    x = context.chains.detach().requires_grad_()
    return squared_norm(slope(context.energy(x).float(), x))
