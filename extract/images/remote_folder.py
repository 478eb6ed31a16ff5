"""Image sets in class folders on an object store, listed without reading."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

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
    is_output,
    named_as_subsets,
    outputs_note,
    placed,
    shared_top,
    subset_note,
    top_note,
)

if TYPE_CHECKING:
    from alike.extract.images.spool import Found, Spool

LISTERS = 8
"""Folders that are listed at the same time."""


class RemoteFolderSource:
    """A folder of class folders at a URL of fsspec, such as ``s3://bucket/photos/``.

    Classes, subsets and what is left out are those of a local folder (`FolderSource`). A listing
    takes one request a folder and thousand objects, and reads none: size and ETag tell whether an
    image changed. Where a storage gives no ETag, every image is read to list it again. What was
    found waits on the disk: memory is that of the objects of `LISTERS` folders.

    Args:
        spec: URL of the folder.
        subsets: False takes the first folder for the class, whatever its name.
    """

    def __init__(self, spec: str, subsets: bool = True) -> None:
        self.spec = spec.rstrip("/")
        self.options: dict[str, Any] = {} if subsets else {"subsets": False}
        self._subsets = subsets
        self._spool: Spool | None = None
        self._outputs = list[str]()
        self.notes: list[str] = []
        try:
            self._files, top = filesystem_of(self.spec)
        except Exception as error:
            raise self._unreadable(error) from error
        self._top = top.rstrip("/")

    def __iter__(self) -> Iterator[Listed]:
        """In order of names, folder by folder."""
        # It loads pyarrow, which other kinds of sets do without.
        from alike.extract.images.spool import Spool

        rule, skipped, rest = LabelRule(self.spec), list[str](), list[str]()
        places = set[Folders]()
        self._outputs.clear()
        # What the folders are is known when all were listed.
        spool = Spool(self._images(skipped, rest, places))
        n_top = shared_top(list(places))
        top = next(iter(places))[:n_top] if places else ()
        subsets = self._subsets and has_subsets({place[n_top:] for place in places})
        named, classes, unlabelled = set[str](), set[str](), 0
        for path, _ in spool:
            folder, subset = placed(tuple(path.split("/")[n_top:-1]), subsets)
            label = None if folder is None else rule.folder(folder)
            unlabelled += subset is not None and label is None
            named |= {subset} if subset else set()
            classes |= {label} if label else set()
            yield Listed(path, label, subset)
        self._spool = spool
        lines = top_note(top)
        lines += [subset_note(named, unlabelled)] if subsets else []
        lines += named_as_subsets(classes) if self._subsets and not subsets else []
        left_out = left_out_note(rest)
        self.notes = [*lines, *rule.notes, *filter(None, [left_out, folders_note(skipped)])]
        self.notes += outputs_note(self._outputs)

    def read(self, path: str) -> bytes:
        """The object's bytes."""
        return read_object(self._files, f"{self._top}/{path}")

    def stamp(self, path: str) -> Stamp | None:
        """Says whether the object is as it was, as the last listing told it."""
        return None if self._spool is None else self._spool.stamp(path)

    def _images(
        self, skipped: list[str], rest: list[str], places: set[Folders]
    ) -> "Iterator[Found]":
        """Every image and its stamp, in order.

        Args:
            skipped: takes the names of folders that are left out.
            rest: takes the paths of objects that are no images.
            places: takes the folders that images lie in.
        """
        with ThreadPoolExecutor(LISTERS, thread_name_prefix="list") as pool:
            for path, stamp in self._walk(pool, (), self._entries(()), skipped):
                if suffix_of(path.rsplit("/", 1)[-1]) in SUFFIXES:
                    places.add(tuple(path.split("/")[:-1]))
                    yield path, stamp
                else:
                    rest.append(path)

    def _walk(
        self,
        pool: ThreadPoolExecutor,
        place: Folders,
        entries: list["_Entry"],
        skipped: list[str],
    ) -> "Iterator[Found]":
        """All objects below a folder that are not hidden, in the order of their parts.

        Args:
            pool: lists the next folders meanwhile.
            place: of the folder.
            entries: of the folder.
            skipped: takes the names of folders that are left out.

        Raises:
            BadInput: a folder cannot be listed.
        """
        skipped += [one.name for one in entries if one.is_folder and is_left_out(one.name)]
        right = [one for one in entries if not _is_hidden(one)]
        # An object comes before a folder of its name, as their paths do.
        right.sort(key=attrgetter("name", "is_folder"))
        folders = iter([(*place, one.name) for one in right if one.is_folder])
        asked = deque(pool.submit(self._entries, one) for one in islice(folders, LISTERS))
        for one in right:
            path = (*place, one.name)
            if one.is_folder:
                below = asked.popleft().result()
                asked.extend(pool.submit(self._entries, other) for other in islice(folders, 1))
                yield from self._walk(pool, path, below, skipped)
            else:
                yield "/".join(path), one.stamp

    def _entries(self, place: Folders) -> list["_Entry"]:
        """What is right in a folder."""
        folder = "/".join((self._top, *place))
        try:
            # What is remembered of an earlier listing is not asked for anew otherwise.
            self._files.invalidate_cache()
            listed = self._files.ls(folder, detail=True)
        # Every filesystem raises errors of its own.
        except Exception as error:
            raise self._unreadable(error) from error
        entries = list[_Entry]()
        for one in listed:
            whole = str(one["name"]).strip("/")
            # An object may be named as its folder is, or as nothing below it.
            if whole != folder.strip("/"):
                is_folder = one["type"] == "directory"
                stamp = None if is_folder else stamp_of_object(one)
                entries.append(_Entry(whole.rsplit("/", 1)[-1], is_folder, stamp))
        if place and is_output([one.name for one in entries]):
            self._outputs.append(place[-1])
            return []
        return entries

    def _unreadable(self, error: Exception) -> BadInput:
        reason = "no such folder" if isinstance(error, FileNotFoundError) else one_line(error)
        return BadInput(f"images {self.spec} cannot be listed ({reason}); give another URL")


def _is_hidden(one: "_Entry") -> bool:
    return is_left_out(one.name) if one.is_folder else one.name.startswith(".")


class _Entry(NamedTuple):
    """A folder or an object: its name, which it is, and its stamp."""

    name: str
    is_folder: bool
    stamp: Stamp | None
