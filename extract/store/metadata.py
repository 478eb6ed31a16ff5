"""What describes a group: its attributes and its arrays, read from `zarr.json` and sealed.

The attributes hold the shapes and types of all arrays and a seal over everything, the group's key
included: one altered digit, or a group in another's place, is told when it is opened. Groups of
earlier versions have no seal and open as they are, until an extraction seals them.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alike.extract.documents import damaged, read_json
from alike.extract.errors import StoreDamaged
from alike.extract.identity import is_name, key_fault, seal_of
from alike.extract.store.arrays import TREE, UNIT, VALID, ArraySpec
from alike.extract.store.files import Files
from alike.extract.store.ledger import Record

META = "zarr.json"
"""Name of the file that describes a group or an array of Zarr."""
_SEAL, _ARRAYS = "seal", "arrays"
_WAY_OUT = "run the `alike extract` that made it again: it writes it anew"


@dataclass(frozen=True)
class _Group:
    zarr_format: int
    node_type: str
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Attributes:
    """Types of the attributes that every reader relies on; others are left alone."""

    network: str = ""
    weights: str = ""
    weights_hash: str = ""
    taps: tuple[str, ...] = ()
    transform: dict[str, Any] = field(default_factory=dict)
    precision: str = ""
    args: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    class_names: tuple[str, ...] | None = None
    place: str | None = None


@dataclass(frozen=True)
class _Shape:
    tail: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class _Chunks:
    chunk_shape: tuple[int, ...]


@dataclass(frozen=True)
class _Grid:
    configuration: _Chunks


@dataclass(frozen=True)
class _Codec:
    name: str
    configuration: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Array:
    zarr_format: int
    node_type: str
    shape: tuple[int, ...]
    data_type: str
    chunk_grid: _Grid
    codecs: tuple[_Codec, ...]


@dataclass(frozen=True)
class GroupFacts:
    """What a group says of itself.

    Attributes:
        attrs: its attributes, without the seal.
        arrays: name to shape and type of the arrays that are there, `valid` among them.
        missing: names of arrays that the attributes list, and that are not there.
        sealed: whether a seal was found (and holds).
    """

    attrs: dict[str, Any]
    arrays: dict[str, ArraySpec]
    missing: tuple[str, ...]
    sealed: bool


def read_group(files: Files, key: str) -> GroupFacts:
    """Read what describes a group, checked.

    Raises:
        StoreDamaged: it is not what was written.
    """
    attrs, listed, sealed = read_attributes(files, key)
    names = [one for one in files.folders(f"{TREE}/{key}") if is_name(one)]
    specs = {name: read_array(files, key, name) for name in names}
    arrays = {name: spec for name, spec in specs.items() if spec is not None}
    for name in listed.keys() & arrays.keys():
        if arrays[name] != listed[name]:
            difference = f"it says {arrays[name]}, the group {listed[name]}"
            raise damaged(f"{TREE}/{key}/{name}/{META}", difference, _WAY_OUT)
    if sealed:
        # Others are no arrays of ours, or not yet: a run that ended in the middle made them.
        arrays = {name: arrays[name] for name in arrays if name in listed or name == VALID}
    return GroupFacts(attrs, arrays, tuple(sorted(listed.keys() - arrays.keys())), sealed)


def read_attributes(files: Files, key: str) -> tuple[dict[str, Any], dict[str, ArraySpec], bool]:
    """Give a group's attributes, the arrays that they list, and whether they are sealed.

    Raises:
        FileNotFoundError: there is no such group.
        StoreDamaged: they are not what was written.
    """
    place = f"{TREE}/{key}/{META}"
    document = read_json(files.read(place), _Group, place, _WAY_OUT)
    if (document.zarr_format, document.node_type) != (3, "group"):
        raise damaged(place, f"it describes a {document.node_type}, not a group", _WAY_OUT)
    attrs = document.attributes
    sealed = attrs.pop(_SEAL, None)
    if sealed is not None and sealed != seal_of([key, attrs]):
        raise damaged(place, "its attributes differ from their seal", _WAY_OUT)
    if sealed is None and "network" not in attrs:
        raise damaged(place, "its attributes name no network", _WAY_OUT)
    shapes = attrs.pop(_ARRAYS, {}) if sealed is not None else {}
    read_json(json.dumps(attrs), _Attributes, place, _WAY_OUT)
    fault = key_fault(key, attrs)
    if fault:
        raise damaged(place, fault, _WAY_OUT)
    listed = {
        name: ArraySpec(name, tuple(one["tail"]), one["dtype"]) for name, one in shapes.items()
    }
    return attrs, listed, sealed is not None


def sealed_attributes(
    key: str, attrs: Mapping[str, Any], arrays: Mapping[str, ArraySpec]
) -> dict[str, Any]:
    """Give attributes as they are written: with the arrays, and with a seal over all."""
    shapes = {
        name: {"tail": list(spec.tail), "dtype": spec.dtype}
        for name, spec in sorted(arrays.items())
        if name != VALID
    }
    facts = {**attrs, _ARRAYS: shapes}
    facts.pop(_SEAL, None)
    return {**facts, _SEAL: seal_of([key, facts])}


def read_array(files: Files, key: str, name: str) -> ArraySpec | None:
    """Read what describes an array; None if there is none of that name.

    Raises:
        StoreDamaged: it is not an array as this store lays it out.
    """
    place = f"{TREE}/{key}/{name}/{META}"
    try:
        data = files.read(place)
    except FileNotFoundError:
        return None
    document = read_json(data, _Array, place, _WAY_OUT)
    if (document.zarr_format, document.node_type) != (3, "array") or not document.shape:
        raise damaged(place, f"it describes no array but {document.node_type!r}", _WAY_OUT)
    try:
        kind = np.dtype(document.data_type)
    except TypeError:
        raise damaged(place, f"no type {document.data_type!r} is known", _WAY_OUT) from None
    if min(document.shape) < 0:
        raise damaged(place, f"its shape is {list(document.shape)}", _WAY_OUT)
    spec = ArraySpec(name, document.shape[1:], str(kind))
    if name != VALID:
        inner = document.codecs[0].configuration.get("chunk_shape") if document.codecs else None
        shards = document.chunk_grid.configuration.chunk_shape
        if shards != (UNIT, *spec.tail) or inner != [spec.chunk_rows, *spec.tail]:
            raise damaged(place, "its shards or chunks are not those of this store", _WAY_OUT)
    return spec


def lost_arrays(facts: GroupFacts, records: Iterable[Record]) -> list[str]:
    """Give the missing arrays of which rows are committed: damage, not a run that was cut off."""
    recorded = {name for record in records for name in record.arrays}
    return [name for name in facts.missing if name in recorded]


def root_fault(files: Files) -> str:
    """Say what is wrong with the description of the tree of all groups, or nothing."""
    place = f"{TREE}/{META}"
    try:
        document = read_json(files.read(place), _Group, place, _WAY_OUT)
    except FileNotFoundError:
        return "is missing"
    except StoreDamaged as error:
        return error.fault
    wanted = (3, "group")
    return "" if (document.zarr_format, document.node_type) == wanted else "it describes no group"
