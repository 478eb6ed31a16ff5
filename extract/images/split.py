"""Who an image is (its bytes), and whether it may be trained on (decided by that alone)."""

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

Split = Literal["train", "validation", "held_out"]
SIDES: tuple[Split, ...] = ("train", "validation", "held_out")
"""What is trained on, what networks are chosen by, what they are evaluated by."""


def image_id(data: bytes) -> str:
    """Name an image by its content: SHA-256 of the file's bytes, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def split_of(
    image_id: str, train_share: float, salt: str = "", validation_share: float = 0.0
) -> Split:
    """Say on which side an image stands.

    Args:
        image_id: SHA-256 of the image's bytes in hexadecimal; its first 64 bits are a uniform
            number, so no other source of chance is needed.
        train_share: expected share of `train`, 0 to 1.
        salt: another salt gives another, independent split of the same images.
        validation_share: expected share of `validation`, which lies above `train`.
    """
    uniform = int(_drawn(image_id, salt), 16) / 2.0**64
    if uniform < train_share:
        return "train"
    return "validation" if uniform < train_share + validation_share else "held_out"


def splits_of(
    image_ids: Sequence[str] | pd.Series | np.ndarray,
    train_share: float,
    salt: str = "",
    validation_share: float = 0.0,
) -> np.ndarray:
    """Give `split_of` of many images, (N,) of `object`."""
    ids = np.asarray(image_ids, dtype=object)
    if train_share >= 1 or train_share + validation_share <= 0:
        return np.full(len(ids), "train" if train_share >= 1 else "held_out", dtype=object)
    first = bytes.fromhex("".join([_drawn(one, salt) for one in ids]))
    uniform = np.frombuffer(first, dtype=">u8") / 2.0**64
    ends = np.array([train_share, train_share + validation_share])
    return np.array(SIDES, dtype=object)[np.searchsorted(ends, uniform, side="right")]


def _drawn(image_id: str, salt: str) -> str:
    """64 random bits of an image, as 16 hexadecimal digits."""
    salted = hashlib.sha256(f"{salt}{image_id}".encode()).hexdigest() if salt else image_id
    return salted[:16]
