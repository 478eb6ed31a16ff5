"""One way to an image: all who take one refuse the same things, and name them."""

import hashlib
import os
import signal
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from alike.analysis.explain.all_images import explain_set
from alike.analysis.explain.classes import images_to_class
from alike.analysis.explain.images import explain_images
from alike.analysis.explain.inputs import network_for
from alike.analysis.explain.pair import compare_images, stored_frames
from alike.analysis.report.thumbnails import Pictures
from alike.extract.errors import BadInput
from alike.extract.frames import NamedImage, StoredImages, read_image, read_images, transform_of
from alike.extract.images import source as images_source
from alike.extract.images.sources import open_source
from alike.extract.networks.network import load_network
from alike.extract.pipeline import extract
from alike.extract.store.store import Store
from alike.flows.cli import app
from alike.index.build import build_index
from alike.index.query import NeighbourIndex
from alike.index.show import neighbour_table, write_contact_sheet
from alike.serve.service import NeighbourService, transform_name

NETWORK = """
from torch import nn

TRANSFORM = {"resize": [12, 12]}

def small():
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(8, 2))
"""
ROW = 3


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Eight pictures of two classes, extracted and indexed."""
    root = tmp_path_factory.mktemp("frames")
    (root / "nets.py").write_text(NETWORK)
    draw = np.random.default_rng(0)
    for number in range(8):
        file = root / "images" / ("cat", "dog")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (16, 20, 3), dtype=np.uint8)).save(file)
    network = load_network(f"{root / 'nets.py'}:small", "none", class_names=["cat", "dog"])
    store = Store.open(root / "store", create=True)
    extract(open_source(str(root / "images")), network, store, device="cpu", threads=1)
    build_index(store.features())
    return root


@pytest.fixture(scope="module")
def features(place):
    return Store.open(place / "store").features()


@pytest.fixture(scope="module")
def index(place):
    return NeighbourIndex.open(place / "store")


@pytest.fixture
def row_file(features):
    """The file of row `ROW`; what a test does to it is undone."""
    path = features.table().set_index("row")["path"][ROW]
    file = Path(features.store.source()[0]) / path
    data = file.read_bytes()
    yield file
    file.unlink(missing_ok=True)
    file.write_bytes(data)


@pytest.fixture
def alarm():
    """Ends a test that waits for a pipe, which would be for ever."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("waits for ever"))
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# Each takes an image from a user: (image, features, index).
TAKERS = {
    "read_image": lambda image, features, index: read_image(image),
    "read_images": lambda image, features, index: read_images([image], features.store),
    "neighbours": lambda image, features, index: index.query([image], 3),
    "encoder": lambda image, features, index: index.encoder()([image]),
    "explain": lambda image, features, index: explain_images([image], features, methods=("cam",)),
    "compare": lambda image, features, index: compare_images(image, image, network_for(features)),
    "to a class": lambda image, features, index: images_to_class(
        [image], network_for(features), features, "cat"
    ),
}


def served(features, row):
    """The image of a stored row as the page names it, by its hash."""
    return NeighbourService(features.store).image(features.store.image_ids()[row])


# Each shows the images of stored rows, or fails: (features, index, row).
STORED = {
    "StoredImages": lambda features, index, row: StoredImages.of(features.store).read(row),
    "read_images": lambda features, index, row: read_images([row], features.store),
    "explain": lambda features, index, row: explain_images([row], features, methods=("cam",)),
    "stored_frames": lambda features, index, row: stored_frames(features, [row]),
    "picture": lambda features, index, row: served(features, row),
    "network input": lambda features, index, row: NeighbourService(features.store).network_input(
        served(features, row), transform_name(features)
    ),
}


@pytest.fixture(params=["pipe", "folder", "missing", "too large", "no name", "URL of a pipe"])
def refused(request, tmp_path, monkeypatch, alarm):
    """Something that is no image file, and what is said of it."""
    file = tmp_path / "image.png"
    if request.param == "pipe":
        os.mkfifo(file)
        return str(file), "image.png' .*not a regular file"
    if request.param == "URL of a pipe":
        os.mkfifo(file)
        return f"file://{file}", "image.png' .*not a regular file"
    if request.param == "folder":
        file.mkdir()
        return str(file), "image.png' .*a folder, not a file"
    if request.param == "missing":
        return str(file), "image.png' .*No such file"
    if request.param == "no name":
        return "a\0b", "not the name of a file"
    file.write_bytes(bytes(2000))
    monkeypatch.setattr(images_source, "MAX_BYTES", 1999)
    return str(file), "image.png' .*too large: 2000 bytes"


@pytest.mark.parametrize("taker", TAKERS)
def test_all_refuse_the_same(taker, refused, features, index):
    image, told = refused
    with pytest.raises(BadInput, match=f"{told}.*: give an image file, a URL, or the number"):
        TAKERS[taker](image, features, index)


@pytest.mark.parametrize("command", ["neighbours", "explain"])
def test_commands_refuse_the_same(command, refused, place):
    image, _ = refused
    ran = CliRunner().invoke(app, [command, image, "--store", str(place / "store")])
    assert isinstance(ran.exception, BadInput)
    if command == "neighbours" and "\0" not in image and Path(image).is_dir():
        assert "a folder of queries needs --to" in str(ran.exception)
        return
    with pytest.raises(BadInput) as expected:
        read_image(image)
    assert str(ran.exception) == str(expected.value)


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_all_take_urls(taker, scheme, features, index, place, monkeypatch):
    data = (place / "images" / "cat" / "2.png").read_bytes()
    good = f"file://{place}/images/cat/2.png"
    if scheme == "memory":
        good = "memory://frames/2.png"
        with fsspec.open(good, "wb") as file:
            file.write(data)
    TAKERS[taker](good, features, index)
    with pytest.raises(BadInput, match=r"gone\.png' cannot be read .*(FileNotFound|No such file)"):
        TAKERS[taker](good.replace("2.png", "gone.png"), features, index)
    monkeypatch.setattr(images_source, "MAX_BYTES", len(data) - 1)
    with pytest.raises(BadInput, match=r"2\.png' cannot be read \(too large"):
        TAKERS[taker](good, features, index)


@pytest.mark.quick
@pytest.mark.parametrize("taker", TAKERS)
def test_all_take_bytes(taker, features, index, place):
    TAKERS[taker]((place / "images" / "cat" / "2.png").read_bytes(), features, index)


@pytest.mark.parametrize("taker", [name for name in TAKERS if not name.startswith("read")])
def test_bytes_of_no_image_are_named(taker, features, index):
    with pytest.raises(BadInput, match=r"'11 bytes' cannot be decoded \(unreadable: no image"):
        TAKERS[taker](b"not a photo", features, index)


@pytest.mark.parametrize("reader", STORED)
@pytest.mark.parametrize("how", ["gone", "changed", "a pipe"])
def test_a_stored_row_whose_file_is_gone_or_changed(
    reader, how, features, index, row_file, place, alarm
):
    other = (place / "images" / "cat" / "2.png").read_bytes()
    if how == "changed":
        row_file.write_bytes(other)
    else:
        row_file.unlink()
    if how == "a pipe":
        os.mkfifo(row_file)
    told = "has changed since" if how == "changed" else "cannot be read any more"
    with pytest.raises(BadInput, match=rf"'cat/6.png' of row {ROW} {told}.*`alike extract` again"):
        STORED[reader](features, index, ROW)


@pytest.mark.parametrize("how", ["gone", "changed"])
def test_a_whole_set_is_explained_but_for_what_is_gone_or_changed(how, features, row_file, place):
    row_file.unlink()
    if how == "changed":
        row_file.write_bytes((place / "images" / "cat" / "2.png").read_bytes())
    explained = explain_set(features, methods=("sa",))
    assert sorted(explained.table["row"]) == [row for row in range(8) if row != ROW]
    (line,) = explained.left_out
    assert line.startswith(f"image 'cat/6.png' of row {ROW} ")


def test_gone_and_changed_rows_leave_gaps_in_pictures(features, index, row_file, place, tmp_path):
    """Beside a row's numbers stands its own image or none, never another."""
    pictures = Pictures(features.store)
    near = index.query([0], 7)
    sheet = tmp_path / "sheet.png"

    def painted():
        write_contact_sheet(index, [0], neighbour_table(index, ["0"], near), sheet)
        column = 1 + near.rows[0].tolist().index(ROW)
        with Image.open(sheet) as image:
            return image.getpixel((10 + 6 + 140 * column + 20, 40)) != (235, 235, 235)

    assert painted()
    assert ROW in pictures.thumbnails([ROW])
    row_file.write_bytes((place / "images" / "cat" / "2.png").read_bytes())
    assert not painted()
    assert ROW not in pictures.thumbnails([ROW])
    row_file.unlink()
    assert not painted()
    assert ROW not in pictures.thumbnails([ROW])
    assert index.query([ROW], 3).rows[0, 0] >= 0, "features answer without the file"


@pytest.mark.parametrize("row", [-1, 8])
def test_no_such_row(row, features):
    with pytest.raises(BadInput, match=f"no row {row} in .*: its rows are 0 to 7"):
        read_images([row], features.store)


def test_an_image_is_what_the_network_saw(features, place):
    """Bytes, file, URL and row give one frame: the image resized, computed by Pillow."""
    file = place / "images" / "cat" / "2.png"
    row = int(features.table().set_index("path")["row"]["cat/2.png"])
    images = [str(file), file, f"file://{file}", file.read_bytes(), row, np.int64(row)]
    read = [*read_images(images, features.store), read_image(NamedImage("again", b"x"))]
    assert [one.name for one in read] == [
        str(file), str(file), f"file://{file}", f"{file.stat().st_size} bytes",
        "cat/2.png", "cat/2.png", "again",
    ]  # fmt: skip
    assert {one.image_id for one in read[:-1]} == {hashlib.sha256(file.read_bytes()).hexdigest()}
    frames = [one.frame(transform_of(features)) for one in read[:-1]]
    with Image.open(file) as picture:
        expected = np.asarray(picture.resize((12, 12), Image.Resampling.BILINEAR))
    for frame in frames:
        assert (frame == frames[0]).all()
        assert np.abs(frame.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1
