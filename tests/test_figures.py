"""What the page draws of a log, read off the axes."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.figure import Figure

from pushforward.report import figures

GAN = [
    {"step": 10, "discriminator/adversarial": 1.4, "generator/adversarial": 0.7, "discriminator/real_logit": 0.1,
     "discriminator/fake_logit": -0.1, "generator/gradient_norm": 2.0, "discriminator/overlap": 0.4},
    {"step": 20, "discriminator/adversarial": 1.2, "generator/adversarial": 0.9, "discriminator/real_logit": 0.5,
     "discriminator/fake_logit": -0.5, "generator/gradient_norm": 0.002, "discriminator/overlap": 0.1,
     "monitor/modes": 3.0, "monitor/all_modes": 10.0, "monitor/spread": 0.25, "monitor/high_quality": 0.6},
]  # fmt: skip
ENERGY = [{"step": 5, "energy/contrastive": 0.1, "energy/data_energy": -1.0, "energy/chain_energy": 1.0}]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    kept: list[Figure] = []
    whole = figures.to_svg
    monkeypatch.setattr(figures, "to_svg", lambda f: (kept.append(f), whole(f))[1])
    return kept


def lines(ax: Any) -> dict[str, list[tuple[float, float]]]:
    return {
        line.get_label(): list(zip(*line.get_data(), strict=True))
        for line in ax.lines
        if not line.get_label().startswith("_")
    }


def test_the_log_of_a_gan_is_drawn_with_its_monitors(drawn: list[Figure]) -> None:
    text = figures.curves({"dcgan": GAN}, {"dcgan": [20]})
    loss, logit, gradient, share = drawn[0].axes
    assert lines(loss) == {"discriminator": [(10, 1.4), (20, 1.2)], "generator": [(10, 0.7), (20, 0.9)]}
    assert lines(logit) == {"D(x)": [(10, 0.1), (20, 0.5)], "D(G(z))": [(10, -0.1), (20, -0.5)]}
    assert lines(gradient) == {"generator": [(10, 2.0), (20, 0.002)]}
    assert gradient.get_yscale() == "log"
    assert lines(share) == {
        "modes that are there": [(20, 0.3)],
        "samples on modes": [(20, 0.6)],
        "spread (data: 1)": [(20, 0.25)],
        "fakes that beat data": [(10, 0.4), (20, 0.1)],
    }
    marked = [line for line in share.lines if list(line.get_xdata()) == [20, 20]]
    assert len(marked) == 1  # the alarm
    assert all(label in text for label in ("modes that are there", "gradient norm", "mean logit"))


def test_only_panels_that_some_run_has_are_drawn(drawn: list[Figure]) -> None:
    figures.curves({"pcd": ENERGY, "dcgan": GAN})
    shown = [(ax.get_ylabel(), ax.get_visible()) for ax in drawn[0].axes]
    assert shown[:6] == [
        ("loss", True),
        ("", True),
        ("", False),
        ("mean logit", True),
        ("mean energy", True),
        ("", False),
    ]
    assert shown[6:] == [("", False), ("gradient norm", True), ("", False), ("share", True)]
    assert lines(drawn[0].axes[0]) == {"contrastive": [(5, 0.1)]}
    assert lines(drawn[0].axes[4]) == {"data": [(5, -1.0)], "chains": [(5, 1.0)]}
    figures.curves({"flow": [{"step": 1, "flow/bits_per_dim": 2.0}]})
    assert [ax.get_ylabel() for ax in drawn[1].axes] == ["loss"]
