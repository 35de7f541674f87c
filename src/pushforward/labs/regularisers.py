"""R1, LeCam's and balanced consistency regularisation, alone and in pairs: which help a small DCGAN, and do their gains add up?

Each is a term of the discriminator's loss, so that combining two is writing both down. A pair has to beat the better of its two.

Reference: Mescheder et al. 2018, arXiv 1801.04406 (R1); Tseng et al. 2021, arXiv 2104.03310 (LeCam); Zhao et al. 2020, arXiv 2002.04724 (bCR).
"""

from __future__ import annotations

from functools import partial
from itertools import combinations
from pathlib import Path

from pushforward.labs import Finding
from pushforward.labs.contest import Rows, below, contest, draw, figures, lowest

TERMS = {
    "r1": '{name = "r1", weight = 0.2, every = 8}',
    "lecam": '{name = "lecam", weight = 0.1}',
    "bcr": '{name = "consistency-real", weight = 10.0}, {name = "consistency-fake", weight = 10.0}',
}
SETS: list[tuple[str, ...]] = [(), *((t,) for t in TERMS), *combinations(TERMS, 2)]
ENTRIES = {" + ".join(s) or "none": ("gan/dcgan", f"model.terms=[{', '.join(TERMS[t] for t in s)}]") for s in SETS}


def run(
    out: Path, *, data: str = "mnist-5k", seeds: int = 3, cpu_seconds: float = 60.0, n: int = 1000, quiet: bool = False
) -> list[Finding]:
    """Train a DCGAN with each set of terms for the same time: a term that is dear has to be worth it.

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
    """Each alone against none, each pair against the better of the two."""
    lower = partial(below, tried=2 * len(TERMS))
    frechet = {name: figures(rows, name, "frechet") for name in rows}
    out = [lower(f"{t} lowers the Frechet distance.", frechet[t], frechet["none"]) for t in TERMS]
    for a, b in combinations(TERMS, 2):
        best = lowest(frechet, (a, b))
        out.append(lower(f"{a} + {b} has a lower Frechet distance than {best}, the better of the two.", frechet[f"{a} + {b}"], frechet[best]))  # fmt: skip
    return out
