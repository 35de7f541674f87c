"""Bits a dimension: the yardstick of exact likelihoods, what it rewards, and what it does not see.

A byte costs 8 bits without a model. A histogram a pixel, all pixels independent, is the least that a model should beat. Flows pay for what they learn about neighbours. (Bytes are dequantised by uniform noise, so that
the figures are upper bounds.) The same flow is sampled at a lower temperature too: its likelihood stays, its samples do not.

Reference: Theis et al. 2015, arXiv 1511.01844; Dinh et al. 2016, arXiv 1605.08803; Kingma and Dhariwal 2018, arXiv 1807.03039.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from pushforward import runs
from pushforward.build import change_sampler
from pushforward.data.images import to_bytes, to_model
from pushforward.evaluation.reference import Reference
from pushforward.families.flow.model import FlowModel
from pushforward.labs import Finding, Verdict
from pushforward.labs.contest import (
    Look,
    Rows,
    below,
    config_of,
    contest,
    draw,
    figures,
    images_of,
    some,
    through,
    usual,
)
from pushforward.model import GenerativeModel

ENTRIES = {
    name: ("flow/multiscale-mnist", f"model.flow.levels={k}") for k, name in ((1, "one scale"), (2, "two scales"))
}
COOL = 0.7


def run(
    out: Path, *, data: str = "mnist-5k", seeds: int = 3, cpu_seconds: float = 300.0, n: int = 1000, quiet: bool = False
) -> list[Finding]:
    """Train the same flow with one level and with two, and measure them on test and training images.

    Args:
        out: Folder of contest.json, contest.png and samples; what was trained is kept in cells/.
        data: Of digits.
        seeds: How many.
        cpu_seconds: Of training, each.
        n: Samples, test and training images judged of each.
        quiet: Show no progress.
    """
    config = config_of("flow/multiscale-mnist", (), data=data, seed=0)
    train, test = images_of(config), images_of(config, "test")
    floor = independent_bits(train.images, test.images)
    rows = contest(
        out,
        ENTRIES,
        data=data,
        seeds=seeds,
        cpu_seconds=cpu_seconds,
        n=n,
        look=_look(some(train, n), some(test, n)),
        protocol=f"cool {COOL}",
        quiet=quiet,
    )
    shown = {
        "test bits": f"bits/dim of test images (histograms: {floor:.2f})",
        "train bits": "of training images",
        "frechet": "Frechet distance",
    }
    draw(rows, shown, out / "contest.png")
    return findings(rows, floor)


def independent_bits(train: Tensor, test: Tensor) -> float:
    """Bits a dimension of test images by a histogram a pixel, each count begun at 1/256 (n, c, h, w) as bytes."""
    x, y = train.flatten(1).long(), test.flatten(1).long()
    counts = torch.full((x.shape[1], 256), 1 / 256, dtype=torch.float64)
    counts.scatter_add_(1, x.T.contiguous(), torch.ones(x.T.shape, dtype=torch.float64))
    log_p = (counts / counts.sum(dim=1, keepdim=True)).log2()
    return -float(log_p.gather(1, y.T.contiguous()).mean())


def _look(train: Tensor, test: Tensor) -> Look:
    def bits(model: FlowModel, x: Tensor) -> float:
        g = torch.Generator().manual_seed(0)
        with torch.no_grad():
            found = torch.cat([model.log_prob(part, generator=g) for part in to_model(x).split(250)])
        return float(-found.double().mean() / (x[0].numel() * math.log(2)))

    def look(model: GenerativeModel, x: Tensor, side: Reference) -> dict[str, float]:
        assert isinstance(model, FlowModel)
        change_sampler(model, None, [f"temperature={COOL}"])
        cool = usual(to_bytes(runs.sample(model, len(x), seed=1)), side)
        change_sampler(model, None, ["temperature=1.0"])
        return {"test bits": bits(model, test), "train bits": bits(model, train), "cool frechet": cool["frechet"]}

    return look


def findings(rows: Rows, floor: float) -> list[Finding]:
    """Against histograms, one scale against two, test against training images, and temperature."""
    lower = partial(below, tried=2)
    bits = {name: figures(rows, name, "test bits") for name in rows}
    gaps = [
        a - b
        for name in rows
        for a, b in zip(through(bits[name]), through(figures(rows, name, "train bits")), strict=True)
    ]
    came = {name: through(b) for name, b in bits.items() if through(b)}
    beaten = bool(came) and all(max(b) < floor for b in came.values())
    said: Verdict = "supported" if gaps and min(gaps) > 0 else "not supported" if gaps and max(gaps) < 0 else "unclear"
    two = "two scales"
    return [
        Finding("Every flow needs fewer bits than a histogram for each pixel.", "supported" if beaten else "not supported" if came else "unclear", "; ".join(f"{k} {min(v):.3f} to {max(v):.3f}" for k, v in came.items()) + f"; histograms {floor:.3f}."),
        lower("Two scales need fewer bits than one.", bits[two], bits["one scale"]),
        Finding("Test images cost more bits than training images.", said, f"By {min(gaps):.3f} to {max(gaps):.3f}." if gaps else "No run came to its end."),
        lower(f"A temperature of {COOL} lowers the Frechet distance of samples, at the same likelihood.", figures(rows, two, "cool frechet"), figures(rows, two, "frechet"), paired=True),
    ]  # fmt: skip
