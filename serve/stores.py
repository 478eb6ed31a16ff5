"""The stores of one server, and the names by which they are chosen."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from alike.serve.run_history import NoRuns, RunHistory
from alike.serve.service import NeighbourService

SUFFIX = ".store"


@dataclass(frozen=True)
class ServedStore:
    """A store of a server.

    Attributes:
        name: part of the addresses of its API.
        service: answers questions about it.
        runs: its past runs.
    """

    name: str
    service: NeighbourService
    runs: RunHistory = field(default_factory=NoRuns)


def store_names(places: Sequence[str]) -> list[str]:
    """A name of each store, fit for an address: that of its folder.

    Folders of one name have that of the folder above in front; if that does not tell them apart
    either, a number at the end.

    Examples:
        >>> store_names(["pets.store", "data/cars.store/"])
        ['pets', 'cars']
        >>> store_names(["a/store", "b/store", "b/store"])
        ['a-store', 'b-store', 'b-store-2']
    """
    paths = [PurePosixPath(place.replace("\\", "/")) for place in places]
    short = [_word(path.name.removesuffix(SUFFIX)) for path in paths]
    names: list[str] = []
    for path, name in zip(paths, short, strict=True):
        if short.count(name) > 1 and path.parent.name:
            name = f"{_word(path.parent.name)}-{name}"
        number = 1 + sum(name == one for one in names)
        while number > 1 and f"{name}-{number}" in names:
            number += 1
        names.append(name if number == 1 else f"{name}-{number}")
    return names


def _word(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "store"
