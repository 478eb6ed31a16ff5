"""Scores of how well distances tell pairs of one class from pairs of different classes.

All read two histograms over the same bins, smaller is nearer: `same` (B,) and `different` (B,),
counts or weights of pairs.
Within a bin the order of pairs is unknown, so the AUC comes with the
interval that holds it whatever that order is; the others interpolate within the bin.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[Any]


@dataclass(frozen=True)
class Auc:
    """P(a pair of one class is nearer than a pair of different classes), 0.5 by chance.

    Attributes:
        value: ties within a bin counted half.
        low: if all ties were lost.
        high: if all ties were won.
    """

    value: float
    low: float
    high: float

    @property
    def sameness(self) -> float:
        """2 AUC - 1 (Somers' D): 0 by chance, 1 perfect."""
        return 2.0 * self.value - 1.0


def auc(
    same: Counts,
    different: Counts,
    edges: NDArray[np.float64] | None = None,
    error: float | NDArray[np.float64] = 0.0,
) -> Auc:
    """ROC-AUC with its certified interval; NaN where one kind has no pairs.

    Args:
        same: (B,) histogram of pairs of one class.
        different: (B,) of pairs of different classes.
        edges: (B + 1,) of the bins, needed where there is an error.
        error: the most by which a distance that was counted is off, or (B + 1,) at each edge. Two
            pairs then count as ordered only where their bins are further apart than both; the end
            bins hold everything beyond them.

    Examples:
        >>> import numpy as np
        >>> same, different = np.array([3, 1, 0]), np.array([0, 1, 3])
        >>> auc(same, different)
        Auc(value=0.96875, low=0.9375, high=1.0)
        >>> auc(same, different).sameness
        0.9375
    """
    s, d = same.astype(np.float64), different.astype(np.float64)
    pairs = s.sum() * d.sum()
    if pairs == 0:
        return Auc(np.nan, np.nan, np.nan)
    won = float((np.cumsum(s) - s) @ d / pairs)
    tied = float(s @ d / pairs)
    # Sums of weights round: a hair above 1 is 1.
    value, top = min(won + tied / 2.0, 1.0), min(won + tied, 1.0)
    if not np.any(error):
        return Auc(value, min(won, value), top)
    if edges is None:
        msg = "an error of the distances is in their units, so it needs the edges of the bins"
        raise ValueError(msg)
    off = np.broadcast_to(error, edges.shape)[1:-1]
    low = np.append(-np.inf, edges[1:-1] - off)
    high = np.append(np.maximum.accumulate(edges[1:-1] + off), np.inf)
    surely = np.searchsorted(high, low, side="right")
    nearer, apart = (np.append(0.0, np.cumsum(counts))[surely] for counts in (s, d))
    least, most = float(nearer @ d / pairs), 1.0 - float(apart @ s / pairs)
    return Auc(value, min(least, value), max(most, value))


def auc_many(same: Counts, different: Counts) -> NDArray[np.float64]:
    """AUC of each replicate: (B, R) and (B, R) to (R,).

    Examples:
        >>> import numpy as np
        >>> auc_many(np.array([[3, 1], [1, 3]]), np.array([[0, 1], [4, 3]])).tolist()
        [0.875, 0.5]
    """
    s, d = same.astype(np.float64), different.astype(np.float64)
    won = ((np.cumsum(s, axis=0) - s / 2.0) * d).sum(axis=0)
    pairs = s.sum(axis=0) * d.sum(axis=0)
    out = np.full(len(pairs), np.nan)
    np.divide(won, pairs, out=out, where=pairs > 0)
    return out


def rates(same: Counts, different: Counts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(FAR, TAR) at every bin edge, (B + 1,) each: the shares with a distance below the edge.

    Examples:
        >>> import numpy as np
        >>> far, tar = rates(np.array([3, 1, 0]), np.array([0, 1, 3]))
        >>> far.tolist(), tar.tolist()
        ([0.0, 0.0, 0.25, 1.0], [0.0, 0.75, 1.0, 1.0])
    """
    far = np.concatenate([[0.0], np.cumsum(different, dtype=np.float64)])
    tar = np.concatenate([[0.0], np.cumsum(same, dtype=np.float64)])
    return far / (far[-1] or 1.0), tar / (tar[-1] or 1.0)


def eer(far: NDArray[np.float64], tar: NDArray[np.float64]) -> float:
    """Equal error rate: where FAR = 1 - TAR, by linear interpolation; 0.5 by chance.

    Examples:
        >>> import numpy as np
        >>> eer(*rates(np.array([3, 1, 0]), np.array([0, 1, 3])))
        0.125
    """
    gap = far + tar - 1.0
    at = int(np.argmax(gap >= 0.0))
    if at == 0 or gap[at] == 0.0:
        return float(far[at])
    share = -gap[at - 1] / (gap[at] - gap[at - 1])
    return float(far[at - 1] + share * (far[at] - far[at - 1]))


def tar_at_far(far: NDArray[np.float64], tar: NDArray[np.float64], wanted: float) -> float:
    """Share of same pairs accepted where a share `wanted` of different pairs is.

    Examples:
        >>> import numpy as np
        >>> far, tar = rates(np.array([3, 1, 0]), np.array([0, 1, 3]))
        >>> tar_at_far(far, tar, 0.125)
        0.875
    """
    at = int(np.searchsorted(far, wanted, side="left"))
    if at == 0 or far[at] == wanted:
        return float(tar[at])
    share = (wanted - far[at - 1]) / (far[at] - far[at - 1])
    return float(tar[at - 1] + share * (tar[at] - tar[at - 1]))


def best_balanced(far: NDArray[np.float64], tar: NDArray[np.float64]) -> tuple[float, int]:
    """Best balanced accuracy (TAR + 1 - FAR) / 2 and the edge where it is reached.

    Examples:
        >>> import numpy as np
        >>> best_balanced(*rates(np.array([3, 1, 0]), np.array([0, 1, 3])))
        (0.875, 1)
    """
    accuracy = (tar + 1.0 - far) / 2.0
    at = int(accuracy.argmax())
    return float(accuracy[at]), at


def folded_balanced(same: Counts, different: Counts) -> NDArray[np.float64]:
    """Balanced accuracy of each fold at the threshold that is best on all other folds.

    Args:
        same: (F, B) same pairs among the images of each fold.
        different: (F, B).

    Returns:
        (F,) accuracies; a fold without pairs of both kinds is NaN.

    Examples:
        >>> import numpy as np
        >>> folded_balanced(np.array([[3, 1], [4, 0]]), np.array([[0, 4], [1, 3]])).tolist()
        [0.875, 0.875]
    """
    out = np.full(len(same), np.nan)
    for fold in range(len(same)):
        others = same.sum(axis=0) - same[fold], different.sum(axis=0) - different[fold]
        if not (same[fold].any() and different[fold].any() and others[0].any()):
            continue
        _, at = best_balanced(*rates(*others))
        far, tar = rates(same[fold], different[fold])
        out[fold] = (tar[at] + 1.0 - far[at]) / 2.0
    return out


def d_prime(same: tuple[float, float], different: tuple[float, float]) -> float:
    """(mean_d - mean_s) / sqrt((var_s + var_d) / 2), of (mean, variance) each; up is better.

    Examples:
        >>> d_prime((1.0, 4.0), (7.0, 4.0))
        3.0
    """
    spread = np.sqrt((same[1] + different[1]) / 2.0)
    return float((different[0] - same[0]) / spread) if spread > 0 else float("nan")


def binned_moments(counts: Counts, middles: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and variance of a histogram whose bins stand at `middles`; NaN where it is empty.

    Examples:
        >>> import numpy as np
        >>> binned_moments(np.array([1, 0, 1]), np.array([0.5, 1.5, 2.5]))
        (1.5, 1.0)
    """
    total = float(counts.sum())
    if total == 0:
        return float("nan"), float("nan")
    mean = float(counts @ middles) / total
    return mean, float(counts @ (middles - mean) ** 2) / total


def quantiles(
    counts: Counts, edges: NDArray[np.float64], shares: Sequence[float]
) -> NDArray[np.float64]:
    """Distances below which these shares of pairs lie, interpolated within the bin.

    Args:
        counts: (..., B) histograms.
        edges: (B + 1,) of their bins.
        shares: Q of them, each above 0 and at most 1.

    Returns:
        (..., Q); NaN where a histogram is empty.

    Examples:
        >>> import numpy as np
        >>> quantiles(np.array([2, 2]), np.array([0.0, 1.0, 2.0]), [0.25, 0.75]).tolist()
        [0.5, 1.5]
    """
    cumulative = np.cumsum(counts, axis=-1, dtype=np.float64)
    out = np.full((*counts.shape[:-1], len(shares)), np.nan)
    for at, share in enumerate(shares):
        level = share * cumulative[..., -1:]
        bins = (cumulative >= level).argmax(axis=-1)[..., None]
        in_bin = np.take_along_axis(counts, bins, -1)
        below = np.take_along_axis(cumulative, bins, -1) - in_bin
        part = np.divide(level - below, in_bin, out=np.full(in_bin.shape, np.nan), where=in_bin > 0)
        out[..., at] = (edges[bins] + part * (edges[bins + 1] - edges[bins]))[..., 0]
    return out
