"""Draws of images: weighted histograms against naive weights, intervals, folds."""

import cloudpickle
import numpy as np
import pytest
from scipy.spatial.distance import pdist

from alike.analysis.blocks.vectors import held_vectors
from alike.analysis.pairs import curves as scores
from alike.analysis.pairs.bins import measured_bins
from alike.analysis.pairs.bootstrap import (
    Draws,
    mean_interval,
    quantile_interval,
    weighted_histograms,
)
from alike.analysis.pairs.counts import count_pairs
from alike.analysis.pairs.folds import deal, folded_accuracy


def test_draws_keep_every_class_and_travel_as_a_seed(clustered):
    _, images = clustered(n=300)
    draws = Draws(images, 500, 3)
    sums = np.add.reduceat(draws.weights, images.starts[:-1], axis=0)
    assert (sums == images.counts[:, None]).all()
    assert draws.weights.std() == pytest.approx(1.0, abs=0.05)
    sent = cloudpickle.dumps(draws)
    assert len(sent) < draws.weights.nbytes / 3
    assert np.array_equal(cloudpickle.loads(sent).weights, draws.weights)


def test_weighted_histograms_weigh_every_pair_by_its_two_images(clustered):
    x, images = clustered(n=250)
    vectors = held_vectors(x, "euclidean")
    bins = measured_bins(vectors, images, 512)
    draws = Draws(images, 7, 0)
    same, different = weighted_histograms(vectors, draws, bins)
    key = pdist(x.astype(np.float64), "sqeuclidean") / 2
    at = np.clip(np.searchsorted(bins.edges(), key, side="right") - 1, 0, 511)
    i, j = np.triu_indices(250, 1)
    alike = images.codes[i] == images.codes[j]
    for r in range(7):
        weight = draws.weights[i, r].astype(float) * draws.weights[j, r]
        for found, kind in ((same, alike), (different, ~alike)):
            wanted = np.bincount(at[kind], weight[kind], 512)
            assert found[:, r].sum() == wanted.sum()
            assert np.abs(np.cumsum(found[:, r] - wanted)).max() <= 1e-3 * wanted.sum()


def test_weights_of_one_give_the_plain_counts(clustered):
    x, images = clustered(n=200)
    vectors = held_vectors(x, "euclidean")
    bins = measured_bins(vectors, images, 1024)
    draws = Draws(images, 1, 0)
    draws.weights[:] = 1
    counted = count_pairs(vectors, images, bins=bins).total
    assert np.array_equal(np.stack(weighted_histograms(vectors, draws, bins))[:, :, 0], counted)


def test_interval_is_as_wide_as_new_images_make_it(clustered):
    """Images drawn anew from the same source scatter as the bootstrap says, within a factor."""
    areas, widths = [], []
    for seed in range(30):
        x, images = clustered(n=150, classes=3, spread=2.0, seed=0)
        draw = np.random.default_rng(seed + 1)
        means = np.stack([x[images.codes == code].mean(axis=0) for code in range(3)])
        x = (means[images.codes] + 2.0 * draw.standard_normal(x.shape)).astype(np.float32)
        vectors = held_vectors(x, "euclidean")
        bins = measured_bins(vectors, images, 2048)
        areas.append(scores.auc(*count_pairs(vectors, images, bins=bins).total).value)
        drawn = scores.auc_many(*weighted_histograms(vectors, Draws(images, 100, seed), bins))
        low, high = quantile_interval(drawn)
        widths.append((high - low) / (2 * 1.96))
    assert 0.7 < np.mean(widths) / np.std(areas, ddof=1) < 1.5


def test_mean_interval_of_images(clustered):
    _, images = clustered(n=400)
    values = np.random.default_rng(0).standard_normal(400)
    values[5] = np.nan
    low, high = mean_interval(values, Draws(images, 500, 0).weights)
    assert low < np.nanmean(values) < high
    assert (high - low) / (2 * 1.96) == pytest.approx(1 / 20, rel=0.15)
    assert np.isnan(quantile_interval(np.array([]))).all()


def test_replicate_scores_equal_those_of_one_histogram():
    draw = np.random.default_rng(0)
    same, different = draw.integers(0, 9, (2, 64, 5))
    many = scores.auc_many(same, different)
    for r in range(5):
        assert many[r] == pytest.approx(scores.auc(same[:, r], different[:, r]).value)


def test_folds_share_no_image_and_thresholds_come_from_the_others(clustered):
    x, images = clustered(n=600, spread=1.5)
    fold_of = deal(images, 10, 0)
    for code in range(len(images.classes)):
        sizes = np.bincount(fold_of[images.codes == code], minlength=10)
        assert sizes.max() - sizes.min() <= 1
    vectors = held_vectors(x, "euclidean")
    found = folded_accuracy(vectors, images, measured_bins(vectors, images), seed=0)
    distance = np.sqrt(((x[:, None].astype(float) - x[None]) ** 2).sum(axis=2))
    wanted = []
    parts = []
    for fold in range(10):
        at = np.flatnonzero(fold_of == fold)
        i, j = np.triu_indices(len(at), 1)
        parts.append((distance[at[i], at[j]], images.codes[at[i]] == images.codes[at[j]]))
    for fold in range(10):
        d = np.concatenate([part[0] for k, part in enumerate(parts) if k != fold])
        s = np.concatenate([part[1] for k, part in enumerate(parts) if k != fold])
        order = np.argsort(d)
        d, s = d[order], s[order]
        accuracy = (np.cumsum(s) / s.sum() + 1 - np.cumsum(~s) / (~s).sum()) / 2
        limit = d[accuracy.argmax()]
        held, same = parts[fold]
        wanted.append(((held[same] <= limit).mean() + (held[~same] > limit).mean()) / 2)
    assert found.value == pytest.approx(np.mean(wanted), abs=0.01)
    assert found.interval[0] < found.value < found.interval[1]
