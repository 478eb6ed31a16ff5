"""Every measure's own number, split over positions: against the number that it gives itself."""

import numpy as np
import pytest

from alike.analysis.explain.likeness_maps import difference, likeness, position_pairs
from alike.analysis.explain.measure_split import in_measure
from alike.extract.errors import BadInput
from alike.extract.measures.measures import MEASURES, find_measure

draw = np.random.default_rng(0)
MAPS = np.maximum(draw.standard_normal((40, 12, 4, 3)) + draw.standard_normal((40, 12, 1, 1)), 0)
MAPS = MAPS.astype(np.float32)
LABELS = np.repeat(np.arange(4), 10)
SPLIT = {
    "gap_cosine", "gap_cosine_centred", "gap_euclid", "gap_pearson", "map_cosine", "lda_cosine",
    "whitened_cosine", "mahalanobis",
}  # fmt: skip
"""Measures that are sums over positions."""


def taps(maps):
    return {"last_conv": maps, "gap": maps.mean((2, 3))}


def ready(name):
    measure = MEASURES[name]
    return measure.fit(taps(MAPS), {}, LABELS) if measure.needs_fit else measure


@pytest.mark.parametrize("name", MEASURES)
def test_the_maps_sum_to_the_distance_of_the_measure(name):
    found = in_measure(ready(name), MAPS[0], MAPS[11])
    assert (found is not None) == (name in SPLIT)
    if found is None:
        return
    measure = ready(name)
    a, b = measure.embed(taps(MAPS[[0, 11]]), {}).astype(np.float64)
    distance = float(measure.own(np.square(a - b).sum()))
    assert found.distance == pytest.approx(distance, rel=1e-4)
    apart = distance if measure.form == "cosine" else distance**2
    both = found.difference.on_a.sum() + found.difference.on_b.sum()
    assert [found.difference.value, both] == pytest.approx([apart] * 2, rel=1e-4)
    likeness = found.likeness
    each = [likeness.value, likeness.on_a.sum(), likeness.on_b.sum(), found.pairs.sum()]
    assert each == pytest.approx([float(a @ b)] * 4, rel=1e-4, abs=1e-5)
    np.testing.assert_allclose(found.pairs.sum(1), likeness.on_a.ravel(), atol=1e-5)
    np.testing.assert_allclose(found.pairs.sum(0), likeness.on_b.ravel(), atol=1e-5)


@pytest.mark.quick
def test_the_squared_distance_place_by_place():
    """Naively: the difference of the means, channel by channel, times what each place has of it."""
    a, b = MAPS[3], MAPS[25][:, :2]
    found = in_measure(MEASURES["gap_euclid"], a, b)
    apart = a.mean((1, 2)) - b.mean((1, 2))
    for (y, x), value in np.ndenumerate(found.difference.on_a):
        assert value == pytest.approx(sum(apart * a[:, y, x]) / 12, rel=1e-5, abs=1e-6)
    for (y, x), value in np.ndenumerate(found.difference.on_b):
        assert value == pytest.approx(-sum(apart * b[:, y, x]) / 6, rel=1e-5, abs=1e-6)


def test_the_default_measure_as_before():
    a, b = MAPS[3], MAPS[25]
    found = in_measure(MEASURES["gap_cosine"], a, b)
    for ours, wanted in ((found.likeness, likeness(a, b)), (found.difference, difference(a, b))):
        assert ours.value == pytest.approx(wanted.value, rel=1e-9)
        np.testing.assert_allclose(ours.on_a, wanted.on_a, atol=1e-6)
        np.testing.assert_allclose(ours.on_b, wanted.on_b, atol=1e-6)
    np.testing.assert_allclose(found.pairs, position_pairs(a, b), atol=1e-6)


def test_what_has_no_terms_of_its_own():
    assert in_measure(find_measure("gap_cosine@layer3"), MAPS[0], MAPS[1]) is None
    # Whole maps of two sizes have no positions in common.
    assert in_measure(MEASURES["map_cosine"], MAPS[0], MAPS[1][:, :2]) is None
    with pytest.raises(BadInput, match="image b is zero"):
        in_measure(MEASURES["gap_cosine"], MAPS[0], 0 * MAPS[1])
    with pytest.raises(BadInput, match="12 and 6 channels"):
        in_measure(MEASURES["gap_cosine"], MAPS[0], MAPS[1][:6])
