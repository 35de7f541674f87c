"""The classical figure of the Frechet inception distance: each metric against growing damage to the images.

Training images are damaged in five ways at five strengths and judged against the test images, like a model's samples. A metric that is worth
its name grows worse at every step.

Reference: Heusel et al. 2017, figure 3, arXiv 1706.08500.
"""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import torch

from pushforward.data.corruptions import CORRUPTIONS
from pushforward.data.fetch import load
from pushforward.data.images import ImageSet, save_grid
from pushforward.errors import DataError
from pushforward.evaluation import Sides, Values, measure
from pushforward.labs import Finding, Verdict
from pushforward.metrics import features
from pushforward.metrics.features import Features, cached_features
from pushforward.report.figures import COLOURS, STYLE, plt
from pushforward.training.checkpoint import write_atomic

WORSE = {"frechet": 1, "kid": 1, "precision": -1, "recall": -1}  # which way each grows worse
NAMES = {"frechet": "Frechet distance", "kid": "KID", "precision": "precision", "recall": "recall"}


def run(
    out: Path, *, data: str = "mnist-5k", n: int = 1000, extractor: str = "digits", seed: int = 0, quiet: bool = False
) -> list[Finding]:
    """Damage, judge, draw.

    Args:
        out: Folder of corruption.png, examples.png and corruption.json.
        data: A data set of images with a test split.
        n: Images on each side.
        extractor: Its name.
        seed: Of the random kinds of damage.
        quiet: Show no progress.
    """
    train, test = load(data, "train"), load(data, "test")
    if not (isinstance(train, ImageSet) and isinstance(test, ImageSet)):
        raise DataError(f"{data} has no images to damage.")
    if not 10 <= n <= min(len(train), len(test)):
        raise DataError(f"n={n}: {data} has {len(train)} training and {len(test)} test images; 10 are the least.")
    shuffler = torch.Generator().manual_seed(0)
    clean, held = (d.subset(torch.randperm(len(d), generator=shuffler)[:n]) for d in (train, test))
    judge = features.extractor(extractor)
    real, floor = (cached_features(d.images, d.sha256, judge) for d in (held, clean))

    def judged(fake: Features) -> Values:
        return measure(Sides(real, fake, floor), ["frechet", "kid", "precision-recall"])

    base = judged(floor)
    table: dict[str, list[Values]] = {}
    examples = []
    for kind, corruption in CORRUPTIONS.items():
        table[kind] = [base]
        examples.append(clean.images[:1])
        for strength in corruption.strengths:
            damaged = corruption.function(clean.images, strength, generator=torch.Generator().manual_seed(seed))
            examples.append(damaged[:1])
            table[kind].append(judged(judge(damaged)))
        if not quiet:
            print(f"{kind}: " + ", ".join(f"{v['frechet'].value:.1f}" for v in table[kind]), flush=True)
    save_grid(torch.cat(examples), out / "examples.png", columns=6)
    _draw(table, out / "corruption.png", f"{n} images of {data}, extractor {extractor}")
    plain = {
        kind: [{k: [m.value, m.stderr] for k, m in v.items()} | {"strength": s} for s, v in zip((0.0, *c.strengths), table[kind], strict=True)]
        for kind, c in CORRUPTIONS.items()
    }  # fmt: skip
    write_atomic(out / "corruption.json", json.dumps({"extractor_sha256": judge.sha256, "curves": plain}, indent=1))
    return [_finding(metric, table) for metric in WORSE]


def steps_back(curve: list[Values], metric: str) -> tuple[int, int]:
    """Steps at which a metric grows no worse although the damage grows: all of them, and those where it grows better by more than two standard errors."""
    back = sure = 0
    for a, b in pairwise(curve):
        step = WORSE[metric] * (b[metric].value - a[metric].value)
        back += step <= 0
        sure += step < -2 * math.hypot(a[metric].stderr, b[metric].stderr)
    return back, sure


def _finding(metric: str, table: dict[str, list[Values]]) -> Finding:
    counts = {kind: steps_back(curve, metric) for kind, curve in table.items()}
    sure = {kind: c[1] for kind, c in counts.items() if c[1]}
    doubtful = {kind: c[0] for kind, c in counts.items() if c[0] and not c[1]}
    verdict: Verdict = "not supported" if sure else "unclear" if doubtful else "supported"
    said = [f"{kind}: {k} of 5 steps the other way by more than two standard errors" for kind, k in sure.items()]
    said += [
        f"{kind}: {k} of 5 steps nowhere, or the other way within two standard errors" for kind, k in doubtful.items()
    ]
    evidence = "; ".join(said) or f"All {5 * len(table)} steps go that way"
    return Finding(f"{NAMES[metric]} grows worse with every kind of damage.", verdict, evidence + ".")


def _draw(table: dict[str, list[Values]], path: Path, title: str) -> None:
    with mpl.rc_context(STYLE | {"figure.facecolor": "white", "savefig.facecolor": "white"}):
        figure, axes = plt.subplots(1, 4, figsize=(13, 3.4))
        for ax, (metric, name) in zip(axes, NAMES.items(), strict=True):
            for colour, (kind, curve) in zip(COLOURS, table.items(), strict=False):
                values, errors = ([getattr(v[metric], k) for v in curve] for k in ("value", "stderr"))
                ax.errorbar(range(6), values, errors, color=colour, marker="o", ms=3.5, lw=1.4, capsize=2, label=kind)
            ax.set_title(name)
            ax.set_xlabel("strength of the damage")
            if metric in ("frechet", "kid"):
                ax.set_yscale("symlog", linthresh=max(abs(table["noise"][1][metric].value) / 4, 1e-12))
            else:
                ax.set_ylim(-0.03, 1.03)
        axes[0].legend(fontsize=8)
        figure.suptitle(title, fontsize=10)
        figure.tight_layout()
        figure.savefig(path, dpi=120)
        plt.close(figure)
