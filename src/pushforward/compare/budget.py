"""The same budget for every recipe: steps as they are, minutes and FLOPs turned into steps once, by measuring."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from pushforward.errors import ConfigError
from pushforward.training.trainer import Trainer

Unit = Literal["steps", "seconds", "flops"]
_UNITS: dict[str, tuple[Unit, float]] = {
    "steps": ("steps", 1),
    "step": ("steps", 1),
    "s": ("seconds", 1),
    "sec": ("seconds", 1),
    "min": ("seconds", 60),
    "h": ("seconds", 3600),
    "flops": ("flops", 1),
    "flop": ("flops", 1),
}
WARM, TIMED = 10, 30  # steps of a trial
MOST_STEPS = 1e12
LONGEST = 20.0  # seconds after which a trial stops, with whatever steps it has


@dataclass(frozen=True)
class Budget:
    """What each cell may spend on training."""

    amount: float
    unit: Unit


def parse_budget(text: str) -> Budget:
    """A budget as people write it.

    Raises:
        ConfigError: no number with a unit.

    Example:
        >>> parse_budget("3min"), parse_budget("20_000steps")
        (Budget(amount=180.0, unit='seconds'), Budget(amount=20000.0, unit='steps'))
    """
    found = re.fullmatch(r"\s*([0-9_]*\.?[0-9_]+(?:e[+-]?[0-9]+)?)\s*([a-z]+)\s*", text.lower())
    if found is None or found[2] not in _UNITS or not found[1].strip("_."):
        raise ConfigError(f"--budget {text}: give a number and a unit, as in 3min, 90s, 20000steps or 1e15flops.")
    unit, factor = _UNITS[found[2]]
    amount = float(found[1].replace("_", "")) * factor
    if not 0 < amount < (MOST_STEPS if unit == "steps" else float("inf")):
        raise ConfigError(f"--budget {text}: must be above 0 and finite, and below {MOST_STEPS:.0e} steps.")
    return Budget(amount, unit)


def seconds_a_step(trainer: Trainer) -> float:
    """Median seconds of a training step, lazy terms spread evenly over their interval."""
    times: list[float] = []
    began = time.perf_counter()
    for report in trainer.steps(trainer.step + WARM + TIMED):
        times.append(sum(report.seconds.values()))
        if time.perf_counter() - began > LONGEST and len(times) >= 3:
            break
    timed = times[WARM:] if len(times) > 2 * WARM else times[1:]
    usual = statistics.median(timed)
    # The median leaves lazy terms out; the mean of what is not an outlier by ten times has them in.
    return statistics.fmean(t for t in timed if t < 10 * usual)


class Flops(TorchDispatchMode):
    """Counts floating-point operations of products and convolutions, by PyTorch's own formulas.

    (`torch.utils.flop_counter.FlopCounterMode` also keeps a tree of modules, which stumbles over gradient penalties.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


def flops_a_step(trainer: Trainer, *, steps: int = 16) -> float:
    """Mean floating-point operations of a training step: products and convolutions, forwards and backwards."""
    with Flops() as counter:
        for _ in trainer.steps(trainer.step + steps):
            pass
    return counter.total / steps


def steps_for(budget: Budget, trial: Callable[[], Trainer], *, name: str) -> int:
    """Training steps that a budget buys.

    Args:
        name: Whose steps, for messages.
        budget: What may be spent.
        trial: Makes a trainer that is used up by measuring; not called for a budget of steps.

    Raises:
        ConfigError: less than one step.
    """
    if budget.unit == "steps":
        steps = int(budget.amount)
    elif budget.unit == "seconds":
        steps = int(budget.amount / seconds_a_step(trial()))
    else:
        steps = int(budget.amount / flops_a_step(trial()))
    if steps < 1:
        raise ConfigError(f"this budget does not buy {name} a single training step; give more.")
    return steps
