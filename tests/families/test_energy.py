"""Energy models: terms against closed forms and enumeration, kept chains, guards, the contract of all families."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from contract import check_gradients, check_resumes_bit_equal, check_sampling_is_addressed, check_shapes
from program import call, refused
from torch import Tensor, nn

from pushforward import build, runs
from pushforward.build.energy import TERMS, change_sampler, sampler_table
from pushforward.config import load_recipe, parse, recipe_names
from pushforward.data.batches import ImageBatches
from pushforward.data.images import ImageSet
from pushforward.errors import CheckpointError, ConfigError, Diverged, NotSupported, TrainingError
from pushforward.evaluation.likelihoods import ais_log_prob
from pushforward.families.energy import terms
from pushforward.families.energy.guard import LATE, PATIENCE, Guard
from pushforward.families.energy.model import EnergyModel, Sampler, Term, Training, fold
from pushforward.families.energy.replay import Replay, begin
from pushforward.families.energy.terms import Context
from pushforward.model import Batch
from pushforward.networks.energies import ConvEnergy, EnergyHead, MLPEnergy, PatchEnergy, ResidualEnergy
from pushforward.randomness import SampleStream
from pushforward.training.optimisers import adam
from pushforward.training.trainer import Trainer


def batch_of(x: Tensor, seed: int = 0) -> Batch:
    return Batch(x, None, 0, SampleStream(seed, torch.arange(len(x))))


# --- terms ------------------------------------------------------------------------------------------------------


class Quadratic(nn.Module):
    """E(x) = x' P x / 2 + b' x."""

    def __init__(self, precision: Tensor) -> None:
        super().__init__()
        self.precision = nn.Parameter(precision.clone())
        self.linear = nn.Parameter(torch.zeros(len(precision), dtype=precision.dtype))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bi,ij,bj->b", x, self.precision, x) / 2 + x @ self.linear


def test_terms_by_hand() -> None:
    field = Quadratic(torch.tensor([[2.0, 0.0], [0.0, 4.0]]))
    x, chains = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    context = Context(field, batch_of(x), chains)
    assert context.data_energy.tolist() == [1.0, 2.0]
    assert terms.contrastive(context).tolist() == [1.0 - 4.0, 2.0]
    assert terms.magnitude(context).tolist() == [1.0 + 16.0, 4.0]
    assert terms.flatness(context).tolist() == [16.0, 0.0]  # |P x|^2 at the chains
    assert terms.magnitude(Context(field, batch_of(x))).tolist() == [1.0, 4.0]
    # sliced: |P x|^2 / 2 - v' P v, and for signs and a diagonal P the last is the trace
    torch.testing.assert_close(terms.sliced(context), torch.tensor([2.0 - 6.0, 8.0 - 6.0]))
    torch.testing.assert_close(terms.sliced(context, probes=3), torch.tensor([2.0 - 6.0, 8.0 - 6.0]))


def test_denoising_by_hand() -> None:
    """With the energy |x|^2 / 2 and scale s: |s^2 (x + sigma eps) / sigma - eps|^2 / d."""
    field, x = Quadratic(torch.eye(2)), torch.tensor([[0.5, -1.0]])
    eps = batch_of(x).generator.normal((1, 2))
    found = terms.denoising(Context(field, batch_of(x)), sigma=0.5)
    torch.testing.assert_close(found, (0.25 / 0.5 * (x + 0.5 * eps) - eps).square().mean(dim=1))
    stream = batch_of(x).generator
    level = 0.5 * 4.0 ** stream.uniform((1,))
    eps = stream.normal((1, 2))
    found = terms.denoising(Context(field, batch_of(x)), sigma=0.5, widest=2.0, scale=3.0)
    torch.testing.assert_close(found, (9 / level * (x + level * eps) - eps).square().mean(dim=1))


@pytest.mark.parametrize("name", ["denoising", "sliced"])
def test_score_matching_recovers_a_gaussians_precision(name: str) -> None:
    """Denoising at sigma finds the precision of the noisy data, (C + sigma^2)^-1; sliced that of the data itself, C^-1."""
    g = torch.Generator().manual_seed(0)
    root = torch.tensor([[1.0, 0.0], [0.6, 0.5]])
    x = torch.randn(60_000, 2, generator=g) @ root.T + torch.tensor([1.0, -1.0])
    covariance = root @ root.T + (0.3**2 * torch.eye(2) if name == "denoising" else 0)
    field = Quadratic(torch.eye(2))
    step = torch.optim.LBFGS(field.parameters(), lr=1.0, max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        step.zero_grad()
        context = Context(field, batch_of(x))
        found = (terms.denoising(context, sigma=0.3) if name == "denoising" else terms.sliced(context)).mean()
        found.backward()
        return found.detach()

    step.step(loss)
    precision = (field.precision + field.precision.T).detach() / 2
    torch.testing.assert_close(precision, torch.linalg.inv(covariance), rtol=0.06, atol=0.06)
    mean = -torch.linalg.solve(precision, field.linear.detach())
    torch.testing.assert_close(mean, torch.tensor([1.0, -1.0]), rtol=0.03, atol=0.03)


def test_the_contrastive_gradient_is_the_likelihoods() -> None:
    """On 40 states, whose sum is Z: with chains drawn from the model itself the gradient is that of the mean negative log-likelihood."""
    torch.manual_seed(0)
    states = torch.linspace(-2, 2, 40)[:, None]
    field = MLPEnergy(shape=(1,), hidden=(8,)).double()
    states = states.double()
    data = states[torch.randint(40, (500,))]
    exact = (field(data).mean() + (-field(states)).logsumexp(0)).double()
    wanted = torch.autograd.grad(exact, list(field.parameters()))
    with torch.no_grad():
        p = (-field(states)).softmax(0)
    # the states themselves as chains, each as often as p says, beside whole repeats of the data
    counts = (p * 1e6).round().long()
    chains = states.repeat_interleave(counts, dim=0)
    chains = chains[torch.randperm(len(chains))][: len(chains) // len(data) * len(data)]
    context = Context(field, batch_of(data.repeat(len(chains) // len(data), 1)), chains)
    got = torch.autograd.grad(terms.contrastive(context).mean(), list(field.parameters()))
    assert max(float(w.abs().max()) for w in wanted) > 0.05
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


# --- networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["none", "spectral"])
@pytest.mark.parametrize("head", ["linear", "quadratic"])
@pytest.mark.parametrize("make", [ConvEnergy, PatchEnergy, ResidualEnergy, MLPEnergy])
def test_networks(make: type[nn.Module], head: str, norm: str) -> None:
    torch.manual_seed(0)
    small = {"hidden": (8,)} if make is MLPEnergy else {"width": 4}
    for shape in ((1, 28, 28), (3, 32, 32)):
        network = make(shape=shape, head=head, norm=norm, **small).eval()
        x = torch.randn(3, *shape)
        assert network(x).shape == (3,)
        torch.testing.assert_close(network(x)[1:], network(x[1:]), rtol=1e-4, atol=1e-5)


def test_the_quadratic_head() -> None:
    head = EnergyHead(2, "quadratic", "none")
    h = torch.tensor([[1.0, 2.0]])
    with torch.no_grad():
        first, second, squares = head.first(h), head.second(h), head.squares(h.square())
    torch.testing.assert_close(head(h).detach(), (first * second + squares).squeeze(1))


def test_relu_has_no_curvature_and_swish_has() -> None:
    x = torch.randn(4, 1, 8, 8).requires_grad_()
    for activation, curved in (("relu", False), ("swish", True)):
        torch.manual_seed(0)
        network = PatchEnergy(shape=(1, 8, 8), width=4, patch=2, activation=activation)
        (g,) = torch.autograd.grad(network(x).sum(), x, create_graph=True)
        assert g.requires_grad
        (h,) = torch.autograd.grad(g.square().sum(), x, allow_unused=True)
        assert (h is not None and bool(h.abs().max() > 1e-7)) == curved


# --- kept chains ------------------------------------------------------------------------------------------------


def numbered(rows: int = 6, depth: int = 5) -> Replay:
    """Chains that hold their own number."""
    replay = Replay(shape=(1,), rows=rows, depth=depth, begin=lambda n, g: torch.full((n, 1), -1.0))
    replay.chains.copy_(torch.arange(rows * depth).float().reshape(rows, depth, 1))
    return replay


def test_chains_are_distinct_and_written_back_where_they_were_drawn() -> None:
    replay, rows = numbered(), torch.arange(6)
    x, which, anew = replay.draw(rows, 0.0, SampleStream(3, rows), data=torch.zeros(6, 1))
    assert not anew.any()
    assert x.unique().numel() == 6
    assert torch.equal(x.squeeze(1), (rows * 5 + which).float())
    replay.put(rows, which, x + 100, 7, anew)
    moved = replay.chains.flatten() >= 100
    assert torch.equal(moved.nonzero().squeeze(1), rows * 5 + which)
    assert torch.equal(replay.age.flatten(), 7 * moved.int())


def test_restarts_have_their_share_and_their_age() -> None:
    rows = torch.arange(4000)
    replay = Replay(shape=(1,), rows=4000, depth=1, begin=lambda n, g: torch.full((n, 1), -1.0))
    replay.chains.fill_(5.0)
    replay.age.fill_(9)
    x, which, anew = replay.draw(rows, 0.25, SampleStream(0, rows), data=torch.full((4000, 1), 2.0), share=0.5)
    shares = [float((x == v).float().mean()) for v in (5.0, -1.0, 2.0)]
    assert shares == pytest.approx([0.75, 0.125, 0.125], abs=0.025)
    assert torch.equal(anew, (x != 5.0).squeeze(1))
    kept = rows % 2 == 0  # chains that are not written back keep their age
    replay.put(rows[kept], which[kept], x[kept], 3, anew[kept])
    assert torch.equal(replay.age[:, 0], torch.where(~kept, 9, torch.where(anew, 3, 12)).int())


def test_a_row_draws_the_same_chains_whoever_else_is_there() -> None:
    """Two processes with half of the rows each hold together what one process holds."""
    whole, left, right = numbered(), numbered(), numbered()
    for step in range(4):
        for replay, rows in ((whole, torch.arange(6)), (left, torch.arange(3)), (right, torch.arange(3, 6))):
            data = torch.zeros(len(rows), 1)
            x, which, anew = replay.draw(rows, 0.3, SampleStream(step, rows), data=data, share=0.5)
            replay.put(rows, which, x + 0.5, 1, anew)
    assert torch.equal(whole.chains[:3], left.chains[:3])
    assert torch.equal(whole.chains[3:], right.chains[3:])
    assert not torch.equal(whole.chains[3:], left.chains[3:])


def test_collect_brings_every_processs_rows_together() -> None:
    model = small()
    other = model.buffer.chains.clone() + 1  # type: ignore[union-attr]
    mine = model.buffer.chains.clone()  # type: ignore[union-attr]
    model.collect(lambda x: torch.cat([x, x + 1]))
    assert torch.equal(model.buffer.chains[:4], mine[:4])  # type: ignore[union-attr]
    assert torch.equal(model.buffer.chains[4:], other[4:])  # type: ignore[union-attr]


def test_where_chains_begin() -> None:
    stream = SampleStream(0, torch.arange(4000))
    wide = begin("wide", 4000, (1, 4, 4), generator=stream)
    assert float(wide.abs().max()) <= 1
    flat = wide.flatten(1)
    assert float((flat.mean(1) < -0.8).float().mean()) > 0.04  # dark ones among them
    assert float((flat.mean(1) > 0.8).float().mean()) > 0.04
    assert float((flat.std(1) < 0.1).float().mean()) > 0.04  # and flat ones
    uniform = begin("uniform", 4000, (1, 4, 4), scale=2.0, generator=stream)
    assert float(uniform.std()) == pytest.approx(2 / math.sqrt(3), rel=0.02)
    assert float(begin("normal", 4000, (2,), scale=3.0, generator=stream).std()) == pytest.approx(3.0, rel=0.03)


# --- the model --------------------------------------------------------------------------------------------------


def small(sampler: Sampler | None = None, training: Training | None = None) -> EnergyModel:
    torch.manual_seed(0)
    network = PatchEnergy(shape=(1, 8, 8), width=4, patch=2)
    listed = [
        Term("contrastive", terms.contrastive, 1.0, chains=True),
        Term("magnitude", terms.magnitude, 0.1),
        Term("denoising", terms.denoising, 0.1),
    ]
    return EnergyModel(
        network=network,
        shape=(1, 8, 8),
        terms=listed,
        sampler=sampler or Sampler(steps=4, step_size=20.0, noise=0.05, clip=0.03),
        training=training
        or Training(steps=3, step_size=20.0, noise=0.05, clip=0.03, depth=3, restart_data=0.5, data=0.3),
        rows=8,
        jitter=0.03,
    )


def images() -> ImageSet:
    g = torch.Generator().manual_seed(0)
    return ImageSet(torch.randint(0, 256, (64, 1, 8, 8), generator=g, dtype=torch.uint8))


def test_contract(tmp_path: Path) -> None:
    model = small()
    batches = ImageBatches(images(), batch_size=8, seed=0)
    check_shapes(model, batches)
    check_gradients(model, batches)
    check_sampling_is_addressed(model)

    def trainer() -> Trainer:
        fresh, data = small(), ImageBatches(images(), batch_size=8, seed=0)
        return Trainer(fresh, data, {"energy": adam(fresh.network.parameters(), lr=1e-3)}, seed=3, ema=0.9)

    check_resumes_bit_equal(trainer, tmp_path)


@pytest.mark.parametrize("method", ["langevin", "mala", "hmc"])
def test_samplers_stay_in_bounds_and_are_addressed(method: str) -> None:
    model = small(Sampler(method=method, steps=5, step_size=0.02, leaps=3))  # type: ignore[arg-type]
    check_sampling_is_addressed(model)
    x = model.sample(20, generator=SampleStream(0, torch.arange(20)))
    assert float(x.abs().max()) <= 1
    if method != "langevin":
        assert 0 < model.acceptance <= 1
    ways = list(model.trajectory(4, generator=SampleStream(0, torch.arange(4))))
    assert len(ways) == 6
    assert torch.equal(ways[-1], model.sample(4, generator=SampleStream(0, torch.arange(4))))


@pytest.mark.parametrize(("method", "step"), [("mala", 0.1), ("hmc", 0.15)])
def test_exact_samplers_leave_the_bounds_where_data_lies(method: str, step: float) -> None:
    """Images of pixels at -1: a chain of E = 3 x within [-1, 1] must leave them, for a truncated exponential whose mean is known."""
    model = small(Sampler(method=method, steps=150, step_size=step, leaps=5, start="data"))  # type: ignore[arg-type]

    class Tilt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unit = nn.Parameter(torch.tensor(3.0))

        def forward(self, x: Tensor) -> Tensor:
            return self.unit * x.flatten(1).sum(dim=1)

    model.network = Tilt()
    model.data = torch.full((1, 1, 2, 2), -1.0)
    x = model.sample(2000, generator=SampleStream(0, torch.arange(2000)))
    assert model.acceptance > 0.2
    assert float(x.abs().max()) <= 1
    mean = 1 / 3 - 1 / math.tanh(3.0)  # of exp(-3 x) on [-1, 1]
    assert float(x.mean()) == pytest.approx(mean, abs=0.02)
    second = 1 + 2 * (1 / 9 - 1 / math.tanh(3.0) / 3)  # E x^2 by parts
    assert float(x.square().mean()) == pytest.approx(second, abs=0.03)


def test_folding_mirrors_at_the_bounds() -> None:
    x = torch.linspace(-7, 7, 401, dtype=torch.float64)
    at = x.clone()
    for _ in range(8):  # one mirror at a time
        at = torch.where(at > 1, 2 - at, at)
        at = torch.where(at < -1, -2 - at, at)
    torch.testing.assert_close(fold(x, -1.0, 1.0), at)


def test_looking_does_not_move_spectral_norm() -> None:
    torch.manual_seed(0)
    model = small()
    model.network = ConvEnergy(shape=(1, 28, 28), width=4, norm="spectral").train()
    model.shape = (1, 28, 28)
    model.buffer = None
    before = {k: v.clone() for k, v in model.network.state_dict().items()}
    model.signs()
    assert all(torch.equal(v, before[k]) for k, v in model.network.state_dict().items())
    assert model.network.training


SHAPED = {
    "mlp": (MLPEnergy, {"hidden": (8,)}),
    "conv": (ConvEnergy, {"width": 4}),
    "patch": (PatchEnergy, {"width": 4}),
    "resnet": (ResidualEnergy, {"width": 4}),
}


@pytest.mark.parametrize("name", SHAPED)
def test_networks_have_what_they_are_told(name: str) -> None:
    """The activation, spectral norm on each layer and only where asked, and as many blocks."""
    make, given = SHAPED[name]
    for activation, kind, other in (("swish", nn.SiLU, nn.ReLU), ("relu", nn.ReLU, nn.SiLU)):
        network = make(shape=(1, 28, 28), activation=activation, **given)  # type: ignore[operator]
        assert any(isinstance(m, kind) for m in network.modules())
        assert not any(isinstance(m, other) for m in network.modules())
    bounded = make(shape=(1, 28, 28), norm="spectral", **given)  # type: ignore[operator]
    layers = [m for m in bounded.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) > 1 and all(hasattr(m, "parametrizations") for m in layers)
    plain = make(shape=(1, 28, 28), **given)  # type: ignore[operator]
    assert not any(hasattr(m, "parametrizations") for m in plain.modules())
    if name == "resnet":
        size = [
            sum(p.numel() for p in ResidualEnergy(shape=(1, 28, 28), width=4, blocks=b).parameters()) for b in (1, 2, 3)
        ]
        assert size[2] - size[1] == size[1] - size[0] > 0


def test_what_is_kept_and_what_is_tempered() -> None:
    assert {"buffer.chains", "buffer.age", "guard.averages"} <= small().state_dict().keys()
    assert not small(training=Training()).tempered
    for how in ({"clip": 0.03}, {"noise": 0.1}, {"temperature": 0.5}):
        assert small(training=Training(**how)).tempered  # type: ignore[arg-type]
    resolved(chains={"steps": 10, "step_size": 1.0, "clip": 1e-6, "noise": 0.5})  # its noise alone crosses the data


def test_jitter_is_noise_on_the_data_of_the_energies() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1).sum(dim=1)

    x = torch.zeros(4000, 1, 2, 2)
    found = Context(Sum(), batch_of(x), torch.zeros_like(x), jitter=0.1)
    assert float(found.data_energy.std()) == pytest.approx(0.2, rel=0.05)  # of four pixels
    assert not found.chain_energy.any()
    assert not Context(Sum(), batch_of(x), torch.zeros_like(x)).data_energy.any()


def test_chains_of_training_see_the_network_as_it_will_be_used() -> None:
    """In evaluation mode: dropout is off while chains move."""
    modes: list[bool] = []
    model = small()
    model.network.register_forward_hook(lambda m, *_: modes.append(m.training))
    model.train()
    x, _ = ImageBatches(images(), batch_size=8, seed=0).next()
    model.loss(batch_of(x))
    assert modes == [False] * 3 + [True] * 2  # three moves; the energies' pass and denoising


def test_terms_are_weighed_and_watched_values_are_not() -> None:
    weights = small().phases()[0].weights
    assert weights is not None
    assert weights["contrastive"] == 1.0
    assert weights["magnitude"] == weights["denoising"] == 0.1
    own = build.build_model(resolved(terms=[{"name": "contrastive"}, {"name": "magnitude", "weight": 0.3}]), (1, 8, 8))  # type: ignore[arg-type]
    found = own.phases()[0].weights
    assert found is not None
    assert found["magnitude"] == 0.3 and found["data_energy"] == found["chain_ink"] == 0


def test_training_moves_its_chains_as_told() -> None:
    """On E = x the chains of training go down by steps x step_size / 2 x the clipped slope; without a clip by the slope of 1; and they stay within [-1, 1]."""

    class Slope(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unit = nn.Parameter(torch.tensor(1.0))

        def forward(self, x: Tensor) -> Tensor:
            return self.unit * x.flatten(1).sum(dim=1)

    def gone(**changes: object) -> float:
        given = {"steps": 4, "step_size": 0.1, "temperature": 0.0, "depth": 1, "restart": 0.0} | changes
        model = small(training=Training(**given))  # type: ignore[arg-type]
        model.network = Slope()
        model.buffer.chains.fill_(0.5)  # type: ignore[union-attr]
        x, _ = ImageBatches(images(), batch_size=8, seed=0).next()
        model.loss(batch_of(x))
        return 0.5 - float(model.buffer.chains.mean())  # type: ignore[union-attr]

    assert gone() == pytest.approx(4 * 0.05, abs=1e-3)
    assert gone(clip=0.2) == pytest.approx(4 * 0.05 * 0.2, abs=1e-3)
    assert gone(steps=100) == pytest.approx(1.5, abs=1e-3)  # to the bound and no further
    noisy = [gone(temperature=t, steps=1) for t in (0.0, 0.5)]
    assert noisy[0] == pytest.approx(0.05, abs=1e-3) and noisy[0] != noisy[1]
    # chains that begin at the batch, a share `data` of them, are not kept
    assert 0 < gone(data=0.5) < gone()


def test_the_log_is_told_of_age_ink_and_variety() -> None:
    model = small()
    assert model.buffer is not None
    model.buffer.age.fill_(7)
    model.buffer.chains.copy_(torch.rand(model.buffer.chains.shape))
    signs = model.signs()
    assert signs["monitor/chain_age"] == 7
    assert signs["monitor/buffer_distance"] == pytest.approx(
        math.sqrt(64 / 6), rel=0.15
    )  # of two uniform images, few of them the same
    x = torch.full((8, 1, 8, 8), -1.0)
    x[:, :, :2] = 1.0
    found = model.loss(batch_of(x))
    assert found["data_ink"].tolist() == [0.25] * 8


def test_what_the_guard_is_fed() -> None:
    """Of chains that hardly move, by hand: what is of the data, what is of the chains, and by how much each row differs from the one before it."""
    still = Training(steps=1, step_size=1e-12, temperature=0.0, depth=1, restart=0.0)
    model = small(training=still)

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unit = nn.Parameter(torch.tensor(1.0))

        def forward(self, x: Tensor) -> Tensor:
            return self.unit * x.flatten(1).mean(dim=1)

    model.network, model.jitter = Mean(), 0.0
    assert model.buffer is not None
    chains = torch.full((8, 1, 8, 8), -1.0)
    chains[:, :, :, :4] = 0.5  # half inked, all alike
    chains[0] = 0.9  # but one
    model.buffer.chains.copy_(chains[:, None])
    x = torch.full((8, 1, 8, 8), -1.0)
    x[:, :, :2] = 1.0  # a quarter inked, mean -.5
    x[4:, :, 2:] = 0.0  # mean .25, no more ink: 0 is not above the middle
    found = {k: v.detach() for k, v in model.loss(batch_of(x)).items()}
    assert found["data_energy"].tolist() == [-0.5] * 4 + [0.25] * 4
    torch.testing.assert_close(found["chain_energy"], torch.tensor([0.9] + [-0.25] * 7), rtol=0, atol=1e-3)
    assert found["data_spread"].tolist() == [0.375] * 8  # mean distance from the mean of -.125
    assert found["data_ink"].tolist() == [0.25] * 8
    assert found["chain_ink"].tolist() == [1.0] + [0.5] * 7
    apart = 48**0.5  # 48 pixels differ by 1 between the two kinds of data
    torch.testing.assert_close(found["data_distance"], torch.tensor([apart, 0, 0, 0, apart, 0, 0, 0]))
    apart = (32 * 0.4**2 + 32 * 1.9**2) ** 0.5
    torch.testing.assert_close(
        found["chain_distance"], torch.tensor([apart, apart, 0, 0, 0, 0, 0, 0]), rtol=1e-3, atol=1e-3
    )
    # and these, no others, are what the guard reads
    guard = Guard()
    for name in (
        "data_energy",
        "chain_energy",
        "data_spread",
        "data_distance",
        "chain_distance",
        "data_ink",
        "chain_ink",
    ):
        alone = Guard()
        alone.see({name: torch.tensor(0.5)})
        assert int((alone.averages[:-1] == 0.5).sum()) == 1
    guard.see({k: v.mean() for k, v in found.items()})
    assert int((guard.averages[:-1] != 0).sum()) == 7


def test_the_slope_at_noise_is_a_norm_an_image() -> None:
    class Tilt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unit = nn.Parameter(torch.tensor(0.5))

        def forward(self, x: Tensor) -> Tensor:
            return self.unit * x.flatten(1).sum(dim=1)

    model = small()
    model.network = Tilt()
    assert model.signs()["monitor/noise_slope"] == pytest.approx(0.5 * 8, rel=1e-5)  # 64 pixels


def test_hmc_leaps_as_told() -> None:
    """On E = |x|^2 / 2 a leapfrog path of L steps of h turns a point by about L h: after a quarter of a circle nothing is left of where it began."""

    def energy(x: Tensor) -> Tensor:
        return x.square().sum(dim=1) / 2

    x = torch.full((4000, 1), 3.0)
    for leaps, left in ((1, math.cos(0.1)), (8, math.cos(0.8)), (16, math.cos(1.6))):
        sampler = Sampler(method="hmc", steps=1, step_size=0.1, leaps=leaps)
        (moved,) = sampler.walk(energy, x, generator=SampleStream(0, torch.arange(4000)))
        assert moved.acceptance > 0.99
        assert float(moved.x.mean()) == pytest.approx(3 * left, abs=0.06)  # the momentum's part has a mean of 0
        assert float(moved.x.std()) == pytest.approx((1 - left**2) ** 0.5, rel=0.06)


def test_chains_from_data_and_from_the_buffer_are_picked_among_all() -> None:
    model = small(Sampler(steps=1, step_size=1e-12, start="data"))
    model.data = torch.linspace(-1, 1, 10).reshape(10, 1, 1, 1).expand(10, 1, 8, 8)
    found = model.start(200, SampleStream(0, torch.arange(200)))
    assert len(found[:, 0, 0, 0].unique()) == 10
    buffer = numbered(rows=6, depth=5)
    assert len(buffer.pick(500, SampleStream(0, torch.arange(500))).unique()) == 30


def test_chains_start_where_they_are_told() -> None:
    model = small(Sampler(steps=1, step_size=1e-12, start="data"))
    with pytest.raises(NotSupported, match="given none"):
        model.sample(2)
    model.data = torch.full((3, 1, 8, 8), 0.25)
    torch.testing.assert_close(model.sample(2), torch.full((2, 1, 8, 8), 0.25), rtol=0, atol=1e-4)
    model.sampler = Sampler(steps=1, step_size=1e-12, start="buffer")
    model.buffer.chains.fill_(-0.5)  # type: ignore[union-attr]
    torch.testing.assert_close(model.sample(2), torch.full((2, 1, 8, 8), -0.5), rtol=0, atol=1e-4)
    alone = small(Sampler(steps=1, start="buffer"), Training(data=1.0))
    with pytest.raises(NotSupported, match="without kept chains"):
        alone.sample(2)
    with pytest.raises(NotSupported, match="unconditional"):
        model.sample(2, labels=torch.zeros(2, dtype=torch.int64))


def test_training_leaves_the_network_as_it_found_it() -> None:
    model = small().train()
    x, _ = ImageBatches(images(), batch_size=8, seed=0).next()
    model.loss(batch_of(x))
    assert model.network.training
    assert all(p.requires_grad for p in model.network.parameters())


def test_contrastive_divergence_begins_at_the_batch() -> None:
    """With data = 1 and no move to speak of, the chains are the batch."""
    model = small(training=Training(steps=1, step_size=1e-12, temperature=0.0, data=1.0))
    assert model.buffer is None
    x, _ = ImageBatches(images(), batch_size=8, seed=0).next()
    found = model.loss(batch_of(x))
    torch.testing.assert_close(found["chain_distance"], found["data_distance"], rtol=0, atol=1e-5)


def test_a_tempered_sampler_says_so() -> None:
    assert "tempered" in small().notes()[-1]
    assert "exp(-E / 0.00013)" in small().notes()[-1]  # 0.05^2 / 20
    assert "elsewhere no law" in small().notes()[-1]  # the clip
    assert "exp(-E / 2)" in small(Sampler(temperature=2.0)).notes()[0]
    assert small(Sampler()).notes() == ()
    enough = Sampler(steps=9, step_size=20.0, noise=0.05, clip=0.03)
    assert "cannot arrive" not in " ".join(small(enough).notes())


@pytest.mark.parametrize(("step_size", "wide"), [(3.9, False), (4.1, True)])
def test_moves_as_wide_as_the_data_are_told(step_size: float, wide: bool) -> None:
    """Images lie in [-1, 1]: noise of sqrt(4) is as wide as that."""
    assert ("as wide as the data" in " ".join(small(Sampler(step_size=step_size)).notes())) == wide
    assert "as wide as the data" not in " ".join(small(Sampler(step_size=step_size, noise=0.005)).notes())


@pytest.mark.parametrize("settings", [["model.chains.noise=2.0"], ["model.chains={step_size=20.0, steps=60}"]])
def test_training_refuses_chains_that_are_noise(settings: list[str]) -> None:
    with pytest.raises(ConfigError, match="its chains are noise"):
        build.resolve(load_recipe("energy/pcd", settings, data="mnist-5k"))


# --- guards and retries -----------------------------------------------------------------------------------------


HEALTHY = {
    "data_energy": 0.0,
    "chain_energy": 0.001,
    "data_spread": 0.01,
    "data_distance": 10.0,
    "chain_distance": 10.0,
    "data_ink": 0.13,
    "chain_ink": 0.12,
}  # as on the default recipe, whose energies are small


def told(guard: Guard, *, steps: int = PATIENCE + 10, **values: float) -> str | None:
    said = None
    for _ in range(steps):
        said = guard.see({k: torch.tensor(v) for k, v in (HEALTHY | values).items()})
    return said


def test_the_guards_verdicts() -> None:
    assert told(Guard()) is None
    assert "grown to 5e+03" in str(told(Guard(), data_energy=5e3))
    assert "energies of chains" in str(told(Guard(), chain_energy=-5e3))
    assert "below those of data" in str(told(Guard(), chain_energy=-0.011))  # by more than data's energies differ
    assert told(Guard(), chain_energy=-0.009) is None
    assert told(Guard(flip=5.0), chain_energy=-0.011) is None
    assert "come together" in str(told(Guard(), chain_distance=0.9))
    assert told(Guard(), chain_distance=1.1) is None


def test_the_guards_late_verdicts() -> None:
    """Chains that never leave the noise where they began are high, and inked as it is; before step 1,000 they may."""
    for said, values in (
        ("stuck at energies 0.11 above", {"chain_energy": 0.11}),
        ("50% of the chains' pixels are inked, and 13% of the data's", {"chain_ink": 0.5}),
        ("5% of the chains", {"data_ink": 0.4, "chain_ink": 0.05}),
    ):
        assert told(Guard(), steps=LATE - 1, **values) is None
        assert said in str(told(Guard(), steps=LATE, **values))
    assert told(Guard(), steps=LATE + 10, chain_energy=0.09, chain_ink=0.37) is None


def test_the_guards_averages_forget_and_are_kept() -> None:
    guard = Guard()
    told(guard, steps=400)
    assert told(guard, steps=1, chain_energy=-0.4) is None  # one step among fifty: an average of .007 below
    after = [
        guard.see({k: torch.tensor(v) for k, v in (HEALTHY | {"chain_energy": -0.02}).items()}) for _ in range(200)
    ]
    first = next(i for i, a in enumerate(after) if a is not None)
    assert 10 < first < 60  # of the order of 1 / (1 - DECAY) = 50
    other = Guard()
    other.load_state_dict(guard.state_dict())
    assert torch.equal(other.averages, guard.averages) and float(other.averages[-1]) == 601


def test_a_model_that_diverges_says_so() -> None:
    model = small()
    finish = model.phases()[0].finish
    assert finish is not None
    means = {k: torch.tensor(v) for k, v in (HEALTHY | {"chain_energy": -9.0}).items()}
    with pytest.raises(Diverged, match="energies 9 below"):
        for _ in range(PATIENCE):
            finish(means, 8)


SPOILT = """
import torch
calls = []

def spoilt(context, *, when: int = 7, times: int = 1):
    '''Not a number on step `when`, the first `times` times that it comes there.'''
    x = context.data_energy
    if context.batch.step == when:
        calls.append(when)
        if len(calls) <= times:
            return x * torch.nan
    return x * 0
"""


def spoilt(tmp_path: Path, module: str, times: int, *words: str) -> list[str]:
    (tmp_path / f"{module}.py").write_text(SPOILT)
    term = f'model.terms=[{{name="contrastive"}}, {{name="{module}:spoilt", times={times}}}]'
    settings = [term, "train.steps=12", "train.checkpoint_every=5", "train.log_every=1", "train.batch_size=8"]
    settings += ["model.chains.steps=1", "model.network.width=4", "model.sampler.steps=2", *words]
    return [w for s in settings for w in ("--set", s)]


def test_a_run_that_diverges_goes_back_and_is_counted(tmp_path: Path) -> None:
    done = call("train", "energy/pcd", *spoilt(tmp_path, "spoilt_once", 1), "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Back to step 5, retry 1 of 3" in done.stderr
    assert json.loads((tmp_path / "run/retries.json").read_text())[0]["back_to"] == 5
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == list(range(1, 13))
    assert runs.load_run(tmp_path / "run").retries == 1
    (tmp_path / "run/retries.json").write_text("[")
    with pytest.raises(CheckpointError, match="damaged"):
        runs.load_run(tmp_path / "run")


def test_a_retry_draws_otherwise_and_at_half_the_rate(tmp_path: Path) -> None:
    config = build.resolve(
        load_recipe("energy/pcd", ["train.batch_size=8", "model.chains.steps=1", "model.network.width=4"])
    )
    config = config.model_copy(
        update={"train": config.train.model_copy(update={"precision": "no", "schedule": "constant", "warmup": 0})}
    )
    trainer = runs.make_trainer(config, runs.load_data(config))
    again = runs.make_trainer(config, runs.load_data(config))
    again.retries = 2
    next(trainer.steps(1))
    next(again.steps(1))
    assert again.optimisers["energy"].param_groups[0]["lr"] == pytest.approx(3e-4 / 4)
    assert trainer.optimisers["energy"].param_groups[0]["lr"] == pytest.approx(3e-4)
    assert not torch.equal(trainer.model.buffer.chains, again.model.buffer.chains)  # type: ignore[union-attr]


def test_retries_end(tmp_path: Path) -> None:
    said = refused("train", "energy/pcd", *spoilt(tmp_path, "spoilt_always", 99), "--out", "run", cwd=tmp_path)
    assert "gone back 3 times" in said
    found = json.loads((tmp_path / "run/retries.json").read_text())
    assert [r["back_to"] for r in found] == [5, 0, 5]  # the second time to the one before, and then to one made since
    said = refused(
        "train",
        "energy/pcd",
        *spoilt(tmp_path, "spoilt_strict", 99, "train.retries=0"),
        "--out",
        "strict",
        cwd=tmp_path,
    )
    assert "spoilt_strict:spoilt" in said


def test_trainer_raises_where_nobody_retries() -> None:
    assert issubclass(Diverged, TrainingError)


# --- recipes and refusals ---------------------------------------------------------------------------------------

BASE = {
    "family": "energy",
    "network": {"name": "patch", "width": 4, "patch": 2},
    "terms": [{"name": "contrastive"}],
    "chains": {"steps": 5, "step_size": 20.0, "noise": 0.05, "clip": 0.03},
}


def resolved(**changes: object) -> object:
    table = {k: v for k, v in {**BASE, **changes}.items() if v is not None}
    return build.resolve(parse({"model": table, "optimiser": {"energy": {"lr": 1e-3}}}, "test"))


def test_a_likelihood_is_of_the_law_that_was_learned() -> None:
    """exp(-E) over all of space: not where chains were cut to images' range, not where many levels of noise share a scale; samples of the others are not cut."""
    one, many = {"name": "denoising", "sigma": 0.3}, {"name": "denoising", "sigma": 0.1, "widest": 0.5, "scale": 2.0}
    plain = {"method": "langevin", "steps": 5, "step_size": 0.02}
    made = {
        name: build.build_model(resolved(terms=[term], chains=chains, sampler=plain), (1, 8, 8))  # type: ignore[arg-type]
        for name, term, chains in (
            ("one", one, None),
            ("many", many, None),
            ("cut", {"name": "contrastive"}, {"steps": 1, "step_size": 1.0}),
        )
    }
    assert made["cut"].bounds == (-1.0, 1.0) and made["one"].bounds is None  # type: ignore[union-attr]
    assert float(made["one"].sample(4, generator=SampleStream(0, torch.arange(4))).abs().max()) > 1
    x, g = torch.zeros(3, 1, 8, 8), torch.Generator().manual_seed(0)
    for name, said in (("many", "up to a factor"), ("cut", "within the range of images")):
        with pytest.raises(NotSupported, match=said):
            ais_log_prob(made[name], x, g)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"terms": [{"name": "magnitude"}]}, "teach the energy nothing"),
        ({"terms": [{"name": "denoising"}]}, "no term of this recipe uses chains"),
        ({"terms": ["contrastive", "contrastive"]}, "listed twice"),
        ({"terms": [{"name": "contrastiv"}]}, "did you mean"),
        ({"terms": [{"name": "contrastive", "weight": -1}]}, "weight = -1"),
        ({"terms": [{"name": "denoising", "sigma": 0.0}], "chains": None}, "above 0"),
        ({"terms": [{"name": "denoising", "widest": 1.0}], "chains": None}, "`scale` be given"),
        ({"terms": [{"name": "denoising", "scale": 1.0}], "chains": None}, "belongs to `widest`"),
        ({"terms": []}, "list what the energy is trained by"),
        ({"chains": {"steps": 0}}, "at least 1"),
        ({"chains": {"data": 1.0, "depth": 3}}, "every chain begins at data"),
        ({"chains": {"steps": 1, "step_size": 0.001, "noise": 0.0, "clip": 0.01}}, "can go 0.0001 at most"),
        ({"chains": {"step": 3}}, "did you mean 'steps'"),
        ({"sampler": {"method": "mala", "clip": 0.03}}, "follows the law exactly"),
        ({"sampler": {"method": "gibbs"}}, "method"),
        ({"sampler": {"leaps": 3}}, "it belongs to hmc"),
        ({"sampler": {"method": "hmc", "temperature": 0.0}}, "needs one above 0"),
        ({"terms": [{"name": "denoising"}], "chains": None, "sampler": {"start": "buffer"}}, "keeps no chains"),
        ({"network": None}, "'model.network' is missing"),
        ({"scale": 0.0}, "model.scale"),
        ({"jitter": -1.0}, "model.jitter"),
        ({"terms": [{"name": "denoising"}], "chains": None, "jitter": 0.5}, "model.jitter: nothing reads it"),
        ({"terms": [{"name": "denoising"}], "chains": None, "flip": 7.0}, "model.flip: nothing reads it"),
        ({"sampler": {"start": "data"}}, "Choose it afterwards"),
        ({"sampler": {"noise": 0.1, "temperature": 2.0}}, "nothing reads it where noise is set"),
        ({"chains": {"step_size": 20.0, "noise": 0.1, "temperature": 2.0}}, "nothing reads it where noise is set"),
        (
            {"chains": {"steps": 1, "step_size": 0.1, "clip": 0.01, "noise": 0.0, "restart": 0.0}},
            "of about 1000 moves a chain can go 0.5",
        ),
        ({"temper": 1.0}, "unknown key 'model.temper'"),
    ],
)
def test_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        resolved(**changes)


def test_every_term_trains_through_its_name() -> None:
    for name, entry in TERMS.items():
        listed = [{"name": name}] if entry.alone else [{"name": "denoising"}, {"name": name}]
        config = resolved(terms=listed, chains=BASE["chains"] if entry.chains else None)
        model = build.build_model(config, (1, 8, 8))  # type: ignore[arg-type]
        x = torch.rand(64, 1, 8, 8) * 2 - 1
        assert torch.isfinite(model.phases()[0].loss(batch_of(x))[name]).all()


def test_samplers_are_chosen_after_training() -> None:
    model = small()
    change_sampler(model, "mala", ["steps=7", "temperature=0.5"])
    assert (model.sampler.method, model.sampler.steps, model.sampler.temperature) == ("mala", 7, 0.5)
    assert model.sampler.noise is None
    change_sampler(model, "langevin", ["temperature=2.0"])  # forgets what is Langevin's own
    assert (model.sampler.noise, model.sampler.clip, model.sampler.temperature) == (None, None, 2.0)
    change_sampler(model, "mala", [])
    change_sampler(model, None, ["start=buffer"])
    assert (model.sampler.method, model.sampler.start) == ("mala", "buffer")
    with pytest.raises(ConfigError, match="without kept chains"):
        change_sampler(small(training=Training(data=1.0)), None, ["start=buffer"])
    with pytest.raises(ConfigError, match="did you mean"):
        change_sampler(model, None, ["stepsize=2"])
    with pytest.raises(ConfigError, match="nothing reads it"):
        change_sampler(small(), None, ["temperature=3"])
    change_sampler(model := small(), None, ["step_size=1e-4", "noise=0"])
    assert "in 4 moves they go 6e-06 at most" in model.notes()[0]
    assert sampler_table("hmc", "x")["method"] == "hmc"


def test_mala_takes_over_the_temperature_that_a_tempered_sampler_has() -> None:
    model = small()
    change_sampler(model, "mala", [])
    assert model.sampler.temperature == pytest.approx(0.05**2 / 20)


@pytest.mark.parametrize("name", [r for r in recipe_names() if r.startswith("energy/")])
def test_recipes_build_and_take_a_step(name: str) -> None:
    config = load_recipe(name, ["train.batch_size=8"] + (["model.chains.steps=2"] if name != "energy/dsm" else []))
    if "2d" in name:
        config = load_recipe(name, ["train.batch_size=8"])
    config = build.resolve(config)
    config = config.model_copy(update={"train": config.train.model_copy(update={"precision": "no"})})
    trainer = runs.make_trainer(config, runs.load_data(config))
    report = next(trainer.steps(1))
    assert all(torch.isfinite(v) for v in report.terms.values())


def test_a_resumed_run_remembers_how_often_it_went_back(tmp_path: Path) -> None:
    """Killed after a retry and gone on with, a run ends on the bits of one that was not."""
    constant = [
        "--set",
        'train.schedule="constant"',
        "--set",
        "train.warmup=0",
        "--set",
        'train.precision="no"',
        "--quiet",
    ]

    def train(name: str, module: str, steps: int, *words: str) -> None:
        settings = [w.replace("train.steps=12", f"train.steps={steps}") for w in spoilt(tmp_path, module, 1)]
        done = call("train", "energy/pcd", *settings, *constant, "--out", name, *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr

    train("straight", "spoilt_a", 12)
    (tmp_path / "spoilt_a.py").write_text(SPOILT)
    import spoilt_a  # type: ignore[import-not-found]

    spoilt_a.calls.clear()
    train("broken", "spoilt_a", 10)
    train("broken", "spoilt_a", 12, "--resume")
    a, b = (runs.load_run(tmp_path / p, averaged=False) for p in ("broken", "straight"))
    assert a.retries == b.retries == 1
    for name, w in a.model.state_dict().items():
        assert torch.equal(w, b.model.state_dict()[name]), name
