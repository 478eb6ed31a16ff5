"""What a long run has finished, kept in the store until the run ends, so that it can resume.

Answers of blocks are written as plain arrays, every ten seconds of work at most: a short run writes
nothing, a long one loses ten seconds when it dies. A measure that took longer than that leaves its
tables in their place. Both lie under a digest of everything that they depend on, so another
question never meets them.
"""

import io
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from alike.analysis.blocks.statistic import MapBlocks
from alike.extract.documents import TEXT, read_json, read_npz
from alike.extract.errors import StoreDamaged
from alike.extract.store import Files

if TYPE_CHECKING:
    from alike.extract.store import StoreBase

EVERY = 10.0
DONE = "tables"
PART = re.compile(r"(\d{9})-(\d{9})\.npz")
"""Name of a file of answers: the first block, and the one after the last."""


def remembering(
    map_blocks: MapBlocks,
    files: Files,
    folder: str,
    kinds: Sequence[type] = (),
    every: float | None = None,
) -> MapBlocks:
    """The same `map`, which first gives the answers that an earlier run left in `folder`.

    Answers that cannot be read, such as those of another version, are computed again.

    Args:
        map_blocks: does what is not there yet.
        files: of the store.
        folder: of this stage alone.
        kinds: the dataclasses that blocks answer with; a file names them by their `__name__`.
        every: seconds of work between two writes; None: ten.
    """

    def mapped(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        todo = list(items)
        end = 0
        for name, size in _parts(files, folder):
            answers = unpack(files.read(name), kinds)
            if len(answers) != size:
                # It would hide the file that is written in its place, which may end elsewhere.
                files.remove(name)
                break
            yield from answers
            end += size
        fresh: list[Any] = []
        last = time.monotonic()
        for answer in map_blocks(function, todo[end:]):
            fresh.append(answer)
            if time.monotonic() - last >= (EVERY if every is None else every):
                files.write(f"{folder}/{end:09d}-{end + len(fresh):09d}.npz", pack(fresh))
                end += len(fresh)
                fresh, last = [], time.monotonic()
            yield answer

    return mapped


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


def _parts(files: Files, folder: str) -> list[tuple[str, int]]:
    """Files whose ranges follow one another from 0 on, with their number of answers.

    Anything after a gap is not used, nor are files with other names.
    """
    # The whole run's folder: of a remote store, all stages are listed by one request.
    home, _, stage = folder.rpartition("/")
    out, end = [], 0
    for name in sorted(files.walk(home)):
        part = PART.fullmatch(name.removeprefix(f"{stage}/"))
        if part is None or int(part[1]) != end:
            continue
        out.append((f"{home}/{name}", int(part[2]) - end))
        end = int(part[2])
    return out


def pack(answers: list[Any]) -> bytes:
    """Answers of blocks as one npz file: numbers, arrays, and tuples and dataclasses of them."""
    arrays: list[Any] = []
    plan = [_plan(answer, arrays) for answer in answers]
    sink = io.BytesIO()
    named = {f"a{at}": array for at, array in enumerate(arrays)}
    np.savez(sink, plan=np.frombuffer(json.dumps(plan).encode(), dtype=np.uint8), **named)
    return sink.getvalue()


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
        return {"array": len(arrays) - 1}
    if isinstance(value, tuple):
        return {"tuple": [_plan(item, arrays) for item in value]}
    if is_dataclass(value):
        parts = {field.name: _plan(getattr(value, field.name), arrays) for field in fields(value)}
        return {"kind": type(value).__name__, "parts": parts}
    return {"value": value}


def _build(plan: Any, arrays: Mapping[str, Any], kinds: Mapping[str, type]) -> Any:
    if "array" in plan:
        return arrays[f"a{plan['array']}"]
    if "tuple" in plan:
        return tuple(_build(item, arrays, kinds) for item in plan["tuple"])
    if "kind" in plan:
        parts = {name: _build(part, arrays, kinds) for name, part in plan["parts"].items()}
        return kinds[plan["kind"]](**parts)
    return plan["value"]
