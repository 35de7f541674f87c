"""A text-to-image pipeline of random weights: its own samples are ours, and other pipelines are refused with the reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from pushforward.errors import CheckpointError, NotSupported
from pushforward.families.diffusion.guidance import ClassifierFree
from pushforward.families.diffusion.solvers import ddim, final
from pushforward.families.diffusion.text import load_text_to_image

diffusers = pytest.importorskip("diffusers", reason="needs the extra hub")
transformers = pytest.importorskip("transformers", reason="needs the extra hub")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    letters = [chr(c) for c in range(97, 123)]
    names = ["<|startoftext|>", "<|endoftext|>", *letters, *(c + "</w>" for c in letters)]
    words = {name: k for k, name in enumerate(names)}
    tokenizer = transformers.CLIPTokenizer(vocab=words, merges=[], model_max_length=8)
    text = transformers.CLIPTextConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=8, projection_dim=16, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    made = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(
            block_out_channels=(8, 8), norm_num_groups=4, latent_channels=2,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        ),
        text_encoder=transformers.CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=diffusers.UNet2DConditionModel(
            sample_size=4, in_channels=2, out_channels=2, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16, attention_head_dim=4,
        ),
        scheduler=diffusers.DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, timestep_spacing="trailing", steps_offset=1,
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("text") / "pipe"
    made.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_their_pipeline_draws_what_we_draw(pipeline: Path, scale: float) -> None:
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(
        pipeline, safety_checker=None, requires_safety_checker=False
    )
    theirs.set_progress_bar_config(disable=True)
    x = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    prompts = ["a heron", "ink"]
    said = {"negative_prompt": ["fog"] * 2} if scale > 1 else {}
    want = theirs(prompts, latents=x, guidance_scale=scale, num_inference_steps=5, output_type="latent", **said).images
    model = load_text_to_image(pipeline, prompts, negative="fog")
    assert model.shape == (2, 4, 4)
    guided = ClassifierFree(model, torch.tensor([0, 1]), null=model.null, scale=scale)
    found = final(ddim(guided, x, torch.linspace(1, 0, 6, dtype=torch.float64)))
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))
    other = final(ddim(ClassifierFree(model, torch.tensor([1, 0]), null=model.null, scale=scale), x, torch.linspace(1, 0, 6, dtype=torch.float64)))  # fmt: skip
    assert not torch.allclose(other, found, rtol=1e-3)
    images = model.decode(found)
    drawn = theirs.vae.decode(want / theirs.vae.config.scaling_factor).sample.clamp(-1, 1)
    assert images.shape == (2, 3, 8, 8)
    torch.testing.assert_close(images, drawn, rtol=1e-3, atol=1e-4)


def test_other_pipelines_are_refused(pipeline: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"

    def damaged(name: str, change: dict | None) -> Path:
        """A copy with one file changed, or cut to a half."""
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(pipeline, copy)
        file = copy / name
        if change is None:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        else:
            file.write_text(json.dumps(json.loads(file.read_text()) | change))
        return copy

    for name, change, said in (
        ("model_index.json", {"_class_name": "StableDiffusionXLPipeline"}, "XL"),
        ("unet/config.json", {"time_cond_proj_dim": 4}, "time_cond_proj_dim"),
    ):
        with pytest.raises(NotSupported, match=said):
            load_text_to_image(damaged(name, change), ["a"])
    for name in ("text_encoder/model.safetensors", "model_index.json", "scheduler/scheduler_config.json"):
        with pytest.raises(CheckpointError, match="cannot be read"):
            load_text_to_image(damaged(name, None), ["a"])
    (damaged("model_index.json", {}) / "tokenizer/tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="vocabulary"):
        load_text_to_image(copy, ["a"])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_text_to_image(tmp_path, ["a"])
    with pytest.raises(ValueError, match="list"):
        load_text_to_image(pipeline, "a heron")
