"""How many Langevin moves turn noise into a digit, and what many more of them do.

"256 steps are enough" is what tutorials say of their own chains. Here the classifier says when it is sure (at 90 %) and stays so, for each digit that a chain ends as; samples are judged after more and more moves; and chains from
data show how far an energy lets them go that is said to have its minima there.

Reference: Nijkamp et al. 2019, arXiv 1904.09770 (short-run chains); Du and Mordatch 2019, arXiv 1903.08689.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from pushforward.data.images import save_grid, to_model
from pushforward.errors import ConfigError, NotSupported
from pushforward.evaluation import reference
from pushforward.families.energy.model import EnergyModel
from pushforward.labs import Finding
from pushforward.labs.contest import at_least, images_of, one_trained, some, usual, wilson
from pushforward.labs.drawing import panels
from pushforward.labs.energies import along, drift, recognised
from pushforward.report.figures import COLOURS
from pushforward.training.checkpoint import write_atomic
from pushforward.training.precision import computing_in

USUAL = 256  # moves that are said to be enough
Found = dict[str, dict[str, float]]


def run(
    out: Path, *, run: str = "", data: str = "mnist-5k", cpu_seconds: float = 900.0, n: int = 1000, chains: int = 500, longest: int = 2048, seed: int = 0, quiet: bool = False
) -> list[Finding]:  # fmt: skip
    """Watch the chains of one energy model.

    Args:
        out: Folder of langevin.json, langevin.png and samples at each length.
        run: An energy run's folder; `energy/pcd` is trained when empty.
        data: What it is trained on and judged by.
        cpu_seconds: Of its training.
        n: Samples judged at each length.
        chains: Chains from noise whose digit is looked at.
        longest: Moves of the longest chains; lengths are 16, 64, 256, ... up to it.
        seed: Of training and chains.
        quiet: Show no progress.
    """
    if longest < USUAL:
        raise ConfigError(f"longest={longest}: at least {USUAL}, which the claim is about.")
    at_least(2, n=n, chains=chains)
    found = one_trained(run, "energy/pcd", data=data, cpu_seconds=cpu_seconds, seed=seed, out=out)
    model = found.model
    if not isinstance(model, EnergyModel):
        raise NotSupported(f"{run} holds no energy model; this lab is about those.")
    side, lengths = reference(data, n=n), [k for k in (16, 64, 256, 1024, 2048, 4096) if k <= longest]
    judged: Found = {}
    with computing_in(found.config.train.precision):
        after = along(model, n, lengths, seed=seed)
    for length, x in after.items():
        save_grid(x[:40], out / f"after-{length}.png", columns=10)
        judged[str(length)] = usual(x, side)
        if not quiet:
            print(f"{length} moves: Frechet {judged[str(length)]['frechet']:.1f}", flush=True)
    with computing_in(found.config.train.precision):
        looked = min(1024, longest)
        last, when = recognised(model, chains, looked, seed=seed)
    digits: Found = {}
    for d in range(10):
        mine = when[last == d]
        moves = torch.where(mine >= 0, mine, looked).double()  # those that were never recognised are at the end
        digits[str(d)] = {"chains": len(mine), "in time": float(((mine >= 0) & (mine <= USUAL)).double().mean()) if len(mine) else 0.0}  # fmt: skip
        digits[str(d)] |= {f"{q}": float(moves.quantile(q)) for q in (0.25, 0.5, 0.75)} if len(mine) else {}
    start = to_model(some(images_of(found.config, "test"), 100))
    with computing_in(found.config.train.precision):
        gone = drift(model, start, lengths, seed=seed)
    write_atomic(out / "langevin.json", json.dumps({"lengths": judged, "digits": digits, "drift": gone}, indent=1))
    _draw(judged, digits, gone, out / "langevin.png")
    return findings(judged, digits, gone)


def _draw(judged: Found, digits: Found, gone: dict[int, float], path: Path) -> None:
    with panels(path, 3) as (left, middle, right):
        left.plot(list(map(int, judged)), [v["frechet"] for v in judged.values()], "o-", color=COLOURS[0])
        left.set(title="Frechet distance of samples", xlabel="moves from noise", xscale="log", yscale="log")
        for d, row in digits.items():
            if "0.5" in row:
                middle.plot([int(d)] * 2, [row["0.25"], row["0.75"]], color=COLOURS[1], lw=2)
                middle.plot(int(d), row["0.5"], "o", color=COLOURS[1])
        middle.axhline(USUAL, color="#999999", ls="--", lw=1)
        middle.set(
            title="moves until the digit is recognised",
            xlabel="digit (quartiles; at the top: not at all)",
            xticks=range(10),
        )
        right.plot(list(gone), list(gone.values()), "o-", color=COLOURS[2])
        right.set(title="distance of chains from their test image", xlabel="moves", xscale="log", ylabel="L2")


def findings(judged: Found, digits: Found, gone: dict[int, float]) -> list[Finding]:
    """Whether 256 moves are enough, for every digit, and what more of them do to samples and to data."""
    total = sum(row["chains"] for row in digits.values())
    share = sum(row["chains"] * row["in time"] for row in digits.values()) / total
    low, high = wilson(share, total)
    never = [d for d, row in digits.items() if not row["chains"]]
    slow = [d for d, row in digits.items() if row["chains"] and row["in time"] < 0.5]
    most = max(map(int, judged))
    last = judged[str(most)]["frechet"]
    best = min((k for k in map(int, judged) if USUAL <= k < most), key=lambda k: judged[str(k)]["frechet"], default=0)
    out = [
        Finding(f"{USUAL} moves are enough: nine chains of ten are recognised by then as the digit that they stay.", "supported" if low > 0.9 else "not supported" if high < 0.9 else "unclear", f"{share:.3f} of {total:g} chains, 95 % interval {low:.3f} to {high:.3f}."),
        Finding(f"Every digit is made, and recognised within {USUAL} moves by half of the chains that end as it.", "not supported" if never or slow else "supported", (f"No chain ends as {', '.join(never)}; " if never else "Chains end as all ten; ") + (f"too slow: {', '.join(slow)}." if slow else "none is slower.")),
    ]  # fmt: skip
    if most > USUAL:
        least = judged[str(best)]["frechet"]
        out.append(Finding(f"Longer chains spoil the samples: {most} moves have a Frechet distance more than a tenth above that of the best length from {USUAL} on.", "supported" if last > 1.1 * least else "not supported" if last < least else "unclear", f"{least:.1f} after {best}, {last:.1f} after {most}; one run."))  # fmt: skip
    out.append(Finding("The energy holds its data: chains from test images stay within 4 of them on average (L2).", "supported" if gone[most] < 4 else "not supported", f"{gone[most]:.2f} after {most} moves."))  # fmt: skip
    return out
