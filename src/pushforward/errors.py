"""The errors a caller can act on. Each is one or two plain sentences that end with the way out.

At the command line each becomes its message on stderr and exit code 2, without a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PushforwardError(Exception):
    """Base of everything that a user can cause and mend."""


class ConfigError(PushforwardError, ValueError):
    """A recipe or a `--set` that cannot be run as it stands."""


class DataError(PushforwardError, ValueError):
    """Images or labels that are missing, damaged or do not fit together."""


class CheckpointError(PushforwardError, RuntimeError):
    """A checkpoint that is damaged or belongs to another model."""


class TrainingError(PushforwardError, RuntimeError):
    """A training run that cannot go on (a non-finite loss, say)."""


class Diverged(TrainingError):  # noqa: N818  what has happened
    """Training that has come off its rails; it may be tried again from the last checkpoint (`train.retries`)."""


class NotSupported(PushforwardError, NotImplementedError):  # noqa: N818  the field says "not supported"
    """A request that this model or metric cannot honour, with the reason."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint for a misspelt name: the nearest valid one, or all of them when none is near.

    Example:
        >>> nearest("stepz", ["steps", "seed"])
        "did you mean 'steps'?"
        >>> nearest("xyz", ["b", "a"])
        'valid: a, b'
    """
    options = sorted(valid)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else "valid: " + ", ".join(options)
