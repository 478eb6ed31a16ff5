"""Class moments against naive sums and scikit-learn; neural collapse on a perfect simplex."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score, silhouette_score

from alike.analysis.blocks.evaluation_set import evaluation_set_of
from alike.analysis.blocks.vectors import held_vectors
from alike.analysis.classes.geometry import (
    class_geometry,
    collapse_scores,
    geometry_notes,
    geometry_scores,
)
from alike.analysis.classes.moments import class_moments, pair_statistics, pooled_statistics
from alike.analysis.neighbours.lists import nearest
from alike.analysis.pairs import curves as scores
from alike.analysis.pairs.counts import count_pairs
from alike.extract.measures.measures import MEASURES

FORMS = ("cosine", "euclidean", "inner")


def prepared(x, form):
    if form == "cosine":
        return x / np.linalg.norm(x, axis=1, keepdims=True)
    if form == "inner":
        grown = np.exp(x)
        return grown / grown.sum(axis=1, keepdims=True)
    return x


def keys(vectors):
    """All keys in float64 from the very vectors that the moments read."""
    z, b = vectors.block(0, vectors.n)
    z = z.astype(np.float64)
    return b[:, None] + b[None, :] - z @ z.T


@pytest.mark.parametrize("form", FORMS)
def test_s1_means_and_variances_of_all_class_pairs(form, clustered):
    x, images = clustered(n=500, classes=5)
    vectors = held_vectors(prepared(x, form), form)
    moments = class_moments(vectors, images)
    mean, variance = pair_statistics(moments)
    key, other = keys(vectors), ~np.eye(500, dtype=bool)
    for a in range(5):
        for b in range(5):
            chosen = key[(images.codes[:, None] == a) & (images.codes[None] == b) & other]
            assert mean[a, b] == pytest.approx(chosen.mean(), rel=1e-10)
            assert variance[a, b] == pytest.approx(chosen.var(), rel=1e-9)
    same = (images.codes[:, None] == images.codes[None]) & other
    for found, kind in zip(pooled_statistics(moments), (same, ~same & other), strict=True):
        assert found == pytest.approx((key[kind].mean(), key[kind].var()), rel=1e-9)


def test_keys_are_the_measures_distances(clustered):
    x, _ = clustered(n=100)
    for form, metric, factor in (("cosine", "cosine", 1.0), ("euclidean", "sqeuclidean", 0.5)):
        wanted = factor * cdist(prepared(x, form), prepared(x, form), metric)
        assert keys(held_vectors(prepared(x, form), form)) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.quick
@pytest.mark.parametrize("form", ["cosine", "euclidean"])
def test_s2_shape_scores_equal_scikit_learns(form, clustered):
    x, images = clustered(n=400, classes=6)
    x = prepared(x, form).astype(np.float32)
    vectors = held_vectors(x, form)
    moments = class_moments(vectors, images, second=False)
    found = geometry_scores(moments, class_geometry(vectors, images, moments))
    metric = "cosine" if form == "cosine" else "sqeuclidean"
    wide = x.astype(np.float64)
    assert found["silhouette"] == pytest.approx(
        silhouette_score(wide, images.codes, metric=metric), abs=1e-6
    )
    assert found["davies_bouldin"] == pytest.approx(
        davies_bouldin_score(wide, images.codes), rel=1e-5
    )
    assert found["calinski_harabasz"] == pytest.approx(
        calinski_harabasz_score(wide, images.codes), rel=1e-5
    )


def shape_of(x, labels, form="euclidean"):
    """Scores and notes of vectors that are sorted by label."""
    images = evaluation_set_of(np.arange(len(x)), labels)
    vectors = held_vectors(x.astype(np.float32), form)
    moments = class_moments(vectors, images, second=False)
    return geometry_scores(moments, class_geometry(vectors, images, moments)), geometry_notes(
        moments
    )


@pytest.mark.parametrize("how", ["two dead classes", "two equal classes", "all classes equal"])
def test_classes_with_one_mean_are_as_in_scikit_learn(how):
    x = np.random.default_rng(0).standard_normal((30, 4)) + np.repeat([0, 1, 4], 10)[:, None]
    if how == "two dead classes":
        x[:20] = 0.0
    elif how == "two equal classes":
        x[10:20] = x[:10]
    else:
        x = np.tile(x[:10], (3, 1))
    labels = np.repeat(["a", "b", "c"], 10)
    x = x.astype(np.float32)
    found, notes = shape_of(x, labels)
    wanted = davies_bouldin_score(x.astype(np.float64), labels)
    assert found["davies_bouldin"] == pytest.approx(wanted, rel=1e-5)
    pairs = 3 if how == "all classes equal" else 1
    assert notes["davies_bouldin"] == (
        f"{pairs} pairs of classes with one mean left out, as in scikit-learn"
    )
    # Two dead classes are 0 / 0; classes that vary about one mean are not apart at all.
    assert np.isnan(found["cdnv"]) if how == "two dead classes" else np.isinf(found["cdnv"])
    assert "with one mean" in notes["cdnv"]
    assert np.isfinite(found["fisher"])
    if how == "all classes equal":
        images = evaluation_set_of(np.arange(30), labels)
        assert np.isnan(collapse(x, images)["nc1"])
        assert "no two class means differ" in notes["nc1"]


@pytest.mark.parametrize("form", FORMS)
def test_features_that_do_not_vary_are_not_perfect(form):
    x = np.full((30, 5), 0.3, dtype=np.float32)
    labels = np.repeat(["a", "b", "c"], 10)
    found, notes = shape_of(x, labels, form)
    assert found.pop("silhouette") == pytest.approx(0.0, abs=1e-6)
    assert found.pop("simplified_silhouette") == pytest.approx(0.0, abs=1e-6)
    assert len(found) == 5
    assert np.isnan(list(found.values())).all()
    images = evaluation_set_of(np.arange(30), labels)
    collapsed = collapse(x, images, np.eye(5)[:3], images.codes)
    assert list(collapsed) == ["nc1", "nc2_norm", "nc2_angle", "nc3", "nc4"]
    assert np.isnan(list(collapsed.values())).all()
    assert set(notes.values()) == {"features do not vary"}
    assert {*found, *collapsed, "silhouette"} <= set(notes)


def test_classes_of_one_image_are_left_out_where_they_are_trivially_right(clustered):
    x, images = clustered(n=120, classes=3)
    labels = [images.classes[code] for code in images.codes]
    without, no_notes = shape_of(x, labels)
    assert no_notes == {}
    # Two images far away, each a class of its own: its own mean, without spread.
    lone = np.concatenate([x, x[:1] + 100, x[:1] - 100]).astype(np.float32)
    lone_labels = [*labels, "y", "z"]
    found, notes = shape_of(lone, lone_labels)
    for name in ("fisher", "cdnv", "nearest_mean_accuracy"):
        assert found[name] == pytest.approx(without[name], rel=1e-4)
        assert notes[name] == "2 classes of one image left out"
    wide = lone.astype(np.float64)
    own = silhouette_score(wide, lone_labels, metric="sqeuclidean")
    assert found["silhouette"] == pytest.approx(own, abs=1e-5)
    assert found["simplified_silhouette"] < 120 / 122
    assert "2 classes of one image count 0" in notes["silhouette"]
    assert "2 classes of one image count 0" in notes["simplified_silhouette"]
    for name, theirs in (
        ("davies_bouldin", davies_bouldin_score),
        ("calinski_harabasz", calinski_harabasz_score),
    ):
        assert found[name] == pytest.approx(theirs(wide, lone_labels), rel=1e-4)
        assert "2 classes of one image count as without spread" in notes[name]
    more = evaluation_set_of(np.arange(122), lone_labels)
    weight = np.random.default_rng(0).standard_normal((5, 16))
    # The network is wrong about everything but the two that are alone.
    named = np.r_[(images.codes + 1) % 3, 3, 4]
    collapsed = collapse(lone, more, weight, named)
    wanted = collapse(x, images, weight[:3], named[:120])
    assert collapsed == pytest.approx(wanted, rel=1e-3)
    assert {notes[name] for name in collapsed} == {"2 classes of one image left out"}


def test_one_class_of_several_images_leaves_nothing_to_compare(clustered):
    x = clustered(n=20)[0]
    images = evaluation_set_of(np.arange(20), ["a"] * 18 + ["b", "c"])
    found, _ = shape_of(x, ["a"] * 18 + ["b", "c"])
    assert np.isnan([found["fisher"], found["cdnv"]]).all()
    assert np.isfinite(found["davies_bouldin"])
    assert np.isnan(collapse(x, images)["nc1"])


def test_cdnv_fisher_and_nearest_mean_by_hand(clustered):
    x, images = clustered(n=200, classes=3)
    vectors = held_vectors(x, "euclidean")
    moments = class_moments(vectors, images)
    found = geometry_scores(moments, class_geometry(vectors, images, moments))
    wide = x.astype(np.float64)
    parts = [wide[images.codes == code] for code in range(3)]
    means = np.stack([part.mean(axis=0) for part in parts])
    spread = [((part - part.mean(axis=0)) ** 2).sum(axis=1).mean() for part in parts]
    pairs = [(0, 1), (0, 2), (1, 2)]
    cdnv = np.mean([
        (spread[a] + spread[b]) / (2 * ((means[a] - means[b]) ** 2).sum()) for a, b in pairs
    ])  # fmt: skip
    assert found["cdnv"] == pytest.approx(cdnv, rel=1e-5)
    within = sum(s * len(p) for s, p in zip(spread, parts, strict=True))
    between = sum(
        len(p) * ((m - wide.mean(axis=0)) ** 2).sum() for m, p in zip(means, parts, strict=True)
    )
    assert found["fisher"] == pytest.approx(between / within, rel=1e-5)
    right = cdist(wide, means).argmin(axis=1) == images.codes
    assert found["nearest_mean_accuracy"] == pytest.approx(right.mean())


def collapse(x, images, weight=None, predicted=None):
    vectors = held_vectors(x, "euclidean")
    moments = class_moments(vectors, images, second=False)
    shape = class_geometry(vectors, images, moments)
    return collapse_scores(moments, shape, weight, predicted)


def test_s5_a_perfect_simplex_has_collapsed():
    k = 5
    simplex = np.sqrt(k / (k - 1)) * (np.eye(k) - 1 / k)
    codes = np.repeat(np.arange(k), 8)
    images = evaluation_set_of(np.arange(40), [str(code) for code in codes])
    found = collapse(simplex[codes].astype(np.float32), images, 3.0 * simplex, codes)
    names = ("nc1", "nc2_norm", "nc2_angle", "nc3", "nc4")
    assert found == pytest.approx(dict.fromkeys(names, 0.0), abs=1e-6)


def test_nc1_is_the_trace_with_the_pseudo_inverse(clustered):
    x, images = clustered(n=300, classes=4)
    wide = x.astype(np.float64)
    means = np.stack([wide[images.codes == code].mean(axis=0) for code in range(4)])
    residual, centred = wide - means[images.codes], means - means.mean(axis=0)
    within, between = residual.T @ residual / 300, centred.T @ centred / 4
    wanted = np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / 4
    assert collapse(x, images)["nc1"] == pytest.approx(wanted, rel=1e-6)


def shapes(x, images, form):
    vectors = held_vectors(prepared(x, form).astype(np.float32), form)
    moments = class_moments(vectors, images)
    return geometry_scores(moments, class_geometry(vectors, images, moments)), moments


def test_s7_scale_and_rotation(clustered):
    x, images = clustered(n=300)
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((16, 16)))[0]
    base, scaled, turned = (collapse(y, images) for y in (x, 10 * x, (x @ turn).astype(np.float32)))
    for other in (scaled, turned):
        assert other["nc1"] == pytest.approx(base["nc1"], rel=1e-5)
        assert other["nc2_angle"] == pytest.approx(base["nc2_angle"], abs=1e-5)
    for form in ("cosine", "euclidean"):
        first, _ = shapes(x, images, form)
        for other in (10 * x, x @ turn):
            second, _ = shapes(other, images, form)
            for name in ("silhouette", "davies_bouldin", "cdnv", "fisher"):
                assert second[name] == pytest.approx(first[name], rel=1e-4)
            assert ranks(other, images, form) == pytest.approx(ranks(x, images, form), abs=1e-5)


def ranks(x, images, form):
    """What only the order of distances decides: AUC, MAP@R, 1-NN."""
    vectors = held_vectors(prepared(x, form).astype(np.float32), form)
    counts, near = count_pairs(vectors, images), nearest(vectors, images)
    return [
        scores.auc(*counts.total).value,
        near.map_at_r.mean(),
        near.hits(images)[:, 0].mean(),
    ]


@pytest.mark.parametrize("name", ["gap_euclid", "gap_cosine_centred", "lda_euclid", "lda_cosine"])
def test_s8_a_constant_vector_leaves_what_is_centred(name, clustered):
    x, images = clustered(n=300)
    moved = x + np.linspace(1.0, 4.0, 16, dtype=np.float32)
    measure = MEASURES[name.replace("lda_euclid", "lda_cosine")]
    vectors = []
    for values in (x, moved):
        taps = {"gap": values}
        ready = measure.fit(taps, {}, images.codes)
        if name == "lda_euclid":
            # The projection alone, before its vectors are normalised.
            ready = replace(ready, chain=ready.chain[:1])
        vectors.append(ready.embed(taps, {}))
    distances = [cdist(v, v).ravel() for v in vectors]
    assert distances[1] == pytest.approx(distances[0], rel=1e-3, abs=1e-3)


def test_s8_a_constant_vector_changes_cosine_only(clustered):
    x, images = clustered(n=300)
    moved = x + np.float32(4.0)
    first, second = (shapes(y, images, "euclidean")[0] for y in (x, moved))
    assert second == pytest.approx(first, rel=1e-4)
    assert collapse(moved, images) == pytest.approx(collapse(x, images), rel=1e-4)
    near, moved_near = (pooled_statistics(shapes(y, images, "cosine")[1])[0][0] for y in (x, moved))
    assert moved_near < near / 2


def test_s9_duplicates_change_means_only_by_their_zero_distances(clustered):
    x, images = clustered(n=150, classes=3)
    (near, _), (far, _) = pooled_statistics(class_moments(held_vectors(x, "euclidean"), images))
    twice = evaluation_set_of(np.arange(300), [images.classes[code] for code in images.codes] * 2)
    vectors = held_vectors(np.concatenate([x, x])[twice.rows], "euclidean")
    (near2, _), (far2, _) = pooled_statistics(class_moments(vectors, twice))
    n = images.counts
    assert far2 == pytest.approx(far, rel=1e-6)
    # Each unordered pair occurs four times, and each image has a copy at distance zero.
    pairs, zeros = (n * (n - 1)).sum() * 4, (2 * n).sum()
    assert near2 == pytest.approx(near * pairs / (pairs + zeros), rel=1e-6)


def test_s10_cutting_does_not_matter(clustered, monkeypatch):
    from alike.analysis.blocks import vectors as module

    x, images = clustered(n=900)
    whole = class_moments(held_vectors(x, "euclidean"), images)
    monkeypatch.setattr(module, "SLAB", 256)
    cut = class_moments(held_vectors(x, "euclidean"), images)
    for one, other in zip(pair_statistics(whole), pair_statistics(cut), strict=True):
        assert other == pytest.approx(one, rel=1e-10)


def test_variances_are_left_out_where_memory_forbids(clustered, monkeypatch):
    from alike.analysis.classes import moments as module

    x, images = clustered(n=100)
    monkeypatch.setattr(module, "SECOND_BYTES", 0)
    found = class_moments(held_vectors(x, "euclidean"), images)
    assert pair_statistics(found)[1] is None
    assert np.isnan(pooled_statistics(found)[0][1])
