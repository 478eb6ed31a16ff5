"""Every export opens with the library that it is for, and says how it was made."""

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from alike.analysis.blocks import evaluation_set
from alike.analysis.export.arrays import _grouped
from alike.analysis.export.graph import demanded
from alike.analysis.export.plan import Plan
from alike.analysis.export.result import Result, read_result
from alike.analysis.export.tables import write_parquet
from alike.analysis.export.writers import WRITERS, export
from alike.analysis.maps.maps import make_map
from alike.extract.errors import BadInput
from alike.extract.progress import silent
from alike.flows.exporting import export as export_store


@pytest.fixture(scope="module")
def analysed(digits):
    from alike.analysis.analyse import AnalysisSettings, analyse

    measures = ["gap_cosine", "pixel_euclid"]
    return analyse(digits.after, AnalysisSettings(measures=measures, bootstrap=0)).tables


@pytest.fixture(scope="module")
def wanted(digits):
    table = digits.after.table("held_out")
    return table, digits.after.read("gap", table["row"].to_numpy())


@pytest.fixture
def write(digits, analysed, tmp_path):
    def to(name, **options):
        options = {"split": "held_out", "tables": analysed, **options}
        return export(digits.after, tmp_path / "öut dir" / name, **options)

    return to


def test_parquet_holds_rows_features_neighbours_and_manifest(write, wanted, digits, analysed):
    import pyarrow.parquet as pq

    places = make_map(digits.after)
    path, *beside = write("digits.parquet", places=places, images=True)
    table, gap = wanted
    read = pd.read_parquet(path)
    assert list(read["image_id"]) == list(table["image_id"])
    np.testing.assert_array_equal(np.stack(read["gap"]), gap)
    assert {"projection_x", "projection_y", "neighbors", "image"} <= set(read.columns)
    assert read["projection_x"].notna().all()
    near = analysed["neighbours"].query("measure == 'gap_cosine'")
    first = near[near["row"] == read["row"][3]].sort_values("rank")
    got = read["neighbors"][3]
    assert list(read["row"].to_numpy()[got["ids"]]) == list(first["neighbour"])
    np.testing.assert_allclose(got["distances"], first["distance"])
    assert read["image"][0]["bytes"].startswith(b"\x89PNG")
    meta = json.loads(pq.read_schema(path).metadata[b"alike"])
    assert meta["weights_hash"] == digits.after.attrs["weights_hash"]
    assert {p.name for p in beside} == {f"digits.{name}.parquet" for name in analysed}
    scores = read_result(next(p for p in beside if ".scores." in p.name))
    pd.testing.assert_frame_equal(scores.table, analysed["scores"], check_dtype=False)
    assert scores.attrs["key"] == digits.after.key


def test_csv_reads_back(write, wanted):
    path = write("digits.csv", tables={})[0]
    table, gap = wanted
    read = pd.read_csv(path, skiprows=1, dtype={"label": str})
    assert list(read["path"]) == list(table["path"])
    np.testing.assert_allclose(read.filter(regex=r"^gap_\d+$").to_numpy(np.float32), gap, rtol=1e-6)
    assert read_result(path).attrs["key"] == "tuned-0002"


def test_text_that_a_spreadsheet_runs_is_inert_in_csv(tmp_path):
    texts = ["=1+1", "'=1+1", "-x", "@a", "+b", "cat", "'t", "a=b"]
    table = pd.DataFrame({"label": texts, "kind": pd.Categorical(texts), "score": -1.5})
    path = Result("images", table).to_csv(tmp_path / "images.csv")
    shown = ["'=1+1", "''=1+1", "'-x", "'@a", "'+b", "cat", "'t", "a=b"]
    plain = pd.read_csv(path, skiprows=1)
    assert plain["label"].tolist() == plain["kind"].tolist() == shown
    assert plain["score"].tolist() == [-1.5] * 8
    back = read_result(path).table
    assert back["label"].tolist() == back["kind"].tolist() == texts


def test_h5_reads_back(write, wanted, analysed):
    import h5py

    path = write("digits.h5", arrays=("gap", "pixels"))[0]
    table, gap = wanted
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["features/gap"][:], gap)
        assert file["features/pixels"].shape == (len(table), 3, 8, 8)
        assert list(file["images/label"].asstr()) == list(table["label"])
        assert set(file["tables"]) == set(analysed)
        assert json.loads(file.attrs["alike"])["key"] == "tuned-0002"
        value = file["tables/scores/value"][:]
    np.testing.assert_allclose(value, analysed["scores"]["value"])


@pytest.mark.parametrize("name", ["digits.nc", "digits.zarr"])
def test_xarray_opens_it(write, wanted, analysed, digits, name):
    import warnings

    import xarray

    if name.endswith(".nc"):
        pytest.importorskip("h5netcdf")
    path = write(name, arrays=("gap", "pixels"))[0]
    table, gap = wanted
    options = {"engine": "h5netcdf"} if name.endswith(".nc") else {"consolidated": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with xarray.open_datatree(path, **options) as tree:
            np.testing.assert_array_equal(tree["gap"], gap)
            assert tree["gap"].dims == ("image", "gap_channel")
            assert tree["pixels"].dims == ("image", "pixels_channel", "pixels_y", "pixels_x")
            # netCDF has no half precision.
            assert tree["pixels"].dtype == ("f4" if name.endswith(".nc") else "f2")
            assert np.array_equal(
                tree["pixels"], digits.after.read("pixels", table["row"].to_numpy())
            )
            assert list(tree["path"].values) == list(table["path"])
            cube = tree["/tables/class_pairs"]["mean"].sel(measure="gap_cosine")
            long = analysed["class_pairs"].query("measure == 'gap_cosine'")
            row = long.query("class_a == '3' and class_b == '8'")["mean"].iloc[0]
            assert float(cube.sel(class_a="3", class_b="8")) == pytest.approx(row)
            assert json.loads(tree.attrs["alike"])["digest"]


@pytest.mark.parametrize("name", ["t.nc", "t.zarr"])
@pytest.mark.filterwarnings("ignore:.*specification.*")
def test_an_empty_column_of_texts_is_no_column_of_numbers(tmp_path, name):
    xarray = pytest.importorskip("xarray")
    table = pd.DataFrame({"row": np.zeros(0, np.int64), "path": pd.Series([], dtype="str")})
    data = Result("twins", table, {}, {}).to_xarray()
    if name == "t.nc":
        data.to_netcdf(tmp_path / name, engine="h5netcdf")
        again = xarray.open_dataset(tmp_path / name, engine="h5netcdf")
    else:
        data.to_zarr(tmp_path / name, zarr_format=3, consolidated=False)
        again = xarray.open_zarr(tmp_path / name, consolidated=False)
    assert (again["row"].dtype.kind, again["path"].dtype.kind in "OUT") == ("i", True)


@pytest.mark.quick
def test_pairs_of_very_many_classes_are_rows_of_a_netcdf(monkeypatch, nearest_alone):
    a, b = np.indices((4, 4))
    names = np.array(list("abcd"))
    pairs = pd.DataFrame({
        "measure": "m", "class_a": names[a.ravel()], "class_b": names[b.ravel()],
        "mean": (0.5 + abs(a - b)).ravel(), "std": 0.1,
    })  # fmt: skip
    few = nearest_alone(pairs, 1)
    monkeypatch.setattr(evaluation_set, "MANY", 3)
    written = _grouped(Result("class_pairs", few))
    assert dict(written.sizes) == {"class_pairs_row": 8}
    pd.testing.assert_frame_equal(written.to_dataframe().reset_index(drop=True), few)
    monkeypatch.setattr(evaluation_set, "MANY", 4)
    whole = _grouped(Result("class_pairs", pairs))
    assert float(whole["mean"].sel(measure="m", class_a="a", class_b="d")) == 3.5


def test_npz_is_the_graph_of_neighbours(write, wanted, analysed):
    import scipy.sparse

    path = write("digits.npz", tables=analysed)[0]
    graph = scipy.sparse.load_npz(path)
    table, _ = wanted
    n = len(table)
    assert graph.shape == (n, n)
    assert graph.nnz == 10 * n
    assert (np.diff(graph.data.reshape(n, 10), axis=1) >= 0).all()
    assert graph.diagonal().sum() == 0
    rows = np.load(path)["rows"]
    np.testing.assert_array_equal(rows, table["row"])
    near = analysed["neighbours"].query("measure == 'gap_cosine'").sort_values(["row", "rank"])
    np.testing.assert_array_equal(rows[graph.indices], near["neighbour"])


def test_cleanlab_takes_the_graph(write, wanted):
    import warnings

    pytest.importorskip("datasets")
    cleanlab = pytest.importorskip("cleanlab")
    import scipy.sparse

    graph = scipy.sparse.load_npz(write("digits.npz")[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lab = cleanlab.Datalab({"label": list(wanted[0]["label"])}, label_name="label", verbosity=0)
        lab.find_issues(knn_graph=graph, issue_types={"outlier": {}, "near_duplicate": {}})
    assert {"is_outlier_issue", "is_near_duplicate_issue"} <= set(lab.get_issues().columns)


def test_fiftyone_samples(write, wanted, digits):
    path = write("digits.fiftyone.json", arrays=("gap",))[0]
    read = json.loads(path.read_text(encoding="utf-8"))
    table, gap = wanted
    sample = read["samples"][5]
    assert sample["filepath"] == str(digits.images / table["path"][5])
    assert sample["ground_truth"] == {"_cls": "Classification", "label": table["label"][5]}
    assert 0 <= sample["same_class_share"] <= 1
    np.testing.assert_allclose(sample["gap"], gap[5], rtol=1e-6)
    assert "projection" not in sample
    # The map may be of fewer images, and JSON has no NaN.
    places = pd.DataFrame({"row": table["row"][:3], "tsne_x": 1.0, "tsne_y": 2.0})
    places = places.assign(pca_x=0.0, pca_y=0.0)
    path = write("digits.fiftyone.json", places=places)
    read = json.loads(path[0].read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert [one.get("projection") for one in read["samples"][2:4]] == [[1.0, 2.0], None]


@pytest.mark.parametrize("ending", WRITERS)
def test_no_export_leaves_anything_beside_itself(write, ending, tmp_path):
    if ending == ".nc":
        pytest.importorskip("h5netcdf")
    for _ in range(2):
        written = write(f"twice{ending}")
    assert all(path.exists() for path in written)
    assert sorted(p.name for p in (tmp_path / "öut dir").iterdir()) == sorted(
        p.name for p in written
    )


def test_a_folder_that_no_export_wrote_stays(write, digits, tmp_path):
    """A Zarr export takes the place of the folder as a whole."""
    for name in ("mine.zarr", "tree.zarr"):
        (tmp_path / "öut dir" / name).mkdir(parents=True)
    (tmp_path / "öut dir/mine.zarr/notes.txt").write_text("mine")
    tree = digits.store.root_path / "features.zarr/zarr.json"
    shutil.copy(tree, tmp_path / "öut dir/tree.zarr/zarr.json")
    for name in ("mine.zarr", "tree.zarr"):
        with pytest.raises(BadInput, match="that no `alike export` wrote"):
            write(name, tables={})
    (tmp_path / "öut dir/file.zarr").write_text("mine")
    with pytest.raises(BadInput, match="is no folder"):
        write("file.zarr", tables={})
    assert (tmp_path / "öut dir/mine.zarr/notes.txt").is_file()


@pytest.mark.quick
def test_failed_export_leaves_the_old_one(write, tmp_path):
    old = tmp_path / "öut dir" / "x.csv"
    old.parent.mkdir()
    old.write_text("old")
    with pytest.raises(BadInput, match="4096"):
        write("x.csv", arrays=("gap", "pixels") * 30)
    assert old.read_text() == "old"
    assert [p.name for p in old.parent.iterdir()] == ["x.csv"]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("x.xlsx", {}, "expected a name ending in"),
        ("x.parquet", {"arrays": ("last_conv",)}, "it holds"),
        ("x.parquet", {"split": "validation"}, "split"),
        ("x.npz", {"split": None}, "--split"),
        ("x.npz", {"tables": {}}, "alike analyse"),
    ],
)
def test_bad_input_says_what_to_do(write, name, options, said):
    with pytest.raises(BadInput, match=said):
        write(name, **options)


def test_images_without_a_class_have_no_graph_and_that_is_the_reason(digits):
    """The advice to analyse all images would lead to the same refusal."""
    images = pd.DataFrame({"row": [0, 1], "label": ["cat", None]})
    features = digits.after
    plan = Plan(features, images, (), (), {"split": "all"}, None, False, silent)
    with pytest.raises(BadInput, match="1 of the 2 images of split 'all' have no class"):
        demanded(plan)
    labelled = pd.DataFrame({"row": [0, 1, 2], "label": ["cat", "cat", "dog"]})
    narrowed = dataclasses.replace(plan, images=labelled, features=features.only("label=0"))
    with pytest.raises(BadInput, match="--where label=0`, and export with the same --split and"):
        demanded(narrowed)
    with pytest.raises(BadInput, match=r"have 1 class\(es\): .* needs two classes or more"):
        demanded(dataclasses.replace(narrowed, images=labelled[:2]))
    sampled = {"n_images_before_sampling": 9000, "evaluated": {"m": 1000}, "measure": "m"}
    with pytest.raises(BadInput, match=r"is of 1,000 of 9,000 images, .* a larger --budget"):
        demanded(dataclasses.replace(narrowed, manifest={"split": "all", **sampled}))


def test_a_first_part_without_labels_decides_no_type(digits, tmp_path):
    """Parquet is written a shard at a time, and a shard may have no label or subset at all."""
    images = pd.DataFrame({
        "row": range(4), "label": [None, None, "cat", None], "subset": [None, None, None, "val"],
        "note": None,
    }, dtype=object).astype({"row": int})  # fmt: skip
    values = np.arange(8, dtype=np.float32).reshape(4, 2)

    class Stored:
        def read(self, name, rows):
            return values[rows]

        def blocks(self, names, rows):
            for part in (rows[:2], rows[2:]):
                yield part, {"gap": values[part]}

    plan = Plan(Stored(), images, ("gap",), (), {}, None, False, silent)
    write_parquet(plan, tmp_path / "x.parquet")
    back = pd.read_parquet(tmp_path / "x.parquet").astype(object).replace(np.nan, None)
    for name in images:
        assert back[name].tolist() == images[name].tolist()
    np.testing.assert_array_equal(np.stack(back["gap"]), values)


def test_options_that_a_format_does_not_take_are_told(digits, tmp_path):
    key = digits.after.key
    for name, options, said in (
        ("a.csv", {"images": True}, "no thumbnails are written"),
        ("a.npz", {"maps": True}, "no places of the map are written"),
        ("a.fiftyone.json", {"arrays": ("gap", "pixels")}, "pixels is not written"),
    ):
        written = export_store(digits.store, tmp_path / name, key, **options)
        assert sum(said in note for note in written.notes) == 1


def test_a_folder_that_cannot_be_made_is_named(write, tmp_path):
    (tmp_path / "öut dir").write_text("a file in the way")
    with pytest.raises(BadInput, match="cannot be made"):
        write("inner/x.csv")


def test_pairs_of_classes_that_are_no_array_are_told(analysed, digits, tmp_path, monkeypatch):
    for many, name, told in ((10, "a.zarr", 0), (9, "b.zarr", 1), (9, "c.h5", 0)):
        monkeypatch.setattr(evaluation_set, "MANY", many)
        written = export_store(digits.store, tmp_path / name, digits.after.key)
        assert sum("class_pairs is written as rows" in note for note in written.notes) == told


def test_neighbours_that_are_not_written_are_told(analysed, digits, tmp_path):
    """The analysis is of the held-out images: of all there are no lists."""
    key, to = digits.after.key, tmp_path / "digits.parquet"
    assert analysed["neighbours"]["measure"].isin(["gap_cosine"]).any()
    written = export_store(digits.store, to, key, split="held_out")
    assert "neighbors" in pd.read_parquet(to).columns
    assert not any("neighbours" in note for note in written.notes)
    for options in ({"split": "all"}, {"measure": "fc_cosine"}):
        written = export_store(digits.store, to, key, **options)
        assert "neighbors" not in pd.read_parquet(to).columns
        assert sum("no column of neighbours is written" in note for note in written.notes) == 1
