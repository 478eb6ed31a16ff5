"""Who an image is (its bytes), and whether it may be trained on (decided by that alone)."""

import hashlib
from collections.abc import Iterable
from typing import Literal

import numpy as np

Split = Literal["train", "held_out"]


def image_id(data: bytes) -> str:
    """Name an image by its content: SHA-256 of the file's bytes, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def split_of(image_id: str, train_share: float, salt: str = "") -> Split:
    """Say on which side an image stands.

    Args:
        image_id: SHA-256 of the image's bytes in hexadecimal; its first 64 bits are a uniform
            number, so no other source of chance is needed.
        train_share: expected share of `train`, 0 to 1.
        salt: another salt gives another, independent split of the same images.
    """
    return "train" if _uniform(image_id, salt) < train_share else "held_out"


def splits_of(image_ids: Iterable[str], train_share: float, salt: str = "") -> np.ndarray:
    """Give `split_of` of many images, (N,) of `object`."""
    return np.array([split_of(one, train_share, salt) for one in image_ids], dtype=object)


def _uniform(image_id: str, salt: str) -> float:
    drawn = hashlib.sha256(f"{salt}{image_id}".encode()).hexdigest() if salt else image_id
    return int(drawn[:16], 16) / 2.0**64
