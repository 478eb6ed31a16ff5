"""The ledger: one record per unit of 1024 rows says what is committed; nothing else counts.

A record is written after its data are durable, so a crash leaves data without a record (computed
again), never a record without data.
"""

import datetime
import hashlib
import json
import os
import platform
import socket
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

import numpy as np

from alike.extract.errors import StoreDamaged
from alike.extract.store.arrays import UNIT
from alike.extract.store.files import ADVICE, Files, Stamp

SCHEMA = "alike-ledger/1"


@dataclass(frozen=True)
class Committed:
    """What a record says of one array.

    Attributes:
        hi: end of the committed rows, which begin at the unit's first.
        hash: `row_hash` of those rows, decoded.
        stored: bytes of the shard's file.
        nonfinite: elements that are NaN or infinite, those of bad rows left out.
    """

    hi: int
    hash: str
    stored: int
    nonfinite: int


@dataclass(frozen=True)
class Record:
    """What is committed of one unit.

    Attributes:
        unit: number of the unit; its rows begin at `UNIT * unit`.
        arrays: name of an array to what is committed of it.
        bad: row to (state, reason) of images that have no feature.
        ids_hash: hash of the ids of the images of the rows up to `hi`.
        run: id of the run, host, process, time and versions that wrote it.
        lost: row to the arrays that hold no value of its image, which has all others.
    """

    unit: int
    arrays: dict[str, Committed]
    bad: dict[int, tuple[str, str]]
    ids_hash: str
    run: dict[str, Any] = field(default_factory=dict)
    lost: dict[int, tuple[str, ...]] = field(default_factory=dict)

    @property
    def lo(self) -> int:
        """First row of the unit."""
        return self.unit * UNIT

    def hi(self, names: Iterable[str] | None = None) -> int:
        """End of the rows that are committed in all of `names` (None: in all arrays it has)."""
        wanted = self.arrays if names is None else names
        return min((self.hi_of(name) for name in wanted), default=self.lo)

    def hi_of(self, name: str) -> int:
        """End of the committed rows of one array."""
        return self.arrays[name].hi if name in self.arrays else self.lo

    def to_json(self) -> bytes:
        """Write the record as a file, with a hash of itself."""
        fields = {"schema": SCHEMA, "lo": self.lo, "hi": self.hi(), **asdict(self)}
        fields["bad"] = {str(row): list(why) for row, why in self.bad.items()}
        fields["lost"] = {str(row): list(names) for row, names in self.lost.items()}
        return json.dumps({"record": fields, "hash": _hash_of(fields)}).encode()

    @staticmethod
    def from_json(data: bytes) -> "Record":
        """Read a record; `ValueError` if it is none, or not what was written."""
        try:
            document = json.loads(data)
            fields = document["record"]
            if document["hash"] != _hash_of(fields):
                raise ValueError("it differs from its own hash")
            arrays = {name: Committed(**one) for name, one in fields["arrays"].items()}
        except (KeyError, TypeError, UnicodeDecodeError) as error:
            raise ValueError(f"no record of a unit: {error}") from error
        bad = {int(row): (str(why[0]), str(why[1])) for row, why in fields["bad"].items()}
        lost = {int(row): tuple(names) for row, names in fields.get("lost", {}).items()}
        ids = str(fields["ids_hash"])
        return Record(int(fields["unit"]), arrays, bad, ids, fields["run"], lost)


def _hash_of(fields: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(fields).encode(), digest_size=16).hexdigest()


class Ledger:
    """The records of one group, read once and again only if a file changed."""

    def __init__(self, files: Files, key: str) -> None:
        self._files = files
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
                raise StoreDamaged(f"{self.name(unit)} is damaged ({record}); {ADVICE}")
        return {unit: record for unit, record in scan.items() if isinstance(record, Record)}

    def sound(self) -> dict[int, Record]:
        """Give the records that can be read."""
        return {unit: one for unit, one in self._scan().items() if isinstance(one, Record)}

    def broken(self) -> dict[int, str]:
        """Give the units whose record cannot be read, and why."""
        return {unit: one for unit, one in self._scan().items() if isinstance(one, str)}

    def _scan(self) -> dict[int, Record | str]:
        """Give of every unit its record, or why that cannot be read."""
        stamps = self._files.listing(self.folder)
        entries: dict[int, tuple[Stamp, Record | str]] = {}
        for name in sorted(stamps):
            if not name.endswith(".json"):
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
            return Record.from_json(self._files.read(self.name(unit)))
        except FileNotFoundError:
            return None
        except ValueError as error:
            return str(error)

    def record(self, unit: int) -> Record | None:
        """Read the record of one unit as it is now; `StoreDamaged` if it is broken."""
        record = self._load(unit)
        if isinstance(record, str):
            raise StoreDamaged(f"{self.name(unit)} is damaged ({record}); {ADVICE}")
        return record

    def write(self, record: Record) -> None:
        """Commit a unit."""
        self._files.write(self.name(record.unit), record.to_json())

    def forget(self, unit: int) -> None:
        """Take back a unit: its rows no longer count."""
        self._files.remove(self.name(unit))


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
