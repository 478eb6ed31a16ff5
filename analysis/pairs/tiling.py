"""All pairs cut into slabs, slabs into tiles: one tile is one matrix product."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alike.analysis.blocks import Entries, Product, Vectors, blocks, by_numpy
from alike.analysis.pairs.bins import TILE as TILE
from alike.analysis.pairs.bins import Bins, Cells
from alike.analysis.pairs.kernels import Scratch, count_directly, count_layers, count_tile
from alike.extract.errors import BadInput

Slab = tuple[tuple[int, int], tuple[int, int]]


def slabs(vectors: Vectors) -> list[Slab]:
    """All pairs of row ranges (I, J) with I not after J: together every unordered pair once."""
    cuts = blocks(vectors.n, vectors.dim)
    return [(cuts[i], cuts[j]) for i in range(len(cuts)) for j in range(i, len(cuts))]


@dataclass(frozen=True)
class Tile:
    """One product of a slab.

    Attributes:
        product: (m, n), float32 or the bits of bfloat16; overwritten by the next tile.
        rows: its rows within the slab's.
        cols: its columns within the slab's.
        scale: 1 / bin width.
        first: row i is paired with the columns from max(0, i + first) on.
        row_b: (m,) b in bins, less the first bin.
        col_b: (n,) b in bins.
        cells: of the bins.
        own_b: (m,) and (n,) b as it is, float64.
    """

    product: Entries
    rows: slice
    cols: slice
    scale: np.float32
    first: int
    row_b: NDArray[np.float32]
    col_b: NDArray[np.float32]
    cells: Cells
    own_b: tuple[NDArray[np.float64], NDArray[np.float64]]

    def count(
        self,
        edges: NDArray[np.int64],
        row_part: NDArray[np.int64],
        slots: NDArray[np.int64],
        counts: NDArray[np.uint32],
        scratch: Scratch,
        *,
        fine: NDArray[np.uint32] | None = None,
        kinds: NDArray[np.int64] | None = None,
        even: NDArray[np.float64] | None = None,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        """Count every pair in `counts`, with fewer bins there in `fine`, weighed in `even`.

        See `count_tile`.
        """
        shift = 0 if fine is None else (fine.shape[1] // counts.shape[1]).bit_length() - 1
        count_tile(
            self.product, self.row_b, self.col_b, self.scale, self.first, self.cells, edges,
            row_part, slots, shift, counts, slots if kinds is None else kinds,
            counts[:, :0] if fine is None else fine,
            np.zeros((len(counts), 0)) if even is None else even,
            np.zeros(slots.shape) if weights is None else weights, scratch,
        )  # fmt: skip

    def count_layers(
        self,
        edges: NDArray[np.int64],
        row_part: NDArray[np.int64],
        kinds: NDArray[np.int64],
        fine: NDArray[np.uint32],
        even: NDArray[np.float64],
        weights: NDArray[np.float64],
        scratch: Scratch,
        parts: NDArray[np.uint32],
        *layers: NDArray[Any],
    ) -> None:
        """Count every pair in `fine` and `even` if they have bins, and in `layers`.

        Without histograms in `parts` straight there; see `kernels.count_layers`.
        """
        shift = (fine.shape[1] // parts.shape[1]).bit_length() - 1 if fine.size else 0
        given = (
            self.product, self.row_b, self.col_b, self.scale, self.first, self.cells, edges,
            row_part, shift, kinds, fine, even, weights, scratch,
        )  # fmt: skip
        if len(parts):
            count_layers(*given, parts, *layers)
        else:
            count_directly(*given, *layers)


def tiles(vectors: Vectors, bins: Bins, slab: Slab, product: Product = by_numpy) -> Iterator[Tile]:
    """Yield the products of a slab, tile by tile; tiles below the diagonal are left out."""
    (row_low, row_high), (col_low, col_high) = slab
    x_rows, m, b_rows = vectors.uncentred(row_low, row_high)
    x_cols, m_cols, b_cols = vectors.uncentred(col_low, col_high)
    scale = np.float32(1.0 / bins.width)
    row_b = ((b_rows - bins.first) / bins.width).astype(np.float32)
    col_b = (b_cols / bins.width).astype(np.float32)
    if not (np.isfinite(row_b).all() and np.isfinite(col_b).all()):
        # The compiled loops index by these numbers: nothing that is no number may reach them.
        msg = (
            f"some distances among the images at {slab} are NaN or overflow float32: expected "
            "finite features of moderate size; run `alike store verify`, or use a cosine measure"
        )
        raise BadInput(msg)
    if vectors.exactly:
        yield from _exact_tiles(vectors, bins, slab)
        return
    scratch = np.empty(TILE * TILE, dtype=np.float32)
    # Tile by tile, so that memory which is in the cache already is written.
    others = [product.ready(x_cols[j : j + TILE] - m_cols) for j in range(0, len(x_cols), TILE)]
    for i in range(0, len(row_b), TILE):
        rows = slice(i, i + TILE)
        part = product.ready(x_rows[rows] - m)
        for at, other in enumerate(others):
            cols = slice(at * TILE, (at + 1) * TILE)
            first = (row_low + i) - (col_low + cols.start) + 1
            if first > len(other):
                continue
            room = scratch[: len(part) * len(other)].reshape(len(part), len(other))
            out = product.multiply(part, other, room)
            own_b = b_rows[rows], b_cols[cols]
            yield Tile(out, rows, cols, scale, first, row_b[rows], col_b[cols], bins.cells, own_b)


def _exact_tiles(vectors: Vectors, bins: Bins, slab: Slab) -> Iterator[Tile]:
    """Tiles whose products are the keys themselves in units of bins, turned round."""
    (row_low, row_high), (col_low, col_high) = slab
    one = np.float32(1.0)
    for i in range(row_low, row_high, TILE):
        left = vectors.exact(i, min(i + TILE, row_high))
        for j in range(col_low, col_high, TILE):
            right = vectors.exact(j, min(j + TILE, col_high))
            first = i - j + 1
            if first > len(right):
                continue
            rows, cols = (
                slice(i - row_low, i - row_low + TILE),
                slice(j - col_low, j - col_low + TILE),
            )
            yield Tile(
                exact_places(vectors, bins, left, right), rows, cols, one, first,
                np.zeros(len(left), np.float32), np.zeros(len(right), np.float32), bins.cells,
                (np.zeros(len(left)), np.zeros(len(right))),
            )  # fmt: skip


def exact_places(
    vectors: Vectors, bins: Bins, rows: NDArray[np.float64], others: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Minus the place (m, n) of each pair among the bins, from `Vectors.exact`."""
    keys = vectors.exact_keys(rows, others)
    return ((bins.first - keys) / bins.width).astype(np.float32)
