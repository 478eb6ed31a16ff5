"""The one reader of small files: JSON, Parquet and NPZ that a store, a run or an index keeps.

Anything may have happened to such a file: it is empty, torn, of other types, or no text at all.
Whoever reads one gets what the file is declared to hold, or one error that names the file, its
fault and the way out. `alike.extract.large_tables` does the same for tables in batches; no other
module parses a stored file (`tests/test_documents.py`).
"""

import io
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from alike.extract.errors import AlikeError, BadInput, StoreDamaged
from alike.extract.identity import seal_of

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
_SEAL = "seal"
SEAL = b"alike_seal"
ATTRS = b"alike"
TEXT, INTEGER, NUMBER, FLAG, ANY = "OUT", "iu", "iuf", "b", ""
"""Kinds of a column: the letters of numpy's types that it may have."""


def damaged(place: str, fault: object, way_out: str) -> StoreDamaged:
    """Give the error of a stored file, in one line."""
    reason = " ".join(str(fault).split())[:300]
    return StoreDamaged(f"{place} is damaged ({reason}); {way_out}", file=place, fault=reason)


def refused(place: str, fault: object, way_out: str) -> AlikeError:
    """Give the error of a file that the user brought: `BadInput`."""
    reason = " ".join(str(fault).split())[:300]
    return BadInput(f"{place} cannot be read ({reason}); {way_out}")


def read_json(
    data: bytes | str, kind: type[T], place: str, way_out: str, *, brought: bool = False
) -> T:
    """Read a JSON document that must be a `kind`.

    Args:
        data: of the file.
        kind: a dataclass (fields with a default may be missing, other keys are left out), or a
            type such as `dict[str, int]`. Types are strict: the text "5" is no number.
        place: name of the file, for the error.
        way_out: what to do about it.
        brought: the user brought the file: the error is `BadInput`.

    Raises:
        StoreDamaged: it is not what it should be.

    Example:
        >>> read_json(b'{"a": 1}', dict[str, int], "card.json", "make it again")
        {'a': 1}
    """
    from pydantic import ValidationError

    try:
        return _adapter(kind).validate_json(data, strict=True)  # type: ignore[no-any-return, arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        at = ".".join(str(part) for part in first["loc"])
        fault = f"{at}: {first['msg']}" if at else first["msg"]
        raise (refused if brought else damaged)(place, fault, way_out) from None


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def read_json_file(path: Path, kind: type[T], way_out: str) -> T:
    """As `read_json`, of a file on the disk; `FileNotFoundError` if there is none."""
    return read_json(path.read_bytes(), kind, str(path), way_out)


def seal(document: Mapping[str, Any]) -> dict[str, Any]:
    """Give a document of JSON with a field more, which tells any change of the others."""
    return {**document, _SEAL: seal_of(document)}


def unseal(document: Mapping[str, Any], place: str, way_out: str) -> dict[str, Any]:
    """Give what was sealed; a document of an earlier version has no seal and is given as it is.

    Raises:
        StoreDamaged: it is not what was sealed.
    """
    content = dict(document)
    wanted = content.pop(_SEAL, None)
    if wanted is not None and wanted != seal_of(content):
        raise damaged(place, "it differs from its own seal", way_out)
    return content


def sealed_json(document: Mapping[str, Any]) -> bytes:
    """Write a JSON document with its seal; numbers that JSON has not become null."""
    plain = json.loads(json.dumps(_finite(document), ensure_ascii=False, allow_nan=False))
    return json.dumps(seal(plain), ensure_ascii=False).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def read_sealed(data: bytes, kind: type[T], place: str, way_out: str) -> T:
    """Read what `sealed_json` wrote, as a `kind`; see `read_json`.

    Raises:
        StoreDamaged: it is torn, altered, or has no seal.
    """
    written = read_json(data, dict[str, Any], place, way_out)
    if _SEAL not in written:
        raise damaged(place, "it has no seal", way_out)
    return read_json(json.dumps(unseal(written, place, way_out)), kind, place, way_out)


def parquet_bytes(
    table: "pd.DataFrame", place: str, attrs: Mapping[str, Any] | None = None
) -> bytes:
    """Write a table as a Parquet file that tells any change: of a page, a column, or its place.

    Parquet's own checksums hold the values. The seal holds what those leave out: the names and
    types of columns, the number of rows, the attributes, and the name of the file.

    Args:
        table: without its index.
        place: name of the file in its store.
        attrs: JSON, kept in the file's metadata.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = pa.Table.from_pandas(table, preserve_index=False)
    text = json.dumps(dict(attrs or {}))
    # Parquet gives some types back as others, such as narrow codes of categories: ask it.
    empty = io.BytesIO()
    pq.write_table(arrow.slice(0, 0), empty)
    seal = seal_of(facts_of(pq.read_schema(empty), arrow.num_rows, place, text))
    metadata = {ATTRS: text.encode(), SEAL: seal.encode()}
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **metadata})
    sink = io.BytesIO()
    pq.write_table(arrow, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def facts_of(schema: Any, rows: int, place: str, text: str) -> list[object]:
    """What the seal of a Parquet file holds: its place, length, columns and attributes."""
    columns = [[name, str(kind)] for name, kind in zip(schema.names, schema.types, strict=True)]
    for_pandas = (schema.metadata or {}).get(b"pandas", b"").decode(errors="replace")
    return [place, rows, columns, text, for_pandas]


def read_arrow(
    data: bytes,
    place: str,
    way_out: str,
    columns: Sequence[str] | None = None,
) -> Any:
    """Read a Parquet file as an Arrow table, its checksums and its seal verified.

    Args:
        data: of the file.
        place: name of the file in its store.
        way_out: what to do about damage.
        columns: some of the columns; the seal is of all, so it is compared only without them.

    Raises:
        StoreDamaged: it cannot be read, or is not what was written to this place.
    """
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
        table = file.read(None if columns is None else list(columns))
        metadata = table.schema.metadata or {}
        text = metadata.get(ATTRS, b"{}").decode()
        sealed = metadata.get(SEAL)
        if columns is not None:
            missing = sorted(set(columns) - set(table.column_names))
            if missing:
                raise ValueError(f"it has no column {missing[0]}")
        table.validate(full=True)
    # A damaged Parquet file makes its reader raise anything.
    except Exception as error:
        raise damaged(place, error, way_out) from None
    # The seal stands in the file twice: one flipped bit cannot make it a file of earlier versions.
    if columns is None and (sealed is not None or SEAL in data):
        wanted = seal_of(facts_of(table.schema, table.num_rows, place, text)).encode()
        if wanted != sealed:
            raise damaged(place, "it is not what was written here", way_out)
    return table


def read_table(
    data: bytes,
    place: str,
    way_out: str,
    columns: Mapping[str, str] | None = None,
) -> tuple["pd.DataFrame", dict[str, Any]]:
    """Read a Parquet file as a table with its attributes.

    Args:
        data: of the file.
        place: name of the file in its store.
        way_out: what to do about damage.
        columns: columns that it must have, and the kind of each.

    Raises:
        StoreDamaged: as `read_arrow`, or a column is missing or of another kind.
    """
    arrow = read_arrow(data, place, way_out)
    attrs = read_json(
        (arrow.schema.metadata or {}).get(ATTRS, b"{}"), dict[str, Any], place, way_out
    )
    try:
        table = arrow.to_pandas()
    # As above: the metadata for pandas may say anything.
    except Exception as error:
        raise damaged(place, error, way_out) from None
    need_columns(table, columns or {}, place, way_out)
    return table, attrs


def arrow_bytes(table: Any) -> bytes:
    """Write an Arrow table as an uncompressed file for `map_arrow`; no checksum is inside."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def map_arrow(path: Path) -> Any:
    """Give the Arrow table of a file whose checksum holds: pages are read as they are touched."""
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def need_columns(
    table: "pd.DataFrame", columns: Mapping[str, str], place: str, way_out: str
) -> None:
    """Raise `StoreDamaged` if a table lacks a column or holds another kind in it."""
    for name, kinds in columns.items():
        if name not in table.columns:
            raise damaged(place, f"it has no column {name}", way_out)
        kind = getattr(table[name].dtype, "kind", "O")
        if kinds and len(table) and kind not in kinds:
            raise damaged(place, f"column {name} holds {table[name].dtype}", way_out)


def read_npz(data: bytes, place: str, way_out: str) -> dict[str, np.ndarray]:
    """Read all members of an NPZ file, without running anything in it.

    Raises:
        StoreDamaged: it is none, or a checksum does not hold.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as members:
            return {name: np.asarray(members[name]) for name in members.files}
    # A damaged ZIP file makes its reader raise anything: zlib.error, NotImplementedError…
    except Exception as error:
        raise damaged(place, error or type(error).__name__, way_out) from None
