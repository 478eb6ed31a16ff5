"""Images as their user names them, deleted from a store for good."""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from alike.extract.errors import AlikeError, BadImage, BadInput
from alike.extract.frames import read_image
from alike.extract.images import image_id, open_source
from alike.extract.store import (
    ForgetReport,
    Store,
    finish_forgetting,
    forget_rows,
    is_placeholder,
    unfinished,
    would_forget,
)

_ID = re.compile(r"[0-9a-f]{64}")
OUTSIDE = (
    "reports, exports, weights and copies outside of the store are as they were: delete those that "
    "show the images"
)


@dataclass(frozen=True)
class Forgotten:
    """What was deleted, and what is left to its user.

    Attributes:
        report: of the store; None if only what a crash left was to be deleted, and there is none.
        finished: what an earlier call had begun and was deleted first; None: nothing.
        listed: files of the source that still hold the bytes of one of the images: the next
            extraction adds it as a new image.
        notes: what a reader must know.
    """

    report: ForgetReport | None
    finished: ForgetReport | None
    listed: tuple[str, ...]
    notes: tuple[str, ...]


def forget_images(
    store: Store,
    images: Sequence[str],
    *,
    dry_run: bool = False,
    forget_pictures: Callable[[Sequence[str]], object] = lambda ids: None,
) -> Forgotten:
    """Delete images for good: from features, tables, indexes and whatever else the store holds.

    Their rows are never used again. What a call that was cut off had begun is ended first.

    Args:
        store: the store.
        images: each a path as the store lists it, a file, a URL, a row number, or an image id
            (SHA-256 of its bytes). None: only end what was begun.
        dry_run: only say what would be deleted.
        forget_pictures: called with the ids before anything is deleted, for caches elsewhere.

    Raises:
        BadInput: an image that the store does not know; nothing is deleted.
        StoreBusy: another process extracts or builds an index.
        StoreDamaged: what says which rows are where is damaged; nothing is deleted.
    """
    begun = unfinished(store)
    ended = {*begun.names, *begun.images} if begun else set()
    rows = sorted({_row_of(store, one) for one in images if one not in ended})
    ids = [str(store.image_ids(row, row + 1)[0]) for row in rows]
    listed = _still_listed(store, rows, ids)
    trained = sorted(store.trained_ids() & set(ids))
    notes = [*_note_of_files(listed), *_note_of_training(len(trained)), OUTSIDE]
    if dry_run:
        report = would_forget(store, rows) if rows else None
        return Forgotten(report, None, listed, tuple(notes))
    finished = None
    if begun is not None:
        forget_pictures(begun.images)
        finished = finish_forgetting(store)
    report = None
    if rows:
        forget_pictures(ids)
        report = forget_rows(store, rows, images)
        if report.damaged:
            notes.append(
                f"{report.damaged[0]} was damaged: its other rows are computed again by the next "
                "`alike extract`"
            )
    return Forgotten(report, finished, listed, tuple(notes))


def _row_of(store: Store, name: str) -> int:
    """Give the row of an image of a store, removed ones too.

    Raises:
        BadInput: there is none, or it is not clear which one is meant.
    """
    advice = "name it by its path in `alike store ls`, its file, its row, or its SHA-256"
    if name.isdecimal() and len(name) < 64:
        row = int(name)
        if row >= store.n_rows or is_placeholder(str(store.image_ids(row, row + 1)[0])):
            raise BadInput(f"no image has row {row} in {store.url}: {advice}")
        return row
    if _ID.fullmatch(name):
        rows = set() if is_placeholder(name) else set(store.manifest.rows_of([name]).values())
    else:
        rows = set(store.manifest.rows_at(name))
        with suppress(BadInput):
            # A file that is none of this store's is no answer.
            rows |= set(store.manifest.rows_of([read_image(name).image_id]).values())
    if not rows:
        raise BadInput(f"no image {name!r} in {store.url}: {advice}")
    if len(rows) > 1:
        raise BadInput(
            f"{name!r} may be one of {len(rows)} images, those of rows "
            f"{', '.join(map(str, sorted(rows)[:5]))}: name one by its row or its SHA-256"
        )
    return rows.pop()


def _still_listed(store: Store, rows: Sequence[int], ids: Sequence[str]) -> tuple[str, ...]:
    """Give the paths at which the source still has the bytes of an image."""
    view = store.images()
    view = view[view["row"].isin(np.array(rows, dtype=np.int64))]
    if view.empty:
        return ()
    try:
        spec, options = store.source()
        source = open_source(spec, **options)
    except (AlikeError, OSError):
        return ()
    there = []
    for path in view["path"]:
        with suppress(BadImage, OSError):
            if image_id(source.read(path)) in ids:
                there.append(str(path))
    return tuple(there)


def _note_of_files(listed: Sequence[str]) -> list[str]:
    if not listed:
        return []
    more = f" and {len(listed) - 1} more" if len(listed) > 1 else ""
    return [
        f"{listed[0]}{more} of the source still holds the bytes: delete it there too, or the next "
        "extraction adds it as a new image"
    ]


def _note_of_training(count: int) -> list[str]:
    if not count:
        return []
    return [
        f"{count} of the images were trained on: weights that were trained with them are as they "
        "were, and the store no longer knows that these images were seen"
    ]
