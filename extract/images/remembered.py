"""What a listing remembers of its files, so that the next one reads only those that changed.

A file counts as unchanged if its size, times of change (mtime and ctime, nanoseconds) and inode are
those of when it was hashed, and if it was then older than two seconds: within the resolution of a
clock a file may change twice under one time. Of an object on a URL the ETag stands for them.
A copy, a restore from a backup or a new permission changes ctime: such files are read again, and
nothing more. What no stamp tells, such as a sector that decays, is found by reading a share of the
files in every listing whatever their stamps say; after `TURNS` listings every file was read.
"""

import os
import secrets
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from alike.extract.errors import BadImage
from alike.extract.identity import seal_of
from alike.extract.images.source import (
    TOO_LARGE,
    ImageSource,
    Listed,
    Stamp,
    read_with,
    settled_before,
)
from alike.extract.images.split import image_id as content_id
from alike.extract.large_tables import Batches, hashes, texts

TURNS = 100
"""Each listing reads one file of this many whatever its stamp says."""
NO_STAMP: Stamp = (-1, -1, -1, -1)
STAMPED = ("stamp_size", "mtime_ns", "ctime_ns", "inode")
TEXTS = ("path", "label", "subset", "group")
"""What a source says of an image without reading it."""
KEPT = (*TEXTS, "image_id", "size", *STAMPED, "unread")
"""Columns of the table that is kept; `unread`: why a file gave no bytes, empty if it did."""
KEPT_LIKE = pd.DataFrame(
    {
        "path": pd.Series(["x"], dtype="str"),
        **{name: pd.Series(["x"], dtype=object) for name in TEXTS[1:]},
        "image_id": pd.Series(["x"], dtype="str"),
        **dict.fromkeys(("size", *STAMPED), np.zeros(1, np.int64)),
        "unread": pd.Series(["x"], dtype="str"),
    }
)
"""A row of it, for its types."""
REMEMBERED = np.dtype(
    [("check", "<u8"), ("stamp", "<i8", (4,)), ("size", "<i8"), ("image_id", "S64")]
)
"""What a file of `EarlierImages` holds of an image."""


@dataclass(frozen=True)
class PastListing:
    """An earlier listing of the same source.

    Attributes:
        table: the columns of `KEPT`, one row an image.
        turn: number of the listing that comes now; says which files are read in any case.
    """

    table: Batches
    turn: int


def place_of(source: ImageSource) -> str:
    """Name of the table of a source in its store."""
    return f"listing/{seal_of([source.spec, source.options])}.parquet"


@dataclass(frozen=True)
class KeptColumns:
    """What is kept of a listing, in batches.

    Attributes:
        listing: with the columns of `alike.extract.images.listing.SCHEMA`.
    """

    listing: Batches

    @property
    def num_rows(self) -> int:
        """Images of the listing."""
        return self.listing.num_rows

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        """The columns of `KEPT`."""
        for batch in self.listing.to_batches():
            columns = {name: batch[name] for name in KEPT if name != "unread"}
            why = pc.binary_join_element_wise(batch["state"], batch["reason"], ": ")
            columns["unread"] = pc.if_else(pc.equal(batch["state"], "ok"), "", why)
            yield pa.RecordBatch.from_pydict(columns)


def stamp_of(source: ImageSource, path: str, now_ns: int | None = None) -> Stamp:
    """The stamp of an image; `NO_STAMP` if there is none to trust."""
    ask = getattr(source, "stamp", None)
    stamp: Stamp | None = ask(path) if ask is not None else None
    if stamp is None:
        return NO_STAMP
    now = time.time_ns() if now_ns is None else now_ns
    return stamp if max(stamp[1], stamp[2]) <= settled_before(now) else NO_STAMP


def is_due(path: str, turn: int) -> bool:
    """Whether an image is read in this turn whatever its stamp says.

    Of images that are read together it takes their common name.
    """
    return (zlib.crc32(path.encode(errors="surrogatepass")) + turn) % TURNS == 0


class Remembered(NamedTuple):
    """What an earlier listing knew of an image.

    Attributes:
        stamp: of its file.
        image_id: of its bytes.
        size: bytes.
        due: whether it is read whatever its stamp says.
    """

    stamp: Stamp
    image_id: str
    size: int
    due: bool


class EarlierImages:
    """Looks up what is remembered of paths: 12 bytes of memory an image, the rest on the disk.

    A path is known by two hashes of 64 bits each: of one it is searched, the other must agree.
    """

    def __init__(self, past: PastListing, file: Path, together: Callable[[str], str] = str) -> None:
        """Write the file and the index.

        Args:
            past: the earlier listing.
            file: that is written; deleted by `close`.
            together: from `read_with`.
        """
        self._turn, self._file, self._together = past.turn, file, together
        self._keys = secrets.token_hex(8), secrets.token_hex(8)
        found = np.empty(past.table.num_rows, np.uint64)
        start = 0
        with file.open("wb") as out:
            for batch in past.table.to_batches():
                paths = texts(batch, "path")
                found[start : start + len(paths)] = hashes(paths, self._keys[0])
                records = np.empty(len(paths), REMEMBERED)
                records["check"] = hashes(paths, self._keys[1])
                for number, name in enumerate(STAMPED):
                    records["stamp"][:, number] = batch[name].to_numpy()
                records["size"] = batch["size"].to_numpy()
                records["image_id"] = texts(batch, "image_id").astype("S64")
                out.write(records.tobytes())
                start += len(paths)
        order = np.argsort(found)
        found.sort()
        self._hashes = found
        self._order = order.astype(np.uint32 if start < 2**32 else np.int64)
        self._open = os.open(file, os.O_RDONLY)

    def close(self) -> None:
        """Delete the file."""
        os.close(self._open)
        with suppress(FileNotFoundError):
            self._file.unlink()

    def images(self, paths: Sequence[str]) -> list[Remembered | None]:
        """What is remembered of each path; None of those that were not listed."""
        names = np.array(paths, dtype=object)
        wanted, check = (hashes(names, key) for key in self._keys)
        at = np.searchsorted(self._hashes, wanted)
        answers: list[Remembered | None] = [None] * len(paths)
        open_ = np.flatnonzero(at < len(self._hashes))
        open_ = open_[self._hashes[at[open_]] == wanted[open_]]
        while len(open_):
            records = self._records(self._order[at[open_]].astype(np.int64))
            for number, record in zip(open_.tolist(), records, strict=True):
                if record["check"] == check[number]:
                    answers[number] = Remembered(
                        tuple(record["stamp"].tolist()),
                        record["image_id"].decode(),
                        int(record["size"]),
                        is_due(self._together(paths[number]), self._turn),
                    )
            # Several paths of one hash stand beside each other; there is hardly ever one.
            open_ = open_[[answers[number] is None for number in open_.tolist()]]
            at[open_] += 1
            open_ = open_[at[open_] < len(self._hashes)]
            open_ = open_[self._hashes[at[open_]] == wanted[open_]]
        return answers

    def _records(self, places: np.ndarray) -> np.ndarray:
        """Records at places; those that follow on each other are read at once."""
        size = REMEMBERED.itemsize
        starts = np.flatnonzero(np.diff(places, prepend=-2) != 1)
        parts = [
            os.pread(self._open, len(run) * size, int(run[0]) * size)
            for run in np.split(places, starts[1:])
        ]
        return np.frombuffer(b"".join(parts), REMEMBERED)


def same_listing(source: ImageSource, past: PastListing) -> str:
    """Why a source is not as it was listed; empty if it is.

    Nothing is read but the files that are due. Paths, labels, subsets, groups and stamps must all
    be the same, in the same order. Memory holds two batches, and the names of files that are due.
    """
    table, images = past.table, iter(source)
    n, changed = 0, set[str]()
    for batch in table.to_batches():
        listed = list(islice(images, batch.num_rows))
        n += len(listed)
        if len(listed) == batch.num_rows:
            changed |= {name for name in TEXTS if _differs(batch, name, listed)}
    n += sum(1 for _ in images)
    if n != table.num_rows:
        return f"{n} images are listed, {table.num_rows} were"
    if changed:
        return f"a {min(changed, key=TEXTS.index)} changed"
    changed_files, due = list[str](), list[tuple[str, str]]()
    n_changed, n_untold, now, together = 0, 0, time.time_ns(), read_with(source)
    # The paths are those of the table: stamps are asked for after all images were listed.
    for batch in table.to_batches():
        paths = texts(batch, "path").tolist()
        stamps = np.array([stamp_of(source, path, now) for path in paths], dtype=np.int64)
        before = np.stack([batch[name].to_numpy() for name in STAMPED], axis=1)
        unread = texts(batch, "unread")
        differs = ((stamps != before) | (stamps == -1)).any(axis=1)
        for one in np.flatnonzero(unread != "").tolist():
            # What gave no bytes may give some without any change, unless its stamp says its size.
            if differs[one] or not unread[one].startswith(TOO_LARGE):
                differs[one] = why_unread(source, paths[one]) != unread[one]
        places = np.flatnonzero(differs)
        n_changed += len(places)
        n_untold += int((stamps[places] == -1).all(axis=1).sum())
        changed_files = changed_files or [paths[one] for one in places[:1]]
        at = [
            number
            for number, path in enumerate(paths)
            if is_due(together(path), past.turn) and not unread[number]
        ]
        due += zip(
            [paths[one] for one in at],
            batch["image_id"].take(pa.array(at, pa.int64())).to_pylist(),
            strict=True,
        )
    if n_changed and n_untold == n_changed:
        rest = and_others(n_changed - 1)
        return (
            f"nothing tells whether {changed_files[0]} changed{rest}: it has neither a time nor an "
            "ETag, or is not two seconds old"
        )
    if n_changed:
        return f"{changed_files[0]} changed{and_others(n_changed - 1)}"
    wrong = silent_changes(source, due)
    return f"{wrong[0]} has other bytes under the same times" if wrong else ""


def why_unread(source: ImageSource, path: str) -> str:
    """State and reason of a file that gives no bytes; empty if it gives some."""
    try:
        source.read(path)
    except BadImage as error:
        return f"{error.state}: {error.reason}"
    return ""


def and_others(n: int) -> str:
    """Says that `n` other files are alike; empty for 0."""
    return f", and {n} other file{'s' if n > 1 else ''}" if n else ""


def _differs(batch: pa.RecordBatch, name: str, listed: Sequence[Listed]) -> bool:
    before: list[str | None] = texts(batch, name).tolist()
    return list(map(attrgetter(name), listed)) != before


def silent_changes(source: ImageSource, images: Iterable[tuple[str, str]]) -> list[str]:
    """Paths whose bytes are not those of their id."""
    wrong = []
    for path, image_id in images:
        try:
            same = content_id(source.read(path)) == image_id
        except BadImage:
            same = False
        if not same:
            wrong.append(path)
    return wrong
