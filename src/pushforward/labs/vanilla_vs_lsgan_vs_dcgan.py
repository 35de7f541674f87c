"""Three GANs that every course trains: the vanilla pair of perceptrons, the same pair with squared errors, and convolutions.

It is said that LSGAN is sharper, because its gradient does not vanish for fakes on the right side of the boundary; that DCGAN beats both; and that the vanilla GAN makes too many ones, the easiest digit.
Sharpness is the mean squared second difference over the mean square; noise raises it too, so that nearness to the data's counts.

Reference: Goodfellow et al. 2014, arXiv 1406.2661; Mao et al. 2016, arXiv 1611.04076; Radford et al. 2015, arXiv 1511.06434.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
from scipy import stats

from pushforward.errors import DataError
from pushforward.labs import Finding
from pushforward.labs.contest import (
    Rows,
    above,
    below,
    config_of,
    contest,
    draw,
    figures,
    images_of,
    sharpness,
    through,
    verdict,
)

ONES = "The vanilla GAN makes more ones than there are."
ENTRIES = {name: (f"gan/{name}",) for name in ("vanilla", "lsgan", "dcgan")}


def run(
    out: Path, *, data: str = "mnist-5k", seeds: int = 3, cpu_seconds: float = 60.0, n: int = 1000, quiet: bool = False
) -> list[Finding]:
    """Train the three for the same time.

    Args:
        out: Folder of contest.json, contest.png and samples of each; what was trained is kept in cells/.
        data: Of digits.
        seeds: How many.
        cpu_seconds: Of training, each.
        n: Samples judged of each.
        quiet: Show no progress.
    """
    rows = contest(out, ENTRIES, data=data, seeds=seeds, cpu_seconds=cpu_seconds, n=n, quiet=quiet)
    real = images_of(config_of("gan/vanilla", (), data=data, seed=0), "test")
    if real.labels is None:
        raise DataError(f"{data}: this lab counts ones, and so needs labels.")
    ones, sharp = float((real.labels == 1).double().mean()), sharpness(real.images)
    shown = {"frechet": "Frechet distance", "recall": "recall", "ones": f"share of ones (data {ones:.3f})", "sharpness": f"sharpness (data {sharp:.2f})"}  # fmt: skip
    draw(rows, shown, out / "contest.png")
    return findings(rows, ones, sharp)


def findings(rows: Rows, ones: float, sharp: float) -> list[Finding]:
    """Distances, sharpness against the data's, and the ones."""
    lower, higher = partial(below, tried=5), partial(above, tried=5)
    frechet = {name: figures(rows, name, "frechet") for name in rows}
    off = {name: [abs(math.log(max(v, 1e-6) / sharp)) for v in figures(rows, name, "sharpness")] for name in rows}
    found = figures(rows, "vanilla", "ones")
    if len(found) < 2 or through(found) != found:
        last = Finding(ONES, "unclear", "Too few seeds, or some diverged.")
    else:
        p = (
            float(stats.ttest_1samp(found, ones, alternative="greater").pvalue)
            if np.ptp(found)
            else float(found[0] <= ones)
        )
        last = Finding(
            ONES,
            verdict(p, tried=5),
            f"{np.mean(found):.3f} against {ones:.3f} in the data, p = {min(1.0, 5 * p):.2g} (t-test, Bonferroni for 5, one-sided).",
        )
    return [
        lower("LSGAN has a lower Frechet distance than the vanilla GAN.", frechet["lsgan"], frechet["vanilla"]),
        lower("DCGAN has a lower Frechet distance than LSGAN.", frechet["dcgan"], frechet["lsgan"]),
        lower("LSGAN's sharpness is nearer to the data's than the vanilla GAN's (absolute log ratio).", off["lsgan"], off["vanilla"]),
        higher("DCGAN has a higher recall than the vanilla GAN.", figures(rows, "dcgan", "recall"), figures(rows, "vanilla", "recall")),
        last,
    ]  # fmt: skip
