"""Image sets in class folders."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alike.extract.errors import BadInput
from alike.extract.images.formats import SUFFIXES
from alike.extract.images.source import Listed, local_path, read_local


class FolderSource:
    """A folder of class folders: the label is the first folder's name, None for loose files.

    Hidden files and files without an image's suffix are left out. Symbolic links are followed.

    Args:
        spec: path of the folder, or its ``file://`` URL.
    """

    def __init__(self, spec: str) -> None:
        path = local_path(spec)
        if path is None:
            raise BadInput(f"folder {spec}: folders are read from a local disk; copy it first")
        self.root = path.resolve()
        self.spec = str(self.root)
        self.options: dict[str, Any] = {}

    def __iter__(self) -> Iterator[Listed]:
        """In order of names, folder by folder."""
        yield from self._walk(self.root, None, "", frozenset({self.root}))

    def _walk(
        self, folder: Path, label: str | None, prefix: str, above: frozenset[Path]
    ) -> Iterator[Listed]:
        # Entries know whether they are folders; asking every file costs as much as hashing it.
        try:
            with os.scandir(folder) as entries:
                names = sorted((entry.name, _is_folder(entry)) for entry in entries)
        except OSError as error:
            raise BadInput(
                f"folder {folder} cannot be listed ({error.strerror}): ask for the permission, or "
                "move it out of the set"
            ) from error
        for name, is_folder in names:
            if name.startswith("."):
                continue
            if is_folder:
                real = (folder / name).resolve()
                # A link to a folder above would be walked for ever.
                if real not in above:
                    inside = folder / name
                    within, shown = label or _shown(name), f"{prefix}{_shown(name)}/"
                    yield from self._walk(inside, within, shown, above | {real})
            elif "." + name.rpartition(".")[2].lower() in SUFFIXES:
                yield Listed(prefix + _shown(name), label)

    def read(self, path: str) -> bytes:
        """The file's bytes."""
        file = self.root / path
        if "\\x" in path and not file.exists():
            file = self.root / _hidden(path)
        return read_local(file)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    # A link to itself: as a file it becomes a bad image with this reason.
    except OSError:
        return False


def _shown(name: str) -> str:
    r"""A file's name as text: bytes that are not UTF-8 become ``\xe9``."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _hidden(path: str) -> str:
    """The name that `_shown` gave for."""
    return os.fsdecode(
        re.sub(rb"\\x([0-9a-f]{2})", lambda byte: bytes([int(byte[1], 16)]), os.fsencode(path))
    )
