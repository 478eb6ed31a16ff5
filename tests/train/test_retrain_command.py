import json

import pandas as pd
import pytest
from digit_images import Digits, write_network
from typer.testing import CliRunner

from alike.extract.errors import BadInput, StoreBusy
from alike.flows.cli import app
from alike.flows.memo import alone_in


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of class folders of digits, and a network file beside it."""
    from PIL import Image

    place = tmp_path_factory.mktemp("digits")
    digits = Digits(count=120)
    for path, label in digits.images:
        file = place / "images" / label / path.replace(".npy", ".png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.pixels[int(file.stem)]).save(file)
    return place, write_network(place)


def alike(*words):
    found = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(found.exception, Exception):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found


def test_from_images_through_a_store_to_a_second_training(folder, tmp_path):
    place, network = folder
    first, second, store = tmp_path / "first", tmp_path / "second", tmp_path / "store"
    source = place / "images"
    said = alike(
        "retrain", "--images", source, "--network", network, "--loss", "ce", "--epochs", 2,
        "--to", first, "--json",
    )  # fmt: skip
    run = json.loads(said.stdout)
    assert run["trained_on"] + run["held_out"] == 120
    assert run["class_names"] == list("0123456789")

    alike(
        "extract", source, "--network", network, "--weights", first, "--store", store,
        "--train-share", 0.5,
    )  # fmt: skip
    alike("analyse", "--store", store, "--bootstrap", 0, "--measures", "gap_cosine")
    unsplit = tmp_path / "unsplit"
    noted = alike("extract", source, "--network", network, "--weights", first, "--store", unsplit)
    assert f"note: {run['trained_on']} of 120 held-out images" in noted.stdout.replace("\n", " ")
    with pytest.raises(BadInput, match="trained on by"):
        alike("analyse", "--store", unsplit)
    alike("analyse", "--store", unsplit, "--split", "all", "--bootstrap", 0)

    words = ("retrain", "--store", store, "--epochs", 1, "--set", "warmup=0.0", "--to", second)
    shown = alike(*words).stdout
    assert "weights: " in shown
    assert "held out" in shown
    again = json.loads(alike(*words, "--json").stdout)
    assert again["decisions"][-1].startswith("already trained")

    # The store's network, but from other weights than those of its features.
    other = tmp_path / "other"
    alike(*words[:-1], other, "--weights", "none", "--loss", "ce")
    parents = [
        json.loads((run / "run.json").read_text())["parent_weights"] for run in (second, other)
    ]
    assert parents == [str(first / "weights.safetensors"), "none"]
    with pytest.raises(BadInput, match=r"--to .*small\.py/x cannot be written"):
        alike(*words[:-1], place / "small.py" / "x")
    with alone_in(other, "retrain"), pytest.raises(StoreBusy, match="another retrain works in"):
        alike(*words[:-1], other)

    # Another network's weights in the place of those that the training wrote.
    (other / "weights.safetensors").write_bytes((second / "weights.safetensors").read_bytes())
    with pytest.raises(BadInput, match="is not the file that the retraining in its folder wrote"):
        alike("extract", source, "--network", network, "--weights", other, "--store", store)

    ids = [set(pd.read_parquet(run / "train_images.parquet").image_id) for run in (first, second)]
    assert ids[0] == ids[1], "both trained on the same half, by content"
    with pytest.raises(BadInput, match=r"keeps 0\.5 of its images held out"):
        alike(*words, "--train-share", 0.9)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "either --store URL, or --images DIR"),
        (("--images", "x"), "needs --network NAME too"),
        (("--images", "x", "--store", "y"), "either --store URL"),
        (("--store", "nowhere"), "nowhere"),
    ],
)
def test_bad_use_is_told(words, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        alike("retrain", "--to", tmp_path / "run", *words)


def test_bad_setting_is_told(folder, tmp_path):
    place, network = folder
    words = ("--images", place / "images", "--network", network, "--to", tmp_path / "run")
    with pytest.raises(BadInput, match="NAME=VALUE"):
        alike("retrain", *words, "--set", "warmup")
    with pytest.raises(BadInput, match="warmup = 2"):
        alike("retrain", *words, "--set", "warmup=2")


@pytest.mark.quick
def test_losses_are_listed():
    assert "gap_supcon" in alike("list", "losses").stdout
