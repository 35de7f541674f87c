"""Images are mapped to [-1, 1] and the generator ends in tanh: a rule of every tutorial. What happens to those who break it?

tanh(z) = 2 sigmoid(2 z) - 1: a sigmoid over [0, 1] is the same family of generators, seen through another scale, so that the pair as a whole should matter little; data whose mean is far from 0 are
what remains of a difference. A range that does not fit is another matter: a sigmoid cannot make black where black is -1, and the discriminator need look at nothing else.
(Data in [0, 1] are images whose bytes are squeezed into the upper half, 7 bits of them.)

Reference: LeCun et al. 1998, Efficient BackProp, section 4.3 (inputs of mean zero); Radford et al. 2015, section 3, arXiv 1511.06434 (tanh).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from pushforward.data.images import ImageSet
from pushforward.labs import Finding
from pushforward.labs.contest import Rows, above, below, contest, draw, figures

ENTRIES = {
    f"[{'-1' if wide else '0'}, 1], {output}": ("gan/vanilla", f'model.generator.output="{output}"')
    for wide, output in ((True, "tanh"), (False, "sigmoid"), (False, "tanh"), (True, "sigmoid"), (True, "identity"))
}


def run(
    out: Path, *, data: str = "mnist-5k", seeds: int = 3, cpu_seconds: float = 60.0, n: int = 1000, quiet: bool = False
) -> list[Finding]:
    """Train the vanilla GAN with every range and output.

    Args:
        out: Folder of contest.json, contest.png and samples of each; what was trained is kept in cells/.
        data: Of digits.
        seeds: How many.
        cpu_seconds: Of training, each.
        n: Samples judged of each.
        quiet: Show no progress.
    """
    rows = contest(out, ENTRIES, data=data, seeds=seeds, cpu_seconds=cpu_seconds, n=n, change=_squeezed, undo=_back, protocol="upper half of the bytes", quiet=quiet)  # fmt: skip
    draw(rows, {"frechet": "Frechet distance", "precision": "precision", "recall": "recall"}, out / "contest.png")
    return findings(rows)


def _squeezed(name: str, data: ImageSet) -> ImageSet:
    if name.startswith("[-1"):
        return data
    return replace(data, images=(128 + data.images.to(torch.int16) // 2).to(torch.uint8))


def _back(name: str, x: Tensor) -> Tensor:
    return x if name.startswith("[-1") else (2 * x - 1).clamp(-1, 1)


def findings(rows: Rows) -> list[Finding]:
    """The rule, the scale alone, and the range that does not fit."""
    lower, higher = partial(below, tried=4), partial(above, tried=4)
    fit, other = "[-1, 1], tanh", "[0, 1], sigmoid"
    frechet = {name: figures(rows, name, "frechet") for name in rows}
    return [
        lower(f"{fit} has a lower Frechet distance than {other}.", frechet[fit], frechet[other]),
        higher("Half of the output's range unused does harm: [0, 1], tanh has a higher Frechet distance than [0, 1], sigmoid.", frechet["[0, 1], tanh"], frechet[other]),
        higher("A range that does not fit ruins the samples: [-1, 1], sigmoid has more than twice the Frechet distance of [-1, 1], tanh.", frechet["[-1, 1], sigmoid"], [2 * f for f in frechet[fit]]),
        higher("Without any bound on the output the Frechet distance is higher.", frechet["[-1, 1], identity"], frechet[fit]),
    ]  # fmt: skip
