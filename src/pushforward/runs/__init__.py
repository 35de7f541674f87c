"""A run is a folder: how one is started, gone on with, and read back.

config.toml  environment.json  log.jsonl  checkpoints/STEP/  samples/STEP.png  result.json  report.html
"""

from pushforward.runs.folder import train
from pushforward.runs.parts import (
    changing,
    check_labels,
    load_data,
    make_batches,
    make_trainer,
    shape_of,
    spread,
    with_precision,
)
from pushforward.runs.reading import Run, give_data, is_run, load_run, read_retries, sample

__all__ = [
    "Run",
    "changing",
    "check_labels",
    "give_data",
    "is_run",
    "load_data",
    "load_run",
    "make_batches",
    "make_trainer",
    "read_retries",
    "sample",
    "shape_of",
    "spread",
    "train",
    "with_precision",
]
