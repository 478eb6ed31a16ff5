"""What the scale lacks, and that the commands that are named make it."""

import html
import re
import shlex

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from alike.analysis.analyse import AnalysisSettings, analyse
from alike.analysis.report.lookup import rungs
from alike.analysis.report.missing import missing_rungs
from alike.analysis.report.words import SCORE_WORDS, every_word
from alike.analysis.stored import Analysis
from alike.extract.images.sources import open_source
from alike.extract.networks.network import load_network
from alike.extract.pipeline import extract
from alike.extract.store.store import Store
from alike.flows.cli import app

NETWORK = """
from torch import nn

TRANSFORM = {"resize": [8, 8]}

def small():
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, %d))
"""


@pytest.mark.quick
def test_every_score_has_words():
    shown = every_word(["no_such_score", "sameness"])
    assert set(SCORE_WORDS) | {"no_such_score"} == set(shown)
    assert shown["no_such_score"].label == "No such score"
    assert shown["one_nn"].form == "share"


@pytest.fixture
def place(tmp_path):
    """36 images in three classes."""
    draw = np.random.default_rng(3)
    for number, label in enumerate("abc"):
        (tmp_path / "my images" / label).mkdir(parents=True)
        for image in range(12):
            pixels = draw.integers(0, 180, (8, 8, 3), dtype=np.uint8)
            pixels[..., number] += 50
            Image.fromarray(pixels).save(tmp_path / "my images" / label / f"{image}.png")
    return tmp_path


def analysed(place, classes, taps):
    """A network of some classes with weights of its own, analysed by one measure alone."""
    (place / "nets.py").write_text(NETWORK % classes)
    network = load_network(f"{place}/nets.py:small", "none")
    other = {name: 1.5 * one + 0.1 for name, one in network.module.state_dict().items()}
    torch.save(other, place / "weights.pt")
    network = load_network(f"{place}/nets.py:small", str(place / "weights.pt"))
    store = Store.open(place / "store", create=True)
    source = open_source(str(place / "my images"))
    key = extract(source, network, store, taps=taps, device="cpu").key
    settings = AnalysisSettings(measures=["gap_cosine"], split="all", bootstrap=50)
    return store, analyse(store.features(key), settings)


def lacking(store, analysis):
    """Roles that are there, and what is said of the others."""
    roles = set(rungs(analysis, None, "gap_cosine")["role"])
    return roles, missing_rungs(roles, analysis, "gap_cosine", store)


def test_the_commands_make_what_is_missing(place):
    store, analysis = analysed(place, 3, ("last_conv", "logits"))
    roles, says = lacking(store, analysis)
    assert roles == {"only"}
    assert "raw pixels (the floor); the untrained network; the classifier (the ceiling)." in says
    commands = [html.unescape(one) for one in re.findall("<code>(.*?)</code>", says)]
    assert [shlex.split(one)[1] for one in commands] == ["extract", "analyse"]
    before = set(store.groups())
    for command in commands:
        (new,) = set(store.groups()) - before or {"KEY"}
        words = [new if word == "KEY" else word for word in shlex.split(command)[1:]]
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    roles, says = lacking(store, Analysis.load(store, analysis.key))
    assert roles == {"floor", "untrained", "only", "ceiling"}
    assert says == ""


def test_what_no_command_makes_is_said(place):
    store, analysis = analysed(place, 5, ("last_conv", "logits"))
    _, says = lacking(store, analysis)
    assert "the classes of the network are not those of the images" in says
    assert "softmax_dot" not in says
    # Without a store there is nobody to ask what it has.
    assert missing_rungs(set(), analysis, "gap_cosine", None) == ""


def test_without_logits_there_is_no_ceiling(place):
    store, analysis = analysed(place, 3, ("last_conv",))
    _, says = lacking(store, analysis)
    assert "logits are not stored" in says
    # The untrained network that is there has its key in the command.
    network = load_network(f"{place}/nets.py:small", "none")
    source = open_source(str(place / "my images"))
    key = extract(source, network, store, taps=("last_conv",), device="cpu").key
    _, says = lacking(store, analysis)
    assert f"--untrained {key}" in says
    assert "alike extract /" not in says
