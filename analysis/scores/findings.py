"""What is measured once for a measure and a set of images, and read by several tables."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alike.analysis.blocks import EvaluationSet
from alike.analysis.classes import ClassGeometry, Moments
from alike.analysis.neighbours import Nearest
from alike.analysis.pairs import PairCounts, PairSpreads, Units


@dataclass(frozen=True)
class Findings:
    """What is measured once and read by several tables.

    Attributes:
        name: of the measure.
        images: the evaluation set.
        counts: histograms of all pairs.
        moments: class sums.
        geometry: how the classes lie.
        near: neighbours.
        units: images, or near copies of one, that are independent of each other.
        spreads: how surely the scores of pairs are known; None: intervals are not asked for.
    """

    name: str
    images: EvaluationSet
    counts: PairCounts
    moments: Moments
    geometry: ClassGeometry
    near: Nearest
    units: Units
    spreads: PairSpreads | None

    @property
    def same(self) -> NDArray[np.float64]:
        """Histogram of the pairs of one class (B,), balanced."""
        kind: NDArray[np.float64] = self.counts.balanced[0]
        return kind

    @property
    def different(self) -> NDArray[np.float64]:
        """Histogram of the pairs of different classes (B,), balanced."""
        kind: NDArray[np.float64] = self.counts.balanced[1]
        return kind
