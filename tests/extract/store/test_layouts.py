"""A small store of every released version opens as it is; an upgrade adds what it lacks of checks.

`layouts/VERSION.tar.xz` holds what that version's commands wrote (extract, index, analyse), with
the images and the network. For 0.1.0 that was commit fe2e400.
"""

import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from typer.testing import CliRunner

from alike.extract.errors import StoreDamaged
from alike.extract.store import older
from alike.extract.store.files import LocalFiles
from alike.extract.store.older import upgrade
from alike.extract.store.store import Store
from alike.extract.store.verification import Damage, Verdict, verify
from alike.flows.cli import app

HERE = Path(__file__).parent / "layouts"
CHANGES = Path(__file__).parents[3] / "CHANGELOG.md"
VERSIONS = sorted(one.name.removesuffix(".tar.xz") for one in HERE.glob("*.tar.xz"))


@pytest.mark.quick
def test_every_released_version_has_a_store():
    headings = re.findall(r"^## (\d+\.\d+\.\d+)(.*)$", CHANGES.read_text(), re.MULTILINE)
    released = [version for version, state in headings if "unreleased" not in state]
    assert sorted(released) == VERSIONS != []


@pytest.fixture
def place(request, tmp_path, monkeypatch):
    """The folder of an unpacked set with its store; commands run in it."""
    with tarfile.open(HERE / f"{request.param}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def alike(*words):
    done = CliRunner().invoke(app, [*map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("place", VERSIONS, indirect=True)
def test_it_is_read_as_it_is(place):
    folder = place / "pets.store"
    before = {one: one.read_bytes() for one in folder.rglob("*") if one.is_file()}
    store = Store.open(folder)
    (key,) = store.groups()
    features = store.features(key)
    plain = zarr.open_group(folder / "features.zarr", mode="r")[key]
    table = features.table("all")
    assert len(table) == 24
    for name in features.arrays:
        rows = features.read(name, table["row"])
        assert np.array_equal(rows, np.asarray(plain[name])[table["row"]], equal_nan=True)
    manifest = pd.read_parquet(folder / "manifest" / "seg-000000.parquet")
    ids = manifest.set_index("row")["image_id"]
    assert table["image_id"].tolist() == ids.loc[table["row"]].tolist()
    verdict = verify(store, mark=False)
    assert (verdict.damage, verdict.rows) == ((), 24 * len(features.arrays))
    assert "earlier version" in verdict.notes[0]
    answer = json.loads(alike("neighbours", 3, "-k", 5, "--store", folder, "--json"))
    vectors = features.read("gap", table["row"]).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    nearest = np.argsort(-(vectors @ vectors[3]))
    assert [one["row"] for one in answer] == nearest[nearest != 3][:5].tolist()
    assert {one: one.read_bytes() for one in before} == before


@pytest.mark.parametrize("place", VERSIONS, indirect=True)
def test_the_next_commands_go_on_with_it(place):
    folder = place / "pets.store"
    (key,) = Store.open(folder).groups()
    old = Store.open(folder).features(key).read("gap", np.arange(24))
    report = json.loads(
        alike(
            *("extract", "set", "--network", "net.py:small", "--weights", "net.pth"),
            *("--store", folder, "--json"),
        )
    )
    store = Store.open(folder)
    # Modules of the network were not recorded: its features stay, and are computed beside.
    assert {key, report["key"]} == set(store.groups())
    assert np.array_equal(store.features(key).read("gap", np.arange(24)), old)
    new = store.features(report["key"]).read("gap", np.arange(24))
    assert np.allclose(new, old, rtol=1e-5, atol=1e-6)
    assert verify(store, mark=False).damage == ()
    scores = json.loads(
        alike(
            *("analyse", "--store", folder, "--features", key, "--measures", "gap_cosine"),
            "--json",
        )
    )
    assert scores


class Killed(BaseException):
    """What no code catches."""


@pytest.mark.parametrize("place", VERSIONS, indirect=True)
def test_an_upgrade_writes_what_this_version_checks_and_may_be_killed(place, monkeypatch):
    folder = place / "pets.store"
    store = Store.open(folder)
    (key,) = store.groups()
    features = {one: one.read_bytes() for one in (folder / "features.zarr").rglob("c.*")}
    old = {
        name: store.features(key).read(name, np.arange(24)) for name in store.features(key).arrays
    }
    images = store.images()
    would = json.loads(alike("store", "upgrade", folder, "--dry-run", "--json"))
    assert [one["file"] for one in would["files"]] == [
        "store.json", "manifest/seg-000000.parquet", "manifest/view.parquet",
        f"features.zarr/{key}/zarr.json", f"ledger/{key}/00000000.json",
    ]  # fmt: skip
    assert not (folder / "before-upgrade").exists()
    # Killed before every write in turn: it goes on, and everything reads as before.
    write, left = LocalFiles.write, [0]

    def killed(self, name, data):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        write(self, name, data)

    kills = 0
    while kills < 50:
        left[0] = kills % 3
        with monkeypatch.context() as patch:
            patch.setattr(LocalFiles, "write", killed)
            try:
                upgrade(Store.open(folder))
            except Killed:
                kills += 1
            else:
                break
        again = Store.open(folder)
        verdict = verify(again, mark=False)
        assert verdict.damage == ()
        for name, rows in old.items():
            assert np.array_equal(again.features(key).read(name, np.arange(24)), rows)
        pd.testing.assert_frame_equal(again.images(), images)
    assert kills > 9
    assert not (folder / "before-upgrade").exists()
    verdict = verify(Store.open(folder), mark=False)
    assert (verdict.damage, verdict.notes) == ((), ())
    assert all(one.read_bytes() == data for one, data in features.items())
    assert "nothing to upgrade" in alike("store", "upgrade", folder)
    record = json.loads((folder / "ledger" / key / "00000000.json").read_text())["record"]
    assert record["key"] == key
    assert all(one["chunks"] and one["tail"] for one in record["arrays"].values())


@pytest.mark.parametrize("place", VERSIONS, indirect=True)
def test_the_second_of_two_upgrades_at_once_says_that_another_did_it(place, monkeypatch):
    folder, alone = place / "pets.store", older.alone

    def late(*about):
        monkeypatch.setattr(older, "alone", alone)
        upgrade(Store.open(folder))
        return alone(*about)

    monkeypatch.setattr(older, "alone", late)
    said = alike("store", "upgrade", folder)
    assert said.splitlines() == [
        "another upgrade was at work and wrote 5 files anew", "nothing is left to upgrade",
    ]  # fmt: skip
    assert verify(Store.open(folder), mark=False).damage == ()


@pytest.mark.parametrize("place", VERSIONS, indirect=True)
def test_a_damaged_store_is_not_upgraded(place):
    folder = place / "pets.store"
    shard = next((folder / "features.zarr").glob("*/gap/c.0.0"))
    shard.write_bytes(shard.read_bytes()[:-9])
    before = {one: one.read_bytes() for one in folder.rglob("*") if one.is_file()}
    with pytest.raises(StoreDamaged, match="nothing was upgraded; run `alike store verify"):
        upgrade(Store.open(folder))
    after = {one: one.read_bytes() for one in folder.rglob("*") if one.is_file()}
    assert after == before


@pytest.mark.parametrize("place", VERSIONS, indirect=True)
def test_what_was_written_since_an_upgrade_was_cut_off_is_never_put_back(place, monkeypatch):
    folder = place / "pets.store"
    write, left = LocalFiles.write, [6]

    def killed(self, name, data):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        write(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFiles, "write", killed)
        with pytest.raises(Killed):
            upgrade(Store.open(folder))
    assert len([one for one in (folder / "before-upgrade").rglob("*") if one.is_file()]) > 1
    kept = ("before-upgrade", "log", "locks")

    def files():
        every = (one for one in folder.rglob("*") if one.is_file())
        return {
            one: one.read_bytes() for one in every if one.relative_to(folder).parts[0] not in kept
        }

    since, verdicts = files(), iter([verify(Store.open(folder), mark=False)])

    def fails_at_the_end(store, **how):
        damage = Damage("", "manifest/view.parquet", "", "made up", "")
        return next(verdicts, Verdict(0, 0, 0.0, (damage,), False, ()))

    monkeypatch.setattr(older, "verify", fails_at_the_end)
    with pytest.raises(StoreDamaged, match="all files are as they were"):
        upgrade(Store.open(folder))
    assert files() == since
    assert not (folder / "before-upgrade").exists()
