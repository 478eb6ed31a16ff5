"""What is in a store, what happened to it, and clearing what nobody needs any more."""

import re
from dataclasses import dataclass
from typing import Any

import pandas as pd

from alike.extract.command import command_at, taps_again
from alike.extract.documents import damaged
from alike.extract.errors import BadInput, StoreBusy, StoreDamaged
from alike.extract.identity import is_name
from alike.extract.store.arrays import TREE, VALID
from alike.extract.store.events import Event, events, note
from alike.extract.store.features import Features
from alike.extract.store.files import ADVICE, PARTIAL
from alike.extract.store.locks import holder_of, is_dead, require_writable
from alike.extract.store.metadata import META
from alike.extract.store.purge import purge_removed
from alike.extract.store.store import Store
from alike.extract.store.verification import expected_groups, lost_units

NOTES = "source_notes"
"""Attribute of a group in which extraction keeps what its listing left out or guessed."""
_SHARD = re.compile(r"c\.\d+(\.0)*")
_HOMES = ("ledger", TREE, "constants", "tables", "index", "maps", "explanations")
"""Folders of a store in which an extraction has one of its own."""


def contents(store: Store) -> pd.DataFrame:
    """Give one line an array: its key, shape, type, rows, good rows, pending units and bytes."""
    lines = []
    for key in sorted({*store.groups(), *store.recorded()}):
        features = store.features(key)
        lost, _ = lost_units(features)
        if lost:
            raise damaged(features.ledger.name(lost[0]), "is missing", ADVICE)
        good = int(features.committed(good=True).sum())
        for name, spec in features.arrays.items():
            shape = "x".join(str(n) for n in spec.tail)
            committed = int(features.committed([name]).sum())
            pending = len(features.pending([name]))
            size = sum(features.shard_sizes(name).values())
            lines.append((key, name, shape, spec.dtype, committed, good, pending, size))
    columns = ["key", "array", "shape", "dtype", "rows", "good", "pending_units", "bytes"]
    return pd.DataFrame(lines, columns=columns)


def bad_images(store: Store, key: str | None = None) -> pd.DataFrame:
    """Give the images of the set that have no feature: key, row, path, state, reason."""
    keys = store.groups() if key is None else [store.features(key).key]
    tables = [store.features(one).bad().assign(key=one) for one in keys]
    if not tables:
        view = store.images()
        tables = [view[view["row"] < 0].assign(key="")]
    columns = ["key", "row", "path", "state", "reason"]
    return pd.concat(tables)[columns].reset_index(drop=True)


def without_record(features: Features) -> str:
    """Say which units of rows no record is there of, and what to do; empty if all have one."""
    units = features.pending()
    if not units:
        return ""
    more = f" and {len(units) - 1} more" if len(units) > 1 else ""
    return (
        f"{features.ledger.name(units[0])}{more}: no record of these rows; "
        f"`{taps_again(features)}` computes them, "
        f"`{command_at('store verify', features.store)}` says "
        "what was lost"
    )


def history(store: Store) -> pd.DataFrame:
    """Give what happened, oldest first: time, event, key, note, host, pid.

    A run of an extraction is one line, made from the records that it wrote and that still stand.
    """
    lines = []
    for key in store.groups():
        runs: dict[tuple[str, str, int], list[tuple[str, int]]] = {}
        features = store.features(key)
        ledger, pending = features.ledger, without_record(features)
        if pending:
            lines.append(("", "pending", key, pending, "", 0))
        for unit, fault in ledger.broken().items():
            lines.append(("", "unreadable", key, f"{ledger.name(unit)}: {fault}", "", 0))
        for record in ledger.sound().values():
            run = record.run
            place = (str(run.get("id")), str(run.get("host")), int(run.get("pid", 0)))
            began = (str(run.get("time")), record.hi() - record.lo)
            runs.setdefault(place, []).append(began)
        for (run_id, host, pid), units in runs.items():
            last = max(time for time, _ in units)
            counts = f"{len(units)} units, {sum(rows for _, rows in units)} rows, last at {last}"
            name = f"run {run_id}: " if run_id else ""
            lines.append((min(units)[0], "extracted", key, f"{name}{counts}", host, pid))
    diary = events(store.files)
    runs_table = pd.DataFrame(lines, columns=diary.columns)
    tables = [table for table in (diary, runs_table) if len(table)]
    if not tables:
        return diary
    return pd.concat(tables).sort_values("time", kind="stable").reset_index(drop=True)


@dataclass(frozen=True)
class Litter:
    """A file that nobody needs, or rows in some.

    Attributes:
        file: its name in the store; `*` stands for every array.
        size: its bytes, or those that its rows take.
        why: what it is.
    """

    file: str
    size: int
    why: str


def collect_garbage(
    store: Store,
    *,
    drop: tuple[str, ...] = (),
    removed_days: float | None = None,
    dry_run: bool = False,
) -> list[Litter]:
    """Delete half-written files, locks of dead processes and shards without a record.

    Args:
        store: the store.
        drop: keys of extractions to delete as a whole, with what was made from them.
        removed_days: delete the features of images that left the set more days ago; None: of none.
        dry_run: only say what would go.

    Raises:
        StoreBusy: a living process works on the store.
        StoreDamaged: what says which shards are needed is itself lost or damaged.
        BadInput: no such key, or the store cannot be written.
    """
    if not dry_run:
        require_writable(store.files)
    expected = expected_groups(store)
    for key in drop:
        if key not in expected:
            raise BadInput(f"no features {key!r} to drop; there are: {', '.join(expected)}")
    _refuse_damaged(store, [key for key in expected if key not in drop])
    names = store.files.walk("")
    litter = [*_dead_locks(store, names), *_half_written(store, names), *_unrecorded(store, drop)]
    for key in drop:
        litter += _whole_group(store, names, key)
    litter = list({one.file: one for one in litter}.values())
    if dry_run:
        return [*litter, *_purged(store, removed_days, drop, dry_run=True)]
    # The ledger first: what it no longer names may be deleted in any order.
    for one in sorted(litter, key=lambda one: not one.file.startswith("ledger/")):
        store.files.remove(one.file)
    if store.files.root is not None:
        for key in drop:
            _remove_empty_folders(store, key)
    if litter:
        counts = f"{len(litter)} files, {sum(one.size for one in litter)} bytes"
        note(store.files, Event("dropped" if drop else "cleaned", " ".join(drop), counts))
    return [*litter, *_purged(store, removed_days, drop, dry_run=False)]


def _purged(
    store: Store, days: float | None, drop: tuple[str, ...], *, dry_run: bool
) -> list[Litter]:
    """Delete features of removed images; gives a line for the shards of each unit."""
    parts = [] if days is None else purge_removed(store, days, dry_run=dry_run)
    return [
        Litter(
            f"{TREE}/{one.key}/*/c.{one.unit}",
            one.freed,
            f"features of {one.rows} images that left the set more than {days:g} days ago",
        )
        for one in parts
        if one.key not in drop
    ]


def _refuse_damaged(store: Store, keys: list[str]) -> None:
    """Refuse to delete shards without a record if records may have been lost."""
    for key in keys:
        if key not in store.groups():
            command = command_at("store gc", store, "--drop", key)
            raise StoreDamaged(
                f"{key} was made here, but {TREE}/{key}/{META} is missing: nothing is deleted; "
                f"bring it back, or run `{command}` if it was deleted on purpose"
            )
        features = store.features(key)
        features.ledger.records()
        lost, fault = lost_units(features)
        if lost or fault:
            reason = f"the records of {len(lost)} units are gone" if lost else f"{VALID}: {fault}"
            raise StoreDamaged(
                f"{reason} in {features.ledger.folder}: nothing is deleted; bring them back, or "
                f"run `{taps_again(features)}` again, which computes their rows anew"
            )


def _litter(store: Store, name: str, why: str) -> Litter:
    return Litter(name, store.files.size(name) or 0, why)


def _dead_locks(store: Store, names: list[str]) -> list[Litter]:
    litter = []
    for name in names:
        claim = name.startswith("ledger/") and "/claims/" in name
        if not (claim or name.startswith("locks/")) or not name.endswith(".json"):
            continue
        if not is_name(name.rpartition("/")[2]):
            continue
        holder = holder_of(store.files, name)
        if holder is None:
            continue
        if not is_dead(store.files, name, holder):
            raise StoreBusy(
                f"{store.url} is in use by process {holder.pid} on {holder.host}; "
                "wait for it to end, then clean up"
            )
        litter.append(_litter(store, name, f"lock of dead process {holder.pid} on {holder.host}"))
    return litter


def _half_written(store: Store, names: list[str]) -> list[Litter]:
    return [_litter(store, name, "half-written") for name in names if name.endswith(PARTIAL)]


def _unrecorded(store: Store, drop: tuple[str, ...]) -> list[Litter]:
    litter: list[Litter] = []
    for key in store.groups():
        if key in drop:
            continue
        features = store.features(key)
        records = features.ledger.records()
        for name, spec in features.arrays.items():
            recorded = {
                spec.shard_name(unit) for unit, one in records.items() if name in one.arrays
            }
            shards = features.shard_sizes(name)
            litter += [
                Litter(f"{TREE}/{key}/{name}/{shard}", size, "shard without a record")
                for shard, size in sorted(shards.items())
                if _SHARD.fullmatch(shard) and shard not in recorded
            ]
    return litter


def _whole_group(store: Store, names: list[str], key: str) -> list[Litter]:
    homes = [f"{home}/{key}/" for home in _HOMES]
    mine = [name for name in names if any(name.startswith(home) for home in homes)]
    return [_litter(store, name, f"part of {key}") for name in mine]


def _remove_empty_folders(store: Store, key: str) -> None:
    for home in _HOMES:
        top = store.path(home, key)
        for folder in sorted(top.rglob("*"), reverse=True):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        if top.is_dir() and not any(top.iterdir()):
            top.rmdir()


def describe(store: Store) -> dict[str, Any]:
    """Describe a store as a whole, for `alike store ls`.

    `repeated` counts the files whose bytes an earlier file of the set has too; `labels_differ`
    counts the images that have several labels that way (the first listed counts). `notes` are the
    lines that a listing kept: files left out, guesses of the source.
    """
    view = store.images()
    groups = [store.features(key).attrs for key in store.groups()]
    readable = view[view["row"] >= 0]
    repeated = readable[readable["row"].duplicated(keep=False)]
    labels = repeated.groupby("row")["label"].nunique()
    return {
        "url": store.url,
        "images": len(view),
        "rows": store.n_rows,
        "not_read": int(bad_images(store)["path"].nunique()),
        "classes": int(view["label"].nunique()),
        "repeated": int(readable["row"].duplicated().sum()),
        "labels_differ": int((labels > 1).sum()),
        "notes": list(dict.fromkeys(note for attrs in groups for note in attrs.get(NOTES, ()))),
        "train_share": store.split().train_share,
        "validation_share": store.split().validation_share,
        "twins": store.twins(),
        "source": store.settings().get("source", {}).get("spec"),
    }
