"""What every unit (an image, or copies that are left out together) does to the neighbour scores.

A unit is left out as query and from the gallery of all others. Exact, from each query's sorted
list, which must hold `max(R, k) + largest unit` others: no new search. O(list) for each query.
Equal distances stay in the order of the list, though scores are expected over it (see `ties`):
intervals came out wider than needed (`5x10 of 8 signs` in `benchmarks/coverage.py`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alike.analysis.blocks import EvaluationSet, compiled
from alike.analysis.pairs import Spread, Units, jackknifed, spread

Floats = NDArray[np.float64]

SCORES = ("one_nn", "purity_at_10", "recall_at_10", "r_precision", "map_at_r")
OVERCOUNT = np.array([0.43, 0.80, 0.27, 0.80, 0.90])
"""Share of the jackknife's variance that is variance, of each score: it holds what m images do
together m times (Efron and Stein 1981), and whether a neighbour is the nearest is a matter of
several images. Measured on sets like those of `benchmarks/coverage.py`."""
OVERCOUNT_PAIRED = np.array([0.36, 0.62, 0.16, 0.65, 0.75])
"""Of differences of two networks on the same images, of which less is a matter of single images."""
ANY = np.array([True, False, True, False, False])
"""Scores that ask whether there is one of the class, which hangs on one of its n - 1 others. The
fewer these are, the more of the variance is of single images: the share grows as (n / (n - 1))^2,
as it did on 20 kinds of sets with classes of 3 to 30 images."""
MOST = 1.1
"""The largest share of those: classes of three."""
RANKS = np.array([np.inf, np.inf, np.inf, 3.0, 2.0])
"""R / (R + this) is the share where that is more: R-precision and MAP@R of larger classes."""
THREE = np.array([1.0, 1.0, 1.0, 0.8, 0.8])
"""Of classes of three times this: without one image their scores rest on a single rank."""
OVERCOUNT_CLASS = 0.60
"""Where classes of one or two images are left out whole, of every score."""


def overcount(
    stratum: NDArray[np.int64], sizes: NDArray[np.int64], score: int, *, paired: bool
) -> Any:
    """(U,) share that is variance, for `intervals.spread`.

    Args:
        stratum: (U,) of each unit, `len(sizes)` for classes that are left out whole.
        sizes: (C,) images of each class.
        score: which of `SCORES`.
        paired: of a difference of two networks.
    """
    least = (OVERCOUNT_PAIRED if paired else OVERCOUNT)[score]
    ranks = np.maximum(sizes - 1.0, 1.0)
    if ANY[score]:
        shares = np.minimum(least * ((ranks + 1.0) / ranks) ** 2, MOST)
    else:
        of_ranks = ranks / (ranks + RANKS[score]) * (0.88 if paired else 1.0)
        shares = np.maximum(least, of_ranks) * np.where(sizes == 3, THREE[score], 1.0)
    return np.append(shares, OVERCOUNT_CLASS)[stratum]


@compiled
def _add_alone(
    listed: Any, unit: Any, hit: Any, cum: Any, p: Any, q: Any, value: Any, k: int, n_same: int,
    own: int, class_units: Any, head: Any, change: Any, gone: Any,
) -> None:  # fmt: skip
    """What `add_panel` adds for one query where every unit is an image: no walk over its members.

    Args:
        listed: (W,) positions of the nearest others.
        unit: (N,) unit of each image.
        hit: (W + 1,) whether the one of rank r is of the class; `hit[0]` is not used.
        cum: (W + 1,) how many of the first r are.
        p: (2, W + 1) sums over ranks r' <= r of `cum` where there is a hit, over r' or r' - 1.
        q: (2, W + 1) of 1 likewise.
        value: (5,) the scores of the query.
        k: neighbours of purity and recall.
        n_same: others of the class.
        own: unit of the query.
        class_units: units of the class.
        head: (U,) below 0: the unit is not in the list.
        change: see `add_panel`.
        gone: likewise.
    """
    width, rest = len(listed), n_same - 1
    for at in range(width):
        r, u = at + 1, unit[listed[at]]
        mine = 1 if hit[r] else 0
        ranks = n_same - mine
        if ranks == 0:
            for s in range(5):
                change[u, s] -= value[s]
            gone[u] += 1
            continue
        first = 2 if r == 1 else 1
        if ranks < r:
            total, hits = p[0, ranks], cum[ranks]
        else:
            # Those behind it move up by one.
            last = min(width, ranks + 1)
            total = p[0, r - 1] + (p[1, last] - p[1, r] - mine * (q[1, last] - q[1, r]))
            hits = cum[last] - mine
        hits_k = cum[k] if k < r else cum[min(width, k + 1)] - mine
        scale = min(k, n_same) / min(k, ranks)
        change[u, 0] += (1.0 if first <= width and hit[first] else 0.0) - value[0]
        change[u, 1] += scale * hits_k / k - value[1]
        change[u, 2] += (1.0 if hits_k > 0 else 0.0) - value[2]
        change[u, 3] += hits / ranks - value[3]
        change[u, 4] += total / ranks - value[4]
    # Of the class, and farther away than the list reaches.
    hits_k = cum[min(width, k)]
    for u in class_units:
        if u == own or head[u] >= 0:
            continue
        if rest == 0:
            for s in range(5):
                change[u, s] -= value[s]
            gone[u] += 1
            continue
        change[u, 1] += min(k, n_same) / min(k, rest) * hits_k / k - value[1]
        change[u, 3] += cum[rest] / rest - value[3]
        change[u, 4] += p[0, rest] / rest - value[4]


@compiled
def add_panel(
    lists: Any, codes: Any, unit: Any, rows: Any, sizes: Any, unit_in_class: Any, class_units: Any,
    class_first: Any, k: int, largest: int, sums: Any, change: Any, gone: Any,
) -> None:  # fmt: skip
    """Scores of some queries, and how their sums change when each unit is left out.

    Args:
        lists: (m, W) positions of the nearest others, nearest first.
        codes: (N,) class of each image.
        unit: (N,) unit of each image.
        rows: (m,) positions of the queries.
        sizes: (C,) images of each class.
        unit_in_class: (units listed by class,) how many images of that class the unit has.
        class_units: (same,) the units, class by class, ascending within a class.
        class_first: (C + 1,) where each class starts in the two above.
        k: neighbours of purity and recall.
        largest: images of the largest unit.
        sums: (6,) sum of each score over queries, and how many queries there are; added to.
        change: (U, 5) sum over queries of score without the unit less with it; added to.
        gone: (U,) queries that leave with the unit; added to.
    """
    m, width = lists.shape
    n_units = len(gone)
    head = np.full(n_units, -1, np.int64)
    after = np.empty(width, np.int64)
    tail = np.empty(n_units, np.int64)
    units_met = np.empty(width + 1, np.int64)
    cum = np.zeros(width + 1, np.int64)
    hit = np.zeros(width + 1, np.bool_)
    p = np.zeros((largest + 1, width + 1))
    q = np.zeros((largest + 1, width + 1))
    value = np.empty(5)
    for at in range(m):
        i = rows[at]
        c, own = codes[i], unit[i]
        n_same = sizes[c] - 1
        if n_same <= 0:
            continue
        n_seen = 0
        for r in range(1, width + 1):
            j = lists[at, r - 1]
            hit[r] = codes[j] == c
            cum[r] = cum[r - 1] + hit[r]
            for b in range(largest + 1):
                one = 1.0 / (r - b) if hit[r] and r > b else 0.0
                q[b, r] = q[b, r - 1] + one
                p[b, r] = p[b, r - 1] + cum[r] * one
            u = unit[j]
            after[r - 1] = -1
            if u == own:
                continue
            if head[u] < 0:
                head[u] = r
                units_met[n_seen] = u
                n_seen += 1
            else:
                after[tail[u] - 1] = r
            tail[u] = r
        one_nn = 1.0 if hit[1] else 0.0
        purity, hit_at_k = cum[min(k, width)] / k, 1.0 if cum[min(k, width)] else 0.0
        precision, map_at_r = cum[n_same] / n_same, p[0, n_same] / n_same
        value[0], value[1], value[2] = one_nn, purity, hit_at_k
        value[3], value[4] = precision, map_at_r
        sums[:5] += value
        sums[5] += 1.0
        for s in range(5):
            change[own, s] -= value[s]
        gone[own] += 1
        lo, hi = class_first[c], class_first[c + 1]
        if largest == 1:
            _add_alone(
                lists[at], unit, hit, cum, p, q, value, k, n_same, own, class_units[lo:hi], head,
                change, gone,
            )  # fmt: skip
            for x in range(n_seen):
                head[units_met[x]] = -1
            continue
        for turn in range(n_seen + hi - lo):
            if turn < n_seen:
                u = units_met[turn]
                place = lo + np.searchsorted(class_units[lo:hi], u)
                left = unit_in_class[place] if place < hi and class_units[place] == u else 0
            else:
                u = class_units[lo + turn - n_seen]
                if u == own or head[u] >= 0:
                    continue
                left = unit_in_class[lo + turn - n_seen]
            rest = n_same - left
            if rest <= 0:
                for s in range(5):
                    change[u, s] -= value[s]
                gone[u] += 1
                continue
            # Walk over the members of the unit: t of them passed, a of those of the class.
            t, a, low = 0, 0, 0
            r = head[u]
            total, hits_r, hits_k, first = 0.0, -1, -1, 0
            while True:
                end = r - 1 if r >= 0 else width
                if first == 0 and end > low:
                    first = low + 1
                if hits_r < 0:
                    stop = min(end, rest + t)
                    if stop > low:
                        total += p[t, stop] - p[t, low] - a * (q[t, stop] - q[t, low])
                    if rest + t <= end or r < 0:
                        hits_r = cum[max(stop, low)] - a
                if hits_k < 0 and (k + t <= end or r < 0):
                    hits_k = cum[max(min(end, k + t), low)] - a
                if r < 0 or (hits_r >= 0 and hits_k >= 0 and first > 0):
                    break
                a += hit[r]
                t += 1
                low = r
                r = after[r - 1]
            scale = min(k, n_same) / min(k, rest)
            change[u, 0] += (1.0 if first > 0 and hit[first] else 0.0) - one_nn
            change[u, 1] += scale * hits_k / k - purity
            change[u, 2] += (1.0 if hits_k > 0 else 0.0) - hit_at_k
            change[u, 3] += hits_r / rest - precision
            change[u, 4] += total / rest - map_at_r
        for x in range(n_seen):
            head[units_met[x]] = -1


@dataclass(frozen=True)
class UnitLists:
    """Units as `add_panel` reads them.

    Attributes:
        named: (N,) unit of each image.
        in_class: (P,) images of a class that a unit has, for each pair of class and unit.
        of_class: (P,) the units, class by class, ascending within a class.
        first: (C + 1,) where each class starts in the two above.
        largest: images of the largest unit.
    """

    named: NDArray[np.int64]
    in_class: NDArray[np.int64]
    of_class: NDArray[np.int64]
    first: NDArray[np.int64]
    largest: int


def unit_lists(images: EvaluationSet, units: Units) -> UnitLists:
    """Sort units by class."""
    n = len(units.stratum)
    key, size = np.unique(images.codes * n + units.named, return_counts=True)
    first = np.searchsorted(key // n, np.arange(len(images.classes) + 1))
    largest = int(np.bincount(units.named).max())
    return UnitLists(units.named, size.astype(np.int64), key % n, first.astype(np.int64), largest)


@dataclass(frozen=True)
class Changes:
    """What each unit does to the neighbour scores, summed over queries.

    Attributes:
        total: (6,) sums of the scores, and queries.
        change: (U, 5) sums without the unit less those with it.
        gone: (U,) queries that leave with it.
    """

    total: Floats
    change: Floats
    gone: NDArray[np.int64]

    def plus(self, total: Floats, change: Floats, gone: NDArray[np.int64]) -> "Changes":
        """With more of them, in place."""
        for mine, more in ((self.total, total), (self.change, change), (self.gone, gone)):
            mine += more
        return self

    @property
    def without(self) -> Floats:
        """Scores without each unit less the scores of all: (U, 5)."""
        queries = self.total[5]
        left = np.maximum(queries - self.gone, 1)[:, None]
        return np.asarray((self.total[:5] + self.change) / left - self.total[:5] / queries)


def no_changes(units: UnitLists) -> Changes:
    """Of no query yet."""
    n = int(units.named.max()) + 1
    return Changes(np.zeros(6), np.zeros((n, 5)), np.zeros(n, dtype=np.int64))


def score_spread(
    without: Floats, score: str, images: EvaluationSet, units: Units, *, paired: bool = False
) -> Spread:
    """Spread of one of `SCORES`, or of a difference of two networks' (`paired`).

    Args:
        without: (U, 5) of `Changes`, or the difference of two.
        score: which.
        images: the evaluation set.
        units: that were left out.
        paired: of a difference.
    """
    s = SCORES.index(score)
    share = overcount(units.stratum, images.counts, s, paired=paired)
    return spread(jackknifed(without[:, s], units.stratum), units.stratum, overcount=share)
