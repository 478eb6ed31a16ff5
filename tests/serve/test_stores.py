"""Several stores in one server: each by its name, images and networks once for all."""

import hashlib
import shutil

import pytest
from PIL import Image

import alike
from alike.extract.errors import BadInput
from alike.extract.store.store import Store
from alike.index.build import build_index
from alike.serve.budgets import Budgets
from alike.serve.service import NeighbourService
from alike.serve.stores import store_names

from .browser import browser, missing
from .conftest import server


@pytest.fixture(scope="module")
def places(place, tmp_path_factory):
    """The set, and a store of its dogs alone, with another measure besides."""
    folder = tmp_path_factory.mktemp("several")
    shutil.copytree(place, folder / "own")
    dogs = Store.open(folder / "own" / "store")
    table = dogs.images().drop(columns="row")
    gone = table["label"] != "dog"
    dogs.list_images(table[~gone])
    features = dogs.features()
    for measure in ("gap_cosine", "map_cosine"):
        build_index(features, measure, rebuild=True)
    (folder / "own" / "store").rename(folder / "own" / "dogs.store")
    return [place / "store", folder / "own" / "dogs.store"]


@pytest.fixture(scope="module")
def several(places):
    with server(*places) as answering:
        yield answering


@pytest.mark.quick
def test_stores_are_called_by_their_folders():
    places = ["pets.store", "s3://bucket/cars.store/", "a/store", "b/store", "ü ß"]
    assert store_names(places) == ["pets", "cars", "a-store", "b-store", "store"]
    assert store_names(["x", "x", "x-2", "./x"]) == ["x", "x-2", "x-2-2", "x-3"]


def test_each_store_answers_below_its_name(several, places):
    stores = several.json("/api/v1/stores")
    assert [one["name"] for one in stores] == ["store", "dogs"]
    assert [(one["images"], one["classes"]) for one in stores] == [(20, 3), (8, 1)]
    first = several.json("/api/v1/images/3/neighbours?k=5")
    assert several.json("/api/v1/stores/store/images/3/neighbours?k=5") == first
    wanted = NeighbourService(places[1]).neighbours("12", 5)
    found = several.json("/api/v1/stores/dogs/images/12/neighbours?k=5")
    assert [one["row"] for one in found["neighbours"]] == [
        one["row"] for one in wanted["neighbours"]
    ]
    assert {one["label"] for one in found["neighbours"]} == {"dog"}
    status, _, body = several.get("/api/v1/stores/birds/images")
    assert (status, b"error" in body) == (404, True)


def test_one_image_is_asked_in_every_store(several, place):
    data = (place / "images" / "cat" / "2.png").read_bytes()
    image = hashlib.sha256(data).hexdigest()
    found = several.json(f"/api/v1/stores/dogs/images/{image}/neighbours?k=3")
    assert found["query"]["row"] == -1
    assert len(found["neighbours"]) == 3
    status, _, _ = several.get(f"/api/v1/stores/dogs/images/{image}/thumbnail")
    assert status == 200
    status, _, _ = several.get(f"/api/v1/stores/dogs/images/{'0' * 64}/neighbours")
    assert status == 404


def test_the_client_asks_the_store_that_is_named(several, place):
    with alike.connect(several.address, store="dogs") as dogs:
        assert list(dogs.stores()["name"]) == ["store", "dogs"]
        assert set(dogs.neighbours(place / "images" / "cat" / "2.png", k=4)["label"]) == {"dog"}
    with pytest.raises(BadInput, match="store, dogs"):
        alike.connect(several.address, store="birds")


def test_a_network_is_asked_once_for_all_stores_and_measures(places, place, tmp_path, monkeypatch):
    """As by a service of one measure; the passes are counted."""
    from alike.index import encode

    passes = []
    forward = encode.Encoder._forward
    monkeypatch.setattr(
        encode.Encoder, "_forward",
        lambda self, images, wanted: passes.append(len(images)) or forward(self, images, wanted),
    )  # fmt: skip
    Image.open(place / "images" / "dog" / "5.png").rotate(180).save(tmp_path / "turned.png")
    data = (tmp_path / "turned.png").read_bytes()
    first = NeighbourService(places[0])
    dogs = NeighbourService(places[1], beside=first)
    image = first.upload(data)["image"]
    answers = [first.neighbours(image, 4), dogs.neighbours(image, 4)]
    answers.append(dogs.neighbours(image, 4, opened=dogs.opened(measure="map_cosine")))
    first.tap(image, "logits", first.opened())
    first.alike(image, "3")
    assert passes == [1]
    for number, (store, measure) in enumerate(
        [(places[0], "gap_cosine"), (places[1], "gap_cosine"), (places[1], "map_cosine")]
    ):
        alone = NeighbourService(store, measure=measure)
        alone.upload(data)
        assert alone.neighbours(image, 4)["neighbours"] == answers[number]["neighbours"]
    assert len(passes) == 4


def test_more_neighbours_take_no_second_pass(place, tmp_path, monkeypatch):
    """Not even of more images than the budget holds the maps of: their vectors stay."""
    from alike.index import encode

    passes = []
    forward = encode.Encoder._forward
    monkeypatch.setattr(
        encode.Encoder, "_forward",
        lambda self, images, wanted: passes.append(len(images)) or forward(self, images, wanted),
    )  # fmt: skip
    service = NeighbourService(place / "store", budgets=Budgets(vectors=2048))
    names = []
    for number in range(4):
        Image.open(place / "images" / "cat" / f"{number}.png").rotate(180).save(tmp_path / "a.png")
        names.append(service.upload((tmp_path / "a.png").read_bytes())["image"])
    first = [service.neighbours(name, 3) for name in names]
    assert [service.tap(name, "logits", service.opened()).shape for name in names[-1:]] == [(3,)]
    assert service.networks.tap(names[0], "last_conv", service.opened()) is None
    more = [service.neighbours(name, 9) for name in names]
    assert passes == [1] * 4
    for few, many in zip(first, more, strict=True):
        assert many["neighbours"][:3] == few["neighbours"]


@pytest.mark.skipif(bool(missing()), reason=missing() or "there is a browser")
def test_another_store_is_chosen_on_the_page(several):
    near = "document.querySelectorAll('.near .pic').length"
    with browser() as page:
        page.shape(1400, 900, dark=False)
        page.go(f"{several.address}/#ask?image=3")
        page.wait(f"{near} === 12")
        page.run("document.querySelector('.query a, .near .pic').click()")
        image = page.run("return document.querySelector('.near .pic').dataset.image")
        page.run("location.hash = `ask?image=${arguments[0]}`", image)
        page.wait(f"{near} === 12")
        page.run(
            "const list = document.querySelector('#set select');"
            "list.value = 'dogs'; list.dispatchEvent(new Event('change'));"
        )
        page.wait(f"location.hash.includes('store=dogs') && {near} >= 7 && {near} <= 8")
        assert image in page.run("return location.hash")
        assert "8 images" in page.run("return document.querySelector('#set').innerText")
        # The address alone leads there; so do the links of the other views.
        page.go("about:blank")
        page.go(f"{several.address}/#data?kind=twins&store=dogs")
        page.wait("document.querySelector('.empty, .entry')")
        links = page.run(
            "return [...document.querySelectorAll('nav a[data-view]')].map((a) => a.hash)"
        )
        assert all("store=dogs" in one for one in links)
        page.go(f"{several.address}/#ask?store=birds")
        page.wait("document.querySelector('.empty')?.innerText.includes('store, dogs')")
        # That nothing was analysed is a refusal (404), which the browser logs by itself.
        expected = ("GPU stall", "status of 404")
        complaints = [one for one in page.complaints() if not any(e in one for e in expected)]
        assert complaints == []
