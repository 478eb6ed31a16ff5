"""`alike store forget` after a run: nothing of the image is left, and the next run is whole."""

import io
import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import zarr
from changing_set import Place, without_prefect
from typer.testing import CliRunner

from alike.extract.documents import sealed_json
from alike.extract.errors import BadInput
from alike.extract.images import image_id
from alike.extract.store.forgotten import MARK, Forgetting, unfinished
from alike.extract.store.store import Store
from alike.extract.store.tags import change_tags
from alike.extract.store.verification import verify
from alike.flows.cli import app
from alike.serve.pictures import Thumbnails


@pytest.fixture
def place(tmp_path, monkeypatch):
    without_prefect(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = Place(tmp_path)
    place.now |= {"examples": 2, "confused": 1}
    return place


def called(*words):
    done = CliRunner().invoke(app, ["store", "forget", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def bytes_below(folder):
    """Every file of a store, and what its compressed files hold."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        data = path.read_bytes()
        yield path, data
        if data[:4] == b"PAR1":
            for column in pq.read_table(io.BytesIO(data)).columns:
                text = (
                    one if isinstance(one, bytes) else str(one).encode()
                    for one in column.to_pylist()
                )
                yield path, b"\n".join(text)
        if path.suffix == ".npz":
            with np.load(io.BytesIO(data), allow_pickle=False) as members:
                for name in members.files:
                    yield path, members[name].tobytes()


def holders(folder, needles):
    return {path.name for path, data in bytes_below(folder) if any(one in data for one in needles)}


def test_after_a_run_nothing_is_left_and_the_next_run_is_whole(place, tmp_path):
    before = place.run("out")
    store = Store.open(tmp_path / "out" / "store")
    file = place.pick(5)
    path, image = f"{file.parent.name}/{file.name}", image_id(file.read_bytes())
    view = store.images().set_index("path")
    row = int(view.at[path, "row"])
    assert view.at[path, "image_id"] == image
    features = store.features()
    values = [features.read(name, [row])[0].tobytes()[:16] for name in features.arrays]
    needles = [image.encode(), file.name.encode(), *values]
    change_tags(store, [image], "mine", present=True)
    shown = Thumbnails(1 << 20, tmp_path / "cache" / "alike" / "thumbnails", 1 << 20)
    shown.keep(image, 64, b"webp", on_disk=True)
    shown.keep("0" * 64, 64, b"webp", on_disk=True)
    assert {"view.parquet", "tags.parquet"} < holders(tmp_path / "out" / "store", needles)

    planned = json.loads(called(path, "--store", store.url, "--dry-run", "--json"))
    assert planned["dry_run"]
    assert planned["report"]["images"] == 1
    assert planned["listed"] == [path]
    assert holders(tmp_path / "out" / "store", needles)
    said = called(path, "--store", store.url)
    assert "images forgotten: 1" in said
    assert "deleted with them: explanations, fitted measures, index, maps, tables" in said
    assert f"note: {path} of the source still holds the bytes: delete it there too" in said
    assert "note: reports, exports, weights and copies outside" in said
    assert holders(tmp_path / "out" / "store", needles) == set()
    for _, group in zarr.open_group(tmp_path / "out/store/features.zarr", mode="r").groups():
        for name, array in group.arrays():
            if name != "valid":
                assert not any(one in array[:].tobytes() for one in values)
    assert list((tmp_path / "cache").rglob("*.webp")) == [shown._path("0" * 64, 64)]
    assert verify(Store.open(store.url)).damage == ()

    # The file goes too: the next run is that of a set without it, and knows why it runs.
    file.unlink()
    after = place.run("out")
    fresh = place.run("fresh")
    assert after.keys() == before.keys()
    for name, table in after.items():
        pd.testing.assert_frame_equal(table, fresh[name], rtol=1e-5, atol=1e-6, obj=name)
    assert holders(tmp_path / "out" / "store", needles) == set()
    assert verify(Store.open(store.url)).damage == ()


def test_what_comes_back_and_what_was_cut_off(place, tmp_path):
    place.run("out")
    url = str(tmp_path / "out" / "store")
    store = Store.open(url)
    # One stays in the source; of the other the deletion was cut off as soon as it had begun.
    path, n_rows = str(store.images()["path"].iloc[3]), store.n_rows
    called(path, "--store", url)
    image = store.images().iloc[1]
    marked = Forgetting((int(image["row"]),), (str(image["image_id"]),), ("x",))
    store.write_file(MARK, sealed_json(asdict(marked)))
    assert [one.file for one in verify(store).damage] == [MARK]
    (tmp_path / "set" / image["path"]).unlink()
    place.run("out")
    assert unfinished(store) is None
    assert holders(tmp_path / "out" / "store", [image["image_id"].encode()]) == set()
    view = Store.open(url).images().set_index("path")
    assert view.at[path, "row"] == n_rows
    assert verify(Store.open(url)).damage == ()


@pytest.mark.quick
def test_a_store_of_images_alone(tmp_path):
    url = str(tmp_path / "store")
    ids = [image_id(bytes([number])) for number in range(3)]
    listing = pd.DataFrame({"image_id": ids, "path": ["x", "y", "z"], "label": "a", "size": 1})
    Store.open(url, create=True).list_images(listing.assign(state="ok", reason=""))
    with pytest.raises(BadInput, match="no IMAGE is named"):
        called("--store", url)
    with pytest.raises(BadInput, match=r"no image 'elsewhere\.png'"):
        called("elsewhere.png", "--store", url)
    assert json.loads(called("y", "--store", url, "--json"))["report"]["rows"] == [1]
    assert Store.open(url).images()["path"].tolist() == ["x", "z"]
    assert verify(Store.open(url)).damage == ()
    assert holders(tmp_path / "store", [ids[1].encode()]) == set()
