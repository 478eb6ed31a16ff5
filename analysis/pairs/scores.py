"""Spreads of the scores of pairs, of one network or of two on the same images, in one pass."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alike.analysis.blocks import EvaluationSet, MapBlocks, Vectors, many
from alike.analysis.pairs import influence
from alike.analysis.pairs.counts import PairCounts
from alike.analysis.pairs.influence import (
    BINS,
    Passed,
    Tables,
    Units,
    add_rows,
    coarse,
    influence_tables,
    no_sums,
    pass_over_pairs,
    spread_of,
)
from alike.analysis.pairs.intervals import Spread, share_interval
from alike.analysis.pairs.worst import (
    class_covariance,
    class_spreads,
    class_twice,
    least_difference,
    least_spread,
)

Floats = NDArray[np.float64]

FAR = 0.01
FAR_PAIRS = 1000
WORST_UNITS = 5
WORST_NUMBERS = 2 * 10**7
"""Images times classes up to which the worst class has an interval: 160 MB of influences."""
KINDS = {"auc": "auc", "eer": "eer", "tar_at_far_1pct": "tar"}


@dataclass(frozen=True)
class PairSpreads:
    """How surely the scores of pairs are known.

    Attributes:
        sides: of each network, score to its spread: `auc`, `eer`, `tar_at_far_1pct`,
            `auc_all_pairs`, and `worst_class_auc` where there is one.
        apart: the same of the difference of two networks.
        units: how many independent units there are.
        why_not: score to the reason why it has no interval.
        fewest: units of the smallest class.
        looked_up: images whose influence was computed, if not that of all.
        classes: of each network, (C,) spreads of the AUC of each class; empty: not computed.
        sizes: (C,) units of each class.
    """

    sides: tuple[dict[str, Spread], ...]
    apart: dict[str, Spread]
    units: int
    why_not: dict[str, str] = field(default_factory=dict)
    fewest: int = 1
    looked_up: int = 0
    classes: tuple[tuple[Spread, ...], ...] = ()
    sizes: tuple[int, ...] = ()

    def trials(self, score: str) -> float:
        """Independent trials that a score rests on at an end of its range."""
        if score == "worst_class_auc":
            return max(1.0, self.fewest / 4)
        return max(1.0, self.units / (4 if score.startswith("auc") else 2))

    def interval(self, score: str, value: float, side: int = 0) -> tuple[float, float]:
        """Interval of a score of one side; NaN where it has none."""
        if score in self.why_not or score not in self.sides[side]:
            return float("nan"), float("nan")
        return share_interval(value, self.sides[side][score], self.trials(score))

    def class_interval(self, c: int, auc: float, side: int = 0) -> tuple[float, float]:
        """Interval of the AUC of one class; NaN where it has none."""
        if not self.classes or self.sizes[c] < WORST_UNITS:
            return float("nan"), float("nan")
        return share_interval(auc, self.classes[side][c], self.sizes[c] / 2)


def pair_spreads(
    sides: Sequence[tuple[Vectors, PairCounts]],
    images: EvaluationSet,
    units: Units,
    *,
    seed: int = 0,
    map_blocks: MapBlocks = map,
) -> PairSpreads:
    """One pass over all pairs of one network, or of two at once.

    Args:
        sides: vectors and counts of each network; the images are the same, in one order.
        images: the evaluation set.
        units: what is independent.
        seed: of the sample of rows and of the draws of the worst class.
        map_blocks: how blocks of rows are mapped.
    """
    every = [counts for _, counts in sides]
    tables, names = _tables([(c.balanced, c.total) for c in every], images)
    why_not = _why_not(images, units)
    # Of two networks, only what their worst classes differ by is asked for.
    if "worst_class_auc" not in why_not or (len(sides) == 1 and not _too_many(images)):
        class_tables = [_class_tables(counts) for counts in every]
        tables = _with_classes(tables, class_tables)
    sums = pass_over_pairs(
        [(vectors, counts.bins) for vectors, counts in sides], images, tables,
        seed=seed, map_blocks=map_blocks,
    )  # fmt: skip
    spreads, apart = _spreads(sums, tables, names, images, units)
    covariances, stratum = _class_covariances(sums, images, units)
    if covariances and "worst_class_auc" not in why_not:
        values = [_class_aucs(counts)[images.counts > 0] for counts in every]
        worst, difference = _worst(values, covariances, stratum, seed)
        for side, of in zip(spreads, worst, strict=True):
            side["worst_class_auc"] = of
        if difference is not None:
            apart["worst_class_auc"] = difference
    classes = [_class_spreads(of, stratum, images) for of in covariances]
    sizes = _unit_counts(images, units)
    looked_up = len(sums.at) if len(sums.at) < len(images) else 0
    return PairSpreads(
        tuple(spreads), apart, len(units.stratum), why_not, int(sizes[sizes > 0].min()), looked_up,
        tuple(classes), tuple(sizes.tolist()),
    )  # fmt: skip


def spreads_of_matrix(
    bins: NDArray[np.int64], balanced: Any, total: Any, images: EvaluationSet, units: Units
) -> PairSpreads:
    """The same of few images whose pairs are all there.

    Args:
        bins: (N, N) bin of each pair, fewer than 1,024.
        balanced: (2, B) histograms, weighed.
        total: (2, B) plain.
        images: the evaluation set.
        units: what is independent.
    """
    tables, names = _tables([(balanced, total)], images)
    n, classes = len(images), len(images.classes)
    sums = no_sums(n, classes, len(names))
    add_rows(
        bins[None].astype(np.uint32), np.arange(n), images.codes, images.starts, tables.same,
        tables.different, tables.sign, tables.of_table, tables.g, sums.own, sums.other, sums.total,
        sums.squares, sums.rows, 0, 0, classes,
    )  # fmt: skip
    passed = Passed(sums, np.arange(n), ())
    spreads, _ = _spreads(passed, tables, names, images, units)
    return PairSpreads(tuple(spreads), {}, len(units.stratum), _why_not(images, units))


def _tables(
    histograms: Sequence[tuple[Floats, Any]], images: EvaluationSet
) -> tuple[Tables, list[str]]:
    """Tables of each side and, of two, of the difference; and the scores' names."""
    n = images.counts.astype(np.float64)
    nonempty, several = (n > 0).astype(np.float64), (n > 1).astype(np.float64)
    names = [*KINDS]
    if len(set(n[n > 0].tolist())) > 1:
        names.append("auc_all_pairs")
    by_side = []
    for balanced, total in histograms:
        weighed, counted = coarse(balanced), coarse(np.asarray(total, dtype=np.float64))
        even = influence_tables(weighed[0], weighed[1], FAR)
        plain = influence_tables(counted[0], counted[1], FAR)
        by_side.append([plain["auc"] if name == "auc_all_pairs" else even[KINDS[name]]
                      for name in names])  # fmt: skip
    once = len(histograms) == 1
    signs = [(1.0,)] if once else [(1.0, 0.0), (0.0, 1.0), (-1.0, 1.0)]
    same, different = (
        np.array([[table[kind] for table in side] * len(signs) for side in by_side])
        for kind in (0, 1)
    )
    sign = np.repeat(np.array(signs), len(names), axis=0).T.copy()
    of = np.array([int(name == "auc_all_pairs") for name in names] * len(signs))
    weights = np.stack([several / several.sum(), n * (n - 1) / (n * (n - 1)).sum()])
    return Tables(same, different, sign, of, np.stack([nonempty, n]), weights), names


def _with_classes(tables: Tables, by_side: list[tuple[Floats, Floats]]) -> Tables:
    return Tables(
        tables.same, tables.different, tables.sign, tables.of_table, tables.g, tables.same_weight,
        tuple(by_side),
    )  # fmt: skip


def _spreads(
    sums: Passed, tables: Tables, names: list[str], images: EvaluationSet, units: Units
) -> tuple[list[dict[str, Spread]], dict[str, Spread]]:
    each = [spread_of(sums, tables, t, images, units) for t in range(tables.same.shape[1])]
    groups = [
        dict(zip(names, each[low : low + len(names)], strict=True))
        for low in range(0, len(each), len(names))
    ]
    return (groups, {}) if len(groups) == 1 else (groups[:2], groups[2])


def _unit_counts(images: EvaluationSet, units: Units) -> NDArray[np.int64]:
    """Units of each class."""
    first = np.unique(units.named, return_index=True)[1]
    counted = np.bincount(images.codes[first], minlength=len(images.classes))
    return np.asarray(counted, dtype=np.int64)


def _too_many(images: EvaluationSet) -> bool:
    """Whether the influence of every image on every class is more than is held."""
    return (
        many(len(images.classes))
        or len(images) * len(images.classes) > WORST_NUMBERS
        or images.sample_at(influence.INFLUENCE_ROWS, 0) is not None
    )


def _why_not(images: EvaluationSet, units: Units) -> dict[str, str]:
    n = images.counts.astype(np.float64)
    of_class = _unit_counts(images, units)[images.counts > 0]
    out = {}
    if (n.sum() ** 2 - (n**2).sum()) / 2 < FAR_PAIRS:
        few = f"fewer than {FAR_PAIRS:,} different pairs say too little about 1 % of them"
        out["tar_at_far_1pct"] = few
    elif (of_class == 3).any():
        out["tar_at_far_1pct"] = "a class of three images says too little about 1 % of its pairs"
    if of_class.min() < WORST_UNITS:
        out["worst_class_auc"] = f"a class has fewer than {WORST_UNITS} images"
    elif _too_many(images):
        out["worst_class_auc"] = f"{len(images)} images of {len(n)} classes are too many for it"
    return out


def _class_tables(counts: PairCounts) -> tuple[Floats, Floats]:
    s, d = _class_shares(counts)
    below_s, below_d = np.cumsum(s, axis=1), np.cumsum(d, axis=1)
    return 1.0 - below_d + d / 2, below_s - s / 2


def _class_aucs(counts: PairCounts) -> Floats:
    s, d = _class_shares(counts)
    return np.asarray(((np.cumsum(s, axis=1) - s / 2) * d).sum(axis=1))


def _class_shares(counts: PairCounts) -> tuple[Floats, Floats]:
    """Histograms (C, B) of same and of different pairs, as shares in the bins of the pass."""
    n = min(counts.bins.n, BINS)
    return _shares(counts.same, n), _shares(counts.different, n)


def _shares(counts: Any, n: int) -> Floats:
    shares = coarse(np.asarray(counts, dtype=np.float64), n)
    shares = np.repeat(shares, n // shares.shape[1], axis=1)
    return np.asarray(shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-300))


def _class_covariances(
    sums: Passed, images: EvaluationSet, units: Units
) -> tuple[list[tuple[Floats, Floats]], NDArray[np.int64]]:
    """Of each side the covariance of the classes that have images, and the movements by unit."""
    there = np.flatnonzero(images.counts > 0)
    sizes = images.counts[there]
    code = np.searchsorted(there, images.codes)
    stratum = np.searchsorted(there, units.stratum)
    covariances = []
    for shifts, total, squares, own, rows, columns in sums.classes:
        square = np.ix_(there, there)
        twice = class_twice(
            sizes, total[square], squares[square], own[there], rows[square], columns[square]
        )
        covariances.append(class_covariance(shifts[:, there], code, units.named, stratum, twice))
    return covariances, stratum


def _class_spreads(
    of: tuple[Floats, Floats], stratum: NDArray[np.int64], images: EvaluationSet
) -> tuple[Spread, ...]:
    """Spread of every class; NaN of one without images."""
    found = iter(class_spreads(*of, stratum, images.counts[images.counts > 0]))
    nothing = Spread(float("nan"), 1.0)
    return tuple(next(found) if n > 0 else nothing for n in images.counts)


def _worst(
    values: list[Floats],
    covariances: list[tuple[Floats, Floats]],
    stratum: NDArray[np.int64],
    seed: int,
) -> tuple[list[Spread], Spread | None]:
    each = [
        least_spread(value, *both, stratum, seed)
        for value, both in zip(values, covariances, strict=True)
    ]
    if len(each) == 1:
        return each, None
    (cov_a, units_a), (cov_b, units_b) = covariances
    first, second = values
    of_both = (cov_a, cov_b), (units_a, units_b)
    return each, least_difference((first, second), *of_both, stratum, seed)
