"""A carried group as HDF5: `arrays/<name>`, `images/<column>`, `constants/<name>`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from alike.extract.errors import BadInput
from alike.extract.store.formats.carried import (
    CONSTANTS,
    IMAGE_COLUMNS,
    NUMBERS,
    OPTIONAL,
    SUMS,
    Carried,
    RowSums,
    carried_spec,
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
        attrs = read_attrs(file.attrs["alike"], str(path))
        columns = {
            name: own_dataset(file, f"images/{name}")[()]
            if name in NUMBERS
            else own_dataset(file, f"images/{name}").asstr()[()]
            for name in (*IMAGE_COLUMNS, *OPTIONAL)
            if name in IMAGE_COLUMNS or name in file["images"]
        }
        arrays = {name: own_dataset(file, f"arrays/{name}") for name in file["arrays"]}
        specs = {name: carried_spec(name, one.shape, one.dtype) for name, one in arrays.items()}
        constants: dict[str, np.ndarray] = {}

        def collect(name: str, value: Any) -> None:
            if isinstance(value, h5py.Dataset):
                constants[name] = own_dataset(file, CONSTANTS + name)[()]

        if "constants" in file:
            file["constants"].visititems(collect)
        yield Carried(
            attrs,
            images_of(columns),
            specs,
            constants,
            lambda name, lo, hi: np.asarray(arrays[name][lo:hi], dtype=specs[name].dtype),
            read_sums(file.attrs.get(SUMS), str(path)),
            {name: len(one) for name, one in arrays.items()},
        )


def own_dataset(file: Any, name: str) -> Any:
    """Give a dataset whose values lie in the file itself.

    Whoever made the file could make it name any other file of this machine.

    Raises:
        BadInput: there is none, it is a group, or its values lie elsewhere.
    """
    import h5py

    try:
        found = file[name]
    except KeyError:
        raise BadInput(f"{name} is missing, or a link to what is not there") from None
    if not isinstance(found, h5py.Dataset):
        raise BadInput(f"{name} is a group, a dataset is expected")
    if found.file.filename != file.filename or found.is_virtual or found.external:
        raise BadInput(f"the values of {name} lie in another file: copy them into this one")
    return found
