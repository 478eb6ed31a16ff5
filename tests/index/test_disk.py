"""Lists on disk: built in shards, merged, queried with less memory than the index has bytes."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest

from alike.extract.errors import BadInput, StoreDamaged
from alike.extract.measures.stored import embed_rows, ready_measure
from alike.index.build import build_index
from alike.index.disk import build_shard, merge, shard_rows, training_rows
from alike.index.engine import ranges_of, rows_of
from alike.index.places import folder_of
from alike.index.query import NeighbourIndex
from alike.index.specs import Wish
from alike.index.update import measured

from .conftest import clustered, fill, listing_of

ROOT = Path(__file__).resolve().parents[2]
DISK = {"on_disk": True, "kinds": ["ivf_flat"]}


def folder(store):
    return folder_of(store, store.features().key, "gap_cosine")


@pytest.mark.parametrize("kind", ["ivf_flat", "ivf_fp16", "ivf_sq8"])
def test_answers_as_an_index_in_memory_would(make_store, monkeypatch, kind):
    monkeypatch.setattr("alike.index.disk.BLOCK", 500)
    vectors, labels = clustered(2500, dimension=32, classes=20)
    store = make_store(vectors=vectors, labels=labels)
    seen = []
    report = build_index(
        store.features(),
        on_disk=True,
        kinds=[kind],
        wish=Wish(0.9, memory=4 * 32 * 4 * 900),
        map_shards=lambda build, shards: (seen.append(one.out) or build(one) for one in shards),
    )
    assert len(seen) == 3
    card = report.card
    # The other half of the queries chose it: of these the mean holds, not each lower end.
    assert card.recall[0] >= 0.9
    assert card.lists_size > 2500 * 32
    assert {path.name for path in folder(store).iterdir()} == {
        "card.json", "lock", card.file, card.lists,
    }  # fmt: skip
    index = NeighbourIndex.open(store)
    rows = list(range(0, 2500, 25))
    found = index.query(rows, 10)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    true = 1 - unit[rows] @ unit.T
    true[np.arange(100), rows] = 9
    near = np.argsort(true, axis=1)[:, :10]
    assert (
        np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.rows, near, strict=True)]) > 0.88
    )
    same = found.rows == near
    assert np.abs(found.distances - np.take_along_axis(true, near, axis=1))[same].max() < 1e-5


def test_shards_are_merged_whole(make_store):
    vectors, labels = clustered(20_000, dimension=4, classes=9)
    store = make_store(vectors=vectors, labels=labels)
    built = []

    def run(build, shards):
        # workers end in any order
        for shard in reversed(shards):
            built.append(shard)
            yield build(shard)

    card = build_index(store.features(), map_shards=run, wish=Wish(0.5, memory=1), **DISK).card
    assert [shard.count for shard in built] == [6666, 6667, 6667]
    assert card.ranges == ((0, 20_000),)
    index = NeighbourIndex.open(store)
    assert index._engine.index.ntotal == 20_000
    lists = index._engine.base.invlists
    sizes = [lists.list_size(number) for number in range(lists.nlist)]
    held = [faiss.rev_swig_ptr(lists.get_ids(i), size).copy() for i, size in enumerate(sizes)]
    assert np.sort(np.concatenate(held)).tolist() == list(range(20_000))


def test_lists_without_room_on_the_disk_are_refused(make_store, monkeypatch):
    """FAISS would write them through a map of the file, and the system would end the process."""
    store = make_store(n=2000)
    card = build_index(store.features(), wish=Wish(0.5), **DISK).card
    whole = merge
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)

    def merge_with_little_room(*given):
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, most))
        try:
            return whole(*given)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    monkeypatch.setattr("alike.index.disk.merge", merge_with_little_room)
    with pytest.raises(OSError, match=r"File too large: .*ivfdata"):
        build_index(store.features(), wish=Wish(0.5), rebuild=True, **DISK)
    assert names(store) == {"card.json", "lock", card.file, card.lists}
    assert len(NeighbourIndex.open(store)) == 2000


def test_a_lost_shard_is_told(make_store, monkeypatch):
    store = make_store(n=2000)
    monkeypatch.setattr("alike.index.disk.BLOCK", 500)
    whole = merge
    monkeypatch.setattr("alike.index.disk.merge", lambda a, parts, b: whole(a, parts[:-1], b))
    with pytest.raises(StoreDamaged, match="hold 1500 vectors, 2000 expected"):
        build_index(store.features(), wish=Wish(0.5, memory=1), **DISK)


def test_new_and_removed_rows(make_store, monkeypatch):
    monkeypatch.setattr("alike.index.disk.BLOCK", 300)
    vectors, labels = clustered(3000, dimension=16, classes=9)
    mixed = np.random.default_rng(0).permutation(3000)
    vectors, labels = vectors[mixed], labels[mixed]
    store = make_store(vectors=vectors[:2500], labels=labels[:2500])
    first = build_index(store.features(), wish=Wish(0.8, memory=1), **DISK).card
    before = NeighbourIndex.open(store)
    assert "from 9 shards" in first.why
    old = before.query([7], 5).rows
    names = [f"image{i}" for i in range(3000)]
    gone = int(old[0, 0])
    kept = [i for i in range(3000) if i != gone]
    store.list_images(listing_of([names[i] for i in kept], labels[kept]))
    fill(store, vectors)
    report = build_index(store.features(), wish=Wish(0.8, memory=1), **DISK)
    assert report.action == "added"
    assert report.card.n_built == first.n_built == 2500
    index = NeighbourIndex.open(store)
    found = index.query(list(range(10, 60)), 20)
    assert len(index) == 2999
    assert gone not in found.rows
    assert (found.rows >= 2500).any()
    # its files were replaced, what it has mapped lives on
    assert (before.query([7], 5).rows == old).all()


def names(store):
    return {path.name for path in folder(store).iterdir()}


def test_a_build_that_fails_leaves_nothing(make_store):
    store = make_store(n=2000)
    slow = Wish(0.5, latency=1e-9)
    with pytest.raises(BadInput, match="relax the wish"):
        build_index(store.features(), wish=slow, **DISK)
    assert names(store) == {"lock"}
    card = build_index(store.features(), wish=Wish(0.5), **DISK).card
    with pytest.raises(BadInput, match="relax the wish"):
        build_index(store.features(), wish=slow, **DISK)
    assert names(store) == {"card.json", "lock", card.file, card.lists}
    assert NeighbourIndex.open(store).card == card


def test_rows_added_in_vain_leave_nothing(make_store, monkeypatch):
    """Recall drifted, and the index that was to replace this one failed."""
    vectors, labels = clustered(2100)
    store = make_store(vectors=vectors[:2000], labels=labels[:2000])
    card = build_index(store.features(), wish=Wish(0.5), **DISK).card
    store.list_images(listing_of([f"image{i}" for i in range(2100)], labels))
    fill(store, vectors)

    def fails(*args, **options):
        raise BadInput("relax the wish")

    monkeypatch.setattr("alike.index.update._drifted", lambda card: "recall fell")
    monkeypatch.setattr("alike.index.build.build_on_disk", fails)
    with pytest.raises(BadInput, match="relax the wish"):
        build_index(store.features(), wish=Wish(0.5), **DISK)
    assert names(store) == {"card.json", "lock", card.file, card.lists}
    assert len(NeighbourIndex.open(store)) == 2000


@pytest.mark.parametrize("on_disk", [True, False])
def test_adding_reads_vectors_in_blocks(make_store, monkeypatch, on_disk):
    """Recall is measured anew without the vectors of all rows in memory."""
    vectors, labels = clustered(20_000, dimension=16, classes=9)
    mixed = np.random.default_rng(0).permutation(20_000)
    vectors, labels = vectors[mixed], labels[mixed]
    wish = Wish(0.3, memory=1 if on_disk else 1 << 20)
    options = {"on_disk": on_disk, "kinds": ["ivf_sq8"], "wish": wish}
    store = make_store(vectors=vectors[:11_000], labels=labels[:11_000])
    build_index(store.features(), **options)
    store.list_images(listing_of([f"image{i}" for i in range(20_000)], labels))
    fill(store, vectors)
    read, built = [], []

    def counted(features, measure, rows):
        read.append(len(rows))
        return embed_rows(features, measure, rows)

    def built_one(shard):
        built.append(shard.count)
        return build_shard(shard)

    for name in ("alike.index.stored", "alike.index.disk"):
        monkeypatch.setattr(f"{name}.embed_rows", counted)
    monkeypatch.setattr("alike.index.disk.build_shard", built_one)
    report = build_index(store.features(), **options)
    assert report.action == "added"
    assert max(read) <= 8192
    assert built == ([4500, 4500] if on_disk else [])
    index = NeighbourIndex.open(store)
    assert index._engine.index.ntotal == len(index) == 20_000
    # as measured with all vectors in memory
    engine = index._engine
    held = embed_rows(store.features(), ready_measure(store.features(), "gap_cosine"), engine.rows)
    monkeypatch.setattr(type(engine), "vectors", held)
    ready = ready_measure(store.features(), "gap_cosine")
    again = measured(store.features(), ready, engine, report.card, engine.rows)
    assert again == pytest.approx(report.card.recall, abs=2e-3)


def test_the_training_sample_is_a_shard_at_most_where_k_means_allows():
    assert training_rows(1_000_000, 1 << 34, 512) == 50 * 2048
    assert training_rows(1_000_000, 4 * 90_000 * 4 * 512, 512) == 90_000
    assert training_rows(1_000_000, 1 << 20, 512) == 39 * 2048


def test_truncated_lists_are_refused(make_store):
    store = make_store(n=2000)
    card = build_index(store.features(), wish=Wish(0.5), **DISK).card
    os.truncate(folder(store) / card.lists, card.lists_size // 2)
    with pytest.raises(StoreDamaged, match="bytes, the card says"):
        NeighbourIndex.open(store)


def test_altered_centroids_are_refused(make_store):
    store = make_store(n=2000)
    path = folder(store) / build_index(store.features(), wish=Wish(0.5), **DISK).card.file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreDamaged, match="differs from its checksum"):
        NeighbourIndex.open(store)


def test_moved_store(make_store, tmp_path):
    store = make_store(n=2000)
    build_index(store.features(), wish=Wish(0.5), **DISK)
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    assert NeighbourIndex.open(tmp_path / "elsewhere").query([3], 4).rows.shape == (1, 4)


def test_kind_without_lists(make_store):
    with pytest.raises(BadInput, match="expected one of ivf_sq8"):
        build_index(make_store(n=2000).features(), on_disk=True, kinds=["hnsw"])


LIMITED = """
import resource, sys
import faiss, numpy as np
from alike.index.query import NeighbourIndex

faiss.omp_set_num_threads(1)
place, how, room = sys.argv[1], sys.argv[2], int(sys.argv[3])
index = NeighbourIndex.open(place)
vectors = index.vectors(index.read(list(range(0, 20000, 400))))
index.query_vectors(vectors[:2], 5, weights_hash=index.card.weights_hash)
status = open("/proc/self/status").read()
held = int(status.split("VmData:")[1].split()[0])
resource.setrlimit(resource.RLIMIT_DATA, (held * 1024 + room,) * 2)
if how == "memory":
    ivf = index._engine.base
    copies = [
        faiss.rev_swig_ptr(ivf.invlists.get_codes(i), ivf.invlists.list_size(i) * ivf.code_size)
        .copy()
        for i in range(ivf.nlist)
    ]
print(index.query_vectors(vectors, 5, weights_hash=index.card.weights_hash).rows.tolist())
"""


def test_memory_limit_below_the_size_of_the_index(make_store):
    vectors, labels = clustered(20_000, dimension=256, classes=50)
    store = make_store(vectors=vectors, labels=labels)
    card = build_index(store.features(), wish=Wish(0.8, memory=16 << 20), **DISK).card
    room = 12 << 20
    assert card.lists_size > 1.6 * room

    def limited(how):
        # threads get small stacks: their addresses count as data
        shell = ["bash", "-c", 'ulimit -s 1024; exec "$@"', "bash"]
        command = [*shell, sys.executable, "-c", LIMITED, store.url, how, str(room)]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    mapped, loaded = limited("mapped"), limited("memory")
    assert mapped.returncode == 0, mapped.stderr
    index = NeighbourIndex.open(store)
    asked = index.vectors(index.read(list(range(0, 20_000, 400))))
    expected = index.query_vectors(asked, 5, weights_hash=card.weights_hash).rows
    assert json.loads(mapped.stdout) == expected.tolist()
    # the limit is real: the same lists in memory do not fit
    assert loaded.returncode != 0
    assert "MemoryError" in loaded.stderr or "allocate" in loaded.stderr


def test_ranges():
    for rows in ([], [4], [0, 1, 2], [3, 4, 9, 10, 11, 40]):
        assert rows_of(ranges_of(np.array(rows, dtype=np.int64))).tolist() == rows
    assert ranges_of(np.array([3, 4, 9])) == ((3, 5), (9, 10))


@pytest.mark.quick
def test_a_shard_takes_a_quarter_of_the_memory():
    assert shard_rows(1 << 30, 512) == (1 << 28) // 2048
    assert shard_rows(None, 512) == (1 << 30) // 2048
    assert build_shard.__module__ == "alike.index.disk"


def test_the_recall_told_is_of_queries_that_did_not_choose(make_store, monkeypatch):
    """The queries that choose find all; of the others, which measure, every second finds none."""
    asked = []

    def made(truth, engine, search, which=slice(None)):
        places = np.arange(len(truth.queries))[which]
        asked.append(set(places.tolist()))
        return np.where(places % 4 == 3, 0.0, 1.0)

    monkeypatch.setattr("alike.index.stored.StoredTruth.shares", made)
    card = build_index(make_store(n=2000).features(), wish=Wish(0.9), **DISK).card
    assert all(not chose & asked[-1] for chose in asked[:-1])
    assert len(asked[-1]) == 100
    assert card.recall[0] == 0.5
    assert card.recall[2] < 0.9
    assert "0.5000" in card.why
    assert "by 100 held-out queries" in card.why
    assert {point.recall for point in card.curve if point.spec == card.spec} == {0.5}


def test_no_flag_of_faiss_is_printed_and_other_lines_are(make_store, tmp_path):
    store = make_store(n=1500)
    build_index(store.features(), **DISK)
    code = f"""
import os
from alike.index.files import silent_faiss
from alike.index.query import NeighbourIndex
print(NeighbourIndex.open({str(tmp_path / "store")!r}).query([3], 2).rows.shape)
with silent_faiss():
    os.write(1, b"of another thread\\n")
print("last")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["(1, 2)", "of another thread", "last"]
    assert not done.stderr
