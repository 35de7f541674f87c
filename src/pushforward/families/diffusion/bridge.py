"""To and from diffusers: their unconditional and class-conditional checkpoints as a denoiser with its schedule, our runs as their pipelines.

Weights come from safetensors alone: nothing is unpickled. diffusers itself is imported only here and in `networks.diffusers_unet`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.errors import CheckpointError, NotSupported
from pushforward.families.diffusion.denoisers import PARAMETRISATIONS, Denoiser, levels
from pushforward.families.diffusion.model import Diffusion
from pushforward.families.diffusion.schedules import Discrete, DiscreteDDPM, Schedule
from pushforward.networks.diffusers_unet import DiffusersUNet

_PREDICTS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
_TABLE_SCHEDULERS = frozenset(
    f"{name}Scheduler"
    for name in (
        *("DDPM", "DDPMParallel", "DDIM", "DDIMParallel", "DDIMInverse", "PNDM", "LMSDiscrete", "EulerDiscrete", "SASolver"),
        *("EulerAncestralDiscrete", "HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DEISMultistep", "UniPCMultistep"),
        *("DPMSolverMultistep", "DPMSolverMultistepInverse", "DPMSolverSinglestep", "DPMSolverSDE"),
    )
)  # fmt: skip
"""Schedulers whose network is told an index of a table of betas, and sees alpha x_0 + sigma eps."""


class DiffusersDenoiser(nn.Module, Denoiser):
    """A network of diffusers' as a denoiser.

    Args:
        network: A UNet2DModel.
        schedule: Of the table that it was trained with.
        parametrisation: What it gives: "eps", "x0" or "v".
    """

    def __init__(self, network: nn.Module, schedule: Discrete, parametrisation: str) -> None:
        super().__init__()
        self.network, self.schedule, self.parametrisation = network, schedule, parametrisation
        size = network.config.sample_size  # type: ignore[union-attr]
        self.shape = (network.config.in_channels, size, size)  # type: ignore[union-attr]
        self.classes: int | None = network.config.num_class_embeds  # type: ignore[union-attr, assignment]

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        if labels is None and self.classes is not None:
            raise NotSupported(
                f'this network was trained with {self.classes} labels and knows no "none" among them: give some.'
            )
        said: dict[str, Any] = {} if labels is None else {"class_labels": labels}
        return denoised_by(self, x, t, **said)

    __call__ = nn.Module.__call__


def denoised_by(of: Any, x: Tensor, t: Tensor, **said: Any) -> Tensor:
    """The expected data, from what a network of theirs gives at an index of its table: `of` has network, schedule and parametrisation."""
    index = (t.double() * of.schedule.steps - 1).clamp(min=0).float().expand(len(x)).to(x.device)
    alpha, sigma = levels(of.schedule, t, x)
    c = PARAMETRISATIONS[of.parametrisation](alpha, sigma, 1.0)
    return c.skip * x + c.out * of.network(x, index, **said).sample


def load_diffusers(source: str | Path) -> DiffusersDenoiser:
    """The denoiser of a pipeline's folder, or of a name on the hub.

    Args:
        source: A folder with model_index.json, unet/ and scheduler/, or owner/name on the hub (downloaded by diffusers).

    Raises:
        NotSupported: diffusers is missing, or the pipeline works in another way (latents, text, a rescaled table).
        CheckpointError: nothing readable there.
    """
    folder = locate(source)
    from diffusers import UNet2DModel

    index = read_json(folder / "model_index.json")
    parts = {k: v[-1] for k, v in index.items() if isinstance(v, list) and v and v[0]}
    others = [k for k in parts if k not in ("unet", "scheduler")]
    if others or parts.get("unet") != "UNet2DModel":
        raise NotSupported(
            f"{source} is a {index.get('_class_name', 'pipeline')} with {', '.join(others) or index.get('unet')}: only unconditional and "
            "class-conditional models of pixels (UNet2DModel) are loaded here; `text.load_text_to_image` knows Stable Diffusion 1 and 2."
        )
    try:
        network = UNet2DModel.from_pretrained(folder / "unet", use_safetensors=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder / 'unet'}: no weights that can be read ({error}).") from error
    c_in, c_out = network.config.in_channels, network.config.out_channels  # type: ignore[attr-defined]
    if c_in != c_out:
        raise NotSupported(
            f"{source}: its network makes {c_out} channels of {c_in} (a learned variance?); one is wanted for each."
        )
    if not isinstance(network.config.sample_size, int):  # type: ignore[attr-defined]
        raise NotSupported(f"{source}: its images are not square, or of no fixed size.")
    return DiffusersDenoiser(network.eval(), *levels_of(folder, str(source)))


def locate(source: str | Path) -> Path:
    """The folder of a pipeline, downloaded if it is a name on the hub.

    Raises:
        NotSupported: diffusers is missing.
        CheckpointError: no folder, and nothing on the hub.
    """
    try:
        from diffusers import DiffusionPipeline
    except ImportError as error:
        raise NotSupported("loading their checkpoints needs diffusers: pip install 'pushforward[hub]'.") from error
    folder = Path(source)
    if folder.exists():
        return folder
    try:
        return Path(DiffusionPipeline.download(str(source), use_safetensors=True))
    except Exception as error:  # whatever the hub's client raises: offline, unknown, private
        raise CheckpointError(f"{source}: no folder here, and the hub gave nothing ({error}).") from error


def levels_of(folder: Path, source: str) -> tuple[Discrete, str]:
    """The schedule that a pipeline's network was trained with, and what the network gives.

    Raises:
        NotSupported: another kind of table, or of output.
        CheckpointError: nothing readable there.
    """
    noise = read_json(folder / "scheduler" / "scheduler_config.json")
    kind = noise.get("_class_name")
    flow, counts = noise.get("use_flow_sigmas"), noise.get("timestep_type", "discrete")
    if kind not in _TABLE_SCHEDULERS or flow or counts != "discrete":
        why = "straight lines" if flow else f"{counts} levels" if counts != "discrete" else "another kind of levels"
        raise NotSupported(
            f"{source}: its {kind or 'scheduler without a name'} stands for {why}; only networks trained on a table of betas, "
            "as DDPM's, are loaded here."
        )
    predicts = noise.get("prediction_type", "epsilon")
    if predicts not in _PREDICTS:
        raise NotSupported(
            f"{source}: prediction_type {predicts!r} is not known here; there are {', '.join(_PREDICTS)}."
        )
    try:
        return Discrete(_table(noise, source)), _PREDICTS[predicts]
    except (NotSupported, CheckpointError):
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{source}: its scheduler's table cannot be made ({error}).") from error


def read_json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no table")
        return found
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); a diffusers pipeline has it.") from error


def _table(config: dict[str, Any], source: str) -> Tensor:
    """alpha^2 of each level, as diffusers makes it: in float32."""
    if config.get("rescale_betas_zero_snr"):
        raise NotSupported(f"{source}: its table is rescaled to end in pure noise, where eps says nothing of the data.")
    if config.get("trained_betas") is not None:
        betas = torch.tensor(config["trained_betas"], dtype=torch.float32)
    else:
        keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
        missing = [k for k in keys if k not in config]
        if missing:  # their defaults differ from scheduler to scheduler
            raise CheckpointError(f"{source}: its scheduler's table cannot be made ({', '.join(missing)}: not given).")
        n, low, high, shape = (config[k] for k in keys)
        match shape:
            case "linear":
                betas = torch.linspace(low, high, n)
            case "scaled_linear":
                betas = torch.linspace(low**0.5, high**0.5, n).square()
            case "squaredcos_cap_v2":
                u = torch.arange(n + 1, dtype=torch.float64) / n
                kept = torch.cos((u + 0.008) / 1.008 * torch.pi / 2).square()
                betas = (1 - kept[1:] / kept[:-1]).clamp(max=0.999).float()
            case other:
                raise NotSupported(f"{source}: beta_schedule {other!r} is not known here.")
    return (1.0 - betas).cumprod(0).double()


def export_diffusers(model: Diffusion, folder: Path) -> None:
    """Write a run as a DDPMPipeline's folder that diffusers loads.

    Args:
        model: Whose network is `diffusers-unet`, on DDPM's table.
        folder: New, or empty.

    Raises:
        NotSupported: a model that no pipeline of theirs can run, with the reason.
    """
    reason = cannot_export(model)
    if reason is not None:
        raise NotSupported(f"this run cannot be a diffusers pipeline: {reason}.")
    from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel

    schedule, network = model.denoiser.schedule, model.denoiser.network
    assert isinstance(schedule, DiscreteDDPM)
    predicts = next(k for k, v in _PREDICTS.items() if v == model.denoiser.parametrisation)
    scheduler = DDIMScheduler(
        num_train_timesteps=schedule.steps,
        beta_start=schedule.first,
        beta_end=schedule.last,
        beta_schedule="linear",
        prediction_type=predicts,
        clip_sample=False,
        timestep_spacing="trailing",
    )
    inner = network.inner
    assert isinstance(inner, UNet2DModel)
    pipeline: Any = DDPMPipeline(unet=inner, scheduler=scheduler)
    pipeline.save_pretrained(folder, safe_serialization=True)


def cannot_export(model: Diffusion) -> str | None:
    """Why a model is no diffusers pipeline; None if it is one."""
    d = model.denoiser
    if not isinstance(d.network, DiffusersUNet):
        return 'its network is our own, which diffusers does not have; train with model.network = "diffusers-unet"'
    if not isinstance(d.schedule, DiscreteDDPM):
        return 'its schedule is not DDPM\'s table; train with model.schedule = "ddpm"'
    if d.parametrisation not in _PREDICTS.values():
        return f"its network gives {d.parametrisation}, which their schedulers do not know; use eps, x0 or v"
    if d.data_sd != 1:
        return "its network sees scaled inputs; train with model.data_sd = 1"
    return None


def tell_table(network: nn.Module, schedule: Schedule) -> None:
    """Give a `DiffusersUNet` the table whose indices it is told."""
    if not isinstance(network, DiffusersUNet):
        return
    if not isinstance(schedule, Discrete):
        raise ValueError('the network diffusers-unet counts levels of a table; use the schedule "ddpm"')
    network.table = schedule.table.clone()
