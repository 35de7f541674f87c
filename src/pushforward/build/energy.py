"""The energy model's part of a recipe: network, terms, chains and sampler by name, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from pushforward.build.components import component, find, make, options_of
from pushforward.config import Table, override
from pushforward.errors import ConfigError, NotSupported, nearest
from pushforward.families.energy import terms
from pushforward.families.energy.model import EnergyModel, Sampler, Term, Training
from pushforward.model import GenerativeModel
from pushforward.networks import energies
from pushforward.samplers.langevin import implied_temperature, reach

NETWORKS: Mapping[str, Callable[..., Any]] = {
    "conv": energies.ConvEnergy,
    "patch": energies.PatchEnergy,
    "resnet": energies.ResidualEnergy,
    "mlp": energies.MLPEnergy,
}


@dataclass(frozen=True)
class TermEntry:
    """A term that ships: its function, whether it needs chains, and whether it can train an energy by itself."""

    function: Callable[..., Any]
    chains: bool = False
    alone: bool = True


TERMS: Mapping[str, TermEntry] = {
    "contrastive": TermEntry(terms.contrastive, chains=True),
    "magnitude": TermEntry(terms.magnitude, alone=False),
    "flatness": TermEntry(terms.flatness, chains=True, alone=False),
    "denoising": TermEntry(terms.denoising),
    "sliced": TermEntry(terms.sliced),
}
_SCALARS = {"jitter", "flip", "initial", "scale"}
SELDOM = 1e-3  # restarts a draw: chains that live longer are judged as if they lived so long
_SUPPLIED = {"network", "shape", "terms", "sampler", "training", "rows"}


def resolve(table: Table) -> tuple[Table, tuple[str, ...]]:
    """The model's table with every default filled in, and the names of its phases."""
    if "network" not in table:
        raise ConfigError(f"'model.network' is missing; there are {', '.join(NETWORKS)}.")
    valid = {"network", "terms", "sampler", "chains", *_SCALARS}
    for key in table:
        if key not in valid:
            raise ConfigError(f"unknown key 'model.{key}': {nearest(key, ['family', *valid])}")
    network = component(table["network"], NETWORKS, "model.network", supplied={"shape"})
    listed = table.get("terms", [])
    if not isinstance(listed, list) or not listed:
        raise ConfigError(f"model.terms: list what the energy is trained by; there are {', '.join(TERMS)}.")
    resolved = [_term(t, f"model.terms.{i}") for i, t in enumerate(listed)]
    names = [t["name"] for t in resolved]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"model.terms: {name!r} is listed twice; give it once.")
    if not any(_entry(n).alone for n in names):
        raise ConfigError(
            f"model.terms: {', '.join(names)} alone teach the energy nothing of the data; add contrastive, denoising or sliced."
        )
    parts: Table = {"network": network, "terms": resolved}
    parts["sampler"] = sampler_table(table.get("sampler", {}), "model.sampler")
    needed = any(_entry(n).chains for n in names)
    if needed:
        parts["chains"] = _chains_table(table.get("chains", {}), "model.chains")
    elif "chains" in table:
        raise ConfigError(f"model.chains: no term of this recipe uses chains ({', '.join(names)}). Leave it out.")
    if parts["sampler"]["start"] == "data":
        raise ConfigError(
            'model.sampler.start = "data": training has no such chains to sample from. Choose it afterwards: `pushforward sample RUN --set start=data`.'
        )
    if parts["sampler"]["start"] == "buffer" and (not needed or parts["chains"]["data"] == 1):
        raise ConfigError('model.sampler.start = "buffer": this recipe keeps no chains. Use "noise".')
    scalars = options_of(EnergyModel, {k: v for k, v in table.items() if k in _SCALARS}, "model", supplied=_SUPPLIED)
    for key, low in (("jitter", 0.0), ("flip", 0.0), ("scale", 1e-9)):
        if not low <= scalars[key] < math.inf:
            raise ConfigError(f"model.{key} = {scalars[key]}: must be {'above' if low else 'at least'} 0 and finite.")
    defaults = options_of(EnergyModel, {}, "model", supplied=_SUPPLIED)
    reads = {"contrastive", "magnitude"}  # what looks at energies, and not at slopes
    unread = [] if needed else ["flip"] + ["jitter"] * (set(names) <= TERMS.keys() - reads)
    for key in unread:
        if key in table and table[key] != defaults[key]:
            raise ConfigError(f"model.{key}: nothing reads it in a recipe of {', '.join(names)}. Leave it out.")
    if needed:
        _can_live(parts["chains"], scalars["scale"])
    return {**parts, **scalars}, ("energy",)


def _entry(name: str) -> TermEntry:
    return TERMS.get(name, TermEntry(lambda context: context, chains=True))  # your own may look at chains


def _term(table: Any, where: str) -> Table:
    """A term with all its options."""
    if isinstance(table, str):
        table = {"name": table}
    if not isinstance(table, dict) or "name" not in table:
        raise ConfigError(f"{where}: give a name, or a table with one; there are {', '.join(TERMS)}.")
    entry = find(table["name"], TERMS, where)
    function = entry.function if isinstance(entry, TermEntry) else entry
    weight = table.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
        raise ConfigError(f"{where}.weight = {weight!r}: must be a finite number, at least 0.")
    rest = options_of(function, {k: v for k, v in table.items() if k not in ("name", "weight")}, where)
    for key in ("sigma", "widest", "scale"):
        if rest.get(key) is not None and not 0 < rest[key] < math.inf:
            raise ConfigError(f"{where}.{key} = {rest[key]}: must be above 0 and finite.")
    if rest.get("widest") is not None and (rest["widest"] < rest["sigma"] or rest["scale"] is None):
        raise ConfigError(
            f"{where}.widest = {rest['widest']}: it must be at least sigma = {rest['sigma']}, and `scale` be given."
        )
    if rest.get("scale") is not None and rest.get("widest") is None:
        raise ConfigError(
            f"{where}.scale = {rest['scale']}: it belongs to `widest`, many levels of noise with one scale. Leave it out."
        )
    if "probes" in rest and rest["probes"] < 1:
        raise ConfigError(f"{where}.probes = {rest['probes']}: must be at least 1.")
    return {"name": table["name"], "weight": float(weight), **rest}


_RANGES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("steps", lambda v: v >= 1, "at least 1"),
    ("step_size", lambda v: 0 < v < math.inf, "above 0 and finite"),
    ("temperature", lambda v: 0 <= v < math.inf, "at least 0 and finite"),
    ("noise", lambda v: 0 <= v < math.inf, "at least 0 and finite"),
    ("clip", lambda v: 0 < v < math.inf, "above 0 and finite"),
    ("leaps", lambda v: v >= 1, "at least 1"),
    ("depth", lambda v: v >= 1, "at least 1"),
    ("restart", lambda v: 0 <= v <= 1, "between 0 and 1"),
    ("restart_data", lambda v: 0 <= v <= 1, "between 0 and 1"),
    ("data", lambda v: 0 <= v <= 1, "between 0 and 1"),
)


def _checked(table: Any, kind: type, where: str) -> Table:
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: give a table; its keys are {', '.join(f.name for f in fields(kind))}.")
    out = options_of(kind, table, where)
    for key, good, said in _RANGES:
        if out.get(key) is not None and not good(out[key]):
            raise ConfigError(f"{where}.{key} = {out[key]}: must be {said}.")
    return out


def sampler_table(given: Any, where: str) -> Table:
    """A sampler with all its options; a bare string is its method.

    Raises:
        ConfigError: an unknown method or option, a value out of range, or an option that the method does not have.
    """
    out = _checked({"method": given} if isinstance(given, str) else given, Sampler, where)
    if out["method"] != "langevin":
        for key in ("noise", "clip"):
            if out[key] is not None:
                raise ConfigError(
                    f"{where}.{key}: {out['method']} follows the law exactly and has no {key} of its own; leave it out, or use langevin."
                )
        if out["temperature"] == 0:
            raise ConfigError(f"{where}.temperature = 0: {out['method']} needs one above 0.")
    elif out["noise"] is not None and out["temperature"] != Sampler.temperature:
        raise ConfigError(
            f"{where}.temperature = {out['temperature']}: nothing reads it where noise is set; a move of {out['step_size']:g} with noise {out['noise']:g} has the temperature {implied_temperature(out['step_size'], out['noise']):.2g}. Leave one of the two out (on the command line `--sampler langevin` forgets noise and clip)."
        )
    if out["method"] != "hmc" and out["leaps"] != Sampler.leaps:
        raise ConfigError(f"{where}.leaps: {out['method']} makes none; it belongs to hmc.")
    return out


def _chains_table(given: Any, where: str) -> Table:
    out = _checked(given, Training, where)
    if out["noise"] is not None and out["temperature"] != Training.temperature:
        raise ConfigError(
            f"{where}.temperature = {out['temperature']}: nothing reads it where noise is set. Leave one of the two out."
        )
    if out["data"] == 1:
        for key in ("depth", "restart", "restart_data"):
            if isinstance(given, dict) and given.get(key, getattr(Training, key)) != getattr(Training, key):
                raise ConfigError(
                    f"{where}.{key}: with data = 1 every chain begins at data and none is kept. Leave it out."
                )
    return out


def _can_live(chains: Table, scale: float) -> None:
    """Refuse chains whose moves are as wide as the data, and kept ones that cannot cross the data's range in all their life, or in a thousand draws where they are never begun anew."""
    shaken = math.sqrt(chains["step_size"] * chains["temperature"]) if chains["noise"] is None else chains["noise"]
    if shaken >= 2 * scale:
        raise ConfigError(
            f"model.chains: the noise of one move, {shaken:.2g}, is as wide as the data, {2 * scale:g}: its chains are noise. Lower step_size or noise."
        )
    if chains["data"] == 1:
        return
    life = chains["steps"] / max(chains["restart"], SELDOM)
    far = reach(math.ceil(life), chains["step_size"], chains["temperature"], noise=chains["noise"], clip=chains["clip"])
    if far < 2 * scale:
        raise ConfigError(
            f"model.chains: in its life of about {life:.0f} moves a chain can go {far:.2g} at most, and data is {2 * scale:g} wide. Raise steps, step_size or clip, or lower restart."
        )


def make_sampler(table: Table) -> Sampler:
    """The object of a table that `sampler_table` has checked."""
    return Sampler(**table)


def change_sampler(model: GenerativeModel, name: str | None, settings: Sequence[str]) -> None:
    """Give a trained model another sampler.

    Args:
        model: An energy model.
        name: Of a method; the model's own when None. Steps, step size, temperature and start are kept; noise and clip, Langevin's own, are not.
        settings: KEY=VALUE, as under [model.sampler].

    Raises:
        ConfigError: an unknown method or setting, or a start that the model does not have.
        NotSupported: not an energy model.
    """
    if not isinstance(model, EnergyModel):
        raise NotSupported("this is no energy model: it has no chain to choose.")
    kept = {f.name: getattr(model.sampler, f.name) for f in fields(Sampler)}
    if name is not None:
        kept = {k: kept[k] for k in ("steps", "step_size", "temperature", "start")} | {"method": name}
        kept["temperature"] = model.sampler.implied_temperature()
    sampler = make_sampler(sampler_table(override(kept, settings), "--set"))
    if sampler.start == "buffer" and model.buffer is None:
        raise ConfigError(
            "--set start=buffer: this energy model was trained without kept chains. Use start=noise or start=data."
        )
    model.sampler = sampler


def build(table: Table, shape: tuple[int, ...], batch_size: int) -> EnergyModel:
    """The model of a resolved table."""
    network = make(table["network"], NETWORKS, "model.network", shape=shape)
    made = []
    for i, t in enumerate(table["terms"]):
        entry = find(t["name"], TERMS, f"model.terms.{i}")
        function = entry.function if isinstance(entry, TermEntry) else entry
        options = {k: v for k, v in t.items() if k not in ("name", "weight")}
        made.append(Term(t["name"], partial(function, **options), t["weight"], _entry(t["name"]).chains))
    return EnergyModel(
        network=network,
        shape=shape,
        terms=made,
        sampler=make_sampler(table["sampler"]),
        training=Training(**table.get("chains", {})),
        rows=batch_size,
        **{k: table[k] for k in sorted(_SCALARS)},
    )
