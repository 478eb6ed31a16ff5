"""The store's diary: one small file an event, so that two processes never write the same one."""

import datetime
import json
import uuid
from dataclasses import dataclass
from typing import Any

import pandas as pd

from alike.extract.store.files import Files
from alike.extract.store.ledger import provenance

_FOLDER = "log"


@dataclass(frozen=True)
class Event:
    """Something that happened to a store.

    Attributes:
        event: `created`, `listed`, `laid out`, `damaged`, `cleaned`, `dropped`, `imported`.
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
    name = f"{_FOLDER}/{now:%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:6]}.json"
    files.write(name, json.dumps(entry).encode())


def events(files: Files) -> pd.DataFrame:
    """Give the diary: time, event, key, note, host, pid; oldest first."""
    names = sorted(name for name in files.listing(_FOLDER) if name.endswith(".json"))
    entries: list[dict[str, Any]] = [json.loads(files.read(f"{_FOLDER}/{name}")) for name in names]
    columns = ["time", "event", "key", "note", "host", "pid"]
    return pd.DataFrame([[one[name] for name in columns] for one in entries], columns=columns)
