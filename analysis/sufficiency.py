"""How scores follow the number of images: what more of them would change.

Sameness is a share of pairs, so its expected value is the same for any number of images: more of
them make its interval narrower, by the root of their number. The accuracy of the nearest neighbour
grows with the images that it is chosen from. Its expected value for n images drawn from all is
exact, from lists of neighbours that exist: with m = n - 1 of N - 1 others drawn, the neighbour of
rank j is the nearest with chance m / (N - j) times that none before it is drawn. Beyond N the
error is extrapolated by a n^-b + c (Cortes et al. 1993), c not below 0.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.analysis.blocks import EvaluationSet
from alike.analysis.pairs import Spread, jackknife_groups, share_interval

Floats = NDArray[np.float64]

FEWEST = 100
"""Images from which on a curve is fitted."""
MOST_CURVED = 16_384
"""Images of the curve of neighbours; of more a stratified sample."""
LISTED = 64
"""Neighbours of every image that the curve is made of."""
LEAST_WRONG = 10
"""Images that are named wrongly from which on a prediction has an interval."""
SIZES = 8
SPAN = 12.0
"""The smallest number of images is this part of all: 64 neighbours miss then .4 % of the draws."""
AHEAD = (2, 4)
"""How many times the images there are is looked ahead."""
WANTED = 0.01
"""Half width of an interval of sameness for which the number of images is said."""
POWERS = np.linspace(0.02, 2.0, 100)
COLUMNS = ("measure", "score", "images", "value", "low", "high", "kind", "note")
NONE = float("nan")


def first_chances(others: int, drawn: int, listed: int) -> Floats:
    """Chance (listed,) of each rank to be the nearest of those drawn.

    Args:
        others: images that a list ranks.
        drawn: how many of them are drawn, at random and without replacement.
        listed: ranks that are asked for.

    Example:
        >>> first_chances(4, 2, 4).round(4).tolist()
        [0.5, 0.3333, 0.1667, 0.0]
    """
    left = others - np.arange(min(listed, others))
    each = np.minimum(drawn / left, 1.0)
    before = np.concatenate([[1.0], np.cumprod(1.0 - each[:-1])])
    out = np.zeros(listed)
    out[: len(each)] = before * each
    return out


def neighbour_errors(
    places: NDArray[np.int64], wrong: Floats, stays: NDArray[np.bool_], sizes: NDArray[np.int64]
) -> Floats:
    """Expected share (S,) of images that their nearest names wrongly, if some images are drawn.

    Args:
        places: (N, k) positions of the nearest others of each image.
        wrong: (N, k) chance that each is of another class; NaN rows are left out.
        stays: (N,) the images that there are.
        sizes: (S,) how many of these are drawn.
    """
    asking = np.flatnonzero(stays & np.isfinite(wrong[:, 0]))
    there = stays[places[asking]]
    rank = np.cumsum(there, axis=1) - 1
    errors = []
    for size in sizes:
        chance = first_chances(int(stays.sum()) - 1, int(size) - 1, places.shape[1])
        weight = np.where(there, chance[np.maximum(rank, 0)], 0.0)
        # The rest of the draws has none of the listed.
        errors.append(float(np.average(wrong[asking], axis=1, weights=weight).mean()))
    return np.array(errors)


def power_law(sizes: NDArray[Any], errors: Floats, at: NDArray[Any]) -> Floats:
    """Values at some sizes of the curve a n^-b + c that fits errors best, a and c at least 0.

    Least squares; b is one of 100 numbers from .02 to 2.

    Args:
        sizes: (S,) numbers of images.
        errors: (S,) there.
        at: (T,) numbers of images that are asked for.

    Example:
        >>> n = np.array([100, 200, 400, 800])
        >>> power_law(n, 2 / n**0.5 + 0.1, np.array([1600])).round(6).tolist()
        [0.15]
    """
    best, values = np.inf, np.full(len(at), NONE)
    for power in POWERS:
        x = np.asarray(sizes, dtype=np.float64) ** -power
        off = x - x.mean()
        a = float(off @ errors / (off @ off))
        c = float(errors.mean() - a * x.mean())
        if a < 0:
            a, c = 0.0, float(errors.mean())
        elif c < 0:
            a, c = float(x @ errors / (x @ x)), 0.0
        left = float(((a * x + c - errors) ** 2).sum())
        if left < best - 1e-15:
            best, values = left, a * np.asarray(at, dtype=np.float64) ** -power + c
    return values


def sizes_of(n: int) -> NDArray[np.int64]:
    """Numbers of images at which the curve of n is measured, ascending, n the last."""
    return np.unique(np.round(n * np.geomspace(1 / SPAN, 1.0, SIZES)).astype(np.int64))


def sufficiency(
    name: str,
    places: NDArray[np.int64],
    hit_chance: Floats,
    images: EvaluationSet,
    sameness: tuple[float, float, float],
    of: int | None = None,
    *,
    seed: int = 0,
    intervals: bool = True,
) -> pd.DataFrame:
    """The curves of one measure.

    Args:
        name: of the measure.
        places: (N, k) positions of the nearest others of each image, k 64 or N - 1.
        hit_chance: (N, k) chance that each is of the image's class.
        images: the evaluation set.
        sameness: value, low, high.
        of: images that sameness is of, if these are a sample of them.
        seed: of the parts that the jackknife leaves out.
        intervals: compute them.

    Returns:
        measure, score (`one_nn`, `sameness`), images, value, low, high, kind (`measured`,
        `predicted`), note. The interval of a predicted `one_nn` is a jackknife of the whole fit,
        a tenth of every class left out in turn, on the logit scale; none if fewer than 10 images
        are named wrongly, where it does not cover. No rows with fewer than 100 images.
    """
    n = len(images)
    if n < FEWEST:
        return pd.DataFrame(columns=list(COLUMNS))
    wrong = np.where((images.counts[images.codes] > 1)[:, None], 1.0 - hit_chance, NONE)
    sizes, ahead = sizes_of(n), np.array([n * times for times in AHEAD])
    errors = neighbour_errors(places, wrong, np.ones(n, dtype=bool), sizes)
    rows: list[tuple[Any, ...]] = [
        (name, "one_nn", int(size), 1 - error, NONE, NONE, "measured", "expected over draws")
        for size, error in zip(sizes, errors, strict=True)
    ]
    spans = np.full((len(ahead), 2), NONE)
    predicted = power_law(sizes, errors, ahead)
    few = errors[-1] * n < LEAST_WRONG
    if intervals and not few:
        parts = np.array([
            _without(places, wrong, at, ahead) for at in jackknife_groups(images, seed)
        ])  # fmt: skip
        groups = len(parts)
        variance = (groups - 1) / groups * ((parts - parts.mean(axis=0)) ** 2).sum(axis=0)
        for number, value in enumerate(predicted):
            sure = Spread(float(variance[number]), groups - 1.0)
            spans[number] = share_interval(1 - float(value), sure, errors[-1] * n)
    why_not = f"; no interval: fewer than {LEAST_WRONG} images are named wrongly" if few else ""
    rows += [
        (name, "one_nn", int(size), 1 - error, low, high, "predicted", "power law" + why_not)
        for size, error, (low, high) in zip(ahead, predicted, spans, strict=True)
    ]
    value, low, high = sameness
    of = of or n
    for times in (1, *AHEAD):
        narrow = times**-0.5
        ends = value - (value - low) * narrow, value + (high - value) * narrow
        kind = "measured" if times == 1 else "predicted"
        why = "" if times == 1 else "does not depend on the number; the interval does"
        rows.append((name, "sameness", of * times, value, *ends, kind, why))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _without(
    places: NDArray[np.int64], wrong: Floats, at: NDArray[np.int64], ahead: NDArray[np.int64]
) -> Floats:
    """What the curve of the images at some positions predicts."""
    stays = np.zeros(len(places), dtype=bool)
    stays[at] = True
    sizes = sizes_of(len(at))
    return power_law(sizes, neighbour_errors(places, wrong, stays, sizes), ahead)


def sufficiency_sentences(table: pd.DataFrame | None) -> list[str]:
    """What the table says, in sentences; nothing without it."""
    if table is None or table.empty:
        return []
    rows = table.set_index(["score", "kind"]).sort_index(kind="stable")
    near, now = rows.loc[("one_nn", "predicted")].iloc[0], rows.loc[("one_nn", "measured")].iloc[-1]
    same = rows.loc[[("sameness", "measured")]].iloc[0]
    ends = f"{100 * near['low']:.1f} to {100 * near['high']:.1f} %"
    span = "" if np.isnan(near["low"]) else f" (95 % interval {ends})"
    said = [
        f"Nearest neighbour of the same class: {100 * now['value']:.1f} % among "
        f"{int(now['images']):,} images, {100 * near['value']:.1f} %{span} predicted among "
        f"{int(near['images']):,}."
    ]
    half = float(same["high"] - same["low"]) / 2
    if half > 0:
        needed = int(np.ceil(float(same["images"]) * (half / WANTED) ** 2))
        said.append(
            f"Sameness is known to ± {half:.3f}; ± {WANTED:g} takes about {needed:,} images."
        )
    return said
