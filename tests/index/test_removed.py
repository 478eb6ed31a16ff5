"""Images that were removed: they are not answered, and what is left is still found."""

import numpy as np
import pytest

from extract.errors import BadInput
from index.build import build_index
from index.filters import Among
from index.query import NeighbourIndex
from index.specs import Wish

from .conftest import clustered, listing_of
from .test_build import brute, recall

N, CLASSES = 3000, 10


@pytest.fixture
def removed(make_store):
    """A store and its approximate index, from whose set one whole class was removed since."""
    vectors, labels = clustered(N, dimension=24, classes=CLASSES)
    store = make_store(vectors=vectors, labels=labels)
    build_index(store.features(), kinds=["ivf_flat"], wish=Wish(0.9))
    before = NeighbourIndex.open(store)
    kept = np.flatnonzero(labels != 3)
    store.list_images(listing_of([f"image{i}" for i in kept], labels[kept]))
    return store, vectors, labels, kept, before


def test_an_image_like_those_removed_still_finds_the_nearest_of_the_others(removed):
    store, vectors, labels, kept, _ = removed
    gone = np.flatnonzero(labels == 3)[::15]
    index = NeighbourIndex.open(store)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = index.query_vectors(unit[gone], 10, weights_hash=index.card.weights_hash)
    assert (found.rows >= 0).all()
    assert np.isin(found.rows, kept).all()
    near = kept[np.argsort(-(unit[gone] @ unit[kept].T), axis=1)[:, :10]]
    assert recall(found.rows, near) > 0.5


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


def test_a_removed_image_is_of_no_class(removed):
    store = removed[0]
    index = NeighbourIndex.open(store)
    with pytest.raises(BadInput, match="there are: 0, 1, 2, 4, 5, 6, 7, 8, 9") as told:
        index.query([0], 5, among=Among(labels=("nan",)))
    assert "nan," not in str(told.value)
