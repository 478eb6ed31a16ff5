"""What is measured once for a measure and a set of images, and read by several tables."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alike.analysis.blocks import EvaluationSet
from alike.analysis.classes import ClassGeometry, Moments
from alike.analysis.neighbours import Nearest
from alike.analysis.pairs import Draws, PairCounts


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
        draws: of the bootstrap; 0 replicates: no intervals.
        drawn: weighted histograms of same and different, (B', R) each.
        shrink: by which the draws' deviations are multiplied: below 1 where a sample was drawn.
    """

    name: str
    images: EvaluationSet
    counts: PairCounts
    moments: Moments
    geometry: ClassGeometry
    near: Nearest
    draws: Draws
    drawn: tuple[NDArray[np.float64], NDArray[np.float64]]
    shrink: float = 1.0

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
