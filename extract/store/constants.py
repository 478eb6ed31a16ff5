"""Small arrays that belong to a group: its classifier, the mean that a measure subtracts.

Each is a `.npz` with one member `value`: one atomic file, and ZIP's CRC-32 guards its content.
"""

import io
import zipfile

import numpy as np

from alike.extract.errors import BadInput, StoreDamaged
from alike.extract.store.files import Files

_END = ".npz"


def write_constant(files: Files, key: str, name: str, value: np.ndarray) -> None:
    """Store one array, replacing any of that name."""
    sink = io.BytesIO()
    np.savez(sink, value=np.ascontiguousarray(value))
    files.write(_place(key, name), sink.getvalue())


def read_constant(files: Files, key: str, name: str) -> np.ndarray:
    """Read one array; `BadInput` if there is none, `StoreDamaged` if it is broken."""
    place = _place(key, name)
    try:
        data = files.read(place)
    except FileNotFoundError:
        names = ", ".join(constants(files, key)) or "none"
        raise BadInput(f"no constant {name!r} in {key}; there are: {names}") from None
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as members:
            return np.asarray(members["value"])
    except (zipfile.BadZipFile, ValueError, KeyError, OSError, EOFError) as error:
        raise StoreDamaged(f"{place} is damaged ({error}); delete it and run again") from error


def constants(files: Files, key: str) -> list[str]:
    """Give the names of a group's constants."""
    names = files.walk(f"constants/{key}")
    return [name.removesuffix(_END) for name in names if name.endswith(_END)]


def _place(key: str, name: str) -> str:
    return f"constants/{key}/{name}{_END}"
