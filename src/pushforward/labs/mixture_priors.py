"""Latents from a mixture of Gaussians: a generator that starts from separate clumps need not tear one clump into ten digits.

Version 1 puts eight Gaussians on a circle, version 2 draws the centres uniformly, the dynamic one learns them. Beside Frechet distance and recall stands the entropy
of the classes: a mixture whose components each became one digit would have them all.

Reference: Ben-Yosef and Weinshall 2018, arXiv 1808.10356.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pushforward.labs import Finding
from pushforward.labs.contest import Rows, above, below, contest, draw, figures

ENTRIES = {
    "normal": ("gan/vanilla",),
    "circle": ("gan/gm-gan",),
    "uniform": ("gan/gm-gan-uniform",),
    "dynamic": ("gan/gm-gan-dynamic",),
}


def run(
    out: Path, *, data: str = "mnist-5k", seeds: int = 3, cpu_seconds: float = 60.0, n: int = 1000, quiet: bool = False
) -> list[Finding]:
    """Train the vanilla GAN with each prior.

    Args:
        out: Folder of contest.json, contest.png and samples of each; what was trained is kept in cells/.
        data: Of digits.
        seeds: How many.
        cpu_seconds: Of training, each.
        n: Samples judged of each.
        quiet: Show no progress.
    """
    rows = contest(out, ENTRIES, data=data, seeds=seeds, cpu_seconds=cpu_seconds, n=n, quiet=quiet)
    draw(rows, {"frechet": "Frechet distance", "recall": "recall", "class entropy": "entropy of the classes"}, out / "contest.png")  # fmt: skip
    return findings(rows)


def findings(rows: Rows) -> list[Finding]:
    """Mixtures against the normal prior, and one against the other."""
    lower, higher = partial(below, tried=5), partial(above, tried=5)
    frechet = {name: figures(rows, name, "frechet") for name in rows}
    return [
        *(lower(f"The {k} mixture has a lower Frechet distance than the normal prior.", frechet[k], frechet["normal"]) for k in ("circle", "uniform", "dynamic")),
        lower("The circle beats the uniform layout, each with its paper's number of components and widths.", frechet["circle"], frechet["uniform"]),
        higher("The circle raises recall over the normal prior.", figures(rows, "circle", "recall"), figures(rows, "normal", "recall")),
    ]  # fmt: skip
