"""The flow's part of a recipe: its bijection, what stands in front of images, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from pushforward.build.components import HOTTEST, component, make, temperature_of
from pushforward.config import Table
from pushforward.errors import ConfigError, NotSupported, nearest
from pushforward.families.flow.bijections import Bijection, Chain, Coupling, Equalise, Logit, checkerboard
from pushforward.families.flow.library import FLOWS
from pushforward.families.flow.model import BijectionFlow, FlowModel
from pushforward.model import GenerativeModel
from pushforward.networks.couplings import ConvConditioner

DEQUANTISERS = ("uniform", "variational")
_DEFAULTS: Table = {"classes": None, "dequantise": "uniform", "equalise": True, "temperature": 1.0}
_KINDS: dict[str, Any] = {
    "classes": int | None,
    "dequantise": Literal[DEQUANTISERS],
    "equalise": bool,
    "temperature": float,
}


def resolve(table: Table) -> tuple[Table, tuple[str, ...]]:
    """The model's table with every default filled in, and the names of its phases."""
    if "flow" not in table:
        raise ConfigError(f"'model.flow' is missing; there are {', '.join(FLOWS)}.")
    for key in table:
        if key not in ("flow", *_DEFAULTS):
            raise ConfigError(f"unknown key 'model.{key}': {nearest(key, ['family', 'flow', *_DEFAULTS])}")
    out: Table = {"flow": component(table["flow"], FLOWS, "model.flow", supplied={"shape", "context"})}
    for key, default in _DEFAULTS.items():
        try:
            out[key] = TypeAdapter(_KINDS[key]).validate_python(table.get(key, default), strict=key != "temperature")
        except ValidationError:
            raise ConfigError(f"model.{key} = {table[key]!r}: give {_SAID[key]}.") from None
    if out["classes"] is not None and out["classes"] < 2:
        raise ConfigError(f"model.classes = {out['classes']}: must be at least 2.")
    if not 0 < out["temperature"] <= HOTTEST:
        raise ConfigError(f"model.temperature = {out['temperature']}: must be above 0 and at most {HOTTEST:g}.")
    return out, ("flow",)


_SAID = {
    "classes": "a number of classes, or leave it out",
    "dequantise": " or ".join(DEQUANTISERS),
    "equalise": "true or false",
    "temperature": "a number",
}


def build(table: Table, shape: tuple[int, ...], batch_size: int) -> FlowModel:
    """The model of a resolved table."""
    classes, images = table["classes"], len(shape) == 3
    if not images and (table["dequantise"], table["equalise"]) != ("uniform", True):
        raise ConfigError("model.dequantise and model.equalise are for images; leave them out for points.")
    bijection: Bijection = make(table["flow"], FLOWS, "model.flow", shape=shape, context=classes or 0)
    if images:
        front = [Equalise()] if table["equalise"] else []
        bijection = Chain([*front, Logit(1e-6), bijection])
    dequantiser = None
    if table["dequantise"] == "variational":
        parts = [
            Coupling(
                checkerboard(shape, odd=bool(k % 2)), ConvConditioner(shape[0], width=32, blocks=1, image=shape[0])
            )
            for k in range(4)
        ]
        dequantiser = BijectionFlow(Chain(parts), shape)
    noise: tuple[int, ...] = (math.prod(shape),)
    if images and table["flow"]["name"] == "residual":  # the one whose noise keeps the form of an image
        noise = (16 * shape[0], shape[1] // 4, shape[2] // 4)
    return FlowModel(
        flow=BijectionFlow(bijection, shape, noise),
        shape=shape,
        dequantiser=dequantiser,
        classes=classes,
        temperature=table["temperature"],
    )


def change_sampler(model: GenerativeModel, name: str | None, settings: Sequence[str]) -> None:
    """Give a trained flow another temperature, the one thing that its sampling has.

    Raises:
        ConfigError: another setting, or a value out of range.
        NotSupported: a sampler by name, of which there is only one.
    """
    if not isinstance(model, FlowModel):
        raise NotSupported("this is no flow: it has no temperature.")
    if name is not None:
        raise NotSupported(f"--sampler {name}: a flow samples in one pass; --set temperature=0.7 is its only setting.")
    model.temperature = temperature_of(model.temperature, settings)
