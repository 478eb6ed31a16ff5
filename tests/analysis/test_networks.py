"""CKA and RSA against naive Gram matrices; neighbours gained and lost by hand."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from alike.analysis import networks
from alike.analysis.blocks import vectors
from alike.analysis.blocks.evaluation_set import evaluation_set_of
from alike.analysis.blocks.jobs import here
from alike.analysis.blocks.vectors import held_vectors
from alike.analysis.networks import linear_cka, neighbour_changes, rsa


def unbiased(k, m):
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    ones = np.ones(n)
    return (
        np.trace(k @ m)
        + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
        - 2 * (ones @ k @ m @ ones) / (n - 2)
    ) / (n * (n - 3))


@pytest.mark.parametrize("longest", [4096, 1])
def test_cka_is_that_of_the_gram_matrices(longest, monkeypatch):
    monkeypatch.setattr(networks, "MOMENT_DIM", longest)
    monkeypatch.setattr(vectors, "SLAB", 256)
    draw = np.random.default_rng(0)
    x = draw.standard_normal((600, 12)).astype(np.float32) + 1
    y = (x[:, :5] + draw.standard_normal((600, 5))).astype(np.float32)
    biased, better = linear_cka(held_vectors(x, "euclidean"), held_vectors(y, "euclidean"))
    a, b = (v.astype(float) - v.mean(axis=0, dtype=float) for v in (x, y))
    k, m = a @ a.T, b @ b.T
    wanted = np.linalg.norm(a.T @ b) ** 2 / np.linalg.norm(a.T @ a) / np.linalg.norm(b.T @ b)
    assert biased == pytest.approx(wanted, rel=1e-6)
    fair = unbiased(k, m) / np.sqrt(unbiased(k, k) * unbiased(m, m))
    assert better == pytest.approx(fair, rel=1e-5)


@pytest.mark.quick
def test_cka_of_strangers_is_fair_only_without_bias():
    draw = np.random.default_rng(0)
    x, y = draw.standard_normal((2, 100, 80)).astype(np.float32)
    biased, better = linear_cka(held_vectors(x, "euclidean"), held_vectors(y, "euclidean"))
    assert biased > 0.3
    assert abs(better) < 0.1


def test_rsa_is_spearman_of_all_distances(monkeypatch):
    draw = np.random.default_rng(0)
    x = draw.standard_normal((60, 6)).astype(np.float32)
    y = (x[:, :3] + draw.standard_normal((60, 3))).astype(np.float32)
    upper = np.triu_indices(60, 1)
    distances = [((v[:, None] - v[None]) ** 2).sum(axis=2)[upper] for v in (x, y)]
    sides = held_vectors(x, "euclidean"), held_vectors(y, "euclidean")
    assert rsa(*sides)[0] == pytest.approx(spearmanr(*distances).statistic, abs=1e-5)
    monkeypatch.setattr("alike.analysis.networks.RSA_IMAGES", 30)
    assert rsa(*sides)[1] == 30


def test_neighbours_gained_and_lost():
    x = np.array([[0.0], [1.0], [3.0], [7.0]], dtype=np.float32)
    y = np.array([[0.0], [9.0], [1.0], [20.0]], dtype=np.float32)
    images = evaluation_set_of(np.arange(4), ["a", "a", "b", "b"])
    found = neighbour_changes(
        held_vectors(x, "euclidean"), held_vectors(y, "euclidean"), images, 1, here()
    )
    assert found.iloc[0].to_dict() == {
        "row": 0, "kept": 0, "gained": 1, "lost": 1, "gained_right": 0, "lost_right": 1,
    }  # fmt: skip
