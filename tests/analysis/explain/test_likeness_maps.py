"""The likeness maps must sum to the similarity that they decompose, whatever the two maps are."""

import numpy as np
import pytest

from alike.analysis.explain.likeness_maps import (
    class_direction,
    difference,
    leave_one_out,
    likeness,
    likeness_to,
    position_pairs,
    unit,
)
from alike.extract.errors import BadInput


def maps(seed, n=2, channels=512, h=7, w=7, dtype=np.float32):
    values = np.random.default_rng(seed).standard_normal((n, channels, h, w))
    return np.maximum(values, 0).astype(dtype)


def cosine(map_a, map_b, centre=0.0):
    a, b = (m.astype(np.float64).mean((1, 2)) - centre for m in (map_a, map_b))
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("centred", [False, True])
def test_both_maps_sum_to_the_cosine_of_the_pooled_maps(dtype, centred):
    a, b = maps(0, dtype=dtype)
    centre = np.full(512, 0.1) if centred else None
    found = likeness(a, b, centre=centre)
    expected = cosine(a, b, 0.1 if centred else 0.0)
    assert found.value == pytest.approx(expected, rel=1e-9)
    assert found.on_a.sum() == pytest.approx(expected, rel=1e-5)
    assert found.on_b.sum() == pytest.approx(expected, rel=1e-5)


def test_maps_of_different_sizes_and_the_inner_form():
    (a,), (b,) = maps(1, n=1, h=7, w=5), maps(2, n=1, h=13, w=13)
    found = likeness(a, b, form="inner")
    assert found.on_a.shape == (7, 5)
    assert found.on_b.shape == (13, 13)
    assert found.on_a.sum() == pytest.approx(float(a.mean((1, 2)) @ b.mean((1, 2))), rel=1e-5)
    assert found.on_b.sum() == pytest.approx(found.on_a.sum(), rel=1e-5)


def test_every_position_is_the_naive_double_sum():
    a, b = maps(3, channels=8, h=3, w=4)
    naive = np.zeros((3, 4))
    for p in np.ndindex(3, 4):
        for q in np.ndindex(3, 4):
            naive[p] += float(a[:, *p].astype(np.float64) @ b[:, *q])
    norms = np.linalg.norm(a.mean((1, 2))) * np.linalg.norm(b.mean((1, 2)))
    np.testing.assert_allclose(likeness(a, b).on_a, naive / norms / 12**2, rtol=1e-5)
    pairs = position_pairs(a, b)
    np.testing.assert_allclose(pairs.sum(1).reshape(3, 4), likeness(a, b).on_a, rtol=1e-5)
    np.testing.assert_allclose(pairs.sum(0).reshape(3, 4), likeness(a, b).on_b, rtol=1e-5)


def test_difference_is_the_complement():
    a, b = maps(4)
    found = difference(a, b)
    assert found.value == pytest.approx(1 - cosine(a, b), rel=1e-9)
    assert found.on_a.sum() + found.on_b.sum() == pytest.approx(found.value, rel=1e-4)
    assert found.on_a.sum() == pytest.approx(found.on_b.sum(), rel=1e-3)
    assert np.abs(difference(a, a).on_a).max() < 1e-7


@pytest.mark.quick
def test_a_class_direction_gives_the_mean_cosine_to_the_class():
    members = maps(5, n=6, channels=32)
    pooled = members.mean((2, 3))
    shares = likeness_to(members, class_direction(pooled))
    expected = (unit(pooled) @ unit(pooled).T).mean(axis=1)
    np.testing.assert_allclose(shares.sum((1, 2)), expected, rtol=1e-5)


def test_leave_one_out_does_not_compare_an_image_with_itself():
    members = maps(6, n=5, channels=32)
    pooled = members.mean((2, 3))
    shares = likeness_to(members, leave_one_out(pooled))
    cosines = unit(pooled) @ unit(pooled).T
    expected = (cosines.sum(axis=1) - 1) / 4
    np.testing.assert_allclose(shares.sum((1, 2)), expected, rtol=1e-5)


def test_what_cannot_be_compared_is_named():
    (a,), (b,) = maps(7, n=1), maps(8, n=1, channels=3)
    with pytest.raises(BadInput, match="512 and 3 channels"):
        likeness(a, b)
    with pytest.raises(BadInput, match="image b is zero"):
        likeness(a, np.zeros_like(a))
    with pytest.raises(BadInput, match="form 'dot'"):
        likeness(a, a, form="dot")
    with pytest.raises(BadInput, match="one image"):
        leave_one_out(np.ones((1, 4)))
