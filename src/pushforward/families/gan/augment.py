"""What a discriminator sees: random, differentiable changes to its inputs, data and fakes alike.

None of them flips: a flipped digit is no digit. All draws are one stream a sample, and each change can be differentiated twice, so
that penalties on slopes go through.

Reference: Zhao et al. 2020, arXiv 2006.10738 (DiffAugment); Karras et al. 2020, arXiv 2006.06676 (ADA).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from pushforward.randomness import SampleStream

Change = Literal["translation", "cutout", "brightness", "contrast"]
Changes = Annotated[Sequence[Change], Field(min_length=1)]


@dataclass(frozen=True)
class Look:
    """What a view may depend on.

    Args:
        generator: One stream a sample.
        step: The training step.
        strength: The adaptive probability in [0, 1] that ADA steers; 0-dimensional.
    """

    generator: SampleStream
    step: int
    strength: Tensor


def translation(x: Tensor, generator: SampleStream, *, reach: float = 0.125) -> Tensor:
    """Shift by up to `reach` of each side; what comes in repeats the border. (B, C, H, W) -> the same."""
    for dim in (2, 3):
        side = x.shape[dim]
        most = max(1, round(reach * side))
        shift = generator.integers(2 * most + 1, (len(x), 1)) - most
        index = (torch.arange(side, device=x.device) + shift).clamp(0, side - 1)  # (B, side)
        shape = [len(x), 1, 1, 1]
        shape[dim] = side
        x = x.gather(dim, index.reshape(shape).expand(x.shape))
    return x


def cutout(x: Tensor, generator: SampleStream, *, side: float = 0.5) -> Tensor:
    """A square of `side` times the image's, centred anywhere in it, is set to 0, the middle grey."""
    inside = []
    for dim in (2, 3):
        length = x.shape[dim]
        size = round(side * length)
        start = generator.integers(length + 1, (len(x), 1)) - size // 2
        position = torch.arange(length, device=x.device)
        inside.append((position >= start) & (position < start + size))
    hidden = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return x.masked_fill(hidden, 0.0)


def brightness(x: Tensor, generator: SampleStream) -> Tensor:
    """Add one number in [-1/2, 1/2] to each image."""
    return x + (generator.uniform((len(x), 1, 1, 1)) - 0.5)


def contrast(x: Tensor, generator: SampleStream) -> Tensor:
    """Stretch each image about its mean by a factor in [1/2, 3/2]."""
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (x - mean) * (generator.uniform((len(x), 1, 1, 1)) + 0.5)


CHANGES: dict[str, Callable[[Tensor, SampleStream], Tensor]] = {
    "translation": translation,
    "cutout": cutout,
    "brightness": brightness,
    "contrast": contrast,
}


def augment(x: Tensor, generator: SampleStream, changes: Sequence[str]) -> Tensor:
    """Several changes in turn."""
    for name in changes:
        x = CHANGES[name](x, generator)
    return x


# --- views: x -> what the discriminator is shown, (B, *shape) -> the same -------------------------------------


def diffaugment(x: Tensor, look: Look, *, changes: Changes = ("translation", "cutout")) -> Tensor:
    """Every image is changed, data and fakes, in both players' moves.

    Args:
        changes: In this order.

    Reference: Zhao et al. 2020, equations 4 to 6, arXiv 2006.10738.
    """
    return augment(x, look.generator, changes)


def ada(x: Tensor, look: Look, *, changes: Changes = ("translation", "cutout", "brightness", "contrast")) -> Tensor:
    """Each change is made with a probability that rises while the discriminator tells training data too surely (`GAN.finish`).

    Args:
        changes: In this order, each image and each change for itself.

    Reference: Karras et al. 2020, section 3, arXiv 2006.06676.
    """
    for name in changes:
        chosen = look.generator.uniform((len(x), 1, 1, 1)) < look.strength
        x = torch.where(chosen, CHANGES[name](x, look.generator), x)
    return x


def instance_noise(
    x: Tensor, look: Look, *, sd: Annotated[float, Field(gt=0)] = 0.1, until: Annotated[int, Field(ge=1)] = 5000
) -> Tensor:
    """Gaussian noise on all inputs, falling linearly to nothing: both distributions overlap from the start.

    Args:
        sd: Of the noise at step 0, in units of the model's range [-1, 1].
        until: Step from which there is none.

    Reference: Sonderby et al. 2016, section 3.1, arXiv 1610.04490; Arjovsky and Bottou 2017, arXiv 1701.04862.
    """
    left = sd * (1 - look.step / until)
    return x + left * look.generator.normal(x.shape) if left > 0 else x


@dataclass(frozen=True)
class View:
    """A view in a recipe.

    Args:
        name: Of the function.
        function: (x, look, **options) -> x.
        options: Further arguments.
        stepwise: It depends on the step, so that no compiled graph holds for all of them.
    """

    name: str
    function: Callable[..., Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    stepwise: bool = False
