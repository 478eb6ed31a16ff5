"""More classes than have a matrix of pairs: the same answers, and memory that does not square."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from alike.analysis.analyse import AnalysisSettings, analyse
from alike.analysis.blocks import evaluation_set, held_vectors, vectors
from alike.analysis.blocks.evaluation_set import evaluation_set_of
from alike.analysis.classes import (
    class_moments,
    nearest_classes,
    pair_means,
    pair_statistics,
    pooled_statistics,
)
from alike.analysis.pairs import influence
from alike.analysis.scores.measure import evaluate_measure

MEASURES = ["gap_cosine", "gap_euclid", "softmax_dot"]
SIZES = {
    "equal": (12,) * 20,
    "unequal": (40, 30, *range(3, 20)),
    "small": (2, 1, 2, 9, 1, 2, 2, 3, 2, 1, 20, 2, 4),
}
NO_INTERVAL = ("balanced_accuracy", "worst_class_sameness")
"""Scores whose interval needs all pairs of classes."""


FOUND = {}


@pytest.fixture(params=SIZES)
def both(request, tmp_path, make, write_features, monkeypatch):
    """One set analysed as few classes and as many, once for all tests."""
    if request.param in FOUND:
        return FOUND[request.param]
    monkeypatch.setattr(vectors, "SLAB", 256)
    features = write_features(tmp_path / "s", make(sizes=SIZES[request.param]))
    settings = AnalysisSettings(measures=MEASURES)
    few = analyse(features, settings)
    assert "pairs of classes" not in few.settings["left_out"]
    monkeypatch.setattr(evaluation_set, "MANY", 4)
    monkeypatch.setattr("alike.analysis.scores.measure.NEAREST_CLASSES", 3)
    # Some tasks to a pass over the pairs, of some classes each.
    monkeypatch.setattr(influence, "SUMS_BYTES", 24 * 4 * 5 * len(SIZES[request.param]))
    monkeypatch.setattr("alike.analysis.classes.moments.ROW_NUMBERS", 50)
    monkeypatch.setattr("alike.analysis.classes.geometry.ROW_NUMBERS", 50)
    many = analyse(features, settings)
    assert "nearest of each are listed" in many.settings["left_out"]["pairs of classes"]
    FOUND[request.param] = few.tables, many.tables
    return FOUND[request.param]


def test_many_classes_have_the_scores_of_few(both):
    few, many = (tables["scores"].set_index(["measure", "score"]) for tables in both)
    assert list(few.index) == list(many.index)
    # The AUC of a class is of coarser bins.
    np.testing.assert_allclose(many["value"], few["value"], rtol=1e-5, atol=1e-3)
    own = few["value"].notna() & ~few.index.isin(NO_INTERVAL, level="score")
    exact = own & ~few.index.isin(["worst_class_auc", "worst_class_sameness"], level="score")
    np.testing.assert_allclose(many["value"][exact], few["value"][exact], rtol=1e-5, atol=1e-9)
    width = (few["high"] - few["low"])[own]
    same_kind = width.notna()
    assert many["low"][own].notna().equals(same_kind)
    # A residual below 0 of two classes is not taken for 0: intervals are as wide, or a little less.
    ratio = ((many["high"] - many["low"])[own] / width)[same_kind]
    assert ratio.between(0.97, 1.001).all(), ratio
    told = many.query("score in @NO_INTERVAL and value == value")
    assert told["low"].isna().all()
    assert told["note"].str.contains("no interval").all()


def test_of_many_classes_the_nearest_pairs_are_listed(both):
    few, many = (tables["class_pairs"] for tables in both)
    keys = ["measure", "class_a", "class_b"]
    classes = few["class_a"].nunique()
    assert len(many) < len(few)
    joined = many.merge(few, on=keys, suffixes=("", "_few"))
    assert len(joined) == len(many)
    np.testing.assert_array_equal(joined["n_pairs"], joined["n_pairs_few"])
    # Exact where the distance is the key, and by Euclid of coarse bins.
    exact = joined["measure"].astype(str) != "gap_euclid"
    for part, rtol in ((joined[exact], 1e-9), (joined[~exact], 0.03)):
        np.testing.assert_allclose(part["mean"], part["mean_few"], rtol=rtol, atol=1e-9)
        np.testing.assert_allclose(part["median"], part["median_few"], rtol=0.05, atol=0.02)
    for measure, rows in few.groupby("measure", observed=True):
        listed = many[many["measure"] == measure]
        pairs = set(zip(listed["class_a"], listed["class_b"], strict=True))
        assert all((b, a) in pairs for a, b in pairs)
        apart = rows[rows["class_a"].astype(str) != rows["class_b"].astype(str)]
        for name, own in apart.groupby("class_a", observed=True):
            wanted = own.nsmallest(3, "mean")
            there = sum((name, other) in pairs for other in wanted["class_b"])
            # By Euclid the nearest is told from mean squares.
            assert there == 3 or (measure == "gap_euclid" and there >= 2)
        assert listed["class_a"].nunique() == classes


def test_a_class_has_what_it_had(both):
    few, many = (tables["per_class"] for tables in both)
    columns = ["sameness", "balanced_accuracy", "intra_mean", "inter_mean"]
    np.testing.assert_allclose(many[columns], few[columns], atol=0.05, rtol=0.01)
    pd.testing.assert_series_equal(many["n"], few["n"])


def test_nothing_is_held_for_every_pair_of_classes(monkeypatch):
    """Peak memory grows by less than five matrices of classes; the usual way has forty."""
    monkeypatch.setattr(evaluation_set, "MANY", 4)
    monkeypatch.setattr("alike.analysis.scores.measure.NEAREST_CLASSES", 2)
    monkeypatch.setattr(influence, "SUMS_BYTES", 1 << 20)
    monkeypatch.setattr("alike.analysis.classes.moments.ROW_NUMBERS", 1 << 16)
    monkeypatch.setattr("alike.analysis.classes.geometry.ROW_NUMBERS", 1 << 16)
    monkeypatch.setattr(vectors, "SLAB", 256)
    peaks = []
    # The first brings the compiled loops, whose memory is not that of a set.
    for classes in (1200, 20, 1200):
        names = [f"{code:04d}" for code in range(classes)]
        codes = np.repeat(np.arange(classes), 2)
        x = np.random.default_rng(0).standard_normal((len(codes), 8), dtype=np.float32)
        images = evaluation_set_of(np.arange(len(codes)), [names[code] for code in codes])
        tracemalloc.start()
        evaluate_measure("any", held_vectors(x, "euclidean"), images, lambda _name: map)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] - peaks[1] < 5 * 1200**2 * 8, peaks


@pytest.mark.quick
def test_means_and_nearest_classes_without_a_matrix(monkeypatch):
    draw = np.random.default_rng(1)
    codes = np.sort(draw.integers(0, 30, 200))
    x = draw.standard_normal((200, 6), dtype=np.float32) + draw.standard_normal((30, 6))[codes]
    images = evaluation_set_of(np.arange(200), [f"{code:02d}" for code in codes])
    for form in ("euclidean", "inner"):
        dense = class_moments(held_vectors(x, form), images)
        brief = replace(dense, m=None)
        wanted, _ = pair_statistics(dense)
        for one, other in zip(pooled_statistics(brief), pooled_statistics(dense), strict=True):
            assert one[0] == pytest.approx(other[0], rel=1e-9)
            assert np.isnan(one[1])
        monkeypatch.setattr("alike.analysis.classes.moments.ROW_NUMBERS", 70)
        first, second = nearest_classes(brief, 4).T
        np.testing.assert_allclose(pair_means(brief, first, second), wanted[first, second])
        pairs = {(a, a) for a in range(30) if images.counts[a] > 1}
        np.fill_diagonal(wanted, np.inf)
        for a in range(30):
            pairs |= {(min(a, b), max(a, b)) for b in np.argsort(wanted[a])[:4].tolist()}
        assert set(zip(first.tolist(), second.tolist(), strict=True)) == pairs
