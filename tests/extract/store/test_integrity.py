"""What is stored is what was written, here, for these images; or it is said, in one line."""

import hashlib
import io
import json
import os
import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
import store_writer as known

from alike.analysis.analyse import analyse
from alike.extract.errors import BadInput, StoreDamaged
from alike.extract.identity import settings_hash
from alike.extract.pipeline import extract
from alike.extract.store.ledger import Record
from alike.extract.store.locks import Holder
from alike.extract.store.sides import Split
from alike.extract.store.store import Store
from alike.extract.store.transfer import export_group, import_group
from alike.extract.store.upkeep import collect_garbage, history
from alike.extract.store.verification import verify
from alike.extract.twins import twin_table

TRANSFORM = {"resize": 8, "mean": [0.5], "std": [0.25]}
WEIGHTS = "ab" * 32
KEY = f"net-{WEIGHTS[:8]}-{settings_hash(TRANSFORM, 'float32')}"
EXTRACTION = {
    **known.EXTRACTION, "weights_hash": WEIGHTS, "transform": TRANSFORM, "class_names": ["a", "b"],
}  # fmt: skip


def filled(place, n=1500, key=KEY):
    store = Store.open(place, create=True)
    store.set_split(0.5, "s")
    store.list_images(known.listing(range(n)))
    features = store.create_features(EXTRACTION, key, known.ARRAYS)
    with features.lock():
        known.extract(features)
    return features


def meta(features, *names):
    return features.store.path("features.zarr", features.key, *names, "zarr.json")


def swap(path, old, new):
    text = path.read_text()
    assert old in text, f"{old!r} is not in {path}"
    path.write_text(text.replace(old, new, 1))


def files_of(verdict):
    return [one.file for one in verdict.damage]


ALTERED = {
    "mean": ("0.5", "0.1"),
    "class name": ('"a"', '"c"'),
    "precision": ('"float32"', '"float16"'),
    "key in the seal": ('"seal": "', '"seal": "0'),
    "one array less": ('"fc": {', '"fd": {'),
}


@pytest.mark.parametrize("what", list(ALTERED))
def test_altered_attributes_are_told_and_mended(tmp_path, what):
    features = filled(tmp_path)
    attrs = features.attrs
    swap(meta(features), *ALTERED[what])
    with pytest.raises(StoreDamaged, match=r"zarr\.json is damaged .*alike extract"):
        Store.open(tmp_path).features()
    assert files_of(verify(features.store)) == [f"features.zarr/{KEY}/zarr.json"]
    with pytest.raises(StoreDamaged):
        collect_garbage(features.store)
    again = features.store.create_features(EXTRACTION, KEY, known.ARRAYS)
    assert (again.attrs, again.arrays, again.digest) == (attrs, features.arrays, features.digest)
    assert verify(features.store).damage == ()


SHAPES = {
    "type": ('"float32"', '"int32"'),
    "shape": ("[\n    1500,\n    16\n  ]", "[\n    1500,\n    4,\n    4\n  ]"),
    "no array": ('"array"', '"group"'),
    "unknown type": ('"float32"', '"float31"'),
}


@pytest.mark.parametrize("what", list(SHAPES))
def test_another_shape_of_an_array_is_told_and_mended(tmp_path, what):
    features = filled(tmp_path)
    swap(meta(features, "fc"), *SHAPES[what])
    with pytest.raises(StoreDamaged, match=r"fc/zarr\.json is damaged"):
        features.store.features()
    assert files_of(verify(features.store)) == [f"features.zarr/{KEY}/fc/zarr.json"]
    again = features.store.create_features(EXTRACTION, KEY, known.ARRAYS)
    assert np.array_equal(again.read("fc", slice(None)), known.rows_of("fc", range(1500)))


def test_groups_in_each_others_place(tmp_path):
    one, other = filled(tmp_path, key="one"), filled(tmp_path, key="other")
    tree = tmp_path / "features.zarr"
    (tree / "one").rename(tree / "aside")
    (tree / "other").rename(tree / "one")
    (tree / "aside").rename(tree / "other")
    for features in (one, other):
        with pytest.raises(StoreDamaged, match="differ from their seal"):
            features.store.features(features.key)
    assert len(verify(one.store).damage) == 2


def test_a_group_without_a_seal_opens_and_is_named_and_sealed(tmp_path):
    features = filled(tmp_path)
    document = json.loads(meta(features).read_text())
    for name in ("seal", "arrays"):
        del document["attributes"][name]
    meta(features).write_text(json.dumps(document))
    old = features.store.features()
    assert (old.attrs, old.arrays) == (features.attrs, features.arrays)
    verdict = verify(features.store)
    assert verdict.damage == ()
    assert len(verdict.notes) == 1
    assert "earlier version" in verdict.notes[0]
    document["attributes"]["transform"]["mean"] = [0.1]
    meta(features).write_text(json.dumps(document))
    with pytest.raises(StoreDamaged, match="its preprocessing has hash"):
        features.store.features()
    features.store.create_features(EXTRACTION, KEY, known.ARRAYS)
    assert verify(features.store).notes == ()


@pytest.mark.parametrize("change", [('"train_share": 0.5', '"train_share": 0.9'), ('"s"', '"t"')])
def test_altered_settings_are_read_from_their_copy_and_mended(tmp_path, change):
    features = filled(tmp_path)
    swap(tmp_path / "store.json", *change)
    assert Store.open(tmp_path).split() == Split(0.5, "s", 0.0)
    assert files_of(verify(features.store, mark=False)) == ["store.json"]
    assert files_of(verify(features.store)) == ["store.json"]
    assert verify(features.store).damage == ()
    swap(tmp_path / "manifest" / "settings.json", *change)
    assert Store.open(tmp_path).split() == Split(0.5, "s", 0.0)
    (tmp_path / "store.json").unlink()
    with pytest.raises(StoreDamaged, match="bring it back"):
        Store.open(tmp_path)
    (tmp_path / "manifest" / "settings.json").unlink()
    for create in (True, False):
        with pytest.raises(StoreDamaged, match="are gone"):
            Store.open(tmp_path, create=create)


def test_settings_of_an_earlier_version(tmp_path):
    features = filled(tmp_path)
    old = {"schema": "alike-store/1", "split": {"train_share": 0.5, "salt": "s"}}
    (tmp_path / "store.json").write_text(json.dumps(old))
    (tmp_path / "manifest" / "settings.json").unlink()
    assert Store.open(tmp_path).split() == Split(0.5, "s", 0.0)
    assert verify(features.store).damage == ()


@pytest.mark.parametrize("name", list(known.ARRAYS))
def test_a_shard_of_another_store_is_no_feature(tmp_path, name):
    """Whole, of the same size, its checksums hold: only the ledger can tell."""
    features = filled(tmp_path / "a", 2048)
    other = filled(tmp_path / "b", 2048)
    rows = known.rows_of(name, range(2048))[:, ...] + np.float32(1)
    other.write_unit(0, {name: rows[:1024].astype(known.ARRAYS[name][1])})
    shutil.copy(
        other.store.path(other.place(name, 0)), features.store.path(features.place(name, 0))
    )
    for at in ([0], [1023], range(1024)):
        with pytest.raises(StoreDamaged, match=r"c\.0.* is damaged"):
            features.read(name, np.asarray(at))
    assert np.array_equal(features.read(name, np.array([1500])), known.rows_of(name, [1500]))
    assert features.place(name, 0) in files_of(verify(features.store))
    known.extract(features)
    assert np.array_equal(features.read(name, np.arange(1024)), known.rows_of(name, range(1024)))


def test_a_last_chunk_that_grew_is_still_the_recorded_one(tmp_path):
    """Rows come to a chunk before the record says so: those before read as they are."""
    features = filled(tmp_path, 1100)
    earlier = features.store.path(features.ledger.name(1)).read_bytes()
    features.store.list_images(known.listing(range(1130)))
    grown = features.store.create_features(EXTRACTION, KEY, known.ARRAYS)
    known.extract(grown)
    grown.store.path(grown.ledger.name(1)).write_bytes(earlier)
    for name in known.ARRAYS:
        assert np.array_equal(grown.read(name, np.arange(1100)), known.rows_of(name, range(1100)))
    record = Record.from_json(earlier)
    assert record.arrays["fc"].tail
    other = {name: known.rows_of(name, range(1024, 1130)) + 1 for name in known.ARRAYS}
    grown.write_unit(1, other)
    grown.store.path(grown.ledger.name(1)).write_bytes(earlier)
    with pytest.raises(StoreDamaged, match="not the one that was recorded"):
        grown.read("fc", np.array([1099]))


def test_records_of_others_are_told(tmp_path):
    features, other = filled(tmp_path / "a", 2048), filled(tmp_path / "b", 2048, key="other")
    place = features.store.path(features.ledger.name(0))
    good = place.read_bytes()
    place.write_bytes(features.store.path(features.ledger.name(1)).read_bytes())
    with pytest.raises(StoreDamaged, match="the record of unit 1"):
        features.table()
    place.write_bytes(other.store.path(other.ledger.name(0)).read_bytes())
    with pytest.raises(StoreDamaged, match="a record of other"):
        features.table()
    store = Store.open(tmp_path / "c", create=True)
    store.list_images(known.listing(range(5000, 7048)))
    third = store.create_features(EXTRACTION, KEY, known.ARRAYS)
    known.extract(third)
    place.write_bytes(store.path(third.ledger.name(0)).read_bytes())
    shutil.copy(store.path(third.place("fc", 0)), features.store.path(features.place("fc", 0)))
    with pytest.raises(StoreDamaged, match="belong to other images"):
        features.read("fc", np.array([3]))
    place.write_bytes(good)
    assert len(features.table()) == 2048


def test_records_of_earlier_versions_read_as_before(tmp_path):
    features = filled(tmp_path)
    for unit in (0, 1):
        place = features.store.path(features.ledger.name(unit))
        fields = json.loads(place.read_text())["record"]
        del fields["key"]
        for one in fields["arrays"].values():
            del one["chunks"], one["tail"]
        digest = hashlib.blake2b(json.dumps(fields).encode(), digest_size=16).hexdigest()
        place.write_text(json.dumps({"record": fields, "hash": digest}))
    old = Store.open(tmp_path).features()
    assert old.digest == features.digest
    assert np.array_equal(old.read("maps", slice(None)), known.rows_of("maps", range(1500)))
    assert verify(old.store).damage == ()
    assert old.pending() == []


GONE = {
    "group": lambda tree, ledger: shutil.rmtree(tree),
    "its zarr.json": lambda tree, ledger: (tree / "zarr.json").unlink(),
    "its ledger": lambda tree, ledger: shutil.rmtree(ledger),
    "group and ledger": lambda tree, ledger: (shutil.rmtree(tree), shutil.rmtree(ledger)),
    "one record": lambda tree, ledger: (ledger / "00000001.json").unlink(),
    "the first record": lambda tree, ledger: (ledger / "00000000.json").unlink(),
}


@pytest.mark.parametrize("what", list(GONE))
def test_what_is_gone_is_damage_and_nothing_is_deleted(tmp_path, what):
    features = filled(tmp_path)
    tree = tmp_path / "features.zarr" / KEY
    GONE[what](tree, tmp_path / "ledger" / KEY)
    shards = sorted(tree.rglob("c.*"))
    damage = verify(features.store).damage
    assert damage
    assert all(one.reason == "is missing" and one.key == KEY for one in damage)
    with pytest.raises(StoreDamaged, match="nothing is deleted"):
        collect_garbage(Store.open(tmp_path))
    assert sorted(tree.rglob("c.*")) == shards
    assert verify(features.store).damage == damage
    again = features.store.create_features(EXTRACTION, KEY, known.ARRAYS)
    with again.lock():
        known.extract(again)
    assert verify(features.store).damage == ()
    assert collect_garbage(features.store) == []
    assert np.array_equal(again.read("fc", slice(None)), known.rows_of("fc", range(1500)))


CLASSIFIER = {
    "classifier/weight": np.eye(3, dtype=np.float32), "classifier/bias": np.zeros(3, np.float32),
}  # fmt: skip


def swapped(weight, bias):
    """Files that are whole each, and hold what was never written there."""
    other = io.BytesIO()
    place = weight.relative_to(weight.parents[3]).as_posix()
    np.savez(other, value=np.ones((3, 3), np.float32), place=np.array(place))
    weight.write_bytes(other.getvalue())


LOST_CONSTANTS = {
    "weight": (lambda weight, bias: weight.unlink(), ["weight"], "is missing"),
    "bias": (lambda weight, bias: bias.unlink(), ["bias"], "is missing"),
    "folder": (
        lambda weight, bias: shutil.rmtree(weight.parents[1]), ["weight", "bias"], "is missing"
    ),
    "foreign": (swapped, ["weight"], "it differs from its hash in the group's attributes"),
}  # fmt: skip


@pytest.mark.parametrize("what", list(LOST_CONSTANTS))
def test_a_constant_that_is_gone_or_foreign_is_told_and_mended(tmp_path, what):
    damage, names, fault = LOST_CONSTANTS[what]
    store = filled(tmp_path).store
    store.keep_constants(store.features(), CLASSIFIER)
    assert verify(store).damage == ()
    home = tmp_path / "constants" / KEY / "classifier"
    damage(home / "weight.npz", home / "bias.npz")
    features = Store.open(tmp_path).features()
    assert set(features.constants()) == set(CLASSIFIER)
    for name in names:
        with pytest.raises(StoreDamaged, match=rf"{name}\.npz is damaged \({fault}.*alike extract"):
            features.read_constant(f"classifier/{name}")
    found = {one.file: (one.reason, one.repair) for one in verify(store).damage}
    assert {file: reason for file, (reason, _) in found.items()} == {
        f"constants/{KEY}/classifier/{name}.npz": fault for name in names
    }
    assert all("alike extract" in repair for _, repair in found.values())
    with pytest.raises(StoreDamaged):
        export_group(store.features(), tmp_path / "group.npz")
    assert not features.is_whole(CLASSIFIER)
    again = store.keep_constants(features, CLASSIFIER)
    assert again.is_whole(CLASSIFIER)
    assert np.array_equal(again.read_constant("classifier/weight"), np.eye(3))
    assert verify(store).damage == ()


def test_constants_of_an_earlier_version_open_and_are_named_and_sealed(tmp_path):
    features = filled(tmp_path)
    for name, value in CLASSIFIER.items():
        features.write_constant(name, value)
    features.write_constant("measures/gap/mean", np.ones(3))
    verdict = verify(features.store)
    assert verdict.damage == ()
    assert (
        [note for note in verdict.notes if "constants are not sealed" in note]
        == [*verdict.notes]
        != []
    )
    (tmp_path / "constants" / KEY / "classifier" / "bias.npz").unlink()
    assert verify(features.store).damage == ()
    with pytest.raises(BadInput, match="no constant 'classifier/bias'"):
        features.read_constant("classifier/bias")
    sealed = features.store.keep_constants(features, CLASSIFIER)
    # What describes the group is written anew by a run: the seal of its constants stays.
    sealed.store.create_features(EXTRACTION, KEY, known.ARRAYS)
    assert Store.open(tmp_path).features().is_whole(CLASSIFIER)
    verdict = verify(features.store)
    assert (verdict.damage, verdict.notes) == ((), ())
    # A fitted array is fitted anew: that it is gone is no damage.
    (tmp_path / "constants" / KEY / "measures" / "gap" / "mean.npz").unlink()
    assert verify(features.store).damage == ()


@pytest.mark.parametrize("ending", ["npz", "h5", "nc", "parquet"])
def test_constants_are_sealed_by_an_import(tmp_path, ending):
    store = filled(tmp_path / "one").store
    store.keep_constants(store.features(), CLASSIFIER)
    export_group(store.features(), tmp_path / f"group.{ending}")
    other = Store.open(tmp_path / "other", create=True)
    taken = import_group(other, tmp_path / f"group.{ending}")
    assert other.features(taken.key).is_whole(CLASSIFIER)
    (tmp_path / "other" / "constants" / KEY / "classifier" / "bias.npz").unlink()
    assert files_of(verify(other)) == [f"constants/{KEY}/classifier/bias.npz"]
    import_group(other, tmp_path / f"group.{ending}")
    assert files_of(verify(other)) == []


@pytest.mark.parametrize("table", ["links", "groups"])
def test_a_table_of_twins_that_is_gone_is_named(tmp_path, table):
    store = filled(tmp_path).store
    pair = pd.DataFrame({"row_a": [3], "row_b": [7], "correlation": [0.99], "symmetry": [0]})
    grouped = pd.DataFrame({"row": [3, 7], "group": ["a", "a"]})

    def keep():
        if table == "links":
            store.keep_links(pair, np.arange(10))
        else:
            store.keep_image_groups(grouped)

    keep()
    store.assign_sides()
    before = store.components()
    assert before["row"].tolist() == [3, 7]
    assert files_of(verify(store)) == []
    (tmp_path / "twins" / f"{table}.parquet").unlink()
    (damage,) = verify(store).damage
    assert (damage.file, damage.reason) == (f"twins/{table}.parquet", "is missing")
    assert ("alike twins" if table == "links" else "alike extract") in damage.repair
    if table == "links":
        # Nobody takes them for images without twins: they keep the side on which they stood.
        for ask in (store.links, store.assign_sides, lambda: twin_table(store)):
            with pytest.raises(StoreDamaged, match=r"links\.parquet is damaged .*alike twins"):
                ask()
    keep()
    store.assign_sides()
    pd.testing.assert_frame_equal(store.components(), before)
    assert files_of(verify(store)) == []


def test_a_group_that_was_deleted_on_purpose_is_dropped(tmp_path):
    features = filled(tmp_path)
    shutil.rmtree(tmp_path / "features.zarr" / KEY)
    collect_garbage(features.store, drop=(KEY,))
    assert verify(features.store).damage == ()
    assert not (tmp_path / "ledger" / KEY).exists()


def test_the_array_valid_is_checked(tmp_path):
    features = filled(tmp_path)
    chunk = next((tmp_path / "features.zarr" / KEY / "valid" / "c").iterdir())
    data = bytearray(chunk.read_bytes())
    data[100] ^= 1
    chunk.write_bytes(data)
    assert files_of(verify(features.store, mark=False)) == [f"features.zarr/{KEY}/valid"]
    verify(features.store)
    assert verify(features.store).damage == ()
    assert features.published().sum() == 1500


def test_segments_of_the_manifest(tmp_path):
    features = filled(tmp_path, 1000)
    for n in (1200, 1500):
        features.store.list_images(known.listing(range(n)))
    features = filled(tmp_path, 1500)
    folder = tmp_path / "manifest"
    segments = sorted(folder.glob("seg-*"))
    assert len(segments) == 3
    for gone in segments:
        gone.rename(tmp_path / "aside")
        with pytest.raises(StoreDamaged):
            Store.open(tmp_path).features().table()
        assert any("manifest" in one for one in files_of(verify(Store.open(tmp_path), mark=False)))
        (tmp_path / "aside").rename(gone)
    segments[0].rename(tmp_path / "aside")
    segments[1].rename(segments[0])
    (tmp_path / "aside").rename(segments[1])
    with pytest.raises(StoreDamaged, match="do not follow"):
        Store.open(tmp_path).features().table()


def test_a_view_of_another_store_is_told(tmp_path):
    features = filled(tmp_path / "a")
    store = Store.open(tmp_path / "b", create=True)
    store.list_images(known.listing(range(10, 1510)))
    shutil.copy(tmp_path / "b" / "manifest/view.parquet", tmp_path / "a" / "manifest")
    with pytest.raises(StoreDamaged, match="belong to other images"):
        Store.open(tmp_path / "a").features().table()
    features.store.list_images(known.listing(range(1500)))
    assert len(Store.open(tmp_path / "a").features().table()) == 1500


STRAY = [
    "ledger/{key}/._00000000.json", "ledger/{key}/00000000 (1).json", "ledger/{key}/.DS_Store",
    "log/.DS_Store", "log/._20260101T000000000000-abcdef.json", "log/notes.json",
    "manifest/.DS_Store", "manifest/seg-000000 (1).parquet", "manifest/._seg-000000.parquet",
    "manifest/view (1).parquet", "constants/{key}/._mean.npz", "tables/._x.parquet",
    "features.zarr/.DS_Store", "features.zarr/{key}/.DS_Store", "locks/.DS_Store",
    "locks/._layout.json",
]  # fmt: skip


@pytest.mark.parametrize("name", STRAY)
def test_stray_files_are_left_alone(tmp_path, name):
    features = filled(tmp_path)
    place = tmp_path / name.format(key=KEY)
    place.parent.mkdir(exist_ok=True, parents=True)
    place.write_bytes(b"\0\5\x16\7 stray")
    store = Store.open(tmp_path)
    assert len(store.features().table()) == 1500
    assert store.features().digest == features.digest
    verdict = verify(store)
    assert verdict.damage == ()
    copies = [note for note in verdict.notes if place.name in note]
    assert bool(copies) == ("(1)" in name or ("._" in name and "locks" not in name))
    collect_garbage(store)
    assert place.exists()


def test_a_copy_of_a_group_is_no_group(tmp_path):
    features = filled(tmp_path)
    tree = tmp_path / "features.zarr"
    shutil.copytree(tree / KEY, tree / f"{KEY} (1)")
    assert features.store.groups() == [KEY]
    assert any("(1)" in note for note in verify(features.store).notes)


@pytest.mark.parametrize("key", ["../../x", "a/b", "", ".x"])
def test_keys_that_lead_out_are_refused(tmp_path, key):
    store = Store.open(tmp_path / "s", create=True)
    with pytest.raises(BadInput, match="extraction"):
        store.create_features(EXTRACTION, key, known.ARRAYS)
    assert not [one for one in tmp_path.iterdir() if one.name != "s"]


def exported(tmp_path, ending):
    features = filled(tmp_path / "from", 40)
    features.write_constant("classifier/weight", np.eye(3, dtype=np.float32))
    return export_group(features, tmp_path / f"g{ending}")


def state(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def refused(file, store):
    before = state(store.root_path.parent)
    with pytest.raises(BadInput) as told:
        import_group(store, file)
    assert "\n" not in str(told.value)
    assert state(store.root_path.parent) == before


@pytest.fixture
def empty(tmp_path):
    (tmp_path / "to").mkdir()
    return Store.open(tmp_path / "to" / "store", create=True)


@pytest.mark.parametrize("name", ["../../../x", "/x", "a/../../x", "a//b"])
def test_a_constant_that_leads_out_is_refused(tmp_path, empty, name):
    import zipfile

    file = exported(tmp_path, ".npz")
    with zipfile.ZipFile(file, "a") as members:
        members.writestr(f"constants/{name}.npy", members.read("constants/classifier/weight.npy"))
    refused(file, empty)


@pytest.mark.parametrize("key", ["../..", "a/b", "", 5, None])
def test_a_key_that_leads_out_is_refused(tmp_path, empty, key):
    file = exported(tmp_path, ".h5")
    with h5py.File(file, "a") as members:
        attrs = {**json.loads(members.attrs["alike"]), "key": key}
        members.attrs["alike"] = json.dumps(attrs)
        del members.attrs["alike_checksums"]
    refused(file, empty)


@pytest.mark.parametrize("ending", [".h5", ".nc", ".npz", ".parquet"])
def test_flipped_bits_of_an_export_change_nothing(tmp_path, ending):
    """An image id, a label, a row: refused with the store as it was, or read as it was written."""
    file = exported(tmp_path, ending)
    whole = file.read_bytes()
    one_id, label = known.image_id(7).encode(), b"0/000003.png"
    chance = np.random.default_rng(0)
    places = [whole.find(one_id) + 3, whole.find(label) + 4, *chance.integers(0, len(whole), 12)]
    for number, at in enumerate(int(place) for place in places if place > 4):
        data = bytearray(whole)
        data[at] ^= 2
        file.write_bytes(data)
        (tmp_path / str(number)).mkdir()
        store = Store.open(tmp_path / str(number) / "store", create=True)
        try:
            back = import_group(store, file)
        except BadInput:
            assert store.groups() == []
            assert store.n_rows == 0
            continue
        assert np.array_equal(back.read("fc", slice(None)), known.rows_of("fc", range(40)))
        assert list(back.store.image_ids()) == [known.image_id(i) for i in range(40)]
        assert list(back.table()["label"]) == [str(i % 3) for i in range(40)]
        assert np.array_equal(back.read_constant("classifier/weight"), np.eye(3))


def test_an_export_of_an_earlier_version_is_read_and_said(tmp_path, empty):
    file = exported(tmp_path, ".h5")
    with h5py.File(file, "a") as members:
        del members.attrs["alike_checksums"]
    told = []
    back = import_group(empty, file, tell=told.append)
    assert len(back.table()) == 40
    assert len(told) == 1
    assert "earlier version" in told[0]
    with h5py.File(file, "a") as members:
        ids = members["images/image_id"]
        ids[3] = "3e76bx9d" + "0" * 56
    refused(file, Store.open(tmp_path / "to" / "other", create=True))


def test_a_group_of_other_shapes_is_refused_before_its_images_are_listed(tmp_path):
    file = exported(tmp_path, ".npz")
    (tmp_path / "to").mkdir()
    store = Store.open(tmp_path / "to" / "store", create=True)
    store.create_features(EXTRACTION, KEY, {"fc": ((8,), "float32")})
    refused(file, store)


@pytest.mark.quick
def test_a_store_that_is_a_link_to_itself(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for create in (True, False):
        with pytest.raises(BadInput, match="leads back to itself"):
            Store.open(tmp_path / "loop", create=create)


def test_a_link_that_leads_back_into_the_store_is_not_followed(tmp_path):
    features = filled(tmp_path / "s")
    (tmp_path / "s" / "features.zarr" / "round").symlink_to(tmp_path / "s")
    (tmp_path / "s" / "ledger" / "itself").symlink_to(tmp_path / "s" / "ledger" / "itself")
    assert verify(features.store).damage == ()
    assert features.store.groups() == [KEY]


@pytest.mark.parametrize("what", ["link to itself", "link to nothing", "folder"])
def test_an_entry_of_the_log_that_is_no_file_is_named(tmp_path, what):
    store = Store.open(tmp_path / "s", create=True)
    (entry,) = (tmp_path / "s" / "log").glob("*.json")
    entry.unlink()
    if what == "folder":
        entry.mkdir()
    else:
        entry.symlink_to(entry if what == "link to itself" else tmp_path / "nothing")
    (event,) = history(store).to_dict("records")
    assert event["event"] == "unreadable"
    assert event["note"].startswith(f"log/{entry.name}: ")
    assert f"log/{entry.name}" in files_of(verify(store))


@pytest.mark.parametrize("folder", ["ledger", "manifest"])
def test_a_link_to_nothing_in_the_place_of_a_file_is_named(tmp_path, folder):
    """Read as a file that is not there, it would be left out without a word."""
    features = filled(tmp_path / "s", 40)
    place = next(one for one in sorted((tmp_path / "s" / folder).rglob("*0.*")) if one.is_file())
    place.unlink()
    place.symlink_to(tmp_path / "nothing")
    name = str(place.relative_to(tmp_path / "s"))
    assert name in files_of(verify(Store.open(features.store.url)))


@pytest.mark.parametrize("pid", ['"x"', "null", str(2**70), "-1", "1.5"])
def test_a_lock_with_a_foreign_number(tmp_path, pid):
    features = filled(tmp_path, 40)
    me = {**Holder.me().__dict__, "pid": 0}
    place = tmp_path / "locks" / "layout.json"
    place.write_text(json.dumps(me).replace('"pid": 0', f'"pid": {pid}'))
    os.utime(place, (1, 1))
    again = features.store.create_features(EXTRACTION, KEY, known.ARRAYS)
    assert again.pending() == []
    assert not place.exists()


def test_a_store_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    features = filled(tmp_path, 40)
    monkeypatch.setattr("alike.extract.store.locks.os.access", lambda *_: False)
    with pytest.raises(BadInput, match="cannot be written"):
        features.store.require_writable()
    with pytest.raises(BadInput, match="cannot be written"):
        analyse(features)
    with pytest.raises(BadInput, match="cannot be written"):
        extract(None, None, features.store)
