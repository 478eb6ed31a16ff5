"""Small arrays that belong to a group: its classifier, the mean that a measure subtracts.

Each is a `.npz` with one member `value`: one atomic file, and ZIP's CRC-32 guards its content.
Those of the network are also named, with their hashes, in the sealed attributes of the group: what
is gone is noticed. Fitted ones are not: they are fitted anew.
"""

import hashlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from alike.extract.documents import damaged, read_npz
from alike.extract.errors import BadInput
from alike.extract.identity import check_path, is_name
from alike.extract.store.files import Files

SEALED = "constants"
"""Attribute of a group: name of a constant of its network to the hash of its value."""
FITTED = "measures/"
"""How the names of constants begin that a measure fitted."""
_END = ".npz"
_WAY_OUT = "delete it and run again"
_EXTRACT = "run the same `alike extract` again: it writes it anew"


def write_constant(files: Files, key: str, name: str, value: np.ndarray) -> None:
    """Store one array, replacing any of that name."""
    sink = io.BytesIO()
    place = _place(key, check_path(name, "constant"))
    np.savez(sink, value=np.ascontiguousarray(value), place=np.array(place))
    files.write(place, sink.getvalue())


def read_constant(files: Files, key: str, name: str, attrs: Mapping[str, Any]) -> np.ndarray:
    """Read one array of a group with these attributes.

    Raises:
        BadInput: there is none.
        StoreDamaged: it is broken, or it is sealed, and gone or another.
    """
    place, wanted = _place(key, name), sealed_in(attrs).get(name)
    try:
        data = files.read(place)
    except FileNotFoundError:
        if wanted is not None:
            raise damaged(place, "is missing", _EXTRACT) from None
        names = ", ".join(constants(files, key, attrs)) or "none"
        raise BadInput(f"no constant {name!r} in {key}; there are: {names}") from None
    members = read_npz(data, place, _WAY_OUT)
    if "value" not in members:
        raise damaged(place, "it holds no value", _WAY_OUT)
    # Files of earlier versions do not say where they belong.
    if "place" in members and str(members["place"]) != place:
        raise damaged(place, f"it was written as {members['place']}", _WAY_OUT)
    value = members["value"]
    if wanted not in (None, hash_of(value)):
        raise damaged(place, "it differs from its hash in the group's attributes", _EXTRACT)
    return value


def constants(files: Files, key: str, attrs: Mapping[str, Any]) -> list[str]:
    """Give the names of a group's constants: those that are there, and those that must be."""
    names = files.walk(f"constants/{key}")
    ends = [name.removesuffix(_END) for name in names if name.endswith(_END)]
    there = [name for name in ends if all(is_name(part) for part in name.split("/"))]
    return list(dict.fromkeys([*there, *sealed_in(attrs)]))


def sealed_in(attrs: Mapping[str, Any]) -> dict[str, str]:
    """Give the constants that the attributes of a group name, with their hashes."""
    return dict(attrs.get(SEALED, {}))


def hash_of(value: np.ndarray) -> str:
    """Hash an array with its type and shape: BLAKE2b, 32 digits."""
    state = hashlib.blake2b(f"{value.dtype.str}{value.shape}".encode(), digest_size=16)
    state.update(np.ascontiguousarray(value).data)
    return state.hexdigest()


def _place(key: str, name: str) -> str:
    return f"constants/{key}/{name}{_END}"
