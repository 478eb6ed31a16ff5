"""How many requests an object store gets: few a unit and array, whatever came before."""

import fsspec
import numpy as np
import pytest
import store_writer as known

from alike.extract.store.recent import RecentRows
from alike.extract.store.store import Store

ARRAYS = len(known.ARRAYS)


@pytest.fixture
def place(s3_requests, request):
    bucket = request.node.name.replace("_", "-")[:40].strip("-")
    fsspec.filesystem("s3").mkdir(bucket)
    return f"s3://{bucket}/a/store"


def test_writing_takes_few_a_unit_and_array(place, s3_requests):
    sent = []
    for n in (2 * 1024, 6 * 1024):
        s3_requests.clear()
        known.extract(known.filled(place, n))
        sent.append(len(s3_requests))
    # Two units, then four more.
    assert sent[1] - sent[0] <= 2 * ARRAYS * 12
    shards = [one for one in s3_requests if one.startswith("put_object") and "/c." in one]
    assert len([one for one in shards if "/valid/" not in one]) == 4 * ARRAYS


def test_rows_are_read_once(place, s3_requests):
    known.filled(place, 3 * 1024)
    features = Store.open(place).features(known.KEY)
    rows = np.random.default_rng(0).permutation(3 * 1024)
    s3_requests.clear()
    first = features.read("fc", rows)
    data = [one for one in s3_requests if "/fc/c." in one]
    assert len(data) == 3 * 2
    s3_requests.clear()
    assert np.array_equal(features.read("fc", rows[:100]), first[:100])
    assert not [one for one in s3_requests if "/fc/c." in one]
    assert np.array_equal(first, known.rows_of("fc", rows))
    # A unit that is written anew is read anew: rows are remembered by what they are.
    other = {"fc": known.rows_of("fc", range(7, 7 + 1024))}
    again = Store.open(place).features(known.KEY)
    again.write_unit(1, {**other, "maps": known.rows_of("maps", range(1024, 2048))})
    assert np.array_equal(features.read("fc", slice(1024, 2048)), other["fc"])


@pytest.mark.quick
def test_the_least_recently_used_rows_go_first():
    recent = RecentRows(most=16)
    read = []

    def rows(name):
        return recent.get(name, lambda: (read.append(name), np.zeros(1))[1])

    for name in "ababcbca":
        rows(name)
    assert read == ["a", "b", "c", "a"]
    assert "b" not in recent
    recent.get("large", lambda: np.zeros(3))
    assert "large" not in recent


def test_a_snapshot_ends_with_it_and_with_a_write(place, s3_requests):
    known.filled(place, 10)
    store, other = Store.open(place), Store.open(place)
    files = store.files
    with files.snapshot():
        before = files.listing("tags")
        s3_requests.clear()
        other.files.write("tags/a", b"1")
        assert len(s3_requests) == 1
        assert files.listing("tags") == before == {}
        assert len(s3_requests) == 1
        files.write("tags/b", b"1")
        assert files.listing("tags").keys() == {"a", "b"}
        with files.snapshot():
            files.listing("tags").clear()
        assert files.listing("tags").keys() == {"a", "b"}
        other.files.remove("tags/a")
        assert files.listing("tags").keys() == {"a", "b"}
        files.remove("tags/b")
        assert files.listing("tags") == {}
        assert files.size("tags/b") is None
        other.files.write("tags/b", b"12")
        assert files.size("tags/b") is None
    assert files.size("tags/b") == 2


def test_a_snapshot_remembers_small_files_but_not_who_works(place, s3_requests):
    known.filled(place, 10)
    store, other = Store.open(place), Store.open(place)
    files, name = store.files, "tags/a"
    files.write(name, b"1")
    files.write("locks/a.json", b"1")
    with files.snapshot():
        assert files.read(name) == b"1"
        s3_requests.clear()
        other.files.write(name, b"2")
        other.files.write("locks/a.json", b"2")
        assert files.read(name) == b"1"
        assert files.read("locks/a.json") == b"2"
        assert len(s3_requests) == 3
        # A lock that is taken is a write: what is read under it is new.
        with store.brief_lock("settings"):
            assert files.read(name) == b"2"
        # So is what zarr-python wrote, which is told by `sync`.
        other.files.write(name, b"3")
        files.sync(name)
        assert files.read(name) == b"3"
    with files.snapshot(), pytest.raises(FileNotFoundError):
        files.read("tags/none")
