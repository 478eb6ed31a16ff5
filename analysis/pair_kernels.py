"""The compiled inner loops over pairs; each reads a matrix product that BLAS has just made.

All take `product` (m, n) float32 = scaled z_i . z_j, so that key / bin width - first bin =
b_i + b_j - product; they release the GIL, so threads of one process share the work.
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
        for j in range(begin, n):
            key = min(max(b + col_b[j] - product[i, j], _ZERO), top)
            bins[j] = np.uint32(np.int32(key))
        for s in range(len(edges) - 1):
            counted = counts[slots[row_part[i], s]]
            for j in range(max(begin, edges[s]), edges[s + 1]):
                counted[bins[j]] += _ONE


@compiled
def weigh_bins(
    product: NDArray[np.float32],
    row_b: NDArray[np.float32],
    col_b: NDArray[np.float32],
    first: int,
    row_code: NDArray[np.int64],
    col_code: NDArray[np.int64],
    row_weight: NDArray[np.uint32],
    col_weight: NDArray[np.uint32],
    sums: NDArray[Any],
) -> None:
    """Add w_i w_j of every pair and every replicate to the histograms of same and different.

    Args:
        product: (m, n), as in `count_bins`.
        row_b: as in `count_bins`.
        col_b: as in `count_bins`.
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
            key = min(max(row_b[i] + col_b[j] - product[i, j], _ZERO), top)
            kind = 0 if row_code[i] == col_code[j] else 1
            summed = sums[kind, np.int32(key)]
            for r in range(replicates):
                summed[r] += row_weight[i, r] * col_weight[j, r]
