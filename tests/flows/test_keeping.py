"""`[keep]`: superseded networks and images that left go, what is served and compared stays."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from changing_set import Place, without_prefect
from typer.testing import CliRunner

from alike.extract.errors import BadInput
from alike.extract.progress import silent
from alike.extract.store.store import Store
from alike.extract.store.verification import verify
from alike.flows.cli import app
from alike.flows.history import History
from alike.flows.keeping import Policy
from alike.flows.run import run_settings_file
from alike.flows.settings import read_pipeline
from alike.flows.unchanged import unchanged_run


@dataclass
class Keeping(Place):
    keep: str = ""

    def write_settings(self, folder):
        file = super().write_settings(folder)
        file.write_text(file.read_text() + self.keep)
        return file


@pytest.fixture
def place(tmp_path, monkeypatch):
    without_prefect(monkeypatch)
    place = Keeping(tmp_path)
    place.now["measures"] = ["gap_cosine"]
    return place


def collected(store, *words):
    done = CliRunner().invoke(
        app, ["store", "gc", store.url, "--json", *words], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_superseded_networks_go(place, tmp_path):
    place.run()
    store = Store.open(tmp_path / "out" / "store")
    (first,) = store.groups()
    place.now["network_seed"] = 1
    place.run()
    second = next(key for key in store.groups() if key != first)
    would = collected(store, "--networks", "served and compared", "--dry-run")
    assert {one["why"] for one in would} == {f"part of {first}"}
    # The reference of an alarm is compared with: its features stay until another is accepted.
    history = History(store)
    oldest, latest = history.records()
    history.accept(oldest, "me")
    assert collected(store, "--networks", "served and compared", "--dry-run") == []
    place.keep = '[keep]\nnetworks = "served and compared"\n'
    place.run()
    assert Policy.of(store).networks == "served and compared"
    assert set(store.groups()) == {first, second}
    history.accept(latest, "me")
    size = sum(one["size"] for one in collected(store, "--dry-run"))
    folder = tmp_path / "out" / "store"
    before = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    place.now["network_seed"] = 0
    place.now["weights"] = "net.pth"
    place.run()
    (third,) = set(store.groups()) - {first, second}
    # The first goes; the second, the reference, and the third with its control stay.
    assert set(Policy.of(store).compared) == {third, first}
    assert store.settings()["served"] == third
    history.accept(history.records()[-1], "me")
    assert {one["why"] for one in collected(store)} == {f"part of {second}"}
    assert set(store.groups()) == {third, first}
    after = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size > 1000
    assert after < before + size
    assert verify(Store.open(store.url)).damage == ()


def test_images_that_left_go_before_anything_is_made_of_them(place, tmp_path, monkeypatch):
    # Files of this second count as unchanged too.
    monkeypatch.setattr("alike.extract.images.source.SETTLED", -(10**15))
    place.keep = "[keep]\nremoved_days = 0\n"
    place.run()
    store = Store.open(tmp_path / "out" / "store")
    place.change("remove", 4)
    after = place.run()
    features = store.features()
    removed = store.manifest.removed()["row"].to_numpy()
    assert len(removed) == 1
    assert np.isnan(features.read("fc", removed)).all()
    fresh = place.run("fresh")
    assert after["scores"].shape == fresh["scores"].shape
    np.testing.assert_allclose(after["scores"]["value"], fresh["scores"]["value"], atol=1e-6)
    assert collected(store, "--dry-run") == []
    # What is set is taken down also by a run that finds nothing changed.
    place.keep = "[keep]\nremoved_days = 5\n"
    said = []
    pipeline = read_pipeline(place.write_settings("out"))
    assert unchanged_run(pipeline, lambda line, **_: said.append(line)) is None
    assert said == ["not as the last run left it: the settings of [keep] changed"]
    run_settings_file(tmp_path / "out.toml", silent)
    assert Policy.of(Store.open(store.url)).removed_days == 5
    record = History(store).records()[-1]
    assert any("1 features of images that left" in one for one in record.decisions)
    # What that run did is not what the next one did.
    again = run_settings_file(tmp_path / "out.toml", silent)
    assert (again.reused, [one for one in again.decisions if "that left" in one]) == (True, [])


@pytest.mark.quick
def test_a_store_without_a_run_is_not_guessed_about(tmp_path):
    store = Store.open(tmp_path / "store", create=True)
    assert collected(store, "--dry-run") == []
    with pytest.raises(BadInput, match="no run has said which networks"):
        collected(store, "--networks", "served and compared")
    with pytest.raises(BadInput, match="--networks 'both': all, or"):
        collected(store, "--networks", "both")
