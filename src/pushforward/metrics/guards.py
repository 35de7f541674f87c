"""What makes a figure mean less than it seems, said in words and never repaired."""

from __future__ import annotations

from torch import Tensor


def _rows(images: Tensor) -> list[bytes]:
    return [row.tobytes() for row in images.flatten(1).numpy()]


def image_warnings(images: Tensor, *, train: Tensor | None = None) -> list[str]:
    """Constant images, repeated images, and exact copies of training images.

    Args:
        images: uint8 (n, C, H, W).
        train: Training images of the same shape, if known.

    Example:
        >>> image_warnings(torch.zeros(3, 1, 2, 2, dtype=torch.uint8))[0]
        '3 of 3 images are of one constant colour.'
    """
    n, flat, found = len(images), images.flatten(1), []
    constant = int((flat == flat[:, :1]).all(dim=1).sum())
    if constant:
        found.append(f"{constant} of {n} images are of one constant colour.")
    rows = _rows(images)
    repeated = n - len(set(rows))
    if repeated:
        found.append(f"{repeated} of {n} images repeat another one exactly: fewer images were judged than it seems.")
    if train is not None and train.shape[1:] == images.shape[1:]:
        known = set(_rows(train))
        copies = sum(row in known for row in rows)
        if copies:
            found.append(
                f"{copies} of {n} images are exact copies of training images: leakage, or a model that memorises."
            )
    return found


def size_warnings(n_real: int, n_fake: int, d: int) -> list[str]:
    """Too few samples for the rank of the covariance; unequal numbers."""
    found = []
    if min(n_real, n_fake) <= d:
        found.append(
            f"{min(n_real, n_fake)} samples of {d} features: the covariance is singular and the Frechet distance mostly bias; "
            f"use more than {d} samples, several times as many for a figure to report."
        )
    if n_fake < n_real:
        found.append(
            f"{n_fake} images against {n_real}: a Frechet distance of fewer images is larger for that alone; compare equal numbers."
        )
    return found
