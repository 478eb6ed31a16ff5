"""`alike report`, `alike export` and `alike map` as a user would call them."""

import json
import sys

import pytest

from analysis.analyse import analyse
from analysis.result import read_result


@pytest.fixture(scope="module")
def store(digits):
    for features in (digits.before, digits.after):
        analyse(features, measures=["gap_cosine"], bootstrap=10)
    return digits.store.url


@pytest.fixture
def alike(monkeypatch, capsys):
    from flows.cli import main

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
    assert "stayed. Of the" in page


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
