r"""Chains on an energy: Langevin as people run it and as the theory has it, with the Metropolis correction, and Hamiltonian.

Each walk is a generator that yields after every move, so that a trajectory is a plain loop; `settled` runs one to its end.

    for chain in walk_mala(energy, x, steps=100, step_size=0.1): ...
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pushforward.randomness import Generator, draw_normal, draw_uniform

Energy = Callable[[Tensor], Tensor]
"""(n, *shape) -> (n,), differentiable."""


class Chains(NamedTuple):
    """Where chains stand: x without gradient, their energies where known, and the share of moves accepted so far."""

    x: Tensor
    energy: Tensor | None
    acceptance: float


def settled(walk: Iterator[Chains]) -> Chains:
    """The end of a walk."""
    return deque(walk, maxlen=1)[0]


def slope(energy: Energy, x: Tensor) -> tuple[Tensor, Tensor]:
    """Energies and their gradients at x; nothing else is given a gradient."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        values = energy(x)
        (gradient,) = torch.autograd.grad(values.sum(), x)
    return values.detach(), gradient


def implied_temperature(step_size: float, noise: float) -> float:
    """The temperature at which a sampler whose noise is set apart from its step is Langevin's: noise^2 / step_size.

    Example:
        >>> round(implied_temperature(20.0, 0.005), 9)  # a step of 10 down the slope with noise .005: all but frozen
        1.25e-06
    """
    return noise**2 / step_size


def reach(steps: int, step_size: float, temperature: float, *, noise: float | None, clip: float | None) -> float:
    """How far a coordinate can go in all: inf without a clip, where nothing bounds a move, else the slope's part at most and three standard deviations of the noise's.

    Chains that must cross [-1, 1] need 2 and more.

    Example:
        >>> round(reach(60, 0.02, 1.0, noise=0.0, clip=0.03), 6)
        0.018
    """
    sd = math.sqrt(step_size * temperature) if noise is None else noise
    return math.inf if clip is None else steps * 0.5 * step_size * clip + 3 * sd * math.sqrt(steps)


def walk_langevin(
    energy: Energy,
    x: Tensor,
    *,
    steps: int,
    step_size: float,
    temperature: float = 1.0,
    noise: float | None = None,
    clip: float | None = None,
    bounds: tuple[float, float] | None = None,
    generator: Generator | None = None,
) -> Iterator[Chains]:
    r"""Moves towards low energy, with noise that keeps the chains' law at exp(-E / temperature).

    .. math:: x \leftarrow x - \tfrac{\eta}{2} \nabla E(x) + \sqrt{\eta T}\, \xi, \qquad \xi \sim N(0, I)

    Unadjusted: its law is off by an amount of order eta. With `noise` or `clip` it is another sampler, a tempered one; see `implied_temperature`.

    Args:
        energy: (n, *shape) -> (n,).
        x: Where the chains begin, (n, *shape).
        steps: Moves.
        step_size: eta.
        temperature: T; 0 is gradient descent.
        noise: Standard deviation of what is added, in the place of sqrt(eta T).
        clip: Bound on each entry of the gradient.
        bounds: What x is cut to after each move. The law is then another one, with a share of each coordinate on the bounds that falls with the root of eta alone; chains that follow exp(-E) between bounds are `walk_mala`'s on a mirrored energy.
        generator: Of the noise.

    Reference: Welling and Teh 2011, equation 3; Roberts and Tweedie 1996.
    """
    sd = math.sqrt(step_size * temperature) if noise is None else noise
    x = x.detach().clone()
    for _ in range(steps):
        _, gradient = slope(energy, x)
        if clip is not None:
            gradient = gradient.clamp(-clip, clip)
        x = x - 0.5 * step_size * gradient
        if sd:
            x = x + sd * draw_normal(x.shape, generator=generator, device=x.device)
        if bounds is not None:
            x = x.clamp(*bounds)
        yield Chains(x, None, 1.0)


def sample_langevin(
    energy: Energy,
    x: Tensor,
    *,
    steps: int,
    step_size: float,
    temperature: float = 1.0,
    generator: Generator | None = None,
) -> Tensor:
    """The end of `walk_langevin`, (n, *shape); x itself for no steps.

    Example:
        >>> sample_langevin(lambda x: x.square().sum(1) / 2, torch.ones(1, 1), steps=1, step_size=0.5, temperature=0.0).item()
        0.75
    """
    if steps == 0:
        return x.detach().clone()
    return settled(
        walk_langevin(energy, x, steps=steps, step_size=step_size, temperature=temperature, generator=generator)
    ).x


def walk_mala(
    energy: Energy,
    x: Tensor,
    *,
    steps: int,
    step_size: float,
    temperature: float = 1.0,
    generator: Generator | None = None,
) -> Iterator[Chains]:
    """Langevin's move as a proposal, kept with the probability of Metropolis and Hastings: its law is exact whatever the step.

    Args:
        energy: (n, *shape) -> (n,).
        x: Where the chains begin, (n, *shape).
        steps: Moves.
        step_size: eta; an acceptance of about .57 is best in many dimensions.
        temperature: T > 0.
        generator: Of the noise and of the decisions.

    Reference: Roberts and Tweedie 1996; Roberts and Rosenthal 1998 (the .574).
    """
    x = x.detach().clone()
    values, gradient = slope(energy, x)
    accepted = 0
    for k in range(steps):
        move = draw_normal(x.shape, generator=generator, device=x.device).to(x.dtype)
        new = x - 0.5 * step_size * gradient + math.sqrt(step_size * temperature) * move
        new_values, new_gradient = slope(energy, new)
        back = (
            x - new + 0.5 * step_size * new_gradient
        )  # what the noise would have to be for the way back, times sqrt(eta T)
        log_ratio = (values - new_values) / temperature
        log_ratio = log_ratio + _square(move) / 2 - _square(back) / (2 * step_size * temperature)
        keep = draw_uniform((len(x),), generator=generator, device=x.device).log() < log_ratio
        accepted += int(keep.sum())
        x, gradient = _choose(keep, new, x), _choose(keep, new_gradient, gradient)
        values = torch.where(keep, new_values, values)
        yield Chains(x, values, accepted / (len(x) * (k + 1)))


def walk_hmc(
    energy: Energy,
    x: Tensor,
    *,
    steps: int,
    step_size: float,
    leaps: int = 10,
    temperature: float = 1.0,
    generator: Generator | None = None,
) -> Iterator[Chains]:
    """Hamiltonian Monte Carlo: momentum drawn anew, `leaps` leapfrog steps along the energy, kept with Metropolis' probability.

    Args:
        energy: (n, *shape) -> (n,).
        x: Where the chains begin, (n, *shape).
        steps: Moves, each of `leaps` evaluations.
        step_size: Of a leapfrog step.
        leaps: Leapfrog steps a move.
        temperature: T > 0.
        generator: Of momenta and decisions.

    Reference: Neal 2011, section 5.3, arXiv 1206.1901.
    """
    x = x.detach().clone()
    values, gradient = slope(energy, x)
    accepted = 0
    for k in range(steps):
        momentum = draw_normal(x.shape, generator=generator, device=x.device).to(x.dtype)
        begun = values / temperature + _square(momentum) / 2
        new, new_values, new_gradient, p = x, values, gradient, momentum
        for _ in range(leaps):
            p = p - 0.5 * step_size / temperature * new_gradient
            new = new + step_size * p
            new_values, new_gradient = slope(energy, new)
            p = p - 0.5 * step_size / temperature * new_gradient
        ended = new_values / temperature + _square(p) / 2
        keep = draw_uniform((len(x),), generator=generator, device=x.device).log() < begun - ended
        accepted += int(keep.sum())
        x, gradient = _choose(keep, new, x), _choose(keep, new_gradient, gradient)
        values = torch.where(keep, new_values, values)
        yield Chains(x, values, accepted / (len(x) * (k + 1)))


def _square(x: Tensor) -> Tensor:
    return x.flatten(1).square().sum(dim=1)


def _choose(keep: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(keep.reshape(-1, *[1] * (new.ndim - 1)), new, old)
