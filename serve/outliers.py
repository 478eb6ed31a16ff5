"""Images far from all others, of a set without labels, which has no analysis to say so."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.serve.opened import OpenIndex

Floats = NDArray[np.float64]

NEAR = 10
"""Nearest images whose mean distance counts, as in the analysis."""
MOST_OTHERS = 2000
"""Images among which the nearest are looked for; of more, so many drawn at random."""
BLOCK = 4096
"""Images that are compared at once."""


def outliers(opened: OpenIndex) -> pd.DataFrame:
    """Images whose mean distance to their nearest is far above that of the others.

    The score is that of the table `suspects`: a robust z-score. Of more than 2,000 images the
    nearest are looked for among 2,000 drawn at random (Sugiyama and Borgwardt 2013, section 2).

    Args:
        opened: the index whose images and measure are taken.

    Returns:
        row, score; the farthest first.
    """
    # Here, as elsewhere: the page starts without what only this needs.
    from alike.analysis.data_limits import far_images

    rows = opened.rows
    others = np.random.default_rng(0).permutation(rows)[:MOST_OTHERS]
    near = min(NEAR, len(others) - 1)
    if near < 1:
        return pd.DataFrame({"row": rows[:0], "score": np.zeros(0)})
    towards = vectors_of(opened, others)
    means = np.concatenate([
        _mean_distance(opened, rows[first : first + BLOCK], others, towards, near)
        for first in range(0, len(rows), BLOCK)
    ])  # fmt: skip
    places, scores = far_images(means)
    return pd.DataFrame({"row": rows[places], "score": scores})


def _mean_distance(
    opened: OpenIndex,
    rows: NDArray[np.int64],
    others: NDArray[np.int64],
    towards: Floats,
    near: int,
) -> Floats:
    """Mean distance (n,) of images to the nearest of others, never to themselves."""
    grid = distances(opened, vectors_of(opened, rows), towards)
    grid[rows[:, None] == others] = np.inf
    nearest: Floats = np.partition(grid, near - 1, axis=1)[:, :near].mean(axis=1)
    return nearest


def vectors_of(opened: OpenIndex, rows: NDArray[np.int64]) -> Floats:
    """Vectors (n, D) of stored images."""
    return opened.index.of_rows(rows).astype(np.float64)


def distances(opened: OpenIndex, a: Floats, b: Floats) -> Floats:
    """The measure's own distances (n, m) of vectors (n, D) and (m, D)."""
    products = a @ b.T
    if opened.index.measure.form != "inner":
        products = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * products
    own: Floats = np.asarray(opened.index.measure.own(products), dtype=np.float64)
    return own
