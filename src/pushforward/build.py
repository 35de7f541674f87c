"""From names to objects: the only place where strings become code.

Each kind of component has one table, name -> class or function. A name with a colon, "my_module:MyThing", is imported from your own code
(the current folder is searched too). Options are checked against the signature, types included; `resolve` writes every
default into the config, so that a run folder tells all.
"""

from __future__ import annotations

import importlib
import inspect
import math
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from pushforward.config import RunConfig, Table
from pushforward.errors import ConfigError, nearest
from pushforward.families.gan import losses, terms
from pushforward.families.gan.model import GAN
from pushforward.model import GenerativeModel
from pushforward.networks import dcgan, mlp
from pushforward.priors import Normal, Uniform
from pushforward.training import optimisers

GENERATORS: Mapping[str, Callable[..., Any]] = {"mlp": mlp.MLPGenerator, "dcgan": dcgan.DCGANGenerator}
DISCRIMINATORS: Mapping[str, Callable[..., Any]] = {"mlp": mlp.MLPDiscriminator, "dcgan": dcgan.DCGANDiscriminator}
PRIORS: Mapping[str, Callable[..., Any]] = {"normal": Normal, "uniform": Uniform}
OBJECTIVES: Mapping[str, Callable[..., Any]] = {
    "minimax": losses.minimax,
    "non-saturating": losses.non_saturating,
    "least-squares": losses.least_squares,
    "wasserstein": losses.wasserstein,
    "hinge": losses.hinge,
    "relativistic": losses.relativistic,
}
OPTIMISERS: Mapping[str, Callable[..., Any]] = {
    "adam": optimisers.adam,
    "adamw": optimisers.adamw,
    "rmsprop": optimisers.rmsprop,
    "sgd": optimisers.sgd,
}


@dataclass(frozen=True)
class TermEntry:
    """A term that ships: its function, whose loss it joins, and what it needs of the context."""

    function: Callable[..., Any]
    player: terms.Player
    needs: frozenset[Any] = frozenset()


TERMS: Mapping[str, TermEntry] = {
    "interpolate-penalty": TermEntry(terms.interpolate_penalty, "discriminator"),
    "r1": TermEntry(terms.r1, "discriminator", frozenset({"real_slope"})),
    "r2": TermEntry(terms.r2, "discriminator", frozenset({"fake_slope"})),
}

# What a component is given by the house, and so is no option of a recipe.
_GIVEN = {"generator": {"latent", "shape"}, "discriminator": {"shape"}, "prior": set(), "objective": set()}
_TABLES = {"generator": GENERATORS, "discriminator": DISCRIMINATORS, "prior": PRIORS, "objective": OBJECTIVES}
_TERM_KEYS = {"name", "player", "weight", "every"}


def find(name: Any, table: Mapping[str, Any], where: str) -> Any:
    """The entry of a name, or the thing that "module:Thing" names.

    Raises:
        ConfigError: unknown name (the nearest is given), or nothing to import.
    """
    if not isinstance(name, str):
        raise ConfigError(f"{where}: give a name; got {name!r}.")
    if name in table:
        return table[name]
    if ":" not in name:
        raise ConfigError(
            f'{where}: nothing is called {name!r}: {nearest(name, table)} (your own: "my_module:MyThing")'
        )
    module, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), attribute)
        inspect.signature(found)
        return found
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {name!r} is no class or function with a signature of its own.") from error
    except ImportError as error:
        raise ConfigError(
            f"{where}: the module {module!r} of {name!r} cannot be imported ({error}). It is looked for in the current folder too."
        ) from error
    except AttributeError as error:
        raise ConfigError(f"{where}: the module {module!r} has no {attribute!r}.") from error


def options_of(
    factory: Callable[..., Any],
    given: Mapping[str, Any],
    where: str,
    *,
    supplied: set[str] | frozenset[str] = frozenset(),
) -> Table:
    """All options of a factory: `given` ones checked against its signature and types, defaults for the rest.

    Args:
        factory: A class or function; its keyword-only parameters are its options.
        given: What the recipe says.
        where: Path in the recipe, for messages.
        supplied: Parameters that come from elsewhere.

    Raises:
        ConfigError: an unknown option, a missing one, or a value of the wrong type.
    """
    parameters = {
        n: p for n, p in inspect.signature(factory).parameters.items() if p.kind is p.KEYWORD_ONLY and n not in supplied
    }
    for key in given:
        if key not in parameters:
            raise ConfigError(
                f"unknown key '{where}.{key}': {nearest(key, parameters) if parameters else 'it has no options'}"
            )
    hints = typing.get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    resolved = {}
    for name, parameter in parameters.items():
        if name not in given:
            if parameter.default is parameter.empty:
                raise ConfigError(f"'{where}.{name}' is missing; it has no default.")
            resolved[name] = parameter.default
            continue
        try:
            resolved[name] = TypeAdapter(hints.get(name, Any)).validate_python(given[name])
        except ValidationError as error:
            raise ConfigError(f"{where}.{name} = {given[name]!r}: {error.errors()[0]['msg'].lower()}.") from None
    return resolved


def _component(value: Any, kind: str, where: str) -> Table:
    """A component with all its options; a bare string is its name."""
    table = {"name": value} if isinstance(value, str) else value
    if not isinstance(table, dict) or "name" not in table:
        raise ConfigError(f"{where}: give a name, or a table with one; there are {', '.join(_TABLES[kind])}.")
    factory = find(table["name"], _TABLES[kind], where)
    given = {k: v for k, v in table.items() if k != "name"}
    return {"name": table["name"], **options_of(factory, given, where, supplied=_GIVEN[kind])}


def _term(table: Any, where: str) -> Table:
    """A term with all its options."""
    if isinstance(table, str):
        table = {"name": table}
    if not isinstance(table, dict) or "name" not in table:
        raise ConfigError(f"{where}: give a name, or a table with one; there are {', '.join(TERMS)}.")
    entry = find(table["name"], TERMS, where)
    own = {k: v for k, v in table.items() if k in _TERM_KEYS}
    if isinstance(entry, TermEntry):
        if own.setdefault("player", entry.player) != entry.player:
            raise ConfigError(f"{where}.player = {own['player']!r}: {table['name']} belongs to the {entry.player}.")
        function = entry.function
    else:
        function = entry
    if own.get("player") not in ("discriminator", "generator"):
        raise ConfigError(f"{where}.player: say whose loss {table['name']} joins, 'discriminator' or 'generator'.")
    for key, kind, good in (("weight", float, lambda v: True), ("every", int, lambda v: v >= 1)):
        try:
            own[key] = TypeAdapter(kind).validate_python(own.get(key, 1))
        except ValidationError as error:
            raise ConfigError(f"{where}.{key} = {own[key]!r}: {error.errors()[0]['msg'].lower()}.") from None
        if not good(own[key]):
            raise ConfigError(f"{where}.{key} = {own[key]!r}: must be at least 1.")
    rest = {k: v for k, v in table.items() if k not in _TERM_KEYS}
    return {**own, **options_of(function, rest, where)}


def resolve(config: RunConfig) -> RunConfig:
    """The config with every default of every component filled in, and everything checked that can be checked without data."""
    table = config.model
    families = {"gan": _resolve_gan}
    family = find(table.get("family"), families, "model.family")
    model, phases = family({k: v for k, v in table.items() if k != "family"})
    for name in config.optimiser:
        if name not in phases:
            raise ConfigError(f"unknown key 'optimiser.{name}': {nearest(name, phases)}")
    missing = [p for p in phases if p not in config.optimiser]
    if missing:
        raise ConfigError(
            f"the table [optimiser.{missing[0]}] is missing: each phase ({', '.join(phases)}) has its own optimiser."
        )
    optimiser = {}
    for phase in phases:
        given = dict(config.optimiser[phase])
        name = given.pop("name", "adam")
        factory = find(name, OPTIMISERS, f"optimiser.{phase}")
        optimiser[phase] = {"name": name, **options_of(factory, given, f"optimiser.{phase}")}
    return config.model_copy(update={"model": {"family": table["family"], **model}, "optimiser": optimiser})


def _resolve_gan(table: Table) -> tuple[Table, tuple[str, ...]]:
    parts = {}
    for kind in _TABLES:
        if kind not in table and kind != "prior":
            raise ConfigError(f"'model.{kind}' is missing; there are {', '.join(_TABLES[kind])}.")
        part = table.get(kind, {})
        if kind == "prior" and isinstance(part, dict):
            part = {"name": "normal", **part}
        parts[kind] = _component(part, kind, f"model.{kind}")
    listed = table.get("terms", [])
    if not isinstance(listed, list):
        raise ConfigError("model.terms: give a list of tables, [[model.terms]].")
    resolved = [_term(t, f"model.terms.{i}") for i, t in enumerate(listed)]
    names = [t["name"] for t in resolved]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"model.terms: {next(n for n in names if names.count(n) > 1)!r} is listed twice; give it once with the summed weight."
        )
    rest = {k: v for k, v in table.items() if k not in _TABLES and k != "terms"}
    valid = {n: p.default for n, p in inspect.signature(GAN.__init__).parameters.items() if p.kind is p.KEYWORD_ONLY}
    for key in rest:
        if key not in valid:
            raise ConfigError(f"unknown key 'model.{key}': {nearest(key, ['family', *valid])}")
    scalars = options_of(GAN, rest, "model", supplied={*_TABLES, "terms"})
    if scalars["discriminator_steps"] < 1:
        raise ConfigError(f"model.discriminator_steps = {scalars['discriminator_steps']}: must be at least 1.")
    if scalars["weight_clip"] is not None and not 0 < scalars["weight_clip"] < math.inf:
        raise ConfigError(f"model.weight_clip = {scalars['weight_clip']}: must be above 0 and finite.")
    return {**parts, "terms": resolved, **scalars}, ("discriminator", "generator")


def build_model(config: RunConfig, shape: Sequence[int]) -> GenerativeModel:
    """The model of a resolved config, its weights drawn from `train.seed`.

    Args:
        config: As `resolve` gives it.
        shape: Shape of one sample.
    """
    torch.manual_seed(config.train.seed)
    return _build_gan(config.model, tuple(shape))


def _make(part: Table, kind: str, **supplied: Any) -> Any:
    factory = find(part["name"], _TABLES[kind], f"model.{kind}")
    try:
        return factory(**{k: v for k, v in part.items() if k != "name"}, **supplied)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(f"model.{kind} = {part['name']!r} cannot be built: {error}") from error


def _build_gan(table: Table, shape: tuple[int, ...]) -> GAN:
    prior = _make(table["prior"], "prior")
    generator: nn.Module = _make(table["generator"], "generator", latent=prior.dim, shape=shape)
    discriminator: nn.Module = _make(table["discriminator"], "discriminator", shape=shape)
    built = []
    for t in table["terms"]:
        entry = find(t["name"], TERMS, "model.terms")
        function, needs = (entry.function, entry.needs) if isinstance(entry, TermEntry) else (entry, frozenset())
        options = {k: v for k, v in t.items() if k not in _TERM_KEYS}
        built.append(terms.Term(t["name"], function, t["player"], t["weight"], t["every"], options, needs))
    scalars = {k: v for k, v in table.items() if k not in (*_TABLES, "terms", "family")}
    return GAN(
        generator=generator,
        discriminator=discriminator,
        prior=prior,
        objective=_make(table["objective"], "objective"),
        terms=built,
        **scalars,
    )


def build_optimisers(config: RunConfig, model: GenerativeModel) -> dict[str, torch.optim.Optimizer]:
    """One optimiser for each phase of a resolved config."""
    made = {}
    for phase in model.phases():
        table = config.optimiser[phase.name]
        factory = find(table["name"], OPTIMISERS, f"optimiser.{phase.name}")
        try:
            made[phase.name] = factory(phase.module.parameters(), **{k: v for k, v in table.items() if k != "name"})
        except (ValueError, TypeError) as error:
            raise ConfigError(f"optimiser.{phase.name}: {error}.") from error
        if not all(math.isfinite(group["lr"]) for group in made[phase.name].param_groups):
            raise ConfigError(f"optimiser.{phase.name}.lr = {table['lr']}: must be a finite number.")
    return made
