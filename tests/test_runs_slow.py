"""Runs that are killed, and runs of several processes."""

from __future__ import annotations

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

from pushforward.training import checkpoint

pytestmark = pytest.mark.slow


def words(out: Path, *more: str) -> list[str]:
    small = ["--set", "train.steps=300", "--set", "train.checkpoint_every=20", "--set", "train.sample_every=100"]
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
        *more,
    ]


def test_killed_twenty_times_it_ends_bit_equal(tmp_path: Path) -> None:
    """Kill -9 at random instants; what stands on the disk is always whole, and the end is the uninterrupted run's."""
    straight, killed, rng = tmp_path / "straight", tmp_path / "killed", random.Random(0)
    subprocess.run(words(straight), check=True)
    kills = 0
    while kills < 20:
        process = subprocess.Popen(words(killed))
        time.sleep(rng.uniform(2.5, 6.5))
        if process.poll() is not None:  # it ended before the blow: give it more to do by going back
            for step in checkpoint.steps(killed / "checkpoints")[1:]:
                (killed / "checkpoints" / str(step)).rename(tmp_path / f"gone-{kills}-{step}")
        os.kill(process.pid, signal.SIGKILL) if process.returncode is None else None
        process.wait()
        kills += 1
        for step in checkpoint.steps(killed / "checkpoints"):
            checkpoint.load(killed / "checkpoints" / str(step))
    subprocess.run(words(killed), check=True)
    for name in ("model", "ema", "optimisers"):
        a, b = (load_file(r / f"checkpoints/300/{name}.safetensors") for r in (straight, killed))
        assert a.keys() == b.keys()
        for key in a:
            assert torch.equal(a[key], b[key]), (name, key)


PENALTY = 'model.terms=[{name="interpolate-penalty", weight=10}, {name="r1", weight=1, every=4}]'


@pytest.mark.parametrize("recipe", ["gan/lsgan", "gan/dcgan"])
def test_two_processes_reach_the_weights_of_one(tmp_path: Path, recipe: str) -> None:
    """Same global batch, no batch statistics, gradient penalties: equal to float tolerance."""
    sets = ["train.steps=20", PENALTY, "train.device=cpu", "train.log_every=5"]
    sets += ["model.generator.hidden=[64]", "model.discriminator.hidden=[64]"] if recipe == "gan/lsgan" else []
    sets += [
        "model.generator.norm=none",
        "model.discriminator.norm=none",
        "optimiser.generator.name=sgd",
        "optimiser.discriminator.name=sgd",
    ]
    # Plain descent: Adam divides by the gradient's size, and so turns rounding in a tiny gradient into a full step.
    sets = [s for s in sets]
    command = ["-m", "pushforward", "train", recipe, "-q", *(w for s in sets for w in ("--set", s))]
    command += [
        "--set",
        "optimiser.generator={name='sgd', lr=0.01}",
        "--set",
        "optimiser.discriminator={name='sgd', lr=0.01}",
    ]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    subprocess.run([sys.executable, *command, "--out", str(tmp_path / "one")], check=True, env=environment)
    subprocess.run(
        [*launch, "2", "--main_process_port", "0", *command, "--out", str(tmp_path / "two")],
        check=True,
        env=environment,
    )
    one, two = (load_file(tmp_path / f"{n}/checkpoints/20/model.safetensors") for n in ("one", "two"))
    for key in one:
        torch.testing.assert_close(two[key], one[key], rtol=1e-4, atol=1e-6, msg=key)
