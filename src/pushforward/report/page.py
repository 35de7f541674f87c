"""Run folders to one self-contained HTML page. It reads files only: no figure here needs a model."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pushforward import __version__
from pushforward.config import read
from pushforward.errors import DataError
from pushforward.monitors import Alarm, alarms
from pushforward.report import figures
from pushforward.report.tables import SHOWN, cell, duration
from pushforward.training.checkpoint import write_atomic
from pushforward.training.logs import read_log

STRIP = 6  # pictures in the strip that shows how samples evolved


@dataclass(frozen=True)
class Shown:
    """What the page says of one run."""

    name: str
    about: str
    samples: str
    strip: list[tuple[int, str]]
    result: dict[str, Any] | None
    log: list[dict[str, Any]]
    environment: dict[str, Any]
    config: dict[str, Any]
    toml: str
    seconds: float
    images_per_second: float
    alarms: list[Alarm]


def _picture(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); is {path.parent} a run?") from error
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}).") from error


def gather(folder: Path) -> Shown:
    """Everything the page needs of a run.

    Raises:
        DataError: it is no run, or has no samples yet.
    """
    if not (folder / "config.toml").is_file():
        raise DataError(f"{folder} is not a run (it has no config.toml).")
    grids = sorted(g for g in (folder / "samples").glob("*.png") if g.stem.isdigit())
    log = read_log(folder / "log.jsonl")
    if not grids or not log:
        raise DataError(f"{folder} has no samples yet; train it further with --resume.")
    chosen = [grids[round(i * (len(grids) - 1) / (STRIP - 1))] for i in range(STRIP)] if len(grids) > STRIP else grids
    config = read(folder / "config.toml")
    last = log[-1]
    result = _read_json(folder / "result.json") if (folder / "result.json").exists() else None
    if result is not None and not {"protocol", "floor", "values", "name", "training_seconds"} <= result.keys():
        raise DataError(f"{folder / 'result.json'} is not what `pushforward evaluate` writes; evaluate the run again.")
    return Shown(
        name=folder.resolve().name,
        about=config.get("about", ""),
        samples=_picture(grids[-1]),
        strip=[(int(g.stem), _picture(g)) for g in chosen],
        result=result,
        log=log,
        environment=_read_json(folder / "environment.json"),
        config=config,
        toml=(folder / "config.toml").read_text(encoding="utf8"),
        seconds=last["elapsed"],
        images_per_second=last["images"] / max(last["elapsed"], 1e-9),
        alarms=alarms(log),
    )


def write_report(folders: list[Path], out: Path) -> None:
    """One page of any number of runs, written whole or not at all."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    shown = [gather(f) for f in folders]
    if len({s.name for s in shown}) < len(shown):
        raise DataError("two of these runs have the same folder name; the page tells runs apart by it. Rename one.")
    judged = [s.result for s in shown if s.result is not None]
    protocols = {json.dumps({k: v for k, v in r["protocol"].items() if k != "metrics"}, sort_keys=True) for r in judged}
    if len(protocols) > 1:
        raise DataError(
            "these runs were judged by different protocols (data, n or extractor); evaluate them again in one command."
        )
    real = folders[0] / "samples" / "real.png"
    environment = Environment(loader=PackageLoader("pushforward.report"), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("page.html").render(
        runs=shown,
        judged=judged,
        protocol=judged[0]["protocol"] if judged else None,
        floor=judged[0]["floor"] if judged else {},
        columns=[(k, h) for k, h in SHOWN.items() if any(k in r["values"] for r in judged)],
        real=_picture(real) if real.exists() else None,
        curves=figures.curves({s.name: s.log for s in shown}, {s.name: [a.step for a in s.alarms] for s in shown}),
        quality=figures.quality(judged, judged[0]["floor"]) if judged else None,
        classes=figures.classes(judged) if judged and "class 0" in judged[0]["values"] else None,
        cell=cell,
        duration=duration,
        version=__version__,
    )
    write_atomic(out, page)
