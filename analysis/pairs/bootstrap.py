"""Uncertainty: images are drawn again, within their class, never pairs (pairs share images).

A replicate draws n_c images of every class c with replacement; a pair then counts as often as the
product of how often its two images were drawn. So one pass over the pairs, with the weights beside
it, gives the weighted histogram of every replicate at once, and every pair score of it. Copies of
one image make no pair with each other: their distance 0 says nothing.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alike.analysis.blocks import EvaluationSet, MapBlocks, Statistic, Vectors
from alike.analysis.pairs.bins import Bins
from alike.analysis.pairs.kernels import scratch, weigh_bins
from alike.analysis.pairs.tiling import Slab, slabs, tiles

BINS = 1024
LEVEL = 0.95
IMAGES = 8192
"""Images whose weights are float64 at a time."""


@dataclass(frozen=True)
class Draws:
    """How often each replicate draws each image; made where it is needed, from the seed.

    Attributes:
        images: the evaluation set; every class keeps its size.
        replicates: R.
        seed: of the draws.
    """

    images: EvaluationSet
    replicates: int
    seed: int

    @cached_property
    def weights(self) -> NDArray[np.uint8]:
        """(N, R); no image is drawn as often as 256 times."""
        draw = np.random.default_rng(self.seed)
        starts = self.images.starts
        out = np.zeros((len(self.images), self.replicates), dtype=np.uint8)
        for low, high in pairwise(starts):
            if high > low:
                share = np.full(high - low, 1.0 / (high - low))
                at = self.images.by_id[low:high]
                out[at] = draw.multinomial(high - low, share, size=self.replicates).T
        return out

    def __getstate__(self) -> dict[str, Any]:
        """Travel without the weights."""
        return {"images": self.images, "replicates": self.replicates, "seed": self.seed}


def weighted_histograms(
    vectors: Vectors, draws: Draws, bins: Bins, *, map_blocks: MapBlocks = map
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Same and different histograms of each replicate, (B, R) each, in at most 1,024 bins."""
    coarse = bins.to(min(bins.n, BINS))
    joined: Statistic[Slab, Any, Any, Any] = Statistic(
        items=slabs(vectors),
        chunk=partial(weigh_slab, vectors, draws, coarse),
        start=partial(np.zeros, (2, coarse.n, draws.replicates)),
        combine=np.add,
        finalize=np.asarray,
    )
    total = joined.compute(map_blocks)
    return total[0], total[1]


def quantile_interval(values: NDArray[np.float64], level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval of the replicates; NaN where none is finite."""
    kept = values[np.isfinite(values)]
    if not len(kept):
        return float("nan"), float("nan")
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_interval(
    values: NDArray[np.float64], weights: NDArray[np.uint8], level: float = LEVEL
) -> tuple[float, float]:
    """Interval of a mean over images: each replicate weighs each image as often as drawn."""
    kept = np.isfinite(values)
    return quantile_interval(weighted_means(values[kept], weights[kept]), level)


def weighted_means(values: NDArray[Any], weights: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean of values (N,) in every replicate, weights (N, R): (R,).

    Summed some images at a time, since weights take eight times the memory as float64.
    """
    total, drawn = np.zeros((2, weights.shape[1]))
    for low in range(0, len(values), IMAGES):
        part = weights[low : low + IMAGES].astype(np.float64)
        total += np.asarray(values[low : low + IMAGES], dtype=np.float64) @ part
        drawn += part.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / drawn)


def weigh_slab(vectors: Vectors, draws: Draws, bins: Bins, slab: Slab) -> NDArray[np.int32]:
    """Weighted histograms of one slab: (2, B, R), same and different, replicate by replicate."""
    (row_low, row_high), (col_low, col_high) = slab
    weights, codes = draws.weights, draws.images.codes
    sums = np.zeros((2, bins.n, weights.shape[1]), dtype=np.int32)
    row_weights, col_weights = weights[row_low:row_high], weights[col_low:col_high]
    row_codes, col_codes = codes[row_low:row_high], codes[col_low:col_high]
    room = scratch()
    for tile in tiles(vectors, bins, slab):
        weigh_bins(
            tile.product, tile.row_b, tile.col_b, tile.scale, tile.first, tile.cells,
            row_codes[tile.rows], col_codes[tile.cols], row_weights[tile.rows],
            col_weights[tile.cols], sums, room,
        )  # fmt: skip
    return sums
