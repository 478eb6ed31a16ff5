"""Near copies by features alone, for intervals only: images that stand far nearer than others do.

A wrong link costs little: two images that are left out together are still left out, so a variance
stays right and only its degrees of freedom fall. A missed copy costs coverage. So this links
generously; it decides no side of a split and removes no image.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from alike.analysis.blocks import EvaluationSet

GAP = 4.0
"""Ratio of squared distances (keys) from the last copy to the first other image: twice as far."""


def copy_units(
    places: NDArray[np.int64], keys: NDArray[np.float64], codes: NDArray[np.int64], gap: float = GAP
) -> NDArray[np.int64]:
    """The unit of each image (N,): those linked are one.

    Args:
        places: (N, k) nearest others, nearest first.
        keys: (N, k) their keys, half the squared distance (`Nearest.keys`).
        codes: (N,) classes; only images of one class are linked.
        gap: see `GAP`.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n, k = keys.shape
    floor = 1e-7 * max(float(np.median(keys[:, -1])), 1e-30)
    ratio = np.maximum(keys[:, 1:], floor) / np.maximum(keys[:, :-1], floor)
    last = np.where(ratio.max(axis=1) >= gap, ratio.argmax(axis=1) + 1, 0)
    row, slot = np.nonzero(np.arange(k)[None, :] < last[:, None])
    other = places[row, slot]
    same_class = codes[row] == codes[other]
    one_way = coo_matrix(
        (np.ones(same_class.sum()), (row[same_class], other[same_class])), shape=(n, n)
    ).tocsr()
    mutual = one_way.multiply(one_way.T)
    return np.asarray(connected_components(mutual, directed=False)[1], dtype=np.int64)


FEWEST = 5
"""Neighbours from which on a gap among them is no chance of few images."""
Links = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Places (N, k) of the nearest others and their keys (N, k), by which copies are known."""
LARGEST = 64
"""Copies that are left out together at most: more chain, and are no copies."""


def linked_units(images: EvaluationSet, sides: Sequence[Links]) -> NDArray[np.int64] | None:
    """The unit (N,) of each image, linked on every side; None where there are no copies.

    Args:
        images: the evaluation set.
        sides: places and keys of the nearest, of each network that is compared.
    """
    unit = np.zeros(len(images), dtype=np.int64)
    for places, keys in sides:
        if keys.shape[1] < FEWEST:
            return None
        linked = copy_units(places, keys, images.codes)
        unit = np.unique(unit * (int(linked.max()) + 1) + linked, return_inverse=True)[1]
    # Only the chains that are too long are taken apart; other copies stay together.
    too_long = np.bincount(unit)[unit] > LARGEST
    unit[too_long] = len(unit) + np.arange(int(too_long.sum()))
    unit = np.unique(unit, return_inverse=True)[1]
    if np.bincount(unit).max() == 1:
        return None
    return np.asarray(unit, dtype=np.int64)


def copies_note(unit: NDArray[np.int64] | None) -> str:
    """What a reader of the intervals must know of copies; nothing if there are none."""
    size = np.bincount(unit) if unit is not None else np.ones(1, dtype=np.int64)
    sets = size[size > 1]
    if not len(sets):
        return ""
    return f"{sets.sum()} images are near copies of others and left out together, as {len(sets)}"
