"""Candidates of the nearest by products in bfloat16, among which every true neighbour is.

Where a processor multiplies bfloat16 faster than float32, it tells which images can be near, and
float32 then measures those alone. With z' rounded and e what rounding took (Cauchy-Schwarz),

    |z_i . z_j - z'_i . z'_j|  <=  |z_i| |e_j| + |e_i| |z'_j|

and the product itself is rounded to bfloat16 at the end, by at most 2^-8 of it. So each key has a
lower and an upper bound. At least k keys are at most the k-th smallest upper bound, so an image
whose lower bound is above it is not among the k nearest. This is certain, not likely. Where too
many images are left, the row is done again in float32.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alike.analysis.blocks import Vectors, blocks, coarse_bits, compiled, rounded
from alike.analysis.neighbours.kernels import (
    CHUNK,
    LARGEST,
    Keys,
    keep_smallest,
    room_for_keys,
)

ROOM = 3
"""Candidates that a row has room for, in units of k."""
ROWS, COLUMNS = 256, 4096
"""One product: wide, since what a row keeps lies elsewhere in memory for every row."""
FEW = 50
"""One neighbour of so many images is worth it at most: each candidate is measured again."""
TRIED = 256
"""Rows of the trial."""
SHARE, LARGEST_SAMPLE = 32, 8192
"""One column of so many tells what to expect of all, and at most so many do."""
MOST = 2.25
"""Candidates a row, in units of k, up to which it is worth it."""
B_ROUNDING = np.float32(2.0**-21)
"""Share of |b| by which sums of three float32 numbers may be wrong, several times over."""

LAST_ROUNDING = np.float32(2.0**-8 * (1.0 + 2.0**-7))
"""Share of a product by which it is rounded at the end, and a little more."""
TWICE = np.float32(2.0)

Singles = NDArray[np.float32]


class Rounded(NamedTuple):
    """Vectors in bfloat16, and what the bounds need of each.

    Attributes:
        near: (n, D) as `coarse_bits` takes them.
        norm: (n,) at least the length of the vector, and of the rounded one.
        lost: (n,) at least |e| and half the share of the length that sums may be wrong by.
        b: (n,) float32.
    """

    near: Any
    norm: Singles
    lost: Singles
    b: Singles

    def part(self, low: int, high: int) -> "Rounded":
        """Of some of the vectors."""
        return Rounded(*(each[low:high] for each in self))


class Bounded(NamedTuple):
    """Candidates of m rows, each a lower bound of its key above a position, as in `kernels`.

    Attributes:
        k: how many nearest are wanted.
        near: (m, cap) reservoirs.
        counts: (m,) candidates in each; -1: they did not fit.
        limits: (m,) largest lower bound that can still be among the wanted.
        every: norm, lost and b (N,) of all columns offered so far; see `Rounded`.
    """

    k: int
    near: NDArray[np.uint64]
    counts: NDArray[np.int64]
    limits: Singles
    every: tuple[Singles, Singles, Singles]


def round_up(z: Singles, b: NDArray[np.float64]) -> Rounded:
    """Vectors (n, D) and their b, rounded; lengths are rounded up."""
    near, wide = rounded(z)
    norm, lost = np.empty((2, len(z)), dtype=np.float32)
    _lengths(z, wide, norm, lost)
    return Rounded(near, norm, lost, b.astype(np.float32))


def coarse_helps(vectors: Vectors, k: int) -> bool:
    """Whether bounds leave few enough candidates, by a trial on some rows and columns.

    Where distances are all nearly the same, or far smaller than vectors are long, they do not.
    """
    if k * FEW > vectors.n:
        return False
    z, b = vectors.sample(_sample_size(vectors.n))
    cols = round_up(z, b)
    asking = np.linspace(0, len(z) - 1, min(TRIED, len(z))).astype(int)
    keys = np.maximum(b[asking, None] + b - z[asking] @ z.T, 0.0)
    margin = cols.norm[asking, None] * cols.lost + cols.lost[asking, None] * cols.norm
    margin += LAST_ROUNDING * np.abs(b[asking, None] + b - keys)
    keys[np.arange(len(asking)), asking] = np.inf
    wanted = max(4, round(k * len(z) / vectors.n))
    limit = np.partition(keys + margin, wanted - 1, axis=1)[:, wanted - 1]
    left = (keys - margin <= limit[:, None]).sum(axis=1)
    return float(np.mean(left)) <= MOST * wanted


def coarse_nearest(
    vectors: Vectors,
    at: NDArray[np.int64],
    z: Singles,
    b: NDArray[np.float64],
    k: int,
) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """The k nearest others of some images.

    Args:
        vectors: all.
        at: (m,) positions of those that ask.
        z: (m, D) of them.
        b: (m,) of them.
        k: how many.

    Returns:
        (m, k) float32 keys and positions as in `kernels`, ascending, and (m,) whether the row was
        done; the others have no meaning.
    """
    n = vectors.n
    rows, room = round_up(z, b), room_for_keys(COLUMNS)
    found = _nothing_found(len(at), k, n)
    found.limits[:] = _expected_limits(rows, vectors, k)
    for start, stop in blocks(n, vectors.dim):
        _offer_all(rows, round_up(*vectors.block(start, stop)), at, start, found, room)
    _close_bounds(found.k, found.near, found.counts, found.limits, *rows[1:], *found.every)
    measured = np.zeros(len(at), dtype=np.int64)
    for start, stop in blocks(n, vectors.dim):
        others, b_others = vectors.block(start, stop)
        _measure(
            found.near, found.counts, measured, start, z, rows.b, others,
            b_others.astype(np.float32), room,
        )  # fmt: skip
    _sort(found.near, found.counts)
    # A copy: what else a row had room for goes.
    return found.near[:, :k].copy(), found.counts >= k


def _expected_limits(rows: Rounded, vectors: Vectors, k: int) -> Singles:
    """Limits (m,) that some more than k others of each row are expected within, by a sample.

    Too low a limit leaves a row undone, too high a one costs time; neither gives a wrong answer.
    """
    z, b = vectors.sample(_sample_size(vectors.n))
    wanted = k * len(z) / vectors.n
    # Four standard errors more, and the row itself.
    rank = int(wanted + 4.0 * wanted**0.5) + 5
    if 2 * rank > len(z):
        return np.full(len(rows.b), LARGEST, dtype=np.float32)
    found, nobody = _nothing_found(len(rows.b), rank, len(z)), np.full(len(rows.b), -1)
    room = room_for_keys(COLUMNS)
    _offer_all(rows, round_up(z, b), nobody, 0, found, room)
    _close_bounds(found.k, found.near, found.counts, found.limits, *rows[1:], *found.every)
    return np.where(found.counts < 0, LARGEST, found.limits)


def _sample_size(n: int) -> int:
    return int(np.clip(n // SHARE, TRIED, LARGEST_SAMPLE))


def _nothing_found(m: int, k: int, n: int) -> Bounded:
    return Bounded(
        k, np.empty((m, ROOM * k + 2 * CHUNK), dtype=np.uint64), np.zeros(m, dtype=np.int64),
        np.full(m, LARGEST, dtype=np.float32),
        (np.zeros(n, np.float32), np.zeros(n, np.float32), np.zeros(n, np.float32)),
    )  # fmt: skip


def _offer_all(
    rows: Rounded, others: Rounded, at: NDArray[np.int64], start: int, found: Bounded, room: Keys
) -> None:
    """Offer images from position `start` on to all rows, tile by tile."""
    for whole, part in zip(found.every, others[1:], strict=True):
        whole[start : start + len(part)] = part
    for first in range(0, len(others.b), COLUMNS):
        cols = others.part(first, first + COLUMNS)
        for low in range(0, len(at), ROWS):
            some = slice(low, low + ROWS)
            _offer_bounds(
                coarse_bits(rows.near[some], cols.near), rows.norm[some], rows.lost[some],
                rows.b[some], *cols[1:], at[some], start + first, found.k, found.near[some],
                found.counts[some], found.limits[some], *found.every, room,
            )  # fmt: skip


@compiled
def _lengths(z: Singles, wide: Singles, norm: Singles, lost: Singles) -> None:
    """Fill in `norm` and `lost` of `Rounded`, of vectors and what rounding left of them."""
    dim = z.shape[1]
    up = 1.0 + 2.0**-20
    # Sums of float32: half of what they round is each side's.
    product = dim * 2.0**-24
    for i in range(len(z)):
        before, after, gone = 0.0, 0.0, 0.0
        for d in range(dim):
            one, other = np.float64(z[i, d]), np.float64(wide[i, d])
            before += one * one
            after += other * other
            gone += (one - other) * (one - other)
        length = np.sqrt(max(before, after))
        norm[i] = length * up
        lost[i] = (np.sqrt(gone) + product * length) * up


@compiled
def _offer_bounds(
    bits: NDArray[np.uint16],
    norm: Singles,
    lost: Singles,
    b: Singles,
    col_norm: Singles,
    col_lost: Singles,
    col_b: Singles,
    at: NDArray[np.int64],
    col_first: int,
    k: int,
    near: NDArray[np.uint64],
    counts: NDArray[np.int64],
    limits: Singles,
    every_norm: Singles,
    every_lost: Singles,
    every_b: Singles,
    room: Keys,
) -> None:
    """Offer every column of a tile to every row.

    Args:
        bits: (m, n) of the products.
        norm: (m,) of the rows; see `Rounded`, as for the next two.
        lost: (m,).
        b: (m,).
        col_norm: (n,) of the columns; as for the next two.
        col_lost: (n,).
        col_b: (n,).
        at: (m,) positions of the rows.
        col_first: position of column 0.
        k: see `Bounded`, as for the next three, which are changed.
        near: (m, cap).
        counts: (m,).
        limits: (m,).
        every_norm: (N,) of all columns so far; as for the next two.
        every_lost: (N,).
        every_b: (N,).
        room: scratch of n or more.
    """
    lower, as_bits = room
    m, n = bits.shape
    cap = near.shape[1]
    upper = np.empty(cap, dtype=np.uint64)
    for i in range(m):
        if counts[i] < 0:
            continue
        length, gone = norm[i], lost[i]
        base = b[i] - B_ROUNDING * abs(b[i])
        itself = at[i] - col_first
        for j in range(n):
            as_bits[j] = np.uint32(bits[i, j]) << np.uint32(16)
        for j in range(n):
            margin = length * col_lost[j] + gone * col_norm[j] + B_ROUNDING * abs(col_b[j])
            margin += LAST_ROUNDING * abs(lower[j])
            lower[j] = max(base + col_b[j] - margin - lower[j], np.float32(0.0))
        chunks = (n + CHUNK - 1) // CHUNK
        for j in range(chunks * CHUNK - n):
            lower[n + j] = LARGEST
        limit, count = limits[i], counts[i]
        for chunk in range(chunks):
            # See `kernels.offer`.
            within = 0
            for j in range(CHUNK):
                within += lower[chunk * CHUNK + j] <= limit
            if within == 0:
                continue
            for j in range(chunk * CHUNK, min(chunk * CHUNK + CHUNK, n)):
                if lower[j] > limit or j == itself or count < 0:
                    continue
                near[i, count] = (np.uint64(as_bits[j]) << np.uint64(32)) | np.uint64(col_first + j)
                count += 1
                if count == cap:
                    last = _last_bound(
                        near[i], count, k, length, gone, b[i], every_norm, every_lost,
                        every_b, upper,
                    )  # fmt: skip
                    count = _drop_above(near[i], count, last)
                    kept, as_bits[0] = as_bits[0], last
                    limit = min(limit, lower[0])
                    as_bits[0] = kept
                    if count > cap - CHUNK:
                        count = -1
        limits[i], counts[i] = limit, count


@compiled
def _last_bound(
    near: NDArray[np.uint64],
    count: int,
    k: int,
    length: np.float32,
    gone: np.float32,
    b: np.float32,
    every_norm: Singles,
    every_lost: Singles,
    every_b: Singles,
    upper: NDArray[np.uint64],
) -> np.uint32:
    """Bits of the k-th smallest upper bound among the candidates of a row."""
    value = np.empty(1, dtype=np.float32)
    bits = value.view(np.uint32)
    for r in range(count):
        j = np.int64(near[r] & np.uint64(0xFFFFFFFF))
        bits[0] = np.uint32(near[r] >> np.uint64(32))
        margin = length * every_lost[j] + gone * every_norm[j]
        margin += B_ROUNDING * (abs(b) + abs(every_b[j]))
        # The product, from its key; where the bound was cut off at 0, its largest.
        product = length * every_norm[j]
        if value[0] > np.float32(0.0):
            product = abs(b + every_b[j] - margin - value[0])
        value[0] += TWICE * (
            margin + LAST_ROUNDING * (np.float32(1.0) + TWICE * LAST_ROUNDING) * product
        )
        upper[r] = (np.uint64(bits[0]) << np.uint64(32)) | np.uint64(r)
    keep_smallest(upper, count, k)
    last = upper[0]
    for r in range(1, k):
        last = max(last, upper[r])
    return np.uint32(last >> np.uint64(32))


@compiled
def _drop_above(near: NDArray[np.uint64], count: int, last: np.uint32) -> int:
    """Keep the candidates whose lower bounds have bits of at most `last`, in front; how many."""
    kept = 0
    for r in range(count):
        if np.uint32(near[r] >> np.uint64(32)) <= last:
            near[kept] = near[r]
            kept += 1
    return kept


@compiled
def _close_bounds(
    k: int,
    near: NDArray[np.uint64],
    counts: NDArray[np.int64],
    limits: Singles,
    norm: Singles,
    lost: Singles,
    b: Singles,
    every_norm: Singles,
    every_lost: Singles,
    every_b: Singles,
) -> None:
    """Drop what cannot be wanted, and leave positions alone, ascending; the last limits.

    A row whose k-th upper bound is above its limit may have lost some: its count becomes -1.
    """
    upper = np.empty(near.shape[1], dtype=np.uint64)
    value = np.empty(1, dtype=np.float32)
    bits = value.view(np.uint32)
    for i in range(near.shape[0]):
        count = counts[i]
        if count < k:
            counts[i] = -1
            continue
        last = _last_bound(
            near[i], count, k, norm[i], lost[i], b[i], every_norm, every_lost, every_b, upper
        )
        bits[0] = last
        if value[0] > limits[i]:
            counts[i] = -1
            continue
        limits[i] = value[0]
        count = _drop_above(near[i], count, last)
        for r in range(count):
            near[i, r] &= np.uint64(0xFFFFFFFF)
        near[i, :count].sort()
        counts[i] = count


@compiled
def _measure(
    near: NDArray[np.uint64],
    counts: NDArray[np.int64],
    measured: NDArray[np.int64],
    start: int,
    z: Singles,
    b: Singles,
    z_others: Singles,
    b_others: Singles,
    room: Keys,
) -> None:
    """Put float32 keys above the positions within a block; `measured` (m,) counts those done."""
    keys, bits = room
    stop = start + len(z_others)
    for i in range(near.shape[0]):
        r = measured[i]
        while r < counts[i] and np.int64(near[i, r]) < stop:
            j = np.int64(near[i, r]) - start
            other, total = z_others[j], np.float32(0.0)
            for d in range(z.shape[1]):
                total += z[i, d] * other[d]
            keys[0] = max(b[i] + b_others[j] - total, np.float32(0.0))
            near[i, r] |= np.uint64(bits[0]) << np.uint64(32)
            r += 1
        measured[i] = r


@compiled
def _sort(near: NDArray[np.uint64], counts: NDArray[np.int64]) -> None:
    """Bring every row in order."""
    for i in range(near.shape[0]):
        if counts[i] > 0:
            near[i, : counts[i]].sort()
