"""What labs of competing recipes share: each trained for the same CPU time with the same seeds and judged alike, and tests of what differs.

A time is what a user has; CPU seconds are those of all threads together, so that a busy machine changes the wait much and the outcome little: the same recipe, seeds and time on two
days gave a few per cent more or fewer steps, and Frechet distances as far apart as those of other seeds. Every trained and judged
run is kept as a cell, so that a lab that was interrupted goes on.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from pushforward import build, runs
from pushforward.config import RunConfig, dump, load_recipe
from pushforward.data.images import ImageSet, save_grid, to_bytes, to_model
from pushforward.errors import ConfigError, DataError, Diverged
from pushforward.evaluation import Sides, measure, reference
from pushforward.evaluation.reference import Reference
from pushforward.labs import Finding, Verdict
from pushforward.labs.drawing import panels
from pushforward.model import GenerativeModel
from pushforward.report.figures import COLOURS
from pushforward.runs import Run
from pushforward.training.checkpoint import write_atomic
from pushforward.training.schedules import fallen, risen
from pushforward.training.trainer import Trainer

Rows = dict[str, list[dict[str, float]]]
"""What is compared -> figures of each seed."""
Look = Callable[[GenerativeModel, Tensor, Reference], dict[str, float]]
"""Model, its samples as bytes and the real side -> figures."""


def config_of(recipe: str, settings: Sequence[str], *, data: str, seed: int) -> RunConfig:
    """A resolved run, its precision decided."""
    return runs.with_precision(build.resolve(load_recipe(recipe, [*settings, f"train.seed={seed}"], data=data)))


def train_for(config: RunConfig, data: ImageSet, cpu_seconds: float, trainer: Trainer | None = None) -> Trainer:
    """A trainer that has used up its CPU seconds. Learning rates that fall over a run fall over this time, and have reached 0 at its end.

    Args:
        config: The run.
        data: What it is trained on.
        cpu_seconds: How long.
        trainer: One of this run to go on with.

    Raises:
        ConfigError: no time at all, a recipe without averaged weights, by which runs are judged, or one to go on with whose rate has fallen to 0.
        Diverged: as the trainer finds it.
    """
    t = config.train
    if not cpu_seconds > 0:
        raise ConfigError(f"cpu_seconds={cpu_seconds}: must be above 0.")
    if t.ema is None:
        raise ConfigError("labs judge averaged weights; train.ema must be set.")
    if trainer is not None and t.schedule != "constant":
        raise ConfigError(
            f"train.schedule={t.schedule}: its rate has fallen to 0 already; train anew for the whole time."
        )
    trainer = trainer or runs.make_trainer(config, data)
    began = time.process_time()

    def spent() -> float:
        return (time.process_time() - began) / cpu_seconds

    trainer.rate = lambda step: risen(step, t.warmup) * fallen(spent(), t.schedule)
    least = trainer.step + 2
    for report in trainer.steps(10**9):
        if report.step >= least and spent() >= 1:
            break
    trainer.rate = None
    for name, optimiser in trainer.optimisers.items():  # who goes on with an optimiser finds its own rates
        for group, lr in zip(optimiser.param_groups, trainer.base_rates[name], strict=True):
            group["lr"] = lr
    return trainer


@contextmanager
def averaged(trainer: Trainer) -> Iterator[GenerativeModel]:
    """The trainer's model with its averaged weights, in evaluation mode."""
    assert trainer.ema is not None
    with trainer.ema.swapped_in():
        trainer.model.settle()
        yield trainer.model.eval()


def trained(
    given: str, recipes: Sequence[str], *, data: str, cpu_seconds: float, seed: int, out: Path, change: Callable[[ImageSet], ImageSet] | None = None
) -> dict[str, Run]:  # fmt: skip
    """Runs of comma-separated folders, or of recipes that are trained for a while into OUT/runs and found there by a later call.

    Args:
        given: The folders.
        recipes: What is trained when there are none.
        data: On what.
        cpu_seconds: How long, each.
        seed: Of training.
        out: The lab's folder.
        change: Of the training images; such runs lie in OUT/changed.
    """
    if given:
        folders = [Path(p.strip()) for p in given.split(",") if p.strip()]
        if not folders or len(set(folders)) < len(folders):
            raise ConfigError(f"run={given}: name at least one folder, and each once.")
        return {str(p): runs.load_run(p) for p in folders}
    found = {}
    for recipe in recipes:
        config = config_of(recipe, (), data=data, seed=seed)
        key = _key(config, cpu_seconds)
        folder = out / ("runs" if change is None else "changed") / recipe.replace("/", "-")
        stamp = folder / "trained.json"
        if not stamp.exists() or json.loads(stamp.read_text()) != key:
            shutil.rmtree(folder, ignore_errors=True)  # weights of other settings
            found_images = images_of(config)
            trainer = train_for(config, found_images if change is None else change(found_images), cpu_seconds)
            trainer.save(folder / "checkpoints", keep=1)
            write_atomic(folder / "config.toml", dump(config))
            write_atomic(stamp, json.dumps(key))
        found[recipe] = runs.load_run(folder)
    return found


def one_trained(given: str, recipe: str, *, data: str, cpu_seconds: float, seed: int, out: Path) -> Run:
    """The one run of `trained`.

    Raises:
        ConfigError: several were given.
    """
    found = list(trained(given, [recipe], data=data, cpu_seconds=cpu_seconds, seed=seed, out=out).values())
    if len(found) != 1:
        raise ConfigError(f"run={given}: this lab looks at one run.")
    return found[0]


def wilson(share: float, n: float) -> tuple[float, float]:
    """95 % interval of a share of n (Wilson 1927): honest at 0 and 1 too.

    Example:
        >>> [round(v, 3) for v in wilson(1.0, 1)]
        [0.207, 1.0]
    """
    z2 = 1.96**2
    middle, reach = share + z2 / (2 * n), 1.96 * (share * (1 - share) / n + z2 / (4 * n * n)) ** 0.5
    return (middle - reach) / (1 + z2 / n), (middle + reach) / (1 + z2 / n)


def at_least(least: float, **settings: float) -> None:
    """Refuse settings that are below.

    Raises:
        ConfigError: one is.
    """
    for key, value in settings.items():
        if not value >= least:
            raise ConfigError(f"{key}={value}: at least {least:g}.")


def some(data: ImageSet, n: int) -> Tensor:
    """n images spread evenly over a set (which may be sorted by class), shuffled, always the same."""
    return data.images[runs.spread(len(data), n)]


def images_of(config: RunConfig, split: str = "train") -> ImageSet:
    """A run's images.

    Raises:
        DataError: they are no grey images of 28 x 28, which these labs look at.
    """
    data = runs.load_data(config, split)
    if not isinstance(data, ImageSet) or data.shape != (1, 28, 28):
        raise DataError(f"{config.data.name}: this lab looks at grey images of 28 x 28; there are mnist-5k and mnist.")
    return data


def contest(
    out: Path,
    entries: Mapping[str, Sequence[str]],
    *,
    data: str,
    seeds: int,
    cpu_seconds: float,
    n: int,
    look: Look | None = None,
    change: Callable[[str, ImageSet], ImageSet] | None = None,
    undo: Callable[[str, Tensor], Tensor] | None = None,
    protocol: str = "",
    quiet: bool = False,
) -> Rows:
    """Train and judge every entry with every seed.

    Args:
        out: Folder; outcomes are kept in cells/, the samples of seed 0 as a grid each.
        entries: Name -> recipe and settings.
        data: What all train on and are judged by.
        seeds: 0, 1, ...
        cpu_seconds: Of training, each.
        n: Samples judged of each.
        look: More figures than the usual ones.
        change: Entry and training images -> those that it is trained on.
        undo: Entry and samples in the model's range -> samples in [-1, 1].
        protocol: Of `look`, `change` and `undo`, in words: cells that were made by another one do not count.
        quiet: Show no progress.

    Raises:
        ConfigError: fewer than two seeds, which no test can tell apart.
    """
    at_least(2, n=n)
    if seeds < 2:
        raise ConfigError(f"seeds={seeds}: at least 2, or no difference can be told from chance.")
    side = reference(data, n=n)
    rows: Rows = {name: [] for name in entries}
    for seed in range(seeds):
        for name, (recipe, *settings) in entries.items():
            config = config_of(recipe, settings, data=data, seed=seed)
            key = _key(config, cpu_seconds) | {
                "n": n,
                "extractor": side.by.sha256,
                "protocol": protocol,
                "sampled": config.train.precision,
            }
            file = out / "cells" / f"{_plain(name)}-{seed}.json"
            kept = json.loads(file.read_text()) if file.exists() else {}
            if kept.get("about") != key:
                found = images_of(config)
                row = _one(
                    config,
                    found if change is None else change(name, found),
                    cpu_seconds,
                    n,
                    side,
                    look,
                    undo,
                    name,
                    out,
                )
                file.parent.mkdir(parents=True, exist_ok=True)
                kept = {"about": key, "row": row}
                write_atomic(file, json.dumps(kept))
            rows[name].append(kept["row"])
            if not quiet:
                print(f"{name} seed {seed}: " + ", ".join(f"{k} {v:.3g}" for k, v in kept["row"].items()), flush=True)
    write_atomic(
        out / "contest.json", json.dumps({"data": data, "cpu_seconds": cpu_seconds, "n": n, "rows": rows}, indent=1)
    )
    return rows


def _one(config: RunConfig, data: ImageSet, cpu_seconds: float, n: int, side: Reference, look: Look | None, undo: Callable[[str, Tensor], Tensor] | None, name: str, out: Path) -> dict[str, float]:  # fmt: skip
    try:
        trainer = train_for(config, data, cpu_seconds)
        with averaged(trainer) as model:
            x = runs.sample(model, n, seed=config.train.seed, precision=config.train.precision)
            x = to_bytes(x if undo is None else undo(name, x))
            if config.train.seed == 0:
                save_grid(x[:40], out / f"{_plain(name)}.png", columns=10)
            return {
                "diverged": 0.0,
                "steps": float(trainer.step),
                **usual(x, side),
                **(look(model, x, side) if look else {}),
            }
    except Diverged:
        return {"diverged": 1.0}


def usual(x: Tensor, side: Reference) -> dict[str, float]:
    """Frechet distance, precision, recall, entropy of the classes, share of ones and sharpness of samples."""
    values = measure(Sides(side.real, side.by(x), side.floor["floor"]), ["frechet", "precision-recall", "classes"])
    kept = {k: values[k].value for k in ("frechet", "precision", "recall", "class entropy")}
    return kept | {"ones": values["class 1"].value, "sharpness": sharpness(x)}


def sharpness(x: Tensor) -> float:
    """Mean squared second difference over mean square: blurred images have less, noisy ones more; images (n, c, h, w) as bytes.

    Example:
        >>> sharpness(torch.full((1, 1, 4, 4), 9, dtype=torch.uint8))
        0.0
    """
    light = (to_model(x) + 1) / 2
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])[None, None]
    bent = F.conv2d(light.flatten(0, 1)[:, None], kernel)
    return float(bent.double().square().mean() / light.double().square().mean().clamp_min(1e-12))


def figures(rows: Rows, name: str, figure: str) -> list[float]:
    """One figure of one entry, a seed each; NaN where training diverged."""
    return [math.nan if r["diverged"] else r[figure] for r in rows[name]]


def through(values: Sequence[float]) -> list[float]:
    """Of the seeds that came to their end."""
    return [v for v in values if not math.isnan(v)]


def lowest(frechet: Mapping[str, Sequence[float]], names: Iterable[str]) -> str:
    """The entry of lowest mean; one that lost a seed only where all did."""
    return min(names, key=lambda k: float(np.nan_to_num(np.mean(frechet[k]), nan=np.inf)))


def above(
    claim: str, a: Sequence[float], b: Sequence[float], *, form: str = ".3g", paired: bool = False, tried: int = 1, sign: int = 1
) -> Finding:  # fmt: skip
    """Whether a is larger than b on average: a t-test, one-sided each way at 5 %; unclear where a seed diverged, as those that came through are no fair sample.

    Args:
        claim: What is claimed.
        a: A figure of each seed.
        b: The same of what it is compared with.
        form: Of the means.
        paired: Entry i of both came from one trained model: Student's paired test; else Welch's.
        tried: Of how many a is the best, or how many such claims are made together (Bonferroni).
        sign: -1 asks whether a is smaller.
    """
    if not a or not b:
        return Finding(claim, "unclear", "No seed of one of them.")
    lost = [f"{len(v) - len(through(v))} of {len(v)}" for v in (a, b)]
    if len(through(a)) < len(a) or len(through(b)) < len(b):
        left = [f"{np.mean(through(v)):{form}}" if through(v) else "-" for v in (a, b)]
        return Finding(
            claim,
            "unclear",
            f"{lost[0]} and {lost[1]} seeds diverged; of those that came through, {left[0]} against {left[1]}.",
        )
    said, x, y = f"{np.mean(a):{form}} against {np.mean(b):{form}}", sign * np.asarray(a), sign * np.asarray(b)
    if len(a) < 2 or len(b) < 2:
        return Finding(claim, "unclear", f"{said}, too few seeds.")
    if (np.ptp(x - y) == 0) if paired else (np.ptp(x) == 0 and np.ptp(y) == 0):
        same: Verdict = "unclear" if x[0] == y[0] else "supported" if x[0] > y[0] else "not supported"
        return Finding(claim, same, f"{said} on every seed.")
    if paired:
        p = float(stats.ttest_rel(x, y, alternative="greater").pvalue)
    else:  # from means and deviations, which may be 0 on one side
        sides = (v for each in (x, y) for v in (each.mean(), each.std(ddof=1), len(each)))
        p = float(stats.ttest_ind_from_stats(*sides, equal_var=False, alternative="greater").pvalue)
    how = ("paired t-test" if paired else "Welch") + (f", Bonferroni for {tried}" if tried > 1 else "")
    seeds = f"{len(a)}" if len(a) == len(b) else f"{len(a)} and {len(b)}"
    return Finding(claim, verdict(p, tried=tried), f"{said} over {seeds} seeds, p = {min(1.0, tried * p):.2g} ({how}, one-sided).")  # fmt: skip


def below(claim: str, a: Sequence[float], b: Sequence[float], *, form: str = ".3g", paired: bool = False, tried: int = 1) -> Finding:  # fmt: skip
    """Whether a is smaller than b on average; see `above`."""
    return above(claim, a, b, form=form, paired=paired, tried=tried, sign=-1)


def matters(claim: str, groups: Sequence[Sequence[float]], *, form: str = ".3g", tried: int = 1) -> Finding:
    """Whether groups differ at all: one-way analysis of variance at 5 %; that they do not cannot be shown by it. `tried` as in `above`."""
    said = " / ".join(f"{np.mean(through(g)):{form}}" if through(g) else "-" for g in groups)
    if any(len(through(g)) < len(g) for g in groups):
        return Finding(claim, "unclear", f"{said}, of the seeds that did not diverge.")
    if min(len(g) for g in groups) < 2:
        return Finding(claim, "unclear", f"{said}, too few seeds.")
    p = min(1.0, tried * float(stats.f_oneway(*groups).pvalue))
    how = "analysis of variance" + (f", Bonferroni for {tried}" if tried > 1 else "")
    return Finding(claim, "supported" if p < 0.05 else "unclear", f"{said}, p = {p:.2g} ({how}).")


def more_often(claim: str, rows: Rows, a: str, b: str, *, tried: int = 1) -> Finding:
    """Whether more seeds of a than of b diverged: Fisher's exact test, one-sided at 5 %; three seeds against three just reach it alone, but not with others (`tried` as in `above`)."""
    lost = {name: sum(r["diverged"] for r in rows[name]) for name in (a, b)}
    table = [[lost[a], len(rows[a]) - lost[a]], [lost[b], len(rows[b]) - lost[b]]]
    p, less = (min(1.0, tried * float(stats.fisher_exact(table, alternative=side)[1])) for side in ("greater", "less"))
    how = "Fisher" + (f", Bonferroni for {tried}" if tried > 1 else "")
    said = f"{lost[a]:g} of {len(rows[a])} seeds with {a}, {lost[b]:g} of {len(rows[b])} with {b}, p = {p:.2g} ({how}, one-sided)."
    least = tried / math.comb(len(rows[a]) + len(rows[b]), len(rows[a]))
    if least > 0.05 + 1e-9:
        said += f" So few seeds cannot decide it: all of one and none of the other have p = {least:.2g}."
    return Finding(
        claim, "supported" if p <= 0.05 + 1e-9 else "not supported" if less <= 0.05 + 1e-9 else "unclear", said
    )


def verdict(p: float, *, tried: int = 1) -> Verdict:
    """Of a one-sided p-value; `tried` as in `above`."""
    return "supported" if tried * p < 0.05 else "not supported" if tried * (1 - p) < 0.05 else "unclear"


def draw(rows: Rows, shown: Mapping[str, str], path: Path) -> None:
    """A panel a figure: a dot each seed, a bar at the mean, in the entries' order; seeds that diverged are counted beside the name."""
    lost = {name: sum(bool(r["diverged"]) for r in found) for name, found in rows.items()}
    labels = [f"{name}\n{lost[name]} of {len(rows[name])} diverged" if lost[name] else name for name in rows]
    with panels(path, len(shown), width=3.4, height=1.0 + 0.32 * len(rows)) as axes:
        for ax, (figure, title) in zip(axes, shown.items(), strict=False):
            for i, name in enumerate(rows):
                values = through(figures(rows, name, figure))
                if values:
                    ax.plot(values, [i] * len(values), "o", color=COLOURS[i % len(COLOURS)], ms=5, alpha=0.7)
                    ax.plot([np.mean(values)] * 2, [i - 0.3, i + 0.3], color=COLOURS[i % len(COLOURS)], lw=2)
            ax.set(title=title, yticks=range(len(rows)), ylim=(len(rows) - 0.5, -0.5))
            ax.locator_params(axis="x", nbins=4)
            ax.set_yticklabels(labels if ax is axes[0] else [], fontsize=8)


def _key(config: RunConfig, cpu_seconds: float) -> dict[str, object]:
    whole = json.dumps(config.model_dump(mode="json", exclude={"about", "expect"}), sort_keys=True)
    over = {} if config.train.schedule == "constant" else {"rate": "falls over the time"}  # not over counted steps
    return {"config": hashlib.sha256(whole.encode()).hexdigest()[:16], "cpu_seconds": cpu_seconds, **over}


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name).strip("-")
