"""The few file operations on which the store stands, for a local folder and for object stores.

A file is either wholly there or not at all: local ones are written aside, flushed to the disk and
renamed; an object store's PUT is atomic by itself.
"""

import errno
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from alike.extract.errors import AlikeError, BadInput, StoreDamaged, StoreFull

PARTIAL = ".partial"
"""End of the names of files still being written; zarr-python uses the same."""

SCRATCH = "cache"
"""Folder of files that a process needs for a while."""
LARGE = 32 << 20
"""Bytes beyond which a file of an object store is copied by way of the disk."""

ADVICE = "run `alike store verify`, then `alike extract` computes those rows again"
"""What to do about damaged rows."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


class Stamp(NamedTuple):
    """Changes whenever a file is replaced."""

    size: int
    version: tuple[object, ...]


class Files(Protocol):
    """A tree of files, addressed by relative names with `/`."""

    url: str
    root: Path | None

    def snapshot(self) -> AbstractContextManager[None]:
        """Within it, sizes, listings and small files of a remote storage are asked for once.

        A write forgets all of them. Files that say who works now are always asked for.

        What other processes write meanwhile is seen after it.
        """

    def read(self, name: str) -> bytes:
        """Read a whole file; `FileNotFoundError` if there is none."""

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read the byte ranges [start, stop) of one file; a negative start counts from the end."""

    def size(self, name: str) -> int | None:
        """Give the bytes of a file, None if there is none."""

    def write(self, name: str, data: bytes) -> None:
        """Replace a file as one atomic, durable step; `StoreFull` when the disk is."""

    def create(self, name: str, data: bytes, *, durable: bool = True) -> bool:
        """Write a file only if there is none; whether it was written."""

    def scratch(self) -> AbstractContextManager[Path]:
        """Give a local folder for files of this process whose names end in `PARTIAL`."""

    def put(self, name: str, source: Path, *, new: bool = False) -> bool:
        """Replace a file by one of `scratch`, as `write` does, or as `create` if it is to be new.

        Returns:
            Whether it was written.
        """

    def local(self, name: str, scratch: Path, size: int | None = None) -> Path | bytes:
        """Give a file as a local one, or what it holds if it is small.

        Args:
            name: of the file; `FileNotFoundError` if there is none.
            scratch: a folder of `scratch`, for a copy.
            size: bytes of the file, if they are known.
        """

    def touch(self, name: str) -> None:
        """Make a file new without changing it; `FileNotFoundError` if there is none."""

    def age(self, name: str) -> float | None:
        """Give seconds since a file was written or touched, by the storage's own clock."""

    def sync(self, name: str) -> None:
        """Make a file that something else wrote durable."""

    def remove(self, name: str) -> None:
        """Delete a file; nothing happens if there is none."""

    def listing(self, folder: str) -> dict[str, Stamp]:
        """Give the files right in a folder, empty if there is no folder."""

    def folders(self, folder: str) -> list[str]:
        """Give the names of the folders right in a folder, sorted; empty if there is no folder."""

    def walk(self, folder: str) -> list[str]:
        """Give the names of all files under a folder, relative to it, sorted."""


@contextmanager
def disk_errors(where: str) -> Iterator[None]:
    """Raise errors of the disk inside as `explain` puts them; others as they are."""
    try:
        yield
    except OSError as error:
        raise explain(error, where) or error from error


def explain(error: OSError, where: str) -> AlikeError | None:
    """Turn "no space" and "not allowed" into errors that say what to do; others into None."""
    if error.errno in _FULL:
        return StoreFull(
            f"{where} has no room for more ({error.strerror}); free some space or raise the quota, "
            "then run the same command again: what was committed is kept"
        )
    if error.errno in _FORBIDDEN:
        return BadInput(
            f"{where} cannot be written ({error.strerror}); ask for the permission, or name "
            "another place"
        )
    if isinstance(error, NotADirectoryError):
        return BadInput(f"{where} is no folder; name one, or a place for a new one")
    if error.errno == errno.ELOOP:
        return BadInput(f"{where} is a link that leads back to itself; name the folder itself")
    return None


class LocalFiles:
    """Files of a local folder."""

    def __init__(self, root: Path) -> None:
        self.root: Path | None = root
        self.url = str(root)
        self._root = root

    def snapshot(self) -> AbstractContextManager[None]:
        """Do nothing: a folder is listed in no time."""
        return nullcontext()

    def path(self, name: str) -> Path:
        """Give the full path of a file of the store."""
        return self._root / name

    def read(self, name: str) -> bytes:
        """Read a whole file."""
        try:
            return self.path(name).read_bytes()
        except OSError as error:
            # A file that is gone is an answer; one that is a link to nothing is not.
            nowhere = isinstance(error, FileNotFoundError) and self.path(name).is_symlink()
            if error.errno != errno.ELOOP and not nowhere:
                raise
            if self._root.exists():
                fault = f"it is a link that leads {'nowhere' if nowhere else 'back to itself'}"
                msg = f"{name} is damaged ({fault}); delete it, and bring the file back"
                raise StoreDamaged(msg, file=name, fault=fault) from error
            raise explain(error, self.url) or error from error

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read byte ranges."""
        with self.path(name).open("rb", buffering=0) as file:
            end = os.fstat(file.fileno()).st_size
            parts = []
            for start, stop in ranges:
                low = start + end if start < 0 else start
                high = stop + end if start < 0 and stop <= 0 else stop
                parts.append(os.pread(file.fileno(), high - low, low) if low >= 0 else b"")
        return parts

    def size(self, name: str) -> int | None:
        """Give the bytes of a file."""
        try:
            return self.path(name).stat().st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            # A link that leads back to itself is no file.
            return None

    def write(self, name: str, data: bytes) -> None:
        """Write aside, flush, rename, flush the folder."""
        target = self.path(name)
        aside = self._aside(target, data)
        aside.replace(target)
        _sync_folder(target.parent)

    def create(self, name: str, data: bytes, *, durable: bool = True) -> bool:
        """Write aside, then link: a link is refused if the name exists."""
        target = self.path(name)
        aside = self._aside(target, data, durable)
        try:
            os.link(aside, target)
        except FileExistsError:
            return False
        finally:
            aside.unlink()
        if durable:
            _sync_folder(target.parent)
        return True

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give a folder of the store: a temporary folder of the system may lie in memory."""
        home = self.path(SCRATCH)
        with disk_errors(self.url):
            while True:
                _make_folder(home)
                # Whoever was the last in it deletes it.
                with suppress(FileNotFoundError):
                    folder = Path(tempfile.mkdtemp(prefix="scratch-", dir=home))
                    break
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):
                home.rmdir()

    def put(self, name: str, source: Path, *, new: bool = False) -> bool:
        """Flush a file, rename it, flush the folder."""
        target = self.path(name)
        with disk_errors(self.url):
            _make_folder(target.parent)
            with source.open("rb") as file:
                os.fsync(file.fileno())
            if new:
                try:
                    os.link(source, target)
                except FileExistsError:
                    return False
                finally:
                    source.unlink()
            else:
                source.replace(target)
            _sync_folder(target.parent)
        return True

    def local(self, name: str, scratch: Path, size: int | None = None) -> Path | bytes:
        """Give the file itself."""
        path = self.path(name)
        if not path.is_file():
            # It says what is wrong.
            self.read(name)
        return path

    def touch(self, name: str) -> None:
        """Set a file's time to now."""
        os.utime(self.path(name))

    def age(self, name: str) -> float | None:
        """Compare a file's time with one written now: another host's clock may differ."""
        path = self.path(name)
        probe = self._aside(path.with_name("now"), b"", durable=False)
        try:
            return probe.stat().st_mtime - path.stat().st_mtime
        except FileNotFoundError:
            return None
        finally:
            probe.unlink()

    def sync(self, name: str) -> None:
        """Flush a file and its folder."""
        path = self.path(name)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        _sync_folder(path.parent)

    def remove(self, name: str) -> None:
        """Delete a file."""
        self.path(name).unlink(missing_ok=True)

    def listing(self, folder: str) -> dict[str, Stamp]:
        """Give the files of a folder."""
        stamps: dict[str, Stamp] = {}
        try:
            with os.scandir(self.path(folder)) as entries:
                for entry in entries:
                    # A file may be gone since it was listed.
                    with suppress(FileNotFoundError):
                        at = _stat_of(entry)
                        if at is not None:
                            stamps[entry.name] = Stamp(at.st_size, (at.st_mtime_ns, at.st_ino))
        except FileNotFoundError:
            return {}
        return stamps

    def folders(self, folder: str) -> list[str]:
        """Give the folders in a folder; links are not followed, for they may lead back here."""
        try:
            with os.scandir(self.path(folder)) as entries:
                return sorted(one.name for one in entries if one.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            return []

    def walk(self, folder: str) -> list[str]:
        """Give all files under a folder; links to folders are not followed."""
        top = self.path(folder)
        names: list[str] = []
        for at, _, files in os.walk(top):
            inside = Path(at).relative_to(top)
            # A link that leads nowhere is named too, for what reads it says so.
            paths = {name: Path(at) / name for name in files}
            names += [
                (inside / name).as_posix()
                for name, path in paths.items()
                if path.is_file() or path.is_symlink()
            ]
        return sorted(names)

    def _aside(self, target: Path, data: bytes, durable: bool = True) -> Path:
        aside = target.with_name(f"{target.name}.{uuid.uuid4().hex}{PARTIAL}")
        try:
            _make_folder(target.parent)
            with aside.open("xb") as file:
                file.write(data)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
        except OSError as error:
            # A file system that became read-only refuses that too.
            with suppress(OSError):
                aside.unlink()
            raise explain(error, self.url) or error from error
        return aside


def _stat_of(entry: "os.DirEntry[str]") -> os.stat_result | None:
    """Status of a file, or of a link that leads to none: who reads it says so; None of a folder."""
    try:
        if entry.is_dir():
            return None
        return entry.stat()
    except OSError:
        return entry.stat(follow_symlinks=False) if entry.is_symlink() else None


def _make_folder(folder: Path) -> None:
    """Make a folder that a power cut does not take back."""
    if not folder.is_dir():
        if folder.parent != folder:
            _make_folder(folder.parent)
        try:
            folder.mkdir(exist_ok=True)
        except (FileNotFoundError, FileExistsError) as error:
            # Folders of the system hold none of ours, and a link to nothing is no folder.
            raise BadInput(
                f"{folder} cannot be made ({error.strerror}): name another place"
            ) from error
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
