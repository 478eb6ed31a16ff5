"""Maps: PCA against scikit-learn, t-SNE that is seeded, stored and placed by transform."""

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
