"""What every image does to the scores of pairs: one pass, a table look-up for each pair and score.

A score of the two histograms is linear in them near what was found: a same pair in bin k moves it
by `same[k]`, a different pair by `different[k]` (`influence_tables`). The mean of these over the
pairs of an image is its influence (Hajek's projection). The spread of influences counts what two
images do together twice; the residuals of a two-way layout of each pair of classes say how much
that is, and it is taken off once. So the variance is unbiased for a linear score of pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alike.analysis.blocks import (
    EvaluationSet,
    MapBlocks,
    Statistic,
    Vectors,
    append_part,
    best_product,
    blocks,
    compiled,
    many,
)
from alike.analysis.pairs.bins import TILE, Bins
from alike.analysis.pairs.intervals import WHOLE, Spread, share_interval, spread
from alike.analysis.pairs.kernels import place_rows
from alike.analysis.pairs.tiling import exact_places
from alike.analysis.pairs.worst import add_class_rows

Floats = NDArray[np.float64]
THREE = 1.4
"""Growth of the influence of an image's same pairs in a class of three. Three pairs cannot say how
much of their variance is of images (right: 2) and how much of pairs (right: 1): in between."""
NOTHING_LEFT = 1e-9
"""Share of the weight of all classes below which what is left without one is rounding."""
WINDOW = 0.1
"""Share of the errors at a threshold that the densities there are measured on."""


def influence_tables(same: Floats, different: Floats, far: float = 0.01) -> dict[str, Any]:
    """Name to (same (B,), different (B,), value): `auc`, `eer`, `tar` at a FAR.

    Args:
        same: (B,) weighted histogram of same pairs, any total.
        different: (B,) of different pairs.
        far: of `tar`.
    """
    s, d = same / same.sum(), different / different.sum()
    below_s, below_d = np.cumsum(s), np.cumsum(d)
    fars, tars = np.append(0.0, below_d), np.append(0.0, below_s)
    out = {"auc": (1.0 - below_d + d / 2, below_s - s / 2, float((below_s - s / 2) @ d))}
    gap = fars + tars - 1.0
    t, error = _crossing(gap, 0.0, fars)
    at_s, at_d = _densities(s, d, t, min(WINDOW, error / 2), min(WINDOW, error / 2))
    step = np.clip(t - np.arange(len(s)), 0.0, 1.0)
    total = max(at_s + at_d, 1e-300)
    out["eer"] = (-at_d / total * step, at_s / total * step, error)
    t, value = _crossing(fars, far, tars)
    at_s, at_d = _densities(s, d, t, 0.0, far)
    step = np.clip(t - np.arange(len(s)), 0.0, 1.0)
    out["tar"] = (step, -at_s / max(at_d, 1e-300) * step, value)
    return out


def _crossing(curve: Floats, wanted: float, of: Floats) -> tuple[float, float]:
    at = int(np.argmax(curve >= wanted))
    if at == 0:
        return 0.0, float(of[0])
    share = (wanted - curve[at - 1]) / (curve[at] - curve[at - 1])
    return at - 1 + share, float(of[at - 1] + share * (of[at] - of[at - 1]))


def _densities(s: Floats, d: Floats, t: float, few_s: float, few_d: float) -> tuple[float, float]:
    """Share of either kind in a bin about t, over a window that holds some of both."""
    reach = 1
    while True:
        low, high = max(int(t) - reach, 0), min(int(t) + reach + 1, len(s))
        whole = low == 0 and high == len(s)
        if whole or (s[low:high].sum() >= few_s and d[low:high].sum() >= few_d):
            return float(s[low:high].mean()), float(d[low:high].mean())
        reach = int(reach * 1.3) + 1


@dataclass
class PairSums:
    """Sums over pairs for T tables; everything adds over panels of rows, rows are joined.

    Attributes:
        own: (N, T) sum of an image's same pairs.
        other: (N, T) over the other classes b, g_b times the mean of its pairs with b.
        total: (T, C, C) sum over pairs of an image of the first class with one of the second.
        squares: (T, C, C) sum of squares.
        rows: (T, C, C) sum over images of the first of the squared mean of its pairs.
        of_classes: (6, T, C) what is made of the three, of more than `MANY` classes, whose pairs
            are not held; see `class_sums`.
    """

    own: Floats
    other: Floats
    total: Floats
    squares: Floats
    rows: Floats
    of_classes: Floats | None = None


@compiled
def add_rows(
    bins: Any, places: Any, codes: Any, starts: Any, same: Any, different: Any, sign: Any,
    of_table: Any, g: Any, own: Any, other: Any, total: Any, squares: Any, rows: Any, begin: int,
    first: int, last: int,
) -> None:  # fmt: skip
    """Sums of some rows over the columns of some classes.

    Args:
        bins: (S, m, columns) bin of each pair on S sides (2: a comparison of two networks).
        places: (m,) position of each row; the pair of an image with itself is left out.
        codes: (N,) ascending.
        starts: (C + 1,) of the classes.
        same: (S, T, B) influence of a same pair.
        different: (S, T, B).
        sign: (S, T) a table's value is the sum over sides of sign times look-up.
        of_table: (T,) which row of `g` weighs it.
        g: (W, C) weight of a class among others.
        own: see `PairSums`; all written for these rows or added to.
        other: as above.
        total: as above.
        squares: as above.
        rows: as above.
        begin: the class of the first row of the last three.
        first: the first class of the columns.
        last: one after their last.
    """
    sides, m, _ = bins.shape
    n_tables, offset = same.shape[1], starts[first]
    for i in range(m):
        a, place = codes[places[i]], places[i] - offset
        for b in range(first, last):
            low, high = starts[b] - offset, starts[b + 1] - offset
            n = high - low
            if n == 0:
                continue
            for t in range(n_tables):
                s1, s2 = 0.0, 0.0
                if sides == 1 or sign[0, t] == 0.0 or sign[1, t] == 0.0:
                    side = 0 if sides == 1 or sign[1, t] == 0.0 else 1
                    table = same[side, t] if a == b else different[side, t]
                    row = bins[side, i]
                    for j in range(low, high):
                        v = table[row[j]]
                        s1 += v
                        s2 += v * v
                    if a == b:
                        v = table[row[place]]
                        s1, s2 = s1 - v, s2 - v * v
                    s1, s2 = s1 * sign[side, t], s2 * sign[side, t] ** 2
                else:
                    left = same[0, t] if a == b else different[0, t]
                    right = same[1, t] if a == b else different[1, t]
                    one, two = sign[0, t], sign[1, t]
                    for j in range(low, high):
                        if j == place:
                            continue
                        v = one * left[bins[0, i, j]] + two * right[bins[1, i, j]]
                        s1 += v
                        s2 += v * v
                total[t, a - begin, b] += s1
                squares[t, a - begin, b] += s2
                if a == b:
                    own[i, t] = s1
                    if n > 1:
                        rows[t, a - begin, a] += (s1 / (n - 1)) ** 2
                else:
                    other[i, t] += g[of_table[t], b] * s1 / n
                    rows[t, a - begin, b] += (s1 / n) ** 2


def no_sums(n: int, classes: int, tables: int, of: int | None = None) -> PairSums:
    """Zeros; the first class of a pair is one of `of`, or of all."""
    two = np.zeros((2, n, tables))
    three = np.zeros((3, tables, classes if of is None else of, classes))
    return PairSums(two[0], two[1], three[0], three[1], three[2])


def class_sums(
    sums: PairSums, begin: int, here: Floats, n: Floats, tables: "Tables", *, whole: bool
) -> Floats:
    """What `pair_influence` asks of the pairs of some classes with all: (6, T, C).

    Sums of same pairs, of their squares, and of the squares of the means of rows; the weighed mean
    over other classes; and, in two parts, twice the variance by class that is due to pairs (see
    `_twice`), in which a negative residual of two classes is not taken for 0.

    Args:
        sums: of every looked-up image of these classes.
        begin: the first of these classes.
        here: (C,) looked-up images of each class.
        n: (C,) images.
        tables: that were looked up.
        whole: every image is looked up: otherwise nothing is said of the variance.
    """
    n_tables, of, classes = sums.total.shape
    out = np.zeros((6, n_tables, classes))
    at = np.arange(begin, begin + of)
    own = np.arange(of), at
    size = np.outer(here[at], n)
    free = np.outer(n[at] - 1, n - 1) * (size > 0)
    for t in range(n_tables):
        total, squares, rows = sums.total[t], sums.squares[t], sums.rows[t]
        out[0, t, at], out[1, t, at], out[2, t, at] = total[own], squares[own], rows[own]
        w = _pair_weights(tables.g[tables.of_table[t]], at)
        mean = total / np.maximum(size, 1)
        out[3, t, at] = (w * mean).sum(axis=1)
        if whole:
            each = np.divide(w**2 / 2, size * free, out=np.zeros(w.shape), where=free > 0)
            between_rows = n * (rows - n[at, None] * mean**2)
            out[4, t, at] = (each * (squares - size * mean**2 - between_rows)).sum(axis=1)
            out[5, t] = -(each * between_rows).sum(axis=0)
    return out


def _pair_weights(g: Floats, at: NDArray[np.int64]) -> Floats:
    """w_ab of some classes a (A,) with all b: (A, C), 0 of a class with itself."""
    w = np.outer(g[at], g) / ((g.sum() ** 2 - (g**2).sum()) / 2)
    w[np.arange(len(at)), at] = 0.0
    return np.asarray(w)


@dataclass(frozen=True)
class Influence:
    """How units move a score.

    Attributes:
        unit: (U,) movement of the score by each unit, mean 0 within a stratum.
        stratum: (U,) class of the unit; small classes are units of the last stratum.
        twice: (C + 1,) variance that the units of each stratum count once too often.
    """

    unit: Floats
    stratum: NDArray[np.int64]
    twice: Floats


def strata(codes: NDArray[np.int64], unit: NDArray[np.int64], classes: int) -> Any:
    """Units to leave out: classes of one or two units are left out whole.

    Returns:
        (N,) unit of each image, numbered anew; (U,) stratum of each unit, `classes` for those
        that are a class.
    """
    first = np.unique(unit, return_index=True)[1]
    n_units = np.bincount(codes[first], minlength=classes)
    small = n_units[codes] <= 2
    key = np.where(small, unit.max() + 1 + codes, unit)
    _, first, named = np.unique(key, return_index=True, return_inverse=True)
    return named, np.where(small[first], classes, codes[first])


def pair_influence(
    sums: PairSums, t: int, counts: NDArray[np.int64], codes: NDArray[np.int64],
    named: NDArray[np.int64], stratum: NDArray[np.int64], same_weight: Floats, g: Floats,
) -> Influence:  # fmt: skip
    """The influence of units on sum_a w_a (mean of same pairs of a) + sum_ab w_ab (mean of a, b).

    Args:
        sums: of all images.
        t: which table.
        counts: (C,) images of each class.
        codes: (m,) class of each image that has a row: all, or a sample.
        named: from `strata`.
        stratum: from `strata`.
        same_weight: (C,) w_a, sums to 1.
        g: (C,) w_ab = g_a g_b / sum of these over a < b.
    """
    n, classes = counts.astype(np.float64), len(counts)
    here = np.bincount(codes, minlength=classes).astype(np.float64)
    norm = (g.sum() ** 2 - (g**2).sum()) / 2
    at = n[codes]
    q = sums.own[:, t] / np.maximum(at - 1, 1)
    grown = np.where(at > 3, (at - 1) / np.maximum(at - 2, 1), THREE)
    psi = 2 * same_weight[codes] * q * grown + g[codes] * sums.other[:, t] / norm
    mean = np.bincount(codes, psi, minlength=classes) / np.maximum(here, 1)
    moved = np.bincount(named, (psi - mean[codes]) / at, len(stratum)).astype(np.float64)
    twice = np.zeros(classes + 1)
    big = stratum == classes
    if big.any():
        # A class left out whole: its weights go to the others.
        a = codes[np.unique(named, return_index=True)[1]][big]
        same_total, row = _of_left_out(sums, t, n, here, g)
        h = same_total / np.maximum(here * (n - 1), 1)
        weight = g * (g.sum() - g) / norm
        all_same, all_across = float(same_weight @ h), float(row.sum() / 2)
        less_same = _without(all_same - same_weight * h, 1 - same_weight)
        less_across = _without(all_across - row, 1 - weight)
        moved[big] = -(less_same + less_across)[a]
        moved[big] -= moved[big].mean()
    alone = np.bincount(stratum, minlength=classes + 1)[:classes]
    # Residuals are of pairs of images: they say it of a class whose units are nearly all images.
    if (here == n).all():
        twice[:classes] = _twice(sums, t, n, same_weight, g) * (alone >= WHOLE * n)
    return Influence(moved, stratum, twice)


def _without(rest: Floats, weight: Floats) -> Floats:
    """A mean (C,) without each class, from the sum and the weight that are left.

    0 where nothing is: both are rounding then.
    """
    some = weight > NOTHING_LEFT
    return np.divide(rest, weight, out=np.zeros(len(rest)), where=some)


def _of_left_out(
    sums: PairSums, t: int, n: Floats, here: Floats, g: Floats
) -> tuple[Floats, Floats]:
    """Sum of the same pairs of each class (C,), and its weighed mean over other classes (C,)."""
    if sums.of_classes is not None:
        return sums.of_classes[0, t], sums.of_classes[3, t]
    size = np.outer(here, n)
    across = np.where(size > 0, sums.total[t] / np.maximum(size, 1), 0.0)
    return np.diag(sums.total[t]), (_pair_weights(g, np.arange(len(n))) * across).sum(axis=1)


def _twice(sums: PairSums, t: int, n: Floats, same_weight: Floats, g: Floats) -> Floats:
    """Variance by class that is due to pairs and that influences hold once too often."""
    if sums.of_classes is not None:
        same_total, same_squares, same_rows = sums.of_classes[:3, t]
        out = np.maximum(sums.of_classes[4:, t].sum(axis=0), 0.0)
        return np.asarray(out + _twice_same(same_total, same_squares, same_rows, n, same_weight))
    total, squares, rows = sums.total[t], sums.squares[t], sums.rows[t]
    size = np.outer(n, n)
    mean = np.where(size > 0, total / np.maximum(size, 1), 0.0)
    between_rows = n[None, :] * (rows - n[:, None] * mean**2)
    residual = squares - size * mean**2 - between_rows - between_rows.T
    free = np.outer(n - 1, n - 1)
    each = np.where(free > 0, np.maximum(residual, 0) / np.maximum(free, 1), 0.0)
    w = _pair_weights(g, np.arange(len(n)))
    out = (w**2 * each / np.maximum(size, 1)).sum(axis=1) / 2
    more = _twice_same(np.diag(total), np.diag(squares), np.diag(rows), n, same_weight)
    return np.asarray(out + more)


def _twice_same(
    total: Floats, squares: Floats, rows: Floats, n: Floats, same_weight: Floats
) -> Floats:
    """That of the same pairs of each class (C,), from their sums."""
    k = np.where(n > 3, n, 4.0)
    u = total / (k * (k - 1))
    effects = ((k - 1) / (k - 2)) ** 2 * (rows - k * u**2)
    left = squares / 2 - k * (k - 1) / 2 * u**2 - (k - 2) * effects
    each = np.maximum(left, 0) / (k * (k - 3) / 2)
    more = same_weight**2 * each * (4 / (k * (k - 2)) - 2 / (k * (k - 1)))
    return np.asarray(np.where(n > 3, more, 0.0))


INFLUENCE_ROWS = 16_384
"""Images whose influence is measured, of more a stratified sample, each against all others."""
BINS = 1024
BYTES = 32 << 20
COLUMNS = 16_384
"""Images that are looked up at once, whole classes, so that many rows are: a product of few rows
takes longer a pair."""
SUMS_BYTES = 64 << 20
"""Of the sums of a task by pairs of classes, of more than `MANY` classes."""


@dataclass(frozen=True)
class Units:
    """What is left out together: an image, near copies of it, or a small class.

    Attributes:
        named: (N,) unit of each image.
        stratum: (U,) class of each unit; C for units that are a class (see `strata`).
    """

    named: NDArray[np.int64]
    stratum: NDArray[np.int64]


def units_of(images: EvaluationSet, unit: NDArray[np.int64] | None = None) -> Units:
    """Units of these images; None: every image is one."""
    alone = np.arange(len(images)) if unit is None else unit
    return Units(*strata(images.codes, alone, len(images.classes)))


def right_interval(right: Floats, units: Units) -> tuple[float, float]:
    """Interval of the share of images that are right, given what is independent of each other.

    Args:
        right: (N,) 0 to 1.
        units: of the images.
    """
    moved = spread(share_movements(right, units), units.stratum)
    return share_interval(float(right.mean()), moved, len(units.stratum))


def share_movements(right: Floats, units: Units) -> Floats:
    """Movement (U,) of a mean over images by each unit, the number of images of a class fixed.

    A unit of many images moves it by what these differ from the others, not by how many they are.

    Args:
        right: (N,) of each image.
        units: of the images.
    """
    of = units.stratum[units.named]
    mean = np.bincount(of, right) / np.maximum(np.bincount(of), 1)
    # The whole movement of a stratum of one unit counts (see `spread`).
    mean[np.bincount(units.stratum) < 2] = 0.0
    moved = (right - mean[of]) / len(right)
    return np.bincount(units.named, moved, len(units.stratum)).astype(np.float64)


@dataclass(frozen=True)
class Tables:
    """What a pass looks up for T scores on S sides; see `add_rows`.

    Attributes:
        same: (S, T, B).
        different: (S, T, B).
        sign: (S, T).
        of_table: (T,) row of `g` and of `same_weight`.
        g: (W, C).
        same_weight: (W, C).
        by_class: ((C, B), (C, B)) of each side for `add_class_rows`; empty: not wanted.
    """

    same: Floats
    different: Floats
    sign: Floats
    of_table: NDArray[np.int64]
    g: Floats
    same_weight: Floats
    by_class: tuple[tuple[Floats, Floats], ...] = ()


@dataclass(frozen=True)
class Passed:
    """What a pass over all pairs gives.

    Attributes:
        sums: of the rows.
        at: (m,) positions of the rows.
        classes: for each side (m, C) movements, four (C, C) sums and one (C,) for `worst`.
    """

    sums: PairSums
    at: NDArray[np.int64]
    classes: tuple[tuple[Floats, ...], ...]


def coarse(counts: Floats, n: int = BINS) -> Floats:
    """A histogram (..., B) in at most n bins."""
    b = counts.shape[-1]
    return np.asarray(counts.reshape(*counts.shape[:-1], min(b, n), -1).sum(axis=-1), dtype=float)


def pass_over_pairs(
    sides: Sequence[tuple[Vectors, Bins]],
    images: EvaluationSet,
    tables: Tables,
    units: Units | None = None,
    *,
    seed: int = 0,
    map_blocks: MapBlocks = map,
) -> Passed:
    """Look every pair up: each image against all others, or of very many images a sample's.

    Args:
        sides: vectors and bins of each side; the images are the same, in one order.
        images: the evaluation set.
        tables: what is looked up, in `coarse` bins.
        units: drawn as a whole where a sample is; None: every image is looked up.
        seed: of the sample.
        map_blocks: how blocks of rows are mapped.
    """
    at = None
    if units is not None:
        at = images.sample_at(INFLUENCE_ROWS, seed, _drawn_whole(units, len(images.classes)))
    at = np.arange(len(images)) if at is None else at
    few = tuple((vectors, bins.to(min(bins.n, BINS))) for vectors, bins in sides)
    parts: list[Any] = Statistic(
        items=_row_blocks(at, images, tables),
        chunk=partial(_rows_of, few, images, tables),
        start=list,
        combine=append_part,
    ).compute(map_blocks)
    own, other, begin, *more = zip(*parts, strict=True)
    both = np.concatenate(own), np.concatenate(other)
    if many(len(images.classes)):
        none = np.zeros((0, 0, 0))
        return Passed(PairSums(*both, none, none, none, np.sum(more[0], axis=0)), at, ())
    dense, classes = more[:3], more[3:]
    n_tables, _, n_classes = dense[0][0].shape
    total, squares, rows = np.zeros((3, n_tables, n_classes, n_classes))
    sums = PairSums(*both, total, squares, rows)
    for name, blocks_of in zip(("total", "squares", "rows"), dense, strict=True):
        for low, block in zip(begin, blocks_of, strict=True):
            getattr(sums, name)[:, low : low + block.shape[1]] += block
    each = [
        (np.concatenate(part[0]), *(np.sum(x, axis=0) for x in part[1:]))
        for part in (classes[low : low + 6] for low in range(0, len(classes), 6))
    ]
    return Passed(sums, at, tuple(each))


def _drawn_whole(units: Units, n_classes: int) -> NDArray[np.int64] | None:
    """Numbers (N,) of what a sample takes whole: near copies, but no class that is a unit.

    None if there are no copies.
    """
    a_class = units.stratum[units.named] == n_classes
    if np.bincount(units.named[~a_class]).max(initial=1) == 1:
        return None
    alone = len(units.stratum) + np.arange(len(units.named))
    return np.asarray(np.where(a_class, alone, units.named), dtype=np.int64)


def _row_blocks(
    at: NDArray[np.int64], images: EvaluationSet, tables: Tables
) -> list[NDArray[np.int64]]:
    """The looked-up images, a task at a time; of many classes whole ones."""
    n_classes = len(images.classes)
    if not many(n_classes):
        step = TILE if n_classes <= 256 else 4 * TILE
        return [at[low : low + step] for low in range(0, len(at), step)]
    most = max(1, SUMS_BYTES // (24 * tables.same.shape[1] * n_classes))
    codes = images.codes[at]
    # A task covers a range of classes, of which some may have no image.
    task = codes // most
    return np.split(at, np.flatnonzero(np.diff(task)) + 1)


def _rows_of(
    sides: tuple[tuple[Vectors, Bins], ...],
    images: EvaluationSet,
    tables: Tables,
    at: NDArray[np.int64],
) -> tuple[Any, ...]:
    classes = len(images.classes)
    begin, last = (int(images.codes[place]) for place in (at[0], at[-1]))
    sums = no_sums(len(at), classes, tables.same.shape[1], last - begin + 1)
    by_class = [
        (np.zeros((len(at), classes)), *np.zeros((2, classes, classes)), np.zeros(classes),
         *np.zeros((2, classes, classes)))
        for _ in tables.by_class
    ]  # fmt: skip
    ranges = [(0, classes)] if tables.by_class else _class_ranges(images.starts)
    widest = max(int(images.starts[stop] - images.starts[start]) for start, stop in ranges)
    step = int(np.clip(BYTES // (4 * max(widest, 1) * len(sides)), 16, 512))
    room = np.empty(len(sides) * min(step, len(at)) * widest, dtype=np.uint32)
    for low in range(0, len(at), step):
        part = slice(low, low + step)
        places = at[part]
        for start, stop in ranges:
            columns = int(images.starts[start]), int(images.starts[stop])
            shape = len(sides), len(places), columns[1] - columns[0]
            bins = room[: int(np.prod(shape))].reshape(shape)
            for side, (vectors, of) in enumerate(sides):
                place_pairs(vectors, of, places, bins[side], columns)
            add_rows(
                bins, places, images.codes, images.starts, tables.same, tables.different,
                tables.sign, tables.of_table, tables.g, sums.own[part], sums.other[part],
                sums.total, sums.squares, sums.rows, begin, start, stop,
            )  # fmt: skip
        for side, (same, different) in enumerate(tables.by_class):
            moved, *added = by_class[side]
            add_class_rows(
                bins[side], places, images.codes, images.starts, same, different, moved[part],
                *added,
            )  # fmt: skip
    if many(classes):
        counts = images.counts.astype(np.float64)
        here = np.bincount(images.codes[at], minlength=classes).astype(np.float64)
        whole = bool((here[begin : last + 1] == counts[begin : last + 1]).all())
        return sums.own, sums.other, begin, class_sums(
            sums, begin, here, counts, tables, whole=whole
        )  # fmt: skip
    out = sums.own, sums.other, begin, sums.total, sums.squares, sums.rows
    return (*out, *(array for side in by_class for array in side))


def _class_ranges(starts: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Ranges of classes of at most `COLUMNS` images together, or of one class."""
    ranges, first = [], 0
    for last in range(1, len(starts)):
        if last == len(starts) - 1 or starts[last + 1] - starts[first] > COLUMNS:
            ranges.append((first, last))
            first = last
    return ranges


def place_pairs(
    vectors: Vectors,
    bins: Bins,
    places: NDArray[np.int64],
    into: NDArray[np.uint32],
    columns: tuple[int, int],
) -> None:
    """Write the bin (m, columns) of each of these images with the images from and up to a place."""
    begin, end = columns
    if vectors.exactly:
        rows = np.concatenate([vectors.exact(int(at), int(at) + 1) for at in places])
        zeros = np.zeros(max(len(rows), TILE), np.float32)
        for low in range(begin, end, TILE):
            high = min(low + TILE, end)
            out = exact_places(vectors, bins, rows, vectors.exact(low, high))
            place_rows(
                out, zeros[: len(rows)], zeros[: high - low], np.float32(1.0),
                np.float32(bins.n - 1), bins.cells, into[:, low - begin : high - begin],
            )  # fmt: skip
        return
    z, b = vectors.rows(places)
    product = best_product(vectors.dim, float(vectors.n) ** 2 * vectors.dim)
    scale = np.float32(1.0 / bins.width)
    row_b = ((b - bins.first) / bins.width).astype(np.float32)
    ready = product.ready(z)
    room = np.empty(len(z) * TILE, dtype=np.float32)
    for start, stop in blocks(vectors.n, vectors.dim):
        if stop <= begin or start >= end:
            continue
        z_others, b_others = vectors.block(start, stop)
        for low in range(max(start, begin), min(stop, end), TILE):
            high = min(low + TILE, stop, end)
            others = z_others[low - start : high - start]
            out = product.multiply(
                ready, product.ready(others), room[: len(z) * len(others)].reshape(len(z), -1)
            )
            col_b = (b_others[low - start : high - start] / bins.width).astype(np.float32)
            place_rows(
                out, row_b, col_b, scale, np.float32(bins.n - 1), bins.cells,
                into[:, low - begin : high - begin],
            )  # fmt: skip


def spread_of(
    passed: Passed, tables: Tables, t: int, images: EvaluationSet, units: Units
) -> Spread:
    """The spread of the score of table t."""
    codes, classes = images.codes[passed.at], len(images.classes)
    named, stratum, of = units.named, units.stratum, None
    if len(passed.at) < len(images):
        groups, named = np.unique(named[passed.at], return_inverse=True)
        of = np.bincount(stratum, minlength=classes + 1)[: int(stratum.max()) + 1]
        stratum = stratum[groups]
        of = of[: int(stratum.max()) + 1]
    weights = tables.same_weight[tables.of_table[t]], tables.g[tables.of_table[t]]
    influence = pair_influence(passed.sums, t, images.counts, codes, named, stratum, *weights)
    small = np.where(influence.stratum == classes, SMALL, 1.0)
    return spread(
        influence.unit,
        influence.stratum,
        twice=float(influence.twice.sum()),
        overcount=small,
        of=of,
    )


SMALL = 0.9
"""Share of the variance that is variance where classes are left out whole (measured)."""
