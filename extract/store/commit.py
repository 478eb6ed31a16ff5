"""Committing a unit, and finding the units that have to be: the only writer of rows.

Order of a commit: the claim; taking back rows that will change; the data, their flush; the record.
A crash anywhere leaves a record with its rows, or no record: what is recorded is what is there.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from alike.extract.errors import StoreDamaged
from alike.extract.store.arrays import UNIT, ArraySpec, plain_rows, shard_bytes
from alike.extract.store.files import disk_errors
from alike.extract.store.group import Group
from alike.extract.store.ledger import Committed, Record, ids_hash, provenance, row_hash
from alike.extract.store.shards import HeldFile, chunk_checksums

ABSENT = "absent"
"""State of a row whose image was not in the set when its unit was computed.

Should the image come back, its unit is pending again.
"""

_STEP = 8
"""Rows looked at in one go: their temporaries stay in the cache, six times as fast as a unit's."""

Bad = Mapping[int, tuple[str, str]]
"""Row to (state, reason) of an image without a feature."""
Lost = Mapping[int, Sequence[str]]
"""Row to the arrays that have no value of its image, which has all others."""


def pending_units(group: Group, names: list[str]) -> list[int]:
    """Give the units that miss good rows of any of `names`; sizes tell torn and lost shards."""
    records = group.ledger.records()
    sizes = {name: group.shard_sizes(name) for name in names}
    n_rows = group.store.n_rows
    back = _came_back(group, records.values())

    def whole(record: Record, end: int) -> bool:
        return record.hi(names) >= end and all(
            sizes[name].get(spec.shard_name(record.unit), 0)
            in [one.stored for one in record.arrays[name].versions]
            for name in names
            if (spec := group.arrays[name])
        )

    units = range(-(-n_rows // UNIT))
    ends = {unit: min((unit + 1) * UNIT, n_rows) for unit in units}
    return [
        unit
        for unit in units
        if unit in back or unit not in records or not whole(records[unit], ends[unit])
    ]


def rows_to_do(group: Group, unit: int, names: list[str]) -> range:
    """Give the last rows of a unit that have to be computed; those before are still good."""
    rows = group.unit_rows(unit)
    record = group.ledger.record(unit)
    if record is None:
        return rows
    first = min([record.hi(names), *_came_back(group, [record]).get(unit, [])])
    begun = [name for name in names if record.hi_of(name) > rows.start]
    if first >= rows.stop or not all(group.intact(record, name) for name in begun):
        return rows
    return range(first, rows.stop)


def _came_back(group: Group, records: Iterable[Record]) -> dict[int, list[int]]:
    """Give unit to rows that were absent when it was computed and are in the set now."""
    absent = {
        record.unit: rows
        for record in records
        if (rows := [row for row, why in record.bad.items() if why[0] == ABSENT])
    }
    if not absent:
        return {}
    listed = set(group.store.images()["row"])
    back = {unit: [row for row in rows if row in listed] for unit, rows in absent.items()}
    return {unit: rows for unit, rows in back.items() if rows}


def commit_unit(
    group: Group,
    unit: int,
    arrays: Mapping[str, np.ndarray],
    bad: Bad,
    run_id: str,
    lost: Lost | None = None,
) -> None:
    """Write rows and their record; see `Features.write_unit`."""
    rows = group.unit_rows(unit)
    lengths = {len(new_rows) for new_rows in arrays.values()}
    if len(lengths) != 1 or not 0 < min(lengths) <= len(rows):
        raise ValueError(f"unit {unit} has {len(rows)} rows, given: {sorted(lengths)}")
    first = rows.stop - lengths.pop()
    if any(row not in range(first, rows.stop) for row in bad):
        raise ValueError(f"bad rows {sorted(bad)} outside of {first} to {rows.stop}")
    lost = {row: tuple(names) for row, names in (lost or {}).items() if row not in bad}
    without = {name: [*bad, *(row for row, of in lost.items() if name in of)] for name in arrays}
    with group.claim(unit) as claim:
        record = group.ledger.record(unit)
        shards = {
            name: _joined(group, record, name, first, arrays[name], without[name])
            for name in arrays
        }
        changed = {name for name, shard in shards.items() if not shard.stays}
        if record and changed & set(record.arrays):
            # Rows that change are taken back first: what is recorded is always what is there.
            record = withdraw(group, record, changed)
        committed = dict(record.arrays) if record else {}
        for name, shard in shards.items():
            committed[name] = _write_array(group, unit, name, shard, without[name])
        earlier_bad = record.bad if record else {}
        if set(committed) <= set(arrays):
            # A row that was bad stays so until it is given for every array at once.
            earlier_bad = {row: why for row, why in earlier_bad.items() if row < first}
        ids = group.store.image_ids(rows.start, rows.stop)
        all_bad = {**earlier_bad, **bad}
        all_lost = _all_lost(record, lost, first, set(arrays))
        claim.check()
        run = provenance(run_id)
        sealed = Record(unit, committed, all_bad, ids_hash(ids), run, group.key, all_lost)
        group.ledger.write(sealed)


def _all_lost(
    record: Record | None, lost: Lost, first: int, given: set[str]
) -> dict[int, tuple[str, ...]]:
    """Give what is lost after a commit: what was, where no new value was given, and what is new."""
    every = {row: set(names) for row, names in lost.items()}
    for row, names in (record.lost if record else {}).items():
        stays = set(names) if row < first else set(names) - given
        every[row] = every.get(row, set()) | stays
    return {row: tuple(sorted(names)) for row, names in sorted(every.items()) if names}


def withdraw(group: Group, record: Record, names: Collection[str]) -> Record | None:
    """Take arrays out of a record; give what is left of it."""
    arrays = {name: one for name, one in record.arrays.items() if name not in names}
    if not arrays:
        group.ledger.take_back(record.unit)
        return None
    rest = replace(record, arrays=arrays)
    group.ledger.write(rest)
    return rest


@dataclass(frozen=True)
class _Shard:
    """All rows of one array of a unit, before they are written.

    Attributes:
        rows: (n, *tail), from the unit's first row.
        stays: whether the rows committed before are intact and stay what they are.
    """

    rows: np.ndarray
    stays: bool


def _joined(
    group: Group,
    record: Record | None,
    name: str,
    first: int,
    new_rows: np.ndarray,
    without: Sequence[int],
) -> _Shard:
    """Put the unit's rows together: as committed before `first`, new ones, NaN for `without`."""
    new_rows = plain_rows(group.arrays, name, new_rows)
    lo = first // UNIT * UNIT
    if without:
        new_rows = new_rows.copy()
        new_rows[[row - first for row in without]] = group.arrays[name].fill
    if first == lo:
        if record is None or name not in record.arrays:
            return _Shard(new_rows, stays=False)
        same = row_hash(new_rows[: record.hi_of(name) - lo]) == record.arrays[name].hash
        return _Shard(new_rows, same and group.intact(record, name))
    if record is None or record.hi_of(name) < first:
        raise ValueError(f"{name}: rows {lo} to {first} are not committed")
    committed = group.verified(record, name)
    if committed is None:
        place = group.place(name, record.unit)
        raise StoreDamaged(f"{place} is not what was recorded; run `alike store verify`")
    rows = np.concatenate([committed[: first - lo], new_rows])
    stays = len(committed) == first - lo
    return _Shard(rows, stays or row_hash(rows[: len(committed)]) == record.arrays[name].hash)


def _write_array(
    group: Group, unit: int, name: str, shard: _Shard, without: Sequence[int]
) -> Committed:
    files, place, lo = group.store.files, group.place(name, unit), unit * UNIT
    spec = group.arrays[name]
    # Whole, in one step: of the shard before, torn or not, nothing is read.
    data = shard_bytes(spec, shard.rows)
    if data:
        with disk_errors(group.store.url):
            files.write(place, data)
        chunks = chunk_checksums(HeldFile(data), place, spec, len(shard.rows))
    else:
        # Zarr keeps no shard of missing rows alone.
        files.remove(place)
        chunks = ""
    return committed_rows(spec, lo, shard.rows, without, Stored(len(data), chunks))


@dataclass(frozen=True)
class Stored:
    """The file of a shard.

    Attributes:
        size: its bytes; 0: there is none.
        chunks: `chunk_checksums` of it.
    """

    size: int
    chunks: str


def committed_rows(
    spec: ArraySpec, lo: int, rows: np.ndarray, without: Sequence[int], stored: Stored
) -> Committed:
    """Say what a record says of the rows of an array.

    Args:
        spec: the array.
        lo: first row of the unit.
        rows: (n, *tail) from there on.
        without: rows without a value.
        stored: their file.
    """
    rest = len(rows) % spec.chunk_rows
    tail = row_hash(rows[-rest:]) if rest else ""
    nonfinite = _nonfinite(rows, [row - lo for row in without])
    return Committed(lo + len(rows), row_hash(rows), stored.size, nonfinite, stored.chunks, tail)


def _nonfinite(rows: np.ndarray, bad: list[int]) -> int:
    """Count elements that are NaN or infinite, those of bad rows left out."""
    if rows.dtype.kind != "f":
        return 0
    total = sum(_count_nonfinite(rows[at : at + _STEP]) for at in range(0, len(rows), _STEP))
    return total - _count_nonfinite(rows[bad])


def _count_nonfinite(rows: np.ndarray) -> int:
    if rows.dtype == np.float16:
        # Exponent bits all set: four times as fast as isfinite, which widens float16 first.
        return int(np.count_nonzero((rows.view(np.uint16) & 0x7C00) == 0x7C00))
    return int(rows.size - np.count_nonzero(np.isfinite(rows)))
