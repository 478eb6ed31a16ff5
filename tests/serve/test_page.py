"""The HTTP API and the page against the functions that they stand for."""

import json
import re

import numpy as np
import pytest

from alike.analysis.explain.likeness_maps import likeness
from alike.extract.errors import BadInput
from alike.extract.images.decoding import decode
from alike.extract.store.store import Store
from alike.index.query import NeighbourIndex
from alike.serve.run import serve
from alike.serve.service import KEPT, NeighbourService


@pytest.fixture
def index(place):
    return NeighbourIndex.open(place / "store")


def test_the_set(client, index):
    told = client.json("/api/set")
    assert told["key"] == index.features.key
    assert told["images"] == 20
    assert told["classes"] == {"cat": 8, "dog": 8, "Käfer": 4}
    assert told["maps"]


@pytest.mark.parametrize("relation", ["any", "same", "other"])
def test_neighbours_of_a_stored_image(client, index, relation):
    from alike.index.filters import Among

    told = client.json(f"/api/images/3/neighbours?k=5&relation={relation}")
    wanted = index.query([3], 5, among=Among(relation))
    there = wanted.rows[0] >= 0
    assert [one["row"] for one in told["neighbours"]] == wanted.rows[0][there].tolist()
    distances = [one["distance"] for one in told["neighbours"]]
    np.testing.assert_allclose(distances, wanted.distances[0][there], rtol=1e-6)
    assert told["query"]["label"] == index.images.at[3, "label"]
    for one in told["neighbours"]:
        assert one["label"] == index.images.at[one["row"], "label"]


def test_neighbours_of_some_classes(client):
    told = client.json("/api/images/3/neighbours?k=20&label=K%C3%A4fer&label=dog")
    assert {one["label"] for one in told["neighbours"]} == {"Käfer", "dog"}


def test_a_stored_image_that_is_brought_is_known(client, place):
    data = (place / "images" / "dog" / "2.png").read_bytes()
    told = client.json("/api/images", data)
    assert told["label"] == "dog"
    near = client.json(f"/api/images/{told['image']}/neighbours?k=19")["neighbours"]
    assert told["row"] not in [one["row"] for one in near]
    assert len(near) == 19


def test_a_new_image(client, place, index):
    from PIL import Image

    file = place / "new.jpg"
    Image.open(place / "images" / "cat" / "1.png").rotate(90, expand=True).save(file)
    told = client.json("/api/images", file.read_bytes())
    assert told["row"] == -1
    assert told["label"] is None
    near = client.json(f"/api/images/{told['image']}/neighbours?k=4")["neighbours"]
    assert [one["row"] for one in near] == index.query([file], 4).rows[0].tolist()
    status, headers, body = client.get(f"/api/images/{told['image']}/picture?side=32")
    assert (status, headers["Content-Type"]) == (200, "image/png")
    assert decode(body).shape == (3, 32, 21)
    pair = client.json(f"/api/images/{told['image']}/alike/0")
    assert np.sum(pair["likeness"][0]) == pytest.approx(pair["value"], abs=1e-3)


def test_where_two_are_alike(client, place):
    told = client.json("/api/images/3/alike/12")
    maps = Store.open(place / "store").features().read("last_conv", np.array([3, 12]))
    wanted = likeness(maps[0], maps[1])
    assert told["value"] == pytest.approx(wanted.value)
    np.testing.assert_allclose(told["likeness"][0], wanted.on_a, atol=1e-5)
    np.testing.assert_allclose(told["likeness"][1], wanted.on_b, atol=1e-5)
    pairs = np.array(told["pairs"])
    np.testing.assert_allclose(pairs.sum(1), wanted.on_a.ravel(), atol=1e-4)
    np.testing.assert_allclose(pairs.sum(0), wanted.on_b.ravel(), atol=1e-4)
    apart = np.sum(told["difference"][0]) + np.sum(told["difference"][1])
    assert apart == pytest.approx(1 - wanted.value, abs=1e-3)


def test_a_browser_keeps_no_picture(client):
    """The address may serve another store in a minute, whose row 0 is another image."""
    for path in ("/api/images/0/picture", "/api/images/0/seen"):
        _, headers, _ = client.get(path)
        assert headers["cache-control"] == "no-store"


def test_what_the_network_sees(client, place):
    _, _, body = client.get("/api/images/0/seen")
    assert decode(body).shape == (3, 16, 16)


def test_images_at_random(client):
    first = client.json("/api/images?count=30&seed=1")
    assert sorted(one["row"] for one in first) == list(range(20))
    assert first == client.json("/api/images?count=30&seed=1")
    assert first != client.json("/api/images?count=30&seed=2")
    assert {one["label"] for one in client.json("/api/images?label=K%C3%A4fer")} == {"Käfer"}


@pytest.mark.parametrize(
    ("path", "data", "told"),
    [
        ("/api/images/99/neighbours", None, "row 99 is not stored"),
        ("/api/images/abc/neighbours", None, "bring it again"),
        ("/api/images/3/neighbours?k=0", None, "k 0: from 1 to 200"),
        ("/api/images/3/neighbours?relation=near", None, "any, same, other"),
        ("/api/images/3/neighbours?label=cow", None, "no image has the label 'cow'"),
        ("/api/images?label=cow", None, "no image has the label 'cow'"),
        ("/api/images/3/picture?side=5000", None, "from 16 to 1024 pixels"),
        ("/api/images", b"", "an empty body"),
        ("/api/images", b"no image at all", "cannot be decoded"),
    ],
)
def test_bad_questions_get_one_clear_line(client, path, data, told):
    status, _, body = client.get(path, data)
    assert status == 422
    assert told in json.loads(body)["error"]


def test_the_page_asks_nobody_else(client):
    status, headers, body = client.get("/")
    assert status == 200
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    named = re.findall(r'(?:src|href)="([^"#]+)"', body.decode())
    assert named
    for part in named:
        status, _, content = client.get(part)
        assert status == 200
        assert b"http://" not in content
        assert b"https://" not in content


@pytest.mark.quick
def test_other_names_of_the_host_are_refused(client):
    status, _, _ = client.get("/api/set", Host="elsewhere.example")
    assert status == 400


def test_a_taken_port_is_told(client, place):
    port = int(client.address.rpartition(":")[2])
    with pytest.raises(BadInput, match="choose another by --host, --port"):
        serve(NeighbourService(place / "store"), port=port)


def test_only_the_latest_images_are_remembered(place):
    from PIL import Image

    service = NeighbourService(place / "store")
    names = []
    for number in range(KEPT + 1):
        file = place / "one.png"
        Image.new("RGB", (8, 8), (number, 0, 0)).save(file)
        names.append(service.bring(file.read_bytes())["image"])
    assert service.about(names[1])["row"] == -1
    with pytest.raises(BadInput, match="bring it again"):
        service.about(names[0])
