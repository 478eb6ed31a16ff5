"""Networks against networks: written formulas, scipy, and nulls by all permutations."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy.spatial import procrustes as scipy_procrustes
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr
from sklearn.neighbors import NearestNeighbors

from alike.analysis.blocks.evaluation_set import evaluation_set_of
from alike.analysis.blocks.jobs import here
from alike.analysis.blocks.vectors import held_vectors
from alike.analysis.networks import linear_cka, rsa
from alike.analysis.similarity import (
    _compared,
    cka_null_deviation,
    mutual_share,
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


def test_map_has_the_distances_of_a_plane():
    places = np.random.default_rng(0).standard_normal((5, 2))
    apart = squareform(pdist(places))
    rows = [("procrustes", i, j, apart[i, j]) for i in range(5) for j in range(i)]
    table = pd.DataFrame(rows, columns=["method", "a", "b", "value"])
    drawn, shown = placed(table, list(range(5)))
    assert squareform(pdist(drawn[["x", "y"]].to_numpy())) == pytest.approx(apart, abs=1e-9)
    assert shown == pytest.approx(1)
