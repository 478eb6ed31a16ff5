"""The view Data: marks on any image of the set, as many as there are; sets without labels."""

import io
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import alike
from alike.analysis.data_limits import far_images
from alike.extract.errors import BadInput
from alike.extract.images.sources import open_source
from alike.extract.networks.network import load_network
from alike.extract.pipeline import extract
from alike.extract.store.store import Store
from alike.extract.store.tags import change_tags, read_tags
from alike.serve import outliers as outliers_module
from alike.serve.service import NeighbourService
from alike.serve.views import Views

from .browser import missing
from .conftest import server
from .visiting import READY, assert_quiet, visit

browsing = pytest.mark.skipif(bool(missing()), reason=missing() or "there is a browser")


@pytest.mark.quick
def test_far_images_are_those_with_a_large_robust_score():
    means = np.array([1.0, 1.1, 0.9, 1.2, 0.8, 5.0, 9.0])
    deviation = 1.4826 * np.median(np.abs(means - np.median(means)))
    places, scores = far_images(means)
    assert places.tolist() == [6, 5]
    assert scores == pytest.approx([(9 - 1.1) / deviation, (5 - 1.1) / deviation])
    assert far_images(np.ones(4))[0].size == 0


@pytest.fixture
def marked(unlabelled):
    """Every image with features but ten has a mark, and so has the torn one; which have."""
    store = Store.open(unlabelled)
    images = store.images().query("row >= 0")
    some = images["image_id"].tolist()[:119]
    torn = images.loc[images["path"] == "torn.png", "image_id"].item()
    change_tags(store, some, "odd", present=True)
    change_tags(store, [some[0], torn], "outlier", present=True)
    yield [*some, torn] if torn not in some else some
    change_tags(store, images["image_id"], "odd", present=False)
    change_tags(store, images["image_id"], "outlier", present=False)


@pytest.fixture(scope="module")
def plain(unlabelled):
    with server(unlabelled) as answering:
        yield answering


def test_marked_images_are_counted_and_exported(plain, unlabelled, marked):
    images = Store.open(unlabelled).images().set_index("image_id")
    listed = plain.json("/api/v1/lists/tags?limit=100")
    assert (len(listed["lines"]), listed["n_lines"], listed["needs"]) == (100, 120, "")
    rest = plain.json("/api/v1/lists/tags?limit=100&offset=100")
    whole = plain.json("/api/v1/lists/tags")
    assert [*listed["lines"], *rest["lines"]] == whole["lines"]
    assert (rest["offset"], rest["notes"]) == (100, [])
    after = plain.json("/api/v1/lists/tags?offset=120")
    assert (after["lines"], after["n_lines"]) == ([], 120)
    assert after["notes"] == ["offset 120 is beyond the last of 120 lines"]
    with alike.connect(plain.address) as answering:
        table = answering.images_to_check("tags", limit=7, offset=100)
    assert table["entry"].tolist() == list(range(100, 107))
    assert table["image"].tolist() == [one["images"][0]["image"] for one in rest["lines"][:7]]
    _, _, body = plain.get("/api/v1/lists/tags/file?form=parquet")
    table = pd.read_parquet(io.BytesIO(body)).set_index("image")
    assert set(table.index) == set(marked)
    assert table["row"].is_monotonic_increasing
    for image, line in table.iterrows():
        wanted = ["odd"] * (image in marked[:119]) + ["outlier"] * (
            image in (marked[0], marked[-1])
        )
        assert line["why"] == ", ".join(wanted)
        assert (line["row"], line["path"]) == (images.at[image, "row"], images.at[image, "path"])
    # The torn one has no features, so it has no side.
    assert table["split"].isna().sum() == 1
    _, _, body = plain.get("/api/v1/lists/tags/file")
    assert len(pd.read_csv(io.BytesIO(body))) == 120


def test_only_images_of_the_store_are_marked(unlabelled):
    service = NeighbourService(unlabelled)
    with pytest.raises(BadInput, match="not stored"):
        service.change_tags(["0" * 64], "odd", True)
    data = io.BytesIO()
    Image.new("RGB", (9, 9), (1, 2, 3)).save(data, "PNG")
    brought = service.upload(data.getvalue())["image"]
    with pytest.raises(BadInput, match="only stored images have tags"):
        service.change_tags([brought], "odd", True)


def test_outliers_of_a_set_without_labels(unlabelled, monkeypatch):
    """Against the whole matrix of cosine distances; and among images drawn at random."""
    features = Store.open(unlabelled).features()
    rows = features.table("all")["row"].to_numpy()
    unit = features.read("gap", rows).astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    apart = 1 - unit @ unit.T
    np.fill_diagonal(apart, np.inf)
    mean = np.sort(apart, axis=1)[:, :10].mean(axis=1)
    z = (mean - np.median(mean)) / (1.4826 * np.median(np.abs(mean - np.median(mean))))
    wanted = rows[np.argsort(-z)][: (z > 3.5).sum()]
    lines = Views(NeighbourService(unlabelled)).listed("outliers", None).lines
    assert lines["row"].tolist() == wanted.tolist()
    assert lines["score"].to_numpy(float) == pytest.approx(
        np.sort(z)[::-1][: len(wanted)], rel=1e-3
    )
    odd = {f"{number:03d}.png" for number in (40, 80, 120)}
    assert odd <= set(lines["path"].head(5))
    monkeypatch.setattr(outliers_module, "MOST_OTHERS", 60)
    monkeypatch.setattr("alike.serve.lists.MOST_OTHERS", 60)
    monkeypatch.setattr(outliers_module, "BLOCK", 50)
    lines = Views(NeighbourService(unlabelled)).listed("outliers", None).lines
    assert odd <= set(lines["path"].head(8))
    assert set(lines["why"]) == {"far from 60 images drawn at random"}


def test_the_same_bytes_under_another_label_are_listed(tmp_path, unlabelled):
    """The surest error of a label: one image, two files, two classes."""
    for label in ("left", "right"):
        (tmp_path / "images" / label).mkdir(parents=True)
    for number in range(8):
        label = ("left", "right")[number % 2]
        pixels = np.random.default_rng(number).integers(0, 255, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / label / f"{number}.png")
    images = tmp_path / "images"
    shutil.copy(images / "left" / "0.png", images / "right" / "copy.png")
    shutil.copy(images / "left" / "2.png", images / "left" / "again.png")
    (images / "left" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    store = Store.open(tmp_path / "store", create=True)
    network = load_network(f"{unlabelled.parent}/nets.py:small", "none")
    extract(open_source(str(images)), network, store, taps=("last_conv",), device="cpu")
    listed = Views(NeighbourService(tmp_path / "store")).listed("twins", None)
    assert listed.needs == ""
    (line,) = listed.lines.to_dict("records")
    assert (line["path"], line["label"]) == ("left/0.png", "left")
    assert (line["other_path"], line["other_label"]) == ("right/copy.png", "right")
    assert line["why"] == "same bytes, labels “left” and “right”"


@browsing
def test_bad_images_are_marked_too(page, plain, unlabelled):
    store, address = Store.open(unlabelled), f"{plain.address}/"
    visit(page, f"{address}#data?kind=bad", "document.querySelectorAll('.entry').length === 2")
    entries = page.run(
        "return [...document.querySelectorAll('.entry')]"
        ".map((one) => [one.querySelector('b').textContent, !!one.querySelector('.mark-it')])"
    )
    assert entries == [["gone.png", False], ["torn.png", True]]
    # What could not be read is not asked for as a picture.
    assert page.run("return document.querySelectorAll('.entry .nopicture').length") == 2
    assert_quiet(page, address)
    assert "never read" in page.run("return document.querySelector('.entry').innerText")
    torn = store.images().set_index("path").at["torn.png", "image_id"]
    for number in (1, 0):
        page.run("document.querySelector('.mark-it').click()")
        pressed = "document.querySelector('.mark-it').getAttribute('aria-pressed')"
        page.wait(f"{pressed} === '{('false', 'true')[number]}'")
        assert read_tags(store).to_numpy().tolist() == [[torn, "bad-image"]] * number
        if number:
            # Nor is it in the list of what is marked, which takes the mark away again.
            visit(page, f"{address}#data?kind=tags", "document.querySelector('.entry')")
            assert page.run("return document.querySelectorAll('.entry .nopicture').length") == 1
            assert_quiet(page, address)


@browsing
def test_all_marked_images_can_be_seen(page, plain, marked):
    address = f"{plain.address}/"
    visit(page, f"{address}#data?kind=tags", "document.querySelectorAll('.entry').length === 100")
    text = page.run("return document.querySelector('.view').innerText")
    assert "120 entries" in text
    assert "odd 119, outlier 2" in text
    assert "100 of 120 are shown" in text
    page.run("document.querySelector('.more').click()")
    page.wait(f"{READY} && document.querySelectorAll('.entry').length === 120")
    assert not page.run("return document.querySelector('.more')")
    # Whoever looks at an image and goes back is where they were in the list.
    assert "lines=120" in page.run("return location.hash")
    top = page.run("scrollTo({top: 900, behavior: 'instant'}); return scrollY")
    page.run("document.querySelectorAll('.entry .pictures a')[30].click()")
    page.wait(f"document.querySelector('.view.ask') && {READY}")
    page.run("history.back()")
    page.wait(f"{READY} && document.querySelectorAll('.entry').length === 120")
    page.wait(f"scrollY === {top}")
    page.run("document.querySelectorAll('.entry')[1].querySelector('.mark-it').click()")
    page.wait("document.querySelectorAll('.entry')[1].querySelector('[aria-pressed=false]')")
    assert plain.json("/api/v1/lists/tags")["n_lines"] == 119
    assert_quiet(page, address)


@browsing
def test_the_map_and_the_outliers_of_a_set_without_labels(page, plain, tmp_path):
    address = f"{plain.address}/"
    visit(page, f"{address}#map", "document.querySelectorAll('.legend button').length")
    page.run("document.querySelector('.plane').scrollIntoView()")
    page.picture(tmp_path / "map.png")
    box = page.run(
        "const b = document.querySelector('.plane').getBoundingClientRect();"
        "return [b.left + 2, b.top + 60, b.right - 2, Math.min(b.bottom, innerHeight) - 2];"
    )
    seen = np.asarray(Image.open(tmp_path / "map.png").convert("RGB").crop(tuple(map(int, box))))
    inks = page.run(
        "return [...document.querySelectorAll('.legend i')].map((one) =>"
        "getComputedStyle(one).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number));"
    )
    close = sum((np.abs(seen.astype(int) - ink).max(axis=2) < 40).sum() for ink in inks)
    assert close > 130 * 10
    visit(page, f"{address}#data?kind=outliers", "document.querySelectorAll('.entry').length > 2")
    lines = plain.json("/api/v1/lists/outliers")["lines"]
    paths = page.run(
        "return [...document.querySelectorAll('.entry .path')].map((one) => one.textContent)"
    )
    assert [one.partition(" ")[0] for one in paths] == [one["images"][0]["path"] for one in lines]
    assert_quiet(page, address)
