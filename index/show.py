"""Answers for people: a table, a contact sheet."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from alike.extract.errors import BadImage
from alike.index.contact_sheet import Cell, contact_sheet
from alike.index.neighbours import Neighbours

if TYPE_CHECKING:
    from alike.extract.images import ImageSource
    from alike.index.query import Image, NeighbourIndex


def neighbour_table(
    index: "NeighbourIndex", names: Sequence[str], found: Neighbours
) -> pd.DataFrame:
    """Answers as a table.

    Args:
        index: that answered.
        names: of the queries.
        found: what it answered.

    Returns:
        number (of the query, from 0), query, query_row (-1: not stored), rank (from 1), row,
        distance, path, label; nearest first.
    """
    places, ranks = np.nonzero(found.rows >= 0)
    rows = found.rows[places, ranks]
    known = index.images.loc[rows]
    return pd.DataFrame(
        {
            "number": places,
            "query": np.array([*names, ""], dtype=object)[places],
            "query_row": found.query_rows[places],
            "rank": ranks + 1,
            "row": rows,
            "distance": found.distances[places, ranks].astype(float),
            "path": known["path"].to_numpy(),
            "label": known["label"].to_numpy(),
        }
    )


def neighbour_sheet(
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
    from alike.extract.images import open_source

    spec, options = index.features.store.source()
    source = open_source(spec, **options)
    lines = []
    for number, (row, data, name) in enumerate(index.read(images)):
        known = label if row < 0 else index.images.at[row, "label"]
        near = [
            Cell(
                _read(source, one.path),
                (f"{one.distance:.4f}  {one.label or ''}", one.path),
                one.label,
            )
            for one in table[table["number"] == number].itertuples(index=False)
        ]
        picture = _read(source, name) if data is None else data
        lines.append((Cell(picture, (f"query  {known or ''}", name), known), near))
    return contact_sheet(lines, path)


def _read(source: "ImageSource", path: str) -> bytes:
    """Bytes of a stored image; none where it is gone, which the sheet shows as an empty place."""
    try:
        return source.read(path)
    except BadImage:
        return b""
