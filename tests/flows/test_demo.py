"""The whole loop as a newcomer runs it: `alike demo` in a folder with spaces and accents."""

import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import h5py
import pandas as pd
import pytest
import zarr

from alike.extract.store.store import Store

ALIKE = (sys.executable, "-c", "from alike.flows.cli import main; main()")


def alike(*arguments, cwd, ok=0):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    done = subprocess.run(
        [*ALIKE, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, env=environment
    )
    assert done.returncode == ok, done.stderr[-3000:]
    return done


class Loaded(HTMLParser):
    """Every address that a browser would load or follow, the first heading, the policy."""

    def __init__(self):
        super().__init__()
        self.addresses, self.headline, self.policy, self._in_heading = [], "", "", False

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "poster"):
                self.addresses.append(value)
        if tag == "meta" and dict(attrs).get("http-equiv") == "Content-Security-Policy":
            self.policy = dict(attrs)["content"]
        self._in_heading = tag == "h1" and not self.headline

    def handle_data(self, data):
        if self._in_heading:
            self.headline += data

    def handle_endtag(self, tag):
        if tag == "h1":
            self._in_heading = False


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a") / "Dé mo"
    cwd = tmp_path_factory.mktemp("elsewhere")
    done = alike("demo", "--to", folder, "--json", cwd=cwd)
    assert not list(cwd.iterdir()), "the demo writes nothing outside its folder"
    return folder, json.loads(done.stdout)


def test_report_is_self_contained_and_answers(demo):
    folder, outcome = demo
    assert outcome["report"] == str(folder / "report.html")
    text = (folder / "report.html").read_text(encoding="utf-8")
    seen = Loaded()
    seen.feed(text)
    assert not [address for address in seen.addresses if not address.startswith(("#", "data:"))]
    assert "default-src 'none'" in seen.policy
    assert "closer" in seen.headline
    assert "interval" in text[text.index("</h1>") :][:1500], "the uncertainty stands at the top"


def test_both_networks_are_in_the_store(demo):
    folder, outcome = demo
    groups = zarr.open_group(folder / "store" / "features.zarr", mode="r")
    keys = sorted(groups.group_keys())
    assert outcome["key"] in keys
    assert len(keys) >= 3, "first, untrained and retrained network"
    for key in keys:
        assert groups[key]["gap"].shape == (1797, 64)


def test_what_is_evaluated_was_never_trained_on(demo):
    folder, _ = demo
    table = Store.open(str(folder / "store")).features(demo[1]["key"]).table()
    held_out = set(table[table.split == "held_out"].image_id)
    trained = set()
    for file in (folder / "weights").glob("*/*.parquet"):
        trained |= set(pd.read_parquet(file).get("image_id", []))
    assert len(held_out) > 400
    assert set(table.split) == {"train", "validation", "held_out"}
    assert not trained & set(table[table.split == "validation"].image_id)
    assert Store.open(str(folder / "store")).decisions()["validation"] >= 2
    assert "held_out" not in Store.open(str(folder / "store")).decisions()
    decisions = (folder / "decisions.jsonl").read_text(encoding="utf-8").splitlines()
    reasons = [json.loads(line)["reason"] for line in decisions]
    # The report's headline is of other images, so the numbers of a decision say of which they are.
    assert reasons
    assert all(reason.endswith("on the validation images") for reason in reasons)
    assert trained
    assert not trained & held_out
    kept = pd.read_parquet(folder / "store" / "tables" / demo[1]["key"] / "trained_images.parquet")
    assert set(kept.image_id) == trained


def test_second_run_computes_nothing_wherever_the_folder_is(demo, tmp_path):
    folder, outcome = demo
    moved = folder.rename(folder.with_name("moved"))
    try:
        key = Store.open(moved / "store").features(outcome["key"])
        assert Path(key.attrs["weights"]).is_relative_to(moved)
        done = alike("run", moved / "pipeline.toml", cwd=tmp_path)
    finally:
        moved.rename(folder)
    assert "nothing was computed" in done.stdout


def test_neighbours_of_a_file(demo, tmp_path):
    folder, _ = demo
    image = next((folder / "digits" / "3").glob("*.png"))
    arguments = ("neighbours", image, "--store", folder / "store", "-k", 5)
    sheet = tmp_path / "sheet.png"
    key = ("--features", demo[1]["key"])
    done = alike(*arguments, *key, "--json", "--contact-sheet", sheet, cwd=tmp_path)
    found = json.loads(done.stdout)
    assert sheet.stat().st_size > 1000
    assert len(str(found)) > 100


@pytest.mark.parametrize(
    ("ending", "split"), [("parquet", ()), ("h5", ("--split", "all")), ("csv", ())]
)
def test_export(demo, tmp_path, ending, split):
    folder, outcome = demo
    table = Store.open(str(folder / "store")).features(outcome["key"]).table()
    held_out = int((table.split == "held_out").sum())
    file = tmp_path / f"features.{ending}"
    store = ("--store", folder / "store", "--features", outcome["key"])
    alike("export", *store, "--to", file, *split, cwd=tmp_path)
    if ending == "parquet":
        assert len(pd.read_parquet(file)) == held_out < 1797
    elif ending == "csv":
        assert len(pd.read_csv(file, comment="#")) == held_out
    else:
        with h5py.File(file) as stored:
            assert stored["features/gap"].shape == (1797, 64)


def test_a_training_that_diverges_leaves_the_old_network_and_is_told(demo, tmp_path):
    """The last test of this folder: it serves the first network again."""
    folder, outcome = demo
    settings = (folder / "pipeline.toml").read_text(encoding="utf-8")
    (folder / "wild.toml").write_text(settings.replace("lr = 0.003", "lr = 1e30"), encoding="utf-8")
    said = json.loads(alike("run", folder / "wild.toml", "--json", cwd=tmp_path).stdout)
    assert said["key"] != outcome["key"]
    assert "the old network stays: training diverged" in said["decisions"][-1]
    assert "give a rate below 1e+30" in said["decisions"][-1]
    assert "training diverged" in (folder / "report.html").read_text(encoding="utf-8")
    lines = (folder / "decisions.jsonl").read_text(encoding="utf-8").splitlines()
    last = json.loads(lines[-1], parse_constant=pytest.fail)
    assert last["past"]["after"] is None
