"""A run as a typed tree, from TOML and back. Every key is read; an unknown one is refused with the nearest valid name.

A recipe states only what differs from the defaults, which live in the signatures of the components. `build.resolve` fills them in, so
that the `config.toml` of a run is enough to repeat it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pushforward.errors import ConfigError, nearest

Table = dict[str, Any]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DataConfig(Section):
    """What is learned."""

    name: str = Field("mnist-5k", description="a data set's name, or the path of a folder, .npz, .npy or IDX file")
    path: str | None = Field(None, description="folder in which a named data set lies")
    size: int | None = Field(None, ge=4, le=4096, description="resize and centre-crop images of a folder to this side")
    channels: Literal[1, 3] | None = Field(None, description="read images of a folder as grey (1) or RGB (3)")
    without: int | None = Field(None, ge=0, description="a class that is left out, to see whether it is found strange")


class TrainConfig(Section):
    """How long, how, and what is written down."""

    steps: int = Field(10_000, ge=1, description="training steps; one step moves every player")
    batch_size: int = Field(64, ge=1, description="global batch, over all processes")
    seed: int = Field(0, ge=0, lt=2**31, description="of the weights, the order of the data and every draw")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="of the learning rates over the steps; linear and cosine end at 0"
    )
    warmup: int = Field(0, ge=0, description="steps over which learning rates first rise from 0")
    ema: float | None = Field(
        0.999, ge=0, lt=1, description="decay of the averaged weights that are sampled from; false for none"
    )
    log_every: int = Field(50, ge=1, description="steps between lines of log.jsonl")
    checkpoint_every: int = Field(1000, ge=1, description="steps between checkpoints")
    keep: int = Field(2, ge=1, description="newest checkpoints that are kept")
    sample_every: int = Field(500, ge=1, description="steps between sample grids from fixed latents")
    retries: int = Field(
        0,
        ge=0,
        le=100,
        description="how often a run that diverges goes back to its last checkpoint, with other draws and half the learning rate",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="where to train")
    precision: Literal["no", "bf16", "auto"] = Field(
        "no", description="mixed precision: bfloat16 where it is safe; auto: if a trial at the start finds it faster"
    )
    compile: bool = Field(
        False, description="compile each player's move; costs tens of seconds and says when it pays back"
    )
    tracker: str | None = Field(
        None, description="a tracker that accelerate knows: tensorboard, wandb, mlflow, aim, ..."
    )


class RunConfig(Section):
    """A complete run."""

    about: str = Field("", description="one line on what this recipe is")
    expect: dict[str, str] = Field(
        default_factory=dict, description="quality and cost that the recipe was seen to reach"
    )
    data: DataConfig = DataConfig()
    model: Table = Field(description="family, networks, objective, ...; see build/")
    optimiser: dict[str, Table] = Field(description="one table a phase: name and options")
    train: TrainConfig = TrainConfig()


def parse(table: Table, where: str) -> RunConfig:
    """Check a table against the tree.

    Raises:
        ConfigError: an unknown key, a missing one or a value of the wrong type, each named by its full path.
    """
    if isinstance(table.get("train"), dict) and table["train"].get("ema") is False:
        table = {**table, "train": {**table["train"], "ema": None}}  # TOML has no null
    try:
        return RunConfig.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            *parents, name = first["loc"]
            raise ConfigError(f"{where}: unknown key {path!r}: {nearest(str(name), _fields(parents))}") from None
        if first["type"] == "missing":
            raise ConfigError(f"{where}: the table [{path}] is missing.") from None
        said = "give a table" if first["type"] in ("model_type", "dict_type") else first["msg"].lower()
        raise ConfigError(f"{where}: {path} = {first['input']!r}: {said}.") from None


def _fields(path: Iterable[Any]) -> list[str]:
    section: type[BaseModel] = RunConfig
    for part in path:
        annotation = section.model_fields[str(part)].annotation
        assert isinstance(annotation, type) and issubclass(annotation, BaseModel)
        section = annotation
    return list(section.model_fields)


def dump(config: RunConfig) -> str:
    """The tree as TOML; what is None is left out, except `train.ema`, where it means "without" and is written false."""
    table = _without_none(config.model_dump())
    if config.train.ema is None:
        table["train"]["ema"] = False
    return tomli_w.dumps(table)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [_without_none(v) for v in value]
    return value


def read(path: Path) -> Table:
    """A TOML file as a table.

    Raises:
        ConfigError: not there, or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from error


def override(table: Table, settings: Iterable[str]) -> Table:
    """Apply `key.path=value` settings; a value is read as TOML, and as a plain string where it is none.

    Example:
        >>> override({"train": {"steps": 1}}, ["train.steps=5", "data.name=mnist"])
        {'train': {'steps': 5}, 'data': {'name': 'mnist'}}
    """
    for setting in settings:
        key, equals, text = setting.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise ConfigError(f"--set {setting!r}: write it as key=value, train.steps=1000 for one.")
        try:
            value = tomllib.loads(f"v = {text}")["v"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        table = _set(table, parts, value, setting)
    return table


def _set(table: Any, parts: list[str], value: Any, setting: str) -> Any:
    head, rest = parts[0], parts[1:]
    if isinstance(table, list):
        if not head.isdigit() or int(head) >= len(table):
            raise ConfigError(f"--set {setting!r}: {head!r} is not an index of a list of {len(table)}.")
        changed = list(table)
        changed[int(head)] = _below(changed[int(head)], head, rest, value, setting) if rest else value
        return changed
    if not rest:
        # A component may be named in short: model.objective=hinge keeps no option of the old one.
        return {**table, head: value}
    return {**table, head: _below(table.get(head, {}), head, rest, value, setting)}


def _below(below: Any, head: str, rest: list[str], value: Any, setting: str) -> Any:
    """A setting one level down; a component named in short becomes a table."""
    if isinstance(below, str):
        below = {"name": below}
    if not isinstance(below, (dict, list)):
        raise ConfigError(f"--set {setting!r}: {head!r} is a value, not a table.")
    return _set(below, rest, value, setting)


# --- recipes --------------------------------------------------------------------------------------------------


def recipe_names() -> list[str]:
    """Names of the recipes that ship, "family/name", sorted."""
    root = resources.files("pushforward") / "recipes"
    return sorted(
        f"{family.name}/{file.name[:-5]}"
        for family in root.iterdir()
        if family.is_dir()
        for file in family.iterdir()
        if file.name.endswith(".toml")
    )


def recipe_text(name: str) -> str:
    """A recipe's TOML, by name or by the path of a file of your own.

    Raises:
        ConfigError: no such recipe; the nearest is named.
    """
    if name in recipe_names():
        return (resources.files("pushforward") / "recipes" / f"{name}.toml").read_text(encoding="utf8")
    path = Path(name)
    if path.suffix == ".toml" or path.exists():
        try:
            return path.read_text(encoding="utf8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the recipe {name} cannot be read ({error}).") from error
    raise ConfigError(
        f"no recipe is called {name!r}: {nearest(name, recipe_names())} (`pushforward recipes` lists them; a path must end in .toml)"
    )


def load_recipe(name: str, settings: Iterable[str] = (), *, data: str | None = None) -> RunConfig:
    """A recipe with settings applied, not yet resolved."""
    try:
        table = tomllib.loads(recipe_text(name))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name} is not TOML: {error}.") from error
    if data is not None:
        table = {**table, "data": {**table.get("data", {}), "name": data}}
    return parse(override(table, settings), name)
