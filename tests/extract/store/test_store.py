"""The store keeps what it was given, by row, through growth, renames and other readers."""

import socket

import numpy as np
import pandas as pd
import pytest
import store_writer as known
import xarray
import zarr

from alike.extract.errors import BadInput, StoreUnreachable
from alike.extract.faults import passes
from alike.extract.images.split import image_id, split_of
from alike.extract.store.arrays import UNIT
from alike.extract.store.commit import ABSENT
from alike.extract.store.store import Store


def test_rows_come_back_by_any_reader(tmp_path):
    features = known.filled(tmp_path, 2500)
    rows = np.array([2499, 0, 1023, 1024, 7, 7])
    group = zarr.open_group(tmp_path / "features.zarr")[known.KEY]
    dataset = xarray.open_zarr(tmp_path / "features.zarr", group=known.KEY, consolidated=False)
    for name in known.ARRAYS:
        wanted = known.rows_of(name, rows)
        assert np.array_equal(features.read(name, rows), wanted)
        assert np.array_equal(group[name][:][rows], wanted)
        assert np.array_equal(dataset[name].values[rows], wanted)
        assert np.array_equal(features.read(name, slice(None)), group[name][:])
    assert group["valid"][:].all()


def test_blocks_give_every_row_once_in_whole_shards(tmp_path):
    features = known.filled(tmp_path, 2500)
    blocks = list(features.blocks(["fc", "maps"]))
    assert [len(rows) for rows, _ in blocks] == [1024, 1024, 452]
    for rows, arrays in blocks:
        for name, array in arrays.items():
            assert np.array_equal(array, known.rows_of(name, rows))
    some = np.arange(5, 2500, 3)
    small = list(features.blocks("fc", some, size=100))
    assert np.array_equal(np.concatenate([rows for rows, _ in small]), some)
    assert np.array_equal(np.concatenate([part for _, part in small]), known.rows_of("fc", some))
    assert max(len(rows) for rows, _ in small) == 100
    assert [len(rows) for rows, _ in features.blocks("fc", slice(0, 2500), size=2048)] == [
        2048,
        452,
    ]


def test_blocks_of_nothing(tmp_path):
    features = known.filled(tmp_path, 10)
    assert sum(len(rows) for rows, _ in features.blocks("fc", np.empty(0, dtype=np.int64))) == 0


def test_growing_computes_only_new_rows(tmp_path):
    before = known.filled(tmp_path, 1500).digest
    store = Store.open(tmp_path)
    store.list_images(known.listing(range(2100)))
    features = store.create_features(known.EXTRACTION, known.KEY, known.ARRAYS)
    assert features.pending() == [1, 2]
    assert features.todo(1) == range(1500, 2048)
    assert len(features.table()) == 1500
    known.extract(features)
    assert features.pending() == []
    assert features.digest != before
    assert np.array_equal(features.read("maps", slice(None)), known.rows_of("maps", range(2100)))


def test_grown_store_equals_one_made_at_once(tmp_path):
    for n in (1000, 1024, 1500, 2048, 2100):
        grown = known.filled(tmp_path / "grown", n)
    once = known.filled(tmp_path / "once", 2100)
    assert grown.digest == once.digest
    for name in known.ARRAYS:
        for shard in once.shard_sizes(name):
            place = f"features.zarr/{known.KEY}/{name}/{shard}"
            assert grown.store.read_file(place) == once.store.read_file(place)


def test_array_added_to_a_group(tmp_path):
    first = known.filled(tmp_path, 1500, {"fc": known.ARRAYS["fc"]}).digest
    store = Store.open(tmp_path)
    features = store.create_features(known.EXTRACTION, known.KEY, known.ARRAYS)
    assert features.pending(["fc"]) == []
    assert features.pending() == [0, 1]
    features.write_unit(1, {"maps": known.rows_of("maps", features.unit_rows(1))})
    assert len(features.table()) == 1500
    assert list(features.table(names=["maps"])["row"]) == list(range(1024, 1500))
    with pytest.raises(BadInput, match=r"row 3 of maps .* not committed"):
        features.read("maps", np.array([1200, 3]))
    known.extract(features)
    assert features.pending() == []
    assert features.digest != first
    assert features.digest_for(["fc"]) == first
    assert np.array_equal(features.read("fc", slice(None)), known.rows_of("fc", range(1500)))


def test_renames_labels_and_removals_cost_nothing(tmp_path):
    features = known.filled(tmp_path, 1500)
    store = features.store
    changed = known.listing([3, 1400, 7])
    changed["path"] = ["new.png", "other.png", "third.png"]
    changed["label"] = ["a", None, "b"]
    view = store.list_images(changed)
    assert list(view["row"]) == [3, 1400, 7]
    assert features.pending() == []
    table = features.table()
    assert list(table["row"]) == [3, 7, 1400]
    assert list(table["label"]) == ["a", "b", None]
    assert list(table["path"]) == ["new.png", "third.png", "other.png"]
    store.list_images(known.listing(range(1500)))
    assert len(features.table()) == 1500


def test_same_bytes_share_a_row_and_bad_files_have_none(tmp_path):
    store = Store.open(tmp_path, create=True)
    images = known.listing([0, 1, 0, 2])
    images.loc[3, ["state", "reason"]] = ["unreadable", "no such file"]
    view = store.list_images(images)
    assert list(view["row"]) == [0, 1, 0, -1]
    assert view["row"].dtype == np.int64
    assert store.n_rows == 2
    features = store.create_features(known.EXTRACTION, known.KEY, known.ARRAYS)
    known.extract(features)
    assert list(features.table()["row"]) == [0, 1]
    bad = features.bad()
    assert bad[["row", "state", "reason"]].to_numpy().tolist() == [
        [-1, "unreadable", "no such file"]
    ]


def test_bad_images_are_missing_rows(tmp_path):
    store = Store.open(tmp_path, create=True)
    store.list_images(known.listing(range(40)))
    features = store.create_features(known.EXTRACTION, known.KEY, known.ARRAYS)
    arrays = {name: known.rows_of(name, range(40)) for name in known.ARRAYS}
    features.write_unit(0, arrays, {3: ("truncated", "ends at byte 7")})
    assert np.array_equal(arrays["fc"], known.rows_of("fc", range(40)))
    assert np.isnan(features.read("maps", np.array([3]))).all()
    assert 3 not in set(features.table()["row"])
    assert len(features.table()) == 39
    assert features.bad().to_numpy().tolist() == [
        [3, "0/000003.png", "truncated", "ends at byte 7"]
    ]
    features.publish()
    assert list(
        np.flatnonzero(zarr.open_group(tmp_path / "features.zarr")[known.KEY]["valid"][:] == 0)
    ) == [3]


def test_an_image_that_was_absent_is_computed_when_it_comes_back(tmp_path):
    store = Store.open(tmp_path, create=True)
    store.list_images(known.listing(range(30)))
    store.list_images(known.listing(range(20)))
    features = store.create_features(known.EXTRACTION, known.KEY, known.ARRAYS)
    gone = dict.fromkeys(range(20, 30), (ABSENT, "not in the set"))
    features.write_unit(0, {name: known.rows_of(name, range(30)) for name in known.ARRAYS}, gone)
    assert features.pending() == []
    assert len(features.table()) == 20
    store.list_images(known.listing(range(25)))
    assert features.pending() == [0]
    assert features.todo(0) == range(20, 30)
    left = dict.fromkeys(range(25, 30), (ABSENT, "not in the set"))
    features.write_unit(
        0, {name: known.rows_of(name, range(20, 30)) for name in known.ARRAYS}, left
    )
    assert features.pending() == []
    assert np.array_equal(features.read("fc", slice(0, 25)), known.rows_of("fc", range(25)))


def test_all_missing_chunks_are_stored(tmp_path):
    """Zarr stores no chunk of nothing but NaN: that must not look like a lost one."""
    store = Store.open(tmp_path, create=True)
    store.list_images(known.listing(range(400)))
    features = store.create_features(known.EXTRACTION, known.KEY, known.ARRAYS)
    bad = dict.fromkeys(range(200, 400), ("truncated", ""))
    arrays = {name: known.rows_of(name, range(400)) for name in known.ARRAYS}
    features.write_unit(0, arrays, bad)
    assert np.isnan(features.read("fc", slice(200, 400))).all()
    assert np.array_equal(features.read("fc", slice(0, 200)), known.rows_of("fc", range(200)))
    features.write_unit(0, arrays, dict.fromkeys(range(400), ("truncated", "")))
    assert features.pending() == []
    assert np.isnan(features.read("maps", slice(0, 400))).all()


def test_split_is_by_content(tmp_path):
    features = known.filled(tmp_path, 1500)
    assert set(features.table()["split"]) == {"held_out"}
    features.store.set_split(0.3)
    table = features.table()
    assert list(table["split"]) == [split_of(one, 0.3) for one in table["image_id"]]
    assert len(features.table("train")) + len(features.table("held_out")) == 1500
    assert abs(len(features.table("train")) / 1500 - 0.3) < 0.04
    assert len(features.table("train", train_share=1.0)) == 1500
    features.store.set_split(0.3, "another")
    other = features.table()["split"] == "train"
    again = [split_of(one, 0.3, "another") for one in table["image_id"]]
    assert list(features.table()["split"]) == again
    both = (other & (table["split"] == "train")).mean()
    assert abs(both - 0.09) < 0.03
    assert split_of(image_id(b"x"), 0.5) == split_of(image_id(b"x"), 0.5)
    with pytest.raises(BadInput, match="expected train, validation, held_out or all"):
        features.table("test")


def test_constants_tables_and_settings(tmp_path):
    features = known.filled(tmp_path, 10)
    features.write_constant("classifier/weight", np.eye(3))
    features.write_constant("measures/gap/mean", np.arange(4.0))
    assert features.constants() == ["classifier/weight", "measures/gap/mean"]
    assert np.array_equal(features.read_constant("classifier/weight"), np.eye(3))
    with pytest.raises(BadInput, match=r"no constant 'x'.*classifier/weight"):
        features.read_constant("x")
    store = features.store
    store.write_table("tables/k/t.parquet", pd.DataFrame({"a": [1, 2]}), {"seed": 3})
    table, attrs = Store.open(tmp_path).read_table("tables/k/t.parquet")
    assert list(table["a"]) == [1, 2]
    assert attrs == {"seed": 3}
    store.set_source("folder:images", {"depth": 1})
    assert Store.open(tmp_path).source() == ("folder:images", {"depth": 1})


def test_opening_what_is_not_there(tmp_path):
    with pytest.raises(BadInput, match=r"no store at .*alike extract"):
        Store.open(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    Store.open(tmp_path / "run" / "store", create=True)
    with pytest.raises(BadInput, match=r"no store at .*run; it holds one: name .*run/store$"):
        Store.open(tmp_path / "run")
    store = Store.open(tmp_path, create=True)
    with pytest.raises(BadInput, match=r"none yet"):
        store.features()
    with pytest.raises(BadInput, match="does not know its images"):
        store.source()
    known.filled(tmp_path, 10)
    assert store.features().key == known.KEY
    with pytest.raises(BadInput, match=f"no features 'x'.*{known.KEY}"):
        store.features("x")


@pytest.mark.quick
def test_another_extraction_needs_another_key(tmp_path):
    features = known.filled(tmp_path, 10)
    other = {**known.EXTRACTION, "weights_hash": "ffff"}
    with pytest.raises(BadInput, match=r"extracted with weights_hash '00ab', not 'ffff'"):
        features.store.create_features(other, known.KEY, known.ARRAYS)
    with pytest.raises(BadInput, match="holds"):
        features.store.create_features(known.EXTRACTION, known.KEY, {"fc": ((17,), "float32")})


def test_wrong_rows_are_refused(tmp_path):
    features = known.filled(tmp_path, UNIT + 10)
    good = {name: known.rows_of(name, range(5)) for name in known.ARRAYS}
    with pytest.raises(ValueError, match="array holds float32"):
        features.write_unit(1, {"fc": good["fc"].astype(np.float64)})
    with pytest.raises(ValueError, match="has 10 rows"):
        features.write_unit(1, {"fc": known.rows_of("fc", range(11))})
    with pytest.raises(ValueError, match="outside of"):
        features.write_unit(1, good, {3: ("unreadable", "")})


@pytest.mark.parametrize("scheme", ["http", "ftp"])
def test_a_storage_that_does_not_answer_is_one_line_that_may_pass(scheme):
    with socket.socket() as taken:
        # Bound and not listening: nobody answers at this port, and nobody else takes it.
        taken.bind(("127.0.0.1", 0))
        place = f"{scheme}://ada:secret@127.0.0.1:{taken.getsockname()[1]}/pets.store"
        with pytest.raises(StoreUnreachable, match="cannot be reached") as refused:
            Store.open(place)
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert passes(refused.value)


@pytest.mark.parametrize("place", ["s3://", "https://", "s3:///"])
def test_a_url_that_names_no_place_is_refused(place):
    with pytest.raises(BadInput, match="names no place"):
        Store.open(place)


def test_a_storage_that_lets_nobody_in_is_no_passing_fault(monkeypatch, tmp_path):
    pytest.importorskip("s3fs")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(StoreUnreachable, match="credentials") as refused:
        Store.open("s3://some-bucket/pets.store", skip_instance_cache=True)
    assert not passes(refused.value)


def test_a_fault_of_a_program_is_no_answer_of_a_storage(monkeypatch):
    def broken(*_):
        raise TypeError("a fault of ours")

    monkeypatch.setattr("alike.extract.store.store.read_settings", broken)
    with pytest.raises(TypeError, match="ours"):
        Store.open("memory://bucket/pets.store")
