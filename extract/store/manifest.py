"""The manifest: which image a row belongs to (for ever), and which images are in the set now.

`manifest/seg-000003.parquet` gives rows to images that are new; segments never change, unless an
image is forgotten: then a placeholder stands for its id.
`manifest/view.parquet` is the set as last listed: it is replaced as a whole, so that renames, new
labels and removals cost nothing.
"""

import re
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from alike.extract.documents import (
    INTEGER,
    SEAL,
    TEXT,
    damaged,
    need_columns,
    parquet_bytes,
    read_arrow,
    read_table,
)
from alike.extract.errors import AlikeError, StoreDamaged
from alike.extract.large_tables import BATCH, Batches, ParquetFile, PartitionedIds, write_parquet
from alike.extract.store.files import PARTIAL, Files, Stamp
from alike.extract.store.lookup import ImageTable, image_table
from alike.extract.store.mapped import MappedTables

FOLDER = "manifest"
VIEW = f"{FOLDER}/view.parquet"
REMOVED = f"{FOLDER}/removed.parquet"
OK = "ok"
_SEGMENT = re.compile(r"seg-(\d{6})\.parquet")
_ID = re.compile(r"[0-9a-f]{64}")
_RESTORE = "restore it from a copy: it says which image a row belongs to"
_AGAIN = "`alike extract` makes it anew"
_VIEW = {
    "row": INTEGER, "image_id": TEXT, "path": TEXT, "label": TEXT, "size": INTEGER, "state": TEXT,
    "reason": TEXT,
}  # fmt: skip
_REMOVED = {"row": INTEGER, "since": INTEGER}
PART = 1 << 17
"""Image ids that are joined at a time."""
_VIEW_LIKE = pd.DataFrame(
    {
        "row": np.zeros(1, np.int64),
        "image_id": pd.Series(["x"], dtype="str"),
        "path": pd.Series(["x"], dtype="str"),
        "label": pd.Series(["x"], dtype=object),
        "subset": pd.Series(["x"], dtype=object),
        "size": np.zeros(1, np.int64),
        "state": pd.Series(["x"], dtype="str"),
        "reason": pd.Series(["x"], dtype="str"),
    }
)
_SEGMENT_LIKE = _VIEW_LIKE[["row", "image_id", "path", "label", "size"]]
_LISTED = ("image_id", "path", "label", "subset", "size", "state", "reason")


def placeholder(row: int) -> str:
    """Give what stands in the place of the id of an image that was forgotten: no hash of any.

    Example:
        >>> placeholder(255)[-4:], is_placeholder(placeholder(255))
        ('00ff', True)
    """
    return f"{row:064x}"


def is_placeholder(image_id: str) -> bool:
    """Say whether an id stands for a forgotten image."""
    return image_id.startswith("0" * 48)


class Manifest:
    """Rows and the current view of one store."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._view: tuple[Stamp | None, pd.DataFrame] | None = None
        self._read: tuple[list[Stamp], pa.ChunkedArray] = ([], pa.chunked_array([], pa.string()))
        self._mapped = MappedTables(files, FOLDER)
        self._table: tuple[Stamp | None, ImageTable] | None = None

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
        segments = self._segments()
        names, stamps = list(segments), list(segments.values())
        read, ids = self._read
        if stamps != read:
            if read and stamps[: len(read)] == read:
                ids = self._more_ids(ids, names[len(read) :])
            else:
                # None read yet, or one was replaced: an image was forgotten.
                ids = pa.chunked_array([], pa.string())
                table = self._mapped.table(
                    "ids", names, lambda: pa.table({"image_id": self._more_ids(ids, names)})
                )
                ids = table["image_id"]
            # One assignment: threads that verify ask at once.
            self._read = stamps, ids
        return ids

    def _more_ids(self, ids: pa.ChunkedArray, names: list[str]) -> pa.ChunkedArray:
        for name in names:
            new = self._segment(name, len(ids))
            ids = pa.chunked_array([*ids.chunks, *new.chunks], pa.string())
        return ids

    def table(self) -> ImageTable:
        """Give the images of the view that have a row, as a look-up that takes little memory."""
        stamp = self.view_stamp()
        if self._table is None or stamp is None or self._table[0] != stamp:
            ids, names = self._all_ids(), [*self._segments(), VIEW.removeprefix(f"{FOLDER}/")]
            columns = self._mapped.table("images", names, lambda: image_table(self.view(), ids))
            self._table = (stamp, ImageTable(columns, ids))
        return self._table[1]

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
            if self._segments():
                raise damaged(VIEW, "is missing", _AGAIN) from None
            return _typed(pd.DataFrame(columns=["row", *_LISTED]))
        table, _ = read_table(data, VIEW, _AGAIN, _VIEW)
        # A store of 0.1 has no subsets.
        need_columns(table, {"subset": TEXT} if "subset" in table else {}, VIEW, _AGAIN)
        try:
            view = _typed(table)
        except (ValueError, TypeError, OverflowError) as error:
            raise damaged(VIEW, error, _AGAIN) from error
        self._check_view(view)
        return view

    def _check_view(self, view: pd.DataFrame) -> None:
        """Refuse a view that gives rows to other images than the segments do."""
        rows, ids = view["row"].to_numpy(), self._all_ids()
        if len(rows) and rows.max() >= len(ids):
            mismatch = f"it holds row {rows.max()}, the segments {len(ids)} rows: one is gone"
            raise damaged(FOLDER, mismatch, _RESTORE)
        listed = view["image_id"].array
        # In parts: all ids once more would be most of what a view takes.
        for low in range(0, len(rows), BATCH):
            part = rows[low : low + BATCH]
            at = np.flatnonzero(part >= 0)
            if not len(at):
                continue
            wanted = pa.array(listed[low : low + BATCH][at], pa.string())
            if not pc.all(pc.equal(ids.take(pa.array(part[at])), wanted)).as_py():
                raise damaged(VIEW, "its rows belong to other images", _AGAIN)

    def list_images(
        self,
        listing: Batches,
        before_growth: Callable[[int], None],
        now: float,
    ) -> tuple[np.ndarray, int]:
        """Give rows to new images and make the view this listing; see `Store.list_batches`.

        Args:
            listing: the images, with the columns of `_LISTED`.
            before_growth: called with the number of new images before anything is written; may
                refuse them by raising.
            now: seconds since 1970, for images that left the set.

        Returns:
            (N,) int64 rows, -1 of images that cannot be read; number of new rows.
        """
        with self._files.scratch() as scratch:
            segments = self._segment_files(scratch)
            rows, first = rows_of_listing(listing, segments, scratch)
            n_new, n_before = int(first.sum()), sum(one.num_rows for one in segments)
            if n_new:
                before_growth(n_new)
                name = f"{FOLDER}/seg-{len(segments):06d}.parquet"
                file = scratch / f"{uuid.uuid4().hex}{PARTIAL}"
                batches = _new_images(listing, rows, first, n_before)
                write_parquet(file, _SEGMENT_LIKE, n_new, name, batches)
                if not self._files.put(name, file, new=True):
                    raise damaged(name, "something else stands in its place", _RESTORE)
            file = scratch / f"{uuid.uuid4().hex}{PARTIAL}"
            write_parquet(file, _VIEW_LIKE, len(rows), VIEW, _with_rows(listing, rows))
            self._files.put(VIEW, file)
            self.note_removed(now, rows, segments, n_before + n_new)
        return rows, n_new

    def _segment_files(self, scratch: Path) -> list[ParquetFile]:
        """The segments, to be read in batches."""
        files = []
        for name, stamp in self._segments().items():
            place = f"{FOLDER}/{name}"
            source = self._files.local(place, scratch, stamp.size)
            files.append(ParquetFile(source, place, _RESTORE, ["row", "image_id"]))
        return files

    def leave_out(self, rows: np.ndarray, image_ids: Collection[str]) -> None:
        """Take images out of the view: rows, and unreadable files with one of these ids."""
        view = self.view()
        unread = (view["row"] < 0) & view["image_id"].isin(list(image_ids))
        gone = view["row"].isin(rows) | unread
        if gone.any():
            rest = view[~gone].reset_index(drop=True)
            self._files.write(VIEW, parquet_bytes(rest, VIEW))

    def removed(self) -> pd.DataFrame:
        """Give row, since (seconds since 1970) of images that are not in the set any more.

        Since is the time of the listing that missed an image first.
        """
        try:
            return read_table(self._files.read(REMOVED), REMOVED, _AGAIN, _REMOVED)[0]
        except (FileNotFoundError, StoreDamaged):
            # Only when images left is lost: the next listing says that they did by now.
            empty = np.zeros(0, dtype=np.int64)
            return pd.DataFrame({"row": empty, "since": empty})

    def note_removed(
        self, now: float, listed: np.ndarray, segments: list[ParquetFile], n_rows: int
    ) -> None:
        """Take down which images are not in the view, and since when: now, or as taken down.

        Args:
            now: seconds since 1970.
            listed: rows of the view.
            segments: as they were before this listing.
            n_rows: rows that there are now; those of no segment are new.
        """
        absent = np.ones(n_rows, dtype=bool)
        for low in range(0, len(listed), BATCH):
            some = listed[low : low + BATCH]
            absent[some[some >= 0]] = False
        if absent.any():
            for start, batch in _numbered(segments):
                gone = np.flatnonzero(absent[start : start + batch.num_rows])
                if len(gone):
                    ids = batch["image_id"].cast(pa.string()).take(pa.array(gone))
                    forgotten = pc.starts_with(ids, placeholder(0)[:48])
                    absent[start + gone[forgotten.to_numpy(zero_copy_only=False)]] = False
        rows = np.flatnonzero(absent)
        before = self.removed()
        since = pd.Series(before["since"].to_numpy(), before["row"].to_numpy())
        times = since.reindex(rows).fillna(int(now)).to_numpy().astype(np.int64)
        table = pd.DataFrame({"row": rows.astype(np.int64), "since": times})
        if not table.equals(before.astype(np.int64)):
            self._files.write(REMOVED, parquet_bytes(table, REMOVED))

    def forget(self, rows: np.ndarray) -> None:
        """Replace the ids of rows by placeholders, and their paths, labels and sizes by nothing."""
        for name in self._segments():
            place = f"{FOLDER}/{name}"
            segment, _ = read_table(self._files.read(place), place, _RESTORE)
            mine = segment["row"].isin(rows)
            ids = segment["row"].map(placeholder)
            if not mine.any() or (segment["image_id"] == ids)[mine].all():
                continue
            segment = segment.assign(
                image_id=segment["image_id"].mask(mine, ids),
                path=segment["path"].mask(mine, ""),
                label=segment["label"].astype(object).mask(mine, None),
                size=segment["size"].mask(mine, 0),
            )
            self._files.write(place, parquet_bytes(segment, place))
        removed = self.removed()
        if removed["row"].isin(rows).any():
            rest = removed[~removed["row"].isin(rows)].reset_index(drop=True)
            self._files.write(REMOVED, parquet_bytes(rest, REMOVED))

    def rows_of(self, image_ids: Sequence[str]) -> dict[str, int]:
        """Give the rows of images, removed ones too; those without one are left out."""
        at = pc.index_in(pa.array(list(image_ids), pa.string()), self._all_ids()).to_pylist()
        return {one: row for one, row in zip(image_ids, at, strict=True) if row is not None}

    def rows_at(self, path: str) -> list[int]:
        """Give the rows of images that were new under a path, or are listed there now."""
        if not path:
            # The path of those that were forgotten is empty.
            return []
        view = self.view()
        rows = set(view["row"][(view["path"] == path) & (view["row"] >= 0)].tolist())
        for name in () if rows else self._segments():
            place = f"{FOLDER}/{name}"
            segment = read_arrow(self._files.read(place), place, _RESTORE, ["row", "path"])
            mine = pc.equal(segment["path"].cast(pa.string()), path)
            rows |= set(segment["row"].filter(mine).to_pylist())
        return sorted(rows)

    def broken(self) -> list[tuple[str, str]]:
        """Give (file, reason) for segments and the view if they cannot be trusted."""
        faults = []
        try:
            names = list(self._segments())
        except StoreDamaged as error:
            return [(error.file, error.fault)]
        first: int | None = 0
        for name in names:
            place = f"{FOLDER}/{name}"
            try:
                ids = self._segment(name, first)
                # All columns, and the seal over them.
                read_arrow(self._files.read(place), place, _RESTORE)
                first = None if first is None else first + len(ids)
                if not all(_ID.fullmatch(str(one)) for one in ids.to_pylist()):
                    faults.append((place, "it names no image by its hash"))
            except StoreDamaged as error:
                first = None
                faults.append((error.file, error.fault))
        if not faults:
            try:
                self._read_view()
            except StoreDamaged as error:
                faults.append((error.file, error.fault))
        if self._files.size(REMOVED) is not None:
            try:
                read_table(self._files.read(REMOVED), REMOVED, _AGAIN, _REMOVED)
            except StoreDamaged as error:
                faults.append((error.file, error.fault))
        return faults

    def unsealed(self) -> list[str]:
        """Give the segments and the view that have no seal: a version before seals wrote them."""
        view = [VIEW] if self.view_stamp() is not None else []
        places = [*(f"{FOLDER}/{name}" for name in self._segments()), *view]
        return [place for place in places if SEAL not in self._files.read(place)]

    def seal(self, place: str) -> None:
        """Write a segment or the view with a seal and checksums; what it says stays.

        Raises:
            StoreDamaged: it cannot be read, or not as it was once it is written anew.
        """
        if place == VIEW:
            table, like = self._read_view(), _VIEW_LIKE
        else:
            table, _ = read_table(self._files.read(place), place, _RESTORE)
            like = _SEGMENT_LIKE
        batches = pa.Table.from_pandas(table, preserve_index=False).to_batches()
        with self._files.scratch() as scratch:
            file = scratch / f"{uuid.uuid4().hex}{PARTIAL}"
            write_parquet(file, like, len(table), place, batches)
            again, _ = read_table(file.read_bytes(), place, _RESTORE)
            if _values(table) != _values(again):
                raise damaged(place, "it changes when it is written anew", _RESTORE)
            self._files.put(place, file)

    def _segment(self, name: str, first: int | None) -> pa.ChunkedArray:
        """Read the image ids of a segment, which must begin at row `first` (None: any)."""
        place = f"{FOLDER}/{name}"
        table = read_arrow(self._files.read(place), place, _RESTORE, ["row", "image_id"])
        try:
            rows = table["row"].to_numpy()
            ids: pa.ChunkedArray = table["image_id"].cast(pa.string())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise damaged(place, error, _RESTORE) from error
        start = first if first is not None else (int(rows[0]) if len(rows) else 0)
        if not np.array_equal(rows, np.arange(start, start + len(rows))) or ids.null_count:
            raise damaged(place, f"its rows do not follow on row {start - 1}", _RESTORE)
        return ids

    def _segments(self) -> dict[str, Stamp]:
        stamps = self._files.listing(FOLDER)
        names = sorted(name for name in stamps if _SEGMENT.fullmatch(name))
        for number, name in enumerate(names):
            wanted = f"seg-{number:06d}.parquet"
            if name != wanted:
                raise damaged(f"{FOLDER}/{wanted}", "is missing", _RESTORE)
        return {name: stamps[name] for name in names}


def _values(table: pd.DataFrame) -> dict[str, list[object]]:
    """The columns of a table as lists, None for what is missing."""
    plain = table.astype(object)
    values: dict[str, list[object]] = plain.where(table.notna(), None).to_dict("list")
    return values


def listed_batches(listing: pd.DataFrame) -> pa.Table:
    """Give a listing as `Manifest.list_images` takes it."""
    typed = _typed(listing.assign(row=-1))
    return pa.Table.from_pandas(typed, preserve_index=False)


def view_of(listing: pd.DataFrame, rows: np.ndarray) -> pd.DataFrame:
    """Give the view that a listing with these rows becomes."""
    return _typed(listing.assign(row=rows))


def _numbered(segments: list[ParquetFile]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Batches of all segments, each with its first row.

    Raises:
        StoreDamaged: the rows do not follow on each other.
    """
    start = 0
    for segment in segments:
        for batch in segment.to_batches():
            follows = np.array_equal(
                batch["row"].to_numpy(), np.arange(start, start + batch.num_rows)
            )
            if not follows or batch["image_id"].null_count:
                fault = f"its rows do not follow on row {start - 1}"
                raise damaged(segment.place, fault, _RESTORE)
            yield start, batch
            start += batch.num_rows


def rows_of_listing(
    listing: Batches, segments: list[ParquetFile], scratch: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Look up the rows of images, and number those that are new in order of first appearance.

    The ids are joined part by part, by a hash of each, so that memory holds those of one part.

    Args:
        listing: the images.
        segments: that give rows.
        scratch: a folder.

    Returns:
        (N,) int64 rows, -1 of images that cannot be read; (N,) bool: the first of a new row.
    """
    n_stored = sum(one.num_rows for one in segments)
    n_parts = max(-(-max(n_stored, listing.num_rows) // PART), 1)
    rows, first = np.full(listing.num_rows, -1, np.int64), np.zeros(listing.num_rows, dtype=bool)
    with (
        PartitionedIds(scratch, n_parts) as stored,
        PartitionedIds(scratch, n_parts) as listed,
    ):
        for start, batch in _numbered(segments):
            stored.add(batch["image_id"], np.arange(start, start + batch.num_rows))
        start = 0
        for batch in listing.to_batches():
            good = np.flatnonzero(pc.equal(batch["state"], OK).to_numpy(zero_copy_only=False))
            listed.add(batch["image_id"].take(pa.array(good)), start + good)
            start += batch.num_rows
        for part in range(n_parts):
            ids, places = listed.part(part)
            old_ids, old_rows = stored.part(part)
            at = pc.index_in(ids, old_ids).fill_null(-1).to_numpy()
            rows[places[at >= 0]] = old_rows[at[at >= 0]]
            new = np.flatnonzero(at < 0)
            coded = ids.take(pa.array(new)).combine_chunks().dictionary_encode()
            codes = coded.indices.to_numpy()
            # Two new files with the same bytes share a row: the place of the first stands for it.
            of_code = np.full(len(coded.dictionary), listing.num_rows, np.int64)
            np.minimum.at(of_code, codes, places[new])
            first[of_code] = True
            rows[places[new]] = -2 - of_code[codes]
    number = np.cumsum(first) + (n_stored - 1)
    for low in range(0, len(rows), BATCH):
        some = rows[low : low + BATCH]
        unnumbered = some <= -2
        some[unnumbered] = number[-2 - some[unnumbered]]
    return rows, first


def _with_rows(listing: Batches, rows: np.ndarray) -> Iterator[pa.RecordBatch]:
    """The batches of a view."""
    start = 0
    for batch in listing.to_batches():
        columns = {name: batch[name] for name in _LISTED}
        columns["row"] = pa.array(rows[start : start + batch.num_rows])
        start += batch.num_rows
        yield pa.RecordBatch.from_pydict(columns)


def _new_images(
    listing: Batches, rows: np.ndarray, first: np.ndarray, n_before: int
) -> Iterator[pa.RecordBatch]:
    """The batches of a new segment.

    Raises:
        AlikeError: the rows do not follow on those before.
    """
    start = 0
    for batch in _with_rows(listing, rows):
        mine = pa.array(first[start : start + batch.num_rows])
        start += batch.num_rows
        chosen = batch.select(_SEGMENT_LIKE.columns.tolist()).filter(mine)
        if not np.array_equal(
            chosen["row"].to_numpy(), np.arange(n_before, n_before + chosen.num_rows)
        ):
            raise AlikeError(f"rows from {n_before} on are not given in order: report this")
        n_before += chosen.num_rows
        yield chosen


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
        return pd.Series(np.full(len(table), None, dtype=object), table.index, dtype=object)
    # Few names for many images: each is one object.
    codes, names = pd.factorize(table[column])
    return pd.Series(np.array([*names, None], dtype=object)[codes], table.index, dtype=object)
