"""The game on a line that the lab `gaussian-1d` plays, and its pictures: G(z) = a z + b against a small network, step by step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.animation import FuncAnimation, PillowWriter
from torch import Tensor, nn

from pushforward.families.gan.losses import non_saturating
from pushforward.families.gan.model import GAN
from pushforward.networks.mlp import MLPDiscriminator
from pushforward.priors import Normal
from pushforward.randomness import SampleStream, derive_seed
from pushforward.report.figures import COLOURS, STYLE, plt
from pushforward.training.optimisers import adam
from pushforward.training.trainer import Trainer

MEAN, SD, POINTS = 3.0, 0.8, 256
RATES = (1e-4, 1e-3, 1e-2, 1e-1)
AXIS = torch.linspace(-3, 7, 201)


class Affine(nn.Module):
    """G(z) = a z + b."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(1.0))
        self.b = nn.Parameter(torch.tensor(0.0))

    def forward(self, z: Tensor) -> Tensor:
        return self.a * z + self.b


class Draws:
    """A fixed training set of points, handed out `batch_size` at a time."""

    def __init__(self, batch_size: int, seed: int) -> None:
        self.x = MEAN + SD * SampleStream(derive_seed(seed, "data"), torch.arange(POINTS)).normal((POINTS, 1))
        self.batch_size, self.seed, self.position = batch_size, seed, 0
        self.rows = torch.arange(batch_size)

    def next(self) -> tuple[Tensor, None]:
        g = torch.Generator().manual_seed(derive_seed(self.seed, self.position) % 2**63)
        self.position += 1
        return self.x[torch.randperm(POINTS, generator=g)[: self.batch_size]], None


@dataclass(frozen=True)
class Path1D:
    """One training run, step by step."""

    losses: np.ndarray  # (steps, 2): discriminator's, generator's
    laws: np.ndarray  # (steps, 2): mean and standard deviation of the samples
    curves: dict[int, np.ndarray]  # step -> D's probability on AXIS

    def error(self) -> float:
        """Wasserstein-2 distance of the two Gaussians, the mean over the last tenth of the steps."""
        last = self.laws[-max(1, len(self.laws) // 10) :]
        return float(np.sqrt((last[:, 0] - MEAN) ** 2 + (last[:, 1] - SD) ** 2).mean())


def train(steps: int, *, rates: tuple[float, float], batch_size: int, seed: int, frames: int = 0) -> Path1D:
    """One run.

    Args:
        steps: Of both players.
        rates: Learning rates of the discriminator and of the generator.
        batch_size: Points a step.
        seed: Of all.
        frames: Curves to keep, evenly spaced in the square root of the step: the beginning is where things happen.
    """
    torch.manual_seed(seed)
    generator = Affine()
    model = GAN(
        generator=generator,
        discriminator=MLPDiscriminator(shape=(1,), hidden=(32, 32)),
        prior=Normal(dim=1),
        objective=non_saturating(),
    )
    optimisers = {p.name: adam(p.module.parameters(), lr=r) for p, r in zip(model.phases(), rates, strict=True)}
    trainer = Trainer(model, Draws(batch_size, seed), optimisers, seed=seed)
    kept = {round(1 + (steps - 1) * (k / max(frames - 1, 1)) ** 2) for k in range(frames)}
    losses, laws, curves = np.empty((steps, 2)), np.empty((steps, 2)), {}
    for report in trainer.steps(steps):
        at = report.step - 1
        losses[at] = [float(report.terms[f"{p}/adversarial"]) for p in ("discriminator", "generator")]
        laws[at] = generator.b.item(), abs(generator.a.item())
        if report.step in kept:
            with torch.no_grad():
                curves[report.step] = model.discriminator(AXIS[:, None]).sigmoid().numpy()
    return Path1D(losses, laws, curves)


def optimal(mean: float, sd: float) -> np.ndarray:
    """The optimal discriminator p / (p + q) on AXIS for samples of N(mean, sd^2); 1/2 everywhere once q = p."""
    x = AXIS.double().numpy()
    p, q = (-0.5 * ((x - m) / s) ** 2 - math.log(s) for m, s in ((MEAN, SD), (mean, max(sd, 1e-6))))
    return 1 / (1 + np.exp(np.clip(q - p, -700, 700)))


def draw(
    plain: list[Path1D], single: list[Path1D], sweep: Mapping[tuple[float, float], list[float]], out: Path
) -> None:
    """losses.png, discriminator.png, discriminator.gif, rates.png and batches.png."""
    with mpl.rc_context(STYLE | {"figure.facecolor": "white", "savefig.facecolor": "white"}):
        _draw_losses(plain[0], out / "losses.png")
        _draw_curves(plain[0], out / "discriminator.png")
        _animate(plain[0], out / "discriminator.gif")
        _draw_rates(sweep, out / "rates.png")
        _draw_batches(plain, single, out / "batches.png")


def _draw_losses(path: Path1D, file: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    for k, name in enumerate(("discriminator", "generator")):
        left.plot(path.losses[:, k], color=COLOURS[k], lw=0.9, label=name)
    left.axhline(2 * math.log(2), color=COLOURS[0], ls=":", lw=1)
    left.axhline(math.log(2), color=COLOURS[1], ls=":", lw=1)
    left.set(xlabel="step", ylabel="loss (dotted: at equilibrium)")
    left.legend()
    for k, (name, truth) in enumerate((("mean", MEAN), ("standard deviation", SD))):
        right.plot(path.laws[:, k], color=COLOURS[k + 2], lw=1.2, label=name)
        right.axhline(truth, color=COLOURS[k + 2], ls=":", lw=1)
    right.set(xlabel="step", ylabel="of the samples (dotted: of the data)")
    right.legend()
    _save(figure, file)


def _curve(ax: object, path: Path1D, step: int) -> None:
    """Densities, the discriminator and the optimal one at a step."""
    x, (mean, sd) = AXIS.numpy(), path.laws[step - 1]
    for (m, s), colour, name in (((MEAN, SD), COLOURS[2], "data"), ((mean, sd), COLOURS[1], "samples")):
        density = np.exp(-0.5 * ((x - m) / s) ** 2) / (s * math.sqrt(2 * math.pi))
        ax.fill_between(x, density, color=colour, alpha=0.3, lw=0, label=name)  # type: ignore[attr-defined]
    ax.plot(x, optimal(mean, sd), color="#666666", ls="--", lw=1, label="optimal D")  # type: ignore[attr-defined]
    ax.plot(x, path.curves[step], color=COLOURS[0], lw=1.6, label="D")  # type: ignore[attr-defined]
    ax.set(ylim=(0, 1.05), title=f"step {step:,}")  # type: ignore[attr-defined]


def _draw_curves(path: Path1D, file: Path) -> None:
    steps = sorted(path.curves)
    chosen = [steps[round(k * (len(steps) - 1) / 5)] for k in range(6)]
    figure, axes = plt.subplots(2, 3, figsize=(9, 5), sharex=True, sharey=True)
    for ax, step in zip(axes.flat, chosen, strict=True):
        _curve(ax, path, step)
    axes[0, 0].legend(fontsize=8, loc="upper left")
    for ax in axes[:, 0]:
        ax.set_ylabel("probability; density")
    _save(figure, file)


def _animate(path: Path1D, file: Path) -> None:
    figure, ax = plt.subplots(figsize=(5, 3.2))
    steps = sorted(path.curves)

    def frame(k: int) -> list[object]:
        ax.clear()
        ax.grid(alpha=0.25)
        _curve(ax, path, steps[k])
        ax.legend(fontsize=8, loc="upper left")
        return []

    FuncAnimation(figure, frame, frames=len(steps)).save(file, PillowWriter(fps=4), dpi=90)  # type: ignore[arg-type]
    plt.close(figure)


def _draw_rates(sweep: Mapping[tuple[float, float], list[float]], file: Path) -> None:
    grid = np.array([[np.mean(sweep[d, g]) for g in RATES] for d in RATES])
    figure, ax = plt.subplots(figsize=(4.6, 3.8))
    image = ax.imshow(np.log10(grid), cmap="viridis_r", origin="lower")
    for i, j in itertools.product(range(len(RATES)), repeat=2):
        dark = np.log10(grid[i, j]) > np.log10(grid).mean()
        ax.text(j, i, f"{grid[i, j]:.2g}", ha="center", va="center", color="white" if dark else "black", fontsize=9)
    ax.set(xlabel="learning rate of G", ylabel="learning rate of D", title="distance to the data's law")
    ax.set_xticks(range(len(RATES)), [f"{r:g}" for r in RATES])
    ax.set_yticks(range(len(RATES)), [f"{r:g}" for r in RATES])
    ax.grid(False)
    figure.colorbar(image, label="log10 of Wasserstein-2")
    _save(figure, file)


def _draw_batches(plain: list[Path1D], single: list[Path1D], file: Path) -> None:
    figure, ax = plt.subplots(figsize=(5.4, 3.2))
    for paths, colour, name in ((plain, COLOURS[0], "full batch"), (single, COLOURS[1], "one example")):
        for k, path in enumerate(paths):
            error = np.sqrt((path.laws[:, 0] - MEAN) ** 2 + (path.laws[:, 1] - SD) ** 2)
            ax.plot(error, color=colour, lw=0.8, alpha=0.7, label=name if k == 0 else None)
    ax.set(xlabel="step", ylabel="Wasserstein-2 to the data's law", yscale="log")
    ax.legend()
    _save(figure, file)


def _save(figure: mpl.figure.Figure, file: Path) -> None:
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)
