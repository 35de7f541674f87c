"""Labs: settings are checked, verdicts follow from the numbers, and each lab runs small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pushforward import labs
from pushforward.errors import ConfigError, NotSupported
from pushforward.labs.corruption import _finding, steps_back
from pushforward.metrics.measurement import Measurement


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(NotSupported, match="corruption"):
        labs.lab("coruption")
    with pytest.raises(ConfigError, match="seed"):
        labs.parse_settings("corruption", ["sed=3"])
    with pytest.raises(ConfigError, match="int is wanted"):
        labs.parse_settings("corruption", ["n=many"])


@pytest.mark.parametrize("name", labs.LABS)
def test_every_lab_has_defaults(name: str) -> None:
    assert all(isinstance(v, int | float | str | bool) for v in labs.settings_of(name).values())


def curve(*values: float, stderr: float = 0.1) -> list[dict[str, Measurement]]:
    return [{"recall": Measurement(v, stderr, "given", 10, 10)} for v in values]


def test_steps_back_are_counted_in_the_metrics_direction() -> None:
    assert steps_back(curve(0.9, 0.7, 0.5, 0.3, 0.1, 0.0), "recall") == (0, 0)
    assert steps_back(curve(0.5, 0.6, 0.5, 0.9, 0.1, 0.0), "recall") == (2, 1)  # +0.1 in doubt, +0.4 is not
    table = {"noise": curve(1, 0.8, 0.6, 0.4, 0.2, 0), "blur": curve(1, 0.8, 0.9, 0.4, 0.2, 0)}
    assert _finding("recall", {"noise": table["noise"]}).verdict == "supported"
    assert _finding("recall", table).verdict == "unclear"
    table["blur"] = curve(1, 0.3, 0.9, 0.4, 0.2, 0)
    assert _finding("recall", table).verdict == "not supported"


def test_corruption_lab(tmp_path: Path) -> None:
    found = labs.run_lab("corruption", tmp_path, quiet=True, n=400)
    assert {f.claim.split(" grows")[0] for f in found} == {"Frechet distance", "KID", "precision", "recall"}
    kept = json.loads((tmp_path / "corruption.json").read_text())["curves"]
    distances = [step["frechet"][0] for step in kept["salt-and-pepper"]]
    assert len(distances) == 6
    assert distances == sorted(distances)
    assert (tmp_path / "corruption.png").stat().st_size > 10_000
    assert "corruption.png" in (tmp_path / "lab.md").read_text()
