"""One generator is many: truncation, wider latents and rejection move it about the plane of precision and recall.

Truncated latents stay near the prior's centre: safer samples, fewer kinds; latents of a standard deviation above 1 do the opposite, and mend a generator that pulls samples together. The discriminator can choose the best of several, or keep only what it believes in. A single number at one setting says little of a model that has such a knob;
two models should be compared along their curves.

Reference: Brock et al. 2018, section 3.1, arXiv 1809.11096; Kynkäänniemi et al. 2019, section 4, arXiv 1904.06991; Azadi et al. 2018, arXiv 1810.06758.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import NormalDist

from torch import Tensor

from pushforward import runs
from pushforward.data.images import save_grid, to_bytes
from pushforward.errors import NotSupported
from pushforward.evaluation import Sides, Values, measure, reference
from pushforward.families.gan.model import GAN
from pushforward.families.gan.sampling import drs, log_ratio, top, truncated
from pushforward.labs import Finding, Verdict
from pushforward.labs.contest import at_least, one_trained
from pushforward.labs.drawing import panels
from pushforward.priors import Normal
from pushforward.report.figures import COLOURS
from pushforward.samplers.rejection import Drawn
from pushforward.training.checkpoint import write_atomic

LIMITS, WIDTHS, CANDIDATES, PERCENTILES = (2.0, 1.5, 1.0, 0.7, 0.5, 0.3), (1.05, 1.1, 1.2, 1.4), (2, 4, 8, 16), (50.0, 80.0, 95.0)  # fmt: skip
WIDER = "wider latents"
Points = dict[str, dict[str, Values]]


def run(
    out: Path, *, run: str = "", data: str = "mnist-5k", cpu_seconds: float = 300.0, n: int = 1000, seed: int = 0, quiet: bool = False
) -> list[Finding]:  # fmt: skip
    """Sample one GAN along its knobs.

    Args:
        out: Folder of plane.json, plane.png and samples at both ends of each knob.
        run: Folder of a GAN with normal latents; `gan/dcgan` is trained when empty. One that is told the class has no density ratio, and the first two knobs alone.
        data: What it is trained on and judged by.
        cpu_seconds: Of its training.
        n: Samples judged at each point.
        seed: Of training and samples.
        quiet: Show no progress.
    """
    at_least(2, n=n)
    found = one_trained(run, "gan/dcgan", data=data, cpu_seconds=cpu_seconds, seed=seed, out=out)
    model = found.model
    if not isinstance(model, GAN):
        raise NotSupported(f"{run} holds no GAN; truncation and rejection are theirs.")
    if not isinstance(model.prior, Normal):
        raise NotSupported(f"{run}: truncation and wider latents are for a normal prior.")

    def of_width(width: float) -> Drawn:
        model.temperature = width
        drawn = Drawn(runs.sample(model, n, seed=seed), n, 1.0)
        model.temperature = 1.0  # of the other knobs
        return drawn

    side, plain = reference(data, n=n), of_width(1.0)
    ratio = None if model.classes is not None else log_ratio(model)
    knobs: dict[str, dict[str, Callable[[], Drawn]]] = {
        "truncation": {f"{limit:g}": partial(truncated, model, n, _none, limit=limit, seed=seed) for limit in LIMITS},
        WIDER: {f"{width:g}": partial(of_width, width) for width in WIDTHS},
    }
    if ratio is not None:
        knobs |= {
            "best of": {f"{k}": partial(top, model, n, ratio, candidates=k, seed=seed) for k in CANDIDATES},
            "rejection": {f"{p:g}": partial(drs, model, n, ratio, percentile=p, seed=seed) for p in PERCENTILES},
        }
    points: Points = {}
    for knob, settings in knobs.items():
        points[knob] = {}
        for name, way in {"plain": lambda: plain, **settings}.items():
            x = to_bytes(way().x)
            if name == list(settings)[-1]:
                save_grid(x[:40], out / f"{knob.replace(' ', '-')}-{name}.png", columns=10)
            points[knob][name] = measure(
                Sides(side.real, side.by(x), side.floor["floor"]), ["frechet", "precision-recall"]
            )
            if not quiet:
                v = points[knob][name]
                print(f"{knob} {name}: P {v['precision'].value:.3f}, R {v['recall'].value:.3f}, Frechet {v['frechet'].value:.1f}", flush=True)  # fmt: skip
    table = {
        k: {s: {m: [v.value, v.stderr] for m, v in values.items()} for s, values in by.items()}
        for k, by in points.items()
    }
    write_atomic(out / "plane.json", json.dumps({"n": n, "points": table}, indent=1))
    with panels(out / "plane.png", 2, width=4.6, height=3.8) as (left, right):
        for colour, (knob, by) in zip(COLOURS, points.items(), strict=False):
            left.plot([v["recall"].value for v in by.values()], [v["precision"].value for v in by.values()], "o-", color=colour, label=knob)  # fmt: skip
            for name, v in by.items():
                left.annotate(name, (v["recall"].value, v["precision"].value), fontsize=6, xytext=(3, 3), textcoords="offset points")  # fmt: skip
            right.plot(range(len(by)), [v["frechet"].value for v in by.values()], "o-", color=colour, label=knob)
        left.set(xlabel="recall", ylabel="precision", title="one generator, its knobs")
        right.set(xlabel="how far the knob is turned", title="Frechet distance", yscale="log")
        left.legend(fontsize=8)
    return findings(points)


def _none(x: Tensor) -> Tensor:
    """The ratio of who asks for none."""
    return x


def findings(points: Points) -> list[Finding]:
    """What each knob, turned all the way, does to both axes, and whether a knob improves the Frechet distance anywhere."""
    out = []
    for knob, by in points.items():
        first, last = by["plain"], list(by.values())[-1]
        up, down = ("recall", "precision") if knob == WIDER else ("precision", "recall")
        verb = ("raise", "lower") if knob == WIDER else ("raises", "lowers")
        out.append(_moved(f"{knob.capitalize()} {verb[0]} {up}.", last, first, up, 1))
        out.append(_moved(f"{knob.capitalize()} {verb[1]} {down}.", last, first, down, -1))
    settings = {f"{k} {name}": v for k, by in points.items() for name, v in by.items() if name != "plain"}
    best = min(settings, key=lambda k: settings[k]["frechet"].value)
    plain = next(iter(points.values()))["plain"]
    out.append(_moved(f"Some setting has a lower Frechet distance than plain sampling ({best}, the best of {len(settings)}).", settings[best], plain, "frechet", -1, tried=len(settings)))  # fmt: skip
    return out


def _moved(claim: str, a: Values, b: Values, metric: str, sign: int, tried: int = 1) -> Finding:
    """By twice the standard error of the difference, or by as many as the choice among `tried` asks for (Bonferroni)."""
    change, error = sign * (a[metric].value - b[metric].value), math.hypot(a[metric].stderr, b[metric].stderr)
    bar = -NormalDist().inv_cdf(0.0228 / tried)
    said: Verdict = "supported" if change > bar * error else "not supported" if change < -2 * error else "unclear"
    return Finding(claim, said, f"{b[metric].value:.3g} to {a[metric].value:.3g} ± {error:.2g}.")
