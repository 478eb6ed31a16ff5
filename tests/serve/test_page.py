"""The HTTP API and the page against the functions that they stand for."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import alike
from alike.analysis.explain.likeness_maps import likeness
from alike.extract.errors import BadInput
from alike.extract.images.decoding import decode
from alike.extract.store.store import Store
from alike.index.query import NeighbourIndex
from alike.serve.budgets import Budgets
from alike.serve.service import NeighbourService

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def index(place):
    return NeighbourIndex.open(place / "store")


@pytest.mark.quick
def test_the_set(client, index):
    told = client.json("/api/v1/set")
    assert told["key"] == index.features.key
    assert told["images"] == 20
    assert told["classes"] == {"cat": 8, "dog": 8, "Käfer": 4}
    assert told["maps"]
    assert told["title"] == told["extractions"][0]["title"]
    assert told["title"] == "nets.py:small, random weights of seed 0"


@pytest.mark.parametrize("relation", ["any", "same", "other"])
def test_neighbours_of_a_stored_image(client, index, relation):
    from alike.index.filters import Among

    told = client.json(f"/api/v1/images/3/neighbours?k=5&relation={relation}")
    wanted = index.query([3], 5, among=Among(relation))
    there = wanted.rows[0] >= 0
    assert [one["row"] for one in told["neighbours"]] == wanted.rows[0][there].tolist()
    distances = [one["distance"] for one in told["neighbours"]]
    np.testing.assert_allclose(distances, wanted.distances[0][there], rtol=1e-6)
    assert told["query"]["label"] == index.images.at[3, "label"]
    for one in told["neighbours"]:
        assert one["label"] == index.images.at[one["row"], "label"]


def test_neighbours_of_some_classes(client):
    told = client.json("/api/v1/images/3/neighbours?k=20&label=K%C3%A4fer&label=dog")
    assert {one["label"] for one in told["neighbours"]} == {"Käfer", "dog"}


def test_fewer_neighbours_than_were_asked_for_are_said(client):
    whole = client.json("/api/v1/images/3/neighbours?k=19")
    assert (whole["measure"], whole["notes"]) == ("gap_cosine", [])
    told = client.json("/api/v1/images/3/neighbours?k=200")
    assert told["neighbours"] == whole["neighbours"]
    assert told["notes"] == ["200 were asked for: only 19 images may answer"]
    question = json.dumps({"images": ["3", "4"], "k": 9, "labels": ["Käfer"]}).encode()
    _, _, body = client.get("/api/v1/neighbours", question, Content_Type="application/json")
    notes = [one["notes"] for one in json.loads(body)["answers"]]
    # The first is a Käfer itself.
    assert notes == [[f"9 were asked for: only {n} images may answer"] for n in (3, 4)]
    with alike.connect(client.address) as server:
        table = server.neighbours([3, 4], k=30)
        assert table.attrs["notes"] == ["30 were asked for: only 19 images may answer"]
        assert table.attrs["measure"] == "gap_cosine"
        assert server.images(30).attrs["n_images"] == 20


def test_a_stored_image_that_is_brought_is_known(client, place):
    data = (place / "images" / "dog" / "2.png").read_bytes()
    told = client.json("/api/v1/images", data)
    assert told["label"] == "dog"
    near = client.json(f"/api/v1/images/{told['image']}/neighbours?k=19")["neighbours"]
    assert told["row"] not in [one["row"] for one in near]
    assert len(near) == 19


def test_a_new_image(client, place, index):
    from PIL import Image

    file = place / "new.jpg"
    Image.open(place / "images" / "cat" / "1.png").rotate(90, expand=True).save(file)
    told = client.json("/api/v1/images", file.read_bytes())
    assert told["row"] == -1
    assert told["label"] is None
    near = client.json(f"/api/v1/images/{told['image']}/neighbours?k=4")["neighbours"]
    assert [one["row"] for one in near] == index.query([file], 4).rows[0].tolist()
    status, headers, body = client.get(f"/api/v1/images/{told['image']}/thumbnail?side=96")
    assert (status, headers["Content-Type"]) == (200, "image/webp")
    assert decode(body).shape == (3, 60, 40)
    pair = client.json(f"/api/v1/images/{told['image']}/alike/0")
    assert np.sum(pair["likeness"][0]) == pytest.approx(pair["value"], abs=1e-3)


def test_the_description_names_every_explainer():
    from alike.analysis.explain import EXPLAINERS, PAIR_EXPLAINERS
    from alike.serve.models import Method, PairMethod

    assert get_args(Method) == tuple(EXPLAINERS)
    assert get_args(PairMethod) == tuple(PAIR_EXPLAINERS)


def test_the_page_starts_without_torch(place):
    """And answers a stored row: what only other questions need comes with the first of them."""
    code = (
        "import sys\nfrom alike.serve.app import create_app\n"
        "from alike.serve.service import NeighbourService\n"
        "service = NeighbourService(sys.argv[1])\ncreate_app(service).openapi()\n"
        "service.facts(), service.neighbours('3', 5)\n"
        "heavy = {'torch', 'dask', 'prefect', 'plotly'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    words = [sys.executable, "-c", code, str(place / "store")]
    subprocess.run(words, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)


def test_where_two_are_alike(client, place):
    told = client.json("/api/v1/images/3/alike/12")
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
    near = client.json("/api/v1/images/3/neighbours?k=19")["neighbours"]
    distances = {one["row"]: one["distance"] for one in near}
    assert told["distance"] == pytest.approx(distances[12], rel=1e-5)


@pytest.mark.parametrize("measure", ["gap_euclid", "map_cosine", "gap_spearman"])
def test_the_pair_is_explained_as_the_neighbours_are_ordered(place, tmp_path, measure):
    """By Euclid's measure the maps sum to the square of the distance; by ranks they cannot."""
    from alike.index.build import build_index

    shutil.copytree(place / "store", tmp_path / "store")
    build_index(Store.open(tmp_path / "store").features(), measure)
    service = NeighbourService(tmp_path / "store", measure=measure)
    pair = service.alike("3", "12")
    near = service.neighbours("3", 19)["neighbours"]
    assert pair["distance"] == pytest.approx(
        next(one["distance"] for one in near if one["row"] == 12), rel=1e-5
    )
    apart = np.sum(pair["difference"][0]) + np.sum(pair["difference"][1])
    assert apart == pytest.approx(pair["apart"], rel=1e-3)
    assert pair["in_measure"] == (measure != "gap_spearman")
    said = ["gap_spearman cannot be split over places: the maps are of gap_cosine"]
    assert pair["notes"] == (said if measure == "gap_spearman" else [])
    if measure == "gap_spearman":
        assert pair["measure"] == "gap_cosine"
        assert pair["apart"] == pytest.approx(1 - pair["value"], abs=1e-6)
    else:
        assert pair["measure"] == measure
        own = pair["apart"] ** 0.5 if measure == "gap_euclid" else pair["apart"]
        assert own == pytest.approx(pair["distance"], rel=1e-2)


def test_what_the_network_sees(client):
    image = client.json("/api/v1/images/0")["image"]
    transform = client.json("/api/v1/set")["transform"]
    _, headers, body = client.get(f"/api/v1/images/{image}/input?transform={transform}")
    assert decode(body).shape == (3, 16, 16)
    assert "immutable" in headers["Cache-Control"]
    status, _, _ = client.get(f"/api/v1/images/{image}/input?transform=00000000")
    assert status == 404


def test_images_at_random(client):
    first = client.json("/api/v1/images?count=30&seed=1")
    assert sorted(one["row"] for one in first["images"]) == list(range(20))
    assert first["n_images"] == 20
    assert first["notes"] == ["30 were asked for: only 20 images are there"]
    assert client.json("/api/v1/images?count=20")["notes"] == []
    assert first == client.json("/api/v1/images?count=30&seed=1")
    assert first != client.json("/api/v1/images?count=30&seed=2")
    beetles = client.json("/api/v1/images?label=K%C3%A4fer&count=3")
    assert [one["label"] for one in beetles["images"]] == ["Käfer"] * 3
    assert beetles["n_images"] == 4


@pytest.mark.parametrize(
    ("path", "data", "status", "line"),
    [
        ("/images/99/neighbours", None, 404, "row 99 is not stored"),
        (f"/images/{'ab' * 32}/neighbours", None, 404, "upload it again"),
        (f"/images/{'ab' * 32}/thumbnail", None, 404, "is not in the store"),
        ("/images/abc/neighbours", None, 422, "image: the row of an image, or"),
        (
            f"/images/{'9' * 5000}/neighbours",
            None,
            422,
            "image: the row of an image, or the SHA-256",
        ),
        ("/images/3/neighbours?k=0", None, 422, "k: input should be greater than or equal to 1"),
        ("/images/3/neighbours?relation=near", None, 422, "'any', 'same' or 'other'"),
        ("/images/3/neighbours?label=cow", None, 404, "no image has the label 'cow'"),
        ("/images?label=cow", None, 404, "no image has the label 'cow'"),
        ("/images?seed=-1", None, 422, "seed: input should be greater than or equal to 0"),
        (f"/images/{'ab' * 32}/thumbnail?side=5000", None, 422, "96, 192, 384 or 768"),
        (
            "/images/3/neighbours?relations=other",
            None,
            422,
            "relations: no parameter of this question, which takes: features, k, label, measure, "
            "relation",
        ),
        ("/images/3/neighbours?k=3&k=5", None, 422, "k: given 2 times, once is expected"),
        ("/stores/store/tags?k=3", None, 422, "which takes: none"),
        ("/tags?limit=3", None, 422, "limit: no parameter of this question"),
        ("/health?deep=1", None, 422, "deep: no parameter of this question"),
        ("/class-pairs?offset=-1", None, 422, "offset: input should be greater than or equal to 0"),
        ("/images/3/neighbours?features=other", None, 404, "the store has"),
        ("/images/3/neighbours?measure=map_cosine", None, 404, "--measure map_cosine`"),
        ("/images/3/explain?method=guess", None, 422, "guess"),
        ("/images/3/explain?target=cow", None, 404, "cow"),
        ("/nothing", None, 404, "nothing is at '/api/v1/nothing': /api/v1/docs lists"),
        ("/stores/nope/set", None, 404, "no store 'nope': this server has store"),
        ("/run-difference?run=zz&run=zy", None, 404, "run 'zz': no run has that id; the last are"),
        ("/images", b"", 422, "an empty body"),
        ("/images", b"no image at all", 422, "): send another image file"),
        ("/neighbours", b"{", 400, "the body is no JSON: Expecting property name"),
        ("/neighbours?", b'{"images": ["3"]}', 415, "send Content-Type: application/json"),
    ],
)
def test_bad_questions_get_one_clear_line(client, path, data, status, line):
    kind = {"Content_Type": "application/json"} if path == "/neighbours" else {}
    answer, headers, body = client.get(f"/api/v1{path}", data, **kind)
    assert answer == status, body
    assert headers["X-Content-Type-Options"] == "nosniff"
    document = json.loads(body)
    assert list(document) == ["error"]
    assert line in document["error"]
    assert "\n" not in document["error"]


def test_the_page_asks_nobody_else(client):
    status, headers, body = client.get("/", method="HEAD")
    assert (status, body) == (200, b"")
    length = int(headers["Content-Length"])
    status, headers, body = client.get("/")
    assert len(body) == length
    assert status == 200
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    # The browser tests see no complaint of a style that is refused.
    assert "unsafe-inline" not in policy
    named = re.findall(r'(?:src|href)="([^"#]+)"', body.decode())
    assert named
    modules = [f"static/{one.name}" for one in (ROOT / "serve" / "static").glob("*.js")]
    assert len(modules) > 5
    for part in {*named, *modules}:
        status, _, content = client.get(f"/{part}")
        assert status == 200
        # The name of a format, not an address that is asked for.
        content = content.replace(b"http://www.w3.org/2000/svg", b"")
        assert b"http://" not in content
        assert b"https://" not in content


def test_only_the_latest_uploads_are_remembered(place):
    from PIL import Image

    files = []
    for number in range(3):
        file = place / "one.png"
        Image.new("RGB", (8, 8), (number, 0, 0)).save(file)
        files.append(file.read_bytes())
    budgets = Budgets(uploads=len(files[1]) + len(files[2]))
    service = NeighbourService(place / "store", budgets=budgets)
    names = [service.upload(file)["image"] for file in files]
    assert service.about(names[1])["row"] == -1
    with pytest.raises(BadInput, match="upload it again"):
        service.about(names[0])
