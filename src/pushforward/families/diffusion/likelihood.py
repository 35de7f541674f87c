r"""The density that the probability-flow ODE gives a denoiser: an estimate of its own kind, never to be mixed with an exact one.

In z = x / alpha and u = log(sigma / alpha) the flow is dz/du = z - D, and along it

.. math:: \log p(z_{u_0}) = \log p(z_{u_1}) + \int_{u_0}^{u_1} \left( d - \alpha \, \mathrm{tr} \frac{\partial D}{\partial x} \right) du

with z at the last level taken as N(0, sigma^2 / alpha^2). What comes out is the density of the data with noise of the first level's sigma / alpha.

Reference: Song et al. 2021, appendix D.2, arXiv 2011.13456.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from pushforward.families.diffusion.denoisers import Denoiser
from pushforward.families.diffusion.schedules import WIDEST
from pushforward.randomness import Generator, draw_uniform

EXACT = 64  # dimensions up to which the trace is computed and not estimated


def ode_log_prob(
    denoiser: Denoiser,
    x: Tensor,
    *,
    steps: int = 40,
    low: float = 0.002,
    high: float = WIDEST,
    probes: int = 1,
    generator: Generator | None = None,
) -> Tensor:
    """Log-density in nats by the probability-flow ODE.

    Args:
        denoiser: Any that is differentiable in x.
        x: Data, (B, *shape).
        steps: Of Runge and Kutta's method (four evaluations each), even in log(sigma / alpha).
        low, high: Smallest and largest sigma / alpha, as far as the schedule goes: the density is of the data with noise of `low`.
        probes: Random vectors for the trace beyond 64 dimensions (Hutchinson, signs); up to there it is exact.
        generator: Of the probes.

    Returns:
        float64 (B,).
    """
    if steps < 1 or probes < 1 or not 0 < low < high:
        raise ValueError(
            f"steps = {steps}, probes = {probes}, low = {low}, high = {high}: at least 1, and 0 < low < high"
        )
    schedule, d = denoiser.schedule, math.prod(x.shape[1:])
    end = min(high, float(schedule.ratio(torch.ones((), dtype=torch.float64))))
    line = torch.linspace(math.log(low), math.log(end), steps + 1, dtype=torch.float64)
    signs = None
    if d > EXACT:
        signs = draw_uniform((len(x), probes, d), generator=generator, device=x.device).sub_(0.5).sign_()

    def slope(z: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        t = schedule.time(u.exp()).clamp(max=1)
        alpha = float(schedule.levels(t)[0])
        with torch.enable_grad():
            at = (alpha * z).to(x.dtype).requires_grad_()
            out = denoiser(at, t)
            trace = _trace(out, at, signs)
        return z - out.detach().double(), d - alpha * trace

    z, total = x.double(), torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for a, b in pairwise(line):
        h = float(b - a)
        middle = (a + b) / 2  # the classical Runge-Kutta method of fourth order
        k1, g1 = slope(z, a)
        k2, g2 = slope(z + h / 2 * k1, middle)
        k3, g3 = slope(z + h / 2 * k2, middle)
        k4, g4 = slope(z + h * k3, b)
        z, total = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), total + h / 6 * (g1 + 2 * g2 + 2 * g3 + g4)
    prior = -0.5 * (z / end).square().flatten(1).sum(dim=1) - d * (math.log(end) + 0.5 * math.log(2 * math.pi))
    return prior + total


def _trace(out: Tensor, x: Tensor, signs: Tensor | None) -> Tensor:
    """Trace of each sample's Jacobian, float64 (B,): exact, or by random signs."""
    flat = out.flatten(1)
    if signs is None:
        rows = [
            torch.autograd.grad(flat[:, i].sum(), x, retain_graph=True)[0].flatten(1)[:, i]
            for i in range(flat.shape[1])
        ]
        return torch.stack(rows, dim=1).double().sum(dim=1)
    found = []
    for k in range(signs.shape[1]):
        probe = signs[:, k].to(flat.dtype)
        (product,) = torch.autograd.grad((flat * probe).sum(), x, retain_graph=True)
        found.append((product.flatten(1).double() * probe).sum(dim=1))
    return torch.stack(found).mean(dim=0)
