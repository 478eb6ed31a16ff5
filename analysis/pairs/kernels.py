"""The compiled inner loops over pairs; each reads a matrix product that BLAS has just made.

All take `product` (m, n) = z_i . z_j, float32 or the bits of bfloat16, and a `scale`, so that
b_i + b_j - scale * product is the number of the bin, or what `Cells` map to one. They release the
GIL, so threads of one process share the work. Loops run from 0 over slices: with another start
numba guards every index against being negative, and nothing is vectorised.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

from alike.analysis.blocks import Entries, compiled, widened
from alike.analysis.pairs.bins import CELL_BITS, TILE, Cells

GROUP = 32
"""Bins that are moved at once."""
STRIP = 32
"""Rows whose bins are held at once: 128 KiB, which the second cache holds."""


class Scratch(NamedTuple):
    """Room for the bins of a strip of rows.

    Attributes:
        bins: uint32 (STRIP, TILE).
        x: float32 (TILE,).
    """

    bins: NDArray[np.uint32]
    x: NDArray[np.float32]


def scratch() -> Scratch:
    """Room for one thread."""
    return Scratch(np.empty((STRIP, TILE), np.uint32), np.empty(TILE, np.float32))


_ONE = np.uint32(1)
_ZERO_COUNT = np.uint32(0)
_ZERO = np.float32(0.0)
_CELL = np.uint32(CELL_BITS)
_REST = np.uint32((1 << CELL_BITS) - 1)


@intrinsic  # type: ignore[untyped-decorator]
def _widened(context: Any, bits: Any) -> Any:
    """The number of bits of bfloat16, in float32."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        wide = builder.shl(builder.zext(given[0], ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
        return builder.bitcast(wide, ir.FloatType())

    return types.float32(bits), code


def _number(entry: Any) -> Any:
    """An entry of a product in float32, bits of bfloat16 widened; compiled by what follows."""
    return widened(np.asarray(entry)) if isinstance(entry, np.uint16) else entry


@overload(_number)  # type: ignore[untyped-decorator]
def _compiled_number(entry: Any) -> Callable[[Any], Any]:
    def wide(entry: Any) -> Any:
        return _widened(entry)

    def as_it_is(entry: Any) -> Any:
        return entry

    return wide if isinstance(entry, types.Integer) else as_it_is


@njit(nogil=True, fastmath={"nnan", "nsz", "contract"}, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def place_row(
    row: Entries,
    b: np.float32,
    col_b: NDArray[np.float32],
    scale: np.float32,
    top: np.float32,
    cells: Cells,
    x: NDArray[np.float32],
    into: NDArray[np.uint32],
) -> None:
    """Write the bin of every pair of one row.

    Sums are not reordered, since b + col_b may cancel and leave a small product exact.

    Args:
        row: (n,) products, float32 or the bits of bfloat16.
        b: of the row, less the first bin.
        col_b: (n,) b of the columns.
        scale: of the product.
        top: the last bin.
        cells: of `Bins`; none: keys are in units of bins.
        x: (n,) scratch.
        into: (n,) written.
    """
    if not len(cells.base):
        for j in range(len(into)):
            key = min(max(b + col_b[j] - scale * _number(row[j]), _ZERO), top)
            into[j] = np.uint32(np.int32(key))
        return
    for j in range(len(into)):
        x[j] = min(max(b + col_b[j] - scale * _number(row[j]), cells.floor), cells.ceiling)
    bits = x.view(np.uint32)
    start = cells.start
    for j in range(len(into)):
        at = np.uint32(bits[j] - start)
        cell = at >> _CELL
        rest = np.uint32((at & _REST) >> cells.drop)
        inside = np.uint32(rest * cells.bins[cell]) >> np.uint32(_CELL - cells.drop)
        into[j] = ((cells.base[cell] + inside) ^ cells.flip) >> cells.shift


@njit(nogil=True, fastmath={"nnan", "nsz", "contract"}, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def place_rows(
    product: Entries,
    row_b: NDArray[np.float32],
    col_b: NDArray[np.float32],
    scale: np.float32,
    top: np.float32,
    cells: Cells,
    into: NDArray[np.uint32],
) -> None:
    """Write the bins (m, n) of all pairs of a product; see `place_row`."""
    x = np.empty(len(col_b), np.float32)
    for i in range(product.shape[0]):
        place_row(product[i], row_b[i], col_b, scale, top, cells, x, into[i])


@compiled
def count_tile(
    product: Entries,
    row_b: NDArray[np.float32],
    col_b: NDArray[np.float32],
    scale: np.float32,
    first: int,
    cells: Cells,
    edges: NDArray[np.int64],
    row_part: NDArray[np.int64],
    slots: NDArray[np.int64],
    shift: int,
    counts: NDArray[np.uint32],
    kinds: NDArray[np.int64],
    fine: NDArray[np.uint32],
    even: NDArray[np.float64],
    weights: NDArray[np.float64],
    scratch: Scratch,
) -> None:
    """Add every pair of a tile to the histogram of its classes and, if given, to finer ones.

    Strips of rows of one class are counted against one class of columns after the other, so that
    the histogram which grows stays in the cache.

    Args:
        product: (m, n).
        row_b: (m,) b of the rows, less the first bin, in units of bins.
        col_b: (n,) b of the columns.
        scale: of the product.
        first: row i is paired with the columns from max(0, i + first) on.
        cells: of `Bins`.
        edges: (S + 1,) where the classes of the columns begin.
        row_part: (m,) part of each row, ascending.
        slots: (R, S) histogram of row part r with column part s.
        shift: a bin of `counts` joins 2^shift fine ones.
        counts: (H, B >> shift), added to.
        kinds: (R, S) row of `fine` for row part r with column part s.
        fine: (K, B) added to; (K, 0): not wanted.
        even: (K, B) likewise, a pair of the classes adds its weight; (K, 0): not wanted.
        weights: (R, S) of them.
        scratch: room for a strip.
    """
    m, n = product.shape
    top = np.float32((counts.shape[1] << shift) - 1)
    shift_32 = np.uint32(shift)
    low = 0
    while low < m:
        r = row_part[low]
        high = low
        while high < m and high - low < len(scratch.bins) and row_part[high] == r:
            begin = min(max(high + first, 0), n)
            place_row(
                product[high, begin:], row_b[high], col_b[begin:], scale, top, cells,
                scratch.x[begin:n], scratch.bins[high - low, begin:n],
            )  # fmt: skip
            high += 1
        for s in range(len(edges) - 1):
            histogram, fine_histogram = counts[slots[r, s]], fine[kinds[r, s]]
            balanced, weight = even[kinds[r, s]], weights[r, s]
            for i in range(low, high):
                bins = scratch.bins[i - low]
                # Unsigned, so that numba does not guard against a negative index.
                begin, end = np.uint64(max(i + first, edges[s])), np.uint64(edges[s + 1])
                if len(fine_histogram):
                    for j in range(begin, end):
                        fine_histogram[bins[j]] += _ONE
                        histogram[bins[j] >> shift_32] += _ONE
                else:
                    for j in range(begin, end):
                        histogram[bins[j]] += _ONE
                if len(balanced):
                    for j in range(begin, end):
                        balanced[bins[j]] += weight
        low = high


@compiled
def count_layers(
    product: Entries,
    row_b: NDArray[np.float32],
    col_b: NDArray[np.float32],
    scale: np.float32,
    first: int,
    cells: Cells,
    edges: NDArray[np.int64],
    row_part: NDArray[np.int64],
    shift: int,
    kinds: NDArray[np.int64],
    fine: NDArray[np.uint32],
    even: NDArray[np.float64],
    weights: NDArray[np.float64],
    scratch: Scratch,
    parts: NDArray[np.uint32],
    row_at: NDArray[np.int64],
    col_at: NDArray[np.int64],
    slot: NDArray[np.int64],
    row_weight: NDArray[np.float64],
    col_weight: NDArray[np.float64],
    rows: NDArray[np.float64],
    cols: NDArray[np.float64],
    pairs: NDArray[np.uint32],
) -> None:
    """Count a tile and move its histograms to the layers, one class of rows after the other.

    So only the histograms of one class of rows with all classes of columns are in use at a time,
    which the second cache holds.

    Args:
        product: (m, n), as in `count_tile`; so are all up to `scratch`, but for `slots`.
        row_b: as in `count_tile`.
        col_b: as in `count_tile`.
        scale: as in `count_tile`.
        first: as in `count_tile`.
        cells: as in `count_tile`.
        edges: as in `count_tile`.
        row_part: as in `count_tile`.
        shift: as in `count_tile`.
        kinds: as in `count_tile`.
        fine: as in `count_tile`.
        even: as in `count_tile`.
        weights: as in `count_tile`.
        scratch: as in `count_tile`.
        parts: (S, B) zeros, and zeros again afterwards.
        row_at: (R,) as in `flush_row`; so are all that follow.
        col_at: (S,) as in `flush_row`.
        slot: (R', S'), of all rows; as in `flush_row`.
        row_weight: as in `flush_row`.
        col_weight: as in `flush_row`.
        rows: as in `flush_row`.
        cols: as in `flush_row`.
        pairs: as in `flush_row`.
    """
    slots = np.arange(len(parts)).reshape(1, len(parts))
    low = 0
    while low < len(row_part):
        r = row_part[low]
        high = low
        while high < len(row_part) and row_part[high] == r:
            high += 1
        count_tile(
            product[low:high], row_b[low:high], col_b, scale, first + low, cells, edges,
            row_part[low:high] - r, slots, shift, parts, kinds[r : r + 1], fine, even,
            weights[r : r + 1], scratch,
        )  # fmt: skip
        flush_row(
            parts, row_at[r], col_at, slot[row_at[r]], kinds[r], row_weight, col_weight, rows,
            cols, pairs,
        )  # fmt: skip
        low = high


@compiled
def count_directly(
    product: Entries,
    row_b: NDArray[np.float32],
    col_b: NDArray[np.float32],
    scale: np.float32,
    first: int,
    cells: Cells,
    edges: NDArray[np.int64],
    row_part: NDArray[np.int64],
    shift: int,
    kinds: NDArray[np.int64],
    fine: NDArray[np.uint32],
    even: NDArray[np.float64],
    weights: NDArray[np.float64],
    scratch: Scratch,
    row_at: NDArray[np.int64],
    col_at: NDArray[np.int64],
    slot: NDArray[np.int64],
    row_weight: NDArray[np.float64],
    col_weight: NDArray[np.float64],
    rows: NDArray[np.float64],
    cols: NDArray[np.float64],
    pairs: NDArray[np.uint32],
) -> None:
    """Count a tile straight into the layers; as `count_layers` does, which names the arguments.

    For classes so small that two of them have fewer pairs in a tile than a histogram has bins:
    moving histograms would take longer than making them.
    """
    m, n = product.shape
    bins = scratch.bins[0]
    bin_shift = np.uint32(shift)
    factor = rows.shape[2] // pairs.shape[1]
    top = np.float32((rows.shape[2] << shift) - 1)
    for i in range(m):
        start = min(max(i + first, 0), n)
        place_row(
            product[i, start:], row_b[i], col_b[start:], scale, top, cells, scratch.x[start:n],
            bins[start:n],
        )  # fmt: skip
        r = row_part[i]
        row = row_at[r]
        for s in range(len(edges) - 1):
            low, high = max(start, edges[s]), edges[s + 1]
            if low >= high:
                continue
            kind, col = kinds[r, s], col_at[s]
            into, other, place = rows[row, kind], cols[col], slot[row, col]
            ahead = col_weight[col] if kind == 1 else 1.0
            back = row_weight[row] if kind == 1 else 0.0
            for j in range(low, high):
                k = bins[j] >> bin_shift
                into[k] += ahead
                other[k] += back
                if place >= 0:
                    pairs[place, k // factor] += _ONE
            if fine.shape[1]:
                for j in range(low, high):
                    fine[kind, bins[j]] += _ONE
            if even.shape[1]:
                weight = weights[r, s]
                for j in range(low, high):
                    even[kind, bins[j]] += weight


@compiled
def flush_row(
    parts: NDArray[np.uint32],
    row: int,
    col_at: NDArray[np.int64],
    slot: NDArray[np.int64],
    kinds: NDArray[np.int64],
    row_weight: NDArray[np.float64],
    col_weight: NDArray[np.float64],
    rows: NDArray[np.float64],
    cols: NDArray[np.float64],
    pairs: NDArray[np.uint32],
) -> None:
    """Move the histograms of one class of rows to those of classes and of pairs of classes.

    Args:
        parts: (S, B), zeroed.
        row: place of the row class in `rows`.
        col_at: (S,) place of each column part in `cols` and `slot`.
        slot: (S',) place of the row class with each column class in `pairs`; -1: not wanted.
        kinds: (S,) 0 where the column part is of the row's class, else 1.
        row_weight: (R',) of the row classes among the others of a column class.
        col_weight: (S',) of the column classes among the others of a row class.
        rows: (R', 2, B) same and weighed different of row classes, added to.
        cols: (S', B) weighed different of column classes, added to.
        pairs: (P, B // f), added to, f bins joined.
    """
    factor = parts.shape[1] // pairs.shape[1]
    for s in range(parts.shape[0]):
        kind, col = kinds[s], col_at[s]
        part, into, other, place = parts[s], rows[row, kind], cols[col], slot[col]
        ahead = col_weight[col] if kind == 1 else 1.0
        back = row_weight[row] if kind == 1 else 0.0
        # In groups of a length that the compiler knows, many of which hold no pair.
        rest = len(part) % GROUP
        for low in range(0, len(part) - rest, GROUP):
            joined = part[low : low + GROUP]
            total = _ZERO_COUNT
            for j in range(GROUP):
                total += joined[j]
            if total == 0:
                continue
            ours, theirs = into[low : low + GROUP], other[low : low + GROUP]
            for j in range(GROUP):
                count = np.float64(joined[j])
                ours[j] += ahead * count
                theirs[j] += back * count
            if place >= 0:
                if factor >= GROUP:
                    pairs[place, low // factor] += total
                elif factor == 1:
                    same = pairs[place, low : low + GROUP]
                    for j in range(GROUP):
                        same[j] += joined[j]
                else:
                    for k in range(GROUP // factor):
                        total = _ZERO_COUNT
                        for j in range(factor):
                            total += joined[k * factor + j]
                        pairs[place, low // factor + k] += total
            for j in range(GROUP):
                joined[j] = _ZERO_COUNT
        for k in range(len(part) - rest, len(part)):
            into[k] += ahead * part[k]
            other[k] += back * part[k]
            if place >= 0:
                pairs[place, k // factor] += part[k]
            part[k] = _ZERO_COUNT


@compiled
def add_pairs(
    pairs: NDArray[np.int64],
    part: NDArray[np.uint32],
    slots: NDArray[np.int64],
    row_classes: NDArray[np.int64],
    col_classes: NDArray[np.int64],
) -> None:
    """Add the histograms of a slab's pairs of classes to those of all.

    Args:
        pairs: (P, B) added to.
        part: (R, S, B).
        slots: (R, S) row of `pairs`.
        row_classes: (R,); pairs of a row class after the column class are left out.
        col_classes: (S,).
    """
    for r in range(len(row_classes)):
        for s in range(len(col_classes)):
            if row_classes[r] <= col_classes[s]:
                into, more = pairs[slots[r, s]], part[r, s]
                for k in range(len(into)):
                    into[k] += np.int64(more[k])


@compiled
def count_near(
    product: Entries,
    row_b: NDArray[np.float32],
    col_b: NDArray[np.float32],
    scale: np.float32,
    first: int,
    cells: Cells,
    row_code: NDArray[np.int64],
    col_code: NDArray[np.int64],
    edge: np.uint32,
    top: np.float32,
    near: NDArray[np.uint32],
) -> None:
    """Count the pairs of each two classes whose bin is below an edge.

    Args:
        product: (m, n), as in `count_tile`.
        row_b: as in `count_tile`.
        col_b: as in `count_tile`.
        scale: as in `count_tile`.
        first: as in `count_tile`.
        cells: of `Bins`.
        row_code: (m,) class of each row.
        col_code: (n,) class of each column.
        edge: the first bin that does not count.
        top: the last bin.
        near: (C, C) added to, [a, b] and [b, a].
    """
    m, n = product.shape
    x, bins = np.empty(n, np.float32), np.empty(n, np.uint32)
    for i in range(m):
        begin = min(max(i + first, 0), n)
        place_row(
            product[i, begin:], row_b[i], col_b[begin:], scale, top, cells, x[begin:n], bins[begin:]
        )
        a = row_code[i]
        for j in range(begin, n):
            if bins[j] < edge:
                b = col_code[j]
                near[a, b] += _ONE
                if a != b:
                    near[b, a] += _ONE
