r"""Denoisers: (x_t, t, labels) -> the expected data behind x_t. Everything else about a diffusion model follows from this one map.

.. math:: D(x_t, t) = E[x_0 | x_t], \qquad \epsilon = \frac{x_t - \alpha_t D}{\sigma_t}, \qquad \nabla \log p_t(x_t) = \frac{\alpha_t D - x_t}{\sigma_t^2}

One kind is learned, `NetworkDenoiser`; the others are exact, for Gaussians, for mixtures and for any finite data set. They are models in their own
right and the oracles by which solvers are tested. Guidance and posterior methods are denoisers that wrap a denoiser.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from pushforward.families.diffusion.schedules import Schedule

Parametrisation = Literal["eps", "x0", "v", "flow", "edm"]


class Denoiser(ABC):
    """A denoiser of a schedule.

    Calling it: x (B, *shape), t a number (0-dimensional) or (B,), labels int64 (B,) or None -> (B, *shape).
    """

    schedule: Schedule

    @abstractmethod
    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor: ...

    def score(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Gradient of log p_t at x."""
        alpha, sigma = levels(self.schedule, t, x)
        return (alpha * self(x, t, labels) - x) / sigma.square()


def levels(schedule: Schedule, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma at t, of x's dtype, shaped so that they multiply x."""
    alpha, sigma = schedule.levels(t.to(device=x.device, dtype=torch.float64))
    if t.ndim:
        shape = (-1, *[1] * (x.ndim - 1))
        alpha, sigma = alpha.reshape(shape), sigma.reshape(shape)
    return alpha.to(x.dtype), sigma.to(x.dtype)


# --- learned ----------------------------------------------------------------------------------------------------


class Scaling(NamedTuple):
    """D = skip * x_t + out * F(into * x_t, ...)."""

    skip: Tensor
    out: Tensor
    into: Tensor


def _eps(a: Tensor, s: Tensor, sd: float) -> Scaling:
    return Scaling(1 / a, -s / a, _unit(a, s, sd))


def _x0(a: Tensor, s: Tensor, sd: float) -> Scaling:
    return Scaling(torch.zeros_like(a), torch.ones_like(a), _unit(a, s, sd))


def _v(a: Tensor, s: Tensor, sd: float) -> Scaling:
    whole = a.square() + s.square()
    return Scaling(a / whole, -s / whole, _unit(a, s, sd))


def _flow(a: Tensor, s: Tensor, sd: float) -> Scaling:
    return Scaling(1 / (a + s), -s / (a + s), _unit(a, s, sd))


def _edm(a: Tensor, s: Tensor, sd: float) -> Scaling:
    whole = (a * sd).square() + s.square()
    return Scaling(a * sd**2 / whole, s * sd / whole.sqrt(), whole.rsqrt())


def _unit(a: Tensor, s: Tensor, sd: float) -> Tensor:
    """The network sees inputs of about unit variance in every parametrisation."""
    return ((a * sd).square() + s.square()).rsqrt()


PARAMETRISATIONS: Mapping[str, Callable[[Tensor, Tensor, float], Scaling]] = {
    "eps": _eps,  # the network gives the noise
    "x0": _x0,  # the data
    "v": _v,  # alpha eps - sigma x0 (Salimans and Ho 2022, arXiv 2202.00512)
    "flow": _flow,  # eps - x0, the velocity of straight lines
    "edm": _edm,  # what leaves the least to do at every level (Karras et al. 2022, table 1)
}


class NetworkDenoiser(nn.Module, Denoiser):
    """A network F as a denoiser, D = skip x_t + out F(into x_t, log(sigma / alpha), labels).

    Args:
        network: (B, *shape), (B,), int64 (B,) or None -> (B, *shape).
        schedule: Its schedule.
        parametrisation: What the network's output stands for.
        data_sd: Standard deviation of the data's entries, which scales the network's input.
    """

    def __init__(
        self, network: nn.Module, schedule: Schedule, *, parametrisation: Parametrisation, data_sd: float = 0.5
    ) -> None:
        super().__init__()
        if not 0 < data_sd < math.inf:
            raise ValueError(f"data_sd = {data_sd}: above 0 and finite")
        end = schedule.levels(torch.ones(1, dtype=torch.float64))[0]
        if parametrisation == "eps" and float(end) == 0:
            raise ValueError(
                "the parametrisation eps with a schedule that ends in pure noise: there the noise says nothing of the data. Take v, x0, flow or edm"
            )
        self.network, self.schedule, self.parametrisation, self.data_sd = network, schedule, parametrisation, data_sd
        self.scaling = PARAMETRISATIONS[parametrisation]

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        c, raw = self.raw(x, t, labels)
        return c.skip * x + c.out * raw

    __call__ = nn.Module.__call__

    def raw(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> tuple[Scaling, Tensor]:
        """The scaling at t, and the network's own output."""
        t = t.to(device=x.device, dtype=torch.float64).expand(len(x))
        alpha, sigma = self.schedule.levels(t)
        shape = (-1, *[1] * (x.ndim - 1))
        c = Scaling(*(v.reshape(shape).to(x.dtype) for v in self.scaling(alpha, sigma, self.data_sd)))
        level = (sigma.log() - alpha.log()).clamp(-10, 10)
        return c, self.network(c.into * x, level.to(x.dtype), labels).to(x.dtype)


class Labelled(Denoiser):
    """A denoiser whose labels are given once, for solvers, which know of none.

    Args:
        denoiser: A conditional one.
        labels: int64 (B,).
    """

    def __init__(self, denoiser: Denoiser, labels: Tensor) -> None:
        self.denoiser, self.labels, self.schedule = denoiser, labels, denoiser.schedule

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.denoiser(x, t, self.labels if labels is None else labels)


class Counted(Denoiser):
    """Counts the evaluations of a denoiser: the honest price of a solver."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.schedule, self.evaluations = denoiser, denoiser.schedule, 0

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        self.evaluations += 1
        return self.denoiser(x, t, labels)


# --- exact ------------------------------------------------------------------------------------------------------


class GaussianDenoiser(Denoiser):
    r"""Of data N(mean, covariance): D = mean + alpha C (alpha^2 C + sigma^2)^{-1} (x - alpha mean).

    Args:
        mean: (d,).
        covariance: (d, d), positive semidefinite.
        schedule: Its schedule.
    """

    def __init__(self, mean: Tensor, covariance: Tensor, schedule: Schedule) -> None:
        self.mean, self.schedule = mean, schedule
        self.values, self.vectors = torch.linalg.eigh(covariance)
        self.values = self.values.clamp(min=0)

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        alpha, sigma = levels(self.schedule, t, x)
        along = (x - alpha * self.mean) @ self.vectors
        return self.mean + (along * (alpha * self.values) / (alpha**2 * self.values + sigma**2)) @ self.vectors.T


class MixtureDenoiser(Denoiser):
    """Of a mixture of isotropic Gaussians.

    Args:
        means: (k, d).
        sd: Of each component.
        schedule: Its schedule.
        weights: (k,), equal when absent.
    """

    def __init__(self, means: Tensor, sd: float, schedule: Schedule, *, weights: Tensor | None = None) -> None:
        self.means, self.sd, self.schedule = means, sd, schedule
        self.log_weights = torch.zeros(len(means), dtype=means.dtype) if weights is None else weights.log()

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        alpha, sigma = levels(self.schedule, t, x)
        variance = (alpha * self.sd) ** 2 + sigma**2
        means = alpha[..., None] * self.means  # (k, d), or (B, k, d) where each row has its own time
        away = (x[:, None] - means).square().sum(dim=-1)
        share = torch.softmax(self.log_weights - away / (2 * variance), dim=1)
        shrink = alpha * self.sd**2 / variance
        return share @ self.means + shrink * (x - alpha * (share @ self.means))


class EmpiricalDenoiser(Denoiser):
    r"""The optimal denoiser of a finite data set: no network trained on it can have a smaller loss.

    .. math:: D(x, t) = \sum_i w_i x_i, \qquad w = \mathrm{softmax}_i \left( - \frac{\lVert x - \alpha_t x_i \rVert^2}{2 \sigma_t^2} \right)

    As sigma goes to 0 it is the closest training point: a model that follows it exactly can only give back what it was shown.

    Args:
        data: (N, *shape), floats.
        schedule: Its schedule.
        labels: int64 (N,); then each query may name its class, whose points alone count.
        chunk: Data that are looked at at a time.

    Reference: Karras et al. 2022, appendix B.3; Scarvelis, Borde, Solomon 2023, arXiv 2310.12395.
    """

    def __init__(self, data: Tensor, schedule: Schedule, *, labels: Tensor | None = None, chunk: int = 4096) -> None:
        self.shape, self.schedule, self.labels, self.chunk = data.shape[1:], schedule, labels, chunk
        self.data = data.flatten(1)
        self.centre = self.data.double().mean(dim=0)

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        if labels is not None and self.labels is None:
            raise ValueError("labels were asked for, and this data set was given without any")
        alpha, sigma = (v.reshape(-1, 1) for v in levels(self.schedule, t, x.double()))
        query = x.flatten(1).double() - alpha * self.centre
        top = query.new_full((len(x), 1), -math.inf)
        weight, total = torch.zeros_like(top), torch.zeros_like(query)
        for start in range(0, len(self.data), self.chunk):
            part = self.data[start : start + self.chunk].double() - self.centre
            # |query - alpha part|^2 without |query|^2, which is the same for all
            logit = (alpha * (query @ part.T) - alpha**2 * part.square().sum(dim=1) / 2) / sigma**2
            if labels is not None and self.labels is not None:
                other = labels[:, None] != self.labels[start : start + self.chunk]
                logit = logit.masked_fill(other, -math.inf)
            new = torch.maximum(top, logit.amax(dim=1, keepdim=True))
            share = torch.exp(logit - new.clamp(min=-1e300))
            fade = torch.exp(top - new.clamp(min=-1e300))
            weight = weight * fade + share.sum(dim=1, keepdim=True)
            total = total * fade + share @ part
            top = new
        if bool((weight == 0).any()):
            raise ValueError("a class was asked for of which there is no data")
        return (total / weight + self.centre).reshape(len(x), *self.shape).to(x.dtype)
