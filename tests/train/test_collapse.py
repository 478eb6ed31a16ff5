import math

import pytest

from alike.train.collapse import CollapseWatch


def feed(watch, steps, value=2.0, signature=1.0, cosine=0.5, first=0):
    watch.first = watch.first or (1.0, 0.5)
    for step in range(first, first + steps):
        watch.see(step, value, signature, cosine)


@pytest.mark.quick
def test_a_healthy_run_is_left_alone():
    watch = CollapseWatch(patience=5)
    feed(watch, 100)
    assert (watch.factor, watch.stopped, watch.decisions) == (1.0, "", [])


def test_steps_must_be_in_a_row():
    watch = CollapseWatch(patience=5)
    for _ in range(20):
        feed(watch, 4, value=1.005)
        feed(watch, 1)
    assert watch.factor == 1.0


@pytest.mark.parametrize(
    ("value", "cosine", "reason"), [(0.995, 0.1, "equal features"), (3.0, 0.99, "0.990")]
)
def test_weight_is_halved_and_at_last_the_run_stops(value, cosine, reason):
    watch = CollapseWatch(patience=5, halvings=2)
    feed(watch, 5, value, cosine=cosine)
    assert watch.factor == 0.5
    assert reason in watch.decisions[0]
    assert "halved to 0.5" in watch.decisions[0]
    feed(watch, 5, value, cosine=cosine, first=5)
    assert (watch.factor, watch.stopped) == (0.25, "")
    feed(watch, 5, value, cosine=cosine, first=10)
    assert watch.stopped.startswith("step 14: still collapsed")
    assert len(watch.decisions) == 3


def test_a_loss_without_signature_is_watched_by_cosine_alone():
    watch = CollapseWatch(patience=5)
    feed(watch, 20, value=0.0, signature=None)
    assert watch.factor == 1.0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_at_once(value):
    watch = CollapseWatch()
    watch.see(7, value, None, 0.0)
    assert watch.stopped == f"step 7: the loss is {value}; stopped"
    watch.see(8, value, None, 0.0)
    assert len(watch.decisions) == 1


def test_state_goes_and_comes_back():
    watch, other = CollapseWatch(patience=5), CollapseWatch(patience=5)
    feed(watch, 7, value=1.0)
    other.restore(watch.state())
    assert other == watch


def test_collapse_is_measured_against_the_start():
    """An untrained network of ReLUs begins with equal features; that is no work of the loss."""
    watch = CollapseWatch(patience=5)
    for step in range(40):
        watch.see(step, 1.004, 1.0, 0.985)
    assert watch.decisions == []
    for step in range(40, 45):
        watch.see(step, 1.001, 1.0, 0.985)
    assert "equal features" in watch.decisions[0]
    watch = CollapseWatch(patience=5)
    for step in range(40):
        watch.see(step, 2.0, 1.0, 0.985 if step < 20 else 0.99)
    assert watch.decisions == []
    for step in range(40, 45):
        watch.see(step, 2.0, 1.0, 0.995)
    assert "0.995" in watch.decisions[0]
