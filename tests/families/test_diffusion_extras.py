"""Densities by the probability-flow ODE, SDEdit and interpolation, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pushforward.families.diffusion.denoisers import Denoiser, EmpiricalDenoiser, GaussianDenoiser, MixtureDenoiser
from pushforward.families.diffusion.editing import interpolate, sdedit, slerp
from pushforward.families.diffusion.likelihood import ode_log_prob
from pushforward.families.diffusion.schedules import VE, VP, Cosine, Rectified, Schedule, uniform_grid
from pushforward.families.diffusion.solvers import heun
from pushforward.randomness import SampleStream

MEANS = torch.tensor([[-0.7, 0.3], [0.6, -0.2]], dtype=torch.float64)


@pytest.mark.parametrize("schedule", [VE(), VP(), Cosine(), Rectified()], ids=lambda s: type(s).__name__)
def test_the_odes_density_is_the_mixtures(schedule: Schedule) -> None:
    sd = 0.3
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    away = (x[:, None] - MEANS).square().sum(dim=2)
    truth = torch.logsumexp(-away / (2 * sd**2), dim=1) - math.log(2) - math.log(2 * math.pi * sd**2)
    found = ode_log_prob(MixtureDenoiser(MEANS, sd, schedule), x, steps=60, high=200.0)
    # VP ends at a ratio of 150, where the prior has forgotten all but 1e-4 of the data
    torch.testing.assert_close(found, truth, rtol=0, atol=0.01)


def test_the_trace_of_many_dimensions_is_estimated_without_bias() -> None:
    d = 100
    covariance = torch.diag(torch.linspace(0.05, 0.5, d, dtype=torch.float64))
    g = torch.Generator().manual_seed(1)
    rotation = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64)).Q
    covariance = rotation @ covariance @ rotation.T
    denoiser = GaussianDenoiser(torch.zeros(d).double(), covariance, VE())
    x = torch.randn(30, d, generator=g, dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
    truth = torch.distributions.MultivariateNormal(torch.zeros(d).double(), covariance).log_prob(x)
    few = ode_log_prob(denoiser, x, steps=30, generator=SampleStream(0, torch.arange(30))) - truth
    many = ode_log_prob(denoiser, x, steps=30, probes=32, generator=SampleStream(0, torch.arange(30))) - truth
    assert float(many.std()) < 0.4 * float(few.std())
    assert abs(float(many.mean())) < 3 * float(many.std()) / math.sqrt(30) + 0.1  # 0.1: thirty steps, and the prior
    for bad in ({"steps": 0}, {"probes": 0}, {"low": 3.0, "high": 2.0}):
        with pytest.raises(ValueError, match="at least 1"):
            ode_log_prob(denoiser, x, **bad)  # type: ignore[arg-type]


def test_sdedit_keeps_as_much_as_it_says() -> None:
    data = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).sign() * 0.8
    denoiser = EmpiricalDenoiser(data, VP())
    sketch = data + 0.3
    grid = uniform_grid(VP(), 40)

    def edited(strength: float) -> Tensor:
        stream = SampleStream(0, torch.arange(6))
        return sdedit(heun, denoiser, sketch, grid, strength=strength, generator=stream)

    assert torch.equal(edited(0.0), sketch)
    torch.testing.assert_close(edited(0.15), data, atol=1e-3, rtol=0)  # mended: the nearest image
    far = edited(1.0)
    assert float((torch.cdist(far, data).amin(dim=1)).max()) < 1e-3  # some image each
    assert not torch.allclose(far, data, atol=0.1)  # but not the sketched one
    with pytest.raises(ValueError, match="strength"):
        edited(1.2)


def test_slerp_keeps_the_length_and_meets_both_ends() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(3, 2, 5, generator=g), torch.randn(3, 2, 5, generator=g)
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b, atol=1e-6, rtol=1e-5)
    u, v = (w / w.flatten(1).norm(dim=1)[:, None, None] for w in (a, b))
    torch.testing.assert_close(slerp(u, v, 0.3).flatten(1).norm(dim=1), torch.ones(3))
    torch.testing.assert_close(slerp(a, a, 0.4), a)


def test_interpolation_goes_from_one_to_the_other() -> None:
    covariance = torch.diag(torch.tensor([0.3, 0.1])).double()
    denoiser: Denoiser = GaussianDenoiser(torch.zeros(2).double(), covariance, VP())
    a, b = torch.tensor([[0.5, 0.1]]).double(), torch.tensor([[-0.3, 0.4]]).double()
    grid = torch.cat([torch.linspace(1, 0.01, 300, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
    found = interpolate(denoiser, a, b, grid, between=3)
    assert found.shape == (5, 1, 2)
    torch.testing.assert_close(found[0], a, atol=0.02, rtol=0)
    torch.testing.assert_close(found[-1], b, atol=0.02, rtol=0)
    # on Gaussians the noise behind x is L^-1 x up to scale, so the middle is on the ellipse between
    white = lambda x: x / covariance.diagonal().sqrt()  # noqa: E731
    torch.testing.assert_close(white(found[2]), slerp(white(a), white(b), 0.5), atol=0.05, rtol=0)


def test_sdedit_starts_from_the_image_at_that_level() -> None:
    starts: list[Tensor] = []

    def spy(denoiser: Denoiser, x: Tensor, grid: Tensor, *, generator: SampleStream) -> object:
        starts.append(x)
        return heun(denoiser, x, grid, generator=generator)

    x = torch.full((5000, 2), 0.6)
    denoiser = EmpiricalDenoiser(x[:1], VP())
    sdedit(spy, denoiser, x, uniform_grid(VP(), 10), strength=0.5, generator=SampleStream(0, torch.arange(5000)))  # type: ignore[arg-type]
    alpha, sigma = (float(v) for v in VP()(torch.tensor(0.5, dtype=torch.float64)))
    assert float(starts[0].mean()) == pytest.approx(0.6 * alpha, abs=0.05)
    assert float(starts[0].std()) == pytest.approx(sigma, rel=0.03)
