"""Deleting what a policy no longer keeps: features of images that left the set long ago.

The images stay known: one that comes back has its row again, and its features are computed again.
"""

import time
from dataclasses import dataclass

import numpy as np

from alike.extract.store.arrays import UNIT
from alike.extract.store.commit import ABSENT
from alike.extract.store.events import Event, note
from alike.extract.store.features import Features
from alike.extract.store.rewrite import Rewritten, freed_by, take_out
from alike.extract.store.store import Store
from alike.extract.store.twins import by_unit

_DAY = 86400


@dataclass(frozen=True)
class Purged:
    """What of a shard's rows was deleted, or would be.

    Attributes:
        key: the extraction.
        unit: the unit.
        rows: number of rows.
        freed: bytes that its shards are smaller by; vectors are freed in blocks of 128 rows.
    """

    key: str
    unit: int
    rows: int
    freed: int


def removed_before(store: Store, days: float, now: float | None = None) -> np.ndarray:
    """Give the rows of images that left the set more than so many days ago, (n,) int64.

    Args:
        store: the store.
        days: counted from the listing that first missed an image.
        now: seconds since 1970; None for the clock's.
    """
    removed = store.manifest.removed()
    before = (time.time() if now is None else now) - days * _DAY
    rows: np.ndarray = removed.loc[removed["since"] <= before, "row"].to_numpy(dtype=np.int64)
    return rows


def purge_removed(
    store: Store, days: float, *, dry_run: bool = False, now: float | None = None
) -> list[Purged]:
    """Delete the features of images that left the set more than so many days ago.

    Args:
        store: the store.
        days: as in `removed_before`.
        dry_run: only say what would be deleted.
        now: as in `removed_before`.

    Raises:
        StoreBusy: a process extracts into one of the groups.
    """
    rows = removed_before(store, days, now)
    why = (ABSENT, f"left the set more than {days:g} days ago: its features were deleted")
    done = []
    for key in store.groups() if len(rows) else ():
        features = store.features(key)
        mine = _with_features(features, rows)
        if dry_run:
            parts = {unit: dict.fromkeys(part, why) for unit, part in by_unit(mine).items()}
            freed = {unit: freed_by(features, unit, part) for unit, part in parts.items()}
            done += [Purged(key, unit, len(parts[unit]), size) for unit, size in freed.items()]
        elif len(mine):
            # A reader that is ahead of the listing meets rows without features, as of bad images.
            with features.lock():
                for unit, part in by_unit(mine).items():
                    result: Rewritten = take_out(features, unit, dict.fromkeys(part, why))
                    done.append(Purged(key, unit, len(part), result.freed))
            note(store.files, Event("purged", key, f"features of {len(mine)} removed images"))
    return done


def _with_features(features: Features, rows: np.ndarray) -> list[int]:
    """Give those of the rows that have features."""
    good: set[int] = set()
    for record in features.ledger.records().values():
        inside = rows[(rows >= record.unit * UNIT) & (rows < record.hi_of_any())]
        good |= set(inside.tolist()) - record.bad.keys()
    return sorted(good)
