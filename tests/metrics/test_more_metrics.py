from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from pushforward.metrics import (
    aupr_in,
    aupr_out,
    auroc,
    density_coverage,
    fpr95_inliers_positive,
    fpr95_outliers_positive,
    frechet_distance,
    frechet_infinity,
    inception_score,
    kernel_distance,
    likelihood,
    memorisation,
    mode_count,
    nearest_distances,
    reverse_kl,
    sliced_wasserstein,
    wasserstein,
)


def gaussian(n: int, d: int, seed: int, *, mean: float = 0.0, sd: float = 1.0) -> torch.Tensor:
    return mean + sd * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- density and coverage: the edge cases of their paper ------------------------------------------------------


def test_equal_distributions_have_the_expected_density_and_coverage() -> None:
    """E[density] = 1 and E[coverage] = 1 - prod_(i=1..k) (n - i) / (n + m - i), about 1 - 2^-k."""
    n, k, found = 400, 5, []
    for seed in range(40):
        d, c = density_coverage(real=gaussian(n, 8, 2 * seed), fake=gaussian(n, 8, 2 * seed + 1), k=k)
        found.append((d.value, c.value))
    expected = 1 - math.prod((n - i) / (2 * n - i) for i in range(1, k + 1))
    density, coverage = np.array(found).T
    assert density.mean() == pytest.approx(1, abs=4 * density.std(ddof=1) / math.sqrt(40))
    assert coverage.mean() == pytest.approx(expected, abs=4 * coverage.std(ddof=1) / math.sqrt(40))


def test_one_real_outlier_draws_precision_but_not_density() -> None:
    from pushforward.metrics import precision_recall

    real = torch.cat([gaussian(500, 8, 0), torch.full((1, 8), 9.0, dtype=torch.float64)])
    fake = gaussian(500, 8, 1, sd=0.1, mean=9.0)
    d, c = density_coverage(real=real, fake=fake)
    assert precision_recall(real=real, fake=fake, k=5).precision.value == 1.0
    assert d.value == pytest.approx(0.2) and c.value == pytest.approx(1 / 501)


def test_one_fake_outlier_changes_nothing() -> None:
    real, fake = gaussian(400, 8, 0), gaussian(400, 8, 1)
    far = torch.cat([fake[:-1], torch.full((1, 8), 50.0, dtype=torch.float64)])
    before, after = density_coverage(real=real, fake=fake), density_coverage(real=real, fake=far)
    assert after.coverage.value == pytest.approx(before.coverage.value, abs=0.01)
    assert after.density.value == pytest.approx(before.density.value, abs=0.02)


def test_ties_of_density_and_coverage_are_open_balls() -> None:
    """Identical arrays: a fake sits on its centre and k - 1 neighbours' strict insides, never on a border."""
    x = gaussian(300, 6, 0)
    d, c = density_coverage(real=x, fake=x)
    assert c.value == 1.0 and d.value == pytest.approx(1.0, abs=1e-12)
    six = x.repeat(6, 1)
    assert [m.value for m in density_coverage(real=six, fake=six)] == [0.0, 0.0]  # balls of radius 0 hold nothing


# --- nearest neighbours and memorisation ----------------------------------------------------------------------


def test_nearest_distances_against_brute_force() -> None:
    a, b = gaussian(70, 5, 0), gaussian(1500, 5, 1)
    distances, index = nearest_distances(queries=a + 1e4, targets=b + 1e4)
    full = torch.cdist(a, b)
    assert torch.equal(index, full.argmin(dim=1))
    torch.testing.assert_close(distances, full.min(dim=1).values, rtol=1e-6, atol=1e-6)


def test_memorisation_tells_copies_from_fresh_samples() -> None:
    train, test = gaussian(500, 6, 0), gaussian(300, 6, 1)
    fresh = memorisation(train=train, test=test, fake=gaussian(300, 6, 2)).score
    copies = memorisation(train=train, test=test, fake=train[:300] + 1e-3).score
    assert abs(fresh.value - 0.5) < 4 * fresh.stderr
    assert copies.value == 1.0


# --- kernel distance ------------------------------------------------------------------------------------------


def brute_kid(x: torch.Tensor, y: torch.Tensor) -> float:
    k = lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3  # noqa: E731
    n, m = len(x), len(y)
    xx, yy = k(x, x), k(y, y)
    return float((xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1)) - 2 * k(x, y).mean())


@pytest.mark.parametrize(("n", "m", "d"), [(2, 2, 1), (3, 50, 4), (41, 39, 5), (300, 250, 16)])
def test_kernel_distance_against_brute_force(n: int, m: int, d: int) -> None:
    x, y = gaussian(n, d, 0), gaussian(m, d, 1, mean=0.5)
    assert kernel_distance(real=x, fake=y).value == pytest.approx(brute_kid(x, y), rel=1e-5, abs=1e-6)


def test_kernel_distance_is_unbiased_and_its_interval_covers() -> None:
    """Equal distributions: mean 0; the 95 % interval holds 0 at least 90 % of the time."""
    found = [kernel_distance(real=gaussian(200, 8, 2 * s), fake=gaussian(200, 8, 2 * s + 1)) for s in range(200)]
    values = np.array([m.value for m in found])
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(200)
    assert np.mean([abs(m.value) < 1.96 * m.stderr for m in found]) > 0.9


def test_kernel_distance_standard_error_matches_repetition() -> None:
    found = [
        kernel_distance(real=gaussian(200, 8, 2 * s), fake=gaussian(200, 8, 2 * s + 1, mean=0.5)) for s in range(200)
    ]
    assert np.mean([m.stderr for m in found]) == pytest.approx(np.std([m.value for m in found]), rel=0.25)


# --- inception score ------------------------------------------------------------------------------------------


def test_inception_score_of_sure_and_even_classes() -> None:
    assert inception_score(200 * torch.eye(10).repeat(100, 1), splits=1).value == pytest.approx(10, rel=1e-9)
    assert inception_score(torch.zeros(50, 10), splits=1).value == pytest.approx(1, rel=1e-9)


def test_inception_score_has_its_known_split_bias() -> None:
    """1000 one-hot logits of random classes in 10 splits: E[exp H(empirical of 100)] is about 10 - 9 * 10 / 200."""
    g = torch.Generator().manual_seed(0)
    score = inception_score(1000 * torch.eye(10)[torch.randint(10, (1000,), generator=g)], splits=10)
    assert score.value == pytest.approx(9.55, abs=0.15)


def test_inception_score_needs_a_sample_a_split() -> None:
    with pytest.raises(ValueError, match="splits"):
        inception_score(torch.zeros(5, 10), splits=6)


# --- transport ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1, 2])
def test_one_dimensional_transport_with_unequal_sizes(p: int) -> None:
    x, y = gaussian(30, 1, 0), gaussian(42, 1, 1, mean=1.0)
    import ot

    expected = ot.emd2_1d(x.flatten().numpy(), y.flatten().numpy(), metric="minkowski", p=p) ** (1 / p)
    assert wasserstein(real=x, fake=y, p=p).value == pytest.approx(expected, rel=1e-9)
    if p == 1:
        assert expected == pytest.approx(stats.wasserstein_distance(x.flatten().numpy(), y.flatten().numpy()))
    assert sliced_wasserstein(real=x, fake=y, p=p).value == pytest.approx(expected, rel=1e-5)


def test_wasserstein_of_a_shift_is_its_length() -> None:
    x = gaussian(100, 5, 0)
    shift = torch.tensor([3.0, 0, 4.0, 0, 0], dtype=torch.float64)
    for p in (1, 2):
        assert wasserstein(real=x, fake=x + shift, p=p).value == pytest.approx(5)


@pytest.mark.parametrize("p", [1, 2])
def test_sliced_wasserstein_equals_pot(p: int) -> None:
    import ot

    x, y = gaussian(200, 12, 0), gaussian(200, 12, 1, mean=0.4)
    axes = torch.randn(12, 128, generator=torch.Generator().manual_seed(0))
    theirs = ot.sliced_wasserstein_distance(
        x.numpy(), y.numpy(), projections=(axes / axes.norm(dim=0)).double().numpy(), p=p
    )
    assert sliced_wasserstein(real=x, fake=y, p=p).value == pytest.approx(theirs, rel=1e-5)


def test_too_many_points_for_exact_transport() -> None:
    with pytest.raises(ValueError, match="sliced_wasserstein"):
        wasserstein(real=torch.zeros(5001, 2), fake=torch.zeros(10, 2))


# --- outliers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
def test_outlier_scores_against_scikit_learn(ties: bool) -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

    a, b = gaussian(300, 1, 0).flatten(), gaussian(200, 1, 1, mean=1.0).flatten()
    if ties:
        a, b = (a * 2).round(), (b * 2).round()
    scores, is_out = torch.cat([a, b]).numpy(), np.r_[np.zeros(300), np.ones(200)]
    assert auroc(inliers=a, outliers=b).value == pytest.approx(roc_auc_score(is_out, scores))
    assert aupr_out(inliers=a, outliers=b, repeats=2).value == pytest.approx(average_precision_score(is_out, scores))
    assert aupr_in(inliers=a, outliers=b, repeats=2).value == pytest.approx(
        average_precision_score(1 - is_out, -scores)
    )
    for metric, positive, score in (
        (fpr95_outliers_positive, is_out, scores),
        (fpr95_inliers_positive, 1 - is_out, -scores),
    ):
        fpr, tpr, _ = roc_curve(positive, score, drop_intermediate=False)
        assert metric(inliers=a, outliers=b, repeats=2).value == pytest.approx(fpr[tpr >= 0.95][0])


def test_auroc_standard_error_matches_repetition() -> None:
    found = [auroc(inliers=gaussian(100, 1, 2 * s), outliers=gaussian(80, 1, 2 * s + 1, mean=1.0)) for s in range(300)]
    assert np.mean([m.stderr for m in found]) == pytest.approx(np.std([m.value for m in found]), rel=4 / math.sqrt(600))


def test_outlier_metrics_refuse_nan() -> None:
    with pytest.raises(ValueError, match="1 of 3 scores are not numbers"):
        auroc(inliers=torch.tensor([0.0, math.nan, 1.0]), outliers=torch.zeros(5))


# --- likelihood -----------------------------------------------------------------------------------------------


def test_likelihood_by_hand_and_never_drops() -> None:
    found = likelihood(torch.tensor([-2.0, -4.0]), dimensions=3, kind="exact")
    assert (found.nats.value, found.nats.stderr) == pytest.approx((3.0, 1.0))
    assert found.bits_per_dim.value == pytest.approx(3 / (3 * math.log(2)))
    with pytest.raises(ValueError, match="1 of 2 log-likelihoods are not finite"):
        likelihood(torch.tensor([-2.0, math.nan]), dimensions=3, kind="exact")


# --- modes, extrapolation -------------------------------------------------------------------------------------


def test_reverse_kl_against_scipy_and_repetition() -> None:
    g = torch.Generator().manual_seed(0)
    q, p = torch.tensor([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    found = [
        reverse_kl(torch.eye(3)[torch.multinomial(q, 800, replacement=True, generator=g)], reference=p)
        for _ in range(300)
    ]
    assert np.mean([m.value for m in found]) == pytest.approx(stats.entropy(q.numpy(), p), abs=0.01)
    assert np.mean([m.stderr for m in found]) == pytest.approx(np.std([m.value for m in found]), rel=4 / math.sqrt(600))


def test_reverse_kl_refuses_what_is_infinite() -> None:
    with pytest.raises(ValueError, match="infinite"):
        reverse_kl(torch.eye(2), reference=np.array([1.0, 0.0]))


def test_mode_count_with_a_minimum() -> None:
    logits = torch.eye(5)[torch.tensor([0] * 10 + [1] * 3 + [2])]
    assert [mode_count(logits, minimum=m) for m in (1, 2, 5)] == [3, 2, 1]


def test_frechet_infinity_has_lost_the_bias() -> None:
    """N(0, I) against N(0.1, 1.1^2 I) in 16 dimensions: 16 (0.1^2 + 0.1^2) = 0.32 in the limit."""
    limits, plain = [], []
    for s in range(20):
        x, y = gaussian(2000, 16, 2 * s), gaussian(2000, 16, 2 * s + 1, mean=0.1, sd=1.1)
        limits.append(frechet_infinity(real=x, fake=y).limit)
        plain.append(frechet_distance(real=x, fake=y).value)
    values = np.array([m.value for m in limits])
    assert values.mean() == pytest.approx(0.32, abs=4 * values.std() / math.sqrt(20))
    assert np.mean(plain) > 0.32 + 4 * np.std(plain) / math.sqrt(20)
    assert np.mean([m.stderr for m in limits]) == pytest.approx(values.std(), rel=0.5)


def test_frechet_infinity_needs_enough_samples() -> None:
    with pytest.raises(ValueError, match="at least 512"):
        frechet_infinity(real=gaussian(500, 64, 0), fake=gaussian(500, 64, 1))
