"""The inception score praises images that are useless: it looks at labels alone, never at data.

Three sets that no one wants: ten images, one a digit, over and over; the average of each class, cut to black and white; and noise that was pushed until the classifier was sure. A Frechet distance with recall sees each.

Reference: Salimans et al. 2016, arXiv 1606.03498; Barratt and Sharma 2018, arXiv 1801.01973.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pushforward.data.fetch import load
from pushforward.data.images import ImageSet, save_grid
from pushforward.errors import DataError
from pushforward.evaluation import Sides, measure, reference
from pushforward.labs import Finding
from pushforward.labs.drawing import panels
from pushforward.metrics.features import extractor
from pushforward.report.figures import COLOURS
from pushforward.training.checkpoint import write_atomic

METRICS = ["inception-score", "frechet", "precision-recall"]


def run(
    out: Path, *, data: str = "mnist-5k", n: int = 1000, steps: int = 100, seed: int = 0, quiet: bool = False
) -> list[Finding]:
    """Make the sets and judge them.

    Args:
        out: Folder of failures.png, failures.json and a grid of each set.
        data: Of digits.
        n: Images of each set.
        steps: Of pushing noise.
        seed: Of all.
        quiet: Show no progress.
    """
    found, side = load(data, "train"), reference(data, n=n)
    if not isinstance(found, ImageSet) or found.labels is None or found.shape != (1, 28, 28):
        raise DataError(f"{data}: this lab needs digits with labels.")
    each = [found.images[found.labels == k] for k in range(10)]
    ten = torch.stack([e[len(e) // 2] for e in each])
    g = torch.Generator().manual_seed(seed)
    averages = torch.stack([(e.float().mean(dim=0) > 110).float() * 255 for e in each]).to(torch.uint8)
    sets = {
        "training images": found.images[torch.randperm(len(found), generator=g)[:n]],
        "ten images": ten.repeat(n // 10 + 1, 1, 1, 1)[:n],
        "ten sharpened averages": averages.repeat(n // 10 + 1, 1, 1, 1)[:n],
        "noise, pushed": _pushed(n, steps, g),
    }
    rows = {}
    for name, x in sets.items():
        save_grid(x[:40], out / f"{name.replace(' ', '-').replace(',', '')}.png", columns=10)
        values = measure(Sides(side.real, side.by(x), side.floor["floor"]), METRICS)
        rows[name] = {k: values[k].value for k in ("inception score", "frechet", "precision", "recall")}
        if not quiet:
            print(name, {k: round(v, 2) for k, v in rows[name].items()}, flush=True)
    with panels(out / "failures.png", 3, width=3.6, height=2.6) as axes:
        for ax, key in zip(axes, ("inception score", "frechet", "recall"), strict=True):
            ax.barh(list(rows), [r[key] for r in rows.values()], color=[COLOURS[2], *[COLOURS[1]] * 3])
            ax.set(title=key, yticks=range(len(rows)) if ax is axes[0] else [])
            ax.invert_yaxis()
    write_atomic(out / "failures.json", json.dumps(rows, indent=1))
    return findings(rows)


def _pushed(n: int, steps: int, g: torch.Generator) -> Tensor:
    """Noise moved by gradient steps until the classifier is sure of a digit each."""
    network = extractor("digits").net  # type: ignore[attr-defined]
    labels = torch.arange(n) % 10
    x = torch.rand(n, 1, 28, 28, generator=g)
    for _ in range(steps):
        x.requires_grad_()
        loss = F.cross_entropy(network(2 * x - 1)[1], labels, reduction="sum")
        (slope,) = torch.autograd.grad(loss, x)
        x = (x.detach() - 0.02 * slope.sign()).clamp(0, 1)
    return (x * 255).round().to(torch.uint8)


def findings(rows: dict[str, dict[str, float]]) -> list[Finding]:
    """The two claims."""
    real, fakes = rows["training images"], {k: v for k, v in rows.items() if k != "training images"}
    praised = [k for k, v in fakes.items() if v["inception score"] >= 0.97 * real["inception score"]]
    seen = [k for k in praised if fakes[k]["frechet"] > 10 * real["frechet"] and fakes[k]["recall"] < 0.1]
    return [
        Finding("There are useless images whose inception score is as high as the data's.", "supported" if praised else "not supported", f"Data {real['inception score']:.2f}; " + ", ".join(f"{k} {v['inception score']:.2f}" for k, v in fakes.items()) + "."),
        Finding("The Frechet distance and recall see each of them.", "supported" if praised and seen == praised else "unclear" if seen else "not supported", "; ".join(f"{k}: Frechet {v['frechet']:.0f}, recall {v['recall']:.2f}" for k, v in fakes.items()) + f"; data {real['frechet']:.0f}, {real['recall']:.2f}."),
    ]  # fmt: skip
