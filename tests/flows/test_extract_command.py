import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from alike.extract.errors import BadInput
from alike.extract.measures.stored import ready_measure
from alike.extract.networks.network import Network, load_network
from alike.extract.store.store import Store
from alike.flows.cli import app
from alike.flows.commands.extract import class_list, pairs
from alike.flows.extracting import with_size

NET = """
from torch import nn


def net(classes=3):
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))
    return nn.Sequential(nn.Conv2d(3, 4, 1), head)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    images = np.random.default_rng(0).integers(0, 255, (6, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", x_test=images, y_test=np.arange(6) % 2, classes=["a", "b"])
    return tmp_path


def command(place: Path, *more: str) -> list[str]:
    network = ["--network", f"{place}/net.py:net", "--network-arg", "classes=2"]
    return ["extract", f"{place}/set.npz", *network, "--store", f"{place}/store", *more]


def test_extract_then_nothing_to_do(place: Path) -> None:
    more = ("--weights", "none", "--source-option", "split=test", "--train-share", "0.5")
    first = CliRunner().invoke(app, command(place, *more, "--classes", "a,b"))
    assert first.exit_code == 0, first.output
    assert "6 images with features, 6 computed" in first.output
    assert "top-1 where classes match" in first.output
    again = CliRunner().invoke(app, command(place, *more, "--json"))
    report = json.loads(again.stdout)
    assert (report["n_computed"], report["n_reused"], report["bad"]) == (0, 6, [])
    store = Store.open(place / "store")
    assert store.split().train_share == 0.5
    assert store.source()[1] == {"split": "test"}


def test_the_command_of_a_missing_tap_can_be_pasted(place: Path) -> None:
    more = ("--weights", "none", "--seed", "3", "--classes", "a b,c", "--resize", "6x7")
    place = place.rename(place.with_name("a folder"))
    first = command(place, *more, "--source-option", "split=test", "--taps", "logits")
    assert CliRunner().invoke(app, first).exit_code == 0
    features = Store.open(place / "store").features()
    with pytest.raises(BadInput, match=r"map_cosine needs last_conv") as told:
        ready_measure(features, "map_cosine")
    words = shlex.split(str(told.value).split("`")[1])
    assert words[0] == "alike"
    assert CliRunner().invoke(app, words[1:]).exit_code == 0
    store = Store.open(place / "store")
    assert store.groups() == [features.key]
    assert store.features().attrs["class_names"] == ["a b", "c"]
    assert "last_conv" in store.features().arrays
    with pytest.raises(BadInput, match=r"if the network has a module nowhere; .*stored: none"):
        ready_measure(features, "gap_cosine@nowhere")
    # A command line has no room for these names: better the general words than others' names.
    features.attrs["class_names"] = ["a, b", "c"]
    with pytest.raises(BadInput, match=r"`alike extract \.\.\. --taps last_conv`"):
        ready_measure(features, "map_cosine")


def test_own_network_must_say_its_weights(place: Path) -> None:
    result = CliRunner().invoke(app, command(place))
    assert isinstance(result.exception, BadInput)
    assert "--weights none" in str(result.exception)


@pytest.fixture
def network(place: Path) -> Network:
    return load_network(f"{place}/net.py:net")


def test_size_options(network: Network) -> None:
    assert with_size(network, None, None) is network
    assert with_size(network, "256", 224).transform.size == (224, 224)
    assert with_size(network, "24x32", None).transform.size == (24, 32)
    assert with_size(network, "none", None).transform.resize is None
    with pytest.raises(BadInput, match="24by32"):
        with_size(network, "24by32", None)


@pytest.mark.quick
def test_values_and_class_names(tmp_path: Path) -> None:
    assert pairs(["a=1", "b=x", "c=[1,2]", "d="]) == {"a": 1, "b": "x", "c": [1, 2], "d": ""}
    with pytest.raises(BadInput, match="NAME=VALUE"):
        pairs(["a"])
    (tmp_path / "names.txt").write_text("n01440764 tench, Tinca tinca\n\n n1 b\n")
    assert class_list(str(tmp_path / "names.txt")) == ["n01440764 tench, Tinca tinca", "n1 b"]
    assert class_list("x, y") == ["x", "y"]
    assert class_list(None) is None
