"""Copies of a remote store's index: the cache may be emptied at any time, and keeps nothing unused.

The store lies at a URL of fsspec that is a folder here, so no server is needed.
"""

import hashlib
import os
import shutil
import time

import numpy as np
import pandas as pd
import pytest

from alike.extract.errors import BadInput
from alike.extract.places import KEPT_DAYS, cache_folder, copies_folder
from alike.extract.store.store import Store
from alike.index import files, places
from alike.index.build import build_index
from alike.index.query import NeighbourIndex

KEY = "net-0001"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A remote store of 40 images with an index."""
    place = tmp_path_factory.mktemp("remote")
    store = Store.open(f"local://{place}/store", create=True, auto_mkdir=True)
    ids = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(40)]
    listing = pd.DataFrame({"image_id": ids, "path": ids, "label": "cat", "size": 1})
    store.list_images(listing.assign(state="ok", reason=""))
    about = {"network": "net", "weights": "none", "weights_hash": "0" * 8, "taps": ["gap"]}
    features = store.create_features(about, KEY, {"gap": ((4,), "float32")})
    features.write_unit(0, {"gap": np.random.default_rng(0).random((40, 4), np.float32)})
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(place / "cache"))
        build_index(store.features(KEY), "gap_cosine")
    return store


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/alike"


def opened(store):
    return NeighbourIndex.open(store, KEY).card


@pytest.mark.quick
def test_a_copy_that_nobody_asked_for_long_is_deleted(store, cache):
    old, young = (cache / "stores" / name / "index/net" for name in ("old", "young"))
    for folder in (old, young):
        for place in ("gap_cosine/card.json", "gap_cosine.build/lock", "gap_cosine.lock"):
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).touch()
    then = time.time() - (KEPT_DAYS + 1) * 86400
    os.utime(old / "gap_cosine.lock", (then, then))
    # Behind a link lies what is not of the cache.
    elsewhere = cache.parents[1] / "elsewhere"
    shutil.copytree(old.parents[1], elsewhere)
    (cache / "stores/linked").symlink_to(elsewhere)
    opened(store)
    assert sorted(one.name for one in (cache / "stores").iterdir()) == sorted(
        ["linked", "young", copies_folder(store.place).name]
    )
    assert (elsewhere / "index/net/gap_cosine/card.json").is_file()
    assert (young / "gap_cosine/card.json").is_file()
    # A copy that is asked for counts as used, although nothing of it is written.
    lock = copies_folder(store.place) / f"index/{KEY}/gap_cosine.lock"
    os.utime(lock, (then, then))
    opened(store)
    assert time.time() - lock.stat().st_mtime < 3600


def test_a_cache_that_is_emptied_meanwhile_is_filled_again(store, cache, monkeypatch):
    wanted = opened(store)
    for name in ("_stored_card", "_download", "_replace"):
        real, left = getattr(places, name), [1]

        def emptying(*given, real=real, left=left):
            answer = real(*given)
            if left:
                left.pop()
                shutil.rmtree(cache)
            return answer

        shutil.rmtree(cache)
        with monkeypatch.context() as patched:
            patched.setattr(places, name, emptying)
            assert opened(store) == wanted
        assert not left


def test_a_cache_that_is_emptied_during_a_build_is_one_line(store, cache, monkeypatch):
    real = files.write_faiss

    def emptying(index, path):
        shutil.rmtree(cache)
        return real(index, path)

    with monkeypatch.context() as patched:
        patched.setattr(files, "write_faiss", emptying)
        with pytest.raises(BadInput, match="was deleted while the index was built there"):
            build_index(store.features(KEY), "gap_cosine", rebuild=True)
    assert build_index(store.features(KEY), "gap_cosine", rebuild=True).card.n_rows == 40


def test_a_cache_that_cannot_be_written_names_the_way_out(store, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file in the way")
    with pytest.raises(BadInput, match="name another folder for copies by XDG_CACHE_HOME"):
        opened(store)
    # Such a base would be another folder wherever a command is started.
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/alike"
