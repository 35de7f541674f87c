"""The field's textbook experiments: each states claims, measures them, and says whether the evidence supports them.

A lab is a function of a folder and of keyword settings with defaults; it writes its tables and figures there and returns
its findings. `pushforward lab NAME` runs one.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pushforward import __version__
from pushforward.errors import ConfigError, NotSupported, nearest

Verdict = Literal["supported", "not supported", "unclear"]


@dataclass(frozen=True)
class Finding:
    """What a lab found of one claim."""

    claim: str
    verdict: Verdict
    evidence: str


LABS: dict[str, tuple[str, str]] = {
    "collapse": ("pushforward.labs.collapse", "Which GANs find all Gaussians of a ring or a grid?"),
    "stacked": ("pushforward.labs.stacked", "Which GANs find all 1,000 modes of stacked MNIST?"),
    "gaussian": ("pushforward.labs.gaussian", "How does a GAN learn one Gaussian on a line?"),
    "solvers": ("pushforward.labs.solvers", "Does DDPM in 1,000 steps give more than a good solver in ten?"),
    "guidance": ("pushforward.labs.guidance", "What does classifier-free guidance buy, and what does it cost?"),
    "posterior": ("pushforward.labs.posterior", "How many steps does posterior sampling need?"),
    "corruption": ("pushforward.labs.corruption", "Do the metrics grow worse with growing damage to images?"),
}


def lab(name: str) -> Callable[..., list[Finding]]:
    """A lab by name.

    Raises:
        NotSupported: there is none of that name.
    """
    if name not in LABS:
        raise NotSupported(f"no lab is called {name!r}: {nearest(name, LABS)}")
    found: Callable[..., list[Finding]] = importlib.import_module(LABS[name][0]).run
    return found


def settings_of(name: str) -> dict[str, Any]:
    """A lab's settings and their defaults."""
    parameters = inspect.signature(lab(name)).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "quiet"}


def parse_settings(name: str, given: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE pairs as a lab's settings, each of its default's type.

    Raises:
        ConfigError: an unknown setting, or a value that is not of its type.
    """
    known, out = settings_of(name), {}
    for pair in given:
        key, equals, text = pair.partition("=")
        if not equals or key not in known:
            raise ConfigError(f"the lab {name} has no setting {key!r}: {nearest(key, known)}")
        kind = type(known[key])
        try:
            value = text if kind is str else json.loads(text)
            if kind is int and value != int(value):
                raise ValueError(text)
            out[key] = kind(value)
            if kind is int and abs(out[key]) >= 2**63:
                raise ValueError(text)
        except (ValueError, TypeError, OverflowError):
            raise ConfigError(f"{key}={text}: {kind.__name__} is wanted, as in {key}={known[key]}.") from None
    return out


def recipes_of(text: str) -> list[str]:
    """Comma-separated recipes, each named once.

    Raises:
        ConfigError: none, or one twice.
    """
    names = [r.strip() for r in text.split(",") if r.strip()]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"recipes={text}: name at least one recipe, and each once.")
    return names


def run_lab(name: str, out: Path, *, quiet: bool = False, **settings: Any) -> list[Finding]:
    """Run a lab and keep its findings as lab.json and lab.md beside its figures.

    Args:
        name: In `LABS`.
        out: Folder.
        quiet: Show no progress.
        settings: The lab's own.
    """
    from pushforward.training.checkpoint import write_atomic

    out.mkdir(parents=True, exist_ok=True)
    whole = settings_of(name) | settings
    findings = lab(name)(out, quiet=quiet, **whole)
    about = {"lab": name, "question": LABS[name][1], "settings": whole, "pushforward": __version__}
    write_atomic(out / "lab.json", json.dumps(about | {"findings": [asdict(f) for f in findings]}, indent=1))
    pictures = [f"![{p.stem}]({p.name})" for p in sorted(out.glob("*.png"))]
    lines = [f"# {LABS[name][1]}", "", *(f"- **{f.verdict}**: {f.claim} {f.evidence}" for f in findings), "", *pictures]
    command = " ".join(["pushforward lab", name, *(f"--set {k}={v}" for k, v in settings.items())])
    write_atomic(out / "lab.md", "\n".join([*lines, "", f"Made by `{command}`.", ""]))
    return findings
