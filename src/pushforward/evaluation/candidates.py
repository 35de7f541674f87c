"""What is judged: samples of a run, the images of a folder or of an array, and their features."""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.data.fetch import load_path
from pushforward.data.images import to_bytes
from pushforward.errors import DataError
from pushforward.metrics.features import Extractor, Features, extractor
from pushforward.runs import is_run, load_run, sample


@dataclass(frozen=True)
class Candidate:
    """Something to be judged: uint8 images (n, C, H, W) or points (n, d), and what is known of how they were made."""

    name: str
    x: Tensor
    about: dict[str, Any]


def candidate(
    target: str,
    n: int,
    by: Extractor,
    *,
    shape: tuple[int, ...] | None = None,
    seed: int = 0,
    ranks: int = 1,
    quiet: bool = True,
) -> tuple[Candidate, Features]:
    """Samples of a run, or the images of a folder or an .npz/.npy file (all, or a random n of them), and their features.

    Args:
        target: A run, a folder or a file.
        n: How many.
        by: The extractor.
        shape: Of one real image; others are refused.
        seed: Of a run's samples.
        ranks: Processes that share the work by index: each image is made and counted once.
        quiet: Show no progress.

    Raises:
        DataError, CheckpointError: nothing usable there.
    """
    path = Path(target)
    if not path.exists():
        raise DataError(f"{target}: no run, folder or file of that name.")
    start = time.perf_counter()
    if ranks > 1:
        x, features, sampling = _in_processes(target, n, by.name, seed, ranks)
        _same_shape(x, shape, target)
    else:
        x, sampling = _images(path, n, 0, n, seed, points=by.name == "points", quiet=quiet)
        _same_shape(x, shape, target)
        features = by(x)
    if not is_run(path):
        return Candidate(path.stem, x, {"kind": "folder" if path.is_dir() else "array"}), features
    run = load_run(path)
    about = {
        "kind": "run",
        "step": run.step,
        "training_seconds": run.seconds,
        "retries": run.retries,
        "sampling_ms_an_image": 1000 * sampling / n,
        "sampling_and_features_seconds": round(time.perf_counter() - start, 2),
        "seed": seed,
    }
    return Candidate(path.resolve().name, x, about), features


def _same_shape(x: Tensor, shape: tuple[int, ...] | None, target: str) -> None:
    if shape is not None and tuple(x.shape[1:]) != shape:
        raise DataError(
            f"{target}: images of shape {tuple(x.shape[1:])} against data of shape {shape}; bring them to one size first."
        )


def _images(path: Path, n: int, start: int, stop: int, seed: int, *, points: bool, quiet: bool) -> tuple[Tensor, float]:
    """Images start .. stop - 1 of a target, and the seconds that sampling them took."""
    if not is_run(path):
        x = _points(path) if points else load_path(path).images
        # A folder is often sorted by class: judge a random part of it, always the same.
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:n].sort().values
        return x[order[start:stop]], 0.0
    model = load_run(path).model
    began = time.perf_counter()
    x = sample(model, stop - start, seed=seed, start=start, quiet=quiet)
    return (to_bytes(x) if x.ndim == 4 else x), time.perf_counter() - began


def _points(path: Path) -> Tensor:
    """Points (n, d) of an .npz that `pushforward sample` wrote."""
    try:
        with np.load(path, allow_pickle=False) as loaded:
            x = torch.from_numpy(np.ascontiguousarray(loaded["images"], dtype=np.float32))
    except Exception as error:  # numpy raises many kinds on damaged files
        raise DataError(f"{path}: no .npz with points under 'images' ({error}).") from error
    if x.ndim != 2:
        raise DataError(f"{path}: shape {tuple(x.shape)}; points are (n, d).")
    return x


def _share(target: str, n: int, start: int, stop: int, by: str, seed: int, threads: int) -> tuple[Any, Any, Any, float]:
    """One process's part, as numpy arrays."""
    torch.set_num_threads(threads)
    x, seconds = _images(Path(target), n, start, stop, seed, points=by == "points", quiet=True)
    found = extractor(by)(x)
    return x.numpy(), found.features.numpy(), None if found.logits is None else found.logits.numpy(), seconds


def _in_processes(target: str, n: int, by: str, seed: int, ranks: int) -> tuple[Tensor, Features, float]:
    """The work of `candidate` shared among processes, each image once and in order."""
    if not is_run(Path(target)):
        n = min(n, len(load_path(Path(target)).images))
    edges = [round(n * r / ranks) for r in range(ranks + 1)]
    threads = max(1, torch.get_num_threads() // ranks)
    with ProcessPoolExecutor(ranks, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(_share, target, n, a, b, by, seed, threads) for a, b in pairwise(edges) if b > a]
        parts = [job.result() for job in jobs]
    x, features = (torch.cat([torch.from_numpy(p[k]) for p in parts]) for k in (0, 1))
    assert len(x) == n, f"{len(x)} images came back from {ranks} processes, {n} were asked for"
    logits = None if parts[0][2] is None else torch.cat([torch.from_numpy(p[2]) for p in parts])
    return x, Features(features, logits), max(p[3] for p in parts)
