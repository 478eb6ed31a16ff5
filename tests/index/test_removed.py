"""Images that were removed: they are not answered, and what is left is still found."""

import numpy as np
import pytest

from alike.extract.errors import BadInput
from alike.index.build import build_index
from alike.index.filters import Among
from alike.index.query import NeighbourIndex
from alike.index.specs import Wish

from .conftest import clustered, listing_of
from .test_build import brute, grow, recall

N, CLASSES = 3000, 10


@pytest.fixture
def removed(make_store):
    return one_class_removed(make_store)


def one_class_removed(make_store, asked=0.9):
    """A store and its approximate index, from whose set one whole class was removed since."""
    vectors, labels = clustered(N, dimension=24, classes=CLASSES)
    store = make_store(vectors=vectors, labels=labels)
    build_index(store.features(), kinds=["ivf_flat"], wish=Wish(asked))
    before = NeighbourIndex.open(store)
    kept = np.flatnonzero(labels != 3)
    store.list_images(listing_of([f"image{i}" for i in kept], labels[kept]))
    return store, vectors, labels, kept, before


def test_an_image_like_those_removed_still_finds_the_nearest_of_the_others(make_store):
    """All that lie in the lists around it are masked."""
    store, vectors, labels, kept, _ = one_class_removed(make_store, asked=0.3)
    gone = np.flatnonzero(labels == 3)[::15]
    index = NeighbourIndex.open(store)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = index.query_vectors(unit[gone], 10, weights_hash=index.card.weights_hash)
    assert (found.rows >= 0).all()
    assert np.isin(found.rows, kept).all()
    near = kept[np.argsort(-(unit[gone] @ unit[kept].T), axis=1)[:, :10]]
    mask = np.isin(index._engine.rows, kept)
    plain = index._engine.search(unit[gone], 10, index.card.spec.search, mask)[1]
    hollow = (plain < 0).any(axis=1)
    assert hollow.sum() > len(gone) / 2
    assert recall(found.rows[hollow], near[hollow]) == 1.0


def test_all_neighbours_that_were_asked_for_come(make_store):
    """Also where the lists that are usually searched hold fewer."""
    store = make_store(n=N, dimension=24, classes=CLASSES)
    build_index(store.features(), kinds=["ivf_flat"], wish=Wish(0.9))
    index = NeighbourIndex.open(store)
    assert index.card.spec.search["nprobe"] <= 16
    for k in (500, N - 1):
        found = index.query([3, 2000], k)
        assert (found.rows >= 0).all()
        assert all(len(np.unique(rows)) == k for rows in found.rows)


def test_an_open_index_sees_removals_and_labels(removed):
    store, vectors, labels, kept, before = removed
    asked = int(kept[0])
    assert (labels[before.query([asked], N - 1).rows[0]] == 3).any()
    fresh = before.refreshed()
    assert fresh is not before
    assert fresh._engine is before._engine
    found = fresh.query([asked], len(kept) - 1)
    assert sorted(found.rows[0]) == sorted(set(kept.tolist()) - {asked})
    assert fresh.refreshed() is fresh
    store.list_images(listing_of([f"image{i}" for i in kept], ["all"] * len(kept)))
    again = fresh.refreshed()
    assert set(again.images["label"]) == {"all"}
    exact = brute(vectors[kept], np.array([0]), 5)[1]
    assert again.query([asked], 5).rows[0].tolist() == kept[exact[0]].tolist()


@pytest.mark.quick
def test_a_removed_image_is_of_no_class(removed):
    store = removed[0]
    index = NeighbourIndex.open(store)
    with pytest.raises(BadInput, match="there are: 0, 1, 2, 4, 5, 6, 7, 8, 9") as told:
        index.query([0], 5, among=Among(labels=("nan",)))
    assert "nan," not in str(told.value)


def test_recall_is_measured_anew_after_removals(removed):
    store, _, labels, _, _ = removed
    report = build_index(store.features(), kinds=["ivf_flat"], wish=Wish(0.9))
    assert report.action == "unchanged"
    assert "300 of them removed and masked, recall@10 is now" in report.note
    assert report.card.removed == 300
    low, high = report.card.recall[1:]
    assert 0.85 < low < high
    again = build_index(store.features(), kinds=["ivf_flat"], wish=Wish(0.9))
    assert again.card == report.card
    assert "recall" not in again.note
    store.list_images(listing_of([f"image{i}" for i in range(N)], labels))
    assert build_index(store.features(), kinds=["ivf_flat"], wish=Wish(0.9)).card.removed == 0


def test_where_removals_spoil_an_index_it_is_built_anew(removed, monkeypatch):
    store = removed[0]
    monkeypatch.setattr("alike.index.update.measured", lambda *args: (0.8, 0.75, 0.85))
    report = build_index(store.features(), kinds=["ivf_flat"], wish=Wish(0.9))
    assert report.action == "rebuilt"
    assert "recall@10 fell to 0.8000 (0.7500 to 0.8500), the wish is 0.9" in report.note
    assert report.card.n_rows == N - 300
    assert report.card.stale == ""


def test_one_image_more_is_no_reason_to_build_anew(make_store):
    """Recall asked by one image alone would be 0.9 or 1.0, and nothing between."""
    vectors, labels = clustered(N, dimension=24, classes=CLASSES)
    mixed = np.random.default_rng(0).permutation(N)
    vectors, labels = vectors[mixed], labels[mixed]
    store = make_store(vectors=vectors[:2900], labels=labels[:2900])
    first = build_index(store.features(), kinds=["ivf_flat"], wish=Wish(0.95))
    assert first.card.recall[0] < 0.99
    for n in range(2901, 2911):
        grow(store, vectors[:n], labels[:n])
        report = build_index(store.features(), kinds=["ivf_flat"], wish=Wish(0.95))
        assert report.action == "added"
        assert report.card.recall[1] < report.card.recall[2]
