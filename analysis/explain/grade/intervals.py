"""Means of graded images, with intervals that hold for skewed numbers.

Differences of areas are skewed and often exactly zero: most images hardly change, some change much.
Student's t then misses the truth too often. The interval here reaches, at each end, as far as the
wider of Student's t and Hall's transformation (Hall 1992, "On the removal of skewness by
transformation", equation 2.5), which corrects for the skewness of the numbers. Of too few numbers
that differ there is none. `benchmarks/grade_coverage.py` measures how often it holds.
"""

import numpy as np

from alike.analysis.explain.grade.curves import Floats

LEAST = 7
"""Images, at least, whose number is not the most frequent one, for an interval."""


def mean_interval(values: Floats) -> tuple[float, float, float]:
    """Mean over images, and its 95 % interval; images without a number (NaN) count not.

    Args:
        values: (N,), one number an image.

    Returns:
        mean, low, high; NaN for both ends where fewer than `LEAST` numbers differ from the most
        frequent one, so of fewer than eight images at least.

    Example:
        >>> [round(end, 3) for end in mean_interval(np.array([0.0, 1, 2, 3, 4, 5, 6, 7]))]
        [3.5, 1.452, 5.548]
        >>> mean_interval(np.array([0.0, 0, 0, 0, 0, 0, 0, 7]))
        (0.875, nan, nan)
    """
    values = np.asarray(values, np.float64)[np.isfinite(values)]
    if not len(values):
        return np.nan, np.nan, np.nan
    mean = float(values.mean())
    _, counts = np.unique(values, return_counts=True)
    if len(values) - counts.max() < LEAST:
        return mean, np.nan, np.nan
    below, above = _reaches(values)
    return mean, mean - below, mean + above


def _reaches(values: Floats) -> tuple[float, float]:
    """How far the interval goes below and above the mean."""
    from scipy.stats import t

    n, spread = len(values), float(values.std(ddof=1))
    centred = values - values.mean()
    skewness = float((centred**3).mean() / (centred**2).mean() ** 1.5)
    reach = float(t.ppf(0.975, n - 1)) / n**0.5
    ends = [_hall(z, skewness, n) for z in (reach, -reach)]
    return spread * max(reach, ends[0]), spread * max(reach, -ends[1])


def _hall(z: float, skewness: float, n: int) -> float:
    """The studentised mean w at which w + a w² + a² w³ / 3 + skewness / (6 n) is z."""
    a = skewness / 3
    if abs(a) < 1e-9:
        return z
    return float((np.cbrt(1 + 3 * a * (z - skewness / (6 * n))) - 1) / a)
