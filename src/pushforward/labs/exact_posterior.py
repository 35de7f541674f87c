"""Posterior samplers are compared on photographs, where nobody knows the posterior. On Gaussian images linear algebra does: which of the methods draw from it?

Small images with neighbours that resemble each other (a Gaussian of squared-exponential covariance) lose a box in their middle, and the rest is measured with noise. The denoiser is exact, so
that what is wrong is the method's own: what it takes p(y | x_t) for. Each goes as `pushforward restore` runs it: its own solver, grid, steps and settings. MMPS and PiGDM, which have a limit of many steps (and MMPS of many conjugate gradients), go near it too.
Seen pixels and hidden ones are judged apart: where the draws' mean is, in the posterior's standard deviations, and how wide they are beside it, pixel by pixel and along the posterior's principal directions. The ellipses hold 86 % of the posterior.
RePaint is told nothing of the noise, and takes what was measured for the truth; DPS neither, and the length of its steps (`zeta`) is a number that its paper sets task by task.

Reference: Chung et al. 2023, arXiv 2209.14687 (DPS); Song et al. 2023 (PiGDM); Rozet et al. 2024, arXiv 2405.13712 (MMPS); Zhu et al. 2023, arXiv 2305.08995 (DiffPIR); Kawar et al. 2022, arXiv 2201.11793 (DDRM); Lugmayr et al. 2022, arXiv 2201.09865 (RePaint).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.errors import ConfigError
from pushforward.families.diffusion.denoisers import Denoiser, GaussianDenoiser
from pushforward.families.diffusion.operators import Mask, inpaint_box
from pushforward.families.diffusion.posterior import METHODS, sample_posterior
from pushforward.families.diffusion.schedules import VP
from pushforward.families.diffusion.solvers import final, start
from pushforward.labs import Finding, Verdict
from pushforward.labs.drawing import panels
from pushforward.randomness import SampleStream
from pushforward.report.figures import COLOURS
from pushforward.training.checkpoint import write_atomic

NAMES = {"mmps": "MMPS", "pigdm": "PiGDM", "dps": "DPS", "diffpir": "DiffPIR", "ddrm": "DDRM", "repaint": "RePaint"}
SIDE, SD = 6, 0.5
LIMITS: Mapping[str, Mapping[str, float]] = {"mmps": {"iterations": 16}, "pigdm": {"data_sd": SD}}
"""Settings of the methods that have a limit; after 16 conjugate gradients more change nothing here."""
ALLOWED = 0.05  # posterior standard deviations of bias, and share of width, up to which draws count as the posterior's
Parts = dict[str, dict[str, float]]


def run(
    out: Path,
    *,
    n: int = 10_000,
    noise: float = 0.2,
    length: float = 1.2,
    steps: float = 4.0,
    seed: int = 0,
    quiet: bool = False,
) -> list[Finding]:
    """Draw from one posterior by every method, by two near their limit, and by PiGDM from that of white images too.

    Args:
        out: Folder of posterior.json and posterior.png.
        n: Draws of each method.
        noise: Standard deviation of the measurement's.
        length: Pixels over which neighbours resemble each other.
        steps: Times the usual number, near the limit.
        seed: Of the truth, the noise and the draws.
        quiet: Show no progress.
    """
    if n < 100:
        raise ConfigError(f"n={n}: at least 100, or no width can be measured.")
    for key, value in (("noise", noise), ("length", length), ("steps", steps)):
        if not 0 < value < math.inf:
            raise ConfigError(f"{key}={value}: above 0 and finite.")
    smooth, white = covariance(length), SD**2 * torch.eye(SIDE**2, dtype=torch.float64)
    problem = Problem(smooth, noise, seed)
    draws = {name: problem.draw(name, n, seed) for name in NAMES}
    draws |= {f"{name}, limit": problem.draw(name, n, seed, times=steps, **own) for name, own in LIMITS.items()}
    found: Parts = {name: problem.judge(x) for name, x in draws.items()}
    plain = Problem(white, noise, seed)
    found["pigdm, white"] = plain.judge(plain.draw("pigdm", n, seed, times=steps, **LIMITS["pigdm"]))
    write_atomic(out / "posterior.json", json.dumps(found, indent=1))
    pair = [SIDE * (SIDE // 2) + k for k in (SIDE // 2, SIDE // 2 + 2)]  # a hidden pixel, and a seen one of its row
    mean, root = problem.mean[pair], torch.linalg.cholesky(problem.covariance[pair][:, pair])
    turn = torch.linspace(0, 2 * math.pi, 100, dtype=torch.float64)
    ellipse = mean + 2 * torch.stack([turn.cos(), turn.sin()], 1) @ root.T
    with panels(out / "posterior.png", len(draws), rows=2) as axes:
        shown = torch.cat([ellipse, *(x[:600, pair] for x in draws.values())])
        low, high = (torch.quantile(shown, q, dim=0) for q in (0.001, 0.999))
        margin = 0.1 * (high - low)
        for ax, (name, x) in zip(axes, draws.items(), strict=True):
            ax.scatter(*x[:600, pair].T.numpy(), s=3, alpha=0.4, color=COLOURS[0], linewidths=0, rasterized=True)
            ax.plot(*ellipse.T.numpy(), color=COLOURS[1], label="the posterior")
            f, (method, _, near) = found[name], name.partition(", ")
            ax.set(
                title=f"{NAMES[method]}{', near its limit' if near else ''}\nbias {f['bias, hidden']:.2f} / {f['bias, seen']:.2f}, width {f['width, hidden']:.2f} / {f['width, seen']:.2f}",
                xlim=(low[0] - margin[0], high[0] + margin[0]),
                ylim=(low[1] - margin[1], high[1] + margin[1]),
                xlabel="a hidden pixel",
                ylabel="a seen one",
            )
            ax.title.set_fontsize(9)
        axes[0].legend(fontsize=8, loc="upper left")
    return findings(found, n)


def covariance(length: float) -> Tensor:
    """Of SIDE x SIDE pixels, squared-exponential in their distance, and a little of each pixel's own."""
    at = torch.cartesian_prod(*[torch.arange(SIDE, dtype=torch.float64)] * 2)
    return SD**2 * (
        0.98 * torch.exp(-(torch.cdist(at, at) ** 2) / (2 * length**2)) + 0.02 * torch.eye(SIDE**2, dtype=torch.float64)
    )


class Images(Denoiser):
    """A denoiser of vectors as one of images."""

    def __init__(self, inner: GaussianDenoiser) -> None:
        self.inner, self.schedule = inner, inner.schedule

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.inner(x.flatten(1), t).reshape(x.shape)


class Problem:
    """A Gaussian prior of mean 0, a measured draw of it, and the posterior: mean C_s (C_ss + noise^2)^{-1} y, covariance C - C_s (C_ss + noise^2)^{-1} C_s^T.

    Args:
        prior: Its covariance C.
        noise: Standard deviation of the measurement's.
        seed: Of the truth and the noise.
    """

    def __init__(self, prior: Tensor, noise: float, seed: int) -> None:
        self.prior, self.noise, shape = prior, noise, (1, SIDE, SIDE)
        self.operator: Mask = inpaint_box(shape)
        self.seen = (self.operator(torch.ones(1, *shape, dtype=torch.float64)) > 0).flatten()
        g = torch.Generator().manual_seed(seed)
        truth = torch.linalg.cholesky(prior) @ torch.randn(SIDE**2, generator=g, dtype=torch.float64)
        self.y = self.seen * (truth + noise * torch.randn(SIDE**2, generator=g, dtype=torch.float64))
        across = prior[:, self.seen]
        of_seen = across[self.seen] + noise**2 * torch.eye(int(self.seen.sum()), dtype=torch.float64)
        self.mean = across @ torch.linalg.solve(of_seen, self.y[self.seen])
        self.covariance = prior - across @ torch.linalg.solve(of_seen, across.T)

    def draw(self, name: str, n: int, seed: int, *, times: float = 1.0, **own: Any) -> Tensor:
        """(n, pixels) by a method, in so many times its usual steps."""
        entry, shape, schedule = METHODS[name], (n, 1, SIDE, SIDE), VP()
        denoiser = Images(GaussianDenoiser(torch.zeros(SIDE**2, dtype=torch.float64), self.prior, schedule))
        grid, stream = entry.grid(schedule, max(2, round(times * entry.steps))), SampleStream(seed, torch.arange(n))
        x = start(schedule, shape, grid, generator=stream).double()
        y = self.y.reshape(1, *shape[1:]).expand(shape)
        return final(
            sample_posterior(name, denoiser, self.operator, y, x, grid, noise=self.noise, generator=stream, **own)
        ).flatten(1)

    def judge(self, x: Tensor) -> dict[str, float]:
        """Of seen and hidden pixels the root mean square bias in posterior standard deviations and the mean width beside the posterior's; and how far widths
        are off (root mean square, less what so many draws err), of both and along the posterior's principal directions, which tells wrong couplings of pixels."""
        sd = self.covariance.diagonal().sqrt()
        bias, width = (x.mean(0) - self.mean) / sd, x.std(0) / sd
        variances, directions = torch.linalg.eigh(self.covariance)
        along = (x @ directions).std(0) / variances.sqrt()

        def off(widths: Tensor) -> float:
            return max(0.0, float((widths - 1).square().mean()) - 0.5 / len(x)) ** 0.5

        parts = {"uneven, directions": off(along)}
        for which, rows in (("seen", self.seen), ("hidden", ~self.seen)):
            parts[f"bias, {which}"] = float(bias[rows].square().mean().sqrt())
            parts[f"width, {which}"] = float(width[rows].mean())
            parts[f"uneven, {which}"] = off(width[rows])
        return parts


def findings(found: Parts, n: int) -> list[Finding]:
    """Whether each method draws from the posterior."""
    claims = {
        name: f"{said}, as it ships, draws from the posterior of Gaussian images." for name, said in NAMES.items()
    }
    claims |= {f"{name}, limit": f"{NAMES[name]} draws from the posterior of Gaussian images near its limit of many steps." for name in LIMITS}  # fmt: skip
    claims["pigdm, white"] = "PiGDM draws from the posterior where pixels are independent, which is what it takes them for."  # fmt: skip
    out = []
    for name, claim in claims.items():
        f = found[name]
        # Over ALLOWED by how much, each with two of its errors: a mean over pixels errs by no more than one of them.
        over = [(abs(v - k.startswith("width")) - ALLOWED, 2 / np.sqrt(n if k.startswith("bias") else 2 * n)) for k, v in f.items()]  # fmt: skip
        verdict: Verdict = "supported" if all(v + error < 0 for v, error in over) else "unclear"
        if any(v - error > 0 for v, error in over):
            verdict = "not supported"
        told = "; ".join(f"{which} pixels: bias {f[f'bias, {which}']:.3f} sd, width {f[f'width, {which}']:.3f} of the posterior's, off by {f[f'uneven, {which}']:.3f}" for which in ("seen", "hidden"))  # fmt: skip
        told += f"; along its principal directions off by {f['uneven, directions']:.3f}"
        out.append(Finding(claim, verdict, f"{told}; {ALLOWED:g} counts as none."))
    return out
