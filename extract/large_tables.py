"""Tables that may be larger than memory, written and read in batches.

A `ParquetFile` has the checksums and the seal of `alike.extract.documents`, which reads it too. A
`ScratchTable` is a file of one process, gone when its work is done.
"""

import io
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from alike.extract.documents import ATTRS, SEAL, damaged, facts_of, read_json
from alike.extract.identity import seal_of

BATCH = 1 << 14
"""Rows that are in memory at a time; some 4 MB of a listing."""
WAITING = 1 << 17
"""Rows of `PartitionedIds` that wait for their file, some 10 MB."""
PART_KEY = "alike image part"
"""Key of the hash that divides; nothing depends on it that stays."""
_NUMBERED = pa.schema([("id", pa.string()), ("number", pa.int64())])
_EMPTY = pa.RecordBatch.from_pylist([], _NUMBERED)


class Batches(Protocol):
    """A table in batches: a `pyarrow.Table`, or one of a file."""

    @property
    def num_rows(self) -> int:
        """Rows of all batches."""

    def to_batches(self) -> Iterable[pa.RecordBatch]:
        """The rows in their order, from the first again at every call."""


class ScratchTable:
    """A table in a file that this process writes and deletes."""

    def __init__(self, path: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> None:
        """Write the file.

        Args:
            path: of the file.
            batches: of any size; joined to `BATCH` rows.
            schema: of all of them.
        """
        self._path = path
        self.num_rows = 0
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with (
            pa.OSFile(str(path), "wb") as sink,
            pa.ipc.new_stream(sink, schema, options=options) as writer,
        ):
            for table in joined(batches, schema):
                writer.write_table(table)
                self.num_rows += table.num_rows

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        """See `Batches`."""
        # Not mapped: pages of a mapped file count as memory of the process.
        with pa.OSFile(str(self._path)) as file, pa.ipc.open_stream(file) as reader:
            yield from reader

    def remove(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)


class ParquetFile:
    """A Parquet file of a store, its checksums and its seal verified.

    Attributes:
        num_rows: of all batches.
        attrs: that it was written with.
        place: name of the file in its store.
    """

    def __init__(
        self,
        source: Path | bytes,
        place: str,
        way_out: str,
        columns: Sequence[str],
    ) -> None:
        """Open the file.

        Args:
            source: a local file, or what one holds.
            place: name of the file in its store.
            way_out: what to do about damage.
            columns: that are read.

        Raises:
            StoreDamaged: it cannot be read, lacks a column, or is not what was written here.
        """
        self.place, self._way_out, self._columns = place, way_out, list(columns)
        try:
            opened = io.BytesIO(source) if isinstance(source, bytes) else str(source)
            self._file = pq.ParquetFile(opened, page_checksum_verification=True)
            schema, self.num_rows = self._file.schema_arrow, self._file.metadata.num_rows
            text = (schema.metadata or {}).get(ATTRS, b"{}").decode()
            footer = _footer(source)
        # A damaged Parquet file makes its reader raise anything.
        except Exception as error:
            raise damaged(place, error, way_out) from None
        sealed = (schema.metadata or {}).get(SEAL)
        # As in `documents.read_arrow`: one flipped bit cannot make it a file of earlier versions.
        if sealed is not None or SEAL in footer:
            wanted = seal_of(facts_of(schema, self.num_rows, place, text)).encode()
            if wanted != sealed:
                raise damaged(place, "it is not what was written here", way_out)
        missing = sorted(set(columns) - set(schema.names))
        if missing:
            raise damaged(place, f"it has no column {missing[0]}", way_out)
        self.attrs: dict[str, Any] = read_json(text, dict[str, Any], place, way_out)

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        """See `Batches`.

        Raises:
            StoreDamaged: a checksum does not hold.
        """
        for group in range(self._file.num_row_groups):
            try:
                # Not `iter_batches`, which holds what it gave until the file is closed.
                table = self._file.read_row_group(group, self._columns, use_threads=False)
                table.validate(full=True)
            # As above.
            except Exception as error:
                raise damaged(self.place, error, self._way_out) from None
            yield from table.to_batches(BATCH)


def _footer(source: Path | bytes) -> bytes:
    """The end of a Parquet file, which holds its metadata."""
    if isinstance(source, bytes):
        size = int.from_bytes(source[-8:-4], "little")
        return source[-size - 8 :]
    with source.open("rb") as file:
        end = file.seek(0, io.SEEK_END)
        file.seek(end - 8)
        size = int.from_bytes(file.read(4), "little")
        file.seek(max(end - size - 8, 0))
        return file.read()


def write_parquet(
    path: Path,
    like: pd.DataFrame,
    rows: int,
    place: str,
    batches: Iterable[pa.RecordBatch],
    attrs: Mapping[str, Any] | None = None,
) -> None:
    """Write a file that `documents.read_table` and `ParquetFile` read.

    Args:
        path: of the file.
        like: a row with the types of all.
        rows: of all batches.
        place: name of the file in its store.
        batches: with the columns of `like`.
        attrs: JSON, kept in the file's metadata.

    Raises:
        ValueError: the batches have another number of rows.
    """
    plain = pa.Schema.from_pandas(like, preserve_index=False)
    text = json.dumps(dict(attrs or {}))
    seal = seal_of(facts_of(plain, rows, place, text))
    metadata = {**plain.metadata, ATTRS: text.encode(), SEAL: seal.encode()}
    schema = plain.with_metadata(metadata)
    written = 0
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        for table in joined(batches, plain):
            writer.write_table(table.cast(plain).replace_schema_metadata(metadata))
            written += table.num_rows
        if not rows:
            writer.write_table(schema.empty_table())
    if written != rows:
        raise ValueError(f"{rows} rows of {place} were announced, {written} came")


def joined(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Tables of `BATCH` rows or some more, the last of fewer; columns in the order of a schema."""
    waiting: list[pa.RecordBatch] = []
    held = 0
    for batch in batches:
        waiting.append(batch.select(schema.names))
        held += batch.num_rows
        if held >= BATCH:
            yield pa.Table.from_batches(waiting).combine_chunks()
            waiting, held = [], 0
    if held:
        yield pa.Table.from_batches(waiting).combine_chunks()


class PartitionedIds:
    """Texts with a number each, divided by a hash of the text; one part fits into memory."""

    def __init__(self, folder: Path, parts: int) -> None:
        """Begin.

        Args:
            folder: for the files.
            parts: number of parts; a single one stays in memory.
        """
        self._folder = folder
        self._parts: list[list[pa.RecordBatch]] = [[] for _ in range(parts)]
        self._waiting = 0
        self._files: list[Path] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.unlink(missing_ok=True)

    def add(self, ids: pa.Array, numbers: np.ndarray) -> None:
        """Add (n,) texts with their (n,) int64 numbers."""
        batch = pa.record_batch([ids.cast(pa.string()), pa.array(numbers, pa.int64())], _NUMBERED)
        if len(self._parts) == 1:
            self._parts[0].append(batch)
            return
        parts = hashes(texts(batch, "id"), PART_KEY) % np.uint64(len(self._parts))
        order = np.argsort(parts, kind="stable")
        ends = np.searchsorted(parts[order], np.arange(len(self._parts) + 1))
        sorted_ = batch.take(pa.array(order))
        for part, (low, high) in enumerate(pairwise(ends.tolist())):
            if high > low:
                self._parts[part].append(sorted_.slice(low, high - low))
        self._waiting += batch.num_rows
        if self._waiting >= WAITING:
            self._write()

    def part(self, number: int) -> tuple[pa.ChunkedArray, np.ndarray]:
        """Give the texts of a part with their numbers, in the order in which they were added."""
        batches = [batch for file in self._files for batch in _batch_at(file, number)]
        table = pa.Table.from_batches([*batches, *self._parts[number]], _NUMBERED)
        return table["id"], table["number"].to_numpy()

    def _write(self) -> None:
        """Write what waits: a file with a batch a part."""
        file = self._folder / f"ids.{secrets.token_hex(8)}.partial"
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, _NUMBERED) as writer:
            for batches in self._parts:
                table = pa.Table.from_batches(batches, _NUMBERED).combine_chunks()
                (batch,) = table.to_batches() or [_EMPTY]
                writer.write_batch(batch)
        self._files.append(file)
        self._parts = [[] for _ in self._parts]
        self._waiting = 0


def _batch_at(file: Path, number: int) -> list[pa.RecordBatch]:
    with pa.OSFile(str(file)) as source, pa.ipc.open_file(source) as reader:
        return [reader.get_batch(number)]


def texts(batch: pa.RecordBatch, name: str) -> np.ndarray:
    """A column of text as (n,) of `object`: str or None."""
    values: np.ndarray = batch[name].cast(pa.string()).to_numpy(zero_copy_only=False)
    return values


def hashes(values: np.ndarray, key: str) -> np.ndarray:
    """Hash each of (n,) texts to 64 bits by SipHash; other keys of 16 letters give others."""
    hashed: np.ndarray = pd.util.hash_array(values, hash_key=key, categorize=False)
    return hashed
