"""Is everything that is recorded still there, byte for byte? What is not becomes pending again.

What must be there follows from what does not lie beside it: the log and the ledger name the
groups, the array `valid` the units of a ledger, the segments of the manifest each other. So what
is gone altogether is named as well as what is broken.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from alike.extract.command import command_at, command_of, taps_again
from alike.extract.documents import read_arrow, read_json, read_sealed, read_table
from alike.extract.errors import BadInput, StoreDamaged
from alike.extract.identity import is_name
from alike.extract.progress import Progress, silent
from alike.extract.store.arrays import TREE, UNIT, VALID
from alike.extract.store.commit import torn_shards, withdraw
from alike.extract.store.constants import FITTED, SEALED, sealed_in
from alike.extract.store.events import FOLDER as LOG
from alike.extract.store.events import NAME, Event, event_faults, events, note
from alike.extract.store.features import Features
from alike.extract.store.forgotten import MARK, unfinished
from alike.extract.store.layout import KEPT
from alike.extract.store.ledger import Record, row_hash
from alike.extract.store.locks import holder_of, require_writable
from alike.extract.store.manifest import REMOVED, VIEW
from alike.extract.store.metadata import META, read_group, root_fault
from alike.extract.store.settings import settings_faults
from alike.extract.store.store import Store
from alike.extract.store.twins import FOLDER as TWINS
from alike.extract.store.twins import GROUPS, LINKS, TRAINED


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
        notes: what is no damage and yet worth knowing: groups without a seal, copies that a
            program which synchronises folders left.
    """

    units: int
    rows: int
    gigabytes: float
    damage: tuple[Damage, ...]
    marked: bool
    notes: tuple[str, ...] = ()


_DESCRIBE = "run the same `alike extract` again: it writes it anew"
_COPY = re.compile(
    r"^(\._.+|.+( \(\d+\)| \d+|[ -]conflict.*|\.sync-conflict.*| copy.*)(\.[a-z]+)?)$", re.I
)
"""Names that programs which synchronise folders, and macOS, give to copies."""


def _again(features: Features) -> str:
    """What computes lost rows anew."""
    return f"run `{taps_again(features)}` again: it computes these rows anew"


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
    wanted = expected_groups(store)
    if key is not None and key not in wanted:
        raise BadInput(f"no features {key!r}; {store.url} has: {', '.join(wanted) or 'none yet'}")
    damage: list[Damage] = []
    notes: list[str] = []
    if key is None:
        damage += [*_settings_damage(store, mark), *_manifest_damage(store), *_file_damage(store)]
        damage += [*_twin_damage(store), *_unfinished_forgetting(store)]
        notes += _stray_files(store)
        notes += _unfinished_upgrade(store)
    units = rows = size = 0
    for one in wanted if key is None else [key]:
        features, faults = _opened(store, one)
        damage += faults
        if features is None:
            continue
        damage += _broken_constants(features, mark)
        damage += _broken_records(features, mark)
        lost, notes_of_loss = _lost_records(features)
        damage += lost
        records_lost = any(one.reason == "is missing" for one in lost)
        notes += [*notes_of_loss, *_unsealed(store, one), *_unsealed_constants(features)]
        notes += _older_records(features)
        records = list(features.ledger.sound().values())
        damaged: dict[int, list[tuple[str, Damage]]] = {}
        for done, (record, unit_faults) in enumerate(_checked(features, records), 1):
            units += 1
            for name, committed in record.arrays.items():
                rows += committed.hi - record.lo
                if name in features.arrays:
                    size += (committed.hi - record.lo) * features.arrays[name].row_bytes
            if unit_faults:
                damaged[record.unit] = unit_faults
                damage += [fault for _, fault in unit_faults]
            progress(f"verify {one}", done, len(records), f"{len(damage)} damaged")
        if damaged and mark:
            _take_back(features, damaged)
        # Where records are lost, `valid` alone still says so.
        if mark and not records_lost and (damaged or notes_of_loss):
            with store.lock(one):
                features.publish()
    return Verdict(units, rows, size / 1e9, tuple(damage), mark, tuple(notes))


def expected_groups(store: Store) -> list[str]:
    """Give the keys of the extractions that must be there: by the tree, the ledger and the log."""
    diary = events(store.files)
    logged: set[str] = set()
    for event, key in zip(diary["event"], diary["key"], strict=True):
        if event in ("laid out", "imported"):
            logged.add(key)
        elif event == "dropped":
            logged -= set(key.split())
    there = {*store.recorded(), *store.groups()}
    return sorted(one for one in logged | there if is_name(one))


def lost_units(features: Features) -> tuple[list[int], str]:
    """Give the units that had rows once and have no record now, and a fault of `valid` itself."""
    try:
        valid = features.published()
    except StoreDamaged as error:
        return [], error.fault
    units = features.ledger.units()
    had = {int(unit) for unit in np.unique(np.flatnonzero(valid) // UNIT)}
    return sorted(had - units), ""


def note_lost(features: Features, names: Iterable[str]) -> list[str]:
    """Give the files of recorded rows that are gone or torn, and note them in the log.

    An extraction computes these rows again. A shard of the right size is not read here.

    Args:
        features: of a group that is about to be extended.
        names: arrays to look at.
    """
    lost = [features.ledger.name(unit) for unit in lost_units(features)[0]]
    lost += torn_shards(features, list(names))
    for place in lost:
        note(features.store.files, Event("damaged", features.key, f"{place}: is gone or torn"))
    return lost


def _opened(store: Store, key: str) -> tuple[Features | None, list[Damage]]:
    """Open a group for checking; what keeps it from being opened is the damage."""
    place = f"{TREE}/{key}/{META}"
    if key not in store.groups():
        return None, [Damage(key, place, "", "is missing", _DESCRIBE)]
    try:
        return store.features(key), []
    except StoreDamaged as error:
        return None, [Damage(key, error.file or place, "", error.fault, _DESCRIBE)]


def _lost_records(features: Features) -> tuple[list[Damage], list[str]]:
    """Records that are gone, `valid` if it is broken, and a note if it is behind the ledger."""
    lost, fault = lost_units(features)
    ledger = features.ledger
    repair = f"bring the ledger back from a copy, or {_again(features)}" if lost else ""
    damage = [
        Damage(features.key, ledger.name(unit), _span(unit), "is missing", repair) for unit in lost
    ]
    if fault:
        place = f"{TREE}/{features.key}/{VALID}"
        damage.append(Damage(features.key, place, "", fault, _again(features)))
        return damage, [f"{place} is written anew from the ledger"]
    if lost or damage or ledger.broken():
        return damage, []
    valid = features.published()
    good = features.committed(good=True) if not _beyond(features) else valid[:0]
    n = min(len(valid), len(good))
    behind = n < len(good) or not np.array_equal(valid[:n] != 0, good[:n])
    return damage, [f"{VALID} of {features.key} was behind its ledger"] if behind else []


def _beyond(features: Features) -> bool:
    try:
        features.committed()
    except StoreDamaged:
        return True
    return False


def _unsealed(store: Store, key: str) -> list[str]:
    if read_group(store.files, key).sealed:
        return []
    return [
        f"{key} was written by an earlier version: its attributes have no seal, so an altered "
        f"one is not noticed; `{command_at('store upgrade', store)}` seals them"
    ]


def _unsealed_constants(features: Features) -> list[str]:
    own = [name for name in features.constants() if not name.startswith(FITTED)]
    if SEALED in features.attrs or not (own or features.attrs.get("classifier")):
        return []
    return [
        f"the classifier of {features.key} was written by an earlier version: its constants are "
        "not sealed, so one that is gone is not noticed; "
        f"`{command_at('store upgrade', features.store)}` seals them"
    ]


def _older_records(features: Features) -> list[str]:
    older = sum(record.is_older for record in features.ledger.sound().values())
    if not older:
        return []
    return [
        f"{older} records of {features.key} were written by an earlier version: they hold no "
        "checksums of chunks, so a whole shard of other rows is read as good; "
        f"`{command_at('store upgrade', features.store)}` adds them"
    ]


def _checked(
    features: Features, records: list[Record]
) -> Iterator[tuple[Record, list[tuple[str, Damage]]]]:
    def check(record: Record) -> list[tuple[str, Damage]]:
        return _unit_damage(features, record)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as readers:
        yield from zip(records, readers.map(check, records), strict=True)


def _unit_damage(features: Features, record: Record) -> list[tuple[str, Damage]]:
    """Check one record: (array, damage) of every array that is not what was recorded."""
    try:
        same_images = features.same_images(record)
    except StoreDamaged:
        # The manifest is named by itself; whose rows these are cannot be said.
        same_images = True
    faults = []
    for name, committed in record.arrays.items():
        rows = f"{record.lo}-{committed.hi - 1}"
        file, reason = features.ledger.name(record.unit), "its rows belong to other images"
        if same_images:
            file, reason = _array_damage(features, record, name)
        if reason:
            faults.append((name, Damage(features.key, file, rows, reason, _again(features))))
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
        return place, error.fault
    same = row_hash(rows) in [one.hash for one in committed.versions]
    return place, "" if same else "rows differ from their recorded hash"


def _broken_records(features: Features, mark: bool) -> list[Damage]:
    broken = features.ledger.broken()
    if mark and broken:
        with features.store.lock(features.key):
            for unit in broken:
                features.ledger.take_back(unit)
    return [
        Damage(features.key, features.ledger.name(unit), _span(unit), reason, _again(features))
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
                if record is None:
                    continue
                # Another process may have mended it before the lock was held.
                still = {name for name, _ in _unit_damage(features, record)}
                names = {name for name, _ in faults} & still
                if not names:
                    continue
                withdraw(features, record, names)
                for name in names & set(features.arrays):
                    files.remove(features.place(name, unit))
            for _, damage in faults:
                note(files, Event("damaged", features.key, f"{damage.file}: {damage.reason}"))


def _settings_damage(store: Store, mark: bool) -> list[Damage]:
    faults = settings_faults(store.files)
    if faults and mark:
        try:
            store.write_settings(store.settings())
        except StoreDamaged:
            mark = False
    mended = "it was mended from its copy" if mark else ""
    return [Damage("", file, "", reason, mended or repair) for file, reason, repair in faults]


def _manifest_damage(store: Store) -> list[Damage]:
    repair = "restore it from a copy: it says which image a row belongs to"
    again = "run `alike extract` again: it makes it anew"
    faults = store.manifest.broken()
    if not faults and store.n_rows and store.view_stamp() is None:
        faults = [(VIEW, "is missing")]
    return [
        Damage("", file, "", reason, again if file in (VIEW, REMOVED) else repair)
        for file, reason in faults
    ]


def _file_damage(store: Store) -> list[Damage]:
    """Check what lies beside the arrays: the log, the tree's root, locks, tables, cards."""
    files = store.files
    damage = [
        Damage("", file, "", reason, "delete it: nothing else depends on it")
        for file, reason in event_faults(files)
    ]
    if not any(NAME.fullmatch(name) for name in files.listing(LOG)):
        damage.append(Damage("", LOG, "", "is missing", "bring it back: it names what was made"))
    root = root_fault(files)
    if root:
        damage.append(Damage("", f"{TREE}/{META}", "", root, _DESCRIBE))
    for name in sorted(files.listing("locks")):
        if name.endswith(".json") and is_name(name):
            holder = holder_of(files, f"locks/{name}")
            if holder is not None and not holder.token:
                command = command_at("store gc", store)
                repair = f"it counts for two minutes; `{command}` deletes it then"
                damage.append(Damage("", f"locks/{name}", "", "names no process", repair))
    for folder, ending, read, repair in _MADE:
        for name in files.walk(folder):
            place = f"{folder}/{name}"
            if name.endswith(ending) and all(is_name(part) for part in name.split("/")):
                try:
                    read(files.read(place), place, "delete it and make it again")
                except FileNotFoundError:
                    continue
                except StoreDamaged as error:
                    damage.append(Damage("", place, "", error.fault, repair))
    return damage


def _sealed(data: bytes, place: str, way_out: str) -> None:
    read_sealed(data, dict[str, Any], place, way_out)


def _twin_damage(store: Store) -> list[Damage]:
    """Check what says which images are twins, which were trained on, and on which side they are."""
    faults = []
    for name in sorted(store.files.walk(TWINS)):
        place = f"{TWINS}/{name}"
        if not name.endswith(".parquet") or not all(is_name(part) for part in name.split("/")):
            continue
        try:
            read_arrow(store.files.read(place), place, "")
        except FileNotFoundError:
            continue
        except StoreDamaged as error:
            faults.append((place, error.fault))
    if store.files.size(TRAINED) is None and (events(store.files)["event"] == "trained").any():
        faults.append((TRAINED, "is missing"))
    faults += [(name, "is missing") for name in (LINKS, GROUPS) if store.is_lost(name)]
    if not faults:
        try:
            store.require_sides()
        except StoreDamaged as error:
            faults.append((error.file, error.fault))
    return [Damage("", place, "", reason, _twin_repair(store, place)) for place, reason in faults]


def _unfinished_forgetting(store: Store) -> list[Damage]:
    """Images whose deletion was cut off."""
    command = command_of("store forget", store)
    try:
        begun = unfinished(store)
    except StoreDamaged as error:
        repair = f"name the images again: `{command} IMAGE`"
        return [Damage("", MARK, "", error.fault, f"delete it, and {repair}")]
    if begun is None:
        return []
    reason = f"the deletion of {len(begun.rows)} images was cut off"
    return [Damage("", MARK, "", reason, f"run `{command}`: it ends it")]


def _unfinished_upgrade(store: Store) -> list[str]:
    kept = store.files.walk(KEPT)
    if not kept:
        return []
    command = command_at("store upgrade", store)
    return [f"an upgrade was cut off, which harms nothing: `{command}` ends it"]


def _twin_repair(store: Store, place: str) -> str:
    if place == TRAINED:
        return "bring it back from a copy: it says which images were trained on"
    if place == LINKS:
        return (
            f"delete it if it is there, and run `{command_of('twins', store)}`: it searches again"
        )
    if "/signatures/" in place:
        return "delete it: its images count as not searched, which `alike extract` says"
    return "delete it if it is there, and run `alike extract` again: it makes it anew"


def _card(data: bytes, place: str, way_out: str) -> None:
    if not read_json(data, dict[str, Any], place, way_out).get("schema"):
        raise StoreDamaged(f"{place} is damaged", file=place, fault="it is no card of an index")


_AFRESH = "delete it, make it again"
_RECORD = "delete it: it is left out, and no result depends on it"
_LISTED = "delete it: the next run reads every image"
_MADE: tuple[tuple[str, str, Callable[[bytes, str, str], object], str], ...] = (
    ("tables", ".parquet", read_table, _AFRESH),
    ("maps", ".parquet", read_table, _AFRESH),
    ("index", "card.json", _card, _AFRESH),
    ("history", ".json", _sealed, _RECORD),
    ("history", ".parquet", read_table, _RECORD),
    ("listing", ".parquet", read_table, _LISTED),
)
"""Folder, ending, reader and repair of what later steps make, of records of runs, of listings."""


def _broken_constants(features: Features, mark: bool) -> list[Damage]:
    """Check the constants of a group; with `mark` those that a measure fitted go if broken."""
    damage = []
    for name in features.constants():
        try:
            features.read_constant(name)
        except StoreDamaged as error:
            place = f"constants/{features.key}/{name}.npz"
            sealed = name in sealed_in(features.attrs)
            repair = _DESCRIBE if sealed else "delete it and run again"
            if mark and name.startswith(FITTED):
                features.store.remove_file(place)
                repair = "it was deleted: the next analysis fits it again"
            damage.append(Damage(features.key, place, "", error.fault, repair))
    return damage


def _stray_files(store: Store) -> list[str]:
    """Name the copies among the store's files that are not its own; readers leave them alone."""
    places = ["", "manifest", LOG, "tables", "constants"]
    places += [
        f"{home}/{key}" for home in ("ledger", "constants") for key in store.files.folders(home)
    ]
    copies = []
    for place in places:
        names = [*store.files.listing(place), *store.files.folders(place or TREE)]
        copies += [f"{place}/{name}".lstrip("/") for name in names if _COPY.fullmatch(name)]
    return [
        f"{name} is no file of the store, and is left out: a copy that another program made?"
        for name in sorted(copies)
    ]
