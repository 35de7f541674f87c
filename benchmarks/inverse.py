"""Trained residual flows: how exactly they come back, how steep their blocks are at data, and the inverse's iterations beside the a priori bound.

    pushforward train flow/residual-2d --out runs/residual-2d
    python benchmarks/inverse.py runs/residual-2d [MORE ...] [--n 2000] [--json docs/results/inverse.json]

Distances are the largest of all entries. A block's steepness is the largest singular value of its residual's Jacobian at the samples: whole for points; for
images by 30 power iterations, from below.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pushforward import provenance, runs
from pushforward.data.images import ImageSet, to_model
from pushforward.families.flow.model import LEVELS, FlowModel
from pushforward.families.flow.residual import ResidualBlock


def steepest(block: ResidualBlock, x: Tensor) -> float:
    """The largest of the local Lipschitz constants of g at x."""
    if x[0].numel() <= 16:
        jacobian = torch.func.vmap(torch.func.jacrev(lambda v: block.g(v[None])[0]))(x)
        return float(torch.linalg.matrix_norm(jacobian, ord=2).detach().max())
    v = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    for _ in range(30):
        v = v / v.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
        _, moved = torch.func.jvp(block.g, (x,), (v,))
        size = moved.detach().flatten(1).norm(dim=1)
        _, back = torch.func.vjp(block.g, x)
        v = back(moved)[0].detach()
    return float(size.max())


def farthest(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def one(folder: Path, n: int) -> dict[str, Any]:
    run = runs.load_run(folder)
    model = run.model.eval()
    assert isinstance(model, FlowModel), f"{folder} is no flow"
    data = runs.load_data(run.config, "test")
    g = torch.Generator().manual_seed(0)
    x = to_model(data.images[:n]) if isinstance(data, ImageSet) else data.sample(n, generator=g)
    z = torch.randn(len(x), model.dims, generator=g)
    found: dict[str, Any] = {
        "run": folder.name, "steps": run.step, "n": len(x), "dims": model.dims, "parameters": provenance.parameters(model),
    }  # fmt: skip
    with torch.no_grad():
        y = ((x + 1) * 127.5).round().add(0.5) / LEVELS if model.bytes else x  # without the rounding to bytes
        began = time.process_time()
        law = model._law(y, None)[0]
        there = law.pull(y.double()).float()
        found["data_noise_data"] = farthest(law.push(there.double().reshape(len(x), *law.noise)).float(), y)
        found["seconds_there_and_back"] = round(time.process_time() - began, 1)
        made = law.push(z.double().reshape(len(x), *law.noise)).float()
        found["noise_data_noise"] = farthest(law.pull(made.double()).flatten(1).float(), z)
    flow = model.double().flow.bijection
    h, rows = y[:500].double(), []
    for part in flow.parts:  # type: ignore[union-attr]
        with torch.no_grad():
            out = part(h)[0]
        if isinstance(part, ResidualBlock):
            with torch.no_grad():
                solved = part.solve(out)
                error = farthest(solved.x, h)
            ratio = float((solved.iterations / solved.bound).max())
            rows.append((steepest(part, h[:100] if model.bytes else h), int(solved.iterations.max()), ratio, error))
        h = out.detach()
    names = ("steepest", "most_iterations", "iterations_over_bound", "block_error")
    found |= {k: max(r[i] for r in rows) for i, k in enumerate(names)}
    found |= {
        "blocks": len(rows),
        "lipschitz": max(m.lipschitz for m in model.modules() if isinstance(m, ResidualBlock)),
    }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(args.json.read_text()) if args.json and args.json.exists() else []
    for folder in args.runs:
        row = one(folder, args.n)
        rows = [*(r for r in rows if r["run"] != row["run"]), row]
        print(row, flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
