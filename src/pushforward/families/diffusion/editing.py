"""What one can do to given images: noise them a little and denoise them (SDEdit), and go from one to another through the noise behind both."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pushforward.families.diffusion.denoisers import Denoiser, levels
from pushforward.families.diffusion.solvers import Step, ddim, final, fresh_noise, invert
from pushforward.randomness import Generator


@torch.no_grad()
def sdedit(
    solve: Callable[..., Iterator[Step]],
    denoiser: Denoiser,
    x: Tensor,
    grid: Tensor,
    *,
    strength: float,
    generator: Generator | None = None,
) -> Tensor:
    """Noise images up to a level and denoise them from there: 0 leaves them alone, 1 keeps nothing of them.

    Args:
        solve: A solver.
        denoiser: Any.
        x: Images, or a rough sketch of one, (B, *shape).
        grid: The solver's, from 1 to 0; only what lies below `strength` is walked.
        strength: The time to noise to, in [0, 1].
        generator: Of all noise.

    Reference: Meng et al. 2022, algorithm 1, arXiv 2108.01073.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength = {strength}: must lie in [0, 1]")
    below = grid[grid < strength]
    if strength == 0 or len(below) == 0:
        return x.clone()
    at = torch.tensor(strength, dtype=torch.float64)
    alpha, sigma = levels(denoiser.schedule, at, x)
    noised = alpha * x + sigma * fresh_noise(x, generator)
    return final(solve(denoiser, noised, torch.cat([at[None], below.double()]), generator=generator))


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Spherical interpolation of each pair, (B, *shape): what lies between two Gaussian draws is as long as they are.

    Reference: Shoemake 1985; Song, Meng, Ermon 2021, equation 66.

    Example:
        >>> round(slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.5).norm().item(), 6)
        1.0
    """
    shape = (-1, *[1] * (a.ndim - 1))
    u, v = a.flatten(1), b.flatten(1)
    cosine = (u * v).sum(dim=1) / (u.norm(dim=1) * v.norm(dim=1)).clamp(min=1e-12)
    angle = cosine.clamp(-1, 1).acos().clamp(min=1e-6)
    first = torch.sin((1 - share) * angle) / angle.sin()
    second = torch.sin(share * angle) / angle.sin()
    return first.reshape(shape) * a + second.reshape(shape) * b


@torch.no_grad()
def interpolate(denoiser: Denoiser, a: Tensor, b: Tensor, grid: Tensor, *, between: int) -> Tensor:
    """Images on the way from a to b: the noise behind each by DDIM backwards, spheres between, DDIM forwards.

    Args:
        denoiser: Any.
        a, b: Images, (B, *shape).
        grid: DDIM's times, falling.
        between: Images on the way, the two ends not counted.

    Returns:
        (between + 2, B, *shape), the ends as DDIM gives them back.
    """
    first, last = (final(invert(denoiser, x, grid.flip(0))) for x in (a, b))
    shares = torch.linspace(0, 1, between + 2).tolist()
    return torch.stack([final(ddim(denoiser, slerp(first, last, share), grid)) for share in shares])
