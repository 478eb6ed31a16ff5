"""`alike report`, `alike export` and `alike map` as a user would call them."""

import json
import sys

import pytest

from alike.analysis.analyse import AnalysisSettings, analyse
from alike.analysis.export.result import read_result


@pytest.fixture(scope="module")
def store(digits):
    for features in (digits.before, digits.after):
        analyse(features, AnalysisSettings(measures=["gap_cosine"], bootstrap=10))
    return digits.store.url


@pytest.fixture
def alike(monkeypatch, capsys):
    from alike.flows.cli import main

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["alike", *map(str, words)])
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code or 0
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return run


def test_report_of_two(alike, store, tmp_path):
    to = tmp_path / "ä b.html"
    status, out, _ = alike(
        "report", "--store", store, "--features", "plain-0001", "--after", "tuned-0002", "--to", to,
        "--json",
    )  # fmt: skip
    assert status == 0
    assert json.loads(out)["report"] == str(to)
    page = to.read_text(encoding="utf-8")
    assert "came closer" in page
    assert "linear CKA" in page
    assert "stayed on average. Of the" in page


def test_export_and_map(alike, store, tmp_path):
    place = ("--store", store, "--features", "tuned-0002")
    status, out, _ = alike("map", *place, "--to", tmp_path / "map.csv", "--json")
    assert status == 0
    assert json.loads(out)["perplexity"] == 30
    assert "tsne_x" in read_result(tmp_path / "map.csv").table.columns
    to = tmp_path / "x.parquet"
    status, out, _ = alike(
        "export", *place, "--to", to, "--split", "held_out", "--maps", "--images", "--json"
    )
    assert status == 0
    assert str(to) in json.loads(out)["files"]
    assert {"neighbors", "image", "projection_x"} <= set(read_result(to).table.columns)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("export", "--to", "x.doc"), "expected a name ending in"),
        (("export", "--to", "x.npz", "--split", "all"), "--split"),
        (("export", "--to", "x.csv", "--arrays", "fc"), "has no array fc"),
        (("map", "--split", "half"), "held_out"),
        (("map", "--measure", "cosine"), "unknown measure"),
        (("export", "--to", "e.parquet", "--measure", "cosine"), "unknown measure"),
        (("map", "--to", "x.png"), ".csv or .parquet"),
        (("report", "--after", "nothing"), "nothing"),
    ],
)
def test_bad_input_is_one_line_and_status_two(alike, store, words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = alike(*words, "--store", store, "--features", "tuned-0002")
    assert (status, out) == (2, "")
    assert said in err
    assert err.strip().count("\n") == 0
    assert not list(tmp_path.iterdir())


def test_a_report_without_the_default_measure_is_of_one_measure(alike, digits, tmp_path):
    """Verdict, tiles and interval are of the same one, which is not the floor."""
    for features in (digits.before, digits.after):
        analyse(features, AnalysisSettings(measures=["pixel_euclid", "gap_pearson"], bootstrap=10))
    place = ("--store", digits.store.url, "--features", "plain-0001", "--after", "tuned-0002")
    try:
        status, _, _ = alike("report", *place, "--to", tmp_path / "r.html")
        found = [
            analyse(features, AnalysisSettings(measures=["gap_pearson"], bootstrap=0)).tables[
                "scores"
            ]
            for features in (digits.before, digits.after)
        ]
    finally:
        for features in (digits.before, digits.after):
            analyse(features, AnalysisSettings(measures=["gap_cosine"], bootstrap=10))
    assert status == 0
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    values = [scores.query("score == 'sameness'")["value"].iloc[0] for scores in found]
    assert f"Sameness went from {values[0]:.3f} to {values[1]:.3f}" in page


@pytest.mark.quick
def test_tables_say_of_which_analysis_they_are(alike, store, digits, tmp_path):
    to = tmp_path / "x.parquet"
    status, _, err = alike(
        "export", "--store", store, "--features", "tuned-0002", "--to", to, "--split", "all"
    )
    assert status == 0
    assert err.startswith("note: no column of neighbours is written: ")
    assert err.count("\n") == 1
    assert read_result(to).attrs["split"] == "all"
    scores = read_result(tmp_path / "x.scores.parquet").attrs
    assert scores["split"] == "held_out"
    assert scores["analysis"]["bootstrap"] == 10
    assert scores["digest"] == digits.after.digest


def test_an_analysis_of_other_features_is_said(alike, store, digits, tmp_path, monkeypatch):
    from alike.extract.store.features import Features

    monkeypatch.setattr(Features, "digest", property(lambda self: "another"))
    place = ("--store", store, "--features", "tuned-0002")
    for words in (("report", "--to", tmp_path / "r.html"), ("export", "--to", tmp_path / "x.csv")):
        _, _, err = alike(*words, *place)
        assert "taps of tuned-0002 came or changed after its analysis, which is of" in err


def test_labels_and_sides_that_changed_after_an_analysis_are_said(write_features, make, tmp_path):
    features = write_features(tmp_path / "s", make((12, 12)), share=0.5)
    store = features.store
    analysis = analyse(features, AnalysisSettings(measures=["gap_cosine"], bootstrap=0))
    view = store.images()[["image_id", "path", "label", "size", "state", "reason"]]

    def said():
        return analysis.outdated(store.features(features.key))

    assert said() == ""
    store.list_images(view.assign(label=view["label"].to_numpy()[::-1]))
    assert "images, their labels or sides, or taps" in said()
    store.list_images(view[1:])
    assert "came or changed after its analysis" in said()
    # In other rows they are the same images.
    store.list_images(view[::-1])
    assert said() == ""
    store.set_split(0.4, "")
    assert "came or changed after its analysis" in said()


def test_what_a_second_analysis_replaces_is_said(alike, store):
    place = ("--store", store, "--features", "tuned-0002", "--bootstrap", 10)
    _, _, err = alike("analyse", *place, "--measures", "pixel_euclid")
    assert "this replaces that of gap_cosine" in err
    _, _, err = alike("analyse", *place, "--measures", "gap_cosine,pixel_euclid")
    assert "replaces" not in err
    analyse_again = alike("analyse", *place, "--measures", "gap_cosine")
    assert "this replaces that of pixel_euclid" in analyse_again[2]
    # One that fails replaces nothing, and says so.
    status, _, err = alike("analyse", *place, "--measures", "chamfer", "--untrained", "nothing-0")
    assert status == 2
    assert "replaces" not in err
    status, _, err = alike("analyse", *place, "--measures", "pixel_euclid", "--human", store)
    assert status == 2
    assert "replaces" not in err


def test_the_default_measures_replace_too_and_a_damaged_analysis_is_repaired(
    alike, store, digits, monkeypatch
):
    monkeypatch.setattr("alike.analysis.analyse.DEFAULT_MEASURES", ("gap_cosine",))
    place = ("--store", store, "--features", "tuned-0002", "--bootstrap", 10)
    alike("analyse", *place, "--measures", "gap_cosine,gap_pearson")
    _, _, err = alike("analyse", *place)
    assert "this replaces that of gap_pearson" in err
    scores = digits.store.path("tables", "tuned-0002", "scores.parquet")
    scores.write_bytes(scores.read_bytes()[:-9])
    status, _, err = alike("analyse", *place, "--measures", "gap_cosine")
    assert (status, "replaces" in err) == (0, False)
