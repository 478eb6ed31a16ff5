"""Image sets in class folders on an object store, listed without reading."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from operator import attrgetter
from typing import Any, NamedTuple

from alike.extract.errors import BadInput
from alike.extract.images.formats import SUFFIXES, left_out_note, suffix_of
from alike.extract.images.labels import LabelRule
from alike.extract.images.source import (
    Listed,
    Stamp,
    filesystem_of,
    one_line,
    read_object,
    stamp_of_object,
)
from alike.extract.images.tree import (
    Folders,
    folders_note,
    has_subsets,
    is_left_out,
    named_as_subsets,
    placed,
    shared_top,
    subset_note,
    top_note,
)

LISTERS = 8
"""Folders that are listed at the same time."""


class RemoteFolderSource:
    """A folder of class folders at a URL of fsspec, such as ``s3://bucket/photos/``.

    Classes, subsets and what is left out are those of a local folder (`FolderSource`). A listing
    takes one request a folder and thousand objects, and reads none: size and ETag tell whether an
    image changed. Where a storage gives no ETag, every image is read to list it again.

    Args:
        spec: URL of the folder.
        subsets: False takes the first folder for the class, whatever its name.
    """

    def __init__(self, spec: str, subsets: bool = True) -> None:
        self.spec = spec.rstrip("/")
        self.options: dict[str, Any] = {} if subsets else {"subsets": False}
        self._subsets = subsets
        self._stamps: dict[str, Stamp] = {}
        self.notes: list[str] = []
        try:
            self._files, top = filesystem_of(self.spec)
        except Exception as error:
            raise self._unreadable(error) from error
        self._top = top.rstrip("/")

    def __iter__(self) -> Iterator[Listed]:
        """In order of names, folder by folder."""
        rule, skipped = LabelRule(self.spec), list[str]()
        found = sorted(self._walk(skipped), key=attrgetter("parts"))
        images = [one for one in found if suffix_of(one.parts[-1]) in SUFFIXES]
        rest = [one.parts for one in found if suffix_of(one.parts[-1]) not in SUFFIXES]
        left_out = left_out_note(["/".join(parts) for parts in rest])
        n_top = shared_top(list({one.parts[:-1] for one in images}))
        top = images[0].parts[:n_top] if images else ()
        subsets = self._subsets and has_subsets({one.parts[n_top:-1] for one in images})
        stamps, named, classes, unlabelled = dict[str, Stamp](), set[str](), set[str](), 0
        for one in images:
            path = "/".join(one.parts)
            if one.stamp is not None:
                stamps[path] = one.stamp
            folder, subset = placed(one.parts[n_top:-1], subsets)
            label = None if folder is None else rule.folder(folder)
            unlabelled += subset is not None and label is None
            named |= {subset} if subset else set()
            classes |= {label} if label else set()
            yield Listed(path, label, subset)
        self._stamps = stamps
        lines = top_note(top)
        lines += [subset_note(named, unlabelled)] if subsets else []
        lines += named_as_subsets(classes) if self._subsets and not subsets else []
        self.notes = [*lines, *rule.notes, *filter(None, [left_out, folders_note(skipped)])]

    def read(self, path: str) -> bytes:
        """The object's bytes."""
        return read_object(self._files, f"{self._top}/{path}")

    def stamp(self, path: str) -> Stamp | None:
        """Says whether the object is as it was, as the last listing told it."""
        return self._stamps.get(path)

    def _walk(self, skipped: list[str]) -> Iterator["_Object"]:
        """All objects below that are not hidden, level by level; names of skipped folders go out.

        Raises:
            BadInput: a folder cannot be listed.
        """
        level: list[Folders] = [()]
        with ThreadPoolExecutor(LISTERS, thread_name_prefix="list") as pool:
            while level:
                below = list[Folders]()
                for place, entries in zip(level, pool.map(self._entries, level), strict=True):
                    for name, is_folder, stamp in entries:
                        if is_folder and is_left_out(name):
                            skipped.append(name)
                        elif is_folder:
                            below.append((*place, name))
                        elif not name.startswith("."):
                            yield _Object((*place, name), stamp)
                level = below

    def _entries(self, place: Folders) -> list[tuple[str, bool, Stamp | None]]:
        """Name, whether it is a folder, and stamp of all that is right in a folder."""
        folder = "/".join((self._top, *place))
        try:
            # What is remembered of an earlier listing is not asked for anew otherwise.
            self._files.invalidate_cache()
            listed = self._files.ls(folder, detail=True)
        # Every filesystem raises errors of its own.
        except Exception as error:
            raise self._unreadable(error) from error
        entries = []
        for one in listed:
            whole = str(one["name"]).strip("/")
            # An object may be named as its folder is, or as nothing below it.
            if whole != folder.strip("/"):
                is_folder = one["type"] == "directory"
                stamp = None if is_folder else stamp_of_object(one)
                entries.append((whole.rsplit("/", 1)[-1], is_folder, stamp))
        return entries

    def _unreadable(self, error: Exception) -> BadInput:
        reason = "no such folder" if isinstance(error, FileNotFoundError) else one_line(error)
        return BadInput(f"images {self.spec} cannot be listed ({reason}); give another URL")


class _Object(NamedTuple):
    """One object: the folders that it lies in and its name, and its stamp."""

    parts: Folders
    stamp: Stamp | None
