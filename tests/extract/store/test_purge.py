"""Features of images that left the set long ago are deleted, and computed again if they return."""

import numpy as np
import pytest
import store_writer as known

from alike.extract.store.manifest import Manifest
from alike.extract.store.purge import purge_removed, removed_before
from alike.extract.store.store import Store
from alike.extract.store.upkeep import collect_garbage, history
from alike.extract.store.verification import verify

DAY = 86400.0
NOW = 10_000 * DAY
N = 1500


@pytest.fixture
def features(tmp_path, monkeypatch):
    """Images 100 to 499 left the set 40 days ago, 1200 to 1299 ten days ago."""
    features = known.filled(tmp_path, N)
    clock = iter([NOW - 40 * DAY, NOW - 10 * DAY])
    note = Manifest.note_removed
    monkeypatch.setattr(
        Manifest, "note_removed", lambda self, _, *rest: note(self, next(clock), *rest)
    )
    listed = [row for row in range(N) if not 100 <= row < 500]
    features.store.list_images(known.listing(listed))
    features.store.list_images(known.listing([row for row in listed if not 1200 <= row < 1300]))
    monkeypatch.undo()
    return features


@pytest.mark.quick
def test_when_images_left_is_taken_down(features):
    store = features.store
    old, late = list(range(100, 500)), list(range(1200, 1300))
    for days, rows in ((0, old + late), (10, old + late), (11, old), (40, old), (41, [])):
        assert removed_before(store, days, NOW).tolist() == rows
    # One that comes back and leaves again begins anew; the others do not.
    store.list_images(known.listing(range(N)))
    assert store.manifest.removed().empty
    store.list_images(known.listing(range(5, N)))
    assert removed_before(store, 1).tolist() == []
    assert removed_before(store, 0).tolist() == [0, 1, 2, 3, 4]
    # What is lost of it begins now, and is named.
    store.path("manifest", "removed.parquet").write_bytes(b"torn")
    assert [one.file for one in verify(store).damage] == ["manifest/removed.parquet"]
    store.list_images(known.listing(range(5, N)))
    assert removed_before(store, 0).tolist() == [0, 1, 2, 3, 4]
    assert verify(store).damage == ()


def test_what_is_old_goes_and_what_is_said_is_what_is_freed(features):
    store = features.store
    before = {name: features.shard_sizes(name) for name in known.ARRAYS}
    digest = features.digest
    planned = purge_removed(store, 30, dry_run=True, now=NOW)
    assert features.digest == digest
    done = purge_removed(store, 30, now=NOW)
    assert done == planned
    assert [(one.key, one.unit, one.rows) for one in done] == [(known.KEY, 0, 400)]
    after = {name: features.shard_sizes(name) for name in known.ARRAYS}
    freed = sum(before[name][s] - after[name][s] for name in before for s in before[name])
    assert done[0].freed == freed
    # Of 400 rows two whole blocks of 128 vectors, and the maps of as many.
    assert before["fc"]["c.0.0"] - after["fc"]["c.0.0"] == 2 * (128 * 16 * 4 + 4)
    assert before["maps"]["c.1.0.0.0"] == after["maps"]["c.1.0.0.0"]
    fresh = Store.open(store.url)
    assert verify(fresh).damage == ()
    left = np.setdiff1d(np.arange(N), np.arange(100, 500))
    for name in known.ARRAYS:
        assert np.array_equal(fresh.features().read(name, left), known.rows_of(name, left))
    assert np.isnan(fresh.features().read("fc", slice(100, 500))).all()
    assert purge_removed(store, 30, now=NOW) == []
    assert features.pending() == []
    assert "features of 400 removed images" in history(store)["note"].tolist()
    # They come back: their rows are the same, and computed again.
    view = store.list_images(known.listing(range(N)))
    assert view["row"].tolist() == list(range(N))
    assert features.pending() == [0]
    with features.lock():
        known.extract(features)
    assert np.array_equal(features.read("fc", slice(0, N)), known.rows_of("fc", range(N)))
    assert verify(Store.open(store.url)).damage == ()


def test_garbage_collection_does_it_too(features):
    store = features.store
    would = collect_garbage(store, removed_days=0, dry_run=True)
    assert [(one.file, one.why.split(" images")[0]) for one in would] == [
        (f"features.zarr/{known.KEY}/*/c.0", "features of 400"),
        (f"features.zarr/{known.KEY}/*/c.1", "features of 100"),
    ]
    assert collect_garbage(store, removed_days=0) == would
    assert collect_garbage(store, removed_days=0) == []
    assert collect_garbage(store) == []
