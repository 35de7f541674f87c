"""Which precision to train in: bfloat16 only where it was found faster, for some processors announce it and are slower with it."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import nn

from pushforward.errors import ConfigError
from pushforward.networks.blocks import prefer_channels_last

Precision = Literal["no", "bf16"]
GAIN = 1.4  # times faster that bfloat16 must be


def computing_in(precision: str, device: str = "cpu") -> AbstractContextManager[object]:
    """Networks in this context compute in bfloat16 where that is safe, if precision is "bf16"; as they did, if "no".

    Raises:
        ConfigError: another precision.
    """
    if precision not in get_args(Precision):
        raise ConfigError(f"precision {precision!r}: it is {' or '.join(get_args(Precision))}.")
    return torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext()


@lru_cache(maxsize=4)
def faster_precision(device: str) -> Precision:
    """A convolution, forwards and backwards, in both precisions: some tens of milliseconds, once a process.

    Args:
        device: "cpu", "cuda" or "mps".
    """
    torch_device = torch.device(device)
    layer = nn.Conv2d(64, 64, 3, padding=1, device=torch_device)
    prefer_channels_last(layer)
    x = torch.randn(32, 64, 14, 14, device=torch_device).contiguous(memory_format=torch.channels_last).requires_grad_()
    try:
        plain, low = (_seconds(layer, x, precise=precise) for precise in (True, False))
    except RuntimeError:  # no bfloat16 here
        return "no"
    return "bf16" if plain > GAIN * low else "no"


def _seconds(layer: nn.Module, x: torch.Tensor, *, precise: bool) -> float:
    best = math.inf
    for _ in range(5):  # the first calls prepare themselves
        start = time.perf_counter()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=not precise):
            y = layer(x)
        y.float().sum().backward()
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        best = min(best, time.perf_counter() - start)
    return best
