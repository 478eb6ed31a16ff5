"""A group of arrays in a store: what committing its rows and reading them both need."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

import numpy as np

from alike.extract.errors import StoreDamaged
from alike.extract.store.arrays import TREE, UNIT, ArraySpec
from alike.extract.store.base import StoreBase
from alike.extract.store.ledger import Committed, Ledger, Record, ids_hash, row_hash
from alike.extract.store.locks import Lock
from alike.extract.store.shards import Expected, read_shard_rows


class Group:
    """Arrays of one extraction, the ledger of their rows, and the claims that this process holds.

    Attributes:
        key: name of the group.
        store: the store that it belongs to.
        arrays: name to shape and type of every array.
        ledger: what is committed.
    """

    def __init__(self, store: StoreBase, key: str, arrays: dict[str, ArraySpec]) -> None:
        self.store = store
        self.key = key
        self.arrays = arrays
        self.ledger = Ledger(store.files, key)
        self._claims: dict[int, Lock] = {}
        # A row belongs to one image, so what was found the same once stays so.
        self._same: set[tuple[int, int, str]] = set()

    def unit_rows(self, unit: int) -> range:
        """Give the rows of a unit."""
        return range(unit * UNIT, min((unit + 1) * UNIT, self.store.n_rows))

    def claim(self, unit: int, wait: float = 0.0) -> AbstractContextManager[Lock]:
        """Hold one unit among several writers: `StoreBusy` if another living one has it."""
        lock = self._claims.get(unit)
        return nullcontext(lock) if lock else self._claim(unit, wait)

    @contextmanager
    def _claim(self, unit: int, wait: float) -> Iterator[Lock]:
        place = f"{self.ledger.folder}/claims/{unit:08d}.json"
        with Lock(self.store.files, place, f"unit {unit} of {self.key}", wait) as lock:
            self._claims[unit] = lock
            try:
                yield lock
            finally:
                del self._claims[unit]

    def place(self, name: str, unit: int) -> str:
        """Name the file of a shard."""
        return f"{TREE}/{self.key}/{name}/{self.arrays[name].shard_name(unit)}"

    def shard_sizes(self, name: str) -> dict[str, int]:
        """Give the bytes of every shard of an array."""
        stamps = self.store.files.listing(f"{TREE}/{self.key}/{name}")
        return {shard: stamp.size for shard, stamp in stamps.items()}

    def read_unit(self, name: str, record: Record, at: np.ndarray) -> np.ndarray:
        """Read committed rows, `at` counted from the unit's first."""
        *others, last = record.arrays[name].versions
        for committed in others:
            with suppress(StoreDamaged):
                return self._read_version(name, record, committed, at)
        return self._read_version(name, record, last, at)

    def _read_version(
        self, name: str, record: Record, committed: Committed, at: np.ndarray
    ) -> np.ndarray:
        spec = self.arrays[name]
        if not committed.stored:
            return spec.empty(len(at))
        place = self.place(name, record.unit)
        rows = committed.hi - record.lo
        expected = Expected.of(committed.chunks, rows, committed.tail, row_hash)
        return read_shard_rows(self.store.files, place, spec, at, expected)

    def same_images(self, record: Record) -> bool:
        """Say whether the rows of a record belong to the images that it was written for."""
        end = max((one.hi for one in record.arrays.values()), default=record.lo)
        identity = (record.unit, end, record.ids_hash)
        if identity not in self._same:
            ids = self.store.image_ids(record.lo, end)
            if len(ids) < end - record.lo:
                return False
            if ids_hash(ids) not in (record.ids_hash, record.ids_after):
                return False
            self._same.add(identity)
        return True

    def verified(self, record: Record, name: str) -> np.ndarray | None:
        """Read the committed rows of an array; None if they are not what was recorded."""
        try:
            rows = self.read_unit(name, record, np.arange(record.hi_of(name) - record.lo))
        except StoreDamaged:
            return None
        hashes = [one.hash for one in record.arrays[name].versions]
        return rows if row_hash(rows) in hashes else None

    def intact(self, record: Record, name: str) -> bool:
        """Say whether the committed rows of an array are what was recorded."""
        return self.verified(record, name) is not None
