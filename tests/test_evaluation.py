"""What an evaluation refuses, with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pushforward.errors import NotSupported
from pushforward.evaluation import evaluate


@pytest.fixture
def images(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "images.npz", images=rng.integers(256, size=(60, 1, 28, 28), dtype=np.uint8))
    return str(tmp_path / "images.npz")


def test_memorisation_wants_images_that_nobody_has_seen(images: str) -> None:
    with pytest.raises(NotSupported, match="no model has seen"):
        evaluate([images], data=images, metrics=["memorisation"], by="pixels")


def test_no_metric_is_not_all_metrics(images: str) -> None:
    with pytest.raises(NotSupported, match="no metric is named"):
        evaluate([images], data=images, metrics=[""], by="pixels")
