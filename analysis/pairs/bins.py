"""The bins of pair histograms: over which range, how many, how wide, and what memory they need.

Bins are of equal width where that tells pairs apart well enough, as a sample of pairs shows. Where
distances crowd (probabilities of 1,000 classes: most inner products are below 1e-6) bins follow the
pairs instead: each holds about the same share of them (`Cells`). A monotone map of the distances
leaves the AUC as it is, and with n bins of equal shares its certified interval is narrower than
1 / n whatever the distribution: with p and q the shares of same and of different pairs in a bin,
(p + q) / 2 = 1 / n, its width is sum p q = sum 2 p q / (p + q) / n <= 1 / n.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alike.analysis.blocks import CENTRE_ROWS, EvaluationSet, Vectors, blocks, many
from alike.extract.errors import BadInput

NEAREST_CLASSES = 20
"""Other classes that are listed of each of many classes, the nearest by mean distance."""
TILE = 1024
BINS = 1 << 14
"""A histogram of 64 KiB: twice as many bins cost a third more time, since they leave the cache."""
MOST_BINS = 1 << 20
FINE_BYTES = 96 << 20
CLASSES_BYTES = 512 << 20
PAIR_BYTES = 256 << 20
SAMPLE_STRIP = 256
CROWDED = 5e-5
"""Width of the interval of the AUC, expected from a sample, above which bins follow the pairs."""

FARTHEST = 64
MANTISSA = 23
CELL_BITS = 17
"""Of the mantissa, within a cell: so 64 cells for every doubling of the distance to the origin."""
OCTAVES = 60
VANISHING = 1e-36
"""Half a squared length below which float32, which ends at 1e-38, has few digits or none."""
EVEN = 0.2
"""Share of the bins that is dealt evenly over the range, so that tails keep their shape."""


class Cells(NamedTuple):
    """A piecewise linear map of a positive float32 to a bin, read from the bits of the number.

    Bits of positive floats order as the floats do. The upper ones choose a cell, the lower ones
    place linearly in it: bin = base[cell] + (rest * bins[cell] >> CELL_BITS), in integers, so that
    the map is exactly monotone. No cells: bins are of equal width.

    Attributes:
        base: uint32 (K,) the first bin of each cell; K = 0: no map.
        bins: uint32 (K,) how many bins the cell holds.
        start: uint32, the bits of `floor`.
        floor: float32, what lies below is taken as this; a cell begins there.
        ceiling: float32, what lies above is taken as this.
        drop: how many of the lowest bits are not used, so that the product fits in 32 bits.
        flip: 0, or bins - 1, which turns the order round.
        shift: 2^shift bins are joined.
    """

    base: NDArray[np.uint32]
    bins: NDArray[np.uint32]
    start: np.uint32
    floor: np.float32
    ceiling: np.float32
    drop: np.uint32
    flip: np.uint32
    shift: np.uint32


_NONE = np.zeros(0, dtype=np.uint32)
_O = np.uint32(0)
EQUAL = Cells(_NONE, _NONE, _O, np.float32(0), np.float32(0), _O, _O, _O)


@dataclass(frozen=True, eq=False)
class Bins:
    """Bins of the pair key (see `vectors`); what falls outside counts in the end bins.

    Attributes:
        first: lower edge of bin 0, in units of the key; with cells: the key from which they count.
        width: of one bin, > 0; with cells: 1, or -1 where they count downwards.
        n: number of bins, a power of two.
        cells: the map of (key - first) / width to bins where they are not of equal width.
    """

    first: float
    width: float
    n: int
    cells: Cells = EQUAL

    def __post_init__(self) -> None:
        check_bins(self.n)

    def edges(self) -> NDArray[np.float64]:
        """All n + 1 edges, as keys, ascending."""
        if not len(self.cells.base):
            return np.asarray(self.first + self.width * np.arange(self.n + 1), dtype=np.float64)
        fine = _cell_edges(self.cells, self.n << int(self.cells.shift))
        keys = self.first + self.width * fine[:: 1 << int(self.cells.shift)]
        return keys if self.width > 0 else keys[::-1]

    def middles(self) -> NDArray[np.float64]:
        """The n middles, as keys."""
        edges = self.edges()
        return (edges[:-1] + edges[1:]) / 2.0

    def to(self, n: int) -> "Bins":
        """The same range in n bins, fewer or as many."""
        if not len(self.cells.base):
            return Bins(self.first, self.width * (self.n // n), n)
        shift = int(self.cells.shift) + (self.n // n).bit_length() - 1
        return replace(self, n=n, cells=self.cells._replace(shift=np.uint32(shift)))


def check_bins(n: int) -> None:
    """Refuse a number of bins that is no power of two from 2 to `MOST_BINS`.

    Raises:
        BadInput: such a number.
    """
    if not 2 <= n <= MOST_BINS or n & (n - 1):
        msg = f"{n} bins: expected a power of two from 2 to {MOST_BINS}, such as {BINS}"
        raise BadInput(msg)


def _cell_edges(cells: Cells, n: int) -> NDArray[np.float64]:
    """Where each of n bins begins, and the end of the last: (n + 1,) float64, ascending."""
    base, bins = cells.base.astype(np.int64), cells.bins.astype(np.int64)
    cell = np.repeat(np.arange(len(base)), bins)
    inside = np.arange(n) - base[cell]
    # Cells without a bin of their own before a bin's cell count in it.
    cell = np.where(inside == 0, np.searchsorted(base, np.arange(n)), cell)
    bits = CELL_BITS - int(cells.drop)
    rest = -((-inside << bits) // np.maximum(bins[cell], 1)) << int(cells.drop)
    lower = ((int(cells.start) + (cell << CELL_BITS) + rest).astype(np.uint32)).view(np.float32)
    return np.append(lower, cells.ceiling).astype(np.float64)


@dataclass(frozen=True)
class Layers:
    """How many bins each kind of histogram has.

    Attributes:
        total: of all pairs of one class, and of all others.
        per_class: for each class.
        per_pair: for each pair of classes; of more than `MANY` classes for those that are listed.
    """

    total: int
    per_class: int
    per_pair: int

    def memory(self, n_classes: int) -> int:
        """Bytes of all counts, held once by the caller; see `no_totals` for very large classes."""
        pairs = n_classes * (n_classes + 1) // 2
        if many(n_classes):
            pairs = n_classes * (NEAREST_CLASSES + 1)
        fine = 2 * self.total + 2 * n_classes * self.per_class
        return 8 * fine + 4 * pairs * self.per_pair


def plan_layers(n_classes: int, n_images: int, bins: int = BINS) -> Layers:
    """All histograms fine while they fit in 96 MiB; else coarser ones per class and pair.

    A pair of classes gets the finest power of two from 16 bins on that fits in 256 MiB in all. A
    class gets as many bins as there are pairs of a row's class with a column's in a tile, from 256
    on, so that moving a tile's counts costs less than making them. More than `MANY` classes have
    fewer, so that all of them fit in 512 MiB.
    """
    pairs = n_classes * (n_classes + 1) // 2
    if pairs * bins * 8 <= FINE_BYTES and not many(n_classes):
        return Layers(bins, bins, bins)
    in_tile = min(TILE, n_images / n_classes) ** 2
    # As fine as the total only where a tile then needs one count a pair and still moves few.
    most = bins if in_tile >= 4 * bins else bins // 2
    per_class = min(most, max(256, _power_below(in_tile)))
    if many(n_classes):
        pairs = n_classes * (NEAREST_CLASSES + 1)
        per_class = min(per_class, max(256, _power_below(CLASSES_BYTES / (16 * n_classes))))
    per_pair = int(min(per_class, np.clip(_power_below(PAIR_BYTES / (8 * pairs)), 16, 1024)))
    return Layers(bins, per_class, per_pair)


def _power_below(x: float) -> int:
    return 1 << max(0, int(np.log2(max(x, 1.0))))


def measured_bins(vectors: Vectors, images: EvaluationSet, n: int = BINS) -> Bins:
    """Bins over the range of keys among up to 2,048 images, equally wide where that does.

    The sample is of runs of four images, which are sorted by class, so that it has pairs of both
    kinds however many classes there are; of plain distances, which have no bound, the images
    farthest from the centre are in it, whichever they are. Where the interval of its AUC in equal
    bins is wider than `CROWDED`, the bins follow its pairs. Features that do not vary give bins of
    which one holds every pair.

    Raises:
        BadInput: a wrong number of bins; distances whose squares leave the range of float32.
    """
    check_bins(n)
    runs = _runs_of_four(vectors.n)
    far = _farthest(vectors) if len(runs) < vectors.n and vectors.form == "euclidean" else runs[:0]
    at = np.union1d(runs, far)
    few = np.arange(len(at))
    if len(runs) < vectors.n:
        # Half of the sample says enough about crowding, at a quarter of the time.
        half = runs[np.arange(len(runs)) // 4 % 2 == 0]
        few = np.flatnonzero(np.isin(at, np.union1d(half, far)))
    low, high, every = _sampled_keys(vectors, at, few)
    at = at[few]
    upper = np.triu_indices(len(at), 1)
    keys = every[upper]
    same = images.codes[at[upper[0]]] == images.codes[at[upper[1]]]
    slack = max((high - low) * 0.02, 1e-12 + 1e-9 * abs(high))
    equal = Bins(low - slack, (high - low + 2 * slack) / n, n)
    if not same.any() or same.all() or high <= low:
        return equal
    wide = _width(((keys - equal.first) / equal.width).astype(np.int64), same, n)
    if wide <= CROWDED:
        return equal
    choices = [(wide, equal)]
    for first, width in ((low, 1.0), (high, -1.0)):
        x = ((keys - first) * width).astype(np.float32)
        cells, at_bin = _following_cells(x, same, n, flip=width < 0)
        choices.append((_width(at_bin, same, n), Bins(first, width, n, cells)))
    return min(choices, key=lambda each: each[0])[1]


def _sampled_keys(
    vectors: Vectors, at: NDArray[np.int64], few: NDArray[np.int64]
) -> tuple[float, float, NDArray[np.float64]]:
    """The least and the largest key of two images at `at`, and the keys (F, F) among `few` of them.

    A strip of rows at a time: fresh memory for all would take longer than the arithmetic.

    Args:
        vectors: of all images.
        at: (S,) positions of the sample, ascending.
        few: (F,) places within `at`, ascending.

    Raises:
        BadInput: features that are no numbers, or whose squares leave the range of float32.
    """
    z, b = vectors.rows(at)
    if not np.isfinite(b).all():
        msg = "some features are NaN or infinite, expected numbers: run `alike store verify`"
        raise BadInput(msg)
    exact = (
        np.concatenate([vectors.exact(int(place), int(place) + 1) for place in at])
        if vectors.exactly
        else None
    )
    least, most, another = np.inf, -np.inf, 0.0
    finite = not (vectors.form == "euclidean" and 0 < b.max() < VANISHING)
    among = np.empty((len(few), len(few)))
    for low in range(0, len(at), SAMPLE_STRIP):
        here = slice(low, low + SAMPLE_STRIP)
        with np.errstate(over="ignore", invalid="ignore"):
            keys: NDArray[np.float64] = np.add.outer(b[here], b)
            keys -= z[here] @ z.T
        finite = finite and bool(np.isfinite(keys).all())
        if not finite:
            msg = (
                f"squared distances of about {2.0 * b.max():.0e} overflow float32 or vanish in it: "
                "expected finite features of moderate size; scale them, or use a cosine measure"
            )
            raise BadInput(msg)
        if exact is not None:
            keys = vectors.exact_keys(exact[here], exact)
        another = float(keys[0, -1]) if low == 0 else another
        np.fill_diagonal(keys[:, low:], another)
        least, most = min(least, float(keys.min())), max(most, float(keys.max()))
        first, last = np.searchsorted(few, [low, low + len(keys)])
        among[first:last] = keys[few[first:last] - low][:, few]
    return least, most, among


def _runs_of_four(n: int) -> NDArray[np.int64]:
    """At most 2,048 positions spread over 0..n-1 in runs of four."""
    if n <= CENTRE_ROWS:
        return np.arange(n)
    starts = np.linspace(0, n - 4, CENTRE_ROWS // 4).astype(np.int64)
    return np.unique(starts[:, None] + np.arange(4))


def _farthest(vectors: Vectors) -> NDArray[np.int64]:
    """At most 64 positions: the images with the longest centred vectors, of Euclid's form."""
    at, lengths = np.zeros(0, dtype=np.int64), np.zeros(0)
    for low, high in blocks(vectors.n, vectors.dim):
        lengths = np.concatenate([lengths, vectors.block(low, high)[1]])
        at = np.concatenate([at, np.arange(low, high)])
        longest = np.argsort(-lengths, kind="stable")[:FARTHEST]
        at, lengths = at[longest], lengths[longest]
    return at


def _width(bins: NDArray[np.int64], same: NDArray[np.bool_], n: int) -> float:
    """Width of the interval of the AUC of these pairs: the chance that two kinds share a bin."""
    p, q = (np.bincount(bins[kind], minlength=n) / kind.sum() for kind in (same, ~same))
    return float(p @ q)


def _following_cells(
    x: NDArray[np.float32], same: NDArray[np.bool_], n: int, *, flip: bool
) -> tuple[Cells, NDArray[np.int64]]:
    """Cells whose bins hold equal shares of these pairs, and the bin of each pair.

    Args:
        x: (P,) distances of the pairs from the end of the range from which bins follow them.
        same: (P,) whether a pair is of one class.
        n: number of bins.
        flip: whether bins count down, since x counts from the upper end.
    """
    # Features that crowd put most pairs into a small part of the range, often by orders of
    # magnitude: bins of equal width leave them in a few, and the interval of the AUC wide. A cell
    # is the leading bits of the float, so cells are as fine relative to the distance everywhere,
    # and a pair reaches its bin without a search.
    # The farthest pair of the sample is not the farthest of all: 2 % of room above it.
    top = np.float32(float(x.max()) * 1.02)
    last = (int(top.view(np.uint32)) >> CELL_BITS) + 1
    start = max(1, last - (OCTAVES << (MANTISSA - CELL_BITS)))
    floor = np.uint32(start << CELL_BITS).view(np.float32)
    ceiling = np.uint32((last << CELL_BITS) - 1).view(np.float32)
    # The same integers as the compiled loop of `place_row`, so that both give one bin to a pair.
    bits = np.clip(x, floor, ceiling).view(np.uint32).astype(np.int64) - (start << CELL_BITS)
    cell, size = bits >> CELL_BITS, last - start
    # Both kinds weigh the same, however few the same pairs are: the AUC compares shares.
    share = [np.bincount(cell[kind], minlength=size) / kind.sum() for kind in (same, ~same)]
    patterns = (np.arange(start, last + 1) << CELL_BITS).astype(np.uint32)
    ends = patterns.view(np.float32).astype(np.float64)
    even = np.diff(ends) / (ends[-1] - ends[0])
    mass = (1.0 - EVEN) * (share[0] + share[1]) / 2.0 + EVEN * even
    cumulative = np.concatenate([[0.0], np.cumsum(mass)])
    # Each edge is rounded by itself, so errors do not add up; 1e-9 undoes that of the sum. A cell
    # may get no bin: its pairs then count in the bin that begins next.
    base = np.minimum(np.floor(cumulative / cumulative[-1] * n + 1e-9), n).astype(np.int64)
    base[-1] = n
    widths = np.diff(base)
    # rest * held must stay below 2^31, since the loop multiplies in 32 bits.
    drop = max(0, CELL_BITS + n.bit_length() - 1 - 31)
    rest = (bits & ((1 << CELL_BITS) - 1)) >> drop
    at_bin = base[cell] + (rest * widths[cell] >> (CELL_BITS - drop))
    at_bin = np.minimum(at_bin, n - 1)
    mirror = n - 1 if flip else 0
    cells = Cells(
        np.minimum(base[:-1], n - 1).astype(np.uint32), widths.astype(np.uint32),
        np.uint32(start << CELL_BITS), floor, ceiling, np.uint32(drop), np.uint32(mirror), _O,
    )  # fmt: skip
    return cells, at_bin ^ mirror
