from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from pushforward.data.fetch import IDX_SOURCES, load, load_mnist_5k, whereabouts
from pushforward.data.images import ImageSet, read_bytes
from pushforward.errors import DataError


def write_pair(folder: Path, stems: tuple[str, str], n: int = 4) -> np.ndarray:
    folder.mkdir(parents=True)
    x = np.random.default_rng(0).integers(0, 256, (n, 28, 28), dtype=np.uint8)
    (folder / stems[0]).write_bytes(struct.pack(">BBBB3I", 0, 0, 8, 3, n, 28, 28) + x.tobytes())
    (folder / stems[1]).write_bytes(struct.pack(">BBBB1I", 0, 0, 8, 1, n) + bytes(range(n)))
    return x


def test_mnist_5k_is_split_evenly_by_class() -> None:
    train, test = load_mnist_5k("train"), load_mnist_5k("test")
    assert train.labels is not None and test.labels is not None
    assert torch.bincount(train.labels).tolist() == [400] * 10
    assert torch.bincount(test.labels).tolist() == [100] * 10
    pixels = {x.numpy().tobytes() for x in train.images}
    assert not any(x.numpy().tobytes() in pixels for x in test.images)


def test_environment_folder_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = write_pair(tmp_path / "kmnist", IDX_SOURCES["kmnist"].stems["train"])
    monkeypatch.setenv("PUSHFORWARD_DATA", str(tmp_path))
    found = load("kmnist", "train")
    assert isinstance(found, ImageSet)
    np.testing.assert_array_equal(found.images[:, 0].numpy(), x)
    assert whereabouts("kmnist") == str(tmp_path / "kmnist")


def test_explicit_path_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stems = IDX_SOURCES["mnist"].stems["train"]
    write_pair(tmp_path / "env/mnist", stems, n=4)
    write_pair(tmp_path / "mine", stems, n=7)
    monkeypatch.setenv("PUSHFORWARD_DATA", str(tmp_path / "env"))
    assert len(load("mnist", path=tmp_path / "mine")) == 7  # type: ignore[arg-type]


def test_an_explicit_path_without_the_files_is_an_error_not_a_download(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no train-images"):
        load("mnist", path=tmp_path)


def test_emnist_is_turned_upright(tmp_path: Path) -> None:
    x = write_pair(tmp_path / "e", IDX_SOURCES["emnist-digits"].stems["train"])
    found = load("emnist-digits", path=tmp_path / "e")
    assert isinstance(found, ImageSet)
    np.testing.assert_array_equal(found.images[:, 0].numpy(), x.transpose(0, 2, 1))


def test_cifar10_binary(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 10, (10000, 3073), dtype=np.uint8)
    (tmp_path / "test_batch.bin").write_bytes(rows.tobytes())
    found = load("cifar10", "test", path=tmp_path)
    assert isinstance(found, ImageSet) and found.shape == (3, 32, 32) and found.labels is not None
    assert found.labels[5] == rows[5, 0] and found.images[5, 1, 2, 3] == rows[5, 1 + 1024 + 2 * 32 + 3]


def test_cifar10_cut_short(tmp_path: Path) -> None:
    (tmp_path / "test_batch.bin").write_bytes(b"0" * 1000)
    with pytest.raises(DataError, match="30730000 were expected"):
        load("cifar10", "test", path=tmp_path)


def test_unknown_name_names_the_nearest() -> None:
    with pytest.raises(DataError, match="did you mean 'fashion-mnist'"):
        load("fashion-mnst")


def test_a_download_that_fails_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import pooch

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(pooch, "retrieve", refuse)
    monkeypatch.delenv("PUSHFORWARD_DATA", raising=False)
    with pytest.raises(DataError, match="mnist-5k, which needs no network"):
        load("kmnist")


def test_a_download_with_other_content_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pooch

    def forge(url: str, known_hash: None, fname: str, path: Path, progressbar: bool) -> str:
        Path(path).mkdir(parents=True, exist_ok=True)
        (Path(path) / fname).write_bytes(b"forged")
        return str(Path(path) / fname)

    monkeypatch.setattr(pooch, "retrieve", forge)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("PUSHFORWARD_DATA", raising=False)
    with pytest.raises(DataError, match="another SHA-256"):
        load("mnist")
    assert not list((tmp_path / "pushforward/mnist").glob("*"))


@pytest.mark.mnist
@pytest.mark.parametrize("split", ["train", "test"])
def test_full_mnist_has_the_known_content(mnist: Path, split: str) -> None:
    source = IDX_SOURCES["mnist"]
    for stem in source.stems[split]:
        assert hashlib.sha256(read_bytes(mnist / f"{stem}.gz")).hexdigest() == source.sha256[stem]
    assert len(load("mnist", split, path=mnist)) == {"train": 60000, "test": 10000}[split]  # type: ignore[arg-type]
