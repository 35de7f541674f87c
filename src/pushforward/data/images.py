"""Images as one uint8 tensor (N, C, H, W), read from the formats people have.

This is the one module that converts between stored bytes 0..255 and the model's floats in [-1, 1].
Every reader checks what it reads and raises `DataError` naming the file; none repairs, none unpickles.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pushforward.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def to_model(images: Tensor) -> Tensor:
    """Bytes 0..255 to floats in [-1, 1]: x / 127.5 - 1.

    Example:
        >>> to_model(torch.tensor([0, 255], dtype=torch.uint8)).tolist()
        [-1.0, 1.0]
    """
    return images.to(torch.float32).mul_(1 / 127.5).sub_(1)


def to_bytes(x: Tensor) -> Tensor:
    """Floats in [-1, 1] to bytes, rounded to nearest; values outside are clamped, as a screen would.

    Raises:
        DataError: a value is NaN or infinite, which has no byte.

    Example:
        >>> to_bytes(torch.tensor([-1.0, 0.0, 1.0])).tolist()
        [0, 128, 255]
    """
    if not torch.isfinite(x).all():
        raise DataError(f"{int((~torch.isfinite(x)).sum())} pixel values are not finite; such images have no bytes.")
    return x.detach().float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class ImageSet:
    """A set of images in memory.

    Args:
        images: uint8 (N, C, H, W), C = 1 or 3.
        labels: int64 (N,) or None.
        name: where they come from, for titles and result files.
        classes: class names in label order; empty without labels.
    """

    images: Tensor
    labels: Tensor | None = None
    name: str = "images"
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        x, y = self.images, self.labels
        if x.dtype != torch.uint8 or x.ndim != 4 or x.shape[1] not in (1, 3):
            raise DataError(
                f"{self.name}: images must be uint8 (N, C, H, W) with 1 or 3 channels; got {x.dtype} {tuple(x.shape)}."
            )
        if x.numel() == 0:
            raise DataError(f"{self.name}: holds no pixel (shape {tuple(x.shape)}).")
        if y is not None and (y.dtype != torch.int64 or y.shape != (len(x),)):
            raise DataError(
                f"{self.name}: {len(x)} images but labels of shape {tuple(y.shape)}; they must match one to one."
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image, (C, H, W)."""
        c, h, w = self.images.shape[1:]
        return c, h, w

    @property
    def sha256(self) -> str:
        """Hash of the pixels (and of the labels): two sets with the same hash are the same data."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        digest.update(self.images.contiguous().numpy().tobytes())
        if self.labels is not None:
            digest.update(self.labels.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def subset(self, index: Tensor | slice, name: str | None = None) -> ImageSet:
        """The images at `index`, in that order."""
        labels = None if self.labels is None else self.labels[index]
        return ImageSet(self.images[index], labels, name or self.name, self.classes)


# --- IDX ------------------------------------------------------------------------------------------------------


def read_idx(path: Path) -> np.ndarray:
    """An IDX array of unsigned bytes, plain or gzip (http://yann.lecun.com/exdb/mnist).

    Layout, big-endian: two zero bytes, the type code (0x08 = uint8), the number of dimensions, each dimension
    as uint32, then the data.

    Raises:
        DataError: wrong magic, another element type, or a file shorter or longer than its header says.
    """
    raw = read_bytes(path)
    if len(raw) < 4 or raw[0] or raw[1]:
        raise DataError(f"{path}: not an IDX file (it starts with {raw[:4].hex() or 'nothing'}; IDX starts with 0000).")
    kind, ndim = raw[2], raw[3]
    if kind != 0x08 or not 1 <= ndim <= 4:
        raise DataError(
            f"{path}: IDX type 0x{kind:02x} with {ndim} dimensions; only unsigned bytes (0x08) in 1 to 4 are images or labels."
        )
    start = 4 + 4 * ndim
    if len(raw) < start:
        raise DataError(f"{path}: cut short inside its header ({len(raw)} of {start} bytes). Fetch it again.")
    shape = struct.unpack(f">{ndim}I", raw[4:start])
    size = 1
    for side in shape:  # Python integers: a hostile header cannot overflow
        size *= side
    if len(raw) - start != size:
        raise DataError(
            f"{path}: its header promises {size} bytes of data ({' x '.join(map(str, shape))}), the file has {len(raw) - start}. Fetch it again."
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy()


def read_bytes(path: Path) -> bytes:
    """A file's content, decompressed when it is gzip (judged by its first two bytes, not its name)."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: the gzip file is truncated or damaged ({error}). Fetch it again.") from error


def read_idx_pair(images: Path, labels: Path | None, name: str, classes: tuple[str, ...] = ()) -> ImageSet:
    """Images (N, H, W) and labels (N,) of two IDX files, as one set."""
    x = read_idx(images)
    if x.ndim != 3:
        raise DataError(f"{images}: {x.ndim} dimensions where images have 3 (count, rows, columns).")
    y = None
    if labels is not None:
        y = read_idx(labels)
        if y.ndim != 1 or len(y) != len(x):
            raise DataError(
                f"{images} holds {len(x)} images but {labels} has labels of shape {y.shape}; they must match one to one."
            )
        if classes and len(y) and y.max() >= len(classes):
            raise DataError(f"{labels}: label {y.max()} where {len(classes)} classes are known.")
    return ImageSet(torch.from_numpy(x)[:, None], None if y is None else torch.from_numpy(y).long(), name, classes)


# --- arrays ---------------------------------------------------------------------------------------------------


def as_images(array: np.ndarray, name: str) -> Tensor:
    """An array of images in any usual layout as uint8 (N, C, H, W).

    Accepted: (N, H, W), (N, H, W, C) or (N, C, H, W), C in {1, 3}; uint8, or floats that are all finite and lie
    in [0, 1] or in [-1, 1] (an array that has a negative value is read as [-1, 1]).
    """
    if array.dtype == object:
        raise DataError(f"{name}: holds Python objects; nothing here is ever unpickled. Save plain numbers.")
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or 0 in array.shape:
        raise DataError(
            f"{name}: shape {array.shape} is not a set of images; give (N, H, W), (N, H, W, C) or (N, C, H, W)."
        )
    if array.shape[1] not in (1, 3) and array.shape[3] in (1, 3):
        array = np.moveaxis(array, 3, 1)
    if array.shape[1] not in (1, 3):
        raise DataError(f"{name}: shape {array.shape} has neither 1 nor 3 channels.")
    if array.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(array))
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"{name}: pixels of type {array.dtype}; give uint8 0..255, or floats in [0, 1] or [-1, 1].")
    if not np.isfinite(array).all():
        raise DataError(f"{name}: {int((~np.isfinite(array)).sum())} pixel values are not finite.")
    low, high = float(array.min()), float(array.max())
    if low < -1 or high > 1:
        raise DataError(
            f"{name}: float pixels span [{low:g}, {high:g}]; give floats in [0, 1] or [-1, 1], or uint8 0..255."
        )
    x = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    return to_bytes(x if low < 0 else x * 2 - 1)


def read_array(path: Path) -> ImageSet:
    """A .npy of images, or a .npz with `images` (or `x`, `arr_0`, or its only array) and, if there, `labels` (or `y`)."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return ImageSet(as_images(loaded, str(path)), None, path.stem)
        with loaded:
            arrays = {key: loaded[key] for key in loaded.files}
    except DataError:
        raise
    except Exception as error:  # numpy raises many kinds on damaged files: zip, zlib, EOF, value, header
        raise DataError(
            f"{path}: not a readable numpy file, or damaged, or it holds pickled objects ({error})."
        ) from error
    key = next((k for k in ("images", "x", "arr_0") if k in arrays), None)
    if key is None:
        if len(arrays) != 1:
            raise DataError(f"{path}: holds {sorted(arrays)}; name the images 'images' (and the labels 'labels').")
        key = next(iter(arrays))
    x = as_images(arrays[key], f"{path}[{key}]")
    y = next((arrays[k] for k in ("labels", "y") if k in arrays), None)
    if y is None:
        return ImageSet(x, None, path.stem)
    return ImageSet(x, as_labels(y, len(x), str(path)), path.stem, tuple(str(c) for c in range(int(y.max()) + 1)))


def as_labels(y: np.ndarray, n: int, name: str) -> Tensor:
    """Labels as int64 (n,); whole numbers from 0 up."""
    if y.shape != (n,):
        raise DataError(f"{name}: {n} images but labels of shape {y.shape}; they must match one to one.")
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0:
        raise DataError(f"{name}: labels must be whole numbers from 0 up; got {y.dtype}.")
    if y.max() >= 100_000:
        raise DataError(f"{name}: a label of {y.max()}; labels count classes from 0 up.")
    return torch.from_numpy(y.astype(np.int64))


# --- folders --------------------------------------------------------------------------------------------------


def read_folder(path: Path, *, size: int | None = None, channels: int | None = None) -> ImageSet:
    """A folder of PNG and JPEG files; folders inside it are classes, their sorted names the labels.

    Args:
        path: The folder, or a single file. Either all images lie in class folders or none does.
        size: Resize the shorter side to this many pixels (bicubic, antialiased) and centre-crop a square.
            Without it all images must have one size.
        channels: 1 (grey) or 3 (RGB). Without it: 1 if every image is grey, else 3.

    Raises:
        DataError: no image, an image that cannot be decoded (named), or sizes that differ without `size`.
    """
    from PIL import Image

    alone = path.is_file()
    files = (
        [path] if alone else sorted(f for f in path.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES and f.is_file())
    )
    if not files:
        raise DataError(f"{path}: no PNG or JPEG file in this folder.")
    tops = (
        {""} if alone else {f.relative_to(path).parts[0] if len(f.relative_to(path).parts) > 1 else "" for f in files}
    )
    if "" in tops and len(tops) > 1:
        raise DataError(
            f"{path}: some images lie in class folders ({', '.join(sorted(tops - {''})[:3])}, ...) and some do not; use one or the other."
        )
    classes = () if tops == {""} else tuple(sorted(tops))

    pixels, grey = [], True
    for file in files:
        try:
            with Image.open(file) as opened:
                image: Image.Image = opened
                grey_one = image.mode in ("1", "L", "LA") or image.mode.startswith("I;16")
                if image.mode.startswith("I;16"):  # Pillow would clip 16 bits at 255 instead of scaling them
                    image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
                image = image.convert("L" if channels == 1 or (grey_one and channels is None) else "RGB")
                if size is not None:
                    image = resize_and_crop(image, size)
                pixels.append(np.asarray(image, dtype=np.uint8))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{file}: cannot be read as an image ({error}). Mend or remove it.") from error
        grey &= grey_one
    if channels is None and not grey:
        pixels = [p if p.ndim == 3 else np.repeat(p[..., None], 3, axis=2) for p in pixels]
    shapes = {p.shape[:2] for p in pixels}
    if len(shapes) > 1:
        raise DataError(
            f"{path}: images of {len(shapes)} different sizes, such as {sorted(shapes)[:3]}; ask for one with size (data.size)."
        )
    x = as_images(np.stack(pixels), str(path))
    if not classes:
        return ImageSet(x, None, path.name)
    index = {c: i for i, c in enumerate(classes)}
    y = torch.tensor([index[f.relative_to(path).parts[0]] for f in files])
    return ImageSet(x, y, path.name, classes)


def resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    """The largest centred square, at `size` x `size` pixels (bicubic with antialiasing)."""
    from PIL import Image

    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Cropped first: `resize(box=...)` would let pixels outside the square bleed in.
    square = image.crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling.BICUBIC)


def write_folder(images: Tensor, path: Path) -> None:
    """Write uint8 (N, C, H, W) as 00000.png, 00001.png, ..."""
    from PIL import Image

    path.mkdir(parents=True, exist_ok=True)
    if any(path.iterdir()):
        raise DataError(f"{path} is not empty: new images would mix with what is there. Choose another folder.")
    width = max(5, len(str(len(images) - 1)))
    for i, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(path / f"{i:0{width}d}.png")


def grid(images: Tensor, columns: int | None = None, pad: int = 2) -> Tensor:
    """Tile uint8 images (N, C, H, W) row by row into one picture (C, H', W') on a mid-grey ground."""
    n, c, h, w = images.shape
    columns = columns or int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    sheet = torch.full((c, rows * (h + pad) + pad, columns * (w + pad) + pad), 96, dtype=torch.uint8)
    for i in range(n):
        top, left = (i // columns) * (h + pad) + pad, (i % columns) * (w + pad) + pad
        sheet[:, top : top + h, left : left + w] = images[i]
    return sheet


def save_grid(images: Tensor, path: Path, *, columns: int | None = None, scale: int = 2) -> None:
    """Save a grid of uint8 images as PNG, each pixel drawn `scale` x `scale`."""
    from PIL import Image

    sheet = grid(images, columns).permute(1, 2, 0).numpy()
    picture = Image.fromarray(sheet.squeeze(-1) if sheet.shape[-1] == 1 else sheet)
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    picture.save(temporary, format="PNG")
    temporary.replace(path)
