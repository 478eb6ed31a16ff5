"""`alike check`: what a run would take its input for, before anything is stored."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from alike.extract import preview
from alike.extract.errors import BadInput
from alike.extract.images.decoding import decode
from alike.extract.networks.network import load_network
from alike.flows.cli import app

NETWORK = """
from torch import nn

TRANSFORM = {"resize": [16, 16]}
CLASS_NAMES = ("cat", "dog")


def small():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    drawn = np.random.default_rng(0)
    for number, place in enumerate(("train/cat", "train/dog", "val/cat", "val/dog") * 2):
        folder = tmp_path / "set" / place
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(drawn.integers(0, 255, (20, 30, 3), dtype=np.uint8))
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 0 else 1
        image.save(folder / f"{number}.jpg", exif=exif)
    (tmp_path / "set" / "val" / "cat" / "x.JXL").write_bytes(b"")
    (tmp_path / "small.py").write_text(NETWORK)
    return tmp_path


def asked(*arguments: str) -> dict:
    result = CliRunner().invoke(app, ["check", *arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_images_and_network_as_a_run_would_take_them(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However long this machine takes, all images are looked at.
    monkeypatch.setattr(preview, "BATCH_SECONDS", 1e9)
    name = f"{tree}/small.py:small"
    found = asked(str(tree / "set"), "--network", name, "--weights", "none")
    assert found["classes"] == {"cat": 4, "dog": 4}
    assert found["subsets"] == {"train": 4, "val": 4}
    assert (found["images"], found["unlabelled"], found["turned"]) == (8, 0, 1)
    assert found["sizes"] == {"20x30": 7, "30x20": 1}
    assert found["formats"] == {"JPEG": 8}
    assert any(".JXL 1" in note for note in found["notes"])
    network = load_network(name, "none")
    files = sorted((tree / "set").rglob("*.jpg"))
    batch = torch.stack([network.transform(decode(file.read_bytes())) for file in files])
    with torch.no_grad():
        predicted = network.module(batch).argmax(1).tolist()
    right = [
        ["cat", "dog"][k] == file.parent.name for k, file in zip(predicted, files, strict=True)
    ]
    assert found["network"]["top1"] == pytest.approx(np.mean(right))
    assert found["network"]["taps"]["last_conv"] == [4, 14, 14]
    assert found["network"]["outputs"] == 2
    assert not (tree / "store").exists()


def test_images_and_networks_that_take_long_are_cut_short_and_said(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check is to end within a minute, whatever it is given."""
    monkeypatch.setattr("alike.extract.preview.LOOK_SECONDS", 0.0)
    found = asked(str(tree / "set"))
    assert (found["images"], found["looked_at"]) == (8, 1)
    assert "images take long to read: 1 of 8 were looked at" in found["notes"]
    monkeypatch.setattr("alike.extract.preview.LOOK_SECONDS", 60.0)
    monkeypatch.setattr("alike.extract.preview.BATCH_SECONDS", 0.0)
    network = (str(tree / "set"), "--network", f"{tree}/small.py:small", "--weights", "none")
    found = asked(*network, "--resize", "16x16")["network"]
    assert found["classified"] == 1
    assert any("one batch is of 1 images, not of 8" in note for note in found["notes"])
    assert any("same features each time is not checked" in note for note in found["notes"])


def test_selections_bad_images_and_mixed_shapes_are_said(tree: Path) -> None:
    (tree / "set" / "val" / "cat" / "text.jpg").write_text("no image")
    name = f"{tree}/small.py:small"
    found = asked(
        *(str(tree / "set"), "--where", "subset=val"),
        *("--network", name, "--weights", "none", "--resize", "16"),
    )
    assert found["images"] == 5
    assert [one["state"] for one in found["bad"]] == ["unreadable"]
    whole = asked(
        *(str(tree / "set"), "--network", name, "--weights", "none", "--resize", "16"),
    )
    assert any("--resize 16x16" in note for note in whole["network"]["notes"])


@pytest.mark.quick
def test_the_text_names_everything(tree: Path) -> None:
    result = CliRunner().invoke(
        app,
        ["check", str(tree / "set"), "--network", f"{tree}/small.py:small", "--weights", "none"],
    )
    assert result.exit_code == 0
    for words in (
        "note: ",
        "8 images in 2 classes",
        "subsets: train 4, val 4",
        "last_conv",
        "top-1",
    ):
        assert words in result.stdout


def test_options_of_a_network_need_one(tree: Path) -> None:
    result = CliRunner().invoke(
        app, ["check", str(tree / "set"), "--weights", "none", "--resize", "16x16"]
    )
    assert isinstance(result.exception, BadInput)
    assert "--weights, --resize: of which network?" in str(result.exception)
