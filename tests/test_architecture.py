"""The walls: imports go down only. Read from the syntax trees, so that lazy imports inside functions count too."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src/pushforward"

# A module may import its own rank's package siblings and anything of a lower rank. Same rank, other room: no.
RANKS = {
    "errors": 0,
    "__init__": 0,
    "randomness": 0,
    "model": 1,
    "networks": 2,
    "priors": 2,
    "penalties": 2,
    "theory": 2,
    "samplers": 2,
    "data": 2,
    "metrics": 3,
    "families": 3,
    "training": 4,
    "config": 4,
    "monitors": 4,
    "build": 5,
    "report": 5,
    "provenance": 5,
    "pictures": 5,
    "runs": 6,
    "evaluation": 7,
    "restoration": 7,
    "anomaly": 7,
    "labs": 8,
    "compare": 8,
    "cli": 9,
    "__main__": 10,
}
# The few edges between rooms of one rank, or upward, each with its reason.
ALLOWED = {
    ("report", "training"): "reads logs and writes atomically",
    ("pictures", "report"): "draws the scatter plots of toy models",
}
FAMILY_FREE = (
    "metrics",
    "data",
    "report",
    "networks",
    "priors",
    "penalties",
    "samplers",
    "model",
    "randomness",
    "training",
    "config",
)


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Full names of what a file imports from this package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            if node.module and node.module.split(".")[0] == "pushforward":
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    inside = SOURCE / Path(*whole.split(".")[1:])
                    found.add(whole if inside.is_dir() or inside.with_suffix(".py").exists() else node.module)
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.split(".")[0] == "pushforward"}
    return found


def violations(path: Path, names: set[str]) -> list[str]:
    """What in `names` a file of that path must not import."""
    here, wrong = room(path), []
    for name in names:
        parts = name.split(".")
        there = parts[1] if len(parts) > 1 else "__init__"
        if there == here:
            if here == "families" and parts[2:3] and parts[2] != path.relative_to(SOURCE).parts[1]:
                wrong.append(f"{path.name} imports the family {parts[2]}")
            continue
        if there == "families" and here in FAMILY_FREE:
            wrong.append(f"{path.name} imports a family ({name})")
        elif RANKS[there] >= RANKS[here] and (here, there) not in ALLOWED:
            wrong.append(f"{path.name} imports upwards ({name})")
    return wrong


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_down_only(path: Path) -> None:
    assert not violations(path, imports(path))


def test_every_room_has_a_rank() -> None:
    assert {room(f) for f in FILES} == set(RANKS)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("networks/mlp.py", "pushforward.families.gan.model"),
        ("metrics/frechet.py", "pushforward.evaluation"),
        ("model.py", "pushforward.training.trainer"),
        ("families/gan/model.py", "pushforward.families.diffusion.model"),
        ("training/trainer.py", "pushforward.families.gan.model"),
        ("data/images.py", "pushforward.networks.mlp"),
    ],
)
def test_an_upward_import_is_seen(path: str, name: str) -> None:
    assert violations(SOURCE / path, {name})


def test_the_contract_imports_only_torch() -> None:
    tree = ast.parse((SOURCE / "model.py").read_text())
    roots = {(n.module or "").split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    roots |= {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert roots - {"__future__", "abc", "collections", "dataclasses", "typing"} == {"torch", "pushforward"}
    assert imports(SOURCE / "model.py") == {"pushforward.randomness"}
