"""What a long run has finished, kept in the store until the run ends, so that it can resume.

What sums are at so far, or the answers of blocks that stay apart, are written as plain arrays every
ten seconds of work, less often where writing takes more than a fiftieth of the time: a short run
writes nothing, a long one loses ten seconds when it dies. Of sums only the last is kept, so the
room on the disk does not grow with the number of blocks. A measure that took longer leaves its
tables in their place. All lie under a digest of everything that they depend on, so another question
never meets them.
"""

import io
import json
import re
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from alike.analysis.blocks.statistic import MapBlocks
from alike.extract.documents import TEXT, read_json, read_npz
from alike.extract.errors import StoreDamaged
from alike.extract.store import PARTIAL, Files, disk_errors

if TYPE_CHECKING:
    from alike.extract.store import StoreBase

EVERY = 10.0
WRITING = 50.0
"""Of the time between two writes, at most one part of so many is writing."""
MOST = 64 << 20
"""Bytes of answers that wait for their ten seconds in a run that is longer already."""
LARGE = 1 << 20
"""Bytes of an array from which on it is written as narrow as its numbers allow."""
DONE = "tables"
PART = re.compile(r"(\d{9})-(\d{9})\.npz")
"""Name of a file of answers: the first block, and the one after the last."""
STATE = re.compile(r"to-(\d{9})\.npz")
"""Name of a file of sums: the block after the last that is in them."""


def remembering(
    map_blocks: MapBlocks,
    files: Files,
    folder: str,
    kinds: Sequence[type] = (),
    every: float | None = None,
) -> "Remembering":
    """The same `map`, which first gives the answers that an earlier run left in `folder`.

    Answers that cannot be read, such as those of another version, are computed again.

    Args:
        map_blocks: does what is not there yet.
        files: of the store.
        folder: of this stage alone.
        kinds: the dataclasses that blocks answer with, and of which sums consist; a file names them
            by their `__name__`.
        every: seconds of work between two writes; None: ten.
    """
    return Remembering(map_blocks, files, folder, kinds, EVERY if every is None else every)


@dataclass(frozen=True)
class Remembering:
    """Maps, or folds, from where an earlier run ended; see `remembering`."""

    map_blocks: MapBlocks
    files: Files
    folder: str
    kinds: Sequence[type]
    every: float

    def __call__(self, function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        """Yield the answers, those that were kept first."""
        todo = list(items)
        end = 0
        for name, size in self._parts():
            answers = unpack(self.files.read(name), self.kinds)
            if len(answers) != size:
                # It would hide the file that is written in its place, which may end elsewhere.
                self.files.remove(name)
                break
            yield from answers
            end += size
        fresh: list[Any] = []
        held = 0
        begun = last = time.monotonic()
        for answer in self.map_blocks(function, todo[end:]):
            fresh.append(answer)
            held += bytes_of(answer)
            now = time.monotonic()
            if now - last >= self.every or (held >= MOST and now - begun >= self.every):
                self._write(f"{end:09d}-{end + len(fresh):09d}.npz", fresh)
                end += len(fresh)
                fresh, held, last = [], 0, time.monotonic()
            yield answer

    def fold(
        self,
        function: Callable[[Any], Any],
        items: Sequence[Any],
        start: Callable[[], Any],
        combine: Callable[[Any, Any], Any],
        /,
    ) -> Any:
        """Join the answers to what an earlier run had joined, which is one file."""
        state, end, kept = start(), 0, self._states()
        while kept:
            end, name = kept[-1]
            found = unpack(self.files.read(name), self.kinds)
            if len(found) == 1 and end <= len(items):
                state = found[0]
                break
            self.files.remove(name)
            kept.pop()
            end = 0
        last, every = time.monotonic(), self.every
        for answer in self.map_blocks(function, items[end:]):
            state = combine(state, answer)
            end += 1
            began = time.monotonic()
            if began - last >= every:
                self._write(f"to-{end:09d}.npz", [state])
                for _, name in kept:
                    self.files.remove(name)
                kept = [(end, f"{self.folder}/to-{end:09d}.npz")]
                last = time.monotonic()
                every = max(self.every, WRITING * (last - began))
        return state

    def _write(self, name: str, answers: list[Any]) -> None:
        with self.files.scratch() as folder, disk_errors(str(folder)):
            path = folder / f"{name}{PARTIAL}"
            with path.open("wb") as file:
                pack_into(file, answers)
            self.files.put(f"{self.folder}/{name}", path)

    def _own(self) -> list[tuple[str, str]]:
        """Name in the folder of this stage, and in the store, of each of its files."""
        # The whole run's folder: of a remote store, all stages are listed by one request.
        home, _, stage = self.folder.rpartition("/")
        names = (name for name in sorted(self.files.walk(home)) if name.startswith(f"{stage}/"))
        return [(name.removeprefix(f"{stage}/"), f"{home}/{name}") for name in names]

    def _parts(self) -> list[tuple[str, int]]:
        """Files whose ranges follow one another from 0 on, with their number of answers.

        Anything after a gap is not used, nor are files with other names.
        """
        out, end = [], 0
        for short, name in self._own():
            part = PART.fullmatch(short)
            if part is None or int(part[1]) != end:
                continue
            out.append((name, int(part[2]) - end))
            end = int(part[2])
        return out

    def _states(self) -> list[tuple[int, str]]:
        """Files of sums, with the block after the last in each, ascending."""
        found = [(STATE.fullmatch(short), name) for short, name in self._own()]
        return [(int(match[1]), name) for match, name in found if match is not None]


def forget(files: Files, folder: str, *, ending: str = "") -> None:
    """Remove what a finished run left; with an ending, only files of that kind."""
    for name in files.walk(folder):
        if name.endswith(ending):
            files.remove(f"{folder}/{name}")


def keep_tables(store: "StoreBase", folder: str, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write the tables of a finished measure, the one that says so last; its blocks can go."""
    for name, table in tables.items():
        store.write_table(f"{folder}/{name}.parquet", table)
    store.write_table(f"{folder}/{DONE}.parquet", pd.DataFrame({"name": list(tables)}))
    forget(store.files, folder, ending=".npz")


def kept_tables(store: "StoreBase", folder: str) -> dict[str, pd.DataFrame] | None:
    """What `keep_tables` wrote; None where there is nothing whole."""
    try:
        names = store.read_table(f"{folder}/{DONE}.parquet", {"name": TEXT})[0]["name"]
        return {name: store.read_table(f"{folder}/{name}.parquet")[0] for name in names}
    except (FileNotFoundError, StoreDamaged):
        return None


def pack(answers: list[Any]) -> bytes:
    """Answers of blocks as one npz file: numbers, arrays, and tuples, lists and dataclasses."""
    sink = io.BytesIO()
    pack_into(sink, answers)
    return sink.getvalue()


def pack_into(sink: IO[bytes], answers: list[Any]) -> None:
    """Write them to a file; see `pack`."""
    arrays: list[Any] = []
    plan = [_plan(answer, arrays) for answer in answers]
    told = np.frombuffer(json.dumps(plan).encode(), dtype=np.uint8)
    # One by one, as `np.savez` does it, which would need all the narrow ones in memory at once.
    with zipfile.ZipFile(sink, "w", allowZip64=True) as archive:
        for name, array in (("plan", told), *((f"a{at}", one) for at, one in enumerate(arrays))):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                kept = array.astype(np.uint32) if _is_narrow(array) else array
                np.lib.format.write_array(file, np.asanyarray(kept), allow_pickle=False)


def bytes_of(answer: Any) -> int:
    """Bytes of the arrays in an answer."""
    if isinstance(answer, np.ndarray):
        return answer.nbytes
    if is_dataclass(answer):
        return bytes_of([getattr(answer, field.name) for field in fields(answer)])
    return sum(map(bytes_of, answer)) if isinstance(answer, tuple | list) else 0


def unpack(data: bytes, kinds: Sequence[type] = ()) -> list[Any]:
    """What `pack` was given; nothing if the file is damaged or names a dataclass not in `kinds`."""
    by_name = {kind.__name__: kind for kind in kinds}
    try:
        arrays = read_npz(data, "answers", "")
        plan = read_json(arrays["plan"].tobytes(), list[Any], "answers", "")
        return [_build(part, arrays, by_name) for part in plan]
    except (StoreDamaged, ValueError, KeyError, TypeError):
        # A dataclass of another version has another name (KeyError) or other fields (TypeError).
        return []


def _plan(value: Any, arrays: list[Any]) -> Any:
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"array": len(arrays) - 1, **({"type": "int64"} if _is_narrow(value) else {})}
    if isinstance(value, tuple | list):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_plan(item, arrays) for item in value]}
    if is_dataclass(value):
        parts = {field.name: _plan(getattr(value, field.name), arrays) for field in fields(value)}
        return {"kind": type(value).__name__, "parts": parts}
    return {"value": value}


def _is_narrow(value: np.ndarray) -> bool:
    """Whether a large array is kept in 32 bits: counts are wide because sums may be."""
    return value.dtype == np.int64 and value.nbytes >= LARGE and _fits(value, np.uint32)


def _fits(value: np.ndarray, kind: type[np.integer[Any]]) -> bool:
    return int(value.min()) >= 0 and int(value.max()) <= np.iinfo(kind).max


def _build(plan: Any, arrays: Mapping[str, Any], kinds: Mapping[str, type]) -> Any:
    if "array" in plan:
        array = arrays[f"a{plan['array']}"]
        return array.astype(plan["type"]) if "type" in plan else array
    if "tuple" in plan:
        return tuple(_build(item, arrays, kinds) for item in plan["tuple"])
    if "list" in plan:
        return [_build(item, arrays, kinds) for item in plan["list"]]
    if "kind" in plan:
        parts = {name: _build(part, arrays, kinds) for name, part in plan["parts"].items()}
        return kinds[plan["kind"]](**parts)
    return plan["value"]
