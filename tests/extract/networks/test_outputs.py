"""Networks that return more than their logits."""

import re
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from images import class_folders
from torch import nn

from alike.extract.errors import BadInput
from alike.extract.images.sources import open_source
from alike.extract.networks.extraction import Extraction
from alike.extract.networks.network import load_network, network_of
from alike.extract.networks.outputs import logits_path
from alike.extract.networks.taps import find_taps, forward_taps
from alike.extract.networks.trace import trace_forward
from alike.extract.pipeline import extract
from alike.extract.store.store import Store

CASES = Path(__file__).resolve().parents[4] / "shared" / "cases" / "networks"
Pair = namedtuple("Pair", ["embedding", "cls"])


@pytest.mark.skipif(not CASES.is_dir(), reason=f"needs the small inputs in {CASES}")
@pytest.mark.parametrize(
    "factory", ["features_first", "map_first", "named_features_first", "dataclass_output"]
)
def test_cases_give_logits_of_the_last_linear(factory: str) -> None:
    network = load_network(f"{CASES / 'outputs.py'}:{factory}")
    batch = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        taps = forward_taps(network.module, batch, ["last_conv", "gap", "fc", "logits"])
    assert taps["last_conv"].shape == (2, 16, 16, 16)
    expected = taps["gap"] @ network.module.fc.weight.T + network.module.fc.bias
    torch.testing.assert_close(taps["logits"], expected)
    torch.testing.assert_close(taps["fc"], taps["gap"])
    weight, _ = network.classifier()
    assert weight.shape == (3, 16)
    # A guess that is said, in one line.
    (note,) = network.notes
    assert re.search(r"^the network returns \S+ \(N x .*is taken for the logits \(--network", note)
    assert not load_network(f"{CASES / 'tiny.py'}:make").notes
    # Whoever runs the network meets a classifier.
    assert network.module(batch).shape == (2, 3)


class Returning(nn.Module):
    """A network whose output is what a function makes of its parts."""

    def __init__(self, returned) -> None:
        super().__init__()
        self.conv, self.hidden = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
        self.fc, self.other = nn.Linear(5, 3), nn.Linear(5, 3)
        self.returned = returned

    def forward(self, x):
        maps = self.conv(x).relu()
        parts = SimpleNamespace(maps=maps, vector=maps.mean((2, 3)))
        parts.hidden = self.hidden(parts.vector).relu()
        parts.logits, parts.other = self.fc(parts.hidden), self.other(parts.hidden)
        return self.returned(parts)


FOUND = {
    "alone": (lambda p: p.logits, ""),
    "in a list": (lambda p: [p.logits], "0"),
    "after an embedding by a Linear": (lambda p: (p.hidden, p.logits), "1"),
    "before it": (lambda p: (p.logits, p.hidden), "0"),
    "with their softmax": (lambda p: (p.logits.softmax(1), p.logits), "1"),
    "a softmax alone": (lambda p: (p.vector, p.logits.softmax(1)), "1"),
    "two heads, one named": (lambda p: {"proj": p.other, "logits": p.logits}, "logits"),
    "named deep down": (
        lambda p: {"aux": {"x": p.other}, "main": {"Logits": p.logits}},
        "main.Logits",
    ),
    "a named tuple": (lambda p: Pair(p.hidden, p.logits), "cls"),
    "two heads, one of a usual name": (lambda p: {"proj": p.other, "scores": p.logits}, "scores"),
    "beside a map and a loss": (lambda p: (p.maps, p.maps.mean(), p.logits), "2"),
    "beside None": (lambda p: {"loss": None, "y": p.logits}, "y"),
}


@pytest.mark.parametrize(("returned", "path"), FOUND.values(), ids=FOUND)
def test_where_the_logits_are(returned, path: str) -> None:
    module = Returning(returned)
    assert logits_path(trace_forward(module, torch.rand(1, 3, 8, 8))) == path


@pytest.mark.quick
@pytest.mark.parametrize(
    "returned",
    [
        lambda p: (p.logits, p.other),
        lambda p: (p.vector, p.vector[:, :3]),
        lambda p: (p.maps, p.maps),
        lambda p: {"cls": p.vector, "y": p.logits},
        lambda p: {"out": p.hidden, "y": p.logits},
    ],
    ids=["two heads", "no Linear", "maps alone", "a class token", "an embedding"],
)
def test_what_is_not_plain_is_asked_for(returned) -> None:
    module = Returning(returned)
    example = torch.rand(1, 3, 8, 8)
    with pytest.raises(
        BadInput, match=r"returns \w+ \(N x .*\w+ \(N x .*Give --network-output NAME"
    ):
        find_taps(module, example)
    with pytest.raises(BadInput, match=r"output 'head' is not there: the network returns \w+ \("):
        find_taps(module, example, output="head")


def test_an_output_of_a_network_of_one_tensor_is_refused() -> None:
    module, example = Returning(lambda parts: parts.logits), torch.rand(1, 3, 8, 8)
    find_taps(module, example)
    with pytest.raises(BadInput, match="output '7' is not there: the network returns one tensor"):
        find_taps(module, example, output="7")


NETS = """
from torch import nn

TRANSFORM = {"resize": [16, 16]}


class Two(nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        self.conv, self.left, self.right = nn.Conv2d(3, 4, 3), nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x):
        x = self.conv(x).relu().mean((2, 3))
        return self.left(x), self.right(x)


def make():
    return Two()
"""


def test_the_users_choice_is_part_of_the_key_and_comes_back(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    name = f"{tmp_path / 'nets.py'}:make"
    with pytest.raises(BadInput, match=r"returns 0 \(N x 3\), 1 \(N x 2\)"):
        load_network(name)
    left, right = (load_network(name, output=output) for output in "01")
    assert left.weights_hash == right.weights_hash
    store = Store.open(tmp_path / "store", create=True)
    images = open_source(str(class_folders(tmp_path / "images", {"a": 2, "b": 2})))
    keys = [extract(images, network, store, device="cpu").key for network in (left, right)]
    assert keys[0] != keys[1]
    widths = [store.features(key).arrays["logits"].tail for key in keys]
    assert widths == [(3,), (2,)]
    again = network_of(Extraction.from_dict(store.features(keys[1]).attrs))
    assert again.module(torch.rand(1, 3, 16, 16)).shape == (1, 2)


ONE_SIZE = """
from torch import nn


class OneSize(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(3, 4, 3), nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x):
        assert x.shape[2:] == (SIDE, SIDE)
        x = self.conv(x).relu().mean((2, 3))
        return {"logits": self.a(x), "other": self.b(x)}


def make():
    return OneSize()
"""


@pytest.mark.parametrize("side", [20, 64])
def test_the_users_choice_holds_if_the_network_takes_the_images_size_alone(
    tmp_path: Path, side: int
) -> None:
    # Nothing says the size at loading, and 64 is tried: the output by that name would be found.
    (tmp_path / "nets.py").write_text(ONE_SIZE.replace("SIDE", str(side)))
    network = load_network(f"{tmp_path / 'nets.py'}:make", output="other")
    taps = forward_taps(network.module, torch.rand(2, 3, side, side), ["logits"])
    assert taps["logits"].shape == (2, 2)


def test_the_users_choice_holds_for_weights_without_a_head(tmp_path: Path) -> None:
    text = ONE_SIZE.replace("SIDE", "64")
    (tmp_path / "nets.py").write_text(text)
    name = f"{tmp_path / 'nets.py'}:make"
    whole = load_network(name).module.state_dict()
    kept = {key: value for key, value in whole.items() if not key.startswith("b.")}
    torch.save(kept, tmp_path / "kept.pth")
    network = load_network(name, str(tmp_path / "kept.pth"), output="other")
    assert "logits" in network.lacking
    assert network.module(torch.rand(2, 3, 64, 64)).shape == (2, 2)
