"""Probes: against scikit-learn, under channels rescaled, and how often their intervals hold."""

import hashlib

import numpy as np
import pytest
from sklearn.covariance import empirical_covariance
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from alike.analysis.analyse import AnalysisSettings, analyse
from alike.analysis.blocks import vectors as stored
from alike.analysis.blocks.evaluation_set import evaluation_set_of, stored_evaluation_set
from alike.analysis.blocks.vectors import held_vectors
from alike.analysis.pairs import right_interval
from alike.analysis.pairs.influence import units_of
from alike.analysis.probes.linear import fit_linear
from alike.analysis.probes.scores import probe_rights
from alike.analysis.probes.standard import standard_of
from alike.analysis.probes.votes import vote_rights
from alike.extract.errors import BadInput


def plain(_name):
    return map


def two_sets(scale=1.0, seed=0, classes=6, dim=20, n=300):
    """Train and other vectors of the same classes, sorted by class, with a dead channel."""
    draw = np.random.default_rng(seed)
    centres = 0.6 * draw.standard_normal((classes, dim))
    out = []
    for _ in range(2):
        codes = np.sort(draw.integers(classes, size=n))
        x = (centres[codes] + draw.standard_normal((n, dim))) * scale
        x[:, 3] = 7.0
        images = evaluation_set_of(np.arange(n), [f"{code:02d}" for code in codes])
        out.append((x.astype(np.float32), images))
    return out


@pytest.mark.quick
def test_linear_probe_is_ridge_discriminant_analysis(monkeypatch):
    (x, train), (other, _) = two_sets()
    monkeypatch.setattr(stored, "SLAB", 256)
    vectors = held_vectors(x, "euclidean")
    probe = fit_linear(vectors, train, plain)
    live = np.delete(np.arange(20), 3)
    scaler = StandardScaler().fit(x[:, live].astype(float))
    z, z_other = (scaler.transform(v[:, live].astype(float)) for v in (x, other))
    means = np.stack([z[train.codes == c].mean(axis=0) for c in range(6)])
    within = empirical_covariance(z - means[train.codes], assume_centered=True)

    class Fixed:
        def fit(self, part):
            # Scikit-learn gives each class apart; the pooled covariance is what both mean.
            ridge = probe.ridge * np.trace(within) / len(live)
            self.covariance_ = within + ridge * np.eye(len(live))
            return self

    model = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=Fixed())
    model.priors = train.counts / len(train)
    scaler_off = StandardScaler(with_std=False).fit(z)
    model.fit(scaler_off.transform(z), train.codes)
    wanted = model.predict_proba(scaler_off.transform(z_other))
    got = probe.standard(other - vectors.centre) @ probe.weight.T + probe.bias
    grown = np.exp(got - got.max(axis=1, keepdims=True))
    assert np.allclose(grown / grown.sum(axis=1, keepdims=True), wanted, atol=1e-5)


def test_neighbour_probe_is_scikit_learns(monkeypatch):
    (x, train), (other, images) = two_sets()
    monkeypatch.setattr(stored, "SLAB", 256)
    gallery, asking = held_vectors(x, "euclidean"), held_vectors(other, "euclidean")
    wide = (x - gallery.centre).astype(float)
    standard = standard_of(wide.sum(axis=0), (wide**2).sum(axis=0), len(x))
    rights = vote_rights(asking, images.codes, gallery, train.codes, standard, 20)
    scaler = StandardScaler().fit(x.astype(float))
    near = KNeighborsClassifier(20, metric="cosine").fit(scaler.transform(x), train.codes)
    shares = near.predict_proba(scaler.transform(other))
    first = shares == shares.max(axis=1, keepdims=True)
    wanted = first[np.arange(len(other)), images.codes] / first.sum(axis=1)
    assert np.allclose(rights, wanted)


def test_equal_distances_share_their_votes():
    """Features that are all equal say no more than the shares of the classes do."""
    train = evaluation_set_of(np.arange(90), ["a"] * 60 + ["b"] * 30)
    flat = held_vectors(np.ones((90, 4), np.float32), "euclidean")
    standard = standard_of(np.zeros(4), np.zeros(4), 90)
    rights = vote_rights(flat, train.codes, flat, train.codes, standard, 20)
    assert rights.mean() == pytest.approx(60 / 90)
    even = evaluation_set_of(np.arange(60), ["a"] * 30 + ["b"] * 30)
    half = held_vectors(np.ones((60, 4), np.float32), "euclidean")
    assert vote_rights(half, even.codes, half, even.codes, standard, 20) == pytest.approx(0.5)


def test_scale_of_channels_does_not_matter():
    """A function-preserving rescaling moves cosine sameness, and no probe; nor do dead channels."""
    draw = np.random.default_rng(1)
    said, rescaled = [], np.exp(1.5 * draw.standard_normal(20))
    for scale, dead in ((1.0, 0), (rescaled, 0), (1.0, 200)):
        (x, train), (other, images) = two_sets(scale)
        x, other = (np.pad(each, ((0, 0), (0, dead)), constant_values=0.5) for each in (x, other))
        gallery, asking = held_vectors(x, "euclidean"), held_vectors(other, "euclidean")
        probe = fit_linear(gallery, train, plain)
        named = probe.codes(other - gallery.centre)
        votes = vote_rights(asking, images.codes, gallery, train.codes, probe.standard, 20)
        said.append((probe.ridge, named, votes))
    for again in said[1:]:
        assert again[0] == said[0][0]
        assert (again[1] == said[0][1]).all()
        assert np.allclose(again[2], said[0][2])


@pytest.mark.parametrize(("sizes", "right"), [
    ((10,) * 5, 0.8), ((4,) * 25, 0.8), ((20,) * 3, 0.99), ((100, 50, 20, 10, 5, 3), 0.9),
    ((2,) * 50, 0.7),
])  # fmt: skip
def test_interval_holds(sizes, right):
    """Of samples of images, given the probe: classes are right by different chances."""
    codes = np.repeat(np.arange(len(sizes)), sizes)
    images = evaluation_set_of(np.arange(len(codes)), [f"{code:03d}" for code in codes])
    units = units_of(images)
    draw = np.random.default_rng(0)
    chance = np.clip(right + 0.1 * draw.standard_normal(len(sizes)), 0, 1)[codes]
    held = []
    for _ in range(500):
        low, high = right_interval((draw.random(len(codes)) < chance).astype(float), units)
        held.append(low <= chance.mean() <= high)
    assert np.mean(held) >= 0.92


def test_copies_count_once():
    """Each image four times: an interval of images apart would hold too rarely."""
    images = evaluation_set_of(np.arange(200), [f"{i // 40}" for i in range(200)])
    units = units_of(images, np.arange(200) // 4)
    draw = np.random.default_rng(0)
    held, naive = [], []
    for _ in range(300):
        right = np.repeat((draw.random(50) < 0.8).astype(float), 4)
        for kept, of in ((held, units), (naive, units_of(images))):
            low, high = right_interval(right, of)
            kept.append(low <= 0.8 <= high)
    assert np.mean(held) >= 0.92
    assert np.mean(naive) < 0.8


class TestStored:
    def test_probes_stand_in_the_analysis(self, tmp_path, make, write_features):
        made = make(sizes=(60, 60, 60))
        features = write_features(tmp_path / "a", made, share=0.5)
        settings = AnalysisSettings(measures=["gap_cosine"], bootstrap=1)
        scores = analyse(features, settings).tables["scores"].set_index("score")
        train, images = features.table("train"), stored_evaluation_set(features, "held_out")
        scaler = StandardScaler().fit(features.read("gap", train["row"].to_numpy()))
        near = KNeighborsClassifier(20, metric="cosine")
        near.fit(
            scaler.transform(features.read("gap", train["row"].to_numpy())),
            train["label"].to_numpy(str),
        )
        shares = near.predict_proba(scaler.transform(features.read("gap", images.rows)))
        first = shares == shares.max(axis=1, keepdims=True)
        wanted = first[np.arange(len(images)), images.codes] / first.sum(axis=1)
        row = scores.loc["knn_probe"]
        assert row["value"] == pytest.approx(wanted.mean())
        assert row["low"] < row["value"] <= row["high"]
        assert f"{len(train)} train images" in row["note"]
        assert 0.5 < scores.loc["linear_probe", "low"] < scores.loc["linear_probe", "value"]

    def test_no_train_images_is_a_reason(self, tmp_path, made, write_features):
        features = write_features(tmp_path / "a", made)
        analysis = analyse(features, AnalysisSettings(measures=["gap_cosine"], bootstrap=0))
        assert "--train-share" in analysis.settings["left_out"]["probes"]

    def test_train_images_are_never_evaluated(self, tmp_path, make, write_features):
        features = write_features(tmp_path / "a", make(sizes=(40, 40)), share=0.5)
        with pytest.raises(BadInput, match="held_out"):
            probe_rights(features, stored_evaluation_set(features, "train"), plain)
        every = stored_evaluation_set(features, "all")
        probed = probe_rights(features, every, plain)
        held_out = features.table("held_out")["row"].to_numpy()
        assert (np.sort(probed.images.rows) == np.sort(held_out)).all()
        assert f"of {len(every)} images" in probed.notes["linear_probe"]

    def test_order_of_images_changes_nothing(self, tmp_path, make, write_features):
        made, turned = make(sizes=(60, 60)), make(sizes=(60, 60))
        turned.arrays = {name: v[::-1].copy() for name, v in turned.arrays.items()}
        turned.labels = turned.labels[::-1]
        ids = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(120)]
        said = []
        for name, one, own in (("a", made, ids), ("b", turned, ids[::-1])):
            features = write_features(tmp_path / name, one, share=0.5, ids=own)
            probed = probe_rights(features, stored_evaluation_set(features, "held_out"), plain)
            said.append({name: v.mean() for name, v in probed.rights.items()})
        assert said[0] == pytest.approx(said[1])
