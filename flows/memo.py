"""What a run remembers of its artefacts, so that an unchanged step is not run again.

An artefact is what a step writes in one place: the tables of an extraction, its pictures, the
report. It is written over by the next run, so the memo holds one entry an artefact: the digest of
what it was made from, and the hashes of its files. It counts only if both are those of now. Thus
no past answer is taken for a present one, whether another run, another command or a damaged disk
changed the files since.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from alike.extract.documents import read_json_file, seal, unseal
from alike.extract.errors import StoreBusy, StoreDamaged
from alike.extract.identity import file_hash

_VERSION = 2
_BEGUN = ""
"""What an artefact is made from as long as its step has not ended: no digest of anything."""


class Memo:
    """The artefacts of one output folder, kept in `steps.json`.

    Files in the folder are remembered by their place in it, so that it may be moved.

    Attributes:
        notes: why a file that is there counts as empty; [] if it counts.
    """

    def __init__(self, folder: Path) -> None:
        """Open the memo of `folder`; an unreadable file, or one of an older kind, counts as empty.

        The older kind remembered what had been written over since.
        """
        self._folder, self._file = folder, folder / "steps.json"
        self.notes: list[str] = []
        self._entries = self._read() if self._file.exists() else {}

    def outputs(self, artefact: str, inputs: dict[str, Any]) -> dict[str, Any] | None:
        """What the step gave, if the artefact is there as it was made from exactly these inputs."""
        entry = self._entries.get(artefact)
        if entry is None or entry["made_from"] != digest(inputs):
            return None
        if any(file_hash(self.there(path)) != held for path, held in entry["files"].items()):
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

    def files(self, artefact: str) -> list[Path]:
        """The files that the artefact was written to last."""
        entry = self._entries.get(artefact)
        return [self.there(path) for path in entry["files"]] if entry else []

    def unchanged(self, artefact: str) -> list[Path]:
        """Those of them that hold what the step wrote: nothing else has written there since.

        All of them if the step was begun and never finished: what a killed step wrote is its own.
        """
        entry = self._entries.get(artefact)
        if entry is None:
            return []
        places = [(self.there(path), before) for path, before in entry["files"].items()]
        if entry["made_from"] == _BEGUN:
            return [path for path, _ in places if path.is_file()]
        return [path for path, before in places if before and file_hash(path) == before]

    def begin(self, artefact: str, files: Iterable[Path]) -> None:
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
        files: Iterable[Path] = (),
    ) -> None:
        """Remember a finished step and the files that it wrote."""
        self._entries[artefact] = {
            "made_from": digest(inputs),
            "parts": {name: digest(value)[:16] for name, value in inputs.items()},
            "outputs": outputs,
            "files": {self.place_of(path): file_hash(path) for path in files},
        }
        self._write()

    def _read(self) -> dict[str, dict[str, Any]]:
        """What the file holds; {} with a note if that cannot be used."""
        try:
            written = read_json_file(self._file, dict[str, Any], "it counts as empty")
            document = unseal(written, str(self._file), "it counts as empty")
            if document.get("version") == _VERSION:
                return _entries(document)
            fault = "is of another version"
        except (OSError, StoreDamaged, ValueError, TypeError, KeyError, AttributeError) as error:
            fault = f"cannot be read ({type(error).__name__})"
        self.notes.append(f"{self._file} {fault}: it counts as empty, so every step runs again")
        return {}

    def _write(self) -> None:
        aside = self._file.with_suffix(".part")
        document = seal({"version": _VERSION, "artefacts": self._entries})
        aside.write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")
        aside.replace(self._file)

    def place_of(self, path: Path | str) -> str:
        """A path as it is remembered: within the folder, or as it is if it lies elsewhere."""
        inside = Path(path).is_relative_to(self._folder)
        return Path(path).relative_to(self._folder).as_posix() if inside else str(path)

    def there(self, place: str) -> Path:
        """Where a remembered path is now."""
        return self._folder / place


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
    folder: Path, what: str = "run", way_out: str = "another [output] folder"
) -> Iterator[None]:
    """Hold a folder: two runs would overwrite each other's memo, decisions and report.

    The system lets go of it when the process ends, however it ends.

    Args:
        folder: made if it is not there.
        what: that may work there once at a time; names the lock's file.
        way_out: what to name instead, for the message.

    Raises:
        StoreBusy: another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{what}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise StoreBusy(
            f"another {what} works in {folder}: wait for its end, or name {way_out}"
        ) from None
    try:
        yield
    finally:
        lock.release()
