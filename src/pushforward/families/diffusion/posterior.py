r"""Posterior sampling: data behind a measurement y = A(x) + noise, by an unconditional diffusion model.

All that is needed is the gradient of log p(y | x_t); the methods differ in how they guess it. A changed denoiser goes with any solver:

.. math:: D_y(x_t) = D(x_t) + \frac{\sigma_t^2}{\alpha_t} \nabla_{x_t} \log p(y | x_t)

Every norm, step and solve is taken for each sample by itself, so that a sample does not depend on the batch that it is drawn in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from pushforward.errors import NotSupported
from pushforward.families.diffusion.denoisers import Denoiser
from pushforward.families.diffusion.operators import LinearOperator, Mask, Operator
from pushforward.families.diffusion.schedules import log_snr_grid, uniform_grid
from pushforward.families.diffusion.solvers import (
    Level,
    Step,
    ancestral,
    ddim,
    forward_variance,
    fresh_noise,
    renoise,
    walk,
)
from pushforward.randomness import Generator

_TINY = 1e-12
Noise = float | Tensor
"""Standard deviation of a measurement's noise: one number, or (B, 1, 1, 1) in float64, that of each sample."""


def _per_sample(values: Tensor, x: Tensor) -> Tensor:
    """(B,) shaped to multiply x."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return _per_sample((a * b).flatten(1).sum(dim=1), a)


def _seen(s: Tensor, values: Tensor) -> Tensor:
    """Values where something is seen, 0 in null directions: what these act on, A^T y, has nothing there, and float32 must not lose the rest."""
    return torch.where(s > _TINY, values, torch.zeros_like(values))


class DPS(Denoiser):
    r"""Diffusion posterior sampling: a step of `zeta` down the slope of the residual's norm at each level.

    In the paper x_{t'} moves by -zeta grad ||y - A(D(x_t))|| behind each ancestral step. D is moved here by as much as makes that step land there, so with
    `ancestral` on the same grid the two agree exactly, and other solvers can use it too.

    Args:
        denoiser: Any; it must be differentiable in x.
        operator: Any differentiable measurement.
        y: What was measured.
        grid: That the solver walks: the method's step depends on it.
        zeta: Length of a step.

    Reference: Chung et al. 2023, algorithm 1, arXiv 2209.14687 (and its code, whose norm is not squared).
    """

    def __init__(self, denoiser: Denoiser, operator: Operator, y: Tensor, *, grid: Tensor, zeta: float = 1.0) -> None:
        if not 0 < zeta < math.inf:
            raise ValueError(f"zeta = {zeta}: above 0 and finite")
        self.denoiser, self.operator, self.y, self.zeta, self.schedule = denoiser, operator, y, zeta, denoiser.schedule
        self.line = walk(denoiser.schedule, grid)

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            denoised = self.denoiser(x, t, labels)
            residual = (self.y - self.operator(denoised)).flatten(1)
            norm = (residual.square().sum(dim=1) + _TINY).sqrt()
            (slope,) = torch.autograd.grad(norm.sum(), x)
        below = next((v for v in self.line if float(v.t) < float(t) - 1e-12), self.line[-1])
        here = Level(t, *(float(v) for v in self.schedule.levels(t.double())))
        share = below.alpha * forward_variance(below, here) / here.sigma**2  # of D in the ancestral step
        return denoised.detach() - (self.zeta / share) * slope


class PiGDM(Denoiser):
    r"""Pseudo-inverse guidance: x_0 given x_t taken as N(D, r^2), r^2 = sigma^2 v / (alpha^2 v + sigma^2) for data of variance v.

    Args:
        denoiser: Any; it must be differentiable in x.
        operator: A linear one.
        y: What was measured.
        noise: Standard deviation of the measurement's noise.
        data_sd: sqrt(v); exact for data N(mu, v).

    Reference: Song, Vahdat, Mardani, Kautz 2023, equation 7.
    """

    def __init__(
        self, denoiser: Denoiser, operator: LinearOperator, y: Tensor, *, noise: Noise, data_sd: float = 0.5
    ) -> None:
        if not 0 < data_sd < math.inf:
            raise ValueError(f"data_sd = {data_sd}: above 0 and finite")
        self.denoiser, self.operator, self.y, self.schedule = denoiser, operator, y, denoiser.schedule
        self.noise, self.data_sd = noise, data_sd

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        alpha, sigma = (float(v) for v in self.schedule.levels(t.double()))
        if alpha == 0:
            return self.denoiser(x, t, labels)
        v = self.data_sd**2
        spread = sigma**2 * v / (alpha**2 * v + sigma**2)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            denoised = self.denoiser(x, t, labels)
            back = self.operator.adjoint(self.y - self.operator(denoised.detach()))
            pull = self.operator.spectral(back, lambda s: _seen(s, 1 / (spread * s + self.noise**2).clamp(min=_TINY)))
            (slope,) = torch.autograd.grad((pull * denoised).sum(), x)
        return denoised.detach() + sigma**2 / alpha * slope


class MMPS(Denoiser):
    r"""Moment matching: x_0 given x_t taken as N(D, C), C = sigma^2 / alpha * dD/dx, the covariance that Tweedie's formula gives.

    (noise^2 + A C A^T) v = y - A D is solved by conjugate gradients, one vector-Jacobian product an iteration. Exact for Gaussian data.

    Args:
        denoiser: Any; it must be differentiable in x.
        operator: A linear one.
        y: What was measured.
        noise: Standard deviation of the measurement's noise.
        iterations: Of conjugate gradients.

    Reference: Rozet, Andry, Lanusse, Louppe 2024, algorithm 3, arXiv 2405.13712.
    """

    def __init__(
        self, denoiser: Denoiser, operator: LinearOperator, y: Tensor, *, noise: Noise, iterations: int = 3
    ) -> None:
        if iterations < 1:
            raise ValueError(f"iterations = {iterations}: at least 1")
        self.denoiser, self.operator, self.y, self.schedule = denoiser, operator, y, denoiser.schedule
        self.noise, self.iterations = noise, iterations

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        alpha, sigma = (float(v) for v in self.schedule.levels(t.double()))
        if alpha == 0:
            return self.denoiser(x, t, labels)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            denoised = self.denoiser(x, t, labels)

            def covariance(u: Tensor) -> Tensor:  # C is symmetric
                (product,) = torch.autograd.grad(denoised, x, u, retain_graph=True)
                return product * (sigma**2 / alpha)

            v = self._solve(covariance, (self.y - self.operator(denoised)).detach())
            return (denoised + covariance(self.operator.adjoint(v))).detach()

    def _solve(self, covariance: Callable[[Tensor], Tensor], b: Tensor) -> Tensor:
        """Conjugate gradients, each sample by itself."""
        v, r = torch.zeros_like(b), b.clone()
        p, rr = r.clone(), _dot(b, b)
        floor = rr * 1e-14 + 1e-30
        sound = torch.ones_like(rr, dtype=torch.bool)
        variance = torch.as_tensor(self.noise, dtype=torch.float64).square().to(b)
        for _ in range(self.iterations):
            ap = variance * p + self.operator(covariance(self.operator.adjoint(p)))
            curve = _dot(p, ap)
            # A sample that is done stays as it is; so does one whose network has a Jacobian that is no covariance along p.
            sound = sound & (curve > 0)
            live = ((rr > floor) & sound).to(b.dtype)
            step = live * rr / curve.clamp(min=1e-30)
            v, r = v + step * p, r - step * ap
            new = _dot(r, r)
            p, rr = r + live * (new / rr.clamp(min=1e-30)) * p, new
        return v


class Proximal(Denoiser):
    r"""DiffPIR's data step: the x nearest to D that also explains y, min ||y - A x||^2 / noise^2 + lambda alpha^2 / sigma^2 ||x - D||^2.

    No gradient of the network is needed. Goes with the solver `renoise`.

    Args:
        denoiser: Any.
        operator: A linear one.
        y: What was measured.
        noise: Standard deviation of the measurement's noise; 0 projects onto what was measured.
        strength: lambda.

    Reference: Zhu et al. 2023, equations 9 and 13, arXiv 2305.08995.
    """

    def __init__(
        self, denoiser: Denoiser, operator: LinearOperator, y: Tensor, *, noise: Noise, strength: float = 7.0
    ) -> None:
        if not 0 < strength < math.inf:
            raise ValueError(f"strength = {strength}: above 0 and finite")
        self.denoiser, self.operator, self.y, self.schedule = denoiser, operator, y, denoiser.schedule
        self.noise, self.strength = noise, strength

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        alpha, sigma = (float(v) for v in self.schedule.levels(t.double()))
        denoised = self.denoiser(x, t, labels)
        rho = self.strength * (self.noise * alpha / sigma) ** 2
        back = self.operator.adjoint(self.y - self.operator(denoised))
        return denoised + self.operator.spectral(back, lambda s: _seen(s, 1 / (s + rho).clamp(min=_TINY)))


@torch.no_grad()
def ddrm(
    denoiser: Denoiser,
    x: Tensor,
    grid: Tensor,
    *,
    operator: LinearOperator,
    y: Tensor,
    noise: Noise = 0.0,
    eta: float = 0.85,
    eta_data: float = 1.0,
    generator: Generator | None = None,
) -> Iterator[Step]:
    """DDRM: in the operator's singular basis each coordinate is either unseen, seen through more noise than there is now, or through less.

    Args:
        denoiser: Any.
        x: Noise at the grid's first level, (B, *shape).
        grid: Falling times.
        operator: A linear one.
        y: What was measured.
        noise: Standard deviation of the measurement's noise.
        eta: Share of fresh noise in what is unseen or seen worse.
        eta_data: Weight of the measurement in what is seen better.
        generator: Of fresh noise.

    Reference: Kawar, Elad, Ermon, Song 2022, equations 6 to 8, arXiv 2201.11793.
    """
    if not (0 <= eta <= 1 and 0 <= eta_data <= 1):
        raise ValueError(f"eta = {eta}, eta_data = {eta_data}: each must lie in [0, 1]")
    line = walk(denoiser.schedule, grid)
    seen = operator.pseudoinverse(y)
    kept = math.sqrt(1 - eta**2)

    def ratio(v: Level) -> float:
        return v.sigma / v.alpha if v.alpha else math.inf

    if line[0].alpha:  # begin at what was measured, where it was
        s0 = ratio(line[0])
        # where what was measured is noisier than the first level itself, it says nothing yet
        clear = lambda s: (s > _TINY) & (_blur(s, noise) <= s0)  # noqa: E731
        z = operator.spectral(seen, lambda s: clear(s).double())
        z = z + operator.spectral(
            x / line[0].sigma,
            lambda s: torch.where(
                clear(s), (s0**2 - _blur(s, noise) ** 2).clamp(min=0).sqrt(), s0 * torch.ones_like(s)
            ),
        )
        x = z * line[0].alpha
    for a, b in pairwise(line):
        denoised = denoiser(x, a.t)
        high, low = ratio(a), ratio(b)

        def parts(s: Tensor, high: float = high, low: float = low) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            """Weights of (denoised, x, measured, noise) at squared singular values s."""
            q = _blur(s, noise)
            unseen, worse = s <= _TINY, (s > _TINY) & (q > low)
            zero, one = torch.zeros_like(s), torch.ones_like(s)
            from_x = torch.where(unseen, one * (kept * low / high), zero)
            from_y = torch.where(unseen, zero, torch.where(worse, kept * low / q.clamp(min=_TINY), one * eta_data))
            fresh = (low**2 - (q * eta_data) ** 2).clamp(min=0).sqrt()
            return 1 - from_x - from_y, from_x, from_y, torch.where(unseen | worse, one * (eta * low), fresh)

        z = operator.spectral(denoised, lambda s: parts(s)[0])
        if a.alpha:
            z = z + operator.spectral(x / a.alpha, lambda s: parts(s)[1])
        else:  # pure noise: x / ratio / alpha is x
            z = z + kept * low * operator.spectral(x, lambda s: (s <= _TINY).double())
        z = z + operator.spectral(seen, lambda s: parts(s)[2])
        if low:
            z = z + operator.spectral(fresh_noise(x, generator), lambda s: parts(s)[3])
        x = b.alpha * z
        yield Step(float(b.t), x, denoised)


def _blur(s: Tensor, noise: Noise) -> Tensor:
    """Noise of a coordinate once it is divided by its singular value; 0 where there is none."""
    return torch.where(s > _TINY, noise / s.clamp(min=_TINY).sqrt(), torch.zeros_like(s))


@torch.no_grad()
def repaint(
    denoiser: Denoiser,
    x: Tensor,
    grid: Tensor,
    *,
    operator: Mask,
    y: Tensor,
    repeats: int = 5,
    generator: Generator | None = None,
) -> Iterator[Step]:
    """RePaint: what was seen is noised to each level and put in; each step is gone back and taken again, so that both parts agree.

    Args:
        denoiser: Any.
        x: Noise at the grid's first level, (B, *shape).
        grid: Falling times.
        operator: A mask.
        y: What was seen, without noise.
        repeats: How often each step is taken.
        generator: Of fresh noise.

    Reference: Lugmayr et al. 2022, algorithm 1, arXiv 2201.09865 (jumps of length 1).
    """
    if repeats < 1:
        raise ValueError(f"repeats = {repeats}: at least 1")
    mask = operator.mask.to(x)
    for a, b in pairwise(walk(denoiser.schedule, grid)):
        forward = forward_variance(b, a)
        for k in range(repeats):
            denoised = denoiser(x, a.t)
            low = (a.alpha / b.alpha * b.sigma**2 / a.sigma**2) * x + (b.alpha * forward / a.sigma**2) * denoised
            known = b.alpha * y
            if b.sigma:
                low = low + math.sqrt(forward) * b.sigma / a.sigma * fresh_noise(x, generator)
                known = known + b.sigma * fresh_noise(x, generator)
            low = mask * known + (1 - mask) * low
            if k == repeats - 1 or not b.sigma:
                break
            x = a.alpha / b.alpha * low + math.sqrt(forward) * fresh_noise(x, generator)
        x = low
        yield Step(float(b.t), x, denoised)


# --- by name ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MethodEntry:
    """A method: a denoiser and a solver that it goes with, or a solver of its own."""

    wrap: Callable[..., Denoiser] | None
    solve: Callable[..., Iterator[Step]]
    grid: Callable[..., Tensor]
    steps: int
    linear: bool = True
    needs_noise: bool = True
    solver_options: tuple[str, ...] = ()


METHODS: Mapping[str, MethodEntry] = {
    "dps": MethodEntry(DPS, ancestral, uniform_grid, 1000, linear=False, needs_noise=False),
    "pigdm": MethodEntry(PiGDM, ddim, uniform_grid, 100, solver_options=("eta",)),
    "mmps": MethodEntry(MMPS, ddim, uniform_grid, 100, solver_options=("eta",)),
    "diffpir": MethodEntry(Proximal, renoise, log_snr_grid, 20, solver_options=("share",)),
    "ddrm": MethodEntry(None, ddrm, uniform_grid, 20),
    "repaint": MethodEntry(None, repaint, uniform_grid, 250, needs_noise=False),
}


def sample_posterior(
    method: str,
    denoiser: Denoiser,
    operator: Operator,
    y: Tensor,
    x: Tensor,
    grid: Tensor,
    *,
    noise: Noise = 0.0,
    generator: Generator | None = None,
    **options: object,
) -> Iterator[Step]:
    """Draw from p(x_0 | y) by a method's own solver.

    Args:
        method: In `METHODS`.
        denoiser: Of the prior.
        operator: A; linear for all methods but DPS, a mask for RePaint.
        y: What was measured.
        x: Noise at the grid's first level.
        grid: Falling times.
        noise: Standard deviation of the measurement's noise; of each sample's, (B, 1, 1, 1) in float64, where they differ.
        generator: Of fresh noise.
        options: Of the method and of its solver.

    Raises:
        NotSupported: an operator that the method cannot use.
        TypeError: an unknown option.
    """
    entry = METHODS[method]
    if entry.linear and not isinstance(operator, LinearOperator):
        raise NotSupported(f"{method} needs a linear operator; dps takes any.")
    if method == "repaint" and not isinstance(operator, Mask):
        raise NotSupported("repaint is for inpainting; ddrm, diffpir, pigdm, mmps and dps take any linear operator.")
    known = {"noise": noise} if entry.needs_noise else {}
    if entry.wrap is None:
        return entry.solve(denoiser, x, grid, operator=operator, y=y, generator=generator, **known, **options)
    of_solver = {k: v for k, v in options.items() if k in entry.solver_options}
    of_method = {k: v for k, v in options.items() if k not in entry.solver_options}
    if method == "dps":
        known["grid"] = grid  # type: ignore[assignment]
    return entry.solve(
        entry.wrap(denoiser, operator, y, **known, **of_method), x, grid, generator=generator, **of_solver
    )
