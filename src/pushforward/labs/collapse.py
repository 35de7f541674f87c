"""One generator of Gaussians in the plane, trained and judged as the lab `mode-collapse` does it, and the picture of many."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from torch import Tensor

from pushforward import build, runs
from pushforward.config import dump, load_recipe
from pushforward.data.toy import Mixture
from pushforward.errors import ConfigError
from pushforward.report.figures import COLOURS, STYLE, plt
from pushforward.training.checkpoint import write_atomic

SAMPLES = 2500


@dataclass(frozen=True)
class Outcome:
    """One trained generator, judged by its averaged weights and by its last ones: modes, share of high quality."""

    averaged: tuple[int, float]
    last: tuple[int, float]
    cpu_seconds: float
    x: list[list[float]]  # samples of the averaged weights


def covered(x: Tensor, mixture: Mixture) -> tuple[int, float]:
    """Modes with at least one sample within three standard deviations, and the share of such samples.

    Example:
        >>> covered(torch.tensor([[0.0, 0.0], [0.2, 0.0], [5.0, 5.0]]), Mixture([[0.0, 0.0], [1.0, 0.0]], sd=0.1))
        (1, 0.6666666865348816)
    """
    distance, which = torch.cdist(x.float(), mixture.means).min(dim=1)
    near = distance <= 3 * mixture.sd[which]
    return len(which[near].unique()), float(near.float().mean())


def blind(mixture: Mixture, *, draws: int = 20) -> tuple[float, float]:
    """Modes and share of high quality of a Gaussian with the data's mean and covariance, averaged over draws of 2,500 samples."""
    g = torch.Generator().manual_seed(0)
    x = mixture.sample(100_000, generator=g).double()
    root = torch.linalg.cholesky(x.T.cov())
    drawn = [
        covered(x.mean(dim=0) + torch.randn(SAMPLES, x.shape[1], generator=g, dtype=torch.float64) @ root.T, mixture)
        for _ in range(draws)
    ]
    modes, quality = np.mean(drawn, axis=0)
    return float(modes), float(quality)


def one(recipe: str, data: str, seed: int, steps: int, kept: Path) -> Outcome:
    """Train and judge one generator on one thread, or read what an earlier call kept."""
    given = [f"train.seed={seed}", f"train.steps={steps}"]
    config = build.resolve(load_recipe(recipe, given, data=data))
    settings = config.model_copy(update={"about": "", "expect": {}})  # not what the recipe says of itself
    key = hashlib.sha256(dump(settings).encode()).hexdigest()
    file = kept / f"{recipe.replace('/', '-')}-{seed}.json"
    if file.exists():
        found = json.loads(file.read_text())
        if found.pop("config_sha256") == key:
            return Outcome(tuple(found["averaged"]), tuple(found["last"]), found["cpu_seconds"], found["x"])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    density = runs.load_data(config)
    assert isinstance(density, Mixture)
    trainer = runs.make_trainer(config, density)
    start = time.process_time()
    for _ in trainer.steps(steps):
        pass
    seconds = time.process_time() - start
    model = trainer.model.eval()
    last = covered(runs.sample(model, SAMPLES, seed=seed), density)
    if trainer.ema is None:
        raise ConfigError(f"{recipe} keeps no averaged weights (train.ema = false), which this lab judges; set one.")
    with trainer.ema.swapped_in():
        model.settle()
        x = runs.sample(model, SAMPLES, seed=seed)
    torch.set_num_threads(threads)
    outcome = Outcome(covered(x, density), last, seconds, [[round(v, 3) for v in p] for p in x.tolist()])
    kept.mkdir(parents=True, exist_ok=True)
    write_atomic(file, json.dumps({"config_sha256": key, **asdict(outcome)}))
    return outcome


def draw(found: dict[str, list[Outcome]], density: Mixture, path: Path, title: str) -> None:
    """Points of seed 0 of each recipe, and its figures over the seeds."""
    with mpl.rc_context(STYLE | {"figure.facecolor": "white", "savefig.facecolor": "white", "axes.grid": False}):
        figure, axes = plt.subplots(1, len(found), figsize=(2.7 * len(found), 3.1), squeeze=False)
        reach = float(density.means.abs().max()) * 1.25
        for ax, colour, (name, outcomes) in zip(axes[0], COLOURS * 3, found.items(), strict=False):
            ax.scatter(*density.means.T.numpy(), s=60, facecolors="none", edgecolors="#999999", linewidths=0.8)
            ax.scatter(*np.array(outcomes[0].x).T, s=2, color=colour, alpha=0.4, linewidths=0)
            ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
            ax.set_title(name.removeprefix("gan/"), fontsize=10)
            modes = np.mean([o.averaged[0] for o in outcomes])
            quality = np.mean([o.averaged[1] for o in outcomes])
            ax.set_xlabel(f"{modes:.1f} of {len(density.means)} modes\n{quality:.0%} of high quality", fontsize=9)
        figure.suptitle(title, fontsize=10)
        figure.tight_layout()
        figure.savefig(path, dpi=120, bbox_inches="tight")
        plt.close(figure)
