"""Scores and tables of a measure and of a network, against naive distances and scikit-learn."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import skew
from sklearn.metrics import roc_auc_score, roc_curve, silhouette_score

from alike.analysis.blocks.evaluation_set import evaluation_set_of, stored_evaluation_set
from alike.analysis.blocks.vectors import held_vectors
from alike.analysis.scores.measure import evaluate_measure
from alike.analysis.scores.network import LeftOut, logit_places, named_rightly, network_scores
from alike.analysis.scores.rows import purity_top, score_row
from alike.analysis.scores.sets import evaluate_sets
from alike.analysis.scores.table import SCORES
from alike.extract.errors import BadInput
from alike.extract.measures.sets import SET_MEASURES

CLASSES, EACH = 4, 20


@pytest.fixture(scope="module")
def cosine():
    """The tables of a cosine measure on 4 classes of 20 images, and all distances in float64."""
    draw = np.random.default_rng(3)
    codes = np.repeat(np.arange(CLASSES), EACH)
    x = draw.standard_normal((CLASSES, 12))[codes] + draw.standard_normal((len(codes), 12))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    images = evaluation_set_of(np.arange(len(x)), [str(code) for code in codes])
    tables = evaluate_measure(
        "m", held_vectors(x, "cosine"), images, lambda _: map, intervals=False
    )
    square = cdist(x.astype(np.float64), x.astype(np.float64), "cosine")
    order = np.argsort(square + 9 * np.eye(len(x)), axis=1, kind="stable")[:, :-1]
    pairs = np.triu_indices(len(x), 1)
    return SimpleNamespace(
        tables=tables,
        square=square,
        codes=codes,
        distances=square[pairs],
        same=codes[pairs[0]] == codes[pairs[1]],
        near=order,
        hits=codes[order] == codes[:, None],
    )


def area_of_class(of, code):
    """AUC of the pairs within a class against those of its images with all others."""
    own = of.codes == code
    within = of.square[np.ix_(own, own)][np.triu_indices(EACH, 1)]
    across = of.square[np.ix_(own, ~own)].ravel()
    truth = np.repeat([1, 0], [len(within), len(across)])
    return roc_auc_score(truth, -np.concatenate([within, across]))


def values_by_hand(of):
    """Name of a score to its value and how near the binned one must be."""
    d, same, r = of.distances, of.same, EACH - 1
    area = roc_auc_score(same, -d)
    far, tar, _ = roc_curve(same, -d, drop_intermediate=False)
    precision = np.cumsum(of.hits[:, :r], axis=1) / np.arange(1, r + 1)
    listed = np.bincount(of.near[:, :10].ravel(), minlength=len(of.codes))
    gap = d[~same].mean() - d[same].mean()
    return {
        "auc": (area, 1e-3),
        "sameness": (2 * area - 1, 2e-3),
        "auc_all_pairs": (area, 1e-3),
        "sameness_all_pairs": (2 * area - 1, 2e-3),
        "worst_class_sameness": (2 * min(area_of_class(of, c) for c in range(CLASSES)) - 1, 2e-3),
        "eer": (far[np.argmin(np.abs(far + tar - 1))], 3e-3),
        "tar_at_far_1pct": (np.interp(0.01, far, tar), 5e-3),
        "d_prime": (gap / math.sqrt((d[same].var() + d[~same].var()) / 2), 1e-4),
        "intra_mean": (d[same].mean(), 1e-6),
        "inter_mean": (d[~same].mean(), 1e-6),
        "one_nn": (of.hits[:, 0].mean(), 1e-12),
        "purity_at_10": (of.hits[:, :10].mean(), 1e-12),
        "recall_at_10": (of.hits[:, :10].any(axis=1).mean(), 1e-12),
        "r_precision": (of.hits[:, :r].mean(), 1e-12),
        "map_at_r": ((precision * of.hits[:, :r]).sum(axis=1).mean() / r, 1e-12),
        "hub_skew": (skew(listed), 1e-9),
        "silhouette": (silhouette_score(of.square, of.codes, metric="precomputed"), 1e-5),
        "alignment": (2 * d[same].mean(), 1e-5),
        "uniformity": (np.log(np.exp(-4 * d).mean()), 1e-3),
    }


def test_scores_are_those_of_all_pairs_by_hand(cosine):
    rows = cosine.tables["scores"].set_index("score")
    for name, (value, tolerance) in values_by_hand(cosine).items():
        assert rows.at[name, "value"] == pytest.approx(value, abs=tolerance), name


def test_every_row_is_a_score_of_the_table_within_its_span(cosine):
    rows = cosine.tables["scores"]
    assert set(rows["score"]) <= SCORES.keys()
    assert not rows["score"].duplicated().any()
    assert (rows["better"] == [SCORES[name].better for name in rows["score"]]).all()
    for row in rows.itertuples():
        ends = SCORES[row.score].span.split(",")[0].split(" to ")
        if len(ends) == 2:
            assert float(ends[0]) <= row.value <= float(ends[1]), row.score


def test_tables_of_classes_and_distances(cosine):
    classes = cosine.tables["per_class"].set_index("class")
    for code in range(CLASSES):
        area = area_of_class(cosine, code)
        assert classes.at[str(code), "auc"] == pytest.approx(area, abs=2e-3)
    means = cosine.tables["class_pairs"].set_index(["class_a", "class_b"])["mean"]
    block = cosine.square[:EACH, EACH : 2 * EACH]
    assert means["0", "1"] == means["1", "0"] == pytest.approx(block.mean(), abs=1e-6)
    shown = cosine.tables["histograms"]
    assert shown["same"].sum() == pytest.approx(cosine.same.sum())
    assert shown["different"].sum() == pytest.approx((~cosine.same).sum())
    ends = shown[shown[["same", "different"]].sum(axis=1) > 0]
    assert ends["bin_low"].iloc[0] <= cosine.distances.min()
    assert ends["bin_high"].iloc[-1] >= cosine.distances.max()
    roc = cosine.tables["roc"]
    by_hand = [(cosine.distances[cosine.same] <= t).mean() for t in roc["threshold"]]
    assert roc["tar"].to_numpy() == pytest.approx(by_hand, abs=5e-3)
    near = cosine.tables["neighbours"].sort_values(["row", "rank"])["neighbour"].to_numpy()
    assert np.array_equal(near.reshape(len(cosine.codes), -1), cosine.near[:, :10])


@pytest.mark.quick
@pytest.mark.parametrize("sizes", [(3, 4, 1), (30, 2), (12, 12)])
def test_the_largest_purity_is_reached_by_classes_far_apart(sizes):
    codes = np.repeat(np.arange(len(sizes)), sizes)
    images = evaluation_set_of(np.arange(len(codes)), [str(code) for code in codes])
    distance = np.abs(codes[:, None] - codes) + 9 * np.eye(len(codes), dtype=int)
    near = np.argsort(distance, axis=1)[:, : min(10, len(codes) - 1)]
    several = np.array(sizes)[codes] > 1
    best = (codes[near] == codes[:, None])[several].mean()
    assert purity_top(images) == pytest.approx(best)


def test_a_row_of_no_score_is_refused():
    with pytest.raises(KeyError, match="sharpness"):
        score_row("m", "sharpness", 0.5, (0.4, 0.6))


def test_accuracy_is_by_the_labels_names_in_any_order(tmp_path, make, write_features):
    made = make(sizes=(12, 9, 7))
    # The network's own order of classes is not that of the labels.
    names = ["class 2", "class 0", "class 1"]
    made.arrays["logits"] = made.arrays["logits"][:, [2, 0, 1]]
    features = write_features(tmp_path / "s", made, names=names)
    images = stored_evaluation_set(features, "all")
    assert logit_places(features) == {name: at for at, name in enumerate(names)}
    choice = np.array(names)[made.arrays["logits"].argmax(axis=1)]
    right = choice == np.array(made.labels)
    rows = network_scores(features, images).set_index("score")
    assert rows.at["accuracy", "value"] == pytest.approx(right.mean())
    assert named_rightly(features, images).sum() == right.sum()
    assert {"nc1", "nc4"} <= set(rows.index)
    other = write_features(tmp_path / "t", made, names=["cat", "dog", "cow"])
    assert named_rightly(other, stored_evaluation_set(other, "all")) is None


def test_scores_of_a_set_measure_are_those_of_its_distances(tmp_path, make, write_features):
    features = write_features(tmp_path / "s", make(sizes=(11, 11)), taps=["last_conv"])
    images = stored_evaluation_set(features, "all")
    measure = replace(SET_MEASURES["chamfer"], sample=1000)
    rows = evaluate_sets(features, measure, images, intervals=False, seed=0, map_blocks=map)
    maps = features.read("last_conv", images.rows)
    square = np.stack([measure.to_all(one, maps) for one in maps])
    pairs = np.triu_indices(len(maps), 1)
    same = images.codes[pairs[0]] == images.codes[pairs[1]]
    values = rows.set_index("score")["value"]
    assert values["auc"] == pytest.approx(roc_auc_score(same, -square[pairs]), abs=3e-3)
    assert values["intra_mean"] == pytest.approx(square[pairs][same].mean(), abs=1e-9)
    nearest = (square + 9 * np.eye(len(maps))).argmin(axis=1)
    assert values["one_nn"] == (images.codes[nearest] == images.codes).mean()
    assert (rows["note"] == "all pairs of all 22 images").all()
    # With each image there twice.
    made = make(sizes=(11, 11))
    made.arrays = {name: np.repeat(values, 2, axis=0) for name, values in made.arrays.items()}
    made.codes, made.labels = np.repeat(made.codes, 2), np.repeat(made.labels, 2).tolist()
    doubled = write_features(tmp_path / "u", made, taps=["last_conv"])
    images = stored_evaluation_set(doubled, "all")
    alone, together = (
        evaluate_sets(doubled, measure, images, True, 0, map, copies).set_index("score").loc["auc"]
        for copies in (None, images.rows // 2)
    )
    assert together["value"] == alone["value"]
    assert together["high"] - together["low"] > 1.2 * (alone["high"] - alone["low"])
    assert "44 images are near copies of others and left out together, as 22" in together["note"]
    bare = write_features(tmp_path / "t", make(sizes=(5, 5)), taps=["gap"])
    with pytest.raises(BadInput, match="last_conv"):
        evaluate_sets(
            bare, measure, stored_evaluation_set(bare, "all"), False, seed=0, map_blocks=map
        )


@pytest.mark.quick
def test_intervals_of_collapse_are_of_all_images_that_a_sample_stands_for():
    """Errors of a sample of a quarter are twice those of all; value and unit do not matter."""
    factors = np.exp(0.1 * np.random.default_rng(0).standard_normal((11, 3)))
    factors[0] = 1
    (low, high), note = LeftOut(3 * factors, 400, 400, 5).interval("nc1", 3.0)
    assert low < 3 < high
    assert "heavy tails" in note
    (low_few, high_few), note = LeftOut(7 * factors, 100, 400, 5).interval("nc1", 3.0)
    assert np.log(high / low) == pytest.approx(2 * np.log(high_few / low_few))
    assert "a stratified sample of 100 of 400 images" in note
    # Without a class of two images there are two, whose angles are 0 but for rounding.
    rounded = np.where(np.arange(11)[:, None] == 4, 1e-16, factors)
    for of, value in (
        (LeftOut(factors, 9, 9, 2), 1.0), (LeftOut(0 * factors, 9, 9, 5), 0.0),
        (LeftOut(rounded, 9, 9, 3), 1.0),
    ):  # fmt: skip
        span, note = of.interval("nc2_norm", value)
        assert np.isnan(span).all()
        assert "no interval" in note
