"""Fast distances: their error bounds hold, and no answer depends on how they were computed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pushforward.metrics import distances, kernel_distance, nearest_distances, prdc
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
    if kind == "float64":
        return x.double() + 1e7, y.double() + 1e7
    return x, y


KINDS = ["plain", "offset", "heavy tails", "one far outlier", "twins", "tiny", "constant features", "float64"]


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
    truth = (x.double()[:, None] - y.double()[None]).square().sum(dim=-1)
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
    within_a, within_b = ((t[:, None] - t[None]).square().sum(dim=-1).fill_diagonal_(torch.inf) for t in (a, b))
    cross = (a[:, None] - b[None]).square().sum(dim=-1)
    closed, opened = within_a.kthvalue(3).values, within_a.kthvalue(5).values
    assert p.value == float((cross <= closed[:, None]).any(dim=0).double().mean())
    assert r.value == float((cross <= within_b.kthvalue(3).values).any(dim=1).double().mean())
    assert density.value == pytest.approx(float((cross < opened[:, None]).double().sum(dim=0).mean()) / 5)
    assert coverage.value == float((cross < opened[:, None]).any(dim=1).double().mean())
    near, index = nearest_distances(queries=y, targets=x)
    assert torch.equal(cross.min(dim=0).values.sqrt(), near)
    assert torch.equal(cross.gather(0, index[None])[0], cross.min(dim=0).values)


def test_exact_is_exact() -> None:
    x, y = clouds("offset")
    a, b = about_one_centre(x, y)
    i, j = torch.arange(50), torch.arange(50).reshape(50, 1)
    truth = (x[:50].double() - y[:50].double()).square().sum(dim=1)
    torch.testing.assert_close(exact(a, i, b, j).squeeze(1), truth, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["plain", "offset", "heavy tails", "constant features"])
def test_kernel_distance_against_all_pairs_in_float64(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = clouds(kind)
    n, m, d = len(x), len(y), x.shape[1]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a.double() @ b.double().T / d + 1) ** 3

    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    truth = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1)) - 2 * xy.mean()
    scale = float(xx.mean() + yy.mean())
    assert kernel_distance(real=x, fake=y).value == pytest.approx(float(truth), abs=2e-7 * scale)
    monkeypatch.setattr(distances, "BLOCK", 11)
    assert kernel_distance(real=x, fake=y).value == pytest.approx(float(truth), abs=2e-7 * scale)
