"""Flows against normflows and nflows: milliseconds of log_prob, of a training pass and of sampling, networks of equal FLOPs, all in turn.

    python -m pip install --no-deps --target PEERS normflows nflows umnn
    PYTHONPATH=PEERS python benchmarks/flow_speed.py [--rounds 7] [--json docs/results/flow-speed.json]

Three architectures: affine couplings of points, masked autoregressive splines of points, and Glow's steps on two scales of 28 x 28 images. Ours are `pushforward.families.flow.library`'s
(the splines are zuko's behind our adapter). A peer's hidden width is the one whose log_prob is nearest to ours in FLOPs, by PyTorch's counter. Medians over rounds; a ratio above 1: the peer takes longer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.compare.budget import Flops
from pushforward.families.flow import library
from pushforward.families.flow.model import FlowDistribution

POINTS, DIM, LAYERS, WIDE = 1024, 16, 8, 128
SPLINE_DIM, SPLINES, BINS = 8, 3, 8
IMAGES, SCALES, STEPS, CHANNELS = 32, 2, 4, 48


class Flow:
    """log_prob and sample of anything, by functions."""

    def __init__(
        self, module: nn.Module, log_prob: Callable[[Tensor], Tensor], sample: Callable[[int], Tensor]
    ) -> None:
        self.module, self.log_prob, self.sample = module, log_prob, sample


def ours(bijection: nn.Module, shape: tuple[int, ...], noise: tuple[int, ...]) -> Flow:
    def law(n: int) -> FlowDistribution:
        return FlowDistribution(bijection, shape, noise)  # type: ignore[arg-type]

    return Flow(bijection, lambda x: law(len(x)).log_prob(x), lambda n: law(n).rsample((n,)))


def peer_nflows(transform: nn.Module, shape: tuple[int, ...]) -> Flow:
    from nflows.distributions import StandardNormal
    from nflows.flows.base import Flow as Theirs

    flow = Theirs(transform, StandardNormal(list(shape)))
    return Flow(flow, flow.log_prob, flow.sample)


def peer_normflows(flow: nn.Module) -> Flow:
    return Flow(flow, flow.log_prob, lambda n: flow.sample(n)[0])  # type: ignore[arg-type, operator]


def couplings_ours(_: int) -> Flow:
    return ours(
        library.coupling_points(shape=(DIM,), context=0, transforms=LAYERS, hidden=(WIDE, WIDE)), (DIM,), (DIM,)
    )


def couplings_nflows(wide: int) -> Flow:
    from nflows import transforms
    from nflows.nn.nets import MLP

    parts: list[nn.Module] = []
    for k in range(LAYERS):
        mask = ((torch.arange(DIM) + k) % 2) * 2 - 1
        net = lambda i, o: _WithContext(MLP([i], [o], [wide, wide], activation=torch.nn.functional.silu))  # noqa: E731
        parts += [transforms.ActNorm(DIM), transforms.AffineCouplingTransform(mask, net)]
    return peer_nflows(transforms.CompositeTransform(parts), (DIM,))


class _WithContext(nn.Module):
    """nflows hands a context to every conditioner; its own MLP takes none."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.net(x)


def couplings_normflows(wide: int) -> Flow:
    import normflows as nf

    parts: list[nn.Module] = []
    for _ in range(LAYERS):
        parts += [nf.flows.AffineCouplingBlock(nf.nets.MLP([DIM // 2, wide, wide, DIM], init_zeros=True)), nf.flows.Permute(DIM, mode="swap"), nf.flows.ActNorm(DIM)]  # fmt: skip
    return peer_normflows(nf.NormalizingFlow(nf.distributions.DiagGaussian(DIM, trainable=False), parts))


def splines_ours(_: int) -> Flow:
    flow = library.nsf(shape=(SPLINE_DIM,), context=0, transforms=SPLINES, bins=BINS, hidden=(WIDE, WIDE))
    return ours(flow, (SPLINE_DIM,), (SPLINE_DIM,))


def splines_nflows(wide: int) -> Flow:
    from nflows import transforms

    parts: list[nn.Module] = []
    for _ in range(SPLINES):
        parts += [transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(SPLINE_DIM, wide, num_bins=BINS, tails="linear", tail_bound=5.0, num_blocks=1, use_residual_blocks=False), transforms.ReversePermutation(SPLINE_DIM)]  # fmt: skip
    return peer_nflows(transforms.CompositeTransform(parts), (SPLINE_DIM,))


def splines_normflows(wide: int) -> Flow:
    import normflows as nf

    parts: list[nn.Module] = []
    for _ in range(SPLINES):
        parts += [nf.flows.AutoregressiveRationalQuadraticSpline(SPLINE_DIM, 1, wide, num_bins=BINS, tail_bound=5), nf.flows.LULinearPermute(SPLINE_DIM)]  # fmt: skip
    return peer_normflows(nf.NormalizingFlow(nf.distributions.DiagGaussian(SPLINE_DIM, trainable=False), parts))


def glow_ours(_: int) -> Flow:
    shape = (1, 28, 28)
    flow = library.coupling(
        shape=shape, context=0, levels=SCALES, steps=STEPS, width=CHANNELS, blocks=1, checkerboards=0
    )
    return ours(flow, shape, tuple(flow(torch.rand(2, *shape))[0].shape[1:]))


def glow_nflows(wide: int) -> Flow:
    from nflows import transforms
    from nflows.nn.nets import ConvResidualNet

    whole = transforms.MultiscaleCompositeTransform(SCALES)
    shape = (1, 28, 28)
    for _ in range(SCALES):
        c, h, w = 4 * shape[0], shape[1] // 2, shape[2] // 2
        parts: list[nn.Module] = [transforms.SqueezeTransform()]
        for k in range(STEPS):
            mask = torch.ones(c)
            mask[k % 2 :: 2] = -1
            net = lambda i, o: ConvResidualNet(i, o, wide, num_blocks=1)  # noqa: E731
            parts += [transforms.ActNorm(c), transforms.OneByOneConvolution(c), transforms.AffineCouplingTransform(mask, net)]  # fmt: skip
        shape = whole.add_transform(transforms.CompositeTransform(parts), (c, h, w)) or (c, h, w)
    return peer_nflows(whole, (28 * 28,))


def glow_normflows(wide: int) -> Flow:
    import normflows as nf

    base, merges, flows = [], [], []
    c, h = 1, 28
    shapes = []
    for level in range(SCALES):
        c, h = 4 * c, h // 2
        shapes.append((c, h))
        if level < SCALES - 1:
            c //= 2
    for level in reversed(range(SCALES)):  # theirs go from the noise to the image
        c, h = shapes[level]
        flows.append([*(nf.flows.GlowBlock(c, wide, split_mode="channel", scale=True) for _ in range(STEPS)), nf.flows.Squeeze()])  # fmt: skip
        if level < SCALES - 1:
            merges.append(nf.flows.Merge())
        base.append(nf.distributions.DiagGaussian((c if level == SCALES - 1 else c // 2, h, h), trainable=False))
    flow = nf.MultiscaleFlow(base, flows, merges, class_cond=False)
    return Flow(flow, lambda x: flow.log_prob(x, None), lambda n: flow.sample(n)[0])


CASES: dict[str, tuple[tuple[int, ...], int, dict[str, Callable[[int], Flow]]]] = {
    "couplings of points": ((DIM,), POINTS, {"pushforward": couplings_ours, "nflows": couplings_nflows, "normflows": couplings_normflows}),
    "splines of points": ((SPLINE_DIM,), POINTS, {"pushforward": splines_ours, "nflows": splines_nflows, "normflows": splines_normflows}),
    "Glow on images": ((1, 28, 28), IMAGES, {"pushforward": glow_ours, "nflows": glow_nflows, "normflows": glow_normflows}),
}  # fmt: skip


def flops(flow: Flow, x: Tensor) -> float:
    """Of log_prob of one sample, by a few of them."""
    x = x[:8]
    with torch.no_grad():
        flow.log_prob(x)  # data-dependent scales are set here
        with Flops() as counter:
            flow.log_prob(x)
    return counter.total / len(x)


def matched(make: Callable[[int], Flow], x: Tensor, target: float) -> tuple[Flow, int, float]:
    """The flow of the width whose FLOPs are nearest."""
    best = min((abs(flops(make(w), x) - target), w) for w in range(16, 321, 16))[1]
    fine = min((abs(flops(make(w), x) - target), w) for w in range(max(8, best - 12), best + 13, 4))[1]
    flow = make(fine)
    return flow, fine, flops(flow, x)


def train_pass(flow: Flow, x: Tensor) -> None:
    flow.module.zero_grad()
    (-flow.log_prob(x).mean()).backward()


def timed(flow: Flow, x: Tensor) -> dict[str, float]:
    with torch.no_grad():
        found = {"log_prob": seconds(lambda: flow.log_prob(x)), "sample": seconds(lambda: flow.sample(len(x)))}
    return found | {"training pass": seconds(lambda: train_pass(flow, x))}


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    out: dict[str, Any] = {
        "rounds": args.rounds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "versions": {name: version(name) for name in ("zuko", "nflows", "normflows")},
        "cases": {},
    }
    for case, (shape, n, makers) in CASES.items():
        torch.manual_seed(0)
        x = torch.randn(n, *shape) * 0.5
        first = makers["pushforward"](0)
        target = flops(first, x)
        flows, about = {"pushforward": first}, {"pushforward": {"width": None, "flops": target}}
        for name, make in makers.items():
            if name != "pushforward":
                flows[name], width, found = matched(make, x, target)
                about[name] = {"width": width, "flops": found}
        spent: dict[str, dict[str, list[float]]] = {
            f: {"log_prob": [], "training pass": [], "sample": []} for f in flows
        }
        for k in range(args.rounds + 1):
            for name, flow in flows.items():
                for key, took in timed(flow, x).items():
                    if k:  # the first round is for nothing
                        spent[name][key].append(took)
        median = {f: {k: statistics.median(v) for k, v in t.items()} for f, t in spent.items()}
        out["cases"][case] = {
            f: about[f] | {"parameters": sum(p.numel() for p in flows[f].module.parameters())}
            | {k: {"ms": 1000 * v, "ratio": v / median["pushforward"][k]} for k, v in median[f].items()}
            for f in flows
        }  # fmt: skip
        print(case)
        for f, row in out["cases"][case].items():
            print(f"  {f:12} width {row['width']}, {row['flops'] / target:.2f} of our FLOPs: " + ", ".join(f"{k} {row[k]['ms']:.1f} ms ({row[k]['ratio']:.2f}x)" for k in spent[f]), flush=True)  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
