r"""A flow as a model: one phase, minus log-likelihood; its density is exact for points and a bound for bytes.

A flow here is lazy, as in zuko: a module that gives a `torch.distributions.Distribution` for a context. zuko's own flows go in through `library.Zuko`.

Bytes b are made continuous, y = (b + u) / 256 with u in [0, 1)^d, and

.. math:: \log P(b) \ge E_{q(u | b)} [\log p_y((b + u) / 256) - \log q(u | b)] - d \log 256

with q uniform, or itself a flow (variational dequantisation, Ho et al. 2019, arXiv 1902.00275).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pushforward.errors import NotSupported
from pushforward.families.flow.bijections import Bijection
from pushforward.families.flow.residual import EXACT, ResidualBlock
from pushforward.model import Batch, GenerativeModel, Phase, Terms
from pushforward.priors import between
from pushforward.randomness import Generator, draw_integers, draw_normal, draw_uniform

LEVELS = 256


class FlowDistribution(Distribution):
    """The law of data whose image under a bijection is standard normal.

    Args:
        bijection: Data to noise.
        shape: Of one sample.
        noise: Of its noise.
        context: (B, *c), vectors or images, and the batch is then (B,); or None.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012  torch's own form
    has_rsample = True

    def __init__(
        self, bijection: Bijection, shape: Sequence[int], noise: Sequence[int], context: Tensor | None = None
    ) -> None:
        batch = torch.Size([]) if context is None else context.shape[:1]
        super().__init__(batch, torch.Size(shape), validate_args=False)
        self.bijection, self.noise, self.context = bijection, torch.Size(noise), context

    def _context(self, lead: torch.Size) -> Tensor | None:
        """That of each sample where samples lead with these dimensions, (n, *c)."""
        if self.context is None:
            return None
        own = self.context.shape[len(self.batch_shape) :]
        return self.context.expand(*lead, *own).reshape(-1, *own)

    def expand(self, batch_shape: Sequence[int], _instance: Distribution | None = None) -> FlowDistribution:
        """The same law, its context seen as of a larger batch; nothing is copied.

        Raises:
            ValueError: the batch cannot be broadcast to that shape.
        """
        batch = torch.Size(batch_shape)
        back = zip(reversed(self.batch_shape), reversed(batch), strict=False)
        if len(batch) < len(self.batch_shape) or any(a not in (1, b) for a, b in back):
            raise ValueError(f"a batch of {tuple(self.batch_shape)} cannot be expanded to {tuple(batch)}")
        own = None if self.context is None else self.context.shape[len(self.batch_shape) :]
        new = FlowDistribution(self.bijection, self.event_shape, self.noise)
        new.context = None if self.context is None or own is None else self.context.expand(*batch, *own)
        new._batch_shape = batch
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """(*batch, *event) -> (*batch,).

        Raises:
            ValueError: the last dimensions are not an event's.
        """
        if value.shape[value.ndim - len(self.event_shape) :] != self.event_shape:
            raise ValueError(f"shape {tuple(value.shape)}: its last dimensions must be {tuple(self.event_shape)}")
        lead = torch.broadcast_shapes(value.shape[: value.ndim - len(self.event_shape)], self.batch_shape)
        flat = value.expand(*lead, *self.event_shape).reshape(-1, *self.event_shape)
        z, ladj = self.bijection(flat, self._context(lead))
        z = z.flatten(1)
        found: Tensor = -0.5 * (z.square().sum(dim=1) + z.shape[1] * math.log(2 * math.pi)) + ladj
        return found.reshape(lead)

    def rsample(self, sample_shape: Sequence[int] = (), *, generator: Generator | None = None) -> Tensor:
        """Samples (*sample_shape, *batch, *event), differentiable in the weights and the context."""
        lead = torch.Size([*sample_shape, *self.batch_shape])
        like = next(self.bijection.parameters(), torch.empty(0))
        z = draw_normal((math.prod(lead), *self.noise), generator=generator, device=like.device).to(like.dtype)
        return self.bijection.inverse(z, self._context(lead)).reshape(*lead, *self.event_shape)

    def push(self, z: Tensor) -> Tensor:
        """Noise to data, row by row of the context."""
        return self.bijection.inverse(z, self.context)

    def pull(self, x: Tensor) -> Tensor:
        """Data to noise, row by row of the context."""
        z: Tensor = self.bijection(x, self.context)[0]
        return z


class BijectionFlow(nn.Module):
    """context -> `FlowDistribution`."""

    def __init__(self, bijection: Bijection, shape: Sequence[int], noise: Sequence[int] | None = None) -> None:
        super().__init__()
        self.bijection, self.shape = bijection, tuple(shape)
        self.noise = self.shape if noise is None else tuple(noise)

    def forward(self, context: Tensor | None = None) -> FlowDistribution:
        return FlowDistribution(self.bijection, self.shape, self.noise, context)


class FlowModel(GenerativeModel):
    """A flow that is trained by maximum likelihood.

    Args:
        flow: Lazy: context -> the law of data, of images as numbers in (0, 1).
        shape: Of one sample.
        dequantiser: Lazy: image -> the law of u's logit, (B, *shape); None: u is uniform.
        classes: Number of classes; the context is then one-hot.
        temperature: The noise's standard deviation in sampling.
    """

    def __init__(
        self,
        *,
        flow: BijectionFlow,
        shape: Sequence[int],
        dequantiser: BijectionFlow | None = None,
        classes: int | None = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.flow, self.shape = flow, tuple(shape)
        self.dequantiser, self.classes, self.temperature = dequantiser, classes, temperature
        self.bytes = len(self.shape) == 3
        self.dims = math.prod(self.shape)
        blocks = [m for m in flow.modules() if isinstance(m, ResidualBlock)]
        self.estimated, self.steep = any(m.dims > EXACT for m in blocks), bool(blocks)
        self.kind = (
            ("estimated bound" if self.estimated else "bound")
            if self.bytes
            else ("estimate" if self.estimated else "exact")
        )

    def phases(self) -> tuple[Phase, ...]:
        whole = nn.ModuleList([self.flow] if self.dequantiser is None else [self.flow, self.dequantiser])
        return (Phase("flow", whole, self.loss, compilable=False),)

    def loss(self, batch: Batch) -> Terms:
        """Minus log-likelihood over (dimensions log 2): bits a dimension for bytes."""
        labels = batch.labels if self.classes is not None else None
        found = self._log_prob(batch.x, self._context(labels, len(batch.x)), batch.generator)
        return {"bits_per_dim": -found / (self.dims * math.log(2))}

    @torch.no_grad()
    def prepare(self, x: Tensor, labels: Tensor | None = None) -> None:
        """Set what is set from data: histogram, scales."""
        y = self._continuous(x, torch.Generator().manual_seed(0))[0] if self.bytes else x
        self.flow.bijection.prepare(y, self._context(labels if self.classes is not None else None, len(x)))

    def _context(self, labels: Tensor | None, n: int) -> Tensor | None:
        if self.classes is None:
            if labels is not None:
                raise NotSupported("this flow is unconditional: it was trained without labels and knows none.")
            return None
        if labels is not None and bool(((labels < 0) | (labels >= self.classes)).any()):
            raise NotSupported(
                f"labels from {int(labels.min())} to {int(labels.max())}: this flow knows 0 to {self.classes - 1}."
            )
        if labels is None:
            raise NotSupported("this flow was trained with labels: its density is of an image given its label.")
        return F.one_hot(labels, self.classes).float().to(next(self.parameters()).device)

    def _continuous(self, x: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """y in (0, 1), and what dequantising adds to the log-density, (B,)."""
        b = ((x.float() + 1) * 127.5).round()
        constant = torch.full((len(x),), -self.dims * math.log(LEVELS), device=x.device)
        if self.dequantiser is None:
            u = draw_uniform(x.shape, generator=generator, device=x.device)
            return (b + u) / LEVELS, constant
        law = self.dequantiser(x)
        logit = law.push(draw_normal((len(x), *law.noise), generator=generator, device=x.device))
        log_q = law.log_prob(logit) - (F.logsigmoid(logit) + F.logsigmoid(-logit)).flatten(1).sum(dim=1)
        return (b + torch.sigmoid(logit).clamp(1e-6, 1 - 1e-6)) / LEVELS, constant - log_q

    def _log_prob(self, x: Tensor, context: Tensor | None, generator: Generator | None) -> Tensor:
        added = torch.zeros(len(x), device=x.device)
        if self.bytes:
            x, added = self._continuous(x, generator)
        with self._seeded(generator, len(x)):
            found: Tensor = self.flow(context).log_prob(x)
        return found + added

    @contextmanager
    def _seeded(self, generator: Generator | None, n: int) -> Iterator[None]:
        """torch's own generator seeded by ours, for log-determinants that are estimated."""
        if not self.estimated:
            yield
            return
        seed = int(draw_integers(2**31 - 1, (n,), generator=generator)[0])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield

    # --- what a density can do ------------------------------------------------------------------------------

    def log_prob(
        self, x: Tensor, labels: Tensor | None = None, *, draws: int = 1, generator: Generator | None = None
    ) -> Tensor:
        """Log-likelihood in nats, (B, *shape) -> (B,): exact for points (an estimate of it where residual blocks have more than 16 dimensions); for images, taken as bytes, a lower bound that tightens with `draws`.

        Raises:
            NotSupported: a value is not finite (none is ever dropped); several draws of a flow whose log-determinant is an estimate, for the mean of
                the exponentials of estimates lies above what they estimate.
        """
        if draws < 1:
            raise ValueError(f"draws = {draws}: must be at least 1")
        if draws > 1 and self.estimated:
            raise NotSupported(
                "several draws of a flow whose log-determinant is an estimate would give no bound; take one."
            )
        if tuple(x.shape[1:]) != self.shape:
            raise NotSupported(f"samples of shape {tuple(x.shape[1:])}: this flow's are {self.shape}.")
        if not torch.isfinite(x).all():
            raise NotSupported("what a likelihood was asked of is not finite.")
        generator = generator or torch.Generator().manual_seed(0)
        context = self._context(labels, len(x))
        found = torch.stack([self._log_prob(x, context, generator) for _ in range(draws if self.bytes else 1)])
        out = found.logsumexp(0) - math.log(len(found))
        if not torch.isfinite(out).all():
            raise NotSupported(
                f"{int((~torch.isfinite(out)).sum())} of {len(x)} log-likelihoods are not finite: the flow is numerically not invertible there."
            )
        return out

    def _law(self, x: Tensor, labels: Tensor | None) -> tuple[FlowDistribution, torch.dtype]:
        """The law by which to go there or back, and its numbers: without gradients, residual blocks work in float64, for a steep flow magnifies float32's rounding."""
        context = self._context(labels, len(x))
        if not self.steep or torch.is_grad_enabled():
            return self.flow(context), x.dtype
        return deepcopy(self.flow).double()(None if context is None else context.double()), torch.float64

    def encode(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Data to noise, (B, d); bytes are put into the middle of their bins."""
        if self.bytes:
            x = (((x.float() + 1) * 127.5).round() + 0.5) / LEVELS
        law, dtype = self._law(x, labels)
        return law.pull(x.to(dtype)).flatten(1).to(x.dtype)

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Noise to data, (B, d) -> (B, *shape)."""
        law, dtype = self._law(z, labels)
        x = law.push(z.to(dtype).reshape(len(z), *law.noise)).to(z.dtype)
        if not self.bytes:
            return x
        return ((x * LEVELS).floor().clamp(0, LEVELS - 1)) / 127.5 - 1

    @torch.no_grad()
    def interpolate(self, a: Tensor, b: Tensor, steps: int, *, labels: Tensor | None = None) -> Tensor:
        """Between pairs of samples, (steps, B, *shape); the ends are a and b; their noise goes as `priors.between` says."""
        way = between(self.encode(a, labels), self.encode(b, labels), steps)
        return torch.stack([self.decode(z, labels) for z in way])

    @torch.no_grad()
    def sample(self, n: int, *, labels: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        if labels is not None and self.classes is None:
            raise NotSupported("this flow is unconditional: it was trained without labels and cannot sample by label.")
        device = next(self.parameters()).device
        if self.classes is not None and labels is None:
            labels = draw_integers(self.classes, (n,), generator=generator, device=device)
        z = self.temperature * draw_normal((n, self.dims), generator=generator, device=device)
        return self.decode(z, labels).contiguous()
