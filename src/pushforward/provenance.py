"""What a run was made with: the command, versions, the machine, the data."""

from __future__ import annotations

import platform
import resource
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from pushforward.data.images import ImageSet
from pushforward.data.toy import Density
from pushforward.model import GenerativeModel

PACKAGES = ("pushforward", "torch", "numpy", "accelerate", "safetensors")


def command_line() -> str:
    """What was typed, such that a shell reads it again."""
    program = Path(sys.argv[0]).name
    return shlex.join(["pushforward" if program in ("pushforward", "__main__.py") else program, *sys.argv[1:]])


def peak_memory(device: torch.device) -> float:
    """Of this process so far, in MB: the device's where there is one, else the resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def environment(data: ImageSet | Density, model: GenerativeModel, accelerator: Accelerator) -> dict[str, Any]:
    """What a run was made with."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
        commit = found.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = "unknown"
    return {
        "command": command_line(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "device": str(accelerator.device),
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "commit": commit,
        "parameters": {phase.name: parameters(phase.module) for phase in model.phases()},
        "data": {"name": data.name, "n": len(data), "sha256": data.sha256}
        if isinstance(data, ImageSet)
        else {"name": type(data).__name__},
    }


def parameters(module: nn.Module) -> int:
    """Number of trainable numbers."""
    return sum(p.numel() for p in module.parameters())
