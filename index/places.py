"""Where an index lies: in the folder of a local store, or in a remote one with a copy here.

FAISS reads and writes local files only. The index of a remote store is built in a folder of the
user's cache and uploaded whole: first its files, each under a name that no other build gives, then
the card that names them, in one step. Readers keep a copy. It is the index as long as its card is
byte for byte that of the store; then nothing is transferred. The store alone is the truth: what a
killed build left here is not looked at. A copy that nobody asked for long is deleted when another
is fetched.
"""

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alike.extract.command import command_of
from alike.extract.errors import BadInput, StoreBusy, StoreDamaged
from alike.extract.places import cache_folder, copies_folder, touch, unused
from alike.index.files import (
    CARD,
    TRIES,
    building,
    checksum,
    parse_card,
    read_card,
    read_index,
    sweep,
    sync,
)
from alike.index.specs import Card

WORK = ".build"
"""End of the name of the folder in which an index of a remote store is built."""
COPIES = 2
"""Copies of an index that are read before it is taken for damaged in its store."""


def name_of(key: str, measure: str) -> str:
    """Name of an index's folder in its store."""
    return f"index/{key}/{measure}"


def folder_of(store: Any, key: str, measure: str) -> Path:
    """The folder of an index, or for a remote store that of its copy here, whether it is there."""
    if store.root_path is not None:
        return Path(store.root_path) / name_of(key, measure)
    return copies_folder(store.place) / name_of(key, measure)


def card_of(store: Any, key: str, measure: str) -> Card | None:
    """The card of an index, or None if there is none; no file of the index is transferred.

    Raises:
        StoreDamaged: as `read_card`.
    """
    if store.root_path is not None:
        return read_card(folder_of(store, key, measure))
    data = _stored_card(store, key, measure)
    return None if data is None else _parsed(data, store, key, measure)


def _parsed(data: bytes, store: Any, key: str, measure: str) -> Card:
    place = _card_place(store, key, measure)
    return parse_card(data, place, index_command(store, key, measure))


def card_stamp(store: Any, key: str, measure: str) -> Any:
    """Changes with every new index; None if there is none. One look at one file."""
    if store.root_path is None:
        return store.files.listing(name_of(key, measure)).get(CARD)
    try:
        card = (folder_of(store, key, measure) / CARD).stat()
    except FileNotFoundError:
        return None
    return card.st_mtime_ns, card.st_ino, card.st_size


def indexed_measures(store: Any, key: str) -> list[str]:
    """The measures of which an extraction has an index."""
    return [
        measure
        for measure in store.files.folders(f"index/{key}")
        if store.files.size(f"{name_of(key, measure)}/{CARD}") is not None
    ]


def index_command(store: Any, key: str, measure: str) -> str:
    """The command that builds an index, as it can be copied.

    Args:
        store: that holds the features.
        key: of the extraction.
        measure: its name.
    """
    return command_of("index", store, key, "--measure", measure)


def open_index(store: Any, key: str, measure: str, *, mapped: bool = False) -> tuple[Card, Any]:
    """Card and FAISS index of a store; see `read_index`.

    Raises:
        BadInput: there is no index.
        StoreDamaged: the index in the store is not what was written. A copy that is damaged is
            fetched again.
    """
    if card_stamp(store, key, measure) is None:
        command = index_command(store, key, measure)
        raise BadInput(f"no index of {key}, measure {measure}: build it by `{command}`")
    folder = folder_of(store, key, measure)
    if store.root_path is not None:
        return read_index(folder, mapped=mapped)
    # A copy that is damaged, or that somebody deletes meanwhile, is fetched again.
    for again in range(COPIES):
        _fetch(store, key, measure, checked=again > 0)
        with contextlib.suppress(StoreDamaged, BadInput):
            return read_index(folder, mapped=mapped)
    _fetch(store, key, measure, checked=True)
    return read_index(folder, mapped=mapped)


@contextlib.contextmanager
def building_of(store: Any, key: str, measure: str) -> Iterator[Path]:
    """Hold an index for one builder, and give the folder to build in.

    Of a remote store that is a folder of the cache that begins with what the store has. What was
    built is uploaded at the end, unless an error ended it.

    Raises:
        StoreBusy: another process builds this index.
        BadInput: the folder of the cache was deleted meanwhile.
    """
    folder = folder_of(store, key, measure)
    if store.root_path is not None:
        with building(folder):
            yield folder
        return
    work = folder.with_name(folder.name + WORK)
    with building(work), store.index_lock(key, measure) as lock:
        _clear(work)
        _fetch(store, key, measure, checked=True)
        _link(folder, work)
        before = _bytes_of(work / CARD)
        try:
            yield work
            if not work.is_dir():
                raise FileNotFoundError(work)
            if _bytes_of(work / CARD) != before:
                lock.check()
                _upload(store, key, measure, work)
                with _alone(folder):
                    _link(work, folder)
                    sweep(folder, read_card(folder))
        except FileNotFoundError as error:
            if work.is_dir():
                raise
            msg = f"{work} was deleted while the index was built there: build it again"
            raise BadInput(msg) from error
        finally:
            _clear(work)


def _clear(work: Path) -> None:
    for path in work.iterdir() if work.is_dir() else ():
        if path.name != "lock":
            path.unlink(missing_ok=True)


def _upload(store: Any, key: str, measure: str, work: Path) -> None:
    """Put the files that the store lacks, then the card, then delete what it does not name."""
    name, card = name_of(key, measure), read_card(work)
    assert card is not None
    stored = store.files.listing(name)
    named = [one for one in (card.lists, card.file, card.tail) if one]
    for one in named:
        if one not in stored or stored[one].size != (work / one).stat().st_size:
            store.files.upload(work / one, f"{name}/{one}")
    store.write_file(f"{name}/{CARD}", (work / CARD).read_bytes())
    for one in stored:
        if one not in (CARD, *named):
            store.remove_file(f"{name}/{one}")


def _fetch(store: Any, key: str, measure: str, *, checked: bool = False) -> None:
    """Bring the copy of an index up to date with the store.

    Args:
        store: remote.
        key: extraction.
        measure: of the index.
        checked: also fetch files anew that differ from their checksums.
    """
    folder, fetched = folder_of(store, key, measure), False
    with _alone(folder):
        data = _stored_card(store, key, measure)
        if data is None:
            (folder / CARD).unlink(missing_ok=True)
            return
        try:
            card = _parsed(data, store, key, measure)
        except StoreDamaged:
            # Who reads it says so.
            (folder / CARD).write_bytes(data)
            return
        for name, size, digest in _parts(card):
            place = folder / name
            whole = place.is_file() and size in (None, place.stat().st_size)
            if not whole or (checked and digest and checksum(place) != digest):
                fetched = True
                # A file that is gone from the store is missed by who reads the copy.
                with contextlib.suppress(FileNotFoundError):
                    _download(store, f"{name_of(key, measure)}/{name}", place)
        if _bytes_of(folder / CARD) != data:
            _replace(folder / CARD, data)
            sweep(folder, card)
    if fetched:
        _delete_unused()


def _delete_unused() -> None:
    """Delete copies that nobody asked for long; one that is open answers on.

    The lock of a copy is touched whenever it is asked for. Nothing is deleted behind a link.
    """
    stores = (cache_folder() / "stores").resolve()
    for lock in unused(stores.glob("*/index/*/*.lock")):
        if lock.resolve() != lock:
            continue
        with contextlib.suppress(OSError), lock.open("r+") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            folder = lock.with_suffix("")
            for path in (folder, folder.with_name(folder.name + WORK)):
                shutil.rmtree(path, ignore_errors=True)
            lock.unlink()
            # As far up as they are empty.
            for above in lock.parents[:3]:
                above.rmdir()


def _parts(card: Card) -> list[tuple[str, int | None, str]]:
    """Name, bytes if the card tells, and checksum (empty: none) of each file of an index."""
    parts = [(card.file, card.size, card.checksum), (card.lists, card.lists_size, "")]
    return [one for one in (*parts, (card.tail, None, card.tail_checksum)) if one[0]]


def why_not_whole(store: Any, key: str, measure: str) -> str:
    """Why an index is not there as its card says; empty if it is.

    Of a local store its files are read. Of a remote one, from which they would be transferred,
    their sizes are compared.

    Args:
        store: that has it.
        key: of the features.
        measure: name of the measure.
    """
    try:
        card = card_of(store, key, measure)
    except StoreDamaged:
        return "its card is damaged"
    if card is None:
        return "there is none"
    # One request tells of all files.
    stamps = store.files.listing(name_of(key, measure))
    for name, size, digest in _parts(card):
        there = stamps.get(name)
        if there is None:
            return f"{name} is gone"
        local = store.root_path is not None and digest
        wrong = size is not None and there.size != size
        if wrong or (local and checksum(folder_of(store, key, measure) / name) != digest):
            return f"{name} is damaged"
    return ""


def _stored_card(store: Any, key: str, measure: str) -> bytes | None:
    try:
        return bytes(store.read_file(f"{name_of(key, measure)}/{CARD}"))
    except FileNotFoundError:
        return None


def _card_place(store: Any, key: str, measure: str) -> str:
    return f"{store.url}/{name_of(key, measure)}/{CARD}"


def _download(store: Any, name: str, target: Path) -> None:
    aside = _aside(target)
    try:
        store.files.download(name, aside)
        sync(aside)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def _replace(target: Path, data: bytes) -> None:
    aside = _aside(target)
    aside.write_bytes(data)
    aside.replace(target)


def _aside(target: Path) -> Path:
    # The cache may be emptied at any time.
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.with_name(f"{target.name}.{uuid.uuid4().hex}.partial")


def _link(source: Path, target: Path) -> None:
    """Give one folder the index of another: links to its files, which nobody changes, and the card.

    The card comes last, so that readers see one index or the other.
    """
    try:
        card = read_card(source)
    except StoreDamaged:
        card = None
    for name, _, _ in [] if card is None else _parts(card):
        if not (target / name).exists() and (source / name).exists():
            os.link(source / name, target / name)
    data = _bytes_of(source / CARD)
    if data is not None:
        _replace(target / CARD, data)


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the copy of an index for one process, which waits for others.

    Raises:
        BadInput: the user's cache cannot be written.
    """
    place = folder.parent / f"{folder.name}.lock"
    for _ in range(TRIES):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = place.open("w")
        except FileNotFoundError:
            # Somebody empties the cache.
            continue
        except OSError as error:
            raise BadInput(
                f"{error.filename or place} cannot be written ({error.strerror}), and the index of "
                "a remote store is copied there: name another folder for copies by XDG_CACHE_HOME"
            ) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # While it was waited for, the cache may have been emptied: then it holds nothing.
            if _is_at(lock.fileno(), place) and folder.is_dir():
                touch(place)
                yield
                return
    raise StoreBusy(f"{folder} was deleted {TRIES} times while it was waited for: try again")


def _is_at(handle: int, place: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), place.stat())
    except FileNotFoundError:
        return False
