r"""Guidance: denoisers that wrap a denoiser, and so work with every solver. All of it is off until it is asked for.

One convention throughout: denoised = u + s (c - u), with c conditional and u unconditional. s = 1 is the conditional model, s = 0 the unconditional one,
s > 1 goes beyond. (Others write (1 + w) c - w u, which is s = 1 + w.)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pushforward.families.diffusion.denoisers import Denoiser


def _flat_dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each sample, shaped to multiply it."""
    return (a * b).flatten(1).sum(dim=1).reshape(-1, *[1] * (a.ndim - 1))


def _norm(a: Tensor) -> Tensor:
    return _flat_dot(a, a).sqrt()


class ClassifierFree(Denoiser):
    r"""Classifier-free guidance, both halves in one forward pass of 2 B.

    Args:
        denoiser: Trained with label dropout; its label `null` means "no label".
        labels: int64 (B,).
        null: That label.
        scale: s.
        low, high: Times between which guidance acts; outside, the conditional model alone is asked (Kynkaanniemi et al. 2024, arXiv 2404.07724).
        rescale: Share in which the result is brought to the conditional's standard deviation (Lin et al. 2023, equations 15 and 16, arXiv 2305.08891).
        parallel: Factor of the part of c - u that is parallel to c, which saturates; 1 keeps it, 0 leaves it out (APG: Sadat et al. 2024,
            arXiv 2410.02416).
        longest: Bound on the norm of c - u, APG's rescaling; inf for none.

    Reference: Ho and Salimans 2022, arXiv 2207.12598.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        labels: Tensor,
        *,
        null: int,
        scale: float,
        low: float = 0.0,
        high: float = 1.0,
        rescale: float = 0.0,
        parallel: float = 1.0,
        longest: float = math.inf,
    ) -> None:
        if not math.isfinite(scale):
            raise ValueError(f"scale = {scale}: must be finite")
        if not 0 <= low <= high <= 1:
            raise ValueError(f"low = {low}, high = {high}: 0 <= low <= high <= 1")
        if not 0 <= rescale <= 1:
            raise ValueError(f"rescale = {rescale}: must lie in [0, 1]")
        if not longest > 0 or not math.isfinite(parallel):
            raise ValueError(f"longest = {longest}, parallel = {parallel}: above 0, and finite")
        self.denoiser, self.labels, self.null, self.scale, self.schedule = (
            denoiser,
            labels,
            null,
            scale,
            denoiser.schedule,
        )
        self.low, self.high, self.rescale, self.parallel, self.longest = low, high, rescale, parallel, longest
        self.plain = parallel == 1 and math.isinf(longest) and rescale == 0

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        labels = self.labels if labels is None else labels
        if self.scale == 1:
            return self.denoiser(x, t, labels)
        acts = (t >= self.low) & (t <= self.high)
        if not bool(acts.any()):
            return self.denoiser(x, t, labels)
        if self.scale == 0 and self.plain and bool(acts.all()):
            return self.denoiser(x, t, torch.full_like(labels, self.null))
        both = torch.cat([labels, torch.full_like(labels, self.null)])
        times = t if t.ndim == 0 else torch.cat([t, t])
        c, u = self.denoiser(torch.cat([x, x]), times, both).chunk(2)
        if self.parallel == 1 and math.isinf(self.longest):
            out = u + self.scale * (c - u)
        else:
            away = c - u
            away = away * (self.longest / _norm(away).clamp(min=1e-12)).clamp(max=1)
            along = c * (_flat_dot(away, c) / _flat_dot(c, c).clamp(min=1e-12))
            out = c + (self.scale - 1) * (away - along + self.parallel * along)
        if self.rescale:
            own = out.flatten(1).std(dim=1).clamp(min=1e-12)
            factor = c.flatten(1).std(dim=1) / own
            out = out * (self.rescale * factor + 1 - self.rescale).reshape(-1, *[1] * (x.ndim - 1))
        return out if bool(acts.all()) else torch.where(acts.reshape(-1, *[1] * (x.ndim - 1)), out, c)


class Autoguidance(Denoiser):
    """A model guided by a worse version of itself: denoised = bad + s (good - bad).

    Args:
        good, bad: Of one schedule.
        scale: s; 1 is the good one.

    Reference: Karras et al. 2024, arXiv 2406.02507.
    """

    def __init__(self, good: Denoiser, bad: Denoiser, *, scale: float) -> None:
        self.good, self.bad, self.scale, self.schedule = good, bad, scale, good.schedule

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        good = self.good(x, t, labels)
        return good if self.scale == 1 else torch.lerp(self.bad(x, t, labels), good, self.scale)


class DynamicThreshold(Denoiser):
    """Denoised data are cut at a percentile of their own absolute values and scaled back into [-1, 1], where that exceeds 1.

    Args:
        denoiser: Any.
        percentile: In (0, 1].

    Reference: Saharia et al. 2022, section 2.3, arXiv 2205.11487.
    """

    def __init__(self, denoiser: Denoiser, *, percentile: float = 0.995) -> None:
        if not 0 < percentile <= 1:
            raise ValueError(f"percentile = {percentile}: must lie in (0, 1]")
        self.denoiser, self.percentile, self.schedule = denoiser, percentile, denoiser.schedule

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        out = self.denoiser(x, t, labels)
        bound = torch.quantile(out.abs().flatten(1).float(), self.percentile, dim=1).clamp(min=1).to(out.dtype)
        bound = bound.reshape(-1, *[1] * (x.ndim - 1))
        return out.clamp(-bound, bound) / bound


class Clipped(Denoiser):
    """Denoised data are cut to [-1, 1] ("clip_sample" elsewhere, where it is often on unasked)."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.schedule = denoiser, denoiser.schedule

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.denoiser(x, t, labels).clamp(-1, 1)
