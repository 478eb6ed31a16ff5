"""A carried group as Parquet: a column an array (fixed-size lists)."""

import base64
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from alike.extract.documents import read_json
from alike.extract.errors import BadInput
from alike.extract.row_groups import RowGroups
from alike.extract.store.arrays import UNIT, ArraySpec
from alike.extract.store.formats.carried import (
    IMAGE_COLUMNS,
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
    """Write a carried group as Parquet, block by block."""
    import pyarrow as pa

    packed = io.BytesIO()
    constants: dict[str, Any] = {name: np.asarray(one) for name, one in carried.constants.items()}
    np.savez(packed, **constants)
    metadata = {
        "alike": json.dumps(carried.attrs),
        "alike_arrays": json.dumps({name: spec.tail for name, spec in carried.specs.items()}),
        "alike_constants": base64.b64encode(packed.getvalue()).decode(),
    }
    columns = columns_of(carried.images)
    kinds = {"labelled": pa.uint8(), "size": pa.int64()}
    fields = [pa.field(name, kinds.get(name, pa.string())) for name in columns]
    for name, spec in carried.specs.items():
        width = int(np.prod(spec.tail))
        kind = pa.list_(pa.from_numpy_dtype(np.dtype(spec.dtype)), width)
        fields.append(pa.field(name, kind))
    schema = pa.schema(fields, metadata=metadata)
    sums = RowSums(carried)
    blocks = {name: sums.blocks(name) for name in carried.specs}
    with RowGroups(path, schema, compression="zstd", write_page_checksum=True) as file:
        for lo in range(0, len(carried.images), UNIT):
            hi = min(lo + UNIT, len(carried.images))
            parts = [pa.array(columns[name][lo:hi], schema.field(name).type) for name in columns]
            for name, one in blocks.items():
                flat = pa.array(np.ascontiguousarray(next(one)[1]).ravel())
                parts.append(pa.FixedSizeListArray.from_arrays(flat, type=schema.field(name).type))
            file.add(pa.table(parts, schema=schema))
        for one in blocks.values():
            next(one, None)
        file.note({SUMS: sums.document()})


@contextmanager
def open_file(path: Path) -> Iterator[Carried]:
    """Open a group that `write` wrote; its rows are read when they are asked for."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        metadata = file.schema_arrow.metadata
        kind = dict[str, tuple[int, ...]]
        text = metadata[b"alike_arrays"]
        tails = read_json(text, kind, str(path), "export the group again", brought=True)
        kinds = {name: _numbers_of(file.schema_arrow, name) for name in tails}
        rows_in_all = file.metadata.num_rows
        specs = {
            name: carried_spec(name, (rows_in_all, *tail), kinds[name].to_pandas_dtype())
            for name, tail in tails.items()
        }
        with np.load(io.BytesIO(base64.b64decode(metadata[b"alike_constants"]))) as packed:
            constants = {name: packed[name] for name in packed.files}

        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        ends = np.cumsum(sizes)
        # Readers take a unit at a time, in order: the group of the last one stays.
        latest: dict[str, tuple[int, np.ndarray]] = {}

        def group_of(name: str, group: int) -> np.ndarray:
            if name not in latest or latest[name][0] != group:
                column = file.read_row_group(group, [name])[name]
                latest[name] = group, _rows_of(column, kinds[name], specs[name])
            return latest[name][1]

        def read(name: str, lo: int, hi: int) -> np.ndarray:
            first, last = np.searchsorted(ends, [lo, max(hi - 1, lo)], side="right").tolist()
            parts = []
            for group in range(first, min(last + 1, len(sizes))):
                begin = int(ends[group]) - sizes[group]
                parts.append(group_of(name, group)[max(lo - begin, 0) : hi - begin])
            return np.concatenate(parts)

        named = [name for name in OPTIONAL if name in file.schema_arrow.names and name not in specs]
        yield Carried(
            read_attrs(metadata[b"alike"], str(path)),
            images_of(file.read([*IMAGE_COLUMNS, *named]).to_pydict()),
            specs,
            constants,
            read,
            read_sums((file.metadata.metadata or {}).get(SUMS.encode()), str(path)),
        )


def _numbers_of(schema: Any, name: str) -> Any:
    """The Arrow type of the numbers of an array.

    Raises:
        BadInput: there is no such column, or it holds no lists.
    """
    import pyarrow as pa

    kind: Any = schema.field(name).type if name in schema.names else pa.null()
    if not (pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise BadInput(f"column {name} holds {kind}, lists of numbers are expected")
    return kind.value_type


def _rows_of(column: Any, kind: Any, spec: ArraySpec) -> np.ndarray:
    """The rows (n, *tail) of a column of lists.

    Raises:
        BadInput: an image has no list or one of another length, or a whole number is missing.
    """
    import pyarrow as pa

    width = int(np.prod(spec.tail))
    try:
        even = column.cast(pa.list_(kind, width)).combine_chunks()
    except pa.ArrowException as error:
        raise BadInput(f"column {spec.name}: {width} numbers an image are expected") from error
    flat = even.flatten()
    if even.null_count or (flat.null_count and np.dtype(spec.dtype).kind != "f"):
        raise BadInput(f"column {spec.name}: an image has no value")
    return np.asarray(flat).reshape(-1, *spec.tail)
