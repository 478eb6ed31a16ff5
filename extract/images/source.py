"""Where images come from: an ordered list of (path, label), and the bytes of each."""

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from alike.extract.errors import BadImage

_PLAIN = ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "ppm", "pgm")
SUFFIXES = frozenset(f".{name}" for name in (*_PLAIN, "tif", "tiff", "avif", "npy"))
MAX_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Listed:
    """One image as its source lists it.

    Attributes:
        path: what `ImageSource.read` takes; ``/`` separates its parts.
        label: name of its class, None where there is none.
    """

    path: str
    label: str | None


class ImageSource(Protocol):
    """A set of images, in an order that is the same every time.

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


def read_local(file: Path) -> bytes:
    """Bytes of a local file; a pipe or device is refused, it could block for ever.

    Raises:
        BadImage: not there, not a regular file, or larger than `MAX_BYTES`.
    """
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):
            raise BadImage("unreadable", "not a regular file")
        check_bytes(found.st_size)
        return file.read_bytes()
    except OSError as error:
        raise BadImage("unreadable", error.strerror or str(error)) from error


def check_bytes(size: int) -> None:
    """Refuse a file that is larger than `MAX_BYTES`, before it is read.

    Raises:
        BadImage: state ``too large``.
    """
    if size > MAX_BYTES:
        raise BadImage("too large", f"{size} bytes, at most {MAX_BYTES} are read")
