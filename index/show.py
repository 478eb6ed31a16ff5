"""Answers for people: a table, a contact sheet."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from alike.extract.errors import BadInput
from alike.extract.frames import StoredImages
from alike.index.contact_sheet import Cell, contact_sheet
from alike.index.neighbours import Neighbours

if TYPE_CHECKING:
    from alike.index.query import Image, NeighbourIndex


def neighbour_table(
    index: "NeighbourIndex", names: Sequence[str], answer: Neighbours
) -> pd.DataFrame:
    """Answers as a table.

    Args:
        index: that answered.
        names: of the queries.
        answer: to these queries.

    Returns:
        number (of the query, from 0), query, query_row (-1: not stored), rank (from 1), row,
        distance, path, label; nearest first.
    """
    places, ranks = np.nonzero(answer.rows >= 0)
    rows = answer.rows[places, ranks]
    images = index.lookup.table(rows)
    return pd.DataFrame(
        {
            "number": places,
            "query": np.array([*names, ""], dtype=object)[places],
            "query_row": answer.query_rows[places],
            "rank": ranks + 1,
            "row": rows,
            "distance": answer.distances[places, ranks].astype(float),
            "path": images["path"].to_numpy(),
            "label": images["label"].to_numpy(),
        }
    )


def fewer_than(k: int, rows: np.ndarray) -> str:
    """A line that says that queries have fewer answers than were asked for; empty if none has.

    Args:
        k: answers asked for.
        rows: (Q, K) of the answers, -1 where there is none.

    Example:
        >>> fewer_than(3, np.array([[4, 5, -1], [4, 6, 7]]))
        '1 of 2 queries have fewer than 3 neighbours, one has 2: no other stored image may answer'
    """
    counts = (rows >= 0).sum(axis=1)
    few = counts[(counts < k) & (counts > 0)]
    if not len(few):
        return ""
    return (
        f"{len(few)} of {len(rows)} queries have fewer than {k} neighbours, one has {few.min()}: "
        "no other stored image may answer"
    )


def write_contact_sheet(
    index: "NeighbourIndex",
    images: Sequence["Image"],
    table: pd.DataFrame,
    path: Path,
    label: str | None = None,
) -> Path:
    """Write a PNG of queries and their neighbours; see `alike.index.contact_sheet.contact_sheet`.

    Args:
        index: that answered.
        images: as given to `query`.
        table: from `neighbour_table`.
        path: of the PNG.
        label: class of the queries that are not stored, or None.
    """
    store = StoredImages.of(index.features.store)
    lines = []
    for number, query in enumerate(index.read(images)):
        own_label = label if query.row < 0 else index.lookup.labels(np.array([query.row]))[0]
        near = [
            Cell(
                _read(store, one.row),
                (f"{one.distance:.4f}  {one.label or ''}", one.path),
                one.label,
            )
            for one in table[table["number"] == number].itertuples(index=False)
        ]
        data = _read(store, query.row) if query.image is None else query.image.data
        lines.append((Cell(data, (f"query  {own_label or ''}", query.name), own_label), near))
    return contact_sheet(lines, path)


def _read(store: StoredImages, row: int) -> bytes:
    """Bytes of a stored image; none if it is gone, which the sheet shows as an empty place."""
    try:
        return store.read(row).data
    except BadInput:
        return b""
