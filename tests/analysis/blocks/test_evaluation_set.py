"""Folds and samples belong to images: rows in another order change none of them."""

import numpy as np
import pandas as pd
import pytest

from alike.analysis.blocks import evaluation_set, held_vectors
from alike.analysis.blocks.evaluation_set import evaluation_set_of
from alike.analysis.pairs.folds import deal
from alike.analysis.scores import evaluate_measure

N = 90
IDS = np.array([f"{number:064x}" for number in np.random.default_rng(1).integers(0, 2**62, N)])
LABELS = np.array([["a", "b", "c"][number % 3] for number in range(N)])


def arrived(order):
    """The same images, numbered as they arrived in this order."""
    return evaluation_set_of(np.arange(N), LABELS[order].tolist(), IDS[order])


@pytest.mark.parametrize("by_id", [0, N])
def test_what_is_drawn_follows_the_image_ids(by_id, monkeypatch):
    monkeypatch.setattr(evaluation_set, "BY_ID", by_id)
    orders = [np.arange(N), np.random.default_rng(2).permutation(N)]
    drawn = []
    for order in orders:
        images = arrived(order)
        ids = IDS[order][images.rows]
        sampled = images.sample(30, seed=3)
        drawn.append(
            {
                "folds": dict(zip(ids, deal(images, 4, 0), strict=True)),
                "sample": set(IDS[order][sampled.rows]),
                "folds of the sample": dict(
                    zip(IDS[order][sampled.rows], deal(sampled, 4, 0), strict=True)
                ),
            }
        )
    assert drawn[0] == drawn[1]
    ordered = [IDS[order][arrived(order).rows] for order in orders]
    assert np.array_equal(*ordered) == bool(by_id)


@pytest.mark.quick
def test_positions_by_id_stay_within_their_class():
    images = arrived(np.random.default_rng(2).permutation(N))
    assert np.array_equal(images.codes[images.by_id], images.codes)
    few = images.take(images.codes != 1)
    assert np.array_equal(np.sort(few.by_id), np.arange(len(few)))
    for low, high in zip(few.starts[:-1], few.starts[1:], strict=True):
        assert (np.diff(few.ranks[few.by_id[low:high]]) > 0).all()


def test_the_order_of_arrival_changes_no_digit():
    draw = np.random.default_rng(3)
    x = draw.standard_normal((N, 40)) + 3 * draw.standard_normal(40)
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    scores = []
    for order in (np.arange(N), draw.permutation(N), np.arange(N)[::-1]):
        images = arrived(order)
        vectors = held_vectors(x[order][images.rows], "cosine")
        scores.append(evaluate_measure("m", vectors, images, lambda _: map)["scores"])
    pd.testing.assert_frame_equal(scores[0], scores[1], check_exact=True)
    pd.testing.assert_frame_equal(scores[0], scores[2], check_exact=True)
