"""Neighbour scores under ties, against the mean over every order of equal distances."""

from dataclasses import replace
from fractions import Fraction
from itertools import chain, permutations, product

import numpy as np
import pytest

from alike.analysis.blocks.evaluation_set import evaluation_set_of
from alike.analysis.blocks.vectors import held_vectors
from alike.analysis.neighbours import ties
from alike.analysis.neighbours.lists import nearest
from alike.analysis.pairs.bins import measured_bins
from alike.analysis.pairs.counts import count_pairs


def every_order(distances: np.ndarray) -> list[list[int]]:
    """All orders of the others that their distances allow."""
    ties_of = [list(np.flatnonzero(distances == one)) for one in np.unique(distances)]
    return [list(chain(*parts)) for parts in product(*map(permutations, ties_of))]


def enumerated(x: np.ndarray, codes: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """Scores of every image, each the mean over all orders; integers, so that ties are exact."""
    n = len(x)
    out = {name: np.full(n, np.nan) for name in ("one_nn", "purity", "recall", "rp", "map")}
    for i in range(n):
        others = np.delete(np.arange(n), i)
        distances = ((x[others] - x[i]) ** 2).sum(axis=1)
        same = codes[others] == codes[i]
        wanted = int(same.sum())
        scores = []
        for order in every_order(distances):
            hit = same[order]
            ranks = np.arange(1, wanted + 1)
            precision = np.cumsum(hit[:wanted]) / ranks
            scores.append((
                hit[0], hit[:k].mean(), hit[:k].any(),
                hit[:wanted].mean() if wanted else np.nan,
                (precision * hit[:wanted]).sum() / wanted if wanted else np.nan,
            ))  # fmt: skip
        for name, value in zip(out, np.mean(scores, axis=0), strict=True):
            out[name][i] = value
    return out


def scored(x: np.ndarray, codes: np.ndarray, k: int, form: str = "euclidean"):
    images = evaluation_set_of(np.arange(len(x)), [str(code) for code in codes])
    found = nearest(held_vectors(x[images.rows].astype(np.float32), form), images, k)
    back = np.argsort(images.rows)
    return {
        "one_nn": found.hits(images)[back, 0],
        "purity": found.hits(images)[back].mean(axis=1),
        "recall": found.recall[back],
        "rp": found.r_precision[back],
        "map": found.map_at_r[back],
    }


def agree(found: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> None:
    for name, values in truth.items():
        np.testing.assert_allclose(found[name], values, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("k", [1, 3])
def test_integer_features_have_the_exact_expectation(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 3, (8, 1 + seed % 2))
    codes = rng.integers(0, 3, 8)
    codes[:4] = (0, 0, 1, 1)
    agree(scored(x, codes, k), enumerated(x, codes, k))


def test_ties_beyond_the_kept_lists_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists of all images are made where a tie does not end within those that are kept."""
    rng = np.random.default_rng(0)
    x, codes = rng.integers(0, 2, (8, 2)), np.array([0, 0, 0, 1, 1, 2, 2, 2])
    monkeypatch.setattr("alike.analysis.neighbours.lists.MARGIN", 0)
    monkeypatch.setattr(ties, "ROOM", 20)
    agree(scored(x, codes, 1), enumerated(x, codes, 1))


@pytest.mark.parametrize("form", ["euclidean", "cosine"])
def test_features_that_are_all_equal_score_what_chance_does(form: str) -> None:
    sizes = (120, 60, 20)
    codes = np.repeat(np.arange(3), sizes)
    x = np.tile(np.array([0.6, 0.0, 0.8]), (200, 1))
    found = scored(x, codes, 10, form)
    share = (np.array(sizes) - 1)[codes] / 199
    for name in ("one_nn", "purity", "rp"):
        np.testing.assert_allclose(found[name], share, atol=1e-12)
    # A draw without replacement of R of n - 1, R of them of the class.
    for size in sizes:
        wanted, n = size - 1, 199
        ranks = np.arange(1, wanted + 1)
        hit = wanted / n
        expected = (hit * (1 + (ranks - 1) * (wanted - 1) / (n - 1)) / ranks).sum() / wanted
        np.testing.assert_allclose(found["map"][np.bincount(codes)[codes] == size], expected)


@pytest.mark.parametrize("seed", [0, 3, 4])
def test_cosines_that_are_equal_tie_though_vectors_of_length_1_are_rounded(seed: int) -> None:
    draw = np.random.default_rng(seed)
    codes = draw.integers(0, 3, 60)
    x = (draw.random((60, 3)) < draw.random((3, 3))[codes]) * draw.integers(1, 3, (60, 3))
    x[x.sum(axis=1) == 0, 0] = 1
    squares, products = (x**2).sum(axis=1), x @ x.T
    found = scored(x / np.sqrt(squares)[:, None], codes, 10, "cosine")["rp"]
    for i in range(60):
        others = np.delete(np.arange(60), i)
        cosines = [Fraction(int(products[i, j]) ** 2, int(squares[j])) for j in others]
        order = np.array([sorted(set(cosines)).index(each) for each in cosines])
        same, wanted = codes[others] == codes[i], (codes == codes[i]).sum() - 1
        last = np.sort(order)[-wanted]
        nearer, tied = order > last, order == last
        hits = same[nearer].sum() + (wanted - nearer.sum()) * same[tied].mean()
        assert found[i] == pytest.approx(hits / wanted)


@pytest.mark.quick
@pytest.mark.parametrize("n_classes", [2, 40])
def test_zero_vectors_have_cosine_0_with_every_vector(n_classes: int) -> None:
    """As docs/measures.md says; lists of all others, and of so few that ties do not fit."""
    x = np.random.default_rng(0).standard_normal((120, 8))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x[[5, 60, 61]] = 0
    labels = [f"{code:02d}" for code in np.arange(120) % n_classes]
    images = evaluation_set_of(np.arange(120), labels)
    x = x[images.rows]
    held = held_vectors(x.astype(np.float32), "cosine")
    keys = 1 - x @ x.T
    np.fill_diagonal(keys, np.inf)
    found = nearest(held, images, 119 if n_classes == 2 else 10)
    k = found.keys.shape[1]
    for wanted in (np.take_along_axis(keys, found.places, 1), np.sort(keys, axis=1)[:, :k]):
        np.testing.assert_allclose(found.keys, wanted, atol=1e-6)
    chance = (images.counts[0] - 1) / 119
    np.testing.assert_allclose(found.hit_chance[~x.any(axis=1)], chance, atol=1e-12)
    # Distances in float64 from differences, which nearly equal features need, say the same.
    bins = measured_bins(held, images)
    in_float32, in_float64 = (
        count_pairs(replace(held, exactly=exactly), images, bins=bins) for exactly in (False, True)
    )
    assert in_float32.area().value == pytest.approx(in_float64.area().value, abs=1e-6)
    moved = abs(in_float32.total - in_float64.total).sum()
    assert moved <= 0.01 * in_float32.total.sum()


@pytest.mark.quick
def test_order_of_images_does_not_matter() -> None:
    rng = np.random.default_rng(5)
    x, codes = rng.integers(0, 3, (60, 2)), rng.integers(0, 4, 60)
    order = rng.permutation(60)
    found, shuffled = scored(x, codes, 5), scored(x[order], codes[order], 5)
    for name in found:
        np.testing.assert_allclose(shuffled[name], found[name][order], atol=1e-12)
