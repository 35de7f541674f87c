from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from pushforward.data.images import (
    ImageSet,
    as_images,
    read_array,
    read_folder,
    read_idx,
    read_idx_pair,
    save_grid,
    to_bytes,
    to_model,
    write_folder,
)
from pushforward.errors import DataError


def idx(array: np.ndarray, kind: int = 8) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def test_bytes_round_trip_exactly() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(to_model(every)), every)


def test_to_bytes_refuses_what_has_no_byte() -> None:
    with pytest.raises(DataError, match="2 pixel values are not finite"):
        to_bytes(torch.tensor([0.0, float("nan"), float("inf")]))


def test_to_bytes_clamps_each_pixel_by_itself() -> None:
    assert to_bytes(torch.tensor([-3.0, 0.0, 9.0])).tolist() == [0, 128, 255]


@pytest.mark.parametrize("squeeze", [False, True], ids=["plain", "gzip"])
def test_idx_round_trip(tmp_path: Path, squeeze: bool) -> None:
    x = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    file = tmp_path / "x-idx3-ubyte"
    file.write_bytes(gzip.compress(idx(x)) if squeeze else idx(x))
    np.testing.assert_array_equal(read_idx(file), x)


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (b"", "not an IDX file"),
        (b"\x00\x00\x08", "not an IDX file"),
        (b"PK\x03\x04", "not an IDX file"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00\x00\x00\x00", "type 0x0d"),
        (b"\x00\x00\x08\x09", "9 dimensions"),
        (b"\x00\x00\x08\x03\x00\x00", "inside its header"),
        (idx(np.zeros((3, 2, 2)))[:-1], "promises 12 bytes"),
        (idx(np.zeros((3, 2, 2))) + b"x", "the file has 13"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1), "promises"),
        (gzip.compress(idx(np.zeros((3, 2, 2))))[:-9], "truncated or damaged"),
        (b"\x1f\x8b" + b"junk" * 9, "truncated or damaged"),
    ],
    ids=["empty", "stub", "zip", "type", "dims", "header", "short", "long", "hostile", "gzip-cut", "gzip-junk"],
)
def test_damaged_idx_is_refused_in_words(tmp_path: Path, raw: bytes, match: str) -> None:
    file = tmp_path / "damaged"
    file.write_bytes(raw)
    with pytest.raises(DataError, match=match) as caught:
        read_idx(file)
    assert str(file) in str(caught.value)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_idx_reader_survives_any_bytes(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzzed"
    file.write_bytes(raw)
    try:
        array = read_idx(file)
    except DataError:
        return
    assert idx(array) in (raw, gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)


def test_labels_of_another_length_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(idx(np.zeros((3, 2, 2))))
    (tmp_path / "y").write_bytes(idx(np.zeros(4)))
    with pytest.raises(DataError, match="3 images but"):
        read_idx_pair(tmp_path / "x", tmp_path / "y", "set")


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.float32, np.float64, np.int64, np.bool_]),
        hnp.array_shapes(max_dims=5, max_side=4),
    )
)
@settings(max_examples=300, deadline=None)
def test_any_array_is_images_or_a_clear_error(array: np.ndarray) -> None:
    try:
        x = as_images(array, "array")
    except DataError as error:
        assert str(error).startswith("array")
        return
    assert x.dtype == torch.uint8 and x.ndim == 4 and x.shape[1] in (1, 3) and len(x) == len(array)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([0.0, 0.5, 1.0]), [0, 128, 255]),
        (np.array([-1.0, 0.0, 1.0]), [0, 128, 255]),
        (np.array([0, 7, 255], np.uint8), [0, 7, 255]),
    ],
    ids=["unit", "signed", "bytes"],
)
def test_ranges(array: np.ndarray, expected: list[int]) -> None:
    assert as_images(array.reshape(1, 1, 3), "x").flatten().tolist() == expected


def test_layouts_agree() -> None:
    x = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3), dtype=np.uint8)
    torch.testing.assert_close(as_images(x, "nhwc"), as_images(np.moveaxis(x, 3, 1), "nchw"))


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.array([[[0.0, np.nan]]]), "1 pixel values are not finite"),
        (np.array([[[0.0, 200.0]]]), r"span \[0, 200\]"),
        (np.zeros((2, 2, 2, 2)), "neither 1 nor 3 channels"),
        (np.zeros((0, 2, 2)), "not a set of images"),
        (np.zeros((1, 2, 2), object), "unpickled"),
        (np.zeros((1, 2, 2), np.int32), "type int32"),
    ],
)
def test_wrong_arrays_are_refused(array: np.ndarray, match: str) -> None:
    with pytest.raises(DataError, match=match):
        as_images(array, "x")


def test_npz_with_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((3, 4, 4), np.uint8), labels=np.array([0, 2, 1]))
    data = read_array(tmp_path / "a.npz")
    assert data.labels is not None and data.labels.tolist() == [0, 2, 1] and len(data.classes) == 3


@pytest.mark.parametrize(
    "labels", [np.array([0, 1]), np.array([0.5, 1, 2]), np.array([-1, 0, 1])], ids=["short", "float", "negative"]
)
def test_npz_with_wrong_labels(tmp_path: Path, labels: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((3, 4, 4), np.uint8), labels=labels)
    with pytest.raises(DataError, match="labels"):
        read_array(tmp_path / "a.npz")


def test_pickled_arrays_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"evil\.npy"):
        read_array(tmp_path / "evil.npy")


def test_truncated_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((30, 4, 4), np.uint8))
    raw = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(DataError, match="damaged"):
        read_array(tmp_path / "a.npz")


def make_folder(root: Path, sizes: list[tuple[int, int]], classes: list[str] | None = None) -> list[np.ndarray]:
    rng, made = np.random.default_rng(0), []
    for i, size in enumerate(sizes):
        folder = root / classes[i] if classes else root
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        made.append(pixels)
    return made


def test_folder_keeps_every_pixel(tmp_path: Path) -> None:
    made = make_folder(tmp_path, [(4, 5)] * 3)
    np.testing.assert_array_equal(read_folder(tmp_path).images.permute(0, 2, 3, 1).numpy(), np.stack(made))


def test_class_folders_are_labels(tmp_path: Path) -> None:
    make_folder(tmp_path, [(4, 4)] * 3, ["dog", "cat", "dog"])
    data = read_folder(tmp_path)
    assert data.classes == ("cat", "dog") and data.labels is not None and sorted(data.labels.tolist()) == [0, 1, 1]


def test_resize_and_centre_crop(tmp_path: Path) -> None:
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 4:12] = 255  # the centred square is white
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert read_folder(tmp_path, size=4, channels=1).images.min() == 255


def test_sixteen_bit_grey_is_scaled(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 128 * 256, np.uint16)).save(tmp_path / "deep.png")
    assert read_folder(tmp_path).images.unique().tolist() == [128]


@pytest.mark.parametrize(
    ("break_it", "match"),
    [
        (lambda root: (root / "2.png").write_bytes(b"not a picture"), r"2\.png: cannot be read"),
        (lambda root: (root / "2.png").write_bytes((root / "2.png").read_bytes()[:60]), r"2\.png: cannot be read"),
        (lambda root: Image.new("RGB", (9, 9)).save(root / "9.png"), "2 different sizes"),
        (lambda root: [f.unlink() for f in root.iterdir()], "no PNG or JPEG"),
        (lambda root: make_folder(root, [(4, 4)], ["class"]), "some images lie in class folders"),
    ],
    ids=["junk", "truncated", "sizes", "empty", "mixed"],
)
def test_a_bad_folder_is_refused_in_words(tmp_path: Path, break_it, match: str) -> None:
    make_folder(tmp_path, [(4, 4)] * 4)
    break_it(tmp_path)
    with pytest.raises(DataError, match=match):
        read_folder(tmp_path)


def test_written_folder_reads_back(tmp_path: Path) -> None:
    x = torch.randint(256, (12, 1, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    write_folder(x, tmp_path / "out")
    assert torch.equal(read_folder(tmp_path / "out").images, x)


def test_grid_places_images(tmp_path: Path) -> None:
    x = torch.stack([torch.full((1, 3, 3), v, dtype=torch.uint8) for v in (10, 20, 30)])
    save_grid(x, tmp_path / "g.png", columns=2, scale=1)
    picture = np.asarray(Image.open(tmp_path / "g.png"))
    assert picture.shape == (12, 12)
    assert (picture[3, 3], picture[3, 8], picture[8, 3], picture[8, 8]) == (10, 20, 30, 96)


def test_hash_sees_pixels_and_labels() -> None:
    x = torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
    y = x.clone()
    y[1, 0, 1, 1] = 1
    labelled = ImageSet(x, torch.tensor([0, 1]))
    hashes = {ImageSet(x).sha256, ImageSet(y).sha256, labelled.sha256, ImageSet(x.reshape(1, 1, 2, 4)).sha256}
    assert len(hashes) == 4


def test_writing_into_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old.png").write_bytes(b"")
    with pytest.raises(DataError, match="not empty"):
        write_folder(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), tmp_path)


def test_images_without_pixels_and_absurd_labels_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x-idx3").write_bytes(idx(np.zeros((5, 0, 0))))
    with pytest.raises(DataError, match="no pixel"):
        read_idx_pair(tmp_path / "x-idx3", None, "x")
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4), np.uint8), labels=np.array([0, 3 * 10**8]))
    with pytest.raises(DataError, match="a label of 300000000"):
        read_array(tmp_path / "a.npz")
