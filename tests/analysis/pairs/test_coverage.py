"""Intervals of made sets hold the truth about as often as they say."""

import runpy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta, binomtest
from threadpoolctl import threadpool_limits

from alike.analysis.blocks.evaluation_set import evaluation_set_of
from alike.analysis.blocks.vectors import held_vectors
from alike.analysis.compare import share_difference
from alike.analysis.neighbours.influence import SCORES, score_spread
from alike.analysis.neighbours.lists import nearest
from alike.analysis.pairs.influence import right_interval, units_of
from alike.analysis.pairs.intervals import (
    Spread,
    difference_interval,
    mean_difference,
    share_interval,
)

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def simulation():
    """The functions of `benchmarks/coverage.py`, whose table the docs show."""
    # Sets are small: threads of BLAS would wait for each other, four fifths of the time.
    with threadpool_limits(1):
        yield runpy.run_path(str(ROOT / "benchmarks" / "coverage.py"))


def test_intervals_of_small_sets_cover(simulation):
    """5 classes of 10, where draws of images held the truth of R-precision .73 of the time."""
    evaluate, covered, scores = (simulation[name] for name in ("evaluate", "covered", "ALONE"))
    few = partial(evaluate, simulation["CELLS"]["5x10"], paired=False)
    truth = np.mean([few(10_000 + s, intervals=False)[0][:, 0] for s in range(25)], axis=0)
    share, printed = covered(np.array([few(s, intervals=True)[0] for s in range(25)]), truth)
    for score in ("sameness", "eer", "one_nn", "r_precision", "map_at_r", "balanced_accuracy"):
        assert share[scores.index(score)] >= 0.88
        assert printed[scores.index(score)] == 1


def test_intervals_of_tied_distances_cover(simulation):
    """Features of 8 signs: values are expected over ties, what an image does is of one order."""
    evaluate, covered, scores = (simulation[name] for name in ("evaluate", "covered", "ALONE"))
    few = partial(evaluate, simulation["CELLS"]["5x10 of 8 signs"], paired=False)
    truth = np.mean([few(10_000 + s, intervals=False)[0][:, 0] for s in range(25)], axis=0)
    share, printed = covered(np.array([few(s, intervals=True)[0] for s in range(25)]), truth)
    for score in ("sameness", "one_nn", "purity_at_10", "r_precision", "map_at_r"):
        assert share[scores.index(score)] >= 0.88
        assert printed[scores.index(score)] == 1


def test_intervals_of_classes_cover(simulation):
    """Classes of 5 to 100 images beside some of one and two, which have no interval."""
    evaluate, covered = (simulation[name] for name in ("evaluate", "covered"))
    cell = simulation["RARE"]["unequal and rare"]
    few = partial(evaluate, cell, paired=False)
    truth = np.mean([few(10_000 + s, intervals=False)[2][:, 0] for s in range(25)], axis=0)
    found = np.array([few(s, intervals=True)[2] for s in range(25)])
    share, printed = covered(found, truth)
    assert printed.tolist() == [float(n >= 5) for n in cell.sizes]
    # 25 sets: .95 - .07 for one class, and all six together know it better.
    assert np.nanmin(share) >= 0.8
    assert np.nanmean(share) >= 0.9
    # Nor so wide that they say nothing: t has 4 freedoms in a class of 5, and rare classes add.
    width = (found[..., 2] - found[..., 1]).mean(axis=0) / (3.92 * found[..., 0].std(axis=0))
    assert width[0] < 2
    assert np.nanmax(width) < 3


@pytest.mark.parametrize("cell", ["20x5", "5x10 four times"])
def test_intervals_of_collapse_cover(simulation, cell):
    """20 classes of 5: NC1 -+ t errors, without its log, held the truth .86 of the time.

    Copies in different tenths: .71 of NC1 and of NC2.
    """
    few = partial(simulation["evaluate_collapse"], simulation["COLLAPSE"][cell])
    truth = np.mean([few(10_000 + s, intervals=False)[:, 0] for s in range(400)], axis=0)
    sets = np.array([few(s, intervals=True) for s in range(60)])
    share, printed = simulation["covered"](sets, truth)
    assert share.min() >= 0.9
    assert printed.min() == 1


@pytest.mark.parametrize(
    ("n", "classes", "dim", "apart"), [(3, 15, 8, 1.4), (4, 25, 16, 1.0), (10, 6, 16, 0.7)]
)
def test_variances_of_neighbour_scores_fit_classes_of_any_size(n, classes, dim, apart):
    """With one factor for all, the variance of 1-NN was .56 of the truth for classes of three."""
    codes = np.repeat(np.arange(classes), n)
    images = evaluation_set_of(np.arange(len(codes)), [f"{code:02d}" for code in codes])
    units = units_of(images)
    draw = np.random.default_rng(0)
    centres = apart * draw.standard_normal((classes, dim))
    values, variances = [], []
    for _ in range(150):
        x = centres[codes] + draw.standard_normal((len(codes), dim))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        changes = nearest(held_vectors(x, "cosine"), images, 10, units=units).changes
        values.append(changes.total[:5] / changes.total[5])
        variances.append([
            score_spread(changes.without, score, images, units).variance for score in SCORES
        ])  # fmt: skip
    ratio = np.mean(variances, axis=0) / np.var(values, axis=0, ddof=1)
    # 150 sets know a variance to 12 %.
    for score in ("one_nn", "purity_at_10", "r_precision", "map_at_r"):
        assert 0.75 < ratio[SCORES.index(score)] < 1.45, (score, ratio)


def test_leaving_a_unit_out_is_what_the_lists_say():
    draw = np.random.default_rng(1)
    codes = np.repeat(np.arange(4), (7, 5, 6, 4))
    x = draw.standard_normal((22, 3)).astype(np.float32)
    images = evaluation_set_of(np.arange(22), [str(code) for code in codes])
    units = units_of(images)
    changes = nearest(held_vectors(x, "euclidean"), images, 3, units=units).changes

    def scores(kept):
        apart = ((x[kept][:, None] - x[kept]) ** 2).sum(axis=2) + 1e9 * np.eye(len(kept))
        order = np.argsort(apart, axis=1)
        values = []
        for at, i in enumerate(kept):
            hit = codes[kept][order[at][:-1]] == codes[i]
            r = int((codes[kept] == codes[i]).sum()) - 1
            # Purity is scaled to what a class of its whole size can reach.
            reach = min(3, int((codes == codes[i]).sum()) - 1) / min(3, r)
            precise = np.cumsum(hit[:r]) / np.arange(1, r + 1)
            values.append([hit[0], reach * hit[:3].mean(), hit[:3].any(), hit[:r].mean(),
                           (precise * hit[:r]).sum() / r])  # fmt: skip
        return np.mean(values, axis=0)

    whole = scores(np.arange(22))
    for unit in range(22):
        wanted = scores(np.flatnonzero(units.named != unit)) - whole
        assert np.allclose(changes.without[unit], wanted, atol=1e-12)


@pytest.mark.quick
def test_an_interval_at_an_end_has_a_width():
    nothing = Spread(0.0, 1.0)
    low, high = share_interval(1.0, nothing, 60)
    assert (low, high) == (0.025 ** (1 / 60), 1.0)


@pytest.mark.quick
def test_few_errors_reach_no_further_than_trials():
    """Of 101 images one is wrong: scipy's exact interval, and one that hardly differs of 17."""
    right = np.ones(101)
    right[3] = 0
    images = evaluation_set_of(np.arange(101), [str(n % 3) for n in range(101)])
    exact = binomtest(100, 101).proportion_ci(0.95, "exact")
    low, high = right_interval(right, units_of(images))
    assert exact.low - 0.002 < low <= exact.low
    assert high == pytest.approx(exact.high, abs=1e-4)
    low, high = share_interval(1 - 1e-9, Spread(0.0, 1.0), 17)
    assert low == pytest.approx(share_interval(1.0, Spread(0.0, 1.0), 17)[0], abs=1e-6)
    # A variance above that of as many trials is that of fewer.
    wide = share_interval(0.99, Spread(0.0099 / 20, 2.0), 101)[0]
    assert wide == pytest.approx(beta.ppf(0.025, 0.99 * 20, 0.01 * 20 + 1))


@pytest.mark.quick
@pytest.mark.parametrize(("wrong", "copies"), [(0.01, 1), (0.03, 1), (0.1, 1), (0.05, 4)])
def test_intervals_of_few_errors_cover(wrong, copies):
    """Of single networks and of the difference of two; one class makes all errors."""
    n, draw = 100 // copies, np.random.default_rng(0)
    codes = np.repeat(np.arange(n) % 5, copies)
    images = evaluation_set_of(np.arange(n * copies), [str(code) for code in codes])
    units = units_of(images, np.repeat(np.arange(n), copies)[images.rows])
    codes = codes[images.rows]
    chance = 5 * wrong * (codes == 0)
    truth, hits = 1 - wrong, []
    for _ in range(250):
        x, y = (draw.random(len(units.stratum))[units.named] for _ in range(2))
        a, b = (x >= chance).astype(float), ((0.5 * x + 0.5 * y) >= 0.3).astype(float)
        low, high = right_interval(a, units)
        apart = share_difference(a, b, units).span
        # Half the sum of two uniform numbers is below .3 in .18 of cases.
        hits.append((low <= truth <= high, apart[0] <= 0.82 - truth <= apart[1]))
    assert (np.mean(hits, axis=0) >= 0.92).all()


@pytest.mark.quick
@pytest.mark.parametrize(("alone", "copied"), [(0.8, 0.8), (0.95, 0.1)])
def test_intervals_cover_where_some_images_have_many_copies(alone, copied):
    """One unit of five is eight copies: not their number counts, but what they differ in."""
    draw, hits = np.random.default_rng(0), []
    truth = (0.8 * alone + 0.2 * 8 * copied) / (0.8 + 0.2 * 8)
    for _ in range(250):
        many = draw.random(200) < 0.2
        unit = np.repeat(np.arange(200), np.where(many, 8, 1))
        images = evaluation_set_of(np.arange(len(unit)), [str(n % 5) for n in unit])
        unit = unit[images.rows]
        units, chance = units_of(images, unit), np.where(many, copied, alone)
        a, b = ((draw.random(200) < chance)[unit].astype(float) for _ in range(2))
        low, high = right_interval(a, units)
        apart = share_difference(a, b, units).span
        hits.append((low <= truth <= high, apart[0] <= 0 <= apart[1]))
    assert (np.mean(hits, axis=0) >= 0.92).all()
    assert (np.mean(hits, axis=0) <= 0.985).all()


@pytest.mark.quick
@pytest.mark.parametrize(("a", "b", "top"), [(1, 1, 1), (1, 0.4, 1), (0, 0.4, 1), (0.3, 0.5, 0.5)])
def test_a_difference_with_a_side_at_an_end_is_that_of_both_sides(a, b, top):
    some = Spread(0.01, 9.0)
    spans = [share_interval(value, some, 60, top) for value in (a, b)]
    (low_a, high_a), (low_b, high_b) = spans
    wanted = (
        b - a - np.hypot(b - low_b, high_a - a), b - a + np.hypot(high_b - b, a - low_a)
    )  # fmt: skip
    assert difference_interval(a, b, *spans, some, some, some, top) == pytest.approx(wanted)
    if top == 1:
        assert mean_difference(a, b, *spans, some, 60) == pytest.approx(wanted)
    assert wanted[0] < wanted[1]


@pytest.mark.quick
def test_a_clear_difference_to_a_side_at_an_end_is_above_nothing():
    right = np.zeros(101)
    right[:36] = 1
    units = units_of(evaluation_set_of(np.arange(101), [str(n % 3) for n in range(101)]))
    apart = share_difference(right, np.ones(101), units)
    assert apart.at_end
    assert 0.5 < apart.span[0] < apart.b - apart.a < apart.span[1] < 0.76


@pytest.mark.quick
def test_what_varies_in_nothing_that_was_seen_has_an_interval():
    """A class that is all wrong, and networks that differ in no image, may do so by chance."""
    images = evaluation_set_of(np.arange(50), [str(n % 5) for n in range(50)])
    units = units_of(images)
    right = (images.codes > 0).astype(float)
    low, high = right_interval(right, units)
    exact = binomtest(40, 50).proportion_ci(0.95, "exact")
    assert exact.low <= low < 0.67
    assert 0.89 < high <= exact.high
    right[:5] = 1
    apart = share_difference(right, right, units).span
    assert apart == pytest.approx((-beta.ppf(0.975, 1, 50), beta.ppf(0.975, 1, 50)))
