"""Theory against closed forms that are not its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from pushforward.theory import dirac, divergences, games, variables
from pushforward.theory.divergences import gaussians


@pytest.mark.parametrize(("mean", "sd"), [(0.0, 1.0), (1.5, 1.0), (-0.7, 0.5), (2.0, 2.0)])
def test_divergences_of_gaussians(mean: float, sd: float) -> None:
    line = gaussians(mean, sd)
    exact = math.log(sd) + (1 + mean**2) / (2 * sd**2) - 0.5  # KL(N(0, 1) || N(m, s^2))
    assert divergences.kl(line) == pytest.approx(exact, abs=1e-5 if sd > 1 else 1e-9)  # tails beyond the grid
    if sd == 1:
        assert divergences.wasserstein1(line) == pytest.approx(abs(mean), abs=1e-6)
    else:
        assert divergences.wasserstein1(line) == pytest.approx(
            stats.wasserstein_distance(line.x, line.x, line.p, line.q), abs=1e-3
        )
    p, q = stats.norm(0, 1).pdf, stats.norm(mean, sd).pdf
    half = integrate.quad(
        lambda x: 0.5 * p(x) * math.log(2 * p(x) / (p(x) + q(x))) + 0.5 * q(x) * math.log(2 * q(x) / (p(x) + q(x))),
        -12,
        12,
        limit=200,
    )[0]
    assert divergences.jensen_shannon(line) == pytest.approx(half, abs=1e-7)
    chi = integrate.quad(lambda x: (p(x) - q(x)) ** 2 / (p(x) + q(x)), -12, 12, limit=200)[0]
    assert divergences.pearson(line) == pytest.approx(chi, abs=1e-7)
    assert divergences.least_squares_value(line) == pytest.approx(chi, abs=1e-7)


def test_the_optimal_discriminator_is_better_than_any_that_is_near() -> None:
    line = gaussians(1.0, 0.7)
    best = divergences.optimal_discriminator(line)
    top = divergences.value(line, best)
    assert top == pytest.approx(2 * divergences.jensen_shannon(line) - math.log(4), abs=1e-12)
    for change in (0.02 * np.sin(line.x), 0.02 * np.cos(3 * line.x), -0.01):
        assert divergences.value(line, np.clip(best + change, 1e-9, 1 - 1e-9)) < top


def test_disjoint_laws() -> None:
    x = np.linspace(0, 4, 4001)
    line = divergences.Line(x, (x < 1).astype(float), ((x > 2) & (x < 3)).astype(float))
    assert divergences.kl(line) == math.inf
    assert divergences.jensen_shannon(line) == pytest.approx(math.log(2), abs=1e-3)
    assert divergences.wasserstein1(line) == pytest.approx(2.0, abs=5e-3)
    assert divergences.parallel_lines(-0.3) == (math.inf, math.log(2), 0.3)
    assert divergences.parallel_lines(0.0) == (0.0, 0.0, 0.0)


def test_the_finite_game_by_hand() -> None:
    """Two images and a third that is no data."""
    half, none = Fraction(1, 2), Fraction(0)
    p = (half, half, none)
    assert games.best_value(p, p) == half
    assert games.best_value(p, (half, none, half)) == Fraction(3, 4)
    assert games.best_value(p, (none, none, Fraction(1))) == 1
    for q in games.laws(3, 4):
        assert games.best_value(p, q) == half + games.total_variation(p, q) / 2
        assert games.best_value(p, q) == max(games.payoff(p, q, s) for s in games.sets(3))
    points = games.saddle_points(p, 4)
    assert {q for q, _ in points} == {p}
    # every set that holds both images or none keeps the generator from gaining
    assert {s for _, s in points} == {frozenset(), frozenset({0, 1}), frozenset({0, 1, 2})}
    assert sum(1 for _ in games.laws(3, 4)) == math.comb(6, 2)


def test_saddle_points_by_brute_force() -> None:
    """Neither player gains by any move, tried one by one."""
    p = games.empirical([0, 0, 1], 3)
    grain = 3
    brute = [
        (q, s)
        for q in games.laws(3, grain)
        for s in games.sets(3)
        if all(games.payoff(p, q, s) >= games.payoff(p, q, r) for r in games.sets(3))
        and all(games.payoff(p, q, s) <= games.payoff(p, r, s) for r in games.laws(3, grain))
    ]
    assert set(brute) == set(games.saddle_points(p, grain))


def test_dirac_gan_keeps_what_it_must() -> None:
    circle = dirac.trajectory("minimax", step=1e-3, steps=20_000)
    assert np.hypot(*circle.T).max() < 1.02  # of the flow exactly 1; steps of 1e-3 add a little
    assert np.hypot(*circle.T).min() > 0.99
    turned = np.unwrap(np.arctan2(circle[:, 1], circle[:, 0]))
    assert abs(turned[-1] - turned[0]) > 8  # it does go round
    wgan = dirac.trajectory("wgan", step=1e-3, steps=6283)
    assert wgan[-1] == pytest.approx([1.0, 0.0], abs=0.02)  # a full turn in 2 pi
    for kind in ("r1", "roth", "instance-noise"):
        found = dirac.eigenvalues(kind, 0.5)  # type: ignore[arg-type]
        damping = 0.5 if kind == "r1" else 0.25
        assert found.real == pytest.approx([-damping / 2] * 2)
        field = [dirac.field(*v, kind, 0.5) for v in ((1e-6, 0.0), (0.0, 1e-6))]  # type: ignore[arg-type]
        jacobian = np.array(field).T / 1e-6
        assert sorted(np.linalg.eigvals(jacobian), key=lambda v: v.imag) == pytest.approx(
            sorted(found, key=lambda v: v.imag), abs=1e-6
        )
    with pytest.raises(ValueError, match="no linear part"):
        dirac.eigenvalues("wgan-gp")


@pytest.mark.parametrize(("theta", "psi"), [(0.7, -1.3), (-0.4, 2.0)])
def test_dirac_regularisers_are_gradients_of_what_they_say(theta: float, psi: float) -> None:
    """Roth's penalty by autograd; noise on data and fakes by adaptive quadrature of the players' expected losses, differentiated."""
    t, p = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (theta, psi))
    penalty = 0.5 / 2 * ((1 - torch.sigmoid(p * 0)) ** 2 + torch.sigmoid(p * t) ** 2) * p**2
    bare = dirac.field(theta, psi, "non-saturating")
    found = dirac.field(theta, psi, "roth", 0.5)
    assert found[0] == bare[0]
    assert found[1] - bare[1] == pytest.approx(-float(torch.autograd.grad(penalty, p)[0]))

    def expected(loss: Callable[[float], float], at: float, slope: float) -> float:
        density = lambda e: math.exp(-(e**2) / (2 * 0.5)) / math.sqrt(2 * math.pi * 0.5)  # noqa: E731
        return integrate.quad(lambda e: density(e) * loss(slope * (at + e)), -8, 8, epsabs=1e-12)[0]

    softplus = lambda v: math.log1p(math.exp(v))  # noqa: E731
    of_d = lambda s: expected(lambda v: softplus(-v), 0.0, s) + expected(softplus, theta, s)  # noqa: E731
    of_g = lambda a: expected(lambda v: softplus(-v), a, psi)  # noqa: E731
    h = 1e-4
    want = (-(of_g(theta + h) - of_g(theta - h)) / (2 * h), -(of_d(psi + h) - of_d(psi - h)) / (2 * h))
    assert dirac.field(theta, psi, "instance-noise", 0.5) == pytest.approx(want, abs=1e-6)


def test_pushed_densities() -> None:
    square, logistic, linear = (
        variables.square_of_uniform(),
        variables.logistic_of_normal(),
        variables.piecewise_linear(),
    )
    for pushed in (square, logistic, linear):
        assert variables.probability(pushed, *pushed.support) == pytest.approx(1.0, abs=1e-3)
    assert variables.probability(square, 0.0, 0.25) == pytest.approx(0.5, abs=1e-6)  # P(|x| < 1/2)
    assert variables.probability(logistic, 0.0, 0.5) == pytest.approx(0.5, abs=1e-9)
    assert variables.probability(logistic, 0.1, 0.3) == pytest.approx(
        stats.norm.cdf(math.log(3 / 7)) - stats.norm.cdf(math.log(1 / 9)), abs=1e-8
    )
    assert variables.probability(linear, 0.6, 0.7) == pytest.approx(0.3, abs=1e-3)
    with pytest.raises(ValueError, match="must rise"):
        variables.piecewise_linear((0.0, 1.0), (1.0, 0.0))


def test_a_splines_density() -> None:
    """P(y < f(x)) is P(normal < x), and beyond the bound the normal's own."""
    from pushforward.labs.change_of_variables import monotone_spline

    pushed = monotone_spline()
    x = np.array([-2.5, -1.0, 0.3, 2.0])
    y = pushed.forward(x)
    assert (np.diff(y) > 0).all() and np.abs(y - x).max() > 0.3
    for a, b in zip(x, y, strict=True):
        assert variables.probability(pushed, -6.0, b) == pytest.approx(
            float(stats.norm.cdf(a) - stats.norm.cdf(-6)), abs=1e-6
        )
    assert pushed.density(np.array([4.0])) == pytest.approx(stats.norm.pdf(4.0))


def test_cobweb_corners() -> None:
    corners = variables.cobweb(lambda x: x / 2 + 1, 0.0, 2)
    assert corners.tolist() == [[0, 0], [0, 1], [1, 1], [1, 1.5], [1.5, 1.5]]
