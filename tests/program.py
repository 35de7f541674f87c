"""The program, called as its users call it: in this process, which is fast, or in one of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from pushforward.__main__ import main


@dataclass(frozen=True)
class Done:
    """What a call left."""

    returncode: int
    stdout: str
    stderr: str


def call(*words: object, cwd: Path | None = None) -> Done:
    """The program in this process: starting one takes seconds."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr("sys.argv", ["pushforward", *map(str, words)])
        if cwd is not None:
            patch.chdir(cwd)
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    torch.set_num_threads(threads)
    return Done(code, out.getvalue(), err.getvalue())


def launch(*words: object, cwd: Path | None = None) -> Done:
    """The program in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-m", "pushforward", *map(str, words)],
        capture_output=True, text=True, cwd=cwd, timeout=120, env=environment,
    )  # fmt: skip
    return Done(ran.returncode, ran.stdout, ran.stderr)


def refused(*words: object, cwd: Path | None = None) -> str:
    """What is said to a call that must be refused: exit code 2, no traceback."""
    done = call(*words, cwd=cwd)
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()
    return done.stderr
