"""File formats that carry a whole group: HDF5, NPZ, Parquet and netCDF, each with its usual reader.

All stream: memory is a block of 1024 rows, whatever the number of images. A carried group is

- arrays `<name>` (N, …), in the order of `images`;
- images: columns image_id, path, label, labelled (1: has a label), size, state, reason;
- constants `constants/<name>`;
- attrs: one JSON document with the extraction and the key.
"""

import base64
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from extract.errors import BadInput
from extract.store_arrays import UNIT, ArraySpec

IMAGE_COLUMNS = ("image_id", "path", "label", "labelled", "size", "state", "reason")
_CONSTANTS = "constants/"
_NUMBERS = {"labelled": np.uint8, "size": np.int64}


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


@dataclass(frozen=True)
class Format:
    """One file format.

    Attributes:
        write: writes a carried group to a path.
        open: opens a path for reading, as a context.
        reader: how others read it.
    """

    write: Callable[[Path, Carried], None]
    open: Callable[[Path], AbstractContextManager[Carried]]
    reader: str


def _columns(images: pd.DataFrame) -> dict[str, np.ndarray]:
    return {name: images[name].to_numpy(dtype=_NUMBERS.get(name, object)) for name in IMAGE_COLUMNS}


def _images(columns: Mapping[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            name: np.asarray(columns[name]).astype(_NUMBERS[name])
            if name in _NUMBERS
            else pd.Series([str(one) for one in columns[name]], dtype=object)
            for name in IMAGE_COLUMNS
        }
    )


# HDF5


def _write_h5(path: Path, carried: Carried) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs["alike"] = json.dumps(carried.attrs)
        for name, column in _columns(carried.images).items():
            kind = None if name in _NUMBERS else h5py.string_dtype()
            file.create_dataset(f"images/{name}", data=column, dtype=kind)
        for name, spec in carried.specs.items():
            rows = min(spec.chunk_rows, max(len(carried.images), 1))
            made = file.create_dataset(
                f"arrays/{name}",
                shape=(len(carried.images), *spec.tail),
                dtype=spec.dtype,
                chunks=(rows, *spec.tail),
                compression="gzip" if spec.compressed else None,
                compression_opts=1 if spec.compressed else None,
                fletcher32=True,
            )
            for lo, block in carried.blocks(name):
                made[lo : lo + len(block)] = block
        for name, value in carried.constants.items():
            file[_CONSTANTS + name] = value


@contextmanager
def _open_h5(path: Path) -> Iterator[Carried]:
    import h5py

    with h5py.File(path, "r") as file:
        columns = {
            name: file[f"images/{name}"][()]
            if name in _NUMBERS
            else file[f"images/{name}"].asstr()[()]
            for name in IMAGE_COLUMNS
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
            json.loads(file.attrs["alike"]),
            _images(columns),
            specs,
            constants,
            lambda name, lo, hi: np.asarray(file[f"arrays/{name}"][lo:hi]),
        )


# NPZ


def _write_npz(path: Path, carried: Carried) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as file:

        def put(name: str, value: np.ndarray) -> None:
            with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, value, allow_pickle=False)

        put("attrs", np.array(json.dumps(carried.attrs)))
        for name, column in _columns(carried.images).items():
            put(f"images/{name}", column if name in _NUMBERS else column.astype(np.str_))
        for name, value in carried.constants.items():
            put(_CONSTANTS + name, np.asarray(value))
        for name, spec in carried.specs.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(
                    member,
                    {
                        "descr": np.dtype(spec.dtype).str,
                        "fortran_order": False,
                        "shape": (len(carried.images), *spec.tail),
                    },
                )
                for _, block in carried.blocks(name):
                    member.write(np.ascontiguousarray(block).data)


@contextmanager
def _open_npz(path: Path) -> Iterator[Carried]:
    with zipfile.ZipFile(path) as file:
        names = [name.removesuffix(".npy") for name in file.namelist()]
        plain = [name for name in names if "/" not in name and name != "attrs"]

        def get(name: str) -> np.ndarray:
            with file.open(f"{name}.npy") as member:
                return np.asarray(np.lib.format.read_array(member, allow_pickle=False))

        specs, starts = {}, {}
        for name in plain:
            with file.open(f"{name}.npy") as member:
                np.lib.format.read_magic(member)
                shape, _, dtype = np.lib.format.read_array_header_1_0(member)
                specs[name] = ArraySpec(name, tuple(shape[1:]), str(dtype))
                starts[name] = member.tell()

        def read(name: str, lo: int, hi: int) -> np.ndarray:
            spec = specs[name]
            with file.open(f"{name}.npy") as member:
                member.seek(starts[name] + lo * spec.row_bytes)
                data = member.read((hi - lo) * spec.row_bytes)
            return np.frombuffer(data, dtype=spec.dtype).reshape(hi - lo, *spec.tail)

        yield Carried(
            json.loads(str(get("attrs"))),
            _images({name: get(f"images/{name}") for name in IMAGE_COLUMNS}),
            specs,
            {
                name.removeprefix(_CONSTANTS): get(name)
                for name in names
                if name.startswith(_CONSTANTS)
            },
            read,
        )


# Parquet


def _write_parquet(path: Path, carried: Carried) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    packed = io.BytesIO()
    constants: dict[str, Any] = {name: np.asarray(one) for name, one in carried.constants.items()}
    np.savez(packed, **constants)
    metadata = {
        "alike": json.dumps(carried.attrs),
        "alike_arrays": json.dumps({name: spec.tail for name, spec in carried.specs.items()}),
        "alike_constants": base64.b64encode(packed.getvalue()).decode(),
    }
    columns = _columns(carried.images)
    kinds = {"labelled": pa.uint8(), "size": pa.int64()}
    fields = [pa.field(name, kinds.get(name, pa.string())) for name in IMAGE_COLUMNS]
    for name, spec in carried.specs.items():
        width = int(np.prod(spec.tail))
        kind = pa.list_(pa.from_numpy_dtype(np.dtype(spec.dtype)), width)
        fields.append(pa.field(name, kind))
    schema = pa.schema(fields, metadata=metadata)
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as file:
        for lo in range(0, len(carried.images), UNIT):
            hi = min(lo + UNIT, len(carried.images))
            parts = [pa.array(columns[name][lo:hi], schema.field(name).type) for name in columns]
            for name in carried.specs:
                flat = pa.array(np.ascontiguousarray(carried.read(name, lo, hi)).ravel())
                parts.append(pa.FixedSizeListArray.from_arrays(flat, type=schema.field(name).type))
            file.write_table(pa.table(parts, schema=schema), row_group_size=UNIT)


@contextmanager
def _open_parquet(path: Path) -> Iterator[Carried]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        metadata = file.schema_arrow.metadata
        tails = json.loads(metadata[b"alike_arrays"])
        specs = {
            name: ArraySpec(
                name,
                tuple(tail),
                str(np.dtype(file.schema_arrow.field(name).type.value_type.to_pandas_dtype())),
            )
            for name, tail in tails.items()
        }
        with np.load(io.BytesIO(base64.b64decode(metadata[b"alike_constants"]))) as packed:
            constants = {name: packed[name] for name in packed.files}

        def read(name: str, lo: int, hi: int) -> np.ndarray:
            groups = range(lo // UNIT, -(-hi // UNIT))
            column = file.read_row_groups(list(groups), [name])[name].combine_chunks()
            flat = np.asarray(column.flatten()).reshape(-1, *specs[name].tail)
            return flat[lo - groups[0] * UNIT : hi - groups[0] * UNIT]

        yield Carried(
            json.loads(metadata[b"alike"]),
            _images(file.read(list(IMAGE_COLUMNS)).to_pydict()),
            specs,
            constants,
            read,
        )


# netCDF


def _h5netcdf() -> Any:
    try:
        import h5netcdf  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise BadInput(
            "netCDF needs the package h5netcdf: pip install h5netcdf, or choose .h5"
        ) from None
    return h5netcdf


def _write_nc(path: Path, carried: Carried) -> None:
    import h5py

    h5netcdf = _h5netcdf()

    with h5netcdf.File(path, "w") as file:
        file.attrs["alike"] = json.dumps(carried.attrs)
        file.dimensions["image"] = len(carried.images)
        for name, column in _columns(carried.images).items():
            kind = column.dtype if name in _NUMBERS else h5py.string_dtype()
            made = file.create_variable(f"image_{name}", ("image",), dtype=kind)
            made[:] = column
        for name, spec in carried.specs.items():
            for dimension, length in zip(spec.dimensions[1:], spec.tail, strict=True):
                file.dimensions[dimension] = length
            # netCDF has no half precision: float32 holds it exactly.
            kind = np.dtype("float32" if spec.dtype == "float16" else spec.dtype)
            rows = min(spec.chunk_rows, max(len(carried.images), 1))
            made = file.create_variable(
                name,
                spec.dimensions,
                dtype=kind,
                chunks=(rows, *spec.tail),
                compression="gzip" if spec.compressed else None,
                compression_opts=1 if spec.compressed else None,
                fletcher32=True,
            )
            made.attrs["stored_as"] = spec.dtype
            for lo, block in carried.blocks(name):
                made[lo : lo + len(block)] = block.astype(kind)
        for name, value in carried.constants.items():
            _write_nc_constant(file, name, np.asarray(value))


def _write_nc_constant(file: Any, name: str, value: np.ndarray) -> None:
    plain = "constant_" + name.replace("/", "_")
    dimensions = [f"{plain}_{i}" for i in range(value.ndim)]
    for dimension, length in zip(dimensions, value.shape, strict=True):
        file.dimensions[dimension] = length
    made = file.create_variable(plain, tuple(dimensions), dtype=value.dtype)
    made[...] = value
    made.attrs["constant"] = name


@contextmanager
def _open_nc(path: Path) -> Iterator[Carried]:
    with _h5netcdf().File(path, "r", decode_vlen_strings=True) as file:
        specs = {
            name: ArraySpec(name, tuple(one.shape[1:]), str(one.attrs["stored_as"]))
            for name, one in file.variables.items()
            if "stored_as" in one.attrs
        }
        constants = {
            str(one.attrs["constant"]): np.asarray(one[...])
            for one in file.variables.values()
            if "constant" in one.attrs
        }
        yield Carried(
            json.loads(file.attrs["alike"]),
            _images({name: file.variables[f"image_{name}"][...] for name in IMAGE_COLUMNS}),
            specs,
            constants,
            lambda name, lo, hi: np.asarray(file.variables[name][lo:hi]).astype(specs[name].dtype),
        )


FORMATS = {
    ".h5": Format(_write_h5, _open_h5, "h5py.File(f)['arrays/gap']"),
    ".npz": Format(_write_npz, _open_npz, "numpy.load(f)['gap']"),
    ".parquet": Format(_write_parquet, _open_parquet, "pandas.read_parquet(f)['gap']"),
    ".nc": Format(_write_nc, _open_nc, "xarray.open_dataset(f, engine='h5netcdf')['gap']"),
}
