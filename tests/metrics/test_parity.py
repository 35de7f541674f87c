"""The same features give the same numbers as the libraries that people use."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pushforward.metrics import (
    density_coverage,
    frechet_distance,
    inception_score,
    kernel_distance,
    prdc,
    precision_recall,
)


class Given(nn.Module):
    """Stands where torchmetrics has Inception: what goes in comes out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, x: Tensor) -> Tensor:
        return x


def features(n: int, d: int, seed: int, *, mean: float = 0.0, sd: float = 1.0) -> Tensor:
    return mean + sd * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


CASES = [(700, 600, 16), (300, 300, 64), (120, 200, 150)]


@pytest.mark.parametrize(("n", "m", "d"), CASES)
def test_frechet_equals_torchmetrics(n: int, m: int, d: int) -> None:
    torchmetrics = pytest.importorskip("torchmetrics.image.fid")
    real, fake = features(n, d, 0), features(m, d, 1, mean=0.4, sd=1.2)
    peer = torchmetrics.FrechetInceptionDistance(feature=Given(d))
    peer.update(real, real=True)
    peer.update(fake, real=False)
    assert frechet_distance(real=real, fake=fake).value == pytest.approx(peer.compute().item(), rel=1e-4)


@pytest.mark.parametrize(("n", "d"), [(300, 16), (200, 64)])
def test_kernel_distance_equals_torchmetrics_on_all_pairs(n: int, d: int) -> None:
    torchmetrics = pytest.importorskip("torchmetrics.image.kid")
    real, fake = features(n, d, 0), features(n, d, 1, mean=0.4, sd=1.2)
    peer = torchmetrics.KernelInceptionDistance(feature=Given(d), subsets=1, subset_size=n)
    peer.update(real, real=True)
    peer.update(fake, real=False)
    assert kernel_distance(real=real, fake=fake).value == pytest.approx(peer.compute()[0].item(), rel=1e-4)


def test_inception_score_equals_torchmetrics() -> None:
    torchmetrics = pytest.importorskip("torchmetrics.image.inception")
    logits = features(500, 10, 3, sd=3.0)
    peer = torchmetrics.InceptionScore(feature=Given(10), splits=1)
    peer.update(logits)
    assert inception_score(logits, splits=1).value == pytest.approx(peer.compute()[0].item(), rel=1e-4)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize(("n", "m", "d"), CASES)
def test_neighbour_metrics_equal_prdc(n: int, m: int, d: int, k: int) -> None:
    peer = pytest.importorskip("prdc")
    real, fake = features(n, d, 0), features(m, d, 1, mean=0.2, sd=0.9)
    theirs = peer.compute_prdc(real.double().numpy(), fake.double().numpy(), nearest_k=k)
    (p, r), (density, coverage) = (
        precision_recall(real=real, fake=fake, k=k),
        density_coverage(real=real, fake=fake, k=k),
    )
    ours = {"precision": p.value, "recall": r.value, "density": density.value, "coverage": coverage.value}
    assert ours == pytest.approx({key: float(np.asarray(v)) for key, v in theirs.items()}, abs=1e-12)


def test_one_pass_gives_what_two_passes_give() -> None:
    real, fake = features(400, 8, 0), features(300, 8, 1, mean=0.3)
    both = prdc(real=real, fake=fake, k_precision_recall=3, k_density_coverage=5)
    assert both == (precision_recall(real=real, fake=fake, k=3), density_coverage(real=real, fake=fake, k=5))
