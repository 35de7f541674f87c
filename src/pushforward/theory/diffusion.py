"""The probability-flow ODE where it can be solved by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from pushforward.families.diffusion.schedules import Schedule


def gaussian_flow(mean: Tensor, variance: Tensor, schedule: Schedule, x: Tensor, high: float, low: float) -> Tensor:
    r"""Points carried from level `high` to `low` by the ODE of independent Gaussian coordinates: each keeps its standard score.

    .. math:: \frac{x_s - \alpha_s \mu}{\sqrt{\alpha_s^2 v + \sigma_s^2}} = \frac{x_t - \alpha_t \mu}{\sqrt{\alpha_t^2 v + \sigma_t^2}}

    Args:
        mean: Of the data, (d,).
        variance: Of each coordinate, (d,).
        schedule: Of the noise.
        x: At level `high`, (n, d).
        high: Where the points are.
        low: Where they go.
    """

    def law(t: float) -> tuple[Tensor, Tensor]:
        alpha, sigma = schedule(torch.tensor(t, dtype=torch.float64))
        return alpha * mean, (alpha**2 * variance + sigma**2).sqrt()

    (m, s), (to_m, to_s) = law(high), law(low)
    return to_m + to_s * (x - m) / s
