"""Compiled loops of the searches: keep the smallest bounds, measure the candidates.

They release the interpreter's lock, so that threads share the queries; compiled code is kept on
the disk by numba.
"""

from typing import Any

import numba
import numpy as np

SENTINEL = np.int16(32767)
STEP = 64


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _least(part: Any) -> Any:
    """Smallest of some int16.

    Widened and written out, because only of this form the compiler makes a vector loop (0.02 ms
    for 256 x 2048 scores, where `min` takes 0.4 ms).
    """
    least = np.int32(SENTINEL)
    for at in range(part.size):
        score = np.int32(part[at])
        least = score if score < least else least
    return least


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def select_smallest(scores: Any, best: Any, place: Any, first: int) -> None:
    """Keep the M smallest scores of every line seen so far, ascending.

    Args:
        scores: (Q, B) int16, scores of rows `first` to `first + B`.
        best: (Q, M) int16, ascending; `SENTINEL` if nothing was seen yet; changed in place.
        place: (Q, M) int64, rows of `best`; changed in place.
        first: row of the first column.
    """
    width = scores.shape[1]
    last = best.shape[1] - 1
    for line in range(scores.shape[0]):
        row = scores[line]
        worst = best[line, last]
        for low in range(0, width, STEP):
            high = min(low + STEP, width)
            # of most steps this tells that nothing in them is wanted
            if _least(row[low:high]) >= worst:
                continue
            for at in range(low, high):
                score = row[at]
                if score < worst:
                    slot = last
                    while slot > 0 and best[line, slot - 1] > score:
                        best[line, slot] = best[line, slot - 1]
                        place[line, slot] = place[line, slot - 1]
                        slot -= 1
                    best[line, slot] = score
                    place[line, slot] = first + at
                    worst = best[line, last]


@numba.njit(nogil=True, cache=True, fastmath=True)  # type: ignore[untyped-decorator]
def _measure(query: Any, rows: Any, out: Any, vectors: Any) -> None:
    """Squared distances of one query, four rows at a time.

    They lie anywhere in memory, and one by one the processor would mostly wait for it.
    """
    slot, count = 0, len(rows)
    while slot < count:
        if (
            slot + 4 <= count
            and rows[slot] >= 0
            and rows[slot + 1] >= 0
            and rows[slot + 2] >= 0
            and rows[slot + 3] >= 0
        ):
            a, b = vectors[rows[slot]], vectors[rows[slot + 1]]
            c, d = vectors[rows[slot + 2]], vectors[rows[slot + 3]]
            p, q, r, s = np.float32(0.0), np.float32(0.0), np.float32(0.0), np.float32(0.0)
            for at in range(query.size):
                x = query[at]
                p += (x - a[at]) * (x - a[at])
                q += (x - b[at]) * (x - b[at])
                r += (x - c[at]) * (x - c[at])
                s += (x - d[at]) * (x - d[at])
            out[slot], out[slot + 1], out[slot + 2], out[slot + 3] = p, q, r, s
            slot += 4
            continue
        if rows[slot] < 0:
            out[slot] = np.float32(np.inf)
        else:
            a, p = vectors[rows[slot]], np.float32(0.0)
            for at in range(query.size):
                p += (query[at] - a[at]) * (query[at] - a[at])
            out[slot] = p
        slot += 1


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def squared_distances(queries: Any, place: Any, out: Any, vectors: Any) -> None:
    """Squared Euclidean distances of chosen rows.

    Args:
        queries: (Q, D) float32.
        place: (Q, M) int64 rows; -1 gives infinity.
        out: (Q, M) float32, filled.
        vectors: (N, D) float32.
    """
    for line in range(queries.shape[0]):
        _measure(queries[line], place[line], out[line], vectors)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def nearest_of(queries: Any, place: Any, near: Any, nearest: Any, vectors: Any) -> None:
    """The nearest of chosen rows, equal distances in the order of rows.

    Args:
        queries: (Q, D) float32.
        place: (Q, M) int64 rows, -1 for none; M at least k.
        near: (Q, k) float32, filled: squared distances, ascending.
        nearest: (Q, k) int64, filled: their rows.
        vectors: (N, D) float32.
    """
    every = np.empty(place.shape[1], dtype=np.float32)
    k = near.shape[1]
    for line in range(queries.shape[0]):
        rows, least, winners = place[line], near[line], nearest[line]
        _measure(queries[line], rows, every, vectors)
        size = 0
        for at in range(len(rows)):
            one, row = every[at], rows[at]
            if size == k:
                last = k - 1
                if one > least[last] or (one == least[last] and row > winners[last]):
                    continue
            else:
                last = size
                size += 1
            while last > 0 and (
                least[last - 1] > one or (least[last - 1] == one and winners[last - 1] > row)
            ):
                least[last], winners[last] = least[last - 1], winners[last - 1]
                last -= 1
            least[last], winners[last] = one, row
