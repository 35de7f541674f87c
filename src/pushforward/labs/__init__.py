"""The field's textbook experiments: each states claims, measures them, and says whether the evidence supports them.

A lab is a function of a folder and of keyword settings with defaults; it writes its tables and figures there and returns
its findings. `pushforward lab run NAME` runs one.
"""

from __future__ import annotations

import importlib
import inspect
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
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


@dataclass(frozen=True)
class Lab:
    """An entry of the shelf.

    Args:
        theme: Theory, GAN, Diffusion, Energy, Flow or Judging.
        question: In one line.
        quick: Settings with which it takes seconds, for a first look and the tests; its verdicts then are of small numbers.
    """

    theme: str
    question: str
    quick: Mapping[str, Any] = field(default_factory=dict)


SHORT = {"seeds": 2, "cpu_seconds": 1.0, "n": 100}
ENERGY = {"seeds": 2, "cpu_seconds": 3.0, "n": 20, "chains": 10}

LABS: dict[str, Lab] = {
    "optimal-discriminator": Lab(
        "Theory", "Is the best discriminator p / (p + q), and the game's value 2 JSD - log 4?", {"steps": 600}
    ),
    "divergences-of-parallel-lines": Lab(
        "Theory", "What do KL, JSD and Wasserstein say of laws that do not overlap?", {"n": 400}
    ),
    "kantorovich": Lab("Theory", "Does a critic find the Wasserstein distance?", {"steps": 300, "n": 256}),
    "vanishing-gradients": Lab("Theory", "Whose gradient vanishes as the discriminator gets better?", {"n": 20_000}),
    "least-squares-is-pearson": Lab("Theory", "Which divergence does least squares minimise?"),
    "zero-one-game": Lab(
        "Theory", "What are the saddle points of the finite game, and what does a missing image cost?", {"most": 3}
    ),
    "dirac-gan": Lab(
        "Theory", "Which regularisers make the smallest GAN come to rest?", {"steps": 20_000, "step": 0.01}
    ),
    "closest-point": Lab(
        "Theory", "What does the minimiser of diffusion's loss on finite data make?", {"n": 500, "steps": 40}
    ),
    "change-of-variables": Lab("Theory", "Is a pushed density the old one over the slope?", {"n": 100_000}),
    "fixed-point-inverse": Lab("Theory", "How fast does Banach's iteration undo a residual block?"),
    "diffusion-kernel": Lab("Theory", "What does a diffusion's noise do to the data's law?", {"n": 5_000}),
    "gaussian-1d": Lab(
        "Theory", "How does a GAN learn one Gaussian on a line?", {"steps": 60, "seeds": 2, "frames": 4}
    ),
    "mode-collapse": Lab(
        "GAN",
        "Which GANs find all Gaussians of a ring or a grid?",
        {"recipes": "gan/toy,gan/toy-r3gan", "seeds": 2, "steps": 150, "jobs": 1},
    ),
    "normalisation": Lab("GAN", "Must images be in [-1, 1] and the generator end in tanh?", SHORT),
    "vanilla-vs-lsgan-vs-dcgan": Lab("GAN", "Which of the three classics is best, sharpest and most diverse?", SHORT),
    "regularisers": Lab("GAN", "Which regularisers of the discriminator help, and do they add up?", SHORT),
    "consistency": Lab("GAN", "Does consistency regularisation help, and when does it hurt?", SHORT),
    "mixture-priors": Lab("GAN", "Do latents from a mixture of Gaussians make better digits?", SHORT),
    "rejection-sampling": Lab(
        "GAN", "Can the discriminator throw bad samples away?", SHORT | {"moves": 10, "chain": 5}
    ),
    "can-you-tell": Lab(
        "GAN",
        "Can a fresh judge tell samples from data?",
        {"recipes": "gan/vanilla,flow/realnvp-mnist", "cpu_seconds": 3.0, "n": 200, "steps": 60},
    ),
    "stacked": Lab(
        "GAN",
        "Which GANs find all 1,000 modes of stacked MNIST?",
        {
            "recipes": "gan/stacked,gan/stacked-pac2",
            "data": "stacked-mnist-5k",
            "seeds": 1,
            "cpu_seconds": 3.0,
            "samples": 1000,
        },
    ),
    "solvers-order": Lab("Diffusion", "Is every solver of the order that its paper states?", {"longest": 128}),
    "ddpm-vs-ddim": Lab(
        "Diffusion",
        "Does DDPM in 1,000 steps give more than a good solver in ten?",
        {"width": 16, "train_steps": 60, "n": 12, "timed": 1, "rounds": 1},
    ),
    "guidance-scale": Lab(
        "Diffusion",
        "What does classifier-free guidance buy, and what does it cost?",
        {"width": 16, "train_steps": 60, "n": 40, "steps": 4},
    ),
    "exact-posterior": Lab(
        "Diffusion", "Which methods draw from the posterior, where one knows it?", {"n": 200, "steps": 1.0}
    ),
    "dps-steps": Lab(
        "Diffusion",
        "How many steps does posterior sampling need?",
        {"width": 16, "train_steps": 60, "n": 2, "longest": 50, "rounds": 1},
    ),
    "memorisation": Lab(
        "Diffusion",
        "When does a diffusion model copy its training images?",
        {"sizes": "4,64", "width": 16, "cpu_seconds": 8.0, "n": 40},
    ),
    "langevin-steps": Lab(
        "Energy",
        "How many Langevin moves make a digit?",
        {"cpu_seconds": 5.0, "n": 30, "chains": 20, "longest": 256},
    ),
    "swish-vs-relu": Lab("Energy", "Do energies want smooth activations?", ENERGY),
    "energy-regulariser": Lab("Energy", "Do energies run away without a penalty on their size?", ENERGY),
    "anomaly": Lab(
        "Energy",
        "Which model finds strange what is no digit?",
        {"recipes": "energy/pcd,gan/dcgan", "suite": "shifts", "cpu_seconds": 4.0, "n": 60},
    ),
    "bits-per-dim": Lab("Flow", "What do bits a dimension reward, and what do they not see?", SHORT),
    "ood-paradox": Lab(
        "Flow", "Why does a flow find other images likelier than its data?", {"cpu_seconds": 4.0, "n": 60}
    ),
    "precision-recall-plane": Lab(
        "Judging", "How far do truncation and rejection move one generator?", {"cpu_seconds": 5.0, "n": 200}
    ),
    "fid-bias-in-n": Lab("Judging", "What does the Frechet distance of few samples say?", {"repeats": 3}),
    "inception-score-failures": Lab(
        "Judging", "Which useless images does the inception score praise?", {"n": 200, "steps": 20}
    ),
    "fid-under-corruption": Lab("Judging", "Do the metrics grow worse with growing damage to images?", {"n": 250}),
}
"""By name; the lab "a-b" is the module `labs.a_b`."""


def lab(name: str) -> Callable[..., list[Finding]]:
    """A lab by name.

    Raises:
        NotSupported: there is none of that name.
    """
    if name not in LABS:
        raise NotSupported(f"no lab is called {name!r}: {nearest(name, LABS)}")
    found: Callable[..., list[Finding]] = importlib.import_module(f"pushforward.labs.{name.replace('-', '_')}").run
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


QUICK = "The quick setting: too short for a verdict. It shows what the lab does."


def run_lab(name: str, out: Path, *, quiet: bool = False, quick: bool = False, **settings: Any) -> list[Finding]:
    """Run a lab and keep its findings as claims.json and lab.md beside its figures.

    Args:
        name: In `LABS`.
        out: Folder.
        quiet: Show no progress.
        quick: Whether the settings are the quick ones, for the page.
        settings: The lab's own.
    """
    from pushforward.training.checkpoint import write_atomic

    out.mkdir(parents=True, exist_ok=True)
    whole = settings_of(name) | settings
    began = time.perf_counter()
    findings = lab(name)(out, quiet=quiet, **whole)
    seconds = round(time.perf_counter() - began, 3)
    command = " ".join(["pushforward lab run", name, *(f"--set {k}={json.dumps(v) if isinstance(v, bool) else v}" for k, v in settings.items())])  # fmt: skip
    about = {
        "lab": name,
        "question": LABS[name].question,
        "source": source_of(name),
        "settings": whole,
        "pushforward": __version__,
        "seconds": max(seconds, _seconds_before(out / "claims.json", name, whole)),
        "quick": quick,
        "command": command,
    }
    write_atomic(out / "claims.json", json.dumps(about | {"findings": [asdict(f) for f in findings]}, indent=1))
    pictures = [f"![{p.stem}]({p.name})" for p in sorted(out.glob("*.png"))]
    lines = [
        f"# {LABS[name].question}",
        "",
        *((QUICK, "") if quick else ()),
        *(f"- **{f.verdict}**: {f.claim} {f.evidence}" for f in findings),
        "",
        *pictures,
    ]
    write_atomic(out / "lab.md", "\n".join([*lines, "", f"Made by `{command}`.", ""]))
    return findings


def _seconds_before(file: Path, name: str, settings: dict[str, Any]) -> float:
    """What the same lab took before: a later call reads what it kept, and takes a second."""
    try:
        found = json.loads(file.read_text())
        return float(found["seconds"]) if (found["lab"], found["settings"]) == (name, settings) else 0.0
    except (OSError, ValueError, KeyError):
        return 0.0


def write_page(folder: Path) -> Path:
    """One page of the labs that were run below a folder."""
    from pushforward.report.labs import write_labs

    texts = {name: _text(name) for name in LABS}
    return write_labs(folder, {name: entry.theme for name, entry in LABS.items()}, texts)


def source_of(name: str) -> str:
    """Where a lab's claims come from, in one line."""
    return " ".join(_text(name).rpartition("Reference:")[2].split())


def _text(name: str) -> str:
    module = importlib.import_module(f"pushforward.labs.{name.replace('-', '_')}")
    return inspect.cleandoc(module.__doc__ or "")
