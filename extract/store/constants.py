"""Small arrays that belong to a group: its classifier, the mean that a measure subtracts.

Each is a `.npz` with one member `value`: one atomic file, and ZIP's CRC-32 guards its content.
"""

import io

import numpy as np

from alike.extract.documents import damaged, read_npz
from alike.extract.errors import BadInput
from alike.extract.identity import check_path, is_name
from alike.extract.store.files import Files

_END = ".npz"
_WAY_OUT = "delete it and run again"


def write_constant(files: Files, key: str, name: str, value: np.ndarray) -> None:
    """Store one array, replacing any of that name."""
    sink = io.BytesIO()
    place = _place(key, check_path(name, "constant"))
    np.savez(sink, value=np.ascontiguousarray(value), place=np.array(place))
    files.write(place, sink.getvalue())


def read_constant(files: Files, key: str, name: str) -> np.ndarray:
    """Read one array; `BadInput` if there is none, `StoreDamaged` if it is broken."""
    place = _place(key, name)
    try:
        data = files.read(place)
    except FileNotFoundError:
        names = ", ".join(constants(files, key)) or "none"
        raise BadInput(f"no constant {name!r} in {key}; there are: {names}") from None
    members = read_npz(data, place, _WAY_OUT)
    if "value" not in members:
        raise damaged(place, "it holds no value", _WAY_OUT)
    # Files of earlier versions do not say where they belong.
    if "place" in members and str(members["place"]) != place:
        raise damaged(place, f"it was written as {members['place']}", _WAY_OUT)
    return members["value"]


def constants(files: Files, key: str) -> list[str]:
    """Give the names of a group's constants."""
    names = files.walk(f"constants/{key}")
    ends = [name.removesuffix(_END) for name in names if name.endswith(_END)]
    return [name for name in ends if all(is_name(part) for part in name.split("/"))]


def _place(key: str, name: str) -> str:
    return f"constants/{key}/{name}{_END}"
