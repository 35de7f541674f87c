"""The zero-one game on finitely many images, solved by listing every move.

The data are m images in equal shares, the discriminator says "real" to a set of them, the generator is a law. For small m every law of a given grain and every set can be listed, and with them every
saddle point. What the discriminator gains beyond 1/2 is half of the total variation: a generator that misses one image and spreads its share pays 1 / (2 m), whatever image it is; one that repeats a single image pays (m - 1) / (2 m).

Reference: Goodfellow et al. 2014, theorem 1 (the same game with logarithms); von Neumann 1928.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

from pushforward.labs import Finding
from pushforward.labs.drawing import panels
from pushforward.report.figures import COLOURS
from pushforward.theory.games import best_value, empirical, saddle_points
from pushforward.training.checkpoint import write_atomic


def run(out: Path, *, most: int = 4, spare: int = 1, quiet: bool = False) -> list[Finding]:
    """List all saddle points for m = 2 .. most, and what missing and repeated images cost.

    Args:
        out: Folder of game.png and game.json.
        most: Images.
        spare: Images that are no data, which the generator may make too.
        quiet: Show no progress.
    """
    rows = []
    for m in range(2, most + 1):
        n = m + spare
        p = empirical(range(m), n)
        points = saddle_points(p, m)
        missing = tuple(Fraction(0) if i == 0 else Fraction(1, m - 1) if i < m else Fraction(0) for i in range(n))
        single = tuple(Fraction(int(i == 0)) for i in range(n))
        copies = empirical([0, *range(m)], n)  # data with one image twice
        rows.append({
            "m": m,
            "saddle_points": len(points),
            "all_at_the_data": all(q == p for q, _ in points),
            "sets": sorted(sorted(s) for _, s in points),
            "missing": float(best_value(p, missing) - Fraction(1, 2)),
            "single": float(best_value(p, single) - Fraction(1, 2)),
            "even_on_duplicates": float(best_value(copies, p) - Fraction(1, 2)),
        })  # fmt: skip
        if not quiet:
            print(f"m = {m}: {len(points)} saddle points; a missing image costs {rows[-1]['missing']:.4f}", flush=True)
    with panels(out / "game.png", 1, width=5) as (ax,):
        ms = [r["m"] for r in rows]
        for key, colour, label in (
            ("missing", COLOURS[0], "one image missing"),
            ("single", COLOURS[1], "one image only"),
            ("even_on_duplicates", COLOURS[2], "data hold one image twice, samples do not"),
        ):
            ax.plot(ms, [r[key] for r in rows], "o-", color=colour, label=label)
        ax.set(xlabel="images m", ylabel="discriminator's gain over 1/2", xticks=ms, ylim=(0, 0.5))
        ax.legend(fontsize=8)
    write_atomic(out / "game.json", json.dumps(rows, indent=1))
    return findings(rows)


def findings(rows: list[dict[str, object]]) -> list[Finding]:
    """The three claims."""
    only = all(r["all_at_the_data"] and r["saddle_points"] for r in rows)
    missing = all(abs(float(r["missing"]) - 1 / (2 * int(r["m"]))) < 1e-12 for r in rows)  # type: ignore[arg-type, call-overload]
    single = all(abs(float(r["single"]) - (int(r["m"]) - 1) / (2 * int(r["m"]))) < 1e-12 for r in rows)  # type: ignore[arg-type, call-overload]
    copies = all(float(r["even_on_duplicates"]) > 0 for r in rows)  # type: ignore[arg-type]
    last = rows[-1]
    return [
        Finding("In every saddle point the generator's law is the data's, and the discriminator is right half of the time.", "supported" if only else "not supported", f"All {', '.join(str(r['saddle_points']) for r in rows)} of them for m = {', '.join(str(r['m']) for r in rows)}; they differ in the discriminator's set alone."),
        Finding("A missing image costs 1 / (2 m): the more images, the less one is missed.", "supported" if missing and single else "not supported", f"{last['missing']:.4f} at m = {last['m']}; a single image made over and over {last['single']:.4f}."),
        Finding("Duplicates in the data count: a generator of each image alike pays for them.", "supported" if copies else "not supported", f"{last['even_on_duplicates']:.4f} at m = {last['m']} with one image twice."),
    ]  # fmt: skip
