"""What travels between a store and a file: a whole group, read in blocks.

All stream: memory is a block of 1024 rows, whatever the number of images. A carried group is

- arrays `<name>` (N, …), in the order of `images`;
- images: columns image_id, path, label, labelled (1: has a label), size, state, reason, and if any
  image has one, subset and group ("": none);
- constants `constants/<name>`;
- attrs: one JSON document with the extraction and the key.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from alike.extract.documents import read_json
from alike.extract.errors import BadInput
from alike.extract.identity import seal_of
from alike.extract.store.arrays import UNIT, ArraySpec, new_spec

IMAGE_COLUMNS = ("image_id", "path", "label", "labelled", "size", "state", "reason")
OPTIONAL = ("subset", "group")
"""Columns of names that a file has only if they name anything; files of 0.1 have neither."""
SUMS = "alike_checksums"
CONSTANTS = "constants/"
"""Where constants go in a file with folders."""

NUMBERS = {"labelled": np.uint8, "size": np.int64}


@dataclass(frozen=True)
class Carried:
    """A group on its way between a store and a file.

    Attributes:
        attrs: the group's attributes, with `key`.
        images: one line a row, columns `IMAGE_COLUMNS`, and those of `OPTIONAL` that name
            anything; a state other than `ok` has no feature.
        specs: the arrays.
        constants: name to array.
        read: gives rows [lo, hi) of an array.
        sums: what to its checksum, as the file says; None for files of earlier versions.
        lengths: rows of the arrays in the file, where these may be more or fewer than the images.
    """

    attrs: dict[str, Any]
    images: pd.DataFrame
    specs: dict[str, ArraySpec]
    constants: dict[str, np.ndarray]
    read: Callable[[str, int, int], np.ndarray]
    sums: dict[str, str] | None = None
    lengths: dict[str, int] = field(default_factory=dict)

    def small_sums(self) -> dict[str, str]:
        """Give the checksums of the attributes, of the columns of the images and of constants."""
        sums = {"attrs": seal_of(self.attrs)}
        for name, column in columns_of(self.images).items():
            sums[f"column {name}"] = seal_of(column.tolist())
        for name, value in self.constants.items():
            facts = [str(value.dtype), list(value.shape), _hash(value).hexdigest()]
            sums[f"constant {name}"] = seal_of(facts)
        return sums

    def blocks(self, name: str) -> Iterator[tuple[int, np.ndarray]]:
        """Give (first row, rows) of an array in blocks of 1024."""
        for lo in range(0, len(self.images), UNIT):
            yield lo, self.read(name, lo, min(lo + UNIT, len(self.images)))


class RowSums:
    """Hashes the rows of arrays while they are written or read in order."""

    def __init__(self, carried: Carried) -> None:
        self._carried = carried
        self.hashes: dict[str, Any] = {}

    def blocks(self, name: str) -> Iterator[tuple[int, np.ndarray]]:
        """As `Carried.blocks`."""
        whole = self.hashes[name] = hashlib.blake2b(digest_size=16)
        for lo, block in self._carried.blocks(name):
            whole.update(np.ascontiguousarray(block).data)
            yield lo, block

    def sums(self) -> dict[str, str]:
        """Give what to its checksum, of all that was written or read."""
        rows = {f"array {name}": one.hexdigest() for name, one in self.hashes.items()}
        return {**self._carried.small_sums(), **rows}

    def document(self) -> str:
        """Give the checksums as JSON."""
        return json.dumps(self.sums())


def read_sums(text: str | bytes | None, place: str) -> dict[str, str] | None:
    """Read what `Carried.checksums` gave; None for nothing."""
    if text is None:
        return None
    return read_json(text, dict[str, str], place, "export the group again", brought=True)


def read_attrs(text: str | bytes, place: str) -> dict[str, Any]:
    """Read the attributes of a carried group."""
    return read_json(text, dict[str, Any], place, "export the group again", brought=True)


def _hash(value: np.ndarray) -> Any:
    return hashlib.blake2b(np.ascontiguousarray(value).tobytes(), digest_size=16)


def carried_spec(name: str, shape: tuple[int, ...] | None, dtype: Any) -> ArraySpec:
    """Describe an array of a file.

    Args:
        name: of the array.
        shape: of the whole; None or () of what has no rows.
        dtype: of its numbers.

    Raises:
        BadInput: it has no rows, or numbers of a type that a store does not keep.
    """
    if not shape:
        raise BadInput(f"array {name!r} has no rows, one for each image is expected")
    return new_spec(name, shape[1:], dtype)


def columns_of(images: pd.DataFrame) -> dict[str, np.ndarray]:
    """Give the columns of the images as arrays: numbers, or str objects."""
    names = [*IMAGE_COLUMNS, *(name for name in OPTIONAL if name in images)]
    return {name: images[name].to_numpy(dtype=NUMBERS.get(name, object)) for name in names}


def images_of(columns: Mapping[str, Any]) -> pd.DataFrame:
    """Put the columns of the images together again; those of `OPTIONAL` may be missing.

    Raises:
        BadInput: a column holds something else than text, or than whole numbers, or is shorter
            than the others.
    """
    table = {name: _column(name, values) for name, values in columns.items()}
    if len({len(column) for column in table.values()}) > 1:
        counts = ", ".join(f"{name} {len(column)}" for name, column in table.items())
        raise BadInput(f"the columns of its images differ in length ({counts})")
    return pd.DataFrame(table)


def _column(name: str, values: Any) -> np.ndarray | pd.Series:
    wrong = f"column {name} of its images holds"
    if name not in NUMBERS:
        for one in values:
            if not isinstance(one, str) or "\0" in one:
                raise BadInput(f"{wrong} {one!r}, text is expected")
        return pd.Series([str(one) for one in values], dtype=object)
    numbers = np.asarray(values)
    if numbers.dtype.kind not in "iub" or not np.array_equal(
        numbers.astype(NUMBERS[name]), numbers
    ):
        raise BadInput(f"{wrong} {numbers.dtype} numbers, {np.dtype(NUMBERS[name])} is expected")
    return numbers.astype(NUMBERS[name])
