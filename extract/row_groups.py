"""Parquet files that are written part by part, in row groups of a size that readers plan by."""

from pathlib import Path
from typing import Any, Self

GROUP = 64 << 20
"""Bytes of a row group, as Arrow holds them; the last may be smaller."""


class RowGroups:
    """Writes a Parquet file in row groups of about `GROUP` bytes, however small the parts are.

    Readers skip, read and decompress whole row groups: thousands of small ones cost them more than
    the rows do.

    Example:
        >>> import pyarrow as pa, pyarrow.parquet as pq, tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.parquet"
        >>> with RowGroups(path) as groups:
        ...     groups.add(pa.table({"a": [1]}))
        ...     groups.add(pa.table({"a": [2, 3]}))
        >>> pq.ParquetFile(path).num_row_groups
        1
    """

    def __init__(self, path: Path, schema: Any = None, **options: Any) -> None:
        """Begin.

        Args:
            path: of the file.
            schema: of the rows; None: that of the first part, and no file without one.
            options: given to `pyarrow.parquet.ParquetWriter`.
        """
        self._path = path
        self._options = options
        self._parts: list[Any] = []
        self._bytes = 0
        self._writer: Any = None
        if schema is not None:
            self._begin(schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._writer is not None:
            if kind is None:
                self._flush()
            self._writer.close()

    def add(self, table: Any) -> None:
        """Take rows: an Arrow table of the file's schema."""
        if self._writer is None:
            self._begin(table.schema)
        self._parts.append(table.cast(self._writer.schema))
        self._bytes += table.nbytes
        if self._bytes >= GROUP:
            self._flush()

    def note(self, metadata: dict[str, str]) -> None:
        """Add to the file's metadata, which is written last."""
        self._writer.add_key_value_metadata(metadata)

    def _begin(self, schema: Any) -> None:
        import pyarrow.parquet as pq

        self._writer = pq.ParquetWriter(self._path, schema, **self._options)

    def _flush(self) -> None:
        import pyarrow as pa

        if self._parts:
            table = pa.concat_tables(self._parts)
            self._parts, self._bytes = [], 0
            self._writer.write_table(table, row_group_size=max(len(table), 1))
