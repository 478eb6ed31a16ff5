"""What a run remembers of its steps, so that an unchanged step is not run again; one at a time."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from alike.extract.documents import read_json_file
from alike.extract.errors import StoreBusy, StoreDamaged


@dataclass(frozen=True)
class _Step:
    """What `steps.json` must hold of each step."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]
    files: list[str]


class Memo:
    """Inputs and outputs of the steps of one output folder, kept in `steps.json`.

    Files in the folder are remembered by their place in it, so that it may be moved.
    """

    def __init__(self, folder: Path) -> None:
        """Open the memo of `folder`; an unreadable file counts as empty."""
        self._folder, self._file = folder, folder / "steps.json"
        self._steps: dict[str, dict[str, Any]] = {}
        if self._file.is_file():
            try:
                read_json_file(self._file, dict[str, _Step], "it counts as empty")
                self._steps = read_json_file(self._file, dict[str, Any], "it counts as empty")
            except StoreDamaged:
                self._steps = {}

    def outputs(self, step: str, inputs: dict[str, Any]) -> dict[str, Any] | None:
        """What the step gave for exactly these inputs; None where it must run."""
        known = self._steps.get(f"{step}-{digest(inputs)[:16]}")
        if known is None or not all(self.there(path).exists() for path in known["files"]):
            return None
        outputs: dict[str, Any] = known["outputs"]
        return outputs

    def record(
        self,
        step: str,
        inputs: dict[str, Any],
        outputs: dict[str, Any],
        files: tuple[Path, ...] = (),
    ) -> None:
        """Remember a finished step; `files` must exist for it to count later."""
        kept = [self.kept(path) for path in files]
        entry = {"inputs": inputs, "outputs": outputs, "files": kept}
        self._steps[f"{step}-{digest(inputs)[:16]}"] = entry
        aside = self._file.with_suffix(".part")
        aside.write_text(json.dumps(self._steps, indent=1, ensure_ascii=False), encoding="utf-8")
        aside.replace(self._file)

    def kept(self, path: Path | str) -> str:
        """A path as it is remembered: within the folder, or as it is where it lies elsewhere."""
        inside = Path(path).is_relative_to(self._folder)
        return Path(path).relative_to(self._folder).as_posix() if inside else str(path)

    def there(self, kept: str) -> Path:
        """Where a remembered path is now."""
        return self._folder / kept


def digest(value: object) -> str:
    """SHA-256 of a JSON-like value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a run's folder: two runs would overwrite each other's memo, decisions and report.

    The system lets go of it when the process ends, however it ends.

    Raises:
        StoreBusy: another run has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "run.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise StoreBusy(
            f"another run works in {folder}: wait for its end, or name another [output] folder"
        ) from None
    try:
        yield
    finally:
        lock.release()
