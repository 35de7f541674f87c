"""Contrastive divergence fixes differences of energies and nothing else; a small penalty on their squares is said to keep them from running away.

The default energy model is trained with the penalty of the tutorials (weight 0.1), with ten times more, and without any; its other term, denoising, stays, and so do the guards that
stop a run that has come off its rails.

Reference: Du and Mordatch 2019, section 3, arXiv 1903.08689; Lippe, UvA deep learning tutorial 8.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pushforward.labs import Finding
from pushforward.labs.contest import Rows, above, below, contest, draw, figures, more_often
from pushforward.labs.energies import energy_figures

RECIPE = "energy/pcd"
DENOISING = '{name = "denoising", weight = 0.01, sigma = 0.1, widest = 0.5, scale = 4.4721}'


def terms_of(weight: float) -> str:
    """The recipe's terms as a setting, the penalty with this weight; without it for 0."""
    magnitude = f'{{name = "magnitude", weight = {weight}}}, ' if weight else ""
    return f'model.terms=[{{name = "contrastive"}}, {magnitude}{DENOISING}]'


ENTRIES = {name: (RECIPE, terms_of(w)) for name, w in (("none", 0.0), ("0.1", 0.1), ("1", 1.0))}


def run(
    out: Path, *, data: str = "mnist-5k", seeds: int = 5, cpu_seconds: float = 240.0, n: int = 1000, chains: int = 100, quiet: bool = False
) -> list[Finding]:  # fmt: skip
    """Train with each weight.

    Args:
        out: Folder of contest.json, contest.png and samples of each; what was trained is kept in cells/.
        data: Of digits.
        seeds: How many.
        cpu_seconds: Of training, each.
        n: Samples judged of each.
        chains: From data, whose drift is measured.
        quiet: Show no progress.
    """
    look = energy_figures(data, RECIPE, chains=chains)
    rows = contest(
        out,
        ENTRIES,
        data=data,
        seeds=seeds,
        cpu_seconds=cpu_seconds,
        n=n,
        look=look,
        protocol=f"{chains} chains",
        quiet=quiet,
    )
    draw(rows, {"frechet": "Frechet distance", "size of the energy": "root mean square energy of data", "drift": "drift of chains from data (L2)"}, out / "contest.png")  # fmt: skip
    return findings(rows)


def findings(rows: Rows) -> list[Finding]:
    """Divergence, the energies' size, and what it costs."""
    lower, higher = partial(below, tried=4), partial(above, tried=4)
    return [
        more_often("Training diverges on more seeds without the penalty.", rows, "none", "0.1", tried=4),
        higher("Energies run away without it: ten times larger than with a weight of 0.1.", figures(rows, "none", "size of the energy"), [10 * v for v in figures(rows, "0.1", "size of the energy")]),
        lower("The penalty lowers the Frechet distance.", figures(rows, "0.1", "frechet"), figures(rows, "none", "frechet")),
        higher("Ten times more of it raises the Frechet distance.", figures(rows, "1", "frechet"), figures(rows, "0.1", "frechet")),
    ]  # fmt: skip
