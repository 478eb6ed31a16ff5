"""Image sets in class folders."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alike.extract.errors import BadInput
from alike.extract.images.formats import SUFFIXES, left_out_note
from alike.extract.images.labels import LabelRule
from alike.extract.images.source import Listed, Stamp, local_path, read_local, stamp_local
from alike.extract.images.tree import (
    SUBSETS,
    Folders,
    folders_note,
    has_subsets,
    is_left_out,
    placed,
    subset_note,
)


class FolderSource:
    """A folder of class folders: the label is the first folder's name, None for loose files.

    If the first folders are subsets over class folders (``train/cat``), the label is the folder
    below. Hidden files, files without an image's suffix, hidden folders and folders of the system
    (`tree.SYSTEM`) are left out. Symbolic links are followed.

    Args:
        spec: path of the folder, or its ``file://`` URL.
        subsets: False takes the first folder for the class, whatever its name.
    """

    def __init__(self, spec: str, subsets: bool = True) -> None:
        path = local_path(spec)
        if path is None:
            raise BadInput(f"folder {spec}: folders are read from a local disk; copy it first")
        self.root = path.resolve()
        self.spec = str(self.root)
        self.options: dict[str, Any] = {} if subsets else {"subsets": False}
        self._subsets = subsets
        self._skipped = set[Path]()
        self.notes: list[str] = []

    def __iter__(self) -> Iterator[Listed]:
        """In order of names, folder by folder."""
        rule, left_out, named, unlabelled = LabelRule(self.spec), list[str](), set[str](), 0
        self._skipped.clear()
        subsets = self._subsets and has_subsets(self._places())
        for path, folders, is_image in self._walk(self.root, (), frozenset({self.root})):
            if not is_image:
                left_out.append(path)
                continue
            label, subset = placed(folders, subsets)
            unlabelled += subset is not None and label is None
            named |= {subset} if subset else set()
            yield Listed(path, None if label is None else rule.folder(label), subset)
        lines = [subset_note(named, unlabelled)] if subsets else []
        skipped = folders_note(_shown(place.name) for place in self._skipped)
        self.notes = [*lines, *rule.notes, *filter(None, [left_out_note(left_out), skipped])]

    def _places(self) -> Iterator[Folders]:
        """Folders of images until the answer is known: the top first, then what lies below."""
        tops, above = self._names(self.root), frozenset({self.root})
        if any(_is_image(name) for name, is_folder in tops if not is_folder):
            yield ()
        folders = [name for name, is_folder in tops if is_folder]
        # Folders of another name first: one image in them settles it.
        for name in sorted(folders, key=lambda name: name.lower() in SUBSETS):
            below = self.root / name
            if (real := below.resolve()) not in above:
                walk = self._walk(below, (_shown(name),), above | {real})
                seen: set[Folders] = set()
                for _, place, is_image in walk:
                    if is_image and place[:2] not in seen:
                        seen.add(place[:2])
                        yield place
                    # One class folder of a subset says as much as all of them.
                    if any(len(one) > 1 for one in seen):
                        break

    def _names(self, folder: Path) -> list[tuple[str, bool]]:
        """Names in a folder that are not left out, each with whether it is a folder."""
        # Entries know whether they are folders; asking every file costs as much as hashing it.
        try:
            with os.scandir(folder) as entries:
                names = sorted((entry.name, _is_folder(entry)) for entry in entries)
        except OSError as error:
            raise BadInput(
                f"folder {folder} cannot be listed ({error.strerror}): ask for the permission, or "
                "move it out of the set"
            ) from error
        # By place, for a folder is listed again to know whether there are subsets.
        self._skipped |= {folder / name for name, is_dir in names if is_dir and is_left_out(name)}
        return [
            (name, is_folder)
            for name, is_folder in names
            if not (is_left_out(name) if is_folder else name.startswith("."))
        ]

    def _walk(
        self, folder: Path, within: Folders, above: frozenset[Path]
    ) -> Iterator[tuple[str, Folders, bool]]:
        """(path, folders that it lies in, whether it is an image) of every file below."""
        for name, is_folder in self._names(folder):
            if is_folder:
                real = (folder / name).resolve()
                # A link to a folder above would be walked for ever.
                if real not in above:
                    yield from self._walk(folder / name, (*within, _shown(name)), above | {real})
            else:
                yield "/".join((*within, _shown(name))), within, _is_image(name)

    def read(self, path: str) -> bytes:
        """The file's bytes."""
        return read_local(self._file(path))

    def stamp(self, path: str) -> Stamp | None:
        """Says whether the file is as it was."""
        return stamp_local(self._file(path) if "\\x" in path else f"{self.spec}/{path}")

    def _file(self, path: str) -> Path:
        file = self.root / path
        return self.root / _hidden(path) if "\\x" in path and not file.exists() else file


def _is_image(name: str) -> bool:
    return "." + name.rpartition(".")[2].lower() in SUFFIXES


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
