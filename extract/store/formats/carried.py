"""What travels between a store and a file: a whole group, read in blocks.

All stream: memory is a block of 1024 rows, whatever the number of images. A carried group is

- arrays `<name>` (N, …), in the order of `images`;
- images: columns image_id, path, label, labelled (1: has a label), size, state, reason;
- constants `constants/<name>`;
- attrs: one JSON document with the extraction and the key.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from alike.extract.store.arrays import UNIT, ArraySpec

IMAGE_COLUMNS = ("image_id", "path", "label", "labelled", "size", "state", "reason")
CONSTANTS = "constants/"
"""Where constants go in a file with folders."""

NUMBERS = {"labelled": np.uint8, "size": np.int64}


@dataclass(frozen=True)
class Carried:
    """A group on its way between a store and a file.

    Attributes:
        attrs: the group's attributes, with `key`.
        images: one line a row, columns `IMAGE_COLUMNS`; a state other than `ok` has no feature.
        specs: the arrays.
        constants: name to array.
        read: gives rows [lo, hi) of an array.
    """

    attrs: dict[str, Any]
    images: pd.DataFrame
    specs: dict[str, ArraySpec]
    constants: dict[str, np.ndarray]
    read: Callable[[str, int, int], np.ndarray]

    def blocks(self, name: str) -> Iterator[tuple[int, np.ndarray]]:
        """Give (first row, rows) of an array in blocks of 1024."""
        for lo in range(0, len(self.images), UNIT):
            yield lo, self.read(name, lo, min(lo + UNIT, len(self.images)))


def columns_of(images: pd.DataFrame) -> dict[str, np.ndarray]:
    """Give the columns of the images as arrays: numbers, or str objects."""
    return {name: images[name].to_numpy(dtype=NUMBERS.get(name, object)) for name in IMAGE_COLUMNS}


def images_of(columns: Mapping[str, Any]) -> pd.DataFrame:
    """Put the columns of the images together again."""
    return pd.DataFrame(
        {
            name: np.asarray(columns[name]).astype(NUMBERS[name])
            if name in NUMBERS
            else pd.Series([str(one) for one in columns[name]], dtype=object)
            for name in IMAGE_COLUMNS
        }
    )
