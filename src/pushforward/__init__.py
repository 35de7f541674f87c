"""pushforward: deep generative models, trained and judged under one roof.

The public names are imported when they are first used, so that `import pushforward` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "GenerativeModel": "pushforward.model",
    "Phase": "pushforward.model",
    "Batch": "pushforward.model",
    "SampleStream": "pushforward.randomness",
    "ImageSet": "pushforward.data.images",
    "load": "pushforward.data.fetch",
    "load_recipe": "pushforward.config",
    "train": "pushforward.runs",
    "load_run": "pushforward.runs",
    "sample": "pushforward.runs",
    "Trainer": "pushforward.training.trainer",
    "evaluate": "pushforward.evaluation",
}
__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'pushforward' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
