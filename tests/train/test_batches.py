from collections import Counter

import numpy as np
import pytest

from alike.train.batches import PlannedBatches
from alike.train.schedule import ramp, rate


def rows(plan):
    return [batch.rows for batch in plan]


def test_balanced_batches_hold_p_classes_with_k_images():
    labels = np.repeat(np.arange(6), 20)
    plan = PlannedBatches(labels, 12, per_class=4)
    for batch in plan:
        counts = Counter(labels[list(batch.rows)])
        assert len(counts) == 3
        assert set(counts.values()) == {4}
        assert len(set(batch.rows)) == 12
    assert not plan.all_classes


@pytest.mark.quick
def test_all_classes_fill_the_batch():
    plan = PlannedBatches(np.repeat(np.arange(10), 30), 120)
    assert plan.all_classes
    assert (plan.classes_a_batch, plan.per_class) == (10, 12)


def test_an_epoch_shows_each_image_of_a_balanced_set_once():
    plan = PlannedBatches(np.repeat(np.arange(4), 12), 16)
    assert Counter(row for batch in rows(plan) for row in batch) == dict.fromkeys(range(48), 1)


def test_rare_classes_come_as_often_as_others_and_not_twice_in_a_batch():
    labels = np.array([0] * 40 + [1] * 3 + [2])
    plan = PlannedBatches(labels, 12)
    for batch in plan:
        counts = Counter(labels[list(batch.rows)])
        assert counts == {0: 4, 1: 3, 2: 1}
        assert len(set(batch.rows)) == len(batch.rows)


def test_plan_is_a_function_of_seed_and_epoch():
    labels = np.repeat(np.arange(5), 10)
    one, two = (PlannedBatches(labels, 10, seed=3) for _ in range(2))
    assert list(one) == list(two)
    one.set_epoch(1)
    assert list(one) != list(two)
    two.set_epoch(1)
    assert list(one) == list(two)
    assert list(one) != list(PlannedBatches(labels, 10, seed=4))


@pytest.mark.parametrize("balanced", [True, False])
def test_processes_share_one_plan_evenly(balanced):
    labels = np.repeat(np.arange(5), 10)
    parts = [PlannedBatches(labels, 10, balanced=balanced, share=(rank, 2)) for rank in range(2)]
    assert len(parts[0]) == len(parts[1]) == len(list(parts[0])) == len(list(parts[1]))
    whole = PlannedBatches(labels, 10, balanced=balanced)
    for batch, *shares in zip(whole, *parts, strict=True):
        assert {one.seed for one in shares} == {batch.seed}
        assert {one.rows for one in shares} == {batch.rows}
        assert sum((one.rows[one.part] for one in shares), ()) == batch.rows
    assert len({batch.seed for batch in whole}) == len(whole)
    shown = Counter(row for batch in rows(whole) for row in batch)
    assert max(shown.values()) == 1 or not balanced


def test_random_batches_show_all_before_any_again():
    plan = PlannedBatches(np.zeros(30, dtype=int), 10, balanced=False)
    assert Counter(row for batch in rows(plan) for row in batch) == dict.fromkeys(range(30), 1)


def test_ramp_rises_to_one():
    assert ramp(0, 100) == pytest.approx(np.exp(-5))
    assert ramp(50, 100) == pytest.approx(np.exp(-1.25))
    assert ramp(100, 100) == ramp(1000, 100) == ramp(0, 0) == 1.0


def test_rate_rises_then_falls_to_a_hundredth():
    values = [rate(step, 100, 10) for step in range(100)]
    assert values[0] == pytest.approx(0.1)
    assert values[9] == values[10] == 1.0
    assert all(np.diff(values[10:]) < 0)
    assert rate(100, 100, 10) == pytest.approx(0.01)
    frozen = [rate(step, 100, 10, 20) for step in range(100)]
    assert frozen[:20] == [0.0] * 20
    assert frozen[29] == 1.0
