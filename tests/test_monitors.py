"""Alarms sound where they should and nowhere else, and the signs behind them are right on samples that are known."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pushforward.data.fetch import load
from pushforward.data.images import ImageSet, to_model
from pushforward.data.toy import DENSITIES, Mixture, Ring
from pushforward.monitors import alarms, signs


def test_blurred_modes_are_still_there() -> None:
    """Every Gaussian ten times as wide: bad samples, but no mode is missing, so no alarm may say so."""
    for name in ("ring-8", "grid-25"):
        density = DENSITIES[name]
        assert isinstance(density, Mixture)
        wide = Mixture(density.means, (10 * density.sd).tolist()).sample(
            2000, generator=torch.Generator().manual_seed(0)
        )
        found = signs(wide, density, name)
        assert found["monitor/modes"] == len(density.means)
        assert found["monitor/high_quality"] < 0.1


def test_a_perfect_generator_of_few_images_is_not_called_the_same() -> None:
    images = torch.randint(256, (20, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    fakes = (images.float() / 127.5 - 1)[torch.arange(250) % 20]
    fakes += 0.3 * torch.randn(fakes.shape, generator=torch.Generator().manual_seed(1))
    assert signs(fakes, ImageSet(images), "mine")["monitor/spread"] > 0.8


def test_signs_of_a_ring() -> None:
    ring = Ring()
    whole = signs(ring.sample(1000, generator=torch.Generator().manual_seed(1)), ring, "ring-8")
    assert (whole["monitor/modes"], whole["monitor/all_modes"]) == (8, 8)
    assert whole["monitor/high_quality"] > 0.97
    assert whole["monitor/spread"] == pytest.approx(1.0, abs=0.15)
    three = ring.means[:3].repeat(300, 1) + 0.02 * torch.randn(900, 2, generator=torch.Generator().manual_seed(2))
    assert signs(three, ring, "ring-8")["monitor/modes"] == 3
    far = signs(torch.full((500, 2), 9.0), ring, "ring-8")
    assert (far["monitor/modes"], far["monitor/high_quality"], far["monitor/spread"]) == (1, 0, 0)


def test_signs_of_digits() -> None:
    data = load("mnist-5k", "test")
    assert isinstance(data, ImageSet) and data.labels is not None
    every = signs(to_model(data.images[::4]), data, "mnist-5k")
    assert every["monitor/modes"] == 10
    ones = to_model(data.images[data.labels == 1])
    assert signs(ones, data, "mnist-5k")["monitor/modes"] <= 2
    assert "monitor/modes" not in signs(ones, data, "my-images")


def test_signs_of_stacked_digits() -> None:
    data = load("stacked-mnist-5k", "train")
    assert isinstance(data, ImageSet) and data.labels is not None
    whole = signs(to_model(data.images[:250]), data, "stacked-mnist-5k")
    assert whole["monitor/modes"] == pytest.approx(
        len(data.labels[:250].unique()), abs=5
    )  # but for what the encoder misreads
    assert whole["monitor/all_modes"] == pytest.approx(1000 * (1 - 0.999**250), abs=20)
    seven = to_model(data.images[:7].repeat(40, 1, 1, 1)[:250])
    assert signs(seven, data, "stacked-mnist-5k")["monitor/modes"] == len(data.labels[:7].unique())


def log(**columns: Any) -> list[dict[str, Any]]:
    """Lines every 100 steps."""
    length = max(len(v) for v in columns.values())
    return [
        {"step": 100 * (i + 1), **{k.replace("__", "/"): v[i] for k, v in columns.items() if i < len(v)}}
        for i in range(length)
    ]


def test_collapse_is_told_once_it_lasts() -> None:
    sound = log(monitor__modes=[2.0] * 4 + [9.0] * 20, monitor__all_modes=[10.0] * 24)
    assert alarms(sound) == []  # the first steps do not count, and 9 of 10 is no collapse
    short = log(monitor__modes=[10.0] * 10 + [3.0] * 5 + [10.0] * 5, monitor__all_modes=[10.0] * 20)
    assert alarms(short) == []
    lasting = alarms(log(monitor__modes=[10.0] * 10 + [3.0] * 10, monitor__all_modes=[10.0] * 20))
    assert [(a.kind, a.step) for a in lasting] == [("collapse", 1600)]
    assert lasting[0].text.startswith("mode collapse: 3 of 10 modes for 500 steps.")


def test_noise_is_told_from_collapse() -> None:
    """Uniform noise is one digit to the encoder, and its nearest neighbours are further apart than data's."""
    data = load("mnist-5k", "train")
    assert isinstance(data, ImageSet)
    noise = torch.rand(250, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = signs(noise, data, "mnist-5k")
    assert found["monitor/modes"] <= 3
    rows = [{"step": 100 * k, **found} for k in range(1, 20)]
    assert [a.kind for a in alarms(rows)] == ["noise"]
    toy = log(monitor__modes=[3.0] * 20, monitor__all_modes=[8.0] * 20, monitor__spread=[4.0] * 20)
    scattered = [r | {"monitor/high_quality": 0.1} for r in toy]  # between Gaussians, of which five are lost
    assert [a.kind for a in alarms(scattered)] == ["collapse", "missed"]
    one = to_model(data.images[:1].expand(250, -1, -1, -1)) + 0.02 * noise
    rows = [{"step": 100 * k, **signs(one, data, "mnist-5k")} for k in range(1, 20)]
    assert {a.kind for a in alarms(rows)} == {"collapse", "sameness"}


def test_samples_between_the_modes_are_told() -> None:
    """A Gaussian of the ring's mean and covariance is nearest to all eight modes and hits none."""
    ring = DENSITIES["ring-8"]
    assert isinstance(ring, Mixture)
    blind = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)) * 2**0.5
    found = signs(blind, ring, "ring-8")
    assert found["monitor/modes"] == found["monitor/all_modes"] == 8
    rows = [{"step": 100 * k, **found} for k in range(1, 20)]
    (alarm,) = alarms(rows)
    assert (alarm.kind, alarm.step) == ("missed", 1000)
    assert alarm.text.startswith(f"samples miss the modes: {found['monitor/high_quality']:.1%} of them")
    good = signs(ring.sample(500, generator=torch.Generator().manual_seed(1)), ring, "ring-8")
    assert alarms([{"step": 100 * k, **good} for k in range(1, 20)]) == []


def test_sameness() -> None:
    assert alarms(log(monitor__spread=[0.9] * 20)) == []
    assert [a.kind for a in alarms(log(monitor__spread=[0.9] * 8 + [0.05] * 8))] == ["sameness"]


def test_saturation_is_a_fall_by_a_thousand() -> None:
    falling = [2.0] * 15 + [1e-4] * 15
    found = alarms(log(generator__gradient_norm=falling))
    assert [a.kind for a in found] == ["saturation"]
    assert "fell by 20,000x" in found[0].text
    assert alarms(log(generator__gradient_norm=[2.0] * 15 + [0.01] * 15)) == []
    assert alarms(log(generator__gradient_norm=[2.0] * 15 + [1e-9] * 3 + [2.0] * 10)) == []  # a dip is none
    assert alarms(log(generator__gradient_norm=[2.0] * 15 + [900.0] + [0.5] * 15)) == []  # nor a single peak


def test_a_discriminator_that_is_never_beaten_has_saturated_at_a_fall_by_a_hundred() -> None:
    """As in a run of gan/minimax with a fast discriminator: most of the fall is in the first lines."""
    norms = [0.037, 0.015, 0.009, 0.005, *[1e-4] * 20]
    assert alarms(log(generator__gradient_norm=norms, discriminator__overlap=[0.2] * 24)) == []
    (found,) = alarms(log(generator__gradient_norm=norms, discriminator__overlap=[0.01] + [0.0] * 23))
    assert (found.kind, found.step) == ("saturation", 1000)
    assert "tells every fake from data: the generator's gradient fell by 370x" in found.text
