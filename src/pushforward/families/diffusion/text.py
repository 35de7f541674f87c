"""Text-to-image models of diffusers (Stable Diffusion 1 and 2) as denoisers of latents, for studies of guidance.

    model = load_text_to_image("owner/name", ["a photograph of a heron", "a heron in ink"], negative="")
    guided = ClassifierFree(model, torch.tensor([0, 1]), null=model.null, scale=7.5, low=0.2, high=0.8)
    x = torch.randn(2, *model.shape)
    images = model.decode(final(dpmpp_2m(guided, x, log_snr_grid(model.schedule, 20))))

Prompts take the place of labels, so that each kind of guidance and each solver of ours works with them. Prompts are encoded, and latents decoded, by
the pipeline's own parts; weights come from safetensors alone.

Reference: Rombach et al. 2022, arXiv 2112.10752.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.errors import CheckpointError, NotSupported
from pushforward.families.diffusion.bridge import denoised_by, levels_of, locate, read_json
from pushforward.families.diffusion.denoisers import Denoiser
from pushforward.families.diffusion.schedules import Discrete

PIPELINE = "StableDiffusionPipeline"
BESIDES = ("addition_embed_type", "time_cond_proj_dim", "num_class_embeds", "encoder_hid_dim_type")
"""What a network may be told besides the text; one that wants any of it is of another kind."""


class TextDenoiser(nn.Module, Denoiser):
    """A text-to-image network as a denoiser of latents; label k is prompt k.

    Args:
        pipeline: A StableDiffusionPipeline.
        schedule: Of the table that it was trained with.
        parametrisation: What its network gives: "eps", "x0" or "v".
        prompts: What may be asked for.
        negative: What stands for "no prompt" in guidance; its label is `null`.
    """

    def __init__(
        self, pipeline: Any, schedule: Discrete, parametrisation: str, prompts: Sequence[str], negative: str = ""
    ) -> None:
        super().__init__()
        if not prompts or isinstance(prompts, str):
            raise ValueError("prompts is a list of one or more texts")
        self.network, self.vae = pipeline.unet.eval(), pipeline.vae.eval()
        self.schedule, self.parametrisation = schedule, parametrisation
        side = self.network.config.sample_size
        self.shape = (self.network.config.in_channels, side, side)
        self.classes = self.null = len(prompts)
        with torch.no_grad():
            asked, _ = pipeline.encode_prompt([*prompts, negative], "cpu", 1, False)
        self.register_buffer("contexts", asked, persistent=False)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        labels = torch.full((len(x),), self.null, device=x.device) if labels is None else labels
        return denoised_by(self, x, t, encoder_hidden_states=self.contexts[labels])  # type: ignore[index]

    __call__ = nn.Module.__call__

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images in [-1, 1], (B, 3, H, W), of latents (B, *shape)."""
        images: Tensor = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return images.clamp(-1, 1)


def load_text_to_image(source: str | Path, prompts: Sequence[str], *, negative: str = "") -> TextDenoiser:
    """The denoiser of a Stable Diffusion pipeline's folder, or of a name on the hub.

    Args:
        source: A folder with model_index.json, or owner/name on the hub (downloaded by diffusers).
        prompts: What may be asked for.
        negative: What stands for "no prompt".

    Raises:
        NotSupported: diffusers or transformers is missing, or the pipeline is of another kind (inpainting, upscaling, SDXL, consistency ...).
        CheckpointError: nothing readable there.
    """
    folder = locate(source)
    kind = read_json(folder / "model_index.json").get("_class_name", "pipeline")
    if kind != PIPELINE:
        raise NotSupported(f"{source} is a {kind}: only Stable Diffusion 1 and 2 ({PIPELINE}) are loaded.")
    words = folder / "tokenizer"  # without them every text would silently be the same
    if not (words / "tokenizer.json").exists() and not (
        (words / "vocab.json").exists() and (words / "merges.txt").exists()
    ):
        raise CheckpointError(f"{words}: no vocabulary (tokenizer.json, or vocab.json and merges.txt).")
    schedule, parametrisation = levels_of(folder, str(source))
    try:
        from diffusers import StableDiffusionPipeline
        from transformers import CLIPTextModel  # noqa: F401  what the pipeline needs
    except ImportError as error:
        raise NotSupported("text-to-image models need transformers too: pip install 'pushforward[hub]'.") from error
    try:
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder, use_safetensors=True, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    except Exception as error:  # whatever three libraries raise on damaged files
        raise CheckpointError(f"{source}: the pipeline cannot be read ({error}).") from error
    told = [k for k in BESIDES if pipeline.unet.config.get(k) is not None]
    if told or pipeline.unet.config.in_channels != pipeline.vae.config.latent_channels:
        raise NotSupported(
            f"{source}: its network wants more than a latent and a text ({', '.join(told) or 'other channels'})."
        )
    return TextDenoiser(pipeline, schedule, parametrisation, prompts, negative)
