"""Labs: settings are checked, verdicts follow from the numbers, and each lab runs small."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats

from pushforward import build, labs
from pushforward.config import load_recipe
from pushforward.data.fetch import load
from pushforward.data.images import ImageSet
from pushforward.data.toy import Mixture, Ring
from pushforward.errors import ConfigError, DataError, NotSupported
from pushforward.labs import ddpm_vs_ddim, dps_steps, guidance_scale, stacked, trained
from pushforward.labs.collapse import Outcome, blind, covered, one
from pushforward.labs.fid_under_corruption import _finding, steps_back
from pushforward.labs.mode_collapse import _findings, repaired
from pushforward.labs.stacked import joint, judged
from pushforward.metrics.measurement import Measurement


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(NotSupported, match="fid-under-corruption"):
        labs.lab("coruption")
    with pytest.raises(ConfigError, match="seed"):
        labs.parse_settings("fid-under-corruption", ["sed=3"])
    for text in ("many", "2.5", "Infinity", "1e300", "null"):
        with pytest.raises(ConfigError, match="int is wanted"):
            labs.parse_settings("fid-under-corruption", [f"n={text}"])
    assert labs.parse_settings("fid-under-corruption", ["n=20", "data=mnist"]) == {"n": 20, "data": "mnist"}


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
    assert _finding("recall", {"noise": curve(0, 0, 0, 0, 0, 0)}).verdict == "unclear"  # no change is no support
    assert _finding("recall", table).verdict == "unclear"
    table["blur"] = curve(1, 0.3, 0.9, 0.4, 0.2, 0)
    assert _finding("recall", table).verdict == "not supported"


def test_corruption_lab(tmp_path: Path) -> None:
    found = labs.run_lab("fid-under-corruption", tmp_path, quiet=True, n=250)
    assert {f.claim.split(" grows")[0] for f in found} == {"Frechet distance", "KID", "precision", "recall"}
    kept = json.loads((tmp_path / "corruption.json").read_text())["curves"]
    distances = [step["frechet"][0] for step in kept["salt-and-pepper"]]
    assert len(distances) == 6
    assert distances[1:] == sorted(distances[1:])  # of 250 images the first step is within the error
    assert (tmp_path / "corruption.png").stat().st_size > 10_000
    assert "corruption.png" in (tmp_path / "lab.md").read_text()


def test_covered_modes_are_those_with_a_sample_of_high_quality() -> None:
    ring = Ring()
    whole = covered(ring.sample(2500, generator=torch.Generator().manual_seed(0)), ring)
    assert whole[0] == 8
    assert whole[1] == pytest.approx(1 - torch.exp(torch.tensor(-4.5)).item(), abs=0.01)  # within 3 sd in the plane
    two = torch.stack([ring.means[0], ring.means[3], ring.means[5] + 0.1])
    assert covered(two, ring) == (2, pytest.approx(2 / 3))


def test_a_repair_finds_more_modes_and_lies_on_them() -> None:
    def verdict(modes: list[int], quality: float, plain: list[int]) -> str:
        return repaired("b", [(m, quality) for m in modes], "a", plain, (6.0, 0.01)).verdict

    some = [6, 7, 6, 5, 7, 6, 7, 6, 6, 7]
    assert verdict([8] * 10, 0.9, some) == "supported"
    assert verdict([8] * 10, 0.02, some) == "not supported"  # as blind noise would
    assert verdict([8] * 10, 0.9, [1] * 10) == "supported"
    assert verdict(some, 0.9, [8] * 10) == "not supported"
    assert verdict([6, 7, 8], 0.9, [6, 8, 7]) == "unclear"
    assert verdict([8, 8], 0.9, [8, 8]) == "unclear"


def test_the_collapse_lab_counts_its_tests() -> None:
    """One test of p = 0.03 supports; beside others of one lab it does not."""
    made = lambda modes: [Outcome((m, 0.9), (m, 0.9), 1.0, []) for m in modes]  # noqa: E731
    plain, more = [5, 6, 7, 6, 5, 7, 6, 6, 5, 7], [6, 7, 7, 6, 7, 7, 7, 7, 6, 6]
    alone = _findings({"a": made(plain), "b": made(more)}, ["a", "b"], Ring())
    many = _findings({k: made(plain if k == "a" else more) for k in "abcd"}, list("abcd"), Ring())
    assert 0.02 < stats.ttest_ind(more, plain, equal_var=False, alternative="greater").pvalue < 0.05
    assert [f.verdict for f in alone[1:]] == ["supported"]
    assert [f.verdict for f in many[1:]] == ["unclear"] * 3


def test_blind_noise_hits_modes_by_chance() -> None:
    """One Gaussian at the origin with the data's spread: the chance to lie on a mode is the integral of its density over the disc."""
    grid = Mixture([[a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)], sd=0.05)
    variance = 1 + 0.05**2
    chance = 4 * math.pi * 0.15**2 * math.exp(-1 / variance) / (2 * math.pi * variance)
    modes, quality = blind(grid)
    assert modes == 4
    assert quality == pytest.approx(chance, rel=0.06)  # 50,000 draws: 2.4 %, and the density's bend


def test_collapse_lab(tmp_path: Path) -> None:
    found = labs.run_lab(
        "mode-collapse", tmp_path, quiet=True, recipes="gan/toy,gan/toy-r3gan", seeds=2, steps=20, jobs=1
    )
    assert len(found) == 3
    rows = json.loads((tmp_path / "collapse.json").read_text())["rows"]
    assert [r["recipe"] for r in rows] == ["gan/toy", "gan/toy-r3gan"]
    assert (tmp_path / "collapse.png").exists()


def test_repairs_of_the_toy_differ_from_it_by_one_thing() -> None:
    def model(recipe: str) -> tuple[dict[str, Any], dict[str, Any]]:
        found = build.resolve(load_recipe(recipe)).model_dump(exclude={"about", "expect"})
        return found.pop("model"), found

    plain, rest = model("gan/toy")
    for recipe, keys in {
        "toy-unrolled": {"unroll_steps", "unroll_update"},
        "toy-pac2": {"pack"},
        "toy-pac4": {"pack"},
        "toy-relativistic": {"objective", "terms"},
    }.items():
        mine, others = model(f"gan/{recipe}")
        assert {k for k in plain | mine if plain.get(k) != mine.get(k)} == keys
        assert others == rest
    mixture, equal = (load_recipe(f"gan/{n}").model_dump(exclude={"about", "expect"}) for n in ("toy-mixture", "toy-equal"))  # fmt: skip
    assert mixture["model"].pop("prior") != equal["model"].pop("prior")
    assert mixture == equal
    (alone, others), (packed, rest) = model("gan/toy-maxout"), model("gan/toy-maxout-pac2")
    assert {k for k in alone if alone[k] != packed[k]} == {"pack"}
    assert others["train"].pop("batch_size") * 2 == rest["train"].pop(
        "batch_size"
    )  # as many packs as there were points
    assert others == rest


def test_gaussian_lab(tmp_path: Path) -> None:
    found = labs.run_lab("gaussian-1d", tmp_path, quiet=True, steps=40, seeds=2, frames=3)
    assert len(found) == 5
    assert found[0].verdict == "not supported"  # nobody learns in 40 steps
    for name in ("losses.png", "discriminator.png", "discriminator.gif", "rates.png", "batches.png"):
        assert (tmp_path / name).stat().st_size > 1000


def test_errors_are_compared_seed_by_seed() -> None:
    """A seed that is hard for both counts for neither: each pair differs by a tenth, the seeds by a factor of hundred."""
    from pushforward.labs.gaussian_1d import _less

    a = [0.01, 0.1, 1.0, 0.03]
    b = [x * r for x, r in zip(a, (1.1, 1.12, 1.09, 1.11), strict=True)]
    assert _less("", a, b).verdict == "supported"
    assert _less("", b, a).verdict == "not supported"
    assert _less("", [1.0, 2.0, 3.0], [2.0, 1.0, 3.1]).verdict == "unclear"
    near = [1.0, 1.0, 1.0], [1.1, 1.3, 1.3]  # p = .033
    assert [_less("", *near, claims=n).verdict for n in (1, 2)] == ["supported", "unclear"]


def test_rates_of_the_discriminator_are_compared_at_one_rate_of_the_generator() -> None:
    """A generator too slow to arrive, beside fast discriminators alone, says nothing of them."""
    from pushforward.labs.gaussian_1d import _speeds
    from pushforward.labs.one_gaussian import RATES

    torch.manual_seed(0)
    far = {1e-4: 3.0, 1e-3: 0.2, 1e-2: 0.1, 1e-1: 0.5}  # decided by G's rate
    jitter = (1 + 0.01 * torch.rand(6, dtype=torch.float64)).tolist()
    even = {(d, g): [far[g] * v for v in (jitter if d < g else jitter[::-1])] for d in RATES for g in RATES}
    assert [f.verdict for f in _speeds(even)] == ["unclear", "unclear"]
    sweep = even | {(1e-2, 1e-3): [2.0 * v for v in jitter], (1e-1, 1e-2): [0.05 * v for v in jitter]}
    assert [f.verdict for f in _speeds(sweep)] == ["not supported", "supported"]
    assert "rate 0.001 " in _speeds(sweep)[0].claim
    short = sweep | {(d, 1e-3): [3.0 + v for v in sweep[d, 1e-3]] for d in RATES}  # the same order, but nobody arrives
    assert [f.verdict for f in _speeds(short)] == ["unclear", "supported"]
    assert "the steps end on the way" in _speeds(short)[0].evidence


def test_optimal_discriminator() -> None:
    from pushforward.labs.one_gaussian import AXIS, MEAN, SD, optimal

    assert optimal(MEAN, SD) == pytest.approx(0.5)
    curve, middle = optimal(MEAN - 2, SD), int((AXIS - (MEAN - 1)).abs().argmin())
    assert curve[middle] == pytest.approx(0.5, abs=1e-6)  # halfway between two equal Gaussians
    assert curve[-1] > 0.999 > 0.001 > curve[0]


def test_stacks_are_judged_by_the_digits_of_their_channels() -> None:
    """The classifier reads real stacks almost without a mistake, so modes and their shares are those of the labels."""
    data = load("stacked-mnist-5k", "test")
    assert isinstance(data, ImageSet)
    assert data.labels is not None
    assert (joint(data.images).argmax(dim=1) == data.labels).float().mean() > 0.95
    modes, divergence = judged(data.images)
    shares = data.labels.bincount(minlength=1000).double() / len(data)
    shares = shares[shares > 0]
    assert abs(modes - len(shares)) < 30
    assert divergence == pytest.approx(float((shares * (1000 * shares).log()).sum()), abs=0.05)
    assert judged(data.images[:1].expand(50, 3, 28, 28)) == (1, pytest.approx(math.log(1000)))


def test_modes_of_stacks_are_compared_by_ranks() -> None:
    rows = [
        {"recipe": r, "modes": m, "steps": 100 * m}
        for r, ms in (("a", (950, 960, 940)), ("b", (990, 985, 999)))
        for m in ms
    ]
    said = {(x, y): stacked._finding(x, y, rows, 1).verdict for x, y in (("a", "b"), ("b", "a"))}
    assert said == {("b", "a"): "supported", ("a", "b"): "not supported"}  # 1 of C(6, 3) orders: p = 0.05
    assert "after 99,133 and 95,000 steps" in stacked._finding("b", "a", rows, 1).evidence
    assert stacked._finding("b", "a", [rows[0], rows[3]], 1).verdict == "unclear"  # one seed each
    assert {stacked._finding(x, y, rows, 2).verdict for x, y in (("a", "b"), ("b", "a"))} == {
        "unclear"
    }  # p = 0.05 twice


def test_stacked_lab(tmp_path: Path) -> None:
    settings = {
        "recipes": "gan/stacked,gan/stacked-pac2",
        "data": "stacked-mnist-5k",
        "cpu_seconds": 0.1,
        "samples": 64,
    }
    found = labs.run_lab("stacked", tmp_path, quiet=True, **settings)
    assert [f.claim for f in found] == ["gan/stacked-pac2 finds more modes than gan/stacked in the same CPU time."]
    rows = json.loads((tmp_path / "stacked.json").read_text())["rows"]
    assert all(1 <= r["modes"] <= 64 for r in rows)
    before = (tmp_path / "cells/gan-stacked-0.json").stat().st_mtime_ns
    labs.run_lab("stacked", tmp_path, quiet=True, **settings)
    assert (tmp_path / "cells/gan-stacked-0.json").stat().st_mtime_ns == before  # kept, not repeated


def test_a_collapse_run_is_kept_until_its_recipe_changes(tmp_path: Path) -> None:
    first = one("gan/toy-r3gan", "ring-8", 0, 3, tmp_path)
    (file,) = tmp_path.iterdir()
    before = file.stat().st_mtime_ns
    assert one("gan/toy-r3gan", "ring-8", 0, 3, tmp_path) == first
    assert file.stat().st_mtime_ns == before
    one("gan/toy-r3gan", "ring-8", 0, 4, tmp_path)
    assert file.stat().st_mtime_ns > before


@pytest.mark.parametrize("name", ["mode-collapse", "stacked"])
def test_a_recipe_named_twice_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="each once"):
        labs.run_lab(name, tmp_path, quiet=True, recipes="gan/toy,gan/toy")


def test_the_collapse_lab_is_for_the_plane(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="in the plane"):
        labs.run_lab("mode-collapse", tmp_path, quiet=True, data="mixture-1d")


# --- labs of diffusion models -----------------------------------------------------------------------------------


def measured(**values: float) -> dict[str, Measurement]:
    return {k: Measurement(v, 1.0 if k == "frechet" else 0.01, "given", 10, 10) for k, v in values.items()}


def test_verdicts_of_the_solver_lab() -> None:
    def found(ratio: float, few: float, recall: float) -> list[str]:
        table = {
            "DDPM-1000": ddpm_vs_ddim.Outcome(1000, ratio, measured(frechet=20.0, recall=0.7)),
            "DDIM-50": ddpm_vs_ddim.Outcome(50, 1.0, measured(frechet=22.0, recall=recall)),
            "UniPC-10": ddpm_vs_ddim.Outcome(10, 0.2, measured(frechet=few, recall=0.6)),
        }
        return [f.verdict for f in ddpm_vs_ddim.findings(table, 100)]

    assert found(20.9, 15.0, 0.6) == ["supported", "supported", "supported"]
    assert found(20.9, 21.0, 0.6)[1] == "unclear"  # nearly as good, by samples too few to tell
    assert found(21.5, 22.5, 0.69) == ["not supported", "unclear", "unclear"]
    assert found(18.0, 40.0, 0.8) == ["not supported", "not supported", "not supported"]


def test_verdicts_of_the_guidance_lab() -> None:
    def outcome(accuracy: float, frechet: float, recall: float, saturated: float = 0.1) -> guidance_scale.Outcome:
        values = measured(frechet=frechet, recall=recall) | measured(**{guidance_scale.SATURATION: saturated})
        return guidance_scale.Outcome(accuracy, values)

    table = {f"s = {s:g}": outcome(0.9, 20.0, 0.7) for s in guidance_scale.SCALES}
    table["s = 3"] = outcome(0.99, 20.0, 0.7)
    table["s = 100"] = outcome(1.0, 90.0, 0.1, 20.0)
    table["s = 7.5"], table["s = 30"] = outcome(1.0, 50.0, 0.4), outcome(1.0, 70.0, 0.4, 10.0)
    for name, lower in (("interval", 30.0), ("rescale", 0.1), ("parallel", -20.0)):
        for s in (7.5, 30, 100):
            bare = table[f"s = {s:g}"].values
            table[f"s = {s:g}, {name}"] = outcome(1.0, bare["frechet"].value - lower, 0.4, 0.1)
    found = guidance_scale.findings(table, 1000)
    frechet = ["supported", "unclear", "not supported"]
    assert [f.verdict for f in found] == ["supported"] * 4 + [v for f in frechet for v in (f, "unclear")]
    assert [w.rpartition(", ")[2].rstrip(".") for w in found[5].evidence.split("; ")] == ["unclear", "supported", "supported"]  # fmt: skip


def test_verdicts_of_the_posterior_lab() -> None:
    psnr = {"dps": {1000: [20.0, 21.0, 22.1], 50: [15.0, 15.5, 17.0]}}
    psnr |= {"diffpir": {20: [19.5, 20.6, 21.5]}, "mmps": {50: [22.0, 23.0, 24.0]}, "pigdm": {50: [12.0, 13.0, 14.0]}}

    def verdicts(seconds: float = 1.0, step: float = 2.0) -> list[str]:
        curves = {m: {s: {"psnr": v, "seconds an image": [seconds]} for s, v in by.items()} for m, by in psnr.items()}
        return [f.verdict for f in dps_steps.findings(curves, step)]

    assert verdicts() == ["supported", "supported", "supported", "supported", "not supported"]
    assert verdicts(step=2.2)[0] == "not supported"
    assert verdicts(seconds=0.0)[2:] == ["unclear"] * 3  # what all are measured by diverged
    # differences of standard error 1: two of them are not enough where the best of three numbers of steps is looked at (2.39 are)
    psnr["dps"][1000] = [20.0, 20.0, 20.0]
    for away, verdict in ((2.2, "unclear"), (2.6, "supported")):
        psnr["mmps"] = {50: [19.0 + away + k * 3**0.5 for k in (-1, 0, 1)]}
        assert verdicts()[3] == verdict


def test_the_diffusion_labs_run_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ["train.batch_size=16", "model.network.width=16", "train.precision=no"]
    plain = trained.load_recipe
    monkeypatch.setattr(trained, "load_recipe", lambda name, given, data: plain(name, [*given, *small], data=data))
    monkeypatch.setattr(
        ddpm_vs_ddim, "CASES", {k: v | {"steps": min(v["steps"], 20)} for k, v in ddpm_vs_ddim.CASES.items()}
    )
    found = labs.run_lab("ddpm-vs-ddim", tmp_path / "s", quiet=True, train_steps=2, n=20, timed=2, rounds=1)
    assert len(found) == 3
    table = json.loads((tmp_path / "s/solvers.json").read_text())["solvers"]
    assert table["Heun-6"]["evaluations"] == 11
    found = labs.run_lab("guidance-scale", tmp_path / "g", quiet=True, train_steps=2, n=20, steps=2)
    assert len(found) == 10
    assert len(json.loads((tmp_path / "g/guidance.json").read_text())["settings"]) == 15
    monkeypatch.setattr(dps_steps, "STEPS", {"dps": (6, 3), "diffpir": (3,), "mmps": (3,), "pigdm": (3,)})
    found = labs.run_lab("dps-steps", tmp_path / "p", quiet=True, run=str(tmp_path / "s/run"), n=2, rounds=1)
    assert len(found) == 5
    assert (tmp_path / "p/dps-6.png").exists()
    with pytest.raises(NotSupported, match="classes"):
        labs.run_lab("guidance-scale", tmp_path / "x", quiet=True, run=str(tmp_path / "s/run"), n=20)


def test_a_lab_that_reads_what_it_kept_still_says_what_it_took(tmp_path: Path) -> None:
    file = tmp_path / "claims.json"
    labs.run_lab("fixed-point-inverse", tmp_path, quiet=True)
    about = json.loads(file.read_text())
    file.write_text(json.dumps(about | {"seconds": 999.0}))
    labs.run_lab("fixed-point-inverse", tmp_path, quiet=True)
    assert json.loads(file.read_text())["seconds"] == 999.0
    file.write_text(json.dumps(about | {"seconds": 999.0, "settings": {}}))
    labs.run_lab("fixed-point-inverse", tmp_path, quiet=True)
    assert json.loads(file.read_text())["seconds"] < 999
