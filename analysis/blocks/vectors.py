"""The vectors that pairs are made of, centred, with what turns inner products into distances.

For every form of measure one key orders the pairs: key(i, j) = b_i + b_j - z_i . z_j, where z is
the embedding less one fixed vector m (so that little cancels; 0 for inner products) and b is
    euclidean: |z|^2 / 2                      key = squared distance / 2
    cosine and inner: (1 - m . m) / 2 - z . m      key = 1 - inner product, the own distance.
"""

import logging
import shutil
import tempfile
from collections import OrderedDict
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from alike.analysis.blocks.jit import compiled
from alike.extract.measures import Array, FeatureRows, Form, Measure, embed_rows

LOG = logging.getLogger(__name__)
CENTRE_ROWS = 2048
SLAB = 4096
SLAB_FLOATS = 1 << 26
KEPT_BLOCKS = 4
ROUNDING = 1e-12
"""Share of the largest of some keys in float64 below which one is 0."""
MEMORY = 2 << 30
"""Bytes of vectors that are held in memory."""


Block = tuple[Array, NDArray[np.float64]]
"""z (n, D) and b (n,) of the formula above."""


def slab_rows(dim: int) -> int:
    """Rows of a slab: 4,096, fewer for long vectors, so that a slab stays below 256 MiB."""
    return int(max(256, min(SLAB, SLAB_FLOATS // max(dim, 1))))


def blocks(n: int, dim: int) -> list[tuple[int, int]]:
    """The positions 0..n-1 in slabs."""
    size = slab_rows(dim)
    return [(low, min(low + size, n)) for low in range(0, n, size)]


class Fetch(Protocol):
    """Where centred embedded images come from."""

    def __call__(self, low: int, high: int) -> Block:
        """Give z (high - low, D) float32 and b (high - low,) float64 of these positions."""

    def embedded(self, low: int, high: int) -> Array:
        """The vectors of these positions (high - low, D) as they are embedded, not centred."""

    def uncentred(self, low: int, high: int) -> tuple[Array, Array, NDArray[np.float64]]:
        """Vectors (high - low, D), what is to be taken from each (D,) to give z, and b."""

    def some(self, at: NDArray[np.int64]) -> Block:
        """Give z and b of these positions, ascending."""

    def take(self, at: NDArray[np.int64]) -> "Fetch":
        """The same of these positions only."""

    def sample(self, most: int) -> Block:
        """Give z and b of at most `most` positions, evenly over all."""


@dataclass(frozen=True)
class Vectors:
    """Embedded images by position, in memory or read when asked for.

    Attributes:
        n: number of images.
        form: of the measure.
        centre: m, float32 (D,).
        fetch: gives z and b.
        exactly: distances are to be computed in float64, from differences.
    """

    n: int
    form: Form
    centre: Array
    fetch: "Fetch"
    exactly: bool = False

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return len(self.centre)

    def block(self, low: int, high: int) -> Block:
        """Centred vectors (high - low, D) float32 and b (high - low,) float64."""
        return self.fetch(low, high)

    def uncentred(self, low: int, high: int) -> tuple[Array, Array, NDArray[np.float64]]:
        """Vectors (high - low, D), what is to be taken from each (D,) to give z, and b.

        So a loop that reads z once need not have it written first.
        """
        return self.fetch.uncentred(low, high)

    def rows(self, at: NDArray[np.int64]) -> Block:
        """Z and b of these positions, ascending."""
        return self.fetch.some(at)

    def sample(self, most: int) -> Block:
        """Z and b of `spread(n, most)`; where they must be read, read once."""
        return self.fetch.sample(most)

    def own(self, key: Any) -> Any:
        """The measure's own distance of a key."""
        return own_distance(self.form, key)

    def take(self, at: NDArray[np.int64]) -> "Vectors":
        """These positions only, in this order, centred as before."""
        return replace(self, n=len(at), fetch=self.fetch.take(at))

    def exact(self, low: int, high: int) -> NDArray[np.float64]:
        """Vectors in float64 (high - low, D), of cosines of length 1 there."""
        x = self.fetch.embedded(low, high).astype(np.float64)
        if self.form != "cosine":
            return x
        length = np.sqrt(np.einsum("nd,nd->n", x, x))
        return np.asarray(x / np.where(length > 0, length, 1.0)[:, None])

    def exact_keys(
        self, rows: NDArray[np.float64], others: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Keys (m, n) of vectors that `exact` gave: right to the last digits of each."""
        if self.form == "inner":
            return np.asarray(1.0 - rows @ others.T)
        keys: NDArray[np.float64] = half_squares(rows, others)
        if self.form == "cosine":
            keys[~rows.any(axis=1)] = 1.0
            keys[:, ~others.any(axis=1)] = 1.0
        return keys

    def wide_keys(self, block: Block, others: Block) -> NDArray[np.float64]:
        """Keys (m, n) of what `block` or `rows` gave, of products in float64.

        They are half the squared distances, which integers have exactly, and copies to the last
        digits: 1 less the product of vectors of length 1 that were rounded has fewer.
        """
        (z, b), (z_others, b_others) = block, others
        wide, wide_others = z.astype(np.float64), z_others.astype(np.float64)
        products = wide @ wide_others.T
        if self.form == "inner":
            return np.asarray((b[:, None] + b_others) - products)
        squares, of_others = (np.einsum("nd,nd->n", x, x) for x in (wide, wide_others))
        keys = np.asarray((squares[:, None] / 2.0 + of_others / 2.0) - products)
        keys[self.zeros(squares, b)] = 1.0
        keys[:, self.zeros(of_others, b_others)] = 1.0
        return keys

    def keys_among(self, at: NDArray[np.int64]) -> NDArray[np.float64]:
        """Keys (n, n) of some images in float64, exactly 0 of copies: ranks would order the rest.

        Args:
            at: (n,) positions, ascending.
        """
        block = self.rows(at)
        keys = self.wide_keys(block, block)
        if self.form != "inner":
            keys[keys <= ROUNDING * keys.max()] = 0.0
        return keys

    def zeros(self, squares: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether vectors are zero that only have a cosine, 0 with all: their keys are 1.

        Half a squared distance is not their key, as it is of vectors of length 1.

        Args:
            squares: (n,) squared lengths of z, float64.
            b: (n,) of the same.
        """
        if self.form != "cosine":
            return np.zeros(len(b), dtype=np.bool_)
        # |x|^2 is 1 or 0.
        return np.asarray(2.0 * b - squares > 0.5)


def centred(x: Array, centre: Array, form: Form) -> Block:
    """Give z and b of the module's formula."""
    z = x - centre
    if form == "euclidean":
        return z, np.einsum("nd,nd->n", z, z, dtype=np.float64) / 2.0
    wide = centre.astype(np.float64)
    return z, (1.0 - wide @ wide) / 2.0 - np.einsum("nd,d->n", z, wide, dtype=np.float64)


def _centre(sample: Array, form: Form) -> Array:
    """m: the mean of a sample; 0 for inner products, whose least values a sum would swallow."""
    if form == "inner":
        return np.zeros(sample.shape[1], dtype=np.float32)
    mean: Array = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
    # Integers stay integers, so that equal distances are equal.
    whole: Array = np.rint(mean)
    return whole if form == "euclidean" and np.array_equal(sample, np.rint(sample)) else mean


def own_distance(form: Form, key: Any) -> Any:
    """The measure's own distance of a key: sqrt(2 key) for Euclid, else the key itself."""
    if form == "euclidean":
        return np.sqrt(2.0 * np.maximum(key, 0.0))
    return key


def same_vectors(one: Vectors, other: Vectors) -> bool:
    """Whether every image has the same vector on both sides, to the last bit."""
    if (one.n, one.form) != (other.n, other.form) or not np.array_equal(one.centre, other.centre):
        return False
    parts = blocks(one.n, one.dim)
    return all(np.array_equal(one.block(*part)[0], other.block(*part)[0]) for part in parts)


def spread(n: int, most: int) -> NDArray[np.int64]:
    """At most `most` positions, evenly over 0..n-1: by class, since positions are sorted by it."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))


@compiled
def half_squares(rows: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half the squared distances (m, n), from differences, so that nothing cancels."""
    out = np.empty((len(rows), len(others)))
    for i in range(len(rows)):
        for j in range(len(others)):
            total = 0.0
            for d in range(rows.shape[1]):
                apart = rows[i, d] - others[j, d]
                total += apart * apart
            out[i, j] = total / 2.0
    return out


@dataclass(frozen=True)
class _Held:
    x: Array
    centre: Array
    b: NDArray[np.float64]

    def __call__(self, low: int, high: int) -> Block:
        return self.x[low:high] - self.centre, self.b[low:high]

    def embedded(self, low: int, high: int) -> Array:
        return self.x[low:high]

    def uncentred(self, low: int, high: int) -> tuple[Array, Array, NDArray[np.float64]]:
        return self.x[low:high], self.centre, self.b[low:high]

    def some(self, at: NDArray[np.int64]) -> Block:
        return self.x[at] - self.centre, self.b[at]

    def take(self, at: NDArray[np.int64]) -> "_Held":
        return _Held(self.x[at], self.centre, self.b[at])

    def sample(self, most: int) -> Block:
        at = spread(len(self.x), most)
        return self.take(at)(0, len(at))


class _Stored:
    """Reads and embeds rows of the store when asked; travels as names, and opens the store there.

    The last few blocks stay, since a slab is asked for once with every other one.
    """

    def __init__(
        self, features: Any, measure: Measure, rows: NDArray[np.int64], centre: Array
    ) -> None:
        self.features = features
        self.measure = measure
        self.rows = rows
        self.centre = centre
        self._kept: OrderedDict[tuple[int, int], Block] = OrderedDict()
        self._sample: tuple[int, Block] | None = None
        self._lock, self._sampling = Lock(), Lock()

    def __call__(self, low: int, high: int) -> Block:
        """Give z and b of these positions."""
        with self._lock:
            if (low, high) in self._kept:
                self._kept.move_to_end((low, high))
                return self._kept[low, high]
        x = embed_rows(self.features, self.measure, self.rows[low:high])
        block = centred(x, self.centre, self.measure.form)
        with self._lock:
            self._kept[low, high] = block
            while len(self._kept) > KEPT_BLOCKS:
                self._kept.popitem(last=False)
        return block

    def embedded(self, low: int, high: int) -> Array:
        """Embedded rows of these positions, not centred."""
        return embed_rows(self.features, self.measure, self.rows[low:high])

    def uncentred(self, low: int, high: int) -> tuple[Array, Array, NDArray[np.float64]]:
        """Blocks that stay are centred already: 0 is to be taken from them."""
        z, b = self(low, high)
        return z, np.zeros_like(self.centre), b

    def some(self, at: NDArray[np.int64]) -> Block:
        """Z and b of these positions, of the blocks that they are in."""
        z, b = np.empty((len(at), len(self.centre)), dtype=np.float32), np.empty(len(at))
        for low, high in blocks(len(self.rows), len(self.centre)):
            first, last = np.searchsorted(at, [low, high])
            if last > first:
                whole = self(low, high)
                inside = at[first:last] - low
                z[first:last], b[first:last] = whole[0][inside], whole[1][inside]
        return z, b

    def take(self, at: NDArray[np.int64]) -> "_Stored":
        """The same of these positions only."""
        return _Stored(self.features, self.measure, self.rows[at], self.centre)

    def sample(self, most: int) -> Block:
        """Give z and b of at most `most` positions; they stay."""
        with self._sampling:
            if self._sample is None or self._sample[0] != most:
                at = spread(len(self.rows), most)
                self._sample = most, self.take(at)(0, len(at))
            return self._sample[1]

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel by the store's place, the extraction's key and the measure's fitted arrays."""
        place = self.features.store.place, self.features.key
        return _reopen, (*place, self.measure, self.rows, self.centre)


def _reopen(
    url: str, key: str, measure: Measure, rows: NDArray[np.int64], centre: Array
) -> _Stored:
    from alike.extract.store import Store

    return _Stored(Store.open(url).features(key), measure, rows, centre)


def held_vectors(x: Array, form: Form) -> Vectors:
    """Vectors that are in memory already: (N, D) float32."""
    x = np.ascontiguousarray(x, dtype=np.float32)
    centre = _centre(x[spread(len(x), CENTRE_ROWS)], form)
    b = np.empty(len(x))
    for low, high in blocks(*x.shape):
        b[low:high] = centred(x[low:high], centre, form)[1]
    return Vectors(len(x), form, centre, _Held(x, centre, b))


@dataclass(frozen=True)
class MeasuredRows:
    """Rows of a store as a measure embeds them, of which nothing is held yet.

    Attributes:
        features: where they are stored.
        measure: fitted already.
        rows: int64 (N,).
        dim: length of an embedded row.
    """

    features: FeatureRows
    measure: Measure
    rows: NDArray[np.int64]
    dim: int

    def load(self, memory: int = MEMORY) -> Vectors:
        """Vectors that are held in memory if they need at most `memory` bytes.

        Otherwise they are embedded once into a file without a name, which goes with this process.
        With 0, or where the disk has no room, they are read where they are needed, as workers
        elsewhere must.
        """
        shape = len(self.rows), self.dim
        if 4 * shape[0] * shape[1] <= memory:
            x = embed_rows(self.features, self.measure, self.rows)
            return held_vectors(x, self.measure.form)
        if memory and (room := _scratch(shape)) is not None:
            embed_rows(self.features, self.measure, self.rows, into=room)
            return held_vectors(room, self.measure.form)
        few = self.rows[spread(len(self.rows), CENTRE_ROWS)]
        centre = _centre(embed_rows(self.features, self.measure, few), self.measure.form)
        stored = _Stored(self.features, self.measure, self.rows, centre)
        return Vectors(len(self.rows), self.measure.form, centre, stored)


def _scratch(shape: tuple[int, int]) -> Array | None:
    """A float32 array over a file without a name; None, and a warning, where the disk is full.

    Args:
        shape: (N, D); twice its bytes must be free.
    """
    size = 4 * shape[0] * shape[1]
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < 2 * size:
        LOG.warning(
            "%s has %.1f GB free, and vectors of %.1f GB would lie there: they are read from the "
            "store again and again, which takes longer; set TMPDIR to a folder with more room",
            folder, free / 1e9, size / 1e9,
        )  # fmt: skip
        return None
    with tempfile.TemporaryFile(dir=folder) as file:
        # A plain array over the file, which stays open as long as the array.
        return np.asarray(np.memmap(file, dtype=np.float32, mode="w+", shape=shape))


def measured_rows(features: FeatureRows, measure: Measure, rows: NDArray[np.int64]) -> MeasuredRows:
    """Embed the first row, which tells the length, and whether the measure fits what is stored.

    Raises:
        BadInput: the measure cannot embed it: a tap is missing, sizes do not match, it is NaN.
    """
    dim = embed_rows(features, measure, rows[:1]).shape[1]
    return MeasuredRows(features, measure, rows, dim)


def stored_vectors(
    features: FeatureRows, measure: Measure, rows: NDArray[np.int64], *, memory: int = MEMORY
) -> Vectors:
    """Vectors of stored rows; see `MeasuredRows.load`."""
    return measured_rows(features, measure, rows).load(memory)
