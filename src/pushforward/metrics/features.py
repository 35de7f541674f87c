"""Images to features by a named extractor; the real side is cached on disk under (data, extractor).

An extractor is known by the hash of its weights: figures of different hashes are never to be compared.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pushforward.data.fetch import cache_root
from pushforward.data.images import to_model
from pushforward.errors import NotSupported, nearest
from pushforward.metrics.digits import DigitEncoder
from pushforward.networks.blocks import prefer_channels_last


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

    @abstractmethod
    def __call__(self, images: Tensor) -> Features: ...


class Digits(Extractor):
    """The digit encoder that ships (`metrics/digits.py`): 128 features and 10 logits of 28x28 grey images."""

    name = "digits"

    def __init__(self) -> None:
        raw = (resources.files("pushforward.metrics") / "weights" / "digits.safetensors").read_bytes()
        self.sha256 = hashlib.sha256(raw).hexdigest()
        self.net = DigitEncoder().eval()
        prefer_channels_last(self.net)
        self.net.load_state_dict({k: v.float() for k, v in load(raw).items()})

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
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

    def __call__(self, images: Tensor) -> Features:
        return Features(to_model(images).flatten(1))


class Points(Extractor):
    """For toy densities: a point is its own feature."""

    name = "points"
    sha256 = hashlib.sha256(b"pushforward points: identity").hexdigest()

    def __call__(self, images: Tensor) -> Features:
        return Features(images.flatten(1))


EXTRACTORS: dict[str, type[Extractor]] = {"digits": Digits, "pixels": Pixels, "points": Points}


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
