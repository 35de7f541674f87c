"""Comparisons: statistics with a known truth, budgets by hand, plans, tables, and small comparisons from end to end."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from pushforward import runs
from pushforward.build import resolve
from pushforward.compare import compare, engines, write_tables
from pushforward.compare.budget import Budget, flops_a_step, parse_budget, steps_for
from pushforward.compare.cell import run_cell
from pushforward.compare.plan import Entry, Plan, goes_on
from pushforward.compare.statistics import paired_difference
from pushforward.compare.table import gather, said
from pushforward.config import load_recipe
from pushforward.errors import CheckpointError, ConfigError, NotSupported
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
    assert np.mean([f.low <= 2 <= f.high for f in found]) > 0.85
    assert all(f.mean > 0 for f in found if f.real)


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


@pytest.mark.parametrize("text", ["", "3", "min", "-3min", "0steps", "3 minutes", "1e999flops", "_min", "3min 2s"])
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
    assert steps_for(Budget(10.5 * (made + d_move + g_move), "flops"), lambda: trainer) == 10


def test_a_budget_of_less_than_a_step_is_refused() -> None:
    with pytest.raises(ConfigError, match="not buy a single"):
        steps_for(Budget(0.5, "steps"), pytest.fail)


# --- plans ----------------------------------------------------------------------------------------------------


def plan(**changes: object) -> Plan:
    toml = "[model]\nfamily = 'gan'\n[optimiser.generator]\n[train]\nsteps = 5\n"
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
    other = Entry("a", old.entries[0].toml.replace("[train]", "[train]\nema = 0.5"), "a")
    with pytest.raises(ConfigError, match="other settings"):
        goes_on(plan(entries=(other,)), old, Path("out"))


# --- from end to end ------------------------------------------------------------------------------------------


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells run here and not as processes of their own: starting those takes seconds."""

    def work(out: Path, plan: Plan, cells: Sequence[engines.Cell], **_: object) -> Iterator[engines.Cell]:
        threads = torch.get_num_threads()
        for entry, seed in cells:
            run_cell(out, entry.name, seed)
            yield entry, seed
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
        Path(runs.__file__).parent.joinpath("recipes/gan/vanilla.toml").read_text().replace("lr = ", "lr = 1e30  # ")
    )
    found = small(tmp_path / "c", ["gan/lsgan", str(bad)], seeds=1, budget="30steps")
    good, failed = found.rows
    assert good.quality["frechet"]
    assert not failed.quality
    assert "optimiser" in failed.failed[0]
    assert "bad, seed 0, failed" in (tmp_path / "c/index.html").read_text()
    assert "bad, seed 0:" in (tmp_path / "c/table.md").read_text()


def test_a_run_from_before_is_judged_as_it_is(tmp_path: Path, in_this_process: None) -> None:
    config = load_recipe("gan/vanilla", [*SMALL, "train.steps=4"], data="mnist-5k")
    runs.train(config, tmp_path / "mine", quiet=True)
    found = small(tmp_path / "c", ["gan/lsgan", str(tmp_path / "mine")])
    assert [(r.name, len(r.seeds)) for r in found.rows] == [("gan-lsgan", 2), ("mine", 1)]


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
