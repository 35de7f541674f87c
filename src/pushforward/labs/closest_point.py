"""The diffusion model that minimises its loss on finite data makes no new image: it gives back training points.

The minimiser is known, the softmax-weighted mean of the data, and as the noise goes to 0 it is the closest training point. Its ODE ends on training points, every one of them about as often; its training loss
near the data is 0, which no network that makes new images can reach. And what lies between the data hardly counts: at small noise a function that is right near the data and wrong elsewhere has the same loss but for the
vanishing chance of a draw out there (at every noise above 0 the minimiser itself is unique).

Reference: Karras et al. 2022, appendix B.3; Scarvelis, Borde, Solomon 2023, arXiv 2310.12395; Kamb and Ganguli 2024, arXiv 2412.20292.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch

from pushforward.data.toy import DENSITIES
from pushforward.families.diffusion.denoisers import EmpiricalDenoiser
from pushforward.families.diffusion.schedules import VE
from pushforward.families.diffusion.solvers import SOLVERS, final, start
from pushforward.labs import Finding
from pushforward.labs.drawing import panels
from pushforward.report.figures import COLOURS
from pushforward.training.checkpoint import write_atomic


def run(
    out: Path, *, points: int = 40, n: int = 2000, steps: int = 60, seed: int = 0, quiet: bool = False
) -> list[Finding]:
    """Sample from the minimiser, and measure its loss at small noise beside that of another function.

    Args:
        out: Folder of closest.png and closest.json.
        points: Training points, of the moons.
        n: Samples.
        steps: Of Heun's method.
        seed: Of all.
        quiet: Show no progress.
    """
    g = torch.Generator().manual_seed(seed)
    data = DENSITIES["moons"].sample(points, generator=g).double()
    schedule = VE()
    denoiser = EmpiricalDenoiser(data, schedule)
    entry = SOLVERS["heun"]
    grid = entry.grid(schedule, steps)
    x = start(schedule, (n, 2), grid, generator=g).double()
    ends = final(entry.solve(denoiser, x, grid, generator=g))
    distance, which = torch.cdist(ends, data).min(dim=1)
    shares = which.bincount(minlength=points) / n
    nearest = torch.cdist(data, data).fill_diagonal_(math.inf).min(dim=1).values
    small = 0.02 * float(nearest.median())
    t = schedule.time(torch.tensor(small, dtype=torch.float64))
    noised = data.repeat(50, 1) + small * torch.randn(50 * points, 2, generator=g, dtype=torch.float64)
    target = data.repeat(50, 1)
    loss = float((denoiser(noised, t) - target).square().sum(dim=1).mean())

    def other(x: torch.Tensor) -> torch.Tensor:
        """Right near the data, and somewhere else altogether further away."""
        far, at = torch.cdist(x, data).min(dim=1)
        return torch.where((far < 0.2 * nearest.median())[:, None], data[at], x + 100)

    same = float((other(noised) - target).square().sum(dim=1).mean())
    with panels(out / "closest.png", 2) as axes:
        axes[0].scatter(*ends.T, s=6, color=COLOURS[0], label=f"{n:,} samples")
        axes[0].scatter(*data.T, s=50, facecolors="none", edgecolors=COLOURS[1], label=f"{points} training points")
        axes[0].set_aspect("equal")
        axes[0].legend(fontsize=8)
        axes[1].bar(range(points), sorted(shares.tolist(), reverse=True), color=COLOURS[0])
        axes[1].axhline(1 / points, color=COLOURS[1], lw=1)
        axes[1].set(xlabel="training point", ylabel="share of samples")
    found = {"farthest": float(distance.max()), "spacing": float(nearest.median()), "rarest": float(shares.min() * points), "commonest": float(shares.max() * points), "loss": loss, "other": same, "noise": small}  # fmt: skip
    write_atomic(out / "closest.json", json.dumps(found, indent=1))
    if not quiet:
        print(found, flush=True)
    return findings(found)


def findings(f: dict[str, float]) -> list[Finding]:
    """The three claims."""
    on = f["farthest"] < 0.05 * f["spacing"]
    even = f["rarest"] > 0.2 and f["commonest"] < 5
    return [
        Finding("The minimiser's samples are training points.", "supported" if on else "not supported", f"The farthest of them is {f['farthest']:.1g} from one; points are {f['spacing']:.2g} apart."),
        Finding("It covers all of them.", "supported" if even else "not supported", f"The rarest is made {f['rarest']:.2f} times its share, the commonest {f['commonest']:.2f} times."),
        Finding("At small noise its loss is zero, and that of a function that is wrong between the data is too, to what many draws can see.", "supported" if f["loss"] < 1e-9 and f["other"] < 1e-9 else "not supported", f"Loss {f['loss']:.1g} at noise {f['noise']:.2g}; of a function that throws everything else far away {f['other']:.1g}."),
    ]  # fmt: skip
