"""Is everything that is recorded still there, byte for byte? What is not becomes pending again."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from alike.extract.errors import StoreDamaged
from alike.extract.progress import Progress, silent
from alike.extract.store.arrays import UNIT
from alike.extract.store.commit import withdraw
from alike.extract.store.events import Event, note
from alike.extract.store.features import Features
from alike.extract.store.ledger import Record, ids_hash, row_hash
from alike.extract.store.locks import require_writable
from alike.extract.store.store import Store


@dataclass(frozen=True)
class Damage:
    """One thing that is not what was recorded.

    Attributes:
        key: the extraction, or nothing.
        file: name of the file in the store.
        rows: the rows that are lost, as `first-last`, or nothing.
        reason: what is wrong with it.
        repair: what to do.
    """

    key: str
    file: str
    rows: str
    reason: str
    repair: str


@dataclass(frozen=True)
class Verdict:
    """Result of a verification.

    Attributes:
        units: number of records checked.
        rows: rows of arrays that were hashed again, all arrays together.
        gigabytes: decoded bytes that were hashed again, in 10^9.
        damage: everything that is wrong.
        marked: whether the damaged units were made pending.
    """

    units: int
    rows: int
    gigabytes: float
    damage: tuple[Damage, ...]
    marked: bool


_AGAIN = "run `alike extract` again: it computes these rows anew"


def verify(
    store: Store, key: str | None = None, *, mark: bool = True, progress: Progress = silent
) -> Verdict:
    """Read and hash again everything that is recorded.

    Args:
        store: the store.
        key: one extraction; None for all, and for the files beside them.
        mark: take damaged rows out of the ledger, so that the next extraction computes them
            (and readers do not count on them); needs a store that can be written.
        progress: told of every unit.

    Raises:
        StoreBusy: `mark`, and a process extracts at this moment.
        BadInput: no such key, or `mark` and the store cannot be written.
    """
    if mark:
        require_writable(store.files)
    keys = store.groups() if key is None else [store.features(key).key]
    damage = [] if key is not None else [*_manifest_damage(store), *_file_damage(store)]
    units = rows = size = 0
    for one in keys:
        features = store.features(one)
        damage += _broken_records(features, mark)
        records = list(features.ledger.sound().values())
        damaged: dict[int, list[tuple[str, Damage]]] = {}
        for done, (record, faults) in enumerate(_checked(features, records), 1):
            units += 1
            for name, committed in record.arrays.items():
                rows += committed.hi - record.lo
                size += (committed.hi - record.lo) * features.arrays[name].row_bytes
            if faults:
                damaged[record.unit] = faults
                damage += [fault for _, fault in faults]
            progress(f"verify {one}", done, len(records), f"{len(damage)} damaged")
        if damaged and mark:
            _take_back(features, damaged)
    return Verdict(units, rows, size / 1e9, tuple(damage), mark)


def _checked(
    features: Features, records: list[Record]
) -> Iterator[tuple[Record, list[tuple[str, Damage]]]]:
    def check(record: Record) -> list[tuple[str, Damage]]:
        return _unit_damage(features, record)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as readers:
        yield from zip(records, readers.map(check, records), strict=True)


def _unit_damage(features: Features, record: Record) -> list[tuple[str, Damage]]:
    """Check one record: (array, damage) of every array that is not what was recorded."""
    end = max((one.hi for one in record.arrays.values()), default=record.lo)
    same_images = (
        end <= features.store.n_rows
        and ids_hash(features.store.image_ids(record.lo, end)) == record.ids_hash
    )
    faults = []
    for name, committed in record.arrays.items():
        rows = f"{record.lo}-{committed.hi - 1}"
        file, reason = features.ledger.name(record.unit), "its rows belong to other images"
        if same_images:
            file, reason = _array_damage(features, record, name)
        if reason:
            faults.append((name, Damage(features.key, file, rows, reason, _AGAIN)))
    return faults


def _array_damage(features: Features, record: Record, name: str) -> tuple[str, str]:
    """Check the rows of one array: the file, and what is wrong with it or nothing."""
    if name not in features.arrays:
        return features.ledger.name(record.unit), f"it names the array {name}, which is gone"
    place = features.place(name, record.unit)
    committed = record.arrays[name]
    try:
        rows = features.read_unit(name, record, np.arange(committed.hi - record.lo))
    except StoreDamaged as error:
        return place, str(error).split("; ")[0].removeprefix(f"{place} is ")
    return place, "" if row_hash(rows) == committed.hash else "rows differ from their recorded hash"


def _broken_records(features: Features, mark: bool) -> list[Damage]:
    broken = features.ledger.broken()
    if mark and broken:
        with features.store.lock(features.key):
            for unit in broken:
                features.ledger.forget(unit)
    return [
        Damage(features.key, features.ledger.name(unit), _span(unit), reason, _AGAIN)
        for unit, reason in broken.items()
    ]


def _span(unit: int) -> str:
    return f"{unit * UNIT}-{(unit + 1) * UNIT - 1}"


def _take_back(features: Features, damaged: dict[int, list[tuple[str, Damage]]]) -> None:
    """Take damaged arrays out of their records, then delete their shards."""
    files = features.store.files
    with features.store.lock(features.key):
        for unit, faults in damaged.items():
            with features.claim(unit):
                record = features.ledger.record(unit)
                names = {name for name, _ in faults}
                if record is None:
                    continue
                withdraw(features, record, names)
                for name in names & set(features.arrays):
                    files.remove(features.place(name, unit))
            for _, damage in faults:
                note(files, Event("damaged", features.key, f"{damage.file}: {damage.reason}"))
        features.publish()


def _manifest_damage(store: Store) -> list[Damage]:
    repair = "restore it from a copy: it says which image a row belongs to"
    return [Damage("", file, "", reason, repair) for file, reason in store.manifest.broken()]


def _file_damage(store: Store) -> list[Damage]:
    """Check what lies beside the arrays and carries checksums: tables and constants."""
    damage = []
    for name in store.files.walk("tables"):
        if name.endswith(".parquet"):
            try:
                store.read_table(f"tables/{name}")
            except StoreDamaged as error:
                damage.append(Damage("", f"tables/{name}", "", str(error), "make it again"))
    for key in store.groups():
        features = store.features(key)
        for name in features.constants():
            try:
                features.read_constant(name)
            except StoreDamaged as error:
                place = f"constants/{key}/{name}.npz"
                damage.append(Damage(key, place, "", str(error), "delete it and run again"))
    return damage
