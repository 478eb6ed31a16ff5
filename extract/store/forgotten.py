"""Deleting images for good: from every file below the store's folder, whatever made it.

`forgetting.json` names what is being deleted, from the first step to the last: after a crash
whoever forgets or extracts next ends what was begun. Until then the set is without the images, and
every other row reads as before. At the end nothing names them: their rows stay empty for ever, a
placeholder stands for their ids, and the log says how many they were.

What is made of features (indexes, tables of analyses, maps, explanations, fitted measures, caches)
is deleted with them, since values of the images are in it; the commands that made it make it anew.
"""

import fcntl
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass

import numpy as np

from alike.extract.documents import TEXT, read_npz, read_sealed, sealed_json
from alike.extract.errors import StoreBusy, StoreDamaged
from alike.extract.places import copies_folder
from alike.extract.store.arrays import UNIT
from alike.extract.store.constants import FITTED
from alike.extract.store.events import Event, note
from alike.extract.store.features import Features
from alike.extract.store.files import PARTIAL
from alike.extract.store.layout import KEPT
from alike.extract.store.locks import Lock, require_writable
from alike.extract.store.manifest import placeholder
from alike.extract.store.rewrite import Rewritten, settle_ids, take_out
from alike.extract.store.store import Store
from alike.extract.store.tags import forget_tags

MARK = "forgetting.json"
FORGOTTEN = "forgotten"
"""State of the row of an image that was forgotten."""
_NAMES_IMAGES = ("manifest", "features.zarr", "ledger", "twins", "tags", "listing")
"""Folders whose files name images or hold their features; here half-written ones go too."""
_MADE_OF_FEATURES = ("index", "tables", "maps", "explanations", "runs", "cache", KEPT)
"""Folders of what is made anew, and of copies that an upgrade has not deleted yet."""
_TRAINED = "trained_images.parquet"
"""A table of images that is not made of features."""
_WAY_OUT = "delete it if no image was to be forgotten"
_CANNOT = "images cannot be forgotten"


@dataclass(frozen=True)
class Forgetting:
    """What is being deleted.

    Attributes:
        rows: of the images.
        images: their ids, in the same order.
        names: as the user named them.
    """

    rows: tuple[int, ...]
    images: tuple[str, ...]
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class ForgetReport:
    """What was deleted.

    Attributes:
        images: number of images.
        rows: their rows, which stay empty for ever.
        shards: files of features that were replaced or deleted.
        freed: bytes that those, and what was made of features, took.
        dropped: folders of which something was deleted that is made anew.
        damaged: shards that could not be read: their other rows are to be computed again.
    """

    images: int
    rows: tuple[int, ...]
    shards: int
    freed: int
    dropped: tuple[str, ...]
    damaged: tuple[str, ...] = ()


def unfinished(store: Store) -> Forgetting | None:
    """Give what a crash kept from being deleted; None if there is nothing.

    Raises:
        StoreDamaged: the file that says so is not what was written.
    """
    try:
        return read_sealed(store.read_file(MARK), Forgetting, MARK, _WAY_OUT)
    except FileNotFoundError:
        return None


def forget_rows(store: Store, rows: Sequence[int], names: Sequence[str] = ()) -> ForgetReport:
    """Delete the images of rows for good; see `alike.extract.forgetting.forget_images`.

    Args:
        store: the store.
        rows: of images, removed ones too.
        names: as the user named them.

    Raises:
        StoreBusy: another process extracts or builds an index.
        StoreDamaged: what says which rows are where is damaged; nothing was deleted.
    """
    every = tuple(sorted({int(row) for row in rows}))
    ids = tuple(str(store.image_ids(row, row + 1)[0]) for row in every)
    marked = Forgetting(every, ids, tuple(names))
    with alone(store, _CANNOT) as keys:
        _check_readable(store, keys)
        store.write_file(MARK, sealed_json(asdict(marked)))
        return _carry_out(store, marked, keys)


def would_forget(store: Store, rows: Sequence[int]) -> ForgetReport:
    """Say what `forget_rows` would delete; of shards only the number, not what is freed."""
    every = tuple(sorted({int(row) for row in rows}))
    units = {row // UNIT for row in every}
    shards = 0
    for key in store.groups():
        features = store.features(key)
        for name, spec in features.arrays.items():
            names = {spec.shard_name(unit) for unit in units}
            shards += len(names & features.shard_sizes(name).keys())
    made = _made_of_features(store, set(every))
    return ForgetReport(len(every), every, shards, sum(made.values()), _folders(made))


def finish_forgetting(store: Store) -> ForgetReport | None:
    """Delete what a crash kept from being deleted; None if there is nothing.

    Raises:
        StoreBusy: another process extracts or builds an index.
    """
    if unfinished(store) is None:
        return None
    with alone(store, _CANNOT) as keys:
        marked = unfinished(store)
        if marked is None:
            return None
        _check_readable(store, keys)
        return _carry_out(store, marked, keys)


@contextmanager
def alone(store: Store, cannot: str) -> Iterator[list[str]]:
    """Hold all that could write features, tables of images and indexes meanwhile.

    Args:
        store: the store.
        cannot: what is refused while another process works, for the message.

    Yields:
        Keys of all extractions.

    Raises:
        StoreBusy: another process does.
    """
    require_writable(store.files)
    with ExitStack() as stack:
        stack.enter_context(store.brief_lock("listing"))
        keys = sorted({*store.groups(), *store.recorded()})
        for key in keys:
            stack.enter_context(store.lock(key))
        store.refuse_while_extracting(cannot)
        if store.root_path is not None:
            for place in sorted(store.root_path.glob("index/*/*/lock")):
                lock = stack.enter_context(place.open("a", encoding="utf-8"))
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise StoreBusy(
                        f"another process builds the index in {place.parent}: {cannot} before it "
                        "ends"
                    ) from None
        else:
            for name in sorted(store.files.listing("locks")):
                if name.startswith("index-"):
                    stack.enter_context(Lock(store.files, f"locks/{name}", "an index"))
        yield keys


def _check_readable(store: Store, keys: Sequence[str]) -> None:
    """Raise `StoreDamaged` before anything changes, if it is not known what is where."""
    store.images()
    for key in keys:
        store.features(key).ledger.records()


def _carry_out(store: Store, marked: Forgetting, keys: Sequence[str]) -> ForgetReport:
    """Go through all steps; each changes nothing where it was done before."""
    rows = np.array(marked.rows, dtype=np.int64)
    # First: from here on nobody reads them as images of the set.
    store.manifest.leave_out(rows, marked.images)
    _forget_in_tables(store, marked)
    features = [store.features(key) for key in keys]
    units = sorted({row // UNIT for row in marked.rows})
    done = Rewritten()
    for one in features:
        for unit in units:
            done += _take_out(one, unit, marked.rows)
    store.manifest.forget(rows)
    for one in features:
        for unit in units:
            settle_ids(one, unit)
        one.publish()
    made = _made_of_features(store, set(marked.rows))
    for name in made:
        store.remove_file(name)
    if store.root_path is None:
        shutil.rmtree(copies_folder(store.place), ignore_errors=True)
    _drop_half_written(store)
    count = len(marked.rows)
    plural = "image was" if count == 1 else "images were"
    note(store.files, Event(FORGOTTEN, "", f"{count} {plural} forgotten"))
    store.remove_file(MARK)
    freed = done.freed + sum(made.values())
    damaged = tuple(sorted(done.damaged))
    return ForgetReport(count, marked.rows, done.shards, freed, _folders(made), damaged)


def _drop_half_written(store: Store) -> None:
    """Delete what killed writers left, this one's too; the living are excluded by their locks."""
    names = [f"{home}/{name}" for home in _NAMES_IMAGES for name in store.files.walk(home)]
    names += [name for name in store.files.listing("") if name.startswith(MARK)]
    for name in names:
        if name.endswith(PARTIAL):
            store.remove_file(name)


def _take_out(features: Features, unit: int, rows: Sequence[int]) -> Rewritten:
    mine = features.unit_rows(unit)
    ids = features.store.image_ids(mine.start, mine.stop)
    gone = [row for row in rows if row in mine]
    ids[[row - mine.start for row in gone]] = [placeholder(row) for row in gone]
    done = take_out(features, unit, dict.fromkeys(gone, (FORGOTTEN, "")), ids)
    damaged = tuple(features.place(name, unit) for name in done.damaged if name in features.arrays)
    return Rewritten(done.shards, done.freed, damaged)


def _forget_in_tables(store: Store, marked: Forgetting) -> None:
    """Leave the images out of what people and listings say of them."""
    store.forget_twins(np.array(marked.rows, dtype=np.int64))
    store.forget_trained(marked.images)
    forget_tags(store, marked.images)
    tables = [f"tables/{name}" for name in store.files.walk("tables")]
    tables = [name for name in tables if name.endswith(f"/{_TRAINED}")]
    tables += [f"listing/{name}" for name in store.files.walk("listing")]
    for name in tables:
        if not name.endswith(".parquet"):
            continue
        try:
            table, attrs = store.read_table(name, {"image_id": TEXT})
        except StoreDamaged:
            # Nobody can read it, but it may name them.
            store.remove_file(name)
            continue
        gone = table["image_id"].isin(marked.images)
        if gone.any():
            store.write_table(name, table[~gone].reset_index(drop=True), attrs)


def _made_of_features(store: Store, rows: set[int]) -> dict[str, int]:
    """Give the files that are made of features, with their bytes, but those of other images."""
    files = store.files
    names = [f"{home}/{name}" for home in _MADE_OF_FEATURES for name in files.walk(home)]
    constants = [f"constants/{name}" for name in files.walk("constants")]
    names += [name for name in constants if f"/{FITTED}" in name]
    made = {}
    for name in names:
        of_others = name.startswith("explanations/") and _is_of_others(store, name, rows)
        if not of_others and name.rpartition("/")[2] not in ("lock", _TRAINED):
            made[name] = files.size(name) or 0
    return made


def _folders(names: Iterable[str]) -> tuple[str, ...]:
    homes = {name.split("/")[0] for name in names}
    return tuple(sorted("fitted measures" if one == "constants" else one for one in homes))


def _is_of_others(store: Store, name: str, rows: set[int]) -> bool:
    """Whether a file holds the relevance of other images alone: it took a pass of the network."""
    if not name.endswith(".npz"):
        return False
    with suppress(StoreDamaged, KeyError):
        return rows.isdisjoint(read_npz(store.read_file(name), name, _WAY_OUT)["rows"].tolist())
    return False
