"""What the data allow: formulas, planted wrong labels and outliers, dataeval and cleanlab."""

import sys
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import KNeighborsClassifier

from alike.analysis import data_limits
from alike.analysis.analyse import AnalysisSettings, analyse
from alike.analysis.blocks.evaluation_set import evaluation_set_of
from alike.analysis.blocks.vectors import held_vectors
from alike.analysis.data_limits import (
    Listed,
    bayes_bounds,
    bayes_lower,
    data_sentences,
    listed_neighbours,
    second_opinion,
    suspects,
    votes_of,
)
from alike.analysis.neighbours.lists import nearest
from alike.analysis.report.data import data_section
from alike.analysis.report.subject import Subject
from alike.analysis.stored import Analysis

from .peers.record import digits as flipped_digits
from .peers.record import read

NAN = (float("nan"), float("nan"))


def near_of(x, images):
    near = nearest(held_vectors(x, "euclidean"), images)
    return Listed(near.places, np.sqrt(2 * near.keys))


def digits(flipped=100, seed=0):
    """Pixels of digits sorted by their labels, of which some are wrong; which ones are."""
    x, said, y = flipped_digits(flipped, seed)
    images = evaluation_set_of(np.arange(len(y)), [str(label) for label in said])
    return x[images.rows], images, (said != y)[images.rows], y[images.rows]


def test_wrong_labels_are_suspected_first():
    x, images, wrong, truth = digits()
    table = suspects("pixels", near_of(x, images), images)
    labels = table[table["kind"] == "label"]
    at = np.searchsorted(images.rows, labels["row"], sorter=(order := np.argsort(images.rows)))
    at = order[at]
    assert wrong[at[:100]].mean() >= 0.9
    right = labels["suggested"].to_numpy()[:90] == truth[at[:90]].astype(str)
    assert right.mean() >= 0.95
    assert (labels["score"] < 0.5).all()
    assert labels["score"].is_monotonic_increasing


@pytest.mark.quick
def test_images_of_nothing_are_outliers():
    x, images, _, _ = digits(flipped=0)
    draw = np.random.default_rng(1)
    planted = draw.permutation(len(x))[:10]
    x[planted] = draw.integers(0, 17, (10, 64))
    table = suspects("pixels", near_of(x, images), images)
    first = table[table["kind"] == "outlier"]["row"].to_numpy()[:10]
    assert set(first) == set(images.rows[planted])


def test_bounds_are_those_of_the_rule():
    x, images, _, _ = digits(flipped=300)
    near = near_of(x, images)
    wrong = (images.codes[near.places[:, 0]] != images.codes).mean()
    table = bayes_bounds("pixels", near, images, (1 - wrong, 0.6, 0.9)).set_index("voters")
    assert table.loc[1, "upper"] == pytest.approx(wrong)
    assert table.loc[1, "lower"] == pytest.approx(0.9 * (1 - (1 - wrong / 0.9) ** 0.5))
    assert table.loc[1, "lower_low"] < table.loc[1, "lower"] < table.loc[1, "upper_high"] == 0.4
    errors = []
    for i in range(0, len(x), 90):
        rest = np.delete(np.arange(len(x)), i)
        shares = (
            KNeighborsClassifier(5).fit(x[rest], images.codes[rest]).predict_proba(x[i : i + 1])
        )
        first = shares[0] >= shares[0].max() - 1e-9
        errors.append(1 - first[images.codes[i]] / first.sum())
    every = votes_of(near, images.codes, np.ones(5))
    first = every >= every.max(axis=1, keepdims=True) - 1e-9
    own = first[np.arange(len(x)), images.codes] / first.sum(axis=1)
    assert (1 - own[::90]) == pytest.approx(np.array(errors))
    assert table.loc[5, "upper"] == pytest.approx(1 - own.mean())
    # The law flips 300 of 1,797: no classifier errs on fewer, to within the noise of counting.
    assert table.loc[1, "lower"] < 300 / 1797 + 0.03 < table.loc[1, "upper"]


def test_no_bound_is_above_naming_every_image_after_the_largest_class():
    """Neighbours of copies: .75 are wrong where .5, or .25, would be without looking."""
    images = evaluation_set_of(np.arange(8), ["a", "a", "a", "a", "a", "a", "b", "b"])
    near = Listed(np.full((8, 1), 7), np.zeros((8, 1)))
    table = bayes_bounds("m", near, images, (0.25, 0.1, 0.4))
    assert table[["lower", "upper"]].to_numpy().max() == 0.25
    assert table.loc[0, ["lower_low", "upper_high"]].tolist() == [0.25, 0.25]


def test_blocks_of_votes_change_nothing_and_bound_what_is_held(monkeypatch):
    x, images, _, _ = digits(flipped=300)
    near = near_of(x, images)
    whole = bayes_bounds("pixels", near, images, (0.5, *NAN)), suspects("pixels", near, images)
    monkeypatch.setattr(data_limits, "VOTES_BYTES", 8 * 10 * 100)
    parts = list(data_limits.blocks_of_votes(near, images.codes, np.ones(5)))
    assert {len(votes) for _, votes in parts[:-1]} == {100}
    every = votes_of(near, images.codes, np.ones(5))
    np.testing.assert_array_equal(np.concatenate([votes for _, votes in parts]), every)
    pd.testing.assert_frame_equal(bayes_bounds("pixels", near, images, (0.5, *NAN)), whole[0])
    pd.testing.assert_frame_equal(suspects("pixels", near, images), whole[1])


def test_lower_bound_at_its_ends():
    assert bayes_lower(0.0, 10) == 0
    assert bayes_lower(0.9, 10) == pytest.approx(0.9)
    assert bayes_lower(0.5, 2) == pytest.approx(0.5)
    assert np.isnan(bayes_lower(float("nan"), 3))


@pytest.mark.quick
def test_bounds_are_those_of_dataeval():
    record = read("dataeval")
    for classes in (2, 4):
        x, codes = record[f"x{classes}"], record[f"codes{classes}"]
        lower, upper = record[f"one{classes}"]
        images = evaluation_set_of(np.arange(len(x)), [str(code) for code in codes])
        near = near_of(x, images)
        wrong = (codes[near.places[:, 0]] != codes).mean()
        assert upper == pytest.approx(wrong)
        table = bayes_bounds("x", near, images, (1 - wrong, *NAN)).iloc[0]
        assert table["lower"] == pytest.approx(lower)
    for k in (2, 3, 5, 7):
        lower, upper = record[f"voters{k}"]
        assert bayes_lower(upper, 2, k) == pytest.approx(lower)


@pytest.fixture
def asked():
    """The neighbours that cleanlab was asked of, the images, and what it said by position."""
    record = read("cleanlab")
    images = evaluation_set_of(np.arange(len(record["codes"])), record["codes"].astype(str))
    places = np.argsort(images.rows)[record["near"][images.rows]]
    near = Listed(places, np.ones(places.shape))
    return near, images, {name: record[name][images.rows] for name in ("votes", "scores", "flags")}


@pytest.fixture
def cleanlab(asked, monkeypatch):
    """What stands for the package: it answers what is recorded, to the recorded question alone."""
    _, images, said = asked

    def find_label_issues(labels, pred_probs, n_jobs):
        np.testing.assert_array_equal(labels, images.codes)
        np.testing.assert_allclose(pred_probs, said["votes"], atol=1e-12)
        return said["flags"]

    package = {
        "cleanlab": ModuleType("cleanlab"), "cleanlab.filter": ModuleType("cleanlab.filter"),
        "cleanlab.version": ModuleType("cleanlab.version"),
    }  # fmt: skip
    package["cleanlab.filter"].find_label_issues = find_label_issues
    package["cleanlab.version"].__version__ = "2.9.0"
    for name, module in package.items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.quick
def test_margins_are_those_of_cleanlab(asked):
    near, images, said = asked
    table = suspects("pixels", near, images)
    labels = table[table["kind"] == "label"].set_index("row")["score"]
    wanted = pd.Series(said["scores"], images.rows)
    assert labels.to_numpy() == pytest.approx(wanted.loc[labels.index].to_numpy())
    assert set(labels.index) == set(wanted.index[wanted < 0.5])


@pytest.mark.usefixtures("cleanlab")
def test_cleanlab_is_asked_of_the_same_neighbours(asked):
    near, images, said = asked
    flags, why = second_opinion(near, images)
    assert why == "cleanlab 2.9.0"
    assert (flags == said["flags"]).all()
    # It finds most of what was planted, by a rule of its own.
    _, _, wrong, _ = digits()
    assert flags[wrong].mean() > 0.8
    table = suspects("pixels", near, images, flags)
    labels = table[table["kind"] == "label"]
    opinions = pd.Series(flags, images.rows).loc[labels["row"]].map({True: "yes", False: "no"})
    assert labels["cleanlab"].tolist() == opinions.tolist()
    assert set(table.loc[table["kind"] == "outlier", "cleanlab"]) <= {""}
    assert (labels["cleanlab"].iloc[:90] == "yes").mean() > 0.9


def test_without_cleanlab_its_column_is_left_out(tmp_path, made, write_features, monkeypatch):
    for name in ("cleanlab", "cleanlab.filter"):
        monkeypatch.setitem(sys.modules, name, None)
    features = write_features(tmp_path / "store", made)
    found = analyse(features, AnalysisSettings(measures=["gap_cosine"], bootstrap=0))
    assert "cleanlab" not in found.tables["suspects"]
    assert "pip install cleanlab" in found.settings["left_out"]["cleanlab"]
    assert found.settings["second_opinion"] is None


@pytest.mark.usefixtures("cleanlab")
@pytest.mark.parametrize("room", [0, 2**40])
def test_votes_that_are_too_many_are_not_shown_to_cleanlab(room, asked, monkeypatch):
    near, images, _ = asked
    monkeypatch.setattr(data_limits, "OPINION_BYTES", room)
    flags, why = second_opinion(near, images)
    assert (flags is None) == (room == 0)
    assert ("those of 1797 images for 10 classes take 0.0 GB" in why) == (room == 0)


def test_a_second_opinion_is_shown_beside_each_label():
    x, images, _, _ = digits()
    near = near_of(x, images)
    flags = np.arange(len(images)) % 3 == 0
    table = suspects("pixels", near, images, flags)
    labels = table[table["kind"] == "label"]
    place = np.argsort(images.rows)[np.searchsorted(np.sort(images.rows), labels["row"])]
    assert (labels["cleanlab"] == "yes").tolist() == flags[place].tolist()
    bounds = bayes_bounds("pixels", near, images, (0.9, 0.85, 0.95))
    tables = {"suspects": table, "bayes": bounds}
    agreeing = int(flags[place].sum())
    assert f"Of these labels cleanlab suspects {agreeing}," in data_sentences(tables)[1]
    ends = [f"{100 * bounds.iloc[0][name]:.1f} %" for name in ("lower_low", "upper_high")]
    assert f"95 % interval {ends[0]} to {ends[1]})" in data_sentences(tables)[0]
    settings = {"second_opinion": "cleanlab 2.9.0"}
    analysis = Analysis("net", len(images), images.classes, settings, tables)
    page = data_section(Subject(analysis, None, None, "pixels"), None)
    assert "cleanlab suspects it" in page
    assert f"{len(labels)}; second opinion: cleanlab 2.9.0" in page
    assert page.count(">yes</td>") == min(agreeing, 200)


def test_a_table_of_neighbours_comes_back_as_places():
    images = evaluation_set_of(np.array([9, 4, 7, 2]), ["a", "b", "a", "b"])
    rows = images.rows[[1, 2, 0, 3, 3, 1, 2, 0]]
    table = pd.DataFrame({
        "row": np.repeat(images.rows, 2), "rank": [1, 2] * 4, "neighbour": rows,
        "distance": np.arange(8.0),
    })  # fmt: skip
    near = listed_neighbours(images, table)
    assert near.places.tolist() == [[1, 2], [0, 3], [3, 1], [2, 0]]
    assert data_sentences({}) == []
