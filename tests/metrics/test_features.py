from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pushforward.data.fetch import load
from pushforward.data.images import ImageSet
from pushforward.errors import DataError, NotSupported
from pushforward.metrics import features
from pushforward.metrics.features import (
    Digits,
    Inception,
    RandomVGG,
    cached_features,
    extractor,
    resize_pil_bicubic,
    resize_tf1_bilinear,
)
from pushforward.metrics.inception import InceptionV3


def bytes_(n: int, c: int, side: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, c, side, side), generator=g, dtype=torch.int16).to(torch.uint8)


@pytest.mark.mnist
def test_digit_encoder_is_as_accurate_as_it_says(mnist: Path) -> None:
    test = load("mnist", "test", path=mnist)
    assert isinstance(test, ImageSet) and test.labels is not None
    found = Digits()(test.images)
    assert found.logits is not None and found.features.shape == (10000, 128)
    assert (found.logits.argmax(dim=1) == test.labels).double().mean() >= 0.994


def test_digit_encoder_is_small_and_named_by_its_file() -> None:
    file = Path(features.__file__).parent / "weights/digits.safetensors"
    assert file.stat().st_size < 1_000_000
    assert Digits().sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_features_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    x = bytes_(30, 1, 28)
    whole = Digits()(x).features
    monkeypatch.setattr(Digits, "batch_size", 7)
    torch.testing.assert_close(Digits()(x).features, whole, rtol=1e-4, atol=1e-4)


def test_digits_refuse_other_images() -> None:
    with pytest.raises(NotSupported, match="28x28 grey"):
        Digits()(bytes_(2, 3, 28))


def test_unknown_extractor_names_the_nearest() -> None:
    with pytest.raises(NotSupported, match="did you mean 'inception'"):
        extractor("inceptoin")


def test_random_vgg_is_the_same_everywhere() -> None:
    vgg = RandomVGG()
    assert vgg.sha256 == RandomVGG().sha256
    found = vgg(torch.cat([bytes_(3, 1, 28), bytes_(3, 1, 28, 1)])).features
    assert found.shape == (6, 512) and found.std(dim=0).gt(0).sum() > 250
    assert vgg(bytes_(2, 3, 50)).features.shape == (2, 512)


def test_cache_is_used_and_damage_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    x, by = bytes_(5, 1, 28), Digits()
    first = cached_features(x, "key", by)
    (file,) = (tmp_path / "pushforward/features").iterdir()

    def never(images: torch.Tensor) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(Digits, "__call__", lambda self, images: never(images))
    assert torch.equal(cached_features(x, "key", by).features, first.features)
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 1
    file.write_bytes(raw)
    with pytest.raises(AssertionError, match="computed again"):
        cached_features(x, "key", by)
    with pytest.raises(AssertionError, match="computed again"):
        cached_features(x, "another key", by)


@pytest.mark.parametrize("side", [28, 64, 299, 400])
def test_bicubic_resize_is_pillows(side: int) -> None:
    x = bytes_(1, 1, side)
    theirs = np.asarray(
        Image.fromarray(x[0, 0].numpy().astype(np.float32)).resize((299, 299), Image.Resampling.BICUBIC)
    )
    ours = resize_pil_bicubic(x.float(), 299)[0, 0].numpy()
    np.testing.assert_allclose(ours, theirs.clip(0, 255), atol=2e-2)


def test_tf1_bilinear_by_hand() -> None:
    """From 2 to 4 pixels: positions 0, .5, 1, 1.5; the last is held at the border."""
    x = torch.tensor([[[[0.0, 10.0], [20.0, 30.0]]]])
    expected = torch.tensor([[0.0, 5, 10, 10], [10, 15, 20, 20], [20, 25, 30, 30], [20, 25, 30, 30]])
    torch.testing.assert_close(resize_tf1_bilinear(x, 4)[0, 0], expected)


def test_inception_has_the_published_size_and_names() -> None:
    """23,834,568 parameters with 1000 classes is the known count without the auxiliary head; this one has 1008."""
    net = InceptionV3()
    assert sum(p.numel() for p in net.parameters()) == 23_834_568 + 8 * 2049
    names = net.state_dict().keys()
    for name in (
        "Conv2d_1a_3x3.conv.weight",
        "Mixed_5b.branch3x3dbl_3.bn.running_var",
        "Mixed_6e.branch7x7dbl_5.conv.weight",
        "Mixed_7c.branch3x3_2b.bn.bias",
        "fc.bias",
    ):
        assert name in names


@pytest.fixture
def random_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file like the published one, of random weights, in the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.manual_seed(0)
    file = tmp_path / "pushforward/weights" / Inception.URL.rsplit("/", 1)[1]
    file.parent.mkdir(parents=True)
    torch.save(InceptionV3().state_dict(), file)
    monkeypatch.setattr(Inception, "SHA256_PREFIX", hashlib.sha256(file.read_bytes()).hexdigest()[:8])
    return file


def test_inception_loads_runs_and_names_its_resize(random_weights: Path) -> None:
    a, b = Inception("tf1-bilinear"), Inception("pil-bicubic")
    found = a(bytes_(2, 1, 28))
    assert found.features.shape == (2, 2048) and found.logits is not None and found.logits.shape == (2, 1008)
    assert a.sha256 != b.sha256


def test_other_weights_are_refused(random_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Inception, "SHA256_PREFIX", "6726825d")
    with pytest.raises(DataError, match="not the published network"):
        Inception("tf1-bilinear")


def test_pickled_code_is_never_run(random_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (random_weights.with_name("owned"),))

    random_weights.write_bytes(pickle.dumps(Evil()))
    monkeypatch.setattr(Inception, "SHA256_PREFIX", hashlib.sha256(random_weights.read_bytes()).hexdigest()[:8])
    with pytest.raises(DataError, match="does not hold the network's weights"):
        Inception("tf1-bilinear")
    assert not random_weights.with_name("owned").exists()


@pytest.fixture
def tiny_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random networks of both kinds, small, saved as the hub saves them."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 56}
    configs = {
        "dinov2": transformers.Dinov2Config(image_size=224, **sizes),
        "clip": transformers.CLIPVisionConfig(image_size=224, intermediate_size=32, projection_dim=8, **sizes),
    }
    sources = dict(features.HubVision.SOURCES)
    for name, config in configs.items():
        torch.manual_seed(0)
        getattr(transformers, sources[name][1])(config).save_pretrained(tmp_path / name)
        sources[name] = (str(tmp_path / name), *sources[name][1:])
    monkeypatch.setattr(features.HubVision, "SOURCES", sources)
    features.extractor.cache_clear()


@pytest.mark.parametrize(("name", "width"), [("dinov2", 16), ("clip", 8)])
@pytest.mark.usefixtures("tiny_hub")
def test_hub_networks_see_normalised_images(name: str, width: int) -> None:
    transformers = pytest.importorskip("transformers")
    judge = features.HubVision(name)
    x = torch.randint(256, (3, 3, 224, 224), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    found = judge(x).features
    assert found.shape == (3, width)
    source, kind, mean, sd = judge.SOURCES[name]
    processor = transformers.CLIPImageProcessor if name == "clip" else transformers.BitImageProcessor
    pixels = processor(do_resize=False, do_center_crop=False, image_mean=mean, image_std=sd)(
        list(x.permute(0, 2, 3, 1).numpy()), return_tensors="pt"
    )
    with torch.no_grad():
        out = getattr(transformers, kind).from_pretrained(source).eval()(**pixels)
    torch.testing.assert_close(found, out.pooler_output if name == "dinov2" else out.image_embeds, rtol=1e-4, atol=1e-5)
    assert judge(x[:, :1]).features.shape == (3, width)  # grey images are repeated
    assert features.HubVision(name).sha256 == judge.sha256


@pytest.mark.usefixtures("tiny_hub")
def test_hub_networks_differ_by_hash() -> None:
    assert features.HubVision("dinov2").sha256 != features.HubVision("clip").sha256


def test_hub_networks_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr(
        features.HubVision, "SOURCES", {"clip": (str(tmp_path), *features.HubVision.SOURCES["clip"][1:])}
    )
    with pytest.raises(DataError, match="neither in the hub's cache"):
        features.HubVision("clip")


def test_features_are_in_full_precision_wherever_they_are_asked_for() -> None:
    images = torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plain = extractor("digits")(images)
    with torch.autocast("cpu", torch.bfloat16):
        low = extractor("digits")(images)
    assert torch.equal(plain.features, low.features)
