"""63-bit perceptual hashes of thumbnails: of the whole, turned and mirrored, and of crops.

Two images whose hashes differ in few bits are candidates; pixels decide (`kernels.py`). The hash
is the sign of the 8x8 lowest frequencies of the discrete cosine transform about their median
(Zauner 2010, section 3.2.1), without the constant one.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from alike.extract.twins.thumbnails import SIDE

Thumbnails = NDArray[np.uint8]
Box = tuple[float, float, float]
"""Left, top, and side of a square crop, as shares of the side."""

FULL: Box = (0.0, 0.0, 1.0)
_OFFSETS = (0.0, 0.05, 0.1)
BOXES: tuple[Box, ...] = (FULL, *((x, y, 0.9) for x in _OFFSETS for y in _OFFSETS))
"""The whole and nine crops of nine tenths: another crop of that size lies near one of them."""

Symmetry = Callable[[Thumbnails], Thumbnails]
SYMMETRIES: tuple[Symmetry, ...] = (
    lambda images: images,
    lambda images: images[:, :, ::-1],
    lambda images: images[:, ::-1, :],
    lambda images: images[:, ::-1, ::-1],
    lambda images: images.swapaxes(1, 2),
    lambda images: images.swapaxes(1, 2)[:, :, ::-1],
    lambda images: images.swapaxes(1, 2)[:, ::-1, :],
    lambda images: images.swapaxes(1, 2)[:, ::-1, ::-1],
)
"""The eight ways to lay a square on itself; the first two are as it is and mirrored."""
NAMES = ("same", "mirrored", "upside down", "half turn", "transposed", "quarter turn",
         "quarter turn back", "antitransposed")  # fmt: skip
CROPPED = 2
"""Symmetries under which crops are looked for: crops of turned images are rare."""


def _low_frequencies() -> NDArray[np.float32]:
    """The rows of the orthogonal cosine transform that a hash needs, (8, 64)."""
    cells = (np.arange(SIDE) + 0.5) * np.pi / SIDE
    rows = np.cos(np.arange(8)[:, None] * cells) * np.sqrt(2.0 / SIDE)
    rows[0] /= np.sqrt(2.0)
    waves: NDArray[np.float32] = rows.astype(np.float32)
    return waves


def _crop_matrix(start: float, share: float) -> NDArray[np.float32]:
    """Linear interpolation of 64 cells from a part of a side, (64, 64)."""
    places = np.clip((np.arange(SIDE) + 0.5) * share + start * SIDE - 0.5, 0, SIDE - 1)
    low = np.minimum(places.astype(np.int64), SIDE - 2)
    matrix = np.zeros((SIDE, SIDE), dtype=np.float32)
    at = np.arange(SIDE)
    matrix[at, low] = 1.0 - (places - low)
    matrix[at, low + 1] = places - low
    return matrix


def hashes(thumbnails: Thumbnails, box: Box = FULL) -> NDArray[np.uint64]:
    """Give the hash of a part of every thumbnail.

    Args:
        thumbnails: (N, 64, 64).
        box: the part.

    Returns:
        (N,) of 63 bits.
    """
    waves = _low_frequencies()
    across, down = waves @ _crop_matrix(box[0], box[2]), waves @ _crop_matrix(box[1], box[2])
    out = np.zeros(len(thumbnails), dtype=np.uint64)
    for lo in range(0, len(thumbnails), 1024):
        part = thumbnails[lo : lo + 1024].astype(np.float32)
        waves_of = (down @ part @ across.T).reshape(len(part), 64)[:, 1:]
        bits = waves_of > np.median(waves_of, axis=1, keepdims=True)
        out[lo : lo + 1024] = bits.astype(np.uint64) @ (1 << np.arange(63, dtype=np.uint64))
    return out
