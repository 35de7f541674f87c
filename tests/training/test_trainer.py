from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pushforward.data.batches import DensityBatches
from pushforward.errors import CheckpointError, TrainingError
from pushforward.model import Batch, GenerativeModel, Phase, Terms
from pushforward.randomness import Generator, SampleStream, draw_normal
from pushforward.training.ema import EMA
from pushforward.training.optimisers import sgd
from pushforward.training.schedules import factor
from pushforward.training.trainer import Trainer


class Line(GenerativeModel):
    """Fits its mean to the data by (x - m)^2 / 2; a gradient step is a known recursion."""

    def __init__(self, *, explode_at: int | None = None, extra: float = 0.0) -> None:
        super().__init__()
        self.part = nn.Module()
        self.part.register_parameter("m", nn.Parameter(torch.zeros(1)))
        self.explode_at, self.extra = explode_at, extra

    def loss(self, batch: Batch) -> Terms:
        terms = {"fit": (batch.x - self.part.m).square().sum(1) / 2, "pull": self.part.m.expand(len(batch.x))}
        if batch.step == self.explode_at:
            terms["pull"] = terms["pull"] / 0
        return terms

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("fit", self.part, self.loss, repeats=2, weights={"pull": self.extra}),)

    def sample(self, n: int, *, labels: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        return (self.part.m + draw_normal((n, 1), generator=generator)).detach()


def constant(stream: SampleStream) -> Tensor:
    return torch.full((len(stream), 1), 4.0)


def make(model: Line | None = None, **options) -> Trainer:
    model = model or Line()
    batches = DensityBatches(constant, batch_size=8, seed=0)
    return Trainer(model, batches, {"fit": sgd(model.part.parameters(), lr=0.1)}, **options)


def run(trainer: Trainer, until: int) -> Trainer:
    for _ in trainer.steps(until):
        pass
    return trainer


@pytest.mark.parametrize(("extra", "target"), [(0.0, 4.0), (1.0, 3.0)])
def test_steps_are_gradient_descent_by_hand(extra: float, target: float) -> None:
    """m <- m - 0.1 (m - 4 + w), twice a step: m_k = target (1 - 0.9^(2k))."""
    trainer = run(make(Line(extra=extra)), 5)
    assert trainer.model.part.m.item() == pytest.approx(target * (1 - 0.9**10), rel=1e-5)
    assert trainer.batches.position == 10


def test_reports_name_phase_and_term() -> None:
    reports = list(make(measure_every=2).steps(2))
    assert [r.step for r in reports] == [1, 2]
    assert set(reports[0].terms) == {"fit/fit", "fit/pull"}
    assert reports[0].terms["fit/fit"].item() == pytest.approx((4 - 0.4) ** 2 / 2, rel=1e-5)  # the second repeat
    assert not reports[0].gradient_norms
    m = 4 * (1 - 0.9**3)  # before the last of four moves
    assert reports[1].gradient_norms["fit"].item() == pytest.approx(4 - m, rel=1e-5)


def test_a_step_has_its_own_randomness() -> None:
    draws = []

    class Noisy(Line):
        def loss(self, batch: Batch) -> Terms:
            draws.append(batch.generator.normal((8, 1)))
            return super().loss(batch)

    run(make(Noisy()), 2)
    assert len({d.sum().item() for d in draws}) == 4


def test_non_finite_names_step_phase_and_term(tmp_path: Path) -> None:
    trainer = make(Line(explode_at=3, extra=1.0))
    run(trainer, 3)
    trainer.save(tmp_path)
    weights = trainer.model.part.m.clone()
    with pytest.raises(TrainingError, match="step 4: the term 'pull' of the phase 'fit' is inf"):
        run(trainer, 6)
    assert torch.equal(trainer.model.part.m, weights), "the bad gradient was applied"
    assert (tmp_path / "3").is_dir()


def test_non_finite_weights_are_not_saved(tmp_path: Path) -> None:
    trainer = run(make(), 1)
    with torch.no_grad():
        trainer.model.part.m.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"part\.m is no longer finite"):
        trainer.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_finish_comes_after_each_step_with_the_means() -> None:
    seen = []

    class Clipped(Line):
        def phases(self) -> tuple[Phase, ...]:
            def finish(means: Mapping[str, Tensor], images: int) -> None:
                seen.append((sorted(means), images))
                self.part.m.data.clamp_(max=0.5)

            return (Phase("fit", self.part, self.loss, repeats=2, weights={"pull": 0.0}, finish=finish),)

    assert run(make(Clipped()), 5).model.part.m.item() == 0.5
    assert len(seen) == 10
    assert seen[0][1] == 8


def test_wrong_optimisers_are_refused() -> None:
    model = Line()
    with pytest.raises(ValueError, match=r"phases are \['fit'\]"):
        Trainer(model, DensityBatches(constant, batch_size=8, seed=0), {"fitt": sgd(model.parameters())})


def test_ema_by_hand() -> None:
    """With weights 1, 2, 3 and the warm-up decays 1/10, 2/11, 3/12 from 0."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    ema, expected = EMA(module, 0.99), 0.0
    for step in range(3):
        nn.init.constant_(module.weight, step + 1.0)
        ema.update(step)
        d = (1 + step) / (10 + step)
        expected = d * expected + (1 - d) * (step + 1)
    assert ema.shadow["weight"].item() == pytest.approx(expected, rel=1e-6)


def test_ema_swap_is_undone() -> None:
    module = nn.BatchNorm1d(2)
    ema = EMA(module, 0.9)
    with torch.no_grad():
        module.weight.fill_(5)
    with ema.swapped_in():
        assert module.weight.tolist() == [1, 1]
        module(torch.randn(10, 2))
    assert module.weight.tolist() == [5, 5] and module.running_mean.tolist() == [0, 0]


def test_averaged_weights_do_not_vanish_silently(tmp_path: Path) -> None:
    saved = run(make(ema=0.9), 2).save(tmp_path)
    assert saved is not None
    with pytest.raises(CheckpointError, match=r"with averaged weights \(train\.ema\)"):
        make().restore(saved)


def test_learning_rates_follow_their_schedule_and_resume(tmp_path: Path) -> None:
    """With rates 0.1 (1 - k/4) and two moves a step the error shrinks by (1 - rate)^2: 4 prod (1 - 0.1 (1 - k/4))^2."""
    rate = partial(factor, steps=4, schedule="linear")
    whole = run(make(rate=rate), 4)
    left = 4.0
    for k in range(4):
        left *= (1 - 0.1 * (1 - k / 4)) ** 2
    assert whole.model.part.m.item() == pytest.approx(4 - left, rel=1e-6)
    half = run(make(rate=rate), 2)
    saved = half.save(tmp_path)
    assert saved is not None
    resumed = make(rate=rate)
    resumed.restore(saved)
    assert torch.equal(run(resumed, 4).model.part.m, whole.model.part.m)


def test_schedules_by_hand() -> None:
    assert [factor(k, 10, schedule="cosine", warmup=2) for k in (0, 1, 2, 6, 10)] == pytest.approx([0.5, 1, 1, 0.5, 0])
    assert [factor(k, 10) for k in (0, 9)] == [1, 1]
