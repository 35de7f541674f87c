r"""Solvers: from noise to data along the levels of an explicit grid, by a denoiser and nothing else.

    for step in heun(denoiser, x, karras_grid(schedule, 18)):
        ...                                             # step.t, step.x, step.denoised: a trajectory is a plain loop
    x = final(heun(denoiser, x, grid))

Each is a generator that yields after every level, and keeps no state elsewhere. The grid (float64, from high t to low, mostly from 1 to 0) is the
only thing that knows of time; the last step, to a level without noise, is of first order everywhere, since there the others divide by zero.

The probability-flow ODE in the logarithm lambda = log(alpha / sigma) has the exact solution

.. math:: x_t = \frac{\sigma_t}{\sigma_s} x_s + \sigma_t \int_{\lambda_s}^{\lambda_t} e^{\lambda} D(\lambda) \, d\lambda

of which DDIM takes D as constant, DPM-Solver++(2M) as linear, and UniPC as a polynomial that also passes through the new point.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pushforward.families.diffusion.denoisers import Denoiser
from pushforward.families.diffusion.schedules import Schedule, karras_grid, log_snr_grid, uniform_grid
from pushforward.randomness import Generator, draw_normal


class Step(NamedTuple):
    """Where a solver stands: at level t the noised x, and the data that the denoiser last expected behind it."""

    t: float
    x: Tensor
    denoised: Tensor


class Level(NamedTuple):
    """One level of a grid, in plain numbers."""

    t: Tensor
    alpha: float
    sigma: float

    @property
    def log_snr(self) -> float:
        """lambda = log(alpha / sigma); +inf for data, -inf for pure noise."""
        return math.inf if self.sigma == 0 else -math.inf if self.alpha == 0 else math.log(self.alpha / self.sigma)


def walk(schedule: Schedule, grid: Tensor, *, rising: bool = False) -> list[Level]:
    """The levels of a grid.

    Raises:
        ValueError: fewer than two levels, outside of [0, 1], or not in order.
    """
    times = grid.double().tolist()
    if len(times) < 2 or not all(0 <= t <= 1 for t in times):
        raise ValueError(f"a grid is two or more times in [0, 1]; got {times}")
    if not all((b > a) if rising else (b < a) for a, b in pairwise(times)):
        raise ValueError(f"this grid must {'rise' if rising else 'fall'} from level to level; got {times}")
    alpha, sigma = schedule.levels(grid.double())
    return [Level(*v) for v in zip(grid.double().unbind(), alpha.tolist(), sigma.tolist(), strict=True)]


def final(steps: Iterable[Step]) -> Tensor:
    """Where a solver ends."""
    return deque(steps, maxlen=1)[0].x


def start(
    schedule: Schedule, shape: tuple[int, ...], grid: Tensor, *, generator: Generator | None, device: Any = "cpu"
) -> Tensor:
    """Noise at the first level of a grid, N(0, sigma^2)."""
    return draw_normal(shape, generator=generator, device=device) * walk(schedule, grid)[0].sigma


def fresh_noise(x: Tensor, generator: Generator | None) -> Tensor:
    """Standard normals like x."""
    return draw_normal(x.shape, generator=generator, device=x.device).to(x.dtype)


def _towards(x: Tensor, denoised: Tensor, a: Level, b: Level, kept: float) -> Tensor:
    """From level a to b with D constant: alpha_b D + kept * eps."""
    return b.alpha * denoised + (kept / a.sigma) * (x - a.alpha * denoised)


# --- along the ODE and its ancestral relatives ------------------------------------------------------------------


@torch.no_grad()
def ddim(
    denoiser: Denoiser, x: Tensor, grid: Tensor, *, eta: float = 0.0, generator: Generator | None = None
) -> Iterator[Step]:
    r"""DDIM: the noise that was found is kept in part, the rest drawn anew.

    Args:
        denoiser: Any.
        x: At the grid's first level, (B, *shape).
        grid: Falling times.
        eta: 0 follows the ODE (and is DPM-Solver++ of first order, and Euler's method in sigma / alpha); 1 is DDPM with the smaller variance.
        generator: Of fresh noise.

    Reference: Song, Meng, Ermon 2021, equation 12, arXiv 2010.02502.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta = {eta}: must lie in [0, 1]")
    for a, b in pairwise(walk(denoiser.schedule, grid)):
        denoised = denoiser(x, a.t)
        fresh = eta * math.sqrt(forward_variance(b, a)) * b.sigma / a.sigma
        x = _towards(x, denoised, a, b, math.sqrt(max(b.sigma**2 - fresh**2, 0.0)))
        if fresh:
            x = x + fresh * fresh_noise(x, generator)
        yield Step(float(b.t), x, denoised)


def forward_variance(low: Level, high: Level) -> float:
    """Variance of x_high given x_low: sigma_high^2 - (alpha_high / alpha_low)^2 sigma_low^2."""
    return max(high.sigma**2 - (high.alpha * low.sigma / low.alpha) ** 2, 0.0)


@torch.no_grad()
def ancestral(
    denoiser: Denoiser,
    x: Tensor,
    grid: Tensor,
    *,
    variance: Literal["small", "large"] = "small",
    generator: Generator | None = None,
) -> Iterator[Step]:
    """DDPM's sampler: the posterior of the lower level given this one and the denoised data.

    Args:
        denoiser: Any.
        x: At the grid's first level, (B, *shape).
        grid: Falling times.
        variance: The posterior's own ("small"), or that of the forward step, an upper bound ("large").
        generator: Of fresh noise.

    Reference: Ho, Jain, Abbeel 2020, equations 6 and 7.
    """
    for a, b in pairwise(walk(denoiser.schedule, grid)):
        denoised = denoiser(x, a.t)
        forward = forward_variance(b, a)
        x = (a.alpha / b.alpha * b.sigma**2 / a.sigma**2) * x + (b.alpha * forward / a.sigma**2) * denoised
        spread = forward * (b.sigma**2 / a.sigma**2 if variance == "small" else 1.0)
        if spread and b.sigma:
            x = x + math.sqrt(spread) * fresh_noise(x, generator)
        yield Step(float(b.t), x, denoised)


@torch.no_grad()
def renoise(
    denoiser: Denoiser, x: Tensor, grid: Tensor, *, share: float = 1.0, generator: Generator | None = None
) -> Iterator[Step]:
    """Each step puts `share` of the next level's noise variance in anew: the sampler of DiffPIR, and at 1 that of consistency models.

    For denoisers that are all but certain. With others it sharpens: the noise is fresh each time however small the step, so that no number of
    steps makes it follow the model's law.

    Args:
        denoiser: Any.
        x: At the grid's first level, (B, *shape).
        grid: Falling times.
        share: 0 is DDIM.
        generator: Of fresh noise.

    Reference: Zhu et al. 2023, algorithm 1, arXiv 2305.08995.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share = {share}: must lie in [0, 1]")
    for a, b in pairwise(walk(denoiser.schedule, grid)):
        denoised = denoiser(x, a.t)
        x = _towards(x, denoised, a, b, b.sigma * math.sqrt(1 - share))
        if share and b.sigma:
            x = x + b.sigma * math.sqrt(share) * fresh_noise(x, generator)
        yield Step(float(b.t), x, denoised)


@torch.no_grad()
def invert(denoiser: Denoiser, x: Tensor, grid: Tensor) -> Iterator[Step]:
    """DDIM backwards, from data to the noise that DDIM would turn into them.

    Args:
        denoiser: Any.
        x: Data, (B, *shape); taken as the sample at the first level above 0.
        grid: Rising times: a sampling grid, flipped.

    Reference: Song, Meng, Ermon 2021, section 5.4; Dhariwal and Nichol 2021, appendix F.
    """
    levels = [v for v in walk(denoiser.schedule, grid, rising=True) if v.sigma > 0]
    if len(levels) < 2:
        raise ValueError("inversion needs two levels with noise; give a finer grid")
    for a, b in pairwise(levels):
        denoised = denoiser(x, a.t)
        x = _towards(x, denoised, a, b, b.sigma)
        yield Step(float(b.t), x, denoised)


@torch.no_grad()
def euler(
    denoiser: Denoiser,
    x: Tensor,
    grid: Tensor,
    *,
    churn: float = 0.0,
    churn_noise: float = 1.0,
    churn_from: float = 0.0,
    churn_to: float = math.inf,
    generator: Generator | None = None,
) -> Iterator[Step]:
    """Euler's method in sigma / alpha, EDM's Algorithm 2 without the correction; see `heun`. Without churn it is DDIM."""
    yield from _edm(denoiser, x, grid, churn, churn_noise, (churn_from, churn_to), generator, correct=False)


@torch.no_grad()
def heun(
    denoiser: Denoiser,
    x: Tensor,
    grid: Tensor,
    *,
    churn: float = 0.0,
    churn_noise: float = 1.0,
    churn_from: float = 0.0,
    churn_to: float = math.inf,
    generator: Generator | None = None,
) -> Iterator[Step]:
    """Heun's second-order method in sigma / alpha, with EDM's churn: noise added before each step and taken out by it.

    2 N - 1 evaluations for N steps. On straight lines (alpha = 0 at t = 1) time itself is the coordinate, which is finite there.

    Args:
        denoiser: Any.
        x: At the grid's first level, (B, *shape).
        grid: Falling times.
        churn: S_churn; 0 follows the ODE.
        churn_noise: S_noise, inflation of the noise that is added.
        churn_from, churn_to: Ratios between which noise is added.
        generator: Of that noise.

    Reference: Karras et al. 2022, algorithm 2, arXiv 2206.00364.
    """
    yield from _edm(denoiser, x, grid, churn, churn_noise, (churn_from, churn_to), generator, correct=True)


def _edm(
    denoiser: Denoiser,
    x: Tensor,
    grid: Tensor,
    churn: float,
    churn_noise: float,
    between: tuple[float, float],
    generator: Generator | None,
    *,
    correct: bool,
) -> Iterator[Step]:
    if not (0 <= churn < math.inf and 0 < churn_noise < math.inf and 0 <= between[0] <= between[1]):
        raise ValueError(
            f"churn = {churn}, churn_noise = {churn_noise}, from {between[0]} to {between[1]}: at least 0, above 0, and in order"
        )
    schedule = denoiser.schedule
    line = walk(schedule, grid)
    limit = min(churn / (len(line) - 1), math.sqrt(2) - 1)
    straight = line[0].alpha == 0
    # The ODE as dz/du = (z - D) / u: z = x / alpha over u = sigma / alpha, or z = x / (alpha + sigma) over u = sigma / (alpha + sigma)
    whole: Callable[[Level], float] = (lambda v: v.alpha + v.sigma) if straight else (lambda v: v.alpha)
    for a, b in pairwise(line):
        if limit and a.alpha and between[0] <= a.sigma / a.alpha <= between[1]:
            ratio = a.sigma / a.alpha
            raised = schedule.time(torch.tensor(ratio * (1 + limit), dtype=torch.float64)).clamp(max=float(line[0].t))
            up = Level(raised, *(float(v) for v in schedule.levels(raised)))
            added = math.sqrt(max((up.sigma / up.alpha) ** 2 - ratio**2, 0.0)) if up.alpha else 0.0
            if added:
                x = up.alpha * (x / a.alpha + added * churn_noise * fresh_noise(x, generator))
                a = up
        denoised = denoiser(x, a.t)
        u, z = a.sigma / whole(a), x / whole(a)
        u_next = b.sigma / whole(b)
        slope = (z - denoised) / u
        z_next = z + (u_next - u) * slope
        if correct and b.sigma:
            ahead = denoiser(whole(b) * z_next, b.t)
            z_next = z + (u_next - u) * 0.5 * (slope + (z_next - ahead) / u_next)
            denoised = ahead
        x = whole(b) * z_next
        yield Step(float(b.t), x, denoised)


# --- exponential multistep --------------------------------------------------------------------------------------


@torch.no_grad()
def dpmpp_2m(denoiser: Denoiser, x: Tensor, grid: Tensor, *, generator: Generator | None = None) -> Iterator[Step]:
    """DPM-Solver++(2M): D is extrapolated through the last two levels. One evaluation a step.

    Args:
        denoiser: Any.
        x: At the grid's first level, (B, *shape).
        grid: Falling times; equal steps of log-SNR suit it, equal steps of t do not.
        generator: Not used: the solver is deterministic.

    Reference: Lu et al. 2022, algorithm 2, arXiv 2211.01095.
    """
    yield from _dpmpp(denoiser, x, grid, generator, noisy=False)


@torch.no_grad()
def dpmpp_sde(denoiser: Denoiser, x: Tensor, grid: Tensor, *, generator: Generator | None = None) -> Iterator[Step]:
    """SDE-DPM-Solver++(2M): the same on the reverse SDE, with fresh noise at each level.

    Args:
        denoiser: Any.
        x: At the grid's first level, (B, *shape).
        grid: Falling times.
        generator: Of fresh noise.

    Reference: Lu et al. 2022, appendix on SDE solvers, arXiv 2211.01095.
    """
    yield from _dpmpp(denoiser, x, grid, generator, noisy=True)


def _dpmpp(denoiser: Denoiser, x: Tensor, grid: Tensor, generator: Generator | None, *, noisy: bool) -> Iterator[Step]:
    last: Tensor | None = None
    last_h = math.inf
    for a, b in pairwise(walk(denoiser.schedule, grid)):
        denoised = denoiser(x, a.t)
        h = b.log_snr - a.log_snr
        use = denoised
        if last is not None and math.isfinite(h) and math.isfinite(last_h):
            use = denoised + (denoised - last) * (h / (2 * last_h))
        fade = math.exp(-h)  # 0 to or from an end of the line
        if noisy:
            x = (b.sigma / a.sigma * fade) * x + b.alpha * (1 - fade**2) * use
            if b.sigma:
                x = x + b.sigma * math.sqrt(1 - fade**2) * fresh_noise(x, generator)
        else:
            x = (b.sigma / a.sigma) * x + b.alpha * (1 - fade) * use
        last, last_h = denoised, h
        yield Step(float(b.t), x, denoised)


@torch.no_grad()
def unipc(
    denoiser: Denoiser, x: Tensor, grid: Tensor, *, order: int = 3, generator: Generator | None = None
) -> Iterator[Step]:
    r"""UniPC: a multistep predictor, and a corrector that re-uses the evaluation which the next step needs anyway.

    D is a polynomial in lambda through the known levels (the predictor) and the new one too (the corrector), and the integral of
    e^lambda times it is exact, which is UniPC with all of its order conditions solved. One evaluation a step.
    Its error falls with the step to the power order + 1, at most 3: the first steps have no past, so that higher orders only lower the constant.

    Args:
        denoiser: Any.
        x: At the grid's first level, (B, *shape).
        grid: Falling times; equal steps of log-SNR suit it.
        order: Levels that the predictor looks at, 1 to 4; the corrector gains one order more.
        generator: Not used: the solver is deterministic.

    Reference: Zhao et al. 2023, arXiv 2302.04867.
    """
    if not 1 <= order <= 4:
        raise ValueError(f"order = {order}: 1 to 4")
    known: deque[tuple[float, Tensor]] = deque(maxlen=order)  # lambda and D, newest last
    pending: tuple[Level, Tensor] | None = None  # the level that x was predicted from, and x there
    line = walk(denoiser.schedule, grid)
    for i, (a, b) in enumerate(pairwise(line)):
        denoised = denoiser(x, a.t)
        if pending is not None and math.isfinite(a.log_snr):
            x = _exponential(*pending, a, [*known, (a.log_snr, denoised)])
        if not math.isfinite(a.log_snr):
            x_next = _towards(x, denoised, a, b, b.sigma)
            pending = None
        else:
            known.append((a.log_snr, denoised))
            left = len(line) - 1 - i if line[-1].sigma == 0 else order  # towards a step of first order, lower orders do
            usable = list(known)[-min(order, left) :] if math.isfinite(b.log_snr) else []
            x_next = _exponential(a, x, b, usable) if usable else b.alpha * denoised
            pending = (a, x)
        x = x_next
        yield Step(float(b.t), x, denoised)


def _exponential(a: Level, x: Tensor, b: Level, nodes: list[tuple[float, Tensor]]) -> Tensor:
    """x from level a to b with D the polynomial through the nodes (lambda, D), integrated exactly."""
    weights = lagrange_exponential([n[0] for n in nodes], a.log_snr, b.log_snr)
    out = (b.sigma / a.sigma) * x
    for w, (_, d) in zip(weights, nodes, strict=True):
        out = out + (b.alpha * w) * d
    return out


def lagrange_exponential(nodes: list[float], low: float, high: float) -> list[float]:
    r"""Weights w_j with \int_{low}^{high} e^{l - high} p(l) dl = sum_j w_j p(node_j) for polynomials of degree below len(nodes).

    They solve the moment equations in the variable r = (l - high) / h, h = high - low, with
    m_k = h \int_{-1}^0 e^{h r} r^k dr, m_0 = 1 - e^{-h}, m_k = -(-1)^k e^{-h} - (k / h) m_{k-1}  (by parts);
    for small h the recursion loses digits and the series of e^{h r} is summed.
    """
    h = high - low
    n = len(nodes)
    moments = []
    for k in range(n):
        if h < 2.0:
            terms = (h**j / math.factorial(j) * (-1) ** (j + k) / (j + k + 1) for j in range(40))
            moments.append(h * math.fsum(terms))
        elif k == 0:
            moments.append(-math.expm1(-h))
        else:
            moments.append(-((-1) ** k) * math.exp(-h) - k / h * moments[-1])
    r = (torch.tensor(nodes, dtype=torch.float64) - high) / h
    powers = torch.stack([r**k for k in range(n)])
    found: list[float] = torch.linalg.solve(powers, torch.tensor(moments, dtype=torch.float64)).tolist()
    return found


# --- by name ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SolverEntry:
    """A solver, the grid that suits it, and how many steps that grid has by default."""

    solve: Callable[..., Iterator[Step]]
    grid: Callable[..., Tensor]
    steps: int
    evaluations: Callable[[int], int] = lambda steps: steps


SOLVERS: Mapping[str, SolverEntry] = {
    "ddpm": SolverEntry(ancestral, uniform_grid, 1000),
    "ddim": SolverEntry(ddim, uniform_grid, 50),
    "euler": SolverEntry(euler, karras_grid, 40),
    "heun": SolverEntry(heun, karras_grid, 18, lambda steps: 2 * steps - 1),
    "dpmpp-2m": SolverEntry(dpmpp_2m, log_snr_grid, 15),
    "dpmpp-sde": SolverEntry(dpmpp_sde, log_snr_grid, 25),
    "unipc": SolverEntry(unipc, log_snr_grid, 10),
    "renoise": SolverEntry(renoise, log_snr_grid, 20),
}
