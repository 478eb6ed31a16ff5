"""Intervals of scores with a tenth of the images left out in turn."""

import numpy as np
import pytest

from alike.analysis.blocks.evaluation_set import evaluation_set_of
from alike.analysis.blocks.vectors import held_vectors
from alike.analysis.pairs import count_pairs, influence, pair_spreads, units_of
from alike.analysis.pairs.jackknife import (
    GROUPS,
    jackknife_groups,
    jackknife_interval,
    jackknife_ratio_interval,
)
from alike.analysis.pairs.movements import auc_movements
from alike.analysis.scores import left_out_in_turn


@pytest.mark.quick
def test_every_image_is_left_out_once_and_every_class_evenly():
    images = evaluation_set_of(np.arange(157), ["a"] * 90 + ["b"] * 60 + ["c"] * 7)
    kept = jackknife_groups(images, 0)
    out = np.concatenate([np.setdiff1d(np.arange(157), at) for at in kept])
    assert sorted(out) == list(range(157))
    for at in kept:
        assert np.bincount(images.codes[at]).tolist()[:2] == [81, 54]


def test_of_a_mean_it_is_the_interval_of_students_t():
    values = np.random.default_rng(0).standard_normal(400)
    images = evaluation_set_of(np.arange(400), ["a"] * 399 + ["b"])
    means = np.array([values[at].mean() for at in jackknife_groups(images, 0)])
    low, high = jackknife_interval(values.mean(), means)
    assert (low + high) / 2 == pytest.approx(values.mean())
    assert (high - low) / (2 * 2.262) == pytest.approx(0.05, rel=0.6)
    assert np.isnan(jackknife_interval(0.0, np.full(GROUPS, np.nan))).all()


def test_of_a_factor_it_is_the_interval_of_the_log():
    """Of the geometric mean the interval of the mean log, whatever the unit; never below 0."""
    logs = np.random.default_rng(0).standard_normal(10)
    without = np.exp((logs.sum() - logs) / 9)
    low, high = jackknife_ratio_interval(np.exp(logs.mean()), without)
    reach = 2.262157 * logs.std(ddof=1) / 10**0.5
    wanted = np.exp([logs.mean() - reach, logs.mean() + reach])
    assert [low, high] == pytest.approx(wanted, rel=1e-6)
    scaled = jackknife_ratio_interval(1e3 * np.exp(logs.mean()), 1e3 * without)
    assert scaled == pytest.approx(1e3 * wanted, rel=1e-6)
    assert jackknife_ratio_interval(1.0, np.linspace(0.1, 3, 10))[0] > 0
    for bad in (np.append(without[1:], 0.0), np.append(without[1:], np.nan)):
        assert np.isnan(jackknife_ratio_interval(1.0, bad)).all()


def test_it_is_as_wide_as_new_images_make_it(clustered):
    """NC1 of images drawn anew scatters as the images left out say, within a factor."""
    x, images = clustered(n=300, classes=3, dim=8, spread=2.0)
    means = np.stack([x[images.codes == code].mean(axis=0) for code in range(3)])
    found, widths = [], []
    for seed in range(30):
        draw = np.random.default_rng(seed)
        new = (means[images.codes] + 2.0 * draw.standard_normal(x.shape)).astype(np.float32)
        vectors = held_vectors(new, "euclidean")
        whole, *without = left_out_in_turn(vectors, images, seed).values[:, 0]
        found.append(whole)
        low, high = jackknife_interval(whole, np.array(without))
        widths.append((high - low) / (2 * 2.262))
    assert 0.7 < np.mean(widths) / np.std(found, ddof=1) < 1.5


def test_a_sample_takes_near_copies_as_a_whole(clustered, monkeypatch):
    """Half of the images, each there twice: intervals are those of half of the images once.

    With halves of units NC1 and NC2 had intervals .85 as wide, scores of pairs .71.
    """
    x, images = clustered(n=300, classes=4, dim=8, spread=1.5)
    twice = evaluation_set_of(
        np.arange(600), np.repeat(np.array(images.classes)[images.codes], 2).tolist()
    )
    unit = np.repeat(np.arange(300), 2)
    once, doubled = (held_vectors(each, "euclidean") for each in (x, np.repeat(x, 2, axis=0)))
    monkeypatch.setattr(influence, "INFLUENCE_ROWS", 150)
    wanted = left_out_in_turn(once, images, 0, most=150)
    counts = count_pairs(once, images)
    of_pairs = pair_spreads([(once, counts)], images, units_of(images)).sides[0]["auc"]
    monkeypatch.setattr(influence, "INFLUENCE_ROWS", 300)
    of = left_out_in_turn(doubled, twice, 0, unit, most=300)
    np.testing.assert_allclose(of.values, wanted.values, rtol=1e-5)
    assert (of.n, of.of) == (2 * wanted.n, 600)
    counts = count_pairs(doubled, twice)
    found = pair_spreads([(doubled, counts)], twice, units_of(twice, unit)).sides[0]["auc"]
    # Of copies it is not taken off what two images do together.
    assert 0.95 < found.variance / of_pairs.variance < 1.15
    # A ranking looks every image up, however many they are.
    assert len(auc_movements(doubled, counts, twice, units_of(twice))) == 600
