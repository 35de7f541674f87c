from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracles import gaussian_frechet

from pushforward.metrics import (
    class_entropy,
    class_histogram,
    frechet_distance,
    kernel_distance,
    prdc,
    precision_recall,
    reverse_kl,
)
from pushforward.metrics.measurement import as_features


def gaussian(n: int, d: int, seed: int, *, mean: float = 0.0, sd: float = 1.0) -> torch.Tensor:
    return mean + sd * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x.mean(0), torch.from_numpy(np.cov(x.numpy(), rowvar=False)).reshape(x.shape[1], x.shape[1])


@pytest.mark.parametrize(("n", "d"), [(500, 1), (500, 8), (300, 64)])
def test_frechet_of_its_own_moments_against_scipy(n: int, d: int) -> None:
    mix = torch.randn(d, d, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    x, y = gaussian(n, d, 0), gaussian(n + 50, d, 1, mean=0.3) @ mix
    expected = gaussian_frechet(*moments(x), *moments(y))
    assert frechet_distance(real=x, fake=y).value == pytest.approx(expected, rel=1e-8)


def test_frechet_bias_falls_as_one_over_n() -> None:
    """N(0, I) against N(m, s^2 I): d m^2 + d (1 - s)^2 = 1.28 in the limit."""
    excess = [
        frechet_distance(real=gaussian(n, 64, 0), fake=gaussian(n, 64, 1, mean=0.1, sd=1.1)).value - 1.28
        for n in (1000, 8000)
    ]
    assert 0 < excess[1] < 0.5
    assert 5 < excess[0] / excess[1] < 12


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_frechet_is_translation_invariant(offset: float, dtype: torch.dtype) -> None:
    x, y = gaussian(2000, 16, 0), gaussian(2000, 16, 1, mean=0.1, sd=1.1)
    expected = frechet_distance(real=x, fake=y).value
    if dtype == torch.float32:  # round the data itself first: only the metric's own arithmetic is tested
        x, y = (x + offset).float().double() - offset, (y + offset).float().double() - offset
        expected = frechet_distance(real=x, fake=y).value
    assert frechet_distance(real=(x + offset).to(dtype), fake=(y + offset).to(dtype)).value == pytest.approx(
        expected, rel=1e-7
    )


def test_frechet_scales_as_a_square_and_ignores_rotation() -> None:
    x, y = gaussian(500, 8, 0), gaussian(500, 8, 1, mean=0.5)
    base = frechet_distance(real=x, fake=y).value
    q = torch.linalg.qr(gaussian(8, 8, 2))[0]
    assert frechet_distance(real=x @ q, fake=y @ q).value == pytest.approx(base, rel=1e-9)
    for scale in (1e-4, 1e4):
        assert frechet_distance(real=scale * x, fake=scale * y).value == pytest.approx(scale**2 * base, rel=1e-9)


def test_frechet_with_degenerate_covariances() -> None:
    """Two flat Gaussians on crossing axes share no direction: both variances count in full."""
    x = gaussian(400, 2, 0) * torch.tensor([1.0, 0.0])
    y = gaussian(400, 2, 1) * torch.tensor([0.0, 2.0])
    gap = (x.mean(0) - y.mean(0)).square().sum()
    expected = float(gap + x.var(0).sum() + y.var(0).sum())
    assert frechet_distance(real=x, fake=y).value == pytest.approx(expected, rel=1e-9)
    collapsed = torch.ones(400, 2, dtype=torch.float64)
    expected = float((x.mean(0) - 1).square().sum() + x.var(0).sum())
    assert frechet_distance(real=x, fake=collapsed).value == pytest.approx(expected, rel=1e-9)


def test_frechet_with_fewer_samples_than_dimensions() -> None:
    x, y = gaussian(20, 64, 0), gaussian(30, 64, 1)
    assert frechet_distance(real=x, fake=y).value == pytest.approx(gaussian_frechet(*moments(x), *moments(y)), rel=1e-5)


def test_frechet_of_the_same_set_is_zero() -> None:
    x = gaussian(300, 20, 0)
    assert 0 <= frechet_distance(real=x, fake=x).value <= 1e-10 * 20


def test_frechet_standard_error_matches_repetition() -> None:
    found = [
        frechet_distance(real=gaussian(800, 6, 2 * k), fake=gaussian(800, 6, 2 * k + 1, mean=0.4, sd=1.3))
        for k in range(200)
    ]
    spread = np.std([m.value for m in found], ddof=1)
    stated = np.mean([m.stderr for m in found])
    assert stated == pytest.approx(spread, rel=4 / math.sqrt(2 * 199))


def brute_precision_recall(real: torch.Tensor, fake: torch.Tensor, k: int) -> tuple[float, float]:
    def share(centres: torch.Tensor, points: torch.Tensor) -> float:
        own = (centres[:, None] - centres[None]).square().sum(-1)
        own.fill_diagonal_(math.inf)
        radius = own.sort(dim=1).values[:, k - 1]
        return ((points[:, None] - centres[None]).square().sum(-1) <= radius).any(1).double().mean().item()

    return share(real, fake), share(fake, real)


@pytest.mark.parametrize("offset", [0.0, 1000.0, 1e4])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_recall_against_brute_force(k: int, offset: float) -> None:
    real, fake = gaussian(300, 12, 0), gaussian(260, 12, 1, mean=0.3, sd=0.8)
    p, r = precision_recall(real=real + offset, fake=fake + offset, k=k)
    assert (p.value, r.value) == brute_precision_recall(real + offset, fake + offset, k)


def test_precision_recall_in_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from pushforward.metrics import distances

    real, fake = gaussian(300, 5, 0), gaussian(300, 5, 1, mean=0.5)
    whole = precision_recall(real=real, fake=fake)
    monkeypatch.setattr(distances, "BLOCK", 7)
    monkeypatch.setattr(distances, "KEPT", 0)  # every block prepared anew
    assert precision_recall(real=real, fake=fake) == whole


def test_precision_recall_swap() -> None:
    a, b = gaussian(200, 4, 0), gaussian(200, 4, 1, sd=0.3)
    forward, back = precision_recall(real=a, fake=b), precision_recall(real=b, fake=a)
    assert (forward.precision.value, forward.recall.value) == (back.recall.value, back.precision.value)
    assert forward.precision.value > forward.recall.value  # narrow fakes: all near data, much data missed


def test_identical_sets_are_perfect_even_with_ties() -> None:
    x = gaussian(100, 4, 0)
    assert [m.value for m in precision_recall(real=x, fake=x)] == [1.0, 1.0]
    six = x.repeat(6, 1)  # radii are zero; the border belongs to the ball
    assert [m.value for m in precision_recall(real=six.float(), fake=six.float())] == [1.0, 1.0]


def test_disjoint_and_collapsed() -> None:
    x = gaussian(100, 4, 0)
    assert [m.value for m in precision_recall(real=x, fake=x + 1e3)] == [0.0, 0.0]
    collapsed = precision_recall(real=x, fake=x[:1].repeat(100, 1))
    assert collapsed.precision.value == 1.0 and collapsed.recall.value == 0.01


def test_arguments_cannot_be_confused() -> None:
    x = gaussian(10, 2, 0)
    for metric in (frechet_distance, precision_recall):
        with pytest.raises(TypeError):
            metric(x, x)  # type: ignore[call-arg]


def test_class_histogram_and_entropy() -> None:
    logits = torch.eye(4)[torch.tensor([0] * 50 + [1] * 30 + [2] * 20)]
    assert [m.value for m in class_histogram(logits)] == [0.5, 0.3, 0.2, 0.0]
    assert class_histogram(logits)[1].stderr == pytest.approx(math.sqrt(0.3 * 0.7 / 100))
    expected = -sum(p * math.log(p) for p in (0.5, 0.3, 0.2))
    assert class_entropy(logits).value == pytest.approx(expected)


def test_class_entropy_standard_error_matches_repetition() -> None:
    g = torch.Generator().manual_seed(0)
    p = torch.tensor([0.5, 0.3, 0.2])
    found = [class_entropy(torch.eye(3)[torch.multinomial(p, 1000, replacement=True, generator=g)]) for _ in range(300)]
    assert np.mean([m.stderr for m in found]) == pytest.approx(np.std([m.value for m in found]), rel=4 / math.sqrt(600))


@pytest.mark.parametrize("metric", [frechet_distance, precision_recall], ids=lambda m: m.__name__)
@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (torch.tensor([[0.0, math.nan]] * 3 + [[0.0, 1.0]] * 9), "fake: 3 of 12 rows are not finite"),
        (torch.tensor([[math.inf, 0.0]] + [[0.0, 1.0]] * 9), "1 of 10 rows"),
        (torch.zeros(10), "shape"),
        (torch.zeros(10, 3), "real has 2 features a row and fake 3"),
        (torch.zeros(1, 2), "fake has 1 rows"),
        (torch.zeros(0, 2), "fake has 0 rows"),
        (torch.zeros(10, 2, dtype=torch.complex64), "complex"),
    ],
)
def test_bad_features_are_refused_in_words(metric, bad: torch.Tensor, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        metric(real=gaussian(10, 2, 0), fake=bad)


@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.int32, np.bool_]),
        hnp.array_shapes(max_dims=3, max_side=12),
    )
)
@settings(max_examples=200, deadline=None)
def test_any_array_gives_an_answer_or_a_clear_error(x: np.ndarray) -> None:
    for metric in (frechet_distance, precision_recall, kernel_distance, prdc):
        try:
            found = metric(real=x, fake=x[::-1])
        except (ValueError, ArithmeticError) as error:
            assert len(str(error)) > 10
            continue
        values = (found,) if hasattr(found, "value") else sum(found, ()) if metric is prdc else found
        assert all(np.isfinite(m.value) and (m.value >= 0 or metric is kernel_distance) for m in values)


def test_numpy_and_strided_input() -> None:
    x = np.random.default_rng(0).normal(size=(50, 8))
    a = frechet_distance(real=x[:, ::2], fake=x[::-1, 1::2]).value
    assert a == frechet_distance(real=np.ascontiguousarray(x[:, ::2]), fake=np.ascontiguousarray(x[::-1, 1::2])).value
    assert as_features(x[:, ::2], "x").shape == (50, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_metrics_leave_their_input_alone(dtype: torch.dtype) -> None:
    x, y = gaussian(60, 8, 0).to(dtype), gaussian(60, 8, 1).to(dtype)
    before = x.clone(), y.clone()
    for metric in (frechet_distance, precision_recall, kernel_distance):
        metric(real=x, fake=y)
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])


def test_frechet_in_many_dimensions_takes_the_fast_road_to_the_same_number(monkeypatch: pytest.MonkeyPatch) -> None:
    from pushforward.metrics import frechet

    x, y = gaussian(900, 40, 0), gaussian(800, 40, 1, mean=0.2, sd=1.1)
    exact = frechet_distance(real=x, fake=y)
    monkeypatch.setattr(frechet, "SMALL", 8)
    monkeypatch.setattr(frechet, "BLOCK", 77)
    fast = frechet_distance(real=x, fake=y)
    assert fast.value == pytest.approx(exact.value, rel=1e-9)
    assert fast.stderr == pytest.approx(exact.stderr, rel=1e-6)
    flat = y.clone()
    flat[:, 3] = 0.5  # a dead feature: the fast road is closed
    monkeypatch.undo()
    expected = frechet_distance(real=x, fake=flat).value
    monkeypatch.setattr(frechet, "SMALL", 8)
    assert frechet_distance(real=x, fake=flat).value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("far", [3e2, 3e3, 3e4, 1e6])
@pytest.mark.parametrize("kind", ["clusters", "outlier"])
def test_precision_recall_of_spread_out_features(kind: str, far: float) -> None:
    """Where float32 cannot tell neighbours apart, the answer is still that of exact distances."""
    real, fake = gaussian(220, 16, 0), gaussian(200, 16, 1, mean=0.2)
    if kind == "clusters":
        sign = torch.tensor([1.0, -1.0], dtype=torch.float64)
        real, fake = real + far * sign[torch.arange(220) % 2, None], fake + far * sign[torch.arange(200) % 2, None]
    else:
        real[7] = far
    p, r = precision_recall(real=real, fake=fake, k=3)
    assert (p.value, r.value) == brute_precision_recall(real, fake, 3)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.ma.masked_array(np.zeros((9, 2)), mask=np.eye(9, 2)), "2 masked"),
        (np.array([["a", "b"]] * 9), "real numbers"),
        (np.zeros((9, 2), dtype=object), "real numbers"),
        (np.zeros((9, 2), dtype="datetime64[s]"), "real numbers"),
        (np.zeros((9, 2), dtype=np.complex64), "real numbers"),
    ],
    ids=["masked", "text", "objects", "dates", "complex"],
)
def test_arrays_that_are_no_features_are_refused_in_words(x: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        frechet_distance(real=x, fake=np.random.default_rng(0).normal(size=(9, 2)))


def test_odd_but_good_arrays_are_read() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 40, 3))
    want = frechet_distance(real=x, fake=y).value
    for odd in (x.astype(">f8"), np.asfortranarray(x), x.astype(np.longdouble), np.ma.masked_array(x), x[::-1]):
        assert frechet_distance(real=odd, fake=y).value == pytest.approx(want, rel=1e-9)


def test_a_reference_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        reverse_kl(torch.eye(2), reference=torch.tensor([0.5, float("nan")]))
