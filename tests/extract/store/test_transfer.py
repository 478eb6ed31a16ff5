"""A group goes to a file and comes back the same; others' readers understand the file."""

import gc
import shutil

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import store_writer as known
import xarray

from alike.extract import row_groups
from alike.extract.errors import BadInput
from alike.extract.store.arrays import RESERVED
from alike.extract.store.formats.carried import IMAGE_COLUMNS, OPTIONAL
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


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Files of 6 images in every format, and their features."""
    folder = tmp_path_factory.mktemp("few")
    store = Store.open(folder / "store", create=True)
    store.list_images(known.listing(range(6)))
    made = store.create_features(known.EXTRACTION, known.KEY, known.ARRAYS)
    made.write_unit(0, {name: known.rows_of(name, range(6)) for name in known.ARRAYS})
    for ending in FORMATS:
        export_group(made, folder / f"group{ending}")
    return folder


def repacked(few, tmp_path, **changes):
    """An NPZ file as others write it again: without the checksums."""
    with np.load(few / "group.npz") as members:
        arrays = {**{name: members[name] for name in members.files}, **changes}
    del arrays["alike/alike_checksums"]
    np.savez(tmp_path / "x.npz", **arrays)
    return tmp_path / "x.npz"


def imported(file, tell=lambda _: None):
    return import_group(Store.open(file.with_suffix(".store"), create=True), file, tell=tell)


@pytest.mark.parametrize("dtype", ["<f4", ">f4"])
def test_the_order_of_axes_and_of_bytes_is_that_of_the_file(few, tmp_path, dtype):
    fc = known.rows_of("fc", range(6))
    file = repacked(few, tmp_path, fc=np.asfortranarray(fc.astype(dtype)))
    back = imported(file)
    assert back.arrays["fc"].dtype == "float32"
    assert np.array_equal(back.read("fc", back.table()["row"].to_numpy()), fc)
    same(Store.open(few / "store").features(), back)


FOREIGN = {
    "complex": ({"fc": np.ones((6, 2), "c8")}, "holds complex64, and a store keeps"),
    "text": ({"fc": np.full((6, 2), "a")}, "and a store keeps"),
    "one value": ({"fc": np.array(3.0)}, "'fc' has no rows, one for each image is expected"),
    "no numbers": ({"fc": np.ones((6, 0))}, "hold no number"),
    "more rows": ({"fc": np.ones((7, 2))}, "fc has 7 rows for 6 images"),
    "fewer rows": ({"fc": np.ones((5, 2))}, "fc has 5 rows for 6 images"),
    "short column": ({"images/label": np.full(5, "a")}, "differ in length"),
    "bytes": ({"images/label": np.full(6, b"a")}, "column label of its images holds .*text is"),
    "floats": ({"images/size": np.full(6, 1.5)}, "column size of its images holds float64"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_what_a_store_cannot_hold_is_refused_before_it_changes(few, tmp_path, case):
    changes, said = FOREIGN[case]
    with pytest.raises(BadInput, match=said):
        imported(repacked(few, tmp_path, **changes))
    assert Store.open(tmp_path / "x.store").groups() == []


def test_rows_that_are_not_finite_are_told_and_have_no_features(few, tmp_path):
    """As an extraction treats them: a store holds no vector with a NaN."""
    fc, maps = (known.rows_of(name, range(6)) for name in ("fc", "maps"))
    fc[1], fc[2, 3], maps[4] = np.nan, np.inf, np.nan
    said = []
    back = imported(repacked(few, tmp_path, fc=fc, maps=maps), said.append)
    assert [line.partition(" of the")[0] for line in said[1:]] == ["2"]
    assert back.bad()["state"].tolist() == ["non-finite"] * 2
    assert back.lost()[["row", "array"]].to_numpy().tolist() == [[4, "maps"]]
    assert len(back.table()) == 4


def test_an_hdf5_file_stands_alone(few, tmp_path):
    """A link, a virtual dataset and external storage would read any file of this machine."""
    fc = known.rows_of("fc", range(6))
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["fc"] = fc
    fc.tofile(tmp_path / "raw")
    layout = h5py.VirtualLayout(fc.shape, fc.dtype)
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "fc", fc.shape)
    parts = {"external": [(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)]}
    ways = {
        "lie in another file": [
            lambda arrays: arrays.__setitem__("fc", h5py.ExternalLink("other.h5", "/fc")),
            lambda arrays: arrays.create_virtual_dataset("fc", layout),
            lambda arrays: arrays.create_dataset("fc", fc.shape, fc.dtype, **parts),
        ],
        "is a group, a dataset is expected": [lambda arrays: arrays.create_group("fc")],
        "is missing": [lambda arrays: arrays.__setitem__("fc", h5py.SoftLink("/none"))],
        "": [lambda arrays: arrays.__setitem__("fc", h5py.SoftLink("/elsewhere"))],
    }
    for said, changes in ways.items():
        for change in changes:
            file = tmp_path / "x.h5"
            file.write_bytes((few / "group.h5").read_bytes())
            with h5py.File(file, "r+") as opened:
                opened["elsewhere"] = opened["arrays/fc"][()]
                del opened["arrays/fc"]
                change(opened["arrays"])
            if said:
                with pytest.raises(BadInput, match=said):
                    imported(file)
            else:
                assert np.array_equal(imported(file).read("fc", np.arange(6)), fc)


def test_files_made_elsewhere_are_told_the_way_in(few, tmp_path):
    np.savez(tmp_path / "mine.npz", features=np.ones((6, 2)), names=np.full(6, "a"))
    np.save(tmp_path / "mine.npy", np.ones((6, 2)))
    (tmp_path / "mine.zarr").mkdir()
    for name in ("mine.npz", "mine.npy", "mine.zarr"):
        with pytest.raises(BadInput, match=r"made elsewhere are written .* docs/store\.md says"):
            import_group(Store.open(tmp_path / "to", create=True), tmp_path / name)


def test_truth_values_and_other_byte_orders_are_kept(tmp_path):
    """Whatever a program wrote them by; masked values have none."""
    store = Store.open(tmp_path / "from", create=True)
    store.list_images(known.listing(range(6)))
    rows = np.arange(12).reshape(6, 2)
    kinds = {"big": ((2,), ">f4"), "yes": ((2,), bool)}
    made = store.create_features(known.EXTRACTION, known.KEY, kinds)
    # A file of images and arrays would hold two columns of one name.
    assert {*IMAGE_COLUMNS, *OPTIONAL, *made.table().columns} <= RESERVED
    with pytest.raises(BadInput, match="keep something else under this name"):
        store.create_features(known.EXTRACTION, known.KEY, {"label": ((2,), "float32")})
    values = {"big": rows.astype(">f4"), "yes": rows % 3 == 0}
    with pytest.raises(ValueError, match="some values are masked"):
        made.write_unit(0, {**values, "yes": np.ma.masked_array(rows > 3, rows > 8)})
    made.write_unit(0, values)
    for ending in FORMATS:
        back = imported(export_group(made, tmp_path / f"group{ending}"))
        for name, value in values.items():
            assert np.array_equal(back.read(name, np.arange(6)), value)
        assert [back.arrays[name].dtype for name in kinds] == ["float32", "bool"]
        shutil.rmtree(tmp_path / "group.store")
