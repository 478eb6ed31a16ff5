"""Explanations over a store: pairs, classes, whole sets, continuity, and the command."""

import io
import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from alike.analysis.explain.all_images import _limited, explain_set, stored_relevance
from alike.analysis.explain.classes import (
    class_likeness,
    classes_left_out,
    confused_pairs,
    confused_panel,
    images_to_class,
    keep_confused,
)
from alike.analysis.explain.continuity.continuity import Sampling
from alike.analysis.explain.continuity.stored import _spread, continuity_of, read_continuity
from alike.analysis.explain.examples import example_images, keep_examples
from alike.analysis.explain.explain import EXPLAINERS, explain, explain_batch
from alike.analysis.explain.grade import stored as stored_grading
from alike.analysis.explain.images import explain_images
from alike.analysis.explain.inputs import network_for
from alike.analysis.explain.likeness_pixels import embedding_of, pixel_likeness
from alike.analysis.explain.overlay import (
    AGAINST,
    FOR,
    drawn,
    full_colour,
    heat_image,
    overlay,
)
from alike.analysis.explain.pair import (
    alike_panel,
    centre_of,
    compare_images,
    stored_frames,
    stored_pair,
)
from alike.analysis.explain.stored_grades import grade_command
from alike.analysis.report.explanations import explanations_section
from alike.extract.errors import BadInput
from alike.extract.images.sources import open_source
from alike.extract.networks.network import load_network
from alike.extract.networks.taps import HEADLESS_NOTE
from alike.extract.networks.transform import Transform
from alike.extract.panels import SIDE, PanelImage, panel, png
from alike.extract.pipeline import extract
from alike.extract.store.store import Store
from alike.flows.cli import main
from alike.flows.commands.explain import _write
from alike.flows.explaining import (
    check_options,
    every_class,
    joined_arrays,
    like_class,
    questions_of,
)

NETWORK = """
import torch
from torch import nn

def small():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3),
    )
"""


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """Eighteen pictures of three classes, a bright square in another corner for each class."""
    place = tmp_path_factory.mktemp("explained")
    (place / "nets.py").write_text(NETWORK)
    dice = np.random.default_rng(0)
    for number, label in enumerate(("left", "right", "middle")):
        (place / "images" / label).mkdir(parents=True)
        for picture in range(6):
            pixels = dice.integers(0, 60, (32, 32, 3), dtype=np.uint8)
            pixels[4:14, 2 + 9 * number : 12 + 9 * number, number] = 230
            Image.fromarray(pixels).save(place / "images" / label / f"{picture}.png")
    network = load_network(f"{place / 'nets.py'}:small", class_names=["left", "right", "middle"])
    store = Store.open(place / "store", create=True)
    extract(open_source(str(place / "images")), network, store, device="cpu", threads=1)
    return store.features()


def _asked_rows(table, count):
    """Images that are graded."""
    asked = SimpleNamespace(table=lambda _: table)
    with patch.object(stored_grading, "network_for"):
        rows = stored_grading._images_of(asked, None, count, None, None).rows
    return table.set_index("row").loc[rows]


def image_file(features, row):
    spec, _ = features.store.source()
    return f"{spec}/{features.table().set_index('row')['path'][row]}"


def test_two_images_are_alike_as_their_stored_features_say(features):
    network = network_for(features)
    found = compare_images(image_file(features, 0), image_file(features, 7), network)
    a, b = features.read("gap", np.array([0, 7])).astype(np.float64)
    expected = a @ b / np.sqrt((a @ a) * (b @ b))
    assert found.likeness.value == pytest.approx(expected, rel=1e-5)
    assert found.likeness.on_a.sum() == pytest.approx(expected, rel=1e-5)
    assert found.difference.on_a.sum() + found.difference.on_b.sum() == pytest.approx(
        1 - expected, rel=1e-3
    )
    stored = stored_pair(features, 0, 7, centre=centre_of(features))
    assert stored.likeness.value == pytest.approx(expected, rel=1e-2)
    np.testing.assert_array_equal(stored.images[0], found.images[0])


def test_every_class_is_decomposed_and_sums_to_its_mean_cosines(features):
    found = {one.label: one for one in class_likeness(features)}
    assert sorted(found) == ["left", "middle", "right"]
    one = found["left"]
    pooled = features.read("gap", one.rows).astype(np.float64)
    units = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    expected = ((units @ units.T).sum(axis=1) - 1) / (len(units) - 1)
    np.testing.assert_allclose(one.to_class.sum(axis=(1, 2)), expected, rtol=2e-3)
    assert one.mean_map.shape == one.telling_map.shape == one.to_class.shape[1:]
    with pytest.raises(BadInput, match="no images of class up"):
        list(class_likeness(features, labels=["up"]))


def test_given_images_are_decomposed_beside_a_class(features):
    whole = next(class_likeness(features, labels=["right"]))
    rows = [int(whole.rows[2]), 0]
    files = [image_file(features, row) for row in rows]
    frames, found = images_to_class(files, network_for(features), features, "right")
    assert found.rows.tolist() == [rows[0], -1]  # the second is of another class
    np.testing.assert_allclose(found.to_class[0], whole.to_class[2], atol=2e-3)
    np.testing.assert_allclose(found.to_others[0], whole.to_others[2], atol=2e-3)
    pooled = features.read("gap", whole.rows).astype(np.float64)
    units = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    other = features.read("gap", np.array([0]))[0].astype(np.float64)
    expected = (units @ other).mean() / np.linalg.norm(other)
    assert found.to_class[1].sum() == pytest.approx(expected, rel=1e-4)
    # An image of another class is no other image of its own.
    kin = np.setdiff1d(features.table()["row"], [*whole.rows, 0])
    rest = features.read("gap", kin).astype(np.float64)
    cosines = rest @ other / np.linalg.norm(rest, axis=1) / np.linalg.norm(other)
    assert found.to_others[1].sum() == pytest.approx(cosines.mean(), rel=1e-4)
    assert frames[0].shape == (32, 32, 3)
    with pytest.raises(BadInput, match="stored are left, middle, right"):
        images_to_class(files, network_for(features), features, "up")


def test_classes_without_an_answer_are_named_and_none_takes_the_place_of_another(
    features, tmp_path
):
    with pytest.raises(BadInput, match="expected two or more, one of them with two images"):
        every_class(features.only("label=left"), None, lambda *_: None)
    assert classes_left_out(features, None, ["left", "right"]) == [
        "classes without two images to compare: middle"
    ]
    white = np.zeros((4, 4, 3), np.uint8)
    labels = ("a b", "a_b", "a/b", "\u732b" * 200, "\u732b" * 201)
    names = {_write(features, tmp_path, f"class-{label}", white) for label in labels}
    assert len(names) == len(list(tmp_path.glob("*.png"))) == 5
    image, label = ({"0/to_class": np.zeros((2, 2))} for _ in range(2))
    with pytest.raises(BadInput, match="of an image and of the class '0'"):
        joined_arrays([image, label])


class Zeroed:
    """Features in which the maps of some rows are zero."""

    def __init__(self, features, rows):
        self.features, self.rows = features, rows

    def __getattr__(self, name):
        return getattr(self.features, name)

    def read(self, name, rows):
        values = self.features.read(name, rows)
        values[np.isin(rows, self.rows)] = 0
        return values


def test_an_image_whose_pooled_map_is_zero_is_left_out_and_named(features, tmp_path):
    table = features.table().set_index("row")
    (left, *others), (right, *_) = (
        table.index[table["label"] == label] for label in ("left", "right")
    )
    zeroed = Zeroed(features, [left, right])
    said = (
        "images whose pooled map is zero, which is like nothing: "
        f"{table['path'][left]} (row {left}), {table['path'][right]} (row {right})"
    )
    part = every_class(zeroed, None, lambda *_: None)
    assert part.notes == [said]
    assert part.table["n"].tolist() == [5, 6, 5]
    units = features.read("gap", np.array(others)).astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    expected = ((units @ units.T).sum() - 5) / 20
    assert part.table["to_class"][0] == pytest.approx(expected, rel=2e-3)
    lines = []
    pairs = confused_pairs(zeroed, 50, tell=lines.append)
    assert not {left, right} & {*pairs["row_a"], *pairs["row_b"]}
    files = [image_file(features, row) for row in (int(left), 7)]
    _, found = images_to_class(files, network_for(features), zeroed, "left", tell=lines.append)
    assert lines == [said] * 2
    assert found.rows.tolist() == [-1, -1]
    assert found.to_class[0].sum() == pytest.approx(
        images_to_class(files, network_for(features), features, "left")[1].to_class[0].sum(),
        rel=2e-3,
    )  # it is in no mean with itself, stored as zero or not

    network = network_for(features)
    dead = torch.nn.Sequential(*network.module[:3], torch.nn.Threshold(1e9, 0), *network.module[4:])
    dead = replace(network, module=dead)
    _, found = images_to_class(files, dead, features, "left")
    assert not found.to_class.any()
    given = explain_images(
        [0, 7], features, methods=("sa", "likeness", "likeness_gradient"), network=dead
    )
    assert given.target_note == ""
    with patch.dict(features.attrs, {"tap_notes": {"fc": HEADLESS_NOTE}}):
        assert "no classifier" in explain_images([0], features, methods=("sa",)).target_note
    assert given.notes[-2].startswith("likeness of 0 (a) and 7 (b): the pooled map of image a is")
    assert given.notes[-1] == (
        "likeness_gradient is zero everywhere, which is no explanation: 0, 7"
    )
    with patch("alike.analysis.explain.network_for", return_value=dead):
        said = like_class(features, [0], "left").notes
    assert said == ["likeness is zero everywhere, which is no explanation: 0"]


def test_an_image_that_is_gone_leaves_its_place_empty(features):
    file = Path(image_file(features, 0))
    held = file.read_bytes()
    file.unlink()
    try:
        lines = []
        both = stored_pair(features, 0, 7, tell=lines.append)
        with pytest.raises(BadInput, match="cannot be read any more"):
            stored_frames(features, [0])
        whole = explain_set(features, methods=("cam",))
        alone = features.table().query("row == 0")
        with (
            patch.object(features, "table", return_value=alone),
            pytest.raises(BadInput, match="no image can be explained"),
        ):
            explain_set(features, methods=("cam",))
    finally:
        file.write_bytes(held)
    assert len(np.unique(both.images[0])) == 1
    assert both.likeness.value == stored_pair(features, 0, 7).likeness.value
    (line,) = lines
    assert line.startswith("picture of row 0: image ")
    assert whole.left_out == (line.removeprefix("picture of row 0: "),)
    assert sorted(whole.table["row"]) == list(range(1, 18))
    (part,) = stored_relevance(features, "cam")
    assert 0 not in part["rows"]
    again = explain_set(features, methods=("cam",))
    assert (again.n_computed, again.left_out) == (18, ())
    mean = features.read("last_conv", np.array([0]))[0].astype(np.float64).mean((1, 2))
    assert stored_pair(features, 0, 7, centre=mean).centred is None


def test_classes_of_features_without_maps_are_refused(features):
    bare = Zeroed(features, [])
    bare.arrays = {"gap": features.arrays["gap"]}
    for ask in (confused_panel, lambda given: next(class_likeness(given))):
        with pytest.raises(
            BadInput, match=r"has no maps: run `alike extract .* --taps .*last_conv"
        ):
            ask(bare)


def test_an_option_that_nothing_reads_is_refused():
    def said(images=0, methods=None, like=None, *, options, **flags):
        try:
            check_options(options, questions_of(images, methods, like, **flags), "--{}".format)
        except BadInput as error:
            return str(error).partition(" ")[0]
        return ""

    measure, target = {"measure": "max_cosine"}, {"target": "3"}
    assert said(1, options=measure) == said(2, ["cam"], options=measure) == "--measure"
    assert said(3, options=measure) == said(grade=True, methods=["cam"], options=measure)
    assert said(2, options=measure) == said(1, grade=True, options=measure) == ""
    assert said(grade=True, methods=["likeness"], options=measure) == ""
    assert said(2, options=target) == said(1, like="a", options=target) == "--target"
    assert said(1, options=target) == said(1, ["cam"], "a", options=target) == ""
    assert said(classes=True, options={"limit": 3}) == "--limit"
    assert said(2, options={"where": "label=a"}) == "--where"
    assert said(2, like="a", options={"where": "label=a"}) == ""
    assert said(continuity=True, options={"arrays": "a.npz", "pairs": False}) == "--arrays"
    assert said(1, [], options={}) == "methods:"


@pytest.mark.parametrize("chosen", [_spread, _limited, _asked_rows])
def test_which_images_are_asked_is_told_by_their_content(features, chosen):
    """Files may be renamed, and come in another order: the same images are graded."""
    table = features.table()
    wanted = set(chosen(table, 7)["image_id"])
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(table))
        moved = table.iloc[order].assign(row=range(len(table)))
        assert set(chosen(moved, 7)["image_id"]) == wanted
    assert chosen(table, 7)["label"].value_counts().tolist() == [3, 2, 2]


def test_images_of_several_sizes_are_explained_as_alone(features):
    """A network without --resize sees images as they are."""
    network = replace(network_for(features), transform=Transform())
    dice = torch.Generator().manual_seed(0)
    sizes = [(40, 48), (32, 32), (40, 48), (64, 36)]
    images = [
        torch.randint(0, 256, (3, *size), generator=dice, dtype=torch.uint8) for size in sizes
    ]
    for method in ("gradcam", "lrp"):
        together = list(explain_batch(images, network, method, [0, 1, 2, 1]))
        assert [one.target for one in together] == [0, 1, 2, 1]
        for one, image in zip(together, images, strict=True):
            alone = explain(image, network, method, one.target)
            np.testing.assert_allclose(one.relevance, alone.relevance, rtol=1e-4, atol=1e-6)
    pair = pixel_likeness([images[0], images[3]], network)
    assert (pair.on_a.shape, pair.on_b.shape) == ((40, 48), (64, 36))
    assert pair.on_b.sum() == pytest.approx(pair.value, rel=0.05)
    whole = embedding_of(features, "map_cosine")
    with pytest.raises(BadInput, match="images of two sizes: choose a pooled measure"):
        pixel_likeness([images[0], images[3]], network, embedding=whole)
    with pytest.raises(BadInput, match="maps of several"):
        images_to_class([images[0], images[3]], network, features, "left")
    with pytest.raises(BadInput, match="pairs of places are of two images"):
        explain_images([0], features, pairs=True)


def test_confused_pairs_are_the_most_alike_of_different_classes(features):
    table = confused_pairs(features, 4)
    everyone = features.table()
    pooled = features.read("gap", everyone["row"].to_numpy()).astype(np.float64)
    units = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    different = everyone["label"].to_numpy()[:, None] != everyone["label"].to_numpy()[None, :]
    assert table["cosine"].iloc[0] == pytest.approx((units @ units.T)[different].max(), rel=1e-6)
    assert (table["label_a"] != table["label_b"]).all()
    assert (np.diff(table["cosine"]) <= 0).all()


def test_a_picture_of_very_many_rows_shows_the_first(features, monkeypatch):
    monkeypatch.setattr("alike.analysis.explain.overlay.PICTURED", 1)
    monkeypatch.setattr("alike.analysis.explain.classes.PICTURED", 1)
    lines = []
    table, picture = confused_panel(features, 3, tell=lines.append)
    assert len(table) == 3
    assert lines == ["the picture shows the first 1 of 3 pairs"]
    assert picture.shape[0] < 3 * SIDE


def test_examples_are_the_same_images_for_every_network(features):
    table = features.table()
    chosen = example_images(table, 4)
    assert chosen["label"].tolist() == ["left", "middle", "right", "left"]
    smallest = table.groupby("label")["image_id"].min()
    assert chosen["image_id"].tolist()[:3] == smallest[["left", "middle", "right"]].tolist()
    shuffled = table.sample(frac=1.0, random_state=0)
    assert example_images(shuffled, 4)["row"].tolist() == chosen["row"].tolist()
    assert len(example_images(table, 100)) == 18


def test_a_whole_store_is_explained_once(features):
    first = explain_set(features, methods=("gradcam", "lrp"))
    again = explain_set(features, methods=("gradcam", "lrp"))
    assert (first.n_computed, first.n_reused) == (36, 0)
    assert (again.n_computed, again.n_reused) == (0, 36)
    (part,) = stored_relevance(features, "lrp")
    np.testing.assert_array_equal(part["rows"], features.table()["row"])
    alone = explain(image_file(features, 5), network_for(features), "lrp")
    at = int(np.flatnonzero(part["rows"] == 5)[0])
    np.testing.assert_allclose(part["relevance"][at], alone.relevance, atol=1e-6)
    limited = explain_set(features, methods=("sa", "lrp"), limit=5)
    assert sorted(limited.table["label"].value_counts()) == [2, 4, 4]
    explain_set(features, methods=("lrp",), limit=7)
    place = f"explanations/{features.key}/lrp"
    (name, *_) = features.store.files.listing(place)
    earlier = features.store.read_file(f"{place}/{name}")
    features.store.write_file(f"{place}/0123456789abcdef.npz", earlier)
    parts = list(stored_relevance(features, "lrp"))
    rows = np.concatenate([one["rows"] for one in parts])
    assert sorted(rows) == features.table()["row"].tolist()
    assert all(len(values) == len(one["rows"]) for one in parts for values in one.values())
    some = stored_relevance(features.only("label=left"), "lrp")
    assert sum(len(one["rows"]) for one in some) == 6


def test_explaining_by_another_network_is_refused(features):
    other = load_network("squeezenet1_1", "none")
    with pytest.raises(BadInput, match="give the network that made them"):
        explain_set(features, other)


def test_continuity_is_kept_in_the_store(features):
    assert read_continuity(features.store, features.key) is None
    sampling = Sampling(directions=1, pairs=6)
    with pytest.raises(BadInput, match="a limit of 1, expected 2 or more"):
        continuity_of(features, n_images=1, split=None)
    made = continuity_of(
        features, n_images=6, split=None, methods=("cam", "lrp"), sampling=sampling
    )
    table, picture = read_continuity(features.store, features.key)
    assert table["max"].tolist() == made.table["max"].tolist()
    assert set(table["pairs"]) >= {"noise", "shift_half", "nearest_same", "different_class"}
    assert picture.startswith(b"\x89PNG")


def test_the_report_shows_what_the_store_holds(features):
    assert keep_examples(features, count=4, split=None) == "cam"
    picture = features.store.read_file(f"explanations/{features.key}/examples.png")
    with Image.open(io.BytesIO(picture)) as image:
        assert image.size[0] > 4 * 150
    keep_confused(features, 2)
    continuity_of(
        features, n_images=4, split=None, methods=("cam",), sampling=Sampling(directions=1)
    )
    shown = explanations_section({"network": features.key}, features.store)
    assert shown.startswith('<section id="explanations">')
    assert "contribution of each position to the score" in shown
    assert "Evidence for the predicted class" in shown
    assert shown.count("data:image/jpeg") == 3
    advice = f"No grade of the maps was measured: <code>{grade_command(features)}</code> does."
    assert shown.count(advice) == 3
    twice = explanations_section({"before": features.key, "after": features.key}, features.store)
    assert twice.count("<table") == 1  # one row an explainer and network
    assert (twice.count(">before</td>"), twice.count(">after</td>")) == (1, 1)
    assert explanations_section({"network": "another"}, features.store) == ""


def notes_under_pictures(page):
    """What a report says under each picture, by the first sentence."""
    captions = [one.split("</figcaption>")[0] for one in page.split("<figcaption>")[1:]]
    return dict(caption.split(". ", 1) for caption in captions)


def test_grades_are_kept_in_the_store_and_shown(features, monkeypatch, capsys):
    argv = ["alike", "explain", "--store", features.store.url, "--grade", "--methods", "cam,lrp"]
    monkeypatch.setattr(sys, "argv", [*argv, "--limit", "4", "--split", "all", "--json"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    answer = capsys.readouterr()
    said = json.loads(answer.out)["grade"]
    cost = json.loads(answer.out)["cost"]["grade"]
    assert (cost["explainers"], cost["asked"], cost["images"]) == (2, 2, 4)
    assert "grading 2 of 2 explainers of a class on 4 images: " in answer.err
    assert [row["explainer"] for row in said] == ["cam", "lrp", "energy", "random"]
    assert all(row["n_images"] == 4 and 0 <= row["deletion"] <= 1 for row in said)
    shown = explanations_section({"network": features.key}, features.store)
    assert "Does the network follow its explanations?" in shown
    assert f"4 images, {said[0]['cells']} cells" in shown
    table, settings = features.store.read_table(f"tables/{features.key}/grade.parquet")
    assert table["deletion"].tolist() == [row["deletion"] for row in said]
    assert settings["draws"] == 20

    assert keep_examples(features, count=3, split=None) == "cam"
    continuity_of(
        features, n_images=4, split=None, methods=("sa", "lrp"), sampling=Sampling(directions=1)
    )
    shown = explanations_section({"network": features.key}, features.store)
    less = {row["explainer"]: f"{row['deletion_to_energy']:+.3f}" for row in said[:2]}
    less = {name: value.replace("-", "−") for name, value in less.items()}
    under = notes_under_pictures(shown)
    of = "Grade of the maps, deletion less that of energy:"
    what = f"4 images, {said[0]['cells']} cells."
    assert under["Evidence for the predicted class"] == f"{of} cam {less['cam']}; {what}"
    place = f"explanations/{features.key}/examples.png"
    with Image.open(io.BytesIO(features.store.read_file(place))) as image:
        older = io.BytesIO()
        Image.fromarray(np.asarray(image)).save(older, "PNG")  # without the text that names cam
    features.store.write_file(place, older.getvalue())
    earlier = explanations_section({"network": features.key}, features.store)
    assert notes_under_pictures(earlier)["Evidence for the predicted class"] == (
        f"{of} cam {less['cam']}, gradcam not graded; {what}"
    )
    assert under["The least continuous pairs of inputs"] == (
        f"{of} sa not graded, lrp {less['lrp']}; {what}"
    )


def test_grades_of_likeness_are_kept_and_shown(features, monkeypatch, capsys):
    argv = ["alike", "explain", "--store", features.store.url, "--grade", "--split", "all"]
    named = ["--methods", "likeness,likeness_lrp", "--limit", "3", "--measure", "max_cosine"]
    monkeypatch.setattr(sys, "argv", [*argv, *named, "--json"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    answer = json.loads(capsys.readouterr().out)
    assert "grade" not in answer
    said = answer["pair_grade"]
    names = ["likeness", "likeness_lrp", "energy", "random"]
    kinds = ["same class", "different classes"]
    assert [(row["pairs"], row["explainer"]) for row in said] == [
        (kind, name) for kind in kinds for name in names
    ]
    assert all(row["n_images"] == 3 and -1 <= row["deletion"] <= 1 for row in said)
    shown = explanations_section({"network": features.key}, features.store)
    assert "Does the similarity follow the maps of likeness?" in shown
    assert f"3 pairs, {said[0]['cells']} cells" in shown
    assert "max_cosine. Deletion" in shown
    table, settings = features.store.read_table(f"tables/{features.key}/pair_grade.parquet")
    assert table["deletion"].tolist() == [row["deletion"] for row in said]
    assert settings["measure"] == "max_cosine"

    keep_confused(features, 1)
    shown = explanations_section({"network": features.key}, features.store)
    value = f"{said[4]['deletion_to_energy']:+.3f}".replace("-", "−")
    assert notes_under_pictures(shown)["The most similar images of different classes"] == (
        f"Grade of the maps, deletion less that of energy: likeness {value}; 3 pairs, "
        f"{said[4]['cells']} cells of different classes, max_cosine."
    )


def test_given_images_by_path_and_by_row(features):
    found = explain_images(
        [image_file(features, 3), 3], features, methods=("cam", "lrp", "likeness")
    )
    table = found.table.set_index(["image", "method"])
    assert table.loc["3", "lrp"]["sum"] == pytest.approx(table["sum"].iloc[1])
    assert found.alike.likeness.value == pytest.approx(1)
    assert set(found.pictures) == {"explanations", "likeness"}
    assert found.arrays["0/likeness"].sum() == pytest.approx(1, rel=1e-5)
    with pytest.raises(BadInput, match="no row 999"):
        explain_images([999], features)
    with pytest.raises(BadInput, match="no class 'up'"):
        explain_images([0], features, methods=("cam",), target="up")
    with pytest.raises(BadInput, match="give a second one"):
        explain_images([0], features, methods=("likeness",))
    assert (
        explain_images([0], features, methods=("cam",), target="right").explanations[0][0].target
        == 1
    )


def test_the_command_writes_pictures_and_tells_json(features, tmp_path):
    from alike.flows.cli import app

    where = ["--store", features.store.url, "--to", str(tmp_path), "--json"]
    said = CliRunner().invoke(app, ["explain", "0", "7", "--methods", "cam,likeness", *where])
    assert said.exit_code == 0, said.output
    told = json.loads(said.stdout)["images"]
    said_like = CliRunner().invoke(
        app, ["explain", "0", "--like", "right", "--arrays", str(tmp_path / "a.npz"), *where]
    )
    assert said_like.exit_code == 0, said_like.output
    with np.load(tmp_path / "a.npz") as file:
        assert set(file) == {"0/to_class", "0/to_others"}
    (tmp_path / "a.npz").unlink()
    (tmp_path / "0-like-right.png").unlink()
    assert [row["method"] for row in told["maps"]] == ["cam", "cam"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "0-7-explanations.png",
        "0-7-likeness.png",
    ]
    said = CliRunner().invoke(app, ["explain", "--classes", "--confused", "2", *where])
    assert said.exit_code == 0, said.output
    told = json.loads(said.stdout)
    assert len(told["classes"]["classes"]) == 3
    assert (tmp_path / "confused.png").is_file()


def test_what_is_no_image_is_named(features, tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(BadInput, match=r"text\.jpg' cannot be decoded"):
        explain_images([str(tmp_path / "text.jpg")], features)
    with pytest.raises(BadInput, match=r"gone\.jpg' cannot be read \(unreadable: No such file"):
        explain_images([str(tmp_path / "gone.jpg")], features)


def test_an_overlay_keeps_the_picture_where_nothing_is_relevant():
    image = np.full((8, 8, 3), 120, np.uint8)
    heat = np.zeros((2, 2), np.float32)
    assert (overlay(image, heat) == overlay(image, heat)[0, 0]).all()
    heat[0, 0], heat[1, 1] = 1, -1
    found = overlay(image, heat).astype(int)
    assert found[0, 0, 0] > found[0, 0, 2] + 50
    assert found[-1, -1, 2] > found[-1, -1, 0] + 50
    assert overlay(image, heat, side=32).shape == (32, 32, 3)
    assert overlay(np.zeros((1, 5000, 3), np.uint8), heat, side=32).shape == (1, 128, 3)
    assert full_colour(heat) == pytest.approx(1)


def test_a_map_states_its_scale_and_a_pair_shares_one(features):
    image = np.full((8, 8, 3), 120, np.uint8)
    heat = np.array([[4.0, 0], [0, -1]], np.float32)
    top = f"{full_colour(heat):.2g}"
    signed = ((0.0, f"-{top}"), (0.5, "0"), (1.0, top))
    assert heat_image(image, heat, ("a",)).bar.labels == signed
    assert heat_image(image, np.abs(heat), ("a",)).bar.labels == ((0.0, "0"), (1.0, top))
    plain, scaled = PanelImage(image, ("a",)), heat_image(image, heat, ("a",))
    assert panel([[scaled]]).shape[0] > panel([[plain]]).shape[0]
    bar = panel([[scaled]])[14 + SIDE + 8, 14 : 14 + SIDE].astype(int)
    assert bar[0, 2] > bar[0, 0] + 50  # blue at the left end
    assert bar[-1, 0] > bar[-1, 2] + 50  # orange at the right
    found = compare_images(image_file(features, 0), image_file(features, 7), network_for(features))
    kept = []
    original = heat_image.__globals__["overlay"]

    def keep(image, heat, *, top=None, side=None):
        kept.append(top)
        return original(image, heat, top=top, side=side)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(heat_image.__globals__, "overlay", keep)
        alike_panel([found], [("a", "b")])
    likeness_a, difference_a, likeness_b, difference_b = kept
    assert likeness_a == likeness_b == full_colour(found.likeness.on_a, found.likeness.on_b)
    assert difference_a == difference_b


# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_the_colour_blind_tell_for_from_against(blindness):
    def lab(rgb):
        linear = np.power(np.asarray(rgb) / 255, 2.2)
        seen = np.clip(np.asarray(BLINDNESS[blindness]) @ linear, 0, 1)
        to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
        x, y, z = np.cbrt(np.asarray(to_xyz) @ seen / [0.9505, 1, 1.089])
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    for strength in (0, 1):  # weak and strong; a difference of 2.3 is just noticeable
        assert np.linalg.norm(lab(FOR[strength]) - lab(AGAINST[strength])) > 30


@pytest.mark.quick
def test_pixels_are_smoothed_for_the_eye_and_positions_are_not():
    small, large = np.zeros((32, 32), np.float32), np.zeros((224, 224), np.float32)
    small[5, 5] = large[50, 50] = 1
    assert drawn(small) is small
    assert drawn(large).sum() == pytest.approx(1, rel=1e-3)
    assert drawn(large).max() < 0.1


def test_a_panel_is_a_png_and_needs_a_picture():
    sheet = panel(
        [[PanelImage(np.zeros((4, 6, 3), np.uint8), ("a very long line of text " * 9,))]], side=50
    )
    assert sheet.shape[1] == 50 + 2 * 14
    assert png(sheet).startswith(b"\x89PNG")
    with pytest.raises(BadInput, match="no pictures"):
        panel([])


@pytest.mark.parametrize("method", ["cam", "gradcam", "sa", "lrp", "lrp_gamma", "deep_taylor"])
def test_a_real_image_by_a_trained_network(shared_data, method):
    network = load_network("squeezenet1_1", str(shared_data / "weights/squeezenet1_1_imagenet.pth"))
    with tarfile.open(shared_data / "nips2017_first200.tar") as held:
        names = sorted(name for name in held.getnames() if name.endswith((".jpg", ".png", ".jpeg")))
        data = held.extractfile(names[0]).read()
    found = explain(data, network, method)
    assert found.relevance.max() > 0
    assert 0 < found.probability <= 1
    total = float(found.relevance.sum(dtype=np.float64))
    if method == "cam":
        assert total / found.relevance.size == pytest.approx(found.score, rel=1e-4)
    if method in ("lrp", "deep_taylor"):
        assert total == pytest.approx(found.score, rel=1e-3)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small networks: threads that wait for each other cost more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


WITHOUT_PLOTLY = """
import sys

from alike.analysis.explain import explain_images, keep_confused, keep_examples
from alike.extract.store import Store

features = Store.open(sys.argv[1]).features()
keep_confused(features, 1)
keep_examples(features, count=2, split=None)
explain_images([0, 7], features, methods=("cam", "likeness")).pictures
print(*sorted({"plotly", "dask", "zennit"} & set(sys.modules)))
"""


def test_drawing_and_keeping_an_explanation_loads_no_plotly(features):
    words = [sys.executable, "-c", WITHOUT_PLOTLY, features.store.url]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_map_of_zeros_is_no_explanation(features, monkeypatch):
    row = replace(EXPLAINERS["gradcam"], finish=lambda evidence, batch: 0 * evidence)
    monkeypatch.setitem(EXPLAINERS, "gradcam", row)
    found = explain_images([3, 4], features, methods=("gradcam", "cam"))
    assert found.notes == ("gradcam is zero everywhere, which is no explanation: 3, 4",)
    table = found.table.set_index("method")
    assert table.loc["gradcam", ["peak_y", "peak_x"]].isna().all(axis=None)
    assert table.loc["cam", ["peak_y", "peak_x"]].notna().all(axis=None)
    image = np.full((8, 8, 3), 120, np.uint8)
    assert heat_image(image, np.zeros((2, 2), np.float32), ("a",)).lines[-1].startswith("zero")


def test_two_images_are_compared_in_pixels_by_any_measure(features, tmp_path):
    from alike.flows.cli import app

    rows, methods = ["0", "7"], "likeness,likeness_lrp,likeness_gradient,cam"
    where = ["--store", features.store.url, "--to", str(tmp_path), "--json"]
    arrays = ["--arrays", str(tmp_path / "a.npz"), "--pairs"]
    said = CliRunner().invoke(app, ["explain", *rows, "--methods", methods, *where, *arrays])
    assert said.exit_code == 0, said.output
    answer = json.loads(said.stdout)["images"]
    lines = {(line["method"], line["image"]): line for line in answer["maps"]}
    with np.load(tmp_path / "a.npz") as file:
        maps = dict(file)
    for side, name in enumerate(rows):
        line = lines["likeness_lrp", name]
        assert (line["target"], line["probability"]) == (rows[1 - side], None)
        assert line["score"] == pytest.approx(answer["cosine"], rel=1e-5)
        total = float(maps[f"{side}/likeness_lrp"].sum())
        assert (line["sum"], line["conserved"]) == pytest.approx((total, total / line["score"]))
        assert line["conserved"] == pytest.approx(1, rel=1e-3)
    assert maps["pairs/likeness_lrp"].shape == (8, 8, 32, 32)
    summed = maps["pairs/likeness_lrp"].sum(axis=(0, 1))
    np.testing.assert_allclose(summed, maps["0/likeness_lrp"], atol=1e-6)
    stems = sorted(Path(file).stem for file in answer["files"])
    assert stems == ["0-7-explanations", "0-7-likeness", "0-7-pixels", "0-7-positions"]
    for measure, noted in (("max_cosine", ""), ("gap_spearman", "ranks")):
        found = explain_images([0, 7], features, methods=("likeness_lrp",), measure=measure)
        assert len(found.pixels) == (not noted)
        assert all(noted in note for note in found.notes)
    with pytest.raises(BadInput, match="give a second one"):
        explain_images([0], features, methods=("likeness_lrp",))
    with pytest.raises(BadInput, match="compares two images, 3 were given"):
        explain_images([0, 7, 3], features, methods=("likeness_lrp", "likeness"))
    (note,) = explain_images([0, 7, 3], features, methods=("cam", "likeness")).notes
    assert note == "likeness compares 0 with 7: it is of two images"


def test_without_a_rule_two_images_are_compared_by_gradients(features):
    """A network that LRP cannot pass: said, and the gradient serves."""

    class Summed(torch.nn.Module):
        def forward(self, x):
            return x.cumsum(2)

    network = network_for(features)
    module = torch.nn.Sequential(*network.module[:3], Summed(), *network.module[3:])
    frames = [torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8) for _ in range(2)]
    other = replace(network, module=module)
    with pytest.raises(BadInput, match="no relevance rule for cumsum"):
        pixel_likeness(frames, other, "likeness_lrp")
    assert pixel_likeness(frames, other, "likeness_gradient").on_a.any()
