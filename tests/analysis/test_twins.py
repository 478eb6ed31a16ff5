"""What an analysis says of twins, against sameness computed from the distances themselves."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from alike.analysis.analyse import AnalysisSettings, analyse
from alike.analysis.stored import Analysis
from alike.analysis.twins import first_of_each, twin_sentences
from alike.extract.command import command_of


def sameness(gap: np.ndarray, codes: np.ndarray) -> float:
    unit = gap / np.linalg.norm(gap, axis=1, keepdims=True)
    a, b = np.triu_indices(len(codes), 1)
    near = (unit @ unit.T)[a, b]
    return 2 * roc_auc_score(codes[a] == codes[b], near) - 1


def link(store, pairs):
    table = pd.DataFrame(pairs, columns=["row_a", "row_b"])
    store.keep_links(table.assign(correlation=1.0, symmetry=0), np.arange(store.n_rows))
    store.assign_sides()


def test_headline_with_and_without_twins(tmp_path, make, write_features):
    made = make(sizes=(30, 30))
    for at in (10, 11, 12):
        made.arrays["gap"][at] = made.arrays["gap"][at - 10]
    features = write_features(tmp_path / "s", made)
    pairs = [(0, 10), (1, 11), (2, 12), (1, 12)]
    link(features.store, pairs)
    found = analyse(features, AnalysisSettings(measures=["gap_cosine"], bootstrap=0))
    record = found.settings["twins"]
    assert record["pairs"] == {"held_out": 4}
    assert (record["across"], record["left_out"]) == (0, 4)
    gap = made.arrays["gap"].astype(np.float64)
    kept = np.setdiff1d(np.arange(60), [2, 10, 11, 12])
    whole, fewer = sameness(gap, made.codes), sameness(gap[kept], made.codes[kept])
    assert record["sameness"] == pytest.approx(whole, abs=1e-3)
    assert record["sameness_without"] == pytest.approx(fewer, abs=1e-3)
    assert list(zip(found.tables["twins"].row_a, found.tables["twins"].row_b, strict=True)) == [
        (0, 10), (1, 11), (1, 12), (2, 12),
    ]  # fmt: skip
    said = " ".join(twin_sentences(record))
    assert "4 pairs of twins" in said
    assert f"{record['sameness_without']:.4f}" in said
    assert Analysis.load(features.store, features.key).settings["twins"] == record


def test_twins_across_sides_are_named(tmp_path, make, write_features):
    features = write_features(tmp_path / "s", make(sizes=(40, 40)), share=0.5)
    store = features.store
    sides = features.table()["split"].to_numpy()
    a, b = np.flatnonzero(sides == "train")[0], np.flatnonzero(sides == "held_out")[0]
    link(store, [(min(a, b), max(a, b))])
    settings = AnalysisSettings(measures=["gap_cosine"], bootstrap=0)
    assert analyse(features, settings).settings["twins"]["across"] == 0
    store.set_twins("ignore")
    record = analyse(features, settings).settings["twins"]
    assert record["pairs"] == {"train/held_out": 1}
    assert record["left_out"] == 0
    assert "across train and held-out" in twin_sentences(record)[0]


def test_no_twins_are_no_sentences_but_unknown_ones_are(tmp_path, make, write_features):
    features = write_features(tmp_path / "s", make(sizes=(10, 10)))
    record = analyse(features, AnalysisSettings(measures=["gap_cosine"], bootstrap=0)).settings
    assert record["twins"]["unsigned"] == 20
    (said,) = twin_sentences(record["twins"], features.store)
    assert said.endswith(f"are not known: run `{command_of('twins', features.store)}`.")
    assert twin_sentences(record["twins"]) == ["The twins of 20 images are not known."]
    assert twin_sentences({}) == []


def test_images_that_can_have_no_twins_are_said(tmp_path, make, write_features):
    from alike.analysis.report import write_report

    features = write_features(tmp_path / "s", make(sizes=(10, 10)))
    store = features.store
    settings = AnalysisSettings(measures=["gap_cosine"], bootstrap=0)
    assert analyse(features, settings).settings["twins"]["plain"] is None
    links, _ = store.links()
    store.keep_links(links, np.arange(20), np.array([3, 4, 19]))
    found = analyse(features, settings)
    record = found.settings["twins"]
    assert (record["plain"], record["images"]) == (3, 20)
    sentence = "3 of 20 images are smaller than 24 pixels or flat: they are taken to have no twins."
    assert sentence in twin_sentences(record)
    assert sentence in write_report(tmp_path / "r.html", before=found).read_text()


@pytest.mark.quick
def test_first_of_each_component():
    pairs = pd.DataFrame({"row_a": [7, 5, 3, 99], "row_b": [5, 2, 4, 3]})
    rows = np.array([9, 7, 5, 2, 4, 3])
    assert first_of_each(rows, pairs).tolist() == [True, False, False, True, False, True]


def test_command_lists_twins(tmp_path, make, write_features):
    from alike.flows.cli import app

    features = write_features(tmp_path / "s", make(sizes=(10, 10)))
    link(features.store, [(3, 8)])
    place = ("--store", str(tmp_path / "s"))
    asked = ("analyse", *place, "--measures", "gap_cosine", "--bootstrap", "0", "--json")
    ended = CliRunner().invoke(app, asked)
    assert ended.exit_code == 0, ended.output
    document = json.loads(ended.stdout)
    assert [one["row_b"] for one in document["twins"]] == [8]
    assert document["settings"]["twins"]["left_out"] == 1
    ended = CliRunner().invoke(app, ("twins", *place, "--no-search", "--json"))
    assert ended.exit_code == 0, ended.output
    document = json.loads(ended.stdout)
    assert document["sides"] == {"held_out": 1}
    assert document["unsigned"] == 20
