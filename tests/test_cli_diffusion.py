"""A diffusion run from the command line: trained, sampled by several solvers, judged, restored from; mistakes answered in words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from program import call, refused

from pushforward import runs
from pushforward.config import load_recipe
from pushforward.data.fetch import load
from pushforward.data.images import ImageSet

SMALL = ["--set", "model.network.width=16", "--set", "train.batch_size=8", "--set", "train.precision=no", "-q"]
SMALL += ["--set", "train.steps=3", "--set", "train.sample_every=3", "--set", "train.log_every=1"]
SMALL += [
    "--set",
    "train.warmup=0",
    "--set",
    "train.ema=false",
    "--set",
    "optimiser.denoiser.lr=0.02",
]  # so that labels matter


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished small run that knows classes."""
    out = tmp_path_factory.mktemp("runs") / "edm"
    done = call("train", "diffusion/edm-conditional", "--data", "mnist-5k", "--out", out, *SMALL)
    assert done.returncode == 0, done.stderr
    return out


def images(path: Path) -> np.ndarray:
    return np.load(path, allow_pickle=False)["images"]


def test_samples_by_solver_steps_guidance_and_label(run: Path, tmp_path: Path) -> None:
    ways = {
        "own": [],
        "steps": ["--set", "steps=3"],
        "unipc": ["--sampler", "unipc", "--set", "steps=4", "--set", "order=2"],
        "guided": ["--set", "guidance=4", "--set", "guidance_low=0.1"],
        "label": ["--label", "7"],
    }
    found = {}
    for name, words in ways.items():
        done = call("sample", run, "-n", 6, "--out", tmp_path / f"{name}.npz", *words)
        assert done.returncode == 0, done.stderr
        found[name] = images(tmp_path / f"{name}.npz")
        assert found[name].shape == (6, 1, 28, 28)
    call("sample", run, "-n", 6, "--batch-size", 4, "--out", tmp_path / "again.npz")
    difference = np.abs(images(tmp_path / "again.npz").astype(int) - found["own"])
    assert difference.max() <= 1  # the same images whatever the batch
    for name in ("steps", "unipc", "guided", "label"):
        assert (found[name] != found["own"]).any(), name


def test_ways_between_test_images_of_a_class(run: Path, tmp_path: Path) -> None:
    words = ["sample", run, "-n", 2, "--interpolate", 3, "--set", "steps=400", "-o", tmp_path / "ways.png", "-q"]
    assert "give --label" in refused(*words)
    done = call(*words, "--label", 7)
    assert done.returncode == 0, done.stderr
    ways = np.asarray(Image.open(tmp_path / "ways.png")).astype(float)
    sevens = load("mnist-5k", "test")
    assert isinstance(sevens, ImageSet) and sevens.labels is not None
    known = sevens.images[sevens.labels == 7][:, 0].numpy().astype(float)
    for row in range(2):
        for column in (0, 2):  # the ends are sevens of the test set
            end = ways[
                4 + 60 * row : 60 + 60 * row : 2, 4 + 60 * column : 60 + 60 * column : 2
            ]  # shown at twice the size
            assert np.abs(known - end).mean(axis=(1, 2)).min() < 6  # two sevens are 6.7 apart at least


def test_it_is_judged_and_restored_from(run: Path, tmp_path: Path) -> None:
    done = call("evaluate", run, "-n", 20, "--metrics", "frechet", "--out", tmp_path / "judged", "-q")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "judged/result.json").read_text())["results"][0]["values"]["frechet"]["value"] > 0
    words = ["--operator", "super-resolution", "--method", "diffpir", "--steps", 3, "--draws", 2, "-n", 2]
    done = call("restore", run, *words, "--set", "factor=2", "--out", tmp_path / "restored", "-q")
    assert done.returncode == 0, done.stderr
    assert "psnr:" in done.stdout
    table = json.loads((tmp_path / "restored/restored.json").read_text())
    assert table["options"]["factor"] == 2
    assert len(table["figures"]["psnr"]) == 2
    assert (tmp_path / "restored/restored.png").exists()


def test_mistakes_are_answered_in_words(run: Path, tmp_path: Path) -> None:
    assert "unipc" in refused("sample", run, "--sampler", "unipcc")
    assert "churn" in refused("sample", run, "--sampler", "heun", "--set", "chrun=3")
    assert "--calibrate" in refused("sample", run, "--calibrate", "--sampler", "ddim")
    assert "no or bf16" in refused("sample", run, "--precision", "fp8")
    assert "--frames" in refused("sample", run, "--precision", "bf16", "--frames", "3")
    assert "at least 2" in refused("sample", run, "--set", "steps=1")
    assert "integer" in refused("sample", run, "--set", "steps=many")
    assert "inpaint-box" in refused("restore", run, "--operator", "inpaint")
    assert "one of them" in refused("restore", run, "--noise", "0.1", "--photons", "20")
    assert "linear operator" in refused("restore", run, "--operator", "phase-retrieval", "--method", "pigdm")
    assert "no run" in refused("restore", tmp_path / "nowhere") or "not a run" in refused("restore", tmp_path)
    said = refused("export", run, "--out", tmp_path / "pipe")
    assert "diffusers-unet" in said
    assert not (tmp_path / "pipe").exists()
    said = refused("train", "diffusion/edm", "--set", "model.schedule=cosnie", "--out", tmp_path / "x")
    assert "cosine" in said
    assert "heun" in refused("train", "diffusion/edm", "--set", "model.sampler.solver=huen", "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_bfloat16_is_refused_where_energies_are_compared(tmp_path: Path) -> None:
    small = ["train.steps=2", "train.batch_size=8", "train.sample_every=2"]
    run = runs.train(load_recipe("energy/ebm-2d", small), tmp_path / "run", quiet=True)
    for method in ("mala", "hmc"):
        assert "must be exact" in refused("sample", run, "--sampler", method, "--precision", "bf16")
