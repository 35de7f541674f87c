"""One self-contained page of the labs that were run in a folder: claims by theme, then each lab's text and figures. Reads files only."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from pushforward import __version__
from pushforward.errors import DataError
from pushforward.report.tables import duration
from pushforward.training.checkpoint import write_atomic

PICTURES = 4  # of one lab, at most


def write_labs(folder: Path, themes: dict[str, str], texts: dict[str, str]) -> Path:
    """FOLDER/index.html of FOLDER/*/claims.json.

    Args:
        folder: Where labs were run.
        themes: Lab -> theme, in the order in which both are shown.
        texts: Lab -> its docstring.

    Raises:
        DataError: no lab was run there, or its findings cannot be read.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found: list[dict[str, Any]] = []
    for file in sorted(folder.glob("*/claims.json")):
        try:
            lab = json.loads(file.read_text(encoding="utf8"))
            lab["findings"] = [{k: str(f[k]) for k in ("claim", "verdict", "evidence")} for f in lab["findings"]]
            name = str(lab["lab"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file} is damaged ({error}); run that lab again.") from None
        if name not in themes:
            continue
        pictures = sorted(file.parent.glob("*.png"))[:PICTURES]
        lab |= {
            "pictures": [_inline(p) for p in pictures],
            "text": texts.get(name, ""),
            "quick": bool(lab.get("quick")),
        }
        lab |= {"command": lab.get("command", f"pushforward lab run {name}"), "seconds": lab.get("seconds")}
        found.append(lab)
    if not found:
        raise DataError(f"{folder} holds no lab; `pushforward lab run NAME` makes one.")
    order = list(themes)
    found.sort(key=lambda lab: order.index(lab["lab"]))
    grouped = {t: [lab for lab in found if themes[lab["lab"]] == t] for t in dict.fromkeys(themes.values())}
    verdicts = [f["verdict"] for lab in found for f in lab["findings"]]
    environment = Environment(
        loader=PackageLoader("pushforward.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=False
    )
    page = environment.get_template("labs.html").render(
        labs=found,
        themes=[(t, members) for t, members in grouped.items() if members],
        claims=len(verdicts),
        counts={v: verdicts.count(v) for v in ("supported", "not supported", "unclear")},
        duration=duration,
        version=__version__,
    )
    write_atomic(folder / "index.html", page)
    return folder / "index.html"


def _inline(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
