"""One suite that every model family passes; `check_contract` runs it all on a small model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from pushforward.data.batches import Batches
from pushforward.model import Batch, GenerativeModel
from pushforward.randomness import SampleStream
from pushforward.training.trainer import Trainer

Make = Callable[[], GenerativeModel]
MakeTrainer = Callable[[], Trainer]


def check_shapes(model: GenerativeModel, batches: Batches) -> None:
    """Each term of each phase is (B,), and samples are (n, *shape) without gradient."""
    x, labels = batches.next()
    for phase in model.phases():
        terms = phase.loss(Batch(x, labels, 0, SampleStream(0, batches.rows)))
        assert terms
        for name, term in terms.items():
            assert term.shape == (len(x),), (phase.name, name)
            assert torch.isfinite(term).all(), (phase.name, name)
    samples = model.sample(3, generator=SampleStream(0, torch.arange(3)))
    assert samples.shape == (3, *x.shape[1:])
    assert not samples.requires_grad


def check_gradients(model: GenerativeModel, batches: Batches) -> None:
    """A phase's loss reaches every parameter of its own module and none of any other."""
    for phase in model.phases():
        x, labels = batches.next()
        model.zero_grad(set_to_none=True)
        terms = phase.loss(Batch(x, labels, 0, SampleStream(0, batches.rows)))
        sum(phase.weights.get(n, 1.0) * t.mean() for n, t in terms.items() if phase.weights.get(n, 1.0)).backward()
        own = set(phase.module.parameters())
        for name, p in model.named_parameters():
            if p in own:
                assert p.grad is not None and torch.isfinite(p.grad).all(), f"{phase.name} does not reach {name}"
            else:
                assert p.grad is None, f"{phase.name} moves {name}, which is not its own"
        assert all(p.requires_grad for p in model.parameters()), "a phase left parameters frozen"


def check_sampling_is_addressed(model: GenerativeModel) -> None:
    """Sample i of a seed is the same in any batch; another seed gives another."""
    whole = model.sample(6, generator=SampleStream(7, torch.arange(6)))
    part = model.sample(2, generator=SampleStream(7, torch.tensor([4, 2])))
    torch.testing.assert_close(part, whole[[4, 2]], rtol=1e-4, atol=1e-5)  # float sums in another order
    other = model.sample(6, generator=SampleStream(8, torch.arange(6)))
    assert (whole - other).abs().max() > 1e-3


def check_resumes_bit_equal(make_trainer: MakeTrainer, folder: Path, *, steps: int = 6) -> None:
    """N steps equal k steps, save, a fresh trainer, restore, N - k steps, bit for bit, averages included."""
    straight = make_trainer()
    for _ in straight.steps(steps):
        pass
    broken = make_trainer()
    for _ in broken.steps(steps // 2):
        pass
    saved = broken.save(folder)
    assert saved is not None
    resumed = make_trainer()
    resumed.restore(saved)
    for _ in resumed.steps(steps):
        pass
    assert resumed.step == straight.step == steps
    ours, theirs = resumed.model.state_dict(), straight.model.state_dict()
    for name in theirs:
        assert torch.equal(ours[name], theirs[name]), name
    if straight.ema is not None and resumed.ema is not None:
        for name in straight.ema.shadow:
            assert torch.equal(resumed.ema.shadow[name], straight.ema.shadow[name]), name
    fresh = make_trainer()
    for name, before in fresh.model.named_parameters():
        if before.ndim >= 2:
            assert not torch.equal(before, theirs[name]), f"{name} did not move: the comparison above says nothing"
