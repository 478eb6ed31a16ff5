"""The compiled inner loops over neighbours: a reservoir of the nearest for every row of a panel.

A candidate is one uint64, the bits of its key (a float32 >= 0, whose bits order as it does) above
its position, so that comparing candidates compares keys, and equal keys by position.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alike.analysis.blocks import compiled

_SHIFT = np.uint64(32)
_ZERO = np.float32(0.0)
LARGEST = np.finfo(np.float32).max
CHUNK = 32
"""Keys that are compared at once."""
FEW_STEPS = 8
"""Steps an entry up to which lists are sorted by insertion."""


@compiled
def keep_smallest(values: NDArray[np.uint64], count: int, k: int) -> None:
    """Move the `k` smallest of `values[:count]` to the front, in any order (quickselect)."""
    low, high, rank = 0, count - 1, k - 1
    while low < high:
        middle = (low + high) // 2
        a, b, c = values[low], values[middle], values[high]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if rank <= j:
            high = j
        elif rank >= i:
            low = i
        else:
            return


class Candidates(NamedTuple):
    """What the columns offered so far leave for each of m rows.

    Attributes:
        own: (m, 2) first and last + 1 position of each row's class.
        k: how many nearest are wanted.
        near: (m, cap) reservoirs, cap > k.
        counts: (m,) candidates in each.
        limits: (m,) largest key that can still be among the wanted.
        kin: (m,) farthest of the own class; 0: none yet.
    """

    own: NDArray[np.int64]
    k: int
    near: NDArray[np.uint64]
    counts: NDArray[np.int64]
    limits: NDArray[np.float32]
    kin: NDArray[np.uint64]

    def part(self, rows: slice) -> "Candidates":
        """Of some of the rows, in the same memory."""
        return Candidates(
            self.own[rows], self.k, self.near[rows], self.counts[rows], self.limits[rows],
            self.kin[rows],
        )  # fmt: skip


class Keys(NamedTuple):
    """Room for the keys of one row of a tile, read as numbers and as bits: one memory."""

    values: NDArray[np.float32]
    bits: NDArray[np.uint32]


def no_candidates(own: NDArray[np.int64], k: int) -> Candidates:
    """Nothing offered yet; `own` and `k` as in `Candidates`. With k = 0 only kin are looked for."""
    m = len(own)
    return Candidates(
        own, k, np.empty((m, 2 * k + 2 * CHUNK), dtype=np.uint64),
        np.zeros(m, dtype=np.int64), np.full(m, LARGEST if k else 0.0, dtype=np.float32),
        np.zeros(m, dtype=np.uint64),
    )  # fmt: skip


def room_for_keys(n: int) -> Keys:
    """Room for tiles of up to n columns."""
    values = np.empty(-(-n // CHUNK) * CHUNK, dtype=np.float32)
    return Keys(values, values.view(np.uint32))


@compiled
def offer(
    product: NDArray[np.float32],
    row_b: NDArray[np.float32],
    col_b: NDArray[np.float32],
    at: NDArray[np.int64],
    col_first: int,
    candidates: Candidates,
    room: Keys,
) -> None:
    """Offer every column of a tile to every row, columns in ascending order over the calls.

    Args:
        product: (m, n) z_i . z_j.
        row_b: (m,) b of the rows.
        col_b: (n,) b of the columns.
        at: (m,) positions of the rows among all images.
        col_first: position of column 0.
        candidates: of the rows, changed.
        room: scratch of n or more.
    """
    own, k, near, counts, limits, kin = candidates
    keys, bits = room
    m, n = product.shape
    cap = near.shape[1]
    for i in range(m):
        b = row_b[i]
        for j in range(n):
            keys[j] = max(b + col_b[j] - product[i, j], _ZERO)
        itself = at[i] - col_first
        start, stop = own[i, 0] - col_first, own[i, 1] - col_first
        limit, count = limits[i], counts[i]
        far = np.uint32(kin[i] >> _SHIFT)
        chunks = (n + CHUNK - 1) // CHUNK
        for j in range(chunks * CHUNK - n):
            keys[n + j] = LARGEST
        for chunk in range(chunks):
            # A count over a fixed number of keys, which a processor compares 16 at once.
            within = 0
            for j in range(CHUNK):
                within += keys[chunk * CHUNK + j] < limit
            outside = (chunk + 1) * CHUNK <= start or chunk * CHUNK >= stop
            if within == 0 and outside:
                continue
            for j in range(chunk * CHUNK, min(chunk * CHUNK + CHUNK, n)):
                if j == itself:
                    continue
                entry = (np.uint64(bits[j]) << _SHIFT) | np.uint64(col_first + j)
                if start <= j < stop and (bits[j] > far or kin[i] == np.uint64(0)):
                    kin[i] = entry
                    far = bits[j]
                if keys[j] < limit:
                    near[i, count] = entry
                    count += 1
                    if count == cap:
                        keep_smallest(near[i], count, k)
                        count = k
                        largest = near[i, 0]
                        for r in range(1, k):
                            largest = max(largest, near[i, r])
                        bits[0], held = np.uint32(largest >> _SHIFT), bits[0]
                        limit = keys[0]
                        bits[0] = held
        limits[i], counts[i] = limit, count


@compiled
def write_keys(
    product: NDArray[np.float32],
    row_b: NDArray[np.float32],
    col_b: NDArray[np.float32],
    at: NDArray[np.int64],
    col_first: int,
    own: NDArray[np.int64],
    keys: NDArray[np.float32],
    kin: NDArray[np.uint64],
) -> None:
    """Write the key of every column of a tile for every row; for lists of a large share of all.

    Args:
        product: see `offer`, as for the next four.
        row_b: (m,).
        col_b: (n,).
        at: (m,).
        col_first: position of column 0.
        own: (m, 2); see `Candidates`.
        keys: (m, N) those of the tile are written, of a row itself the largest number.
        kin: (m,) farthest of the own class, changed.
    """
    m, n = product.shape
    held = np.empty(1, dtype=np.float32)
    bits = held.view(np.uint32)
    for i in range(m):
        b = row_b[i]
        row = keys[i, col_first : col_first + n]
        for j in range(n):
            row[j] = max(b + col_b[j] - product[i, j], _ZERO)
        itself = at[i] - col_first
        bits[0] = np.uint32(kin[i] >> _SHIFT)
        far, place = held[0], -1
        start, stop = max(own[i, 0] - col_first, 0), min(own[i, 1] - col_first, n)
        for j in range(start, stop):
            if j != itself and (row[j] > far or (place < 0 and kin[i] == np.uint64(0))):
                far, place = row[j], j
        if place >= 0:
            held[0] = far
            kin[i] = (np.uint64(bits[0]) << _SHIFT) | np.uint64(col_first + place)
        if 0 <= itself < n:
            row[itself] = LARGEST


@compiled
def take_nearest(
    keys: NDArray[np.float32], last: NDArray[np.float32], near: NDArray[np.uint64]
) -> None:
    """Write the k nearest of every row, by position, as candidates.

    Args:
        keys: (m, N) of all.
        last: (m,) the k-th smallest key of each.
        near: (m, k + 1) written; what is in the last column has no meaning.
    """
    m, n = keys.shape
    k = near.shape[1] - 1
    held = np.empty(1, dtype=np.float32)
    bits = held.view(np.uint32)
    for i in range(m):
        row, limit = keys[i], last[i]
        below = 0
        for j in range(n):
            below += row[j] < limit
        equal, count = k - below, 0
        for j in range(n):
            held[0] = row[j]
            near[i, count] = (np.uint64(bits[0]) << _SHIFT) | np.uint64(j)
            if row[j] < limit:
                count += 1
            elif row[j] == limit and equal > 0:
                equal -= 1
                count += 1


@compiled
def close(near: NDArray[np.uint64], counts: NDArray[np.int64], k: int) -> None:
    """Bring the `k` nearest of every reservoir to its front."""
    for i in range(near.shape[0]):
        keep_smallest(near[i], counts[i], k)


@compiled
def keys_between(
    z: NDArray[np.float32],
    at: NDArray[np.int64],
    others: NDArray[np.float32],
    which: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Half the squared distances (n,) of `z[at[i]]` to `others[which[i]]`, from differences."""
    out = np.empty(len(at))
    for i in range(len(at)):
        a, b = z[at[i]], others[which[i]]
        total = 0.0
        for d in range(len(a)):
            apart = np.float64(a[d]) - np.float64(b[d])
            total += apart * apart
        out[i] = total / 2.0
    return out


@compiled
def unsure_keys(
    keys: NDArray[np.float64],
    size: NDArray[np.float64],
    zero: NDArray[np.bool_],
    near: float,
    tie: float,
) -> NDArray[np.bool_]:
    """Which keys (m, k) of ascending rows a product cannot tell, from 0 or from the one beside it.

    Args:
        keys: (m, k).
        size: (m,) squared lengths.
        zero: (m,) rows of which all is known.
        near: share of the squared length up to which a key may be 0.
        tie: share of it up to which two keys may be one.
    """
    m, k = keys.shape
    out = np.zeros((m, k), dtype=np.bool_)
    for i in range(m):
        if zero[i]:
            continue
        least, apart = near * size[i], tie * size[i]
        row, unsure = keys[i], out[i]
        for j in range(k):
            unsure[j] = row[j] <= least
        for j in range(k - 1):
            unsure[j] |= row[j + 1] - row[j] <= apart
        for j in range(1, k):
            unsure[j] |= row[j] - row[j - 1] <= apart
    return out


@compiled
def bring_in_order(keys: NDArray[np.float64], places: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Sort lists (m, k) by key, and by place where keys are equal, where few entries moved.

    Returns:
        (m,) the rows in which many moved, which are not sorted.
    """
    m, k = keys.shape
    left = np.zeros(m, dtype=np.bool_)
    for i in range(m):
        steps = FEW_STEPS * k
        for j in range(1, k):
            key, place, to = keys[i, j], places[i, j], j
            while to > 0 and (
                keys[i, to - 1] > key or (keys[i, to - 1] == key and places[i, to - 1] > place)
            ):
                keys[i, to], places[i, to] = keys[i, to - 1], places[i, to - 1]
                to -= 1
                steps -= 1
            keys[i, to], places[i, to] = key, place
            if steps < 0:
                left[i] = True
                break
    return left


@compiled
def pick(
    product: NDArray[np.float32],
    row_b: NDArray[np.float32],
    col_b: NDArray[np.float32],
    row_low: int,
    col_low: int,
    row_first: int,
    col_first: int,
    first: int,
    row_limits: NDArray[np.float32],
    col_limits: NDArray[np.float32],
    begin: int,
    row_near: NDArray[np.uint64],
    row_line: NDArray[np.uint16],
    row_count: int,
    col_near: NDArray[np.uint64],
    col_line: NDArray[np.uint16],
    col_count: int,
    room: Keys,
) -> tuple[int, int, int]:
    """Keep the pairs of a tile that are within the limit of the row, and of the column.

    Args:
        product: see `offer`, as for the next two.
        row_b: (m,).
        col_b: (n,).
        row_low: position of the first row of the slab; `col_low` of its first column.
        col_low: likewise.
        row_first: place of row 0 in the slab; `col_first` of column 0.
        col_first: likewise.
        first: row i is paired with the columns from max(0, i + first) on.
        row_limits: (m,) largest key that is kept of each row.
        col_limits: (n or more,) of each column; -1 beyond n, up to whole chunks.
        begin: the row to begin with.
        row_near: candidates of the rows are written from `row_count` on; `row_line` whose each is.
        row_line: likewise.
        row_count: likewise.
        col_near: the same of the columns, as for the next two.
        col_line: likewise.
        col_count: likewise.
        room: scratch of n or more.

    Returns:
        The row before which there was no more room, m if there was enough; and both new counts.
    """
    keys, bits = room
    m, n = product.shape
    chunks = (n + CHUNK - 1) // CHUNK
    for i in range(begin, m):
        start = max(0, i + first)
        if start >= n:
            return m, row_count, col_count
        if row_count + n > len(row_near) or col_count + n > len(col_near):
            return i, row_count, col_count
        b, limit = row_b[i], row_limits[i]
        for j in range(n):
            keys[j] = max(b + col_b[j] - product[i, j], _ZERO)
        for j in range(chunks * CHUNK - n):
            keys[n + j] = LARGEST
        row_at, line = np.uint64(row_low + row_first + i), np.uint16(row_first + i)
        for chunk in range(start // CHUNK, chunks):
            # See `offer`.
            within = 0
            for j in range(CHUNK):
                within += keys[chunk * CHUNK + j] <= max(limit, col_limits[chunk * CHUNK + j])
            if within == 0:
                continue
            for j in range(max(start, chunk * CHUNK), min(chunk * CHUNK + CHUNK, n)):
                entry = np.uint64(bits[j]) << _SHIFT
                if keys[j] <= limit:
                    row_near[row_count] = entry | np.uint64(col_low + col_first + j)
                    row_line[row_count] = line
                    row_count += 1
                if keys[j] <= col_limits[j]:
                    col_near[col_count] = entry | row_at
                    col_line[col_count] = np.uint16(col_first + j)
                    col_count += 1
    return m, row_count, col_count


@compiled
def farthest(
    product: NDArray[np.float32],
    row_b: NDArray[np.float32],
    col_b: NDArray[np.float32],
    row_at: int,
    col_at: int,
    first: int,
    own: NDArray[np.int64],
    row_kin: NDArray[np.uint64],
    col_kin: NDArray[np.uint64],
) -> None:
    """Find the farthest pairs of one class in a tile.

    Args:
        product: see `offer`, as for the next two.
        row_b: (m,).
        col_b: (n,).
        row_at: position of row 0; `col_at` of column 0.
        col_at: likewise.
        first: see `pick`.
        own: (m, 2) first and last + 1 position of each row's class.
        row_kin: (m,) farthest of each row, its position turned round, changed.
        col_kin: (n,) of each column.
    """
    m, n = product.shape
    held = np.empty(1, dtype=np.float32)
    bits = held.view(np.uint32)
    turned = np.uint64(0xFFFFFFFF)
    for i in range(m):
        begin, end = max(own[i, 0] - col_at, max(0, i + first)), min(own[i, 1] - col_at, n)
        best = row_kin[i]
        for j in range(begin, end):
            held[0] = max(row_b[i] + col_b[j] - product[i, j], _ZERO)
            entry = np.uint64(bits[0]) << _SHIFT
            best = max(best, entry | (turned ^ np.uint64(col_at + j)))
            col_kin[j] = max(col_kin[j], entry | (turned ^ np.uint64(row_at + i)))
        row_kin[i] = best


@compiled
def scatter(
    near: NDArray[np.uint64],
    line: NDArray[np.uint16],
    ends: NDArray[np.int64],
    out: NDArray[np.uint64],
) -> None:
    """Put candidates where those of their image are; `ends` (m,), where the next goes, moves on."""
    for e in range(len(near)):
        at = np.int64(line[e])
        out[ends[at]] = near[e]
        ends[at] += 1


@compiled
def nearest_of(
    near: NDArray[np.uint64], starts: NDArray[np.int64], best: NDArray[np.uint64]
) -> NDArray[np.bool_]:
    """Choose the k nearest of the candidates of each image.

    Args:
        near: candidates, image by image; their order changes.
        starts: (m + 1,) where those of each image begin.
        best: (m, k) written, ascending.

    Returns:
        (m,) whether there were k; the others are not written.
    """
    m, k = best.shape
    enough = np.zeros(m, dtype=np.bool_)
    for i in range(m):
        some = near[starts[i] : starts[i + 1]]
        if len(some) < k:
            continue
        keep_smallest(some, len(some), k)
        some = some[:k]
        some.sort()
        best[i] = some
        enough[i] = True
    return enough
