"""A group goes to a file and comes back the same; others' readers understand the file."""

import h5py
import numpy as np
import pandas as pd
import pytest
import store_writer as known
import xarray

from alike.extract.errors import BadInput
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
    made.write_constant("classifier/weight", np.eye(3, dtype=np.float32))
    made.write_constant("measures/gap/count", np.array(7))
    return made


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
