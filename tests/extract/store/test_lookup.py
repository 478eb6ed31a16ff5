"""The look-up of images gives what the tables give, from a mapped file that may be lost or torn."""

import numpy as np
import pandas as pd
import pytest
import store_writer as known

from alike.extract.errors import StoreDamaged
from alike.extract.store import mapped
from alike.extract.store.store import Store

N = 1500


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A store with removed, relabelled, unlabelled, doubled and bad images, none in row order."""
    monkeypatch.setattr(mapped, "LEAST", 1)
    known.filled(tmp_path, N)
    store = Store.open(tmp_path)
    store.set_split(0.4, validation_share=0.3)
    listing = known.listing(range(N)).sample(frac=1, random_state=0).iloc[: N - 100]
    twice = listing.iloc[:3].assign(path=["again/0", "again/1", "again/2"], label="other")
    unread = listing.iloc[-1:].assign(state="truncated", reason="ends", path="bad/1")
    listing = pd.concat([listing, twice, unread], ignore_index=True)
    listing["label"] = listing["label"].astype(object)
    listing.loc[::7, "label"] = None
    listing["subset"] = ["a" if number % 3 else None for number in range(len(listing))]
    store.list_images(listing)
    return tmp_path


def kept(place):
    return sorted(path.name for path in (place / "cache").iterdir())


def same(lookup, features):
    table = features.table()
    pd.testing.assert_frame_equal(lookup.table(), table)
    assert np.array_equal(lookup.rows, table["row"])
    return table


@pytest.mark.quick
def test_rows_labels_and_ids_are_those_of_the_table(place):
    features = Store.open(place).features()
    for _ in range(2):
        # Made, and then mapped by another reader.
        lookup = Store.open(place).features().lookup()
        table = same(lookup, features)
    assert [name.split("-")[0] for name in kept(place)] == ["ids", "images"]
    some = table.sample(20, random_state=1)
    part = lookup.table(some["row"].to_numpy())
    pd.testing.assert_frame_equal(part, some.reset_index(drop=True))
    assert [lookup.row_of(one) for one in some["image_id"]] == some["row"].tolist()
    removed = sorted(set(range(N)) - set(table["row"]))
    assert removed
    assert not any(row in lookup for row in [*removed, -1, N])
    assert all(lookup.row_of(one) == -1 for one in [*features.store.image_ids()[removed], "x", ""])
    asked = np.array([*table["row"][:50], *removed, N + 5, 0])
    wanted = table.set_index("row")["label"].reindex(asked)
    assert lookup.labels(asked).tolist() == [None if pd.isna(one) else one for one in wanted]
    with pytest.raises(KeyError):
        lookup.table(np.array([removed[0]]))


def test_a_mapped_file_is_of_one_content_and_may_be_deleted_torn_or_refused(place, monkeypatch):
    features = Store.open(place).features()
    first = features.lookup()
    before = first.table()
    names = kept(place)
    # Deleted under a reader, and before the next.
    for path in (place / "cache").iterdir():
        path.unlink()
    pd.testing.assert_frame_equal(first.table(), before)
    same(Store.open(place).features().lookup(), features)
    assert kept(place) == names
    # Torn: another checksum than its name says.
    for path in (place / "cache").iterdir():
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.unlink()
        path.write_bytes(data)
    same(Store.open(place).features().lookup(), features)
    # Another set: the old file is not used, and goes.
    view = features.store.images()
    features.store.list_images(view.iloc[:500].assign(label="new").drop(columns="row"))
    fresh = Store.open(place).features()
    assert set(same(fresh.lookup(), fresh)["label"]) == {"new"}
    same(features.lookup(), fresh)
    assert len(kept(place)) == 2
    assert kept(place)[0] == names[0]
    assert kept(place)[1] != names[1]
    # Where nothing can be written it is made at every opening.
    for path in (place / "cache").iterdir():
        path.unlink()
    (place / "cache").rmdir()
    (place / "cache").write_text("in the way")
    fresh = Store.open(place).features()
    same(fresh.lookup(), fresh)


def test_damage_is_damage_beside_a_mapped_file(place):
    Store.open(place).features().lookup()
    path = place / "manifest" / "seg-000000.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreDamaged):
        Store.open(place).features().lookup()


def test_an_empty_set_and_small_sets_have_no_file(tmp_path):
    features = known.filled(tmp_path, 10)
    features.store.list_images(known.listing([]))
    lookup = Store.open(tmp_path).features().lookup()
    assert not len(lookup.rows)
    assert 0 not in lookup
    assert lookup.row_of("x") == -1
    assert lookup.labels(np.array([0])).tolist() == [None]
    assert not len(lookup.table())
    assert not (tmp_path / "cache").exists()
