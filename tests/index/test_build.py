"""Building, choosing, adding, replacing: on stores with made features."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import faiss
import numpy as np
import pytest

from alike.extract.documents import read_json
from alike.extract.errors import BadInput, StoreBusy, StoreDamaged
from alike.extract.store.store import Store
from alike.index.build import build_index
from alike.index.engine import FaissEngine
from alike.index.files import CARD, building, read_card, read_index
from alike.index.kinds import INDEX_KINDS
from alike.index.places import folder_of
from alike.index.query import NeighbourIndex
from alike.index.specs import Card, Wish

from .conftest import clustered, fill, listing_of

ROOT = Path(__file__).resolve().parents[2]


def folder(store):
    features = store.features()
    return folder_of(store, features.key, "gap_cosine")


def grow(store, vectors, labels):
    store.list_images(listing_of([f"image{i}" for i in range(len(vectors))], labels))
    return fill(store, vectors)


def brute(vectors, rows, k):
    """Cosine distances of rows to all others, in float64, each row left out of its own."""
    unit = vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    distances = 1 - unit[rows] @ unit.T
    distances[np.arange(len(rows)), rows] = np.inf
    order = np.argsort(distances, axis=1)[:, :k]
    return np.take_along_axis(distances, order, axis=1), order


def recall(found, true):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, true, strict=True)])


@pytest.mark.quick
def test_small_set_is_exact_and_its_distances_are_the_measures_own(make_store):
    vectors, labels = clustered(400)
    store = make_store(vectors=vectors, labels=labels)
    report = build_index(store.features())
    assert report.action == "built"
    assert report.card.spec.kind == "flat"
    rows = np.arange(0, 400, 13)
    found = NeighbourIndex.open(store).query([int(row) for row in rows], 7)
    distances, true = brute(vectors, rows, 7)
    assert np.abs(found.distances - distances).max() < 1e-6
    assert (found.rows == true).all()
    assert found.exact.all()
    assert build_index(store.features()).action == "unchanged"


def test_an_approximate_index_is_measured_on_rows_it_does_not_hold(make_store):
    vectors, labels = clustered(5000, classes=40)
    store = make_store(vectors=vectors, labels=labels)
    seen = []
    report = build_index(
        store.features(),
        kinds=["hnsw_sq8", "ivf_sq8", "ivf_pq"],
        wish=Wish(0.9),
        progress=lambda stage, done, total, note="": seen.append((stage, total)),
    )
    card = report.card
    assert card.spec.kind in ("hnsw_sq8", "ivf_sq8", "ivf_pq")
    assert {total for stage, total in seen if stage.startswith("build")} == {4500, 500}
    assert card.recall[1] >= 0.9
    assert {point.spec.kind for point in card.curve} == {"hnsw_sq8", "ivf_sq8", "ivf_pq"}
    assert card.n_rows == 5000
    rows = np.arange(0, 5000, 50)
    found = NeighbourIndex.open(store).query([int(row) for row in rows], 10)
    distances, true = brute(vectors, rows, 10)
    assert recall(found.rows, true) > 0.85
    # the index holds rounded vectors, the distances told are those of the features
    same = found.rows == true
    assert np.abs(found.distances - distances)[same].max() < 1e-6
    assert not found.exact.any()


def test_a_listing_sorted_by_class_does_not_hide_bad_recall(make_store):
    """Trained and measured on the first rows, recall halves and looks fine."""
    vectors, labels = clustered(6000, dimension=24, classes=60, spread=0.15)
    store = make_store(vectors=vectors, labels=labels)
    card = build_index(store.features(), kinds=["ivf_flat"], wish=Wish(0.95)).card
    rows = np.arange(0, 6000, 30)
    found = NeighbourIndex.open(store).query([int(row) for row in rows], 10)
    assert recall(found.rows, brute(vectors, rows, 10)[1]) >= 0.93
    assert card.trained_on["classes"] == 60
    # the naive way: trained on the first 1000 rows, which are of 10 of 60 classes
    naive = faiss.index_factory(24, "IVF128,Flat")
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    naive.train(unit[:1000])
    naive.add(unit)
    measured_by_itself = naive_recall(naive, unit, np.arange(0, 1000, 5), 8)
    assert measured_by_itself > naive_recall(naive, unit, rows, 8) + 0.08
    assert naive_recall(naive, unit, rows, int(card.spec.search["nprobe"])) < 0.8


def naive_recall(index, unit, rows, nprobe):
    found = getattr(index, "search_numpy", index.search)(
        unit[rows], 11, params=faiss.SearchParametersIVF(nprobe=nprobe)
    )[1]
    return recall(found, faiss.knn(unit[rows], unit, 11)[1])


def test_all_rows_ever_asked_for_come_back_once(make_store):
    store = make_store(n=1500)
    build_index(store.features(), kinds=["ivf_flat"])
    card, index = read_index(folder(store))
    assert sorted(FaissEngine(index).rows) == list(range(1500))
    assert card.n_rows == 1500


class TestGrowing:
    @pytest.mark.parametrize("kind", INDEX_KINDS)
    def test_new_rows_are_found_without_a_rebuild(self, make_store, kind):
        if not INDEX_KINDS[kind].available():
            pytest.skip(f"this machine lacks what {kind} needs")
        vectors, labels = clustered(1700)
        mixed = np.random.default_rng(0).permutation(1700)
        vectors, labels = vectors[mixed], labels[mixed]
        store = make_store(vectors=vectors[:1400], labels=labels[:1400])
        first = build_index(store.features(), kinds=[kind], wish=Wish(0.5, batch=32))
        grow(store, vectors, labels)
        report = build_index(store.features(), kinds=[kind], wish=Wish(0.5, batch=32))
        assert report.action == "added"
        assert "300 rows added to 1400" in report.note
        assert report.card.spec == first.card.spec
        assert report.card.n_built == 1400
        index = NeighbourIndex.open(store)
        assert len(index) == 1700
        found = index.query([1600, 1650], 20)
        assert (found.rows >= 1400).any()
        assert build_index(store.features(), wish=Wish(0.5, batch=32)).action == "unchanged"

    def test_removed_rows_no_longer_appear_and_may_come_back(self, make_store):
        vectors, labels = clustered(600)
        store = make_store(vectors=vectors, labels=labels)
        build_index(store.features())
        nearest = int(NeighbourIndex.open(store).query([5], 1).rows[0, 0])
        names = [f"image{i}" for i in range(600)]
        kept = [i for i in range(600) if i != nearest]
        store.list_images(listing_of([names[i] for i in kept], labels[kept]))
        assert "1 of them removed" in build_index(store.features()).note
        index = NeighbourIndex.open(store)
        assert len(index) == 599
        assert nearest not in index.query([5], 599).rows
        store.list_images(listing_of(names, labels))
        assert NeighbourIndex.open(store).query([5], 1).rows[0, 0] == nearest

    def test_removed_rows_do_not_slow_an_approximate_index(self, make_store, monkeypatch):
        """It masks them itself: to read all that is left from the store would take a second."""
        vectors, labels = clustered(1500, classes=30)
        store = make_store(vectors=vectors, labels=labels)
        build_index(store.features(), kinds=["ivf_flat"], wish=Wish(0.9))
        gone = int(NeighbourIndex.open(store).query([5], 1).rows[0, 0])
        kept = [i for i in range(1500) if i != gone]
        store.list_images(listing_of([f"image{i}" for i in kept], labels[kept]))
        index = NeighbourIndex.open(store)
        monkeypatch.setattr("alike.index.masked.embed_rows", None)
        found = index.query([5, 700], 20)
        assert gone not in found.rows
        assert (found.rows >= 0).all()

    def test_a_set_that_doubled_is_built_anew(self, make_store):
        vectors, labels = clustered(1000)
        store = make_store(vectors=vectors[:300], labels=labels[:300])
        build_index(store.features())
        grow(store, vectors, labels)
        report = build_index(store.features())
        assert report.action == "rebuilt"
        assert "grew from 300 to 1000" in report.note
        assert report.card.n_built == 1000

    def test_an_index_that_outgrew_its_memory_is_built_anew(self, make_store):
        vectors, labels = clustered(2800, dimension=64, classes=20)
        mixed = np.random.default_rng(0).permutation(2800)
        vectors, labels = vectors[mixed], labels[mixed]
        store = make_store(vectors=vectors[:2000], labels=labels[:2000])
        wish = Wish(0.5, memory=400_000)
        first = build_index(store.features(), kinds=["ivf_fp16"], wish=wish).card
        grow(store, vectors[:2600], labels[:2600])
        card = build_index(store.features(), kinds=["ivf_fp16"], wish=wish).card
        assert (card.spec, card.size <= 400_000) == (first.spec, True)
        grow(store, vectors, labels)
        report = build_index(store.features(), kinds=["ivf_fp16", "ivf_sq8"], wish=wish)
        assert report.action == "rebuilt"
        assert report.note.startswith("2800 rows take 41")
        assert "bytes, the wish allows 400,000: " in report.note
        assert report.card.spec.kind == "ivf_sq8"
        assert report.card.size <= 400_000

    def test_drift_is_seen_and_ends_in_a_rebuild(self, make_store):
        """New rows of another kind than the lists were trained for: recall falls."""
        vectors, labels = clustered(1500, dimension=24, classes=30, spread=0.1)
        store = make_store(vectors=vectors, labels=labels)
        # 75 of the 150 held-out queries measure: with all found they certify .025^(1/75) = 0.952.
        first = build_index(store.features(), kinds=["ivf_flat"], wish=Wish(0.95)).card
        assert first.recall[1] <= 0.953
        draw = np.random.default_rng(5)
        other = draw.random((1300, 24)).astype(np.float32)
        grow(
            store, np.concatenate([vectors, other]), np.concatenate([labels, 99 + 0 * other[:, 0]])
        )
        report = build_index(store.features(), kinds=["ivf_flat"], wish=Wish(0.95))
        assert report.action == "rebuilt"
        assert "recall@10 fell to" in report.note
        assert report.card.recall[0] >= 0.95
        assert report.card.spec.search["nprobe"] > first.spec.search["nprobe"]
        assert report.card.stale == ""

    def test_another_wish_builds_anew(self, make_store):
        store = make_store(n=300)
        build_index(store.features())
        report = build_index(store.features(), wish=Wish(0.75, at=20, latency=0.5, threads=1))
        assert report.action == "rebuilt"
        asked = "recall 0.95 -> 0.75, at 10 -> 20, latency any -> 500 ms, threads any -> 1"
        assert report.note.startswith(f"the wish changed: {asked}: ")
        kept = {"wish": report.card.wish}
        assert build_index(store.features(), **kept).action == "unchanged"
        report = build_index(store.features(), kinds=["ivf_flat"], on_disk=True, **kept)
        asked = "lists in memory -> on disk, kind flat -> ivf_flat"
        assert report.note.startswith(f"the wish changed: {asked}: ")


class TestWish:
    def test_what_cannot_be_met_is_said(self, make_store):
        store = make_store(n=1200)
        with pytest.raises(BadInput, match="memory 1000 bytes is too little"):
            build_index(store.features(), memory=1000)
        with pytest.raises(BadInput, match=r"no index has recall@10 >= 0\.95, latency <= 1e-09 s"):
            build_index(store.features(), wish=Wish(latency=1e-9), kinds=["flat"])

    def test_few_rows_are_searched_exactly_or_refused(self, make_store):
        """Nine rows leave no query to measure by, and no points for k-means."""
        features = make_store(n=9).features()
        for options in ({"kinds": ["ivf_flat"]}, {"on_disk": True}):
            with pytest.raises(BadInput, match="9 rows: fewer than 100 are searched exactly"):
                build_index(features, **options)
        with pytest.raises(BadInput, match="memory 100 bytes is too little for 9 vectors: 648"):
            build_index(features, memory=100)
        assert build_index(features, kinds=["flat"], memory=648).card.spec.kind == "flat"

    def test_memory_counts_for_small_sets_too(self, make_store):
        vectors, labels = clustered(900, dimension=64)
        store = make_store(vectors=vectors, labels=labels)
        card = build_index(store.features(), memory=150_000, recall=0.5).card
        assert card.size <= 150_000 < 900 * 64 * 4

    def test_memory_leaves_only_what_fits(self, make_store):
        vectors, labels = clustered(4000, dimension=64, classes=20)
        store = make_store(vectors=vectors, labels=labels)
        card = build_index(store.features(), memory=500_000, recall=0.8).card
        assert card.size <= 500_000
        assert card.spec.kind in ("ivf_sq8", "ivf_pq_sq8", "ivf_rabitq_sq8")

    @pytest.mark.parametrize("kind", [name for name in INDEX_KINDS if "ivf" in name])
    def test_memory_counts_the_rows_that_are_held_out(self, make_store, kind):
        """They are added after the index was measured, and were a tenth of it here."""
        store = make_store(n=2000, dimension=64)
        whole = build_index(store.features(), kinds=[kind], wish=Wish(0.1)).card
        assert whole.size <= whole.curve[0].bytes < 1.01 * whole.size
        wish = Wish(0.1, memory=int(0.99 * whole.size))
        with pytest.raises(BadInput, match="memory"):
            build_index(store.features(), kinds=[kind], wish=wish)

    def test_exact_was_asked(self, make_store):
        store = make_store(n=1200)
        assert INDEX_KINDS[build_index(store.features(), recall=1).card.spec.kind].exact

    @pytest.mark.parametrize("wrong", [{"recall": 0}, {"recall": 1.2}, {"at": 0}, {"memory": -1}])
    def test_nonsense_is_refused(self, wrong):
        with pytest.raises(BadInput):
            Wish(**wrong)

    def test_unknown_kind_is_named(self, make_store):
        store = make_store(n=1200)
        with pytest.raises(BadInput, match="unknown index kind 'tree', expected one of flat,"):
            build_index(store.features(), kinds=["tree"])


class TestFiles:
    def test_card_goes_to_json_and_back(self, make_store):
        store = make_store(n=1200)
        card = build_index(store.features(), kinds=["ivf_sq8"], wish=Wish(0.6)).card
        assert read_json(json.dumps(card.to_dict()), Card, CARD, "") == card
        assert read_card(folder(store)) == card

    def test_file_opens_in_plain_faiss(self, make_store):
        store = make_store(n=300)
        card = build_index(store.features()).card
        index = faiss.read_index(str(folder(store) / card.file))
        assert index.ntotal == 300

    def test_truncated_file(self, make_store):
        store = make_store(n=300)
        path = folder(store) / build_index(store.features()).card.file
        os.truncate(path, 100)
        with pytest.raises(StoreDamaged, match="has 100 bytes, the card says"):
            NeighbourIndex.open(store)
        assert build_index(store.features(), rebuild=True).action == "built"
        assert len(NeighbourIndex.open(store)) == 300

    def test_flipped_bit(self, make_store):
        store = make_store(n=300)
        path = folder(store) / build_index(store.features()).card.file
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(StoreDamaged, match="differs from its checksum"):
            NeighbourIndex.open(store)

    def test_missing_file_and_broken_card(self, make_store):
        store = make_store(n=300)
        (folder(store) / build_index(store.features()).card.file).unlink()
        with pytest.raises(StoreDamaged, match="is missing"):
            NeighbourIndex.open(store)
        (folder(store) / CARD).write_text("{")
        with pytest.raises(StoreDamaged, match="is damaged"):
            NeighbourIndex.open(store)

    @pytest.mark.parametrize(
        "text", ["{", "[]", '{"schema": "alike-index/0"}', '{"schema": "alike-index/1"}']
    )
    def test_a_broken_card_is_told_and_replaced(self, make_store, text):
        store = make_store(n=300)
        build_index(store.features())
        (folder(store) / CARD).write_text(text)
        told = "card.json is damaged .*; rebuild it by .* --measure gap_cosine"
        with pytest.raises(StoreDamaged, match=told):
            NeighbourIndex.open(store)
        report = build_index(store.features())
        assert report.action == "rebuilt"
        assert "card.json could not be read" in report.note
        assert "rebuild it" not in report.note
        assert len(NeighbourIndex.open(store)) == 300
        assert len(list(folder(store).iterdir())) == 3

    def test_no_index(self, make_store):
        store = make_store(n=10)
        key = store.features().key
        command = f"`alike index --store {store.url} --features {key} --measure gap_cosine`"
        with pytest.raises(BadInput, match=re.escape(command)):
            NeighbourIndex.open(store)

    def test_index_of_another_store(self, make_store, tmp_path):
        store = make_store(n=300)
        build_index(store.features())
        other = Store.open(tmp_path / "other", create=True)
        other.list_images(listing_of([f"image{i}" for i in range(300)], [0] * 300))
        fill(other, clustered(300)[0], weights_hash="cd" * 32)
        target = folder(other)
        target.parent.mkdir(parents=True)
        folder(store).rename(target)
        with pytest.raises(BadInput, match="the index is of resnet18-abababab"):
            NeighbourIndex.open(other)

    def test_one_builder_at_a_time(self, make_store):
        store = make_store(n=50)
        with (
            building(folder(store)),
            pytest.raises(StoreBusy, match=f"process {os.getpid()} builds the index"),
        ):
            build_index(store.features())

    def test_a_copied_store_keeps_its_index(self, make_store, tmp_path):
        store = make_store(n=300)
        build_index(store.features())
        (tmp_path / "store").rename(tmp_path / "moved")
        assert len(NeighbourIndex.open(tmp_path / "moved")) == 300


BUILD_SLOWLY = """
import sys, time
from alike.extract.store.store import Store
from alike.index.build import build_index

def wait(stage, done, total, note=""):
    if stage.startswith("build"):
        print("adding", flush=True)
        time.sleep(600)

build_index(Store.open(sys.argv[1]).features(), rebuild=True, progress=wait)
"""


def test_killed_build_leaves_the_old_index(make_store):
    store = make_store(n=300)
    before = build_index(store.features()).card
    command = [sys.executable, "-c", BUILD_SLOWLY, store.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as child:
        assert child.stdout.readline() == b"adding\n"
        child.kill()
    assert child.returncode == -signal.SIGKILL
    assert NeighbourIndex.open(store).card == before
    # its lock went with it, and what it left is swept away
    (folder(store) / "0123.faiss").write_bytes(b"torn")
    after = build_index(store.features(), rebuild=True).card
    assert {path.name for path in folder(store).iterdir()} == {CARD, "lock", after.file}


KILLED_BEFORE_THE_CARD = """
import json, os, signal, sys
from alike.extract.store.store import Store
from alike.index import files
from alike.index import update
from alike.index.build import build_index
from alike.index.specs import Wish

place, options, large = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
update.LARGE = large
files._write_card = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
build_index(Store.open(place).features(), wish=Wish(0.3), **options)
"""


@pytest.mark.parametrize(
    ("options", "large"),
    [
        pytest.param({"kinds": ["ivf_flat"]}, 1 << 40, id="whole"),
        pytest.param({"kinds": ["ivf_flat"]}, 1, id="tail"),
        pytest.param({"kinds": ["ivf_flat"], "on_disk": True}, 1, id="lists"),
    ],
)
def test_killed_between_file_and_card(make_store, monkeypatch, options, large):
    monkeypatch.setattr("alike.index.update.LARGE", large)
    vectors, labels = clustered(1520)
    mixed = np.random.default_rng(0).permutation(1520)
    vectors, labels = vectors[mixed], labels[mixed]
    store = make_store(vectors=vectors[:1500], labels=labels[:1500])
    before = build_index(store.features(), wish=Wish(0.3), **options).card
    files = {path.name for path in folder(store).iterdir()}
    grow(store, vectors, labels)
    command = [sys.executable, "-c", KILLED_BEFORE_THE_CARD, store.url, json.dumps(options)]
    child = subprocess.run([*command, str(large)], cwd=ROOT, check=False)
    assert child.returncode == -signal.SIGKILL
    assert {path.name for path in folder(store).iterdir()} > files
    index = NeighbourIndex.open(store)
    assert (index.card, len(index)) == (before, 1500)
    assert (index.query([3], 5).rows >= 0).all()
    # what it left is swept away, and the rows are added
    report = build_index(store.features(), wish=Wish(0.3), **options)
    card = report.card
    assert (report.action, card.n_rows, bool(card.tail)) == (
        "added", 1520, large == 1 and not card.lists,
    )  # fmt: skip
    named = {CARD, "lock", card.file, card.tail, card.lists} - {""}
    assert {path.name for path in folder(store).iterdir()} == named


def test_readers_see_the_old_or_the_new_index_never_a_mixture(make_store):
    """Indexes of 200 and of 150 rows replace each other for a while."""
    vectors, labels = clustered(200)
    store = make_store(vectors=vectors, labels=labels)
    build_index(store.features())
    one = NeighbourIndex.open(store)
    before = one.query([7], 5)
    near = {7, *before.rows[0].tolist()}
    far = [row for row in range(200) if row not in near][:50]
    whole = listing_of([f"image{i}" for i in range(200)], labels)
    wrong, seen, stop = [], set(), threading.Event()

    def read():
        while not stop.is_set():
            index = NeighbourIndex.open(store)
            found = index.query([7], 5)
            seen.add((index.card.file, index.card.n_rows))
            held = len(index._engine.rows)
            if held != index.card.n_rows or not (found.rows == before.rows).all():
                wrong.append((held, index.card.n_rows, found.rows))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        # On a busy machine the readers come to see three of them late.
        for count in range(500):
            store.list_images(whole if count % 2 else whole.drop(far))
            build_index(store.features(), rebuild=True)
            if count >= 15 and (wrong or len(seen) > 2):
                break
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert not wrong
    assert len(seen) > 2
    assert {rows for _, rows in seen} == {150, 200}
    # what was opened before goes on answering, and knows how to be replaced
    assert (one.query([7], 5).rows == before.rows).all()
    assert one.refreshed() is not one
    assert one.refreshed().refreshed().card == NeighbourIndex.open(store).card


@pytest.mark.parametrize("n", [100, 300, 700])
@pytest.mark.parametrize("kind", [name for name in INDEX_KINDS if "ivf" in name])
def test_few_rows_build_any_kind_in_silence(make_store, capfd, kind, n):
    report = build_index(make_store(n).features(), kinds=[kind], wish=Wish(0.4))
    assert report.card.spec.kind == kind
    assert capfd.readouterr() == ("", "")
