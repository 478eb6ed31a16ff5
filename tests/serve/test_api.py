"""The API beside the command line and the functions that it stands for, through `alike.connect`."""

import asyncio
import dataclasses
import io
import json
import re
import shutil
import subprocess
import sys

import httpx
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import alike
from alike.extract.errors import BadInput
from alike.extract.store.store import Store
from alike.extract.store.tags import change_tags, read_tags
from alike.index.build import build_index
from alike.index.files import read_card, rewrite_card
from alike.index.query import NeighbourIndex
from alike.serve.app import create_app
from alike.serve.pictures import NotThere
from alike.serve.service import NeighbourService, _coarse

COLUMNS = ["number", "query", "query_row", "rank", "row", "distance", "path", "label"]


@pytest.fixture(scope="module")
def answers(client):
    with alike.connect(client.address) as connected:
        yield connected


def command(*words):
    """What a command prints by `--json`."""
    code = "import sys; from alike.flows.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--json"], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_neighbours_are_those_of_the_command(answers, place):
    """The same JSON: each field of the command's, with its value."""
    words = ["neighbours", "3", "12", "-k", "4", "--store", str(place / "store"), "--other-class"]
    wanted = pd.DataFrame(command(*words))
    table = answers.neighbours([3, 12], 4, relation="other")
    pd.testing.assert_frame_equal(table[COLUMNS], wanted[COLUMNS])


def test_an_image_file_is_uploaded_and_named_by_its_hash(answers, place):
    file = place / "images" / "dog" / "3.png"
    index = NeighbourIndex.open(place / "store")
    table = answers.neighbours(file, 5)
    row = int(index.images.index[index.images["path"] == "dog/3.png"][0])
    assert table["row"].tolist() == index.query([row], 5).rows[0].tolist()
    assert answers.upload(file) == index.images.at[row, "image_id"]
    pair = answers.alike(file, 0)
    assert pair["likeness"][0].sum() == pytest.approx(pair["value"], abs=1e-3)
    assert pair["in_measure"]


def test_likeness_in_pixels_is_that_of_the_command(answers, place):
    from alike.analysis.explain import explain_images

    features = Store.open(place / "store").features()
    found = explain_images([3, 12], features, methods=["likeness_lrp_gamma"]).pixels[0]
    pair = answers.pixel_likeness(3, 12, "likeness_lrp_gamma")
    assert (pair["measure"], pair["left_out"]) == ("gap_cosine", "")
    assert pair["value"] == pytest.approx(found.value, rel=1e-6)
    assert pair["conserved"] == pytest.approx(found.conserved, rel=1e-5)
    for shown, wanted in zip(pair["maps"], (found.on_a, found.on_b), strict=True):
        np.testing.assert_allclose(shown, wanted, atol=1e-4 * np.abs(wanted).max())
    with pytest.raises(BadInput, match="guess"):
        answers.pixel_likeness(3, 12, "guess")


def test_the_analysis_is_that_of_the_command(answers, analysed, client):
    analysis, _ = analysed
    from alike.flows.console import _plain

    document = client.json("/api/v1/scores")
    wanted = _plain({
        "key": analysis.key, "n_images": analysis.n_images,
        "n_images_before_sampling": analysis.settings["n_images_before_sampling"],
        "classes": list(analysis.classes), "settings": dict(analysis.settings),
        **{
            name: analysis.tables[name]
            for name in ("scores", "per_class", "twins", "bayes", "suspects")
        },
    })  # fmt: skip
    assert document == json.loads(json.dumps(wanted))
    scores = answers.scores()
    assert scores.attrs["n_images"] == 20
    pd.testing.assert_frame_equal(scores, pd.DataFrame(wanted["scores"]), check_dtype=False)


def test_tables_of_the_analysis(answers, analysed):
    analysis, _ = analysed
    for ask, name in (
        (answers.classes, "per_class"), (answers.class_pairs, "class_pairs"),
        (answers.histograms, "histograms"), (answers.examples, "pairs_examples"),
    ):  # fmt: skip
        table = ask()
        wanted = analysis.tables[name].drop(columns="measure")
        assert len(table) == len(wanted)
        assert list(table.columns) == list(wanted.columns)
        assert table.attrs["measure"] == "gap_cosine"
    assert answers.classes()["sameness"].is_monotonic_increasing
    assert len(answers.histograms(limit=7)) == 7
    assert answers.histograms(limit=7).attrs["n_rows"] == 256
    for ask in (answers.classes, answers.class_pairs, answers.histograms, answers.examples):
        whole = ask()
        step = -(-len(whole) // 3)
        parts = [ask(limit=step, offset=first) for first in range(0, len(whole), step)]
        assert [part.attrs["offset"] for part in parts] == [0, step, 2 * step][: len(parts)]
        # A column of absent numbers alone has no type of its own.
        numbers = whole.select_dtypes(float).columns
        both = [pd.concat(parts, ignore_index=True), whole]
        pd.testing.assert_frame_equal(*(one.astype(dict.fromkeys(numbers, float)) for one in both))
        after = ask(offset=len(whole))
        n = len(whole)
        assert (len(after), after.attrs["n_rows"]) == (0, n)
        assert after.attrs["notes"] == [f"offset {n} is beyond the last of {n} rows"]
    with pytest.raises(BadInput, match="ofset: no parameter of this question"):
        answers.class_pairs(ofset=3)


def test_what_was_not_computed_says_how(own):
    for folder in ("tables", "maps"):
        shutil.rmtree(own / "store" / folder, ignore_errors=True)
    service = NeighbourService(own / "store")
    with pytest.raises(NotThere, match="alike analyse --store"):
        service.analyses.scores(service.key)
    with pytest.raises(NotThere, match="alike map --store"):
        service.analyses.map(service.opened(), "gap_cosine", None, 10)


def test_the_map(answers, analysed):
    _, wanted = analysed
    table = answers.map()
    assert table["row"].tolist() == wanted["row"].tolist()
    for name in ("pca_x", "pca_y", "tsne_x", "tsne_y"):
        np.testing.assert_allclose(table[name], wanted[name], atol=1e-3)
    assert not table.attrs["sampled"]
    few = answers.map(split="all", limit=6)
    assert few.attrs["sampled"]
    assert set(few["row"]) < set(table["row"])
    with pytest.raises(BadInput, match="no image of the split train"):
        answers.map(split="train")


def test_explanations_are_those_of_the_function(answers, place):
    from alike.analysis.explain import explain_images

    features = Store.open(place / "store").features()
    made = explain_images([3], features, methods=["gradcam", "sa"])
    table, maps = answers.explain(3, ["gradcam", "sa"])
    assert table["method"].tolist() == ["gradcam", "sa"]
    np.testing.assert_allclose(table["score"], made.table["score"], rtol=1e-4)
    for name, array in made.arrays.items():
        np.testing.assert_allclose(maps[name.partition("/")[2]], array, atol=1e-4)


def test_explanations_are_the_document_of_the_command(client, place, tmp_path):
    words = ["explain", "3", "--store", place / "store", "--methods", "cam,gradcam,lrp_epsilon,sa"]
    made = command(*map(str, words), "--to", str(tmp_path))
    methods = "&".join(f"method={one}" for one in ("cam", "gradcam", "lrp_epsilon", "sa"))
    told = client.json(f"/api/v1/images/3/explain?{methods}")
    assert made.keys() == told.keys() - {"arrays", "notes"}
    assert told["notes"] == []
    assert made["images"].keys() == told["images"].keys()
    assert made["images"].pop("files")
    assert told["images"].pop("files") == []
    # Two passes through the network, in two processes.
    for line, wanted in zip(told["images"].pop("maps"), made["images"].pop("maps"), strict=True):
        assert line == {
            name: pytest.approx(value, rel=1e-4, abs=1e-6) if isinstance(value, float) else value
            for name, value in wanted.items()
        }
    assert told["images"] == made["images"]
    assert set(told["arrays"]) == {"cam", "gradcam", "lrp_epsilon", "sa"}


def test_pictures_through_the_client(answers, place):
    row = int(answers.images(1, label="cat")["row"].iloc[0])
    path = place / "images" / answers.image(row)["path"]
    with Image.open(io.BytesIO(answers.thumbnail(row, side=96))) as small:
        assert (small.format, max(small.size)) == ("WEBP", 60)
    with Image.open(io.BytesIO(answers.network_input(path))) as seen:
        assert seen.size == (16, 16)
        shown = np.asarray(seen.convert("RGB"), float)
    with Image.open(path) as whole:
        wanted = np.asarray(whole.convert("RGB").resize((16, 16), Image.Resampling.BILINEAR), float)
    assert np.corrcoef(shown.ravel(), wanted.ravel())[0, 1] > 0.98


def test_every_question_has_a_method_of_the_client(client, analysed):
    """Those that are not asked are the same as others, or make a file of a table."""
    other = {("get", "/images/{image}/neighbours"), ("get", "/lists/{kind}/file")}
    analysis, _ = analysed
    paths = client.json("/api/v1/openapi.json")["paths"]
    routes = {
        (verb, path.removeprefix("/api/v1"))
        for path, verbs in paths.items()
        for verb in verbs
        if path != "/api/v1/docs"
    }
    asked = set()
    with alike.connect(client.address) as server:
        server._server._http.event_hooks["request"] = [
            lambda request: asked.add((request.method.lower(), request.url.path))
        ]
        image = server.image(3)["image"]
        assert server.health() == {"status": "ok", "version": server.version}
        assert "network" in server.stores()
        assert server.set()["images"] == 20
        assert len(server.images(2)) == 2
        server.upload(server.thumbnail(3))
        server.network_input(3)
        server.neighbours([3], k=1)
        server.prediction(3)
        server.alike(3, 12)
        server.pixel_likeness(3, 12)
        server.explain(3, ["gradcam"])
        for name, table in server.analysis().items():
            assert len(table) == len(analysis.tables[name]), name
        _, pairs = server.grades()
        assert isinstance(pairs.attrs["measure"], str)
        assert set(server.report(["scores", "top"])) == {"scores", "top"}
        for table in (server.classes(), server.class_pairs(), server.histograms()):
            assert len(table)
        server.examples()
        server.class_pair("cat", "dog")
        server.map()
        server.images_to_check("twins")
        run = server.runs()["run"].iloc[-1]
        assert server.run()["id"] == run
        assert "scores" in server.run_difference("aaaaa2", run)
        server.tag([image], "odd")
        server.tag([image], "odd", present=False)
        server.tags()
        near = server.typical([0.1, 0.5])
        told = client.json("/api/v1/typical?distance=0.1&distance=0.5")
        assert near["same_farther"].tolist() == told["same_farther"]
        assert near["distance"].tolist() == [0.1, 0.5]
        square = server.class_matrix()
        counts = server.metrics().query("name == 'alike_requests_total'")
        of_images = [one["route"] == "/api/v1/images/{image}" for one in counts["labels"]]
        assert counts["value"][of_images].sum() >= 1
    table = analysis.tables["class_pairs"].query("measure == 'gap_cosine'")
    for row in table.itertuples():
        for a, b in ((row.class_a, row.class_b), (row.class_b, row.class_a)):
            assert square.at[a, b] == pytest.approx(row.mean)
    assert not square.isna().any(axis=None)
    patterns = {
        (verb, path): re.compile("/api/v1" + re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)))
        for verb, path in routes
    }
    reached = {
        route
        for route, pattern in patterns.items()
        for verb, path in asked
        if verb == route[0] and pattern.fullmatch(path)
    }
    assert routes - reached == other


def test_a_coarse_map_has_the_same_sum():
    values = np.random.default_rng(0).standard_normal((224, 130))
    coarse = _coarse(values)
    assert max(coarse.shape) <= 64
    assert coarse.sum() == pytest.approx(values.sum())
    assert _coarse(values[:64, :64]) is not None
    np.testing.assert_array_equal(_coarse(values[:64, :64]), values[:64, :64])


@pytest.mark.quick
def test_tags_belong_to_images_and_change_no_label(tmp_path):
    store = Store.open(tmp_path / "store", create=True)
    a, b = "a" * 64, "b" * 64
    assert read_tags(store).empty
    change_tags(store, [b, a, a], "wrong-label", present=True)
    change_tags(store, [a], "twin", present=True)
    wanted = [[a, "twin"], [a, "wrong-label"], [b, "wrong-label"]]
    assert read_tags(Store.open(tmp_path / "store")).to_numpy().tolist() == wanted
    change_tags(store, [a], "wrong-label", present=False)
    assert read_tags(store).to_numpy().tolist() == [[a, "twin"], [b, "wrong-label"]]
    with pytest.raises(BadInput, match="tag 'no good'"):
        change_tags(store, [a], "no good", present=True)


def test_tags_through_the_server(answers, place):
    before = Store.open(place / "store").images()
    image = answers.images(1, label="dog").iloc[0]
    assert answers.tag([int(image["row"])], "odd").to_numpy().tolist() == [[image["image"], "odd"]]
    assert answers.tags()["tag"].tolist() == ["odd"]
    assert answers.tag([image["image"]], "odd", present=False).empty
    pd.testing.assert_frame_equal(Store.open(place / "store").images(), before)


def test_health_metrics_and_the_reference(client):
    assert client.json("/api/v1/health")["status"] == "ok"
    client.get("/api/v1/images/3")
    _, headers, body = client.get("/api/v1/metrics")
    assert headers["Content-Type"].startswith("text/plain")
    wanted = 'alike_requests_total{method="GET",route="/api/v1/images/{image}",status="200"}'
    assert wanted in body.decode()
    status, _, page = client.get("/api/v1/docs")
    assert status == 200
    assert b"http://" not in page
    assert b"https://" not in page
    for path in client.json("/api/v1/openapi.json")["paths"]:
        assert path.encode() in page


def test_nobody_answers():
    with pytest.raises(BadInput, match="alike serve"):
        alike.connect("http://127.0.0.1:9")
    with pytest.raises(BadInput, match="is expected"):
        alike.connect("pets.store")


# A store that changes while it is served


@pytest.fixture
def own(place, tmp_path):
    """A copy of the store, to change."""
    shutil.copytree(place, tmp_path / "own")
    return tmp_path / "own"


def test_a_new_index_answers_from_the_next_look_on(own, monkeypatch):
    from alike.index.build import build_index
    from alike.serve import opened

    monkeypatch.setattr(opened, "SOON", 0.0)

    service = NeighbourService(own / "store")
    before = service.opened()
    build_index(Store.open(own / "store").features(), "gap_cosine", rebuild=True)
    after = service.opened()
    assert after.index.card.file != before.index.card.file
    assert service.opened() is after
    assert after.index.encoder() is service.opened().index.encoder()


def test_an_index_that_is_gone_leaves_the_old_one_answering(own, monkeypatch):
    from alike.serve import opened

    monkeypatch.setattr(opened, "SOON", 0.0)
    service = NeighbourService(own / "store")
    wanted = service.neighbours("3", 5)
    shutil.rmtree(own / "store" / "index")
    assert service.neighbours("3", 5) == wanted
    assert "cannot be read anew" in service.facts()["notes"][0]


def test_images_that_the_index_lacks_are_said(own, monkeypatch):
    from PIL import Image

    from alike.extract.images.sources import open_source
    from alike.extract.networks.network import load_network
    from alike.extract.pipeline import extract
    from alike.serve import opened

    monkeypatch.setattr(opened, "EVERY", 0.0)
    monkeypatch.setattr(opened, "SOON", 0.0)
    service = NeighbourService(own / "store")
    assert service.facts()["notes"] == []
    for number in range(3):
        Image.new("RGB", (60, 40), (number, 200, 9)).save(own / "images" / "cat" / f"n{number}.png")
    network = load_network(f"{own}/nets.py:small", "none")
    extract(open_source(str(own / "images")), network, Store.open(own / "store"), device="cpu",
            taps=("last_conv", "logits"))  # fmt: skip
    facts = service.facts()
    assert (facts["images"], facts["index"]["missing"], facts["index"]["rows"]) == (23, 3, 20)
    assert "3 images have features and are not in the index" in facts["notes"][0]
    answer = service.neighbours("21", 30)
    assert answer["missing"] == 3
    assert len(answer["neighbours"]) == 20


def test_a_set_without_labels(own):
    from alike.index.build import build_index

    store = Store.open(own / "store")
    store.list_images(store.images().drop(columns="row").assign(label=None))
    build_index(store.features(), "gap_cosine")
    service = NeighbourService(own / "store")
    facts = service.facts()
    assert (facts["classes"], facts["unlabelled"]) == ({}, 20)
    answer = service.neighbours("3", 5)
    assert {one["label"] for one in answer["neighbours"]} == {None}
    assert {one["label"] for one in service.sample(5, 0)["images"]} == {None}
    with pytest.raises(BadInput, match="relation=same compares"):
        service.neighbours("3", 5, "same")
    with pytest.raises(BadInput, match="there are: none"):
        service.sample(5, 0, "dog")


def asked_within(service, path):
    """What the API of a service answers, without a server."""

    async def ask():
        transport = httpx.ASGITransport(create_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as asking:
            return (await asking.get(f"/api/v1{path}")).json()

    return asyncio.run(ask())


def test_a_network_without_the_served_index_answers_with_the_one_that_it_has(
    two_networks, tmp_path
):
    shutil.copytree(two_networks[0] / "store", tmp_path / "store")
    shutil.copytree(two_networks[0] / "images", tmp_path / "images")
    store = Store.open(tmp_path / "store")
    served = two_networks[1].key
    (other,) = set(store.groups()) - {served}
    shutil.rmtree(tmp_path / "store" / "index" / other)
    build_index(store.features(other), "gap_euclid")
    service = NeighbourService(tmp_path / "store", served)
    assert service.opened().index.measure.name == "gap_cosine"
    assert service.opened(other).index.measure.name == "gap_euclid"
    assert service.facts(other)["measure"] == "gap_euclid"
    near = asked_within(service, f"/images/3/neighbours?features={other}")
    assert near["measure"] == "gap_euclid"
    said = f"by gap_euclid: {other} has no index of gap_cosine, by which this server answers"
    assert near["notes"] == [said]
    named = f"/images/3/neighbours?features={other}&measure=gap_euclid"
    assert asked_within(service, named)["notes"] == []
    with pytest.raises(NotThere, match="an index of gap_cosine"):
        service.neighbours("3", 5, opened=service.opened(other, "gap_cosine"))


@pytest.fixture
def lacking(two_networks, tmp_path):
    """A copy of the store of two networks without the index of the second; both keys."""
    shutil.copytree(two_networks[0], tmp_path / "own")
    served = two_networks[1].key
    (other,) = set(Store.open(tmp_path / "own" / "store").groups()) - {served}
    shutil.rmtree(tmp_path / "own" / "store" / "index" / other)
    return tmp_path / "own" / "store", served, other


def test_a_network_without_an_index_answers_all_but_neighbours(lacking, two_networks, monkeypatch):
    """As the same network with its index does; and neighbours from the moment it is built."""
    from alike.serve import opened

    monkeypatch.setattr(opened, "SOON", 0.0)
    store, served, other = lacking
    indexed = NeighbourService(two_networks[0] / "store", served)
    service = NeighbourService(store, served)
    for path in (
        "/images?count=5", "/images/3", "/images/3/prediction", "/images/3/alike/50", "/scores",
        "/classes", "/class-pairs", "/histograms", "/examples", "/class-matrix",
        "/class-pair?first=ant&second=bee", "/typical?distance=0.1", "/lists/labels",
        "/lists/outliers", "/lists/bad", "/lists/tags",
    ):  # fmt: skip
        asked = f"{path}{'&' if '?' in path else '?'}features={other}"
        answer = asked_within(service, asked)
        assert "error" not in answer, answer
        assert answer == asked_within(indexed, asked), path
    facts = asked_within(service, f"/set?features={other}")
    assert (facts["index"], facts["measure"], facts["images"]) == (None, "gap_cosine", 120)
    built_by = f"`alike index --store {store} --features {other} --measure gap_cosine`"
    assert facts["needs"] == f"an index of gap_cosine: run {built_by}"
    refused = asked_within(service, f"/images/3/neighbours?features={other}")
    assert refused == {"error": f"neighbours in {other} need {facts['needs']}"}
    build_index(Store.open(store).features(other), "gap_cosine")
    near = asked_within(service, f"/images/3/neighbours?features={other}")
    assert near == asked_within(indexed, f"/images/3/neighbours?features={other}")
    facts = asked_within(service, f"/set?features={other}")
    assert (facts["index"]["rows"], facts["needs"]) == (120, "")


def test_an_index_of_other_weights_is_as_none_and_its_notes_say_why(lacking):
    store, served, other = lacking
    build_index(Store.open(store).features(other), "gap_cosine")
    folder = store / "index" / other / "gap_cosine"
    rewrite_card(folder, dataclasses.replace(read_card(folder), weights_hash="0" * 64))
    facts = NeighbourService(store, served).facts(other)
    assert facts["index"] is None
    assert f"the index is of {other} with weights {'0' * 12}, the store has" in facts["notes"][0]
    assert "alike index --store" in facts["needs"]


def test_a_measure_without_an_index_is_not_fitted_by_a_question(lacking):
    store, served, other = lacking
    service = NeighbourService(store, served)
    constants = sorted(service.store.features(other).constants())
    with pytest.raises(NotThere, match=r"lda_cosine is fitted on labelled rows .*--train-share"):
        service.opened(other, "lda_cosine")
    assert sorted(service.store.features(other).constants()) == constants
    # One that needs no fit is compared by: here row by row, without the index's vectors.
    answer = service.alike("3", "50", service.opened(other, "gap_euclid"))
    a, b = (
        service.tap(row, "last_conv", service.opened(other)).astype(np.float64).mean((1, 2))
        for row in ("3", "50")
    )
    np.testing.assert_allclose(answer["distance"], np.linalg.norm(a - b), rtol=1e-4)


def test_a_store_without_any_index_is_served(place, analysed, tmp_path):
    from alike.flows.commands.serve import _open

    shutil.copytree(place, tmp_path / "own")
    shutil.rmtree(tmp_path / "own" / "store" / "index")
    bare, whole = str(tmp_path / "own" / "store"), str(place / "store")
    first, second = _open([bare, whole], None, "gap_cosine", tmp_path / "thumbnails")
    assert "alike index --store" in first.service.facts()["needs"]
    assert second.service.facts()["needs"] == ""
    for path in ("/map", "/scores", "/images/3"):
        asked = asked_within(second.service, path)
        assert asked_within(first.service, path) == asked
    with pytest.raises(NotThere, match="alike index --store"):
        first.service.neighbours("3", 5)
    # Another measure would answer, so the name is more likely wrong than the index missing.
    with pytest.raises(NotThere, match="an index of gap_euclid"):
        NeighbourService(whole, measure="gap_euclid")
    with pytest.raises(BadInput, match="unknown measure 'cosine'"):
        NeighbourService(bare, measure="cosine")


@pytest.mark.parametrize(
    "path", ["set", "images/3", "images/3/neighbours?k=5", "images/9999", "health", "docs"]
)
def test_head_is_get_without_the_body(client, path):
    status, headers, body = client.get(f"/api/v1/{path}")
    head_status, head_headers, nothing = client.get(f"/api/v1/{path}", method="HEAD")
    assert (head_status, nothing) == (status, b"")
    assert int(head_headers["Content-Length"]) == len(body)
    ours = ("Content-Type", "Cache-Control", "X-Content-Type-Options")
    assert [head_headers[one] for one in ours] == [headers[one] for one in ours]


def test_head_is_counted_by_its_route(client):
    client.get("/api/v1/images/3", method="HEAD")
    _, _, counts = client.get("/api/v1/metrics")
    line = 'alike_requests_total{method="HEAD",route="/api/v1/images/{image}",status="200"}'
    assert line in counts.decode()
    assert client.get("/api/v1/neighbours", method="HEAD")[0] == 405
