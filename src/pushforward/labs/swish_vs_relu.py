"""Energies want smooth activations, it is said: chains follow the slope of the energy, and the slope of a ReLU network is piecewise constant.

The same energy model is trained with Swish and with ReLU and judged by short chains from noise, by whether training came off its rails, and by how far chains from data go: an energy that holds its data keeps them near.

Reference: Du and Mordatch 2019, section 4, arXiv 1903.08689; Nijkamp et al. 2019, arXiv 1903.12370; Ramachandran et al. 2017, arXiv 1710.05941.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pushforward.labs import Finding
from pushforward.labs.contest import Rows, above, at_least, below, contest, draw, figures, more_often
from pushforward.labs.energies import energy_figures
from pushforward.labs.energy_regulariser import terms_of

RECIPE = "energy/pcd"


def run(
    out: Path, *, data: str = "mnist-5k", seeds: int = 4, cpu_seconds: float = 240.0, n: int = 1000, chains: int = 100, regulariser: float = 0.1, quiet: bool = False
) -> list[Finding]:  # fmt: skip
    """Train with both activations.

    Args:
        out: Folder of contest.json, contest.png and samples of each; what was trained is kept in cells/.
        data: Of digits.
        seeds: How many.
        cpu_seconds: Of training, each.
        n: Samples judged of each.
        chains: From data, whose drift is measured.
        regulariser: Weight of the penalty on the squares of energies; the recipe's own is 0.1.
        quiet: Show no progress.
    """
    at_least(0, regulariser=regulariser)
    entries = {a: (RECIPE, f'model.network.activation="{a}"', terms_of(regulariser)) for a in ("swish", "relu")}
    look = energy_figures(data, RECIPE, chains=chains)
    rows = contest(
        out,
        entries,
        data=data,
        seeds=seeds,
        cpu_seconds=cpu_seconds,
        n=n,
        look=look,
        protocol=f"{chains} chains",
        quiet=quiet,
    )
    draw(rows, {"frechet": "Frechet distance", "recall": "recall", "drift": "drift of chains from data (L2)"}, out / "contest.png")  # fmt: skip
    return findings(rows)


def findings(rows: Rows) -> list[Finding]:
    """Divergence, samples and drift."""
    lower, higher = partial(below, tried=3), partial(above, tried=3)
    return [
        more_often("Training diverges on more seeds with ReLU than with Swish.", rows, "relu", "swish", tried=3),
        lower("Swish has a lower Frechet distance than ReLU.", figures(rows, "swish", "frechet"), figures(rows, "relu", "frechet")),
        higher("Chains from data go further with ReLU.", figures(rows, "relu", "drift"), figures(rows, "swish", "drift")),
    ]  # fmt: skip
