"""Energy models against the tutorial's recipe and torchebm: CPU seconds of a whole training and of 10,000 samples, chain moves a second on one network.

    python -m pip install --no-deps --target PEERS torchebm
    PYTHONPATH=PEERS python benchmarks/energy_speed.py [--rounds 3] [--json docs/results/energy-speed.json]

The tutorial (P. Lippe, UvA deep learning, "Deep energy models"): a Swish CNN of 77,000 parameters, 60 moves a step on batches of 128, a buffer of 8,192
kept as a list, 60 epochs; re-created here from its description. Its whole cost is what some steps took, times their number. Ours is `energy/pcd` with the mean steps
of its longest runs in docs/results/energy.jsonl, in the precision that its own probe chooses; the tutorial's is float32. One thread; each thing is timed in turn, several rounds, medians. How good the models get is another table.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

BATCH, MOVES, EPOCHS, BUFFER, SAMPLES, LONG = 128, 60, 60, 8192, 10_000, 256
STEPS = EPOCHS * (60_000 // BATCH)


class Swish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=4), Swish(), nn.Conv2d(16, 32, 3, stride=2, padding=1), Swish(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1), Swish(), nn.Conv2d(64, 64, 3, stride=2, padding=1), Swish(),
        nn.Flatten(), nn.Linear(256, 64), Swish(), nn.Linear(64, 1),
    )  # fmt: skip


def tutorial_chains(model: nn.Module, x: Tensor, moves: int) -> Tensor:
    for p in model.parameters():
        p.requires_grad = False
    x.requires_grad = True
    noise = torch.randn(x.shape)
    for _ in range(moves):
        noise.normal_(0, 0.005)
        x.data.add_(noise.data)
        x.data.clamp_(min=-1.0, max=1.0)
        out = -model(x)
        out.sum().backward()
        x.grad.data.clamp_(-0.03, 0.03)  # type: ignore[union-attr]
        x.data.add_(-10 * x.grad.data)  # type: ignore[union-attr]
        x.grad.detach_()  # type: ignore[union-attr]
        x.grad.zero_()  # type: ignore[union-attr]
        x.data.clamp_(min=-1.0, max=1.0)
    for p in model.parameters():
        p.requires_grad = True
    return x.detach()


def tutorial_training() -> Callable[[], None]:
    model, data = cnn(), torch.rand(4096, 1, 28, 28) * 2 - 1
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.0, 0.999))
    state = {"kept": [torch.rand(1, 1, 28, 28) * 2 - 1 for _ in range(BUFFER)]}

    def step() -> None:
        real = data[torch.randint(len(data), (BATCH,))]
        real = real + 0.005 * torch.randn_like(real)
        new = sum(random.random() < 0.05 for _ in range(BATCH))
        old = torch.cat(random.choices(state["kept"], k=BATCH - new))
        fake = tutorial_chains(model, torch.cat([torch.rand(new, 1, 28, 28) * 2 - 1, old]), MOVES)
        state["kept"] = (list(fake.chunk(BATCH)) + state["kept"])[:BUFFER]
        a, b = model(torch.cat([real, fake])).chunk(2)
        loss = 0.1 * (a**2 + b**2).mean() + b.mean() - a.mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimiser.step()
        loss.item()

    return step


def tutorial_sampling() -> Callable[[], None]:
    model = cnn()
    return lambda: (tutorial_chains(model, torch.rand(500, 1, 28, 28) * 2 - 1, 8), None)[1]


def our_trainer() -> Any:
    from pushforward import build, runs
    from pushforward.config import load_recipe
    from pushforward.data.images import ImageSet

    config = runs.with_precision(build.resolve(load_recipe("energy/pcd", [])))
    images = torch.randint(0, 256, (4096, 1, 28, 28), dtype=torch.uint8)
    return runs.make_trainer(config, ImageSet(images)), config.train.precision


def our_training() -> Callable[[], None]:
    reports = our_trainer()[0].steps(10**9)
    return lambda: (next(reports), None)[1]


def our_sampling() -> Callable[[], None]:
    from pushforward import runs
    from pushforward.build import change_sampler

    trainer, precision = our_trainer()
    model = trainer.model.eval()
    change_sampler(model, None, ["steps=8"])
    return lambda: (runs.sample(model, 500, precision=precision), None)[1]


def torchebm_moves() -> Callable[[], None]:
    from torchebm.core import BaseModel
    from torchebm.samplers import LangevinDynamics

    class Energy(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.inner = cnn()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.inner(x)
            return out.squeeze(1)

    sampler = LangevinDynamics(Energy(), step_size=0.01, noise_scale=1.0, clamp=(-1.0, 1.0), device="cpu")
    return lambda: (sampler.sample(x=torch.rand(256, 1, 28, 28) * 2 - 1, n_steps=16), None)[1]


def our_moves() -> Callable[[], None]:
    from pushforward.families.energy.model import EnergyModel, Sampler, Training
    from pushforward.training.memory import keep_freed_memory

    keep_freed_memory()
    network = nn.Sequential(cnn(), nn.Flatten(0)).to(memory_format=torch.channels_last)
    sampler = Sampler(steps=16, step_size=0.01, start="data")
    model = EnergyModel(network=network, shape=(1, 28, 28), terms=(), sampler=sampler, training=Training(), rows=1)
    model.data = torch.rand(256, 1, 28, 28) * 2 - 1
    return lambda: (model.sample(256), None)[1]


WORKS = {  # what a call does, and how many calls the whole has; ours has the steps of its runs
    "tutorial training": (tutorial_training, STEPS),
    "our training": (our_training, 0),
    "tutorial sampling": (tutorial_sampling, SAMPLES * LONG / (500 * 8)),
    "our sampling": (our_sampling, SAMPLES * LONG / (500 * 8)),
    "torchebm": (torchebm_moves, 1 / (256 * 16)),
    "ours on its network": (our_moves, 1 / (256 * 16)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=8)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = [json.loads(v) for v in Path("docs/results/energy.jsonl").read_text().splitlines()]
    steps = statistics.mean(
        r["steps"] for r in runs if r["recipe"] == "energy/pcd" and not r["settings"] and r["minutes"] >= 10
    )
    calls = {name: partial(_timed, make(), args.calls) for name, (make, _) in WORKS.items()}
    found: dict[str, list[float]] = {name: [] for name in WORKS}
    for k in range(args.rounds + 1):
        for name, call in calls.items():
            seconds = call()
            if k:  # the first round warms up
                found[name].append(seconds)
    whole = {
        name: statistics.median(found[name]) * (times or (steps if name == "our training" else 1))
        for name, (_, times) in WORKS.items()
    }
    theirs, ours = (whole[f"{who} training"] + whole[f"{who} sampling"] for who in ("tutorial", "our"))
    for name in list(WORKS)[:4]:
        print(f"{name}: {whole[name] / 60:.1f} CPU minutes")
    each = {k: whole[f"tutorial {k}"] / whole[f"our {k}"] for k in ("training", "sampling")}
    print(f"training {each['training']:.1f} times, 10,000 samples of 256 moves {each['sampling']:.2f} times, both together {theirs / ours:.1f} times cheaper (goal 5)")  # fmt: skip
    rates = {name: 1 / whole[name] for name in list(WORKS)[4:]}
    ratio = rates["ours on its network"] / rates["torchebm"]
    print(f"chain moves a second: torchebm {rates['torchebm']:,.0f}, ours {rates['ours on its network']:,.0f}, ratio {ratio:.2f} (goal 1.5)")  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps({"rounds": args.rounds, "precision": our_trainer()[1], "steps": [STEPS, steps], "cpu_seconds": {k: whole[k] for k in list(WORKS)[:4]}, "ratio": theirs / ours, "ratios": each, "moves_a_second": rates, "moves_ratio": ratio}, indent=1))  # fmt: skip


def _timed(work: Callable[[], None], calls: int) -> float:
    """CPU seconds of a call."""
    began = time.process_time()
    for _ in range(calls):
        work()
    return (time.process_time() - began) / calls


if __name__ == "__main__":
    main()
