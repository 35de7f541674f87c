"""Metrics against every peer on the same float32 features: seconds and extra peak memory, each in a process of its own.

    make peers && .venv-peers/bin/python benchmarks/metrics.py [--n 10000] [--rounds 3] [--json docs/results/metrics.json]

Peers that are not installed are left out: without `make peers`, those are torch-fidelity, pytorch-fid and clean-fid. Ours and
the peers run in turn; medians of the rounds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn


def features(n: int, d: int) -> tuple[Tensor, Tensor]:
    """Two correlated clouds with heavy tails, like pooled activations: non-negative and unequal."""
    g = torch.Generator().manual_seed(0)
    mix = torch.randn(d, d, generator=g) / d**0.5
    return tuple((torch.randn(n, d, generator=g) @ mix + shift).relu() for shift in (0.0, 0.1))  # type: ignore[return-value]


class Given(nn.Module):
    num_features = 0

    def forward(self, x: Tensor) -> Tensor:
        return x


def torchmetrics_fid(x: Tensor, y: Tensor) -> float:
    from torchmetrics.image.fid import FrechetInceptionDistance

    given = Given()
    given.num_features = x.shape[1]
    peer = FrechetInceptionDistance(feature=given)
    for real, side in ((True, x), (False, y)):
        for block in side.split(1000):
            peer.update(block, real=real)
    return float(peer.compute())


def torchmetrics_kid(x: Tensor, y: Tensor) -> float:
    from torchmetrics.image.kid import KernelInceptionDistance

    given = Given()
    given.num_features = x.shape[1]
    peer = KernelInceptionDistance(feature=given, subsets=100, subset_size=min(1000, len(x) - 1))
    peer.update(x, real=True)
    peer.update(y, real=False)
    return float(peer.compute()[0])


def torch_fidelity_fid(x: Tensor, y: Tensor) -> float:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    stats = [fid_features_to_statistics(t) for t in (x, y)]
    return float(fid_statistics_to_metric(*stats, False)["frechet_inception_distance"])


def torch_fidelity_kid(x: Tensor, y: Tensor) -> float:
    from torch_fidelity.metric_kid import kid_features_to_metric

    size = min(1000, len(x))
    return float(kid_features_to_metric(y, x, kid_subset_size=size, verbose=False)["kernel_inception_distance_mean"])


def torch_fidelity_pr(x: Tensor, y: Tensor) -> float:
    from torch_fidelity.metric_prc import prc_features_to_metric

    return float(prc_features_to_metric(y, x, prc_neighborhood=5, save_cpu_ram=True, verbose=False)["precision"])


def pytorch_fid_fid(x: Tensor, y: Tensor) -> float:
    import numpy as np
    from pytorch_fid.fid_score import calculate_frechet_distance

    moments = [m for t in (x.numpy(), y.numpy()) for m in (np.mean(t, axis=0), np.cov(t, rowvar=False))]
    return float(calculate_frechet_distance(*moments))


def clean_fid_fid(x: Tensor, y: Tensor) -> float:
    from cleanfid.fid import fid_from_feats

    return float(fid_from_feats(x.numpy(), y.numpy()))


def clean_fid_kid(x: Tensor, y: Tensor) -> float:
    from cleanfid.fid import kernel_distance

    return kernel_distance(x.numpy(), y.numpy())


def prdc_all(x: Tensor, y: Tensor) -> float:
    from prdc import compute_prdc

    return float(compute_prdc(x.numpy(), y.numpy(), nearest_k=5)["precision"])


def pot_sliced(x: Tensor, y: Tensor) -> float:
    import ot

    return float(ot.sliced_wasserstein_distance(x.numpy(), y.numpy(), n_projections=128, seed=0))


def ours(name: str) -> Callable[[Tensor, Tensor], float]:
    from pushforward import metrics
    from pushforward.training.memory import keep_freed_memory

    keep_freed_memory()
    table: dict[str, Callable[[Tensor, Tensor], float]] = {
        "frechet": lambda x, y: metrics.frechet_distance(real=x, fake=y, uncertainty=False).value,
        "frechet-with-stderr": lambda x, y: metrics.frechet_distance(real=x, fake=y).value,
        "kid": lambda x, y: metrics.kernel_distance(real=x, fake=y).value,
        "prdc": lambda x, y: metrics.prdc(real=x, fake=y, k_precision_recall=5)[0].precision.value,
        "sliced-w2": lambda x, y: metrics.sliced_wasserstein(real=x, fake=y).value,
    }
    return table[name]


PEERS: dict[str, dict[str, Callable[[Tensor, Tensor], float]]] = {
    "frechet": {
        "torchmetrics": torchmetrics_fid,
        "torch_fidelity": torch_fidelity_fid,
        "pytorch_fid": pytorch_fid_fid,
        "cleanfid": clean_fid_fid,
    },
    "frechet-with-stderr": {},
    "kid": {
        "torchmetrics (100 subsets of 1000)": torchmetrics_kid,
        "torch_fidelity (100 subsets of 1000)": torch_fidelity_kid,
        "cleanfid (100 subsets of 1000)": clean_fid_kid,
    },
    "prdc": {"prdc": prdc_all, "torch_fidelity (P and R alone)": torch_fidelity_pr},
    "sliced-w2": {"ot": pot_sliced},
}


def installed(who: str) -> bool:
    return importlib.util.find_spec(who.split()[0]) is not None


def one(name: str, who: str, n: int, d: int) -> None:
    x, y = features(n, d)
    if who != "ours":
        import peers  # torchvision imports after this

        assert peers.LIBRARY is not None
    function = ours(name) if who == "ours" else PEERS[name][who]
    function(x[:300, :64].clone(), y[:300, :64].clone())  # imports and first calls, too small to claim memory
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    value = function(x, y)
    seconds = time.perf_counter() - start
    print(json.dumps([seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, value]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--d", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--metrics", nargs="*", default=list(PEERS))
    parser.add_argument("--only", nargs="*", help="peers; all that are installed when absent; 'none' for ours alone")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(*args.one, args.n, args.d)
        return
    rows = []
    for name in args.metrics:
        who = ["ours", *(w for w in PEERS[name] if installed(w) and (not args.only or w.split()[0] in args.only))]
        found: dict[str, list[list[float]]] = {w: [] for w in who}
        for _ in range(args.rounds):
            for w in who:
                words = [sys.executable, __file__, "--one", name, w, "--n", str(args.n), "--d", str(args.d)]
                done = subprocess.run(words, capture_output=True, text=True, check=True)
                found[w].append(json.loads(done.stdout.splitlines()[-1]))
        for w in who:
            seconds, memory = (statistics.median(r[k] for r in found[w]) for k in (0, 1))
            ratio = statistics.median(b[0] / a[0] for a, b in zip(found["ours"], found[w], strict=True))
            rows.append(
                {
                    "metric": name,
                    "who": w,
                    "n": args.n,
                    "d": args.d,
                    "seconds": seconds,
                    "extra_mb": memory,
                    "ratio": ratio,
                    "value": found[w][0][2],
                }
            )
            print(
                f"{name:20} {w:36} {seconds:7.2f} s  {memory:7.0f} MB  {ratio:5.2f} x ours  value {found[w][0][2]:.6g}",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps({"command": " ".join(sys.argv), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
