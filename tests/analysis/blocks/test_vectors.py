"""Where embedded vectors are kept changes none of their numbers."""

import gc
import os
import pickle
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from alike.analysis.blocks import vectors
from alike.analysis.blocks.vectors import blocks, held_vectors, stored_vectors
from alike.extract.measures import ready_measure
from alike.extract.store import Store


def nameless_files():
    """Mapped files that have no name, and open ones."""
    opened = [os.path.realpath(fd) for fd in Path("/proc/self/fd").iterdir()]
    mapped = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return sum("(deleted)" in line for line in mapped), sum("deleted" in path for path in opened)


@pytest.fixture
def opened(tmp_path, make, write_features):
    return write_features(tmp_path / "store", make(sizes=(700, 500)), taps=["gap"])


@pytest.mark.quick
@pytest.mark.parametrize("name", ["gap_cosine", "gap_euclid"])
def test_vectors_in_a_file_or_read_again_are_those_in_memory(name, opened, tmp_path, monkeypatch):
    monkeypatch.setattr(vectors, "SLAB", 256)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rows = np.random.default_rng(0).permutation(1200)[:1100]
    measure = ready_measure(opened, name)
    held = stored_vectors(opened, measure, rows)
    filed = stored_vectors(opened, measure, rows, memory=1000)
    again = stored_vectors(opened, measure, rows, memory=0)
    assert isinstance(filed.fetch.x.base, np.memmap)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert not hasattr(again.fetch, "x")
    for other in (filed, again):
        assert np.array_equal(other.centre, held.centre)
        for low, high in blocks(held.n, held.dim):
            for a, b in zip(other.block(low, high), held.block(low, high), strict=True):
                assert np.array_equal(a, b)
            x, centre, b = other.uncentred(low, high)
            assert np.array_equal(x - centre, held.block(low, high)[0])
            assert np.array_equal(b, held.block(low, high)[1])
            assert np.array_equal(other.exact(low, high), held.exact(low, high))
    some = np.array([3, 700, 1050])
    assert np.array_equal(filed.take(some).block(0, 3)[0], held.rows(some)[0])
    for other in (filed, again):
        for a, b in zip(other.rows(some), held.rows(some), strict=True):
            assert np.array_equal(a, b)


def test_a_sample_is_the_same_wherever_vectors_are_and_read_once(opened, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    measure, rows = ready_measure(opened, "gap_cosine"), np.arange(1200)[::-1].copy()
    held = stored_vectors(opened, measure, rows)
    z, b = held.rows(vectors.spread(1200, 50))
    there = stored_vectors(opened, measure, rows, memory=0)
    for other in (held, stored_vectors(opened, measure, rows, memory=1000), there):
        assert np.array_equal(other.sample(50)[0], z)
        assert np.array_equal(other.sample(50)[1], b)
    monkeypatch.setattr(vectors, "embed_rows", lambda *_: pytest.fail("it is read again"))
    assert np.array_equal(there.sample(50)[0], z)


def test_a_full_disk_is_not_filled_and_a_line_says_so(opened, monkeypatch, caplog):
    usage = namedtuple("usage", "total used free")(100, 99, 1)
    monkeypatch.setattr(vectors.shutil, "disk_usage", lambda folder: usage)
    measure = ready_measure(opened, "gap_cosine")
    assert not hasattr(stored_vectors(opened, measure, np.arange(9), memory=10).fetch, "x")
    assert "set TMPDIR to a folder with more room" in caplog.text


def test_b_is_what_it_is_of_all_rows_at_once(monkeypatch):
    x = np.random.default_rng(1).random((1000, 33), dtype=np.float32)
    whole = {form: held_vectors(x, form) for form in ("cosine", "euclidean", "inner")}
    monkeypatch.setattr(vectors, "SLAB", 256)
    for form, one in whole.items():
        assert np.array_equal(held_vectors(x, form).fetch.b, one.fetch.b)


def test_the_file_goes_with_its_vectors(opened, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    # What earlier tests left goes first.
    gc.collect()
    mapped, opened_before = nameless_files()
    held = stored_vectors(opened, ready_measure(opened, "gap_cosine"), np.arange(900), memory=1000)
    assert nameless_files()[0] == mapped + 1
    del held
    gc.collect()
    assert nameless_files() == (mapped, opened_before)


def test_vectors_travel_to_workers_in_another_folder(opened, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    features = Store.open("store").features()
    rows = np.arange(1200)
    there = stored_vectors(features, ready_measure(features, "gap_cosine"), rows, memory=0)
    sent, wanted = pickle.dumps(there), there.block(0, 9)[0]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert np.array_equal(pickle.loads(sent).block(0, 9)[0], wanted)
