"""Neighbours by bounds of bfloat16 products: certain, so equal to those of float32."""

import numpy as np
import pytest

from alike.analysis.blocks import Vectors
from alike.analysis.blocks.evaluation_set import evaluation_set_of
from alike.analysis.blocks.product import coarse_bits, rounded, widened
from alike.analysis.blocks.vectors import held_vectors, stored_vectors
from alike.analysis.neighbours import coarse, lists
from alike.analysis.neighbours.coarse import coarse_helps, coarse_nearest, round_up
from alike.analysis.neighbours.lists import nearest
from alike.extract.measures import ready_measure

N, CLASSES = 1500, 40


def clusters(draw, dim=96):
    codes = np.sort(draw.integers(0, CLASSES, N))
    centres = draw.standard_normal((CLASSES, dim))[codes]
    return codes, (centres + draw.standard_normal((N, dim))).astype(np.float32)


def outliers(draw):
    """A few vectors are a thousand times as long, and a few as short."""
    codes, x = clusters(draw)
    x[::50] *= 1000.0
    x[7::300] *= 0.001
    return codes, x


def copies(draw):
    """Every image is there six times, and some forty times."""
    codes, x = clusters(draw)
    x = np.repeat(x[::6], 6, axis=0)[:N]
    x[100:140] = x[100]
    return codes, x


def whole_numbers(draw):
    codes, _ = clusters(draw)
    return codes, draw.integers(0, 3, (N, 20)).astype(np.float32)


def far_from_0(draw):
    """The same distances far away: centred vectors are as long as before."""
    codes, x = clusters(draw)
    return codes, x + np.float32(300.0)


def in_a_plane(draw):
    return clusters(draw, 2)


def nearly_one_point(draw):
    """Two groups far apart: within each, distances are lost in what rounding takes."""
    codes, x = clusters(draw)
    side = np.where(draw.integers(0, 2, N)[:, None], 1.0, -1.0)
    return codes, (1e-4 * x + 5.0 * side).astype(np.float32)


SETS = [clusters, outliers, copies, whole_numbers, far_from_0, in_a_plane, nearly_one_point]


def both_ways(monkeypatch, x, codes, form):
    """What float32 products find, and what bounds find."""
    if form == "cosine":
        x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    images = evaluation_set_of(np.arange(len(x)), [f"{code:02}" for code in codes])
    vectors = held_vectors(x[images.rows], form)
    found = []
    for bounds in (False, True):
        monkeypatch.setattr(lists, "coarse_pays", lambda *_, b=bounds: b)
        monkeypatch.setattr(lists, "coarse_helps", lambda *_: True)
        found.append(nearest(vectors, images, 10))
    return found, vectors


def same(one, other, size):
    """Two `Nearest`: all but the last digits of keys."""
    for name in ("places", "alien", "kin", "r_precision", "map_at_r", "recall", "hit_chance"):
        a, b = getattr(one, name), getattr(other, name)
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-12, err_msg=name)
    for name in ("keys", "alien_key", "kin_key"):
        a, b = getattr(one, name), getattr(other, name)
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=2e-6 * size, err_msg=name)


@pytest.mark.quick
@pytest.mark.parametrize("form", ["euclidean", "cosine", "inner"])
@pytest.mark.parametrize("kind", SETS)
def test_bounds_find_what_float32_finds(monkeypatch, kind, form):
    codes, x = kind(np.random.default_rng(5))
    (plain, bounded), vectors = both_ways(monkeypatch, x, codes, form)
    z = vectors.block(0, vectors.n)[0].astype(np.float64)
    same(plain, bounded, float((z**2).sum(axis=1).max()))


def test_a_sample_that_expects_too_little_costs_time_and_no_neighbour(monkeypatch):
    """Rows whose limit was too low are done in float32."""
    codes, x = clusters(np.random.default_rng(6))
    low = coarse._expected_limits
    monkeypatch.setattr(coarse, "_expected_limits", lambda *given: low(*given) * np.float32(0.8))
    undone = []

    def watched(*given):
        best, done = coarse_nearest(*given)
        undone.append((~done).sum())
        return best, done

    monkeypatch.setattr(lists, "coarse_nearest", watched)
    (plain, bounded), _ = both_ways(monkeypatch, x, codes, "euclidean")
    assert sum(undone) > 100
    same(plain, bounded, 100.0)


def test_rows_of_too_many_candidates_are_not_done():
    """Within one point every image may be the nearest, as far as bfloat16 can tell."""
    x = np.ones((N, 8), dtype=np.float32) + np.float32(1e-6) * np.arange(N)[:, None]
    x[::2] *= -1.0
    vectors = held_vectors(x.astype(np.float32), "euclidean")
    z, b = vectors.block(0, 50)
    _, done = coarse_nearest(vectors, np.arange(50), z, b, 20)
    assert not done.any()
    assert not coarse_helps(vectors, 20)


def test_the_trial_tells_where_bounds_help():
    draw = np.random.default_rng(0)
    _, x = clusters(draw)
    assert coarse_helps(held_vectors(x, "euclidean"), 20)
    # As many are wanted as it would measure again: nothing is saved.
    assert not coarse_helps(held_vectors(x, "euclidean"), N // 10)


@pytest.mark.parametrize("dim", [1, 3, 64, 700, 2048])
@pytest.mark.parametrize("scale", [2.0**-40, 1.0, 2.0**40])
def test_no_product_is_farther_off_than_the_bound(dim, scale):
    """Vectors of any length, directions alike and opposite, entries that all round one way."""
    draw = np.random.default_rng(dim)
    x = draw.standard_normal((200, dim)) * scale * 10.0 ** draw.integers(-3, 4, (200, 1))
    x[50:100] = x[0] * draw.uniform(0.5, 2.0, (50, 1))
    x[100:150] = -x[50:100]
    x[150:] = scale * (1.0 + 2.0**-8 - 2.0**-20)
    x = x.astype(np.float32)
    near, _ = rounded(x)
    side = round_up(x, np.zeros(len(x)))
    wide = x.astype(np.float64)
    product = widened(coarse_bits(near, near)).astype(np.float64)
    off = np.abs(product - wide @ wide.T)
    norm, lost = side.norm.astype(np.float64), side.lost.astype(np.float64)
    bound = norm[:, None] * lost + lost[:, None] * norm + coarse.LAST_ROUNDING * np.abs(product)
    assert (off <= bound).all()
    # It is no bound that is never reached: entries that all round one way come near it.
    assert off[150, 150] > 0.6 * bound[150, 150]


def test_bounds_are_those_of_the_vectors_that_ask(monkeypatch):
    """Only some positions ask, in any number of tiles, and blocks are cut anywhere."""
    draw = np.random.default_rng(9)
    _, x = clusters(draw)
    vectors: Vectors = held_vectors(x, "euclidean")
    monkeypatch.setattr("alike.analysis.blocks.vectors.SLAB", 300)
    monkeypatch.setattr(coarse, "ROWS", 16)
    monkeypatch.setattr(coarse, "COLUMNS", 100)
    at = np.sort(draw.choice(N, 70, replace=False))
    z, b = vectors.rows(at)
    best, done = coarse_nearest(vectors, at, z, b, 12)
    assert done.all()
    keys = ((x[at, None].astype(np.float64) - x) ** 2).sum(axis=2) / 2
    keys[np.arange(70), at] = np.inf
    assert np.array_equal((best & lists.LOW).astype(int), np.argsort(keys, axis=1)[:, :12])


def test_vectors_that_are_read_have_the_neighbours_of_those_in_memory(
    monkeypatch, tmp_path, make, write_features
):
    features = write_features(tmp_path / "store", make(sizes=(90, 60, 40, 7)), taps=["gap"])
    images = evaluation_set_of(np.arange(197), list(features.table("all")["label"].astype(str)))
    measure = ready_measure(features, "gap_euclid")
    monkeypatch.setattr(lists, "coarse_pays", lambda *_: True)
    monkeypatch.setattr(lists, "coarse_helps", lambda *_: True)
    found = [
        nearest(stored_vectors(features, measure, images.rows, memory=memory), images, 10)
        for memory in (1 << 30, 0)
    ]
    same(*found, 100.0)
