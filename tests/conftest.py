"""Shared fixtures. One thread a test process: the tests run two side by side."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

torch.set_num_threads(1)
ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace: dict) -> None:
    doctest_namespace.update(torch=torch, np=np)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def mnist() -> Path:
    """The folder of the full MNIST; the test skips where it is absent."""
    for root in (os.environ.get("PUSHFORWARD_DATA"), ROOT.parent / "shared/data"):
        if root and (Path(root) / "mnist/train-images-idx3-ubyte.gz").exists():
            return Path(root) / "mnist"
    pytest.skip("the full MNIST is not here (set PUSHFORWARD_DATA to the folder that holds mnist/)")
