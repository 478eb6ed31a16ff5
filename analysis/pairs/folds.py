"""Balanced sameness accuracy with the threshold from other images, as the LFW protocol does it.

Images are dealt into folds within their class; a fold's pairs are those among its own images, so no
image is on both sides. For each fold the threshold is the best one on the pairs of all others.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alike.analysis.blocks import EvaluationSet, MapBlocks, Statistic, Vectors
from alike.analysis.pairs.bins import Bins
from alike.analysis.pairs.counts import count_kinds
from alike.analysis.pairs.curves import folded_balanced

FOLDS = 10


@dataclass(frozen=True)
class Folded:
    """The accuracy of each fold.

    Attributes:
        accuracies: (F,), NaN in a fold without pairs of both kinds.
    """

    accuracies: NDArray[np.float64]

    @property
    def value(self) -> float:
        """Mean over the folds."""
        kept = self.accuracies[np.isfinite(self.accuracies)]
        return float(kept.mean()) if len(kept) else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Mean -+ 1.96 standard errors over the folds."""
        kept = self.accuracies[np.isfinite(self.accuracies)]
        if len(kept) < 2:
            return float("nan"), float("nan")
        error = 1.96 * float(kept.std(ddof=1)) / len(kept) ** 0.5
        return self.value - error, self.value + error


def deal(images: EvaluationSet, folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each image (N,): every class spread evenly, its images shuffled."""
    draw = np.random.default_rng(seed)
    out = np.empty(len(images), dtype=np.int64)
    for low, high in zip(images.starts[:-1], images.starts[1:], strict=True):
        out[low:high] = draw.permutation((np.arange(high - low) + draw.integers(folds)) % folds)
    return out


def folded_accuracy(
    vectors: Vectors,
    images: EvaluationSet,
    bins: Bins,
    *,
    folds: int = FOLDS,
    seed: int = 0,
    map_blocks: MapBlocks = map,
) -> Folded:
    """Deal, count and evaluate; fewer folds where classes are too small for two images in each."""
    folds = int(max(2, min(folds, np.median(images.counts[images.counts > 1]) // 2)))
    fold_of = deal(images, folds, seed)
    coarse = bins.to(min(bins.n, 8192))
    # Folds of classes of one size may hold one image more of some: chance, which no weight removes.
    plain = len(set(images.counts[images.counts > 0].tolist())) == 1

    counts = Statistic(
        items=range(folds),
        chunk=partial(_count_fold, vectors, images, coarse, fold_of, plain),
        start=list,
        combine=_append,
        finalize=np.stack,
    ).compute(map_blocks)
    return Folded(folded_balanced(counts[:, 0], counts[:, 1]))


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


def _append(parts: list[Any], part: Any) -> list[Any]:
    return [*parts, part]
