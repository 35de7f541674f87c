"""The floor of every metric: MNIST training images against test images, at several n; and the ladder of damaged ones at the largest.

    PUSHFORWARD_DATA=../shared/data python benchmarks/floor.py [--json docs/results/floor.json]

It shows the Frechet distance's bias, and that its extrapolation to endless data has lost it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from pushforward.data.fetch import load
from pushforward.data.images import ImageSet
from pushforward.evaluation import Sides, measure, reference
from pushforward.metrics.features import Features, cached_features, extractor

METRICS = [
    "frechet",
    "frechet-infinity",
    "kid",
    "precision-recall",
    "density-coverage",
    "inception-score",
    "sliced-wasserstein",
    "classes",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 2000, 5000, 10000])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    by = extractor("digits")
    sides: list[Features] = []
    for split in ("train", "test"):
        data = load("mnist", split)
        assert isinstance(data, ImageSet)
        sides.append(cached_features(data.images, data.sha256, by))
    shuffler = torch.Generator().manual_seed(0)
    train, test = (
        Features(s.features[order], None if s.logits is None else s.logits[order])
        for s in sides
        for order in [torch.randperm(len(s.features), generator=shuffler)]
    )
    rows: list[dict[str, Any]] = []
    for n in args.sizes:
        part = [Features(s.features[:n], None if s.logits is None else s.logits[:n]) for s in (test, train)]
        metrics = [m for m in METRICS if m != "frechet-infinity" or n >= 8 * train.features.shape[1]]
        values = measure(Sides(part[0], part[1], part[1]), metrics)
        rows.append(
            {
                "n": n,
                "values": {k: {"value": v.value, "stderr": v.stderr, "method": v.method} for k, v in values.items()},
            }
        )
        print(n, {k: str(v) for k, v in values.items()}, flush=True)
    side = reference("mnist", n=max(args.sizes))
    ladder = {rung: measure(Sides(side.real, f, f), ["frechet"])["frechet"].value for rung, f in side.floor.items()}
    print(ladder)
    if args.json:
        found = {"command": " ".join(sys.argv), "extractor_sha256": by.sha256, "rows": rows, "ladder": ladder}
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
