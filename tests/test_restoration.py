"""`restore`: PSNR and SSIM against other libraries, settings to whom they belong, files, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from pushforward.errors import ConfigError, DataError, NotSupported
from pushforward.families.diffusion.denoisers import NetworkDenoiser
from pushforward.families.diffusion.model import Diffusion, Sampler
from pushforward.families.diffusion.schedules import VE
from pushforward.metrics.restoration import psnr, ssim
from pushforward.networks.mlp import MLPDiscriminator, MLPGenerator
from pushforward.networks.unet import UNet
from pushforward.restoration import pictures, read_images, restore, write


def pair(n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    truth = torch.rand(n, 2, 20, 16, generator=g) * 2 - 1
    return (truth + 0.3 * torch.randn(truth.shape, generator=g)).clamp(-1, 1), truth


def test_psnr_and_ssim_are_those_of_torchmetrics() -> None:
    x, truth = pair()
    for i in range(3):
        a, b = x[i : i + 1], truth[i : i + 1]
        assert float(psnr(a, b)) == pytest.approx(float(peak_signal_noise_ratio(a, b, data_range=2.0)), rel=1e-5)
        # theirs takes the border in, by reflection, and wants brightnesses in [0, 1]
        theirs = structural_similarity_index_measure((a + 1) / 2, (b + 1) / 2, data_range=1.0, sigma=1.5)
        a, b = (torch.nn.functional.pad(v, (5, 5, 5, 5), mode="reflect") for v in (a, b))
        assert float(ssim(a, b)) == pytest.approx(float(theirs), rel=1e-4)
    assert ssim(truth, truth).tolist() == pytest.approx([1.0] * 3)
    assert torch.isinf(psnr(truth, truth)).all()


def test_images_that_cannot_be_compared_are_refused() -> None:
    x, truth = pair()
    for a, b, said in (
        (x[:1], truth, "one shape"),
        (x[0], truth[0], "one shape"),
        (x.mul(127).byte(), truth, "floats"),
        (x * torch.nan, truth, "finite"),
    ):
        with pytest.raises(ValueError, match=said):
            psnr(a, b)
    with pytest.raises(ValueError, match="11 x 11"):
        ssim(x[..., :8], truth[..., :8])


def model() -> Diffusion:
    torch.manual_seed(0)
    network = UNet(shape=(1, 12, 12), width=8, multipliers=(1, 2), blocks=1)
    denoiser = NetworkDenoiser(network, VE(), parametrisation="edm")
    return Diffusion(denoiser=denoiser, shape=(1, 12, 12), sampler=Sampler()).eval()


def test_gradients_pass_through_the_network_and_not_to_its_weights() -> None:
    made, seen = model(), []
    weights = list(made.parameters())
    made.denoiser.network.register_forward_hook(
        lambda _, __, out: seen.append((out.requires_grad, [p.requires_grad for p in weights]))
    )
    truth = torch.zeros(2, 1, 12, 12)
    restore(made, truth, operator="inpaint-box", method="dps", steps=2, noise=0.05, draws=1)
    assert seen
    assert all(moving and not any(trained) for moving, trained in seen)
    assert all(p.requires_grad for p in weights)  # as before


TRUTH = torch.rand(2, 1, 12, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_settings_go_to_operator_method_and_solver(tmp_path: Path) -> None:
    settings = ["side=0.25", "iterations=1", "eta=0.5"]
    found, a = restore(model(), TRUTH, operator="inpaint-box", method="mmps", steps=4, draws=3, settings=settings)
    assert found.options == {"steps": 4, "noise": 0.05, "side": 0.25, "iterations": 1, "eta": 0.5}
    assert found.draws.shape == (3, 2, 1, 12, 12)
    assert found.evaluations == 4
    assert float((found.measured == 0).sum(dim=(1, 2, 3)).max()) == 0  # noise was added everywhere
    again, _ = restore(model(), TRUTH[:1], operator="inpaint-box", method="mmps", steps=4, draws=1, settings=settings)
    torch.testing.assert_close(again.draws[0, 0], found.draws[0, 0], rtol=1e-4, atol=1e-5)  # whatever else is restored
    assert float((found.draws[0] - found.draws[1]).abs().max()) > 0.01
    write(found, a, tmp_path / "out", operator="inpaint-box", method="mmps", seed=0)
    table = json.loads((tmp_path / "out/restored.json").read_text())
    by_hand = 10 * np.log10(4 / ((found.draws[0] - TRUTH) ** 2).mean(dim=(1, 2, 3)).numpy())
    np.testing.assert_allclose(table["figures"]["psnr"], by_hand, rtol=1e-5)
    mean = found.draws.mean(dim=0)
    by_hand = 10 * np.log10(4 / ((mean - TRUTH) ** 2).mean(dim=(1, 2, 3)).numpy())
    np.testing.assert_allclose(table["figures"]["psnr of the mean"], by_hand, rtol=1e-5)
    spread = pictures(found).reshape(2, 6, 1, 12, 12)[:, 5].double() / 255  # white: .5 and more
    torch.testing.assert_close(spread, (found.draws.double().std(dim=0) / 0.5).clamp(max=1), rtol=0, atol=0.01)
    residual = ((found.measured - a(found.draws[0])) ** 2).mean(dim=(1, 2, 3)).sqrt()
    np.testing.assert_allclose(table["figures"]["residual"], residual, rtol=1e-5)
    with Image.open(tmp_path / "out/restored.png") as sheet:
        assert sheet.width > 6 * 12 * 2  # truth, measured, three draws, spread
    arrays = np.load(tmp_path / "out/restored.npz", allow_pickle=False)
    np.testing.assert_array_equal(arrays["draws"], found.draws.numpy())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"operator": "inpaint-bax"}, "inpaint-box"),
        ({"method": "dsp"}, "dps"),
        ({"noise": -1.0}, "--noise"),
        ({"photons": 0.0}, "--photons"),
        ({"settings": ["sied=0.3"]}, "side"),
        ({"settings": ["side=1.5"]}, "between 0 and 1"),
        ({"settings": ["iterations=0"]}, "at least 1"),
        ({"settings": ["iterations=0.5"]}, "iterations"),
        ({"operator": "super-resolution", "settings": ["factor=5"]}, "divide"),
    ],
)
def test_what_is_wrong_is_said(changes: dict, said: str) -> None:
    table = {"operator": "inpaint-box", "method": "mmps", "steps": 3, "draws": 1} | changes
    with pytest.raises(ConfigError, match=said):
        restore(model(), TRUTH, **table)


def test_photons_are_counted_and_the_methods_told_how_noisy_that_is() -> None:
    """A measured count over the peak is a brightness; its variance is its mean over the peak, four times that in the range [-1, 1]."""
    words = {"operator": "gaussian-blur", "method": "diffpir", "steps": 3, "draws": 1}
    truth = torch.zeros(8, 1, 12, 12)  # grey, blurred to grey: brightness one half
    found, a = restore(model(), truth, photons=50.0, **words)
    counts = (found.measured + 1) / 2 * 50
    torch.testing.assert_close(counts, counts.round(), atol=1e-3, rtol=0)
    seen = a(truth)
    assert found.options["photons"] == 50.0
    assert found.options["noise"] == pytest.approx(float((found.measured - seen).std()), rel=0.1)
    assert restore(model(), truth, photons=5.0, **words)[0].options["noise"] > 2 * found.options["noise"]
    mixed = torch.cat(
        [truth[:1] - 0.8, truth[:1] + 0.8]
    )  # each is told of its own noise: one restored alone is as beside another
    for method in ("diffpir", "mmps", "pigdm", "ddrm"):
        for operator in ("gaussian-blur", "super-resolution", "inpaint-box"):
            both, one = (
                restore(model(), x, photons=50.0, **words | {"method": method, "operator": operator})[0].draws
                for x in (mixed, mixed[:1])
            )
            torch.testing.assert_close(
                both[:, :1], one, rtol=0, atol=0.02
            )  # a blur undone enlarges rounding; told the mean of both: 0.03 to 1.2 apart
    dark = truth - 0.9  # where nothing is seen there are no photons either: the noise told is that of what is seen
    found, a = restore(model(), dark, photons=50.0, **words | {"operator": "inpaint-box"})
    seen = a.mask.expand(dark.shape) > 0  # type: ignore[attr-defined]
    assert found.options["noise"] == pytest.approx(float((found.measured - dark)[seen].std()), rel=0.15)
    assert (found.measured[~seen] == 0).all()
    with pytest.raises(NotSupported, match="brightness"):
        restore(model(), TRUTH, operator="phase-retrieval", method="dps", photons=50.0)


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(NotSupported, match="linear operator"):
        restore(model(), TRUTH, operator="phase-retrieval", method="ddrm")
    with pytest.raises(NotSupported, match="inpainting"):
        restore(model(), TRUTH, operator="gaussian-blur", method="repaint", steps=3)
    with pytest.raises(DataError, match="shape"):
        restore(model(), TRUTH[..., :8], operator="inpaint-box", method="mmps")
    from pushforward.families.gan import losses
    from pushforward.families.gan.model import GAN
    from pushforward.priors import Normal

    gan = GAN(
        generator=MLPGenerator(latent=2, shape=(1, 12, 12)),
        discriminator=MLPDiscriminator(shape=(1, 12, 12)),
        prior=Normal(dim=2),
        objective=losses.hinge(),
    )
    with pytest.raises(NotSupported, match="diffusion"):
        restore(gan, TRUTH, operator="inpaint-box", method="mmps")


def test_image_files_folders_and_arrays_are_read(tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    x = g.integers(0, 256, (3, 12, 12), dtype=np.uint8)
    (tmp_path / "folder").mkdir()
    for i in range(2):
        Image.fromarray(x[i]).save(tmp_path / f"folder/{i}.png")
    Image.fromarray(x[2]).save(tmp_path / "one.png")
    found = read_images([tmp_path / "folder", tmp_path / "one.png"], (1, 12, 12))
    np.testing.assert_allclose(found[:, 0].numpy(), x / 127.5 - 1, atol=1e-6)
    with pytest.raises(DataError, match="shape"):
        read_images([tmp_path / "one.png"], (3, 12, 12))


def test_phase_retrieval_with_noise_has_a_picture(tmp_path: Path) -> None:
    found, a = restore(model(), TRUTH, operator="phase-retrieval", method="dps", steps=3, noise=0.1, draws=2)
    write(found, a, tmp_path, operator="phase-retrieval", method="dps", seed=0)
    assert (tmp_path / "restored.png").exists()
    assert bool((found.measured < 0).any())  # what made its logarithm fail


def test_a_method_that_diverges_is_told_and_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = model()
    forward = broken.denoiser.network.forward
    monkeypatch.setattr(broken.denoiser.network, "forward", lambda *a, **k: forward(*a, **k) * torch.inf)
    with pytest.raises(NotSupported, match="diverged on 2 of 2 reconstructions"):
        restore(broken, torch.zeros(2, 1, 12, 12), operator="inpaint-box", method="repaint", steps=3, draws=1)
