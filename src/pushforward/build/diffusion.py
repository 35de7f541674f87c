"""The diffusion model's part of a recipe: network, schedule and sampler by name, and the pairs that are refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from pushforward.build.components import component, make, options_of
from pushforward.config import Table, override
from pushforward.errors import ConfigError, NotSupported, nearest
from pushforward.families.diffusion import schedules
from pushforward.families.diffusion.bridge import tell_table
from pushforward.families.diffusion.denoisers import EmpiricalDenoiser, NetworkDenoiser
from pushforward.families.diffusion.guidance import ClassifierFree
from pushforward.families.diffusion.model import Diffusion, Sampler
from pushforward.families.diffusion.solvers import SOLVERS, final, walk
from pushforward.model import GenerativeModel
from pushforward.networks import unet
from pushforward.networks.diffusers_unet import DiffusersUNet

NETWORKS: Mapping[str, Callable[..., Any]] = {
    "unet": unet.UNet,
    "mlp": unet.MLPDenoiserNetwork,
    "diffusers-unet": DiffusersUNet,
}
SCHEDULES: Mapping[str, Callable[..., Any]] = {
    "ddpm": schedules.DiscreteDDPM,
    "vp": schedules.VP,
    "cosine": schedules.Cosine,
    "ve": schedules.VE,
    "rectified": schedules.Rectified,
}
_TABLES = {"network": NETWORKS, "schedule": SCHEDULES}
_GIVEN = {"network": {"shape", "classes"}, "schedule": set()}
_OF_DENOISER = {"parametrisation", "data_sd"}


def resolve(table: Table) -> tuple[Table, tuple[str, ...]]:
    """The model's table with every default filled in, and the names of its phases."""
    for kind, known in _TABLES.items():
        if kind not in table:
            raise ConfigError(f"'model.{kind}' is missing; there are {', '.join(known)}.")
    parts = {
        kind: component(table[kind], known, f"model.{kind}", supplied=_GIVEN[kind]) for kind, known in _TABLES.items()
    }
    sampler = sampler_table(table.get("sampler", {}), "model.sampler")
    rest = {k: v for k, v in table.items() if k not in (*parts, "sampler")}
    valid = {*_OF_DENOISER, "classes", "label_dropout", "weighting", "times", "times_centre"}
    for key in rest:
        if key not in valid:
            raise ConfigError(f"unknown key 'model.{key}': {nearest(key, ['family', *_TABLES, 'sampler', *valid])}")
    of_denoiser = {k: v for k, v in rest.items() if k in _OF_DENOISER}
    of_model = {k: v for k, v in rest.items() if k not in _OF_DENOISER}
    scalars = options_of(NetworkDenoiser, of_denoiser, "model") | options_of(
        Diffusion, of_model, "model", supplied={"denoiser", "shape", "sampler"}
    )
    if scalars["classes"] is not None and scalars["classes"] < 2:
        raise ConfigError(f"model.classes = {scalars['classes']}: must be at least 2.")
    if not 0 <= scalars["label_dropout"] < 1:
        raise ConfigError(f"model.label_dropout = {scalars['label_dropout']}: must lie in [0, 1).")
    if scalars["times"] == "discrete" and parts["schedule"]["name"] != "ddpm":
        raise ConfigError(
            f'model.times = "discrete" with the schedule {parts["schedule"]["name"]}: it has no levels of its own. Use "uniform", or the schedule ddpm.'
        )
    if sampler["guidance"] != 1 and (scalars["classes"] is None or not scalars["label_dropout"]):
        raise ConfigError(
            f"model.sampler.guidance = {sampler['guidance']}: guidance needs model.classes and a model.label_dropout above 0."
        )
    return {**parts, "sampler": sampler, **scalars}, ("denoiser",)


def sampler_table(given: Any, where: str) -> Table:
    """A sampler with all its options: those of `Sampler`, the solver's, its grid's and the guidance's, in one flat table.

    Raises:
        ConfigError: an unknown solver or option, or a value of the wrong type or range.
    """
    if isinstance(given, str):
        given = {"solver": given}
    if not isinstance(given, dict):
        raise ConfigError(f"{where}: give a solver's name, or a table; there are {', '.join(SOLVERS)}.")
    name = given.get("solver", Sampler.solver)
    if name not in SOLVERS:
        raise ConfigError(f"{where}.solver = {name!r}: {nearest(str(name), SOLVERS)}")
    own = {"steps", "guidance", "clip"}
    groups = {
        "solver": (SOLVERS[name].solve, {"generator"}),
        "grid": (SOLVERS[name].grid, set()),
        "guidance": (ClassifierFree, {"null", "scale"}),
    }
    valid = {group: _options(factory) - hidden for group, (factory, hidden) in groups.items()}
    # a grid and the guidance may both have an end called `low`: the guidance's options carry its name
    flat = {"solver", *own, *valid["solver"], *valid["grid"], *(f"guidance_{k}" for k in valid["guidance"])}
    for key in given:
        if key not in flat:
            raise ConfigError(f"unknown key '{where}.{key}': {nearest(key, sorted(flat))}")
    table: Table = {"solver": name}
    base = options_of(Sampler, {k: v for k, v in given.items() if k in own}, where, supplied=_NOT_SAID)
    table |= base
    for group, (factory, hidden) in groups.items():
        prefix = "guidance_" if group == "guidance" else ""
        said = {k.removeprefix(prefix): v for k, v in given.items() if k.startswith(prefix)}
        said = {k: v for k, v in said.items() if k in valid[group]}
        found = options_of(factory, said, where, supplied=hidden)
        table |= {f"{prefix}{k}": v for k, v in found.items()}
    make_sampler(table, where)
    return table


_NOT_SAID = {"solver", "guidance_options", "solver_options", "grid_options"}


def _options(factory: Callable[..., Any]) -> set[str]:
    return {n for n, p in inspect.signature(factory).parameters.items() if p.kind is p.KEYWORD_ONLY}


def make_sampler(table: Table, where: str = "model.sampler", schedule: schedules.Schedule | None = None) -> Sampler:
    """The sampler of a checked table, tried on its schedule where that is known."""
    entry = SOLVERS[table["solver"]]
    solver = _options(entry.solve) - {"generator"}
    grid = _options(entry.grid)
    try:
        sampler = Sampler(
            solver=table["solver"],
            steps=table["steps"],
            guidance=table["guidance"],
            clip=table["clip"],
            solver_options={k: v for k, v in table.items() if k in solver},
            grid_options={k: v for k, v in table.items() if k in grid},
            guidance_options={k.removeprefix("guidance_"): v for k, v in table.items() if k.startswith("guidance_")},
        )
        schedule = schedule or schedules.VP()
        steps = sampler.steps if sampler.steps is not None else entry.steps
        times = entry.grid(schedule, steps, **sampler.grid_options)
        walk(schedule, times)
        # Two steps with one point as data, so that solver and guidance refuse their options now and not in mid-training.
        point = EmpiricalDenoiser(torch.zeros(1, 1), schedule)
        final(entry.solve(point, torch.zeros(1, 1), times[:3], **sampler.solver_options))
        ClassifierFree(point, torch.zeros(1), null=1, scale=sampler.guidance, **dict(sampler.guidance_options))
    except (ValueError, TypeError, ArithmeticError) as error:
        raise ConfigError(f"{where}: {error}.") from error
    return sampler


def change_sampler(model: GenerativeModel, name: str | None, settings: Sequence[str]) -> None:
    """Give a trained model another sampler.

    Args:
        model: A diffusion model.
        name: Of a solver; the model's own when None. Guidance and clipping are kept, the rest only if the solver stays.
        settings: KEY=VALUE, as under [model.sampler].

    Raises:
        ConfigError: an unknown solver or setting, or guidance of a model that was not trained for it.
        NotSupported: not a diffusion model.
    """
    if not isinstance(model, Diffusion):
        raise NotSupported("this is no diffusion model: it has no solver to choose.")
    now = model.sampler
    kept: Table = {"guidance": now.guidance, "clip": now.clip}
    kept |= {f"guidance_{k}": v for k, v in now.guidance_options.items()}
    if name in (None, now.solver):
        kept |= {"steps": now.steps, **now.grid_options, **now.solver_options}
    table = override({**kept, "solver": name or now.solver}, settings)
    sampler = make_sampler(sampler_table(table, "--set"), "--set", model.denoiser.schedule)
    if sampler.guidance != 1 and (model.classes is None or not model.label_dropout):
        raise ConfigError(
            f"--set guidance={sampler.guidance}: guidance needs a model that was trained with classes and a label_dropout above 0."
        )
    model.sampler = sampler


def build(table: Table, shape: tuple[int, ...], batch_size: int) -> Diffusion:
    """The model of a resolved table."""
    network = make(table["network"], NETWORKS, "model.network", shape=shape, classes=table["classes"])
    schedule = make(table["schedule"], SCHEDULES, "model.schedule")
    try:
        tell_table(network, schedule)
    except ValueError as error:
        raise ConfigError(f"model.network: {error}.") from error
    try:
        denoiser = NetworkDenoiser(
            network, schedule, parametrisation=table["parametrisation"], data_sd=table["data_sd"]
        )
    except ValueError as error:
        raise ConfigError(f"model.parametrisation: {error}.") from error
    return Diffusion(
        denoiser=denoiser,
        shape=shape,
        sampler=make_sampler(table["sampler"], schedule=schedule),
        **{k: table[k] for k in ("classes", "label_dropout", "weighting", "times", "times_centre")},
    )
