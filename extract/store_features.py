"""The features of one extraction: what is committed, what is missing, reading and writing."""

import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from extract.errors import BadInput, StoreDamaged
from extract.split import splits_of
from extract.store_arrays import UNIT, ArraySpec, check_rows, write_rows
from extract.store_files import explain_full
from extract.store_ledger import (
    Committed,
    Ledger,
    Record,
    digest_of,
    ids_hash,
    provenance,
    row_hash,
)
from extract.store_shards import read_shard_rows

if TYPE_CHECKING:
    from extract.store import Store

TREE = "features.zarr"
Rows = np.ndarray | slice


class Features:
    """Arrays of one group, all with one row an image.

    Attributes:
        key: name of the group.
        store: the store that it belongs to.
        attrs: the extraction's description, with `class_names` and `source` where known.
        arrays: name to shape and type of every array.
    """

    def __init__(
        self, store: "Store", key: str, attrs: dict[str, Any], arrays: dict[str, ArraySpec]
    ) -> None:
        self.key = key
        self.store = store
        self.attrs = attrs
        self.arrays = arrays
        self._ledger = Ledger(store.files, key)

    # What is there

    @property
    def digest(self) -> str:
        """Hash of all committed rows: another value whenever any of them changes."""
        return digest_of(self._ledger.records())

    def unit_rows(self, unit: int) -> range:
        """Give the rows of a unit."""
        return range(unit * UNIT, min((unit + 1) * UNIT, self.store.n_rows))

    def pending(self, names: Iterable[str] | None = None) -> list[int]:
        """Give the units that miss committed rows of any of `names` (None: of any array)."""
        names = list(self.arrays if names is None else names)
        records = self._ledger.records()
        sizes = {name: self._shard_sizes(name) for name in names}
        n_rows = self.store.n_rows
        missing = []
        for unit in range(-(-n_rows // UNIT)):
            record = records.get(unit)
            end = min((unit + 1) * UNIT, n_rows)
            if record is None or any(
                record.hi_of(name) < end
                or record.arrays[name].stored != sizes[name].get(self.arrays[name].shard_name(unit))
                for name in names
            ):
                missing.append(unit)
        return missing

    def todo(self, unit: int, names: Iterable[str] | None = None) -> range:
        """Give the rows of a pending unit that have to be computed: always its last ones.

        Rows committed before the set grew are left out when they are still what was recorded.
        """
        names = list(self.arrays if names is None else names)
        rows = self.unit_rows(unit)
        record = self._ledger.record(unit)
        if record is None:
            return rows
        first = record.hi(names)
        intact = all(
            self._intact(record, name) for name in names if record.hi_of(name) > rows.start
        )
        return range(first, rows.stop) if intact and first < rows.stop else rows

    def table(
        self,
        split: str | None = None,
        *,
        train_share: float | None = None,
        names: Iterable[str] | None = None,
    ) -> pd.DataFrame:
        """Give the images that have a feature and are in the set now.

        Args:
            split: `train`, `held_out` or None for both.
            train_share: another share than the store's own.
            names: arrays that must be committed; None asks for what every unit has.

        Returns:
            row (int64, ascending, each once), image_id, path, label (str or None), split.
        """
        view = self.store.images()
        view = view[view["row"] >= 0].drop_duplicates("row").sort_values("row")
        view = view[self._usable(names)[view["row"].to_numpy()]]
        share, salt = self.store.split()
        share = share if train_share is None else train_share
        table = view[["row", "image_id", "path", "label"]].reset_index(drop=True)
        table["split"] = splits_of(table["image_id"], share, salt)
        if split is None:
            return table
        if split not in ("train", "held_out"):
            raise BadInput(f"split {split!r}: expected train or held_out")
        return table[table["split"] == split].reset_index(drop=True)

    def bad(self) -> pd.DataFrame:
        """Give the images that have no feature: row (-1: never read), path, state, reason."""
        view = self.store.images()
        unread = view[view["state"] != "ok"][["row", "path", "state", "reason"]]
        why = {
            row: why
            for record in self._ledger.records().values()
            for row, why in record.bad.items()
        }
        failed = view[view["row"].isin(list(why))][["row", "path"]]
        failed = failed.assign(
            state=[why[row][0] for row in failed["row"]],
            reason=[why[row][1] for row in failed["row"]],
        )
        both = pd.concat([unread, failed.astype({"state": object, "reason": object})])
        return both.sort_values("path").reset_index(drop=True)

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
        self._check_committed(name, rows)
        out = np.empty((len(rows), *spec.tail), dtype=spec.dtype)
        units = rows // UNIT
        for unit in np.unique(units):
            here = np.flatnonzero(units == unit)
            out[here] = self._read_unit(spec, int(unit), rows[here] - unit * UNIT)
        return out

    def blocks(
        self, name: str | Sequence[str], rows: Rows | None = None, size: int = UNIT
    ) -> Iterator[tuple[np.ndarray, Any]]:
        """Read rows shard by shard.

        Args:
            name: an array, or several that are read together.
            rows: (n,) ascending row numbers; None for those of `table()`.
            size: most rows of a block.

        Yields:
            Row numbers (b,), and the array (b, *tail), or a dict of arrays for several names.
        """
        names = [name] if isinstance(name, str) else list(name)
        wanted = self._numbers(self.table(names=names)["row"] if rows is None else rows)
        span = max(size // UNIT, 1) * UNIT
        cuts = np.flatnonzero(np.diff(wanted // span)) + 1
        for whole in np.split(wanted, cuts):
            if not len(whole):
                continue
            read = {one: self.read(one, whole) for one in names}
            for lo in range(0, len(whole), size):
                part = slice(lo, lo + size)
                arrays = {one: array[part] for one, array in read.items()}
                yield whole[part], arrays[name] if isinstance(name, str) else arrays

    # Writing

    def write_unit(
        self,
        unit: int,
        arrays: Mapping[str, np.ndarray],
        bad: Mapping[int, tuple[str, str]] | None = None,
        *,
        run_id: str = "",
    ) -> None:
        """Commit rows of one unit: data, flush, then the record.

        Args:
            unit: the unit; only one writer may have it (see `claim`).
            arrays: name to (n, *tail), the last n rows of the unit, n the same for all: those of
                `todo`, or the whole unit. Rows before them must be committed.
            bad: row to (state, reason) of images without a feature; their rows become NaN.
            run_id: id of the run, for the record.

        Raises:
            StoreDamaged: rows to be kept are not what was recorded.
            StoreFull: no space; nothing of the unit is committed.
        """
        bad = {int(row): why for row, why in (bad or {}).items()}
        rows = self.unit_rows(unit)
        old = self._ledger.record(unit)
        committed = dict(old.arrays) if old else {}
        first = rows.stop
        for name, given in arrays.items():
            check_rows(self.arrays, name, given)
            first = rows.stop - len(given)
            whole = self._whole(old, name, rows, given, bad)
            committed[name] = self._write_array(old, unit, name, whole, bad)
        kept = {row: why for row, why in (old.bad if old else {}).items() if row < first}
        record = Record(
            unit=unit,
            arrays=committed,
            bad={**kept, **bad},
            ids_hash=ids_hash(self.store.image_ids()[rows.start : rows.stop]),
            run=provenance(run_id),
        )
        self._ledger.write(record)

    # Constants: small arrays that belong to the group, such as its classifier or a fitted mean

    def write_constant(self, name: str, value: np.ndarray) -> None:
        """Store one array under a name such as `classifier/weight`, replacing any."""
        sink = io.BytesIO()
        np.savez(sink, value=np.ascontiguousarray(value))
        self.store.write_file(f"constants/{self.key}/{name}.npz", sink.getvalue())

    def read_constant(self, name: str) -> np.ndarray:
        """Read one array; `BadInput` where there is none, `StoreDamaged` where it is broken."""
        place = f"constants/{self.key}/{name}.npz"
        try:
            data = self.store.read_file(place)
        except FileNotFoundError:
            have = ", ".join(self.constants()) or "none"
            raise BadInput(f"no constant {name!r} in {self.key}; there are: {have}") from None
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as read:
                return np.asarray(read["value"])
        except (zipfile.BadZipFile, ValueError, KeyError, OSError) as error:
            raise StoreDamaged(f"{place} is damaged ({error}); delete it and run again") from error

    def constants(self) -> list[str]:
        """Give the names of the stored constants."""
        folder = f"constants/{self.key}"
        return sorted(
            name[: -len(".npz")] for name in self.store.files.walk(folder) if name.endswith(".npz")
        )

    # Inside

    def _spec(self, name: str) -> ArraySpec:
        if name not in self.arrays:
            raise BadInput(f"no array {name!r} in {self.key}; there are: {', '.join(self.arrays)}")
        return self.arrays[name]

    def _numbers(self, rows: Any) -> np.ndarray:
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(self.store.n_rows))
        return np.asarray(rows, dtype=np.int64)

    def _place(self, name: str, unit: int) -> str:
        return f"{TREE}/{self.key}/{name}/{self.arrays[name].shard_name(unit)}"

    def _shard_sizes(self, name: str) -> dict[str, int]:
        listed = self.store.files.listing(f"{TREE}/{self.key}/{name}")
        return {shard: int(str(stamp[1])) for shard, stamp in listed.items()}

    def _read_unit(self, spec: ArraySpec, unit: int, at: np.ndarray) -> np.ndarray:
        return read_shard_rows(self.store.files, self._place(spec.name, unit), spec, at)

    def _intact(self, record: Record, name: str) -> bool:
        try:
            rows = self._read_unit(
                self.arrays[name], record.unit, np.arange(record.hi_of(name) - record.lo)
            )
        except StoreDamaged:
            return False
        return row_hash(rows) == record.arrays[name].hash

    def _committed(self, names: Iterable[str] | None) -> np.ndarray:
        committed = np.zeros(self.store.n_rows, dtype=bool)
        for record in self._ledger.records().values():
            committed[record.lo : record.hi(names)] = True
        return committed

    def _usable(self, names: Iterable[str] | None) -> np.ndarray:
        usable = self._committed(names)
        for record in self._ledger.records().values():
            usable[list(record.bad)] = False
        return usable

    def _check_committed(self, name: str, rows: np.ndarray) -> None:
        if not len(rows):
            return
        committed = self._committed([name])
        outside = (rows < 0) | (rows >= len(committed))
        missing = outside | ~committed[np.where(outside, 0, rows)] if len(committed) else outside
        if missing.any():
            raise BadInput(
                f"row {rows[missing][0]} of {name} in {self.key} is not committed "
                f"({int(missing.sum())} such rows); run `alike extract` to compute it"
            )

    def _whole(
        self,
        old: Record | None,
        name: str,
        rows: range,
        given: np.ndarray,
        bad: Mapping[int, tuple[str, str]],
    ) -> np.ndarray:
        """Put kept and given rows together, NaN where an image is bad."""
        spec = self.arrays[name]
        n_kept = len(rows) - len(given)
        if n_kept < 0:
            raise ValueError(f"{name}: {len(given)} rows for unit of {len(rows)}")
        lost = [row - rows.start - n_kept for row in bad]
        if lost:
            given = given.copy()
            given[lost] = spec.fill
        if not n_kept:
            return given
        if old is None or old.hi_of(name) < rows.start + n_kept:
            raise ValueError(
                f"{name}: the first {n_kept} rows of unit {rows.start // UNIT} are not committed"
            )
        kept = self._read_unit(spec, old.unit, np.arange(old.hi_of(name) - old.lo))
        if row_hash(kept) != old.arrays[name].hash:
            raise StoreDamaged(
                f"{self._place(name, old.unit)} is not what was recorded; run `alike store verify`"
            )
        return np.concatenate([kept[:n_kept], given])

    def _write_array(
        self,
        old: Record | None,
        unit: int,
        name: str,
        whole: np.ndarray,
        bad: Mapping[int, tuple[str, str]],
    ) -> Committed:
        place, lo = self._place(name, unit), unit * UNIT
        # Zarr reads the old shard before it replaces part of one, and fails on a torn one for
        # ever: a shard that holds no intact committed rows goes first.
        kept = old is not None and name in old.arrays and self._intact(old, name)
        if len(whole) < UNIT and not kept:
            self.store.files.remove(place)
        try:
            write_rows(self.store.tree, f"{self.key}/{name}", lo, whole)
            self.store.files.sync(place)
        except OSError as error:
            raise explain_full(error, self.store.url) or error from error
        finite = np.isfinite(whole) if whole.dtype.kind == "f" else np.ones(whole.shape, dtype=bool)
        finite[[row - lo for row in bad]] = True
        return Committed(
            hi=lo + len(whole),
            hash=row_hash(whole),
            stored=self.store.files.size(place) or 0,
            nonfinite=int(finite.size - np.count_nonzero(finite)),
        )
