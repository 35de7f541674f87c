"""Images to features by a named extractor; the real side is cached on disk under (data, extractor).

An extractor is known by the hash of its weights: figures of different hashes are never to be compared.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import os
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from pushforward.data.fetch import cache_root, download
from pushforward.data.images import to_model
from pushforward.errors import DataError, NotSupported, nearest
from pushforward.metrics.digits import DigitEncoder
from pushforward.metrics.inception import InceptionV3
from pushforward.networks.blocks import prefer_channels_last
from pushforward.randomness import SampleStream, derive_seed


@dataclass(frozen=True)
class Features:
    """What an extractor says of n images: features (n, d) and, if it classifies, logits (n, classes)."""

    features: Tensor
    logits: Tensor | None = None


class Extractor(ABC):
    """Maps uint8 images (n, C, H, W) to features.

    Args:
        name: As in `--extractor`.
        sha256: Of its weights and of what it does before them.
    """

    name: str
    sha256: str
    batch_size = 500

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Features in float32, whatever precision the caller computes in."""
        with torch.autocast(images.device.type, enabled=False):
            return self.extract(images)

    @abstractmethod
    def extract(self, images: Tensor) -> Features:
        """What `__call__` gives, without gradients and in float32 already."""


class Digits(Extractor):
    """The digit encoder that ships (`metrics/digits.py`): 128 features and 10 logits of 28x28 grey images."""

    name = "digits"

    def __init__(self) -> None:
        raw = (resources.files("pushforward.metrics") / "weights" / "digits.safetensors").read_bytes()
        self.sha256 = hashlib.sha256(raw).hexdigest()
        self.net = DigitEncoder().eval()
        prefer_channels_last(self.net)
        self.net.load_state_dict({k: v.float() for k, v in load(raw).items()})

    def extract(self, images: Tensor) -> Features:
        if images.shape[1:] != (1, 28, 28):
            raise NotSupported(
                f"the extractor 'digits' knows 28x28 grey images; these are {tuple(images.shape[1:])}. Use --extractor pixels, or resize them (data.size = 28, data.channels = 1)."
            )
        parts = [
            self.net(to_model(x).contiguous(memory_format=torch.channels_last)) for x in images.split(self.batch_size)
        ]
        return Features(torch.cat([f for f, _ in parts]), torch.cat([g for _, g in parts]))


class Pixels(Extractor):
    """The pixels themselves, in [-1, 1]. Honest, and blind to everything that matters to an eye."""

    name = "pixels"
    sha256 = hashlib.sha256(b"pushforward pixels: x / 127.5 - 1, flattened").hexdigest()

    def extract(self, images: Tensor) -> Features:
        return Features(to_model(images).flatten(1))


class Points(Extractor):
    """For toy densities: a point is its own feature."""

    name = "points"
    sha256 = hashlib.sha256(b"pushforward points: identity").hexdigest()

    def extract(self, images: Tensor) -> Features:
        return Features(images.flatten(1))


class RandomVGG(Extractor):
    """VGG-16's convolutions with random weights that never change: for images that no trained network fits.

    Images are resized to 32x32 (antialiased bilinear) and grey ones repeated to three channels; the 512 features are the last
    convolution's, averaged. Weights are He-normal, drawn by this library's own generator: the same on every machine.

    Reference: Naeem et al. 2020, section 3.3, arXiv 2002.09797 (random embeddings); Simonyan and Zisserman 2014 (layers).
    """

    name = "random-vgg"
    LAYERS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        width, digest = 3, hashlib.sha256(b"pushforward random-vgg: 32x32, antialiased bilinear")
        for k, wide in enumerate(self.LAYERS):
            if wide == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            conv = nn.Conv2d(width, wide, 3, padding=1)
            weight = SampleStream(derive_seed("random-vgg", k), torch.arange(wide)).normal((wide, width, 3, 3))
            conv.weight = nn.Parameter(weight * math.sqrt(2 / (9 * width)))
            conv.bias = nn.Parameter(torch.zeros(wide))
            digest.update(conv.weight.detach().numpy().tobytes())
            layers += [conv, nn.ReLU(inplace=True)]
            width = wide
        self.sha256 = digest.hexdigest()
        self.net = nn.Sequential(*layers).eval()
        prefer_channels_last(self.net)

    def extract(self, images: Tensor) -> Features:
        def part(x: Tensor) -> Tensor:
            y = to_model(x)
            if y.shape[-2:] != (32, 32):
                y = F.interpolate(y, size=(32, 32), mode="bilinear", antialias=True, align_corners=False)
            return self.net(y.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)).mean(dim=(2, 3))

        return Features(torch.cat([part(x) for x in images.split(self.batch_size)]))


class Inception(Extractor):
    """The Inception network of the Frechet inception distance: 2048 features and 1008 logits of any images.

    Grey images are repeated to three channels. `inception` resizes as TensorFlow 1 did ("tf1-bilinear"), as the published figures do;
    `inception-clean` resizes with an antialiased bicubic filter, as clean-fid does ("pil-bicubic").

    Raises:
        DataError: the weights are neither in the cache nor to be downloaded, or are not the published ones.
    """

    URL = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
    SHA256_PREFIX = "6726825d"  # what its name promises; the whole hash is written into every result
    batch_size = 50

    def __init__(self, resize: str) -> None:
        self.name = "inception" if resize == "tf1-bilinear" else "inception-clean"
        folder = cache_root() / "weights"
        file = folder / self.URL.rsplit("/", 1)[1]
        if not file.exists():
            download(folder, file.name, (self.URL,))
        raw = file.read_bytes()
        digest = hashlib.sha256(raw).hexdigest()
        if not digest.startswith(self.SHA256_PREFIX):
            raise DataError(
                f"{file} is not the published network: its SHA-256 begins with {digest[:8]}, not {self.SHA256_PREFIX}. Remove it."
            )
        self.net = InceptionV3().eval()
        try:
            state = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
            self.net.load_state_dict(state, strict=True)
        except (RuntimeError, pickle.UnpicklingError, AttributeError) as error:
            raise DataError(f"{file} does not hold the network's weights ({error}). Remove it.") from error
        prefer_channels_last(self.net)
        self.resize = RESIZES[resize]
        self.sha256 = hashlib.sha256(f"{digest} {resize}".encode()).hexdigest()

    def extract(self, images: Tensor) -> Features:
        features, logits = [], []
        for x in images.split(self.batch_size):
            y = self.resize(x.expand(-1, 3, -1, -1).float(), 299).sub_(128).div_(128)
            f, g = self.net(y.contiguous(memory_format=torch.channels_last))
            features.append(f)
            logits.append(g)
        return Features(torch.cat(features), torch.cat(logits))


class HubVision(Extractor):
    """A vision transformer of the Hugging Face hub, frozen: `dinov2` or `clip`; needs the `hub` extra and its weights.

    Images become three channels of 224x224 (antialiased bicubic) and are normalised as the network was trained. Features are the normalised class
    token of DINOv2 (1024), or CLIP's image embedding (768). Weights are read from safetensors alone.

    Raises:
        NotSupported: the `hub` extra is not installed.
        DataError: the weights are neither in the hub's cache nor to be downloaded.

    Reference: Stein et al. 2023, section 4, arXiv 2306.04675 (DINOv2); Kynkaanniemi et al. 2023, arXiv 2203.06026 (CLIP).
    """

    SOURCES: ClassVar[dict[str, tuple[str, str, tuple[float, ...], tuple[float, ...]]]] = {
        "dinov2": ("facebook/dinov2-large", "Dinov2Model", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "clip": (
            "openai/clip-vit-large-patch14",
            "CLIPVisionModelWithProjection",
            (0.48145466, 0.4578275, 0.40821073),
            (0.26862954, 0.26130258, 0.27577711),
        ),
    }
    batch_size = 50

    def __init__(self, name: str) -> None:
        self.name = name
        source, kind, mean, sd = self.SOURCES[name]
        try:
            import transformers
            from transformers.utils import logging as quietly
        except ImportError:
            raise NotSupported(
                f"the extractor {name!r} needs an extra: pip install 'pushforward[hub]'. Others: digits, random-vgg, inception."
            ) from None
        quietly.set_verbosity_error()
        logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # its retries are not the user's concern
        try:
            self.net = getattr(transformers, kind).from_pretrained(source, use_safetensors=True).eval()
        except (OSError, ValueError) as error:
            raise DataError(
                f"{source} is neither in the hub's cache nor to be downloaded ({str(error).splitlines()[0]})."
            ) from error
        self.mean, self.sd = (torch.tensor(v).reshape(3, 1, 1) for v in (mean, sd))
        digest = hashlib.sha256(f"pushforward {name}: 224x224, pil-bicubic, {mean}, {sd}".encode())
        for key, value in sorted(self.net.state_dict().items()):
            digest.update(key.encode() + value.numpy().tobytes())
        self.sha256 = digest.hexdigest()

    def extract(self, images: Tensor) -> Features:
        def part(x: Tensor) -> Tensor:
            y = resize_pil_bicubic(x.expand(-1, 3, -1, -1).float(), 224).div_(255).sub_(self.mean).div_(self.sd)
            out = self.net(pixel_values=y)
            return out.pooler_output if self.name == "dinov2" else out.image_embeds

        return Features(torch.cat([part(x) for x in images.split(self.batch_size)]))


def resize_tf1_bilinear(x: Tensor, size: int) -> Tensor:
    """TensorFlow 1's bilinear resize: output pixel i reads input position i * side / size, without antialiasing."""

    def along(y: Tensor, dim: int) -> Tensor:
        side = y.shape[dim]
        position = torch.arange(size, dtype=torch.float32) * (side / size)
        low = position.floor().long().clamp_(max=side - 1)
        high = (low + 1).clamp_(max=side - 1)
        shape = [1] * y.ndim
        shape[dim] = size
        return torch.lerp(y.index_select(dim, low), y.index_select(dim, high), (position - low).reshape(shape))

    return along(along(x, 2), 3)


def resize_pil_bicubic(x: Tensor, size: int) -> Tensor:
    """Pillow's bicubic resize of float images, antialiased when it shrinks; the result is clipped to 0..255."""
    return F.interpolate(x, size=(size, size), mode="bicubic", antialias=True, align_corners=False).clamp_(0, 255)


RESIZES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "tf1-bilinear": resize_tf1_bilinear,
    "pil-bicubic": resize_pil_bicubic,
}

EXTRACTORS: dict[str, Callable[[], Extractor]] = {
    "digits": Digits,
    "pixels": Pixels,
    "points": Points,
    "random-vgg": RandomVGG,
    "inception": lambda: Inception("tf1-bilinear"),
    "inception-clean": lambda: Inception("pil-bicubic"),
    "dinov2": lambda: HubVision("dinov2"),
    "clip": lambda: HubVision("clip"),
}


@lru_cache(maxsize=4)
def extractor(name: str) -> Extractor:
    """An extractor by name.

    Raises:
        NotSupported: there is none of that name.
    """
    if name not in EXTRACTORS:
        raise NotSupported(f"no extractor is called {name!r}: {nearest(name, EXTRACTORS)}")
    return EXTRACTORS[name]()


def cached_features(images: Tensor, data_sha256: str, by: Extractor) -> Features:
    """Features of real images, kept in the user's cache; a damaged or foreign file there is made anew.

    Args:
        images: uint8 (n, C, H, W).
        data_sha256: Hash of exactly these images.
        by: The extractor.
    """
    key = hashlib.sha256(f"{data_sha256} {by.name} {by.sha256} {len(images)}".encode()).hexdigest()
    file = cache_root() / "features" / f"{key}.safetensors"
    stored = _read_cache(file, len(images))
    if stored is not None:
        return stored
    made = by(images)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}.tmp")
        tensors = {"features": made.features} | ({} if made.logits is None else {"logits": made.logits})
        raw = save({k: v.contiguous() for k, v in tensors.items()})
        temporary.write_bytes(hashlib.sha256(raw).digest() + raw)
        temporary.replace(file)
    except OSError:
        pass  # a cache that cannot be written costs time, not results
    return made


def _read_cache(file: Path, n: int) -> Features | None:
    try:
        raw = file.read_bytes()
        if hashlib.sha256(raw[32:]).digest() != raw[:32]:
            return None
        tensors = load(raw[32:])
    except (OSError, SafetensorError):
        return None
    if "features" not in tensors or len(tensors["features"]) != n:
        return None
    return Features(tensors["features"], tensors.get("logits"))
