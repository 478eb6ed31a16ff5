"""The store's diary: one small file an event, so that two processes never write the same one."""

import datetime
import json
import re
import uuid
from dataclasses import dataclass

import pandas as pd

from alike.extract.documents import read_json
from alike.extract.errors import StoreDamaged
from alike.extract.store.files import Files
from alike.extract.store.ledger import provenance

FOLDER = "log"
NAME = re.compile(r"\d{8}T\d{12}-[0-9a-f]{6}\.json")
"""Name of an entry; other files in the folder are none of ours."""


@dataclass(frozen=True)
class Event:
    """Something that happened to a store.

    Attributes:
        event: `created`, `listed`, `laid out`, `damaged`, `cleaned`, `dropped`, `imported`,
            `trained`, `forgotten`, `purged`, `upgraded`.
        key: the extraction that it concerns, or nothing.
        note: what happened, one line.
    """

    event: str
    key: str
    note: str


def note(files: Files, event: Event) -> None:
    """Write an event into the diary."""
    now = datetime.datetime.now(datetime.UTC)
    entry = {**provenance(""), "event": event.event, "key": event.key, "note": event.note}
    name = f"{FOLDER}/{now:%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:6]}.json"
    files.write(name, json.dumps(entry).encode())


@dataclass(frozen=True)
class _Entry:
    """What a file of the diary must hold."""

    time: str
    event: str
    key: str
    note: str
    host: str
    pid: int


def events(files: Files) -> pd.DataFrame:
    """Give the diary: time, event, key, note, host, pid; oldest first.

    An entry that cannot be read is the event `unreadable`, its note the file and its fault.
    """
    entries = _entries(files)
    if not entries:
        # A store begins with an entry.
        entries = [(None, StoreDamaged(f"{FOLDER} is missing", file=FOLDER, fault="is missing"))]
    return pd.DataFrame(
        [vars(entry or _unreadable(error)) for entry, error in entries],
        columns=["time", "event", "key", "note", "host", "pid"],
    )


def event_faults(files: Files) -> list[tuple[str, str]]:
    """Give (file, what is wrong with it) of the entries that cannot be read."""
    return [(error.file, error.fault) for _, error in _entries(files) if error is not None]


def _unreadable(error: StoreDamaged | None) -> _Entry:
    place, fault = ("", "") if error is None else (error.file, error.fault)
    # The name of an entry begins with its time: 20260131T120000000000.
    day = place.removeprefix(f"{FOLDER}/")[:15]
    named = NAME.fullmatch(place.removeprefix(f"{FOLDER}/"))
    time = f"{day[:4]}-{day[4:6]}-{day[6:11]}:{day[11:13]}:{day[13:15]}" if named else ""
    return _Entry(time, "unreadable", "", f"{place}: {fault}", "", 0)


def _entries(files: Files) -> list[tuple[_Entry | None, StoreDamaged | None]]:
    entries: list[tuple[_Entry | None, StoreDamaged | None]] = []
    for name in sorted({*files.listing(FOLDER), *files.folders(FOLDER)}):
        if NAME.fullmatch(name) is None:
            continue
        place = f"{FOLDER}/{name}"
        try:
            entries.append((read_json(files.read(place), _Entry, place, "delete it"), None))
        except FileNotFoundError:
            continue
        except StoreDamaged as error:
            entries.append((None, error))
        except OSError as error:
            fault = str(error.strerror).lower()
            entries.append((None, StoreDamaged(f"{place}: {fault}", file=place, fault=fault)))
    return entries
