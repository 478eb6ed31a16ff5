"""Image sets in class folders."""

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from alike.extract.errors import BadInput
from alike.extract.images.formats import SUFFIXES, left_out_note, suffix_of
from alike.extract.images.labels import LabelRule
from alike.extract.images.source import Listed, Stamp, local_path, read_local, stamp_local
from alike.extract.images.tree import (
    Folders,
    folders_note,
    has_subsets,
    is_left_out,
    is_output,
    is_subset,
    named_as_subsets,
    outputs_note,
    placed,
    shown,
    subset_note,
    top_note,
)


class FolderSource:
    """A folder of class folders: the label is the first folder's name, None for loose files.

    If the first folders are subsets over class folders (``train/cat``), the label is the folder
    below. A folder at the top that holds all class folders is passed over. Hidden files, files
    without an image's suffix, hidden folders and folders of the system (`tree.SYSTEM`) are left
    out. Symbolic links are followed.

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
        self._skipped, self._outputs = set[Path](), set[Path]()
        self.notes: list[str] = []

    def __iter__(self) -> Iterator[Listed]:
        """In order of names, folder by folder."""
        rule, left_out, named, unlabelled = LabelRule(self.spec), list[str](), set[str](), 0
        classes = set[str]()
        self._skipped.clear()
        self._outputs.clear()
        top = self._top()
        subsets = self._subsets and has_subsets(self._places(self.root.joinpath(*top)))
        n_top = len(top)
        for path, folders, is_image in self._walk(self.root, (), frozenset({self.root})):
            if not is_image:
                left_out.append(path)
                continue
            folder, subset = placed(folders[n_top:], subsets)
            label = None if folder is None else rule.folder(folder)
            unlabelled += subset is not None and label is None
            named |= {subset} if subset else set()
            classes |= {label} if label else set()
            yield Listed(path, label, subset)
        lines = top_note(tuple(map(shown, top)))
        lines += [subset_note(named, unlabelled)] if subsets else []
        lines += named_as_subsets(classes) if self._subsets and not subsets else []
        skipped = folders_note(shown(place.name) for place in self._skipped)
        self.notes = [*lines, *rule.notes, *filter(None, [left_out_note(left_out), skipped])]
        self.notes += outputs_note(shown(place.name) for place in self._outputs)

    def _top(self) -> Folders:
        """Folders that all images share and that name no class: `shared_top`, by few folders."""
        top: Folders = ()
        while True:
            folder = self.root.joinpath(*top)
            names = self._names(folder)
            holders = (name for name, is_dir in names if is_dir and self._holds(top, name))
            holding = list(islice(holders, 2))
            if any(_is_image(name) for name, is_folder in names if not is_folder):
                # Images of one folder alone: it is their class.
                return top if holding else top[:-1]
            if len(holding) != 1 or (is_subset(holding[0]) and not self._divides(top, holding[0])):
                return top
            top = (*top, holding[0])

    def _divides(self, top: Folders, name: str) -> bool:
        """Whether a folder holds subsets and nothing else."""
        names = self._names(self.root.joinpath(*top, name))
        loose = any(_is_image(name) for name, is_folder in names if not is_folder)
        below = [one for one, is_dir in names if is_dir and self._holds((*top, name), one)]
        return not loose and bool(below) and all(map(is_subset, below))

    def _holds(self, top: Folders, name: str) -> bool:
        """Whether an image lies anywhere below a folder."""
        folder = self.root.joinpath(*top, name)
        above = {self.root.joinpath(*top[:depth]).resolve() for depth in range(len(top) + 1)}
        if folder.resolve() in above:
            return False
        walk = self._walk(folder, (), frozenset({*above, folder.resolve()}))
        return any(is_image for _, _, is_image in walk)

    def _places(self, root: Path) -> Iterator[Folders]:
        """Folders of images until the answer is known: the top first, then what lies below."""
        tops, above = self._names(root), frozenset({self.root, root.resolve()})
        if any(_is_image(name) for name, is_folder in tops if not is_folder):
            yield ()
        folders = [name for name, is_folder in tops if is_folder]
        # Folders of another name first: one image in them settles it.
        for name in sorted(folders, key=is_subset):
            below = root / name
            if (real := below.resolve()) not in above:
                walk = self._walk(below, (shown(name),), above | {real})
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
        if folder != self.root and is_output([name for name, _ in names]):
            self._outputs.add(folder)
            return []
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
                    yield from self._walk(folder / name, (*within, shown(name)), above | {real})
            else:
                yield "/".join((*within, shown(name))), within, _is_image(name)

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
    return suffix_of(name) in SUFFIXES


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    # A link to itself: as a file it becomes a bad image with this reason.
    except OSError:
        return False


def _hidden(path: str) -> str:
    """The name that `shown` gave for."""
    return os.fsdecode(
        re.sub(rb"\\x([0-9a-f]{2})", lambda byte: bytes([int(byte[1], 16)]), os.fsencode(path))
    )
