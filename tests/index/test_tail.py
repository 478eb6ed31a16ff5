"""Few rows added to a large index are kept beside its file."""

import os
import threading

import faiss
import numpy as np
import pytest

from alike.extract.errors import StoreDamaged
from alike.index.build import build_index
from alike.index.files import read_card, read_index, read_tail
from alike.index.kinds import INDEX_KINDS
from alike.index.query import NeighbourIndex
from alike.index.specs import Wish

from .conftest import clustered, listing_of
from .test_build import folder, grow

WISH = Wish(0.9, batch=32)
N = 2000


@pytest.fixture(autouse=True)
def _every_file_is_large(monkeypatch):
    monkeypatch.setattr("alike.index.update.LARGE", 1)


@pytest.fixture(scope="module")
def mixed():
    vectors, labels = clustered(N)
    order = np.random.default_rng(0).permutation(N)
    return vectors[order], labels[order]


def add_up_to(store, mixed, n, kind="ivf_flat"):
    vectors, labels = mixed
    grow(store, vectors[:n], labels[:n])
    return build_index(store.features(), kinds=[kind], wish=WISH)


def built(make_store, mixed, kind="ivf_flat", n=1800):
    vectors, labels = mixed
    store = make_store(vectors=vectors[:n], labels=labels[:n])
    return store, build_index(store.features(), kinds=[kind], wish=WISH).card


@pytest.mark.parametrize("kind", [name for name in INDEX_KINDS if not INDEX_KINDS[name].graph])
def test_answers_are_those_of_one_file_with_all_rows(make_store, mixed, kind, monkeypatch):
    if not INDEX_KINDS[kind].available():
        pytest.skip(f"this machine lacks what {kind} needs")
    store, first = built(make_store, mixed, kind)
    for n in (1840, 1860):
        card = add_up_to(store, mixed, n, kind).card
        # the large file stays as it was
        assert (card.file, card.checksum) == (first.file, first.checksum)
        assert card.tail_rows == n - 1800
        assert card.n_rows == n
    assert read_card(folder(store)) == card
    assert len(list(folder(store).iterdir())) == 4  # card, lock, file, tail
    beside = NeighbourIndex.open(store)
    asked = list(range(0, 1860, 7))
    found = beside.query(asked, 10)
    assert len(beside) == 1860
    assert (found.rows >= 1800).any()

    monkeypatch.setattr("alike.index.update.TAIL", 0.0)
    card = add_up_to(store, mixed, 1861, kind).card
    assert card.file != first.file
    assert (card.tail, card.tail_rows) == ("", 0)
    assert len(list(folder(store).iterdir())) == 3
    assert read_index(folder(store))[1].ntotal == 1861
    # the row that came since may be an answer: it is masked here
    store.list_images(listing_of([f"image{i}" for i in range(1860)], mixed[1][:1860]))
    again = NeighbourIndex.open(store).query(asked, 10)
    assert (again.rows == found.rows).mean() > 0.999
    assert again.distances == pytest.approx(found.distances, abs=1e-6)


def test_a_tail_that_grew_past_its_share_is_written_to_the_file(make_store, mixed):
    store, first = built(make_store, mixed)
    assert add_up_to(store, mixed, 1880).card.tail_rows == 80
    card = add_up_to(store, mixed, 1960).card
    assert card.tail == ""
    assert card.file != first.file
    assert faiss.read_index(str(folder(store) / card.file)).ntotal == 1960


def test_a_graph_and_a_small_file_are_written_whole(make_store, mixed, monkeypatch):
    store, _ = built(make_store, mixed, "hnsw")
    assert add_up_to(store, mixed, 1810, "hnsw").card.tail == ""
    monkeypatch.undo()
    store, _ = built(make_store, mixed)
    assert add_up_to(store, mixed, 1810).card.tail == ""


@pytest.mark.quick
def test_rows_of_the_tail_that_are_removed_do_not_appear(make_store, mixed):
    store, _ = built(make_store, mixed)
    add_up_to(store, mixed, 1850)
    kept = [i for i in range(1850) if i != 1845]
    store.list_images(listing_of([f"image{i}" for i in kept], mixed[1][kept]))
    assert "1 of them removed" in build_index(store.features(), kinds=["ivf_flat"], wish=WISH).note
    assert 1845 not in NeighbourIndex.open(store).query([3], 1848).rows


def test_a_damaged_or_missing_tail_is_refused(make_store, mixed):
    store, _ = built(make_store, mixed)
    card = add_up_to(store, mixed, 1850).card
    vectors, rows = read_tail(folder(store), card)
    assert rows.tolist() == list(range(1800, 1850))
    unit = mixed[0][1800:1850] / np.linalg.norm(mixed[0][1800:1850], axis=1, keepdims=True)
    assert vectors == pytest.approx(unit, abs=1e-6)
    path = folder(store) / card.tail
    os.truncate(path, path.stat().st_size - 8)
    with pytest.raises(StoreDamaged, match="differs from its checksum"):
        NeighbourIndex.open(store)
    path.unlink()
    with pytest.raises(StoreDamaged, match=f"{card.tail} is missing: rebuild it"):
        NeighbourIndex.open(store)


def test_a_stale_index_keeps_what_its_files_hold(make_store, mixed, monkeypatch):
    """Between the card that says stale and the rebuild, a reader finds what it was told of."""
    store, _ = built(make_store, mixed)
    add_up_to(store, mixed, 1850)
    monkeypatch.setattr("alike.index.update._drifted", lambda card: "recall fell")
    monkeypatch.setattr("alike.index.build._build", lambda *args: read_card(folder(store)))
    card = add_up_to(store, mixed, 1860).card
    assert (card.stale, card.n_rows, card.tail_rows) == ("recall fell", 1850, 50)
    assert len(NeighbourIndex.open(store)) == 1850


def test_readers_never_see_a_tail_of_another_card(make_store, mixed):
    store, _ = built(make_store, mixed)
    wrong, seen, stop = [], set(), threading.Event()

    def read():
        while not stop.is_set():
            index = NeighbourIndex.open(store)
            seen.add(index.card.n_rows)
            if len(index._engine.rows) != index.card.n_rows:
                wrong.append(index.card)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for n in range(1810, 2000, 10):
            add_up_to(store, mixed, n)
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert not wrong
    assert len(seen) > 2
