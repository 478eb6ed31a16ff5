"""Tables made of the manifest's files, kept beside them and mapped into memory.

A store of a million images takes seconds and hundreds of megabytes to read, of which one query
needs a few rows. So what was read is kept as an uncompressed Arrow file, whose pages are read as
they are touched. Its name holds the hash of the files that it was made of and its own checksum: it
is used for these contents only, and may be deleted at any time.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import google_crc32c

from alike.extract.documents import arrow_bytes, map_arrow
from alike.extract.errors import AlikeError
from alike.extract.store.files import Files, Stamp

FOLDER = "cache"
LEAST = 4 << 20
"""Bytes of the files that a table is made of, below which it is made at every opening."""

BLOCK = 1 << 20


class MappedTables:
    """The mapped tables of one store; a store elsewhere than in a folder has none."""

    def __init__(self, files: Files, source: str) -> None:
        """Begin.

        Args:
            files: of the store.
            source: folder of the files that tables are made of.
        """
        self._files = files
        self._source = source
        self._digests: dict[str, tuple[Stamp, str]] = {}

    def table(self, kind: str, names: Sequence[str], make: Callable[[], Any]) -> Any:
        """Give the Arrow table that `make` makes of files, mapped if they are large.

        Args:
            kind: name of the table.
            names: of the files, in the source's folder.
            make: reads them.
        """
        stamps = self._stamps(names)
        size = sum(stamp.size for stamp in stamps.values())
        if self._files.root is None or size < LEAST or len(stamps) < len(names):
            return make()
        prefix = f"{kind}-{self._digest(stamps)}-"
        table = self._open(prefix)
        if table is not None:
            return table
        table = make()
        # Of files that were replaced meanwhile nobody knows which were read.
        return self._keep(kind, prefix, table) if self._stamps(names) == stamps else table

    def _stamps(self, names: Sequence[str]) -> dict[str, Stamp]:
        listing = self._files.listing(self._source)
        return {name: listing[name] for name in names if name in listing}

    def _digest(self, stamps: dict[str, Stamp]) -> str:
        whole = hashlib.blake2b(digest_size=16)
        for name, stamp in stamps.items():
            if self._digests.get(name, (None,))[0] != stamp:
                one = hashlib.blake2b(digest_size=16)
                _feed(one.update, self._path(self._source, name))
                self._digests[name] = (stamp, one.hexdigest())
            whole.update(f"{name} {self._digests[name][1]}\n".encode())
        return whole.hexdigest()

    def _open(self, prefix: str) -> Any:
        # Somebody may delete it at this moment, or have put something else in its place.
        with suppress(OSError):
            for name in self._files.listing(FOLDER):
                path = self._path(FOLDER, name)
                if name.startswith(prefix) and name == f"{prefix}{_checksum(path)}.arrow":
                    return map_arrow(path)
        return None

    def _keep(self, kind: str, prefix: str, table: Any) -> Any:
        data = arrow_bytes(table)
        name = f"{prefix}{google_crc32c.value(data):08x}.arrow"
        # Where nothing can be written, it is made again at every opening.
        with suppress(AlikeError, OSError):
            for other in self._files.listing(FOLDER):
                if other.startswith(f"{kind}-"):
                    self._files.remove(f"{FOLDER}/{other}")
            self._files.write(f"{FOLDER}/{name}", data)
            return map_arrow(self._path(FOLDER, name))
        return table

    def _path(self, folder: str, name: str) -> Path:
        assert self._files.root is not None
        return self._files.root / folder / name


def _feed(update: Callable[[bytes], object], path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            update(block)


def _checksum(path: Path) -> str:
    crc = google_crc32c.Checksum()
    _feed(crc.update, path)
    return str(crc.hexdigest().decode())
