"""A network and a set of images are named alike in every command."""

from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
import torch
import typer.main
from PIL import Image

from alike.extract.errors import BadInput
from alike.extract.store import Store
from alike.flows.cli import app
from alike.flows.extracting import extract_images, network_options
from alike.flows.sections import Images, NetworkSettings
from alike.flows.training_images import training_images

NETWORK = """
from torch import nn


class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, width, 3), nn.Linear(width, 2)
        self.side = nn.Linear(width, 2)

    def forward(self, x):
        x = self.conv(x).relu().mean((2, 3))
        return {"one": self.fc(x), "two": self.side(x)}


def net(width=4):
    return Net(width)
"""
NETWORK_OPTIONS = {
    "--weights", "--network-arg", "--classes", "--network-output", "--weights-key",
    "--weights-prefix", "--resize", "--crop",
}  # fmt: skip
SOURCE_OPTIONS = {"--where", "--source-option", "--label-column", "--first-label"}


@pytest.mark.quick
def test_every_command_that_names_a_network_has_all_options_of_it() -> None:
    commands = typer.main.get_command(app).commands
    naming = {}
    for name, command in commands.items():
        if not isinstance(command, click.Group):
            naming[name] = {one for given in command.params for one in given.opts}
    with_network = [name for name, options in naming.items() if "--network" in options]
    assert {"check", "extract", "retrain"} <= set(with_network)
    for name in with_network:
        assert not (NETWORK_OPTIONS | SOURCE_OPTIONS) - naming[name], name
    # A settings file says the same in its sections.
    fields = set(NetworkSettings.model_fields)
    assert {"weights", "args", "classes", "output", "weights_key", "weights_prefix"} <= fields
    assert "options" in Images.model_fields


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("options")
    drawn = np.random.default_rng(0)
    lines = []
    for number in range(12):
        pixels = drawn.integers(0, 255, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
        lines.append((f"{number}.png", ("cat", "dog")[number % 2], ("train", "val")[number // 6]))
    pd.DataFrame(lines, columns=["path", "kind", "subset"]).to_csv(root / "set.csv", index=False)
    (root / "net.py").write_text(NETWORK)
    scope: dict[str, object] = {}
    exec(NETWORK, scope)
    torch.manual_seed(0)
    copies = [scope["net"](width=6).state_dict() for _ in range(2)]
    torch.save({"model": copies[0], "model_ema": copies[1]}, root / "two.pt")
    return root


def test_retraining_on_images_takes_what_extraction_takes(place: Path) -> None:
    chosen = network_options({"width": 6}, ["cat", "dog"], "one", "model")
    network, (train, held_out, _), _ = training_images(
        (None, None, 0.5),
        (str(place / "set.csv"), f"{place}/net.py:net", str(place / "two.pt")),
        chosen=chosen,
        size=("8x8", None),
        where="subset=val",
        options={"label": "kind"},
    )
    wanted = torch.load(place / "two.pt")["model"]
    assert torch.equal(network.module.state_dict()["conv.weight"], wanted["conv.weight"])
    assert (network.transform.size, network.class_names) == ((8, 8), ("cat", "dog"))
    images = {path: label for side in (train, held_out) for path, label in side}
    assert images == {f"{n}.png": ("cat", "dog")[n % 2] for n in range(6, 12)}
    # The logits are those of the output that was named.
    batch = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        features = network.module.conv(batch).relu().mean((2, 3))
        assert torch.allclose(network.module(batch), network.module.fc(features))


def test_retraining_from_a_store_narrows_it_and_keeps_its_output(place: Path) -> None:
    chosen = network_options({"width": 6}, None, "one", "model")
    where = {"label": "kind"}
    store = Store.open(place / "store", create=True)
    extract_images(
        *(str(place / "set.csv"), f"{place}/net.py:net", store),
        weights=str(place / "two.pt"),
        taps=("last_conv", "fc", "logits"),
        settings={"device": "cpu"},
        size=("8x8", None),
        chosen=chosen,
        source_options=where,
        split=(0.5, None),
    )
    stored = (store, None, None)
    network, sides, _ = training_images(
        stored,
        (None, None, str(place / "two.pt")),
        chosen=network_options(weights_key="model_ema"),
        where="subset=train",
    )
    wanted = torch.load(place / "two.pt")["model_ema"]
    assert torch.equal(network.module.state_dict()["fc.weight"], wanted["fc.weight"])
    assert network.output == "one"
    assert {path for side in sides for path, _ in side} == {f"{n}.png" for n in range(6)}
    with pytest.raises(BadInput, match="need --network or --weights beside --store"):
        training_images(stored, (None, None, None), chosen={"weights_key": "model"})
    with pytest.raises(BadInput, match="label belong to --images"):
        training_images(stored, (None, None, None), options=where)
