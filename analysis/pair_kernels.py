"""The compiled inner loops over pairs; each reads a matrix product that BLAS has just made.

All take `product` (m, n) float32 = z_i . z_j and a `scale`, so that b_i + b_j - scale * product is
the number of the bin. They release the GIL, so threads of one process share the work. Loops run
from 0 over slices: with another start numba guards every index against being negative, and nothing
is vectorised.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Compile with numba: without the GIL, kept on disk between runs."""
    kept: _Function = njit(nogil=True, fastmath=True, cache=True, error_model="numpy")(function)
    return kept


_ONE = np.uint32(1)
_ZERO = np.float32(0.0)


@compiled
def count_bins(
    product: NDArray[np.float32],
    row_b: NDArray[np.float32],
    col_b: NDArray[np.float32],
    scale: np.float32,
    first: int,
    edges: NDArray[np.int64],
    slots: NDArray[np.int64],
    row_part: NDArray[np.int64],
    counts: NDArray[np.uint32],
    bins: NDArray[np.uint32],
) -> None:
    """Add every pair of a tile to the histogram of its pair of classes.

    Args:
        product: (m, n).
        row_b: b of the rows in units of bins, less the first bin.
        col_b: b of the columns in units of bins.
        scale: 1 / bin width.
        first: row i is paired with the columns from max(0, i + first) on.
        edges: (S + 1,) where the classes of the columns begin.
        slots: (R, S) histogram of row part r with column part s.
        row_part: (m,) part of each row.
        counts: (H, B) histograms, added to.
        bins: (n,) scratch.
    """
    m, n = product.shape
    top = np.float32(counts.shape[1] - 1)
    for i in range(m):
        begin = min(max(i + first, 0), n)
        b = row_b[i]
        row, others, into = product[i, begin:], col_b[begin:], bins[begin:n]
        for j in range(len(into)):
            key = min(max(b + others[j] - scale * row[j], _ZERO), top)
            into[j] = np.uint32(np.int32(key))
        for s in range(len(edges) - 1):
            counted = counts[slots[row_part[i], s]]
            run = bins[max(begin, edges[s]) : edges[s + 1]]
            for j in range(len(run)):
                counted[run[j]] += _ONE


@compiled
def count_layers(
    product: NDArray[np.float32],
    row_b: NDArray[np.float32],
    col_b: NDArray[np.float32],
    scale: np.float32,
    first: int,
    edges: NDArray[np.int64],
    row_part: NDArray[np.int64],
    kinds: NDArray[np.int64],
    shift: int,
    fine: NDArray[np.uint32],
    parts: NDArray[np.uint32],
    bins: NDArray[np.uint32],
) -> None:
    """Add every pair of a tile to a fine histogram of its kind and a coarser one of its classes.

    For many classes, where fine histograms of every pair of classes would need too much memory.

    Args:
        product: as in `count_bins`.
        row_b: as in `count_bins`.
        col_b: as in `count_bins`.
        scale: as in `count_bins`.
        first: as in `count_bins`.
        edges: as in `count_bins`.
        row_part: as in `count_bins`.
        kinds: (R, S) 0 where row part and column part are one class, else 1.
        shift: a coarse bin joins 2^shift fine ones.
        fine: (2, B), added to.
        parts: (R, S, B >> shift), added to.
        bins: (n,) scratch.
    """
    m, n = product.shape
    top = np.float32(fine.shape[1] - 1)
    shifted = np.uint32(shift)
    for i in range(m):
        begin = min(max(i + first, 0), n)
        b = row_b[i]
        row, others, into = product[i, begin:], col_b[begin:], bins[begin:n]
        for j in range(len(into)):
            key = min(max(b + others[j] - scale * row[j], _ZERO), top)
            into[j] = np.uint32(np.int32(key))
        r = row_part[i]
        for s in range(len(edges) - 1):
            kind, part = fine[kinds[r, s]], parts[r, s]
            run = bins[max(begin, edges[s]) : edges[s + 1]]
            for j in range(len(run)):
                kind[run[j]] += _ONE
                part[run[j] >> shifted] += _ONE


@compiled
def flush_layers(
    parts: NDArray[np.uint32],
    row_at: NDArray[np.int64],
    col_at: NDArray[np.int64],
    kinds: NDArray[np.int64],
    rows: NDArray[np.uint32],
    cols: NDArray[np.uint32],
    pairs: NDArray[np.uint32],
) -> None:
    """Move a tile's histograms to those of its classes and of its pairs of classes.

    Args:
        parts: (R, S, B), zeroed.
        row_at: (R,) place of each row part in `rows` and `pairs`.
        col_at: (S,) place of each column part in `cols` and `pairs`.
        kinds: (R, S) as in `count_layers`.
        rows: (R', 2, B) same and different of row classes, added to.
        cols: (S', B) different of column classes, added to.
        pairs: (R', S', B // f), added to, f bins joined.
    """
    factor = parts.shape[2] // pairs.shape[2]
    for r in range(parts.shape[0]):
        for s in range(parts.shape[1]):
            part, kind = parts[r, s], kinds[r, s]
            into, other = rows[row_at[r], kind], cols[col_at[s]]
            pair = pairs[row_at[r], col_at[s]]
            for k in range(pairs.shape[2]):
                total = np.uint32(0)
                joined = part[k * factor : (k + 1) * factor]
                for j in range(len(joined)):
                    total += joined[j]
                pair[k] += total
            for j in range(parts.shape[2]):
                into[j] += part[j]
            if kind == 1:
                for j in range(parts.shape[2]):
                    other[j] += part[j]
            for j in range(parts.shape[2]):
                part[j] = np.uint32(0)


@compiled
def weigh_bins(
    product: NDArray[np.float32],
    row_b: NDArray[np.float32],
    col_b: NDArray[np.float32],
    scale: np.float32,
    first: int,
    row_code: NDArray[np.int64],
    col_code: NDArray[np.int64],
    row_weight: NDArray[np.uint8],
    col_weight: NDArray[np.uint8],
    sums: NDArray[np.int32],
) -> None:
    """Add w_i w_j of every pair and every replicate to the histograms of same and different.

    Args:
        product: (m, n), as in `count_bins`.
        row_b: as in `count_bins`.
        col_b: as in `count_bins`.
        scale: as in `count_bins`.
        first: as in `count_bins`.
        row_code: class of each row.
        col_code: class of each column.
        row_weight: (m, R) how often each replicate draws a row.
        col_weight: (n, R).
        sums: (2, B, R); 0 = same class, 1 = different; added to.
    """
    m, n = product.shape
    replicates = row_weight.shape[1]
    top = np.float32(sums.shape[1] - 1)
    for i in range(m):
        for j in range(min(max(i + first, 0), n), n):
            key = min(max(row_b[i] + col_b[j] - scale * product[i, j], _ZERO), top)
            kind = 0 if row_code[i] == col_code[j] else 1
            summed, left, right = sums[kind, np.int32(key)], row_weight[i], col_weight[j]
            for r in range(replicates):
                summed[r] += np.int32(left[r]) * np.int32(right[r])


@compiled
def add_class_sums(
    z: NDArray[np.float32],
    codes: NDArray[np.int64],
    s: NDArray[np.float64],
    norms: NDArray[np.float64],
) -> None:
    """Add every row to the sum of its class in float64, and note |z|^2; reads z once.

    Args:
        z: (n, D).
        codes: (n,) class of each row.
        s: (C, D) sums of z, added to.
        norms: (n,) written.
    """
    n, dim = z.shape
    for i in range(n):
        row, total, square = z[i], s[codes[i]], 0.0
        for d in range(dim):
            value = np.float64(row[d])
            total[d] += value
            square += value * value
        norms[i] = square


@compiled
def add_scaled_sums(
    z: NDArray[np.float32],
    b: NDArray[np.float64],
    codes: NDArray[np.int64],
    v: NDArray[np.float64],
) -> None:
    """Add b z of every row to the sum of its class: (n, D), (n,), (n,) to (C, D)."""
    n, dim = z.shape
    for i in range(n):
        row, total, weight = z[i], v[codes[i]], b[i]
        for d in range(dim):
            total[d] += weight * np.float64(row[d])
