"""The same features give the same numbers as the libraries that need torchvision; run by `make peers`.

What needs no torchvision (torchmetrics, prdc) is held by the package's own tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peers
import pytest
import torch
from torch import Tensor

from pushforward.metrics import frechet_distance, inception_score, kernel_distance, precision_recall
from pushforward.metrics.features import RESIZES, Inception
from pushforward.metrics.inception import InceptionV3

assert peers.LIBRARY is not None
fidelity_fid = pytest.importorskip("torch_fidelity.metric_fid")
from cleanfid import fid as clean_fid  # noqa: E402
from cleanfid.resize import make_resizer  # noqa: E402
from pytorch_fid import fid_score, inception  # noqa: E402
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3  # noqa: E402
from torch_fidelity.metric_isc import isc_features_to_metric  # noqa: E402
from torch_fidelity.metric_kid import kid_features_to_metric  # noqa: E402
from torch_fidelity.metric_prc import prc_features_to_metric  # noqa: E402

CASES = [(700, 600, 16), (300, 300, 64), (120, 200, 150)]


def features(n: int, d: int, seed: int, *, mean: float = 0.0, sd: float = 1.0) -> Tensor:
    return mean + sd * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def pair(n: int, m: int, d: int) -> tuple[Tensor, Tensor]:
    return features(n, d, 0), features(m, d, 1, mean=0.4, sd=1.2)


@pytest.mark.parametrize(("n", "m", "d"), CASES)
def test_frechet_equals_torch_fidelity(n: int, m: int, d: int) -> None:
    real, fake = pair(n, m, d)
    stats = [fidelity_fid.fid_features_to_statistics(t.double()) for t in (real, fake)]
    theirs = fidelity_fid.fid_statistics_to_metric(*stats, False)["frechet_inception_distance"]
    assert frechet_distance(real=real, fake=fake).value == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize(("n", "m", "d"), CASES)
def test_frechet_equals_pytorch_fid_and_clean_fid(n: int, m: int, d: int) -> None:
    real, fake = (t.double().numpy() for t in pair(n, m, d))
    ours = frechet_distance(real=real, fake=fake).value
    moments = [f(t) for t in (real, fake) for f in (lambda t: t.mean(axis=0), lambda t: np.cov(t, rowvar=False))]
    assert ours == pytest.approx(float(fid_score.calculate_frechet_distance(*moments)), rel=1e-4)
    assert ours == pytest.approx(float(clean_fid.fid_from_feats(real, fake)), rel=1e-4)


def test_kid_equals_torch_fidelity_on_the_same_subsets() -> None:
    real, fake = pair(400, 350, 32)
    theirs = kid_features_to_metric(
        fake.double(), real.double(), kid_subsets=20, kid_subset_size=100, rng_seed=7, verbose=False
    )
    rng, ours = np.random.RandomState(7), []
    for _ in range(20):  # the order of its draws
        i, j = rng.choice(len(fake), 100, replace=False), rng.choice(len(real), 100, replace=False)
        ours.append(kernel_distance(real=real[j], fake=fake[i]).value)
    assert np.mean(ours) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    assert np.std(ours) == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-4)


def test_kid_equals_clean_fid_on_the_same_subsets() -> None:
    real, fake = (t.double().numpy() for t in pair(400, 350, 32))
    np.random.seed(3)
    theirs = clean_fid.kernel_distance(real, fake, num_subsets=20, max_subset_size=100)
    np.random.seed(3)
    ours = []
    for _ in range(20):
        i, j = np.random.choice(len(fake), 100, replace=False), np.random.choice(len(real), 100, replace=False)
        ours.append(kernel_distance(real=real[j], fake=fake[i]).value)
    assert np.mean(ours) == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("n", [530, 537, 1009])
@pytest.mark.parametrize("splits", [1, 10])
def test_inception_score_equals_torch_fidelity(splits: int, n: int) -> None:
    logits = features(n, 10, 3, sd=3.0)
    theirs = isc_features_to_metric(logits, splits=splits, shuffle=False)
    assert inception_score(logits, splits=splits).value == pytest.approx(theirs["inception_score_mean"], rel=1e-4)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize(("n", "m", "d"), CASES)
def test_precision_and_recall_equal_torch_fidelity(n: int, m: int, d: int, k: int) -> None:
    real, fake = features(n, d, 0), features(m, d, 1, mean=0.2, sd=0.9)
    theirs = prc_features_to_metric(fake.double(), real.double(), prc_neighborhood=k, verbose=False)
    ours = precision_recall(real=real, fake=fake, k=k)
    assert ours.precision.value == pytest.approx(theirs["precision"], rel=1e-4)
    assert ours.recall.value == pytest.approx(theirs["recall"], rel=1e-4)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Random weights whose activations neither vanish nor blow up."""
    torch.manual_seed(0)
    net = InceptionV3()
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    return net.state_dict()


def images(side: int) -> Tensor:
    return torch.randint(256, (3, 3, side, side), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def ours(weights: dict[str, Tensor], resize: str) -> Inception:
    """The extractor as it is once the published weights have been read."""
    extractor = Inception.__new__(Inception)
    extractor.net = InceptionV3().eval()
    extractor.net.load_state_dict(weights)
    extractor.resize = RESIZES[resize]
    return extractor


def close(a: Tensor, b: Tensor) -> None:
    assert float((a - b).abs().max()) <= 1e-4 * float(b.abs().max())


def test_the_graph_is_pytorch_fids(weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *a, **k: weights)  # its keys are ours: it loads
    whole = inception.fid_inception_v3()
    assert set(whole.state_dict()) == set(weights)
    theirs = inception.InceptionV3([3], resize_input=False, normalize_input=False).eval()
    net = InceptionV3().eval()
    net.load_state_dict(whole.state_dict(), strict=True)
    x = torch.rand(3, 3, 299, 299, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.no_grad():
        peer, mine = theirs(x)[0].flatten(1), net(x)[0]
    assert float(peer.std()) > 0.01
    close(mine, peer)


@pytest.mark.parametrize("side", [28, 64, 299, 320])
def test_features_of_images_are_torch_fidelitys(weights: dict[str, Tensor], side: int, tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "weights.pth")
    theirs = FeatureExtractorInceptionV3(
        "inception-v3-compat",
        ["2048", "logits_unbiased"],
        feature_extractor_weights_path=str(tmp_path / "weights.pth"),
    )
    peer: list[Any] = theirs(images(side))
    mine = ours(weights, "tf1-bilinear")(images(side))
    close(mine.features, peer[0])
    assert mine.logits is not None
    close(mine.logits, peer[1])


@pytest.mark.parametrize("side", [28, 64, 299, 320])
def test_the_clean_resize_is_clean_fids(side: int) -> None:
    resizer = make_resizer("PIL", False, "bicubic", (299, 299))
    x = images(side)
    peer = np.stack([resizer(i) for i in x.permute(0, 2, 3, 1).numpy()]).transpose(0, 3, 1, 2)
    mine = RESIZES["pil-bicubic"](x.float(), 299)
    assert float((mine - torch.from_numpy(peer)).abs().max()) <= 1e-4 * 255
