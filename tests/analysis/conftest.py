"""Made features in a real store: clustered, rectified, every tap that a measure may need."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from alike.analysis.blocks.evaluation_set import evaluation_set_of
from alike.extract.store.store import Store


class Made:
    """Arrays of n images in as many classes as `sizes`, the later the harder."""

    def __init__(self, sizes=(40, 30, 20, 9, 1), channels=12, seed=0):
        draw = np.random.default_rng(seed)
        self.codes = np.repeat(np.arange(len(sizes)), sizes)
        n = len(self.codes)
        centres = draw.standard_normal((len(sizes), channels)) * 0.8
        noise = draw.standard_normal((n, channels, 3, 3))
        maps = np.maximum(centres[self.codes][:, :, None, None] + noise, 0)
        self.maps = maps.astype(np.float16)
        self.weight = centres.astype(np.float32)
        gap = self.maps.astype(np.float32).mean(axis=(2, 3))
        self.arrays = {
            "last_conv": self.maps,
            "gap": gap,
            "fc": gap,
            "logits": gap @ self.weight.T,
            "pixels": draw.random((n, 3, 4, 4)).astype(np.float16),
        }
        self.labels = [f"class {code}" for code in self.codes]
        order = draw.permutation(n)
        self.order = order
        self.codes, self.labels = self.codes[order], [self.labels[i] for i in order]
        self.arrays = {name: values[order] for name, values in self.arrays.items()}


def write(folder, made, key="net-0-0", share=0.0, names=None, taps=None, ids=None):
    """Write made features into a store; returns the features."""
    n = len(made.codes)
    store = Store.open(str(folder), create=True)
    store.set_split(share, "")
    ids = ids or [hashlib.sha256(str(i).encode()).hexdigest() for i in range(n)]
    listing = pd.DataFrame({
        "image_id": ids, "path": [f"{i}.png" for i in range(n)], "label": made.labels,
        "size": 1, "state": "ok", "reason": "",
    })  # fmt: skip
    rows = store.list_images(listing)["row"].to_numpy()
    arrays = {name: made.arrays[name] for name in taps or made.arrays}
    known = sorted(set(made.labels)) if names is None else names
    about = {
        "network": "net", "weights": "none", "weights_hash": "0" * 8, "taps": list(arrays),
        "transform": {}, "precision": "float32", "class_names": known,
    }  # fmt: skip
    kinds = {name: (values.shape[1:], str(values.dtype)) for name, values in arrays.items()}
    features = store.create_features(about, key, kinds)
    placed = {name: np.empty((store.n_rows, *v.shape[1:]), v.dtype) for name, v in arrays.items()}
    for name, values in arrays.items():
        placed[name][rows] = values
    for unit in features.pending(list(arrays)):
        at = features.unit_rows(unit)
        part = {name: values[at.start : at.stop] for name, values in placed.items()}
        features.write_unit(unit, part, {}, run_id="made")
    features.write_constant("classifier/weight", made.weight)
    features.write_constant("classifier/bias", np.zeros(len(made.weight), np.float32))
    return features


@pytest.fixture
def made():
    return Made()


@pytest.fixture
def write_features():
    return write


@pytest.fixture
def make():
    return Made


@pytest.fixture
def clustered():
    """(n, dim, sizes or number of classes) to vectors sorted by class and `EvaluationSet`."""

    def build(n=600, dim=16, classes=5, seed=0, spread=1.0, unit=False):
        draw = np.random.default_rng(seed)
        share = np.linspace(1.0, 2.0, classes)
        codes = draw.choice(classes, size=n, p=share / share.sum())
        centres = draw.standard_normal((classes, dim))
        x = (centres[codes] + spread * draw.standard_normal((n, dim))).astype(np.float32)
        images = evaluation_set_of(np.arange(n), [f"{code:04d}" for code in codes])
        x = x[images.rows]
        if unit:
            x = x / np.linalg.norm(x, axis=1, keepdims=True)
        return x, images

    return build
