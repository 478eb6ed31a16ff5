"""Networks against networks: written formulas, scipy, and nulls by all permutations."""

import tracemalloc
from dataclasses import replace
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy.spatial import procrustes as scipy_procrustes
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr
from sklearn.neighbors import NearestNeighbors

from alike.analysis import similarity
from alike.analysis.blocks import vectors as slabs
from alike.analysis.blocks.evaluation_set import evaluation_set_of
from alike.analysis.blocks.jobs import here
from alike.analysis.blocks.vectors import Vectors, centred, held_vectors
from alike.analysis.networks import linear_cka, rsa
from alike.analysis.similarity import (
    _compared,
    cka_null_deviation,
    mutual_share,
    network_pairs,
    placed,
    procrustes,
    rsa_with_null,
    view_of,
)

LABELS = ["a"] * 20 + ["b"] * 20


def seen(x):
    images = evaluation_set_of(np.arange(len(x)), LABELS[: len(x) // 2] + LABELS[-(len(x) // 2) :])
    return view_of(held_vectors(x, "euclidean"), images, np.arange(len(x)), here())


@pytest.fixture
def two():
    draw = np.random.default_rng(0)
    x = draw.standard_normal((40, 7)).astype(np.float32) + 2
    return x, (x[:, :5] + draw.standard_normal((40, 5))).astype(np.float32)


@pytest.mark.quick
def test_procrustes_is_scipys_and_a_metric(two):
    x, y = two
    wide = np.pad(y, ((0, 0), (0, 2)))
    disparity = scipy_procrustes(x.astype(float), wide.astype(float))[2]
    assert procrustes(seen(x), seen(y)) == pytest.approx(np.arccos((1 - disparity) ** 0.5))
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((7, 7)))[0]
    turned = (3 * x @ turn - 5).astype(np.float32)
    assert procrustes(seen(x), seen(turned)) == pytest.approx(0, abs=2e-3)
    draw = np.random.default_rng(2)
    for _ in range(20):
        a, b, c = (seen(draw.standard_normal((40, 3)).astype(np.float32)) for _ in range(3))
        assert procrustes(a, c) <= procrustes(a, b) + procrustes(b, c) + 1e-9


def test_mutual_neighbours_are_scikit_learns(two):
    lists = [NearestNeighbors(n_neighbors=10).fit(v).kneighbors(return_distance=False) for v in two]
    wanted = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(*lists, strict=True)])
    assert mutual_share(*(seen(v).near for v in two)) == pytest.approx(wanted)


def test_rsa_and_its_null_are_those_of_all_permutations():
    draw = np.random.default_rng(0)
    x = draw.standard_normal((6, 3))
    y = x + draw.standard_normal((6, 3))
    ranks = []
    for v in (x, y):
        upper = pdist(v, "sqeuclidean")
        rank = upper.argsort().argsort() + 1.0
        square = squareform(rank - rank.mean(), checks=False)
        np.fill_diagonal(square, 0)
        ranks.append(square.astype(np.float32))
    value, mean, sd = rsa_with_null(*ranks)
    assert value == pytest.approx(spearmanr(pdist(x), pdist(y)).statistic)
    every = []
    for order in map(list, permutations(range(6))):
        moved = ranks[1][np.ix_(order, order)]
        every.append((ranks[0] * moved).sum() / (ranks[0] ** 2).sum())
    assert mean == pytest.approx(np.mean(every), abs=1e-7)
    assert sd == pytest.approx(np.std(every))


@pytest.mark.parametrize("form", ["euclidean", "cosine"])
def test_rsa_is_that_of_rsatoolbox(form, two):
    """Its dissimilarities of all pairs, and its Spearman of two networks.

    Its Euclidean distances are squared, which keeps ranks; of unit vectors they are 2 - 2 cosine.
    """
    rsatoolbox = pytest.importorskip("rsatoolbox")
    images = evaluation_set_of(np.arange(40), LABELS)
    theirs, vectors = [], []
    for x in two:
        if form == "cosine":
            x = x / np.linalg.norm(x, axis=1, keepdims=True)
        data = rsatoolbox.data.Dataset(x.astype(float))
        theirs.append(rsatoolbox.rdm.calc_rdm(data, method="euclidean"))
        vectors.append(held_vectors(x, form))
    wanted = rsatoolbox.rdm.compare(*theirs, method="spearman").item()
    assert 0.2 < wanted < 0.9
    ranks = [view_of(one, images, np.arange(40), here()).ranks for one in vectors]
    assert rsa_with_null(*ranks)[0] == pytest.approx(wanted, abs=1e-5)
    assert rsa(*vectors)[0] == pytest.approx(wanted, abs=1e-5)


def test_null_of_cka_is_that_of_all_permutations():
    draw = np.random.default_rng(0)
    x = draw.standard_normal((6, 3)).astype(np.float32)
    y = (x + draw.standard_normal((6, 3))).astype(np.float32)
    one = held_vectors(x, "euclidean")
    every = [
        linear_cka(one, held_vectors(y[list(order)], "euclidean"))[1]
        for order in permutations(range(6))
    ]
    assert np.mean(every) == pytest.approx(0, abs=1e-6)
    assert cka_null_deviation(6) == pytest.approx(np.std(every), rel=1e-5)


def test_strangers_are_within_their_null_and_kin_above(two):
    draw = np.random.default_rng(3)
    stranger = draw.standard_normal((40, 5)).astype(np.float32)
    kin = {row[0]: row for row in _compared(seen(two[0]), seen(two[1]), 0)}
    strange = {row[0]: row for row in _compared(seen(two[0]), seen(stranger), 0)}
    for method, sign in (("linear_cka", 1), ("procrustes", -1), ("mutual_knn", 1), ("rsa", 1)):
        assert sign * kin[method][4] > 5
        assert abs(strange[method][4]) < 3.5


def test_wide_networks_have_a_null_of_procrustes_or_a_note():
    """1,280 numbers of 60 images: the null is that of the formula on whole matrices."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((60, 1280)).astype(np.float32) + 1
    y = (x[:, :700] + draw.standard_normal((60, 700))).astype(np.float32)
    rows = {row[0]: row for row in _compared(seen(x), seen(y), 0)}
    wide = [v.astype(float) for v in (x, y)]
    draws = np.random.default_rng(0)
    orders = [draws.permutation(60) for _ in range(200)]
    wanted = np.array([angle_of_few(wide[0], wide[1][order]) for order in orders])
    assert angle_of_few(*wide) == pytest.approx(angle(*wide), rel=1e-6)
    assert rows["procrustes"][1] == pytest.approx(angle(*wide), rel=1e-5)
    assert rows["procrustes"][2] == pytest.approx(wanted.mean(), rel=1e-5)
    assert rows["procrustes"][3] == pytest.approx(wanted.std(ddof=1), rel=1e-2)
    assert rows["procrustes"][5] == ""
    short = {row[0]: row for row in _compared(seen(x), seen(y), 0, cost=1e6)}
    assert np.isnan(short["procrustes"][2])
    assert short["procrustes"][5].startswith("no null")


def angle_of_few(x, y):
    """From N x N Gram matrices: ||Xc' Yc||_* is the trace of the root of Kx^½ Ky Kx^½."""
    a, b = x - x.mean(axis=0), y - y.mean(axis=0)
    values, vectors = np.linalg.eigh(a @ a.T)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    nuclear = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ (b @ b.T) @ root), 0)).sum()
    return np.arccos(nuclear / np.linalg.norm(a) / np.linalg.norm(b))


def test_map_has_the_distances_of_a_plane():
    places = np.random.default_rng(0).standard_normal((5, 2))
    apart = squareform(pdist(places))
    rows = [("procrustes", i, j, apart[i, j]) for i in range(5) for j in range(i)]
    table = pd.DataFrame(rows, columns=["method", "a", "b", "value"])
    drawn, shown = placed(table, list(range(5)))
    assert squareform(pdist(drawn[["x", "y"]].to_numpy())) == pytest.approx(apart, abs=1e-9)
    assert shown == pytest.approx(1)


def unbiased_cka(x, y):
    """Of U-centred Gram matrices (Szekely and Rizzo 2014), in memory."""
    n, centred_grams = len(x), []
    for v in (x, y):
        gram = v @ v.T
        np.fill_diagonal(gram, 0)
        rows = gram.sum(axis=1) / (n - 2)
        gram = gram - rows[:, None] - rows[None, :] + gram.sum() / ((n - 1) * (n - 2))
        np.fill_diagonal(gram, 0)
        centred_grams.append(gram)
    a, b = centred_grams
    return (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())


def angle(x, y):
    a, b = x - x.mean(axis=0), y - y.mean(axis=0)
    nuclear = np.linalg.svd(a.T @ b, compute_uv=False).sum()
    return np.arccos(nuclear / np.linalg.norm(a) / np.linalg.norm(b))


def test_cka_and_procrustes_are_of_all_images(tmp_path, make, write_features, monkeypatch):
    """600 images in slabs of 256, neighbours of 90: both are those of whole matrices."""
    made = make(sizes=(200, 200, 200))
    write_features(tmp_path / "store", made, key="net-0-0")
    first = made.arrays["gap"].copy()
    noise = np.random.default_rng(1).standard_normal(first.shape).astype(np.float32)
    made.arrays["gap"] = first + noise
    store = write_features(tmp_path / "store", made, key="net-1-0").store
    monkeypatch.setattr(similarity, "MOST", 90)
    monkeypatch.setattr(similarity, "MEMORY", 0)
    monkeypatch.setattr(slabs, "SLAB", 256)
    pairs = network_pairs([store.features(key) for key in store.groups()], split="all")
    assert (pairs.record["images"], pairs.record["of"]) == (90, 600)
    table = pairs.table.set_index("method")
    units = [
        (v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32).astype(float)
        for v in (first, made.arrays["gap"])
    ]
    assert table.loc["linear_cka", "value"] == pytest.approx(unbiased_cka(*units), rel=1e-5)
    assert table.loc["procrustes", "value"] == pytest.approx(angle(*units), rel=1e-5)
    assert table.loc["linear_cka", "null_sd"] == pytest.approx((2 / 600 / 597) ** 0.5)
    assert not table.loc[["linear_cka", "procrustes"], "note"].any()
    assert table.loc["mutual_knn", "note"] == "a stratified sample of 90 of 600 images"


class Drawn:
    """Vectors that are drawn when asked for, and never all at once."""

    def __init__(self, scale, dim):
        self.scale, self.dim = scale, dim

    def __call__(self, low, high):
        shared = np.random.default_rng(low).standard_normal((high - low, self.dim))
        own = np.random.default_rng(low + 1).standard_normal((high - low, self.dim))
        x = (shared + self.scale * own).astype(np.float32)
        return centred(x, np.zeros(self.dim, np.float32), "euclidean")


def test_memory_of_cka_and_procrustes_does_not_grow_with_images():
    n, dim = 300_000, 16
    few = np.random.default_rng(0).standard_normal((40, dim)).astype(np.float32)
    views = []
    tracemalloc.start()
    for scale in (0.0, 1.0):
        every = Vectors(n, "euclidean", np.zeros(dim, np.float32), Drawn(scale, dim))
        view = seen(few)
        views.append(replace(
            view, vectors=every, mean=np.zeros(dim),
            norm=(n * dim * (1 + scale**2)) ** 0.5,
        ))  # fmt: skip
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    values = linear_cka(*(view.vectors for view in views))[1], procrustes(*views)
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    # One block of each in float64, and what the sums of it take; all images are 77 MB.
    assert peak < 12 * 4096 * dim * 8
    # Both are known: y = x + e has a correlation of 1 / sqrt(2) with x in every channel.
    assert values[0] == pytest.approx(0.5, abs=0.01)
    assert values[1] == pytest.approx(np.pi / 4, abs=0.01)


@pytest.mark.quick
def test_features_that_do_not_vary_are_told(two):
    rows = _compared(seen(two[0]), seen(np.ones((40, 3), np.float32)), 0)
    for method, value, _, _, _, note in rows:
        assert (method == "mutual_knn") == np.isfinite(value)
        assert note == ("" if np.isfinite(value) else "the features of one of the two do not vary")
