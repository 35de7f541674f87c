"""Schedules, exact denoisers and solvers against closed forms, and diffusers' schedulers where they are right."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from pushforward.families.diffusion.denoisers import (
    PARAMETRISATIONS,
    Counted,
    Denoiser,
    EmpiricalDenoiser,
    GaussianDenoiser,
    Labelled,
    MixtureDenoiser,
    NetworkDenoiser,
)
from pushforward.families.diffusion.schedules import (
    VE,
    VP,
    Cosine,
    DiscreteDDPM,
    Rectified,
    Schedule,
    karras_grid,
    log_snr_grid,
    uniform_grid,
)
from pushforward.families.diffusion.solvers import (
    SOLVERS,
    ancestral,
    ddim,
    dpmpp_2m,
    dpmpp_sde,
    euler,
    final,
    heun,
    invert,
    lagrange_exponential,
    renoise,
    start,
    unipc,
)
from pushforward.randomness import SampleStream

SCHEDULES: dict[str, Schedule] = {
    "ddpm": DiscreteDDPM(),
    "vp": VP(),
    "cosine": Cosine(),
    "ve": VE(),
    "rectified": Rectified(),
}
schedules = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def number(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


# --- schedules --------------------------------------------------------------------------------------------------


def test_ddpms_table_is_the_running_product_of_one_minus_beta() -> None:
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    alpha, sigma = DiscreteDDPM()(torch.arange(1, 1001, dtype=torch.float64) / 1000)
    np.testing.assert_allclose(alpha.numpy() ** 2, kept, rtol=1e-9)
    np.testing.assert_allclose(sigma.numpy() ** 2, 1 - kept, rtol=1e-9)


def test_vp_integrates_its_rate() -> None:
    for t in (0.01, 0.3, 1.0):
        lost = integrate.quad(lambda u: 0.1 + u * (20 - 0.1), 0, t)[0]
        alpha, sigma = VP()(number(t))
        assert float(alpha) == pytest.approx(math.exp(-lost / 2), rel=1e-12)
        assert float(sigma) == pytest.approx(math.sqrt(1 - math.exp(-lost)), rel=1e-12)


def test_cosine_is_the_papers_formula_and_ends_in_pure_noise() -> None:
    def kept(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    for t in (1e-4, 0.2, 0.77):
        alpha, sigma = Cosine()(number(t))
        assert float(alpha) ** 2 == pytest.approx(kept(t) / kept(0), rel=1e-12)
        assert float(sigma) ** 2 == pytest.approx(1 - kept(t) / kept(0), rel=1e-9)
    assert float(Cosine()(number(1.0))[0]) == 0.0


@schedules
def test_time_is_the_inverse_of_the_ratio(schedule: Schedule) -> None:
    t = torch.linspace(1e-4, 1, 1001, dtype=torch.float64)
    torch.testing.assert_close(schedule.time(schedule.ratio(t)), t, rtol=0, atol=1e-9)


@schedules
def test_data_at_0_and_more_noise_with_time(schedule: Schedule) -> None:
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    ratio = schedule.ratio(t)
    assert ratio[0] == 0
    assert (ratio.diff() > 0).all()
    alpha, sigma = schedule(torch.zeros((), dtype=torch.float32))
    assert (float(alpha), float(sigma)) == (1.0, 0.0)
    assert alpha.dtype == torch.float32


@schedules
@pytest.mark.parametrize("grid", [uniform_grid, karras_grid, log_snr_grid])
def test_grids_fall_from_1_to_0(schedule: Schedule, grid: Callable[..., Tensor]) -> None:
    times = grid(schedule, 12)
    assert times.shape == (13,)
    assert (times[0], times[-1]) == (1, 0)
    assert (times.diff() < 0).all()


def test_karras_grid_is_the_papers() -> None:
    i = torch.arange(18, dtype=torch.float64)
    sigmas = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(VE().ratio(karras_grid(VE(), 18))[:-1], sigmas, rtol=1e-9, atol=0)


# --- denoisers --------------------------------------------------------------------------------------------------


@schedules
def test_mixture_denoiser_is_the_posterior_mean_by_quadrature(schedule: Schedule) -> None:
    means, weights, sd = torch.tensor([[-1.0], [0.5]]).double(), torch.tensor([0.3, 0.7], dtype=torch.float64), 0.2
    denoiser = MixtureDenoiser(means, sd, schedule, weights=weights)

    x0 = np.linspace(-4, 4, 200_001)
    density = sum(w * stats.norm.pdf(x0, m, sd) for w, m in zip((0.3, 0.7), (-1.0, 0.5), strict=True))
    for ratio, x in ((0.1, 0.4), (0.8, -0.3), (5.0, 1.5)):
        t = schedule.time(number(ratio))
        alpha, sigma = (float(v) for v in schedule(t))
        like = density * stats.norm.pdf(x, alpha * x0, sigma)
        mean = integrate.simpson(x0 * like, x=x0) / integrate.simpson(like, x=x0)
        assert float(denoiser(number(x)[None, None], t)) == pytest.approx(mean, abs=1e-8)


def test_gaussian_denoiser_agrees_with_the_mixture_of_one() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, generator=g, dtype=torch.float64)
    mean = torch.randn(3, generator=g, dtype=torch.float64)
    for schedule in SCHEDULES.values():
        one = GaussianDenoiser(mean, 0.49 * torch.eye(3, dtype=torch.float64), schedule)
        other = MixtureDenoiser(mean[None], 0.7, schedule)
        torch.testing.assert_close(one(x, number(0.3)), other(x, number(0.3)))


@pytest.mark.parametrize("chunk", [7, 1000])
def test_empirical_denoiser_is_the_naive_formula(chunk: int) -> None:
    g = torch.Generator().manual_seed(0)
    data, x = torch.randn(30, 1, 2, 3, generator=g), torch.randn(4, 1, 2, 3, generator=g)
    labels = torch.arange(30) % 3
    for schedule in SCHEDULES.values():
        for t in (0.02, 0.3, 0.9):
            alpha, sigma = schedule(number(t))
            away = (x[:, None].double() - alpha * data.double()).flatten(2).square().sum(2)
            w = torch.softmax(-away / (2 * sigma**2), dim=1)
            naive = torch.einsum("bn,nchw->bchw", w, data.double()).float()
            torch.testing.assert_close(EmpiricalDenoiser(data, schedule, chunk=chunk)(x, number(t)), naive)
            asked = torch.tensor([0, 1, 2, 1])
            own = torch.where(labels == asked[:, None], away, torch.inf)
            naive = torch.einsum("bn,nchw->bchw", torch.softmax(-own / (2 * sigma**2), dim=1), data.double()).float()
            found = EmpiricalDenoiser(data, schedule, labels=labels, chunk=chunk)(x, number(t), asked)
            torch.testing.assert_close(found, naive)


def test_empirical_denoiser_gives_back_the_nearest_point_without_noise_and_the_mean_in_pure_noise() -> None:
    g = torch.Generator().manual_seed(0)
    data, x = torch.randn(50, 4, generator=g), torch.randn(6, 4, generator=g)
    denoiser = EmpiricalDenoiser(data, Rectified(), chunk=16)
    nearest = data[torch.cdist(x, data).argmin(dim=1)]
    torch.testing.assert_close(denoiser(x, number(1e-6)), nearest)
    torch.testing.assert_close(denoiser(x, number(1.0)), data.mean(dim=0).expand(6, 4))


def test_times_may_differ_within_a_batch() -> None:
    g = torch.Generator().manual_seed(0)
    data = torch.randn(20, 2, generator=g)
    x, t = torch.randn(3, 2, generator=g), torch.tensor([0.1, 0.5, 0.9])
    for schedule in SCHEDULES.values():
        for denoiser in (
            EmpiricalDenoiser(data, schedule),
            MixtureDenoiser(data, 0.3, schedule),
            GaussianDenoiser(data[0], torch.eye(2), schedule),
        ):
            alone = torch.cat([denoiser(x[i : i + 1], t[i]) for i in range(3)])
            torch.testing.assert_close(denoiser(x, t), alone)


@schedules
@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
def test_a_network_that_gives_the_exact_target_is_the_exact_denoiser(schedule: Schedule, parametrisation: str) -> None:
    truth = MixtureDenoiser(torch.tensor([[-1.0, 0.2], [0.5, 0.9]]).double(), 0.3, schedule)
    t = number(0.6)
    alpha, sigma = schedule(t)
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    d = truth(x, t)
    eps = (x - alpha * d) / sigma
    sd = 0.5
    # EDM's target in its own words: (x0 - c_skip y) / c_out of y = x / alpha at s = sigma / alpha
    s, y = sigma / alpha, x / alpha
    edm = (d - sd**2 / (s**2 + sd**2) * y) / (s * sd / (s**2 + sd**2).sqrt())
    target = {"eps": eps, "x0": d, "v": alpha * eps - sigma * d, "flow": eps - d, "edm": edm}[parametrisation]
    if parametrisation == "v" and isinstance(schedule, VE | Rectified):
        # v = alpha eps - sigma x0 gives D back by (alpha x - sigma v) / (alpha^2 + sigma^2) on any schedule
        torch.testing.assert_close((alpha * x - sigma * target) / (alpha**2 + sigma**2), d)

    class Oracle(torch.nn.Module):
        def forward(self, scaled: Tensor, level: Tensor, labels: Tensor | None) -> Tensor:
            torch.testing.assert_close(level, (sigma / alpha).log().expand(4))
            return target

    if parametrisation == "eps" and float(schedule.levels(number(1.0))[0]) == 0:
        with pytest.raises(ValueError, match="pure noise"):
            NetworkDenoiser(Oracle(), schedule, parametrisation=parametrisation)  # type: ignore[arg-type]
        return
    denoiser = NetworkDenoiser(Oracle(), schedule, parametrisation=parametrisation, data_sd=sd)  # type: ignore[arg-type]
    torch.testing.assert_close(denoiser(x, t), d)


def test_score_is_the_gradient_of_the_noised_log_density() -> None:
    means, sd = torch.tensor([[-1.0, 0.2], [0.5, 0.9]]).double(), 0.3
    schedule = VP()
    t = number(0.3)
    alpha, sigma = schedule(t)
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    variance = (alpha * sd) ** 2 + sigma**2
    log_p = torch.logsumexp(-(x[:, None] - alpha * means).square().sum(2) / (2 * variance), dim=1)
    (slope,) = torch.autograd.grad(log_p.sum(), x)
    torch.testing.assert_close(MixtureDenoiser(means, sd, schedule).score(x.detach(), t), slope)


# --- solvers ----------------------------------------------------------------------------------------------------

MEAN = torch.tensor([0.5, -1.0], dtype=torch.float64)
FACTOR = torch.tensor([[0.6, 0.0], [0.3, 0.2]], dtype=torch.float64)
COVARIANCE = FACTOR @ FACTOR.T


def gaussian_flow(schedule: Schedule, x: Tensor, a: float, b: float) -> Tensor:
    """The probability-flow ODE of Gaussian data from time a to b, in closed form."""
    (alpha, sigma), (alpha2, sigma2) = schedule(number(a)), schedule(number(b))
    values, vectors = torch.linalg.eigh(COVARIANCE)
    grow = ((alpha2**2 * values + sigma2**2) / (alpha**2 * values + sigma**2)).sqrt()
    return ((x - alpha * MEAN) @ vectors * grow) @ vectors.T + alpha2 * MEAN


def even_log_grid(schedule: Schedule, steps: int, first: float = 0.95, last: float = 0.05) -> Tensor:
    """Equal steps of log ratio from t = first to the ratio last, neither end being without data or noise."""
    high = float(schedule.ratio(number(first)))
    grid = schedule.time(torch.linspace(math.log(high), math.log(last), steps + 1, dtype=torch.float64).exp())
    grid[0] = first
    return grid


def even_root_grid(schedule: Schedule, steps: int, first: float = 0.95, last: float = 0.05) -> Tensor:
    """Equal steps of the ratio's third root between the same ends: each step of log ratio is longer than the one before it."""
    high = float(schedule.ratio(number(first)))
    grid = schedule.time(torch.linspace(high ** (1 / 3), last ** (1 / 3), steps + 1, dtype=torch.float64) ** 3)
    grid[0] = first
    return grid


ORDERS = [
    ("ddim", ddim, 1),
    ("euler", euler, 1),
    ("heun", heun, 2),
    ("dpmpp-2m", dpmpp_2m, 2),
    ("unipc-1", partial(unipc, order=1), 2),
    ("unipc-2", partial(unipc, order=2), 3),
]


@schedules
@pytest.mark.parametrize(("solve", "order"), [o[1:] for o in ORDERS], ids=[o[0] for o in ORDERS])
def test_a_solvers_error_falls_with_its_stated_order(schedule: Schedule, solve: Callable, order: int) -> None:
    denoiser = GaussianDenoiser(MEAN, COVARIANCE, schedule)
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x * schedule(number(0.95))[1]
    steps, errors = (32, 64, 128), []
    for n in steps:
        grid = even_log_grid(schedule, n)
        truth = gaussian_flow(schedule, x, float(grid[0]), float(grid[-1]))
        errors.append(float((final(solve(denoiser, x, grid)) - truth).norm()))
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert -slope == pytest.approx(order, abs=0.15)


def test_unipcs_own_order_shows_where_its_start_up_steps_count() -> None:
    """From t = .3 the first steps, which have no past, err as much as the later ones: the limit of order 3 is seen."""
    schedule = VP()
    denoiser = GaussianDenoiser(MEAN, COVARIANCE, schedule)
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    steps, errors = (128, 256, 512), []
    for n in steps:
        grid = even_log_grid(schedule, n, first=0.3, last=0.02)
        truth = gaussian_flow(schedule, x, float(grid[0]), float(grid[-1]))
        errors.append(float((final(unipc(denoiser, x, grid)) - truth).norm()))
    assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(3, abs=0.2)


@pytest.mark.parametrize(
    ("solve", "order"), [*[o[1:] for o in ORDERS], (unipc, 3)], ids=[*[o[0] for o in ORDERS], "unipc-3"]
)
@pytest.mark.parametrize("grid_of", [even_log_grid, even_root_grid])
def test_orders_hold_on_a_mixture_too(solve: Callable, order: int, grid_of: Callable) -> None:
    schedule = VP()
    denoiser = MixtureDenoiser(torch.tensor([[-1.0, 0.0], [1.0, 0.5]]).double(), 0.4, schedule)
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grid = even_log_grid(schedule, 2)
    first, last = (float(v) for v in schedule.ratio(grid[[0, -1]]))
    (alpha, _), (alpha_last, _) = schedule(grid[0]), schedule(grid[-1])

    def slope_at(
        log_ratio: float, z: np.ndarray
    ) -> np.ndarray:  # dz / dlog s = z - D(alpha z, t), z = x / alpha, s = sigma / alpha
        t = schedule.time(number(math.exp(log_ratio)))
        z_ = torch.from_numpy(z).reshape(-1, 2)
        return (z_ - denoiser(schedule(t)[0] * z_, t)).flatten().numpy()

    ends = (math.log(first), math.log(last))
    solved = integrate.solve_ivp(slope_at, ends, (x / alpha).flatten().numpy(), method="DOP853", rtol=1e-11, atol=1e-11)
    truth = alpha_last * torch.from_numpy(solved.y[:, -1]).reshape(-1, 2)
    steps, errors = (32, 64, 128), []
    for n in steps:
        errors.append(float((final(solve(denoiser, x, grid_of(schedule, n))) - truth).norm()))
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    if (
        solve is unipc
    ):  # no less than 3: the first steps, which have no past, hold it there in the limit, and hardly err here
        assert 2.7 < -slope < 4.5
    else:
        assert -slope == pytest.approx(order, abs=0.3)


@schedules
def test_ddim_on_gaussians_is_the_product_of_its_linear_steps(schedule: Schedule) -> None:
    grid = uniform_grid(schedule, 7)
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values, vectors = torch.linalg.eigh(COVARIANCE)
    alpha, sigma = schedule(grid)
    u = x @ vectors
    centre = MEAN @ vectors
    for i in range(7):
        a, s, b, q = alpha[i], sigma[i], alpha[i + 1], sigma[i + 1]
        gain = a * values / (a**2 * values + s**2)
        d = centre + gain * (u - a * centre)
        u = b * d + q * (u - a * d) / s
    torch.testing.assert_close(final(ddim(GaussianDenoiser(MEAN, COVARIANCE, schedule), x, grid)), u @ vectors.T)


@schedules
def test_every_solver_lands_on_the_only_point_there_is(schedule: Schedule) -> None:
    point = torch.tensor([[0.3, -0.8]])
    denoiser = EmpiricalDenoiser(point, schedule)
    for name, entry in SOLVERS.items():
        grid = entry.grid(schedule, 12)
        stream = SampleStream(0, torch.arange(3))
        x = start(schedule, (3, 2), grid, generator=stream)
        found = final(entry.solve(denoiser, x, grid, generator=stream))
        assert torch.isfinite(found).all(), name
        torch.testing.assert_close(found, point.expand(3, 2), msg=name)


@schedules
@pytest.mark.parametrize("name", sorted(SOLVERS.keys() - {"renoise"}))  # which is for posteriors: no law is its limit
def test_samples_follow_the_mixture(schedule: Schedule, name: str) -> None:
    """The share of each mode, and the joint law within it: along four lines and in its radius, by Kolmogorov and Smirnov."""
    entry = SOLVERS[name]
    means, sd = torch.tensor([[-0.7, 0.3], [0.6, -0.2]]).double(), 0.15
    denoiser = MixtureDenoiser(means, sd, schedule, weights=torch.tensor([0.25, 0.75]).double())
    n = 2000
    stream = SampleStream(3, torch.arange(n))
    steps = {"ddpm": 400, "euler": 200, "ddim": 200, "dpmpp-sde": 200}.get(name, 60)
    # ancestral samplers are right in the limit of small steps of log-SNR, from any schedule
    grid = karras_grid(schedule, steps, high=200.0, low=0.01)
    x = start(schedule, (n, 2), grid, generator=stream).double()
    found = final(entry.solve(denoiser, x, grid, generator=stream))
    near = torch.cdist(found, means).argmin(dim=1)
    share = float((near == 1).double().mean())
    # VP and DDPM end with a little data left, which shifts the start: their shares are off by what N(0, sigma) forgets
    assert share == pytest.approx(0.75, abs=4 * math.sqrt(0.75 * 0.25 / n) + 0.01)
    for k in range(2):
        z = ((found[near == k] - means[k]) / sd).numpy()
        for angle in range(0, 180, 45):
            along = z @ [math.cos(math.radians(angle)), math.sin(math.radians(angle))]
            assert stats.kstest(along, "norm").pvalue > 1e-3, (name, k, angle)
        assert stats.kstest((z**2).sum(1), "chi2", args=(2,)).pvalue > 1e-3, (name, k)


def test_ddim_with_eta_1_is_ddpm() -> None:
    for schedule in SCHEDULES.values():
        denoiser = GaussianDenoiser(MEAN.float(), COVARIANCE.float(), schedule)
        grid = uniform_grid(schedule, 10)
        x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
        one = final(ddim(denoiser, x, grid, eta=1.0, generator=SampleStream(0, torch.arange(4))))
        other = final(ancestral(denoiser, x, grid, generator=SampleStream(0, torch.arange(4))))
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_ddpm_on_its_table_is_the_papers_step() -> None:
    betas = np.linspace(1e-4, 0.02, 1000)
    kept = np.cumprod(1 - betas)
    schedule = DiscreteDDPM()
    x, d = torch.tensor([[0.7]]).double(), 0.2
    point = EmpiricalDenoiser(torch.tensor([[d]]).double(), schedule)
    k = 500  # level 500 to 499
    grid = torch.tensor([k / 1000, (k - 1) / 1000], dtype=torch.float64)
    beta, before, now = betas[k - 1], kept[k - 2], kept[k - 1]
    mean = math.sqrt(before) * beta / (1 - now) * d + math.sqrt(1 - beta) * (1 - before) / (1 - now) * 0.7
    for variance, spread in (("small", beta * (1 - before) / (1 - now)), ("large", beta)):
        noise = SampleStream(5, torch.arange(1)).normal((1, 1)).double()
        found = final(ancestral(point, x, grid, variance=variance, generator=SampleStream(5, torch.arange(1))))  # type: ignore[arg-type]
        assert float(found) == pytest.approx(float(mean + math.sqrt(spread) * noise), rel=1e-7)


def test_ddim_inverts_and_comes_back() -> None:
    schedule = VP()
    denoiser = GaussianDenoiser(MEAN, COVARIANCE, schedule)
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) @ FACTOR.T + MEAN
    grid = even_log_grid(schedule, 400, first=1.0, last=0.002)
    noise = final(invert(denoiser, x, grid.flip(0)))
    truth = gaussian_flow(schedule, x, float(grid[-1]), 1.0)
    assert float((noise - truth).abs().max()) < 0.02
    torch.testing.assert_close(final(ddim(denoiser, noise, grid)), x, rtol=0, atol=0.03)


def test_evaluations_are_what_the_table_says() -> None:
    schedule = VP()
    for name, entry in SOLVERS.items():
        counted = Counted(GaussianDenoiser(MEAN, COVARIANCE, schedule))
        x = torch.zeros(1, 2, dtype=torch.float64)
        steps = list(entry.solve(counted, x, entry.grid(schedule, 9), generator=SampleStream(0, torch.arange(1))))
        assert len(steps) == 9
        assert steps[-1].t == 0
        assert counted.evaluations == entry.evaluations(9), name


def test_churn_keeps_the_law_and_uses_the_generator() -> None:
    schedule = VE()
    denoiser = GaussianDenoiser(torch.zeros(1).double(), 0.25 * torch.eye(1).double(), schedule)
    n = 4000
    grid = karras_grid(schedule, 60)
    ends = []
    for churn in (0.0, 20.0):
        stream = SampleStream(1, torch.arange(n))
        x = start(schedule, (n, 1), grid, generator=stream).double()
        ends.append(final(heun(denoiser, x, grid, churn=churn, generator=stream)))
        assert stats.kstest(ends[-1][:, 0].numpy() / 0.5, "norm").pvalue > 1e-3
    assert float((ends[0] - ends[1]).abs().mean()) > 0.1  # noise was added


def test_renoise_without_fresh_noise_is_ddim() -> None:
    denoiser = GaussianDenoiser(MEAN, COVARIANCE, VP())
    x, grid = torch.ones(2, 2).double(), uniform_grid(VP(), 6)
    torch.testing.assert_close(final(renoise(denoiser, x, grid, share=0.0)), final(ddim(denoiser, x, grid)))


@pytest.mark.parametrize("h", [1e-3, 0.3, 1.9, 2.1, 7.0])
def test_exponential_weights_integrate_polynomials(h: float) -> None:
    nodes = [-1.3, -0.4, 0.0, 0.2]
    low, high = -0.4, -0.4 + h
    weights = lagrange_exponential(nodes, low, high)
    for k in range(4):
        truth = integrate.quad(lambda v: math.exp(v - high) * v**k, low, high, epsabs=1e-14, epsrel=1e-13)[0]  # noqa: B023
        assert sum(w * v**k for w, v in zip(weights, nodes, strict=True)) == pytest.approx(truth, rel=1e-8, abs=1e-12)


def test_solvers_draw_each_samples_noise_from_its_own_stream() -> None:
    denoiser: Denoiser = GaussianDenoiser(MEAN.float(), COVARIANCE.float(), VP())
    for entry in SOLVERS.values():
        grid = entry.grid(VP(), 6)

        def run(index: list[int]) -> Tensor:
            stream = SampleStream(0, torch.tensor(index))
            x = start(VP(), (len(index), 2), grid, generator=stream)  # noqa: B023
            return final(entry.solve(denoiser, x, grid, generator=stream))  # noqa: B023

        torch.testing.assert_close(run([0, 1, 2, 3])[[3, 1]], run([3, 1]))


def test_a_grid_must_fall_within_the_unit_interval() -> None:
    denoiser = GaussianDenoiser(MEAN, COVARIANCE, VP())
    x = torch.zeros(1, 2).double()
    for grid in ([0.5, 0.7], [1.2, 0.0], [0.5], [1.0, 0.5, 0.5]):
        with pytest.raises(ValueError, match="grid"):
            final(ddim(denoiser, x, torch.tensor(grid, dtype=torch.float64)))


def test_labels_are_bound_for_solvers() -> None:
    data, labels = torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1])
    denoiser = EmpiricalDenoiser(data, VP(), labels=labels)
    bound = Labelled(denoiser, torch.tensor([1, 0, 1]))
    found = final(
        dpmpp_sde(bound, torch.zeros(3, 1), log_snr_grid(VP(), 8), generator=SampleStream(0, torch.arange(3)))
    )
    torch.testing.assert_close(found, torch.tensor([[1.0], [-1.0], [1.0]]))


def test_churn_acts_between_its_ratios_and_as_strongly_as_it_says() -> None:
    denoiser = GaussianDenoiser(MEAN, COVARIANCE, VE())
    grid = karras_grid(VE(), 12)
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 80
    run = lambda **k: final(heun(denoiser, x, grid, generator=SampleStream(0, torch.arange(64)), **k))  # noqa: E731
    plain = run()
    assert torch.equal(run(churn=5.0, churn_from=100.0), plain)  # no level is there
    assert torch.equal(run(churn=5.0, churn_to=0.001), plain)
    assert not torch.equal(run(churn=5.0, churn_from=1.0), run(churn=5.0))
    assert not torch.equal(run(churn=5.0, churn_noise=1.1), run(churn=5.0))
    # gamma = min(churn / steps, sqrt 2 - 1): from there on more churn is none
    assert torch.equal(run(churn=12 * 0.5), run(churn=12 * 0.9))
    assert not torch.equal(run(churn=12 * 0.3), run(churn=12 * 0.4))


def test_the_sde_solvers_second_order_term_pays() -> None:
    """Of Gaussian data the law at the end is Gaussian too: with few steps its variance is nearer to the truth than without that term."""
    schedule = VE()
    denoiser = GaussianDenoiser(torch.zeros(1).double(), 0.25 * torch.eye(1).double(), schedule)
    n = 20_000
    errors = {}
    for steps in (10, 20):
        grid = log_snr_grid(schedule, steps, low=0.02)
        stream = SampleStream(2, torch.arange(n))
        x = start(schedule, (n, 1), grid, generator=stream).double()
        errors[steps] = abs(float(final(dpmpp_sde(denoiser, x, grid, generator=stream)).var()) - 0.25)
        if steps == 10:  # of first order: D constant over each step
            stream = SampleStream(2, torch.arange(n))
            start(schedule, (n, 1), grid, generator=stream)
            alpha, sigma = schedule(grid)
            for i in range(len(grid) - 1):
                fade = float(alpha[i] * sigma[i + 1] / (sigma[i] * alpha[i + 1]))
                d = denoiser(x, grid[i])
                x = float(sigma[i + 1] / sigma[i]) * fade * x + float(alpha[i + 1]) * (1 - fade**2) * d
                if i < len(grid) - 2:
                    x = x + float(sigma[i + 1]) * math.sqrt(1 - fade**2) * stream.normal(x.shape).double()
            first = abs(float(x.var()) - 0.25)
    assert errors[10] < 0.7 * first
    assert errors[20] < 0.02


# --- written out from the papers --------------------------------------------------------------------------------

MIXTURE_MEANS = torch.tensor([[-1.0, 0.0], [1.0, 0.5]]).double()


def test_edms_sampler_is_its_algorithm() -> None:
    """Algorithm 2 of Karras et al., noise inflated by S_noise and added below a ratio only."""
    schedule, churn, inflate, top = VE(), 3.0, 1.2, 40.0
    denoiser = MixtureDenoiser(MIXTURE_MEANS, 0.4, schedule)
    grid = karras_grid(schedule, 12)
    levels = schedule.ratio(grid).tolist()
    begin = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 80
    x, stream = begin, SampleStream(4, torch.arange(5))
    expect = lambda x, s: denoiser(x, schedule.time(number(s)))  # noqa: E731
    for now, low in pairwise(levels):
        high = now * (1 + min(churn / 12, math.sqrt(2) - 1)) if now <= top else now
        if high > now:
            x = x + math.sqrt(high**2 - now**2) * inflate * stream.normal(x.shape).double()
        slope = (x - expect(x, high)) / high
        ahead = x + (low - high) * slope
        x = ahead if low == 0 else x + (low - high) / 2 * (slope + (ahead - expect(ahead, low)) / low)
    found = final(
        heun(
            denoiser,
            begin,
            grid,
            churn=churn,
            churn_noise=inflate,
            churn_to=top,
            generator=SampleStream(4, torch.arange(5)),
        )
    )
    torch.testing.assert_close(found, x, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("grid_of", [even_log_grid, even_root_grid])
def test_the_sde_solver_is_its_formula_on_uneven_steps_too(grid_of: Callable) -> None:
    """SDE-DPM-Solver++(2M): the difference of the last two D enters by 1 / (2 r), r the last step over this one."""
    schedule = VP()
    denoiser = MixtureDenoiser(MIXTURE_MEANS, 0.4, schedule)
    grid, stream = grid_of(schedule, 8), SampleStream(4, torch.arange(5))
    begin = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alpha, sigma = (v.tolist() for v in schedule(grid))
    lam = [math.log(a / s) for a, s in zip(alpha, sigma, strict=True)]
    x, before = begin, None
    for i in range(8):
        h, d = lam[i + 1] - lam[i], denoiser(x, grid[i])
        gone = 1 - math.exp(-2 * h)
        mean = sigma[i + 1] / sigma[i] * math.exp(-h) * x + alpha[i + 1] * gone * d
        if before is not None:
            r = (lam[i] - lam[i - 1]) / h
            mean = mean + alpha[i + 1] * gone / (2 * r) * (d - before)
        x, before = mean + sigma[i + 1] * math.sqrt(gone) * stream.normal(x.shape).double(), d
    found = final(dpmpp_sde(denoiser, begin, grid, generator=SampleStream(4, torch.arange(5))))
    torch.testing.assert_close(found, x, rtol=1e-7, atol=1e-7)


def test_unipc_to_data_is_its_formula_and_its_last_steps_are_of_lower_order() -> None:
    """Predictors through 1, 2, 3, ..., 3, 2 levels and then D itself; correctors through up to three and the new one: weights by quadrature."""
    schedule, n = VP(), 9
    denoiser = MixtureDenoiser(MIXTURE_MEANS, 0.4, schedule)
    grid = log_snr_grid(schedule, n)
    begin = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alpha, sigma = (v.tolist() for v in schedule(grid))
    lam = [math.log(a / s) for a, s in zip(alpha[:-1], sigma[:-1], strict=True)]

    def moved(i: int, x: Tensor, nodes: list[int], d: dict[int, Tensor]) -> Tensor:
        """x from level i to i + 1 with D the Lagrange polynomial through the nodes."""
        out, top = sigma[i + 1] / sigma[i] * x, lam[i + 1]
        for j in nodes:
            others = [lam[k] for k in nodes if k != j]

            def term(v: float, at: float = lam[j], rest: list[float] = others) -> float:
                return math.exp(v - top) * math.prod((v - o) / (at - o) for o in rest)

            out = out + alpha[i + 1] * integrate.quad(term, lam[i], top, epsabs=1e-13)[0] * d[j]
        return out

    x, before, d = begin, begin, {}
    for i in range(n):
        d[i] = denoiser(x, grid[i])
        if i:
            x = moved(i - 1, before, list(range(max(0, i - 3), i + 1)), d)
        before = x
        if i < n - 1:
            order = min(3, i + 1, n - i)
            x = moved(i, x, list(range(i - order + 1, i + 1)), d)
    torch.testing.assert_close(final(unipc(denoiser, begin, grid)), d[n - 1], rtol=1e-7, atol=1e-7)


def test_unipc_is_the_most_exact_with_few_steps_from_noise_to_data() -> None:
    """On the whole line, as it is used, from VP's noise to data: against the closed form of Gaussians."""
    schedule = VP()
    denoiser = GaussianDenoiser(MEAN, COVARIANCE, schedule)
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = gaussian_flow(schedule, x, 1.0, 0.0)
    grid = log_snr_grid(schedule, 20)
    error = {
        name: float((final(solve(denoiser, x, grid)) - truth).norm())
        for name, solve in {"1": partial(unipc, order=1), "3": unipc, "ddim": ddim, "dpmpp-2m": dpmpp_2m}.items()
    }
    assert error["3"] < 0.6 * min(error["1"], error["dpmpp-2m"]), error
    assert error["dpmpp-2m"] < 0.3 * error["ddim"], error


def test_inversion_begins_at_the_first_level_with_noise() -> None:
    grid = torch.tensor([0.0, 0.01, 0.3, 0.7, 1.0], dtype=torch.float64)
    counted = Counted(GaussianDenoiser(MEAN, COVARIANCE, VP()))
    steps = list(invert(counted, torch.zeros(1, 2, dtype=torch.float64), grid))
    assert [s.t for s in steps] == [0.3, 0.7, 1.0]
    assert counted.evaluations == 3


def test_default_grids_are_those_of_the_papers() -> None:
    """DDPM and DDIM: even levels of the table; EDM: Karras's; exponential solvers: even log-SNR."""
    assert {k: v.grid.__name__ for k, v in SOLVERS.items()} == {
        **dict.fromkeys(("ddpm", "ddim"), "uniform_grid"),
        **dict.fromkeys(("euler", "heun"), "karras_grid"),
        **dict.fromkeys(("dpmpp-2m", "dpmpp-sde", "unipc", "renoise"), "log_snr_grid"),
    }
