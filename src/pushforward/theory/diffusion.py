"""The probability-flow ODE where it can be solved by hand."""

from __future__ import annotations

from torch import Tensor


def gaussian_flow(
    mean: Tensor, variance: Tensor, x: Tensor, *, high: tuple[float, float], low: tuple[float, float]
) -> Tensor:
    r"""Points carried from one level of noise to a lower one by the ODE of independent Gaussian coordinates: each keeps its standard score.

    .. math:: \frac{x_s - \alpha_s \mu}{\sqrt{\alpha_s^2 v + \sigma_s^2}} = \frac{x_t - \alpha_t \mu}{\sqrt{\alpha_t^2 v + \sigma_t^2}}

    Args:
        mean: Of the data, (d,).
        variance: Of each coordinate, (d,).
        x: At the high level, (n, d).
        high: alpha and sigma of the level where the points are.
        low: Of the level where they go.

    Reference: Song et al. 2020, section 4.3, arXiv 2011.13456.
    """
    (a, s), (to_a, to_s) = high, low
    return to_a * mean + ((to_a**2 * variance + to_s**2) / (a**2 * variance + s**2)).sqrt() * (x - a * mean)
