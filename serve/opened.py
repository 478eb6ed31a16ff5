"""Indexes that are open, each with what an answer needs of its images, as arrays."""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alike.extract.errors import AlikeError, BadInput
from alike.extract.measures import find_measure
from alike.index.filters import Among
from alike.index.places import card_stamp, index_command
from alike.index.query import NeighbourIndex
from alike.serve.pictures import NotThere
from alike.serve.unindexed import Unindexed, open_extraction

HASH_LENGTH = 64
"""Digits of the SHA-256 of an image, by which it is named if not by its row."""
MOST = 8
"""Indexes that are open at once; the one that was asked longest ago is closed."""
EVERY = 1.0
"""Seconds between two looks for newly extracted images."""
SOON = 0.05
"""Seconds between two looks for a new index or listing: a look costs what a search does."""


@dataclass(frozen=True)
class OpenIndex:
    """An index at one moment, or an extraction without one: all of an answer comes from one.

    Attributes:
        index: that answers; or what answers all but neighbours.
        rows: (n,) int64, ascending, of the images with features.
        images: (n,) SHA-256 of each.
        paths: (n,) of each.
        labels: (n,) of each, None without.
        subsets: (n,) of each, None without.
        splits: (n,) of each.
        missing: images with features that the index lacks.
        notes: what a reader must know.
    """

    index: NeighbourIndex | Unindexed
    rows: NDArray[np.int64]
    images: NDArray[Any]
    paths: NDArray[Any]
    labels: NDArray[Any]
    subsets: NDArray[Any]
    splits: NDArray[Any]
    missing: int
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, index: NeighbourIndex | Unindexed, notes: tuple[str, ...] = ()) -> "OpenIndex":
        """Take the columns of an index's images."""
        table = index.images
        columns = [
            table[name].astype(object).where(table[name].notna(), None).to_numpy(dtype=object)
            for name in ("image_id", "path", "label", "subset", "split")
        ]
        rows = table.index.to_numpy(dtype=np.int64)
        missing = 0 if isinstance(index, Unindexed) else index.missing()
        if isinstance(index, Unindexed) and index.why:
            notes = (index.why, *notes)
        if missing:
            features = index.features
            command = index_command(features.store, features.key, index.measure.name)
            lacking = f"{missing} images have features and are not in the index: they are no answer"
            notes = (f"{lacking}; run `{command}`", *notes)
        images, paths, labels, subsets, splits = columns
        return cls(index, rows, images, paths, labels, subsets, splits, missing, notes)

    @property
    def needs(self) -> str:
        """What neighbours need; empty if the index is there."""
        return self.index.needs if isinstance(self.index, Unindexed) else ""

    def searched(self) -> NeighbourIndex:
        """The index, to look for neighbours in.

        Raises:
            NotThere: there is none; says what builds it.
        """
        if isinstance(self.index, Unindexed):
            raise NotThere(f"neighbours in {self.index.features.key} need {self.index.needs}")
        return self.index

    @cached_property
    def row_of(self) -> dict[str, int]:
        """SHA-256 of an image to its row."""
        return dict(zip(self.images.tolist(), self.rows.tolist(), strict=True))

    @cached_property
    def classes(self) -> dict[str, int]:
        """Label to number of images."""
        labels, counts = np.unique(
            np.array([one for one in self.labels if one is not None], dtype=str), return_counts=True
        )
        return dict(zip(labels.tolist(), counts.tolist(), strict=True))

    def places(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places of rows in the columns; -1 for a row without features."""
        if not len(self.rows):
            return np.full(len(rows), -1)
        places = np.searchsorted(self.rows, rows).clip(max=len(self.rows) - 1)
        return np.where(self.rows[places] == rows, places, -1)

    def check_classes(self, labels: Iterable[str]) -> None:
        """Refuse classes that no image has.

        Raises:
            NotThere: names one, and the classes that there are.
        """
        try:
            Among("any", tuple(labels)).check(list(self.classes))
        except BadInput as error:
            raise NotThere(str(error)) from error

    def row(self, name: str) -> int:
        """The row that a name means: a number, or SHA-256 of the bytes; -1 if it is neither.

        Raises:
            NotThere: a number that is no row with features.
        """
        if len(name) == HASH_LENGTH:
            return self.row_of.get(name, -1)
        row = int(name)
        place = int(self.rows.searchsorted(row))
        if place == len(self.rows) or self.rows[place] != row:
            raise NotThere(f"row {row} is not stored; rows come from the answers of this server")
        return row

    def about(self, row: int) -> dict[str, Any]:
        """Fields of `Image` of a row with features."""
        at = int(self.rows.searchsorted(row))
        return {
            "image": self.images[at], "row": row, "path": self.paths[at],
            "label": self.labels[at], "subset": self.subsets[at], "split": self.splits[at],
        }  # fmt: skip

    def about_many(self, rows: Any) -> list[dict[str, Any]]:
        """Fields of `Image` of rows with features."""
        at = self.places(np.asarray(rows, dtype=np.int64))
        columns = (self.images, self.rows, self.paths, self.labels, self.subsets, self.splits)
        names = ("image", "row", "path", "label", "subset", "split")
        return [
            dict(zip(names, line, strict=True))
            for line in zip(*(column[at].tolist() for column in columns), strict=True)
        ]


class _Entry:
    """One index, and when it was looked at."""

    def __init__(self, now: OpenIndex, stamp: Any) -> None:
        self.now, self.stamp = now, stamp
        self.looked = self.stamped = time.monotonic()
        self.lock = threading.Lock()
        self.compared: tuple[Any, bool] = (None, False)


class OpenIndexes:
    """Indexes of a store by extraction and measure; each is replaced when a new one is there.

    An extraction without the index is open too: only its neighbours need one.
    """

    def __init__(self, store: Any) -> None:
        self.store = store
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._lock = threading.Lock()

    def get(self, key: str, measure: str) -> OpenIndex:
        """The index as it is now, for one answer.

        While a new one is read, the old one answers. It also does if the new one cannot be read,
        and its notes say so, unless it has images that are there no more.

        Raises:
            NotThere: no such extraction, or features that the measure cannot compare.
        """
        name = (key, measure)
        entry = self._entries.get(name)
        if entry is None:
            entry = self._open(name)
        self._refresh(name, entry)
        return entry.now

    def _open(self, name: tuple[str, str]) -> _Entry:
        with self._lock:
            entry = self._entries.get(name)
            if entry is None:
                stamp = self._stamp(name)
                opened = OpenIndex.of(self._as_it_is(name))
                entry = self._entries[name] = _Entry(opened, stamp)
                while len(self._entries) > MOST:
                    # The first is the one that the server was started with: it stays.
                    del self._entries[list(self._entries)[1]]
            return entry

    def _as_it_is(self, name: tuple[str, str]) -> NeighbourIndex | Unindexed:
        try:
            return open_extraction(self.store, *name)
        except BadInput as error:
            self._entries.pop(name, None)
            raise NotThere(str(error)) from error

    def _outlived(self, entry: _Entry) -> bool:
        """Whether an old index has an image that is there no more, as one that was forgotten."""
        features = entry.now.index.features
        stamp = features.stamp()
        if entry.compared[0] != stamp:
            try:
                gone = not np.isin(entry.now.rows, features.lookup().rows).all()
            except (AlikeError, OSError):
                # Of a store that is damaged all answers that there are.
                gone = False
            entry.compared = stamp, gone
        return entry.compared[1]

    def _refresh(self, name: tuple[str, str], entry: _Entry) -> None:
        now = time.monotonic()
        if now - entry.stamped < self._unseen(entry):
            return
        entry.stamped = now
        stamp = self._stamp(name)
        if stamp == entry.stamp and now - entry.looked < EVERY:
            return
        if not entry.lock.acquire(blocking=False):
            return
        try:
            entry.looked = now
            fresh = entry.now.index.refreshed()
            if fresh is not entry.now.index:
                entry.now = OpenIndex.of(fresh)
            entry.stamp = stamp
        except (AlikeError, OSError) as error:
            self._require_features(name)
            if self._outlived(entry):
                entry.now, entry.stamp = OpenIndex.of(self._as_it_is(name)), stamp
                return
            why = " ".join(str(error).split())
            note = f"the answers are of an index that was replaced and cannot be read anew: {why}"
            entry.now = OpenIndex.of(entry.now.index, (note,))
        finally:
            entry.lock.release()

    def _unseen(self, entry: _Entry) -> float:
        """Seconds in which a new index may go unseen.

        None where there is no index yet: what tells a user to build one has just looked for it.
        """
        if self.store.root_path is None:
            # It answers in tens of milliseconds.
            return EVERY
        return 0.0 if entry.now.needs else SOON

    def _require_features(self, name: tuple[str, str]) -> None:
        """Refuse an extraction that was deleted; one of which files are lost answers as it is."""
        if name[0] not in self.store.groups() and name[0] not in self.store.recorded():
            self._entries.pop(name, None)
            check_key(self.store, name[0])

    def _stamp(self, name: tuple[str, str]) -> Any:
        """Changes with every new index and every listing; one look at two files."""
        return card_stamp(self.store, *name), self.store.view_stamp()


def check_measure(measure: str) -> None:
    """Refuse a name that is no measure: it names a file.

    Raises:
        NotThere: says where the names are listed.
    """
    if find_measure(measure) is None:
        raise NotThere(f"no measure {measure[:120]!r}: `alike list measures` names them")


def check_key(store: Any, key: str) -> None:
    """Refuse an extraction that the store does not have.

    Raises:
        NotThere: names those that there are.
    """
    groups = store.groups()
    if key not in groups:
        there = ", ".join(groups) or "none"
        raise NotThere(f"no features {key[:120]!r}; the store has: {there}")
