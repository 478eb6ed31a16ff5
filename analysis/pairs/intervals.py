"""From influences to intervals: variance by strata, small-sample quantiles, honest ends."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NONE = (float("nan"), float("nan"))
LEVEL = 0.95

NOTHING = 1e-9
"""Share of the variance of trials, or of one trial's, below which a variance is rounding."""
WHOLE = 0.9
"""Units to an image of a class from which on what pairs do twice is taken off."""


@dataclass(frozen=True)
class Spread:
    """Variance of a score, and the degrees of freedom that it is known with."""

    variance: float
    df: float


def spread(
    moved: Floats,
    stratum: NDArray[np.int64],
    *,
    overcount: Any = 1.0,
    twice: Any = 0.0,
    of: NDArray[np.int64] | None = None,
) -> Spread:
    """Variance of a sum of independent units, images drawn within strata.

    The degrees of freedom are those of Satterthwaite, or fewer where few units make most of the
    variance: 2 V^2 / var(V), var(V) from fourth powers.

    Args:
        moved: (U,) movement of the score by each unit (or by its absence).
        stratum: (U,) of each; of a stratum of one unit the whole movement counts, which bounds it.
        overcount: share of each unit's stratum's variance that is variance, a number or (U,) (see
            `neighbour_influence`).
        twice: variance by stratum that is taken off, at most three quarters of what there is.
        of: units of each stratum where `moved` holds a sample of them; None: all are here.
    """
    n = np.bincount(stratum).astype(np.float64)
    mean = np.where(n > 1, np.bincount(stratum, moved) / np.maximum(n, 1), 0.0)
    off = (moved - mean[stratum]) * np.sqrt(overcount)
    more = n / np.maximum(n - 1, 1)
    share = 1.0 if of is None else of / np.maximum(n, 1)
    each = np.bincount(stratum, off**2) * more * share
    total = float(each.sum())
    if not total > 0:
        return Spread(0.0, 1.0)
    df = total**2 / float((each**2 / np.maximum(n - 1, 1)).sum())
    fourth = np.bincount(stratum, off**4) * share**2 - each**2 / np.maximum(n, 1)
    df = max(2.0, min(df, 2 * total**2 / max(float(fourth.sum()), 1e-300)))
    variance = max(total - float(np.sum(twice)), total / 4)
    # What is taken off is known too: the rest is as uncertain as all of it was.
    return Spread(variance, max(2.0, df * variance / total))


def jackknifed(changes: Floats, stratum: NDArray[np.int64]) -> Floats:
    """Movements (U,) for `spread` from a score's changes without each unit: (n - 1) / n of them."""
    n = np.bincount(stratum).astype(np.float64)
    return np.asarray(-changes * ((n - 1) / np.maximum(n, 1))[stratum])


def at_end(value: float, top: float = 1.0) -> bool:
    """Whether a score in [0, top] is at one of both, where a variance says nothing of it."""
    return value / top >= 1.0 - 1e-12 or value / top <= 1e-12


def share_interval(value: float, of: Spread, units: float, top: float = 1.0) -> tuple[float, float]:
    """Interval of a score in [0, top]: t on the logit scale, and that of trials where it is nearer.

    Near an end few images make what is lost, so the variance is known with few degrees of freedom
    and t reaches far. No mean of as many independent numbers in [0, 1] spreads more than the share
    of trials that are right or wrong, so the interval of Clopper and Pearson bounds both ends. The
    trials are `units`, or fewer where the variance is above that of as many (Korn and Graubard
    1998). `benchmarks/coverage.py` measures both.

    Args:
        value: of the score.
        of: its variance.
        units: independent trials that it rests on.
        top: the largest value that it can have here.
    """
    from scipy.stats import t

    p = value / top
    if not np.isfinite(p) or not np.isfinite(of.variance):
        return NONE
    if at_end(p):
        low, high = trials_interval(float(round(p)), units)
        return low * top, high * top
    variance = of.variance / top**2
    if variance < NOTHING * p * (1 - p) / units:
        # Classes that are all right or all wrong vary in nothing that was seen.
        variance = p * (1 - p) / units
    # Near an end few images make what is lost: gamma-like, with 2 (mean / error)^2 freedoms.
    df = max(2.0, min(of.df, 2 * min(p, 1 - p) ** 2 / variance))
    reach = float(t.ppf((1 + LEVEL) / 2, df)) * variance**0.5 / (p * (1 - p))
    middle = np.log(p / (1 - p))
    low, high = 1 / (1 + np.exp(-np.clip(middle + np.array([-reach, reach]), -700, 700)))
    least, most = trials_interval(p, min(units, p * (1 - p) / variance))
    return max(float(low), least) * top, min(float(high), most) * top


def trials_interval(share: float, trials: float) -> tuple[float, float]:
    """Interval of Clopper and Pearson for a share of trials; neither need be a whole number.

    Example:
        >>> low, high = trials_interval(100 / 101, 101)
        >>> round(low, 3), round(high, 4)
        (0.946, 0.9997)
    """
    from scipy.stats import beta

    right, wrong, tail = share * trials, (1 - share) * trials, (1 - LEVEL) / 2
    low = float(beta.ppf(tail, right, wrong + 1)) if right > 0 else 0.0
    high = float(beta.ppf(1 - tail, right + 1, wrong)) if wrong > 0 else 1.0
    return low, high


def difference_interval(
    a: float, b: float, span_a: tuple[float, float], span_b: tuple[float, float],
    of_a: Spread, of_b: Spread, apart: Spread, top: float = 1.0,
) -> tuple[float, float]:  # fmt: skip
    """Interval of b - a from those of both sides and how the sides move together.

    Zou and Donner 2008 (MOVER): equal to value -+ t errors where the sides' intervals are
    symmetric, and right near the ends, where they are not. With a side at an end of [0, top] it is
    not known how the sides move together: as if they did not, which is wider than if they do.
    """
    spans = np.array([*span_a, *span_b])
    if not (np.isfinite(spans).all() and np.isfinite(apart.variance)):
        return NONE
    if at_end(a, top) or at_end(b, top):
        return _combined(a, b, span_a, span_b, 0.0)
    if a == b and span_a == span_b and apart.variance == 0 < of_a.variance:
        return 0.0, 0.0
    both = (of_a.variance * of_b.variance) ** 0.5
    r = (of_a.variance + of_b.variance - apart.variance) / (2 * both) if both > 0 else 0.0
    return _combined(a, b, span_a, span_b, float(np.clip(r, -1.0, 1.0)))


def mean_difference(
    a: float, b: float, span_a: tuple[float, float], span_b: tuple[float, float],
    apart: Spread, units: float,
) -> tuple[float, float]:  # fmt: skip
    """Interval of b - a, two shares of the same images: t errors to both sides.

    Where the sides differ in few images, these say little of the variance: as if one image more
    differed, which is the interval of Agresti and Min 2005 for pairs. Where they differ in none,
    as many may as Clopper and Pearson leave possible. With a side at 0 or 1 that of
    `difference_interval`. `benchmarks/coverage.py` measures it.

    Args:
        a: share of the first side.
        b: share of the second.
        span_a: interval of the first.
        span_b: interval of the second.
        apart: variance of their difference.
        units: independent trials that they rest on.
    """
    from scipy.stats import t

    if at_end(a) or at_end(b):
        return _combined(a, b, span_a, span_b, 0.0)
    if not np.isfinite(apart.variance):
        return NONE
    if apart.variance < NOTHING / units**2:
        reach = trials_interval(0.0, units)[1]
    else:
        variance = apart.variance + (units + 2) ** -2
        # What is added is known: the freedoms are those of Satterthwaite.
        df = min(apart.df * (variance / apart.variance) ** 2, 1e9)
        reach = float(t.ppf((1 + LEVEL) / 2, df)) * variance**0.5
    return b - a - reach, b - a + reach


def _combined(
    a: float, b: float, span_a: tuple[float, float], span_b: tuple[float, float], r: float
) -> tuple[float, float]:
    """Interval of b - a from those of both sides, whose errors correlate by r."""
    down_a, up_a, down_b, up_b = a - span_a[0], span_a[1] - a, b - span_b[0], span_b[1] - b
    low = max(down_b**2 + up_a**2 - 2 * r * down_b * up_a, 0.0) ** 0.5
    high = max(up_b**2 + down_a**2 - 2 * r * up_b * down_a, 0.0) ** 0.5
    return b - a - low, b - a + high
