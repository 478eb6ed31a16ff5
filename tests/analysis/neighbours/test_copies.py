"""Near copies are left out together: four copies of every image tell no more than one."""

import numpy as np
import pytest

from alike.analysis.blocks.evaluation_set import evaluation_set_of
from alike.analysis.blocks.vectors import held_vectors
from alike.analysis.neighbours.copies import LARGEST, copies_note, linked_units
from alike.analysis.neighbours.lists import nearest
from alike.analysis.scores.measure import evaluate_measure


def copied(copies, noise=0.001):
    """Three classes of eight images, each `copies` times with a little noise."""
    draw = np.random.default_rng(3)
    codes = np.repeat(np.arange(3), 8)
    x = draw.standard_normal((3, 12))[codes] + draw.standard_normal((24, 12))
    x, codes = np.repeat(x, copies, axis=0), np.repeat(codes, copies)
    x += noise * draw.standard_normal(x.shape)
    images = evaluation_set_of(np.arange(len(codes)), [str(code) for code in codes])
    return held_vectors(x.astype(np.float32), "euclidean"), images


def units(vectors, images):
    near = nearest(vectors, images, 10)
    return linked_units(images, [(near.places, near.keys)])


@pytest.mark.quick
def test_copies_and_nothing_else_are_one_unit():
    assert units(*copied(1)) is None
    of = units(*copied(4))
    assert np.array_equal(np.unique(of, return_inverse=True)[1], of)
    assert len(np.unique(of)) == 24
    assert all(len(set(of[low : low + 4])) == 1 for low in range(0, 96, 4))


def test_copies_make_no_interval_narrow():
    """Taken for 96 images, the interval of the AUC would be about half as wide."""
    widths = []
    for copies in (1, 4):
        vectors, images = copied(copies)
        rows = evaluate_measure("m", vectors, images, lambda _: map, seed=0)["scores"]
        row = rows.set_index("score").loc["auc"]
        widths.append(row["high"] - row["low"])
    assert widths[1] > 0.8 * widths[0]


def test_a_chain_that_is_too_long_is_taken_apart_and_other_copies_are_not():
    """Beyond 64 images that would be one unit each is its own; four copies elsewhere stay one."""
    n = LARGEST + 6
    images = evaluation_set_of(np.arange(n + 4), ["a"] * n + ["b"] * 4)
    steps = np.array([1, 2, 3, -1, -2, -3])
    others = np.arange(n, n + 4)
    places = np.array([[*(i + steps) % n, *others] for i in range(n + 4)])
    places[n:, :3] = [np.setdiff1d(others, [i]) for i in others]
    keys = np.tile(np.r_[np.full(6, 1e-3), np.full(4, 1.0)], (n + 4, 1))
    keys[n:, 3:] = 1.0
    of = linked_units(images, [(places, keys)])
    assert of is not None
    assert sorted(np.bincount(of).tolist()) == [1] * n + [4]
    assert copies_note(of) == "4 images are near copies of others and left out together, as 1"


def test_a_score_says_that_copies_were_left_out_together():
    vectors, images = copied(4)
    rows = evaluate_measure("m", vectors, images, lambda _: map, seed=0)["scores"]
    notes = rows.set_index("score")["note"]
    assert "96 images are near copies of others and left out together, as 24" in notes["auc"]
    assert "copies" not in notes["intra_mean"]
