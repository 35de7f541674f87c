"""Consistency regularisation of a GAN: the discriminator should not see a shifted image (CR, bCR) or a moved latent (zCR) as another; ICR is both.

The latent's half also pushes the generator to make moved latents look different. The reference report found that ICR hurts LSGAN at the usual weights; whether that is the latent's
half, and how it depends on the size sigma of the move, is what the three sigmas are for.

Reference: Zhang et al. 2019, arXiv 1910.12027 (CR); Zhao et al. 2020, arXiv 2002.04724 (bCR, zCR, ICR).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pushforward.labs import Finding
from pushforward.labs.contest import Rows, above, below, contest, draw, figures, lowest, matters

SIGMAS = (0.03, 0.1, 0.3)
REAL, FAKE = '{name = "consistency-real", weight = 10.0}', '{name = "consistency-fake", weight = 10.0}'


def _latent(sd: float) -> str:
    return f'{{name = "latent-consistency", weight = 5.0, sd = {sd}}}, {{name = "latent-diversity", weight = 0.5, sd = {sd}}}'


TERMS = {"none": "", "CR": REAL, "bCR": f"{REAL}, {FAKE}"}
TERMS |= {f"zCR, sigma {s:g}": _latent(s) for s in SIGMAS}
TERMS |= {f"ICR, sigma {s:g}": f"{REAL}, {FAKE}, {_latent(s)}" for s in SIGMAS}
ENTRIES = {name: ("gan/lsgan", f"model.terms=[{terms}]") for name, terms in TERMS.items()}


def run(
    out: Path, *, data: str = "mnist-5k", seeds: int = 3, cpu_seconds: float = 60.0, n: int = 1000, quiet: bool = False
) -> list[Finding]:
    """Train LSGAN with each set of terms.

    Args:
        out: Folder of contest.json, contest.png and samples of each; what was trained is kept in cells/.
        data: Of digits.
        seeds: How many.
        cpu_seconds: Of training, each.
        n: Samples judged of each.
        quiet: Show no progress.
    """
    rows = contest(out, ENTRIES, data=data, seeds=seeds, cpu_seconds=cpu_seconds, n=n, quiet=quiet)
    draw(rows, {"frechet": "Frechet distance", "recall": "recall", "steps": "steps in this time"}, out / "contest.png")
    return findings(rows)


def findings(rows: Rows) -> list[Finding]:
    """Each against none, bCR against CR, and whether sigma matters."""
    lower, higher = partial(below, tried=6), partial(above, tried=6)
    frechet = {name: figures(rows, name, "frechet") for name in rows}
    best = lowest(frechet, (f"zCR, sigma {s:g}" for s in SIGMAS))
    usual = f"ICR, sigma {SIGMAS[0]:g}"
    return [
        lower("CR lowers LSGAN's Frechet distance.", frechet["CR"], frechet["none"]),
        lower("bCR lowers it further than CR.", frechet["bCR"], frechet["CR"]),
        lower(f"zCR lowers it, at the best of three sigmas ({best}).", frechet[best], frechet["none"], tried=6 * len(SIGMAS)),
        higher(f"{usual}, raises it above that without any: both halves at the usual weights hurt LSGAN.", frechet[usual], frechet["none"]),
        *(matters(f"Sigma matters to {k}.", [frechet[f"{k}, sigma {s:g}"] for s in SIGMAS], tried=6) for k in ("zCR", "ICR")),
    ]  # fmt: skip
