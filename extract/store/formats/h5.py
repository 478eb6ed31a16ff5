"""A carried group as HDF5: `arrays/<name>`, `images/<column>`, `constants/<name>`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from alike.extract.store.arrays import ArraySpec
from alike.extract.store.formats.carried import (
    CONSTANTS,
    IMAGE_COLUMNS,
    NUMBERS,
    OPTIONAL,
    SUMS,
    Carried,
    RowSums,
    columns_of,
    images_of,
    read_attrs,
    read_sums,
)


def write(path: Path, carried: Carried) -> None:
    """Write a carried group as HDF5, block by block."""
    import h5py

    sums = RowSums(carried)
    with h5py.File(path, "w") as file:
        file.attrs["alike"] = json.dumps(carried.attrs)
        for name, column in columns_of(carried.images).items():
            kind = None if name in NUMBERS else h5py.string_dtype()
            file.create_dataset(f"images/{name}", data=column, dtype=kind)
        for name, spec in carried.specs.items():
            rows = min(spec.chunk_rows, max(len(carried.images), 1))
            dataset = file.create_dataset(
                f"arrays/{name}",
                shape=(len(carried.images), *spec.tail),
                dtype=spec.dtype,
                chunks=(rows, *spec.tail),
                compression="gzip" if spec.compressed else None,
                compression_opts=1 if spec.compressed else None,
                fletcher32=True,
            )
            for lo, block in sums.blocks(name):
                dataset[lo : lo + len(block)] = block
        for name, value in carried.constants.items():
            file[CONSTANTS + name] = value
        file.attrs[SUMS] = sums.document()


@contextmanager
def open_file(path: Path) -> Iterator[Carried]:
    """Open a group that `write` wrote; its rows are read when they are asked for."""
    import h5py

    with h5py.File(path, "r") as file:
        columns = {
            name: file[f"images/{name}"][()]
            if name in NUMBERS
            else file[f"images/{name}"].asstr()[()]
            for name in (*IMAGE_COLUMNS, *OPTIONAL)
            if name in IMAGE_COLUMNS or name in file["images"]
        }
        specs = {
            name: ArraySpec(name, tuple(one.shape[1:]), str(one.dtype))
            for name, one in file["arrays"].items()
        }
        constants: dict[str, np.ndarray] = {}

        def collect(name: str, value: Any) -> None:
            if isinstance(value, h5py.Dataset):
                constants[name] = value[()]

        if "constants" in file:
            file["constants"].visititems(collect)
        yield Carried(
            read_attrs(file.attrs["alike"], str(path)),
            images_of(columns),
            specs,
            constants,
            lambda name, lo, hi: np.asarray(file[f"arrays/{name}"][lo:hi]),
            read_sums(file.attrs.get(SUMS), str(path)),
        )
