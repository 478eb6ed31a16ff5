"""The features of one extraction: what is committed, what is missing, reading and writing."""

import copy
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd

from alike.extract.documents import damaged
from alike.extract.errors import BadInput, StoreDamaged
from alike.extract.images import SIDES, Where, splits_of
from alike.extract.store import constants as store_constants
from alike.extract.store.arrays import TREE, UNIT, VALID, ArraySpec, read_valid, write_rows
from alike.extract.store.base import StoreBase
from alike.extract.store.commit import Bad, Lost, commit_unit, pending_units, rows_to_do
from alike.extract.store.files import ADVICE, disk_errors
from alike.extract.store.group import Group
from alike.extract.store.ledger import Record, digest_of
from alike.extract.store.lookup import ImageLookup
from alike.extract.store.recent import RecentRows
from alike.extract.store.shards import grouped_by_unit

Rows = np.ndarray | slice
_READERS = 4
"""Threads that read shards for one call of `read`."""
_SMALL = 4 << 20
"""Bytes of an object that is read as a whole, whatever is wanted of it."""
_AHEAD = 2
"""Blocks that are read before they are asked for: three are in memory at once."""


class Features(Group):
    """Arrays of one group, all with one row an image.

    Attributes:
        key: name of the group.
        store: the store that it belongs to.
        attrs: the extraction's description, with `class_names` and `source` if known.
        arrays: name to shape and type of every array.
        ledger: what is committed.
        where: which images `table` gives, such as ``subset=val``; "" for all.
    """

    where: str = ""

    def __init__(
        self, store: StoreBase, key: str, attrs: dict[str, Any], arrays: dict[str, ArraySpec]
    ) -> None:
        super().__init__(store, key, arrays)
        self.attrs = attrs
        self._recent = RecentRows()

    # Some of the images

    def only(self, where: str | None) -> "Features":
        """Give the same features with a `table` of some images alone.

        Rows are read as before, and what measures are fitted on stays the whole train split.

        Args:
            where: ``subset=val`` or ``label=cat,dog``; "" or None for all images.

        Raises:
            BadInput: another field, or a value that no image of the set has.
        """
        if where:
            wanted = Where.parse(where)
            wanted.check(self.store.images()[wanted.field].unique(), f"store {self.store.url}")
        narrowed = copy.copy(self)
        narrowed.where = where or ""
        return narrowed

    @property
    def whole(self) -> "Features":
        """These features with a `table` of all images."""
        return self.only(None) if self.where else self

    # What is there

    @property
    def digest(self) -> str:
        """Hash of all committed rows: another value whenever any of them changes."""
        return digest_of(self.ledger.records())

    def changed_since(self, digest: object) -> bool:
        """Whether what keeps this `digest` is of other features than these.

        Args:
            digest: as it was kept; None, by versions that kept none, says nothing.
        """
        return digest is not None and digest != self.digest

    def stamp(self) -> Any:
        """Changes with every listing and every committed unit; cheap to ask."""
        return self.store.view_stamp(), self.store.files.listing(self.ledger.folder)

    def digest_for(self, names: Iterable[str]) -> str:
        """Hash of the committed rows of some arrays: a tap that is added does not change it."""
        return digest_of(self.ledger.records(), set(names))

    def pending(self, names: Iterable[str] | None = None) -> list[int]:
        """Give the units that miss committed rows of any of `names` (None: of any array)."""
        return pending_units(self, list(self.arrays if names is None else names))

    def todo(self, unit: int, names: Iterable[str] | None = None) -> range:
        """Give the rows of a pending unit that have to be computed: always its last ones.

        Rows committed before the set grew are left out when they are still what was recorded.
        """
        return rows_to_do(self, unit, list(self.arrays if names is None else names))

    def committed(self, names: Iterable[str] | None = None, *, good: bool = False) -> np.ndarray:
        """Say of every row whether it is committed, and `good`: has a feature; (n_rows,) bool.

        A row without a value of one of the named arrays (`lost`) is not good. Without names, one
        array is enough: taps that are no longer asked for do not grow with the set.
        """
        names = None if names is None else list(names)
        committed = np.zeros(self.store.n_rows, dtype=bool)
        for record in self.ledger.records().values():
            self._check_rows(record, len(committed))
            end = record.hi_of_any() if names is None else record.hi(names)
            committed[record.lo : end] = True
            if good and record.bad:
                committed[list(record.bad)] = False
            if good and record.lost and names is not None:
                gone = [row for row, of in record.lost.items() if not set(of).isdisjoint(names)]
                committed[gone] = False
        return committed

    def table(
        self,
        split: str | None = None,
        *,
        train_share: float | None = None,
        names: Iterable[str] | None = None,
    ) -> pd.DataFrame:
        """Give the images that have a feature and are in the set now (see `only`).

        Args:
            split: `train`, `validation`, `held_out`; None or `all` for every image.
            train_share: another share than the store's own; then hashes alone decide.
            names: arrays that must be committed; None asks for any.

        Returns:
            row (int64, ascending, each once), image_id, path, label and subset (str or None),
            split.
        """
        if split not in (None, "all", *SIDES):
            raise BadInput(f"split {split!r}: expected {', '.join(SIDES)} or all")
        view = self.store.images()
        view = view[view["row"] >= 0].drop_duplicates("row").sort_values("row")
        view = view[self.committed(names, good=True)[view["row"].to_numpy()]]
        view = view[Where.parse(self.where).mask(view)] if self.where else view
        table = view[["row", "image_id", "path", "label", "subset"]].reset_index(drop=True)
        if train_share is None:
            splits = self.store.sides(table["row"].to_numpy(), table["image_id"])
        else:
            splits = splits_of(table["image_id"], train_share, self.store.split().salt)
        table["split"] = pd.Series(splits, index=table.index, dtype=object)
        whole = split in (None, "all")
        return table if whole else table[splits == split].reset_index(drop=True)

    def lookup(self, names: Iterable[str] | None = None) -> ImageLookup:
        """Give the images of `table(names=names)` as a look-up: only what is asked is read.

        Args:
            names: arrays that must be committed; None asks for any.
        """
        images = self.store.image_table()
        return ImageLookup(images, self.committed(names, good=True), self.store.sides)

    def bad(self) -> pd.DataFrame:
        """Give the images that have no feature: row (-1: never read), path, state, reason."""
        view = self.store.images()
        unread = view[view["row"] < 0][["row", "path", "state", "reason"]]
        records = self.ledger.records().values()
        reasons = {row: why for record in records for row, why in record.bad.items()}
        failed = view[view["row"].isin(list(reasons))][["row", "path"]]
        states = [reasons[row] for row in failed["row"]]
        failed = failed.assign(
            state=pd.Series([one[0] for one in states], failed.index, dtype=object),
            reason=pd.Series([one[1] for one in states], failed.index, dtype=object),
        )
        return pd.concat([unread, failed]).sort_values("path").reset_index(drop=True)

    def lost(self) -> pd.DataFrame:
        """Give the images of the set that have features, but none of some array: row, path, array.

        Their values are beyond the range of the array's type; they read as NaN.
        """
        records = self.ledger.records().values()
        pairs = [(row, one) for record in records for row, of in record.lost.items() for one in of]
        table = pd.DataFrame(pairs, columns=["row", "array"])
        view = self.store.images().drop_duplicates("row")[["row", "path"]]
        return view.merge(table, on="row").sort_values(["row", "array"]).reset_index(drop=True)

    # Reading

    def read(self, name: str, rows: Rows) -> np.ndarray:
        """Read rows of one array.

        Args:
            name: the array.
            rows: (n,) row numbers in any order, or a slice.

        Returns:
            (n, *tail); NaN for the rows of bad images.

        Raises:
            BadInput: a row is not committed.
            StoreDamaged: a shard is missing or its checksum does not hold.
        """
        spec = self._spec(name)
        rows = self._numbers(rows)
        groups = grouped_by_unit(rows)
        records = self._check_committed(name, [(unit, rows[at]) for unit, at in groups])
        out = np.empty((len(rows), *spec.tail), dtype=spec.dtype)

        def fetch(group: tuple[int, np.ndarray]) -> None:
            unit, at = group
            out[at] = self._recent_unit(name, records[unit], rows[at] - unit * UNIT)

        if len(groups) > 1:
            with ThreadPoolExecutor(_READERS) as readers:
                list(readers.map(fetch, groups))
        elif groups:
            fetch(groups[0])
        return out

    def _recent_unit(self, name: str, record: Record, at: np.ndarray) -> np.ndarray:
        """Read rows of a unit; those of a remote store are remembered where most are wanted.

        Args:
            name: the array.
            record: of the unit.
            at: (n,) counted from the unit's first row.

        Returns:
            (n, *tail).
        """
        committed = record.arrays[name]
        held = committed.hi - record.lo
        content = (committed.hash, held, name)
        # While rows are taken out, the shard is one of two; a record of an earlier version does not
        # say by which checksums to know it.
        sure = committed.chunks and committed.after is None
        plain = self.store.files.root is not None or not sure
        few = 4 * len(at) < held and committed.stored > _SMALL
        if plain or (few and content not in self._recent):
            return self.read_unit(name, record, at)
        whole = self._recent.get(content, lambda: self.read_unit(name, record, np.arange(held)))
        return np.asarray(whole[at])

    def blocks(
        self, name: str | Sequence[str], rows: Rows | None = None, size: int = UNIT
    ) -> Iterator[tuple[np.ndarray, Any]]:
        """Read rows shard by shard, two blocks ahead of the caller.

        Args:
            name: an array, or several that are read together.
            rows: (n,) ascending row numbers; None for those of `table()`.
            size: most rows of a block.

        Yields:
            Row numbers (b,), and the array (b, *tail), or a dict of arrays for several names.
        """
        names = [name] if isinstance(name, str) else list(name)
        all_rows = self._numbers(self.table(names=names)["row"] if rows is None else rows)
        span = max(size // UNIT, 1) * UNIT
        spans = np.split(all_rows, np.flatnonzero(np.diff(all_rows // span)) + 1)

        def load(span_rows: np.ndarray) -> dict[str, np.ndarray]:
            return {one: self.read(one, span_rows) for one in names}

        with ThreadPoolExecutor(_AHEAD, "blocks") as readers:
            ahead = deque(readers.submit(load, span_rows) for span_rows in spans[:_AHEAD])
            for i, span_rows in enumerate(spans):
                arrays = ahead.popleft().result()
                if i + _AHEAD < len(spans):
                    ahead.append(readers.submit(load, spans[i + _AHEAD]))
                for lo in range(0, len(span_rows), size):
                    block = {one: array[lo : lo + size] for one, array in arrays.items()}
                    yield span_rows[lo : lo + size], block[name] if isinstance(name, str) else block

    # Writing

    @contextmanager
    def lock(self, wait: float = 0.0) -> Iterator[None]:
        """Hold this extraction for one run: another process is refused (`StoreBusy`).

        At the end of an undisturbed run the array `valid` is brought up to date.
        """
        with self.store.lock(self.key, wait):
            yield
            self.publish()

    def write_unit(
        self,
        unit: int,
        arrays: Mapping[str, np.ndarray],
        bad: Bad | None = None,
        *,
        run_id: str = "",
        lost: Lost | None = None,
    ) -> None:
        """Commit rows of one unit: data, flush, then the record.

        Args:
            unit: the unit.
            arrays: name to (n, *tail), the last n rows of the unit, n the same for all: those of
                `todo`, or the whole unit. Rows before them must be committed.
            bad: row to (state, reason) of images without a feature; their rows become NaN.
            run_id: id of the run, for the record.
            lost: row to the arrays that have no value of it: NaN there, good in all others.

        Raises:
            StoreBusy: another living process has the unit.
            StoreDamaged: rows to be kept are not what was recorded.
            StoreFull: no space; nothing of the unit is committed.
        """
        reasons = {int(row): why for row, why in (bad or {}).items()}
        commit_unit(self, unit, arrays, reasons, run_id, lost)

    def publish(self) -> None:
        """Write the array `valid` (1: has a feature) from the ledger, for plain Zarr readers."""
        good = self.committed(good=True).astype(np.uint8)
        try:
            self.published()
        except StoreDamaged:
            # Zarr reads a chunk before it replaces a part of it: a damaged one would stay for ever.
            home = f"{TREE}/{self.key}/{VALID}/c"
            for name in self.store.files.walk(home):
                self.store.files.remove(f"{home}/{name}")
        with disk_errors(self.store.url):
            write_rows(self.store.tree, f"{self.key}/{VALID}", 0, good)

    def published(self) -> np.ndarray:
        """Read `valid` as `publish` wrote it last, (n,) uint8.

        Raises:
            StoreDamaged: it is missing or broken.
        """
        return read_valid(self.store.tree, self.key)

    # Constants: small arrays that belong to the group, such as its classifier or a fitted mean

    def write_constant(self, name: str, value: np.ndarray) -> None:
        """Store one array under a name such as `classifier/weight`, replacing any."""
        store_constants.write_constant(self.store.files, self.key, name, value)

    def read_constant(self, name: str) -> np.ndarray:
        """Read one array; `BadInput` if there is none, `StoreDamaged` if it is broken or gone."""
        return store_constants.read_constant(self.store.files, self.key, name, self.attrs)

    def constants(self) -> list[str]:
        """Give the names of the constants, also of those that must be there and are gone."""
        return store_constants.constants(self.store.files, self.key, self.attrs)

    def is_whole(self, names: Iterable[str]) -> bool:
        """Say whether constants are sealed in the attributes, and what was sealed."""
        sealed = store_constants.sealed_in(self.attrs)
        try:
            return all(name in sealed and self.read_constant(name) is not None for name in names)
        except StoreDamaged:
            return False

    def _spec(self, name: str) -> ArraySpec:
        if name not in self.arrays:
            raise BadInput(f"no array {name!r} in {self.key}; there are: {', '.join(self.arrays)}")
        return self.arrays[name]

    def _numbers(self, rows: Any) -> np.ndarray:
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(self.store.n_rows))
        return np.asarray(rows, dtype=np.int64)

    def _check_rows(self, record: Record, n_rows: int) -> None:
        """Refuse a record of rows that no image has: a segment of the manifest is gone."""
        end = max(one.hi for one in record.arrays.values())
        if end > n_rows or any(not record.lo <= row < end for row in record.bad):
            mismatch = f"it holds rows to {end}, the manifest {n_rows}"
            raise damaged(self.ledger.name(record.unit), mismatch, "run `alike store verify`")

    def _check_committed(
        self, name: str, groups: list[tuple[int, np.ndarray]]
    ) -> dict[int, Record]:
        records = self.ledger.records()
        for unit, rows in groups:
            if unit in records and not self.same_images(records[unit]):
                raise damaged(self.ledger.name(unit), "its rows belong to other images", ADVICE)
            end = records[unit].hi_of(name) if unit in records else unit * UNIT
            missing = rows[rows >= end]
            if len(missing):
                raise BadInput(
                    f"row {missing[0]} of {name} in {self.key} is not committed; "
                    "run `alike extract` to compute it"
                )
        return records
