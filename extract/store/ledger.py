"""The ledger: one record per unit of 1024 rows says what is committed; nothing else counts.

A record is written after its data are durable, so a crash leaves data without a record (computed
again), never a record without data.
"""

import datetime
import hashlib
import json
import os
import platform
import re
import socket
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

import numpy as np

from alike.extract.documents import damaged, read_json
from alike.extract.errors import StoreDamaged
from alike.extract.store.arrays import UNIT
from alike.extract.store.files import ADVICE, Files, Stamp

SCHEMA = "alike-ledger/1"
NAME = re.compile(r"\d{8}\.json")
"""Name of a record; other files in the folder are none of ours."""


@dataclass(frozen=True)
class Committed:
    """What a record says of one array.

    Attributes:
        hi: end of the committed rows, which begin at the unit's first.
        hash: `row_hash` of those rows, decoded.
        stored: bytes of the shard's file.
        nonfinite: elements that are NaN or infinite, those of bad rows left out.
        chunks: the last four bytes of every inner chunk that holds such rows, in order, as base64:
            the checksum that each carries, so that reading knows a chunk of another shard for
            what it is; ff ff ff ff for a chunk of missing rows, which Zarr leaves out. Empty in
            records of earlier versions.
        tail: `row_hash` of the rows in the last of those chunks if it is not full: rows that the
            set gains later change its checksum, not these rows.
        after: what the rows are about to become: while rows are taken out, the shard is one of
            the two.
    """

    hi: int
    hash: str
    stored: int
    nonfinite: int
    chunks: str = ""
    tail: str = ""
    after: "Committed | None" = None

    @property
    def versions(self) -> "tuple[Committed, ...]":
        """What the shard may hold now: one of these."""
        return (self,) if self.after is None else (self.after, self)

    @property
    def is_older(self) -> bool:
        """Whether an earlier version wrote it: the checksums of its chunks are not known."""
        return bool(self.stored) and not self.chunks and self.after is None


@dataclass(frozen=True)
class Record:
    """What is committed of one unit.

    Attributes:
        unit: number of the unit; its rows begin at `UNIT * unit`.
        arrays: name of an array to what is committed of it.
        bad: row to (state, reason) of images that have no feature.
        ids_hash: hash of the ids of the images of the rows up to `hi`.
        run: id of the run, host, process, time and versions that wrote it.
        key: the group that it belongs to; empty in records of earlier versions.
        lost: row to the arrays that hold no value of its image, which has all others.
        ids_after: what `ids_hash` is about to become, while images are forgotten; else empty.
    """

    unit: int
    arrays: dict[str, Committed]
    bad: dict[int, tuple[str, str]]
    ids_hash: str
    run: dict[str, Any] = field(default_factory=dict)
    key: str = ""
    lost: dict[int, tuple[str, ...]] = field(default_factory=dict)
    ids_after: str = ""

    @property
    def is_older(self) -> bool:
        """Whether an earlier version wrote it, which named no group and no checksums of chunks."""
        return not self.key or any(one.is_older for one in self.arrays.values())

    @property
    def lo(self) -> int:
        """First row of the unit."""
        return self.unit * UNIT

    def hi(self, names: Iterable[str] | None = None) -> int:
        """End of the rows that are committed in all of `names` (None: in all arrays it has)."""
        wanted = self.arrays if names is None else names
        return min((self.hi_of(name) for name in wanted), default=self.lo)

    def hi_of_any(self) -> int:
        """End of the rows that are committed in one array or more."""
        return max((one.hi for one in self.arrays.values()), default=self.lo)

    def hi_of(self, name: str) -> int:
        """End of the committed rows of one array."""
        return self.arrays[name].hi if name in self.arrays else self.lo

    def to_json(self) -> bytes:
        """Write the record as a file, with a hash of itself."""
        fields = {"schema": SCHEMA, "lo": self.lo, "hi": self.hi(), **asdict(self)}
        fields["bad"] = {str(row): list(why) for row, why in self.bad.items()}
        fields["lost"] = {str(row): list(names) for row, names in self.lost.items()}
        if not self.ids_after:
            del fields["ids_after"]
        for committed in fields["arrays"].values():
            if committed["after"] is None:
                del committed["after"]
        return json.dumps({"record": fields, "hash": _hash_of(fields)}).encode()

    @staticmethod
    def from_json(data: bytes, place: str = "record") -> "Record":
        """Read a record; `StoreDamaged` if it is none, or not what was written."""
        document = read_json(data, _Document, place, ADVICE)
        if document.hash != _hash_of(document.record):
            raise damaged(place, "it differs from its own hash", ADVICE)
        fields = read_json(json.dumps(document.record), _Fields, place, ADVICE)
        try:
            bad = {int(row): why for row, why in fields.bad.items()}
            lost = {int(row): names for row, names in fields.lost.items()}
        except ValueError as error:
            raise damaged(place, error, ADVICE) from None
        return Record(
            unit=fields.unit,
            arrays=fields.arrays,
            bad=bad,
            ids_hash=fields.ids_hash,
            run=dict(fields.run),
            key=fields.key,
            lost=lost,
            ids_after=fields.ids_after,
        )


@dataclass(frozen=True)
class _Document:
    record: dict[str, Any]
    hash: str


@dataclass(frozen=True)
class _Fields:
    unit: int
    arrays: dict[str, Committed]
    bad: dict[str, tuple[str, str]]
    ids_hash: str
    run: dict[str, Any]
    key: str = ""
    lost: dict[str, tuple[str, ...]] = field(default_factory=dict)
    ids_after: str = ""


def _hash_of(fields: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(fields).encode(), digest_size=16).hexdigest()


class Ledger:
    """The records of one group, read once and again only if a file changed."""

    def __init__(self, files: Files, key: str) -> None:
        self._files = files
        self._key = key
        self.folder = f"ledger/{key}"
        self._cache: dict[int, tuple[Stamp, Record | str]] = {}

    def name(self, unit: int) -> str:
        """Name of the file of a unit's record."""
        return f"{self.folder}/{unit:08d}.json"

    def records(self) -> dict[int, Record]:
        """Give the records of all units, in order of units; `StoreDamaged` if one is broken."""
        scan = self._scan()
        for unit, record in scan.items():
            if isinstance(record, str):
                raise damaged(self.name(unit), record, ADVICE)
        return _counting(scan)

    def sound(self) -> dict[int, Record]:
        """Give the records that can be read."""
        return _counting(self._scan())

    def units(self) -> set[int]:
        """Give the units that have a record of any kind: one that takes rows back, too."""
        return set(self._scan())

    def broken(self) -> dict[int, str]:
        """Give the units whose record cannot be read, and why."""
        return {unit: one for unit, one in self._scan().items() if isinstance(one, str)}

    def _scan(self) -> dict[int, Record | str]:
        """Give of every unit its record, or why that cannot be read."""
        stamps = self._files.listing(self.folder)
        entries: dict[int, tuple[Stamp, Record | str]] = {}
        for name in sorted(stamps):
            if NAME.fullmatch(name) is None:
                continue
            unit, stamp = int(name[:-5]), stamps[name]
            entry = self._cache.get(unit)
            if entry is None or entry[0] != stamp:
                record = self._load(unit)
                if record is None:
                    continue
                entry = (stamp, record)
            entries[unit] = entry
        self._cache = entries
        return {unit: record for unit, (_, record) in entries.items()}

    def _load(self, unit: int) -> Record | str | None:
        try:
            record = Record.from_json(self._files.read(self.name(unit)), self.name(unit))
        except FileNotFoundError:
            return None
        except StoreDamaged as error:
            return error.fault
        if record.unit != unit:
            return f"it is the record of unit {record.unit}"
        if record.key not in ("", self._key):
            return f"it is a record of {record.key}"
        return record

    def record(self, unit: int) -> Record | None:
        """Read the record of one unit as it is now; `StoreDamaged` if it is broken."""
        record = self._load(unit)
        if isinstance(record, str):
            raise damaged(self.name(unit), record, ADVICE)
        return record if record is None or record.arrays else None

    def write(self, record: Record) -> None:
        """Commit a unit."""
        self._files.write(self.name(record.unit), record.to_json())

    def take_back(self, unit: int) -> None:
        """Take back a unit: its rows no longer count, and the ledger says that this was meant."""
        self.write(Record(unit, {}, {}, "", provenance(""), self._key))


def _counting(scan: Mapping[int, Record | str]) -> dict[int, Record]:
    """Leave out what cannot be read, and records that only take rows back."""
    return {unit: one for unit, one in scan.items() if isinstance(one, Record) and one.arrays}


def row_hash(rows: np.ndarray) -> str:
    """Hash decoded rows: BLAKE2b with 16 bytes over their C-ordered bytes."""
    return hashlib.blake2b(np.ascontiguousarray(rows).data, digest_size=16).hexdigest()


def ids_hash(ids: Iterable[str]) -> str:
    """Hash the ids of images in order of rows."""
    return hashlib.blake2b("\n".join(ids).encode(), digest_size=16).hexdigest()


def digest_of(records: Mapping[int, Record], names: Collection[str] | None = None) -> str:
    """Hash what is committed: changes with any row, array or bad image, not with who wrote it.

    Args:
        records: unit to its record.
        names: arrays that count; None for all.
    """
    whole = hashlib.blake2b(digest_size=16)
    for unit in sorted(records):
        record = records[unit]
        arrays = sorted(
            (name, one.hi, one.hash)
            for name, one in record.arrays.items()
            if names is None or name in names
        )
        whole.update(json.dumps([unit, arrays, sorted(record.bad.items())]).encode())
        if record.lost:
            whole.update(json.dumps(sorted(record.lost.items())).encode())
    return whole.hexdigest()


def provenance(run_id: str) -> dict[str, Any]:
    """Say who writes, now."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    return {
        "id": run_id,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "time": now,
        **_versions(),
    }


@cache
def _versions() -> dict[str, Any]:
    import zarr

    return {
        "versions": {
            "python": platform.python_version(),
            "zarr": zarr.__version__,
            "numpy": np.__version__,
        }
    }
