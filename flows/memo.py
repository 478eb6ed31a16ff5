"""What a run remembers of its artefacts, so that an unchanged step is not run again.

An artefact is what a step writes in one place: the tables of an extraction, its pictures, the
report. It is written over by the next run, so the memo holds one entry an artefact: the digest of
what it was made from, and the hashes of its files. It counts only if both are those of now. Thus
no past answer is taken for a present one, whether another run, another command or a damaged disk
changed the files since. Files of the store count by their bytes, wherever the store lies.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from alike.extract.documents import read_json_file, seal, unseal
from alike.extract.errors import StoreBusy, StoreDamaged
from alike.extract.identity import bytes_hash, file_hash
from alike.flows.outputs import make_output

if TYPE_CHECKING:
    from alike.extract.store import Files

_VERSION = 2
_BEGUN = ""
"""What an artefact is made from as long as its step has not ended: no digest of anything."""
_POLL = 1.0
"""Seconds between two looks at a lock that is waited for."""
_STORE = "store/"
"""Begins the place of every file of the store, wherever that is."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a remote store, as a run asks a `Path` about it.

    Attributes:
        files: of the store.
        name: of the file there.
    """

    files: "Files"
    name: str

    def is_file(self) -> bool:
        """Whether it is there."""
        return self.files.size(self.name) is not None

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete it.

        Raises:
            FileNotFoundError: there is none.
        """
        if not missing_ok and not self.is_file():
            raise FileNotFoundError(self.name)
        self.files.remove(self.name)


RunFile = Path | RemoteFile
"""A file that a run writes: on this machine, or in a remote store."""


def hash_of(file: RunFile) -> str:
    """Hash of a file's bytes; empty if there is no such file."""
    if isinstance(file, Path):
        return file_hash(file)
    try:
        return bytes_hash(file.files.read(file.name))
    except FileNotFoundError:
        return ""


class Memo:
    """The artefacts of one output folder, kept in `steps.json`.

    Files in the folder are remembered by their place in it, so that it may be moved. Those of the
    store are remembered as if it lay in the folder: it may be moved as well, and what another store
    holds is not taken for what this one does.

    Attributes:
        notes: why a file that is there counts as empty; [] if it counts.
    """

    def __init__(self, folder: Path, store: "Files | Path | None" = None) -> None:
        """Open the memo of `folder`; an unreadable file, or one of an older kind, counts as empty.

        The older kind remembered what had been written over since.

        Args:
            folder: of the outputs.
            store: its folder, or its files if it is remote; None: `store` in the folder.
        """
        self._folder, self._file = folder, folder / "steps.json"
        self._store = folder / _STORE if store is None else store
        self.notes: list[str] = []
        self._entries = self._read() if self._file.exists() else {}

    def outputs(self, artefact: str, inputs: dict[str, Any]) -> dict[str, Any] | None:
        """What the step gave, if the artefact is there as it was made from exactly these inputs."""
        entry = self._entries.get(artefact)
        if entry is None or entry["made_from"] != digest(inputs):
            return None
        if any(hash_of(self._file_at(at)) != held for at, held in entry["files"].items()):
            return None
        outputs: dict[str, Any] = entry["outputs"]
        return outputs

    def differs(self, artefact: str, inputs: dict[str, Any]) -> list[str] | None:
        """Names of the inputs that are not those of the artefact; None if it says none.

        [] if all are: then its files are not what the step wrote.
        """
        entry = self._entries.get(artefact)
        parts = entry["parts"] if entry else {}
        if not parts:
            return None
        return [name for name, value in inputs.items() if parts.get(name) != digest(value)[:16]]

    def files(self, artefact: str) -> list[RunFile]:
        """The files that the artefact was written to last."""
        entry = self._entries.get(artefact)
        return [self._file_at(place) for place in entry["files"]] if entry else []

    def unchanged(self, artefact: str) -> list[RunFile]:
        """Those of them that hold what the step wrote: nothing else has written there since.

        All of them if the step was begun and never finished: what a killed step wrote is its own.
        """
        entry = self._entries.get(artefact)
        if entry is None:
            return []
        files = [(self._file_at(place), before) for place, before in entry["files"].items()]
        if entry["made_from"] == _BEGUN:
            return [file for file, _ in files if file.is_file()]
        return [file for file, before in files if before and hash_of(file) == before]

    def begin(self, artefact: str, files: Iterable[RunFile]) -> None:
        """Forget an artefact, but not these files, which it has or is about to write."""
        places = {self.place_of(path): "" for path in files}
        entry = {"made_from": _BEGUN, "parts": {}, "outputs": {}, "files": places}
        self._entries[artefact] = entry
        self._write()

    def forget(self, artefact: str) -> None:
        """Forget an artefact before it is written over: a killed step leaves no entry."""
        if self._entries.pop(artefact, None) is not None:
            self._write()

    def record(
        self,
        artefact: str,
        inputs: dict[str, Any],
        outputs: dict[str, Any],
        files: Iterable[RunFile] = (),
    ) -> None:
        """Remember a finished step and the files that it wrote."""
        self._entries[artefact] = {
            "made_from": digest(inputs),
            "parts": {name: digest(value)[:16] for name, value in inputs.items()},
            "outputs": outputs,
            "files": {self.place_of(file): hash_of(file) for file in files},
        }
        self._write()

    def _read(self) -> dict[str, dict[str, Any]]:
        """What the file holds; {} with a note if that cannot be used."""
        try:
            written = read_json_file(self._file, dict[str, Any], "it counts as empty")
            document = unseal(written, str(self._file), "it counts as empty")
            if document.get("version") == _VERSION:
                return self._here(_entries(document))
            fault = "is of another version"
        except (OSError, StoreDamaged, ValueError, TypeError, KeyError, AttributeError) as error:
            fault = f"cannot be read ({type(error).__name__})"
        self.notes.append(f"{self._file} {fault}: it counts as empty, so every step runs again")
        return {}

    def _here(self, entries: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """The entries of this store, and of the folder.

        Earlier versions remembered a local store outside of the folder by its path.
        """
        here = {}
        for artefact, entry in entries.items():
            files = {self.place_of(self._file_at(at)): held for at, held in entry["files"].items()}
            if not any(Path(place).is_absolute() for place in files):
                here[artefact] = {**entry, "files": files}
        return here

    def _write(self) -> None:
        aside = self._file.with_suffix(".part")
        document = seal({"version": _VERSION, "artefacts": self._entries})
        aside.write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")
        aside.replace(self._file)

    def place_of(self, file: RunFile | str) -> str:
        """A file as it is remembered: within the store or the folder; else as it is."""
        if isinstance(file, RemoteFile):
            return f"{_STORE}{file.name}"
        file, bases = Path(file), [(self._folder, "")]
        if isinstance(self._store, Path):
            bases.insert(0, (self._store, _STORE))
        # Each may lie in the other, or be the other.
        for base, begins in sorted(bases, key=lambda one: len(one[0].parts), reverse=True):
            if file.is_relative_to(base):
                return f"{begins}{file.relative_to(base).as_posix()}"
        return str(file)

    def there(self, place: str) -> Path:
        """Where a remembered path is now."""
        if isinstance(self._store, Path) and place.startswith(_STORE):
            return self._store / place.removeprefix(_STORE)
        return self._folder / place

    def _file_at(self, place: str) -> RunFile:
        if not isinstance(self._store, Path) and place.startswith(_STORE):
            return RemoteFile(self._store, place.removeprefix(_STORE))
        return self.there(place)


def _entries(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The artefacts of the document, their types as they must be."""
    return {
        str(name): {
            "made_from": str(entry["made_from"]),
            "parts": dict(entry.get("parts", {})),
            "outputs": dict(entry["outputs"]),
            "files": dict(entry["files"]),
        }
        for name, entry in document["artefacts"].items()
    }


def digest(value: object) -> str:
    """SHA-256 of a JSON-like value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def alone_in(
    folder: Path,
    what: str = "run",
    way_out: str = "another [output] folder",
    *,
    named: str = "output.folder",
    waiting: Callable[[str], object] | None = None,
) -> Iterator[None]:
    """Hold a folder: two runs would overwrite each other's memo, decisions and report.

    The system lets go of it when the process ends, however it ends.

    Args:
        folder: made if it is not there.
        what: that may work there once at a time; names the lock's file.
        way_out: what to name instead, for the message.
        named: the setting or option that names the folder.
        waiting: called with a line before another one's end is waited for; None: refuse.

    Raises:
        BadInput: the folder cannot be written.
        StoreBusy: another process has it, and it is not waited for.
    """
    make_output(folder, named)
    lock = FileLock(folder / f"{what}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if waiting is None:
            raise StoreBusy(
                f"another {what} works in {folder}: wait for its end, or name {way_out}"
            ) from None
        waiting(f"another {what} works in {folder}: waiting for its end")
        lock.acquire(poll_interval=_POLL)
    try:
        yield
    finally:
        lock.release()
