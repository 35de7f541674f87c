"""From names to objects: the only place where strings become code.

Each kind of component has one table, name -> class or function. A name with a colon, "my_module:MyThing", is imported from your own code
(the current folder is searched too). Options are checked against the signature, types included; `resolve` writes every
default into the config, so that a run folder tells all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch

from pushforward.build import diffusion, energy, flow, gan
from pushforward.build.components import find, options_of
from pushforward.config import RunConfig
from pushforward.errors import ConfigError, NotSupported, nearest
from pushforward.families.diffusion.model import Diffusion
from pushforward.families.energy.model import EnergyModel
from pushforward.families.flow.model import FlowModel
from pushforward.families.gan.model import GAN
from pushforward.model import GenerativeModel
from pushforward.training import optimisers

FAMILIES: Mapping[str, ModuleType] = {"gan": gan, "diffusion": diffusion, "energy": energy, "flow": flow}
"""Each has `resolve(table) -> (table, phases)` and `build(table, shape, batch_size) -> model`."""
OPTIMISERS: Mapping[str, Callable[..., Any]] = {
    "adam": optimisers.adam,
    "adamw": optimisers.adamw,
    "rmsprop": optimisers.rmsprop,
    "sgd": optimisers.sgd,
}


def resolve(config: RunConfig) -> RunConfig:
    """The config with every default of every component filled in, and everything checked that can be checked without data."""
    table = config.model
    if table.get("family") not in FAMILIES:
        raise ConfigError(f"model.family = {table.get('family')!r}: {nearest(str(table.get('family')), FAMILIES)}")
    model, phases = FAMILIES[table["family"]].resolve({k: v for k, v in table.items() if k != "family"})
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


def build_model(config: RunConfig, shape: Sequence[int]) -> GenerativeModel:
    """The model of a resolved config, its weights drawn from `train.seed`.

    Args:
        config: As `resolve` gives it.
        shape: Shape of one sample.

    Raises:
        ConfigError: parts that do not fit the shape or one another.
    """
    torch.manual_seed(config.train.seed)
    model: GenerativeModel = FAMILIES[config.model["family"]].build(config.model, tuple(shape), config.train.batch_size)
    return model


def change_sampler(model: GenerativeModel, name: str | None, settings: Sequence[str]) -> None:
    """Give a trained model another sampler of its family; see the family's own.

    Raises:
        NotSupported: it has only one.
    """
    for change, kind in (
        (diffusion.change_sampler, Diffusion),
        (energy.change_sampler, EnergyModel),
        (flow.change_sampler, FlowModel),
        (gan.change_sampler, GAN),
    ):
        if isinstance(model, kind):
            return change(model, name, settings)
    raise NotSupported("this model has one way to sample; leave --sampler and --set out.")


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
