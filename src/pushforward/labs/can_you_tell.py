"""At a GAN's equilibrium no one can tell its samples from data. Can a judge that the generator has never met?

A two-sample test by classification: a fresh network learns to tell half of the data and of the samples apart and is asked about the other half; at equality it is right half of the time. Beside it the same question is put to the nearest neighbour
in the features of the digit encoder. Training images stand among the samples as controls: as they are they must not be told from test images, with a little noise they must.

Reference: Lopez-Paz and Oquab 2016, arXiv 1610.06545; Goodfellow et al. 2014, arXiv 1406.2661 (the equilibrium).
"""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path

import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from pushforward import runs
from pushforward.data.images import to_bytes, to_model
from pushforward.data.shifts import noisy
from pushforward.errors import ConfigError, DataError
from pushforward.evaluation import Sides, measure
from pushforward.labs import Finding, Verdict, recipes_of
from pushforward.labs.contest import images_of, trained
from pushforward.labs.drawing import panels
from pushforward.metrics.features import extractor
from pushforward.report.figures import COLOURS
from pushforward.training.checkpoint import write_atomic

CONTROL, NOISY = "training images", "noisy training images"
Table = dict[str, dict[str, float]]


def run(
    out: Path, *, run: str = "", recipes: str = "gan/vanilla,gan/dcgan,diffusion/edm,energy/pcd,flow/multiscale-mnist", data: str = "mnist-5k", cpu_seconds: float = 300.0, n: int = 1000, steps: int = 400, seed: int = 0, quiet: bool = False
) -> list[Finding]:  # fmt: skip
    """Judge samples of every model by both tests.

    Args:
        out: Folder of told.json and told.png.
        run: Folders of runs, comma-separated; `recipes` are trained when empty.
        recipes: Comma-separated.
        data: What they are trained on.
        cpu_seconds: Of each one's training.
        n: Samples and data each; half of them train the judge.
        steps: Of training the judge.
        seed: Of all.
        quiet: Show no progress.
    """
    models = trained(run, recipes_of(recipes), data=data, cpu_seconds=cpu_seconds, seed=seed, out=out)
    config = next(iter(models.values())).config
    test, seen = images_of(config, "test"), images_of(config)
    if not 40 <= n <= len(test):
        raise ConfigError(f"n={n}: between 40 and {len(test)}, the number of test images.")
    g = torch.Generator().manual_seed(seed)
    real = test.images[torch.randperm(len(test), generator=g)[:n]]
    drawn = seen.images[torch.randperm(len(seen), generator=g)[:n]]
    samples = {CONTROL: drawn, NOISY: noisy(25 / 255)(drawn, g)}
    for name, each in models.items():
        samples[name] = to_bytes(runs.sample(each.model, n, seed=seed))
        if samples[name].shape != real.shape:
            raise DataError(f"{name}: images of another shape than those of {config.data.name}.")
    by = extractor("digits")
    features, table = by(real), {}
    for name, x in samples.items():
        fakes = by(x)
        values = measure(Sides(features, fakes, features), ["frechet"])
        table[name] = {
            "classifier": classifier_accuracy(real, x, steps=steps, seed=seed),
            "neighbours": neighbour_accuracy(features.features, fakes.features),
            "frechet": values["frechet"].value,
        }
        if not quiet:
            print(name, {k: round(v, 3) for k, v in table[name].items()}, flush=True)
    write_atomic(out / "told.json", json.dumps({"n": n, "table": table}, indent=1))
    with panels(out / "told.png", 2, width=4.4, height=1.2 + 0.35 * len(table)) as axes:
        for ax, (key, title) in zip(axes, {"classifier": "a fresh network is right", "neighbours": "the nearest neighbour is right"}.items(), strict=True):  # fmt: skip
            ax.barh(
                list(table),
                [t[key] for t in table.values()],
                color=[COLOURS[2], COLOURS[2], *[COLOURS[0]] * len(models)],
            )
            ax.axvline(0.5, color="#555555", ls="--", lw=1)
            ax.set(title=title, xlim=(0.4, 1.0), yticks=range(len(table)) if ax is axes[0] else [])
            ax.invert_yaxis()
    return findings(table, n)


def classifier_accuracy(real: Tensor, fake: Tensor, *, steps: int = 400, batch: int = 128, seed: int = 0) -> float:
    """How often a network that learned from the first halves is right about the second ones, bytes (n, 1, 28, 28) each."""
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 32, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(32, 64, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Dropout(0.3), nn.LazyLinear(1)
    )  # fmt: skip
    half, x = len(real) // 2, to_model(torch.cat([real, fake]))
    y = torch.cat([torch.ones(len(real)), torch.zeros(len(fake))])
    train = torch.cat([torch.arange(half), len(real) + torch.arange(half)])
    held = torch.cat([torch.arange(half, len(real)), len(real) + torch.arange(half, len(fake))])
    net(x[:2])
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-2)
    for _ in range(steps):
        index = train[torch.randint(len(train), (batch,))]
        loss = F.binary_cross_entropy_with_logits(net(x[index])[:, 0], y[index])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.random.set_rng_state(state)
    with torch.no_grad():
        logits = torch.cat([net.eval()(part)[:, 0] for part in x[held].split(500)])
    return float(((logits > 0) == (y[held] > 0.5)).double().mean())


def neighbour_accuracy(real: Tensor, fake: Tensor) -> float:
    """How often the nearest other point is of the same kind, features (n, d) each; 0.5 for equal laws."""
    x = torch.cat([real, fake]).float()
    distance = torch.cdist(x, x)
    distance.fill_diagonal_(torch.inf)
    kind = torch.arange(len(x)) < len(real)
    return float((kind[distance.argmin(dim=1)] == kind).double().mean())


def findings(table: Table, n: int) -> list[Finding]:
    """The control, who is told apart, and which test sees more."""
    error = 0.5 / math.sqrt(n)  # of the classifier: n images are held out
    control, positive = table[CONTROL], table[NOISY]
    models = {k: v for k, v in table.items() if k not in (CONTROL, NOISY)}
    told = [k for k, v in models.items() if v["classifier"] > 0.5 + 3 * error]
    blind = [k for k, v in models.items() if v["neighbours"] <= 0.5 + 3 * error and k in told]
    sharper = [k for k, v in models.items() if v["classifier"] > v["neighbours"] + 2 * error]
    fair = abs(control["classifier"] - 0.5) < 3 * error and positive["classifier"] > 0.5 + 3 * error
    order = sorted(models, key=lambda k: models[k]["frechet"])
    steps = [models[b]["classifier"] - models[a]["classifier"] for a, b in combinations(order, 2)]
    bar = float(stats.norm.isf(0.05 / max(len(steps), 1))) * math.sqrt(2) * error  # of so many pairs: Bonferroni
    follows: Verdict = (
        "not supported" if any(s < -bar for s in steps) else "supported" if any(s > bar for s in steps) else "unclear"
    )
    return [
        Finding("The judge is fair: training images cannot be told from test images, slightly noisy ones can.", "supported" if fair else "not supported", f"Right {control['classifier']:.3f} of the time ({control['neighbours']:.3f} by neighbours), with noise {positive['classifier']:.3f} ({positive['neighbours']:.3f}), ± {error:.3f}."),
        Finding("Samples of every model are told from data by a judge that it never met: none is at the equilibrium.", "unclear" if not fair else "supported" if len(told) == len(models) else "not supported", "; ".join(f"{k} {v['classifier']:.3f}" for k, v in models.items()) + ("." if fair else "; the judge is not fair.")),
        Finding("A fresh network sees what neighbours in the encoder's features do not.", "supported" if len(sharper) == len(models) else "not supported" if not sharper else "unclear", f"More by {', '.join(sharper) or 'none'}" + (f"; neighbours are blind to {', '.join(blind)}." if blind else ".")),
        Finding("Who has the lower Frechet distance is harder to tell.", follows, "; ".join(f"{k} {models[k]['frechet']:.0f} / {models[k]['classifier']:.3f}" for k in order) + f", ± {error:.3f}."),
    ]  # fmt: skip
