"""A comparison's folder to one self-contained HTML page. It reads files only: no figure here needs a model."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from pushforward import __version__
from pushforward.monitors import alarms
from pushforward.report import figures
from pushforward.report.tables import SHOWN, duration, number
from pushforward.training.checkpoint import write_atomic
from pushforward.training.logs import read_log

FRAME_MS, LAST_MS, FRAME_SIDE = 250, 2000, 260
LARGEST = 9_000_000  # bytes of pictures on a page, shared by its models


def write_page(out: Path, table: dict[str, Any], heads: dict[str, dict[str, str]]) -> Path:
    """The page of a comparison, written whole or not at all.

    Args:
        out: The comparison's folder.
        table: As in table.json.
        heads: Headings of costs and capabilities, by key.

    Returns:
        Its path.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    share = LARGEST // max(1, len(table["rows"]))
    models = [_model(out, e, row, share) for e, row in zip(table["plan"]["entries"], table["rows"], strict=True)]
    judged = [m for m in models if m["quality"]]
    environment = Environment(loader=PackageLoader("pushforward.report"), autoescape=True, undefined=StrictUndefined)
    text = environment.get_template("comparison.html").render(
        plan=table["plan"],
        protocol=table["protocol"],
        floor=table["floor"],
        metrics=[(m, SHOWN[m]) for m in table["metrics"]],
        costs=list(heads["costs"].items()),
        capabilities=list(heads["capabilities"].items()),
        models=models,
        ranking=table["ranking"].get(table["metrics"][0], []) if table["metrics"] else [],
        first=SHOWN[table["metrics"][0]] if table["metrics"] else "",
        real=next((m["real"] for m in models if m["real"]), None),
        bands=figures.bands({m["name"]: m["logs"] for m in models if m["logs"]})
        if any(m["logs"] for m in models)
        else None,
        fronts=figures.fronts(judged, table["floor"]) if judged and "frechet" in table["metrics"] else None,
        plane=figures.plane(judged, table["floor"]) if judged and "recall" in table["metrics"] else None,
        classes=figures.classes([{"name": m["name"], "values": m["shares"]} for m in judged])
        if judged and judged[0]["shares"]
        else None,
        show=show,
        amount=amount,
        duration=duration,
        version=__version__,
    )
    path = out / "index.html"
    write_atomic(path, text)
    return path


def show(pair: tuple[float, float | None] | None) -> str:
    """A mean with its standard error.

    Example:
        >>> show((12.345, 0.25)), show((3.0, None)), show(None)
        ('12.35 ± 0.25', '3', '-')
    """
    if pair is None:
        return "-"
    mean, error = pair
    return number(mean, error) + (f" ± {number(error, error)}" if error is not None else "")


def amount(key: str, value: float | None) -> str:
    """A cost as people read it."""
    if value is None:
        return "-"
    if "FLOPs" in key:
        return f"{value:.1e}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _model(out: Path, entry: dict[str, Any], row: dict[str, Any], share: int) -> dict[str, Any]:
    """What the page says of one entry, its pictures in at most about `share` bytes."""
    name = entry["name"]
    place = out / "cells" / name
    seeds = row["seeds"]
    first = seeds[0] if seeds else 0
    runs = {s: Path(entry["run"]) if entry["run"] else place / f"seed-{s}" for s in seeds}
    logs = {s: read_log(folder / "log.jsonl") for s, folder in runs.items()}
    quality = {m: _mean(v, row["errors"][m]) for m, v in row["quality"].items()}
    return {
        "name": name,
        "entry": entry,
        "row": row,
        "quality": quality,
        "shares": {
            m: {"value": q[0], "stderr": q[1] or 0.0}
            for m, q in quality.items()
            if m.startswith("class ") and m[6:].isdigit()
        },
        "samples": _picture(place / f"seed-{first}.png", share // 4) if seeds else None,
        "neighbours": _picture(place / f"seed-{first}-neighbours.png", share // 4) if seeds else None,
        "real": _picture(runs[first] / "samples" / "real.png", LARGEST // 40) if seeds else None,
        "animation": _animation(runs[first] / "samples", share // 3) if seeds else None,
        "logs": [log for log in logs.values() if log],
        "alarms": [(s, a) for s, log in logs.items() for a in alarms(log)],
        "environment": _read(runs[first] / "environment.json") if seeds else None,
    }


def _mean(values: list[float], errors: list[float | None]) -> tuple[float, float | None]:
    n = len(values)
    mean = sum(values) / n
    if n == 1:
        return mean, errors[0]
    return mean, (sum((v - mean) ** 2 for v in values) / (n - 1) / n) ** 0.5


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
        return found
    except (OSError, ValueError):
        return None


def _picture(path: Path, most: int) -> str | None:
    """A file as it is, or, where it takes more than `most` bytes on the page, a coarser copy."""
    if not path.exists():
        return None
    data, kind = path.read_bytes(), "png"
    if len(data) * 4 / 3 > most:
        kind = "webp"
        image = Image.open(path).convert("RGB")
        for quality, scale in ((80, 1.0), (60, 1.0), (50, 0.7), (40, 0.5), (30, 0.3)):
            stream = io.BytesIO()
            small = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
            small.save(stream, "WEBP", quality=quality)
            data = stream.getvalue()
            if len(data) * 4 / 3 <= most:
                break
    return _inline(data, kind)


def _inline(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()


def _animation(folder: Path, most: int) -> str | None:
    """The grids of a run, in order, as one animated WebP of at most `most` bytes on the page: with fewer frames, if need be."""
    frames = []
    for path in sorted(g for g in folder.glob("*.png") if g.stem.isdigit()):
        try:
            frame = Image.open(path).convert("RGB")
            frame.thumbnail((FRAME_SIDE, FRAME_SIDE))
            frames.append(frame)
        except (OSError, UnidentifiedImageError):  # cut short by a kill
            continue
    frames = [f for f in frames if f.size == frames[-1].size]
    while len(frames) >= 2:
        stream = io.BytesIO()
        times = [FRAME_MS] * (len(frames) - 1) + [LAST_MS]
        frames[0].save(
            stream, "WEBP", save_all=True, append_images=frames[1:], duration=times, loop=0, quality=45, method=4
        )
        if len(stream.getvalue()) * 4 / 3 <= most:
            return _inline(stream.getvalue(), "webp")
        frames = frames[(len(frames) + 1) % 2 :: 2]  # every other one, the last always
    return None
