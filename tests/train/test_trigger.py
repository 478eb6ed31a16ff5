import math

import pytest

from extract.errors import BadInput
from train.trigger import Condition, accept, decide, parse_condition

NOW = 1_000_000.0
HOUR = 3600.0
LOW = {"sameness": 0.5}


def retrained(hours_ago, before, after, accepted=True, score="sameness"):
    at = NOW - hours_ago * HOUR
    return [
        {"kind": "trigger", "time": at, "decision": True, "scores": {score: before}},
        {"kind": "replace", "time": at + 60, "decision": accepted, "scores": {score: after}},
    ]


def asked(history=(), scores=LOW, when="sameness < 0.80", **guards):
    return decide(when, scores, history=history, now=NOW, **guards)


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
    assert parse_condition(text) == Condition(score, sign, threshold)


@pytest.mark.parametrize(
    "text", ["", "sameness", "sameness = 0.8", "0.8 > sameness", "a < 1 or b < 2", "a < 1.2.3"]
)
def test_bad_condition_names_itself(text):
    with pytest.raises(BadInput, match=r"sameness < 0\.80"):
        parse_condition(text)


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
        ("always", 0.9, True),
    ],
)
def test_condition_decides(when, value, go):
    decision = asked(scores={"s": value}, when=when)
    assert decision.retrain is go
    assert decision.reason.startswith("retraining" if go else "no retraining")


def test_reasons_are_sentences_with_numbers():
    assert asked().reason == "retraining: sameness is 0.5000, below 0.8"
    fine = asked(scores={"sameness": 0.9})
    assert fine.reason == "no retraining: sameness is 0.9000, not below 0.8"


def test_unknown_score_is_named_with_those_there_are():
    with pytest.raises(BadInput, match=r"'sameness' was not computed; there are auc, eer"):
        asked(scores={"auc": 0.9, "eer": 0.1})


def test_at_most_counts_the_present_run():
    history = [*retrained(50, 0.3, 0.4), *retrained(1, 0.4, 0.5)]
    assert "2 were done already and at most 2" in asked(history, at_most=2).reason
    assert asked(history, at_most=2, since=NOW - 2 * HOUR).retrain
    assert not asked(history, at_most=1, since=NOW - 2 * HOUR).retrain
    assert asked(history, at_most=1, since=NOW - 60).retrain
    assert not asked(at_most=0).retrain


def test_cool_down_holds_between_runs():
    history = retrained(10, 0.4, 0.5)
    waiting = asked(history, since=NOW, cool_down_hours=24)
    assert not waiting.retrain
    assert "began 10:00:00 ago; 14:00:00 more to wait" in waiting.reason
    assert asked(history, since=NOW, cool_down_hours=9).retrain
    within = asked(history, since=NOW - 11 * HOUR, at_most=2, cool_down_hours=24)
    assert within.retrain


def test_a_retraining_that_gained_little_is_the_last():
    small = asked(retrained(9, 0.46, 0.50), at_most=5, minimum_improvement=0.05)
    assert "gained 0.0400, less than the minimum of 0.05" in small.reason
    assert asked(retrained(9, 0.40, 0.50), at_most=5, minimum_improvement=0.05).retrain
    assert not asked(retrained(9, 0.40, math.nan), at_most=5).retrain
    assert not asked(retrained(9, 0.50, 0.40), at_most=5).retrain


def test_a_cut_short_retraining_does_not_forbid_another():
    assert asked(retrained(9, 0.4, 0.5)[:1], at_most=5, minimum_improvement=0.05).retrain


def test_gain_follows_the_direction_of_the_condition():
    kept = {"when": "nc1 > 1", "scores": {"nc1": 2.0}, "at_most": 5, "minimum_improvement": 0.5}
    assert asked(retrained(9, 3.0, 2.0, score="nc1"), **kept).retrain
    assert not asked(retrained(9, 2.0, 3.0, score="nc1"), **kept).retrain


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
@pytest.mark.parametrize("when", ["always", "sameness < 0.8"])
def test_only_a_better_network_replaces_the_old(before, after, go, why, when):
    names = ("sameness", "accuracy")
    old, new = dict(zip(names, before, strict=True)), dict(zip(names, after, strict=True))
    verdict = accept(old, new, accuracy_margin=0.01, when=when)
    assert verdict.accepted is go
    assert why in verdict.reason
