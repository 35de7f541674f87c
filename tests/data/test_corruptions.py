"""Damage is of the stated kind and strength, judged by the pixels."""

from __future__ import annotations

import pytest
import torch

from pushforward.data.corruptions import CORRUPTIONS, blur, mask, noise, salt_and_pepper, swirl


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_noise_has_its_spread_and_no_bias() -> None:
    x = torch.full((50, 1, 28, 28), 128, dtype=torch.uint8)
    change = noise(x, 20, generator=generator()).double() - 128
    n = change.numel()
    assert abs(float(change.mean())) < 4 * 20 / n**0.5
    assert float(change.std()) == pytest.approx((20**2 + 1 / 12) ** 0.5, abs=4 * 20 / (2 * n) ** 0.5)


def test_blur_of_a_point_is_a_gaussian() -> None:
    x = torch.zeros(1, 1, 31, 31, dtype=torch.uint8)
    x[0, 0, 15, 15] = 255
    found = blur(x, 1.0)[0, 0].double()
    d = torch.arange(31) - 15
    want = 255 * torch.exp(-(d[:, None] ** 2 + d**2) / 2.0) / (2 * torch.pi)
    assert float((found - want).abs().max()) <= 1.0
    constant = torch.full((1, 3, 9, 9), 77, dtype=torch.uint8)
    assert torch.equal(blur(constant, 2.0), constant)


def test_swirl_turns_the_centre_and_leaves_what_is_symmetric() -> None:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 41), torch.linspace(-1, 1, 41), indexing="ij")
    round_ = (255 * torch.exp(-4 * (x**2 + y**2))).to(torch.uint8)[None, None]
    assert (swirl(round_, 3.0).int() - round_.int()).abs().max() <= 4
    line = torch.zeros(1, 1, 41, 41, dtype=torch.uint8)
    line[..., 20, 19:22] = 255  # a short horizontal stroke
    turned = swirl(line, torch.pi / 2)[0, 0].float()
    assert turned[18:23, 20].sum() > 2 * turned[20, 18:23].sum()  # now it stands


def test_mask_hides_its_share() -> None:
    x = torch.full((40, 2, 28, 28), 200, dtype=torch.uint8)
    hidden = (mask(x, 0.25, generator=generator()) == 0).double().mean(dim=(1, 2, 3))
    assert torch.equal(hidden, torch.full((40,), 0.25, dtype=torch.float64))


def test_salt_and_pepper_are_equally_likely() -> None:
    x = torch.full((30, 3, 40, 40), 100, dtype=torch.uint8)
    found = salt_and_pepper(x, 0.2, generator=generator())
    n = 30 * 40 * 40
    for value in (0, 255):
        share = float((found[:, 0] == value).double().mean())
        assert abs(share - 0.1) < 4 * (0.1 * 0.9 / n) ** 0.5
    assert torch.equal(found[:, 0], found[:, 2])  # a pixel is black or white, not coloured


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_stronger_is_farther(kind: str) -> None:
    x = torch.randint(256, (20, 1, 28, 28), generator=generator()).to(torch.uint8)
    before = x.clone()
    c = CORRUPTIONS[kind]
    change = [float((c.function(x, s, generator=generator()).double() - x.double()).abs().mean()) for s in c.strengths]
    assert change == sorted(change)
    assert change[0] > 0
    assert torch.equal(x, before)
