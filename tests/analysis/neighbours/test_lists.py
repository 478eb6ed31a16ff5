"""Neighbours and their scores against naive sorting and pytorch-metric-learning."""

from functools import partial

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from alike.analysis.blocks import Product, best_product
from alike.analysis.blocks import vectors as vectors_module
from alike.analysis.blocks.evaluation_set import evaluation_set_of
from alike.analysis.blocks.vectors import held_vectors
from alike.analysis.neighbours import lists
from alike.analysis.neighbours.influence import add_panel, no_changes, unit_lists
from alike.analysis.neighbours.kernels import bring_in_order
from alike.analysis.neighbours.lists import hub_skew, nearest, two_nn
from alike.analysis.pairs import units_of


def naive(x, images):
    keys = cdist(x.astype(np.float64), x.astype(np.float64), "sqeuclidean") / 2
    r_precision, map_at_r = np.full((2, len(x)), np.nan)
    for i in range(len(x)):
        order = np.argsort(keys[i], kind="stable")
        order = order[order != i]
        wanted = int((images.codes == images.codes[i]).sum()) - 1
        if wanted == 0:
            continue
        hits = images.codes[order[:wanted]] == images.codes[i]
        r_precision[i] = hits.mean()
        map_at_r[i] = (np.cumsum(hits) / np.arange(1, wanted + 1) * hits).sum() / wanted
    return keys, r_precision, map_at_r


def test_everything_against_sorting(clustered):
    x, images = clustered(n=700, classes=6)
    x[10] = x[11] = x[12]
    found = nearest(held_vectors(x, "euclidean"), images, 10)
    keys, r_precision, map_at_r = naive(x, images)
    np.testing.assert_allclose(found.r_precision, r_precision, atol=1e-12)
    np.testing.assert_allclose(found.map_at_r, map_at_r, atol=1e-12)
    np.fill_diagonal(keys, np.inf)
    assert np.array_equal(found.places, np.argsort(keys, axis=1, kind="stable")[:, :10])
    np.testing.assert_allclose(found.keys, np.sort(keys, axis=1)[:, :10], atol=1e-4)
    same = images.codes[:, None] == images.codes[None]
    assert np.array_equal(found.alien, np.where(same, np.inf, keys).argmin(axis=1))
    assert np.array_equal(found.kin, np.where(same & np.isfinite(keys), keys, -1.0).argmax(axis=1))


def test_s4_equal_to_pytorch_metric_learning():
    import torch
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    draw = np.random.default_rng(0)
    labels = np.concatenate([draw.integers(0, 6, 249), [6]])
    x = (draw.standard_normal((7, 8))[labels] + draw.standard_normal((250, 8))).astype(np.float32)
    x[5], x[6] = x[7], x[7]
    images = evaluation_set_of(np.arange(250), [str(label) for label in labels])
    x, codes = x[images.rows], images.codes
    found = nearest(held_vectors(x, "euclidean"), images, 10)
    kept = images.counts[codes] > 1
    names = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
    calculator = AccuracyCalculator(include=names, k="max_bin_count", device=torch.device("cpu"))
    wanted = calculator.get_accuracy(x, codes)
    assert found.hits(images)[kept, 0].mean() == pytest.approx(wanted[names[0]], abs=1e-12)
    assert np.nanmean(found.r_precision) == pytest.approx(wanted[names[1]], abs=1e-12)
    assert np.nanmean(found.map_at_r) == pytest.approx(wanted[names[2]], abs=1e-12)


@pytest.mark.parametrize("n", [90, 1500])
def test_selected_lists_are_those_of_reservoirs(clustered, monkeypatch, n):
    x, images = clustered(n=n, classes=5, unit=True)
    x[10:40] = x[9]
    x[-1] = x[0]
    at, width = np.arange(3, n, 2), n // 3
    vectors = held_vectors(x, "cosine")
    own = np.stack([images.starts[images.codes[at]], images.starts[images.codes[at] + 1]], axis=1)
    given = vectors, best_product(vectors.dim, 0.0), at, vectors.rows(at), own, width, (0, n)
    selected = lists.offered(*given)
    monkeypatch.setattr(lists, "MANY", 0)
    for some, all_of_them in zip(selected, lists.offered(*given), strict=True):
        assert np.array_equal(some, all_of_them)


def test_lists_are_brought_in_order():
    draw = np.random.default_rng(0)
    keys = np.sort(draw.integers(0, 40, (50, 90)), axis=1) / 8.0
    places = np.argsort(draw.random((50, 90)), axis=1)
    keys[:40] += draw.integers(0, 2, (40, 90)) * 0.125
    keys[3] = draw.random(90)
    both = keys.copy(), places.copy()
    left = bring_in_order(*both)
    assert left[3]
    assert left.sum() < 10
    order = np.lexsort((places, keys), axis=-1)
    for got, given in zip(both, (keys, places), strict=True):
        assert np.array_equal(got[~left], np.take_along_axis(given, order, axis=1)[~left])
        # Rows that are left hold what they held.
        assert np.array_equal(np.sort(got, axis=1), np.sort(given, axis=1))


def test_images_alone_move_scores_as_units_of_one_do(clustered):
    x, images = clustered(n=120, classes=4)
    units = unit_lists(images, units_of(images))
    assert units.largest == 1
    most = int(images.counts.max())
    for rows, width, k in ((range(120), 70, 10), (range(30, 80), most + 1, 10), ([0], 119, 40)):
        rows = np.asarray(rows)
        apart = cdist(x[rows].astype(float), x.astype(float))
        apart[np.arange(len(rows)), rows] = np.inf
        near = np.argsort(apart, axis=1)[:, :width]
        found = []
        for largest in (1, 2):
            changes = no_changes(units)
            add_panel(
                near, images.codes, units.named, rows, images.counts, units.in_class,
                units.of_class, units.first, k, largest, changes.total, changes.change,
                changes.gone,
            )  # fmt: skip
            found.append(changes)
        alone, general = found
        np.testing.assert_allclose(alone.change, general.change, atol=1e-12)
        np.testing.assert_allclose(alone.total, general.total, atol=1e-12)
        assert np.array_equal(alone.gone, general.gone)
        assert np.abs(general.change).max() > 0.1


def test_a_class_of_one_is_left_out_and_has_no_kin(clustered):
    x, _ = clustered(n=40)
    images = evaluation_set_of(np.arange(40), ["a"] * 20 + ["b"] * 19 + ["c"])
    found = nearest(held_vectors(x, "euclidean"), images, 5)
    assert np.isnan(found.map_at_r[39])
    assert found.kin[39] == -1
    assert np.isnan(found.kin_key[39])
    assert not np.isnan(found.map_at_r[:39]).any()


def test_k_is_cut_to_the_others_there_are(clustered):
    x, _ = clustered(n=4)
    images = evaluation_set_of(np.arange(4), ["a", "a", "b", "b"])
    assert nearest(held_vectors(x, "euclidean"), images, 10).places.shape == (4, 3)


def test_ties_go_to_the_earlier_image_however_the_work_is_cut(monkeypatch):
    draw = np.random.default_rng(0)
    x = draw.integers(0, 2, (600, 3)).astype(np.float32)
    images = evaluation_set_of(np.arange(600), [str(label) for label in draw.integers(0, 4, 600)])
    whole = nearest(held_vectors(x, "euclidean"), images, 10)
    monkeypatch.setattr(vectors_module, "SLAB", 256)
    cut = nearest(held_vectors(x, "euclidean"), images, 10)
    assert np.array_equal(whole.places, cut.places)
    assert np.array_equal(whole.map_at_r, cut.map_at_r)


@pytest.mark.quick
def test_hub_skew_is_that_of_scipy():
    from scipy.stats import skew

    places = np.random.default_rng(0).integers(0, 50, (50, 10))
    assert hub_skew(places, 50) == pytest.approx(skew(np.bincount(places.ravel(), minlength=50)))
    assert hub_skew(np.arange(50)[:, None], 50) == 0.0


@pytest.mark.parametrize("form", ["euclidean", "cosine"])
def test_copies_are_at_distance_0_and_near_copies_where_they_are(form):
    """A product alone gives a copy the rounding of large distances."""
    draw = np.random.default_rng(3)
    x = draw.standard_normal((600, 512)) + 3.0
    x[300:] = x[:300]
    x[450:] += 1e-5 * draw.standard_normal((150, 512))
    if form == "cosine":
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    x = x.astype(np.float32)
    images = evaluation_set_of(np.arange(600), ["a", "b", "c", "d", "e", "f"] * 100)
    held = held_vectors(x[images.rows], form)
    found = nearest(held, images, 5)
    z = held.block(0, 600)[0].astype(np.float64)
    exact = ((z - z[found.places[:, 0]]) ** 2).sum(axis=1) / 2
    assert found.keys[:, 0] == pytest.approx(exact, rel=1e-9, abs=0)
    assert (found.keys[:, 0] == 0).sum() == 300
    assert (np.diff(found.keys, axis=1) >= 0).all()


def two_nn_of_points(x, kept=0.9):
    """By a tree in float64, in which copies are one point."""
    points, at = np.unique(x.astype(np.float64), axis=0, return_inverse=True)
    distances = cKDTree(points).query(points, k=3)[0][at.ravel()]
    log_mu = np.sort(np.log(distances[:, 2] / distances[:, 1]))
    n = int(len(log_mu) * kept)
    grown = -np.log(1.0 - np.arange(n) / len(log_mu))
    return log_mu[:n] @ grown / (log_mu[:n] @ log_mu[:n])


@pytest.mark.parametrize("copies", [100, 1500])
@pytest.mark.parametrize("dim", [2, 5])
def test_two_nn_finds_the_dimension_of_a_cube_and_ignores_duplicates(dim, copies):
    x = np.random.default_rng(0).random((3000, dim)).astype(np.float32)
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((20, 20)))[0][:dim]
    x = (x @ turn).astype(np.float32)
    x[:copies] = x[copies : 2 * copies]
    images = evaluation_set_of(np.arange(3000), ["a", "b"] * 1500)
    found = nearest(held_vectors(x[images.rows], "euclidean"), images, 10)
    assert two_nn(found.keys) == pytest.approx(two_nn_of_points(x), rel=1e-5)
    assert two_nn(found.keys) == pytest.approx(dim, rel=0.11)
    assert np.isnan(two_nn(np.zeros((50, 2))))


def test_copies_are_at_one_distance_whatever_the_products_round(monkeypatch):
    """Kernels of some processors sum the last columns of a product in another order."""
    draw = np.random.default_rng(0)

    def uneven(z, others, room):
        np.dot(z, others.T, out=room)
        room *= 1.0 + 2.0**-22 * draw.integers(-1, 2, room.shape).astype(np.float32)
        return room

    x = np.random.default_rng(1).random((1000, 2)).astype(np.float32)
    x[:500] = x[500:]
    images = evaluation_set_of(np.arange(1000), ["a", "b"] * 500)
    monkeypatch.setattr(lists, "best_product", lambda *_: Product("uneven", uneven))
    found = nearest(held_vectors(x[images.rows], "euclidean"), images, 10)
    assert two_nn(found.keys) == pytest.approx(two_nn_of_points(x), rel=1e-3)


def test_an_answer_keeps_no_longer_lists_in_memory(clustered):
    """Lists are as long as a class; a view of ten of each would keep them all."""
    x, images = clustered(n=700, classes=6)
    plan = lists.listing(held_vectors(x, "euclidean"), images, 5)
    find = partial(lists._best, plan.vectors, images, (best_product(x.shape[1], 0.0), False))
    ((panel,),) = lists.group_part(plan, [(0, 64)], find)
    for array in panel:
        assert array.base is None or array.base.nbytes <= 2 * array.nbytes
