"""What a source of images is, and how one file or URL is read, whoever asks for it."""

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from alike.extract.errors import BadImage

MAX_BYTES = 256 * 2**20
"""Largest image file that is read."""
TOO_LARGE = "too large"
"""State of a file that is not read for its size."""
SETTLED = 2_000_000_000
"""Nanoseconds that a file must be old to be told from one that changes once more."""
_MOST = 2**63 - 1

LOCAL = ("file://", "local://")
"""Beginnings of URLs that name local files: these get the guards of local files."""


Stamp = tuple[int, int, int, int]
"""Of a file: bytes, mtime and ctime in nanoseconds, inode; other bytes have another one."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One image as its source lists it.

    Attributes:
        path: what `ImageSource.read` takes; ``/`` separates its parts.
        label: name of its class, None if there is none.
        subset: the part of the set that its source puts it in (``train``, ``val``…), or None.
        group: what it shares with images that must stand on the same side of the split, such as a
            patient or a video; None if it stands alone.
    """

    path: str
    label: str | None
    subset: str | None = field(default=None, repr=False)
    group: str | None = field(default=None, repr=False)


class ImageSource(Protocol):
    """A set of images, in an order that is the same every time.

    A source of files may have a method `stamp(path) -> Stamp | None`: then only files whose stamp
    changed are read to list it again. Where one image cannot be read without others, a method
    `together(path) -> str` names what is read: then these are due in the same listing. One that
    remembers what its files hold has a method `read_anew()`: then the next listing reads all.

    Attributes:
        spec: what `open_source` opens again, absolute.
        options: keyword arguments that belong to it.
    """

    spec: str
    options: dict[str, Any]

    def __iter__(self) -> Iterator[Listed]:
        """All images, bad ones too: whether one can be read is found when it is read."""

    def read(self, path: str) -> bytes:
        """The file's bytes, or for arrays the image in .npy form; safe to call from threads.

        Raises:
            BadImage: it cannot be read, or is larger than `MAX_BYTES`.
        """


def notes_of(source: ImageSource) -> list[str]:
    """What a source took its images for, a line each; complete once it was listed.

    A source may have an attribute `notes`: what it left out, and every guess.
    """
    return list(getattr(source, "notes", ()))


def read_with(source: ImageSource) -> Callable[[str], str]:
    """Gives the name by which an image is due (`remembered.is_due`): its own, or a common one."""
    together: Callable[[str], str] = getattr(source, "together", str)
    return together


def read_anew(source: ImageSource) -> None:
    """Let a source forget what it remembers of its containers, if it remembers anything."""
    forget: Callable[[], None] = getattr(source, "read_anew", lambda: None)
    forget()


def local_path(spec: str) -> Path | None:
    """The local path that a path or URL names, ``~`` resolved; None for other URLs."""
    for scheme in LOCAL:
        spec = spec.removeprefix(scheme)
    # Not `Path.expanduser`, which raises if a user has no home.
    return None if "://" in spec else Path(os.path.expanduser(spec))  # noqa: PTH111


def read_local(file: Path) -> bytes:
    """Bytes of a local file.

    Raises:
        BadImage: not there, a folder, a pipe or device, or larger than `MAX_BYTES`.
    """
    try:
        status = file.stat()
        if stat.S_ISDIR(status.st_mode):
            raise BadImage("unreadable", "a folder, not a file")
        # A pipe or device could block for ever, or never end.
        if not stat.S_ISREG(status.st_mode):
            raise BadImage("unreadable", "not a regular file")
        check_bytes(status.st_size)
        return file.read_bytes()
    except OSError as error:
        raise BadImage("unreadable", error.strerror or str(error)) from error
    except ValueError as error:
        raise BadImage("unreadable", f"not the name of a file ({error})") from error


def stamp_local(file: str | Path) -> Stamp | None:
    """The stamp of a local file; None for what is no plain file, or not there."""
    try:
        # Not `Path.stat`, which costs as much again.
        status = os.stat(file)  # noqa: PTH116
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    # Some filesystems have inodes of 64 bits, and times of more; stamps are stored as int64.
    mtime, ctime = (max(-_MOST, min(_MOST, t)) for t in (status.st_mtime_ns, status.st_ctime_ns))
    return status.st_size, mtime, ctime, status.st_ino & _MOST


def stamp_url(url: str) -> Stamp | None:
    """The stamp of a path or URL; of an object its ETag. None if its server gives none."""
    file = local_path(url)
    if file is not None:
        return stamp_local(file)
    try:
        filesystem, path = filesystem_of(url)
        filesystem.invalidate_cache()
        facts = filesystem.info(path)
    # Every filesystem raises errors of its own; reading says what is wrong.
    except Exception:
        return None
    return stamp_of_object(facts)


def stamp_of_container(place: str) -> Stamp | None:
    """The stamp of a file that holds many images, by which all of them are told to be as before.

    Ask before the file is opened: what replaces it later has another stamp the next time.

    Args:
        place: path or URL of the file.

    Returns:
        None if there is no stamp, or if the file is so young that it may change once more under it.
    """
    stamp = stamp_url(place)
    if stamp is None or max(stamp[1], stamp[2]) > settled_before(time.time_ns()):
        return None
    return stamp


def settled_before(now_ns: int) -> int:
    """The latest time of change, in nanoseconds, that is old enough at `now_ns` to be trusted."""
    return now_ns - SETTLED


def stamp_of_object(facts: Mapping[str, Any]) -> Stamp | None:
    """The stamp of an object by what its filesystem lists: bytes and ETag; None without one."""
    tag = facts.get("ETag") or facts.get("etag")
    if not tag or str(tag).startswith("W/"):
        return None
    name = int.from_bytes(hashlib.blake2b(str(tag).encode(), digest_size=7).digest())
    return int(facts.get("size") or 0), 0, 0, name


def read_url(url: str) -> bytes:
    """Bytes of a path, or of a URL of any fsspec filesystem; of this only `MAX_BYTES` are fetched.

    Raises:
        BadImage: it cannot be read, or is larger than `MAX_BYTES`.
    """
    file = local_path(url)
    if file is not None:
        return read_local(file)
    try:
        filesystem, path = filesystem_of(url)
    except Exception as error:
        raise BadImage("unreadable", one_line(error)) from error
    return read_object(filesystem, path)


def read_object(filesystem: Any, path: str) -> bytes:
    """Bytes of an object of an fsspec filesystem; only `MAX_BYTES` are fetched.

    Raises:
        BadImage: it cannot be read, or is larger than `MAX_BYTES`.
    """
    try:
        data = bytes(filesystem.cat_file(path, start=0, end=MAX_BYTES + 1))
    except Exception as error:
        # Every filesystem raises errors of its own; of an object without bytes none can be asked.
        if _size(filesystem, path) == 0:
            return b""
        raise BadImage("unreadable", one_line(error)) from error
    check_bytes(len(data))
    return data


def _size(filesystem: Any, path: str) -> int | None:
    with suppress(Exception):
        return int(filesystem.info(path)["size"])
    return None


def filesystem_of(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URL or local path, and the path in it."""
    import fsspec

    file = local_path(url)
    if file is not None:
        return fsspec.filesystem("file"), str(file)
    if "::" in url:
        filesystem, path = fsspec.core.url_to_fs(url)
        return filesystem, str(path)
    scheme, _, rest = url.partition("://")
    filesystem = _filesystem(f"{scheme}://{rest.partition('/')[0]}")
    return filesystem, str(filesystem._strip_protocol(url))


@lru_cache(64)
def _filesystem(root: str) -> Any:
    # fsspec itself keeps one for each thread, with connections and credentials of its own.
    import fsspec

    return fsspec.core.url_to_fs(root)[0]


def one_line(error: Exception) -> str:
    """The type and the first line of an error, for a reason that is kept with an image."""
    return f"{type(error).__name__}: {error}".split("\n")[0][:160]


def check_bytes(size: int) -> None:
    """Refuse a file that is larger than `MAX_BYTES`, before it is read.

    Raises:
        BadImage: state ``too large``.
    """
    if size > MAX_BYTES:
        raise BadImage(TOO_LARGE, f"{size} bytes, at most {MAX_BYTES} are read")
