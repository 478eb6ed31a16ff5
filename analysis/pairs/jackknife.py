"""Uncertainty of scores that are no mean over images or pairs: a tenth of the images left out.

A minimum over classes, or spreads of class means, need all images at once, so that drawing them a
thousand times would cost a thousand runs, and drawn copies would bias them. The jackknife leaves
out one tenth of every class at a time instead: ten values, whose spread says how much the score
hangs on the images (delete-a-group jackknife; Shao and Wu 1989 for scores that are not smooth).
"""

import numpy as np
from numpy.typing import NDArray

from alike.analysis.blocks import EvaluationSet
from alike.analysis.pairs.folds import deal

GROUPS = 10


def jackknife_groups(
    images: EvaluationSet, seed: int, unit: NDArray[np.int64] | None = None
) -> list[NDArray[np.int64]]:
    """Positions (n,) that stay when each of ten parts is left out, every class spread evenly.

    Args:
        images: the evaluation set.
        seed: of the shuffling.
        unit: (N,) near copies, which are left out together; None: each image is a unit.
    """
    group_of = deal(images, GROUPS, seed, unit)
    return [np.flatnonzero(group_of != group) for group in range(GROUPS)]


def jackknife_interval(
    value: float, values: NDArray[np.float64], level: float = 0.95
) -> tuple[float, float]:
    """Interval of a score, value -+ t standard errors.

    Args:
        value: of all images.
        values: (10,) without each part.
        level: of confidence.

    Returns:
        Low and high, in units of the score; NaN where one of the values is.
    """
    from scipy.stats import t

    n = len(values)
    if n < 2 or not np.isfinite(values).all():
        return float("nan"), float("nan")
    error = float(((n - 1) / n * ((values - values.mean()) ** 2).sum()) ** 0.5)
    reach = float(t.ppf((1.0 + level) / 2.0, n - 1)) * error
    return value - reach, value + reach


def jackknife_ratio_interval(
    value: float, values: NDArray[np.float64], level: float = 0.95
) -> tuple[float, float]:
    """Interval of a score above 0 that scatters by a factor: value */ exp(t errors of its log).

    Args:
        value: of all images.
        values: (10,) without each part.
        level: of confidence.

    Returns:
        Low and high, in units of the score; NaN where one of the values is, or is not above 0.
    """
    if not (value > 0 and (values > 0).all()):
        return float("nan"), float("nan")
    low, high = jackknife_interval(float(np.log(value)), np.log(values), level)
    return float(np.exp(low)), float(np.exp(high))
