"""Names to classes, options to checked tables: what the parts of every family share."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pushforward.config import Table, override
from pushforward.errors import ConfigError, nearest


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
    hints = typing.get_type_hints(factory.__init__ if inspect.isclass(factory) else factory, include_extras=True)
    resolved = {}
    for name, parameter in parameters.items():
        if name not in given:
            if parameter.default is parameter.empty:
                raise ConfigError(f"'{where}.{name}' is missing; it has no default.")
            resolved[name] = parameter.default
            continue
        wanted = TypeAdapter(hints.get(name, Any))
        try:  # strictly as JSON, where lists are tuples, but a truth value or a text is no number
            wanted.validate_json(json.dumps(given[name], default=str), strict=True)
            resolved[name] = wanted.validate_python(given[name])
        except ValidationError as error:
            raise ConfigError(f"{where}.{name} = {given[name]!r}: {error.errors()[0]['msg'].lower()}.") from None
    return resolved


def component(
    value: Any, table: Mapping[str, Any], where: str, *, supplied: set[str] | frozenset[str] = frozenset()
) -> Table:
    """A component with all its options; a bare string is its name.

    Args:
        value: What the recipe says.
        table: The components that ship, by name.
        where: Path in the recipe, for messages.
        supplied: Parameters that come from elsewhere.
    """
    said = {"name": value} if isinstance(value, str) else value
    if not isinstance(said, dict) or "name" not in said:
        raise ConfigError(f"{where}: give a name, or a table with one; there are {', '.join(table)}.")
    factory = find(said["name"], table, where)
    given = {k: v for k, v in said.items() if k != "name"}
    return {"name": said["name"], **options_of(factory, given, where, supplied=supplied)}


HOTTEST = 100.0  # of temperatures: latents farther out than this were never near one that was trained on


def temperature_of(given: float, settings: Sequence[str]) -> float:
    """The temperature after KEY=VALUE settings of sampling, of which it is the only one.

    Raises:
        ConfigError: another setting, or a value out of range.
    """
    table = override({"temperature": given}, settings)
    for key in table:
        if key != "temperature":
            raise ConfigError(f"unknown key '--set.{key}': {nearest(key, ['temperature'])}")
    value = table["temperature"]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= HOTTEST:
        raise ConfigError(f"--set temperature={value}: must be a number above 0 and at most {HOTTEST:g}.")
    return float(value)


def make(part: Table, table: Mapping[str, Any], where: str, **supplied: Any) -> Any:
    """The object of a component that `component` has checked."""
    factory = find(part["name"], table, where)
    try:
        return factory(**{k: v for k, v in part.items() if k != "name"}, **supplied)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(f"{where} = {part['name']!r} cannot be built: {error}") from error
