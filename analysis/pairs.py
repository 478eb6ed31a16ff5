"""Histograms of the distances of all pairs of images, each unordered pair once, by class pair.

The distances are never stored: a tile of them is one matrix product, which a compiled loop counts
into bins at once (`pair_kernels`). Tiles are independent, their counts add.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.judged import Judged
from analysis.pair_kernels import count_bins, weigh_bins
from analysis.vectors import CENTRE_ROWS, SLAB, Vectors, own_distance, spread
from extract.measures import Form

TILE = 1024
BINS = 1 << 16
COUNT_BYTES = 256 << 20


@dataclass(frozen=True)
class Bins:
    """Equal bins of the pair key (see `vectors`); what falls outside counts in the end bins.

    Attributes:
        first: lower edge of bin 0, in units of the key.
        width: of one bin, > 0.
        n: number of bins.
    """

    first: float
    width: float
    n: int

    def edges(self) -> NDArray[np.float64]:
        """All n + 1 edges, as keys."""
        return np.asarray(self.first + self.width * np.arange(self.n + 1), dtype=np.float64)

    def coarser(self, factor: int) -> "Bins":
        """Bins that each join `factor` of these."""
        return Bins(self.first, self.width * factor, self.n // factor)


@dataclass(frozen=True)
class PairCounts:
    """How many pairs of each pair of classes have a distance in each bin.

    Attributes:
        bins: of the key.
        form: of the measure, which turns keys into own distances.
        counts: int64 (C (C + 1) / 2, B); row `pair_slot(a, b, C)` holds classes a <= b.
        n_classes: C.
    """

    bins: Bins
    form: Form
    counts: NDArray[np.int64]
    n_classes: int

    def own(self, key: Any) -> Any:
        """The measure's own distance of a key."""
        return own_distance(self.form, key)

    def same(self) -> NDArray[np.int64]:
        """Pairs of one class, for each class: (C, B)."""
        own = [pair_slot(c, c, self.n_classes) for c in range(self.n_classes)]
        return self.counts[own]

    def different(self) -> NDArray[np.int64]:
        """Pairs of one image of class c with one of another class, for each c: (C, B).

        Every pair of different classes is in two rows, so their sum is twice the total.
        """
        out = np.zeros((self.n_classes, self.bins.n), dtype=np.int64)
        for a, b in class_pairs(self.n_classes):
            if a != b:
                counted = self.counts[pair_slot(a, b, self.n_classes)]
                out[a] += counted
                out[b] += counted
        return out


def pair_slot(a: int, b: int, n_classes: int) -> int:
    """Number of the class pair a <= b among the pairs in `class_pairs` order."""
    return a * n_classes - a * (a - 1) // 2 + (b - a)


def class_pairs(n_classes: int) -> Iterator[tuple[int, int]]:
    """Yield (0, 0), (0, 1), ... (0, C-1), (1, 1), ... each unordered pair of classes once."""
    return ((a, b) for a in range(n_classes) for b in range(a, n_classes))


def measured_bins(vectors: Vectors, n: int = BINS) -> Bins:
    """Bins over the range of keys among up to 2,048 images spread over the classes, and a margin.

    With no more images than that the range is that of all pairs. Features that do not vary give
    one bin that holds every pair.
    """
    z, b = _positions(vectors, spread(vectors.n, CENTRE_ROWS))
    low, high = np.inf, -np.inf
    for start in range(0, len(z), TILE):
        keys = b[start : start + TILE, None] + b[None, :] - z[start : start + TILE] @ z.T
        keys[np.arange(len(keys)), np.arange(start, start + len(keys))] = np.nan
        low, high = min(low, np.nanmin(keys)), max(high, np.nanmax(keys))
    slack = max((high - low) * 0.02, 1e-12 + 1e-9 * abs(high))
    return Bins(float(low - slack), float((high - low + 2 * slack) / n), n)


def _positions(vectors: Vectors, at: NDArray[np.int64]) -> tuple[Any, NDArray[np.float64]]:
    parts = []
    for low in range(0, vectors.n, SLAB):
        inside = at[(at >= low) & (at < low + SLAB)]
        if len(inside):
            z, b = vectors.block(low, min(low + SLAB, vectors.n))
            parts.append((z[inside - low], b[inside - low]))
    return np.concatenate([z for z, _ in parts]), np.concatenate([b for _, b in parts])


Slab = tuple[tuple[int, int], tuple[int, int]]


def slabs(n: int, size: int = SLAB) -> list[Slab]:
    """All pairs of row ranges (I, J) with I not after J: together every unordered pair once."""
    cuts = [(low, min(low + size, n)) for low in range(0, n, size)]
    return [(cuts[i], cuts[j]) for i in range(len(cuts)) for j in range(i, len(cuts))]


Tile = tuple[NDArray[np.float32], slice, slice, int]


def tiles(
    vectors: Vectors, bins: Bins, slab: Slab
) -> Iterator[tuple[Tile, NDArray[np.float32], NDArray[np.float32]]]:
    """Yield the scaled products of a slab, tile by tile, with b of rows and columns in bins."""
    (row_low, row_high), (col_low, col_high) = slab
    z_rows, b_rows = vectors.block(row_low, row_high)
    z_cols, b_cols = vectors.block(col_low, col_high)
    z_cols = z_cols * np.float32(1.0 / bins.width)
    row_b = ((b_rows - bins.first) / bins.width).astype(np.float32)
    col_b = (b_cols / bins.width).astype(np.float32)
    scratch = np.empty((TILE, TILE), dtype=np.float32)
    for i in range(0, len(row_b), TILE):
        for j in range(0, len(col_b), TILE):
            first = (row_low + i) - (col_low + j) + 1
            rows, cols = slice(i, i + TILE), slice(j, j + TILE)
            part, other = z_rows[rows], z_cols[cols]
            if first > len(other):
                continue
            product = scratch.reshape(-1)[: len(part) * len(other)].reshape(len(part), len(other))
            np.dot(part, other.T, out=product)
            yield (product, rows, cols, first), row_b[rows], col_b[cols]


def count_slab(
    vectors: Vectors,
    judged: Judged,
    bins: Bins,
    slab: Slab,
    *,
    kinds: bool = False,
) -> dict[tuple[int, int], NDArray[np.int64]]:
    """Histograms of one slab: class pair (a <= b) to counts (B,); only pairs that occur.

    With `kinds` there are two: (0, 0) holds all pairs of one class, (0, 1) all others.
    """
    (row_low, row_high), (col_low, col_high) = slab
    row_codes, col_codes = judged.codes[row_low:row_high], judged.codes[col_low:col_high]
    row_classes, row_part = np.unique(row_codes, return_inverse=True)
    col_classes = np.unique(col_codes)
    pairs = [(a, b) for a in row_classes for b in col_classes if a <= b]
    if kinds:
        slot_of = {(a, b): int(a != b) for a, b in pairs}
        pairs = [(0, 0), (0, 1)]
    else:
        slot_of = {pair: slot for slot, pair in enumerate(pairs)}
    counts = np.zeros((len(pairs), bins.n), dtype=np.uint32)
    scratch = np.empty(TILE, dtype=np.uint32)
    for (product, rows, cols, first), row_b, col_b in tiles(vectors, bins, slab):
        inside = col_codes[cols]
        starts = np.flatnonzero(np.diff(inside, prepend=-1))
        edges = np.append(starts, len(inside)).astype(np.int64)
        slots = np.array(
            [[slot_of.get((a, b), 0) for b in inside[starts]] for a in row_classes], dtype=np.int64
        )
        count_bins(product, row_b, col_b, first, edges, slots, row_part[rows], counts, scratch)
    return {(int(a), int(b)): counts[slot].astype(np.int64) for slot, (a, b) in enumerate(pairs)}


def count_pairs(
    vectors: Vectors,
    judged: Judged,
    *,
    bins: Bins | None = None,
    run: Callable[..., Any] = map,
) -> PairCounts:
    """Count all pairs.

    Args:
        vectors: of the judged images, in their order.
        judged: rows and classes.
        bins: None: measured, as many as 256 MiB of counts allow, at most 65,536.
        run: how slabs are mapped; `map` does them here, one after the other.
    """
    n_classes = len(judged.classes)
    n_pairs = n_classes * (n_classes + 1) // 2
    if bins is None:
        most = max(64, COUNT_BYTES // (8 * n_pairs))
        bins = measured_bins(vectors, min(BINS, 1 << (most.bit_length() - 1)))
    counts = np.zeros((n_pairs, bins.n), dtype=np.int64)
    for found in run(lambda slab: count_slab(vectors, judged, bins, slab), slabs(vectors.n)):
        for (a, b), counted in found.items():
            counts[pair_slot(a, b, n_classes)] += counted
    return PairCounts(bins, vectors.form, counts, n_classes)


def weigh_slab(
    vectors: Vectors,
    judged: Judged,
    bins: Bins,
    weights: NDArray[np.uint32],
    slab: Slab,
) -> NDArray[np.uint32]:
    """Weighted histograms of one slab: (2, B, R), same and different, replicate by replicate."""
    (row_low, row_high), (col_low, col_high) = slab
    sums = np.zeros((2, bins.n, weights.shape[1]), dtype=np.uint32)
    row_weights, col_weights = weights[row_low:row_high], weights[col_low:col_high]
    row_codes, col_codes = judged.codes[row_low:row_high], judged.codes[col_low:col_high]
    for (product, rows, cols, first), row_b, col_b in tiles(vectors, bins, slab):
        weigh_bins(
            product, row_b, col_b, first, row_codes[rows], col_codes[cols],
            row_weights[rows], col_weights[cols], sums,
        )  # fmt: skip
    return sums


def count_kinds(vectors: Vectors, judged: Judged, bins: Bins) -> NDArray[np.int64]:
    """Same and different pairs of few images, without telling classes apart: (2, B)."""
    counts = np.zeros((2, bins.n), dtype=np.int64)
    for slab in slabs(vectors.n):
        for (_, kind), counted in count_slab(vectors, judged, bins, slab, kinds=True).items():
            counts[kind] += counted
    return counts
