"""Comparisons: statistics with a known truth, budgets by hand, plans, tables, and small comparisons from end to end."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import math
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pushforward
from pushforward import provenance, runs
from pushforward.build import resolve
from pushforward.compare import compare, engines, write_tables
from pushforward.compare.budget import Budget, flops_a_step, parse_budget, steps_for
from pushforward.compare.cell import _alive, run_cell
from pushforward.compare.plan import Entry, Plan, goes_on
from pushforward.compare.statistics import paired_difference
from pushforward.compare.table import (
    CAPABILITIES,
    COSTS,
    Row,
    Table,
    as_json,
    gather,
    latex,
    markdown,
    read_cell,
    said,
    to_csv,
)
from pushforward.config import dump, load_recipe
from pushforward.errors import CheckpointError, ConfigError, NotSupported
from pushforward.report.comparison import _animation, _picture, write_page
from pushforward.report.figures import front

SMALL = ["model.generator.hidden=[8]", "model.discriminator.hidden=[8]", "train.batch_size=16"]


# --- statistics -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_false_positives_are_at_most_five_in_a_hundred(seeds: int) -> None:
    """1,000 comparisons of a model with itself, seeds sharing some luck: at most 5 % are called real, within the test's own error."""
    g = np.random.default_rng(seeds)
    luck = g.normal(size=(1000, seeds))
    a, b = (luck + 0.5 * g.normal(size=(1000, seeds)) for _ in range(2))
    real = np.mean([paired_difference(x, y).real for x, y in zip(a, b, strict=True)])
    assert real <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1000)


def test_a_true_difference_is_found_thanks_to_pairing() -> None:
    g = np.random.default_rng(0)
    luck = 10 * g.normal(size=(300, 5))
    a, b = luck + 2 + 0.5 * g.normal(size=(300, 5)), luck + 0.5 * g.normal(size=(300, 5))
    found = [paired_difference(x, y) for x, y in zip(a, b, strict=True)]
    assert np.mean([f.real for f in found]) > 0.9
    assert all(f.mean > 0 for f in found if f.real)


@pytest.mark.parametrize("seeds", [2, 3, 4, 5, 8, 10])
def test_intervals_hold_the_truth_nineteen_times_in_twenty(seeds: int) -> None:
    g = np.random.default_rng(seeds)
    found = [paired_difference(d, np.zeros(seeds)) for d in 2 + g.normal(size=(1500, seeds))]
    assert np.mean([f.low <= 2 <= f.high for f in found]) >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / 1500)


def row(name: str, scores: dict[str, list[float]], *, seeds: Sequence[int] = (0, 1, 2), **changes: object) -> Row:
    table = {
        "errors": {m: [0.5] * len(v) for m, v in scores.items()},
        "costs": {"training seconds": 60.0, "training FLOPs": 1.5e12, "parameters": 1234.0, "sampling ms": 0.25},
        "capabilities": {"encode": name == "second"},
        "failed": {},
        "warnings": [],
    }
    return Row(name, list(seeds), scores, **(table | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(("models", "seeds"), [(5, 3), (10, 5)])
def test_identical_models_are_rarely_told_apart_whoever_comes_first(models: int, seeds: int) -> None:
    """The family-wise rate: any row of a ranking of equals called really worse than the best, at most one time in twenty."""
    g = np.random.default_rng(models)
    wrong = 0
    for _ in range(400):
        rows = [row(str(i), {"frechet": g.normal(size=seeds).tolist()}, seeds=range(seeds)) for i in range(models)]
        wrong += any(d is not None and d.real for _, d in Table(rows, {}, {}, ["frechet"]).ranking("frechet"))
    assert wrong / 400 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


HAND = [
    row("third", {"frechet": [9.0, 11.0, 13.0], "precision": [0.9, 0.8, 0.85]}),
    row("best_&", {"frechet": [1.0, 3.0, 5.0], "precision": [0.3, 0.2, 0.1]}),
    row("second", {"frechet": [4.0, 6.0, 8.1], "precision": [0.5, 0.6, 0.7]}),
]


def test_a_ranking_by_hand() -> None:
    table = Table(HAND, {}, {}, ["frechet", "precision"])
    first, second, third = table.ranking("frechet")
    assert [r.name for r, _ in (first, second, third)] == ["best_&", "second", "third"]
    assert first[1] is None
    found = second[1]
    assert found is not None
    assert found.mean == pytest.approx((3 + 3 + 3.1) / 3)  # worse than the best: its distance is larger
    # Student's interval of 3, 3, 3.1 by hand: sd = 0.057735, t(0.975, 2) = 4.302653
    reach = 4.302653 * 0.0577350 / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((found.mean - reach, found.mean + reach), rel=1e-5)
    assert found.real
    assert [r.name for r, _ in table.ranking("precision")] == ["third", "second", "best_&"]  # larger is better


def test_pairs_are_of_the_same_seed() -> None:
    """One model's seeds come in another order: paired by place, the difference would not be constant."""
    rows = [row("a", {"frechet": [1.0, 5.0, 9.0]}), row("b", {"frechet": [10.0, 2.0, 6.0]}, seeds=(2, 0, 1))]
    (_, _), (_, found) = Table(rows, {}, {}, ["frechet"]).ranking("frechet")
    assert found is not None
    assert (found.mean, found.low, found.high, found.seeds) == (1.0, 1.0, 1.0, 3)


def test_a_lucky_seed_alone_does_not_win() -> None:
    rows = [
        row("whole", {"frechet": [5.0, 20.0, 20.0]}),
        row("crashed", {"frechet": [6.0, 21.0]}, seeds=(0, 1), failed={2: "x"}),
        row("elsewhere", {"frechet": [1.0]}, seeds=(7,)),
    ]
    ranking = Table(
        rows, {"n": 1, "against": "test", "data": "d", "extractor": "e", "extractor_sha256": "0"}, {}, ["frechet"]
    )
    assert [r.name for r, _ in ranking.ranking("frechet")] == ["elsewhere", "whole", "crashed"]
    assert "no seed in common" in markdown(ranking)


def test_tables_say_what_the_rows_say(tmp_path: Path) -> None:
    protocol = {"n": 10, "against": "test", "data": "digits", "extractor": "e", "extractor_sha256": "0" * 64}
    failed = row("gone", {}, seeds=(), costs={}, failed={0: "a reason\nof two lines | with [/markup]"})
    table = Table([*HAND, failed], protocol, {}, ["frechet", "precision"])
    # means 11, 3, 6.033; standard errors sd / sqrt(3) with sd = 2 for the first two
    body = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [float(r["frechet"]) for r in body[:3]] == pytest.approx([11.0, 3.0, 18.1 / 3])
    assert [float(r["frechet stderr"]) for r in body[:2]] == pytest.approx([2 / math.sqrt(3)] * 2)
    assert body[2]["encode"] == "True"
    assert float(body[0]["training FLOPs"]) == 1.5e12
    text = markdown(table)
    assert "| third | 3 | 11.0 ± 1.2 | 0.850 ± 0.029 |" in text
    assert "1. best_&\n2. second: 3.033 from the first" in text
    assert "- gone, seed 0: a reason of two lines | with [/markup]\n" in text
    tex = latex(table)
    assert r"best\_\& & 3 & 3.0 $\pm$ 1.2" in tex
    read = json.loads(as_json(table, plan()), parse_constant=pytest.fail)
    assert read["ranking"]["frechet"][1]["difference"]["seeds"] == 3
    one = Table(
        [row("a", {"frechet": [1.0]}, seeds=(0,)), row("b", {"frechet": [2.0]}, seeds=(0,))], {}, {}, ["frechet"]
    )
    read = json.loads(as_json(one, plan()), parse_constant=pytest.fail)  # no Infinity, no NaN
    assert read["ranking"]["frechet"][1]["difference"]["low"] is None


def test_the_page_says_what_the_table_says(tmp_path: Path) -> None:
    table = {
        "plan": json.loads(as_json(Table([], {}, {}, []), plan(entries=tuple(Entry(r.name, "", "x") for r in HAND))))[
            "plan"
        ],
        **{"rows": [asdict(r) for r in HAND], "floor": {}, "metrics": ["frechet", "precision"]},
        "protocol": {
            "n": 10,
            "against": "test",
            "data": "digits",
            "extractor": "e",
            "extractor_sha256": "0" * 64,
            "data_sha256": "1" * 64,
            "notes": [],
        },
        "ranking": json.loads(as_json(Table(HAND, {}, {}, ["frechet"]), plan()))["ranking"],
    }
    table["rows"][0]["quality"].pop("precision"), table["rows"][0]["errors"].pop("precision")
    table["metrics"] = ["precision"]  # without figures of costs
    table["metrics"] = ["frechet"]
    page = write_page(tmp_path, table, {"costs": COSTS, "capabilities": CAPABILITIES}).read_text()
    assert "best_&amp;" in page
    assert "best_& " not in page
    assert "11.0 ± 1.2" in page
    assert "3.0 ± 1.2" in page
    listed = page[page.index("<ol>") : page.index("</ol>")]
    assert listed.index("best_&amp;") < listed.index("second") < listed.index("third")
    assert re.search(
        r"second</strong>: 3.033 from the first \(95 % interval 2.89 to 3.177, p = \S+\): <strong>real", listed
    )


def test_pictures_fit_the_page(tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    folder = tmp_path / "samples"
    folder.mkdir()
    for k in range(30):
        Image.fromarray(g.integers(0, 256, (260, 260, 3), dtype=np.uint8)).save(folder / f"{k:08d}.png")
    for most in (2_000_000, 300_000, 60_000):
        found = _animation(folder, most)
        assert found is None or len(found) <= most + 40
    assert _animation(folder, 300_000) is not None
    one = folder / "00000000.png"
    whole = _picture(one, 10**7)
    assert whole is not None and whole.startswith("data:image/png")
    coarse = _picture(one, 40_000)
    assert coarse is not None and coarse.startswith("data:image/webp") and len(coarse) <= 40_040


def test_differences_at_the_edges() -> None:
    assert paired_difference([1.0], [0.0]).real is False
    assert math.isnan(paired_difference([1.0], [0.0]).p)
    assert paired_difference([2.0, 3.0], [1.0, 2.0]).real  # the same difference every time
    assert not paired_difference([1.0, 1.0], [1.0, 1.0]).real
    for a, b in (([], []), ([1.0], [1.0, 2.0])):
        with pytest.raises(ValueError, match="at least one"):
            paired_difference(a, b)
    assert "unclear" in said(paired_difference([1.0], [0.0]))


def test_pareto_front() -> None:
    assert front([(3, 3), (1, 5), (2, 5), (2, 4), (4, 1)]) == [(1, 5), (2, 4), (3, 3), (4, 1)]


# --- budgets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [("3min", 180, "seconds"), ("90 s", 90, "seconds"), ("1.5h", 5400, "seconds"), ("1e15flops", 1e15, "flops"), ("200STEPS", 200, "steps")],
)  # fmt: skip
def test_budgets_are_read(text: str, amount: float, unit: str) -> None:
    assert parse_budget(text) == Budget(amount, unit)


@pytest.mark.parametrize(
    "text", ["", "3", "min", "-3min", "0steps", "3 minutes", "1e999flops", "1e30steps", "_min", "3min 2s"]
)
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--budget"):
        parse_budget(text)


def test_flops_of_a_small_gan_by_hand() -> None:
    """Multiplications and additions of each linear layer, 2 B in out: forwards, for its input's and for its weight's gradient."""
    settings = ["model.generator.hidden=[8]", 'model.generator.norm="none"', "model.discriminator.hidden=[8]"]
    config = resolve(
        load_recipe("gan/vanilla", [*settings, "train.batch_size=16", "model.prior.dim=4"], data="mnist-5k")
    )
    trainer = runs.make_trainer(config, runs.load_data(config))
    b, g, d = 2 * 16, (4 * 8, 8 * 784), (784 * 8, 8 * 1)
    made = b * sum(g)  # D's move makes its fakes without gradient
    d_move = 2 * b * (2 * d[0] + 3 * d[1])  # data and fakes: no gradient of the images
    g_move = b * (2 * g[0] + 3 * g[1]) + b * (2 * d[0] + 2 * d[1])  # D is a constant, its input is not
    assert flops_a_step(trainer, steps=2) == made + d_move + g_move
    assert steps_for(Budget(10.5 * (made + d_move + g_move), "flops"), lambda: trainer, name="x") == 10


def test_flops_of_a_gradient_penalty_are_counted() -> None:
    settings = [*SMALL, "model.discriminator_steps=1"]
    made = {}
    for weight in ("", "model.terms=[]"):
        config = resolve(load_recipe("gan/wgan-gp", [*settings, *([weight] if weight else [])], data="mnist-5k"))
        made[weight] = flops_a_step(runs.make_trainer(config, runs.load_data(config)), steps=2)
    # D is 784-8-1: the penalty's forward, its slope and the gradient of that through both layers
    assert made[""] > 1.3 * made["model.terms=[]"]


def test_a_budget_of_less_than_a_step_is_refused() -> None:
    with pytest.raises(ConfigError, match="not buy gan-x a single"):
        steps_for(Budget(0.5, "steps"), pytest.fail, name="gan-x")


# --- plans ----------------------------------------------------------------------------------------------------


def plan(**changes: object) -> Plan:
    toml = dump(resolve(load_recipe("gan/vanilla", ["train.steps=5"])))
    table = {
        "entries": (Entry("a", toml, "a"), Entry("b", toml, "b", run="/runs/b")),
        "data": {"name": "mnist-5k"},
        "seeds": (0, 1),
        "budget": "5steps",
        "metrics": None,
        "n": None,
        "extractor": None,
        "threads": 1,
    }
    return Plan(**(table | changes))  # type: ignore[arg-type]


def test_a_plan_is_read_back_as_it_was(tmp_path: Path) -> None:
    one = plan(metrics=("frechet", "kid"), n=100)
    one.save(tmp_path)
    assert Plan.load(tmp_path) == one
    assert [(e.name, s) for e, s in one.cells()] == [("a", 0), ("b", 0), ("a", 1)]  # a run is judged once
    (tmp_path / "compare.json").write_text('{"entries": 3}')
    with pytest.raises(CheckpointError, match="damaged"):
        Plan.load(tmp_path)
    with pytest.raises(CheckpointError, match="no comparison"):
        Plan.load(tmp_path / "nowhere")


def test_going_on_takes_more_seeds_but_no_other_protocol() -> None:
    old = plan()
    assert goes_on(plan(seeds=(0, 1, 2)), old, Path("out")).seeds == (0, 1, 2)
    for key, value in (("budget", "6steps"), ("n", 10), ("metrics", ("kid",)), ("data", {"name": "mnist"})):
        with pytest.raises(ConfigError, match=key):
            goes_on(plan(**{key: value}), old, Path("out"))
    whole = old.entries[0]
    before = replace(whole, toml=whole.toml.replace("temperature = 1.0\n", ""))  # of a version that had no such setting
    assert before != whole
    assert goes_on(plan(entries=(whole,)), plan(entries=(before,)), Path("out")).entries == (before,)
    other = Entry("a", old.entries[0].toml.replace("[train]", "[train]\nwarmup = 5").replace("warmup = 0\n", ""), "a")
    with pytest.raises(ConfigError, match="other settings"):
        goes_on(plan(entries=(other,)), old, Path("out"))


# --- from end to end ------------------------------------------------------------------------------------------


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells run here and not as processes of their own: starting those takes seconds."""

    def work(out: Path, plan: Plan, cells: Sequence[engines.Cell], **_: object) -> Iterator[engines.Ended]:
        threads = torch.get_num_threads()
        for entry, seed in cells:
            run_cell(out, entry.name, seed)
            yield (entry, seed), None
        torch.set_num_threads(threads)

    monkeypatch.setattr(engines, "local", work)


def small(out: Path, recipes: Sequence[str] = ("gan/vanilla", "gan/lsgan"), **options: object):
    table = {
        "seeds": 2,
        "budget": "6steps",
        "n": 60,
        "threads": 1,
        "quiet": True,
        "settings": SMALL,
        "metrics": ["frechet", "precision-recall"],
    }
    return compare(recipes, out, **(table | options))  # type: ignore[arg-type]


def scores(out: Path) -> dict[str, object]:
    """What must not depend on how often a comparison was interrupted: everything but seconds and memory."""
    table = json.loads((out / "table.json").read_text())
    return {
        "quality": [r["quality"] for r in table["rows"]],
        "errors": [r["errors"] for r in table["rows"]],
        "ranking": table["ranking"],
        "floor": table["floor"],
    }


def test_a_comparison_and_its_files(tmp_path: Path, in_this_process: None) -> None:
    found = small(tmp_path / "c")
    assert [r.name for r in found.rows] == ["gan-vanilla", "gan-lsgan"]
    assert all(len(r.quality["frechet"]) == 2 and r.costs["parameters"] for r in found.rows)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "c/table.csv").read_text())))
    assert float(rows[0]["frechet"]) == pytest.approx(sum(found.rows[0].quality["frechet"]) / 2)
    assert "| gan-lsgan | 2 |" in (tmp_path / "c/table.md").read_text()
    tex = (tmp_path / "c/table.tex").read_text()
    assert tex.count(r"\\") == 1 + len(found.rows)
    page = (tmp_path / "c/index.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', page)  # nothing from elsewhere
    assert page.count("data:image/webp") == 2
    with pytest.raises(ConfigError, match="--resume"):
        small(tmp_path / "c")


def test_going_on_repeats_nothing_and_adds_what_is_new(tmp_path: Path, in_this_process: None) -> None:
    small(tmp_path / "c", seeds=1)
    before = (tmp_path / "c/cells/gan-lsgan/seed-0.json").stat().st_mtime_ns
    (tmp_path / "c/cells/gan-vanilla/seed-0.json").unlink()  # as if killed after training, before judging
    small(tmp_path / "c", resume=True)
    small(tmp_path / "whole")
    assert (tmp_path / "c/cells/gan-lsgan/seed-0.json").stat().st_mtime_ns == before
    assert scores(tmp_path / "c") == scores(tmp_path / "whole")
    with pytest.raises(ConfigError, match="budget"):
        small(tmp_path / "c", resume=True, budget="7steps")


def test_a_failed_cell_is_told_and_not_fatal(tmp_path: Path, in_this_process: None) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text(
        Path(pushforward.__file__)
        .parent.joinpath("recipes/gan/vanilla.toml")
        .read_text()
        .replace("lr = ", "lr = 1e30  # ")
    )
    place = tmp_path / "c/cells/bad"  # a picture from before it failed does not make it judged
    small(tmp_path / "c", ["gan/lsgan"], seeds=1, budget="30steps")
    place.mkdir()
    shutil.copy(tmp_path / "c/cells/gan-lsgan/seed-0.png", place / "seed-0.png")
    found = small(tmp_path / "c", ["gan/lsgan", str(bad)], seeds=1, budget="30steps", resume=True)
    good, failed = found.rows
    assert good.quality["frechet"]
    assert not failed.quality
    assert "optimiser" in failed.failed[0]
    assert "bad, seed 0, failed" in (tmp_path / "c/index.html").read_text()
    assert "bad, seed 0:" in (tmp_path / "c/table.md").read_text()


def test_a_run_from_before_is_judged_as_it_is_and_anew_once_it_went_on(tmp_path: Path, in_this_process: None) -> None:
    config = load_recipe("gan/vanilla", [*SMALL, "train.steps=4"], data="mnist-5k")
    runs.train(config, tmp_path / "mine", quiet=True)
    sources = ["gan/lsgan", str(tmp_path / "mine")]
    found = small(tmp_path / "c", sources)
    assert [(r.name, len(r.seeds)) for r in found.rows] == [("gan-lsgan", 2), ("mine", 1)]
    before = found.rows[1].quality["frechet"]
    config = load_recipe("gan/vanilla", [*SMALL, "train.steps=40"], data="mnist-5k")
    runs.train(config, tmp_path / "mine", resume=True, quiet=True)
    small(tmp_path / "d", sources)  # another folder: the run is what it is now
    plan = Plan.load(tmp_path / "c")
    assert read_cell(tmp_path / "c", plan, plan.entries[1], 0) is None  # what was found of it then no longer counts
    assert gather(tmp_path / "d", Plan.load(tmp_path / "d"), {}).rows[1].quality["frechet"] != before


@pytest.mark.parametrize("budget", ["1s", "2e9flops"])
def test_time_and_flops_become_steps_once(tmp_path: Path, in_this_process: None, budget: str) -> None:
    small(tmp_path / "c", ["gan/lsgan"], seeds=1, budget=budget)
    (entry,) = Plan.load(tmp_path / "c").entries
    assert entry.steps is not None and entry.steps >= 1
    cell = json.loads((tmp_path / "c/cells/gan-lsgan/seed-0.json").read_text())
    assert cell["costs"]["steps"] == entry.steps
    if budget.endswith("flops"):
        assert cell["costs"]["training FLOPs"] == pytest.approx(2e9, rel=0.05)
    again = small(tmp_path / "c", ["gan/lsgan"], seeds=2, budget=budget, resume=True)
    assert len(again.rows[0].seeds) == 2
    assert Plan.load(tmp_path / "c").entries[0].steps == entry.steps


def test_a_cell_whose_process_was_killed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(out: Path, plan: Plan, cells: Sequence[engines.Cell], **_: object) -> Iterator[engines.Ended]:
        for cell in cells:
            yield cell, engines._death(-9)

    monkeypatch.setattr(engines, "local", die)
    (lost,) = small(tmp_path / "c", ["gan/lsgan"], seeds=1).rows
    assert "signal 9" in lost.failed[0]
    assert engines._death(0) is engines._death(3) is None
    assert "code 1" in str(engines._death(1))


def test_outcomes_of_another_plan_do_not_count(tmp_path: Path, in_this_process: None) -> None:
    small(tmp_path / "c", ["gan/lsgan"], seeds=1)
    with pytest.raises(ConfigError, match="threads 1"):
        small(tmp_path / "c", ["gan/lsgan"], seeds=1, resume=True, threads=2)
    with pytest.raises(ConfigError, match="other settings"):
        small(tmp_path / "c", ["gan/lsgan"], seeds=1, resume=True, settings=[*SMALL, 'train.precision="bf16"'])
    plan = Plan.load(tmp_path / "c")
    assert read_cell(tmp_path / "c", plan, plan.entries[0], 0) is not None
    for other in (replace(plan, n=50), replace(plan, entries=(replace(plan.entries[0], steps=7),))):
        assert read_cell(tmp_path / "c", other, other.entries[0], 0) is None
    (tmp_path / "c/cells/gan-lsgan/seed-0.json").write_text('{"values": {}}')
    assert read_cell(tmp_path / "c", plan, plan.entries[0], 0) is None
    (tmp_path / "c/compare.json").unlink()
    with pytest.raises(ConfigError, match="no comparison"):
        small(tmp_path / "c", ["gan/lsgan"], seeds=1, resume=True)


def test_one_comparison_at_a_time_in_a_folder(tmp_path: Path, in_this_process: None) -> None:
    small(tmp_path / "c", ["gan/lsgan"], seeds=1)
    with (tmp_path / "c/.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="at work"):
            small(tmp_path / "c", ["gan/lsgan"], seeds=1, resume=True)


def test_a_parent_that_ended_is_gone_even_before_it_is_reaped() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert _alive(child.pid)
    child.kill()
    while Path(f"/proc/{child.pid}/stat").read_text().split()[2] != "Z":
        time.sleep(0.01)
    assert not _alive(child.pid)  # a zombie
    child.wait()
    assert not _alive(child.pid)


def test_the_command_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["compare", "my recipe.toml", "--set", 'model.generator.norm="none"']
    monkeypatch.setattr(sys, "argv", ["/somewhere/pushforward/__main__.py", *words])
    assert shlex.split(provenance.command_line()) == ["pushforward", *words]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engine": "rai"}, "local and ray"),
        ({"address": "auto"}, "--engine ray"),
        ({"budget": "3"}, "--budget"),
        ({"recipes": ["gan/lsgan", "gan/lsgan"]}, "named twice"),
        ({"recipes": []}, "at least one"),
        ({"metrics": ["frechte"]}, "frechet"),
        ({"recipes": ["gan/vanila"]}, "vanilla"),
        ({"n": 10**6}, "-n"),
    ],
    ids=lambda v: "" if isinstance(v, dict) else v,
)
def test_what_cannot_be_compared_is_refused_before_anything_is_written(
    tmp_path: Path, options: dict, said: str
) -> None:
    with pytest.raises((ConfigError, NotSupported, ValueError), match=said):
        small(tmp_path / "c", **options)
    assert not (tmp_path / "c").exists()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_a_click_sorts_the_table(tmp_path: Path, in_this_process: None) -> None:
    small(tmp_path / "c", ["gan/vanilla", "gan/lsgan", "gan/minimax"], seeds=1)
    page = (tmp_path / "c/index.html").read_text()
    for clicks, falling in ((1, False), (2, True)):
        click = "document.querySelector('#results th:nth-child(2) button').click();" * clicks
        (tmp_path / "page.html").write_text(page.replace("</body>", f"<script>{click}</script></body>"))
        ran = subprocess.run(
            ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom", f"file://{tmp_path}/page.html"],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        assert "CONSOLE" not in ran.stderr
        body = ran.stdout[ran.stdout.index("<tbody>") : ran.stdout.index("</tbody>")]
        values = [float(re.findall(r'data-value="([^"]*)"', row)[1]) for row in body.split("<tr>")[1:]]
        assert len(set(values)) == 3
        assert values == sorted(values, reverse=falling)


def test_tables_are_made_anew_from_files_alone(tmp_path: Path, in_this_process: None) -> None:
    small(tmp_path / "c", seeds=1)
    before = scores(tmp_path / "c")
    for name in ("table.json", "table.md", "index.html"):
        (tmp_path / "c" / name).unlink()
    write_tables(tmp_path / "c", page=True)
    assert scores(tmp_path / "c") == before
    assert (tmp_path / "c/index.html").exists()
    assert gather(tmp_path / "c", Plan.load(tmp_path / "c"), {}).floor == {}


# --- processes ------------------------------------------------------------------------------------------------

WORDS = ["compare", "gan/vanilla", "gan/lsgan", "--seeds", "2", "--budget", "150steps", "-n", "100", "--threads", "1", "--metrics", "frechet,kid", "--quiet"]  # fmt: skip


@pytest.mark.slow
def test_killed_twice_and_resumed_gives_the_same_table(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run([sys.executable, "-m", "pushforward", *WORDS, "--out", whole], check=True, capture_output=True)
    for seconds in (9, 14):
        process = subprocess.Popen([sys.executable, "-m", "pushforward", *WORDS, "--out", broken, "--resume"])
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(seconds)
        process.kill()
        process.wait()
    subprocess.run([sys.executable, "-m", "pushforward", *WORDS, "--out", broken, "--resume"], check=True)
    assert scores(whole) == scores(broken)


@pytest.mark.slow
def test_ray_gives_the_same_numbers_as_processes(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra cluster")
    for engine in ("local", "ray"):
        words = [sys.executable, "-m", "pushforward", *WORDS, "--out", tmp_path / engine, "--engine", engine]
        subprocess.run(words, check=True, capture_output=True)
    assert scores(tmp_path / "local") == scores(tmp_path / "ray")


@pytest.mark.slow
def test_a_cell_of_several_processes_is_one(tmp_path: Path) -> None:
    words = [
        "compare",
        "gan/lsgan",
        "--seeds",
        "1",
        "--budget",
        "20steps",
        "-n",
        "60",
        "--metrics",
        "frechet",
        "--quiet",
    ]
    words += ["--threads", "1", "--processes", "2", "--out", str(tmp_path / "c")]
    subprocess.run([sys.executable, "-m", "pushforward", *words], check=True, capture_output=True)
    environment = json.loads((tmp_path / "c/cells/gan-lsgan/seed-0/environment.json").read_text())
    assert environment["processes"] == 2
