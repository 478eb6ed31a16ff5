"""What a listing remembers of its files, so that the next one reads only those that changed.

A file counts as unchanged if its size, times of change (mtime and ctime, nanoseconds) and inode are
those of when it was hashed, and if it was then older than two seconds: within the resolution of a
clock a file may change twice under one time. Of an object on a URL the ETag stands for them.
A copy, a restore from a backup or a new permission changes ctime: such files are read again, and
nothing more. What no stamp tells, such as a sector that decays, is found by reading a share of the
files in every listing whatever their stamps say; after `TURNS` listings every file was read.
"""

import time
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
import pandas as pd

from alike.extract.documents import INTEGER, TEXT
from alike.extract.errors import BadImage
from alike.extract.identity import seal_of
from alike.extract.images.source import ImageSource, Stamp
from alike.extract.images.split import image_id as content_id

TURNS = 100
"""Each listing reads one file of this many whatever its stamp says."""
SETTLED = 2_000_000_000
"""Nanoseconds that a file must be old to be told from one that changes once more."""
NO_STAMP: Stamp = (-1, -1, -1, -1)
STAMPED = ("stamp_size", "mtime_ns", "ctime_ns", "inode")
KEPT = {
    "path": TEXT, "label": TEXT, "subset": TEXT, "group": TEXT, "image_id": TEXT, "size": INTEGER,
    **dict.fromkeys(STAMPED, INTEGER),
}  # fmt: skip
"""Columns of the table that is kept."""


@dataclass(frozen=True)
class PastListing:
    """An earlier listing of the same source.

    Attributes:
        table: the columns of `KEPT`, one row an image.
        turn: number of the listing that comes now; says which files are read in any case.
    """

    table: pd.DataFrame
    turn: int


def place_of(source: ImageSource) -> str:
    """Name of the table of a source in its store."""
    return f"listing/{seal_of([source.spec, source.options])}.parquet"


def kept_columns(listing: pd.DataFrame) -> pd.DataFrame:
    """What is kept of a listing."""
    table = listing.assign(group=listing.get("group", None))
    unread = table["state"] != "ok"
    # A file that could not be read may be read the next time, without any change.
    table.loc[unread, list(STAMPED)] = -1
    return table[list(KEPT)].astype(dict.fromkeys(("label", "subset", "group"), object))


def stamp_of(source: ImageSource, path: str, now_ns: int | None = None) -> Stamp:
    """The stamp of an image; `NO_STAMP` if there is none to trust."""
    ask = getattr(source, "stamp", None)
    stamp: Stamp | None = ask(path) if ask is not None else None
    if stamp is None:
        return NO_STAMP
    now = time.time_ns() if now_ns is None else now_ns
    return stamp if max(stamp[1], stamp[2]) <= settled_before(now) else NO_STAMP


def settled_before(now_ns: int) -> int:
    """The latest time of change, in nanoseconds, that is old enough at `now_ns` to be trusted."""
    return now_ns - SETTLED


def is_due(path: str, turn: int) -> bool:
    """Whether an image is read in this turn whatever its stamp says."""
    return (zlib.crc32(path.encode(errors="surrogatepass")) + turn) % TURNS == 0


class EarlierImages:
    """Looks up what is remembered of a path."""

    def __init__(self, past: PastListing) -> None:
        self._turn = past.turn
        self._at = {path: at for at, path in enumerate(past.table["path"].tolist())}
        self._stamps = past.table[list(STAMPED)].to_numpy(dtype=np.int64)
        self._ids = past.table["image_id"].tolist()
        self._sizes = past.table["size"].tolist()

    def image(self, path: str, stamp: Stamp) -> tuple[str, int, bool] | None:
        """Image id, bytes, and whether it is to be read all the same; None if it changed."""
        at = self._at.get(path)
        if at is None or stamp == NO_STAMP or tuple(self._stamps[at]) != stamp:
            return None
        return self._ids[at], self._sizes[at], is_due(path, self._turn)


def same_listing(source: ImageSource, past: PastListing) -> str:
    """Why a source is not as it was listed; empty if it is.

    Nothing is read but the files that are due. Paths, labels, subsets, groups and stamps must all
    be the same, in the same order.
    """
    listed = list(source)
    table = past.table
    if len(listed) != len(table):
        return f"{len(listed)} images are listed, {len(table)} were"
    for name in ("path", "label", "subset", "group"):
        before = table[name].to_numpy(dtype=object, copy=True)
        before[table[name].isna().to_numpy()] = None
        if list(map(attrgetter(name), listed)) != before.tolist():
            return f"a {name} changed"
    paths = [one.path for one in listed]
    now = time.time_ns()
    stamps = np.array([stamp_of(source, path, now) for path in paths], dtype=np.int64)
    differing = (stamps != table[list(STAMPED)].to_numpy(np.int64)) | (stamps == -1)
    n_changed = int(differing.any(axis=1).sum())
    if n_changed:
        return f"{n_changed} files changed"
    due = [at for at, path in enumerate(paths) if is_due(path, past.turn)]
    wrong = silent_changes(source, ((paths[at], table["image_id"].iat[at]) for at in due))
    return f"{wrong[0]} has other bytes under the same times" if wrong else ""


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
