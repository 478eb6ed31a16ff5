"""`--where` in a store: the same answers as of a store that holds these images alone."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from alike.extract.errors import BadInput
from alike.extract.identity import network_titles
from alike.extract.images.selection import Where
from alike.extract.store import Store
from alike.flows.cli import app

NETWORK = """
import torch
from torch import nn

TRANSFORM = {"resize": [16, 16]}


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)
    )
"""
VAL = ("--where", "subset=val")


def run(*arguments: str) -> dict:
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of train and val, and one of val alone."""
    root = tmp_path_factory.mktemp("where")
    drawn = np.random.default_rng(0)
    for place in ("train/cat", "train/dog", "val/cat", "val/dog"):
        (root / "set" / place).mkdir(parents=True)
        for number in range(8):
            low = 20 if place.endswith("cat") else 60
            pixels = drawn.integers(low, low + 150, (4, 4, 3), dtype=np.uint8)
            picture = Image.fromarray(pixels).resize((20, 20), Image.Resampling.NEAREST)
            picture.save(root / "set" / place / f"{number}.png")
    (root / "small.py").write_text(NETWORK)
    for name, where in (("both", ()), ("val", VAL)):
        for seed in ("0", "1"):
            run(
                *("extract", root / "set", "--network", f"{root}/small.py:small"),
                *("--weights", "none", "--network-arg", f"seed={seed}", "--store", root / name),
                *("--taps", "last_conv,fc", "--json", *where),
            )
    return root


def keys(stores: Path) -> list[str]:
    return sorted(Store.open(stores / "both").groups())


def test_analyse(stores: Path) -> None:
    first = keys(stores)[0]
    asked = ("--features", first, "--measures", "gap_cosine", "--json")
    found = run("analyse", "--store", stores / "both", *asked, *VAL)
    wanted = run("analyse", "--store", stores / "val", *asked)
    assert found["n_images"] == wanted["n_images"] == 16
    assert found["scores"] == wanted["scores"]
    assert found["settings"]["where"] == "subset=val"
    assert "only images of subset=val are evaluated" in found["settings"]["warnings"]
    assert run("analyse", "--store", stores / "both", *asked)["n_images"] == 32


def test_compare(stores: Path) -> None:
    asked = (*keys(stores), "--json")
    found = run("compare", "--store", stores / "both", *asked, *VAL)
    wanted = run("compare", "--store", stores / "val", *asked)
    assert found["scores"] == wanted["scores"]
    assert found["likeness"] == pytest.approx(wanted["likeness"])
    first, second = (Store.open(stores / "both").features(key).attrs for key in keys(stores))
    assert found["titles"] == network_titles({"a": first, "b": second})


def test_neighbours(stores: Path) -> None:
    key = keys(stores)[0]
    paths = {
        name: Store.open(stores / name).images().set_index("path")["row"]
        for name in ("both", "val")
    }
    answers = {}
    for name, where in (("both", VAL), ("val", ())):
        row = paths[name]["val/cat/3.png"]
        found = run(
            *("neighbours", row, "--store", stores / name, "--features", key, "-k", "5"),
            *("--json", *where),
        )
        answers[name] = [one["path"] for one in found]
    assert answers["both"] == answers["val"]
    # An image that is not selected asks all the same.
    asked = ("neighbours", paths["both"]["train/dog/1.png"], "--store", stores / "both")
    found = run(*asked, "--features", key, "--json", "-k", "40", *VAL, "--same-class")
    assert sorted(one["path"] for one in found) == [f"val/dog/{n}.png" for n in range(8)]


def test_export_and_map(stores: Path, tmp_path: Path) -> None:
    asked = ("--store", stores / "both", "--features", keys(stores)[0], "--json")
    run("export", *asked, "--to", tmp_path / "val.parquet", *VAL)
    table = pd.read_parquet(tmp_path / "val.parquet")
    assert sorted(table["path"]) == sorted(
        f"val/{c}/{n}.png" for c in ("cat", "dog") for n in range(8)
    )
    run("export", *asked, "--to", tmp_path / "cat.parquet", "--where", "label=cat")
    assert set(pd.read_parquet(tmp_path / "cat.parquet")["label"]) == {"cat"}
    assert run("map", *asked, "--perplexity", "3")["images"] == 32
    part = run("map", *asked, "--perplexity", "3", *VAL)
    assert (part["images"], part["where"]) == (16, "subset=val")
    # The map of all is there still.
    assert len(list((stores / "both" / "maps").rglob("*.parquet"))) == 2


def test_fits_stay_those_of_the_whole_train_split(stores: Path) -> None:
    from alike.extract.measures import ready_measure

    store = Store.open(stores / "both")
    store.set_split(0.5)
    features = store.features(keys(stores)[0])
    ready = ready_measure(features.only("subset=val"), "whitened_cosine")
    assert set(ready.fitted_rows) == set(features.table("train")["row"])
    store.set_split(0.0)


@pytest.mark.quick
@pytest.mark.parametrize("text", ["subset", "subset=", "colour=red", "subset=,"])
def test_what_is_no_selection_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="expected subset=NAME or label=NAME"):
        Where.parse(text)


@pytest.mark.parametrize(
    "command", [("analyse",), ("map",), ("export", "--to", "x.csv"), ("explain", "--classes")]
)
def test_an_unknown_name_is_refused_with_those_there_are(
    stores: Path, command: tuple[str, ...]
) -> None:
    asked = ["--store", str(stores / "both"), "--features", keys(stores)[0]]
    with pytest.raises(BadInput, match="has no subset test; it has train, val"):
        CliRunner().invoke(
            app, [*command, *asked, "--where", "subset=test"], catch_exceptions=False
        )
