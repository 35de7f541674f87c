"""Operators, posterior methods and guidance against linear algebra and the exact posterior."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from scipy import ndimage
from torch import Tensor

from pushforward.families.diffusion.denoisers import Counted, Denoiser, EmpiricalDenoiser, GaussianDenoiser, levels
from pushforward.families.diffusion.guidance import Autoguidance, ClassifierFree, Clipped, DynamicThreshold
from pushforward.families.diffusion.operators import OPERATORS, LinearOperator, Mask, Operator, count_photons, measure
from pushforward.families.diffusion.posterior import (
    METHODS,
    MMPS,
    PiGDM,
    Proximal,
    ddrm,
    repaint,
    sample_posterior,
)
from pushforward.families.diffusion.schedules import VP, DiscreteDDPM, Rectified, log_snr_grid, uniform_grid
from pushforward.families.diffusion.solvers import ancestral, ddim, final, heun, renoise, start
from pushforward.randomness import SampleStream

SHAPE = (2, 8, 8)
OPTIONS: dict[str, dict[str, float]] = {
    "super-resolution": {"factor": 2},
    "gaussian-blur": {"sd": 0.8},
    "motion-blur": {"length": 5},
}
LINEAR = [n for n in OPERATORS if n != "phase-retrieval"]


def made(name: str, shape: tuple[int, ...] = SHAPE) -> Operator:
    return OPERATORS[name](shape, **OPTIONS.get(name, {}))


def dense(operator: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
    """The matrix of a linear map, column by column."""
    d = math.prod(shape)
    return operator(torch.eye(d, dtype=torch.float64).reshape(d, *shape)).reshape(d, -1).T


# --- operators --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LINEAR)
def test_adjoint_by_dot_products(name: str) -> None:
    operator = made(name)
    assert isinstance(operator, LinearOperator)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, *SHAPE, generator=g, dtype=torch.float64)
    y = torch.randn(operator(x).shape, generator=g, dtype=torch.float64)
    torch.testing.assert_close((operator(x) * y).sum(), (x * operator.adjoint(y)).sum())


@pytest.mark.parametrize("name", LINEAR)
def test_spectral_functions_and_pseudoinverse_by_dense_algebra(name: str) -> None:
    shape = (1, 6, 6)
    operator = OPERATORS[name](shape, **(OPTIONS.get(name, {}) | ({"length": 4} if name == "motion-blur" else {})))
    a = dense(operator, shape)
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    f = lambda s: (1 + s).log() + 1 / (0.3 + s)  # noqa: E731
    values, vectors = torch.linalg.eigh(a.T @ a)
    want = x.flatten(1) @ vectors @ torch.diag(f(values.clamp(min=0))) @ vectors.T
    torch.testing.assert_close(operator.spectral(x, f).flatten(1), want)
    y = operator(x)
    torch.testing.assert_close(operator(operator.pseudoinverse(y)), y, atol=1e-7, rtol=1e-5)
    if name != "motion-blur" and name != "gaussian-blur":  # blurs have tiny singular values, where cut-offs differ
        pinv = torch.linalg.pinv(a)
        torch.testing.assert_close(operator.pseudoinverse(y).flatten(1), y.flatten(1) @ pinv.T)


def test_blur_is_a_centred_circular_convolution() -> None:
    operator = made("gaussian-blur", (1, 9, 9))
    spot = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    spot[..., 4, 4] = 1
    out = operator(spot)[0, 0]
    assert float(out.sum()) == pytest.approx(1)
    assert int(out.argmax()) == 4 * 9 + 4
    torch.testing.assert_close(out, out.flip(0))
    assert float(out[4, 5] / out[4, 4]) == pytest.approx(math.exp(-0.5 / 0.8**2))
    line = OPERATORS["motion-blur"]((1, 9, 9), length=3, angle=0.0)(spot)[0, 0]
    assert float(line[4, 3:6].sum()) == pytest.approx(1)
    assert float(line[4, 3]) == pytest.approx(float(line[4, 5]), abs=0.05)
    rising = OPERATORS["motion-blur"]((1, 9, 9), length=5, angle=45.0)(spot)[0, 0]  # to the right and up
    assert float(rising[3, 5]) > 0.1
    assert float(rising[5, 5]) == pytest.approx(0, abs=1e-12)


def test_the_gaussian_blur_is_scipys() -> None:
    x = torch.rand(1, 1, 25, 25, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theirs = ndimage.gaussian_filter(x[0, 0].numpy(), 2.0, mode="wrap", truncate=4.0)
    found = OPERATORS["gaussian-blur"]((1, 25, 25), sd=2.0)(x)
    torch.testing.assert_close(found[0, 0], torch.from_numpy(theirs), rtol=0, atol=1e-9)


def test_masks_lose_what_they_say() -> None:
    assert float((OPERATORS["inpaint-box"]((1, 28, 28), side=0.5).mask == 0).sum()) == 14 * 14
    share = float((OPERATORS["inpaint-random"]((1, 64, 64), lost=0.9).mask == 0).double().mean())
    assert share == pytest.approx(0.9, abs=0.02)


def test_phase_retrieval_measures_the_shifted_and_the_mirrored_image_alike() -> None:
    operator = made("phase-retrieval")
    x = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    y = operator(x)
    assert y.shape == (2, 2, 16, 16)
    torch.testing.assert_close(operator(x.flip(-1, -2)), y)
    energy = ((x + 1) / 2).square().flatten(1).sum(dim=1)  # Parseval
    torch.testing.assert_close(y.square().flatten(1).sum(dim=1), energy, rtol=1e-8, atol=1e-8)


def test_noise_of_a_measurement() -> None:
    operator = Mask(torch.ones(1, 1, 1, 1))
    x = torch.zeros(400, 1, 16, 16)
    stream = SampleStream(0, torch.arange(400))
    y = measure(operator, x, noise=0.3, generator=stream)
    assert float(y.std()) == pytest.approx(0.3, rel=0.02)
    photons = count_photons(operator, x, peak=20.0, generator=stream)
    counted = (photons + 1) / 2 * 20
    torch.testing.assert_close(counted, counted.round(), atol=1e-4, rtol=0)
    assert float(counted.mean()) == pytest.approx(10, rel=0.02)
    assert float(counted.var()) == pytest.approx(10, rel=0.03)


# --- the exact posterior ----------------------------------------------------------------------------------------


def gaussian_problem(isotropic: bool) -> tuple[GaussianDenoiser, LinearOperator, Tensor, float, Tensor, Tensor]:
    """Gaussian images of 1 x 2 x 2 seen through a mask: denoiser, operator, y, noise, posterior mean and covariance."""
    g = torch.Generator().manual_seed(3)
    root = torch.randn(4, 4, generator=g, dtype=torch.float64) * 0.4
    prior = (
        0.25 * torch.eye(4, dtype=torch.float64)
        if isotropic
        else root @ root.T + 0.02 * torch.eye(4, dtype=torch.float64)
    )
    mean = torch.tensor([0.2, -0.3, 0.1, 0.4], dtype=torch.float64)
    operator, noise = Mask(torch.tensor([[1.0, 1.0], [0.0, 0.0]])), 0.2
    y = torch.tensor([0.7, 0.1, 0.0, 0.0], dtype=torch.float64)
    a = torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64))[:2]
    gain = prior @ a.T @ torch.linalg.inv(a @ prior @ a.T + noise**2 * torch.eye(2, dtype=torch.float64))
    after = mean + gain @ (y[:2] - a @ mean)
    return GaussianDenoiser(mean, prior, VP()), operator, y, noise, after, prior - gain @ a @ prior


class AsImages(Denoiser):
    """A denoiser of vectors as one of 1 x 2 x 2 images."""

    def __init__(self, inner: Denoiser) -> None:
        self.inner, self.schedule = inner, inner.schedule

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.inner(x.flatten(1), t).reshape(x.shape)


@pytest.mark.parametrize("method", ["mmps", "mmps-noisy", "pigdm"])
def test_posterior_samples_have_the_exact_mean_and_covariance(method: str) -> None:
    plain, operator, y, noise, mean, covariance = gaussian_problem(isotropic=method == "pigdm")
    n = 6000
    ys = y.reshape(1, 1, 2, 2).expand(n, -1, -1, -1)
    inner = AsImages(plain)
    if method == "pigdm":
        denoiser: Denoiser = PiGDM(inner, operator, ys, noise=noise, data_sd=0.5)
    else:
        denoiser = MMPS(inner, operator, ys, noise=noise, iterations=4)
    stream = SampleStream(0, torch.arange(n))
    grid = log_snr_grid(plain.schedule, 40 if method != "mmps-noisy" else 400, low=0.003, high=150.0)
    x = start(plain.schedule, (n, 1, 2, 2), grid, generator=stream).double()
    steps = ancestral(denoiser, x, grid, generator=stream) if method == "mmps-noisy" else heun(denoiser, x, grid)
    found = final(steps).flatten(1)
    error = covariance.diagonal().sqrt() / math.sqrt(n)
    assert ((found.mean(dim=0) - mean).abs() < 4 * error + 0.004).all()
    torch.testing.assert_close(found.T.cov(), covariance, rtol=0, atol=4 * math.sqrt(2 / n) * float(covariance.max()))


@pytest.mark.parametrize("method", ["mmps", "pigdm"])
def test_the_methods_own_solver_grid_and_steps_draw_from_the_exact_posterior(method: str) -> None:
    """As `pushforward restore` runs them: two pixels are measured here, so that conjugate gradients are done after two of MMPS's three."""
    plain, operator, y, noise, mean, covariance = gaussian_problem(isotropic=method == "pigdm")
    n, entry = 6000, METHODS[method]
    grid, stream = entry.grid(plain.schedule, entry.steps), SampleStream(0, torch.arange(n))
    x = start(plain.schedule, (n, 1, 2, 2), grid, generator=stream).double()
    ys = y.reshape(1, 1, 2, 2).expand(n, -1, -1, -1)
    steps = sample_posterior(method, AsImages(plain), operator, ys, x, grid, noise=noise, generator=stream)
    found = final(steps).flatten(1)
    error = covariance.diagonal().sqrt() / math.sqrt(n)
    assert ((found.mean(dim=0) - mean).abs() < 4 * error + 0.004).all()
    torch.testing.assert_close(found.T.cov(), covariance, rtol=0, atol=4 * math.sqrt(2 / n) * float(covariance.max()))


def test_dps_with_ancestral_is_the_papers_algorithm() -> None:
    """x' = ancestral step - zeta grad ||y - A(D(x))||, written out here from the paper."""
    plain, operator, y, _, _, _ = gaussian_problem(isotropic=False)
    schedule, zeta, n = DiscreteDDPM(), 0.3, 5
    inner = AsImages(GaussianDenoiser(plain.mean, plain.vectors @ torch.diag(plain.values) @ plain.vectors.T, schedule))
    ys = y.reshape(1, 1, 2, 2).expand(n, -1, -1, -1)
    grid = uniform_grid(schedule, 40)
    x0 = SampleStream(1, torch.arange(n)).normal((n, 1, 2, 2)).double()
    found = final(
        sample_posterior("dps", inner, operator, ys, x0, grid, zeta=zeta, generator=SampleStream(2, torch.arange(n)))
    )
    x, stream = x0, SampleStream(2, torch.arange(n))
    for t, s in pairwise(grid):
        (a, q), (b, r) = schedule(t), schedule(s)
        x = x.detach().requires_grad_()
        d = inner(x, t)
        (slope,) = torch.autograd.grad((ys - operator(d)).flatten(1).norm(dim=1).sum(), x)
        kept, beta = a**2 / b**2, 1 - a**2 / b**2
        x = (b * beta * d + kept.sqrt() * r**2 * x) / q**2
        if r > 0:
            x = x + (beta * r**2 / q**2).sqrt() * stream.normal(x.shape).double()
        x = x - zeta * slope
    torch.testing.assert_close(found, x.detach(), rtol=1e-6, atol=1e-6)


class Rippled(Denoiser):
    """A denoiser whose output moves with each pixel and its neighbours. Sums and products of pixels only: no sum over
    the batch or within an image that a library might take in another order for another batch, so bits can be compared."""

    def __init__(self) -> None:
        self.schedule = DiscreteDDPM()

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        alpha, sigma = levels(self.schedule, t, x)
        z = alpha * x / (alpha**2 + sigma**2 / 0.3)  # of a wide Gaussian
        bent = z / (1 + 0.2 * z * z)
        return 0.8 * bent + 0.2 * bent.roll(1, dims=-1)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("method", METHODS)
def test_a_sample_does_not_depend_on_its_batch(method: str, operator: str) -> None:
    a, entry, denoiser = made(operator), METHODS[method], Rippled()
    if entry.linear and not isinstance(a, LinearOperator):
        pytest.skip("a linear method")
    if method == "repaint" and not isinstance(a, Mask):
        pytest.skip("RePaint is for masks")
    truth = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    y = measure(a, truth, noise=0.05, generator=SampleStream(9, torch.arange(4)))
    grid = entry.grid(DiscreteDDPM(), 8)

    def run(rows: list[int]) -> Tensor:
        stream = SampleStream(0, torch.tensor(rows))
        x = start(DiscreteDDPM(), (len(rows), *SHAPE), grid, generator=stream)
        return final(solve_method(method, denoiser, a, y[rows], x, grid, noise=0.05, generator=stream))

    whole = run([0, 1, 2, 3])
    assert torch.isfinite(whole).all()
    assert torch.equal(run([2])[0], whole[2])  # bit for bit
    torch.testing.assert_close(run([3, 1]), whole[[3, 1]], rtol=0, atol=0)


def solve_method(
    method: str,
    denoiser: Denoiser,
    operator: Operator,
    y: Tensor,
    x: Tensor,
    grid: Tensor,
    *,
    noise: float,
    generator: SampleStream,
):  # type: ignore[no-untyped-def]
    return sample_posterior(method, denoiser, operator, y, x, grid, noise=noise, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("method", ["pigdm", "mmps", "diffpir", "ddrm", "repaint"])
def test_what_was_measured_without_noise_is_explained(method: str, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    d = math.prod((1, 4, 4))
    root = torch.randn(d, d, generator=g, dtype=torch.float64) * 0.2
    prior = GaussianDenoiser(torch.zeros(d, dtype=dtype), (root @ root.T).to(dtype), VP())

    class Images(Denoiser):
        schedule = prior.schedule

        def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            return prior(x.flatten(1), t).reshape(x.shape)

    operator = OPERATORS["inpaint-box"]((1, 4, 4))
    truth = (torch.randn(3, d, generator=g, dtype=torch.float64) @ root.T).reshape(3, 1, 4, 4).to(dtype)
    y = operator(truth)
    grid = METHODS[method].grid(prior.schedule, 50)
    stream = SampleStream(0, torch.arange(3))
    x = start(prior.schedule, (3, 1, 4, 4), grid, generator=stream).to(dtype)
    found = final(solve_method(method, Images(), operator, y, x, grid, noise=0.0, generator=stream))
    assert float((operator(found) - y).abs().max()) < (0.05 if method in ("pigdm", "mmps") else 1e-5)
    assert float((found - y).abs().max()) > 0.05  # the box was filled


def test_ddrm_keeps_the_prior_where_nothing_is_seen_and_the_measurement_where_it_is() -> None:
    plain, operator, y, noise, mean, covariance = gaussian_problem(isotropic=True)
    n = 6000
    grid = log_snr_grid(plain.schedule, 300, low=0.003, high=150.0)
    stream = SampleStream(0, torch.arange(n))
    x = start(plain.schedule, (n, 1, 2, 2), grid, generator=stream).double()
    ys = y.reshape(1, 1, 2, 2).expand(n, -1, -1, -1)
    found = final(
        ddrm(AsImages(plain), x, grid, operator=operator, y=ys, noise=noise, eta=0.0, generator=stream)
    ).flatten(1)
    # unseen pixels follow the ODE, and so the prior, when eta = 0; seen ones end within the noise of what was measured
    torch.testing.assert_close(found[:, 2:].mean(dim=0), mean[2:], rtol=0, atol=0.03)
    torch.testing.assert_close(found[:, 2:].var(dim=0), covariance.diagonal()[2:], rtol=0.1, atol=0)
    assert float((found[:, :2] - y[:2]).abs().mean()) < 2 * noise


def test_proximal_step_minimises_what_it_says() -> None:
    operator, noise, strength = made("gaussian-blur", (1, 6, 6)), 0.1, 3.0
    assert isinstance(operator, LinearOperator)
    g = torch.Generator().manual_seed(0)
    d = torch.randn(1, 1, 6, 6, generator=g, dtype=torch.float64)
    y = torch.randn(1, 1, 6, 6, generator=g, dtype=torch.float64)

    class Constant(Denoiser):
        schedule = VP()

        def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            return d

    t = torch.tensor(0.4, dtype=torch.float64)
    found = Proximal(Constant(), operator, y, noise=noise, strength=strength)(d, t).requires_grad_()
    alpha, sigma = VP()(t)
    cost = (y - operator(found)).square().sum() / noise**2 + strength * (alpha / sigma) ** 2 * (
        found - d
    ).square().sum()
    (slope,) = torch.autograd.grad(cost, found)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-8, rtol=0)


def test_posterior_methods_leave_the_networks_gradients_alone() -> None:
    from pushforward.families.diffusion.denoisers import NetworkDenoiser
    from pushforward.networks.unet import UNet

    denoiser = NetworkDenoiser(UNet(shape=(1, 8, 8), width=8), DiscreteDDPM(), parametrisation="eps")
    operator = OPERATORS["inpaint-box"]((1, 8, 8))
    y, grid = torch.zeros(2, 1, 8, 8), uniform_grid(DiscreteDDPM(), 3)
    for method in ("dps", "pigdm", "mmps"):
        stream = SampleStream(0, torch.arange(2))
        x = start(DiscreteDDPM(), (2, 1, 8, 8), grid, generator=stream)
        found = final(solve_method(method, denoiser, operator, y, x, grid, noise=0.1, generator=stream))
        assert not found.requires_grad
        assert all(p.grad is None and p.requires_grad for p in denoiser.parameters())


# --- guidance ---------------------------------------------------------------------------------------------------


class TwoClasses(Denoiser):
    """Class k is the point k + 1 (null: 0); counts its calls and rows."""

    schedule = Rectified()

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        assert labels is not None
        self.rows.append(len(x))
        value = torch.where(labels == 2, 0.0, labels + 1.0)
        return value[:, None] * torch.tensor([1.0, 2.0]) + 0.1 * x


T = torch.tensor(0.5, dtype=torch.float64)


def test_classifier_free_guidance_has_one_convention_and_one_forward() -> None:
    x, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    for scale in (0.0, 1.0, 3.0, 7.5):
        inner = TwoClasses()
        found = ClassifierFree(inner, labels, null=2, scale=scale)(x, T)
        c, u = inner(x, T, labels), inner(x, T, torch.tensor([2, 2]))
        torch.testing.assert_close(found, u + scale * (c - u))
        assert inner.rows[0] == (2 if scale in (0.0, 1.0) else 4)
        assert len(inner.rows) == 3


def test_guidance_is_off_outside_its_interval() -> None:
    x, labels = torch.ones(2, 2), torch.tensor([0, 1])
    guided = ClassifierFree(TwoClasses(), labels, null=2, scale=5.0, low=0.2, high=0.4)
    for outside in (T, torch.tensor(0.1, dtype=torch.float64)):
        torch.testing.assert_close(guided(x, outside), TwoClasses()(x, outside, labels))
    inside = torch.tensor(0.3, dtype=torch.float64)
    assert float((guided(x, inside) - TwoClasses()(x, inside, labels)).abs().min()) > 1


def test_rescaled_guidance_has_the_conditionals_spread() -> None:
    g = torch.Generator().manual_seed(0)
    x, labels = torch.randn(3, 2, generator=g), torch.tensor([0, 1, 1])
    c = TwoClasses()(x, T, labels)
    found = ClassifierFree(TwoClasses(), labels, null=2, scale=6.0, rescale=1.0)(x, T)
    torch.testing.assert_close(found.std(dim=1), c.std(dim=1))
    half = ClassifierFree(TwoClasses(), labels, null=2, scale=6.0, rescale=0.5)(x, T)
    plain = ClassifierFree(TwoClasses(), labels, null=2, scale=6.0)(x, T)
    torch.testing.assert_close(half, 0.5 * found + 0.5 * plain)


def test_projected_guidance() -> None:
    g = torch.Generator().manual_seed(0)
    x, labels = torch.randn(3, 2, generator=g), torch.tensor([0, 1, 0])
    make = lambda **k: ClassifierFree(TwoClasses(), labels, null=2, scale=4.0, **k)(x, T)  # noqa: E731
    c, u = TwoClasses()(x, T, labels), TwoClasses()(x, T, torch.full((3,), 2))
    # without its parallel part the update is orthogonal to c
    found = make(parallel=0.0)
    torch.testing.assert_close(((found - c) * c).sum(dim=1), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(make(parallel=1.0, longest=1e6), make())
    # by hand: c = (-2, 2), c - u = (1, 2), of which (-.5, .5) is parallel to c; half of that is left out
    half = ClassifierFree(TwoClasses(), labels[:1], null=2, scale=4.0, parallel=0.5)(torch.tensor([[-30.0, 0.0]]), T)
    torch.testing.assert_close(half, torch.tensor([[-2 + 3 * 1.25, 2 + 3 * 1.75]]))
    short = make(longest=0.5)
    torch.testing.assert_close((short - c).norm(dim=1), torch.full((3,), 3 * 0.5))
    torch.testing.assert_close(
        (short - c) / (short - c).norm(dim=1, keepdim=True), (c - u) / (c - u).norm(dim=1, keepdim=True)
    )


def test_autoguidance_and_thresholds() -> None:
    class Shifted(Denoiser):
        schedule = Rectified()

        def __init__(self, by: float) -> None:
            self.by = by

        def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            return x + self.by

    x = torch.tensor([[-3.0, 0.5, 0.1, 0.2], [0.0, 0.1, 0.2, 0.3]])
    torch.testing.assert_close(Autoguidance(Shifted(1.0), Shifted(0.0), scale=2.5)(x, T), x + 2.5)
    torch.testing.assert_close(Clipped(Shifted(0.0))(x, T), x.clamp(-1, 1))
    found = DynamicThreshold(Shifted(0.0), percentile=1.0)(x, T)
    torch.testing.assert_close(found, torch.stack([x[0] / 3, x[1]]))
    half = DynamicThreshold(Shifted(0.0), percentile=0.5)(x, T)
    torch.testing.assert_close(half, x.clamp(-1, 1))
    many = torch.linspace(0, 10, 1001)[None]
    usual = DynamicThreshold(Shifted(0.0))(many, T)  # the paper's 99.5 %
    torch.testing.assert_close(usual, many.clamp(max=9.95) / 9.95)


def test_guidance_goes_with_every_solver_and_posterior() -> None:
    labels = torch.tensor([0, 1, 1])
    data = torch.tensor([[-0.5, 0.1], [0.6, 0.2], [-0.5, 0.3], [0.6, 0.4]]).reshape(4, 1, 1, 2)
    inner = EmpiricalDenoiser(data, VP(), labels=torch.tensor([0, 1, 0, 1]))

    class WithNull(Denoiser):
        schedule = VP()

        def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            assert labels is not None
            out = inner(x, t, labels.clamp(max=1))
            return torch.where((labels == 2)[:, None, None, None], inner(x, t), out)

    counted = Counted(ClassifierFree(WithNull(), labels, null=2, scale=2.0))
    operator = Mask(torch.tensor([[0.0, 1.0]]))
    y = torch.tensor([0.3, 0.4, 0.2]).reshape(3, 1, 1, 1) * torch.tensor([0.0, 1.0])
    grid = uniform_grid(VP(), 60)
    stream = SampleStream(0, torch.arange(3))
    x = start(VP(), (3, 1, 1, 2), grid, generator=stream)
    found = final(ancestral(PiGDM(counted, operator, y, noise=0.02), x, grid, generator=stream))
    assert counted.evaluations == 60
    # guidance of scale 2 pushes beyond the class's pixel, and the measured pixel is kept
    assert (found[:, 0, 0, 0] * torch.tensor([-1.0, 1.0, 1.0]) > 0.3).all()
    assert float((found[..., 1] - y[..., 1]).abs().max()) < 0.15


def test_renoise_with_the_proximal_step_is_diffpir() -> None:
    plain, operator, y, noise, mean, _ = gaussian_problem(isotropic=True)
    n = 2000
    ys = y.reshape(1, 1, 2, 2).expand(n, -1, -1, -1)
    stream = SampleStream(0, torch.arange(n))
    grid = log_snr_grid(plain.schedule, 20)
    x = start(plain.schedule, (n, 1, 2, 2), grid, generator=stream).double()
    denoiser = Proximal(AsImages(plain), operator, ys, noise=noise)
    found = final(renoise(denoiser, x, grid, share=0.3, generator=stream)).flatten(1).mean(dim=0)
    assert float((found[:2] - mean[:2]).abs().max()) < 0.25  # between prior and measurement
    lost = final(ddim(AsImages(plain), x, grid)).flatten(1).mean(dim=0)
    assert float((lost[:2] - y[:2]).norm()) > 2 * float((found[:2] - y[:2]).norm())


def test_repaint_repeats_its_steps() -> None:
    data = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(0)).sign() * 0.8
    counted = Counted(EmpiricalDenoiser(data, VP()))
    operator = Mask((torch.arange(4) < 2).float().expand(1, 1, 4, 4))
    grid, stream = uniform_grid(VP(), 30), SampleStream(0, torch.arange(2))
    x = start(VP(), (2, 1, 4, 4), grid, generator=stream)
    found = final(repaint(counted, x, grid, operator=operator, y=operator(data[:2]), repeats=4, generator=stream))
    assert counted.evaluations == 29 * 4 + 1
    torch.testing.assert_close(found, data[:2], atol=0.02, rtol=0)  # half an image tells which of four it is


def test_mmps_survives_a_network_whose_jacobian_is_no_covariance() -> None:
    class Odd(Denoiser):
        schedule = DiscreteDDPM()

        def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            return -0.9 * x + 0.3 * x.roll(1, dims=-1)  # negative, and not symmetric

    operator = OPERATORS["inpaint-box"]((1, 4, 4))
    y = operator(torch.ones(2, 1, 4, 4) * 0.4)
    grid, stream = uniform_grid(DiscreteDDPM(), 20), SampleStream(0, torch.arange(2))
    x = start(DiscreteDDPM(), (2, 1, 4, 4), grid, generator=stream)
    assert torch.isfinite(final(solve_method("mmps", Odd(), operator, y, x, grid, noise=0.05, generator=stream))).all()


def test_ddrm_begins_within_the_first_levels_noise() -> None:
    """Coordinates that a blur all but wipes out say nothing at the start."""
    from itertools import islice

    from pushforward.families.diffusion.schedules import VE

    data = torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    denoiser = EmpiricalDenoiser(data, VE())
    operator = OPERATORS["gaussian-blur"]((1, 12, 12), sd=2.0)
    y = measure(operator, data, noise=0.05, generator=SampleStream(0, torch.arange(3)))
    grid, stream = uniform_grid(VE(), 10), SampleStream(1, torch.arange(3))
    x = start(VE(), (3, 1, 12, 12), grid, generator=stream)
    (first,) = islice(solve_method("ddrm", denoiser, operator, y, x, grid, noise=0.05, generator=stream), 1)
    assert float(first.x.abs().max()) < 8 * 80
    found = final(solve_method("ddrm", denoiser, operator, y, x, grid, noise=0.05, generator=stream))
    assert float((operator(found) - y).square().mean().sqrt()) < 0.2


def test_renoise_keeps_the_noise_level() -> None:
    """Whatever the share, x at the next level has that level's noise: of black data its sd is sigma."""

    class Black(Denoiser):
        schedule = VP()

        def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            return torch.zeros_like(x)

    grid, stream = torch.tensor([0.8, 0.4]).double(), SampleStream(0, torch.arange(4000))
    for share in (0.0, 0.3, 1.0):
        x = start(VP(), (4000, 4), grid, generator=stream)
        found = final(renoise(Black(), x, grid, share=share, generator=stream))
        assert float(found.std()) == pytest.approx(float(VP()(grid[1])[1]), rel=0.02)
        if share == 1.0:
            assert abs(float((found * x).mean())) < 0.03  # nothing is left of the noise before
        if share == 0.3:
            kept = float((found * x).mean() / x.square().mean() * VP()(grid[0])[1] / VP()(grid[1])[1])
            assert kept == pytest.approx(math.sqrt(0.7), rel=0.03)


def test_guidance_acts_row_by_row() -> None:
    x, labels = torch.ones(2, 2), torch.tensor([0, 1])
    times = torch.tensor([0.2, 0.9], dtype=torch.float64)
    guided = ClassifierFree(TwoClasses(), labels, null=2, scale=5.0, high=0.5)(x, times)
    alone = ClassifierFree(TwoClasses(), labels[:1], null=2, scale=5.0, high=0.5)(x[:1], times[0])
    torch.testing.assert_close(guided[:1], alone)
    torch.testing.assert_close(guided[1:], TwoClasses()(x[1:], times[1], labels[1:]))


def test_repaint_puts_what_was_seen_in_at_the_levels_own_noise() -> None:
    class Grey(Denoiser):
        schedule = VP()

        def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            return torch.full_like(x, 0.5)

    operator = Mask(torch.tensor([[1.0, 0.0]]))
    grid, stream, n = torch.tensor([0.8, 0.4]).double(), SampleStream(0, torch.arange(6000)), 6000
    y = operator(torch.full((n, 1, 1, 2), -0.8))
    for repeats in (1, 4):
        x = start(VP(), (n, 1, 1, 2), grid, generator=stream)
        found = final(repaint(Grey(), x, grid, operator=operator, y=y, repeats=repeats, generator=stream))
        alpha, sigma = (float(v) for v in VP()(grid[1]))
        seen, unseen = found[..., 0], found[..., 1]
        assert float(seen.mean()) == pytest.approx(-0.8 * alpha, abs=0.05)
        assert float(seen.std()) == pytest.approx(sigma, rel=0.04)
        if repeats == 4:  # gone back and forth, the unseen part has the law of grey at this level
            assert float(unseen.std()) == pytest.approx(sigma, rel=0.04)
            assert float(unseen.mean()) == pytest.approx(0.5 * alpha, abs=0.06)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize(
    ("noise", "eta_data"), [(1.0, 1.0), (1.0, 0.4), (5.0, 1.0)], ids=["seen better", "half believed", "seen worse"]
)
def test_ddrm_keeps_the_levels_noise_in_every_coordinate(eta: float, noise: float, eta_data: float) -> None:
    """Of black images, measured with their own noise, each coordinate has the next level's noise: unseen, seen better or seen worse than now."""

    class Black(Denoiser):
        schedule = VP()

        def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            return torch.zeros_like(x)

    n = 20_000
    operator, stream = Mask(torch.tensor([[1.0, 0.0]])), SampleStream(0, torch.arange(n))
    grid = torch.tensor([0.8, 0.4]).double()
    y = measure(operator, torch.zeros(n, 1, 1, 2), noise=noise, generator=stream)
    x = start(VP(), (n, 1, 1, 2), grid, generator=stream)
    given = {"noise": noise, "eta": eta, "eta_data": eta_data}
    found = final(ddrm(Black(), x, grid, operator=operator, y=y, generator=stream, **given))
    sigma = float(VP()(grid[1])[1])
    assert float(found[..., 0].std()) == pytest.approx(sigma, rel=0.03)
    assert float(found[..., 1].std()) == pytest.approx(sigma, rel=0.03)
    before = x[..., 1] / x[..., 1].std()
    kept = float((found[..., 1] / sigma * before).mean())
    assert kept == pytest.approx(math.sqrt(1 - eta**2), abs=0.03)  # of the noise that was there


def test_ddrm_begins_at_what_was_measured_and_weighs_it() -> None:
    """Equation 6: a coordinate that is seen begins at y with the rest of the level's noise; then eta_data of y and the rest of D (equation 8)."""
    first: list[Tensor] = []

    class Grey(Denoiser):
        schedule = VP()

        def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            first.append(x)
            return torch.full_like(x, 0.5)

    n, noise, low = 20_000, 2.0, 0.4
    operator, stream = Mask(torch.tensor([[1.0, 0.0]])), SampleStream(0, torch.arange(n))
    grid = torch.tensor([0.8, low]).double()
    y = operator(torch.full((n, 1, 1, 2), 3.0))
    x = start(VP(), (n, 1, 1, 2), grid, generator=stream)
    z = x / VP()(grid[0])[1]
    found = final(ddrm(Grey(), x, grid, operator=operator, y=y, noise=noise, eta_data=0.3, generator=stream))
    alpha, sigma = (float(v) for v in VP()(grid[0]))
    s = sigma / alpha
    assert s > noise
    torch.testing.assert_close(first[0][..., 0], (alpha * (3.0 + math.sqrt(s**2 - noise**2) * z[..., 0])).float())
    torch.testing.assert_close(first[0][..., 1], (alpha * s * z[..., 1]).float())
    alpha, sigma = (float(v) for v in VP()(grid[1]))
    error = 4 * sigma / math.sqrt(n)
    if noise < sigma / alpha:
        assert float(found[..., 0].mean()) == pytest.approx(alpha * (0.7 * 0.5 + 0.3 * 3.0), abs=error)
    else:
        pytest.fail("this measurement should be the better one at the second level")


def test_ddrm_keeps_the_noise_of_unseen_pixels_from_pure_noise_too() -> None:
    """At the first level of straight lines there is no data: without fresh noise what is unseen keeps its own."""

    class Black(Denoiser):
        schedule = Rectified()

        def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            return torch.zeros_like(x)

    operator, stream = Mask(torch.tensor([[1.0, 0.0]])), SampleStream(0, torch.arange(6))
    grid = torch.tensor([1.0, 0.6]).double()
    x = start(Rectified(), (6, 1, 1, 2), grid, generator=stream)
    found = final(ddrm(Black(), x, grid, operator=operator, y=operator(x), noise=0.1, eta=0.0, generator=stream))
    torch.testing.assert_close(found[..., 1], 0.6 * x[..., 1])


def test_the_methods_walk_the_grids_of_their_papers() -> None:
    """Methods of DDPM's and DDIM's time steps: even levels; DiffPIR, which is few steps: even log-SNR."""
    grids = {k: v.grid.__name__ for k, v in METHODS.items()}
    assert grids == {**dict.fromkeys(METHODS, "uniform_grid"), "diffpir": "log_snr_grid"}
