"""The manifest: which image a row belongs to (for ever), and which images are in the set now.

`manifest/seg-000003.parquet` gives rows to images that are new; segments never change.
`manifest/view.parquet` is the set as last listed: it is replaced as a whole, so that renames, new
labels and removals cost nothing.
"""

import io
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from alike.extract.errors import StoreDamaged
from alike.extract.store.files import PARTIAL, Files, Stamp

FOLDER = "manifest"
VIEW = f"{FOLDER}/view.parquet"
OK = "ok"
_LISTED = ("image_id", "path", "label", "subset", "size", "state", "reason")


def parquet_bytes(table: pd.DataFrame, metadata: dict[bytes, bytes] | None = None) -> bytes:
    """Write a table as a Parquet file with a checksum on every page."""
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **(metadata or {})})
    sink = io.BytesIO()
    pq.write_table(arrow, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def parquet_table(data: bytes, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file, its checksums verified."""
    return pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True).read(columns)


class Manifest:
    """Rows and the current view of one store."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._view: tuple[Stamp | None, pd.DataFrame] | None = None
        self._read: tuple[int, pa.ChunkedArray] = (0, pa.chunked_array([], pa.string()))

    @property
    def n_rows(self) -> int:
        """Rows that were given to images."""
        return len(self._all_ids())

    def image_ids(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Give the image ids of a range of rows (None: to the last), (n,) of `object`."""
        ids = self._all_ids()
        stop = len(ids) if stop is None else stop
        return np.array(ids.slice(start, stop - start).to_pylist(), dtype=object)

    def _all_ids(self) -> pa.ChunkedArray:
        names = self._segments()
        n_read, ids = self._read
        if len(names) > n_read:
            new = [self._segment(name)["image_id"].cast(pa.string()) for name in names[n_read:]]
            ids = pa.chunked_array([one for column in (ids, *new) for one in column.chunks])
            # One assignment: threads that verify ask at once.
            self._read = len(names), ids
        return ids

    def view_stamp(self) -> Stamp | None:
        """Changes with every listing; None before the first."""
        return self._files.listing(FOLDER).get(VIEW.removeprefix(f"{FOLDER}/"))

    def view(self) -> pd.DataFrame:
        """Give the set as last listed; empty before the first listing."""
        stamp = self.view_stamp()
        if stamp is None or self._view is None or self._view[0] != stamp:
            self._view = (stamp, self._read_view())
        return self._view[1].copy()

    def _read_view(self) -> pd.DataFrame:
        try:
            data = self._files.read(VIEW)
        except FileNotFoundError:
            return _typed(pd.DataFrame(columns=["row", *_LISTED]))
        try:
            return _typed(parquet_table(data).to_pandas())
        except (ValueError, OSError, KeyError) as error:
            raise StoreDamaged(
                f"{VIEW} is damaged ({error}); `alike extract` makes it anew"
            ) from error

    def list_images(
        self, listing: pd.DataFrame, before_growth: Callable[[int], None]
    ) -> pd.DataFrame:
        """Give rows to new images and make the view this listing; see `Store.list_images`.

        Args:
            listing: the images.
            before_growth: called with the number of new images before anything is written; may
                refuse them by raising.
        """
        listing = _typed(listing.assign(row=-1))
        # In columns throughout: a Python object for each image would be most of the memory.
        good = np.flatnonzero(listing["state"] == OK)
        ids = pa.Table.from_pandas(listing[["image_id"]].iloc[good], preserve_index=False)[0]
        stored_ids = self._all_ids()
        rows = pc.index_in(ids, stored_ids.cast(ids.type)).fill_null(-1).to_numpy().astype(np.int64)
        new = np.flatnonzero(rows < 0)
        if len(new):
            # Numbered in order of first appearance: two new files with the same bytes share a row.
            coded = ids.take(pa.array(new)).combine_chunks().dictionary_encode()
            codes = coded.indices.to_numpy()
            _, first = np.unique(codes, return_index=True)
            before_growth(len(first))
            self._append(listing.iloc[good[new[first]]], len(stored_ids))
            rows[new] = codes + len(stored_ids)
        listing.loc[good, "row"] = rows
        self._files.write(VIEW, parquet_bytes(listing))
        return listing

    def broken(self) -> list[tuple[str, str]]:
        """Give (file, reason) for segments and the view if they cannot be trusted."""
        faults = []
        first = 0
        for name in self._segments():
            try:
                rows = parquet_table(self._files.read(f"{FOLDER}/{name}"))["row"].to_numpy()
                if not np.array_equal(rows, np.arange(first, first + len(rows))):
                    faults.append(
                        (f"{FOLDER}/{name}", f"its rows do not follow on row {first - 1}")
                    )
                first += len(rows)
            except (ValueError, OSError, KeyError) as error:
                faults.append((f"{FOLDER}/{name}", str(error)))
        try:
            self.view()
        except StoreDamaged as error:
            faults.append((VIEW, str(error)))
        return faults

    def _append(self, new: pd.DataFrame, first: int) -> None:
        segment = new[["image_id", "path", "label", "size"]].reset_index(drop=True)
        segment.insert(0, "row", np.arange(first, first + len(segment), dtype=np.int64))
        name = f"{FOLDER}/seg-{len(self._segments()):06d}.parquet"
        if not self._files.create(name, parquet_bytes(segment)):
            raise RuntimeError(f"{name} appeared meanwhile: two listings ran without the lock")

    def _segment(self, name: str) -> pa.Table:
        try:
            return parquet_table(self._files.read(f"{FOLDER}/{name}"), ["image_id"])
        except (ValueError, OSError, KeyError) as error:
            raise StoreDamaged(
                f"{FOLDER}/{name} is damaged ({error}); restore it from a copy: it says which "
                "image a row belongs to"
            ) from error

    def _segments(self) -> list[str]:
        names = self._files.listing(FOLDER)
        return sorted(name for name in names if name.startswith("seg-") and PARTIAL not in name)


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """Give the columns of a view their types: text in columns, labels and subsets str or None."""
    text = {name: table[name].astype("str") for name in ("image_id", "path", "state")}
    return pd.DataFrame(
        {
            "row": table["row"].astype(np.int64),
            "image_id": text["image_id"],
            "path": text["path"],
            "label": _names(table, "label"),
            "subset": _names(table, "subset"),
            "size": table["size"].astype(np.int64),
            "state": text["state"],
            "reason": table["reason"].fillna("").astype("str"),
        }
    ).reset_index(drop=True)


def _names(table: pd.DataFrame, column: str) -> pd.Series:
    """A column of names, None where there is none; a view of version 0.1 has no subsets."""
    if column not in table:
        return pd.Series(None, table.index, dtype=object)
    # Few names for many images: each is one object.
    codes, names = pd.factorize(table[column])
    return pd.Series(np.array([*names, None], dtype=object)[codes], table.index, dtype=object)
