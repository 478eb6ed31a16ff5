"""`store.json`: what a store knows of itself, sealed, with a copy from which damage is mended."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from alike.extract.documents import damaged, read_json
from alike.extract.errors import StoreDamaged
from alike.extract.identity import seal_of
from alike.extract.store.files import Files

SETTINGS = "store.json"
COPY = "manifest/settings.json"
"""The same once more: one of the two survives most accidents."""
_SEAL = "seal"
_WAY_OUT = "bring it back from a copy: it says which images may be trained on"


@dataclass(frozen=True)
class _Source:
    spec: str
    options: dict[str, Any]
    place: str | None = None


@dataclass(frozen=True)
class _Split:
    train_share: float
    salt: str


@dataclass(frozen=True)
class _Settings:
    """What `store.json` must hold; other keys are left alone."""

    schema: str
    created: str = ""
    source: _Source | None = None
    split: _Split = field(default_factory=lambda: _Split(0.0, ""))
    served: str | None = None
    seal: str = ""


def read_settings(files: Files) -> dict[str, Any]:
    """Read a store's settings, from their copy if they are lost or damaged.

    Raises:
        FileNotFoundError: there are none.
        StoreDamaged: neither can be read.
    """
    try:
        return _read(files, SETTINGS)
    except (FileNotFoundError, StoreDamaged) as error:
        try:
            return _read(files, COPY)
        except StoreDamaged as other:
            raise (error if isinstance(error, StoreDamaged) else other) from None
        except FileNotFoundError:
            raise error from None


def write_settings(files: Files, settings: Mapping[str, Any]) -> None:
    """Replace a store's settings and their copy."""
    content = {name: value for name, value in settings.items() if name != _SEAL}
    data = json.dumps({**content, _SEAL: seal_of(content)}, indent=1).encode()
    # The copy first: should the process end between the two, the old ones still count.
    files.write(COPY, data)
    files.write(SETTINGS, data)


def is_sealed(files: Files) -> bool:
    """Whether settings have a seal and a copy; those of an earlier version have neither."""
    return _SEAL in read_settings(files) and files.size(COPY) is not None


def settings_faults(files: Files) -> list[tuple[str, str, str]]:
    """Give (file, what is wrong with it, what to do) of the settings and of their copy."""
    faults = []
    sound = []
    for name in (SETTINGS, COPY):
        try:
            sound.append((name, _read(files, name)))
        except FileNotFoundError:
            faults.append((name, "is missing"))
        except StoreDamaged as error:
            faults.append((name, error.fault))
    if not sound:
        return [(name, fault, _WAY_OUT) for name, fault in faults]
    # A store of an earlier version has no copy, which is no damage.
    if _SEAL not in sound[0][1]:
        faults = [one for one in faults if one != (COPY, "is missing")]
    repair = f"the next command that writes to the store mends it from {sound[0][0]}"
    return [(name, fault, repair) for name, fault in faults]


def _read(files: Files, name: str) -> dict[str, Any]:
    data = files.read(name)
    way_out = f"`alike store verify` mends it if {COPY} is whole, else {_WAY_OUT}"
    settings = read_json(data, dict[str, Any], name, way_out)
    read_json(data, _Settings, name, way_out)
    sealed = settings.get(_SEAL)
    facts = {key: value for key, value in settings.items() if key != _SEAL}
    if sealed is not None and sealed != seal_of(facts):
        raise damaged(name, "it differs from its own seal", way_out)
    return settings
