"""Queries: by row, by image, filtered, re-ranked, in bulk."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from alike.extract.errors import BadInput
from alike.extract.images.sources import open_source
from alike.extract.measures.sets import SET_MEASURES
from alike.extract.networks.network import load_network
from alike.extract.pipeline import extract
from alike.extract.store.store import Store
from alike.flows.cli import app
from alike.index.build import build_index
from alike.index.engine import open_engine
from alike.index.files import read_index
from alike.index.filters import Among
from alike.index.kinds import INDEX_KINDS
from alike.index.many import query_many
from alike.index.neighbours import tidy
from alike.index.places import folder_of
from alike.index.query import NeighbourIndex
from alike.index.show import neighbour_table, write_contact_sheet
from alike.index.specs import Wish

from .conftest import HASH, clustered

FACTORY = """
import torch
from torch import nn

def small():
    return nn.Sequential(nn.Conv2d(3, 12, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(12, 3))
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Forty small pictures of three classes, extracted by a small network, and indexed."""
    root = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(0)
    for number in range(40):
        label = ("red", "green", "blue")[number % 3]
        array = draw.integers(0, 120, (24, 20, 3)).astype(np.uint8)
        array[:, :, number % 3] += 120
        path = root / "images" / label / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)
    (root / "net.py").write_text(FACTORY)
    network = load_network(f"{root / 'net.py'}:small", seed=3)
    store = Store.open(root / "store", create=True)
    extract(open_source(str(root / "images")), network, store, threads=1)
    build_index(store.features())
    return root


@pytest.fixture(scope="module")
def opened(pictures):
    return NeighbourIndex.open(pictures / "store")


class TestRows:
    @pytest.mark.parametrize("measure", ["gap_cosine", "gap_euclid"])
    def test_duplicates_are_all_found_and_never_the_row_itself(self, make_store, measure):
        """The first hit is not always the query."""
        vectors = 100 * np.repeat(clustered(20, seed=3)[0], 4, axis=0)
        store = make_store(vectors=vectors, labels=np.zeros(80, dtype=int))
        build_index(store.features(), measure)
        found = NeighbourIndex.open(store, measure=measure).query(list(range(80)), 4)
        for row in range(80):
            copies = [other for other in range(row // 4 * 4, row // 4 * 4 + 4) if other != row]
            assert list(found.rows[row, :3]) == copies
            assert row not in found.rows[row]
        assert (found.distances[:, :3] == 0).all()

    def test_k_beyond_the_set(self, make_store):
        store = make_store(n=6)
        build_index(store.features())
        found = NeighbourIndex.open(store).query([2], 50)
        assert found.rows.shape == (1, 6)
        assert sorted(found.rows[0, :5]) == [0, 1, 3, 4, 5]
        assert found.rows[0, 5] == -1
        assert np.isinf(found.distances[0, 5])

    def test_one_image(self, make_store):
        store = make_store(n=1)
        build_index(store.features())
        index = NeighbourIndex.open(store)
        assert (index.query([0], 3).rows == -1).all()
        features = store.features()
        vector = features.read("gap", np.array([0]))
        found = index.query_vectors(vector / np.linalg.norm(vector), 3, weights_hash=HASH)
        assert found.rows.tolist() == [[0]]

    def test_no_query_no_answer(self, make_store):
        store = make_store(n=30)
        build_index(store.features())
        assert NeighbourIndex.open(store).query([], 3).rows.shape == (0, 3)

    def test_what_does_not_exist(self, make_store):
        store = make_store(n=30)
        build_index(store.features())
        index = NeighbourIndex.open(store)
        for wrong, told in (
            (30, "row 30 has no usable feature"),
            (-1, "row -1"),
            ("no", "image 'no' cannot be read"),
        ):
            with pytest.raises(BadInput, match=told):
                index.query([wrong], 3)
        with pytest.raises(BadInput, match="k 0"):
            index.query([1], 0)

    def test_vectors_of_other_weights_are_refused(self, make_store):
        store = make_store(n=30)
        build_index(store.features())
        index = NeighbourIndex.open(store)
        vectors = np.ones((1, 16), dtype=np.float32)
        with pytest.raises(BadInput, match="vectors of two networks cannot be compared"):
            index.query_vectors(vectors, weights_hash="cd" * 32)
        with pytest.raises(BadInput, match=r"\(Q, 16\) expected"):
            index.query_vectors(vectors[:, :9], weights_hash=HASH)

    @pytest.mark.parametrize("measure", ["gap_euclid", "gap_pearson"])
    def test_distances_of_other_measures(self, make_store, measure):
        vectors, labels = clustered(120)
        store = make_store(vectors=vectors, labels=labels)
        build_index(store.features(), measure)
        found = NeighbourIndex.open(store, measure=measure).query([4], 5)
        if measure == "gap_euclid":
            true = np.linalg.norm(vectors - vectors[4].astype(np.float64), axis=1)
        else:
            true = 1 - np.corrcoef(vectors.astype(np.float64))[4]
        true[4] = np.inf
        assert np.allclose(found.distances[0], np.sort(true)[:5], atol=1e-5)


class TestFilters:
    @pytest.fixture
    def index(self, make_store):
        vectors, labels = clustered(200)
        store = make_store(vectors=vectors, labels=labels)
        build_index(store.features())
        return NeighbourIndex.open(store)

    def test_relations(self, index):
        labels = index.images["label"]
        rows = [3, 60, 199]
        same = index.query(rows, 39, among=Among("same"))
        other = index.query(rows, 50, among=Among("other"))
        for line, row in enumerate(rows):
            assert set(labels[same.rows[line]]) == {labels[row]}
            assert row not in same.rows[line]
            assert labels[row] not in set(labels[other.rows[line]])

    def test_named_classes(self, index):
        found = index.query([3], 20, among=Among(labels=("1", "4")))
        assert set(index.images["label"][found.rows[0]]) == {"1", "4"}

    def test_nothing_left(self, index):
        found = index.query([3], 5, among=Among("same", ("1",)))
        assert (found.rows == -1).all()
        assert np.isinf(found.distances).all()
        assert len(neighbour_table(index, ["3"], found)) == 0

    def test_class_that_no_image_has(self, index):
        with pytest.raises(BadInput, match="no image has the label 'zebra'; there are: 0, 1,"):
            index.query([3], 5, among=Among(labels=("zebra",)))
        with pytest.raises(BadInput, match="relation 'near'"):
            Among("near")

    def test_an_approximate_index_filters_exactly(self, make_store):
        vectors, labels = clustered(1500, classes=30)
        store = make_store(vectors=vectors, labels=labels)
        build_index(store.features(), kinds=["ivf_sq8"], recall=0.9)
        index = NeighbourIndex.open(store)
        found = index.query([700], 10, among=Among("other"))
        assert found.exact.all()
        unit = vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        true = np.where(labels == labels[700], np.inf, 1 - unit @ unit[700])
        assert set(found.rows[0]) == set(np.argsort(true)[:10])


class TestImages:
    def test_a_stored_file_is_its_row(self, opened, pictures):
        path = pictures / "images" / "green" / "01.png"
        row = opened.images.index[opened.images["path"] == "green/01.png"][0]
        by_file, by_row = opened.query([path], 5), opened.query([int(row)], 5)
        assert by_file.query_rows.tolist() == [row]
        assert (by_file.rows == by_row.rows).all()
        assert np.abs(by_file.distances - by_row.distances).max() < 1e-6

    def test_file_url_bytes_and_row_are_the_same_image(self, opened, pictures):
        path = pictures / "images" / "blue" / "05.png"
        found = opened.query([str(path), f"file://{path}", path.read_bytes()], 4)
        assert (found.rows == found.rows[0]).all()

    def test_new_image(self, opened, pictures, tmp_path):
        array = np.full((24, 20, 3), (20, 200, 20), dtype=np.uint8)
        Image.fromarray(array).save(tmp_path / "new.png")
        found = opened.query([tmp_path / "new.png"], 3)
        assert found.query_rows.tolist() == [-1]
        assert set(opened.images["label"][found.rows[0]]) == {"green"}
        with pytest.raises(BadInput, match=r"class of query 0 is not known.*--label"):
            opened.query([tmp_path / "new.png"], 3, among=Among("other"))
        other = opened.query([tmp_path / "new.png"], 3, among=Among("other"), label="green")
        assert "green" not in set(opened.images["label"][other.rows[0]])

    def test_url_of_any_filesystem(self, opened, pictures):
        import fsspec

        data = (pictures / "images" / "blue" / "05.png").read_bytes()
        with fsspec.open("memory://queries/05.png", "wb") as file:
            file.write(data)
        found = opened.query(["memory://queries/05.png", data], 4)
        assert found.rows[0].tolist() == found.rows[1].tolist()
        for wrong, told in (
            ("memory://queries/none.png", "FileNotFoundError"),
            ("tape://queries/05.png", "Protocol not known: tape"),
            (str(pictures / "images"), "a folder, not a file"),
        ):
            with pytest.raises(BadInput, match=rf"cannot be read \(unreadable: .*{told}"):
                opened.query([wrong])

    def test_no_image(self, opened, tmp_path):
        (tmp_path / "text.png").write_text("no image")
        with pytest.raises(BadInput, match=r"text\.png' cannot be decoded"):
            opened.query([tmp_path / "text.png"])

    def test_network_of_other_weights_or_preprocessing_is_refused(self, opened, pictures):
        name = f"{pictures / 'net.py'}:small"
        image = pictures / "images" / "green" / "01.png"
        with pytest.raises(BadInput, match="vectors of two networks"):
            opened.query([image], network=load_network(name, seed=4))
        right = load_network(name, seed=3)
        assert opened.query([image], 2, network=right).rows.shape == (1, 2)
        other = type(right.transform)(resize=8)
        with pytest.raises(BadInput, match="the network preprocesses by"):
            opened.query([image], network=load_network(name, seed=3, transform=other))

    def test_chamfer(self, opened, pictures):
        found = opened.query([0, pictures / "images" / "green" / "01.png"], 3, rerank="chamfer")
        features = opened.features
        maps = features.read("last_conv", np.arange(40)).astype(np.float64)
        unit = maps / np.linalg.norm(maps, axis=1, keepdims=True)
        alike = np.einsum("cp,mcq->mpq", unit[0].reshape(12, -1), unit.reshape(40, 12, -1))
        naive = 1 - (alike.max(axis=2).mean(axis=1) + alike.max(axis=1).mean(axis=1)) / 2
        naive[0] = np.inf
        assert found.rows[0].tolist() == np.argsort(naive)[:3].tolist()
        assert np.allclose(found.distances[0], np.sort(naive)[:3], atol=1e-5)
        with pytest.raises(BadInput, match="unknown rerank 'emd'"):
            opened.query([0], rerank="emd")

    @pytest.mark.parametrize("wrong", [3, 7])
    def test_maps_that_are_no_numbers_are_named_by_row(self, opened, wrong, monkeypatch):
        whole = opened.features.read

        def read(name, rows):
            values = np.array(whole(name, rows))
            if name == "last_conv":
                values[np.asarray(rows) == wrong, 0, 0, 0] = np.nan
            return values

        monkeypatch.setattr(opened.features, "read", read)
        with pytest.raises(BadInput, match=f"last_conv is NaN or infinite in rows {wrong} of"):
            opened.query([7], 39, rerank="chamfer")

    @pytest.mark.parametrize("name", SET_MEASURES)
    def test_rerank_orders_by_the_set_measure(self, opened, name):
        found = opened.query([7], 39, rerank=name)
        maps = opened.features.read("last_conv", np.arange(40))
        true = SET_MEASURES[name].to_all(maps[7], maps)
        true[7] = np.inf
        assert (
            found.rows[0].tolist()
            == np.argsort(true.astype(np.float32), kind="stable")[:39].tolist()
        )
        assert not found.exact.any()

    def test_many(self, opened, pictures, tmp_path):
        folder = tmp_path / "queries"
        (folder / "red").mkdir(parents=True)
        for number in (0, 3, 6):
            name = f"{number:02d}.png"
            (folder / "red" / name).write_bytes((pictures / "images" / "red" / name).read_bytes())
        (folder / "red" / "broken.png").write_text("no image")
        report = query_many(
            opened, open_source(str(folder)), tmp_path / "out.parquet", 4, among=Among("same")
        )
        table = pd.read_parquet(report.path)
        assert report.n_queries == 3
        assert report.bad["path"].tolist() == ["red/broken.png"]
        assert table.groupby("number").size().tolist() == [4, 4, 4]
        assert set(table["label"]) == {"red"}
        alone = opened.query([pictures / "images" / "red" / "03.png"], 4, among=Among("same"))
        assert table[table["query"] == "red/03.png"]["row"].tolist() == alone.rows[0].tolist()
        assert {path.name for path in tmp_path.iterdir()} == {"queries", "out.parquet"}
        (tmp_path / "empty").mkdir()
        with pytest.raises(BadInput, match="no usable image"):
            query_many(opened, open_source(str(tmp_path / "empty")), tmp_path / "none.parquet")
        assert not (tmp_path / "none.parquet").exists()

    def test_many_without_class_folders(self, opened, pictures, tmp_path):
        """Loose files have no class: it is given once for all; an answer may be empty."""
        folder, out = tmp_path / "loose", tmp_path / "out.parquet"
        folder.mkdir()
        for label, number in (("blue", 2), ("red", 0)):
            name = f"{number:02d}.png"
            (folder / name).write_bytes((pictures / "images" / label / name).read_bytes())
        Image.fromarray(np.full((24, 20, 3), 90, dtype=np.uint8)).save(folder / "new.png")
        source = open_source(str(folder))
        with pytest.raises(BadInput, match=r"class of query 2 is not known.*--label"):
            query_many(opened, source, out, 4, among=Among("other"))
        assert not list(tmp_path.glob("out*"))
        query_many(opened, source, out, 4, among=Among("other"), label="green", rerank="chamfer")
        table = pd.read_parquet(out)
        # of a stored image its own class counts
        assert "red" not in set(table[table["query"] == "00.png"]["label"])
        assert "green" not in set(table[table["query"] == "new.png"]["label"])
        alone = opened.query([folder / "new.png"], 4, among=Among("other"), label="green",
                             rerank="chamfer")  # fmt: skip
        assert table[table["query"] == "new.png"]["row"].tolist() == alone.rows[0].tolist()
        query_many(opened, source, out, 4, among=Among("same", ("red",)), label="green")
        assert set(pd.read_parquet(out)["query"]) == {"00.png"}

    def test_every_way_on_the_command_line(self, opened, pictures, tmp_path):
        import fsspec

        def asked(*words):
            words = ["neighbours", *words, "--store", pictures / "store"]
            done = CliRunner().invoke(app, [str(word) for word in words])
            assert done.exception is None, done.exception
            return done.stdout

        path = pictures / "images" / "blue" / "05.png"
        fsspec.filesystem("memory").pipe_file("/asked/05.png", path.read_bytes())
        row = int(opened.images.index[opened.images["path"] == "blue/05.png"][0])
        ways = ("-k", 4, "--among", "red", "--among", "green", "--rerank", "chamfer")
        found = json.loads(asked(path, "memory://asked/05.png", row, *ways, "--json"))
        lines = [[one["row"] for one in found if one["number"] == query] for query in range(3)]
        among = Among(labels=("red", "green"))
        true = opened.query([row], 4, among=among, rerank="chamfer").rows[0].tolist()
        assert lines == [true, true, true]
        folder = tmp_path / "queries" / "blue"
        folder.mkdir(parents=True)
        for name in ("05.png", "08.png"):
            (folder / name).write_bytes((path.parent / name).read_bytes())
        (folder / "bad.png").write_text("no image")
        told = asked(folder.parent, "-k", 3, "--other-class", "--to", tmp_path / "near.parquet")
        assert "neighbours of 2 images" in told
        assert "bad.png" in told
        table = pd.read_parquet(tmp_path / "near.parquet")
        assert table["query"].unique().tolist() == ["blue/05.png", "blue/08.png"]
        assert "blue" not in set(table["label"])

    def test_contact_sheet(self, opened, tmp_path):
        found = opened.query([0, 1], 3)
        table = neighbour_table(opened, ["a", "b"], found)
        path = write_contact_sheet(opened, [0, 1], table, tmp_path / "sheet.png")
        with Image.open(path) as sheet:
            assert sheet.format == "PNG"
            assert sheet.width > 4 * 128
            assert sheet.height > 2 * 128


def test_an_image_without_a_distance_is_named(opened, pictures, monkeypatch):
    """Of one of two the network gives NaN; it had no neighbours, in silence."""
    files = sorted((pictures / "images" / "red").iterdir())[:2]
    encoder = opened.encoder(None)

    def broken(images):
        vectors = encoder(images)
        vectors[1] = np.nan
        return vectors

    monkeypatch.setattr(opened, "encoder", lambda network: broken)
    # Read as new images: stored ones take the vectors of the store.
    data = [file.read_bytes() + b"new" for file in files]
    with pytest.raises(BadInput, match=r"the vector of .* holds NaN, .* no distance to any image"):
        opened.query(data, 3)


def test_contact_sheet_of_images_that_are_gone(make_store, tmp_path):
    """An empty place for what cannot be read any more; the rest is shown."""
    store = make_store(n=30)
    (tmp_path / "images").mkdir()
    store.set_source(str(tmp_path / "images"), {})
    build_index(store.features())
    index = NeighbourIndex.open(store)
    table = neighbour_table(index, ["3"], index.query([3], 2))
    path = write_contact_sheet(index, [3], table, tmp_path / "sheet.png")
    with Image.open(path) as sheet:
        assert sheet.getpixel((20 + 140 * 2, 20)) == (235, 235, 235)


@pytest.mark.quick
def test_tidy_orders_ties_by_row_and_pads():
    distances = np.array([[0.5, 0.1, 0.1, 0.0]], dtype=np.float32)
    rows = np.array([[9, 7, 4, 2]])
    near, kept = tidy(distances, rows, 5, np.array([2]))
    assert kept.tolist() == [[4, 7, 9, -1, -1]]
    assert near[0, :3].tolist() == pytest.approx([0.1, 0.1, 0.5])


@pytest.mark.parametrize("kind", [name for name, kind in INDEX_KINDS.items() if kind.available()])
def test_a_mapped_index_answers_as_one_in_memory(make_store, kind):
    store = make_store(n=1200, dimension=32)
    features = store.features()
    if kind == "flat_bfloat16":
        pytest.skip("its file is that of `flat`")
    build_index(features, kinds=[kind], wish=Wish(0.5, memory=1 << 24))
    rows = np.arange(0, 1200, 40)
    folder = folder_of(store, features.key, "gap_cosine")
    mapped = NeighbourIndex.open(store)
    card, index = read_index(folder)
    whole = NeighbourIndex(features, mapped.measure, card, open_engine(index, card.spec))
    for other in Among(), Among("other"):
        one, two = (each.query(rows, 7, among=other) for each in (mapped, whole))
        assert np.array_equal(one.rows, two.rows)
        assert np.array_equal(one.distances, two.distances)
    # Its pages are those of the file, which a reader keeps when it is gone.
    (folder / card.file).unlink()
    assert np.array_equal(mapped.query(rows, 7).rows, whole.query(rows, 7).rows)
