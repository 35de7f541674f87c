"""Runs that are killed, and runs of several processes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pushforward.training import checkpoint
from pushforward.training.logs import read_log

pytestmark = pytest.mark.slow


STEPS = 1000


def words(out: Path) -> list[str]:
    sets = [f"train.steps={STEPS}", "train.checkpoint_every=20", "train.sample_every=100"]
    small = [w for s in sets for w in ("--set", s)]
    return [
        sys.executable,
        "-m",
        "pushforward",
        "train",
        "gan/lsgan",
        "--data",
        "mnist-5k",
        "--out",
        str(out),
        "--resume",
        "-q",
        *small,
    ]


def test_killed_twenty_times_it_ends_bit_equal(tmp_path: Path) -> None:
    """Kill -9 at random instants; what stands on the disk is always whole, and the end is the uninterrupted run's."""
    straight, killed, rng = tmp_path / "straight", tmp_path / "killed", random.Random(0)
    subprocess.run(words(straight), check=True)
    folder, reached = killed / "checkpoints", []
    for kill in range(20):
        before = newest(folder)
        process = subprocess.Popen(words(killed))
        began = time.monotonic()
        if kill % 2:  # every other blow falls while it trains, the rest at any time from its start
            while newest(folder) == before and process.poll() is None and time.monotonic() - began < 60:
                time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.8) if kill % 2 else rng.uniform(0.2, 4))
        assert process.poll() is None, "the run ended before the blow: give it more steps"
        process.send_signal(signal.SIGKILL)
        process.wait()
        reached.append(newest(folder))
        for step in checkpoint.steps(folder):
            checkpoint.load(folder / str(step))
    subprocess.run(words(killed), check=True)
    print(f"20 kills, at checkpoints {reached}")
    assert len(set(reached)) >= 8, f"too few blows fell inside the run to show anything: {reached}"
    for name in ("model", "ema", "optimisers"):
        a, b = (load_file(r / f"checkpoints/{STEPS}/{name}.safetensors") for r in (straight, killed))
        assert a.keys() == b.keys()
        for key in a:
            assert torch.equal(a[key], b[key]), (name, key)
    assert steps_logged(straight) == steps_logged(killed)


def newest(folder: Path) -> int:
    return (checkpoint.steps(folder) or [0])[-1]


def steps_logged(run: Path) -> list[int]:
    return [row["step"] for row in read_log(run / "log.jsonl")]


PENALTY = 'model.terms=[{name="interpolate-penalty", weight=10}, {name="r1", weight=1, every=4}]'


@pytest.mark.parametrize("recipe", ["gan/lsgan", "gan/dcgan"])
def test_two_processes_reach_the_weights_of_one(tmp_path: Path, recipe: str) -> None:
    """Same global batch, no batch statistics, gradient penalties: equal to float tolerance."""
    # Plain descent: Adam divides by the gradient's size, and so turns rounding in a tiny gradient into a full step.
    sets = ["train.steps=20", PENALTY, "train.device=cpu", "train.log_every=5"]
    # And kinks turn it into flips: one process whose weights are moved by 2e-7 relative ends 2e-5 away after these 20 steps of the DCGAN.
    sets += ["model.discriminator.slope=1.0"] if recipe == "gan/dcgan" else []
    sets += [f"model.{player}.norm=none" for player in ("generator", "discriminator")]
    sets += [f"optimiser.{player}={{name='sgd', lr=0.01}}" for player in ("generator", "discriminator")]
    command = ["-m", "pushforward", "train", recipe, "-q", *(w for s in sets for w in ("--set", s))]
    one, two = on_one_and_on_two(command, tmp_path, steps=20)
    for key in one:
        torch.testing.assert_close(two[key], one[key], rtol=1e-4, atol=1e-6)


def on_one_and_on_two(command: list[str], folder: Path, *, steps: int) -> list[dict[str, Tensor]]:
    """The same training run by one process and by two: the weights of both."""
    # Not `accelerate launch --cpu --num_processes 2`, which starts a single process.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    subprocess.run([sys.executable, *command, "--out", str(folder / "one")], check=True, env=environment)
    subprocess.run([*launch, *command, "--out", str(folder / "two")], check=True, env=environment)
    assert json.loads((folder / "two/environment.json").read_text())["processes"] == 2
    return [load_file(folder / f"{n}/checkpoints/{steps}/model.safetensors") for n in ("one", "two")]


def test_two_processes_move_the_chains_of_one(tmp_path: Path) -> None:
    """An energy model's kept chains belong to rows of the global batch: whoever moves them, they go where they would have gone."""
    sets = ["train.steps=12", "train.device=cpu", 'train.precision="no"', "train.batch_size=8", "train.ema=false"]
    sets += ["model.network.width=8", "model.chains.steps=3", "model.chains.restart=0.3", "model.chains.depth=2"]
    sets += ["optimiser.energy={name='sgd', lr=0.01}", "train.schedule=constant", "train.warmup=0"]
    command = ["-m", "pushforward", "train", "energy/pcd", "-q", *(w for s in sets for w in ("--set", s))]
    one, two = on_one_and_on_two([*command, "--set", "train.checkpoint_every=6"], tmp_path, steps=12)
    half = load_file(tmp_path / "one/checkpoints/6/model.safetensors")
    assert float((one["network.head.first.weight"] - half["network.head.first.weight"]).abs().max()) > 1e-4
    assert int(one["buffer.age"].max()) > 6, "no chain was moved on twice"
    assert torch.equal(two["buffer.age"], one["buffer.age"])
    torch.testing.assert_close(two["buffer.chains"], one["buffer.chains"], rtol=0, atol=0.01)
    for key in (k for k in one if k.startswith("network.")):
        torch.testing.assert_close(two[key], one[key], rtol=1e-4, atol=1e-6)
