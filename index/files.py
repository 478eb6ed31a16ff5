"""Index files in a store: written aside, named by a card that is replaced in one step.

A folder `index/<extraction>/<measure>/` holds `card.json` and the FAISS files that it names. A new
index is a file of a new name; then the card is replaced. So a reader sees the old index or the
new one, and a build that is killed leaves the old one in place.

Few rows that are added to a large index go to a small file beside it, its tail, and are added to
the index where it is read: writing all anew would cost what the index weighs, not what was added.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import shlex
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from alike.extract.documents import damaged, read_json
from alike.extract.errors import BadInput, StoreBusy, StoreDamaged
from alike.extract.store.settings import COPY, SETTINGS
from alike.index.flat import faiss_metric, flat_vectors
from alike.index.specs import Card

CARD = "card.json"
TRIES = 20
ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)
BLOCK = 1 << 24
FLAG = b"IO_FLAG_"
_PRINTING = threading.Lock()


def read_card(folder: Path) -> Card | None:
    """The card of the index in a folder, or None if there is none.

    Raises:
        StoreDamaged: it is no card, one of another schema, or names files elsewhere.
    """
    place = folder / CARD
    try:
        data = place.read_bytes()
    except FileNotFoundError:
        return None
    return parse_card(data, str(place), _command(folder))


def parse_card(data: bytes, place: str, command: str) -> Card:
    """The card that bytes hold.

    Args:
        data: of the file.
        place: of the file, for the message.
        command: that builds the index, for the message.

    Raises:
        StoreDamaged: as `read_card`.
    """
    stored = read_json(data, dict[str, Any], place, _rebuild(command))
    try:
        Card.check_stored(stored)
        return read_json(data, Card, place, _rebuild(command))
    except BadInput as error:
        raise damaged(place, error, _rebuild(command)) from error


def _advice(folder: Path) -> str:
    return _rebuild(_command(folder))


def _command(folder: Path) -> str:
    """The command that builds the index in a folder `STORE/index/KEY/MEASURE`."""
    store, key, measure = folder.parents[2], folder.parent.name, folder.name
    # The copy of a remote store's index does not say where the store is.
    words = ["--store", str(store)] if _is_store(store) else []
    return shlex.join(["alike", "index", *words, "--features", key, "--measure", measure])


def _is_store(folder: Path) -> bool:
    return any((folder / name).exists() for name in (SETTINGS, COPY))


def _rebuild(command: str) -> str:
    return f"rebuild it by `{command} --rebuild`"


def read_index(folder: Path, *, mapped: bool = False) -> tuple[Card, Any]:
    """Card and FAISS index that belong together.

    Lists on disk stay there and are mapped into memory, checked by their size only; any other file
    is read and checked.

    Args:
        folder: from `alike.index.places`.
        mapped: the index only answers: its pages are read as a search touches them. No row can be
            added to it.

    Raises:
        BadInput: there is no index.
        StoreDamaged: the file is truncated or its bytes differ from the card's checksum.
    """
    for _ in range(TRIES):
        card = read_card(folder)
        if card is None:
            # `open_index` names the command, with the store.
            raise BadInput(f"no index of {folder.parent.name}, measure {folder.name}")
        try:
            # FAISS ends the process if rows are added to a mapped index.
            index = _load(folder, card, mapped and not card.tail)
            if card.tail:
                index.add_with_ids(*read_tail(folder, card))
            return card, index
        except FileNotFoundError as error:
            # replaced between the two reads: the new card names the new file
            if read_card(folder) == card:
                msg = f"{error.filename or error} is missing: {_advice(folder)}"
                raise StoreDamaged(msg) from None
    raise StoreBusy(f"{folder} was replaced {TRIES} times while it was read: try again")


def _load(folder: Path, card: Card, mapped: bool) -> Any:
    path = folder / card.file
    size = path.stat().st_size
    if size != card.size:
        raise StoreDamaged(f"{path} has {size} bytes, the card says {card.size}: {_advice(folder)}")
    if card.lists:
        size = (folder / card.lists).stat().st_size
        if size != card.lists_size:
            # a mapped file that is too short ends the process, so this is looked at first
            msg = f"{folder / card.lists} has {size} bytes, the card says {card.lists_size}"
            raise StoreDamaged(f"{msg}: {_advice(folder)}")
    read = read_lists if card.lists else _mapped if mapped else _whole
    # a card of an index on disk once had no checksum
    return _checked(path, card.checksum, read) if card.checksum else _read(read, path)


def read_tail(folder: Path, card: Card) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Vectors (n, D) and store rows (n,) of the tail, in the order in which they were added.

    Raises:
        StoreDamaged: the file is not what was written.
    """
    import faiss

    tail = _checked(folder / card.tail, card.tail_checksum)
    rows = faiss.vector_to_array(tail.id_map).copy()
    return flat_vectors(faiss.downcast_index(tail.index)).copy(), rows


def _whole(path: Path) -> Any:
    import faiss

    return faiss.read_index(str(path))


def _mapped(path: Path) -> Any:
    import faiss

    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)


def _checked(path: Path, wanted: str, read: Callable[[Path], Any] = _whole) -> Any:
    if checksum(path) != wanted:
        raise StoreDamaged(f"{path} differs from its checksum: {_advice(path.parent)}")
    return _read(read, path)


def _read(read: Callable[[Path], Any], path: Path) -> Any:
    """What FAISS reads; it tells a file that was just replaced from a broken one."""
    try:
        return read(path)
    except RuntimeError as error:
        if not path.exists():
            raise FileNotFoundError(path) from error
        msg = f"{path} is no index that FAISS reads ({error}): {_advice(path.parent)}"
        raise StoreDamaged(msg) from error


def read_lists(path: Path) -> Any:
    """An index whose lists stay on disk, beside its file, wherever the store was moved to."""
    import faiss

    with silent_faiss():
        return faiss.read_index(str(path), faiss.IO_FLAG_ONDISK_SAME_DIR)


@contextlib.contextmanager
def silent_faiss() -> Iterator[None]:
    """FAISS prints its flags about lists on disk to standard output, where a command's JSON goes.

    What else is printed meanwhile, as by another thread, is printed afterwards.
    """
    flush = ctypes.CDLL(None).fflush
    with _PRINTING, tempfile.TemporaryFile() as printed:
        sys.stdout.flush()
        flush(None)
        stdout = os.dup(1)
        os.dup2(printed.fileno(), 1)
        try:
            yield
        finally:
            sys.stdout.flush()
            # FAISS's own lines wait in the buffer of the C library.
            flush(None)
            os.dup2(stdout, 1)
            os.close(stdout)
            printed.seek(0)
            for line in printed:
                if not line.startswith(FLAG):
                    os.write(1, line)


def checksum(path: Path) -> str:
    """crc32c of a file, hexadecimal."""
    crc = google_crc32c.Checksum()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            crc.update(block)
    return str(crc.hexdigest().decode())


_REASONS = {os.strerror(code): code for code in (*ROOM, *PERMISSION, errno.ENOENT)}


def write_faiss(index: Any, path: Path) -> None:
    """Write a FAISS index to a file, durably.

    Raises:
        OSError: the disk is full or the place cannot be written; FAISS says so in words only.
    """
    import faiss

    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        for reason, code in _REASONS.items():
            if reason in str(error):
                raise OSError(code, reason, str(path)) from error
        raise
    sync(path)


def new_name() -> str:
    """A name of an index file that no other build gives."""
    return f"{uuid.uuid4().hex[:12]}.faiss"


def publish(folder: Path, index: Any, card: Card) -> Card:
    """Write a FAISS index under a new name, then make the card name it.

    Args:
        folder: from `alike.index.places`; the caller holds `building`.
        index: to write; if `card.lists` is set, its lists are written already.
        card: whose `file`, `size` and `checksum` are filled in.
    """
    name = card.lists.replace(".ivfdata", ".faiss") if card.lists else new_name()
    path = folder / name
    write_faiss(index, path)
    card = replace(card, file=name, size=path.stat().st_size, checksum=checksum(path))
    card = replace(card, tail="", tail_rows=0, tail_checksum="")
    _write_card(folder, card)
    sweep(folder, card)
    return card


def publish_tail(
    folder: Path, vectors: NDArray[np.float32], rows: NDArray[np.int64], card: Card
) -> Card:
    """Write a new tail under a new name, then make the card name it; the index file stays.

    Args:
        folder: from `alike.index.places`; the caller holds `building`.
        vectors: (n, D) float32 of all rows that were added since the index file was written.
        rows: (n,) their store rows.
        card: whose `tail`, `tail_rows` and `tail_checksum` are filled in.
    """
    import faiss

    tail = faiss.IndexIDMap(faiss.IndexFlat(vectors.shape[1], faiss_metric(card.metric)))
    tail.add_with_ids(vectors, rows)
    path = folder / new_name()
    write_faiss(tail, path)
    card = replace(card, tail=path.name, tail_rows=len(rows), tail_checksum=checksum(path))
    _write_card(folder, card)
    sweep(folder, card)
    return card


def _write_card(folder: Path, card: Card) -> None:
    aside = folder / f"{CARD}.{uuid.uuid4().hex}.partial"
    aside.write_text(json.dumps(card.to_dict(), indent=1) + "\n", encoding="utf-8")
    sync(aside)
    aside.replace(folder / CARD)
    sync(folder)


def rewrite_card(folder: Path, card: Card) -> None:
    """Replace the card of an index whose file stays; the caller holds `building`."""
    _write_card(folder, card)


def sweep(folder: Path, card: Card | None) -> None:
    """Delete what a card does not name; open readers keep their files."""
    named = {CARD, "lock"} | (set() if card is None else {card.file, card.tail, card.lists})
    # The folder may be one of the user's cache, which may be emptied at any time.
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            if path.name not in named and not path.is_dir():
                path.unlink(missing_ok=True)


def _sweep_unnamed(folder: Path) -> None:
    """Delete what builds left that failed or were killed."""
    # a card that cannot be read may name anything
    with contextlib.suppress(StoreDamaged):
        sweep(folder, read_card(folder))


def sync(path: Path) -> None:
    """Make a file or folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def building(folder: Path) -> Iterator[None]:
    """Hold the folder for one builder; the lock ends with its process, however that ends.

    What the card does not name is deleted before and after.

    Raises:
        StoreBusy: another process builds there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+", encoding="utf-8", errors="replace") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            who = " ".join(lock.read(200).split()) or "another process"
            raise StoreBusy(f"{who} builds the index in {folder}: wait for it to end") from None
        lock.truncate(0)
        lock.write(f"{os.uname().nodename} process {os.getpid()}")
        lock.flush()
        _sweep_unnamed(folder)
        try:
            yield
        finally:
            _sweep_unnamed(folder)
