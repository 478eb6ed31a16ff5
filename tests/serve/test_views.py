"""What the views of the page show, against the tables and features that it comes from."""

import inspect
import io
import json
import shutil
import time
import urllib.parse
from dataclasses import replace
from typing import get_args

import numpy as np
import pandas as pd
import pytest

import alike
import alike.client
from alike.analysis.figures import histogram
from alike.extract.measures import measure_named
from alike.extract.networks.network import load_network
from alike.extract.store.store import Store
from alike.serve.analysed import _predictions
from alike.serve.class_pair import _ends, _histogram
from alike.serve.lists import export
from alike.serve.questions import MOST_ROWS
from alike.serve.service import NeighbourService
from alike.serve.views import Views


@pytest.fixture
def analysis(analysed):
    return analysed[0]


@pytest.fixture
def gap(place):
    """The pooled features of all images, and their labels."""
    features = Store.open(place / "store").features()
    table = features.table("all")
    return features.read("gap", table["row"].to_numpy()).astype(np.float64), table


def cosine_distances(a, b):
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return 1 - a @ b.T


@pytest.mark.parametrize(("first", "second"), [("cat", "Käfer"), ("dog", "dog")])
def test_two_classes(client, analysis, gap, first, second):
    pooled, table = gap
    labels = table["label"].to_numpy()
    rows = [table["row"].to_numpy()[labels == name] for name in (first, second)]
    grid = cosine_distances(pooled[labels == first], pooled[labels == second])
    asked = urllib.parse.urlencode({"first": first, "second": second})
    pair = client.json(f"/api/v1/class-pair?{asked}")
    if first == second:
        grid = np.where(np.triu(np.ones(grid.shape, dtype=bool), 1), grid, np.nan)
    assert pair["mean"] == pytest.approx(np.nanmean(grid), abs=1e-5)
    names = ["class_a", "class_b"]
    means = analysis.tables["class_pairs"].query("measure == 'gap_cosine'").set_index(names)
    assert pair["mean"] == pytest.approx(means.at[(first, second), "mean"], abs=1e-4)
    for end, best in (("nearest", np.nanmin(grid)), ("farthest", np.nanmax(grid))):
        assert pair[end][0]["distance"] == pytest.approx(best, abs=1e-5)
        used = [one[side]["row"] for one in pair[end] for side in ("first", "second")]
        assert len(used) == len(set(used))
        for one in pair[end]:
            i, j = (
                np.flatnonzero(part == one[side]["row"])[0]
                for part, side in zip(rows, ("first", "second"), strict=True)
            )
            distance = grid[i, j] if np.isfinite(grid[i, j]) else grid[j, i]
            assert one["distance"] == pytest.approx(distance, abs=1e-5)
    assert len(pair["figure"]["data"]) == (1 if first == second else 2)
    assert pair["images"] == [len(one) for one in rows]


def test_grades_are_those_that_are_stored(place, tmp_path):
    from alike.analysis.explain.file_names import GRADE, PAIR_GRADE
    from alike.analysis.explain.grade import Grading, grade_of, pair_grade_of
    from alike.analysis.explain.stored_grades import grade_command

    shutil.copytree(place / "store", tmp_path / "store")
    service = NeighbourService(tmp_path / "store")
    features = service.store.features()
    for name in (GRADE, PAIR_GRADE):
        # A test of the page grades the set that all share.
        service.store.remove_file(name.format(key=features.key))
    empty = {"key": features.key, "images": [], "pairs": [], "pair_measure": "", "outdated": [],
             "command": grade_command(features)}  # fmt: skip
    assert service.analyses.grades(features.key) == empty
    network = load_network(f"{place}/nets.py:small", "none")
    grading = Grading(steps=4, draws=3)
    images = grade_of(features, network, methods=["gradcam"], split=None, grading=grading)
    pairs = pair_grade_of(features, network, methods=["likeness"], split=None, grading=grading)
    grades = service.analyses.grades(features.key)
    assert grades["pair_measure"] == "gap_cosine"
    assert grades["outdated"] == []
    for name, what in ((GRADE, "images"), (PAIR_GRADE, "pairs")):
        table, told = service.store.read_table(name.format(key=features.key))
        service.store.write_table(
            name.format(key=features.key), table, {**told, "digest": "of other features"}
        )
        assert what in service.analyses.grades(features.key)["outdated"]
    for shown, table in ((grades["images"], images), (grades["pairs"], pairs)):
        assert [one["explainer"] for one in shown] == table["explainer"].tolist()
        wanted = [None if np.isnan(one) else one for one in table["deletion_to_random"]]
        assert [one["deletion_to_random"] for one in shown] == wanted


def test_the_map_says_what_the_network_takes_each_image_for(client, analysed):
    assert client.json("/api/v1/map?split=all")["prediction"] is None
    table = client.json("/api/v1/map?split=all&predictions=true")
    with alike.connect(client.address) as server:
        asked = server.map(split="all", predictions=True)
    assert asked["prediction"].tolist() == table["prediction"]
    for row, prediction in zip(table["row"], table["prediction"], strict=True):
        assert prediction == client.json(f"/api/v1/images/{row}/prediction")["classes"][0]


def test_lost_logits_are_no_prediction(tmp_path):
    store = Store.open(str(tmp_path / "store"), create=True)
    listed = {"label": "a", "size": 1, "state": "ok", "reason": ""}
    ids = [f"{i:064x}" for i in range(2**20, 2**20 + 3)]
    store.list_images(pd.DataFrame([{"image_id": one, "path": one, **listed} for one in ids]))
    about = {"network": "net", "weights": "none", "weights_hash": "0", "taps": ["gap", "logits"],
             "transform": {}, "precision": "float32", "class_names": ["cat", "dog"]}  # fmt: skip
    kinds = {"gap": ((4,), "float32"), "logits": ((2,), "float32")}
    features = store.create_features(about, "net-0-0", kinds)
    logits = np.array([[1, 2], [3, 1], [0, 9]], np.float32)
    arrays = {"gap": np.ones((3, 4), np.float32), "logits": logits}
    features.write_unit(0, arrays, lost={2: ["logits"]})
    assert _predictions(features, np.array([2, 1, 0])) == ["no prediction", "cat", "dog"]


@pytest.mark.quick
def test_the_ends_of_a_grid_are_those_of_all_pairs_in_order():
    draw = np.random.default_rng(3)
    grid = draw.integers(0, 50, (70, 90)).astype(float)
    one, other = np.arange(70), np.arange(100, 190)
    naive, used = [], set()
    for i, j in sorted(np.ndindex(grid.shape), key=lambda at: grid[at]):
        if len(naive) < 8 and not used & {i, j + 100}:
            naive.append(grid[i, j])
            used |= {i, j + 100}
    assert [distance for _, _, distance in _ends(grid, one, other)] == naive


def test_the_matrix_of_classes(client, analysis):
    matrix = client.json("/api/v1/class-matrix")
    assert sorted(matrix["order"]) == ["Käfer", "cat", "dog"]
    table = analysis.tables["class_pairs"].query("class_a != class_b")
    assert matrix["nearest"][0]["between"] == pytest.approx(table["mean"].min())
    assert matrix["figure"]["data"][0]["type"] == "heatmap"
    status, _, body = client.get("/api/v1/class-matrix?measure=none")
    assert (status, list(json.loads(body))) == (404, ["error"])


def test_how_typical_a_distance_is(client, analysis, gap):
    """Shares of pairs, of classes that weigh the same, counted one by one."""
    pooled, table = gap
    grid = cosine_distances(pooled, pooled)
    codes = table["label"].astype("category").cat.codes.to_numpy()
    counts = np.bincount(codes)
    same = codes[:, None] == codes
    weights = np.where(same, 1 / (counts * (counts - 1.0))[codes][:, None], 0.0)
    np.fill_diagonal(weights, 0.0)
    other = np.where(same, 0.0, 1.0 / np.outer(counts[codes], counts[codes]))
    for distance in np.quantile(grid[np.triu_indices(len(grid), 1)], [0.1, 0.5, 0.9]):
        typical = client.json(f"/api/v1/typical?distance={distance}")
        for share, weight in (("same_farther", weights), ("different_farther", other)):
            expected = (weight * (grid > distance)).sum() / weight.sum()
            # Between two thresholds of the stored curve the share is a line.
            assert typical[share][0] == pytest.approx(expected, abs=0.02)


def test_what_the_network_takes_an_image_for(client, place):
    features = Store.open(place / "store").features()
    logits = features.read("logits", np.array([3]))[0].astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum()
    prediction = client.json("/api/v1/images/3/prediction")
    np.testing.assert_allclose(prediction["shares"], np.sort(shares)[::-1], rtol=1e-6)
    names = sorted(features.table("all")["label"].unique())
    assert prediction["classes"] == [names[i] for i in np.argsort(-shares)]
    file = next((place / "images" / "cat").iterdir())
    brought = client.json("/api/v1/images", file.read_bytes() + b" ")
    assert brought["row"] == -1
    again = client.json(f"/api/v1/images/{brought['image']}/prediction")
    row = int(features.table("all").set_index("path").at[f"cat/{file.name}", "row"])
    stored = client.json(f"/api/v1/images/{row}/prediction")
    assert again["classes"] == stored["classes"]
    np.testing.assert_allclose(again["shares"], stored["shares"], rtol=1e-3)


def test_the_matrix_of_many_classes_is_whole(place, analysis, monkeypatch):
    """More pairs than an answer has rows: 320 classes have 102,400."""
    names = [f"class {number:03d}" for number in range(320)]
    spots = np.random.default_rng(0).uniform(size=len(names))
    means = np.abs(spots[:, None] - spots)
    table = pd.DataFrame({
        "measure": "gap_cosine", "class_a": np.repeat(names, len(names)),
        "class_b": np.tile(names, len(names)), "mean": means.ravel(),
    })  # fmt: skip
    assert len(table) > MOST_ROWS
    service = NeighbourService(place / "store")
    large = replace(analysis, tables={**analysis.tables, "class_pairs": table})
    monkeypatch.setattr(service.analyses, "analysis", lambda _: large)
    found = Views(service).class_matrix(None, None, mean=True)
    square = pd.DataFrame(found["mean"], found["order"], found["order"])
    np.testing.assert_array_equal(square.loc[names, names].to_numpy(), means)


def test_very_many_classes_have_their_nearest_pairs_and_a_note(
    place, analysis, very_many_classes, monkeypatch
):
    service = NeighbourService(place / "store")
    large = replace(analysis, tables={**analysis.tables, **very_many_classes})
    monkeypatch.setattr(service.analyses, "analysis", lambda _: large)
    began = time.perf_counter()
    found = Views(service).class_matrix(None, None, mean=True)
    assert time.perf_counter() - began < 2
    assert found["order"] is found["figure"] is found["mean"] is None
    assert [note.partition(";")[0] for note in found["notes"]] == [
        "5,000 classes: no matrix beyond 2,048"
    ]
    pairs = very_many_classes["class_pairs"].query("class_a != class_b")
    assert [one["between"] for one in found["nearest"]] == sorted(pairs["mean"])[:24:2]
    rows = service.analyses.rows("class_pairs", service.chosen_key(None), None, 30, offset=21)
    assert rows["rows"][0]["class_a"] == rows["rows"][0]["class_b"] == "n00000001"
    assert rows["rows"][0]["std"] is None
    assert found["notes"] == rows["notes"]
    assert rows["n_rows"] == len(very_many_classes["class_pairs"])


@pytest.mark.quick
@pytest.mark.parametrize(
    ("measure", "distance"),
    [("gap_cosine", 0.25), ("gap_cosine", 0), ("gap_cosine", 6e-8), ("gap_cosine", -6e-8),
     ("gap_euclid", 1e-3), ("gap_euclid", 1e6), ("gap_euclid", 0)],
)  # fmt: skip
@pytest.mark.parametrize("apart", [0, 1e-7])
def test_equal_distances_are_one_bar_on_an_axis_from_0(measure, distance, apart):
    same = distance * np.array([1, 1 + apart, 1])
    table = _histogram(measure_named(measure), same, same[:2])
    drawn = histogram(table, measure=measure, bars=60)
    zero = (abs(distance) < 1e-5 and measure == "gap_cosine") or distance == 0
    for bars, n in zip(drawn.data, (2, 3), strict=True):
        assert f"({n} pairs)" in bars.name
        (at,) = np.flatnonzero(bars.y)
        assert bars.y[at] == 100
        assert bars.x[at] == pytest.approx(0 if zero else distance, abs=1e-6, rel=1e-6)
        assert (np.diff(bars.x) > 0).all()
        ends = bars.x[0] - bars.width[0] / 2, bars.x[-1] + bars.width[-1] / 2
        assert ends == pytest.approx((0, 1) if zero else (0, 2 * distance), abs=0.01, rel=1e-5)


def test_a_list_of_the_client_is_as_long_as_an_answer_can_be():
    asked = inspect.signature(alike.client.Client.images_to_check).parameters["limit"]
    assert asked.default == MOST_ROWS


def test_tables_of_the_client(client, analysis):
    """`alike.connect` asks the same questions."""
    with alike.connect(client.address) as answers:
        pairs = answers.class_pair("cat", "dog")
        listed = answers.images_to_check("labels")
        shares = answers.prediction(3)
        table = answers.map()
    document = client.json("/api/v1/class-pair?first=cat&second=dog")
    for end in ("nearest", "farthest"):
        part = pairs[pairs["end"] == end]
        assert part["distance"].tolist() == [one["distance"] for one in document[end]]
        assert part["row_b"].tolist() == [one["second"]["row"] for one in document[end]]
    suspects = analysis.tables["suspects"].query("kind == 'label'")
    assert listed["row"].tolist() == suspects["row"].tolist()
    assert listed["suggested"].tolist() == suspects["suggested"].tolist()
    assert shares["share"].is_monotonic_decreasing
    near = analysis.tables["neighbours"]
    labels = dict(zip(table["row"], table["label"], strict=True))
    for row, purity in zip(table["row"], table["purity"], strict=True):
        kin = sum(label == labels[row] for label in labels.values()) - 1
        first = near[(near["row"] == row) & (near["rank"] <= min(10, kin))]["neighbour"]
        share = np.mean([labels[one] == labels[row] for one in first])
        assert purity == pytest.approx(share, abs=1e-4)


@pytest.mark.parametrize("kind", ["labels", "outliers", "twins", "bad"])
def test_lists(client, analysis, kind):
    listed = client.json(f"/api/v1/lists/{kind}")
    suspects = analysis.tables["suspects"].query("measure == 'gap_cosine'")
    if kind in ("labels", "outliers"):
        wanted = suspects[suspects["kind"] == kind.removesuffix("s")]
        assert [line["images"][0]["row"] for line in listed["lines"]] == wanted["row"].tolist()
        assert [line["score"] for line in listed["lines"]] == wanted["score"].tolist()
        assert listed["needs"] == ""
    status, headers, body = client.get(f"/api/v1/lists/{kind}/file?form=parquet")
    assert (status, headers["Content-Disposition"]) == (
        200, f'attachment; filename="{kind}.parquet"'
    )  # fmt: skip
    table = pd.read_parquet(io.BytesIO(body))
    assert len(table) == listed["n_lines"]
    status, headers, body = client.get(f"/api/v1/lists/{kind}/file?form=latex")
    assert headers["Content-Disposition"] == f'attachment; filename="{kind}.tex"'
    rows = [line for line in body.decode().split("\n") if line.endswith(r" \\")]
    assert len(rows) == listed["n_lines"] + 1
    assert {row.count(" & ") for row in rows} == {rows[0].count(" & ")}
    status, _, body = client.get(f"/api/v1/lists/{kind}/file")
    assert len(pd.read_csv(io.BytesIO(body))) == listed["n_lines"]


def test_names_are_text_in_latex():
    lines = pd.DataFrame({
        "image": ["0" * 64], "row": [3], "path": ["50%_a & b\\{c}\n~^$#[*.png"], "label": [None],
        "score": [0.123456789],
    })  # fmt: skip
    assert export(lines, "latex").decode().splitlines() == [
        r"\begin{tabular}{llll}", r"\hline", r"row & path & label & score \\", r"\hline",
        r"3 & 50\%\_a \& b\textbackslash{}\{c\} \textasciitilde{}\textasciicircum{}\$\#{[}{*}.png"
        r" &  & 0.123457 \\",
        r"\hline", r"\end{tabular}",
    ]  # fmt: skip


def test_bad_images_are_listed_with_their_reason(tmp_path, place):
    from PIL import Image

    from alike.extract.images.sources import open_source
    from alike.extract.networks.network import load_network
    from alike.extract.pipeline import extract
    from alike.index.build import build_index

    for number in range(4):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (20, 20), (60 * number, 9, 200)).save(tmp_path / f"images/{number}.png")
    (tmp_path / "images" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    store = Store.open(tmp_path / "store", create=True)
    network = load_network(f"{place}/nets.py:small", "none")
    source = open_source(str(tmp_path / "images"))
    key = extract(source, network, store, taps=("last_conv",), device="cpu").key
    build_index(store.features(key), "gap_cosine")
    views = Views(NeighbourService(tmp_path / "store"))
    lines = views.listed("bad", None).lines
    assert lines["path"].tolist() == ["torn.png"]
    assert lines["why"].iloc[0].startswith("unreadable: no image of a format")
    assert "labels" in views.listed("labels", None).needs
    # An image that cannot be decoded has no signature, and hides no twins.
    assert views.listed("twins", None).needs == ""


def test_the_sections_are_those_of_the_report(client, analysis, place, tmp_path):
    from alike.analysis.report.report import write_report

    page = write_report(tmp_path / "report.html", before=analysis).read_text()
    report = client.json("/api/v1/report")
    assert {"top", "scores", "distances", "measures"} <= set(report["sections"])
    for name in ("scores", "distances", "measures"):
        assert report["sections"][name] in page
    assert "layers" not in report["sections"]  # None are stored.
    assert report["measure"] == "gap_cosine"
    assert client.json("/api/v1/report?measure=gap_cosine") == report
    assert client.get("/api/v1/report?measure=gap_euclid")[0] == 404
    one = client.json("/api/v1/report?section=measures")["sections"]
    assert one == {"measures": report["sections"]["measures"]}


def test_every_section_can_be_asked_for(analysis, place):
    """The names of the API are those that are written, of an analysis that has all tables."""
    from alike.analysis.report import fragments
    from alike.serve.view_models import SectionName

    store = Store.open(place / "store")
    for name in get_args(SectionName):
        assert set(fragments.score_sections(analysis, store, (), [name])) <= {name}
    assert set(fragments.score_sections(analysis, store)) <= set(get_args(SectionName))


def test_layers_and_limits_are_those_of_the_report(two_networks, tmp_path):
    from alike.analysis.report.report import write_report

    folder, analysis = two_networks
    page = write_report(tmp_path / "report.html", before=analysis).read_text()
    views = Views(NeighbourService(folder / "store", analysis.key))
    told = views.scores(analysis.key, ["layers", "data"])["sections"]
    assert set(told) == {"layers", "data"}
    assert told["layers"] in page
    limits = told["data"].partition("</h2>")[2].removesuffix("</section>")
    assert limits in page
    assert 'id="sufficiency"' in limits
    bound = analysis.tables["bayes"]["lower"].iloc[0]
    assert f"{100 * bound:.1f}" in limits
    # The images are in the lists of the view.
    assert len(analysis.tables["suspects"])
    assert "<summary>Labels that the neighbours contradict" in page
    assert "<summary>Labels that the neighbours contradict" not in limits


def test_an_explanation_names_classes_as_the_prediction_does(place):
    """Of a network without class names they are the labels in alphabetical order."""
    service = NeighbourService(place / "store")
    opened = service.opened()
    labels = sorted(opened.classes)
    [logits] = opened.index.features.read("logits", np.array([3]))
    likely = Views(service).prediction("3", opened)["classes"]
    assert likely == [labels[place] for place in np.argsort(-logits, kind="stable")]
    for target, name in [(None, likely[0]), *((name, name) for name in labels), ("0", labels[0])]:
        [line] = service.explain("3", "gradcam", target, opened)["images"]["maps"]
        assert line["target"] == name
        assert line["score"] == pytest.approx(logits[labels.index(name)], abs=1e-3)
