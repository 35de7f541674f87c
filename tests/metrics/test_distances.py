"""Fast distances: their error bounds hold, and no answer depends on how they were computed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pushforward.metrics import (
    distances,
    kernel,
    kernel_distance,
    nearest_distances,
    prdc,
    sliced_wasserstein,
    wasserstein,
)
from pushforward.metrics.distances import about_one_centre, block, exact


def clouds(kind: str) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(130, 300, generator=g), torch.randn(90, 300, generator=g) * 0.9 + 0.1
    if kind == "offset":
        return x + 1e4, y + 1e4
    if kind == "heavy tails":
        return x**5, y**5
    if kind == "one far outlier":
        x[3, 7] = 1e6
    if kind == "twins":
        x[40:80] = y[:40]
        x[0] = x[1]
    if kind == "tiny":
        return x * 1e-20, y * 1e-20
    if kind == "constant features":
        x[:, 5:], y[:, 5:] = 1.0, 1.0
    if kind == "far clusters":
        side = torch.arange(130)[:, None] % 2 * 6e7 - 3e7
        return x.double() + side, y.double() + side[:90]
    if kind == "mixed types":
        return x + 1e4, y.double() + 1e4
    if kind == "very tiny":
        return x.double() * 1e-30, (y.double() + 100) * 1e-30
    if kind == "float64":
        return x.double() + 1e7, y.double() + 1e7
    return x, y


KINDS = [
    "plain",
    "offset",
    "heavy tails",
    "one far outlier",
    "twins",
    "tiny",
    "constant features",
    "float64",
    "far clusters",
    "mixed types",
    "very tiny",
]


@pytest.fixture(params=[False, True], ids=["floats", "limbs"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(distances, "limbs_pay", lambda: request.param)
    return bool(request.param)


@pytest.mark.parametrize("kind", KINDS)
def test_error_bounds_hold(kind: str, way: bool) -> None:
    x, y = clouds(kind)
    a, b = about_one_centre(x, y)
    assert a.limbs == way
    found, doubt = block(a, slice(0, len(x)), b, slice(0, len(y)))
    truth = ((x.double()[:, None] - y.double()[None]) * a.scale).square().sum(dim=-1)
    assert ((found.double() - truth).abs() <= doubt.double() + 1e-37).all()


def test_limbs_are_worth_about_15_bits(way: bool) -> None:
    x, y = clouds("plain")
    a, b = about_one_centre(x, y)
    found, doubt = block(a, slice(0, len(x)), b, slice(0, len(y)))
    assert float((doubt / found).max()) < (2e-3 if way else 1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_neighbour_metrics_against_exact_distances(kind: str, way: bool) -> None:
    x, y = clouds(kind)
    (p, r), (density, coverage) = prdc(real=x, fake=y, k_precision_recall=3, k_density_coverage=5)
    a, b = x.double(), y.double()
    size = max(float(a.abs().max()), float(b.abs().max()))
    if size < 1e-6:
        a, b = a / size, b / size  # squares must not underflow here either
    within_a, within_b = ((t[:, None] - t[None]).square().sum(dim=-1).fill_diagonal_(torch.inf) for t in (a, b))
    cross = (a[:, None] - b[None]).square().sum(dim=-1)
    closed, opened = within_a.kthvalue(3).values, within_a.kthvalue(5).values
    assert p.value == float((cross <= closed[:, None]).any(dim=0).double().mean())
    assert r.value == float((cross <= within_b.kthvalue(3).values).any(dim=1).double().mean())
    assert density.value == pytest.approx(float((cross < opened[:, None]).double().sum(dim=0).mean()) / 5)
    assert coverage.value == float((cross < opened[:, None]).any(dim=1).double().mean())
    near, index = nearest_distances(queries=y, targets=x)
    torch.testing.assert_close(cross.min(dim=0).values.sqrt() * (size if size < 1e-6 else 1), near, rtol=1e-12, atol=0)
    torch.testing.assert_close(cross.gather(0, index[None])[0], cross.min(dim=0).values, rtol=1e-12, atol=0)


def test_exact_is_exact() -> None:
    x, y = clouds("offset")
    a, b = about_one_centre(x, y)
    i, j = torch.arange(50), torch.arange(50).reshape(50, 1)
    truth = ((x[:50].double() - y[:50].double()) * a.scale).square().sum(dim=1)
    torch.testing.assert_close(exact(a, i, b, j).squeeze(1), truth, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["plain", "offset", "heavy tails", "constant features"])
def test_kernel_distance_against_all_pairs_in_float64(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = clouds(kind)
    n, m, d = len(x), len(y), x.shape[1]

    def cubic(a: Tensor, b: Tensor) -> Tensor:
        return (a.double() @ b.double().T / d + 1) ** 3

    xx, yy, xy = cubic(x, x), cubic(y, y), cubic(x, y)
    truth = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1)) - 2 * xy.mean()
    found = kernel_distance(real=x, fake=y)
    tolerance = max(1e-4 * abs(float(truth)), 1e-2 * found.stderr)
    assert found.value == pytest.approx(float(truth), abs=tolerance)
    monkeypatch.setattr(kernel, "BLOCK", 11)
    assert kernel_distance(real=x, fake=y).value == pytest.approx(float(truth), abs=tolerance)


@pytest.mark.parametrize("scale", [1e-3, 1e-5, 1e-8])
def test_kernel_distance_keeps_the_digits_of_small_features(scale: float) -> None:
    """For small features k - 1 is 3 a.b / d, so the distance is 3 |mean gap|^2 / d, less what the diagonal is worth."""
    x, y = clouds("plain")
    x, y, d = x.double() * scale, y.double() * scale, x.shape[1]
    xx, yy, xy = x @ x.T, y @ y.T, x @ y.T
    n, m = len(x), len(y)
    linear = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1)) - 2 * xy.mean()
    assert kernel_distance(real=x, fake=y).value == pytest.approx(float(3 * linear / d), rel=1e-3)


def test_wrong_byte_products_are_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: (a.float() @ b.float()).clamp(max=32767).int())
    assert distances.limbs_pay.__wrapped__() is False


def test_exact_transport_at_any_scale() -> None:
    x, y = torch.randn(60, 3, dtype=torch.float64), torch.randn(60, 3, dtype=torch.float64) + 1
    for p in (1, 2):
        plain = wasserstein(real=x, fake=y, p=p).value
        for scale in (1e-12, 1e6):
            assert wasserstein(real=x * scale, fake=y * scale, p=p).value / scale == pytest.approx(plain, rel=1e-6)


def test_one_far_point_does_not_cost_the_sliced_distance_its_digits() -> None:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 5, generator=g), torch.randn(200, 5, generator=g) + 1
    x[0] = y[0] = 1e8
    first = sliced_wasserstein(real=x, fake=y).value
    assert first == pytest.approx(sliced_wasserstein(real=x.flip(0), fake=y.flip(0)).value, rel=1e-4)
    assert first > 0.5
