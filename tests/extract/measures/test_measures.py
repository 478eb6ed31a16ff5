"""Every measure against scipy or scikit-learn, any chunking, and what it refuses."""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr
from sklearn.covariance import ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from alike.extract.errors import BadInput
from alike.extract.measures import stored
from alike.extract.measures.measures import MEASURES
from alike.extract.measures.sets import SET_MEASURES, chamfer
from alike.extract.measures.stored import balanced_rows, embed_rows, fitted_measure, ready_measure

N, C, P, K = 90, 16, 9, 4


class InMemory:
    """Features held in arrays: what a measure needs of them, and no more."""

    key = "in-memory"

    def __init__(self):
        draw = np.random.default_rng(0)
        self.codes = draw.integers(0, K, N)
        centres = draw.standard_normal((K, C, 1, 1))
        noise = draw.standard_normal((N, C, 3, 3))
        maps = np.maximum(centres[self.codes] + noise, 0).astype(np.float16)
        gap = maps.astype(np.float32).mean(axis=(2, 3))
        self.arrays = {
            "last_conv": maps, "gap": gap, "fc": gap,
            "logits": draw.standard_normal((N, K)).astype(np.float32),
            "pixels": draw.random((N, 3, 4, 4)).astype(np.float16),
        }  # fmt: skip
        self.held = {"classifier/weight": draw.standard_normal((K, C)).astype(np.float32)}
        split = np.where(np.arange(N) < 60, "train", "held_out")
        labels = [f"class {code}" for code in self.codes]
        ids = [f"{row:064x}" for row in range(N)]
        self.listed = pd.DataFrame(
            {"row": np.arange(N), "image_id": ids, "label": labels, "split": split}
        )

    def read(self, name, rows):
        return self.arrays[name][rows]

    def constants(self):
        return list(self.held)

    def read_constant(self, name):
        return self.held[name]

    def write_constant(self, name, value):
        self.held[name] = value

    where = ""

    @property
    def whole(self):
        return self

    def table(self, split=None, *, names=None):
        return self.listed if split is None else self.listed[self.listed["split"] == split]


@pytest.fixture
def features():
    return InMemory()


def distances(features, name, rows=None):
    measure = ready_measure(features, name)
    x = embed_rows(features, measure, np.arange(60, N) if rows is None else rows)
    x = x.astype(np.float64)
    raw = x @ x.T if measure.form == "inner" else cdist(x, x, "sqeuclidean")
    return measure.own(raw)


def columns(features, rows=slice(60, N)):
    maps = features.arrays["last_conv"][rows].astype(np.float64)
    return maps.reshape(len(maps), C, P)


def wanted(features):
    """What each measure is, written down a second time."""
    held = slice(60, N)
    gap = features.arrays["gap"].astype(np.float64)
    a, g = columns(features), gap[held]
    w = features.held["classifier/weight"].astype(np.float64)
    logits = features.arrays["logits"][held].astype(np.float64)
    own = w[logits.argmax(axis=1)]
    cam = np.maximum(np.einsum("nc,ncp->np", own, a), 0)
    share = np.where(cam.sum(1, keepdims=True) > 0, cam, 1.0)
    share = share / share.sum(axis=1, keepdims=True)
    energy = a.sum(axis=1) / a.sum(axis=(1, 2), keepdims=True)[:, 0]
    second = np.einsum("ncp,ndp->ncd", a, a).reshape(len(a), -1) / P
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    pixels = features.arrays["pixels"][held].astype(np.float64).reshape(len(a), -1)
    mean = gap[:60].mean(axis=0)
    covariance = ledoit_wolf(gap[:60])[0]
    root = np.linalg.inv(np.linalg.cholesky(covariance)).T
    white = (g - mean) @ root

    def cosine(x):
        return cdist(x, x, "cosine")

    return {
        "gap_cosine": cosine(g), "gap_cosine_centred": cosine(g - mean),
        "gap_euclid": cdist(g, g), "gap_pearson": cdist(g, g, "correlation"),
        "gap_spearman": 1 - spearmanr(g, axis=1).statistic,
        "map_cosine": cosine(a.reshape(len(a), -1)), "max_cosine": cosine(a.max(axis=2)),
        "gem_cosine": cosine((np.maximum(a, 1e-6) ** 3).mean(axis=2) ** (1 / 3)),
        "bilinear_cosine": cosine(np.sign(second) * np.sqrt(np.abs(second))),
        "mahalanobis": cdist(g, g, "mahalanobis", VI=np.linalg.inv(covariance)),
        "cam_pred_cosine": cosine(np.einsum("np,ncp->nc", share, a)),
        "energy_cosine": cosine(np.einsum("np,ncp->nc", energy, a)),
        "gap_wpred_cosine": cosine(g * np.maximum(own, 0)), "fc_cosine": cosine(g),
        "logits_cosine": cosine(logits), "softmax_dot": 1 - p @ p.T,
        "pixel_euclid": cdist(pixels, pixels), "whitened_cosine": cosine(white),
    }  # fmt: skip


@pytest.mark.parametrize("name", [name for name in MEASURES if name != "lda_cosine"])
def test_measure_is_what_it_says(name, features):
    found, told = distances(features, name), wanted(features)[name]
    off = ~np.eye(len(found), dtype=bool)
    if name == "whitened_cosine":
        # Symmetric and Cholesky whitening differ by a rotation, which keeps cosines.
        np.testing.assert_allclose(found[off], told[off], atol=1e-4)
    np.testing.assert_allclose(found[off], told[off], atol=2e-4, rtol=2e-3)


def test_lda_spans_what_scikit_learn_finds(features):
    measure = ready_measure(features, "lda_cosine")
    train = features.arrays["gap"][:60].astype(np.float64)
    codes = features.codes[:60]
    means = np.stack([train[codes == code].mean(axis=0) for code in range(K)])
    shrunk, weight = ledoit_wolf(train - means[codes], assume_centered=True)
    assert 0 < weight < 1
    v = measure.fitted["components"].astype(np.float64)
    assert v.shape == (C, K - 1)
    np.testing.assert_allclose(v.T @ shrunk @ v, np.eye(K - 1), atol=1e-4)
    peer = LinearDiscriminantAnalysis(solver="eigen", covariance_estimator=_Shrunk()).fit(
        train, codes
    )
    theirs = peer.scalings_[:, : K - 1]
    q, r = np.linalg.qr(v)[0], np.linalg.qr(theirs)[0]
    assert np.linalg.svd(q.T @ r, compute_uv=False) == pytest.approx(np.ones(K - 1), abs=0.05)


class _Shrunk:
    """Ledoit and Wolf's covariance, in the form that scikit-learn asks for."""

    def fit(self, x):
        self.covariance_ = ledoit_wolf(x)[0]
        return self

    def get_params(self, deep=True):
        return {}

    def __sklearn_tags__(self):
        raise AttributeError


@pytest.mark.parametrize("name", list(MEASURES))
def test_any_block_gives_the_same_vectors_and_inputs_stay(name, features):
    measure = ready_measure(features, name)
    before = {tap: values.copy() for tap, values in features.arrays.items()}
    whole = embed_rows(features, measure, np.arange(N))
    cut = embed_rows(features, measure, np.arange(N), block=7)
    np.testing.assert_allclose(cut, whole, atol=2e-6 * max(1.0, np.abs(whole).max()))
    assert whole.dtype == np.float32
    assert whole.flags.c_contiguous
    for tap, values in before.items():
        assert np.array_equal(values, features.arrays[tap])


@pytest.mark.parametrize("name", ["gap_cosine", "lda_cosine", "map_cosine"])
def test_many_blocks_are_read_at_once_and_are_embedded_as_before(name, features, monkeypatch):
    measure = ready_measure(features, name)
    rows = np.random.default_rng(0).permutation(N)
    blocks = [embed_rows(features, measure, rows[low : low + 8]) for low in range(0, N, 8)]
    read = features.read
    reads = []
    monkeypatch.setattr(features, "read", lambda tap, r: reads.append(len(r)) or read(tap, r))
    into = np.full((N, blocks[0].shape[1]), 7.0, np.float32)
    assert embed_rows(features, measure, rows, block=8, into=into) is into
    assert np.array_equal(into, np.concatenate(blocks))
    assert reads == [8, N - 8] * len(measure.taps) or len(measure.taps) > 1
    monkeypatch.setattr(stored, "READ_BYTES", 1)
    assert np.array_equal(embed_rows(features, measure, rows, block=8), into)


@pytest.mark.parametrize("name", list(MEASURES))
def test_measures_travel_to_other_processes(name, features):
    measure = ready_measure(features, name)
    again = pickle.loads(pickle.dumps(measure))
    assert again.digest == measure.digest
    rows = np.arange(5)
    assert np.array_equal(embed_rows(features, again, rows), embed_rows(features, measure, rows))


def test_fitted_arrays_are_kept_with_their_rows_and_used_again(features):
    first = ready_measure(features, "lda_cosine")
    assert np.array_equal(first.fitted_rows, np.arange(60))
    kept = set(features.held)
    assert {"measures/lda_cosine/mean", "measures/lda_cosine/rows"} < kept
    features.arrays["gap"] = features.arrays["gap"] + 1
    assert ready_measure(features, "lda_cosine").digest == first.digest
    other = ready_measure(features, "lda_cosine", fit_rows=np.arange(40))
    assert other.digest != first.digest
    assert np.array_equal(other.fitted_rows, np.arange(40))


def test_a_fit_is_made_anew_when_its_rows_left_the_train_split(features):
    ready_measure(features, "gap_cosine_centred")
    features.listed["split"] = np.where(np.arange(N) < 50, "train", "held_out")
    assert np.array_equal(ready_measure(features, "gap_cosine_centred").fitted_rows, np.arange(50))


def test_a_fit_follows_the_labels_and_every_image_of_the_train_split(features):
    first = ready_measure(features, "lda_cosine")
    features.listed["split"] = np.where(np.arange(N) < 62, "train", "held_out")
    grown = ready_measure(features, "lda_cosine")
    assert np.array_equal(grown.fitted_rows, np.arange(62))
    assert ready_measure(features, "lda_cosine", as_fitted=True).digest == grown.digest
    assert fitted_measure(features, "lda_cosine").digest == grown.digest
    features.listed["split"] = np.where(np.arange(N) < 60, "train", "held_out")
    labels = features.listed["label"].copy()
    features.listed.loc[:9, "label"] = labels[10]
    assert ready_measure(features, "lda_cosine").digest != first.digest
    features.listed["label"] = labels
    assert ready_measure(features, "lda_cosine").digest == first.digest


def test_a_fit_without_its_record_is_made_anew(features):
    """Without it nothing says with which labels it was fitted."""
    ready_measure(features, "lda_cosine")
    del features.held["measures/lda_cosine/record"]
    features.listed["label"] = features.listed["label"].to_numpy()[::-1]
    again = ready_measure(features, "lda_cosine")
    features.held = {name: one for name, one in features.held.items() if "measures" not in name}
    assert again.digest == ready_measure(features, "lda_cosine").digest


def test_a_fit_does_not_follow_the_numbers_of_the_rows(features):
    """The same images, arrived in another order, are fitted to the last bit."""
    first = ready_measure(features, "whitened_cosine")
    other = InMemory()
    order = np.concatenate([np.random.default_rng(0).permutation(60), np.arange(60, N)])
    other.arrays = {name: values[order] for name, values in other.arrays.items()}
    other.listed = other.listed.iloc[order].assign(row=np.arange(N)).reset_index(drop=True)
    assert ready_measure(other, "whitened_cosine").digest == first.digest


def test_a_fit_that_was_killed_between_two_arrays_is_made_anew(features):
    first = ready_measure(features, "lda_cosine")
    features.held["measures/lda_cosine/mean"] = first.fitted["mean"] + 1
    assert ready_measure(features, "lda_cosine", as_fitted=True).digest == first.digest


def test_what_is_missing_is_named(features):
    with pytest.raises(BadInput, match=r"unknown measure 'gap'.*gap_cosine"):
        ready_measure(features, "gap")
    del features.arrays["last_conv"]
    with pytest.raises(BadInput, match=r"alike extract .* --taps last_conv"):
        ready_measure(features, "map_cosine")
    del features.held["classifier/weight"]
    with pytest.raises(BadInput, match="linear classifier"):
        ready_measure(features, "gap_wpred_cosine")
    features.listed["split"] = "held_out"
    with pytest.raises(BadInput, match="--train-share"):
        ready_measure(features, "lda_cosine")
    with pytest.raises(BadInput, match="ready_measure"):
        MEASURES["lda_cosine"].embed({"gap": features.arrays["gap"]}, {})


def test_a_classifier_of_other_width_has_no_cam(features):
    features.held["classifier/weight"] = np.ones((K, 7), np.float32)
    measure = ready_measure(features, "cam_pred_cosine")
    with pytest.raises(BadInput, match="7 inputs but the map has 16"):
        embed_rows(features, measure, np.arange(3))


def test_nan_rows_are_named_and_zero_vectors_are_not_nan(features):
    features.arrays["gap"][[4, 70]] = np.nan
    measure = ready_measure(features, "gap_cosine")
    with pytest.raises(BadInput, match="rows 4, 70 of in-memory"):
        embed_rows(features, measure, np.arange(N))
    features.arrays["gap"][[4, 70]] = 0.0
    assert not embed_rows(features, measure, np.array([4])).any()


def test_cam_that_is_zero_everywhere_falls_back_to_gap(features):
    features.held["classifier/weight"] = -np.ones((K, C), np.float32)
    np.testing.assert_allclose(
        distances(features, "cam_pred_cosine"), distances(features, "gap_cosine"), atol=1e-5
    )


def test_many_channels_are_projected_before_the_second_order(features):
    maps = np.maximum(np.random.default_rng(0).standard_normal((6, 200, 2, 2)), 0)
    features.arrays["last_conv"] = maps.astype(np.float16)
    measure = ready_measure(features, "bilinear_cosine")
    assert embed_rows(features, measure, np.arange(6)).shape == (6, 128 * 129 // 2)


@pytest.mark.quick
def test_balanced_rows_share_evenly_and_leave_the_unlabelled_out():
    labels = np.array(["a"] * 100 + ["b"] * 10 + ["c"] * 100 + [""] * 5, dtype=object)
    found = balanced_rows(np.arange(215), labels, 70)
    assert len(found) == 70
    assert [int((labels[found] == name).sum()) for name in "abc"] == [30, 10, 30]
    assert len(balanced_rows(np.arange(215), labels, 500)) == 210
    assert np.array_equal(found, balanced_rows(np.arange(215), labels, 70))


class TestSets:
    @pytest.fixture
    def maps(self):
        draw = np.random.default_rng(0)
        return np.maximum(draw.standard_normal((5, 8, 3, 3)), 0)

    @pytest.mark.parametrize("name", list(SET_MEASURES))
    def test_equal_maps_are_at_zero_and_order_does_not_matter(self, name, maps):
        to_all = SET_MEASURES[name].to_all
        assert to_all(maps[0], maps[:1])[0] == pytest.approx(0.0, abs=1e-9)
        there, back = to_all(maps[0], maps[1:2])[0], to_all(maps[1], maps[:1])[0]
        assert there == pytest.approx(back, rel=1e-6)
        assert there > 0.01
        moved = maps[:1, :, ::-1, ::-1]
        assert to_all(maps[0], moved)[0] == pytest.approx(0.0, abs=1e-9)

    def test_chamfer_by_loops(self, maps):
        def unit(m):
            flat = m.reshape(8, 9).T
            return flat / np.linalg.norm(flat, axis=1, keepdims=True)

        likeness = unit(maps[0]) @ unit(maps[1]).T
        wanted = 1 - (likeness.max(axis=1).mean() + likeness.max(axis=0).mean()) / 2
        assert chamfer(maps[0], maps[1:2])[0] == pytest.approx(wanted)

    def test_sinkhorn_is_that_of_pot(self, maps):
        ot = pytest.importorskip("ot")

        def flat(m):
            return m.reshape(8, 9).T

        def unit(m):
            return flat(m) / np.linalg.norm(flat(m), axis=1, keepdims=True)

        def weights(m, other):
            raised = np.maximum(flat(m) @ flat(other).mean(axis=0), 0) + 1e-3
            return raised / raised.sum()

        one, two = maps[0], maps[1]
        a, b = weights(one, two), weights(two, one)

        def cost(x, y, p, q):
            return ot.sinkhorn2(p, q, 1 - unit(x) @ unit(y).T, 0.05, numItermax=5000, stopThr=1e-12)

        wanted = cost(one, two, a, b) - (cost(one, one, a, a) + cost(two, two, b, b)) / 2
        found = SET_MEASURES["sinkhorn"].to_all(one, two[None])[0]
        assert found == pytest.approx(float(wanted), rel=1e-4)


def test_measures_of_any_layer(features):
    """The same formula on the mean of a module's output, or on the output itself."""
    draw = np.random.default_rng(1)
    features.arrays["gap@layer1.0"] = draw.random((N, 5)).astype(np.float32)
    features.arrays["layer1.0"] = draw.random((N, 5, 2, 2)).astype(np.float32)
    rows = np.arange(60, N)
    measure = ready_measure(features, "gap_pearson@layer1.0")
    vectors = embed_rows(features, pickle.loads(pickle.dumps(measure)), rows)
    wanted = cdist(features.arrays["gap@layer1.0"][rows], features.arrays["gap@layer1.0"][rows],
                   "correlation")  # fmt: skip
    np.testing.assert_allclose(measure.own(cdist(vectors, vectors, "sqeuclidean")), wanted,
                               atol=1e-6)  # fmt: skip
    largest = features.arrays["layer1.0"][rows].max(axis=(2, 3))
    vectors = embed_rows(features, ready_measure(features, "max_cosine@layer1.0"), rows)
    np.testing.assert_allclose(
        vectors @ vectors.T, 1 - cdist(largest, largest, "cosine"), atol=1e-6
    )
    fitted = ready_measure(features, "lda_cosine@layer1.0")
    assert fitted.digest != ready_measure(features, "lda_cosine").digest
    assert ready_measure(features, "lda_cosine@layer1.0").digest == fitted.digest
    for name in ("softmax_dot@layer1.0", "cam_pred_cosine@layer1.0", "gap_cosine@"):
        with pytest.raises(BadInput, match=f"unknown measure '{name}'.*gap_cosine@PATH"):
            ready_measure(features, name)
    with pytest.raises(BadInput, match=r"alike extract .* --taps gap@layer2"):
        ready_measure(features, "gap_cosine@layer2")
