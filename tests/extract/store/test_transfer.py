"""A group goes to a file and comes back the same; others' readers understand the file."""

import gc

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import store_writer as known
import xarray

from alike.extract import row_groups
from alike.extract.errors import BadInput
from alike.extract.store.formats.carried import IMAGE_COLUMNS
from alike.extract.store.formats.formats import FORMATS
from alike.extract.store.store import Store
from alike.extract.store.transfer import export_group, import_group
from alike.extract.store.verification import verify

BAD = {5: ("truncated", "ends at byte 7")}


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    store = Store.open(tmp_path_factory.mktemp("from"), create=True)
    images = known.listing(range(1500))
    images.loc[7, "label"] = None
    images.loc[8, "label"] = ""
    images.loc[9, "path"] = "käse/ein bild.png"
    store.list_images(images)
    made = store.create_features(known.EXTRACTION, known.KEY, known.ARRAYS)
    for unit in made.pending():
        rows = made.unit_rows(unit)
        arrays = {name: known.rows_of(name, rows) for name in known.ARRAYS}
        made.write_unit(unit, arrays, BAD if unit == 0 else {})
    made = made.store.keep_constants(made, {"classifier/weight": np.eye(3, dtype=np.float32)})
    made.write_constant("measures/gap/count", np.array(7))
    return made


GROUPS = [(1, [1024, 476]), (None, [1500]), (700, [700, 700, 100])]


def same(a, b) -> None:
    assert a.attrs == b.attrs
    assert a.arrays == b.arrays
    pd.testing.assert_frame_equal(
        a.table().drop(columns="row").sort_values("image_id", ignore_index=True),
        b.table().drop(columns="row").sort_values("image_id", ignore_index=True),
    )
    assert a.bad().drop(columns="row").equals(b.bad().drop(columns="row"))
    for name in a.constants():
        assert np.array_equal(a.read_constant(name), b.read_constant(name))
        assert a.read_constant(name).dtype == b.read_constant(name).dtype
    rows = b.table().set_index("image_id")["row"]
    for name in a.arrays:
        mine = a.table()
        theirs = b.read(name, rows[mine["image_id"]].to_numpy())
        assert np.array_equal(a.read(name, mine["row"].to_numpy()), theirs)


@pytest.mark.parametrize("ending", list(FORMATS))
def test_round_trip(features, tmp_path, ending):
    file = export_group(features, tmp_path / f"group{ending}")
    back = import_group(Store.open(tmp_path / "to", create=True), file)
    assert back.digest == features.digest
    same(features, back)
    assert verify(back.store).damage == ()
    assert import_group(back.store, file).digest == features.digest


@pytest.mark.parametrize("ending", list(FORMATS))
@pytest.mark.filterwarnings("error")
def test_a_file_that_is_none_of_its_kind_is_one_line(tmp_path, ending):
    """Nor does a finalizer of its library write a traceback (pytest makes that a warning)."""
    (tmp_path / f"x{ending}").write_bytes(b"no file of this kind")
    with pytest.raises(BadInput, match="holds no exported group"):
        import_group(Store.open(tmp_path / "to", create=True), tmp_path / f"x{ending}")
    gc.collect()


@pytest.mark.parametrize("ending", list(FORMATS))
def test_import_into_a_store_with_other_images(features, tmp_path, ending):
    file = export_group(features, tmp_path / f"group{ending}")
    store = Store.open(tmp_path / "to", create=True)
    store.list_images(known.listing([2000, 1400, 3, 2001, *range(3000, 4300)]))
    back = import_group(store, file)
    rows = back.store.images().set_index("path")["row"]
    table = back.table()
    assert len(table) == 1499
    wanted = [int(path.split("/")[1][:6]) for path in table["path"] if path[1] == "/"]
    at = table[table["path"].str[1] == "/"]["row"].to_numpy()
    assert np.array_equal(back.read("fc", at), known.rows_of("fc", wanted))
    assert rows["2/002000.png"] not in set(table["row"])
    assert back.pending() == [0, 1]
    same_ids = set(features.table()["image_id"])
    assert set(table["image_id"]) == same_ids


@pytest.mark.parametrize(("size", "rows"), GROUPS)
def test_row_groups_are_large_and_those_of_any_size_are_read(
    features, tmp_path, monkeypatch, size, rows
):
    if size == 1:
        # As earlier versions wrote them: a stored shard each.
        monkeypatch.setattr(row_groups, "GROUP", 1)
    file = export_group(features, tmp_path / "group.parquet")
    if size == 700:
        with pq.ParquetFile(file) as whole:
            table, sums = whole.read(), whole.metadata.metadata
        with pq.ParquetWriter(file, table.schema, write_page_checksum=True) as writer:
            writer.write_table(table, row_group_size=700)
            writer.add_key_value_metadata({"alike_checksums": sums[b"alike_checksums"].decode()})
    written = pq.ParquetFile(file).metadata
    assert [written.row_group(i).num_rows for i in range(written.num_row_groups)] == rows
    same(features, import_group(Store.open(tmp_path / "to", create=True), file))


def test_plain_readers(features, tmp_path):
    maps = known.rows_of("maps", range(1500))
    maps[5] = np.nan
    with h5py.File(export_group(features, tmp_path / "g.h5")) as file:
        assert np.array_equal(file["arrays/maps"][()], maps, equal_nan=True)
        assert file["images/path"].asstr()[9] == "käse/ein bild.png"
    with np.load(export_group(features, tmp_path / "g.npz")) as file:
        assert np.array_equal(file["maps"], maps, equal_nan=True)
        assert file["images/path"][9] == "käse/ein bild.png"
    table = pd.read_parquet(export_group(features, tmp_path / "g.parquet"))
    assert np.array_equal(np.stack(table["maps"]).reshape(maps.shape), maps, equal_nan=True)
    with xarray.open_dataset(
        export_group(features, tmp_path / "g.nc"), engine="h5netcdf"
    ) as dataset:
        assert dataset["maps"].dims == ("image", "maps_channel", "maps_y", "maps_x")
        assert np.array_equal(dataset["maps"].values, maps.astype("f4"), equal_nan=True)
        assert dataset["image_path"].values[9] == "käse/ein bild.png"
        assert dataset["constant_classifier_weight"].shape == (3, 3)


def test_some_arrays(features, tmp_path):
    file = export_group(features, tmp_path / "g.npz", arrays=["fc"])
    back = import_group(Store.open(tmp_path / "to", create=True), file)
    assert list(back.arrays) == ["fc"]
    with pytest.raises(BadInput, match="has no 'gap'"):
        export_group(features, tmp_path / "h.npz", arrays=["gap"])


@pytest.mark.quick
def test_wrong_files_are_refused(features, tmp_path):
    with pytest.raises(BadInput, match="is exported as one of"):
        export_group(features, tmp_path / "g.txt")
    with pytest.raises(BadInput, match="no file"):
        import_group(features.store, tmp_path / "none.h5")
    for ending in FORMATS:
        other = tmp_path / f"other{ending}"
        other.write_bytes(b"this is something else entirely" * 10)
        with pytest.raises(BadInput, match="no exported group"):
            import_group(features.store, other)


@pytest.mark.parametrize("ending", list(FORMATS))
def test_subsets_and_groups_travel(tmp_path, ending):
    store = Store.open(tmp_path / "from", create=True)
    images = known.listing(range(40))
    images["subset"] = [None if n % 5 == 0 else ("train", "val")[n % 2] for n in range(40)]
    view = store.list_images(images)
    patients = pd.DataFrame({"row": view["row"], "group": [f"patient {n // 4}" for n in range(40)]})
    store.keep_image_groups(patients[patients["row"] != 3])
    store.set_split(0.5)
    made = store.create_features(known.EXTRACTION, known.KEY, known.ARRAYS)
    made.write_unit(0, {name: known.rows_of(name, range(40)) for name in known.ARRAYS})
    file = export_group(made, tmp_path / f"group{ending}")

    # The store that takes it has own images, one with the same bytes in another subset and group.
    other = Store.open(tmp_path / "to", create=True)
    own = known.listing([100, 7])
    own["subset"] = ["test", "mine"]
    other.list_images(own)
    other.keep_image_groups(pd.DataFrame({"row": [1], "group": ["own"]}))
    other.set_split(0.5)
    back = import_group(other, file)
    subsets = back.store.images().set_index("image_id")["subset"]
    wanted = images.set_index("image_id")["subset"].astype(object).replace(np.nan, None)
    wanted[own["image_id"][1]] = "mine"
    assert subsets[wanted.index].tolist() == wanted.tolist()
    assert subsets[own["image_id"][0]] == "test"
    ids = back.store.image_ids()
    groups = {ids[row]: group for row, group in back.store.image_groups().to_numpy()}
    wanted_groups = {one: f"patient {n // 4}" for n, one in enumerate(images["image_id"]) if n != 3}
    assert groups == wanted_groups | {own["image_id"][1]: "own"}
    # One side a group, as in the store that it came from.
    table = back.table().assign(group=lambda t: t["image_id"].map(groups))
    assert (table.groupby("group")["split"].nunique() == 1).all()
    assert table["split"].nunique() == 2
    assert verify(back.store).damage == ()


@pytest.mark.parametrize("ending", list(FORMATS))
def test_without_subsets_a_file_is_as_before(features, tmp_path, ending):
    """Files of a set without subsets and groups have the columns of version 0.1, and its sums."""
    with FORMATS[ending].open(export_group(features, tmp_path / f"g{ending}")) as carried:
        assert list(carried.images) == list(IMAGE_COLUMNS)
        names = {name for name in carried.sums if name.startswith("column ")}
    assert names == {f"column {name}" for name in IMAGE_COLUMNS}


def test_labels_of_the_file_that_differ_are_told(features, tmp_path):
    file = export_group(features, tmp_path / "group.npz")
    store = Store.open(tmp_path / "to", create=True)
    images = known.listing(range(1400, 1510))
    images.loc[3, "label"] = "a cat"
    store.list_images(images)
    said = []
    back = import_group(store, file, tell=said.append)
    (line,) = said
    assert line.startswith("1 of the images of group.npz have another label")
    assert images["image_id"][3][:12] in line
    labels = back.table().set_index("image_id")["label"]
    assert labels[images["image_id"][3]] == "a cat"
