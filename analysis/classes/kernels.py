"""Compiled sums over the vectors of each class."""

import numpy as np
from numpy.typing import NDArray

from alike.analysis.blocks import compiled


@compiled
def add_class_sums(
    x: NDArray[np.float32],
    centre: NDArray[np.float32],
    codes: NDArray[np.int64],
    s: NDArray[np.float64],
    norms: NDArray[np.float64],
) -> None:
    """Add every z = x - centre to the sum of its class in float64, and note |z|^2; reads x once.

    Args:
        x: (n, D).
        centre: (D,); the difference is rounded to float32, as in `Vectors.block`.
        codes: (n,) class of each row.
        s: (C, D) sums of z, added to.
        norms: (n,) written.
    """
    n, dim = x.shape
    for i in range(n):
        row, total, square = x[i], s[codes[i]], 0.0
        for d in range(dim):
            value = np.float64(row[d] - centre[d])
            total[d] += value
            square += value * value
        norms[i] = square


@compiled
def add_scaled_sums(
    z: NDArray[np.float32],
    b: NDArray[np.float64],
    codes: NDArray[np.int64],
    v: NDArray[np.float64],
) -> None:
    """Add b z of every row to the sum of its class: (n, D), (n,), (n,) to (C, D)."""
    n, dim = z.shape
    for i in range(n):
        row, total, weight = z[i], v[codes[i]], b[i]
        for d in range(dim):
            total[d] += weight * np.float64(row[d])
