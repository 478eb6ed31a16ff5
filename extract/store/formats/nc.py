"""A carried group as netCDF 4: variables `<name>`, `image_<column>`, `constant_<name>`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from alike.extract.errors import BadInput
from alike.extract.store.formats.carried import (
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
from alike.extract.store.formats.h5 import own_dataset

HELD_AS = {"float16": "float32", "bool": "uint8"}
"""Types that netCDF lacks, and those that hold their values exactly."""


def _h5netcdf() -> Any:
    try:
        import h5netcdf  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise BadInput(
            "netCDF needs the package h5netcdf: pip install h5netcdf, or choose .h5"
        ) from None
    return h5netcdf


def write(path: Path, carried: Carried) -> None:
    """Write a carried group as netCDF, block by block."""
    import h5py

    h5netcdf = _h5netcdf()

    sums = RowSums(carried)
    with h5netcdf.File(path, "w") as file:
        file.attrs["alike"] = json.dumps(carried.attrs)
        file.dimensions["image"] = len(carried.images)
        for name, column in columns_of(carried.images).items():
            kind = column.dtype if name in NUMBERS else h5py.string_dtype()
            variable = file.create_variable(f"image_{name}", ("image",), dtype=kind)
            variable[:] = column
        for name, spec in carried.specs.items():
            for dimension, length in zip(spec.dimensions[1:], spec.tail, strict=True):
                file.dimensions[dimension] = length
            # netCDF has no half precision and no truth values.
            kind = np.dtype(HELD_AS.get(spec.dtype, spec.dtype))
            rows = min(spec.chunk_rows, max(len(carried.images), 1))
            variable = file.create_variable(
                name,
                spec.dimensions,
                dtype=kind,
                chunks=(rows, *spec.tail),
                compression="gzip" if spec.compressed else None,
                compression_opts=1 if spec.compressed else None,
                fletcher32=True,
            )
            variable.attrs["stored_as"] = spec.dtype
            for lo, block in sums.blocks(name):
                variable[lo : lo + len(block)] = block.astype(kind)
        for name, value in carried.constants.items():
            _write_nc_constant(file, name, np.asarray(value))
        file.attrs[SUMS] = sums.document()


def _write_nc_constant(file: Any, name: str, value: np.ndarray) -> None:
    plain = "constant_" + name.replace("/", "_")
    dimensions = [f"{plain}_{i}" for i in range(value.ndim)]
    for dimension, length in zip(dimensions, value.shape, strict=True):
        file.dimensions[dimension] = length
    variable = file.create_variable(plain, tuple(dimensions), dtype=value.dtype)
    variable[...] = value
    variable.attrs["constant"] = name


@contextmanager
def open_file(path: Path) -> Iterator[Carried]:
    """Open a group that `write` wrote; its rows are read when they are asked for."""
    import h5py

    h5netcdf = _h5netcdf()
    # Opened here: where h5netcdf fails to, its finalizer prints a traceback of its own.
    with h5py.File(path, "r") as plain, h5netcdf.File(plain, decode_vlen_strings=True) as file:
        for name in plain:
            own_dataset(plain, name)
        specs = {
            name: carried_spec(name, one.shape, str(one.attrs["stored_as"]))
            for name, one in file.variables.items()
            if "stored_as" in one.attrs
        }
        constants = {
            str(one.attrs["constant"]): np.asarray(one[...])
            for one in file.variables.values()
            if "constant" in one.attrs
        }
        yield Carried(
            read_attrs(file.attrs["alike"], str(path)),
            images_of(
                {
                    name: file.variables[f"image_{name}"][...]
                    for name in (*IMAGE_COLUMNS, *OPTIONAL)
                    if name in IMAGE_COLUMNS or f"image_{name}" in file.variables
                }
            ),
            specs,
            constants,
            lambda name, lo, hi: np.asarray(file.variables[name][lo:hi]).astype(specs[name].dtype),
            read_sums(file.attrs.get(SUMS), str(path)),
            {name: int(file.variables[name].shape[0]) for name in specs},
        )
