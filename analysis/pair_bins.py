"""The bins of pair histograms: over which range, how many, and what memory they need."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.vectors import CENTRE_ROWS, Vectors, spread
from extract.errors import BadInput

TILE = 1024
BINS = 1 << 16
MOST_BINS = 1 << 20
FINE_BYTES = 96 << 20
PAIR_BYTES = 256 << 20


@dataclass(frozen=True)
class Bins:
    """Equal bins of the pair key (see `vectors`); what falls outside counts in the end bins.

    Attributes:
        first: lower edge of bin 0, in units of the key.
        width: of one bin, > 0.
        n: number of bins, a power of two.
    """

    first: float
    width: float
    n: int

    def __post_init__(self) -> None:
        if not 2 <= self.n <= MOST_BINS or self.n & (self.n - 1):
            msg = f"{self.n} bins: expected a power of two from 2 to {MOST_BINS}, such as {BINS}"
            raise BadInput(msg)

    def edges(self) -> NDArray[np.float64]:
        """All n + 1 edges, as keys."""
        return np.asarray(self.first + self.width * np.arange(self.n + 1), dtype=np.float64)

    def to(self, n: int) -> "Bins":
        """The same range in n bins, fewer or as many."""
        return Bins(self.first, self.width * (self.n // n), n)


@dataclass(frozen=True)
class Layers:
    """How many bins each kind of histogram has.

    Attributes:
        total: of all pairs of one class, and of all others.
        per_class: for each class.
        per_pair: for each pair of classes.
    """

    total: int
    per_class: int
    per_pair: int

    def memory(self, n_classes: int) -> int:
        """Bytes of all counts, held once by the caller."""
        pairs = n_classes * (n_classes + 1) // 2
        return 8 * (2 * self.total + 2 * n_classes * self.per_class + pairs * self.per_pair)


def plan_layers(n_classes: int, n_images: int, bins: int = BINS) -> Layers:
    """All histograms fine while they fit in 96 MiB; else coarser ones per class and pair.

    A pair of classes gets the finest power of two from 16 bins on that fits in 256 MiB in all. A
    class gets as many bins as there are pairs of a row's class with a column's in a tile, from 256
    to 8,192, so that moving a tile's counts costs less than making them.
    """
    pairs = n_classes * (n_classes + 1) // 2
    if pairs * bins * 8 <= FINE_BYTES:
        return Layers(bins, bins, bins)
    in_tile = min(TILE, n_images / n_classes) ** 2
    per_class = int(min(bins, np.clip(_power_below(in_tile), 256, 8192)))
    per_pair = int(min(per_class, np.clip(_power_below(PAIR_BYTES / (8 * pairs)), 16, 1024)))
    return Layers(bins, per_class, per_pair)


def _power_below(x: float) -> int:
    return 1 << max(0, int(np.log2(max(x, 1.0))))


def measured_bins(vectors: Vectors, n: int = BINS) -> Bins:
    """Bins over the range of keys among up to 2,048 images spread over the classes, and a margin.

    With no more images than that the range is that of all pairs. Features that do not vary give
    bins of which one holds every pair.
    """
    z, b = vectors.rows(spread(vectors.n, CENTRE_ROWS))
    if not np.isfinite(b).all():
        msg = "some features are NaN or infinite, expected numbers: run `alike store verify`"
        raise BadInput(msg)
    low, high = np.inf, -np.inf
    for start in range(0, len(z), TILE):
        keys = b[start : start + TILE, None] + b[None, :] - z[start : start + TILE] @ z.T
        keys[np.arange(len(keys)), np.arange(start, start + len(keys))] = np.nan
        low, high = min(low, np.nanmin(keys)), max(high, np.nanmax(keys))
    slack = max((high - low) * 0.02, 1e-12 + 1e-9 * abs(high))
    return Bins(float(low - slack), float((high - low + 2 * slack) / n), n)
