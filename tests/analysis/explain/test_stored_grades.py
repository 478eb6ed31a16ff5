"""Grades under every map of a picture, and what is older than the features it was made from."""

import re
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from alike.analysis.analyse import AnalysisSettings, analyse
from alike.analysis.explain import classes, overlay, pair
from alike.analysis.explain.classes import (
    class_likeness,
    class_panel,
    confused_panel,
    keep_confused,
)
from alike.analysis.explain.continuity.continuity import Sampling
from alike.analysis.explain.continuity.stored import continuity_of
from alike.analysis.explain.examples import keep_examples
from alike.analysis.explain.grade import Grading, grade_of, pair_grade_of
from alike.analysis.explain.images import explain_images
from alike.analysis.explain.stored_grades import NOT_GRADED, StoredGrades
from alike.analysis.ranking import rank_networks
from alike.analysis.report.explanations import explanations_section
from alike.analysis.report.networks import networks_section
from alike.analysis.report.report import top
from alike.analysis.report.subject import Subject
from alike.analysis.similarity import network_pairs
from alike.extract.command import command_of
from alike.extract.errors import BadInput
from alike.extract.identity import network_titles
from alike.extract.images.sources import open_source
from alike.extract.networks.network import load_network
from alike.extract.pipeline import extract
from alike.extract.store.store import Store
from alike.flows.explaining import graded

NETWORK = """
from torch import nn

def small():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )

def headless():
    return small()[:4]
"""
CHANGED = "The features have changed since"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Place:
    """A small set of three classes, and a store of it that can grow."""

    def __init__(self, folder):
        self.folder = folder
        self.draw = np.random.default_rng(0)
        (folder / "nets.py").write_text(NETWORK)
        for label in ("left", "right", "middle"):
            (folder / "images" / label).mkdir(parents=True)
            for number in range(3):
                self.add(label, number)

    def add(self, label, number):
        pixels = self.draw.integers(0, 60, (16, 16, 3), dtype=np.uint8)
        pixels[4:10, 2:8, ("left", "right", "middle").index(label)] = 230
        Image.fromarray(pixels).save(self.folder / "images" / label / f"{number}.png")

    def extracted(self, seed=0, factory="small"):
        torch.manual_seed(seed)
        network = load_network(f"{self.folder / 'nets.py'}:{factory}", seed=seed)
        store = Store.open(self.folder / "store", create=True)
        return extract(
            open_source(str(self.folder / "images")), network, store, device="cpu", threads=1
        ).key

    def features(self, key):
        return Store.open(self.folder / "store").features(key)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("graded"))


def lines_of(monkeypatch, module, question):
    """The lines under every picture of the panels that a question draws, and the notes."""
    drawn, notes = [], []
    whole = module.panel

    def seen(rows, **told):
        drawn.extend(one.lines for row in rows for one in row if one.bar is not None)
        notes.append(told.get("note", ""))
        return whole(rows, **told)

    monkeypatch.setattr(module, "panel", seen)
    question()
    return drawn, notes


def test_a_number_stands_under_every_map(place, monkeypatch):
    features = place.features(place.extracted())
    files = [str(place.folder / "images" / "left" / f"{n}.png") for n in (0, 1)]
    methods = ("gradcam", "lrp", "likeness", "likeness_lrp")

    def asked():
        return explain_images(files, features, methods=methods)

    drawn, _ = lines_of(monkeypatch, overlay, lambda: asked().pictures)
    assert [lines[-1] for lines in drawn] == [NOT_GRADED] * 4
    grading = Grading(steps=3, draws=2)
    graded = grade_of(features, methods=["gradcam"], split=None, grading=grading)
    pairs = pair_grade_of(
        features, methods=["likeness", "likeness_lrp"], split=None, grading=grading
    )
    value = graded.set_index("explainer").loc["gradcam", "deletion_to_energy"]
    drawn, notes = lines_of(monkeypatch, overlay, lambda: asked().pictures)
    of = {lines[0]: lines[-1] for lines in drawn}
    assert of["gradcam"].startswith(f"grade {value:+.3f}")
    assert of["lrp"] == NOT_GRADED
    assert "deletion less that of plain energy" in notes[0]
    by = pairs.set_index(["explainer", "pairs"])["deletion_to_energy"]
    drawn, _ = lines_of(monkeypatch, pair, lambda: asked().pictures)
    of = {lines[0]: lines[-1] for lines in drawn}
    for name in ("likeness", "likeness_lrp"):
        same, different = by[name, "same class"], by[name, "different classes"]
        assert of[name] == f"grade same {same:+.3f}, different {different:+.3f}"
    assert of["difference"] == NOT_GRADED
    grades = StoredGrades.of(features)
    drawn, _ = lines_of(monkeypatch, pair, lambda: confused_panel(features, 1, grades=grades))
    assert of["likeness"] in {lines[-1] for lines in drawn}
    one = next(class_likeness(features, split=None))
    drawn, _ = lines_of(monkeypatch, classes, lambda: class_panel(features, one, examples=2))
    assert {lines[-1] for lines in drawn} == {NOT_GRADED}
    # A grade of another measure is not that of these maps.
    assert grades.pair_line("likeness", "max_cosine") == NOT_GRADED


@pytest.mark.quick
def test_what_is_older_than_the_features_says_so(place):
    first, second = place.extracted(), place.extracted(seed=1)
    features = place.features(first)
    grading = Grading(steps=3, draws=2)
    grade_of(features, methods=["gradcam"], split=None, grading=grading)
    pair_grade_of(features, methods=["likeness"], split=None, grading=grading)
    continuity_of(
        features, n_images=4, split=None, methods=("gradcam",), sampling=Sampling(directions=1)
    )
    keep_examples(features, count=3, split=None)
    keep_confused(features, 1)
    both = [features, place.features(second)]
    rank_networks(both, split="all").save(features.store)
    network_pairs(both, split="all").save(features.store)
    analysis = analyse(
        features, AnalysisSettings(measures=["gap_cosine"], split="all", bootstrap=0)
    )
    subject = Subject(analysis, None, None, "gap_cosine")
    assert "after its analysis" not in top(subject, {}, features.store)
    shown = explanations_section({"network": first}, features.store)
    assert CHANGED not in shown
    assert "These changed since" not in networks_section(subject, features.store)
    assert not StoredGrades.of(features).outdated

    place.add("left", 9)
    place.extracted()
    features = place.features(first)
    shown = explanations_section({"network": first}, features.store)
    # The tables of continuity and of both grades; three pictures, each with a grade beside it.
    explain = command_of("explain", features.store, first)
    advice = re.findall(f"{CHANGED}: run <code>{re.escape(explain)} ([^<]*)</code> again", shown)
    # Tables name the side that they are of; pictures do not know it.
    assert Counter(advice) == {
        "--continuity --split all": 1, "--continuity": 1, "--confused 4": 1,
        "--grade --split all": 5,
    }  # fmt: skip
    assert shown.count(f"{CHANGED}: the next run draws it again") == 1
    compare = command_of("compare", features.store, "", "--all", "--measure", "gap_cosine")
    says = networks_section(subject, features.store)
    title = network_titles({key: place.features(key).attrs for key in (first, second)})[first]
    assert f"These changed since: {title}. Run <code>{compare} --split all</code> again." in says
    assert f"Beware: images, their labels or sides, or taps of {first} came" in (
        top(subject, {}, features.store)
    )
    grades = StoredGrades.of(features)
    assert grades.outdated == {"images", "pairs"}
    assert grades.line("gradcam").endswith(", of older features")
    assert grades.pair_line("likeness", "gap_cosine").endswith(", of older features")


@pytest.mark.quick
def test_a_network_without_classifier_is_graded_for_likeness_alone(tmp_path):
    """A softmax over pooled features is no probability of a class."""
    place = Place(tmp_path)
    features = place.features(place.extracted(factory="headless"))
    said = []
    tables = graded(features, None, limit=8, tell=said.append)
    assert list(tables) == ["pair_grade"]
    assert "explainers of a class: the network has no classifier" in said[0]
    with pytest.raises(BadInput, match="energy: the network has no classifier"):
        graded(features, ["energy"])
