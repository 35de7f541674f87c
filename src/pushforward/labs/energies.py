"""What labs of energy models look at: how far chains from data go, and when chains from noise have become a digit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pushforward.build import change_sampler
from pushforward.data.images import to_bytes, to_model
from pushforward.evaluation.reference import Reference
from pushforward.families.energy.model import EnergyModel
from pushforward.labs.contest import Look, config_of, images_of, some
from pushforward.metrics.features import extractor
from pushforward.model import GenerativeModel
from pushforward.randomness import SampleStream, derive_seed

SURE, EVERY = 0.9, 16  # probability from which a digit is recognised, and moves between looks


def drift(
    model: EnergyModel, start: Tensor, moves: Sequence[int], *, seed: int = 0, noise: float | None = None
) -> dict[int, float]:
    """Mean L2 distance of chains from where they began, in the model's range, after some numbers of moves.

    Args:
        model: Its sampler keeps the number of moves, and the noise, for later calls.
        start: (B, C, H, W).
        moves: After which to look.
        seed: Of the moves.
        noise: Standard deviation of the moves' noise; the sampler's own when None.
    """
    change_sampler(model, None, [f"steps={max(moves)}", *([] if noise is None else [f"noise={noise}"])])
    chains = model.walk(start, generator=SampleStream(seed, torch.arange(len(start))))
    return {k: float((c.x - start).flatten(1).norm(dim=1).mean()) for k, c in enumerate(chains, 1) if k in moves}


def along(
    model: EnergyModel, n: int, moves: Sequence[int], *, seed: int = 0, batch_size: int = 500
) -> dict[int, Tensor]:
    """Samples from noise after several numbers of moves, uint8 (n, C, H, W) each: those of one walk, each as `runs.sample` gives it for that length."""
    change_sampler(model, None, [f"steps={max(moves)}"])
    parts: dict[int, list[Tensor]] = {k: [] for k in moves}
    for low in range(0, n, batch_size):
        index = torch.arange(low, min(low + batch_size, n))
        stream = SampleStream(derive_seed(seed, "sample"), index)
        for k, x in enumerate(model.trajectory(len(index), generator=stream)):
            if k in parts:
                parts[k].append(to_bytes(x))
    return {k: torch.cat(v) for k, v in parts.items()}


def recognised(model: EnergyModel, n: int, moves: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Chains from noise: the digit that each ends as, and the moves after which it was recognised and stayed so, (n,) each; -1 where it never was."""
    change_sampler(model, None, [f"steps={moves}"])
    by, seen = extractor("digits"), []
    for k, x in enumerate(model.trajectory(n, generator=SampleStream(seed, torch.arange(n)))):
        if k % EVERY == 0:
            logits = by(to_bytes(x)).logits
            assert logits is not None
            seen.append(logits.softmax(dim=1))
    path = torch.stack(seen)  # (looks, chains, classes)
    last = path[-1].argmax(dim=1)
    sure = path.gather(2, last.expand(len(path), -1)[..., None]).squeeze(2) >= SURE
    held = sure.int().flip(0).cumprod(0).sum(0)  # looks from the end for which it was sure
    return last, torch.where(held > 0, EVERY * (len(path) - held), -1)


def energy_figures(data: str, recipe: str, *, chains: int = 100, moves: int = 256) -> Look:
    """Figures of an energy model beside the usual ones: drift of chains from test images, and the size of their energy."""
    start = to_model(some(images_of(config_of(recipe, (), data=data, seed=0), "test"), chains))

    def look(model: GenerativeModel, x: Tensor, side: Reference) -> dict[str, float]:
        assert isinstance(model, EnergyModel)
        with torch.no_grad():
            size = float(model.energy(start).double().square().mean().sqrt())
        return {"drift": drift(model, start, [moves])[moves], "size of the energy": size}

    return look
