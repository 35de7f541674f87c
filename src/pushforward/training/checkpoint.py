"""Checkpoints that are either whole or not there: safetensors for numbers, JSON for the rest, nothing pickled.

A checkpoint is a folder `checkpoints/STEP/`. It is written beside its place under a temporary name, synced to the disk and
renamed; the rename is the moment at which it exists. `state.json` lists each file's size and SHA-256.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from pushforward.errors import CheckpointError

STATE = "state.json"
_PARTIAL = ".partial-"


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file so that at any instant it is either the old one or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _write_synced(temporary, content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _explain(error, path) from error


def save(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], *, keep: int = 2
) -> Path:
    """Write `folder/STEP/` with one safetensors file for each entry of `tensors`, then drop all but the newest `keep`.

    Raises:
        CheckpointError: the disk is full or not writable; older checkpoints stay as they are.
    """
    target = folder / str(step)
    partial = folder / f"{_PARTIAL}{step}-{os.getpid()}"
    try:
        partial.mkdir(parents=True, exist_ok=True)
        files = {}
        for name, group in tensors.items():
            raw = save_tensors({k: v.detach().cpu().contiguous() for k, v in group.items()})
            files[f"{name}.safetensors"] = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
            _write_synced(partial / f"{name}.safetensors", raw)
        _write_synced(partial / STATE, json.dumps({**state, "step": step, "files": files}, indent=1).encode())
        _sync_folder(partial)
        if target.exists():  # only when a run was moved back to an earlier step by hand
            shutil.rmtree(target)
        partial.rename(target)
        _sync_folder(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise _explain(error, target) from error
    for old in steps(folder)[:-keep]:
        remove(folder, old)
    return target


def remove(folder: Path, step: int) -> None:
    """Drop a checkpoint: first out of sight, then gone, so that a kill in between leaves no half of it."""
    doomed = folder / f"{_PARTIAL}old-{step}"
    (folder / str(step)).rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def steps(folder: Path) -> list[int]:
    """Steps at which there are checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(int(f.name) for f in folder.iterdir() if f.name.isdigit() and (f / STATE).is_file())


def clean(folder: Path) -> None:
    """Remove what killed writers left behind."""
    for leftover in folder.glob(f"{_PARTIAL}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def load(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read one checkpoint and check every byte of it.

    Returns:
        Tensors by file stem and name, and the state of `state.json`.

    Raises:
        CheckpointError: a file is missing, cut short or altered.
    """
    way_out = f"Remove the folder {path} to go on from the checkpoint before it, or start anew elsewhere."
    try:
        state = json.loads((path / STATE).read_text())
        listing = dict(state["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path / STATE} is missing or damaged ({error}). {way_out}") from error
    if not listing:
        raise CheckpointError(f"{path / STATE} lists no files: it is damaged. {way_out}")
    tensors = {}
    for name, expected in listing.items():
        file = path / name
        try:
            raw = file.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{file} cannot be read ({error.strerror}). {way_out}") from error
        if len(raw) != expected["bytes"]:
            raise CheckpointError(
                f"{file} has {len(raw)} bytes where {expected['bytes']} were written: it is cut short. {way_out}"
            )
        if hashlib.sha256(raw).hexdigest() != expected["sha256"]:
            raise CheckpointError(f"{file} is not what was written (its SHA-256 differs). {way_out}")
        try:
            tensors[file.stem] = load_tensors(raw)
        except SafetensorError as error:
            raise CheckpointError(f"{file} is not a safetensors file ({error}). {way_out}") from error
    return tensors, state


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint, or None."""
    found = steps(folder)
    return folder / str(found[-1]) if found else None


def assign(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy tensors into a module, after checking that names and shapes are exactly its own.

    Raises:
        CheckpointError: it is a checkpoint of another architecture; the first difference is named.
    """
    own = module.state_dict()
    foreign = "The checkpoint is of another architecture; use the recipe that it was trained with"
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or extra:
        name = (missing or extra)[0]
        raise CheckpointError(
            f"{where}: {len(missing)} tensors are missing and {len(extra)} are unknown, {name} for one. {foreign}."
        )
    for name, mine in own.items():
        if mine.shape != tensors[name].shape:
            raise CheckpointError(
                f"{where}: {name} has shape {tuple(tensors[name].shape)}, the model's is {tuple(mine.shape)}. {foreign}."
            )
    with torch.no_grad():
        for name, mine in own.items():
            mine.copy_(tensors[name])


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _explain(error: OSError, path: Path) -> CheckpointError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return CheckpointError(
            f"{path} could not be written: the disk is full. What was saved before is whole; make room and repeat the command with --resume."
        )
    return CheckpointError(f"{path} could not be written ({error.strerror}). What was saved before is whole.")
