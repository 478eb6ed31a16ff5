"""Every class and every pair of classes weighs the same, by scikit-learn's sample weights."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score, roc_curve

from alike.analysis.analyse import AnalysisSettings, analyse
from alike.analysis.blocks.evaluation_set import evaluation_set_of
from alike.analysis.blocks.vectors import held_vectors
from alike.analysis.pairs import bins as pair_bins
from alike.analysis.pairs import curves as scores
from alike.analysis.pairs import influence, pair_spreads, units_of
from alike.analysis.pairs import scores as pair_scores
from alike.analysis.pairs.bins import measured_bins
from alike.analysis.pairs.counts import count_pairs


def weighed(x, codes):
    """Distance, kind and weight of every pair, from the definition."""
    n = np.bincount(codes)
    i, j = np.triu_indices(len(x), 1)
    same = codes[i] == codes[j]
    own, apart = n[codes[i]] * (n[codes[i]] - 1.0), 1.0 * n[codes[i]] * n[codes[j]]
    return cdist(x, x)[i, j], same, 1.0 / np.where(same, own, apart)


def uneven(sizes, dim=4, seed=0):
    draw = np.random.default_rng(seed)
    codes = np.repeat(np.arange(len(sizes)), sizes)
    centres = draw.standard_normal((len(sizes), dim))
    spread = draw.uniform(0.2, 1.5, len(sizes))
    return centres[codes] + spread[codes][:, None] * draw.standard_normal((len(codes), dim)), codes


def images_of(codes):
    return evaluation_set_of(np.arange(len(codes)), [f"{code:04d}" for code in codes])


@pytest.mark.parametrize("layers", ["fine", "layered", "many"])
@pytest.mark.parametrize("ties", [False, True])
def test_balanced_auc_is_that_of_weighed_pairs(layers, ties, monkeypatch):
    if layers == "layered":
        monkeypatch.setattr(pair_bins, "FINE_BYTES", 0)
    sizes = (90, 41, 17, 6, 2, 1) * (12 if layers == "many" else 1)
    x, codes = uneven(sizes)
    if ties:
        x = np.round(x)
    distance, same, weight = weighed(x, codes)
    counts = count_pairs(held_vectors(x, "euclidean"), images_of(codes))
    area, plain = counts.area(), counts.plain_area()
    # float32 keys of equal distances may differ in their last digit: equal to nine digits here.
    wanted = roc_auc_score(same, -np.round(distance, 9), sample_weight=weight)
    assert area.low - 1e-6 <= wanted <= area.high + 1e-6
    # Rounding may split pairs of one distance between two bins: the interval holds that.
    close = 2e-3 if ties else 2e-5
    assert area.value == pytest.approx(wanted, abs=close)
    unweighed = roc_auc_score(same, -np.round(distance, 9))
    assert plain.value == pytest.approx(unweighed, abs=close)
    assert abs(wanted - unweighed) > 1e-3
    far, tar = scores.rates(*counts.balanced)
    false, true, _ = roc_curve(same, -np.round(distance, 9), sample_weight=weight)
    at = np.interp(0.01, false, true)
    assert scores.tar_at_far(far, tar, 0.01) == pytest.approx(at, abs=1e-2)
    assert counts.balanced.sum(axis=1) == pytest.approx([same.sum(), (~same).sum()])


@pytest.mark.quick
@pytest.mark.parametrize("layered", [False, True])
def test_on_a_balanced_set_nothing_changes(layered, monkeypatch):
    if layered:
        monkeypatch.setattr(pair_bins, "FINE_BYTES", 0)
    x, codes = uneven((20,) * 7)
    counts = count_pairs(held_vectors(x, "cosine"), images_of(codes))
    assert np.array_equal(counts.balanced, counts.total)
    assert counts.area() == counts.plain_area()
    assert counts.different.sum(axis=1).tolist() == [20 * 120] * 7
    assert (counts.different == np.rint(counts.different)).all()


def test_one_tight_class_does_not_speak_for_ten_noisy_ones(tmp_path, make, write_features):
    """One class of 300 with spread .05 beside ten of 15 that are noise: plain sameness .98."""
    made = make(sizes=(300, *[15] * 10), channels=16)
    draw = np.random.default_rng(5)
    x = draw.standard_normal((450, 16))
    tight = np.array([label == "class 0" for label in made.labels])
    x[tight] = draw.standard_normal(16) * 2 + 0.05 * draw.standard_normal((300, 16))
    made.arrays["gap"] = x.astype(np.float32)
    features = write_features(tmp_path / "s", made, taps=["gap"])
    found = analyse(features, AnalysisSettings(measures=["gap_cosine"], bootstrap=0))
    rows = found.tables["scores"].set_index("score")
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    distance, same, weight = weighed(unit, np.unique(made.labels, return_inverse=True)[1])
    wanted = 2 * roc_auc_score(same, -distance, sample_weight=weight) - 1
    assert rows.loc["sameness", "value"] == pytest.approx(wanted, abs=1e-5)
    assert rows.loc["sameness", "value"] < 0.25
    assert rows.loc["sameness_all_pairs", "value"] > 0.95
    assert "every class weighs the same here" in rows.loc["sameness", "note"]
    assert f"{rows.loc['sameness_all_pairs', 'value']:.3f}" in rows.loc["sameness", "note"]
    noisy = found.tables["per_class"].set_index("class")["sameness"].drop("class 0")
    assert noisy.mean() < 0.15
    curve, shown = found.tables["roc"], found.tables["histograms"]
    for row in curve.iloc[::50].to_dict("records"):
        below = distance**2 / 2 < row["threshold"]
        for name, kind in (("tar", same), ("far", ~same)):
            wanted = weight[below & kind].sum() / weight[kind].sum()
            assert row[name] == pytest.approx(wanted, abs=5e-3)
    near = distance**2 / 2 < shown["bin_high"].iloc[40]
    assert shown["same"][:41].sum() / shown["same"].sum() == pytest.approx(
        weight[near & same].sum() / weight[same].sum(), abs=1e-3
    )


@pytest.mark.quick
def test_intervals_of_classes_do_not_depend_on_the_number_of_bins(clustered):
    x, images = clustered(n=240, classes=4)
    held, spans = held_vectors(x, "euclidean"), []
    for n_bins in (1 << 14, 512, 64):
        counts = count_pairs(held, images, bins=measured_bins(held, images, n_bins))
        spreads = pair_spreads([(held, counts)], images, units_of(images))
        values = [
            scores.auc(*both).value for both in zip(counts.same, counts.different, strict=True)
        ]
        classes = [spreads.class_interval(c, value) for c, value in enumerate(values)]
        spans.append([*classes, spreads.interval("worst_class_auc", min(values))])
    assert np.ptp(spans[0], axis=1).min() > 0.01
    np.testing.assert_allclose(spans[1:], [spans[0]] * 2, atol=0.005)


@pytest.mark.parametrize("exactly", [False, True])
def test_pairs_are_looked_up_a_part_of_the_classes_at_a_time(monkeypatch, exactly):
    """A pass by ranges of classes, of some rows at a time, is the pass over all at once."""
    x, codes = uneven((90, 3, 40, 1, 60, 5))
    images = evaluation_set_of(np.arange(len(x)), [f"{code}" for code in codes])
    other = x + 0.3 * np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    sides = []
    for each in (x, other):
        held = replace(held_vectors(each, "euclidean"), exactly=exactly)
        sides.append((held, count_pairs(held, images)))
    monkeypatch.setattr(pair_scores, "WORST_NUMBERS", 0)
    found = []
    for columns, limit in ((16_384, 16_384), (70, 16_384), (70, 120), (16_384, 120)):
        monkeypatch.setattr(influence, "COLUMNS", columns)
        monkeypatch.setattr(influence, "INFLUENCE_ROWS", limit)
        monkeypatch.setattr(influence, "BYTES", 4 * 70 * 31 if columns == 70 else 32 << 20)
        two = pair_spreads(sides, images, units_of(images))
        one = pair_spreads(sides[:1], images, units_of(images))
        variances = [[of.variance for of in each.values()] for each in (*two.sides, two.apart)]
        found.append(np.array([*variances, [of.variance for of in one.sides[0].values()]]))
    assert influence._class_ranges(images.starts) == [(0, len(images.classes))]
    for several, whole in ((1, 0), (2, 3)):
        np.testing.assert_allclose(found[several], found[whole], rtol=1e-6)
    assert not np.allclose(found[0], found[3], rtol=1e-3)


def test_ranges_of_classes_hold_each_class_once(monkeypatch):
    monkeypatch.setattr(influence, "COLUMNS", 70)
    starts = np.cumsum([0, 90, 3, 40, 1, 60, 0, 5, 70, 71, 2])
    assert influence._class_ranges(starts) == [(0, 1), (1, 4), (4, 7), (7, 8), (8, 9), (9, 10)]


@pytest.mark.filterwarnings("error")
def test_without_one_of_two_classes_nothing_is_left_and_nothing_overflows():
    """Where each of two classes is copies of one image, no weight is left without one of them."""
    for seed in range(5):
        x, codes = uneven((8, 2), seed=seed)
        images = evaluation_set_of(np.arange(10), [f"{code}" for code in codes])
        held, units = held_vectors(x, "euclidean"), units_of(images, images.codes)
        spreads = pair_spreads([(held, count_pairs(held, images))], images, units)
        variances = [of.variance for of in spreads.sides[0].values()]
        assert np.isfinite(variances).all()
        assert max(variances) < 1.0
        low, high = spreads.interval("auc", 0.75)
        assert high - low > 0.5
