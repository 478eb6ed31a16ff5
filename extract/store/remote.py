"""The store's files on an S3-like service, through any filesystem of fsspec.

A PUT is atomic and durable by itself, and `If-None-Match` makes a lock exclusive. What a folder of
a local disk has beyond that is missing: a lock of a dead holder is taken over without the guard of
the operating system, so a holder checks its lock again before it commits.
"""

import re
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from alike.extract.errors import BadInput
from alike.extract.store.files import LARGE, PARTIAL, Stamp

T = TypeVar("T")

SMALL = 1 << 20
"""Bytes of the largest object that a snapshot remembers: descriptions, settings, records."""
_TAKEN = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}
"""Answers to If-None-Match where there is an object, or another one just makes it.

s3fs knows the first one only of services that name the condition, as AWS and moto do.
"""
_WHO_WORKS = re.compile(r"(^|/)(locks|claims)/")
"""Objects that say who works now are never remembered."""


class RemoteFiles:
    """Files of an object store, through the synchronous side of an fsspec filesystem."""

    def __init__(self, filesystem: Any, base: str, url: str) -> None:
        self.root: Path | None = None
        self.url = url
        self._files = filesystem
        self._base = base.rstrip("/")
        # s3fs asks for an object's size first, to read a large one in parts: twice the requests.
        self._whole = {"max_concurrency": 1} if hasattr(filesystem, "max_concurrency") else {}
        self._answers: dict[tuple[str, str], Any] | None = None
        self._inside = 0

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """See `Files.snapshot`."""
        self._inside += 1
        self._answers = {} if self._answers is None else self._answers
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._answers = None

    def _once(self, kind: str, name: str, ask: Callable[[], T]) -> T:
        """Ask, or within a snapshot give what was answered in it before."""
        answers = self._answers
        if answers is None:
            return ask()
        if (kind, name) not in answers:
            answers[kind, name] = ask()
        answer: T = answers[kind, name]
        return answer

    def path(self, name: str) -> str:
        """Give the full name of an object."""
        return f"{self._base}/{name}" if name else self._base

    def read(self, name: str) -> bytes:
        """Read a whole object."""
        answers = self._answers
        if answers is None or _WHO_WORKS.search(name):
            return self._read(name)
        if ("read", name) in answers:
            return bytes(answers["read", name])
        data = self._read(name)
        if len(data) <= SMALL:
            answers["read", name] = data
        return data

    def _read(self, name: str) -> bytes:
        return bytes(self._files.cat_file(self.path(name), **self._whole))

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read byte ranges at the same time."""
        starts = [start for start, _ in ranges]
        stops = [None if start < 0 and stop == 0 else stop for start, stop in ranges]
        paths = [self.path(name)] * len(ranges)
        parts = self._files.cat_ranges(paths, starts, stops, on_error="raise")
        return [bytes(one) for one in parts]

    def size(self, name: str) -> int | None:
        """Give the bytes of an object."""
        return self._once("size", name, lambda: self._size(name))

    def _size(self, name: str) -> int | None:
        self._files.invalidate_cache(self._base)
        try:
            return int(self._files.info(self.path(name), refresh=True)["size"])
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Replace an object; `BadInput` if there is no bucket, or it may not be written."""
        with self._writing():
            self._files.pipe_file(self.path(name), data)

    def create(self, name: str, data: bytes, *, durable: bool = True) -> bool:
        """Write an object only if there is none (If-None-Match)."""
        try:
            with self._writing():
                self._files.pipe_file(self.path(name), data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            if _refusal_of(error) in _TAKEN:
                return False
            raise
        return True

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give a temporary folder of the system."""
        with tempfile.TemporaryDirectory(prefix="alike-") as folder:
            yield Path(folder)

    def put(self, name: str, source: Path, *, new: bool = False) -> bool:
        """Put a file; a large one is new if there was none before."""
        if source.stat().st_size <= LARGE:
            data = source.read_bytes()
            source.unlink()
            if new:
                return self.create(name, data)
            self.write(name, data)
            return True
        if new and self._size(name) is not None:
            return False
        self.upload(source, name)
        source.unlink()
        return True

    def local(self, name: str, scratch: Path, size: int | None = None) -> Path | bytes:
        """Read a small object; copy a large one."""
        size = self.size(name) if size is None else size
        if size is None or size <= LARGE:
            return self.read(name)
        target = scratch / f"{uuid.uuid4().hex}{PARTIAL}"
        self.download(name, target)
        return target

    def touch(self, name: str) -> None:
        """Write an object again."""
        self.write(name, self.read(name))

    def age(self, name: str) -> float | None:
        """Compare an object's time with that of one written now."""
        probe = f"{name}.{uuid.uuid4().hex}{PARTIAL}"
        self.write(probe, b"")
        try:
            old, new = (self._files.info(self.path(one), refresh=True) for one in (name, probe))
            return float((new["LastModified"] - old["LastModified"]).total_seconds())
        except FileNotFoundError:
            return None
        finally:
            self.remove(probe)

    def upload(self, source: Path, name: str) -> None:
        """Put a local file, in parts if it is large; the object appears when the last has come."""
        with self._writing():
            self._files.put_file(str(source), self.path(name))

    def download(self, name: str, target: Path) -> None:
        """Copy an object to a local file, in parts."""
        self._files.get_file(self.path(name), str(target))

    def sync(self, name: str) -> None:
        """Forget what was answered, for something else wrote it; a PUT is durable by itself."""
        self._forget_answers()

    def remove(self, name: str) -> None:
        """Delete an object."""
        self._forget_answers()
        with suppress(FileNotFoundError):
            self._files.rm_file(self.path(name))
        self._forget_answers()

    def listing(self, folder: str) -> dict[str, Stamp]:
        """Give the objects right under a prefix."""
        return self._once("listing", folder, lambda: self._listing(folder)).copy()

    def _listing(self, folder: str) -> dict[str, Stamp]:
        self._files.invalidate_cache()
        try:
            objects = self._files.ls(self.path(folder), detail=True)
        except FileNotFoundError:
            return {}
        return {
            one["name"].rsplit("/", 1)[1]: _stamp(one)
            for one in objects
            if one["type"] == "file" and one["name"].rstrip("/") != self.path(folder)
        }

    def folders(self, folder: str) -> list[str]:
        """Give the prefixes right under a prefix."""
        return self._once("folders", folder, lambda: self._folders(folder)).copy()

    def _folders(self, folder: str) -> list[str]:
        self._files.invalidate_cache()
        try:
            objects = self._files.ls(self.path(folder), detail=True)
        except FileNotFoundError:
            return []
        folders = [one["name"] for one in objects if one["type"] == "directory"]
        return sorted(str(one).rstrip("/").rsplit("/", 1)[1] for one in folders)

    def stamps(self, folder: str) -> dict[str, Stamp]:
        """Give all objects under a prefix by name, one request for every thousand."""
        self._files.invalidate_cache()
        top = self.path(folder)
        found = self._files.find(top, detail=True)
        return {str(name)[len(self._base) + 1 :]: _stamp(one) for name, one in found.items()}

    def walk(self, folder: str) -> list[str]:
        """Give all objects under a prefix."""
        return self._once("walk", folder, lambda: self._walk(folder)).copy()

    def _walk(self, folder: str) -> list[str]:
        self._files.invalidate_cache()
        top = self.path(folder)
        return sorted(str(one)[len(top) + 1 :] for one in self._files.find(top))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._forget_answers()
        try:
            yield
        except (FileNotFoundError, PermissionError) as error:
            raise BadInput(
                f"{self.url} cannot be written ({error}); make the bucket, ask for the permission, "
                "or name another place"
            ) from error
        finally:
            self._forget_answers()

    def _forget_answers(self) -> None:
        """After something was written, all is asked again."""
        if self._answers is not None:
            self._answers = {}


def _refusal_of(error: OSError) -> str:
    """The code with which an S3 service refused; empty for other services and faults."""
    answer: Any = getattr(error.__cause__, "response", None)
    return str(answer["Error"].get("Code", "")) if isinstance(answer, dict) else ""


def _stamp(entry: Mapping[str, Any]) -> Stamp:
    """Size, ETag and time of an object, as its filesystem lists them."""
    tag = entry.get("ETag") or entry.get("etag")
    return Stamp(int(entry["size"]), (tag, str(entry.get("LastModified") or entry.get("updated"))))
