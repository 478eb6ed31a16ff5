import math

import pytest

from alike.extract.errors import BadInput
from alike.train.trigger import Condition, Past, Rules, decide, replaces

NOW = 1_000_000.0


@pytest.mark.parametrize(
    ("text", "score", "sign", "threshold"),
    [
        ("sameness < 0.80", "sameness", "<", 0.80),
        ("nc1>=2", "nc1", ">=", 2.0),
        ("  eer > 1e-1 ", "eer", ">", 0.1),
        ("map_at_r <= .5", "map_at_r", "<=", 0.5),
    ],
)
def test_condition_is_parsed(text, score, sign, threshold):
    assert Condition.parse(text) == Condition(score, sign, threshold)


@pytest.mark.parametrize(
    "text", ["", "sameness", "sameness = 0.8", "0.8 > sameness", "a < 1 or b < 2", "a < 1.2.3"]
)
def test_bad_condition_names_itself(text):
    with pytest.raises(BadInput, match=r"sameness < 0\.80"):
        Rules(when=text)


@pytest.mark.parametrize("name", ["at_most", "cool_down", "accuracy_margin"])
def test_negative_guards_are_refused(name):
    with pytest.raises(BadInput, match=name):
        Rules(**{name: -1})


@pytest.mark.parametrize(
    ("when", "value", "go"),
    [
        ("s < 0.8", 0.79, True),
        ("s < 0.8", 0.8, False),
        ("s <= 0.8", 0.8, True),
        ("s > 0.8", 0.8, False),
        ("s >= 0.8", 0.8, True),
        ("s > 0.8", 0.9, True),
        ("s < 0.8", math.nan, False),
    ],
)
def test_condition_decides(when, value, go):
    decision = decide(Rules(when=when), {"s": value}, [], NOW)
    assert decision.go is go
    assert decision.reason.startswith("retraining" if go else "no retraining")


@pytest.mark.quick
def test_unknown_score_is_named_with_those_there_are():
    with pytest.raises(BadInput, match=r"'sameness' was not computed; there are auc, eer"):
        decide(Rules(), {"auc": 0.9, "eer": 0.1}, [], NOW)


def test_guards_against_loops():
    low = {"sameness": 0.5}
    good = Past(NOW - 100, 0.40, 0.50)
    rules = Rules(at_most=2, minimum_gain=0.05, cool_down=60)
    assert decide(rules, low, [good], NOW).go
    assert "at most 2" in decide(rules, low, [good, good], NOW).reason
    assert "0:00:20 more to wait" in decide(rules, low, [Past(NOW - 40, 0.4, 0.5)], NOW).reason
    assert "gained 0.0400" in decide(rules, low, [Past(NOW - 100, 0.46, 0.50)], NOW).reason
    failed = decide(rules, low, [Past(NOW - 100, 0.46, math.nan)], NOW)
    assert (failed.go, failed.reason[-19:]) == (False, "the last one failed")
    assert not decide(Rules(at_most=0), low, [], NOW).go


def test_gain_follows_the_direction_of_the_condition():
    rules = Rules(when="nc1 > 1", minimum_gain=0.5)
    assert decide(rules, {"nc1": 2.0}, [Past(0, 3.0, 2.0)], NOW).go
    assert not decide(rules, {"nc1": 3.0}, [Past(0, 2.0, 3.0)], NOW).go


@pytest.mark.parametrize(
    ("before", "after", "go", "why"),
    [
        ((0.70, 0.90), (0.80, 0.89), True, "margin 0.01"),
        ((0.70, 0.90), (0.80, 0.88), False, "loss of 0.0200"),
        ((0.70, 0.90), (0.70, 0.95), False, "no improvement"),
        ((0.70, math.nan), (0.80, math.nan), True, "not known"),
        ((0.70, 0.90), (0.80, math.nan), False, "although"),
        ((0.70, 0.90), (math.nan, 0.90), False, "no improvement"),
    ],
)
def test_only_a_better_network_replaces_the_old(before, after, go, why):
    names = ("sameness", "accuracy")
    decision = replaces(
        Rules(), dict(zip(names, before, strict=True)), dict(zip(names, after, strict=True))
    )
    assert decision.go is go
    assert why in decision.reason
