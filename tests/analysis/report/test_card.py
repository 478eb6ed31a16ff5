"""A card holds what the store has, and the same store gives the same bytes."""

import hashlib
import json
import sys

import numpy as np
import pytest

from alike.analysis.analyse import AnalysisSettings, analyse
from alike.analysis.people import read_answers
from alike.analysis.report import card_of, card_page
from alike.flows.cli import main


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["alike", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0, capsys.readouterr()

    return call


@pytest.mark.quick
def test_card(tmp_path, made, write_features, run, monkeypatch):
    features = write_features(tmp_path / "store", made)
    features.store.set_source("/somewhere/pets", {})
    settings = AnalysisSettings(measures=["gap_cosine", "pixel_euclid"], bootstrap=1)
    scores = analyse(features, settings).tables["scores"]
    place = ("card", "--store", features.store.url, "--to")
    status, shown = run(*place, tmp_path / "a.json", "--json")
    assert status == 0
    card = json.loads((tmp_path / "a.json").read_text())
    assert json.loads(shown.out)["citation"] == card["citation"]
    own = scores[(scores["measure"] == "gap_cosine") & (scores["score"] == "sameness")].iloc[0]
    assert f"sameness {own['value']:.3f}" in card["citation"]
    kept = {row["score"]: row for row in card["scores"] if row["measure"] == "gap_cosine"}
    assert kept["sameness"]["low"] == pytest.approx(own["low"])
    of_network = {row["score"]: row for row in card["scores"] if row["measure"] == "network"}
    for score in ("accuracy", "nc1", "nc2_norm", "nc2_angle"):
        row = of_network[score]
        assert row["low"] < row["value"] < row["high"]
    assert of_network["nc4"]["low"] is None  # No simulation of it exists.
    worst = scores[scores["score"] == "worst_class_sameness"].set_index("measure")
    wanted = worst.loc["gap_cosine"]
    assert card["worst_class"]["class"] in wanted["note"]
    assert card["worst_class"]["sameness"] == pytest.approx(wanted["value"])
    assert card["worst_class"]["low"] is card["worst_class"]["high"] is None  # of few images
    ids = "\n".join(sorted(features.table("held_out")["image_id"]))
    assert card["images"]["ids_sha256"] == hashlib.sha256(ids.encode()).hexdigest()
    assert card["images"]["source"] == "pets"
    assert card["settings"]["features_digest"] == features.digest
    assert run("card", features.store.url, "--to", tmp_path / "b.json")[0] == 0
    for name in ("a.html", "b.html"):
        assert run(*place, tmp_path / name)[0] == 0
    # The document names every class, the page the first of very many.
    assert len(card["images"]["classes"]) == len(card["network"]["class_names"]) == 5
    monkeypatch.setattr("alike.analysis.report.card.MOST_CLASSES", 3)
    few = card_page(card)
    assert few.count("class 2, and 2 more, which the card as .json names") == 2
    assert "class 4" not in few.partition('id="network"')[2].partition('id="rest"')[0]
    monkeypatch.undo()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    page = (tmp_path / "a.html").read_text()
    assert page == (tmp_path / "b.html").read_text()
    assert card["citation"] in page
    assert "somewhere" not in page + (tmp_path / "a.json").read_text()
    status, shown = run(*place, tmp_path / "card.txt")
    assert status == 2
    assert ".json or .html" in shown.err
    for stores in ((), (features.store.url, "--store", features.store.url)):
        status, shown = run("card", *stores, "--to", tmp_path / "c.json")
        assert status == 2
        assert "give one store" in shown.err


@pytest.mark.quick
def test_the_worst_class_has_its_interval(tmp_path, made, write_features):
    features = write_features(tmp_path / "store", made)
    features.store.set_source("pets", {})
    analysis = analyse(features, AnalysisSettings(measures=["gap_cosine"], bootstrap=0))
    scores = analysis.tables["scores"]
    scores.loc[scores["score"] == "worst_class_sameness", ["low", "high"]] = -0.25, 0.75
    card = card_of(analysis, features)
    worst = card["worst_class"]
    assert (worst["low"], worst["high"]) == (-0.25, 0.75)
    assert "held_out images of 5 classes" in card["citation"]
    analysis.settings["where"] = "label=class 1,class 2"
    citation = card_of(analysis, features)["citation"]
    assert "held_out images with label=class 1,class 2 of" in citation


def test_card_says_who_was_asked(tmp_path, made, write_features, run):
    features = write_features(tmp_path / "store", made)
    features.store.set_source("/somewhere/pets", {})
    n = len(features.table("all"))
    file = tmp_path / "votes.npz"
    np.savez(file, counts=np.random.default_rng(0).integers(1, 9, (n, 3)))
    answers = read_answers(file, features.table("all"))
    analyse(features, AnalysisSettings(measures=["gap_cosine"], bootstrap=0), human=answers)
    for name in ("a.json", "b.json", "a.html", "b.html"):
        assert run("card", features.store.url, "--to", tmp_path / name)[0] == 0
    card = json.loads((tmp_path / "a.json").read_text())
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    note = "row i of votes.npz is taken for the i-th image of the store by path"
    classes = ["1", "2", "3"]
    wanted = {"kind": "votes", "digest": digest, "notes": [note], "classes": classes}
    assert card["settings"]["human"] == wanted
    assert card["people"]
    page = (tmp_path / "a.html").read_text()
    assert digest in page
    assert note in page
    for form in ("json", "html"):
        same = [(tmp_path / f"{side}.{form}").read_bytes() for side in "ab"]
        assert same[0] == same[1]
