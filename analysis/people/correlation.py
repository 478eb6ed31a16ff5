"""Rank correlation of two similarities over pairs of images, and its parts by class."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
KINDS = {
    "all_pairs": "Spearman over all pairs of images",
    "same_class": "Spearman over pairs of one class",
    "different_class": "Spearman over pairs of different classes",
    "class_pairs": "Spearman over pairs of classes, of the means over their images",
    "rho_a": "as all_pairs, with ties broken at random in expectation",
    "pearson": "Pearson correlation over all pairs of images",
}
"""What `agreement` gives, in words."""


def rho_a(x: Floats, y: Floats) -> float:
    """Spearman's rho-a of two vectors (n,): ties are broken at random, in expectation.

    With average ranks r and s, 12 / (n^3 - n) sum (r - mean) (s - mean) (Schuett and others 2023).
    What people tie can then be ranked by no model, so its largest value is below 1.

    Example:
        >>> import numpy as np
        >>> rho_a(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 2.0]))
        0.75
    """
    n = float(len(x))
    if n < 3:
        return float("nan")
    a, b = _ranks(x), _ranks(y)
    return float(12.0 / (n**3 - n) * (a @ b))


def pearson(x: Floats, y: Floats) -> float:
    """Pearson's correlation; NaN of fewer than three, or if one does not vary."""
    if len(x) < 3:
        return float("nan")
    a, b = x - x.mean(), y - y.mean()
    below = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b / below) if below > 0 else float("nan")


def agreement(
    one: Floats,
    other: Floats,
    codes: NDArray[np.int64],
    at: NDArray[np.int64] | None = None,
) -> dict[str, float]:
    """Correlations of two similarities (N, N): a name of `KINDS` to its value.

    Args:
        one: similarity, symmetric; the diagonal is not used.
        other: another.
        codes: (N,) class of each image.
        at: positions of images that were drawn, some more than once; None: each once. An image
            makes no pair with itself.
    """
    at = np.arange(len(codes)) if at is None else at
    upper = np.triu_indices(len(at), 1)
    apart = at[upper[0]] != at[upper[1]]
    i, j = at[upper[0][apart]], at[upper[1][apart]]
    x, y = one[i, j], other[i, j]
    same = codes[i] == codes[j]
    ranks = _ranks(x), _ranks(y)
    n = max(float(len(x)), 3.0)
    return {
        "all_pairs": pearson(*ranks),
        "same_class": pearson(_ranks(x[same]), _ranks(y[same])),
        "different_class": pearson(_ranks(x[~same]), _ranks(y[~same])),
        "class_pairs": pearson(*map(_ranks, _class_means(x, y, codes[i], codes[j]))),
        "rho_a": float(12.0 / (n**3 - n) * (ranks[0] @ ranks[1])) if _vary(*ranks) else math.nan,
        "pearson": pearson(x, y),
    }


def _vary(*ranks: Floats) -> bool:
    """Whether each has two different numbers: of one that has not, no order says anything."""
    return all(bool(one.any()) for one in ranks)


def _ranks(x: Floats) -> Floats:
    """Average ranks less their mean."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(x) - (len(x) + 1) / 2)


def _class_means(x: Floats, y: Floats, a: Any, b: Any) -> tuple[Floats, Floats]:
    """Mean over the images of each two different classes."""
    n = int(max(a.max(), b.max())) + 1
    apart = a != b
    pair = np.minimum(a, b)[apart] * n + np.maximum(a, b)[apart]
    _, place, size = np.unique(pair, return_inverse=True, return_counts=True)
    return np.bincount(place, x[apart]) / size, np.bincount(place, y[apart]) / size
