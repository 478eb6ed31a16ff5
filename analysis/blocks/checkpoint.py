"""What a long run has finished, kept in the store until the run ends, so that it can resume.

Answers of blocks are written as plain arrays, every ten seconds of work at most: a short run writes
nothing, a long one loses ten seconds when it dies. A measure that took longer than that leaves its
tables in their place. Both lie under a digest of everything that they depend on, so another
question never meets them.
"""

import io
import json
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from alike.analysis.blocks.statistic import Run
from alike.analysis.classes import ClassGeometry, Moments
from alike.analysis.pairs import SlabCounts
from alike.extract.errors import StoreDamaged
from alike.extract.store import Files

if TYPE_CHECKING:
    from alike.extract.store import StoreBase

EVERY = 10.0
KEPT: dict[str, Any] = {kind.__name__: kind for kind in (Moments, ClassGeometry, SlabCounts)}
"""The dataclasses that blocks answer with."""
DONE = "tables"


def remembering(run: Run, files: Files, folder: str, every: float | None = None) -> Run:
    """The same `map`, which first gives the answers that an earlier run left in `folder`.

    Args:
        run: does what is not there yet.
        files: of the store.
        folder: of this stage alone.
        every: seconds of work between two writes; None: ten.
    """

    def mapped(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        todo = list(items)
        done = 0
        for name in _parts(files, folder):
            answers = unpack(files.read(name))
            if len(answers) != _last(name) - done:
                break
            yield from answers
            done += len(answers)
        fresh: list[Any] = []
        last = time.monotonic()
        for answer in run(function, todo[done:]):
            fresh.append(answer)
            if time.monotonic() - last >= (EVERY if every is None else every):
                files.write(f"{folder}/{done:09d}-{done + len(fresh):09d}.npz", pack(fresh))
                done += len(fresh)
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
        names = store.read_table(f"{folder}/{DONE}.parquet")[0]["name"]
        return {name: store.read_table(f"{folder}/{name}.parquet")[0] for name in names}
    except (FileNotFoundError, StoreDamaged):
        return None


def _parts(files: Files, folder: str) -> list[str]:
    """Files whose ranges follow one another from 0 on; anything after a gap is not used."""
    out, done = [], 0
    for name in sorted(name for name in files.walk(folder) if name.endswith(".npz")):
        if int(name.rsplit("/", 1)[-1].partition("-")[0]) != done:
            break
        out.append(f"{folder}/{name}")
        done = _last(name)
    return out


def _last(name: str) -> int:
    return int(name.removesuffix(".npz").rpartition("-")[2])


def pack(answers: list[Any]) -> bytes:
    """Answers of blocks as one npz file: arrays, tuples of them, and the dataclasses of `KEPT`."""
    arrays: list[Any] = []
    plan = [_plan(answer, arrays) for answer in answers]
    sink = io.BytesIO()
    named = {f"a{at}": array for at, array in enumerate(arrays)}
    np.savez(sink, plan=np.frombuffer(json.dumps(plan).encode(), dtype=np.uint8), **named)
    return sink.getvalue()


def unpack(data: bytes) -> list[Any]:
    """What `pack` was given; nothing where the file is damaged, so its blocks are done again."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            plan = json.loads(found["plan"].tobytes())
            return [_build(part, found) for part in plan]
    except (zipfile.BadZipFile, ValueError, KeyError, OSError):
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


def _build(plan: Any, arrays: Any) -> Any:
    if "array" in plan:
        return arrays[f"a{plan['array']}"]
    if "tuple" in plan:
        return tuple(_build(item, arrays) for item in plan["tuple"])
    if "kind" in plan:
        parts = {name: _build(part, arrays) for name, part in plan["parts"].items()}
        return KEPT[plan["kind"]](**parts)
    return plan["value"]
