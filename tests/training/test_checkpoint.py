from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from pushforward.errors import CheckpointError
from pushforward.training import checkpoint


def save_some(folder: Path, steps: range = range(1, 4), keep: int = 2) -> None:
    for step in steps:
        checkpoint.save(folder, step, {"model": {"w": torch.full((3,), float(step))}}, {"note": step}, keep=keep)


def test_round_trip(tmp_path: Path) -> None:
    x = {
        "a": torch.randn(3, 4),
        "b": torch.arange(5),
        "c": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }
    path = checkpoint.save(tmp_path, 7, {"model": x}, {"position": 12})
    tensors, state = checkpoint.load(path)
    for name in x:
        assert torch.equal(tensors["model"][name], x[name]) and tensors["model"][name].dtype == x[name].dtype
    assert (state["step"], state["position"]) == (7, 12)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    save_some(tmp_path, range(1, 6), keep=2)
    assert checkpoint.steps(tmp_path) == [4, 5]
    assert sorted(f.name for f in tmp_path.iterdir()) == ["4", "5"]


def test_numeric_not_alphabetic_order(tmp_path: Path) -> None:
    save_some(tmp_path, range(8, 12), keep=9)
    newest = checkpoint.newest(tmp_path)
    assert newest is not None and newest.name == "11"


@pytest.mark.parametrize("cut", [0, 1, 10, -1])
def test_a_checkpoint_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    save_some(tmp_path)
    file = tmp_path / "3/model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=r"cut short.*go on from the checkpoint before it"):
        checkpoint.load(tmp_path / "3")


def test_a_flipped_bit_is_seen(tmp_path: Path) -> None:
    save_some(tmp_path)
    file = tmp_path / "3/model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-2] ^= 1
    file.write_bytes(raw)
    with pytest.raises(CheckpointError, match="SHA-256"):
        checkpoint.load(tmp_path / "3")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"files": 3}'])
def test_damaged_state_is_refused(tmp_path: Path, text: str) -> None:
    save_some(tmp_path)
    (tmp_path / "3/state.json").write_text(text)
    with pytest.raises(CheckpointError, match="missing or damaged"):
        checkpoint.load(tmp_path / "3")


def test_what_a_killed_writer_left_is_not_seen_and_cleaned(tmp_path: Path) -> None:
    save_some(tmp_path)
    (tmp_path / ".partial-9-1").mkdir()
    (tmp_path / ".partial-9-1/model.safetensors").write_bytes(b"half")
    (tmp_path / "8").mkdir()  # no state.json: never finished
    assert checkpoint.steps(tmp_path) == [2, 3]
    checkpoint.clean(tmp_path)
    assert not list(tmp_path.glob(".partial*"))


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_some(tmp_path)
    real = os.fsync

    def full(handle: int) -> None:
        real(handle)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="disk is full"):
        save_some(tmp_path, range(4, 5))
    monkeypatch.undo()
    assert checkpoint.steps(tmp_path) == [2, 3]
    checkpoint.load(tmp_path / "3")
    assert not list(tmp_path.glob(".partial*"))


def test_atomic_write_keeps_the_old_file_on_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    checkpoint.write_atomic(file, "old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="disk is full"):
        checkpoint.write_atomic(file, "new")
    assert file.read_text() == "old" and [f.name for f in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({"weight": torch.zeros(2, 3)}, "1 tensors are missing and 0 are unknown, bias"),
        ({"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "x": torch.zeros(1)}, "1 are unknown, x"),
        ({"weight": torch.zeros(3, 2), "bias": torch.zeros(2)}, r"weight has shape \(3, 2\), the model's is \(2, 3\)"),
    ],
)
def test_another_architecture_is_refused_and_changes_nothing(tensors: dict, match: str) -> None:
    layer = nn.Linear(3, 2)
    before = layer.weight.clone()
    with pytest.raises(CheckpointError, match=match):
        checkpoint.assign(layer, tensors, "here")
    assert torch.equal(layer.weight, before)


def test_state_is_readable_by_people(tmp_path: Path) -> None:
    save_some(tmp_path)
    state = json.loads((tmp_path / "3/state.json").read_text())
    assert state["note"] == 3 and "model.safetensors" in state["files"]
