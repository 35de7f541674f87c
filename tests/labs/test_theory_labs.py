"""The theory labs: verdicts follow from the numbers, three of them run, and the page holds what they found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from program import call, refused

from pushforward import labs
from pushforward.labs import (
    change_of_variables,
    closest_point,
    diffusion_kernel,
    dirac_gan,
    divergences_of_parallel_lines,
    fid_bias_in_n,
    fixed_point_inverse,
    inception_score_failures,
    kantorovich,
    least_squares_is_pearson,
    optimal_discriminator,
    vanishing_gradients,
    zero_one_game,
)


def verdicts(found: list[labs.Finding]) -> list[str]:
    return [f.verdict for f in found]


YES, NO, MAYBE = "supported", "not supported", "unclear"


def test_verdicts_follow_from_the_numbers() -> None:
    assert verdicts(optimal_discriminator.findings([1e-12], [0.01], [-0.1])) == [YES, YES, YES]
    assert verdicts(optimal_discriminator.findings([1e-3], [0.05], [0.1])) == [NO, MAYBE, NO]
    assert verdicts(divergences_of_parallel_lines.findings([0.5, 1.0], [0.51, 0.99], [0.69, 0.69], 0.1)) == [YES, YES]
    assert verdicts(divergences_of_parallel_lines.findings([0.5, 1.0], [0.9, 0.9], [0.3, 0.69], 0.1)) == [NO, NO]
    row = {
        "accuracy": 0.9,
        "saturating": 1.0,
        "non-saturating": 1.0,
        "saturating, exact": 1.0,
        "non-saturating, exact": 1.0,
        "saturating, error": 1e-4,
        "non-saturating, error": 1e-4,
    }
    better = row | {
        "accuracy": 0.99,
        "saturating": 1e-3,
        "saturating, exact": 1e-3,
        "non-saturating": 2.0,
        "non-saturating, exact": 2.0,
    }
    assert verdicts(vanishing_gradients.findings([row, better])) == [YES, YES, YES]
    assert verdicts(vanishing_gradients.findings([better, row | {"saturating": 2.0}])) == [NO, NO, NO]
    assert verdicts(least_squares_is_pearson.findings(1e-12, 0.0, 1.99)) == [YES, YES]
    assert verdicts(least_squares_is_pearson.findings(1e-3, 0.0, 1.5)) == [NO, NO]
    game = {
        "m": 4,
        "saddle_points": 3,
        "all_at_the_data": True,
        "missing": 0.125,
        "single": 0.375,
        "even_on_duplicates": 0.1,
    }
    assert verdicts(zero_one_game.findings([game])) == [YES, YES, YES]
    assert verdicts(
        zero_one_game.findings([game | {"all_at_the_data": False, "missing": 0.2, "even_on_duplicates": 0.0}])
    ) == [NO, NO, NO]
    ends = {
        "minimax": 1.0,
        "wgan": 1.0,
        "non-saturating": 0.2,
        "r1": 1e-9,
        "roth": 1e-9,
        "instance-noise": 1e-9,
        "wgan-gp": 1.3,
    }
    rates = {"r1": -0.25}
    assert verdicts(dirac_gan.findings(ends, rates, rates, 200.0)) == [YES] * 5
    wrong = {
        "minimax": 0.1,
        "wgan": 1.0,
        "non-saturating": 0.9,
        "r1": 0.0,
        "roth": 0.5,
        "instance-noise": 0.0,
        "wgan-gp": 0.0,
    }
    assert verdicts(dirac_gan.findings(wrong, rates, {"r1": -1.0}, 200.0)) == [NO] * 5
    maps = [
        {"name": "a", "integral": 1.0, "p": 0.5},
        {"name": "b", "integral": 1.0, "p": 0.005},
        {"name": "c", "integral": 0.9, "p": 0.5},
    ]
    assert verdicts(change_of_variables.findings(maps)) == [YES, MAYBE, NO]  # type: ignore[arg-type]
    turn = {"L": 0.5, "error": 1e-10, "rate": 0.5, "iterations": 10, "within_bound": True, "bound": 12}
    assert verdicts(fixed_point_inverse.findings([turn], True)) == [YES, YES, YES]
    assert verdicts(fixed_point_inverse.findings([turn | {"error": 1.0, "rate": 0.8}], False)) == [NO, NO, NO]
    assert verdicts(diffusion_kernel.findings(1e-12, [1.0, 2.0], [1.0, 1.001], 1e-12, 20_000)) == [YES, YES, YES]
    assert verdicts(diffusion_kernel.findings(1e-3, [9.0], [1.5], 0.1, 20_000)) == [NO, NO, NO]
    close = {"farthest": 0.0, "spacing": 1.0, "rarest": 0.5, "commonest": 2.0, "loss": 0.0, "other": 0.0, "noise": 0.1}
    assert verdicts(closest_point.findings(close)) == [YES, YES, YES]
    assert verdicts(closest_point.findings(close | {"farthest": 1.0, "rarest": 0.0, "loss": 1.0})) == [NO, NO, NO]
    critic = {"d": 1, "distance": 1.0, "exact": 1.0, "penalty": 0.97, "clipping": 0.7}
    assert verdicts(kantorovich.findings([critic])) == [YES, YES, YES]
    assert verdicts(kantorovich.findings([critic | {"penalty": 0.7, "clipping": 1.2}])) == [NO, NO, NO]
    near, far = np.array([0.1, -0.1]), np.array([4.0, 5.0])
    assert verdicts(fid_bias_in_n.findings([10, 20], [9.0, 4.0], near, np.array([0.99, 1.02]))) == [YES, YES, YES]
    assert verdicts(fid_bias_in_n.findings([10, 20], [4.0, 9.0], far, np.array([0.7, 0.71]))) == [NO, NO, NO]
    wide = np.array([2.0, -2.0]), np.array([0.5, 1.5])  # nothing against 0 and 1, and nothing for them
    assert verdicts(fid_bias_in_n.findings([10, 20], [9.0, 1.0], *wide)) == [YES, MAYBE, MAYBE]
    data = {"inception score": 9.5, "frechet": 3.0, "precision": 0.9, "recall": 0.9}
    bad = {"inception score": 9.8, "frechet": 900.0, "precision": 0.9, "recall": 0.0}
    assert verdicts(inception_score_failures.findings({"training images": data, "a": bad})) == [YES, YES]
    assert verdicts(
        inception_score_failures.findings({"training images": data, "a": bad | {"inception score": 2.0}})
    ) == [NO, NO]
    assert verdicts(
        inception_score_failures.findings({"training images": data, "a": bad, "b": bad | {"recall": 0.8}})
    ) == [YES, MAYBE]


def test_three_run_and_make_a_page(tmp_path: Path) -> None:
    for name in ("dirac-gan", "zero-one-game", "change-of-variables"):
        done = call("lab", "run", name, "--quick", "--out", tmp_path / name, "--quiet")
        assert done.returncode == 0, done.stderr
        assert "NOT SUPPORTED" not in done.stdout
        kept = json.loads((tmp_path / name / "claims.json").read_text())
        assert kept["quick"] and kept["seconds"] > 0
        assert "too short for a verdict" in (tmp_path / name / "lab.md").read_text()
        assert list((tmp_path / name).glob("*.png"))
    done = call("lab", "open", tmp_path, "--no-show")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "In every saddle point" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "holds no lab" in refused("lab", "open", tmp_path / "nothing")


def test_the_commands(tmp_path: Path) -> None:
    assert call("lab").stdout.split() == call("lab", "list").stdout.split() == list(labs.LABS)
    assert "name one lab" in refused("lab", "run")
    assert "name one lab" in refused("lab", "run", "least-squares-is-pearson", "--all")
    assert "--set is for one lab" in refused("lab", "run", "--all", "--set", "n=3")
    assert "did you mean" in refused("lab", "run", "dirac")


@pytest.mark.parametrize("name", labs.LABS)
def test_quick_settings_are_settings(name: str) -> None:
    known = labs.settings_of(name)
    for key, value in labs.LABS[name].quick.items():
        assert key in known
        assert type(value) is type(known[key])


@pytest.mark.parametrize("name", labs.LABS)
def test_every_lab_names_its_source(name: str) -> None:
    assert any(year in labs.source_of(name) for year in map(str, range(1900, 2027)))
