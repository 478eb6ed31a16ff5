"""Maps: PCA against scikit-learn, t-SNE that is seeded, stored and placed by transform."""

import copy
import hashlib

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA

from alike.analysis.maps.maps import MapSettings, find_map, make_map
from alike.analysis.maps.projections import pca, tsne
from alike.extract.errors import BadInput


def vectors(n=300, width=20, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, width)) * np.linspace(3, 0.1, width)
    return (values + 1000).astype(np.float32)


@pytest.mark.parametrize("block", [1, 7, 300])
def test_pca_is_scikit_learns_for_any_blocks(block):
    values = vectors()
    ours = pca((values[i : i + block] for i in range(0, len(values), block)), 5)
    theirs = PCA(5, svd_solver="full").fit(values.astype(np.float64))
    np.testing.assert_allclose(ours.explained, theirs.explained_variance_ratio_, rtol=1e-8)
    signs = np.sign((ours.components * theirs.components_).sum(axis=1))
    np.testing.assert_allclose(ours.components, theirs.components_ * signs[:, None], atol=1e-7)
    np.testing.assert_allclose(ours.mean, values.mean(0, dtype=np.float64))
    assert (ours.components[np.arange(5), np.abs(ours.components).argmax(1)] > 0).all()


@pytest.mark.quick
def test_pca_bounds():
    with pytest.raises(BadInput, match="4096"):
        pca([np.zeros((2, 5000), np.float32)], 2)
    with pytest.raises(BadInput, match="no vectors"):
        pca([], 2)
    assert pca([np.ones((4, 3))], 2).explained.tolist() == [0, 0]


def clusters():
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(4, 10)) * 6
    labels = np.repeat(np.arange(4), 40)
    return (centres[labels] + rng.normal(size=(160, 10))).astype(np.float32), labels


def near_share(places, labels):
    distance = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e9 * np.eye(len(places))
    return (labels[distance.argsort(1)[:, :5]] == labels[:, None]).mean()


def test_tsne_is_the_same_for_the_same_seed_and_keeps_neighbours():
    values, labels = clusters()
    start = pca([values], 2).project(values)
    first, fitted = tsne(values, start, seed=3)
    again, _ = tsne(values, start, seed=3)
    np.testing.assert_array_equal(first, again)
    assert fitted.all()
    assert near_share(first, labels) > 0.99


def test_above_the_sample_the_rest_is_placed_by_transform():
    values, labels = clusters()
    start = pca([values], 2).project(values)
    places, fitted = tsne(values, start, sample=100, seed=3)
    assert fitted.sum() == 100
    assert np.isfinite(places).all()
    assert near_share(places, labels) > 0.95


def test_a_handful_of_points_and_duplicates():
    few = np.arange(6, dtype=np.float32).reshape(3, 2)
    places, _ = tsne(few, few)
    assert places.shape == (3, 2)
    same = np.ones((12, 3), np.float32)
    places, _ = tsne(same, np.zeros((12, 2)))
    assert np.isfinite(places).all()


def test_map_is_stored_and_made_again_only_when_asked_differently(digits):
    told = []
    settings = MapSettings(seed=7)
    first = make_map(digits.before, settings, progress=lambda *a: told.append(a))
    assert set(first.columns) == {"row", "pca_x", "pca_y", "tsne_x", "tsne_y", "fitted"}
    assert list(first["row"]) == list(digits.before.table("held_out")["row"])
    assert told
    told.clear()
    again = make_map(digits.before, settings, progress=lambda *a: told.append(a))
    assert not told
    pd.testing.assert_frame_equal(first, again)
    assert again.attrs["explained"] == first.attrs["explained"]
    assert find_map(digits.before, MapSettings(seed=8)) is None
    pd.testing.assert_frame_equal(find_map(digits.before, settings), first)
    pd.testing.assert_frame_equal(find_map(digits.before, MapSettings(seed=8), however=True), first)
    assert find_map(digits.before, MapSettings(split="train"), however=True) is None


def test_a_map_like_another_starts_from_it(digits):
    first = make_map(digits.after)
    mirrored = first.assign(tsne_x=-first["tsne_x"])
    like = make_map(digits.after, like=mirrored)
    assert np.corrcoef(first["tsne_x"], like["tsne_x"])[0, 1] < 0
    assert np.corrcoef(first["tsne_y"], like["tsne_y"])[0, 1] > 0
    assert like.attrs["like"] is not None


def test_empty_split_is_refused(digits):
    with pytest.raises(BadInput, match="split"):
        make_map(digits.before, MapSettings(split="none"))


def in_another_order(made, order):
    """The same images in other rows."""
    other = copy.copy(made)
    other.codes = made.codes[order]
    other.labels = [made.labels[place] for place in order]
    other.arrays = {name: values[order] for name, values in made.arrays.items()}
    return other


@pytest.mark.parametrize("sample", [200, 60])
@pytest.mark.parametrize("by_id", [10_000, 10])
def test_a_map_follows_ids_not_rows(write_features, make, tmp_path, monkeypatch, sample, by_id):
    """Sums of a large set follow rows: of these vectors they are exact, whatever their order."""
    monkeypatch.setattr("alike.analysis.maps.maps.BY_ID", by_id)
    made = make((64, 40, 24))
    if by_id < 128:
        made.arrays["gap"] = np.round(made.arrays["gap"] * 16) / 16
    ids = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(128)]
    order = np.random.default_rng(5).permutation(128)
    other, ids_of_other = in_another_order(made, order), [ids[place] for place in order]
    maps = []
    for name, images, names in (("a", made, ids), ("b", other, ids_of_other)):
        features = write_features(tmp_path / name, images, ids=names)
        settings = MapSettings("gap_euclid", sample=sample, seed=3)
        table = make_map(features, settings)
        assert table["row"].is_monotonic_increasing
        view = features.store.images().set_index("row")["image_id"]
        maps.append(table.set_index(table["row"].map(view)).drop(columns="row").sort_index())
    assert maps[0]["fitted"].sum() == min(sample, 128)
    pd.testing.assert_frame_equal(*maps, check_exact=True)


def test_a_map_of_a_fitted_measure_follows_the_labels(write_features, make, tmp_path):
    made = make((40, 40, 40))
    features = write_features(tmp_path / "s", made, share=0.5)
    settings = MapSettings("lda_cosine")
    first = make_map(features, settings)
    view = features.store.images()
    listing = view[["image_id", "path", "label", "size", "state", "reason"]].copy()
    train = listing["image_id"].isin(features.table("train")["image_id"])
    listing.loc[train, "label"] = np.roll(listing.loc[train, "label"], 1)
    features.store.list_images(listing)
    again = features.store.features(features.key)
    assert find_map(again, settings) is None
    assert not np.allclose(make_map(again, settings)["pca_x"], first["pca_x"])
    features.store.list_images(view[listing.columns])
    back = features.store.features(features.key)
    pd.testing.assert_frame_equal(make_map(back, settings), first)
