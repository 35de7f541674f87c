"""What the labs' figures share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl

from pushforward.report.figures import STYLE, plt


@contextmanager
def panels(path: Path, count: int, *, rows: int = 1, width: float = 3.9, height: float = 3.3) -> Iterator[list[Any]]:
    """Axes in a row (or several), saved as a picture when all is drawn."""
    with mpl.rc_context(STYLE | {"figure.facecolor": "white", "savefig.facecolor": "white"}):
        columns = -(-count // rows)
        figure, axes = plt.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False)
        yield list(axes.flat)
        for ax in axes.flat[count:]:
            ax.axis("off")
        figure.tight_layout()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
        plt.close(figure)
