"""Flows: every map against its own inverse and the Jacobian that autograd finds, densities against quadrature, bytes against known probabilities."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zuko
from contract import check_gradients, check_resumes_bit_equal, check_sampling_is_addressed, check_shapes
from torch import Tensor, nn
from torch.distributions import Normal

from pushforward import build, runs
from pushforward.build.flow import change_sampler
from pushforward.config import load_recipe, parse, recipe_names
from pushforward.data.batches import ImageBatches
from pushforward.data.images import ImageSet, to_model
from pushforward.data.toy import DENSITIES
from pushforward.errors import ConfigError, NotSupported
from pushforward.families.flow import library
from pushforward.families.flow.bijections import (
    ActNorm,
    Bijection,
    Chain,
    Conv1x1,
    Coupling,
    Equalise,
    Logit,
    MultiScale,
    SplineCoupling,
    Squeeze,
    channelwise,
    checkerboard,
)
from pushforward.families.flow.fixed_point import fixed_point
from pushforward.families.flow.model import BijectionFlow, FlowDistribution, FlowModel
from pushforward.families.flow.residual import (
    SWISH_SLOPE,
    Bounded,
    LipSwish,
    ResidualBlock,
    _series,
    log_det,
    norm_bound,
)
from pushforward.families.flow.splines import LEAST, rational_quadratic
from pushforward.model import Batch
from pushforward.networks.couplings import ConvConditioner, MLPConditioner, _Gated
from pushforward.randomness import SampleStream, draw_normal
from pushforward.training.optimisers import adam
from pushforward.training.trainer import Trainer


def shaken(module: nn.Module, size: float = 0.2) -> nn.Module:
    """In float64, with every weight moved: what starts at zero or at the identity would hide wrong wiring."""
    g = torch.Generator().manual_seed(1)
    module = module.double()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(size * torch.randn(p.shape, generator=g, dtype=torch.float64))
    return module


IMAGE, POINTS = (2, 4, 4), (2,)


def conv(channels: int, context: int = 0, outputs: int | None = None) -> ConvConditioner:
    return ConvConditioner(channels, outputs=outputs, width=8, blocks=1, context=context)


MAPS: dict[str, tuple[Callable[[], Bijection], tuple[int, ...], int]] = {
    "logit": (lambda: Logit(0.05), IMAGE, 0),
    "equalise": (lambda: Equalise(16), IMAGE, 0),
    "actnorm": (lambda: ActNorm(2), IMAGE, 0),
    "conv1x1": (lambda: Conv1x1(2), IMAGE, 0),
    "squeeze": (Squeeze, IMAGE, 0),
    "coupling, checkerboard": (lambda: Coupling(checkerboard(IMAGE, odd=True), conv(2)), IMAGE, 0),
    "coupling, channels": (lambda: Coupling(channelwise(IMAGE, odd=False), conv(2)), IMAGE, 0),
    "coupling, context": (lambda: Coupling(checkerboard(IMAGE, odd=False), conv(2, 3)), IMAGE, 3),
    "coupling, points": (lambda: Coupling(torch.tensor([[1.0, 0.0]]), MLPConditioner(2, hidden=(8,), context=3)), POINTS, 3),
    "splines, checkerboard": (lambda: SplineCoupling(checkerboard(IMAGE, odd=True), conv(2, outputs=26), IMAGE, bins=4, bound=1.5), IMAGE, 0),
    "splines, channels and context": (lambda: SplineCoupling(channelwise(IMAGE, odd=True), conv(2, 3, outputs=7), IMAGE, bins=2), IMAGE, 3),
    "multi-scale": (
        lambda: MultiScale([Chain([ActNorm(2), Conv1x1(2)]), Chain([ActNorm(4), Coupling(channelwise((4, 2, 2), odd=True), conv(4))])], [IMAGE, (4, 2, 2)]),
        IMAGE,
        0,
    ),
    "residual": (lambda: ResidualBlock(POINTS, hidden=(16,), tolerance=1e-11), POINTS, 0),
    "residual, images": (lambda: ResidualBlock((1, 4, 4), hidden=(4,), tolerance=1e-11), (1, 4, 4), 0),
    "library: nsf, wide": (lambda: library.nsf(shape=POINTS, context=0, transforms=2, bins=6, hidden=(16,), bound=10.0), POINTS, 0),
    "library: coupling": (lambda: library.coupling(shape=(1, 4, 4), context=0, levels=2, steps=2, width=8, checkerboards=2), (1, 4, 4), 0),
    "library: coupling by splines": (lambda: library.coupling(shape=(1, 4, 4), context=3, levels=2, steps=2, width=8, checkerboards=2, bins=3), (1, 4, 4), 3),
    "library: coupling-points": (lambda: library.coupling_points(shape=POINTS, context=3, transforms=4, hidden=(8,)), POINTS, 3),
    "library: residual": (lambda: library.residual(shape=POINTS, context=0, blocks=3, hidden=(16,), tolerance=1e-11), POINTS, 0),
    "library: nsf": (lambda: library.nsf(shape=POINTS, context=3, transforms=2, bins=6, hidden=(16,)), POINTS, 3),
    "library: nsf, a line": (lambda: library.nsf(shape=(1,), context=0, transforms=1, bins=6), (1,), 0),
    "library: maf": (lambda: library.maf(shape=(1, 2, 2), context=0, transforms=2, hidden=(16,)), (1, 2, 2), 0),
    "library: cnf": (lambda: library.cnf(shape=POINTS, context=0, hidden=(16,), tolerance=1e-12), POINTS, 0),
}  # fmt: skip


def case(name: str) -> tuple[Bijection, Tensor, Tensor | None]:
    torch.manual_seed(0)
    make, shape, context = MAPS[name]
    # deep flows soon stretch and squeeze until float64 has no digits left
    size = 0.05 if name == "library: coupling" else 0.1 if "splines" in name else 0.2
    bijection = shaken(make(), size)
    g = torch.Generator().manual_seed(2)
    x = torch.randn(3, *shape, generator=g, dtype=torch.float64)
    if name in ("logit", "equalise"):
        x = x.sigmoid()
    return bijection, x, torch.randn(3, context, generator=g, dtype=torch.float64) if context else None  # type: ignore[return-value]


@pytest.mark.parametrize("name", MAPS)
def test_there_and_back(name: str) -> None:
    bijection, x, context = case(name)
    z, _ = bijection(x, context)
    torch.testing.assert_close(bijection.inverse(z, context), x, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", MAPS)
def test_ladj_is_the_jacobians(name: str) -> None:
    bijection, x, context = case(name)
    _, ladj = bijection(x, context)
    for i in range(len(x)):
        one = None if context is None else context[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(lambda v, one=one: bijection(v, one)[0].flatten(), x[i : i + 1])
        d = x[0].numel()
        exact = torch.linalg.slogdet(jacobian.reshape(d, d)).logabsdet
        torch.testing.assert_close(ladj[i], exact, rtol=0, atol=1e-8)


STENCIL = (4 / 5, -1 / 5, 4 / 105, -1 / 280)  # central differences of order eight


def along(f: Callable[[], Tensor], leaf: Tensor, v: Tensor, h: float) -> Tensor:
    """Derivative of f() as the leaf moves along v: off by h^8 and by rounding over h."""
    at = leaf.detach().clone()

    def moved(t: float) -> Tensor:
        with torch.no_grad():
            leaf.copy_(at + t * v)
            return f().detach()

    found = sum(c * (moved(k * h) - moved(-k * h)) for k, c in enumerate(STENCIL, 1)) / h
    with torch.no_grad():
        leaf.copy_(at)
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("way", ["there", "back"])
@pytest.mark.parametrize("name", MAPS)
def test_gradients_of_map_ladj_and_inverse(name: str, way: str) -> None:
    """By differences of order eight, along a direction of the input, of the context and of every weight, to 1e-8."""
    bijection, x, context = case(name)
    g = torch.Generator().manual_seed(3)
    if way == "back":
        x = bijection(x, context)[0].detach()
    leaves = {"input": x.clone().requires_grad_(), **dict(bijection.named_parameters())}
    if context is not None:
        context = leaves["context"] = context.clone().requires_grad_()
    side = torch.randn(x.numel() + len(x), generator=g, dtype=torch.float64)

    def f() -> Tensor:
        if way == "there":
            out = torch.cat([part.flatten() for part in bijection(leaves["input"], context)])
        else:
            out = bijection.inverse(leaves["input"], context).flatten()
        return (out * side[: len(out)]).sum()

    value = f()
    names = [k for k, p in leaves.items() if p.requires_grad]
    grads = (
        torch.autograd.grad(value, [leaves[k] for k in names], allow_unused=True)
        if value.requires_grad
        else [None] * len(names)
    )
    for k, grad in zip(names, grads, strict=True):
        v = torch.randn(leaves[k].shape, generator=g, dtype=torch.float64)
        v = v / v.norm()
        found = torch.zeros((), dtype=torch.float64) if grad is None else (grad * v).sum()
        want = along(f, leaves[k], v, 1e-4)
        torch.testing.assert_close(found, want, rtol=1e-8, atol=1e-8, msg=lambda m, k=k: f"{k}: {m}")


def test_splines_are_zukos() -> None:
    """The same knots and slopes: the same values, slopes and inverse; outside, and when told nothing, the identity."""
    g = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(4, 50, generator=g, dtype=torch.float64)
    w, h = (torch.randn(4, 6, 50, generator=g, dtype=torch.float64) for _ in range(2))
    d = torch.randn(4, 5, 50, generator=g, dtype=torch.float64)
    z, ladj = rational_quadratic(x, w, h, d, bound=2.5)
    theirs = zuko.transforms.MonotonicRQSTransform(w.transpose(1, 2), h.transpose(1, 2), d.transpose(1, 2), bound=2.5)
    knots = lambda raw: F.pad((LEAST + (1 - 6 * LEAST) * raw.softmax(1)).cumsum(1), (0, 0, 1, 0)) * 5 - 2.5  # noqa: E731
    theirs.horizontal, theirs.vertical = knots(w).transpose(1, 2), knots(h).transpose(1, 2)
    inner = F.softplus(d + math.log(math.expm1(1 - LEAST))) + LEAST
    theirs.derivatives = F.pad(inner, (0, 0, 1, 1), value=1.0).transpose(1, 2)
    want, slope = theirs.call_and_ladj(x)
    torch.testing.assert_close(z, want, rtol=0, atol=1e-10)
    torch.testing.assert_close(ladj, slope, rtol=0, atol=1e-10)
    back, minus = rational_quadratic(z, w, h, d, bound=2.5, inverse=True)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(minus, -ladj, rtol=0, atol=1e-9)
    assert torch.equal(z[x.abs() >= 2.5], x[x.abs() >= 2.5])
    assert (x.abs() >= 2.5).any()
    same, flat = rational_quadratic(x, 0 * w, 0 * h, 0 * d, bound=2.5)
    torch.testing.assert_close(same, x, rtol=0, atol=1e-12)
    torch.testing.assert_close(flat, torch.zeros_like(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1.0, 5.0, 50.0])
def test_splines_in_float32_neither_jump_nor_lose_their_slope(size: float) -> None:
    g = torch.Generator().manual_seed(0)
    z = 16 * torch.rand(4, 5000, generator=g) - 8
    w, h, d = (size * torch.randn(4, k, 5000, generator=g) for k in (8, 8, 7))
    x, ladj = rational_quadratic(z, w, h, d, bound=8.0, inverse=True)
    again, slope = rational_quadratic(x, w, h, d, bound=8.0)
    torch.testing.assert_close(again, z, rtol=0, atol=1e-3)
    assert torch.isfinite(ladj).all()
    assert torch.isfinite(slope).all()


def test_splines_keep_float32_under_autocast() -> None:
    torch.manual_seed(0)
    flow = Chain([Conv1x1(2), SplineCoupling(channelwise(IMAGE, odd=True), conv(2, outputs=13), IMAGE, bins=4)])
    x = torch.randn(3, *IMAGE)
    with torch.autocast("cpu", torch.bfloat16):
        z, ladj = flow(x)
        back = flow.inverse(z)
    assert (z.dtype, ladj.dtype, back.dtype) == (torch.float32,) * 3
    torch.testing.assert_close(back, x, rtol=0, atol=1e-4)


def test_equalise_makes_its_data_uniform_and_its_density_the_histogram() -> None:
    g = torch.Generator().manual_seed(0)
    bins = (32 * torch.rand(4000, 1, generator=g) ** 3).floor()
    x = ((bins + torch.rand(4000, 1, generator=g)) / 32).double()
    equalise = Equalise(32).double()
    z = equalise.prepare(x)
    counts = (z * 10).long().flatten().bincount(minlength=10)
    assert (counts - 400).abs().max() < 60
    _, ladj = equalise(x)
    share = ((x < 1 / 32).double().mean()).item()
    inside = x[:, 0] < 1 / 32
    assert float(ladj[inside].mean()) == pytest.approx(math.log(32 * (share * 4000 + 1) / 4032), abs=1e-6)


def test_actnorm_begins_with_unit_scale() -> None:
    x = 3 * torch.randn(500, 2, 4, 4) + torch.tensor([5.0, -2.0]).reshape(1, 2, 1, 1)
    z = ActNorm(2).prepare(x)
    torch.testing.assert_close(z.mean(dim=(0, 2, 3)), torch.zeros(2), rtol=0, atol=1e-4)
    torch.testing.assert_close(z.std(dim=(0, 2, 3)), torch.ones(2), rtol=0, atol=1e-3)


# --- densities --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["library: coupling-points", "library: residual", "library: nsf", "library: cnf"])
def test_densities_of_the_plane_integrate_to_one(name: str) -> None:
    bijection, _, context = case(name)
    if context is not None:
        context = context[:1]
    if name == "library: cnf":  # as exact as it needs to be here
        bijection = shaken(library.cnf(shape=POINTS, context=0, hidden=(16,), tolerance=1e-5))  # type: ignore[assignment]
    line = torch.linspace(-9, 9, 121 if "cnf" in name else 501, dtype=torch.float64)
    points = torch.cartesian_prod(line, line)
    total = 0.0
    with torch.no_grad():
        for part in points.split(50_000):
            law = BijectionFlow(bijection, POINTS)(None if context is None else context.expand(len(part), -1))
            total += float(law.log_prob(part).exp().sum())
    assert total * float(line[1] - line[0]) ** 2 == pytest.approx(1.0, abs=1e-3)


def test_a_spline_of_the_line_integrates_to_one() -> None:
    bijection, _, _ = case("library: nsf, a line")
    line = torch.linspace(-12, 12, 20_001, dtype=torch.float64)[:, None]
    density = BijectionFlow(bijection, (1,))().log_prob(line).exp()
    assert float(torch.trapezoid(density.detach(), line[:, 0])) == pytest.approx(1.0, abs=1e-3)


def test_samples_follow_the_density() -> None:
    """The mean of log p over samples is minus the entropy that quadrature gives."""
    bijection, _, _ = case("library: residual")
    law = BijectionFlow(bijection, POINTS)()
    torch.manual_seed(0)
    with torch.no_grad():
        x = bijection.inverse(torch.randn(20_000, 2, dtype=torch.float64))
        found = law.log_prob(x)
        line = torch.linspace(-8, 8, 401, dtype=torch.float64)
        log = law.log_prob(torch.cartesian_prod(line, line))
    exact = float((log.exp() * log).sum()) * float(line[1] - line[0]) ** 2
    assert float(found.mean()) == pytest.approx(exact, abs=4 * float(found.std()) / math.sqrt(20_000))


def test_a_flow_is_a_distribution() -> None:
    """Shapes as torch.distributions has them, in the dtype of the weights, from a generator."""
    torch.manual_seed(0)
    law = BijectionFlow(case("library: nsf")[0], POINTS)(torch.randn(4, 3, dtype=torch.float64))
    assert (law.batch_shape, law.event_shape) == ((4,), (2,))
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        x = law.rsample((3, 5), generator=g)
        assert x.shape == (3, 5, 4, 2) and x.dtype == torch.float64
        assert law.log_prob(x).shape == (3, 5, 4)
        one = FlowDistribution(law.bijection, POINTS, POINTS, law.context[2:3])  # type: ignore[index]
        torch.testing.assert_close(law.log_prob(x)[1, :, 2], one.log_prob(x[1, :, 2:3])[:, 0])
        assert torch.equal(
            law.rsample((2,), generator=torch.Generator().manual_seed(3)),
            law.rsample((2,), generator=torch.Generator().manual_seed(3)),
        )
        wide = law.expand((3, 4))
        assert (wide.batch_shape, wide.event_shape) == ((3, 4), (2,))
        torch.testing.assert_close(wide.log_prob(x[:, 0]), law.log_prob(x[:, 0]))
        assert wide.rsample((5,)).shape == (5, 3, 4, 2)
        with pytest.raises(ValueError, match="expanded"):
            law.expand((3,))
        free = BijectionFlow(case("library: nsf, wide")[0], POINTS)()
        many = free.expand((6,))
        assert many.batch_shape == (6,) and many.sample((2,)).shape == (2, 6, 2)
        assert many.log_prob(torch.zeros(2, dtype=torch.float64)).tolist() == pytest.approx(
            [float(free.log_prob(torch.zeros(2, dtype=torch.float64)))] * 6
        )
        assert free.sample().shape == (2,) and free.log_prob(free.sample()).shape == ()
        assert free.sample((3, 4)).shape == (3, 4, 2)
    image = BijectionFlow(case("library: coupling")[0], (1, 4, 4), (16,))()
    with torch.no_grad():
        assert image.sample((3,)).shape == (3, *image.event_shape)


def test_a_wide_spline_acts_as_far_as_it_says() -> None:
    bijection = shaken(library.nsf(shape=(1,), context=0, transforms=1, bins=6, bound=10.0))
    _, ladj = bijection(torch.tensor([[11.0], [12.0], [7.0]], dtype=torch.float64))
    torch.testing.assert_close(ladj[:2], torch.full((2,), math.log(0.5), dtype=torch.float64))
    assert abs(float(ladj[2].detach()) - math.log(0.5)) > 1e-3


def test_couplings_take_turns() -> None:
    """What one lets stand the next one moves."""
    flow = library.coupling(shape=(1, 8, 8), context=0, levels=2, steps=2, width=4, checkerboards=2)
    masks = [m.mask for m in flow.modules() if isinstance(m, Coupling)]
    pairs = [(masks[0], masks[1]), (masks[2], masks[3]), (masks[4], masks[5])]
    assert len(masks) == 6 and all(torch.equal(a + b, torch.ones_like(a + b)) for a, b in pairs)
    points = [
        m.mask
        for m in library.coupling_points(shape=(3,), context=0, transforms=2, hidden=(4,)).modules()
        if isinstance(m, Coupling)
    ]
    assert torch.equal(points[0] + points[1], torch.ones(1, 3))


def test_prepare_reaches_every_scale() -> None:
    torch.manual_seed(0)
    flow = MultiScale([Chain([ActNorm(2)]), Chain([ActNorm(4)])], [IMAGE, (4, 2, 2)])
    x = 5 * torch.randn(500, *IMAGE) + 3
    flow.prepare(x)
    z = flow(x)[0].detach()
    assert float(z.mean()) == pytest.approx(0, abs=0.05) and float(z.std()) == pytest.approx(1, abs=0.05)
    assert float(z.mean(dim=0).abs().max()) < 0.3
    model = FlowModel(
        flow=BijectionFlow(library.coupling_points(shape=POINTS, context=0, transforms=2, hidden=(4,)), POINTS),
        shape=POINTS,
    )
    points = 7 * torch.randn(500, 2) + 20
    model.prepare(points)
    assert float(model.encode(points).detach().std()) == pytest.approx(1, abs=0.05)


def test_equalise_learns_by_its_own_slope() -> None:
    """The log-density's gradient in the logits is the counts less their expectation."""
    bijection = shaken(Equalise(8))
    x = torch.rand(40, 1, 1, 1, dtype=torch.float64)
    (found,) = torch.autograd.grad(bijection(x)[1].sum(), bijection.logits)  # type: ignore[arg-type]
    counts = (x * 8).long().flatten().bincount(minlength=8)
    torch.testing.assert_close(found.double(), counts - 40 * bijection.logits.detach().double().softmax(0))  # type: ignore[operator, union-attr]


def test_interpolation_turns_and_does_not_explode() -> None:
    model = FlowModel(flow=BijectionFlow(library._Scale(1.0), (3,)), shape=(3,))
    a, b = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.0, 4.0, 0.0]])
    ways = model.interpolate(a, b, 5)
    assert ways[2].norm() == pytest.approx(3.0)  # half way round, and half way from length 2 to 4
    assert ways[2, 0, 0] == pytest.approx(float(ways[2, 0, 1]))
    opposite = model.interpolate(a, -2 * a, 3)
    torch.testing.assert_close(opposite[:, 0, 0], torch.tensor([2.0, -1.0, -4.0]))
    with pytest.raises(ValueError, match="two ends"):
        model.interpolate(a, b, 1)


def test_labels_are_those_it_knows() -> None:
    model = FlowModel(flow=BijectionFlow(library.nsf(shape=POINTS, context=3), POINTS), shape=POINTS, classes=3)
    x, labels = torch.randn(4, 2), torch.tensor([0, 1, 2, 2])
    ways = model.interpolate(x[:2], x[2:], 3, labels=labels[:2])
    torch.testing.assert_close(ways[0], x[:2], rtol=0, atol=1e-4)
    with pytest.raises(NotSupported, match="knows 0 to 2"):
        model.log_prob(x, torch.tensor([0, 1, 2, 7]))
    with pytest.raises(NotSupported, match="unconditional"):
        FlowModel(flow=BijectionFlow(library.nsf(shape=POINTS, context=0), POINTS), shape=POINTS).encode(x, labels)
    with pytest.raises(NotSupported, match="not finite"):
        model.log_prob(x * math.nan, labels)


def test_the_conditioners_gate() -> None:
    torch.manual_seed(0)
    block = _Gated(3)
    x = torch.randn(2, 3, 4, 4)
    a, b = block.last(torch.nn.functional.silu(block.first(torch.nn.functional.silu(x)))).chunk(2, dim=1)
    torch.testing.assert_close(block(x), x + a / (1 + (-b).exp()))


# --- residual flows ---------------------------------------------------------------------------------------------


def matrix_of(weight: Tensor, side: int) -> Tensor:
    """A convolution on side x side images as a matrix."""
    c = weight.shape[1]
    unit = torch.eye(c * side**2, dtype=weight.dtype).reshape(-1, c, side, side)
    return torch.nn.functional.conv2d(unit, weight, padding=weight.shape[2] // 2).flatten(1).T


def test_the_bound_of_a_convolution_can_be_reached() -> None:
    """A sum over 3 x 3 pixels: on a large image its norm is all but 9, and 9 is the bound."""
    weight = torch.ones(1, 1, 3, 3, dtype=torch.float64)
    norm = float(torch.linalg.matrix_norm(matrix_of(weight, 24), ord=2))
    assert 8.8 < norm <= float(norm_bound(weight)) * (1 + 1e-9) == pytest.approx(9.0)


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (2, 5, 3, 3), (3, 3, 5, 5)])
def test_the_bound_of_a_convolution_is_one_and_not_a_loose_one(shape: tuple[int, ...]) -> None:
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=g, dtype=torch.float64)
    true = float(torch.linalg.matrix_norm(matrix_of(weight, 12), ord=2))
    bound = float(norm_bound(weight))
    assert true <= bound <= 3 * true
    dense = torch.randn(7, 4, generator=g, dtype=torch.float64)
    assert float(norm_bound(dense)) == pytest.approx(float(torch.linalg.svdvals(dense)[0]))


def test_bounded_layers_leave_small_weights_alone_and_shrink_large_ones() -> None:
    layer = nn.Linear(4, 4).double()
    small, large = Bounded(layer, 100.0), Bounded(layer, 0.1)
    assert torch.equal(small.weight(), layer.weight)
    assert float(torch.linalg.matrix_norm(large.weight().detach(), ord=2)) == pytest.approx(0.1)


def test_lipswish_is_not_steeper_than_one() -> None:
    x = torch.linspace(-30, 30, 200_001, dtype=torch.float64, requires_grad=True)
    act = LipSwish().double()
    for sharpness in (-2.0, 0.5, 5.0):
        with torch.no_grad():
            act.sharpness.fill_(sharpness)
        (g,) = torch.autograd.grad(act(x).sum(), x)
        assert 0.999 < float(g.abs().max()) <= 1.0 + 1e-12
    assert SWISH_SLOPE > 1.09983


def trained_residual() -> FlowModel:
    config = build.resolve(
        load_recipe(
            "flow/residual-2d",
            [
                "train.steps=400",
                "model.flow.hidden=[16, 16]",
                "optimiser.flow.lr=5e-3",
                "train.batch_size=128",
                "model.flow.blocks=4",
                'train.precision="no"',
            ],
        )
    )
    trainer = runs.make_trainer(config, runs.load_data(config))
    for _ in trainer.steps(400):
        pass
    assert isinstance(trainer.model, FlowModel)
    return trainer.model.eval()


def test_a_trained_residual_flow_contracts_and_inverts() -> None:
    model = trained_residual()
    blocks = [m for m in model.modules() if isinstance(m, ResidualBlock)]
    x = DENSITIES["moons"].sample(300, generator=SampleStream(0, torch.arange(300)))
    z = model.encode(x)
    assert float((model.decode(z) - x).abs().max()) <= 1e-5
    with torch.no_grad():  # then in float64, but for the rounding of z and x
        z = model.encode(x)
        assert z.dtype == x.dtype and float((model.decode(z) - x).abs().max()) <= 4e-7
    assert all(p.dtype == torch.float32 for p in model.parameters())
    model.double()
    h = x.double()
    largest = 0.0
    for part in model.flow.bijection.parts:  # type: ignore[attr-defined]
        if part in blocks:
            jacobian = torch.func.vmap(torch.func.jacrev(lambda v, b=part: b.g(v[None])[0]))(h)  # type: ignore[misc]
            steepest = float(torch.linalg.matrix_norm(jacobian, ord=2).max())
            largest = max(largest, steepest)
            assert steepest <= part.lipschitz  # type: ignore[operator]
            solved = part.solve(part(h)[0].detach())  # type: ignore[operator, misc]
            assert solved.converged.all()
            assert (solved.iterations <= solved.bound).all(), "more iterations than the a priori bound"
            assert float(solved.rate.max()) <= part.lipschitz + 1e-3  # type: ignore[operator]
        h = part(h)[0].detach()  # type: ignore[operator]
    assert largest > 0.3, "the blocks do nothing: the bounds above say nothing"


@pytest.mark.parametrize("a", [0.6, -0.6])
def test_the_series_is_unbiased(a: float) -> None:
    """g = a x in 20 dimensions: log det = 20 log(1 + a) and its slope in a is 20 / (1 + a), with most terms left to chance."""
    torch.manual_seed(0)
    factor = torch.tensor(a, dtype=torch.float64, requires_grad=True)
    values, slopes = [], []
    for _ in range(4000):
        _, ladj = _series(lambda v: factor * v, torch.randn(1, 20, dtype=torch.float64), sure=1, stop=0.4)
        (slope,) = torch.autograd.grad(ladj.sum(), factor)
        values.append(float(ladj))
        slopes.append(float(slope))
    for found, exact in ((values, 20 * math.log(1 + a)), (slopes, 20 / (1 + a))):
        error = float(np.std(found)) / math.sqrt(len(found))
        assert abs(float(np.mean(found)) - exact) < 4 * error
        assert error < 0.05 * abs(exact)
        assert abs(20 * a - exact) > 10 * error or found is slopes  # the first term alone is not it


@pytest.mark.parametrize("a", [0.9, -0.9])
def test_the_stated_error_of_a_log_determinant_is_its_own(a: float) -> None:
    """Even where |J| is near 1: the spread of independent estimates is what each says of itself, and they are near what is known."""

    class Steep(ResidualBlock):
        def g(self, x: Tensor) -> Tensor:
            return a * x

    torch.manual_seed(0)
    block, x = Steep((20,), hidden=(4,), lipschitz=0.95), torch.randn(1, 20, dtype=torch.float64)
    found = [log_det(block, x, repeats=20) for _ in range(60)]
    means, errors = (torch.stack([f[k] for f in found]).flatten() for k in (0, 1))
    assert float(means.mean()) == pytest.approx(20 * math.log(1 + a), abs=4 * float(means.std()) / math.sqrt(60) + 1e-3)
    assert 0.6 < float(errors.square().mean().sqrt()) / float(means.std()) < 1.6


def test_log_det_is_exact_in_few_dimensions() -> None:
    one, zero = log_det(ResidualBlock((2,), hidden=(4,)), torch.randn(3, 2))
    assert not zero.any() and one.shape == (3,)


def test_the_inverse_of_a_steep_block_is_as_exact_as_it_says() -> None:
    """Linear and near its bound, where a small residual is a large error: in float32 too, and with gradients."""
    torch.manual_seed(0)
    block = ResidualBlock((2,), hidden=(), lipschitz=0.97, tolerance=1e-6)
    layer = block.body[0].layer  # type: ignore[union-attr]
    with torch.no_grad():
        layer.weight.copy_(-0.97 * torch.eye(2))  # type: ignore[operator, union-attr]
        layer.bias.zero_()  # type: ignore[operator, union-attr]
    z = torch.tensor([[0.03, -0.015]])
    solved = block.solve(z)
    exact = (z.double() / (1 - layer.weight.double().abs().amax())).detach()  # type: ignore[operator, union-attr]
    assert float((solved.x - exact).abs().max()) < 1e-6
    assert float((solved.x - exact).norm()) <= float(solved.error) * (1 + 1e-6) <= 1e-6
    assert solved.x.dtype == torch.float64
    at = z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(block.inverse(at)[:, 0].sum(), at)
    torch.testing.assert_close(gradient, torch.tensor([[1 / 0.03, 0.0]]), rtol=1e-3, atol=1e-3)
    with pytest.raises(NotSupported, match="too slowly for 2 iterations"):
        ResidualBlock((2,), hidden=(8,), lipschitz=0.97, most=2).solve(z)
    back = block.inverse(at)  # steep, as above
    block.most = 2
    with pytest.raises(NotSupported, match="did not converge"):
        back[:, 0].sum().backward()
    assert math.prod(
        m.largest for m in ResidualBlock((2,), hidden=(8, 8), lipschitz=0.9).body if isinstance(m, Bounded)
    ) == pytest.approx(0.9)


def test_gradients_of_the_inverse() -> None:
    """By finite differences, in the noise and in a weight, through the fixed point."""
    torch.manual_seed(0)
    block = shaken(ResidualBlock((3,), hidden=(6,), lipschitz=0.8, tolerance=1e-12), 0.3)
    z = torch.randn(2, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: block.inverse(v), z.clone().requires_grad_(), eps=1e-5, atol=1e-7, rtol=0)
    weight = block.body[0].layer.weight  # type: ignore[union-attr, index]

    def total() -> float:
        with torch.no_grad():
            return float((block.inverse(z) * torch.arange(6).reshape(2, 3)).sum())

    (found,) = torch.autograd.grad((block.inverse(z) * torch.arange(6).reshape(2, 3)).sum(), weight)  # type: ignore[arg-type]
    with torch.no_grad():
        weight[1, 2] += 1e-5  # type: ignore[index, operator]
        up = total()
        weight[1, 2] -= 2e-5  # type: ignore[index, operator]
        down = total()
    assert float(found[1, 2]) == pytest.approx((up - down) / 2e-5, abs=1e-6)


def test_the_shipped_residual_flow_inverts_after_some_training() -> None:
    """The recipe's own twelve blocks, both ways, to a hundred thousandth."""
    config = build.resolve(load_recipe("flow/residual-2d", ["train.steps=60", 'train.precision="no"']))
    trainer = runs.make_trainer(config, runs.load_data(config))
    for _ in trainer.steps(60):
        pass
    model = trainer.model.eval()
    assert isinstance(model, FlowModel)
    x = DENSITIES["moons"].sample(300, generator=SampleStream(0, torch.arange(300)))
    with torch.no_grad():
        assert float((model.decode(model.encode(x)) - x).abs().max()) <= 1e-5
        z = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
        assert float((model.encode(model.decode(z)) - z).abs().max()) <= 1e-5


def test_a_residual_flow_of_images_contracts_and_inverts() -> None:
    """Sixteen channels of 2 x 2, trained a little: the image's inverse, the Lipschitz constant that was measured, and the seeded estimate."""
    torch.manual_seed(0)
    table = {"family": "flow", "flow": {"name": "residual", "blocks": 2, "hidden": [8], "lipschitz": 0.9}}
    config = build.resolve(parse({"model": table, "optimiser": {"flow": {"lr": 5e-3}}}, "t"))
    model = build.build_model(config, (1, 8, 8))
    assert isinstance(model, FlowModel) and model.estimated
    x = to_model(torch.randint(256, (32, 1, 8, 8), dtype=torch.uint8))
    model.prepare(x)
    optimiser = adam(model.parameters(), lr=5e-3)
    for k in range(30):
        optimiser.zero_grad()
        model.loss(Batch(x, None, k, SampleStream(k, torch.arange(32))))["bits_per_dim"].mean().backward()
        optimiser.step()
    with torch.no_grad():
        z = model.encode(x)
        law = model.flow()
        y = ((x + 1) * 127.5 + 0.5) / 256
        assert float((law.push(z.reshape(32, 16, 2, 2)) - y).abs().max()) <= 1e-5
        torch.testing.assert_close(model.decode(z), x, rtol=0, atol=1e-6)
        one, two = (model.log_prob(x, generator=torch.Generator().manual_seed(7)) for _ in range(2))
        assert torch.equal(one, two)
    block = next(m for m in model.modules() if isinstance(m, ResidualBlock))
    h = torch.randn(16, 2, 2)
    jacobian = torch.autograd.functional.jacobian(lambda v: block.g(v[None])[0].flatten(), h).reshape(64, 64)
    assert 0.1 < float(torch.linalg.matrix_norm(jacobian, ord=2)) <= 0.9
    with pytest.raises(NotSupported, match="take one"):
        model.log_prob(x, draws=2)


def test_fixed_points_by_hand() -> None:
    """x -> x / 2 + b halves the distance each time: known rate, point, residual and count."""
    b = torch.tensor([[1.0], [4.0], [0.0]], dtype=torch.float64)
    found = fixed_point(lambda x: x / 2 + b, torch.zeros(3, 1, dtype=torch.float64), lipschitz=0.5, tolerance=1e-6)
    torch.testing.assert_close(found.x, 2 * b, rtol=0, atol=2e-6)
    assert found.iterations.tolist() == [21, 23, 1]  # the k-th move is b 2^(1 - k)
    torch.testing.assert_close(found.rate[:2], torch.full((2,), 0.5, dtype=torch.float64))
    assert found.bound.tolist() == [21, 23, 1]  # L^(k - 1) |x_1 - x_0| < tolerance
    assert found.residual[0] == 2.0**-21  # of where it stands, not of the last move
    assert found.error[0] == 2.0**-20
    assert found.x[0] == 2 - 2.0**-20  # it stayed there while the second went on
    slow = fixed_point(lambda x: 0.9 * x + b, torch.zeros(3, 1, dtype=torch.float64), lipschitz=0.9, tolerance=1e-6)
    assert slow.bound[0] == math.ceil(math.log(1e-6) / math.log(0.9) + 1)
    bent = fixed_point(
        lambda x: torch.where(x > 1, 0.9 * x, 0.1 * x + 0.8), torch.full((1, 1), 10.0, dtype=torch.float64)
    )
    assert float(bent.rate) == pytest.approx(0.9)
    sick = fixed_point(
        lambda x: x / 2 + b, torch.tensor([[0.0], [math.nan], [0.0]], dtype=torch.float64), lipschitz=0.5, strict=False
    )
    assert sick.converged.tolist() == [True, False, True]
    with pytest.raises(NotSupported, match=r"1 of 3 fixed points were not found in 1 iterations .* not finite"):
        fixed_point(lambda x: x / 2 + b, torch.tensor([[0.0], [math.nan], [0.0]], dtype=torch.float64))
    with pytest.raises(NotSupported, match="below what its precision can reach"):
        fixed_point(lambda x: torch.cos(x) / 2 + 1, torch.full((1, 1), 3.0), tolerance=0.0, most=100)
    with pytest.raises(NotSupported, match="1 of 2 fixed points"):
        fixed_point(lambda x: torch.tensor([[0.5], [1.5]]) * x + 1, torch.zeros(2, 1), most=50)
    loose = fixed_point(lambda x: 1.5 * x + 1, torch.zeros(2, 1), most=50, strict=False)
    assert not loose.converged.any()
    assert torch.isinf(loose.bound).all()


def test_a_map_that_turns_is_inverted_too() -> None:
    """It shrinks every move by .9, but not its largest entry."""
    c = 0.9 * math.sqrt(0.5)
    turn = torch.tensor([[c, -c], [c, c]], dtype=torch.float64)
    b = torch.randn(1000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = fixed_point(lambda x: x @ turn.T + b, torch.zeros_like(b), lipschitz=0.9 + 1e-12, tolerance=1e-6)
    exact = torch.linalg.solve(torch.eye(2, dtype=torch.float64) - turn, b.T).T
    assert ((found.x - exact).norm(dim=1) <= found.error * (1 + 1e-9)).all() and float(found.error.max()) <= 1e-5
    assert (found.iterations <= found.bound).all()
    torch.manual_seed(0)
    for dims in (2, 8):
        block = ResidualBlock((dims,), hidden=(), lipschitz=0.97)
        z = torch.randn(2000, dims)
        solved = block.solve(z)
        again = solved.x + block._plain()(solved.x) - z.double()
        assert float(again.norm(dim=1).max()) <= 0.03e-6  # an error of at most 1e-6


def test_the_inverse_of_a_block_has_no_second_derivatives() -> None:
    block = ResidualBlock((2,), hidden=(4,)).double()
    with pytest.raises(NotSupported, match="first derivatives alone"):
        torch.autograd.functional.hessian(
            lambda v: block.inverse(v[None]).square().sum(), torch.ones(2, dtype=torch.float64)
        )


def test_what_is_no_sample_has_no_density() -> None:
    model = build.build_model(build.resolve(load_recipe("flow/nsf-2d")), (2,))
    assert isinstance(model, FlowModel)
    for wrong in (torch.zeros(5, 1), torch.zeros(1), torch.zeros(2, 3)):
        with pytest.raises(ValueError, match="last dimensions"):
            model.flow().log_prob(wrong)
    assert model.flow().log_prob(torch.zeros(2)).shape == ()
    with pytest.raises(NotSupported, match="this flow's are"):
        model.log_prob(torch.zeros(5, 1))
    with pytest.raises(ValueError, match="BoxUniform"):
        library.Zuko(zuko.flows.NCSF(2), (2,))


def test_the_loss_is_bits_a_dimension() -> None:
    model = build.build_model(build.resolve(load_recipe("flow/nsf-2d")), (2,))
    assert isinstance(model, FlowModel)
    x = torch.randn(7, 2)
    batch = Batch(x=x, labels=None, step=0, generator=SampleStream(0, torch.arange(7)))
    torch.testing.assert_close(model.loss(batch)["bits_per_dim"], -model.log_prob(x) / (2 * math.log(2)))


def test_a_conditional_flow_samples_by_label() -> None:
    torch.manual_seed(0)
    model = build.build_model(build.resolve(load_recipe("flow/nsf-2d", ["model.classes=3"], data="ring-8")), (2,))
    assert isinstance(model, FlowModel)
    shaken(model.flow).float()
    labels = torch.tensor([0, 1, 2])
    noise = model.sample(3, labels=labels, generator=SampleStream(0, torch.arange(3)))
    turned = model.sample(3, labels=labels.roll(1), generator=SampleStream(0, torch.arange(3)))
    assert not torch.isclose(noise, turned).all(dim=1).any()
    z = draw_normal((3, 2), generator=SampleStream(0, torch.arange(3)))
    torch.testing.assert_close(model.encode(noise, labels), z, rtol=1e-3, atol=1e-3)


def test_what_stands_in_front_of_images_is_what_was_asked_for() -> None:
    small = ["model.flow.width=4", "model.flow.steps=1"]
    parts = {}
    for equalise in ("true", "false"):
        model = build.build_model(
            build.resolve(load_recipe("flow/multiscale-mnist", [*small, f"model.equalise={equalise}"])), (1, 28, 28)
        )
        parts[equalise] = [type(p).__name__ for p in model.flow.bijection.parts[:2]]  # type: ignore[union-attr, operator]
    assert parts == {"true": ["Equalise", "Logit"], "false": ["Logit", "Chain"]}
    recipe = load_recipe("flow/multiscale-mnist", [*small, 'model.dequantise="variational"'])
    model = build.build_model(build.resolve(recipe), (1, 28, 28))
    assert isinstance(model, FlowModel) and model.dequantiser is not None
    masks = [p.mask for p in model.dequantiser.bijection.parts]  # type: ignore[operator, union-attr]
    assert all(torch.equal(a + b, torch.ones_like(a)) for a, b in itertools.pairwise(m.float() for m in masks))
    shaken(model.dequantiser).float()
    noise = torch.randn(1, 1, 28, 28).expand(2, -1, -1, -1)
    images = torch.stack([torch.full((1, 28, 28), v) for v in (-1.0, 1.0)])
    black, white = model.dequantiser(images).push(noise)
    assert not torch.isclose(black, white).all()


# --- bytes ------------------------------------------------------------------------------------------------------


def bytes_in_model(values: Tensor) -> Tensor:
    return values.float() / 127.5 - 1


def plain(bijection: Bijection, dequantiser: BijectionFlow | None = None) -> FlowModel:
    return FlowModel(flow=BijectionFlow(bijection, (1, 1, 1), (1,)), shape=(1, 1, 1), dequantiser=dequantiser)


class _Line(Bijection):
    """Identity with a weight, flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.unit = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.flatten(1) + 0 * self.unit, x.new_zeros(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return z.reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("variational", [False, True])
def test_the_bound_on_bytes_is_below_the_known_probabilities_and_reaches_them(variational: bool) -> None:
    """A pixel whose logit is standard normal: P(b) is a difference of two values of its distribution function."""
    torch.manual_seed(0)
    dequantiser = None
    if variational:
        coupling = Coupling(torch.zeros(1, 1, 1, 1), ConvConditioner(1, width=4, blocks=1, image=1))
        dequantiser = BijectionFlow(shaken(coupling).float(), (1, 1, 1))  # type: ignore[arg-type]
    model = plain(Chain([Logit(0.0), _Line()]), dequantiser)
    b = torch.tensor([0, 3, 128, 255]).reshape(-1, 1, 1, 1)
    edges = torch.stack([b, b + 1]).double() / 256
    normal = Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
    low, high = normal.cdf(edges[0].logit()), normal.cdf(edges[1].logit())
    exact = (high - low).log().flatten()
    x = bytes_in_model(b)
    with torch.no_grad():
        single = torch.stack(
            [model.log_prob(x, generator=torch.Generator().manual_seed(k)) for k in range(400)]
        ).double()
        many = model.log_prob(x, draws=4_000, generator=torch.Generator().manual_seed(0)).double()
    error = single.std(0) / 20
    assert (single.mean(0) <= exact + 4 * error).all()
    assert (many - exact).abs().max() < (0.2 if variational else 0.05)
    assert float((exact - single.mean(0)).max()) > 0.01  # a bound, and not the thing itself


def test_bytes_come_back_from_noise() -> None:
    torch.manual_seed(0)
    config = build.resolve(parse({"model": {"family": "flow", "flow": {"name": "coupling", "levels": 1, "steps": 1, "width": 8}}, "optimiser": {"flow": {"lr": 1e-3}}}, "t"))  # fmt: skip
    model = build.build_model(config, (1, 8, 8))
    assert isinstance(model, FlowModel)
    x = to_model(torch.randint(256, (20, 1, 8, 8), dtype=torch.uint8))
    model.prepare(x)
    torch.testing.assert_close(model.decode(model.encode(x)), x, rtol=0, atol=1e-6)
    ways = model.interpolate(x[:2], x[2:4], 5)
    assert ways.shape == (5, 2, 1, 8, 8)
    torch.testing.assert_close(ways[0], x[:2], rtol=0, atol=1e-6)
    torch.testing.assert_close(ways[-1], x[2:4], rtol=0, atol=1e-6)


def test_a_likelihood_that_is_no_number_is_refused() -> None:
    model = plain(Chain([Logit(0.0), _Line()]))
    with torch.no_grad():
        model.flow.bijection.parts[1].unit.fill_(math.nan)  # type: ignore[attr-defined, union-attr, operator]
    with pytest.raises(NotSupported, match="3 of 3 log-likelihoods"):
        model.log_prob(torch.zeros(3, 1, 1, 1))


# --- the model --------------------------------------------------------------------------------------------------


def images(classes: bool) -> ImageSet:
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (64, 1, 8, 8), generator=g, dtype=torch.uint8)
    return ImageSet(x, torch.arange(64) % 3 if classes else None, classes=("a", "b", "c") if classes else ())


@pytest.mark.parametrize(("classes", "dequantise"), [(None, "uniform"), (3, "variational")])
def test_contract(classes: int | None, dequantise: str, tmp_path: Path) -> None:
    table = {
        "family": "flow",
        "flow": {"name": "coupling", "levels": 1, "steps": 2, "width": 8, "checkerboards": 1},
        "dequantise": dequantise,
    }
    table |= {"classes": classes} if classes else {}
    config = build.resolve(parse({"model": table, "optimiser": {"flow": {"lr": 1e-3}}}, "t"))
    data = images(classes is not None)

    def small() -> FlowModel:
        model = build.build_model(config, (1, 8, 8))
        model.prepare(to_model(data.images), data.labels)
        g = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.05 * torch.randn(p.shape, generator=g))
        assert isinstance(model, FlowModel)
        return model

    model = small()
    batches = ImageBatches(data, batch_size=8, seed=0)
    check_shapes(model, batches)
    check_gradients(model, batches)
    check_sampling_is_addressed(model)

    def trainer() -> Trainer:
        fresh = small()
        return Trainer(
            fresh,
            ImageBatches(data, batch_size=8, seed=0),
            {"flow": adam(fresh.phases()[0].module.parameters(), lr=1e-3)},
            seed=3,
            ema=0.9,
        )

    check_resumes_bit_equal(trainer, tmp_path)
    if classes:
        with pytest.raises(NotSupported, match="trained with labels"):
            model.log_prob(torch.zeros(2, 1, 8, 8))
        x = torch.zeros(2, 1, 8, 8)
        two = [model.log_prob(x, torch.full((2,), k)) for k in (0, 1)]
        assert not torch.allclose(two[0], two[1])
    else:
        with pytest.raises(NotSupported, match="unconditional"):
            model.sample(2, labels=torch.zeros(2, dtype=torch.int64))


def test_temperature_is_the_noises() -> None:
    model = FlowModel(flow=BijectionFlow(library.nsf(shape=POINTS, context=0), POINTS), shape=POINTS)
    stream = lambda: SampleStream(0, torch.arange(2000))  # noqa: E731
    warm = model.encode(model.sample(2000, generator=stream()))
    change_sampler(model, None, ["temperature=0.5"])
    cool = model.encode(model.sample(2000, generator=stream()))
    assert float(warm.std()) == pytest.approx(1.0, rel=0.03)
    assert float(cool.std()) == pytest.approx(0.5, rel=0.03)
    for settings, said in ((["temperature=0"], "above 0"), (["temp=1"], "valid: temperature")):
        with pytest.raises(ConfigError, match=said):
            change_sampler(model, None, settings)
    with pytest.raises(NotSupported, match="one pass"):
        change_sampler(model, "heun", [])


def test_variational_dequantising_is_there_where_it_is_asked_for() -> None:
    table = {"family": "flow", "flow": {"name": "coupling", "levels": 1, "steps": 1, "width": 4}}
    for how in ("uniform", "variational"):
        config = build.resolve(parse({"model": table | {"dequantise": how}, "optimiser": {"flow": {"lr": 1e-3}}}, "t"))
        model = build.build_model(config, (1, 8, 8))
        assert (model.dequantiser is not None) == (how == "variational")  # type: ignore[union-attr]


@pytest.mark.parametrize("name", [r for r in recipe_names() if r.startswith("flow/")])
def test_recipes_build_and_take_a_step(name: str) -> None:
    config = build.resolve(load_recipe(name, ["train.batch_size=8"]))
    config = config.model_copy(update={"train": config.train.model_copy(update={"precision": "no"})})
    trainer = runs.make_trainer(config, runs.load_data(config))
    report = next(trainer.steps(1))
    assert all(torch.isfinite(v) for v in report.terms.values())


@pytest.mark.parametrize("data", ["moons", "checkerboard", "spirals"])
def test_points_reach_an_exact_likelihood(data: str) -> None:
    """A short run of splines comes within a third of a nat of what is known, and a flow that learned nothing does not."""
    config = build.resolve(load_recipe("flow/nsf-2d", ["train.steps=250", "train.batch_size=256"], data=data))
    density = runs.load_data(config)
    trainer = runs.make_trainer(config, density)
    x = density.sample(4000, generator=SampleStream(5, torch.arange(4000)))  # type: ignore[union-attr]
    with torch.no_grad():
        before = float(-trainer.model.log_prob(x).mean())  # type: ignore[operator]
    for _ in trainer.steps(250):
        pass
    assert trainer.ema is not None
    with torch.no_grad(), trainer.ema.swapped_in():
        after = float(-trainer.model.log_prob(x).mean())  # type: ignore[operator]
    assert after < before - 1.0
    if data == "checkerboard":
        assert after < math.log(32) + 0.35


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"flow": "couplin"}, "did you mean"),
        ({"flow": None}, "'model.flow' is missing"),
        ({"flow": {"name": "nsf", "bin": 3}}, "did you mean"),
        ({"dequantise": "none"}, "uniform or variational"),
        ({"temperature": 0.0}, "above 0"),
        ({"temperature": 1e30}, "at most 100"),
        ({"classes": 1}, "at least 2"),
        ({"equalize": True}, "did you mean 'equalise'"),
    ],
)  # fmt: skip
def test_refused(changes: dict[str, object], said: str) -> None:
    table = {k: v for k, v in ({"family": "flow", "flow": "nsf"} | changes).items() if v is not None}
    with pytest.raises(ConfigError, match=said):
        build.resolve(parse({"model": table, "optimiser": {"flow": {"lr": 1e-3}}}, "t"))


@pytest.mark.parametrize(
    ("table", "shape", "said"),
    [
        ({"flow": "coupling"}, (2,), "images whose sides halve"),
        ({"flow": "coupling-points"}, (1,), "two dimensions or more"),
        ({"flow": {"name": "residual", "lipschitz": 1.0}}, (2,), "no inverse"),
        ({"flow": "residual", "classes": 3}, (2,), "takes no labels"),
        *(
            ({"flow": {"name": name, "hidden": [8, 0]}}, (2,), "at least 1")
            for name in ("nsf", "maf", "cnf", "residual", "coupling-points")
        ),
        ({"flow": "nsf", "equalise": False}, (2,), "for images"),
    ],
)
def test_flows_that_do_not_fit_are_refused(table: dict[str, object], shape: tuple[int, ...], said: str) -> None:
    config = build.resolve(parse({"model": {"family": "flow", **table}, "optimiser": {"flow": {"lr": 1e-3}}}, "t"))
    with pytest.raises(ConfigError, match=said):
        build.build_model(config, shape)
