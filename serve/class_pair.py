"""Two classes beside each other: the distances of their images, and the pairs at both ends."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.extract.measures import Measure
from alike.serve.opened import OpenIndex
from alike.serve.outliers import distances, vectors_of

Floats = NDArray[np.float64]

MOST_IMAGES = 500
"""Images of a class that are compared; of more, a random part."""
ENDS = 8
"""Pairs that are shown at each end."""
BINS = 61
"""An odd number: a value in the middle of the axis is in the middle of a bar."""
SAME = 2e-5
"""Share of the largest distance below which all distances are drawn as one: the figure has numbers
of 32 bits, and a bar must not be narrower than their step. A cosine distance below it is 0: vectors
are stored with 16 or 32 bits.
"""


@dataclass(frozen=True)
class ClassPair:
    """Distances between the images of two classes, or of one.

    Attributes:
        images: of each class that were compared.
        of: images of each class.
        mean: distance between the two.
        nearest: (row, row, distance), each image at most once.
        farthest: the same from the other end.
        histogram: columns of the table `histograms`: `same` are pairs within either class,
            `different` those between the two.
    """

    images: tuple[int, int]
    of: tuple[int, int]
    mean: float
    nearest: list[tuple[int, int, float]]
    farthest: list[tuple[int, int, float]]
    histogram: pd.DataFrame


def class_pair(
    opened: OpenIndex, rows: NDArray[np.int64], first: str, second: str
) -> ClassPair | None:
    """Compare two classes, image by image.

    Args:
        opened: the index whose measure and vectors are taken.
        rows: images that take part.
        first: a class.
        second: another, or the same.

    Returns:
        None if no two of the images are of these classes.
    """
    labels = opened.labels[opened.places(rows)]
    of_first, of_second = (rows[labels == name] for name in (first, second))
    one, other = _drawn(of_first), _drawn(of_second)
    a, b = (vectors_of(opened, part) for part in (one, other))
    within = [_upper(distances(opened, part, part)) for part in (a, b)]
    grid = distances(opened, a, b)
    if first == second:
        grid = np.where(np.triu(np.ones(grid.shape, dtype=bool), 1), grid, np.nan)
        between, same = within[0][:0], within[0]
    else:
        between, same = grid.ravel(), np.concatenate(within)
    shown = same if first == second else between
    if not len(shown):
        return None
    return ClassPair(
        images=(len(one), len(other)),
        of=(len(of_first), len(of_second)),
        mean=float(shown.mean()),
        nearest=_ends(grid, one, other),
        farthest=[(i, j, -d) for i, j, d in _ends(-grid, one, other)],
        histogram=_histogram(opened.index.measure, same, between),
    )


def _drawn(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    if len(rows) <= MOST_IMAGES:
        return rows
    return np.sort(np.random.default_rng(0).permutation(rows)[:MOST_IMAGES])


def _upper(grid: Floats) -> Floats:
    return grid[np.triu_indices(len(grid), 1)]


def _ends(
    grid: Floats, one: NDArray[np.int64], other: NDArray[np.int64]
) -> list[tuple[int, int, float]]:
    """The smallest of a grid (n, m), NaN left out, each image at most once."""
    flat = grid.ravel()
    # Each pair that is taken leaves out no more than a row and a column of others.
    most = min(len(flat), ENDS * sum(grid.shape))
    order = np.argpartition(flat, most - 1)[:most] if most < len(flat) else np.arange(len(flat))
    order = order[np.argsort(flat[order], kind="stable")]
    pairs: list[tuple[int, int, float]] = []
    used: set[int] = set()
    for place in order[np.isfinite(flat[order])].tolist():
        i, j = int(one[place // grid.shape[1]]), int(other[place % grid.shape[1]])
        if not used & {i, j}:
            used |= {i, j}
            pairs.append((i, j, float(flat[place])))
        if len(pairs) == ENDS:
            break
    return pairs


def _span(both: Floats, measure: Measure) -> tuple[float, float]:
    """The ends of the axis: those of the distances, or if all are the same, a span around it.

    NumPy shows one value in the middle of a span of 1, whatever its size: the bar of 0.001 would be
    wide and reach below 0, that of a million a line.
    """
    low, high = float(both.min()), float(both.max())
    largest = max(abs(low), abs(high))
    if high - low > SAME * largest and (measure.form != "cosine" or largest > SAME):
        return low, high
    if largest == 0 or (measure.form == "cosine" and largest <= SAME):
        # The first bar is around 0, the last around 1.
        return -0.5 / (BINS - 1), 1 + 0.5 / (BINS - 1)
    return (0.0, low + high) if high > 0 else (low + high, 0.0)


def _histogram(measure: Measure, same: Floats, between: Floats) -> pd.DataFrame:
    both = np.concatenate([same, between])
    edges = np.histogram_bin_edges(both, BINS, _span(both, measure))
    counts: dict[str, Any] = {
        name: np.histogram(part, edges)[0]
        for name, part in (("same", same), ("different", between))
    }
    return pd.DataFrame(
        {"measure": measure.name, "bin_low": edges[:-1], "bin_high": edges[1:], **counts}
    )
