"""Histograms of the distances of all pairs of images, each unordered pair once, by class pair.

The distances are never stored: a tile of them is one matrix product, which a compiled loop counts
into bins at once (`pair_kernels`). Slabs of tiles are independent and their counts add, so any
cutting and any number of workers gives the same counts.

With few classes one histogram of each pair of classes holds everything. With many that would need
C^2 fine histograms; then the totals stay fine (16,384 bins), those per class are middling, and
those of the C^2 / 2 pairs of classes are coarse (`plan_layers` says how coarse and how large).

A class of n images has n (n - 1) / 2 pairs, so that of all pairs the largest class would say most.
Scores are therefore made of histograms in which every class weighs the same among the same pairs,
and every pair of classes among the different ones (`Balance`). Where all classes are equally large
these are the plain counts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
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
    many,
    own_distance,
)
from alike.analysis.pairs.bins import BINS, TILE, Bins, Layers, measured_bins, plan_layers
from alike.analysis.pairs.curves import Auc, auc
from alike.analysis.pairs.kernels import Scratch, add_pairs, scratch
from alike.analysis.pairs.rounding import UNIT, key_error
from alike.analysis.pairs.tiling import Slab, Tile, slabs, tiles
from alike.extract.measures import Form

Counts = NDArray[np.int64]
MOST_NARROW = int(np.iinfo(np.int32).max)
"""Signed, so that a difference of two counts is one."""


@dataclass(frozen=True)
class Balance:
    """By how much pairs count, so that every class and every pair of classes counts the same.

    A same pair of class a counts 1 / (n_a (n_a - 1)), a pair of a and b 1 / (n_a n_b), both times
    what leaves the sum over the pairs of a kind what it is. So with classes of one size every
    weight is 1, exactly.

    Attributes:
        same: (C,) weight of a same pair; 0 in classes of one image.
        one: (C,) factors of the weight of a different pair, `one[a] * one[b] * scale`.
        scale: of these.
        others: (C,) by which the sum of `one[b]` over pairs of a with other classes is multiplied
            to sum to the number of these pairs.
        equal: all classes are of one size: every weight is 1.
    """

    same: NDArray[np.float64]
    one: NDArray[np.float64]
    scale: float
    others: NDArray[np.float64]
    equal: bool

    def of_pairs(self, rows: Any, cols: Any) -> NDArray[np.float64]:
        """Weights (R, S) of pairs of an image of each row class with one of each column class."""
        across = self.one[rows][:, None] * self.one[cols][None, :] * self.scale
        alike = np.asarray(rows)[:, None] == np.asarray(cols)[None, :]
        return np.asarray(np.where(alike, self.same[rows][:, None], across))


def balance(sizes: Counts) -> Balance:
    """Weights for classes of these sizes (C,); classes without images have none."""
    n = sizes.astype(np.float64)
    nonempty, several = n > 0, n > 1
    classes, images = float(nonempty.sum()), float(n.sum())
    own, mean = n * (n - 1) / 2, images / max(classes, 1.0)
    same = np.divide(own.sum() / max(several.sum(), 1), own, out=np.zeros(len(n)), where=several)
    one = np.divide(mean, n, out=np.zeros(len(n)), where=nonempty)
    different = (images**2 - float((n**2).sum())) / 2
    scale = different / max(classes * (classes - 1) / 2, 1.0) / mean**2 if images else 0.0
    others = (images - n) / max(classes - 1, 1.0) / mean if images else n
    equal = len(set(sizes[nonempty].tolist())) <= 1
    return Balance(same, one, scale, others, equal)


@dataclass(frozen=True)
class PairCounts:
    """How many pairs have a distance in each bin: in all, per class, per pair of classes.

    Attributes:
        bins: of the key, for the totals; the others have the same range in fewer bins.
        form: of the measure, which turns keys into own distances.
        total: (2, B) pairs of one class, pairs of different classes.
        same: (C, B') pairs within each class.
        different: (C, B') pairs of one image of a class with one of another class, each other class
            weighing the same (see `Balance.others`).
        pairs: (C (C + 1) / 2, B''); row `pair_slot(a, b, C)` holds classes a <= b. (P, B'') of the
            listed pairs, in their order.
        balanced: (2, B) `total` with every class and every pair of classes weighing the same.
        error: the most by which a key may be off, in units of the key.
        relative: the same as a share of the distance from the end from which bins count.
        turned: by how much an embedded vector may be turned, of cosines.
        listed: (P,) a C + b of the pairs of classes a <= b that `pairs` holds; None: all.
    """

    bins: Bins
    form: Form
    total: Counts
    same: Counts
    different: NDArray[np.float64]
    pairs: Counts
    balanced: NDArray[np.float64]
    error: float = 0.0
    relative: float = 0.0
    turned: float = 0.0
    listed: NDArray[np.int64] | None = None

    def errors(self) -> NDArray[np.float64]:
        """The most by which a key may be off, at every edge of the bins (B + 1,)."""
        edges = self.bins.edges()
        apart = np.sqrt(2.0 * np.maximum(edges, 0.0))
        far = self.relative * np.abs(edges - self.bins.first)
        return np.asarray(self.error + far + self.turned * (apart + self.turned))

    def area(self) -> Auc:
        """Balanced AUC, with the interval that holds it whatever bins and rounding do."""
        return auc(self.balanced[0], self.balanced[1], self.bins.edges(), self.errors())

    def plain_area(self) -> Auc:
        """The same of all pairs, each weighing the same."""
        return auc(self.total[0], self.total[1], self.bins.edges(), self.errors())

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
        rows: (R, 2, B') same and different of the row classes, the other classes weighed by
            `Balance.one`; B' = 0 where `pairs` says it all.
        cols: (S, B') different of the column classes; none likewise.
        pairs: (R, S, B''), or (P, B'') of the listed pairs.
        even: (2, B) weighed; B = 0 where `pairs` says it, or the weights are 1.
        listed: (P,) which of the listed pairs are in the slab; empty: all are listed.
    """

    row_classes: NDArray[np.int64]
    col_classes: NDArray[np.int64]
    total: NDArray[np.uint32]
    rows: NDArray[np.float64]
    cols: NDArray[np.float64]
    pairs: NDArray[np.uint32]
    even: NDArray[np.float64]
    listed: NDArray[np.int64]


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
    listed: NDArray[np.int64] | None,
    slab: Slab,
    watch: Callable[[Tile], None] | None = None,
) -> SlabCounts:
    """Histograms of one slab; `listed` as in `PairCounts`, `watch` reads every tile first."""
    (row_low, row_high), (col_low, col_high) = slab
    row_codes, col_codes = images.codes[row_low:row_high], images.codes[col_low:col_high]
    row_classes, row_at = np.unique(row_codes, return_inverse=True)
    col_classes, col_at = np.unique(col_codes, return_inverse=True)
    n_rows, n_cols = len(row_classes), len(col_classes)
    weights = balance(images.counts)
    own, slot = _slots(row_classes, col_classes, listed, len(images.classes))
    shape = (n_rows, n_cols) if listed is None else (len(own),)
    pairs = np.zeros((*shape, layers.per_pair), dtype=np.uint32)
    fine = layers.total == layers.per_pair and listed is None
    # Weighed rows do not say the plain total.
    from_layers = fine or (weights.equal and layers.total == layers.per_class)
    total = np.zeros((2, 0 if from_layers else layers.total), dtype=np.uint32)
    even = np.zeros((2, 0 if fine or weights.equal else layers.total))
    rows = np.zeros((n_rows, 2, 0 if fine else layers.per_class))
    counts = SlabCounts(row_classes, col_classes, total, rows, rows[:0, 0], pairs, even, own)
    if not fine:
        counts = replace(counts, cols=np.zeros((n_cols, layers.per_class)))
    room = scratch()
    parts = np.zeros(0, dtype=np.uint32)
    runs = cache(lambda start: _runs(col_at[start : start + TILE]))
    classes = cache(lambda start: np.unique(row_at[start : start + TILE], return_inverse=True))
    for tile in tiles(vectors, bins, slab, product):
        if watch is not None:
            watch(tile)
        edges, cols = runs(tile.cols.start)
        if fine:
            slots = np.arange(n_rows)[:, None] * n_cols + cols[None, :]
            every = pairs.reshape(-1, layers.per_pair)
            tile.count(edges, row_at[tile.rows], slots, every, room)
        else:
            in_rows, row_part = classes(tile.rows.start)
            parts = _count_tile(
                tile, counts, slot, layers, weights, edges, in_rows, row_part, cols, room, parts
            )
    return counts


def _count_tile(
    tile: Tile,
    counts: SlabCounts,
    slot: NDArray[np.int64],
    layers: Layers,
    weights: Balance,
    edges: NDArray[np.int64],
    rows: NDArray[np.int64],
    row_part: NDArray[np.int64],
    cols: NDArray[np.int64],
    room: Scratch,
    memory: NDArray[np.uint32],
) -> NDArray[np.uint32]:
    """Count a tile in zeroed memory, `memory` where that is enough; gives it back, zeroed again.

    Classes of which two have fewer pairs than a histogram has bins need none.
    """
    kinds = (counts.row_classes[rows][:, None] != counts.col_classes[cols][None, :]).astype(int)
    few = len(row_part) * (edges[-1] - edges[0]) < len(rows) * len(cols) * layers.per_class
    size = 0 if few and counts.pairs.ndim == 2 else len(cols) * layers.per_class
    if len(memory) < size:
        memory = np.zeros(size, dtype=np.uint32)
    by_class = (
        weights.of_pairs(counts.row_classes[rows], counts.col_classes[cols])
        if counts.even.size
        else np.zeros(kinds.shape)
    )
    row_weight, col_weight = weights.one[counts.row_classes], weights.one[counts.col_classes]
    tile.count_layers(
        edges, row_part, kinds, counts.total, counts.even, by_class, room,
        memory[:size].reshape(-1, layers.per_class), rows, cols, slot, row_weight,
        col_weight, counts.rows, counts.cols, counts.pairs.reshape(-1, layers.per_pair),
    )  # fmt: skip
    return memory


def _slots(
    rows: NDArray[np.int64], cols: NDArray[np.int64], listed: NDArray[np.int64] | None, classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which listed pairs a slab has, and the place (R, S) of each pair of its classes among them.

    -1: not listed. Where all are, the list is empty and the places count the pairs.
    """
    if listed is None:
        return np.zeros(0, dtype=np.int64), np.arange(len(rows) * len(cols)).reshape(len(rows), -1)
    slot = np.full((len(rows), len(cols)), -1)
    low, high = np.searchsorted(listed, [rows[0] * classes, (rows[-1] + 1) * classes])
    a, b = np.divmod(listed[low:high], classes)
    row_at = np.minimum(np.searchsorted(rows, a), len(rows) - 1)
    col_at = np.minimum(np.searchsorted(cols, b), len(cols) - 1)
    there = (rows[row_at] == a) & (cols[col_at] == b)
    slot[row_at[there], col_at[there]] = np.arange(there.sum())
    return low + np.flatnonzero(there), slot


def _runs(codes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where runs of equal codes begin (and the end), and the code of each run."""
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    return np.append(starts, len(codes)).astype(np.int64), codes[starts].astype(np.int64)


@dataclass(frozen=True)
class Totals:
    """The counts of some slabs; the attributes are those of `PairCounts`."""

    total: Counts
    same: Counts
    different: NDArray[np.float64]
    pairs: Counts
    balanced: NDArray[np.float64]


def no_totals(layers: Layers, sizes: Counts, n_pairs: int) -> Totals:
    """Counts of no pairs of classes of these sizes (C,)."""
    shape = len(sizes), layers.per_class
    # They stay until the tables are made, and are most of the counts: as narrow as the pairs of the
    # two largest classes allow.
    second, first = (int(size) for size in np.sort(np.append(sizes, [0, 0]))[-2:])
    most = max(first * second, first * (first - 1) // 2)
    narrow = np.int32 if most <= MOST_NARROW else np.int64
    return Totals(
        np.zeros((2, layers.total), dtype=np.int64),
        np.zeros(shape, dtype=np.int64), np.zeros(shape),
        np.zeros((n_pairs, layers.per_pair), dtype=narrow), np.zeros((2, layers.total)),
    )  # fmt: skip


def add_slab(weights: Balance, counts: Totals, part: SlabCounts) -> Totals:
    """Add the counts of a slab, in place; where only pairs were counted the rest follows."""
    n_classes = len(counts.same)
    rows, cols = part.row_classes[:, None], part.col_classes[None, :]
    if part.pairs.ndim == 2:
        counts.pairs[part.listed] += part.pairs
    else:
        slots = pair_slot(rows, cols, n_classes)
        add_pairs(counts.pairs, part.pairs, slots, part.row_classes, part.col_classes)
    if part.rows.size:
        rows_say = part.total if part.total.size else part.rows.sum(axis=0)
        counts.total[:] += rows_say.astype(np.int64)
        counts.same[part.row_classes] += part.rows[:, 0].astype(np.int64)
        counts.different[part.row_classes] += part.rows[:, 1]
        counts.different[part.col_classes] += part.cols
        if part.even.size:
            counts.balanced[:] += part.even
        return counts
    by_class = weights.of_pairs(part.row_classes, part.col_classes)
    for r, s in np.argwhere(rows <= cols):
        a, b, n_pairs = part.row_classes[r], part.col_classes[s], part.pairs[r, s]
        counts.total[int(a != b)] += n_pairs
        counts.balanced[int(a != b)] += by_class[r, s] * n_pairs
        if a == b:
            counts.same[a] += n_pairs
        else:
            counts.different[a] += weights.one[b] * n_pairs
            counts.different[b] += weights.one[a] * n_pairs
    return counts


def _finished(
    bins: Bins,
    form: Form,
    weights: Balance,
    listed: NDArray[np.int64] | None,
    counts: Totals,
) -> PairCounts:
    counts.different[:] *= weights.others[:, None]
    pairs = counts.pairs
    if pairs.dtype == np.int64 and int(pairs.max(initial=0)) <= MOST_NARROW:
        pairs = pairs.astype(np.int32)
    out = PairCounts(bins, form, **{**vars(counts), "pairs": pairs}, listed=listed)
    return replace(out, balanced=counts.total.astype(float)) if weights.equal else out


@dataclass(frozen=True)
class Counting:
    """How all pairs of some images are counted, slab by slab; see `counting`.

    Attributes:
        vectors: of the images, in their order.
        images: the evaluation set.
        bins: of the keys.
        layers: how many bins each kind of histogram has.
        precision: of the product.
        product: that makes the tiles.
        listed: (P,) as in `PairCounts`; None: all pairs of classes.
        weights: by how much pairs count.
    """

    vectors: Vectors
    images: EvaluationSet
    bins: Bins
    layers: Layers
    precision: Precision
    product: Product
    listed: NDArray[np.int64] | None
    weights: Balance

    def slab(self, slab: Slab, watch: Callable[[Tile], None] | None = None) -> SlabCounts:
        """Counts of one slab."""
        return count_slab(
            self.vectors, self.images, self.bins, self.layers, self.product, self.listed, slab,
            watch,
        )  # fmt: skip

    def nothing(self) -> Totals:
        """Counts of no slab yet."""
        classes = len(self.images.classes)
        n_pairs = classes * (classes + 1) // 2 if self.listed is None else len(self.listed)
        return no_totals(self.layers, self.images.counts, n_pairs)

    def add(self, counts: Totals, part: SlabCounts) -> Totals:
        """With those of one more slab, in place."""
        return add_slab(self.weights, counts, part)

    def finished(self, counts: Totals, rounding: MapBlocks = map) -> PairCounts:
        """The counts of all slabs, and how far keys may be off; `rounding` as in `count_pairs`."""
        vectors = self.vectors
        out = _finished(self.bins, vectors.form, self.weights, self.listed, counts)
        if vectors.exactly:
            turned = 4.0 * UNIT if vectors.form == "cosine" else 0.0
            smallest = vectors.dim * 2.0**-52 if vectors.form == "inner" else 0.0
            return replace(out, error=smallest, relative=2.0 * UNIT, turned=turned)
        return replace(out, error=key_error(vectors, self.bins, self.precision, rounding))


def counting(
    vectors: Vectors,
    images: EvaluationSet,
    *,
    bins: Bins | None = None,
    precision: Precision = "float32",
    listed: NDArray[np.int64] | None = None,
) -> Counting:
    """How to count all pairs; the arguments are those of `count_pairs`."""
    bins = measured_bins(vectors, images) if bins is None else bins
    n_classes = len(images.classes)
    if listed is None and many(n_classes):
        listed = np.zeros(0, dtype=np.int64)
    layers = plan_layers(n_classes, vectors.n, bins.n)
    product = best_product(vectors.dim, vectors.n**2 / 2 * vectors.dim, precision)
    weights = balance(images.counts)
    return Counting(vectors, images, bins, layers, precision, product, listed, weights)


def count_pairs(
    vectors: Vectors,
    images: EvaluationSet,
    *,
    bins: Bins | None = None,
    precision: Precision = "float32",
    listed: NDArray[np.int64] | None = None,
    map_blocks: MapBlocks = map,
    rounding: MapBlocks = map,
) -> PairCounts:
    """Count all pairs.

    Args:
        vectors: of the images, in their order.
        images: the evaluation set.
        bins: None: 16,384 over the measured range.
        precision: of the matrix product.
        listed: as in `PairCounts`; None: all pairs of classes, of more than `MANY` classes none.
        map_blocks: how slabs are mapped; `map` does them here, one after the other.
        rounding: how blocks of images are, for the bound of what coarser products do.
    """
    plan = counting(vectors, images, bins=bins, precision=precision, listed=listed)
    counts: PairCounts = Statistic(
        items=slabs(vectors),
        chunk=plan.slab,
        start=plan.nothing,
        combine=plan.add,
        finalize=partial(plan.finished, rounding=rounding),
    ).compute(map_blocks)
    return counts


WIDE = 5e-4
"""Width of the certified interval of the AUC from which on distances are computed in float64."""
EXACT_WORK = 2e12
"""Multiplications up to which they can be: minutes on two cores."""


def sure_pairs(
    vectors: Vectors,
    images: EvaluationSet,
    n_bins: int = BINS,
    *,
    precision: Precision = "float32",
    listed: NDArray[np.int64] | None = None,
    map_blocks: MapBlocks = map,
    rounding: MapBlocks = map,
    again: MapBlocks = map,
    counted: PairCounts | None = None,
) -> tuple[Vectors, PairCounts]:
    """Count all pairs; again in float64 where float32 leaves the AUC uncertain.

    Args:
        vectors: of the images.
        images: the evaluation set.
        n_bins: of the histograms.
        precision: of the products; with bfloat16 nothing is counted again.
        listed: as in `count_pairs`.
        map_blocks: how slabs are mapped.
        rounding: how blocks of images are.
        again: how slabs are in float64.
        counted: in float32 already.

    Returns:
        The vectors as they were counted, and the counts.
    """
    counts = counted or count_pairs(
        vectors, images, bins=measured_bins(vectors, images, n_bins), precision=precision,
        listed=listed, map_blocks=map_blocks, rounding=rounding,
    )  # fmt: skip
    work = float(vectors.n) ** 2 / 2 * vectors.dim
    if precision != "float32" or work > EXACT_WORK or not _rounds(counts):
        return vectors, counts
    exact = replace(vectors, exactly=True)
    bins = measured_bins(exact, images, n_bins)
    return exact, count_pairs(exact, images, bins=bins, listed=listed, map_blocks=again)


def _rounds(counts: PairCounts) -> bool:
    """Whether rounding, not the bins, leaves the AUC uncertain."""
    area = counts.area()
    wide = area.high - area.low
    if not wide > WIDE:
        return False
    by_bins = auc(counts.balanced[0], counts.balanced[1])
    kind = np.cumsum(counts.balanced[0])
    near = counts.bins.edges()[int(np.searchsorted(kind, kind[-1] / 4)) + 1]
    small = near - min(counts.bins.edges()[0], 0.0) < 1000.0 * counts.error
    return bool(small or wide > 2.0 * (by_bins.high - by_bins.low))


def count_kinds(
    vectors: Vectors, images: EvaluationSet, bins: Bins, *, plain: bool = False
) -> NDArray[np.float64]:
    """Same and different pairs of few images, balanced, or plain counts: (2, B)."""
    product = best_product(vectors.dim, float(vectors.n) ** 2 * vectors.dim)
    counts = np.zeros((2, bins.n))
    weights = balance(images.counts)
    even = np.zeros((2, 0 if plain or weights.equal else bins.n))
    for slab in slabs(vectors):
        (row_low, row_high), (col_low, col_high) = slab
        row_codes, col_codes = images.codes[row_low:row_high], images.codes[col_low:col_high]
        part = np.zeros((2, bins.n), dtype=np.uint32)
        room = scratch()
        for tile in tiles(vectors, bins, slab, product):
            edges, cols = _runs(col_codes[tile.cols])
            rows, row_part = np.unique(row_codes[tile.rows], return_inverse=True)
            kinds = (rows[:, None] != cols[None, :]).astype(np.int64)
            by_class = weights.of_pairs(rows, cols)
            tile.count(edges, row_part, kinds, part, room, even=even, weights=by_class)
        counts += part
    return even if even.size else counts
