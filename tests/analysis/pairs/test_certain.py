"""The certified interval holds the AUC of float64 distances, and is narrow."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

from alike.analysis.analyse import AnalysisSettings, analyse
from alike.analysis.blocks.evaluation_set import evaluation_set_of
from alike.analysis.blocks.vectors import held_vectors
from alike.analysis.pairs.counts import sure_pairs


def clusters(sizes=(60, 50, 40), dim=24):
    draw = np.random.default_rng(2)
    codes = np.repeat(np.arange(len(sizes)), sizes)
    x = 0.5 * draw.standard_normal((len(sizes), dim))[codes]
    return x + draw.standard_normal((len(codes), dim)), codes


def changed(kind, size):
    x, codes = clusters()
    if kind == "one class":
        x[codes == 1] += size
    elif kind == "all":
        x += size
    elif kind == "outliers":
        x[::40] *= size
    else:
        x *= size
    return x.astype(np.float32), codes


CASES = [
    ("none", 1.0), *(("one class", 10.0**k) for k in range(3, 7)),
    *(("all", 10.0**k) for k in range(3, 7)), ("outliers", 1e3), ("outliers", 1e6),
    ("scale", 1e-9), ("scale", 1e-15), ("scale", 1e9),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "size"), CASES)
def test_the_truth_is_inside_and_the_interval_narrow(kind, size):
    x, codes = changed(kind, size)
    images = evaluation_set_of(np.arange(len(codes)), [str(code) for code in codes])
    i, j = np.triu_indices(len(x), 1)
    same, n = codes[i] == codes[j], np.bincount(codes)
    distance = cdist(*2 * [x.astype(np.float64)])[i, j]
    weight = 1.0 / (n[codes[i]] * np.where(same, n[codes[i]] - 1.0, n[codes[j]]))
    _, counts = sure_pairs(held_vectors(x, "euclidean"), images)
    area = counts.area()
    assert area.low <= roc_auc_score(same, -distance, sample_weight=weight) <= area.high
    assert counts.plain_area().low <= roc_auc_score(same, -distance) <= counts.plain_area().high
    assert area.high - area.low < 1e-3


@pytest.mark.quick
@pytest.mark.parametrize("offset", [0.0, 10.0, 1000.0])
def test_cosines_far_from_the_origin_hold_the_truth(offset):
    x, codes = clusters()
    x = (x + offset).astype(np.float32)
    images = evaluation_set_of(np.arange(len(codes)), [str(code) for code in codes])
    i, j = np.triu_indices(len(x), 1)
    wide = x.astype(np.float64)
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    distance = ((unit[i] - unit[j]) ** 2).sum(axis=1) / 2
    embedded = x / np.linalg.norm(x, axis=1, keepdims=True)
    _, counts = sure_pairs(held_vectors(embedded, "cosine"), images)
    area = counts.plain_area()
    assert area.low <= roc_auc_score(codes[i] == codes[j], -distance) <= area.high


def test_every_row_that_rests_on_the_auc_says_how_certain_it_is(tmp_path, make, write_features):
    """One class shifted by 1e4: the headline was .73, certain to .66 ... .80, the truth .83."""
    made = make(sizes=(60, 50, 40))
    moved = np.array([label == "class 1" for label in made.labels])
    made.arrays["gap"] = made.arrays["gap"].astype(np.float32)
    made.arrays["gap"][moved] += 1e4
    features = write_features(tmp_path / "s", made, taps=["gap"])
    found = analyse(features, AnalysisSettings(measures=["gap_euclid"], bootstrap=0))
    rows = found.tables["scores"].set_index("score")
    for name in ("sameness", "auc", "auc_all_pairs"):
        assert "certain to" in rows.loc[name, "note"]
    x, labels = made.arrays["gap"].astype(np.float64), np.array(made.labels)
    i, j = np.triu_indices(len(x), 1)
    wanted = roc_auc_score(labels[i] == labels[j], -cdist(x, x)[i, j])
    assert rows.loc["auc_all_pairs", "value"] == pytest.approx(wanted, abs=5e-4)
