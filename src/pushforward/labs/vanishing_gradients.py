"""The surer the best discriminator is, the less it gives the minimax generator to go by, and the more by the non-saturating loss.

Data N(0, 1), samples N(theta, 1), D the optimal one: the further the laws are apart, the more accurate it is, the smaller the gradient of log(1 - D(G)) at theta, and the larger that of -log D(G). The logit at x is
theta^2 / 2 - theta x; its slope is -theta, and the two gradients are theta E[sigmoid(l)] and theta E[1 - sigmoid(l)], here by quadrature.

Reference: Goodfellow et al. 2014, section 3; Arjovsky and Bottou 2017, theorem 2.4, arXiv 1701.04862.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from pushforward.families.gan.losses import minimax, non_saturating
from pushforward.labs import Finding
from pushforward.labs.drawing import panels
from pushforward.report.figures import COLOURS
from pushforward.training.checkpoint import write_atomic

GRID = torch.linspace(-12, 12, 20_001, dtype=torch.float64)  # of z, for quadrature
SHIFTS = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)


def run(out: Path, *, n: int = 200_000, seed: int = 0, quiet: bool = False) -> list[Finding]:
    """Gradients by autograd against the closed form, at growing distances.

    Args:
        out: Folder of gradients.png and gradients.json.
        n: Samples.
        seed: Of them.
        quiet: Show no progress.
    """
    z = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows = []
    for shift in SHIFTS:
        accuracy = float(
            0.5 * (1 + torch.special.erf(torch.tensor(shift / 2 / 2**0.5)))
        )  # of the best threshold, theta / 2
        row = {"shift": shift, "accuracy": accuracy}
        for name, loss in (("saturating", minimax()), ("non-saturating", non_saturating())):
            theta = torch.tensor(shift, dtype=torch.float64, requires_grad=True)
            logit = shift**2 / 2 - shift * (theta + z)  # D stays as it is while the generator moves
            (gradient,) = torch.autograd.grad(loss.generator(logit).mean(), theta)
            sign = 1 if name == "saturating" else -1
            row[name] = abs(float(gradient))
            row[f"{name}, error"] = shift * float((sign * logit.detach()).sigmoid().std()) / n**0.5
            weight = torch.exp(-GRID.square() / 2) / (2 * torch.pi) ** 0.5
            share = torch.trapezoid(weight * (sign * (shift**2 / 2 - shift * (shift + GRID))).sigmoid(), GRID)
            row[f"{name}, exact"] = shift * float(share)
        rows.append(row)
        if not quiet:
            print(
                f"theta = {shift:g}, accuracy {accuracy:.4f}: saturating {row['saturating']:.2g}, non-saturating {row['non-saturating']:.2g}",
                flush=True,
            )
    with panels(out / "gradients.png", 2) as axes:
        for name, colour in (("saturating", COLOURS[1]), ("non-saturating", COLOURS[0])):
            axes[0].semilogy(SHIFTS, [r[name] for r in rows], "o", color=colour, label=name)
            axes[0].semilogy(SHIFTS, [r[f"{name}, exact"] for r in rows], color=colour)
            axes[1].loglog([1 - r["accuracy"] for r in rows], [r[name] for r in rows], "o-", color=colour, label=name)
        axes[0].set(xlabel="distance of the laws", ylabel="generator's gradient")
        axes[1].set(xlabel="error rate of the best discriminator")
        axes[1].invert_xaxis()
        axes[0].legend(fontsize=8)
    write_atomic(out / "gradients.json", json.dumps(rows, indent=1))
    return findings(rows)


def findings(rows: list[dict[str, float]]) -> list[Finding]:
    """The three claims."""
    sat, non = ([r[k] for r in rows] for k in ("saturating", "non-saturating"))
    off = max(abs(r[k] - r[f"{k}, exact"]) / r[f"{k}, error"] for r in rows for k in ("saturating", "non-saturating"))
    far = [i for i, r in enumerate(rows) if r["accuracy"] > 0.8]
    falls = all(np.diff([sat[i] for i in far]) < 0)
    grows = all(np.diff([non[i] for i in far]) > 0)
    return [
        Finding("The saturating generator's gradient vanishes as the laws part and the best discriminator grows sure (from an accuracy of .8 on).", "supported" if falls and sat[-1] < sat[0] / 100 else "not supported", f"From {max(sat):.2g} to {sat[-1]:.2g} as the accuracy goes to {rows[-1]['accuracy']:.4f}."),
        Finding("The non-saturating generator's gradient does not.", "supported" if grows else "not supported", f"It grows to {non[-1]:.2g}."),
        Finding("Both are theta times the mean of D, or of 1 - D, on samples.", "supported" if off < 5 else "not supported", f"Autograd on samples and quadrature differ by {off:.2g} standard errors at most."),
    ]  # fmt: skip
