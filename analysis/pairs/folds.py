"""Balanced sameness accuracy with the threshold from other images, as the LFW protocol does it.

Images are dealt into folds within their class; a fold's pairs are those among its own images, so no
image is on both sides. For each fold the threshold is the best one on the pairs of all others.

For the interval the images of a class in one fold are a unit, and the folds replicates of it: how
much the pairs with these images are told apart better or worse than in other folds.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.analysis.blocks import (
    EvaluationSet,
    MapBlocks,
    Statistic,
    Vectors,
    append_part,
    best_product,
    many,
)
from alike.analysis.pairs.bins import Bins
from alike.analysis.pairs.counts import count_kinds
from alike.analysis.pairs.curves import best_balanced, folded_balanced, rates
from alike.analysis.pairs.intervals import Spread, spread
from alike.analysis.pairs.kernels import count_near
from alike.analysis.pairs.tiling import slabs, tiles

FOLDS = 10
FEWEST = 3
"""Folds from which on they say how much the accuracy hangs on the images."""
SHORT = 1.1
"""By how much the spread over folds falls short, since they share thresholds (measured)."""


@dataclass(frozen=True)
class Folded:
    """The accuracy of each fold.

    Attributes:
        accuracies: (F,), NaN in a fold without pairs of both kinds.
        moved: (M,) how each class in each fold moves the mean; empty: not asked for.
        stratum: (M,) the class of each.
    """

    accuracies: NDArray[np.float64]
    moved: NDArray[np.float64]
    stratum: NDArray[np.int64]

    @property
    def value(self) -> float:
        """Mean over the folds."""
        finite = self.accuracies[np.isfinite(self.accuracies)]
        return float(finite.mean()) if len(finite) else float("nan")

    @property
    def spread(self) -> Spread | None:
        """What its interval rests on; None with fewer than three folds."""
        if np.isfinite(self.accuracies).sum() < FEWEST or not len(self.moved):
            return None
        return spread(self.moved, self.stratum, overcount=SHORT)


def deal(
    images: EvaluationSet, folds: int, seed: int, unit: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """The fold of each image (N,): every class spread evenly, its images shuffled.

    Args:
        images: the evaluation set.
        folds: how many.
        seed: of the shuffling.
        unit: (N,) images of one unit of a class share a fold; None: each is its own.
    """
    draw = np.random.default_rng(seed)
    out = np.empty(len(images), dtype=np.int64)
    for low, high in zip(images.starts[:-1], images.starts[1:], strict=True):
        at = images.by_id[low:high]
        units = np.arange(high - low) if unit is None else pd.factorize(unit[at])[0]
        n = int(units.max()) + 1 if len(units) else 0
        out[at] = draw.permutation((np.arange(n) + draw.integers(folds)) % folds)[units]
    return out


def folded_accuracy(
    vectors: Vectors,
    images: EvaluationSet,
    bins: Bins,
    *,
    folds: int = FOLDS,
    seed: int = 0,
    unit: NDArray[np.int64] | None = None,
    intervals: bool = True,
    map_blocks: MapBlocks = map,
    map_intervals: MapBlocks = map,
) -> Folded:
    """Deal, count and evaluate; fewer folds where classes are too small for two images in each.

    Args:
        vectors: of the images.
        images: the evaluation set.
        bins: of the histograms.
        folds: at most.
        seed: deals the images.
        unit: (N,) near copies, which share a fold; None: each image is a unit.
        intervals: count also which pairs lie on the right side.
        map_blocks: how folds are mapped.
        map_intervals: how folds are mapped again, for the interval.
    """
    sizes: NDArray[Any] = images.counts
    if unit is not None:
        first = np.unique(unit, return_index=True)[1]
        sizes = np.bincount(images.codes[first], minlength=len(images.classes))
    sizes = sizes[sizes > 1] if (sizes > 1).any() else np.ones(1)
    folds = int(max(2, min(folds, np.median(sizes) // 2)))
    fold_of = deal(images, folds, seed, unit)
    coarse = bins.to(min(bins.n, 8192))
    # Folds of classes of one size may hold one image more of some: chance, which no weight removes.
    plain = len(set(images.counts[images.counts > 0].tolist())) == 1

    counts = Statistic(
        items=range(folds),
        chunk=partial(_count_fold, vectors, images, coarse, fold_of, plain),
        start=list,
        combine=append_part,
        finalize=np.stack,
    ).compute(map_blocks)
    accuracies = folded_balanced(counts[:, 0], counts[:, 1])
    # The interval needs the pairs of every two classes in every fold.
    if not intervals or np.isfinite(accuracies).sum() < FEWEST or many(len(images.classes)):
        return Folded(accuracies, np.zeros(0), np.zeros(0, dtype=np.int64))
    total = counts.sum(axis=0)
    at = [best_balanced(*rates(*(total - part)))[1] for part in counts]
    right = Statistic(
        items=list(enumerate(at)),
        chunk=partial(_near_pairs, vectors, images, coarse, fold_of),
        start=list,
        combine=append_part,
        finalize=np.stack,
    ).compute(map_intervals)
    return Folded(accuracies, *_movements(right, images, fold_of))


def _near_pairs(
    vectors: Vectors,
    images: EvaluationSet,
    bins: Bins,
    fold_of: NDArray[np.int64],
    item: tuple[int, int],
) -> NDArray[np.uint32]:
    """Pairs of each two classes (C, C) that lie before the fold's threshold, both ways round."""
    at = np.flatnonzero(fold_of == item[0])
    few, of = vectors.take(at), images.take(at)
    near = np.zeros((len(images.classes), len(images.classes)), dtype=np.uint32)
    product = best_product(few.dim, float(few.n) ** 2 * few.dim)
    for slab in slabs(few):
        (row_low, row_high), (col_low, col_high) = slab
        rows, cols = of.codes[row_low:row_high], of.codes[col_low:col_high]
        for tile in tiles(few, bins, slab, product):
            count_near(
                tile.product, tile.row_b, tile.col_b, tile.scale, tile.first, tile.cells,
                rows[tile.rows], cols[tile.cols], np.uint32(item[1]), np.float32(bins.n - 1), near,
            )  # fmt: skip
    return near


def _movements(
    near: NDArray[np.uint32], images: EvaluationSet, fold_of: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """How each class in each fold moves the mean accuracy (M,), and which class it is (M,).

    Classes that are not in every fold with two images, and pairs that are not, weigh in the folds
    that have them.
    """
    folds, classes = near.shape[:2]
    own = np.eye(classes, dtype=bool)

    def rightly(fold: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Share of the pairs of two classes that a fold judges rightly, and where it has some."""
        n = np.bincount(images.codes[fold_of == fold], minlength=classes).astype(np.float64)
        pairs = np.outer(n, n)
        np.fill_diagonal(pairs, n * (n - 1) / 2)
        correct = near[fold] / np.maximum(pairs, 1)
        there = pairs > 0
        return np.where(own, correct, 1.0 - correct) * there, there

    # Fold by fold, twice: all shares at once would be 80 bytes for each two classes.
    mean, n_there = np.zeros((classes, classes)), np.zeros((classes, classes))
    for fold in range(folds):
        share, there = rightly(fold)
        mean += share
        n_there += there
    mean /= np.maximum(n_there, 1)
    moved, present = np.zeros((folds, classes)), np.zeros((folds, classes), dtype=bool)
    for fold in range(folds):
        share, there = rightly(fold)
        same, apart = there & own, there & ~own
        # A pair of classes stands there twice, [a, b] and [b, a], and weighs as one in each row.
        weight = (same / max(same.sum(), 1) / 2 + apart / max(apart.sum(), 1)) / folds
        moved[fold] = ((share - mean) * there * weight).sum(axis=1)
        present[fold] = there.any(axis=1)
    stratum = np.broadcast_to(np.arange(classes), moved.shape)
    return moved[present], stratum[present].astype(np.int64)


def _count_fold(
    vectors: Vectors,
    images: EvaluationSet,
    bins: Bins,
    fold_of: NDArray[np.int64],
    plain: bool,
    fold: int,
) -> NDArray[np.float64]:
    at = np.flatnonzero(fold_of == fold)
    return count_kinds(vectors.take(at), images.take(at), bins, plain=plain)
