"""The program as its users meet it: real processes, exit codes, files."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from program import call, launch, refused

from pushforward.config import recipe_names
from pushforward.training import checkpoint

SMALL = ["--set", "model.generator.hidden=[16]", "--set", "model.discriminator.hidden=[16]", "-q"]
SMALL += ["--set", "train.checkpoint_every=4", "--set", "train.sample_every=4", "--set", "train.log_every=2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished small run."""
    out = tmp_path_factory.mktemp("runs") / "small"
    done = call("train", "gan/lsgan", "--data", "mnist-5k", "--out", out, "--set", "train.steps=10", *SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out)
    return out


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["train", "--help"],
        ["sample", "-h"],
        ["evaluate", "--help"],
        ["recipes", "--help"],
        ["data", "--help"],
        ["report", "--help"],
    ],
    ids=" ".join,
)
def test_help_never_imports_torch(words: list[str]) -> None:
    code = f"import sys; sys.argv = ['pushforward', *{words!r}]\nfrom pushforward.__main__ import main\ntry: main()\nexcept SystemExit as e: assert not e.code\nassert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


@pytest.mark.parametrize("command", ["train", "sample", "evaluate", "report", "compare", "restore", "export"])
def test_help_has_examples(command: str) -> None:
    assert f"pushforward {command} " in call(command, "--help").stdout.split("xample", 1)[1]


def test_it_is_a_program(tmp_path: Path) -> None:
    """The other tests call it in this process; this one starts it."""
    words = ["train", "gan/lsgan", "--data", "mnist-5k", "--out", tmp_path / "run", "--set", "train.steps=2", *SMALL]
    done = launch(*words)
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "run")), done.stderr
    done = launch("train", "gan/vanila", "--out", tmp_path / "x")
    assert done.returncode == 2
    assert "vanilla" in done.stderr
    assert "Traceback" not in done.stderr


def test_version() -> None:
    assert call("--version").stdout == "pushforward 0.1.0\n"


def test_recipes_print_one_a_line() -> None:
    assert call("recipes").stdout.split() == recipe_names() == call("recipes", "list").stdout.split()
    assert {"gan/vanilla", "gan/lsgan", "gan/dcgan"} <= set(recipe_names())


def test_recipes_show_and_copy(tmp_path: Path) -> None:
    text = call("recipes", "show", "gan/lsgan").stdout
    assert call("recipes", "copy", "gan/lsgan", tmp_path / "mine.toml").returncode == 0
    assert (tmp_path / "mine.toml").read_text() == text
    assert "exists already" in refused("recipes", "copy", "gan/lsgan", tmp_path / "mine.toml")
    assert "slope = 0.2" in call("recipes", "show", "gan/lsgan", "--all").stdout


def test_a_run_is_the_folder_that_was_promised(run: Path) -> None:
    assert {f.name for f in run.iterdir()} == {"config.toml", "environment.json", "log.jsonl", "checkpoints", "samples"}
    assert sorted(int(f.name) for f in (run / "checkpoints").iterdir()) == [8, 10]
    assert {f.name for f in (run / "checkpoints/10").iterdir()} == {
        "model.safetensors",
        "ema.safetensors",
        "optimisers.safetensors",
        "state.json",
    }
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [2, 4, 6, 8, 10]
    assert {
        "discriminator/adversarial",
        "generator/adversarial",
        "generator/gradient_norm",
        "discriminator/seconds",
    } <= set(rows[0])
    assert {"command", "commit", "versions", "data", "parameters"} <= set(
        json.loads((run / "environment.json").read_text())
    )


def test_resume_extends_and_refuses_another_run(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(run, out)
    assert "not empty" in refused("train", "gan/lsgan", "--out", out, *SMALL)
    assert ".hidden = [16]" in refused("train", "gan/lsgan", "--out", out, "--resume", "-q")
    assert "train.seed" in refused("train", "gan/lsgan", "--out", out, "--resume", "--seed", 3, *SMALL)
    done = call("train", "gan/lsgan", "--out", out, "--resume", "--set", "train.steps=12", *SMALL)
    assert done.returncode == 0, done.stderr
    straight = tmp_path / "straight"
    call("train", "gan/lsgan", "--out", straight, "--resume", "--set", "train.steps=12", *SMALL)
    for name in ("model", "ema", "optimisers"):
        file = f"checkpoints/12/{name}.safetensors"
        assert (out / file).read_bytes() == (straight / file).read_bytes()
    steps = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6, 8, 10, 12]


def test_a_checkpoint_cut_short_names_the_way_out(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(run, out)
    file = out / "checkpoints/10/model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    for words in (["train", "gan/lsgan", "--out", out, "--resume", *SMALL], ["sample", out], ["evaluate", out]):
        assert "cut short" in refused(*words)
    shutil.rmtree(out / "checkpoints/10")
    assert call("sample", out, "-o", tmp_path / "x.png").returncode == 0


def test_sample_is_the_same_whatever_the_batch(run: Path, tmp_path: Path) -> None:
    for size, name in ((7, "a"), (20, "b")):
        assert call("sample", run, "-n", 20, "--batch-size", size, "-o", tmp_path / f"{name}.npz", "-q").returncode == 0
    a, b = (np.load(tmp_path / f"{n}.npz")["images"] for n in "ab")
    assert a.shape == (20, 1, 28, 28) and a.dtype == np.uint8
    assert np.abs(a.astype(int) - b).max() <= 1  # float sums in another order may cross one rounding


def test_a_gans_temperature_changes_its_samples(run: Path, tmp_path: Path) -> None:
    for t in ("1.0", "1.3"):
        done = call("sample", run, "-n", 4, "--set", f"temperature={t}", "--out", tmp_path / f"{t}.npz", "-q")
        assert done.returncode == 0, done.stderr
    call("sample", run, "-n", 4, "--out", tmp_path / "plain.npz", "-q")
    plain, same, wider = (np.load(tmp_path / f"{n}.npz")["images"] for n in ("plain", "1.0", "1.3"))
    assert np.array_equal(plain, same)
    assert not np.array_equal(plain, wider)
    assert "drs" in refused("sample", run, "--set", "percentile=80")


def test_ways_between_samples(run: Path, tmp_path: Path) -> None:
    assert call("sample", run, "-n", 3, "-o", tmp_path / "three.png", "-q").returncode == 0
    done = call("sample", run, "-n", 3, "--interpolate", 5, "-o", tmp_path / "ways.png", "-q")
    assert done.returncode == 0, done.stderr
    ways = np.asarray(Image.open(tmp_path / "ways.png")).astype(int)
    plain = np.asarray(Image.open(tmp_path / "three.png")).astype(int)
    # a row a pair, and the first of a pair is the sample of its number; shown at twice the size, 4 apart
    cell = lambda x, row, column: x[4 + 60 * row : 60 + 60 * row, 4 + 60 * column : 60 + 60 * column]  # noqa: E731
    assert ways.shape == (3 * 60 + 4, 5 * 60 + 4)
    first = np.stack([cell(ways, k, 0) for k in range(3)])
    columns = plain.shape[1] // 60
    assert np.abs(first - np.stack([cell(plain, k // columns, k % columns) for k in range(3)])).max() <= 1
    assert np.abs(first - np.stack([cell(ways, k, 4) for k in range(3)])).max() > 1
    assert "one of them" in refused("sample", run, "--interpolate", 3, "--frames", 3, "-o", tmp_path / "x.png")
    assert "no sampler" in refused("sample", run, "--interpolate", 3, "--sampler", "drs", "-o", tmp_path / "x.png")


def test_sample_kinds(run: Path, tmp_path: Path) -> None:
    assert call("sample", run, "-n", 9, "-o", tmp_path / "grid.png", "-q").returncode == 0
    assert Image.open(tmp_path / "grid.png").size == (184, 184)
    assert call("sample", run, "-n", 9, "-o", tmp_path / "folder", "-q").returncode == 0
    assert len(list((tmp_path / "folder").glob("*.png"))) == 9
    assert "no ending" in refused("sample", run, "-o", tmp_path / "x.gif")
    assert "not a run" in refused("sample", tmp_path)


def test_evaluate_a_run_a_folder_and_an_array_alike(run: Path, tmp_path: Path) -> None:
    call("sample", run, "-n", 200, "-o", tmp_path / "same.npz", "-q")
    call("sample", run, "-n", 200, "-o", tmp_path / "folder", "-q")
    done = call(
        "evaluate", run, tmp_path / "same.npz", tmp_path / "folder", "-n", 200, "--out", tmp_path / "judged", "-q"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "judged/result.json").read_text())
    values = [r["values"] for r in found["results"]]
    assert values[0] == values[1] == values[2]
    assert found["protocol"]["n"] == 200 and len(found["protocol"]["extractor_sha256"]) == 64
    assert (
        found["floor"]["floor"]["frechet"]["value"]
        < found["floor"]["noise-10"]["frechet"]["value"]
        < found["floor"]["noise"]["frechet"]["value"]
    )
    assert json.loads((run / "result.json").read_text())["values"] == values[0]
    for v in values[0].values():
        assert v["method"].startswith("none") if v["stderr"] is None else v["stderr"] >= 0
    (run / "result.json").unlink()
    assert {"result.json", "result.md", "result.svg", "small-neighbours.png"} <= {
        f.name for f in (tmp_path / "judged").iterdir()
    }
    assert "| same |" in (tmp_path / "judged/result.md").read_text()
    assert any("the very images of" in w for w in found["results"][2]["warnings"])


def test_evaluate_shared_among_processes_counts_every_image_once(run: Path, tmp_path: Path) -> None:
    for ranks in (1, 3):
        done = call(
            "evaluate",
            run,
            "-n",
            100,
            "--ranks",
            ranks,
            "--out",
            tmp_path / str(ranks),
            "--metrics",
            "frechet,kid,classes",
            "-q",
        )
        assert done.returncode == 0, done.stderr
    one, three = (json.loads((tmp_path / f"{r}/result.json").read_text())["results"][0] for r in (1, 3))
    assert one["n_fake"] == three["n_fake"] == 100
    for name, v in one["values"].items():
        assert three["values"][name]["value"] == pytest.approx(v["value"], rel=1e-3), name
    (run / "result.json").unlink()


def test_evaluate_says_what_weakens_a_figure(tmp_path: Path) -> None:
    from pushforward.data.fetch import load_mnist_5k

    train = load_mnist_5k("train").images
    black = np.zeros((50, 1, 28, 28), np.uint8)
    np.savez(tmp_path / "copies.npz", images=np.concatenate([train[:100].numpy(), black]))
    done = call(
        "evaluate", tmp_path / "copies.npz", "--data", "mnist-5k", "-n", 200, "--metrics", "frechet,memorisation"
    )
    assert done.returncode == 0, done.stderr
    for words in (
        "100 of 150 images are exact copies of training images",
        "50 of 150 images are of one constant colour",
        "49 of 150 images repeat",
        "150 images against 200",
    ):
        assert words in done.stderr, words
    few = call("evaluate", tmp_path / "copies.npz", "--data", "mnist-5k", "-n", 100, "--metrics", "frechet")
    assert "100 samples of 128 features: the covariance is singular" in few.stderr
    assert "use -n 1000 or less" in refused("evaluate", tmp_path / "copies.npz", "--data", "mnist-5k", "-n", 5000)
    assert "k must be" not in refused(
        "evaluate", tmp_path / "copies.npz", "--data", "mnist-5k", "-m", "frechet-infinity", "-n", 150
    )


def test_own_folder_without_a_test_split_is_judged_by_halves_and_says_so(tmp_path: Path) -> None:
    from pushforward.data.fetch import load_mnist_5k
    from pushforward.data.images import write_folder

    write_folder(load_mnist_5k("test").images[:300], tmp_path / "mine")
    done = call(
        "train",
        "gan/lsgan",
        "--data",
        tmp_path / "mine",
        "--out",
        tmp_path / "run",
        "--set",
        "train.steps=3",
        "--set",
        "data.size=32",
        *SMALL[:5],
    )
    assert done.returncode == 0, done.stderr
    done = call("evaluate", tmp_path / "run", "--extractor", "random-vgg", "-n", 50, "-q")
    assert done.returncode == 0, done.stderr
    assert "no test split" in done.stderr


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["train", "gan/lsgn"], "did you mean 'gan/lsgan'"),
        (["train", "gan/lsgan", "--set", "train.stepz=3"], "did you mean 'steps'"),
        (["train", "gan/lsgan", "--set", "train.steps=abc"], "valid integer"),
        (["train", "gan/lsgan", "--data", "nowhere"], "no data set and no file"),
        (["train", "gan/dcgan", "--data", "ring-8"], "square images"),
        (["evaluate", "nowhere", "--data", "mnist-5k"], "no run, folder or file"),
        (["evaluate", "."], "say what these images imitate"),
        (["data", "show", "mnst"], "did you mean 'mnist'"),
        (["recipes", "show", "nothing"], "no recipe"),
        (["report", "nowhere"], "is not a run"),
        (["trian"], "No such command"),
        (["train"], "Missing argument"),
    ],
    ids=lambda w: " ".join(w) if isinstance(w, list) else "",
)
def test_mistakes_are_answered_in_words(tmp_path: Path, words: list[str], match: str) -> None:
    assert match in refused(*words, cwd=tmp_path)
    assert not list(tmp_path.rglob("*.toml")), "a refused run left a folder behind"


def damaged_mnist(root: Path, what: str) -> None:
    root.mkdir()
    x = struct.pack(">BBBB3I", 0, 0, 8, 3, 100, 28, 28) + bytes(100 * 784)
    y = struct.pack(">BBBBI", 0, 0, 8, 1, 100) + bytes(100)
    pairs = {"train-images-idx3-ubyte.gz": gzip.compress(x), "train-labels-idx1-ubyte.gz": gzip.compress(y)}
    if what == "truncated":
        pairs["train-images-idx3-ubyte.gz"] = pairs["train-images-idx3-ubyte.gz"][:-20]
    elif what == "magic":
        pairs["train-images-idx3-ubyte.gz"] = gzip.compress(b"\x01" + x[1:])
    elif what == "lengths":
        pairs["train-labels-idx1-ubyte.gz"] = gzip.compress(struct.pack(">BBBBI", 0, 0, 8, 1, 99) + bytes(99))
    for name, raw in pairs.items():
        (root / name).write_bytes(raw)


@pytest.mark.parametrize(
    ("what", "match"),
    [("truncated", "truncated or damaged"), ("magic", "not an IDX file"), ("lengths", "100 images but")],
)
def test_damaged_data_is_answered_in_words(tmp_path: Path, what: str, match: str) -> None:
    damaged_mnist(tmp_path / "m", what)
    assert match in refused(
        "train", "gan/lsgan", "--data", "mnist", "--set", f"data.path={tmp_path / 'm'}", "--out", tmp_path / "o"
    )


def test_an_unreadable_image_among_good_ones_is_named(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    for i in range(3):
        Image.new("L", (28, 28)).save(tmp_path / f"f/{i}.png")
    (tmp_path / "f/bad.png").write_bytes(b"oops")
    assert "bad.png" in refused("train", "gan/lsgan", "--data", tmp_path / "f", "--out", tmp_path / "o")
    (tmp_path / "e").mkdir()
    assert "no PNG or JPEG" in refused("train", "gan/lsgan", "--data", tmp_path / "e", "--out", tmp_path / "o")


def test_a_non_finite_loss_ends_the_run_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "o"
    words = [
        "train",
        "gan/lsgan",
        "--out",
        out,
        "--set",
        "model.objective=wasserstein",
        "--set",
        "optimiser.discriminator.lr=2e16",
        "--set",
        "train.steps=50",
        *SMALL[:5],
        "--set",
        "train.checkpoint_every=1",
    ]
    message = refused(*words)
    assert "the phase" in message and "the term" in message and "step" in message
    assert checkpoint.steps(out / "checkpoints")
    for step in checkpoint.steps(out / "checkpoints"):
        tensors, _ = checkpoint.load(out / "checkpoints" / str(step))
        assert all(torch.isfinite(t).all() for t in tensors["model"].values())


def test_data_commands(tmp_path: Path) -> None:
    assert "mnist-5k" in call("data").stdout.split() and "ring-8" in call("data", "list").stdout.split()
    shown = call("data", "show", "mnist-5k", "-o", tmp_path / "d.png")
    assert "4000 images of 1 x 28 x 28" in shown.stdout and (tmp_path / "d.png").stat().st_size > 1000
    assert call("data", "show", "spirals", "-o", tmp_path / "s.png").returncode == 0


def test_a_toy_run_trains_samples_evaluates_and_reports(tmp_path: Path) -> None:
    out = tmp_path / "ring"
    done = call(
        "train",
        "gan/vanilla",
        "--data",
        "ring-8",
        "--out",
        out,
        "--set",
        "train.steps=6",
        "--set",
        "model.generator.output=identity",
        *SMALL,
    )
    assert done.returncode == 0, done.stderr
    assert call("evaluate", out, "-n", 300, "-q").returncode == 0
    assert json.loads((out / "result.json").read_text())["protocol"]["extractor"] == "points"
    assert call("report", out).returncode == 0


def test_report_is_one_page_without_the_network(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "first"
    shutil.copytree(run, copy)
    assert call("report", copy).returncode == 0  # not evaluated yet: a page without figures of quality
    assert "Not yet evaluated" in (copy / "report.html").read_text()
    assert call("evaluate", copy, "-n", 100, "-q").returncode == 0
    assert call("report", copy, "-o", tmp_path / "r.html").returncode == 0
    page = (tmp_path / "r.html").read_text()
    assert len(page) < 3e6 and "noise-10" in page and "±" in page
    links = [word for word in page.replace("'", '"').split('"') if word.startswith(("http", "//"))]
    assert all(
        "w3.org" in link or "matplotlib.org" in link or "purl.org" in link or "creativecommons.org" in link
        for link in links
    ), links


def test_a_folder_sorted_by_class_is_judged_by_a_random_part(tmp_path: Path) -> None:
    """The first 200 files would be two digits; a random 200 have all ten."""
    from pushforward.data.fetch import load_mnist_5k
    from pushforward.evaluation import evaluate

    test = load_mnist_5k("test")
    assert test.labels is not None
    np.savez(tmp_path / "sorted.npz", images=test.images[test.labels.argsort(stable=True)].numpy())
    found = evaluate([str(tmp_path / "sorted.npz")], data="mnist-5k", n=200, metrics=["classes"])
    values = found["results"][0]["values"]
    assert all(values[f"class {k}"]["value"] > 0.03 for k in range(10))
