"""Histograms of all pairs against naive distances, scikit-learn, and themselves cut otherwise."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score, roc_curve

from alike.analysis.blocks import product, vectors
from alike.analysis.blocks.evaluation_set import evaluation_set_of
from alike.analysis.blocks.product import best_product, by_bfloat16, by_numpy, by_onednn, widened
from alike.analysis.blocks.vectors import held_vectors
from alike.analysis.pairs import bins as pair_bins
from alike.analysis.pairs import counts as pair_counts
from alike.analysis.pairs import curves as scores
from alike.analysis.pairs.bins import Bins, Layers, measured_bins, plan_layers
from alike.analysis.pairs.counts import class_pairs, count_pairs, pair_slot, sure_pairs
from alike.analysis.pairs.kernels import place_row, scratch
from alike.analysis.pairs.rounding import key_error
from alike.analysis.pairs.tiling import slabs, tiles
from alike.extract.errors import BadInput

METRICS = {"cosine": "cosine", "euclidean": "euclidean"}


def naive(x, images, form):
    upper = np.triu_indices(len(x), 1)
    distance = cdist(x.astype(np.float64), x.astype(np.float64), METRICS[form])[upper]
    return distance, images.codes[upper[0]] == images.codes[upper[1]], upper


@pytest.fixture(params=["fine", "layered"])
def layout(request, monkeypatch):
    """Both ways to hold the counts."""
    if request.param == "layered":
        monkeypatch.setattr(pair_bins, "FINE_BYTES", 0)
    return request.param


@pytest.mark.parametrize("form", list(METRICS))
def test_counts_and_auc_are_those_of_all_pairs(form, layout, clustered):
    x, images = clustered(n=500, unit=form == "cosine")
    distance, same, upper = naive(x, images, form)
    counts = count_pairs(held_vectors(x, form), images)
    assert counts.total.sum(axis=1).tolist() == [same.sum(), (~same).sum()]
    area = scores.auc(*counts.total)
    wanted = roc_auc_score(same, -distance)
    assert area.low - 1e-6 <= wanted <= area.high + 1e-6
    assert area.value == pytest.approx(wanted, abs=1e-6)
    assert area.high - area.low < 1e-4
    for code in range(len(images.classes)):
        inside = (images.codes[upper[0]] == code) | (images.codes[upper[1]] == code)
        found = scores.auc(counts.same[code], counts.different[code])
        assert found.value == pytest.approx(
            roc_auc_score(
                same[inside], -distance[inside],
                sample_weight=1.0 / images.counts[images.codes[np.array(upper)[:, inside]]].prod(0),
            ), abs=1e-5,
        )  # fmt: skip
    pair = np.sort(images.codes[np.array(upper)], axis=0)
    for a, b in class_pairs(len(images.classes)):
        chosen = distance[(pair[0] == a) & (pair[1] == b)]
        counted = counts.pairs[pair_slot(a, b, len(images.classes))]
        mean, variance = scores.binned_moments(counted, counts.middles(len(counted)))
        assert counted.sum() == len(chosen)
        assert mean == pytest.approx(chosen.mean(), rel=1e-3)
        assert variance == pytest.approx(chosen.var(), rel=1e-2)


def test_scores_are_those_of_scikit_learns_curve(clustered):
    x, images = clustered(n=800, spread=1.5)
    distance, same, _ = naive(x, images, "euclidean")
    counts = count_pairs(held_vectors(x, "euclidean"), images)
    far, tar = scores.rates(*counts.total)
    false, true, _ = roc_curve(same, -distance)
    assert scores.tar_at_far(far, tar, 0.01) == pytest.approx(
        np.interp(0.01, false, true), abs=2e-4
    )
    wanted = ((true + 1 - false) / 2).max()
    assert scores.best_balanced(far, tar)[0] == pytest.approx(wanted, abs=1e-4)
    at = np.argmin(np.abs(false - (1 - true)))
    assert scores.eer(far, tar) == pytest.approx(false[at], abs=1e-3)
    found = scores.quantiles(counts.total[0], counts.edges(len(far) - 1), [0.1, 0.5, 0.9])
    assert found == pytest.approx(np.quantile(distance[same], [0.1, 0.5, 0.9]), rel=1e-4)


def test_quantiles_lie_in_the_bin_that_holds_them():
    counts = np.array([[0, 0, 0, 10, 0, 0, 10, 0], [0] * 8])
    found = scores.quantiles(counts, np.arange(9.0), [0.05, 0.5, 0.75, 1.0])
    assert found[0] == pytest.approx([3.1, 4.0, 6.5, 7.0])
    assert np.isnan(found[1]).all()


def test_ties_and_constants_lie_inside_the_interval():
    draw = np.random.default_rng(0)
    x = draw.integers(0, 3, (300, 4)).astype(np.float32)
    images = evaluation_set_of(np.arange(300), [str(label) for label in draw.integers(0, 3, 300)])
    x = x[images.rows]
    distance, same, _ = naive(x, images, "euclidean")
    area = scores.auc(*count_pairs(held_vectors(x, "euclidean"), images).total)
    assert area.low <= roc_auc_score(same, -np.round(distance, 9)) <= area.high
    flat = scores.auc(*count_pairs(held_vectors(np.ones((300, 4)), "euclidean"), images).total)
    assert (flat.value, flat.low, flat.high) == (0.5, 0.0, 1.0)


def test_any_cutting_and_any_order_give_the_same_counts(clustered, monkeypatch, layout):
    x, images = clustered(n=700)
    bins = measured_bins(held_vectors(x, "euclidean"), images, 1024)
    whole = count_pairs(held_vectors(x, "euclidean"), images, bins=bins)
    monkeypatch.setattr(vectors, "SLAB", 256)
    cut = count_pairs(held_vectors(x, "euclidean"), images, bins=bins)
    draw = np.random.default_rng(1)
    order = draw.permutation(len(x))
    names = [images.classes[code] for code in images.codes[order]]
    again = evaluation_set_of(images.rows[order], names)
    assert np.array_equal(again.rows, images.rows)
    for name in ("total", "same", "different", "pairs", "balanced"):
        one, other = getattr(whole, name), getattr(cut, name)
        # A product of another shape may round the last bit otherwise: a pair on the edge of a bin
        # then counts in the next one.
        assert np.abs(one - other).sum() <= 1e-3 * one.sum()
        np.testing.assert_allclose(one.sum(axis=-1), other.sum(axis=-1), rtol=1e-12)
    areas = scores.auc(*whole.total).value, scores.auc(*cut.total).value
    assert areas[0] == pytest.approx(areas[1], abs=1e-8)


def test_layers_are_sums_of_the_fine_histograms(clustered, monkeypatch):
    x, images = clustered(n=700)
    held = held_vectors(x, "euclidean")
    bins = measured_bins(held, images, 4096)
    fine = count_pairs(held, images, bins=bins)
    monkeypatch.setattr(pair_bins, "FINE_BYTES", 0)
    layered = count_pairs(held, images, bins=bins)
    assert plan_layers(5, 700, 4096) == Layers(4096, 4096, 1024)
    for name in ("total", "same", "different", "balanced"):
        np.testing.assert_allclose(getattr(layered, name), getattr(fine, name), rtol=1e-12)
    assert np.array_equal(layered.pairs, fine.pairs.reshape(15, 1024, 4).sum(axis=2))


def test_nan_features_never_reach_the_compiled_loops(clustered):
    x, images = clustered(n=50)
    x[3, 2] = np.nan
    with pytest.raises(BadInput, match="NaN"):
        count_pairs(held_vectors(x, "euclidean"), images, bins=Bins(0.0, 1.0, 16))
    with pytest.raises(BadInput, match="NaN"):
        count_pairs(held_vectors(x, "euclidean"), images)


@pytest.mark.parametrize("n", [0, 1, 3, 1000, 1 << 21])
def test_senseless_bins_are_refused(n):
    with pytest.raises(BadInput, match="power of two"):
        Bins(0.0, 1.0, n)


@pytest.mark.quick
def test_memory_of_many_classes_is_bounded():
    few, many = plan_layers(10, 50_000), plan_layers(1000, 50_000)
    assert few == Layers(1 << 14, 1 << 14, 1 << 14)
    assert many.total == 1 << 14
    # By hand: totals 2 x 16,384 and classes 2 x 1,000 x 2,048 of 8 bytes, pairs 500,500 x 64 of 4.
    assert many.memory(1000) == 8 * (2 * 16_384 + 2 * 1000 * 2048) + 4 * 500_500 * 64


def test_one_bin_range_holds_what_was_not_sampled(clustered):
    x, images = clustered(n=400)
    found = count_pairs(held_vectors(x, "euclidean"), images, bins=Bins(5.0, 0.01, 64))
    assert found.total.sum() == 400 * 399 // 2


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_one_far_image_that_no_sample_holds_moves_no_mean(scale):
    draw = np.random.default_rng(3)
    x = draw.standard_normal((4500, 8)).astype(np.float32)
    x[17] *= scale
    images = evaluation_set_of(np.arange(4500), ["a", "b", "c"] * 1500)
    place = int(np.flatnonzero(images.rows == 17)[0])
    assert place not in pair_bins._runs_of_four(4500)
    counts = count_pairs(held_vectors(x[images.rows], "euclidean"), images)
    distance = cdist(*2 * [x[images.rows].astype(np.float64)])[np.triu_indices(4500, 1)]
    mean, variance = scores.binned_moments(counts.total.sum(axis=0), counts.middles(counts.bins.n))
    assert mean == pytest.approx(distance.mean(), rel=2e-3)
    assert variance**0.5 == pytest.approx(distance.std(), rel=2e-3)
    assert counts.edges(counts.bins.n)[-1] >= distance.max()


def crowds(kind, n=700):
    """Features whose distances crowd, their classes, and the exact distances of all pairs."""
    draw = np.random.default_rng(5)
    images = evaluation_set_of(np.arange(n), [f"{code:04d}" for code in draw.integers(0, 35, n)])
    if kind == "probabilities":
        logits = draw.standard_normal((n, 35)) * 3.0
        logits[np.arange(n), images.codes] += 6.0
        x = np.exp(logits - logits.max(axis=1, keepdims=True))
        x = (x / x.sum(axis=1, keepdims=True)).astype(np.float32)
        form, distance = "inner", 1.0 - x.astype(np.float64) @ x.T.astype(np.float64)
    else:
        centres = draw.standard_normal((35, 16))
        x = centres[images.codes] + 1.5 * draw.standard_normal((n, 16))
        if kind == "outliers":
            x[::50] *= 1000.0
        else:
            x[images.codes < 30] = centres[0] + 0.03 * x[images.codes < 30]
        form, x = "euclidean", x.astype(np.float32)
        distance = cdist(x.astype(np.float64), x.astype(np.float64))
    upper = np.triu_indices(n, 1)
    same = images.codes[upper[0]] == images.codes[upper[1]]
    return held_vectors(x, form), images, distance[upper], same


@pytest.mark.parametrize("kind", ["probabilities", "outliers", "collapsed"])
def test_where_distances_crowd_the_bins_follow_them(kind, layout):
    held, images, distance, same = crowds(kind)
    _, counts = sure_pairs(held, images)
    area, wanted = counts.plain_area(), roc_auc_score(same, -distance)
    assert len(counts.bins.cells.base)
    assert area.low - 1e-6 <= wanted <= area.high + 1e-6
    # 4e-4 at most is measured: the bins, and the rounding of float32 that is certified with them.
    assert area.high - area.low < 5e-4
    plain = measured_bins(held, images)
    equal = Bins(float(distance.min()), float(np.ptp(distance)) / plain.n, plain.n)
    if held.form == "inner":
        coarse = count_pairs(held, images, bins=equal).plain_area()
        assert coarse.high - coarse.low > 1e-3
    # Keys are float32: where the rest of a sum is small its last digits are not there.
    found = counts.edges(counts.bins.n)
    assert (np.diff(found) >= 0).all()
    binned = np.histogram(distance, np.append(np.append(-np.inf, found[1:-1]), np.inf))[0]
    apart = np.abs(np.cumsum(binned - counts.total.sum(axis=0)))
    assert apart.max() <= 2e-3 * len(distance)


@pytest.mark.parametrize("n", [16, 1 << 14, 1 << 18])
def test_followed_bins_are_where_their_edges_say(n, monkeypatch):
    monkeypatch.setattr(pair_bins, "CROWDED", 0.0)
    held, images, _, _ = crowds("probabilities")
    bins = measured_bins(held, images, n)
    edges = bins.edges()
    draw = np.random.default_rng(0)
    inside = edges[1] + (edges[-2] - edges[1]) * draw.random(3000)
    keys = np.concatenate([bins.middles(), inside])[-8000:]
    width = np.float32(bins.width)
    # Moved by the same rounding as in the loop: product 0, the key of the row, the edges float32.
    row_b = np.full(1, -bins.first * bins.width, np.float32)
    col_b = (keys * bins.width).astype(np.float32)
    room = scratch()
    for at in range(0, len(keys), 1024):
        part = col_b[at : at + 1024]
        into = np.empty(len(part), np.uint32)
        nothing = np.zeros(len(part), np.float32)
        place_row(nothing, row_b[0], part, width, np.float32(n), bins.cells, room.x, into)
        x = (part + row_b[0]).astype(np.float64)
        moved = bins.first + bins.width * x
        found = np.clip(np.searchsorted(edges, moved, side="right") - 1, 0, n - 1)
        if bins.width < 0:
            found = np.clip(n - np.searchsorted(-edges[::-1], -moved, side="right"), 0, n - 1)
        assert np.abs(into.astype(int) - found).max() <= (1 if n > 1 << 14 else 0)
    for fewer in (n // 2, 8):
        assert bins.to(fewer).edges() == pytest.approx(edges[:: n // fewer])


@pytest.mark.parametrize("kind", ["clustered", "probabilities", "outliers", "collapsed", "ties"])
def test_bfloat16_leaves_the_exact_auc_inside_the_interval(kind, clustered):
    if kind == "clustered":
        x, images = clustered(n=1200, dim=256, unit=True)
        held, (distance, same, _) = held_vectors(x, "cosine"), naive(x, images, "cosine")
    elif kind == "ties":
        x, images = clustered(n=500, dim=6)
        x = np.round(x)
        held, (distance, same, _) = held_vectors(x, "euclidean"), naive(x, images, "euclidean")
    else:
        held, images, distance, same = crowds(kind)
    counts = count_pairs(held, images, precision="bfloat16")
    area, wanted = counts.plain_area(), roc_auc_score(same, -distance)
    assert area.low <= wanted <= area.high
    assert 0.0 <= area.low <= area.value <= area.high <= 1.0
    if kind == "clustered":
        assert area.value == pytest.approx(wanted, abs=1e-4)
        assert area.high - area.low < 0.1


@pytest.mark.parametrize("n_classes", [3, 60, 700])
@pytest.mark.parametrize("n", [16, 64, 1 << 14])
@pytest.mark.parametrize("crowded", [True, False])
def test_bits_of_bfloat16_count_as_the_numbers_that_they_are(n_classes, n, crowded, monkeypatch):
    monkeypatch.setattr(pair_bins, "CROWDED", 0.0 if crowded else 1.0)
    draw = np.random.default_rng(n_classes)
    x = np.maximum(draw.standard_normal((1500, 48)), 0).astype(np.float32)
    labels = [f"{code:03d}" for code in np.arange(1500) % n_classes]
    images = evaluation_set_of(np.arange(1500), labels)
    held = held_vectors(x[images.rows], "cosine")
    bins = measured_bins(held, images, n)
    as_numbers = replace(
        by_bfloat16, multiply=lambda a, b, room: widened(by_bfloat16.multiply(a, b, room))
    )
    counts = []
    for by in (by_bfloat16, as_numbers):
        monkeypatch.setattr(pair_counts, "best_product", lambda *_, by=by: by)
        counts.append(count_pairs(held, images, bins=bins, precision="bfloat16"))
    bits, numbers = counts
    for name in ("total", "same", "different", "pairs", "balanced"):
        assert np.array_equal(getattr(bits, name), getattr(numbers, name)), name
    assert bits.total.sum() == bits.pairs.sum() == 1500 * 1499 // 2
    # What is known of the classes alone: their own pairs, and the pairs of each two of them.
    own = images.counts * (images.counts - 1) // 2
    assert np.array_equal(bits.same.sum(axis=1), own)
    across = np.outer(images.counts, images.counts)
    np.fill_diagonal(across, own)
    assert np.array_equal(bits.pairs.sum(axis=1), across[np.triu_indices(n_classes)])


def test_no_key_of_bfloat16_products_is_further_off_than_the_bound(clustered):
    x, images = clustered(n=600, dim=200)
    held = held_vectors(x, "euclidean")
    bins = measured_bins(held, images)
    wide = x.astype(np.float64)
    exact = cdist(wide, wide, "sqeuclidean") / 2.0
    bound, worst = key_error(held, bins, "bfloat16"), 0.0
    for tile in tiles(held, bins, slabs(held)[0], by_bfloat16):
        products = widened(tile.product)
        keys = tile.row_b[:, None] + tile.col_b[None, :] - tile.scale * products
        worst = max(worst, np.abs(bins.first + bins.width * keys - exact).max())
    assert worst <= bound <= 20.0 * worst
    assert 0 < key_error(held, bins, "float32") < bound / 50


def test_products_agree():
    draw = np.random.default_rng(0)
    x, y = draw.standard_normal((2, 70, 33)).astype(np.float32)
    room = np.empty((70, 70), np.float32)
    wanted = x.astype(np.float64) @ y.T.astype(np.float64)
    assert by_onednn(x, y, room) == pytest.approx(wanted, abs=1e-4)
    assert by_numpy(x, y, room) == pytest.approx(wanted, abs=1e-4)
    assert best_product(33, 1e15) in (by_numpy, by_onednn)


def test_a_class_of_one_has_no_score_of_its_own(clustered):
    x, _ = clustered(n=60)
    images = evaluation_set_of(np.arange(60), ["a"] * 30 + ["b"] * 29 + ["c"])
    counts = count_pairs(held_vectors(x, "euclidean"), images)
    assert np.isnan(scores.auc(counts.same[2], counts.different[2]).value)
    assert counts.different[2].sum() == pytest.approx(59)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a"] * 4, "one class"),
        (["a", "b", "c", "d"], "single image"),
        ([None, "", None, ""], "no"),
    ],
)
def test_labels_without_both_kinds_of_pairs_are_refused(labels, message):
    with pytest.raises(BadInput, match=message):
        evaluation_set_of(np.arange(4), labels)


def test_a_sample_keeps_the_shares_of_classes():
    images = evaluation_set_of(np.arange(1000), ["a"] * 800 + ["b"] * 197 + ["c"] * 3)
    few = images.sample(100, 0)
    assert few.counts.tolist() == [80, 20, 2]
    assert few.sampled_from == 1000
    assert images.sample(1000, 0) is images
    assert replace(few, sampled_from=0).codes.tolist() == sorted(few.codes)


def test_the_work_decides_the_product_and_not_what_was_loaded_before(monkeypatch):
    """An analysis after an extraction would have other last digits than one without."""
    monkeypatch.setattr(product, "_fastest", lambda dim: by_onednn)
    for loaded in (False, True):
        if not loaded:
            monkeypatch.delitem(sys.modules, "torch")
        else:
            monkeypatch.setitem(sys.modules, "torch", torch)
        assert best_product(64, product.WORTH_MEASURING / 2) is by_numpy
        assert ("torch" in sys.modules) is loaded
        assert best_product(64, product.WORTH_MEASURING) is by_onednn


def test_rooms_of_pairs_load_no_torch_of_their_own():
    """Only much work is worth its import."""
    code = """
import importlib, sys
import alike.extract.measures as measures
measures.embed_rows, measures.MEASURES
before = "torch" in sys.modules
for name in ("blocks", "pairs", "classes", "neighbours"):
    room = importlib.import_module(f"alike.analysis.{name}")
    [getattr(room, public) for public in room.__all__]
sys.exit(("torch" in sys.modules) != before)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("sizes", "narrow"),
    [([65_536, 3], True), ([65_537, 3], False), ([46_340, 46_341], True), ([46_341] * 2, False)],
)
def test_counts_of_two_classes_hold_all_their_pairs(sizes, narrow):
    layers = Layers(64, 64, 64)
    totals = pair_counts.no_totals(layers, np.array(sizes), 3)
    assert totals.pairs.dtype == (np.int32 if narrow else np.int64)
    most = max(sizes[0] * sizes[1], *(n * (n - 1) // 2 for n in sizes))
    assert np.iinfo(totals.pairs.dtype).max >= most


@pytest.mark.parametrize("crowded", [True, False])
def test_loops_place_bits_uncompiled_as_compiled(crowded, monkeypatch):
    """As with `NUMBA_DISABLE_JIT=1`."""
    monkeypatch.setattr(pair_bins, "CROWDED", 0.0 if crowded else 1.0)
    held, images, _, _ = crowds("probabilities")
    bins = measured_bins(held, images)
    tile = next(tiles(held, bins, slabs(held)[0], by_bfloat16))
    assert tile.product.dtype == np.uint16
    into, room = np.empty((2, len(tile.col_b)), np.uint32), scratch()
    for place, found in ((place_row, into[0]), (place_row.py_func, into[1])):
        place(
            tile.product[0], tile.row_b[0], tile.col_b, tile.scale, np.float32(bins.n - 1),
            tile.cells, room.x[: len(found)], found,
        )  # fmt: skip
    # The compiled loop multiplies and adds in one step, which may move a key over an edge.
    assert np.abs(into[0].astype(int) - into[1].astype(int)).max() <= 1
