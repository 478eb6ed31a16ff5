"""Histograms of the distances of all pairs of images, each unordered pair once, by class pair.

The distances are never stored: a tile of them is one matrix product, which a compiled loop counts
into bins at once (`pair_kernels`). Slabs of tiles are independent and their counts add, so any
cutting and any number of workers gives the same counts.

With few classes one histogram of each pair of classes holds everything. With many that would need
C^2 fine histograms; then the totals stay fine (16,384 bins), those per class are middling, and
those of the C^2 / 2 pairs of classes are coarse (`plan_layers` says how coarse and how large).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alike.analysis.blocks import (
    EvaluationSet,
    MapBlocks,
    Precision,
    Product,
    Statistic,
    Vectors,
    best_product,
    own_distance,
)
from alike.analysis.pairs.bins import Bins, Layers, measured_bins, plan_layers
from alike.analysis.pairs.curves import Auc, auc
from alike.analysis.pairs.kernels import Scratch, flush_layers, scratch
from alike.analysis.pairs.rounding import key_error
from alike.analysis.pairs.tiling import Slab, Tile, slabs, tiles
from alike.extract.measures import Form

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class PairCounts:
    """How many pairs have a distance in each bin: in all, per class, per pair of classes.

    Attributes:
        bins: of the key, for the totals; the others have the same range in fewer bins.
        form: of the measure, which turns keys into own distances.
        total: (2, B) pairs of one class, pairs of different classes.
        same: (C, B') pairs within each class.
        different: (C, B') pairs of one image of a class with one of another class.
        pairs: (C (C + 1) / 2, B''); row `pair_slot(a, b, C)` holds classes a <= b.
        error: the most by which a key may be off, in units of the key; 0: parts of a bin.
    """

    bins: Bins
    form: Form
    total: Counts
    same: Counts
    different: Counts
    pairs: Counts
    error: float = 0.0

    def area(self) -> Auc:
        """AUC of all pairs, with the interval that holds it whatever bins and rounding do."""
        return auc(self.total[0], self.total[1], self.bins.edges(), self.error)

    def own(self, key: Any) -> Any:
        """The measure's own distance of a key."""
        return own_distance(self.form, key)

    def edges(self, n: int) -> NDArray[np.float64]:
        """Edges of n bins, as own distances (n + 1,)."""
        return np.asarray(self.own(self.bins.to(n).edges()), dtype=np.float64)

    def middles(self, n: int) -> NDArray[np.float64]:
        """Middles of n bins, as own distances (n,)."""
        return np.asarray(self.own(self.bins.to(n).middles()), dtype=np.float64)


@dataclass(frozen=True)
class SlabCounts:
    """The counts of one slab, of the classes in it only.

    Attributes:
        row_classes: (R,) classes of its rows.
        col_classes: (S,) classes of its columns.
        total: (2, B); B = 0 where `rows` or `pairs` are as fine and say it.
        rows: (R, 2, B') same and different of the row classes; B' = 0 where `pairs` says it all.
        cols: (S, B') different of the column classes; none likewise.
        pairs: (R, S, B'').
    """

    row_classes: NDArray[np.int64]
    col_classes: NDArray[np.int64]
    total: NDArray[np.uint32]
    rows: NDArray[np.uint32]
    cols: NDArray[np.uint32]
    pairs: NDArray[np.uint32]


def pair_slot(a: Any, b: Any, n_classes: int) -> Any:
    """Number of the class pair a <= b in the order of `class_pairs`."""
    return a * n_classes - a * (a - 1) // 2 + (b - a)


def class_pairs(n_classes: int) -> Iterator[tuple[int, int]]:
    """Yield (0, 0), (0, 1), ... (0, C-1), (1, 1), ... each unordered pair of classes once."""
    return ((a, b) for a in range(n_classes) for b in range(a, n_classes))


def count_slab(
    vectors: Vectors,
    images: EvaluationSet,
    bins: Bins,
    layers: Layers,
    product: Product,
    slab: Slab,
) -> SlabCounts:
    """Histograms of one slab."""
    (row_low, row_high), (col_low, col_high) = slab
    row_codes, col_codes = images.codes[row_low:row_high], images.codes[col_low:col_high]
    row_classes, row_at = np.unique(row_codes, return_inverse=True)
    col_classes, col_at = np.unique(col_codes, return_inverse=True)
    n_rows, n_cols = len(row_classes), len(col_classes)
    pairs = np.zeros((n_rows, n_cols, layers.per_pair), dtype=np.uint32)
    fine = layers.total == layers.per_pair
    total = np.zeros((2, 0 if layers.total == layers.per_class else layers.total), dtype=np.uint32)
    rows = np.zeros((n_rows, 2, 0 if fine else layers.per_class), dtype=np.uint32)
    counts = SlabCounts(row_classes, col_classes, total, rows, rows[:0, 0], pairs)
    if not fine:
        counts = replace(counts, cols=np.zeros((n_cols, layers.per_class), dtype=np.uint32))
    room = scratch()
    parts = np.zeros(0, dtype=np.uint32)
    for tile in tiles(vectors, bins, slab, product):
        edges, cols = _runs(col_at[tile.cols])
        if fine:
            slots = np.arange(n_rows)[:, None] * n_cols + cols[None, :]
            every = pairs.reshape(-1, layers.per_pair)
            tile.count(edges, row_at[tile.rows], slots, every, room)
        else:
            parts = _count_tile(tile, counts, layers, edges, row_at[tile.rows], cols, room, parts)
    return counts


def _count_tile(
    tile: Tile,
    counts: SlabCounts,
    layers: Layers,
    edges: NDArray[np.int64],
    row_at: NDArray[np.int64],
    cols: NDArray[np.int64],
    room: Scratch,
    kept: NDArray[np.uint32],
) -> NDArray[np.uint32]:
    """Count a tile in zeroed memory, `kept` where that is enough; gives it back, zeroed again."""
    rows, row_part = np.unique(row_at, return_inverse=True)
    kinds = (counts.row_classes[rows][:, None] != counts.col_classes[cols][None, :]).astype(int)
    size = len(rows) * len(cols) * layers.per_class
    if len(kept) < size:
        kept = np.zeros(size, dtype=np.uint32)
    parts = kept[:size].reshape(len(rows), len(cols), layers.per_class)
    slots = np.arange(kinds.size).reshape(kinds.shape)
    every = parts.reshape(-1, layers.per_class)
    if counts.total.size:
        tile.count(edges, row_part, slots, every, room, fine=counts.total, kinds=kinds)
    else:
        tile.count(edges, row_part, slots, every, room)
    flush_layers(parts, rows, cols, kinds, counts.rows, counts.cols, counts.pairs)
    return kept


def _runs(codes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where runs of equal codes begin (and the end), and the code of each run."""
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    return np.append(starts, len(codes)).astype(np.int64), codes[starts].astype(np.int64)


def empty_counts(bins: Bins, form: Form, layers: Layers, n_classes: int) -> PairCounts:
    """Counts of no pairs."""
    shape = n_classes, layers.per_class
    return PairCounts(
        bins, form, np.zeros((2, layers.total), dtype=np.int64),
        np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64),
        np.zeros((n_classes * (n_classes + 1) // 2, layers.per_pair), dtype=np.int64),
    )  # fmt: skip


def add_slab(counts: PairCounts, part: SlabCounts) -> PairCounts:
    """Add the counts of a slab, in place; where only pairs were counted the rest follows."""
    n_classes = len(counts.same)
    rows, cols = part.row_classes[:, None], part.col_classes[None, :]
    inside = rows <= cols
    counts.pairs[pair_slot(rows, cols, n_classes)[inside]] += part.pairs[inside]
    if part.rows.size:
        counts.total[:] += part.total if part.total.size else part.rows.sum(axis=0, dtype=np.int64)
        counts.same[part.row_classes] += part.rows[:, 0]
        counts.different[part.row_classes] += part.rows[:, 1]
        counts.different[part.col_classes] += part.cols
        return counts
    for r, s in np.argwhere(inside):
        a, b, found = part.row_classes[r], part.col_classes[s], part.pairs[r, s]
        counts.total[int(a != b)] += found
        for code in {int(a), int(b)}:
            (counts.same if a == b else counts.different)[code] += found
    return counts


def count_pairs(
    vectors: Vectors,
    images: EvaluationSet,
    *,
    bins: Bins | None = None,
    precision: Precision = "float32",
    map_blocks: MapBlocks = map,
    rounding: MapBlocks = map,
) -> PairCounts:
    """Count all pairs.

    Args:
        vectors: of the images, in their order.
        images: the evaluation set.
        bins: None: 16,384 over the measured range.
        precision: of the matrix product.
        map_blocks: how slabs are mapped; `map` does them here, one after the other.
        rounding: how blocks of images are, for the bound of what coarser products do.
    """
    bins = measured_bins(vectors, images) if bins is None else bins
    layers = plan_layers(len(images.classes), vectors.n, bins.n)
    product = best_product(vectors.dim, vectors.n**2 / 2 * vectors.dim, precision)
    counts: PairCounts = Statistic(
        items=slabs(vectors),
        chunk=partial(count_slab, vectors, images, bins, layers, product),
        start=partial(empty_counts, bins, vectors.form, layers, len(images.classes)),
        combine=add_slab,
    ).compute(map_blocks)
    return replace(counts, error=key_error(vectors, bins, precision, rounding))


def count_kinds(vectors: Vectors, images: EvaluationSet, bins: Bins) -> Counts:
    """Same and different pairs of few images, without telling classes apart: (2, B)."""
    product = best_product(vectors.dim, 0.0)
    counts = np.zeros((2, bins.n), dtype=np.int64)
    for slab in slabs(vectors):
        (row_low, row_high), (col_low, col_high) = slab
        row_codes, col_codes = images.codes[row_low:row_high], images.codes[col_low:col_high]
        part = np.zeros((2, bins.n), dtype=np.uint32)
        room = scratch()
        for tile in tiles(vectors, bins, slab, product):
            edges, cols = _runs(col_codes[tile.cols])
            rows, row_part = np.unique(row_codes[tile.rows], return_inverse=True)
            kinds = (rows[:, None] != cols[None, :]).astype(np.int64)
            tile.count(edges, row_part, kinds, part, room)
        counts += part
    return counts
