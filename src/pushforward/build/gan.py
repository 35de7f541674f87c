"""The GAN's part of a recipe: networks, prior, objective, terms and views by name, and the pairs that are refused."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from pushforward.build.components import component, find, make, options_of, temperature_of
from pushforward.config import Table
from pushforward.data.images import ImageSet, to_model
from pushforward.errors import ConfigError, NotSupported, nearest
from pushforward.families.gan import augment, losses, sampling, terms
from pushforward.families.gan.model import GAN
from pushforward.model import GenerativeModel
from pushforward.networks import dcgan, mlp, resnet
from pushforward.networks.blocks import has_batch_norm
from pushforward.networks.wrappers import Conditional, Projection
from pushforward.priors import FlowPrior, GaussianMixture, Normal, Uniform
from pushforward.samplers.rejection import Drawn

GENERATORS: Mapping[str, Callable[..., Any]] = {
    "mlp": mlp.MLPGenerator,
    "dcgan": dcgan.DCGANGenerator,
    "resnet": resnet.ResidualGenerator,
}
DISCRIMINATORS: Mapping[str, Callable[..., Any]] = {
    "mlp": mlp.MLPDiscriminator,
    "dcgan": dcgan.DCGANDiscriminator,
    "resnet": resnet.ResidualDiscriminator,
}
PRIORS: Mapping[str, Callable[..., Any]] = {
    "normal": Normal,
    "uniform": Uniform,
    "gaussian-mixture": GaussianMixture,
    "flow": FlowPrior,
}
OBJECTIVES: Mapping[str, Callable[..., Any]] = {
    "minimax": losses.minimax,
    "non-saturating": losses.non_saturating,
    "least-squares": losses.least_squares,
    "wasserstein": losses.wasserstein,
    "hinge": losses.hinge,
    "relativistic": losses.relativistic,
}


@dataclass(frozen=True)
class TermEntry:
    """A term that ships: its function, whose loss it joins, and what it needs of the context."""

    function: Callable[..., Any]
    player: terms.Player
    needs: frozenset[Any] = frozenset()


TERMS: Mapping[str, TermEntry] = {
    "interpolate-penalty": TermEntry(terms.interpolate_penalty, "discriminator", frozenset({"slope"})),
    "r1": TermEntry(terms.r1, "discriminator", frozenset({"real_slope"})),
    "r2": TermEntry(terms.r2, "discriminator", frozenset({"fake_slope"})),
    "roth": TermEntry(terms.roth, "discriminator", frozenset({"real_slope", "fake_slope"})),
    "dragan": TermEntry(terms.dragan, "discriminator", frozenset({"slope"})),
    "data-anchor": TermEntry(terms.data_anchor, "generator"),
    "consistency-real": TermEntry(terms.consistency_real, "discriminator", frozenset({"images"})),
    "consistency-fake": TermEntry(terms.consistency_fake, "discriminator", frozenset({"images"})),
    "latent-consistency": TermEntry(terms.latent_consistency, "discriminator"),
    "latent-diversity": TermEntry(terms.latent_diversity, "generator"),
    "lecam": TermEntry(terms.lecam, "discriminator", frozenset({"anchors"})),
    "drift": TermEntry(terms.drift, "discriminator"),
}


@dataclass(frozen=True)
class ViewEntry:
    """A view that ships: its function, whether it needs images, whether it changes with the step."""

    function: Callable[..., Any]
    images: bool = True
    stepwise: bool = False


VIEWS: Mapping[str, ViewEntry] = {
    "diffaugment": ViewEntry(augment.diffaugment),
    "ada": ViewEntry(augment.ada),
    "instance-noise": ViewEntry(augment.instance_noise, images=False, stepwise=True),
}

# What a component is given by the house, and so is no option of a recipe.
_GIVEN = {"generator": {"latent", "shape"}, "discriminator": {"shape"}, "prior": set(), "objective": set()}
_TABLES = {"generator": GENERATORS, "discriminator": DISCRIMINATORS, "prior": PRIORS, "objective": OBJECTIVES}
_TERM_KEYS = {"name", "player", "weight", "every"}


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
    checks = (
        ("weight", float, lambda v: 0 <= v < math.inf, "at least 0 and finite"),
        ("every", int, lambda v: v >= 1, "at least 1"),
    )
    for key, kind, good, said in checks:
        try:
            own[key] = TypeAdapter(kind).validate_python(own.get(key, 1))
        except ValidationError as error:
            raise ConfigError(f"{where}.{key} = {own[key]!r}: {error.errors()[0]['msg'].lower()}.") from None
        if not good(own[key]):
            raise ConfigError(f"{where}.{key} = {own[key]!r}: must be {said}.")
    rest = {k: v for k, v in table.items() if k not in _TERM_KEYS}
    known = [*_TERM_KEYS, *(n for n, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY)]
    for key in rest:
        if key not in known:
            raise ConfigError(f"unknown key '{where}.{key}': {nearest(key, known)}")
    return {**own, **options_of(function, rest, where)}


def _view(table: Any, where: str) -> Table:
    """A view with all its options."""
    if isinstance(table, str):
        table = {"name": table}
    if not isinstance(table, dict) or "name" not in table:
        raise ConfigError(f"{where}: give a name, or a table with one; there are {', '.join(VIEWS)}.")
    find(table["name"], VIEWS, where)
    return {
        "name": table["name"],
        **options_of(_function(table["name"]), {k: v for k, v in table.items() if k != "name"}, where),
    }


def _function(view: str) -> Callable[..., Any]:
    entry = find(view, VIEWS, "model.views")
    return entry.function if isinstance(entry, ViewEntry) else entry


def _listed(table: Table, key: str, check: Callable[[Any, str], Table]) -> list[Table]:
    """A list of terms or views, each of another name."""
    listed = table.get(key, [])
    if not isinstance(listed, list):
        raise ConfigError(f"model.{key}: give a list of tables, [[model.{key}]].")
    resolved = [check(t, f"model.{key}.{i}") for i, t in enumerate(listed)]
    names = [t["name"] for t in resolved]
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        summed = " with the summed weight" if key == "terms" else ""
        raise ConfigError(f"model.{key}: {twice!r} is listed twice; give it once{summed}.")
    return resolved


_LISTS = {"terms": _term, "views": _view}


def resolve(table: Table) -> tuple[Table, tuple[str, ...]]:
    """The model's table with every default filled in, and the names of its phases."""
    parts = {}
    for kind in _TABLES:
        if kind not in table and kind != "prior":
            raise ConfigError(f"'model.{kind}' is missing; there are {', '.join(_TABLES[kind])}.")
        part = table.get(kind, {})
        if kind == "prior" and isinstance(part, dict):
            part = {"name": "normal", **part}
        parts[kind] = component(part, _TABLES[kind], f"model.{kind}", supplied=_GIVEN[kind])
    lists = {key: _listed(table, key, check) for key, check in _LISTS.items()}
    rest = {k: v for k, v in table.items() if k not in _TABLES and k not in lists}
    valid = {n: p.default for n, p in inspect.signature(GAN.__init__).parameters.items() if p.kind is p.KEYWORD_ONLY}
    for key in rest:
        if key not in valid:
            raise ConfigError(f"unknown key 'model.{key}': {nearest(key, ['family', *valid])}")
    scalars = options_of(GAN, rest, "model", supplied={*_TABLES, *lists})
    for key, good, said in _LIMITS:
        if scalars[key] is not None and not good(scalars[key]):
            raise ConfigError(f"model.{key} = {scalars[key]}: must be {said}.")
    # An empty list and unroll_steps = 0 that are written out switch a part of a recipe off, whose other settings may stay.
    adaptive = table.get("views") == [] or any(_function(v["name"]) is augment.ada for v in lists["views"])
    without = {
        "ada_target": not adaptive and "the view ada",
        "ada_images": not adaptive and "the view ada",
        "unroll_update": "unroll_steps" not in table and "model.unroll_steps",
        "unroll_rate": ("unroll_steps" not in table and "model.unroll_steps")
        or (scalars["unroll_update"] != "descent" and 'model.unroll_update = "descent"'),
    }
    for key, missing in without.items():
        if missing and scalars[key] != valid[key]:
            raise ConfigError(f"model.{key} = {scalars[key]} does nothing without {missing}; leave it at {valid[key]}.")
    _refuse_senseless(parts["objective"], lists["terms"], lists["views"], scalars)
    if scalars["temperature"] != 1 and parts["prior"]["name"] != "normal":
        raise ConfigError(
            f"model.temperature with the prior {parts['prior']['name']}: it scales normal latents. Leave it out."
        )
    return {**parts, **lists, **scalars}, ("discriminator", "generator")


_LIMITS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("discriminator_steps", lambda v: v >= 1, "at least 1"),
    ("weight_clip", lambda v: 0 < v < math.inf, "above 0 and finite"),
    ("unroll_steps", lambda v: v >= 0, "at least 0"),
    ("unroll_rate", lambda v: 0 < v < math.inf, "above 0 and finite"),
    ("pack", lambda v: v >= 1, "at least 1"),
    ("classes", lambda v: v >= 2, "at least 2"),
    ("ada_target", lambda v: -1 < v < 1, "between -1 and 1"),
    ("ada_images", lambda v: v >= 1, "at least 1"),
    ("temperature", lambda v: 0 < v < math.inf, "above 0 and finite"),
)
_SLOPES = frozenset({"slope", "real_slope", "fake_slope"})


def _needs(name: str) -> frozenset[Any]:
    """What a term reads of the context that is not there by itself: your own says it as an attribute, `my_term.needs = {"real_slope"}`."""
    entry = find(name, TERMS, "model.terms")
    return frozenset(entry.needs if isinstance(entry, TermEntry) else getattr(entry, "needs", ()))


def _refuse_senseless(objective: Table, listed: list[Table], views: list[Table], scalars: Table) -> None:
    """Refuse parts that make no sense together, with the reason."""
    needs = {t["name"]: _needs(t["name"]) for t in listed}
    made = make(objective, OBJECTIVES, "model.objective")
    if any(v["name"] == "ada" for v in views) and made.neutral is None:
        raise ConfigError(
            f"model.views: ada with the objective {objective['name']}: it steers by the sign of D on data, and here D has no level at which it is undecided. Leave one out."
        )
    if not made.calibrated and "roth" in needs:
        raise ConfigError(
            f"model.terms: roth with the objective {objective['name']}: it weighs slopes by the sigmoid of D, and here D is no logit of a probability (minimax and non-saturating have one). Take r1 and r2, or leave one out."
        )
    foreseen = [t["name"] for t in listed if t["player"] == "discriminator"]
    if scalars["unroll_steps"] and foreseen:
        raise ConfigError(
            f"model.unroll_steps with the term {foreseen[0]}: the look ahead takes the objective alone, and would miss it. Leave one out."
        )
    for name, needed in needs.items():
        if scalars["pack"] > 1 and needed & _SLOPES:
            raise ConfigError(
                f"model.pack = {scalars['pack']} with the term {name}: a pack has one logit, so there is no slope of one sample to penalise. Leave one out."
            )
    if scalars["pack"] > 1 and scalars["classes"] is not None:
        raise ConfigError("model.pack with model.classes: a pack mixes classes, so it has no label. Leave one out.")
    if scalars["unroll_steps"] and scalars["share_fakes"]:
        raise ConfigError(
            "model.unroll_steps with model.share_fakes: the look ahead needs fakes of its own. Leave one out."
        )
    if scalars["unroll_steps"] and scalars["weight_clip"] is not None:
        raise ConfigError(
            "model.unroll_steps with model.weight_clip: the look ahead knows nothing of the clip. Leave one out."
        )
    if {"diffaugment", "ada"} <= {v["name"] for v in views}:
        raise ConfigError("model.views: diffaugment and ada both change every input. Leave one out.")


def _make(table: Table, kind: str, **supplied: Any) -> Any:
    return make(table[kind], _TABLES[kind], f"model.{kind}", **supplied)


def build(table: Table, shape: tuple[int, ...], batch_size: int) -> GAN:
    """The model of a resolved table."""
    if batch_size % table["pack"]:
        raise ConfigError(f"train.batch_size = {batch_size} is no multiple of model.pack = {table['pack']}.")
    prior, classes = _make(table, "prior"), table["classes"]
    embedding = 0 if classes is None else classes
    generator: nn.Module = _make(table, "generator", latent=prior.dim + embedding, shape=shape)
    packed = (table["pack"] * shape[0], *shape[1:])
    discriminator: nn.Module = _make(table, "discriminator", shape=packed)
    if classes is not None:
        generator = Conditional(generator, classes, embedding)
        try:
            spectral = table["discriminator"].get("norm") == "spectral"
            discriminator = Projection(discriminator, classes, spectral=spectral)
        except ValueError as error:
            raise ConfigError(f"model.classes = {classes}: {error}.") from error
    if table["unroll_steps"] and has_batch_norm(discriminator):
        raise ConfigError(
            'model.unroll_steps with batch norm in the discriminator: looking ahead would move its statistics. Set discriminator.norm = "none" or "spectral".'
        )
    if table["weight_clip"] is not None and table["discriminator"].get("norm") == "spectral":
        raise ConfigError(
            "model.weight_clip with spectral norm in the discriminator: weights are divided by their norm after the clip, so that it bounds nothing. Leave one out."
        )
    slopes = [t["name"] for t in table["terms"] if _needs(t["name"]) & _SLOPES]
    if slopes and has_batch_norm(discriminator):
        raise ConfigError(
            f'the term {slopes[0]} with batch norm in the discriminator: each logit depends on the whole batch, so there is no slope of one sample. Set discriminator.norm = "none" or "spectral".'
        )
    scalars = {k: v for k, v in table.items() if k not in (*_TABLES, *_LISTS, "family")}
    return GAN(
        generator=generator,
        discriminator=discriminator,
        prior=prior,
        objective=_make(table, "objective"),
        terms=[_build_term(t, shape) for t in table["terms"]],
        views=[_build_view(v, shape) for v in table["views"]],
        **scalars,
    )


def _build_term(table: Table, shape: tuple[int, ...]) -> terms.Term:
    entry = find(table["name"], TERMS, "model.terms")
    function, needs = entry.function if isinstance(entry, TermEntry) else entry, _needs(table["name"])
    if "images" in needs and len(shape) != 3:
        raise ConfigError(f"model.terms: {table['name']} changes images, and this data has points of shape {shape}.")
    options = {k: v for k, v in table.items() if k not in _TERM_KEYS}
    return terms.Term(table["name"], function, table["player"], table["weight"], table["every"], options, needs)


def _build_view(table: Table, shape: tuple[int, ...]) -> augment.View:
    entry = find(table["name"], VIEWS, "model.views")
    if not isinstance(entry, ViewEntry):
        entry = ViewEntry(entry, images=False, stepwise=True)
    if entry.images and len(shape) != 3:
        raise ConfigError(f"model.views: {table['name']} changes images, and this data has points of shape {shape}.")
    options = {k: v for k, v in table.items() if k != "name"}
    return augment.View(table["name"], entry.function, options, entry.stepwise)


def change_sampler(model: GenerativeModel, name: str | None, settings: Sequence[str]) -> None:
    """Give a trained GAN another temperature, the one thing that its plain sampling has; `draw_with` has the other samplers.

    Raises:
        ConfigError: another setting, or a value out of range.
        NotSupported: a sampler by name, or latents that are not normal.
    """
    if not isinstance(model, GAN):
        raise NotSupported("this is no GAN: it has no temperature of latents.")
    if name is not None:
        raise NotSupported(f"{name} draws samples by itself: it is no setting of the model.")
    for pair in settings:
        if not pair.startswith("temperature="):
            raise ConfigError(
                f"--set {pair}: plain sampling of a GAN has the setting temperature alone; name a --sampler that has others: {', '.join(sampling.SAMPLERS)}."
            )
    temperature = temperature_of(model.temperature, settings)
    if temperature != 1 and not isinstance(model.prior, Normal):
        raise NotSupported("--set temperature scales normal latents; this GAN's prior is another. Leave it out.")
    model.temperature = temperature


def draw_with(
    name: str,
    model: GenerativeModel,
    n: int,
    given: Sequence[str],
    *,
    real: Any = None,
    averaged: bool = True,
    label: int | None = None,
    seed: int = 0,
) -> Drawn:
    """Samples by one of the samplers that a discriminator helps.

    Args:
        name: In `families.gan.sampling.SAMPLERS`.
        model: A trained GAN.
        n: How many.
        given: KEY=VALUE settings of the sampler.
        real: Images to calibrate the logit on, such that the model was not trained on.
        averaged: The generator has averaged weights, which the discriminator was not trained against.
        label: A class, for `truncated` alone: what asks the discriminator is for unconditional models.
        seed: Of all draws.

    Raises:
        ConfigError: an unknown sampler or setting, or settings with which it finds nothing.
        NotSupported: not a GAN, or one whose logit is no density ratio; a calibration or a label that the sampler has no use for.
    """
    if name not in sampling.SAMPLERS:
        raise ConfigError(f"no sampler is called {name!r}: {nearest(name, sampling.SAMPLERS)}")
    if not isinstance(model, GAN):
        raise NotSupported("--sampler is for GANs: it needs a discriminator.")
    table: Table = {}
    for pair in given:
        key, _, text = pair.partition("=")
        try:
            table[key] = float(text) if "." in text or "e" in text else int(text)
        except ValueError:
            raise ConfigError(f"--set {pair}: a sampler's settings are numbers, as in percentile=80.") from None
    factory = sampling.SAMPLERS[name]
    options = options_of(factory, table, f"--set {name}", supplied={"seed", "label"})
    needs_ratio = name in ("drs", "mh", "top")
    if label is not None:
        if name != "truncated":
            raise NotSupported(f"--label is for truncated: {name} asks the discriminator, for unconditional models.")
        options["label"] = label
    if real is not None and not needs_ratio:
        raise NotSupported(f"--calibrate is for drs, mh and top; {name} takes the logit as it is.")
    if real is None and averaged and name in ("drs", "mh"):
        raise NotSupported(
            f"{name} needs a density ratio, and the discriminator never faced the averaged generator that is sampled: add --calibrate (for images; of points, take truncated or ddls)."
        )
    data = None
    if real is not None:
        if not isinstance(real, ImageSet):
            raise NotSupported("--calibrate needs a data set of images; of points, take truncated or ddls.")
        data = to_model(real.images[torch.randperm(len(real), generator=torch.Generator().manual_seed(0))[:2000]])
    try:
        ratio = sampling.log_ratio(model, real=data, seed=seed) if needs_ratio else (lambda x: x)
        return factory(model, n, ratio, **options, seed=seed)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from error
