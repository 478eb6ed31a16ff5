"""The store on an S3-like service: moto's server, a process of its own on loopback."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import store_writer as known
import zarr

from alike.extract.errors import BadInput, StoreBusy, StoreDamaged
from alike.extract.forgetting import forget_images
from alike.extract.places import copies_folder
from alike.extract.store.store import Store
from alike.extract.store.transfer import export_group, import_group
from alike.extract.store.upkeep import collect_garbage, contents
from alike.extract.store.verification import verify

ROOT = Path(__file__).parents[3]


@pytest.fixture
def place(s3_server, monkeypatch, request):
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    import fsspec

    bucket = request.node.name.replace("_", "-")[:40].strip("-")
    files = fsspec.filesystem("s3")
    if not files.exists(bucket):
        files.mkdir(bucket)
    return f"s3://{bucket}/a/store"


def test_store_keeps_its_promises(place):
    with pytest.raises(BadInput, match="no store at"):
        Store.open(place)
    features = known.filled(place, 1500)
    assert features.pending() == []
    assert np.array_equal(features.read("maps", slice(None)), known.rows_of("maps", range(1500)))
    group = zarr.open_group(f"{place}/features.zarr", mode="r")[known.KEY]
    assert np.array_equal(group["fc"][:], known.rows_of("fc", range(1500)))
    assert group["valid"][:].all()
    again = known.filled(place, 2100)
    assert np.array_equal(again.read("fc", slice(None)), known.rows_of("fc", range(2100)))
    some = np.array([2099, 3, 3, 1024])
    assert np.array_equal(Store.open(place).features().read("fc", some), known.rows_of("fc", some))
    again.write_constant("mean", np.ones(3))
    assert again.constants() == ["mean"]
    assert np.array_equal(again.read_constant("mean"), np.ones(3))
    again.store.write_table("tables/t.parquet", pd.DataFrame({"a": [1]}), {"b": 2})
    assert again.store.read_table("tables/t.parquet")[1] == {"b": 2}
    assert contents(again.store)["pending_units"].tolist() == [0, 0]
    with pytest.raises(BadInput, match="no local folder"):
        again.store.path("tables")


def test_what_nobody_needs_is_found_and_deleted(place):
    features = known.filled(place, 10)
    store = features.store
    names = store.files.walk("")
    assert {"store.json", features.place("fc", 0), features.ledger.name(0)} <= set(names)
    stamps = store.files.stamps("ledger")
    assert set(stamps) == {one for one in names if one.startswith("ledger/")}
    before = store.files.listing(f"ledger/{features.key}")
    store.write_file("tables/x.0.partial", b"half")
    assert [one.file for one in collect_garbage(store)] == ["tables/x.0.partial"]
    assert store.files.size("tables/x.0.partial") is None
    assert store.files.listing(f"ledger/{features.key}") == before
    collect_garbage(store, drop=(features.key,))
    assert store.groups() == store.recorded() == []


def test_files_go_up_and_down_whole(place, tmp_path):
    files = Store.open(place, create=True).files
    data = np.random.default_rng(0).bytes(6 << 20)
    (tmp_path / "a").write_bytes(data)
    files.upload(tmp_path / "a", "index/a")
    assert files.read("index/a") == data
    files.download("index/a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == data
    with pytest.raises(FileNotFoundError):
        files.download("index/none", tmp_path / "c")


def test_same_rows_as_a_local_store(place, tmp_path):
    assert known.filled(place, 1500).digest == known.filled(tmp_path, 1500).digest


def test_damage_is_named_and_repaired(place):
    features = known.filled(place, 1500)
    before, name = features.digest, features.place("maps", 1)
    data = bytearray(features.store.read_file(name))
    data[500] ^= 1
    features.store.write_file(name, bytes(data))
    with pytest.raises(StoreDamaged, match=r"maps/c\.1"):
        features.read("maps", np.array([1030]))
    assert [one.file for one in verify(features.store).damage] == [name]
    known.extract(features)
    assert features.digest == before
    assert verify(features.store).damage == ()
    features.store.write_file(name, b"torn")
    with pytest.raises(StoreDamaged, match=r"maps/c\.1"):
        features.read("maps", np.array([1030]))
    features.store.write_file(name, b"")
    with pytest.raises(StoreDamaged, match=r"maps/c\.1"):
        features.read("maps", np.array([1030]))
    features.store.files.remove(name)
    assert features.pending() == [1]
    with pytest.raises(StoreDamaged, match=r"maps/c\.1.* is missing"):
        features.read("maps", np.array([1030]))


def test_an_image_is_forgotten(place, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    features = known.filled(place, 1500)
    copy = copies_folder(features.store.place) / "index" / "flat.faiss"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(b"vectors of all images")
    with (
        features.store.index_lock(features.key, "gap_cosine"),
        pytest.raises(StoreBusy, match="an index"),
    ):
        forget_images(features.store, [known.image_id(1030)])
    shards = [features.place(name, 1) for name in known.ARRAYS]
    forget_images(features.store, [known.image_id(1030), "0/000003.png"])
    assert verify(features.store).damage == ()
    for opened in (features, Store.open(place).features()):
        others = np.setdiff1d(np.arange(1500), [3, 1030])
        assert opened.table()["row"].tolist() == others.tolist()
        for name in known.ARRAYS:
            assert np.array_equal(opened.read(name, others), known.rows_of(name, others))
    values = known.rows_of("fc", [1030])[0].tobytes()
    assert not any(values in features.store.read_file(shard) for shard in shards)
    assert features.pending() == []
    assert not copy.exists()


def test_only_one_creates_and_holds(place):
    features = known.filled(place, 10)
    files = features.store.files
    assert files.create("x.json", b"one")
    assert not files.create("x.json", b"two")
    assert files.read("x.json") == b"one"
    files.touch("x.json")
    assert 0 <= files.age("x.json") < 60
    script = (
        "import sys; from alike.extract.store.store import Store\n"
        "with Store.open(sys.argv[1]).features().lock(): print('held', flush=True); input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, place],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(StoreBusy, match=f"process {other.pid} on"), features.lock():
            pass
    finally:
        other.kill()
        other.communicate()
    with features.lock():
        pass


@pytest.mark.skipif(os.environ.get("ALIKE_FULL") != "1", reason="slow: set ALIKE_FULL=1")
def test_killed_writers(place):
    store = Store.open(place, create=True)
    store.list_images(known.listing(range(4000)))
    features = store.create_features(known.EXTRACTION, known.KEY, known.ARRAYS)
    chance = np.random.default_rng(1)
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parents[1])])
    for _ in range(10):
        script = (
            "import sys, store_writer as known; from alike.extract.store.store import Store\n"
            "f = Store.open(sys.argv[1]).features(); print('ready', flush=True); known.extract(f)"
        )
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", script, place],
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": path},
            )
            for _ in range(2)
        ]
        assert writers[0].stdout.readline() == "ready\n"
        time.sleep(float(chance.uniform(0.1, 0.6)))
        for one in writers:
            one.kill()
            one.communicate()
        assert verify(store, mark=False).damage == ()
        rows = features.table()["row"].to_numpy()
        assert np.array_equal(features.read("fc", rows), known.rows_of("fc", rows))
    known.extract(features)
    assert np.array_equal(features.read("maps", slice(None)), known.rows_of("maps", range(4000)))
    collect_garbage(store)


@pytest.mark.quick
def test_a_group_moves_to_it(place, tmp_path):
    local = known.filled(tmp_path / "local", 1500)
    file = export_group(local, tmp_path / "g.npz")
    assert import_group(Store.open(place, create=True), file).digest == local.digest
