"""bfloat16 is taken where it is faster, and a resumed run keeps what was decided."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from pushforward import runs
from pushforward.config import load_recipe, parse, read
from pushforward.errors import ConfigError
from pushforward.runs import parts
from pushforward.training import precision

SMALL = ["train.steps=4", "train.log_every=2", "train.checkpoint_every=2", "train.sample_every=4", "train.batch_size=8"]


@pytest.fixture(autouse=True)
def _own_accelerate_state() -> Iterator[None]:
    """Accelerate remembers one precision a process: leave none behind."""
    yield
    AcceleratorState._reset_state()


@pytest.mark.parametrize(("plain", "low", "want"), [(2.0, 1.0, "bf16"), (1.3, 1.0, "no"), (1.0, 2.0, "no")])
def test_the_faster_one_is_chosen(monkeypatch: pytest.MonkeyPatch, plain: float, low: float, want: str) -> None:
    monkeypatch.setattr(precision, "_seconds", lambda layer, x, precise: plain if precise else low)
    assert precision.faster_precision.__wrapped__("cpu") == want


def test_it_can_be_timed_here() -> None:
    assert precision.faster_precision.__wrapped__("cpu") in ("no", "bf16")


def test_what_was_decided_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    auto = load_recipe("gan/toy", [*SMALL, 'train.precision="auto"'])
    monkeypatch.setattr(parts, "faster_precision", lambda device: "bf16")
    out = runs.train(auto, tmp_path / "run", quiet=True)
    assert parse(read(out / "config.toml"), "").train.precision == "bf16"
    monkeypatch.setattr(parts, "faster_precision", lambda device: "no")
    longer = load_recipe("gan/toy", [*SMALL, 'train.precision="auto"', "train.steps=6"])
    runs.train(longer, out, resume=True, quiet=True)
    assert parse(read(out / "config.toml"), "").train.precision == "bf16"


@pytest.mark.parametrize("recipe", ["gan/wgan-gp", "gan/icr", "gan/roth", "gan/cn-lsgan", "gan/ada", "gan/r3gan"])
def test_penalties_and_consistency_run_in_bfloat16(recipe: str, tmp_path: Path) -> None:
    small = [*SMALL, "train.steps=2", 'train.precision="bf16"']
    out = runs.train(load_recipe(recipe, small, data="mnist-5k"), tmp_path / "run", quiet=True)
    x = runs.sample(runs.load_run(out).model, 3)
    assert x.dtype == torch.float32 and torch.isfinite(x).all()


def test_samples_in_bfloat16_are_nearly_those_in_float32(tmp_path: Path) -> None:
    model = runs.load_run(
        runs.train(load_recipe("gan/dcgan", SMALL[:1] + SMALL[4:], data="mnist-5k"), tmp_path / "run", quiet=True)
    ).model
    plain, low = (runs.sample(model, 4, precision=p) for p in ("no", "bf16"))
    assert low.dtype == torch.float32
    assert not torch.equal(plain, low)
    assert float((plain - low).abs().max()) < 0.05
    with pytest.raises(ConfigError, match="no or bf16"):
        runs.sample(model, 1, precision="bfloat16")
