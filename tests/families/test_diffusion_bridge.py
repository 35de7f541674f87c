"""To diffusers and back: the same numbers, or a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from pushforward import build
from pushforward.config import parse
from pushforward.errors import CheckpointError, ConfigError, NotSupported
from pushforward.families.diffusion import bridge
from pushforward.families.diffusion.bridge import cannot_export, export_diffusers, load_diffusers
from pushforward.families.diffusion.model import Diffusion
from pushforward.families.diffusion.solvers import ddim, final
from pushforward.networks.diffusers_unet import DiffusersUNet

diffusers = pytest.importorskip("diffusers", reason="needs the extra hub")


def made(**changes: object) -> Diffusion:
    table = {
        "family": "diffusion",
        "network": {"name": "diffusers-unet", "width": 32, "multipliers": [1, 2]},
        "schedule": "ddpm",
        "parametrisation": "eps",
        "data_sd": 1.0,
        "times": "discrete",
    }
    config = parse({"model": table | changes, "optimiser": {"denoiser": {"name": "adam"}}}, "test")
    model = build.build_model(build.resolve(config), (1, 16, 16))
    assert isinstance(model, Diffusion)
    for p in model.parameters():  # what starts at zero would hide a wrong input
        if not p.any():
            nn.init.normal_(p, 0.0, 0.05)
    return model.eval()


X = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("parametrisation", ["eps", "v", "x0"])
def test_there_and_back_is_the_same_denoiser(tmp_path: Path, parametrisation: str, classes: int | None) -> None:
    model = made(parametrisation=parametrisation, **({} if classes is None else {"classes": classes}))
    export_diffusers(model, tmp_path / "pipe")
    assert not list((tmp_path / "pipe").rglob("*.bin"))
    back = load_diffusers(tmp_path / "pipe")
    labels = None if classes is None else torch.tensor([0, 2])
    with torch.no_grad():
        for k in (1, 300, 1000):
            t = torch.tensor(k / 1000, dtype=torch.float64)
            ours, theirs = model.denoiser(X, t, labels), back(X, t, labels)
            torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5 * float(ours.abs().max()))


def test_their_pipeline_samples_what_we_sample(tmp_path: Path) -> None:
    model = made(parametrisation="v")  # whose samples of an untrained network stay small
    export_diffusers(model, tmp_path / "pipe")
    pipe = diffusers.DDIMPipeline.from_pretrained(tmp_path / "pipe")
    pipe.set_progress_bar_config(disable=True)
    images = pipe(
        batch_size=2, generator=torch.Generator().manual_seed(3), num_inference_steps=10, output_type="np"
    ).images
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    found = final(ddim(model.denoiser, x, torch.linspace(1, 0, 11, dtype=torch.float64)))
    want = (found / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(torch.from_numpy(images), want, rtol=1e-3, atol=1e-4)


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    for changes, said in (
        ({"network": {"name": "unet", "width": 16}}, "diffusers-unet"),
        ({"parametrisation": "flow"}, "flow"),
        ({"data_sd": 0.5}, "data_sd = 1"),
    ):
        assert said in str(cannot_export(made(**changes)))
    with pytest.raises(NotSupported, match="our own"):
        export_diffusers(made(network={"name": "unet", "width": 16}), tmp_path)
    with pytest.raises(ConfigError, match="levels of a table"):
        made(schedule="rectified", parametrisation="v", times="uniform")


def test_other_pipelines_are_refused_with_the_reason(tmp_path: Path) -> None:
    export_diffusers(made(), tmp_path / "pipe")
    index = tmp_path / "pipe/model_index.json"
    whole = json.loads(index.read_text())
    index.write_text(json.dumps(whole | {"vae": ["diffusers", "AutoencoderKL"]}))
    with pytest.raises(NotSupported, match="vae"):
        load_diffusers(tmp_path / "pipe")
    index.write_text(json.dumps(whole))
    config = tmp_path / "pipe/scheduler/scheduler_config.json"
    noise = json.loads(config.read_text())
    for change, said in (
        ({"rescale_betas_zero_snr": True}, "pure noise"),
        ({"beta_schedule": "odd"}, "odd"),
        ({"prediction_type": "flow"}, "flow"),
        ({"use_flow_sigmas": True}, "straight lines"),
        ({"timestep_type": "continuous"}, "continuous"),
        ({"_class_name": "ScoreSdeVeScheduler"}, "ScoreSdeVe"),
    ):
        config.write_text(json.dumps(noise | change))
        with pytest.raises(NotSupported, match=said):
            load_diffusers(tmp_path / "pipe")
    for change in ({"beta_start": "x"}, {"beta_end": -1.0}, {"num_train_timesteps": 0}):
        config.write_text(json.dumps(noise | change))
        with pytest.raises(CheckpointError, match="table"):
            load_diffusers(tmp_path / "pipe")
    config.write_text(json.dumps({k: v for k, v in noise.items() if k != "beta_end"}))
    with pytest.raises(CheckpointError, match="beta_end: not given"):
        load_diffusers(tmp_path / "pipe")
    index.write_text(json.dumps(whole | {"unet": ["diffusers"]}))
    with pytest.raises(NotSupported, match="UNet2DModel"):
        load_diffusers(tmp_path / "pipe")
    index.write_text(json.dumps(whole))
    config.write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_diffusers(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_diffusers(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler", "CMStochasticIterativeScheduler", "ScoreSdeVeScheduler"],
)
def test_networks_of_other_levels_are_refused_as_their_pipelines_save_them(tmp_path: Path, name: str) -> None:
    network = made().denoiser.network
    assert isinstance(network, DiffusersUNet)
    scheduler = getattr(diffusers, name)()
    diffusers.DDPMPipeline(unet=network.inner, scheduler=scheduler).save_pretrained(tmp_path / "pipe")
    with pytest.raises(NotSupported, match=name):
        load_diffusers(tmp_path / "pipe")


def test_a_learned_variance_is_refused(tmp_path: Path) -> None:
    network = diffusers.UNet2DModel(
        sample_size=16, in_channels=1, out_channels=2, block_out_channels=(32,), layers_per_block=1,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range")
    diffusers.DDPMPipeline(unet=network, scheduler=scheduler).save_pretrained(tmp_path / "pipe")
    with pytest.raises(NotSupported, match="2 channels of 1"):
        load_diffusers(tmp_path / "pipe")


@pytest.mark.parametrize("name", sorted(bridge._TABLE_SCHEDULERS))
def test_every_scheduler_taken_has_the_table_that_we_make(tmp_path: Path, name: str) -> None:
    betas = [0.01, 0.02, 0.05, 0.2]
    for options in ({"beta_schedule": "scaled_linear"}, {"trained_betas": betas, "num_train_timesteps": 4}):
        try:
            theirs = getattr(diffusers, name)(**options)
        except ImportError as error:
            pytest.skip(f"{name}: {error}")
        theirs.save_pretrained(tmp_path / "scheduler")
        schedule, parametrisation = bridge.levels_of(tmp_path, "x")
        assert parametrisation == "eps"
        alpha, _ = schedule.levels(torch.arange(1, schedule.steps + 1, dtype=torch.float64) / schedule.steps)
        torch.testing.assert_close(alpha.square().float(), theirs.alphas_cumprod, rtol=1e-5, atol=1e-8)


def test_their_tables_are_ours() -> None:
    from pushforward.families.diffusion.bridge import _table

    for name in ("linear", "scaled_linear", "squaredcos_cap_v2"):
        theirs = diffusers.DDPMScheduler(num_train_timesteps=200, beta_schedule=name)
        torch.testing.assert_close(
            _table(dict(theirs.config), "x").float(), theirs.alphas_cumprod, rtol=1e-5, atol=1e-8
        )
