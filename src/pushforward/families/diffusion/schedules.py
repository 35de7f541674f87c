r"""Noise schedules: how much of the data and how much noise there is at time t, and the grids of times that solvers walk.

.. math:: x_t = \alpha_t x_0 + \sigma_t \epsilon, \qquad t \in [0, 1], \quad t = 0 \text{ data}, \; t = 1 \text{ noise}

What a solver sees of a schedule is the ratio sigma / alpha (its logarithm is minus half the log of the signal-to-noise ratio): any two
schedules are one another's change of time and scale. All of it is computed in float64, whatever dtype comes in and goes out.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

WIDEST, NARROWEST = 80.0, 0.002
"""Ratios between which grids lie by default (Karras et al. 2022, table 1), where a schedule goes that far."""


class Schedule(ABC):
    """A schedule; `levels` and `time` are all that differs."""

    @abstractmethod
    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma, float64 to float64."""

    @abstractmethod
    def time(self, ratio: Tensor) -> Tensor:
        """The t at which sigma / alpha is `ratio`, float64."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t, each of t's shape and dtype."""
        alpha, sigma = self.levels(t.double())
        return alpha.to(t.dtype), sigma.to(t.dtype)

    def ratio(self, t: Tensor) -> Tensor:
        """sigma / alpha, float64; infinite where no data is left."""
        alpha, sigma = self.levels(t.double())
        return sigma / alpha


def _of_ratio(ratio: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma with alpha^2 + sigma^2 = 1."""
    alpha = (1 + ratio.square()).rsqrt()
    return alpha, ratio * alpha


class Discrete(Schedule):
    """A table of levels. Level k of K lies at t = k / K; between levels log(sigma / alpha) is linear, below the first the ratio is.

    Args:
        kept: alpha^2 of each level, falling, with alpha^2 + sigma^2 = 1; float64 (K,).

    Reference: Lu et al. 2022, appendix D, arXiv 2206.00927.
    """

    def __init__(self, kept: Tensor) -> None:
        kept = kept.double()
        if kept.ndim != 1 or len(kept) < 2 or not bool(((kept > 0) & (kept < 1)).all() and (kept.diff() < 0).all()):
            raise ValueError("a table of levels has at least two of them, falling strictly between 1 and 0")
        self.steps = len(kept)
        self.kept = kept
        self.table = 0.5 * (torch.log1p(-kept) - kept.log())  # log ratio

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        table = self.table.to(t.device)
        place = (t * self.steps - 1).clamp(0, self.steps - 1)
        low = place.floor().long().clamp(max=self.steps - 2)
        log_ratio = torch.lerp(table[low], table[low + 1], place - low)
        return _of_ratio(log_ratio.exp() * (t * self.steps).clamp(max=1))

    def time(self, ratio: Tensor) -> Tensor:
        table = self.table.to(ratio.device)
        log_ratio = ratio.log()
        low = (torch.searchsorted(table, log_ratio.contiguous(), right=True) - 1).clamp(0, self.steps - 2)
        place = low + (log_ratio - table[low]) / (table[low + 1] - table[low])
        below = ratio / table[0].exp()  # of the first level
        return torch.where(below < 1, below, (place + 1).clamp(max=self.steps)) / self.steps


class DiscreteDDPM(Discrete):
    """DDPM's table of linear betas, alpha_k^2 the product of 1 - beta_1 ... 1 - beta_k.

    Args:
        steps: K.
        first, last: beta_1 and beta_K.

    Reference: Ho, Jain, Abbeel 2020, section 4, arXiv 2006.11239.
    """

    def __init__(self, *, steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> None:
        if steps < 2 or not 0 < first <= last < 1:
            raise ValueError(f"steps = {steps}, first = {first}, last = {last}: at least 2, and 0 < first <= last < 1")
        self.first, self.last = first, last
        super().__init__(torch.log1p(-torch.linspace(first, last, steps, dtype=torch.float64)).cumsum(0).exp())


class VP(Schedule):
    r"""Variance preserving, continuous: log alpha = -(b1 - b0) t^2 / 4 - b0 t / 2.

    Args:
        low, high: b0 and b1, the rates at t = 0 and t = 1.

    Reference: Song et al. 2021, equation 33, arXiv 2011.13456.
    """

    def __init__(self, *, low: float = 0.1, high: float = 20.0) -> None:
        if not 0 < low <= high < math.inf:
            raise ValueError(f"low = {low}, high = {high}: 0 < low <= high")
        self.low, self.high = low, high

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_alpha = -((self.high - self.low) / 4 * t + self.low / 2) * t
        return log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt()

    def time(self, ratio: Tensor) -> Tensor:
        a, b, c = (self.high - self.low) / 4, self.low / 2, 0.5 * torch.log1p(ratio.square())
        return torch.where(torch.isinf(c), torch.full_like(c, math.inf), 2 * c / (b + (b * b + 4 * a * c).sqrt()))


class Cosine(Schedule):
    """alpha is a quarter of a cosine, from 1 to exactly 0.

    Args:
        offset: How far from the cosine's top t = 0 lies, so that the first steps are not too small.

    Reference: Nichol and Dhariwal 2021, equation 17, arXiv 2102.09672 (without the clipping that discrete betas need).
    """

    def __init__(self, *, offset: float = 0.008) -> None:
        if not 0 <= offset < 1:
            raise ValueError(f"offset = {offset}: at least 0 and below 1")
        self.offset = offset
        self.start = math.cos(offset / (1 + offset) * math.pi / 2)

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        angle = (t + self.offset) / (1 + self.offset) * (math.pi / 2)
        alpha = torch.where(t >= 1, torch.zeros_like(t), angle.cos() / self.start)
        # sigma^2 = 1 - cos^2(b) / cos^2(a) = sin(b - a) sin(b + a) / cos^2(a): no digits are lost near 0
        begin = self.offset / (1 + self.offset) * (math.pi / 2)
        return alpha, ((angle - begin).sin() * (angle + begin).sin()).clamp(min=0).sqrt() / self.start

    def time(self, ratio: Tensor) -> Tensor:
        begin = self.offset / (1 + self.offset) * (math.pi / 2)
        # sin(angle) of cos(angle) = start / sqrt(1 + ratio^2), again without cancellation
        sine = ((ratio.square() + math.sin(begin) ** 2) / (1 + ratio.square())).sqrt()
        angle = torch.where(torch.isinf(ratio), torch.full_like(ratio, math.pi / 2), sine.clamp(max=1).asin())
        return angle / (math.pi / 2) * (1 + self.offset) - self.offset


class VE(Schedule):
    """Variance exploding: alpha = 1, sigma = sigma_max t^7, in whose time EDM's grid is almost uniform.

    Args:
        sigma_max: sigma at t = 1, in units of the data ([-1, 1]).
        power: The exponent.

    Reference: Karras et al. 2022, table 1 and equation 5, arXiv 2206.00364.
    """

    def __init__(self, *, sigma_max: float = 80.0, power: float = 7.0) -> None:
        if not 0 < sigma_max < math.inf or not 0 < power < math.inf:
            raise ValueError(f"sigma_max = {sigma_max}, power = {power}: both above 0")
        self.sigma_max, self.power = sigma_max, power

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.sigma_max * t**self.power

    def time(self, ratio: Tensor) -> Tensor:
        return (ratio / self.sigma_max) ** (1 / self.power)


class Rectified(Schedule):
    """Straight lines from data to noise: alpha = 1 - t, sigma = t.

    Reference: Liu, Gong, Liu 2022, arXiv 2209.03003; Lipman et al. 2022, arXiv 2210.02747.
    """

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t

    def time(self, ratio: Tensor) -> Tensor:
        return torch.where(torch.isinf(ratio), torch.ones_like(ratio), ratio / (1 + ratio))


# --- grids ------------------------------------------------------------------------------------------------------


def uniform_grid(schedule: Schedule, steps: int) -> Tensor:
    """t = 1, ..., 0 in equal steps, float64 (steps + 1,). On DDPM's table these are its levels, the last one included.

    Example:
        >>> uniform_grid(Rectified(), 4).tolist()
        [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    _positive(steps)
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def karras_grid(
    schedule: Schedule, steps: int, *, rho: float = 7.0, low: float = NARROWEST, high: float = WIDEST
) -> Tensor:
    """Ratios whose rho-th roots are equidistant, then 0; float64 (steps + 1,) of times.

    Args:
        schedule: Whose times.
        steps: At least 2.
        rho: The larger, the finer near the data.
        low, high: Smallest and largest ratio, where the schedule reaches them; the first level is t = 1 in any case.

    Reference: Karras et al. 2022, equation 5.
    """
    if not 0.1 <= rho <= 100:
        raise ValueError(f"rho = {rho}: must lie in [0.1, 100]")
    first, last = _ends(schedule, low, high)
    _positive(steps, least=2)
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    ratios = (first ** (1 / rho) + ramp * (last ** (1 / rho) - first ** (1 / rho))) ** rho
    return _times(schedule, ratios)


def log_snr_grid(schedule: Schedule, steps: int, *, low: float = 0.01, high: float = WIDEST) -> Tensor:
    """Equal steps of log(sigma / alpha), then 0; float64 (steps + 1,) of times. What multistep solvers want.

    Args:
        schedule: Whose times.
        steps: At least 2.
        low, high: Smallest and largest ratio, where the schedule reaches them; the first level is t = 1 in any case.

    Reference: Lu et al. 2022, section 3.3, arXiv 2206.00927.
    """
    first, last = _ends(schedule, low, high)
    _positive(steps, least=2)
    return _times(schedule, torch.linspace(math.log(first), math.log(last), steps, dtype=torch.float64).exp())


def _positive(steps: int, least: int = 1) -> None:
    if steps < least:
        raise ValueError(f"steps = {steps}: this grid takes at least {least}")


def _ends(schedule: Schedule, low: float, high: float) -> tuple[float, float]:
    end = float(schedule.ratio(torch.ones((), dtype=torch.float64)))
    if not 0 < low < min(high, end) or not high < math.inf:
        raise ValueError(
            f"low = {low}, high = {high}: 0 < low < high, both finite, and low below the schedule's largest ratio {end:.4g}"
        )
    return min(high, end), low


def _times(schedule: Schedule, ratios: Tensor) -> Tensor:
    times = torch.cat([schedule.time(ratios), ratios.new_zeros(1)])
    times[0] = 1.0
    return times
