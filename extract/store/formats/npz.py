"""A carried group as NPZ: members `<name>`, `images/<column>`, `constants/<name>`, `attrs`."""

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

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
    """Write a carried group as NPZ, block by block."""
    sums = RowSums(carried)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as file:

        def put(name: str, value: np.ndarray) -> None:
            with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, value, allow_pickle=False)

        put("attrs", np.array(json.dumps(carried.attrs)))
        for name, column in columns_of(carried.images).items():
            put(f"images/{name}", column if name in NUMBERS else column.astype(np.str_))
        for name, value in carried.constants.items():
            put(CONSTANTS + name, np.asarray(value))
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
                for _, block in sums.blocks(name):
                    member.write(np.ascontiguousarray(block).data)
        # With a folder, as no array has: earlier versions leave it alone.
        put(f"alike/{SUMS}", np.array(sums.document()))


@contextmanager
def open_file(path: Path) -> Iterator[Carried]:
    """Open a group that `write` wrote; its rows are read when they are asked for."""
    with zipfile.ZipFile(path) as file:
        # Rows are read from inside their member, past ZIP's checksum of it: it is asked here.
        broken = file.testzip()
        if broken is not None:
            raise zipfile.BadZipFile(f"checksum of {broken}")
        names = [name.removesuffix(".npy") for name in file.namelist()]
        plain = [name for name in names if "/" not in name and name != "attrs"]

        def get(name: str) -> np.ndarray:
            with file.open(f"{name}.npy") as member:
                return np.asarray(np.lib.format.read_array(member, allow_pickle=False))

        attrs, headers = read_attrs(str(get("attrs")), str(path)), {}
        for name in plain:
            with file.open(f"{name}.npy") as member:
                headers[name] = _Header.read(member)
        specs = {name: carried_spec(name, one.shape, one.dtype) for name, one in headers.items()}
        # Rows of Fortran's order lie in no piece: such an array is read whole.
        whole = {name: get(name) for name, one in headers.items() if one.fortran}

        def read(name: str, lo: int, hi: int) -> np.ndarray:
            spec, header = specs[name], headers[name]
            if name in whole:
                return np.ascontiguousarray(whole[name][lo:hi], dtype=spec.dtype)
            with file.open(f"{name}.npy") as member:
                member.seek(header.end + lo * spec.row_bytes)
                data = member.read((hi - lo) * spec.row_bytes)
            rows = np.frombuffer(data, dtype=header.dtype).reshape(hi - lo, *spec.tail)
            return rows.astype(spec.dtype, copy=False)

        sums = str(get(f"alike/{SUMS}")) if f"alike/{SUMS}" in names else None
        yield Carried(
            attrs,
            images_of(
                {
                    name: get(f"images/{name}")
                    for name in (*IMAGE_COLUMNS, *OPTIONAL)
                    if name in IMAGE_COLUMNS or f"images/{name}" in names
                }
            ),
            specs,
            {
                name.removeprefix(CONSTANTS): get(name)
                for name in names
                if name.startswith(CONSTANTS)
            },
            read,
            read_sums(sums, str(path)),
            {name: one.shape[0] for name, one in headers.items()},
        )


@dataclass(frozen=True)
class _Header:
    """What a member says of its array.

    Attributes:
        shape: of the array.
        fortran: the first axis varies fastest.
        dtype: of its numbers.
        end: byte at which they begin.
    """

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    end: int

    @classmethod
    def read(cls, member: IO[bytes]) -> "_Header":
        """Read the header of an open member."""
        version = np.lib.format.read_magic(member)
        reader = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            reader = np.lib.format.read_array_header_2_0
        shape, fortran, dtype = reader(member)
        return cls(tuple(shape), fortran, dtype, member.tell())
