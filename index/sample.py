"""Which rows an index is trained on and measured by: random, balanced, and never the same.

Taking the first rows of a listing that is sorted by class trains on a few classes only: recall
halves, and a test by the same rows does not show it (autofaiss issue 99).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUERIES = 1000
SHARE = 10


@dataclass(frozen=True)
class Sample:
    """Positions of an index, ascending, disjoint.

    Attributes:
        train: (T,) for k-means and quantisers.
        queries: (Q,) held out: neither trained on nor in the index while it is measured.
    """

    train: NDArray[np.int64]
    queries: NDArray[np.int64]


def draw_sample(
    labels: NDArray[Any], most: int, *, queries: int = QUERIES, seed: int = 0
) -> Sample:
    """Draw held-out queries, then a training sample balanced over the classes.

    Args:
        labels: (N,) class of each position, None if unknown.
        most: training rows wanted.
        queries: held-out rows wanted; at most a tenth of all.
        seed: of the draw.
    """
    draw = np.random.default_rng(seed)
    n = len(labels)
    order = draw.permutation(n)
    taken = min(queries, n // SHARE)
    rest = order[taken:]
    return Sample(_balanced(rest, labels, most, draw), np.sort(order[:taken]))


def _balanced(
    places: NDArray[np.int64], labels: NDArray[Any], most: int, draw: np.random.Generator
) -> NDArray[np.int64]:
    """At most `most` places, each class giving the same number or all it has."""
    if len(places) <= most:
        return np.sort(places)
    names = np.array([str(label) for label in labels[places]])
    _, classes, sizes = np.unique(names, return_inverse=True, return_counts=True)
    left, quota = most, np.zeros(len(sizes), dtype=np.int64)
    for done, one in enumerate(np.argsort(sizes, kind="stable")):
        # the rest of the quota of a small class goes to the larger ones
        quota[one] = min(sizes[one], left // (len(sizes) - done))
        left -= quota[one]
    shuffled = draw.permutation(len(places))
    rank = np.empty(len(places), dtype=np.int64)
    by_class = shuffled[np.argsort(classes[shuffled], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    rank[by_class] = np.arange(len(places)) - np.repeat(starts, sizes)
    return np.sort(places[rank < quota[classes]])
