"""Stores with made features: clustered, sorted by class, no network needed."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pandas as pd
import pytest

from alike.extract.networks.extraction import Extraction
from alike.extract.networks.transform import Transform
from alike.extract.store.arrays import UNIT
from alike.extract.store.store import Store

HASH = "ab" * 32


def clustered(n, dimension=16, classes=5, seed=0, spread=0.35):
    """Non-negative vectors (n, dimension) in clusters, sorted by class; labels (n,)."""
    draw = np.random.default_rng(seed)
    centres = draw.random((classes, dimension))
    labels = np.sort(np.arange(n) % classes)
    noise = spread * draw.standard_normal((n, dimension))
    return np.maximum(centres[labels] + noise, 0.001).astype(np.float32), labels


def listing_of(names, labels):
    ids = [hashlib.sha256(name.encode()).hexdigest() for name in names]
    return pd.DataFrame(
        {
            "image_id": ids,
            "path": [f"{label}/{name}.png" for name, label in zip(names, labels, strict=True)],
            "label": [str(label) for label in labels],
            "size": 10,
            "state": "ok",
            "reason": "",
        }
    )


def fill(store, vectors, weights_hash=HASH):
    """Commit `gap` of every row of the store that has no feature yet."""
    extraction = Extraction(
        "resnet18", "none", weights_hash, ("gap",), Transform(crop=32).to_dict(), "float32"
    )
    features = store.create_features(
        extraction.to_dict(), extraction.key, {"gap": (vectors.shape[1:], "float32")}
    )
    for unit in features.pending(["gap"]):
        rows = features.unit_rows(unit)
        features.write_unit(unit, {"gap": vectors[rows.start : rows.stop]}, {}, run_id="test")
    assert UNIT == 1024
    return store.features(extraction.key)


@pytest.fixture(autouse=True)
def one_thread():
    """Small searches wait longer for a second thread, on a busy machine, than they take."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


MakeStore = Callable[..., Store]


@pytest.fixture
def make_store(tmp_path: Path) -> MakeStore:
    def make(n=300, name="store", vectors=None, labels=None, **settings):
        if vectors is None:
            vectors, labels = clustered(n, **settings)
        store = Store.open(tmp_path / name, create=True)
        store.list_images(listing_of([f"image{i}" for i in range(len(vectors))], labels))
        fill(store, vectors)
        return store

    return make
