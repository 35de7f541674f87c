"""A flow that was trained on one kind of image gives another kind a higher likelihood, if that kind is simpler. Which scores are not fooled?

The classic pair is a flow of Fashion-MNIST that prefers digits (`data=fashion-mnist other=mnist`, where they are at hand). The same happens within one set: images that are smoother, smaller or plainer than the data
are cheap to encode. Typicality asks whether the likelihood is as usual, not whether it is high; the ratio to a background model, trained on the same images with some pixels replaced at random, takes out what is common to all images; less complexity means less the bits of a PNG of the image, which no training is needed for.

Reference: Nalisnick et al. 2018, arXiv 1810.09136; Nalisnick et al. 2019, arXiv 1906.02994 (typicality); Ren et al. 2019, arXiv 1906.02845 (ratio); Serra et al. 2019, arXiv 1909.11480 (complexity).
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from pushforward.anomaly import evaluate_field, field_of, png_bits
from pushforward.data.fetch import load
from pushforward.data.images import ImageSet
from pushforward.data.shifts import SHIFTS, impulses
from pushforward.errors import DataError, NotSupported
from pushforward.labs import Finding
from pushforward.labs.contest import at_least, images_of, some, trained
from pushforward.labs.drawing import panels
from pushforward.metrics import auroc
from pushforward.model import HasLogProb
from pushforward.randomness import derive_seed
from pushforward.report.figures import COLOURS
from pushforward.training.checkpoint import write_atomic

RECIPE = "flow/multiscale-mnist"
SETS = ("black", "half size", "gaussian blur", "fog", "rot90", "inverted", "stripe", "shuffled pixels", "uniform noise")
MUTATED = 0.15  # share of a background image's pixels that are replaced
SCORES = ("likelihood", "typicality", "ratio", "less complexity")
Table = dict[str, dict[str, float]]


def run(
    out: Path, *, run: str = "", data: str = "mnist-5k", other: str = "", cpu_seconds: float = 600.0, n: int = 500, seed: int = 0, quiet: bool = False
) -> list[Finding]:  # fmt: skip
    """Train a flow and its background, and score images that are not the data.

    Args:
        out: Folder of paradox.json and paradox.png.
        run: Two runs' folders, comma-separated: the flow and its background; both are trained when empty.
        data: What the flow is trained on.
        other: A data set whose test images are scored too; none when empty.
        cpu_seconds: Of training, each of the two.
        n: Test images, and images of each set.
        seed: Of all.
        quiet: Show no progress.
    """
    if run:
        both = list(trained(run, [], data=data, cpu_seconds=cpu_seconds, seed=seed, out=out).values())
        if len(both) != 2:
            raise DataError(f"run={run}: give two folders, the flow and its background.")
        flow, background = both
    else:
        how = {"data": data, "cpu_seconds": cpu_seconds, "seed": seed, "out": out}
        (flow,) = trained("", [RECIPE], **how).values()  # type: ignore[arg-type]
        (background,) = trained("", [RECIPE], change=mutated, **how).values()  # type: ignore[arg-type]
    for name, each in (("flow", flow), ("background", background)):
        if not isinstance(each.model, HasLogProb):
            raise NotSupported(f"the {name} has no density; this lab is about likelihoods.")
    at_least(10, n=n)
    test, train = images_of(flow.config, "test").images, images_of(flow.config)
    n = min(n, len(test) // 2)
    shuffled = test[torch.randperm(len(test), generator=torch.Generator().manual_seed(0))]
    inliers, rest = shuffled[:n], shuffled[n : 2 * n]
    sets = {s: SHIFTS[s](rest, torch.Generator().manual_seed(derive_seed(seed, s))) for s in SETS}
    if other:
        found = load(other, "test")
        if not isinstance(found, ImageSet) or found.shape != (1, 28, 28):
            raise DataError(f"{other}: grey images of 28 x 28 are wanted.")
        sets[other] = found.images[:n]
    fields = {"flow": field_of(flow.model), "background": field_of(background.model)}
    bits = inliers[0].numel() * math.log(2)
    values = {
        name: {k: evaluate_field(f, x) / bits for k, f in fields.items()} | {"png": png_bits(x) / inliers[0].numel()}
        for name, x in {"": inliers, "train": some(train, n), **sets}.items()
    }
    centre = float(values.pop("train")["flow"].mean())
    scores = {name: scored(v["flow"], v["background"], v["png"], centre) for name, v in values.items()}
    table: Table = {}
    for name in sets:
        table[name] = {"bits": float(values[name]["flow"].mean())}
        found_by = {s: auroc(inliers=scores[""][s], outliers=scores[name][s]) for s in scores[""]}
        table[name] |= {s: m.value for s, m in found_by.items()} | {"error": found_by["likelihood"].stderr}
        if not quiet:
            print(name, {k: round(v, 3) for k, v in table[name].items()}, flush=True)
    own = float(values[""]["flow"].mean())
    write_atomic(out / "paradox.json", json.dumps({"n": n, "bits of the data": own, "table": table}, indent=1))
    _draw({"test images": values[""]["flow"], **{k: values[k]["flow"] for k in sets}}, table, out / "paradox.png")
    return findings(table, own, other)


def mutated(data: ImageSet) -> ImageSet:
    """The images with some pixels replaced at random."""
    return replace(data, images=impulses(MUTATED)(data.images, torch.Generator().manual_seed(0)))


def _draw(bits: dict[str, Tensor], table: Table, path: Path) -> None:
    with panels(path, 2, width=5.2, height=3.6) as (left, right):
        left.boxplot([v.numpy() for v in bits.values()], vert=False, showfliers=False)
        left.set_yticklabels(list(bits), fontsize=8)
        left.axvline(float(bits["test images"].mean()), color=COLOURS[0], ls="--", lw=1)
        left.invert_yaxis()
        left.set(title="bits a dimension by the flow (fewer: likelier)")
        for k, score in enumerate(SCORES):
            heights = [i + 0.18 * (k - 1.5) for i in range(len(table))]
            right.plot([row[score] for row in table.values()], heights, "o", ms=5, color=COLOURS[k], label=score)
        right.axvline(0.5, color="#999999", ls="--", lw=1)
        right.set(
            title="AUROC of four scores", yticks=range(len(table)), ylim=(len(table) - 0.5, -0.5), xlim=(-0.03, 1.03)
        )
        right.set_yticklabels(list(table), fontsize=8)
        right.legend(fontsize=8)


def scored(flow: Tensor, background: Tensor, png: Tensor, centre: float) -> dict[str, Tensor]:
    """Four scores of strangeness from bits a dimension by a flow, its background and a PNG, and the mean of the flow's on training images."""
    found = (flow, (flow - centre).abs(), flow - background, flow - png)
    return dict(zip(SCORES, found, strict=True))


def findings(table: Table, own: float, other: str = "") -> list[Finding]:
    """The paradox, and what repairs it."""
    z = float(stats.norm.isf(0.05 / len(table)))  # of so many sets: Bonferroni
    fooled = [s for s, row in table.items() if row["likelihood"] + z * row["error"] < 0.5]
    said = ", ".join(f"{s} {table[s]['bits']:.2f}" for s in fooled)
    out = [Finding("Some images that are not the data have a higher likelihood than the data.", "supported" if fooled else "not supported", f"Bits a dimension: {said}; test images {own:.2f}." if fooled else "No set has.")]  # fmt: skip
    if other:
        row = table[other]
        out.append(Finding(f"{other} has a higher likelihood than the flow's own test images.", "supported" if row["likelihood"] + 2 * row["error"] < 0.5 else "not supported", f"{row['bits']:.3f} against {own:.3f} bits a dimension; AUROC {row['likelihood']:.3f}."))  # fmt: skip
    for score in SCORES[1:]:
        if not fooled:
            out.append(Finding(f"{score.capitalize()} repairs it.", "unclear", "There was nothing to repair."))
            continue
        mended = [s for s in fooled if table[s][score] > 0.9]
        evidence = ", ".join(f"{s} {table[s]['likelihood']:.2f} to {table[s][score]:.2f}" for s in fooled)
        out.append(Finding(f"{score.capitalize()} repairs it: each of those sets is told from the data with an AUROC above .9.", "supported" if len(mended) == len(fooled) else "not supported", f"{evidence}; mean over all sets {np.mean([r['likelihood'] for r in table.values()]):.2f} to {np.mean([r[score] for r in table.values()]):.2f}."))  # fmt: skip
    return out
