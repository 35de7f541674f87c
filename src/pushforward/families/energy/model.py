r"""An energy model: one phase, that of its energy, and a sampler that may be changed after training.

p(x) proportional to exp(-E(x) / T),   loss = sum of weighted terms,   sample = the end of a chain
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from pushforward.errors import Diverged, NotSupported
from pushforward.families.energy.guard import Guard
from pushforward.families.energy.replay import Initial, Replay, begin
from pushforward.families.energy.terms import Context
from pushforward.model import Batch, GenerativeModel, Phase, Terms
from pushforward.randomness import Generator, SampleStream, draw_integers, draw_uniform
from pushforward.samplers.langevin import Chains, implied_temperature, reach, slope, walk_hmc, walk_langevin, walk_mala

Method = Literal["langevin", "mala", "hmc"]
Start = Literal["noise", "buffer", "data"]
NOISE_PROBES = 64


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """How a chain moves, from where, and how far.

    Args:
        method: "langevin" is unadjusted; "mala" and "hmc" accept or reject, and so follow the law exactly.
        steps: Moves.
        step_size: eta of Langevin and MALA, where a move is eta / 2 down the slope; of one leapfrog step for HMC.
        temperature: T of exp(-E / T).
        noise: Of Langevin: standard deviation that is added in the place of sqrt(eta T). The sampler is then a tempered one.
        clip: Of Langevin: bound on each entry of the slope.
        leaps: Of HMC: leapfrog steps a move.
        start: "noise", as new chains of training begin; "buffer", training's own chains; "data", which the model must be given.
    """

    method: Method = "langevin"
    steps: int = 256
    step_size: float = 0.01
    temperature: float = 1.0
    noise: float | None = None
    clip: float | None = None
    leaps: int = 10
    start: Start = "noise"

    def implied_temperature(self) -> float:
        """T, or what it is in effect where noise is set apart from the step."""
        return self.temperature if self.noise is None else implied_temperature(self.step_size, self.noise)

    def walk(
        self,
        energy: Callable[[Tensor], Tensor],
        x: Tensor,
        *,
        bounds: tuple[float, float] | None = None,
        generator: Generator | None = None,
    ) -> Iterator[Chains]:
        """The chain from x."""
        common = {"steps": self.steps, "step_size": self.step_size, "temperature": self.temperature}
        match self.method:
            case "mala":
                return walk_mala(energy, x, **common, generator=generator)  # type: ignore[arg-type]
            case "hmc":
                return walk_hmc(energy, x, **common, leaps=self.leaps, generator=generator)  # type: ignore[arg-type]
        return walk_langevin(energy, x, **common, noise=self.noise, clip=self.clip, bounds=bounds, generator=generator)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Training:
    """The chains of training: where they come from, and how they move on each step.

    Args:
        steps, step_size, temperature, noise, clip: As of `Sampler`, by Langevin.
        depth: Chains that each row of the batch owns; 128 x 64 = 8192.
        restart: Share of chains that begin anew each time.
        restart_data: Share of those that begin at the batch's data instead of noise.
        data: Share of the batch whose chains begin at the data and are not kept: 1 is contrastive divergence as first published.
    """

    steps: int = 20
    step_size: float = 0.01
    temperature: float = 1.0
    noise: float | None = None
    clip: float | None = None
    depth: int = 64
    restart: float = 0.05
    restart_data: float = 0.0
    data: float = 0.0


@dataclass(frozen=True)
class Term:
    """A term of the loss, as the model holds it."""

    name: str
    function: Callable[[Context], Tensor]
    weight: float = 1.0
    chains: bool = False


class EnergyModel(GenerativeModel):
    """An energy that is trained, and a sampler.

    Args:
        network: (B, *shape) -> (B,).
        shape: Of one sample.
        terms: Of the loss.
        sampler: By which `sample` draws; assign another at any time.
        training: The chains of training.
        rows: Of the global batch.
        jitter: Standard deviation of the noise on data in the energies' pass.
        flip: See `Guard`.
        initial: Where chains from noise begin; see `replay.initial`.
        scale: Of that.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        shape: Sequence[int],
        terms: Sequence[Term],
        sampler: Sampler,
        training: Training,
        rows: int,
        jitter: float = 0.0,
        flip: float = 1.0,
        initial: Initial = "wide",
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.network, self.shape, self.terms = network, tuple(shape), tuple(terms)
        self.sampler, self.chains, self.jitter = sampler, training, jitter
        self.initial, self.scale = initial, scale
        self.data: Tensor | None = None  # where chains begin that start at data; given by the caller
        self.acceptance = 1.0  # of the last chain
        self.need_chains = any(t.chains for t in self.terms)
        # Chains of images are kept where images lie; an energy learned from noised images alone is one of all space.
        self.bounds = (-1.0, 1.0) if len(self.shape) == 3 and self.need_chains else None
        self.buffer = Replay(shape=shape, rows=rows, depth=training.depth, begin=self._begin) if self._keeps else None
        self.guard = Guard(flip=flip) if self.need_chains else None
        for p in self.network.parameters():
            assert p.requires_grad

    @property
    def _keeps(self) -> bool:
        return self.need_chains and self.chains.data < 1

    def _begin(self, n: int, generator: Generator | None) -> Tensor:
        return begin(self.initial, n, self.shape, scale=self.scale, generator=generator)

    # --- training -------------------------------------------------------------------------------------------

    def phases(self) -> tuple[Phase, ...]:
        names = [t.name for t in self.terms]
        weights = {t.name: t.weight for t in self.terms} | dict.fromkeys(_WATCHED, 0.0)
        assert not set(names) & set(_WATCHED)
        finish = self._watch if self.guard is not None else None
        return (Phase("energy", self.network, self.loss, weights=weights, compilable=False, finish=finish),)

    def loss(self, batch: Batch) -> Terms:
        """The terms, and with chains what the log and the guard look at (of weight 0)."""
        chains = self._negatives(batch) if self.need_chains else None
        context = Context(self.network, batch, chains, self.jitter)
        found = {t.name: t.function(context) for t in self.terms}
        if chains is None:
            return found
        with torch.no_grad():
            data, drawn = context.data_energy.detach(), context.chain_energy.detach()
            seen = {
                "data_energy": data,
                "chain_energy": drawn,
                "data_spread": (data - data.mean()).abs(),
                "data_distance": _apart(batch.x),
                "chain_distance": _apart(chains),
            }
            if self.bounds is not None:
                seen |= {"data_ink": _ink(batch.x), "chain_ink": _ink(chains)}
        return found | seen

    def _negatives(self, batch: Batch) -> Tensor:
        """Chains, moved on and put back."""
        t, stream = self.chains, batch.generator
        rows = stream.index
        at_data = draw_uniform((len(rows),), generator=stream, device=batch.x.device) < t.data
        x = batch.x
        if self.buffer is not None:
            kept, which, anew = self.buffer.draw(rows, t.restart, stream, data=x, share=t.restart_data)
            x = torch.where(at_data.reshape(-1, *[1] * (x.ndim - 1)), x, kept)
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        sampler = Sampler(steps=t.steps, step_size=t.step_size, temperature=t.temperature, noise=t.noise, clip=t.clip)
        with _Still(self.network):
            for chains in sampler.walk(self.energy, x, bounds=self.bounds, generator=stream):
                x = chains.x
        if self.buffer is not None:
            mine = ~at_data
            self.buffer.put(rows[mine], which[mine], x[mine], t.steps, anew[mine])
        return x

    def _watch(self, means: Mapping[str, Tensor], images: int) -> None:
        assert self.guard is not None
        wrong = self.guard.see(means)
        if wrong is not None:
            raise Diverged(f"the energy model has diverged: {wrong}.")

    def notes(self) -> tuple[str, ...]:
        s, at = self.sampler, self.sampler.implied_temperature()
        far = reach(s.steps, s.step_size, s.temperature, noise=s.noise, clip=s.clip)
        if s.method == "langevin" and s.start == "noise" and far < 2 * self.scale:
            said = f"chains from noise that cannot arrive: in {s.steps} moves they go {far:.2g} at most, and data is {2 * self.scale:g} wide."
            return (said, *self._tempered(s, at))
        shaken = math.sqrt(s.step_size * s.temperature) if s.noise is None else s.noise
        if s.method == "langevin" and shaken >= 2 * self.scale:
            said = f"the noise of one move, {shaken:.2g}, is as wide as the data, {2 * self.scale:g}: what comes of it is noise. Lower step_size."
            return (said, *self._tempered(s, at))
        return self._tempered(s, at)

    @staticmethod
    def _tempered(s: Sampler, at: float) -> tuple[str, ...]:
        if s.noise is None and s.clip is None:
            return () if at == 1 else (f"a tempered sampler: it follows exp(-E / {at:.3g}), not exp(-E).",)
        noise = f"noise {s.noise if s.noise is not None else 'as its step says'}"
        if s.clip is None:
            return (
                f"a tempered sampler: {noise} on a step of {s.step_size:g}; what it follows is near exp(-E / {at:.2g}).",
            )
        return (
            f"a tempered sampler: {noise} and clip {s.clip} on a step of {s.step_size:g}. Where the slope stays below the clip it follows about exp(-E / {at:.2g}); elsewhere no law that is known.",
        )

    @property
    def tempered(self) -> bool:
        """Whether training's chains, where there are any, followed another law than exp(-E)."""
        t = self.chains
        return self.need_chains and (t.noise is not None or t.clip is not None or t.temperature != 1)

    def signs(self) -> dict[str, float]:
        """What the log is told when samples are drawn: the slope at noise, and how old and how varied the kept chains are."""
        stream = SampleStream(0, torch.arange(NOISE_PROBES, device=next(self.parameters()).device))
        with _Still(self.network):  # looking must not move spectral norm's iteration
            _, found = slope(self.energy, self._begin(NOISE_PROBES, stream))
        signs = {"monitor/noise_slope": float(found.flatten(1).norm(dim=1).mean())}
        if self.buffer is not None:
            signs["monitor/chain_age"] = float(self.buffer.age.float().mean())
            signs["monitor/buffer_distance"] = float(
                _apart(self.buffer.pick(250, torch.Generator().manual_seed(0))).mean()
            )
        return signs

    def collect(self, gather: Callable[[Tensor], Tensor]) -> None:
        """Bring the chains of all processes together, each having moved those of its own rows."""
        if self.buffer is None:
            return
        for kept in (self.buffer.chains, self.buffer.age):
            world = gather(kept[None])
            share = len(kept) // len(world)
            for rank, theirs in enumerate(world):
                mine = slice(rank * share, (rank + 1) * share)
                kept[mine] = theirs[mine]

    def averaged(self) -> nn.Module:
        return self.network

    def still(self) -> AbstractContextManager[None]:
        """The network in evaluation mode and without gradients of its weights, for a while."""
        return _Still(self.network)

    # --- sampling -------------------------------------------------------------------------------------------

    def energy(self, x: Tensor) -> Tensor:
        """E(x), float32 (B,): the lower, the more like data."""
        found: Tensor = self.network(x)
        return found.float()

    @property
    def evaluations(self) -> int:
        """Of the energy's slope, for each sample."""
        return self.sampler.steps * (self.sampler.leaps if self.sampler.method == "hmc" else 1)

    def walk(self, x: Tensor, *, generator: Generator | None = None) -> Iterator[Chains]:
        """The sampler's chain from x, a state at a time."""
        exact = self.bounds is not None and self.sampler.method != "langevin"
        energy = partial(_mirrored, self.energy, *self.bounds) if self.bounds is not None and exact else self.energy
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        with _Still(self.network):
            for chains in self.sampler.walk(energy, x, bounds=self.bounds, generator=generator):
                self.acceptance = chains.acceptance
                yield chains._replace(x=fold(chains.x, *self.bounds)) if self.bounds is not None and exact else chains

    def start(self, n: int, generator: Generator | None = None) -> Tensor:
        """Where the sampler's chains begin, (n, *shape).

        Raises:
            NotSupported: it starts at a buffer or at data that the model has not.
        """
        device = next(self.parameters()).device
        if self.sampler.start == "buffer":
            if self.buffer is None:
                raise NotSupported(
                    "this energy model was trained without kept chains; start its sampler at noise or at data."
                )
            return self.buffer.pick(n, generator)
        if self.sampler.start == "data":
            if self.data is None:
                raise NotSupported("the sampler starts at data, and the model was given none (model.data).")
            at = draw_integers(len(self.data), (n,), generator=generator, device=self.data.device)
            return self.data[at].to(device)
        return self._begin(n, generator).to(device)

    def sample(self, n: int, *, labels: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        if labels is not None:
            raise NotSupported("this energy model is unconditional: it cannot sample by label.")
        last: Tensor = deque(self.trajectory(n, generator=generator), maxlen=1)[0]
        return last.contiguous()

    def trajectory(
        self, n: int, *, labels: Tensor | None = None, generator: Generator | None = None
    ) -> Iterator[Tensor]:
        """Where the chains begin, and where they are after each move."""
        x = self.start(n, generator)
        yield x
        for chains in self.walk(x, generator=generator):
            yield chains.x


_WATCHED = ("data_energy", "chain_energy", "data_spread", "data_distance", "chain_distance", "data_ink", "chain_ink")


def _ink(x: Tensor) -> Tensor:
    """Share of each image's values above the middle, (B,)."""
    return (x > 0).float().flatten(1).mean(dim=1)


def _apart(x: Tensor) -> Tensor:
    """Distance of each sample from the one beside it, (B,)."""
    flat = x.flatten(1).float()
    return (flat - flat.roll(1, dims=0)).norm(dim=1)


def fold(x: Tensor, low: float, high: float) -> Tensor:
    """Mirrored at the bounds until it lies between them.

    Example:
        >>> fold(torch.tensor([-1.25, 0.5, 1.25, 3.5]), -1.0, 1.0).tolist()
        [-0.75, 0.5, 0.75, -0.5]
    """
    wide = high - low
    return high - ((x - low).remainder(2 * wide) - wide).abs()


def _mirrored(energy: Callable[[Tensor], Tensor], low: float, high: float, x: Tensor) -> Tensor:
    """The energy unfolded over all space, each cell the mirror image of its neighbours: a chain on it, folded, has the law exp(-E) between the bounds.

    Refusing what leaves the bounds would keep that law too, but pixels of images lie on them, and nearly every move in many dimensions leaves somewhere.
    """
    return energy(fold(x, low, high))


class _Still(AbstractContextManager[None]):
    """The network in evaluation mode and without gradients of its weights, for a while."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __enter__(self) -> None:
        self.training = self.network.training
        self.moved = [p for p in self.network.parameters() if p.requires_grad]
        self.network.eval()
        for p in self.moved:
            p.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        for p in self.moved:
            p.requires_grad_(True)
        self.network.train(self.training)
