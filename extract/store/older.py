"""What earlier versions wrote with fewer checks, written as this version writes it.

Every released layout opens as it is. What has no seal or no checksums of chunks is checked less,
though, and what is complete is never written again by itself. `upgrade` writes it anew: the
settings, the tables of images, the attributes and constants of extractions, the records of the
ledger. Features are read, not written. Each file is replaced in one step by one that says the same
and more, so a process that is killed at any moment leaves a store that opens, and the same command
goes on. The files before lie in `before-upgrade/` until the whole store has verified.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from alike.extract.command import command_at, command_of
from alike.extract.errors import BadInput, StoreDamaged
from alike.extract.progress import Progress, silent
from alike.extract.store.arrays import TREE
from alike.extract.store.constants import FITTED, SEALED
from alike.extract.store.events import Event, note
from alike.extract.store.features import Features
from alike.extract.store.forgotten import alone, unfinished
from alike.extract.store.layout import KEPT
from alike.extract.store.ledger import Committed, Record, row_hash
from alike.extract.store.locks import require_writable
from alike.extract.store.metadata import META, read_attributes, read_group
from alike.extract.store.settings import SETTINGS, is_sealed
from alike.extract.store.shards import chunk_checksums
from alike.extract.store.store import Store
from alike.extract.store.verification import verify

_SEAL = "a seal: an altered value is not noticed"
_COPY = "a seal or its copy: damage is not noticed, or not mended"
_CHUNKS = "checksums of chunks: a whole shard of other rows is read as good"


@dataclass(frozen=True)
class Older:
    """A file that an earlier version wrote.

    Attributes:
        file: its name in the store.
        lacks: what this version writes, and what the lack of it means.
    """

    file: str
    lacks: str


@dataclass(frozen=True)
class Upgraded:
    """What an upgrade did, or would do.

    Attributes:
        files: that were written anew.
        finished: files that an upgrade before had written anew, and that was cut off.
        elsewhere: files that another upgrade wrote anew while this one waited for it.
    """

    files: tuple[Older, ...]
    finished: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()


def older_files(store: Store) -> list[Older]:
    """Give the files that an earlier version wrote with fewer checks than this one does.

    Raises:
        StoreDamaged: one of them is not what was written.
    """
    return [one for one, _ in _older(store)]


def upgrade(store: Store, *, dry_run: bool = False, progress: Progress = silent) -> Upgraded:
    """Write what earlier versions wrote as this version does; features stay as they are.

    Args:
        store: the store.
        dry_run: only say which files.
        progress: told how far.

    Raises:
        BadInput: the store cannot be written, or a deletion of images was cut off.
        StoreBusy: another process extracts or builds an index.
        StoreDamaged: the store is damaged: before, then nothing was written; or after, then all
            files are as they were.
    """
    kept, before = tuple(store.files.walk(KEPT)), tuple(older_files(store))
    if dry_run or not (kept or before):
        return Upgraded(before, kept)
    require_writable(store.files)
    if unfinished(store) is not None:
        command = command_of("store forget", store)
        raise BadInput(f"a deletion of images was cut off: run `{command}` first, it ends it")
    with alone(store, "the store cannot be upgraded"):
        _refuse_damaged(store)
        older, begun = _older(store), tuple(store.files.walk(KEPT))
        left = {*begun, *(one.file for one, _ in older)}
        awaited = dict.fromkeys([*kept, *(one.file for one in before)])
        elsewhere = tuple(name for name in awaited if name not in left)
        if not (older or begun):
            return Upgraded((), (), elsewhere)
        # What an upgrade before wrote anew has verified as it is now. Its old file, put back, would
        # take away what others wrote since.
        _drop_kept(store, but=tuple(one.file for one, _ in older))
        for done, (one, renew) in enumerate(older, 1):
            renew()
            progress("upgrade", done, len(older), one.file)
        # With nothing of what this process has read before.
        damage = verify(Store(store.files, store.tree), mark=False, progress=progress).damage
        if damage:
            _put_back(store)
            raise StoreDamaged(
                f"{damage[0].file} did not verify after the upgrade ({damage[0].reason}): all "
                "files are as they were; report this"
            )
        note(store.files, Event("upgraded", "", f"{len(older)} files written anew"))
        _drop_kept(store)
    return Upgraded(tuple(one for one, _ in older), begun, elsewhere)


def _older(store: Store) -> list[tuple[Older, Callable[[], object]]]:
    """The files, and what writes each anew."""
    found: list[tuple[Older, Callable[[], object]]] = []
    if not is_sealed(store.files):
        found.append((Older(SETTINGS, _COPY), partial(_renew_settings, store)))
    found.extend(
        (Older(place, _SEAL), partial(_renew_table, store, place))
        for place in store.manifest.unsealed()
    )
    for key in store.groups():
        features = store.features(key)
        if not read_group(store.files, key).sealed or _unsealed_constants(features):
            place = f"{TREE}/{key}/{META}"
            found.append((Older(place, _SEAL), partial(_renew_attributes, store, features)))
        for record in features.ledger.records().values():
            if record.is_older:
                one = Older(features.ledger.name(record.unit), _CHUNKS)
                found.append((one, partial(_renew_record, store, features, record.unit)))
    return found


def _unsealed_constants(features: Features) -> list[str]:
    """Constants of the network that the attributes do not name."""
    names = [name for name in features.constants() if not name.startswith(FITTED)]
    return [] if SEALED in features.attrs else names


def _refuse_damaged(store: Store) -> None:
    damage = verify(store, mark=False).damage
    if damage:
        command = command_at("store verify", store)
        raise StoreDamaged(
            f"{damage[0].file} is damaged ({damage[0].reason}): nothing was upgraded; run "
            f"`{command}` and what it advises first"
        )


def _keep(store: Store, place: str) -> None:
    """Keep a file as it is before the upgrade of it."""
    kept, data = f"{KEPT}/{place}", store.files.read(place)
    if store.files.size(kept) is None or store.files.read(kept) != data:
        store.files.write(kept, data)


def _put_back(store: Store) -> None:
    for name in store.files.walk(KEPT):
        store.files.write(name, store.files.read(f"{KEPT}/{name}"))
    _drop_kept(store)


def _drop_kept(store: Store, but: Sequence[str] = ()) -> None:
    # The constants of an extraction are renewed with its attributes.
    keys = [name.split("/")[1] for name in but if name.endswith(f"/{META}")]
    stay = (*but, *(f"constants/{key}/" for key in keys))
    for name in store.files.walk(KEPT):
        if not name.startswith(stay):
            store.files.remove(f"{KEPT}/{name}")
    if store.root_path is not None and not but:
        shutil.rmtree(store.root_path / KEPT, ignore_errors=True)


def _renew_settings(store: Store) -> None:
    _keep(store, SETTINGS)
    with store.brief_lock("settings"):
        store.write_settings(store.settings())


def _renew_table(store: Store, place: str) -> None:
    _keep(store, place)
    store.manifest.seal(place)


def _renew_attributes(store: Store, features: Features) -> None:
    key = features.key
    _keep(store, f"{TREE}/{key}/{META}")
    attrs, _, _ = read_attributes(store.files, key)
    features = store.create_features(attrs, key, {})
    names = _unsealed_constants(features)
    for name in names:
        _keep(store, f"constants/{key}/{name}.npz")
    store.keep_constants(features, {name: features.read_constant(name) for name in names})


def _renew_record(store: Store, features: Features, unit: int) -> None:
    with features.claim(unit):
        record = features.ledger.record(unit)
        if record is None or not record.is_older:
            return
        _keep(store, features.ledger.name(unit))
        arrays = {name: _with_checksums(features, record, name) for name in record.arrays}
        features.ledger.write(replace(record, key=features.key, arrays=arrays))


def _with_checksums(features: Features, record: Record, name: str) -> Committed:
    committed = record.arrays[name]
    if not committed.is_older:
        return committed
    spec, rows = features.arrays[name], committed.hi - record.lo
    place = features.place(name, record.unit)
    chunks = chunk_checksums(features.store.files, place, spec, rows)
    rest = rows % spec.chunk_rows
    last = np.arange(rows - rest, rows)
    tail = row_hash(features.read_unit(name, record, last)) if rest else ""
    return replace(committed, chunks=chunks, tail=tail)
