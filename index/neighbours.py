"""A query, and its answer: rows and distances, nearest first."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alike.extract.frames import NamedImage


@dataclass(frozen=True)
class Query:
    """An image whose neighbours are asked for.

    Attributes:
        row: of the store; -1 for an image that is not stored.
        name: what messages and captions call it.
        image: as it was read; None if it was given by its row.
    """

    row: int
    name: str
    image: NamedImage | None = None


@dataclass(frozen=True)
class Neighbours:
    """Nearest rows of Q queries.

    Attributes:
        distances: (Q, k) float32, the measure's own, ascending; `inf` if there is no more.
        rows: (Q, k) int64; -1 if there is no more.
        query_rows: (Q,) int64; the stored row of a query, -1 for an image that is not stored.
        exact: (Q,) bool; whether the answer is certainly the true one.
    """

    distances: NDArray[np.float32]
    rows: NDArray[np.int64]
    query_rows: NDArray[np.int64]
    exact: NDArray[np.bool_]


def tidy(
    distances: NDArray[np.float32], rows: NDArray[np.int64], k: int, without: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Leave out each query's own row, order by distance and then by row, cut to k.

    Args:
        distances: (Q, m), any order; rows -1 mean nothing found.
        rows: (Q, m) int64.
        k: columns to give; padded with -1 and `inf` if m is less.
        without: (Q,) row to leave out of each answer, -1 for none.
    """
    empty = (rows < 0) | ((rows == without[:, None]) & (without[:, None] >= 0))
    distances = np.where(empty, np.float32(np.inf), distances).astype(np.float32)
    rows = np.where(empty, np.int64(-1), rows)
    # of equal distances the lower row comes first, empty places last
    last = np.where(empty, np.iinfo(np.int64).max, rows)
    order = np.lexsort((last, distances), axis=-1)[:, :k]
    distances = np.take_along_axis(distances, order, axis=1)
    rows = np.take_along_axis(rows, order, axis=1)
    short = k - rows.shape[1]
    if short > 0:
        distances = np.pad(distances, ((0, 0), (0, short)), constant_values=np.inf)
        rows = np.pad(rows, ((0, 0), (0, short)), constant_values=-1)
    return distances, rows
