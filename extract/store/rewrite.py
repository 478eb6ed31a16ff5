"""Taking rows out of committed shards: their values are overwritten, all other rows stay.

A shard and its record are two files, so no step replaces both. The record comes first and says of
each array what its shard is and what it is about to become; then the shard is replaced as a whole;
then the record says only what is there now. So whoever reads at any moment, after a crash too,
reads every other row as it was, and taking the same rows out again ends what was begun.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from alike.extract.store.arrays import shard_bytes
from alike.extract.store.commit import Bad, Stored, committed_rows
from alike.extract.store.group import Group
from alike.extract.store.ledger import Committed, Record, ids_hash
from alike.extract.store.shards import HeldFile, chunk_checksums


@dataclass(frozen=True)
class Rewritten:
    """What taking rows out of a unit did.

    Attributes:
        shards: files that were replaced or deleted.
        freed: bytes that they are smaller by.
        damaged: arrays whose rows were not what was recorded: taken back, to be computed again.
    """

    shards: int = 0
    freed: int = 0
    damaged: tuple[str, ...] = ()

    def __add__(self, other: "Rewritten") -> "Rewritten":
        """Give both together."""
        damaged = (*self.damaged, *other.damaged)
        return Rewritten(self.shards + other.shards, self.freed + other.freed, damaged)


def take_out(
    group: Group, unit: int, reasons: Bad, ids: Sequence[str] | np.ndarray | None = None
) -> Rewritten:
    """Overwrite committed rows of a unit by missing ones, in every array.

    What a run that was cut off left in the files of the unit without a record goes too.

    Args:
        group: whose arrays; the caller holds its extraction.
        unit: the unit.
        reasons: row to (state, reason) that it is bad for from now on.
        ids: image ids of the unit's rows as the manifest is about to have them; None: as now. The
            caller calls `settle_ids` when it has them.
    """
    with group.claim(unit) as claim:
        record = group.ledger.record(unit)
        done = _delete_unrecorded(group, unit, record)
        if record is None:
            return done
        end = record.hi_of_any()
        bad = {**record.bad, **{row: why for row, why in reasons.items() if row < end}}
        lost = {row: of for row, of in record.lost.items() if row not in bad}
        record = replace(record, bad=bad, lost=lost)
        shards, arrays = {}, {}
        for name, committed in record.arrays.items():
            if name not in group.arrays:
                continue
            shard = _without(group, record, name, reasons)
            if shard is not None:
                shards[name], after = shard
                arrays[name] = replace(committed, after=after)
        damaged = tuple(name for name in record.arrays if name not in arrays)
        if not arrays:
            group.ledger.take_back(unit)
            return done + _delete(group, unit, damaged) + Rewritten(damaged=damaged)
        rows = _end(arrays.values()) - record.lo
        now = ids_hash(group.store.image_ids(record.lo, record.lo + rows))
        after_ids = now if ids is None else ids_hash(ids[:rows])
        record = replace(record, ids_hash=now, ids_after="" if after_ids == now else after_ids)
        claim.check()
        group.ledger.write(replace(record, arrays=arrays))
        done += _delete(group, unit, damaged) + Rewritten(damaged=damaged)
        for name, data in shards.items():
            done += _put(group, group.place(name, unit), data)
        claim.check()
        settled = {name: one.after for name, one in arrays.items() if one.after is not None}
        group.ledger.write(replace(record, arrays=settled))
        return done


def freed_by(group: Group, unit: int, rows: Collection[int]) -> int:
    """Bytes that `take_out` of rows would free; shards without a record are left out."""
    record = group.ledger.record(unit)
    freed = 0
    for name in record.arrays if record else ():
        shard = _without(group, record, name, rows) if record and name in group.arrays else None
        if shard is not None:
            freed += (group.store.files.size(group.place(name, unit)) or 0) - len(shard[0])
    return freed


def settle_ids(group: Group, unit: int) -> None:
    """Make a record one of the ids that the manifest has by now."""
    record = group.ledger.record(unit)
    if record is not None and record.ids_after:
        group.ledger.write(replace(record, ids_hash=record.ids_after, ids_after=""))


def _without(
    group: Group, record: Record, name: str, rows: Collection[int]
) -> tuple[bytes, Committed] | None:
    """Give the shard of an array without some rows, and what is recorded of it then."""
    stored = group.verified(record, name)
    if stored is None:
        return None
    spec, lo, end = group.arrays[name], record.lo, record.lo + len(stored)
    stored = stored.copy()
    stored[[row - lo for row in rows if row < end]] = spec.fill
    data = shard_bytes(spec, stored)
    chunks = chunk_checksums(HeldFile(data), name, spec, len(stored)) if data else ""
    without = [*record.bad, *(row for row, of in record.lost.items() if name in of)]
    without = [row for row in without if row < end]
    return data, committed_rows(spec, lo, stored, without, Stored(len(data), chunks))


def _end(arrays: Collection[Committed]) -> int:
    return max(one.hi for one in arrays)


def _delete_unrecorded(group: Group, unit: int, record: Record | None) -> Rewritten:
    recorded = record.arrays if record else {}
    return _delete(group, unit, [one for one in group.arrays if one not in recorded])


def _delete(group: Group, unit: int, names: Collection[str]) -> Rewritten:
    done = Rewritten()
    for name in names:
        if name in group.arrays:
            done += _put(group, group.place(name, unit), b"")
    return done


def _put(group: Group, place: str, data: bytes) -> Rewritten:
    """Replace a shard; one that would be empty is deleted."""
    files = group.store.files
    size = files.size(place)
    if size is None and not data:
        return Rewritten()
    if size == len(data) and files.read(place) == data:
        return Rewritten()
    if data:
        files.write(place, data)
    else:
        files.remove(place)
    return Rewritten(1, (size or 0) - len(data))
