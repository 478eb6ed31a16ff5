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
import pyarrow.parquet as pq

from extract.errors import StoreDamaged
from extract.store_files import PARTIAL, Files

FOLDER = "manifest"
VIEW = f"{FOLDER}/view.parquet"
OK = "ok"
_LISTED = ("image_id", "path", "label", "size", "state", "reason")


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
        self._ids = np.empty(0, dtype=object)
        self._n_read = 0

    def image_ids(self) -> np.ndarray:
        """Give the image id of every row, (n_rows,) of `object`."""
        names = self._segments()
        if len(names) > self._n_read:
            parts = [self._ids]
            for name in names[self._n_read :]:
                table = self._segment(name)
                parts.append(table["image_id"].to_numpy(zero_copy_only=False).astype(object))
            self._ids, self._n_read = np.concatenate(parts), len(names)
        return self._ids

    def view(self) -> pd.DataFrame:
        """Give the set as last listed; empty before the first listing."""
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
        good = np.flatnonzero(listing["state"].to_numpy() == OK)
        ids = listing["image_id"].to_numpy()[good].tolist()
        # Plain dictionaries: at a million images five times as fast as pandas' string columns.
        known = {one: row for row, one in enumerate(self.image_ids().tolist())}
        first_at: dict[str, int] = {}
        for at, one in zip(good.tolist(), ids, strict=True):
            if one not in known:
                first_at.setdefault(one, at)
        if first_at:
            before_growth(len(first_at))
            self._append(listing.iloc[list(first_at.values())], len(known))
            known.update(zip(first_at, range(len(known), len(known) + len(first_at)), strict=True))
        rows = np.full(len(listing), -1, dtype=np.int64)
        rows[good] = [known[one] for one in ids]
        listing["row"] = rows
        self._files.write(VIEW, parquet_bytes(listing))
        return listing

    def broken(self) -> list[tuple[str, str]]:
        """Give (file, reason) for segments and the view where they cannot be trusted."""
        found = []
        first = 0
        for name in self._segments():
            try:
                rows = parquet_table(self._files.read(f"{FOLDER}/{name}"))["row"].to_numpy()
                if not np.array_equal(rows, np.arange(first, first + len(rows))):
                    found.append((f"{FOLDER}/{name}", f"its rows do not follow on row {first - 1}"))
                first += len(rows)
            except (ValueError, OSError, KeyError) as error:
                found.append((f"{FOLDER}/{name}", str(error)))
        try:
            self.view()
        except StoreDamaged as error:
            found.append((VIEW, str(error)))
        return found

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
    """Give the columns of a view their types: labels are str or None."""
    label = table["label"].astype(object)
    return pd.DataFrame(
        {
            "row": table["row"].astype(np.int64),
            "image_id": table["image_id"].astype(object),
            "path": table["path"].astype(object),
            "label": label.where(label.notna(), None),
            "size": table["size"].astype(np.int64),
            "state": table["state"].astype(object),
            "reason": table["reason"].astype(object).fillna(""),
        }
    ).reset_index(drop=True)
