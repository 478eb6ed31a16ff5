"""Synthetic features in a real store, an analysis with naively computed tables, and digits."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

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


@dataclass(frozen=True)
class Tables:
    key: str
    n_images: int
    classes: tuple[str, ...]
    settings: dict[str, object]
    tables: dict[str, pd.DataFrame] = field(repr=False)


def spread_features(
    n_classes: int, each: int, spread: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = np.abs(rng.normal(size=(n_classes, 16)))
    labels = np.repeat(np.arange(n_classes), each)
    values = np.abs(centres[labels] + spread * rng.normal(size=(len(labels), 16)))
    return values / np.linalg.norm(values, axis=1, keepdims=True), labels


def measure_tables(
    measure: str, values: np.ndarray, labels: np.ndarray, names: list[str]
) -> dict[str, pd.DataFrame]:
    distance = 1 - values @ values.T
    i, j = np.triu_indices(len(labels), 1)
    d, same = distance[i, j], labels[i] == labels[j]
    auc = roc_auc_score(same, -d)
    far, tar, threshold = roc_curve(same, -d)
    near = np.argsort(distance + 9 * np.eye(len(labels)), axis=1)[:, :10]
    k = near.shape[1]
    hits = labels[near] == labels[:, None]
    shown = {
        "sameness": (2 * auc - 1, 0.01, "up"),
        "auc": (auc, 0.005, "up"),
        "balanced_accuracy": (np.max(tar + 1 - far) / 2, 0.01, "up"),
        "eer": (far[np.argmin(np.abs(far - 1 + tar))], 0.01, "down"),
        "intra_mean": (d[same].mean(), np.nan, "down"),
        "inter_mean": (d[~same].mean(), np.nan, "up"),
        "one_nn": (hits[:, 0].mean(), np.nan, "up"),
        "purity_at_10": (hits.mean(), np.nan, "up"),
    }
    scores = pd.DataFrame(
        [(measure, s, v, v - w, v + w, b, "") for s, (v, w, b) in shown.items()],
        columns=["measure", "score", "value", "low", "high", "better", "note"],
    )
    edges = np.linspace(d.min(), d.max() + 1e-6, 301)
    histograms = pd.DataFrame(
        {
            "measure": measure, "bin_low": edges[:-1], "bin_high": edges[1:],
            "same": np.histogram(d[same], edges)[0], "different": np.histogram(d[~same], edges)[0],
        }
    )  # fmt: skip
    sums = np.zeros((len(names), len(names)))
    onehot = np.eye(len(names))[labels]
    sums = onehot.T @ distance @ onehot
    size = onehot.sum(0)
    pairs = np.outer(size, size) - np.diag(size)
    a, b = np.indices(sums.shape)
    class_pairs = pd.DataFrame(
        {
            "measure": measure, "class_a": np.take(names, a.ravel()),
            "class_b": np.take(names, b.ravel()), "mean": (sums / pairs).ravel(), "std": 0.1,
            "n_pairs": pairs.ravel().astype(int),
        }
    )  # fmt: skip
    rng = np.random.default_rng(0)
    per = np.clip(2 * auc - 1 + rng.normal(0, 0.1, len(names)), 0, 1)
    per_class = pd.DataFrame(
        {
            "measure": measure, "class": names, "n": size.astype(int), "auc": (1 + per) / 2,
            "sameness": per, "balanced_accuracy": (1 + per) / 2,
            "intra_mean": np.diag(sums / pairs), "inter_mean": sums.mean(1) / pairs.mean(1),
        }
    )  # fmt: skip
    step = np.unique(np.linspace(0, len(far) - 1, 500).astype(int))
    roc = pd.DataFrame({"measure": measure, "far": far, "tar": tar, "threshold": -threshold})
    neighbours = pd.DataFrame(
        {
            "measure": measure, "row": np.repeat(np.arange(len(labels)), k),
            "rank": np.tile(np.arange(1, k + 1), len(labels)), "neighbour": near.ravel(),
            "distance": np.take_along_axis(distance, near, 1).ravel(),
        }
    )  # fmt: skip
    by_distance = np.argsort(d)
    alike = [p for p in by_distance if not same[p]][:12]
    apart = [p for p in by_distance[::-1] if same[p]][:12]
    examples = pd.DataFrame(
        [(measure, "most alike different", i[p], j[p], d[p]) for p in alike]
        + [(measure, "least alike same", i[p], j[p], d[p]) for p in apart],
        columns=["measure", "kind", "row_a", "row_b", "distance"],
    )
    return {
        "scores": scores, "histograms": histograms, "class_pairs": class_pairs,
        "per_class": per_class, "roc": roc.iloc[step], "neighbours": neighbours,
        "pairs_examples": examples,
    }  # fmt: skip


def analysis_of_features(
    n_classes: int = 10, each: int = 12, spread: float = 0.35, seed: int = 0, key: str = "net-0"
) -> Tables:
    names = [f"class {i}" for i in range(n_classes)]
    spreads = {"gap_cosine": spread, "pixel_euclid": 2.0, "softmax_dot": spread * 0.6}
    spreads |= {"fc_cosine": spread * 1.1, "untrained_gap_cosine": 1.2}
    parts = []
    for measure, wide in spreads.items():
        values, labels = spread_features(n_classes, each, wide, seed)
        parts.append(measure_tables(measure, values, labels, names))
    tables = {name: pd.concat([p[name] for p in parts], ignore_index=True) for name in parts[0]}
    accuracy = ["network", "accuracy", 1 - spread / 5, np.nan, np.nan, "up", "top-1"]
    tables["scores"].loc[len(tables["scores"])] = accuracy
    settings = {"split": "held_out", "bootstrap": 200, "seed": 0, "measures": list(spreads)}
    return Tables(key, n_classes * each, tuple(names), settings, tables)


def paired_differences(before: Tables, after: Tables, half: float = 0.015) -> pd.DataFrame:
    a, b = (
        m.tables["scores"]
        .query("measure == 'gap_cosine' or score == 'accuracy'")
        .set_index("score")
        for m in (before, after)
    )
    rows = [
        (s, a.value[s], b.value[s], b.value[s] - a.value[s], b.value[s] - a.value[s] - half,
         b.value[s] - a.value[s] + half, a.better[s])
        for s in a.index
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["score", "a", "b", "difference", "low", "high", "better"])


@pytest.fixture(scope="session")
def analysed() -> Callable[..., Tables]:
    return analysis_of_features


@pytest.fixture(scope="session")
def compared() -> Callable[..., pd.DataFrame]:
    return paired_differences


@pytest.fixture(scope="session")
def run_record() -> dict[str, object]:
    return {
        "title": "Digits",
        "source": "digits (1 797 images)", "network": "small convolutional network",
        "weights": "trained.safetensors",
        "settings": {"extract": {"taps": ["last_conv", "fc"]}, "seed": 0},
        "versions": {"torch": "2.14.1", "alike": "0.1.0"},
        "stages": {"extract": 3.2, "index": 0.4, "analyse": 5.1, "retrain": 40.2},
        "images": {"listed": 122, "ok": 120, "bad": 2},
        "bad": [
            {"path": "a/<b>.jpg", "state": "truncated", "reason": "ends early"},
            {"path": "c.jpg", "state": "unreadable", "reason": "is text"},
        ],
        "decisions": ["λ halved at step 120: loss stood at log(B−1)"],
        "created": "2026-11-23 15:40", "reused": False,
    }  # fmt: skip


@dataclass(frozen=True)
class Digits:
    """A real store: scikit-learn's digits as PNG files, two sets of features of them."""

    store: object
    before: object
    after: object
    images: Path


def digit_features(store, key, gap, logits, pixels):
    names = [str(digit) for digit in range(10)]
    extraction = {
        "network": "linear on digits", "weights": key, "weights_hash": key * 2, "precision": "fp32",
        "taps": ["gap", "logits"], "transform": {"resize": None}, "class_names": names,
    }  # fmt: skip
    arrays = {"gap": gap, "logits": logits, "pixels": pixels}
    shapes = {name: (array.shape[1:], str(array.dtype)) for name, array in arrays.items()}
    features = store.create_features(extraction, key, shapes)
    for unit in features.pending():
        rows = features.unit_rows(unit)
        part = {name: array[rows.start : rows.stop] for name, array in arrays.items()}
        features.write_unit(unit, part, {}, run_id="test")
    return store.features(key)


def make_digits(folder: Path, n: int = 400) -> Digits:
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    values, labels = load_digits(return_X_y=True)
    values, labels = values[:n] / 16, labels[:n]
    images = folder / "digit imäges"
    listed = []
    for i, (value, label) in enumerate(zip(values, labels, strict=True)):
        path = images / str(label) / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((value.reshape(8, 8) * 255).astype(np.uint8)).save(path)
        data = path.read_bytes()
        listed.append((hashlib.sha256(data).hexdigest(), str(path.relative_to(images)), len(data)))
    listing = pd.DataFrame(listed, columns=["image_id", "path", "size"])
    listing["label"] = [str(label) for label in labels]
    listing["state"], listing["reason"] = "ok", ""
    store = Store.open(folder / "störe", create=True)
    store.set_source(str(images), {})
    store.set_split(0.3, "")
    rows = store.list_images(listing)["row"].to_numpy()
    assert (np.sort(rows) == np.arange(len(rows))).all()
    order = np.argsort(rows)
    values, labels = values[order].astype(np.float32), labels[order]
    model = LogisticRegression(max_iter=200).fit(values[::3], labels[::3])
    logits = model.decision_function(values).astype(np.float32)
    pixels = np.repeat(values.reshape(-1, 1, 8, 8), 3, axis=1).astype(np.float16)
    noise = np.random.default_rng(0).normal(0, 0.35, values.shape).astype(np.float32)
    better = np.concatenate([values, np.maximum(logits / 6, 0)], axis=1)
    before = digit_features(store, "plain-0001", np.abs(values + noise), logits, pixels)
    after = digit_features(store, "tuned-0002", better, logits * 1.2, pixels)
    return Digits(store, before, after, images)


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Digits:
    return make_digits(tmp_path_factory.mktemp("dïgits store"))
