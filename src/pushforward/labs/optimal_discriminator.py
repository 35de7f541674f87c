"""The best discriminator of two known laws is p / (p + q), and against it the minimax game's value is 2 JSD - log 4.

Data are N(0, 1), the generator's samples N(m, s^2). A small network is trained by the non-saturating discriminator's loss on fresh draws and compared with the closed form where points are: its error
is weighted by (p + q) / 2. The loss of a network can never beat the closed form's, but for the error of a finite sample.

Reference: Goodfellow et al. 2014, proposition 1 and theorem 1, arXiv 1406.2661.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from pushforward.labs import Finding
from pushforward.labs.drawing import panels
from pushforward.networks.mlp import MLPDiscriminator
from pushforward.report.figures import COLOURS
from pushforward.theory.divergences import gaussians, jensen_shannon, optimal_discriminator, value
from pushforward.training.checkpoint import write_atomic

LAWS = ((0.5, 1.0), (2.0, 1.0), (1.0, 0.4))


def run(out: Path, *, steps: int = 3000, batch: int = 1024, seed: int = 0, quiet: bool = False) -> list[Finding]:
    """Train a discriminator for each pair of laws.

    Args:
        out: Folder of optimal.png and optimal.json.
        steps: Of training.
        batch: Draws of each law a step.
        seed: Of all.
        quiet: Show no progress.
    """
    gaps, errors, excess = [], [], []
    with panels(out / "optimal.png", len(LAWS)) as axes:
        for ax, (mean, sd) in zip(axes, LAWS, strict=True):
            line = gaussians(mean, sd)
            best = optimal_discriminator(line)
            gaps.append(abs(value(line, best) - (2 * jensen_shannon(line) - math.log(4))))
            trained = _train(mean, sd, steps, batch, seed, line.x)
            weight = (line.p + line.q) / 2
            errors.append(line.integral(weight * np.abs(trained - best)))
            excess.append(value(line, trained) - value(line, best))
            for y, colour, label in ((best, COLOURS[0], "p / (p + q)"), (trained, COLOURS[1], "trained")):
                ax.plot(line.x, y, color=colour, label=label, lw=2 if colour == COLOURS[0] else 1.2)
            ax.fill_between(line.x, line.p, color=COLOURS[2], alpha=0.3, lw=0)
            ax.fill_between(line.x, line.q, color=COLOURS[3], alpha=0.3, lw=0)
            ax.set(xlim=(-4, 5), xlabel="x", title=f"data N(0, 1), samples N({mean:g}, {sd:g}²)")
            ax.title.set_fontsize(9)
            if not quiet:
                print(f"N({mean:g}, {sd:g}^2): mean error {errors[-1]:.3f}, value {excess[-1]:+.4f}", flush=True)
        axes[0].legend(fontsize=8)
    write_atomic(
        out / "optimal.json", json.dumps({"laws": LAWS, "value_gap": gaps, "error": errors, "excess": excess}, indent=1)
    )
    return findings(gaps, errors, excess)


def _train(mean: float, sd: float, steps: int, batch: int, seed: int, x: np.ndarray) -> np.ndarray:
    g = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    network = MLPDiscriminator(shape=(1,), hidden=(32, 32), slope=0.05)
    adam = torch.optim.Adam(network.parameters(), lr=3e-3)
    for k in range(steps):
        for group in adam.param_groups:
            group["lr"] = 3e-3 * (1 - k / steps)
        real = torch.randn(batch, 1, generator=g)
        fake = mean + sd * torch.randn(batch, 1, generator=g)
        loss = F.softplus(-network(real)).mean() + F.softplus(network(fake)).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.no_grad():
        return network(torch.from_numpy(x).float()[:, None]).sigmoid().double().numpy()


def findings(gaps: list[float], errors: list[float], excess: list[float]) -> list[Finding]:
    """The three claims."""
    near = all(e < 0.02 for e in errors)
    return [
        Finding("At D = p / (p + q) the game's value is 2 JSD - log 4.", "supported" if max(gaps) < 1e-9 else "not supported", f"Quadrature on {len(gaps)} pairs of laws: equal to {max(gaps):.1g}."),
        Finding("A trained discriminator comes near p / (p + q).", "supported" if near else "unclear" if max(errors) < 0.1 else "not supported", f"Mean error of its probability where points are: {', '.join(f'{e:.3f}' for e in errors)}."),
        Finding("No discriminator does better than p / (p + q).", "supported" if max(excess) <= 1e-9 else "not supported", f"The trained ones' values fall short by {', '.join(f'{-e:.4f}' for e in excess)}."),
    ]  # fmt: skip
