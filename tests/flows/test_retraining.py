"""What is served, and when all starts anew; no network is trained here (test_demo does that)."""

import json
import math
from types import SimpleNamespace

import pandas as pd
import pytest

from alike.extract.errors import BadInput
from alike.flows import retraining, steps
from alike.flows.decisions import Accepted, DecisionLog, origin_of
from alike.flows.memo import digest
from alike.flows.retraining import Rounds
from alike.flows.settings import read_pipeline
from alike.flows.steps import PipelineRun
from alike.train.trigger import Past

TEXT = """
[images]
source = "photos"
[network]
name = "resnet18"
[retrain]
when = "sameness < {threshold}"
"""


def run_of(folder, threshold=0.8, more=""):
    file = folder / "pipeline.toml"
    file.write_text(TEXT.format(threshold=threshold) + more, encoding="utf-8")
    return PipelineRun(read_pipeline(file))


def log_of(run, parent="parent"):
    return DecisionLog(run.memo, run.folder, run.pipeline, parent)


def accept(run, name, before=0.5, after=0.6):
    """A retraining that is accepted; returns what is served from then on."""
    weights = run.folder / "weights" / name
    weights.parent.mkdir(exist_ok=True)
    weights.touch()
    network = Accepted(str(weights), name)
    log_of(run).add("replace", True, "better", {}, past=Past(1.0, before, after), network=network)
    return network


def test_an_accepted_network_is_served_until_the_settings_change(tmp_path):
    run = run_of(tmp_path)
    assert log_of(run).accepted() is None
    first = accept(run, "first")
    assert log_of(run_of(tmp_path)).accepted() == first
    assert log_of(run_of(tmp_path, threshold=0.9)).accepted() is None
    assert log_of(run_of(tmp_path), "replaced under its name").accepted() is None
    other_code = DecisionLog(run.memo, run.folder, run.pipeline, "parent", "modules changed")
    assert other_code.accepted() is None
    second = accept(run, "second")
    log_of(run).add("replace", False, "worse", {}, past=Past(2.0, 0.6, 0.5))
    assert log_of(run).accepted() == second
    assert [past.after for past in log_of(run).past()] == [0.6, 0.6, 0.5]


def test_settings_flipped_and_back_serve_what_they_served(tmp_path):
    """Each setting has its own network and its own count of retrainings, in agreement."""
    networks = {name: accept(run_of(tmp_path, name), f"network-{name}") for name in (0.8, 0.9)}
    for threshold in (0.8, 0.9, 0.8):
        log = log_of(run_of(tmp_path, threshold))
        assert log.accepted() == networks[threshold]
        assert len(log.past()) == 1


def test_what_is_served_moves_with_its_folder(tmp_path):
    first = tmp_path / "first"
    first.mkdir()
    accept(run_of(first), "new")
    moved = run_of(first.rename(tmp_path / "moved"))
    there = tmp_path / "moved" / "alike-out" / "weights" / "new"
    assert log_of(moved).accepted() == Accepted(str(there), "new")


def test_a_network_whose_weights_are_lost_was_never_made(tmp_path):
    run = run_of(tmp_path)
    accept(run, "new")
    (run.folder / "weights" / "new").unlink()
    assert log_of(run).accepted() is None
    assert log_of(run).past() == [], "else none would ever be made again"
    assert log_of(run).lost() == [
        f"the accepted network {run.folder / 'weights' / 'new'} is gone: the settings' own is used "
        "again"
    ]
    assert log_of(run_of(tmp_path, threshold=0.9)).lost() == [], "other settings never had it"
    accept(run, "newer")
    assert log_of(run).lost() == []


ORIGIN_OF_VERSION_1 = "a70b1edb5e7d730cb65c107412e13a6e8e2bbbaa831465ba00155270a41c326a"
"""Of the settings below, as version 0.1 computed it."""
WRITTEN_BY_VERSION_1 = "42bfbad6a741b6400a53da900a4fbc2fc9d607e4079da8040f638c13140a320f"
OF_VERSION_1 = "trainer = { lr = 0.003, weight = 1 }\n"


def test_state_of_version_1_counts(tmp_path):
    """An update of the program neither drops the served network nor retrains."""
    run = run_of(tmp_path, more=OF_VERSION_1)
    assert origin_of(run.pipeline) == ORIGIN_OF_VERSION_1
    assert digest(run.pipeline.written) == WRITTEN_BY_VERSION_1
    weights = run.folder / "weights" / "new.safetensors"
    weights.parent.mkdir()
    weights.touch()
    served = {
        "weights": "weights/new.safetensors", "key": "k", "parent": "parent",
        "origin": ORIGIN_OF_VERSION_1,
    }  # fmt: skip
    (run.folder / "served.json").write_text(json.dumps(served))
    entry = {
        "time": "2026-01-01T02:00:00+0000", "about": "replace", "decision": True, "reason": "",
        "scores": {"sameness": 0.7}, "past": {"at": 1.0, "before": 0.5, "after": None},
        "origin": ORIGIN_OF_VERSION_1,
    }  # fmt: skip
    (run.folder / "decisions.jsonl").write_text(json.dumps(entry) + "\n")
    log = log_of(run)
    assert log.accepted() == Accepted(str(weights), "k")
    (past,) = log.past()
    assert (past.at, past.before, math.isnan(past.after)) == (1.0, 0.5, True)
    weights.unlink()
    assert (log.accepted(), log.past()) == (None, [])
    assert "new.safetensors is gone" in log.lost()[0]


@pytest.mark.parametrize("state", ["", "[]", "null", "5", "{}", '{"weights": 5}'])
def test_a_damaged_state_of_version_1_is_none(tmp_path, state):
    run = run_of(tmp_path)
    (run.folder / "served.json").write_text(state)
    assert log_of(run).accepted() is None
    assert "served.json cannot be read" in log_of(run).lost()[0]


@pytest.mark.parametrize(
    "line",
    [
        b"[]", b"null", b"5", b"{", b"\xff", b"{}", b'{"about": "replace", "origin": "x"}',
        b'{"about": "replace", "decision": 1, "origin": "x", "past": null}',
        b'{"about": "replace", "decision": true, "origin": "x", "past": {"at": "x"}}',
        b'{"about": "replace", "decision": true, "origin": "x", "past": null, "network": []}',
    ],
)  # fmt: skip
def test_a_damaged_decision_is_named(tmp_path, line):
    run = run_of(tmp_path)
    accept(run, "new")
    file = run.folder / "decisions.jsonl"
    file.write_bytes(file.read_bytes() + line + b"\n")
    with pytest.raises(BadInput, match=r"decisions\.jsonl line 2 is damaged.*or delete it"):
        log_of(run).accepted()


@pytest.mark.quick
def test_origin_ignores_what_does_not_change_the_network(tmp_path):
    first = run_of(tmp_path).pipeline
    other = first.model_copy(update={"title": "another"})
    assert origin_of(first) == origin_of(other)


@pytest.fixture
def three_measures(monkeypatch):
    """Steps that take no time, of an analysis by three measures; what was asked of `compare`."""
    scores = pd.DataFrame([
        {"measure": measure, "score": "sameness", "value": value}
        for measure, value in (("pixel_euclid", 0.5), ("gap_pearson", 0.6), ("map_cosine", 0.9))
    ])  # fmt: skip
    analysis = SimpleNamespace(key="k", tables={"scores": scores})
    answers = {
        "retrain_network": "w",
        "extract_images": "k",
        "evaluate_group": analysis,
        "explain": None,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(steps, name, lambda *_, answer=answer: answer)
    # No server of Prefect for what takes no time.
    monkeypatch.setattr(retraining, "step", lambda function, _: function)
    asked = []
    monkeypatch.setattr(steps, "set_side_by_side", lambda run, a, b, measure: asked.append(measure))
    return analysis, asked


def rounds_of(tmp_path, analysis, settings):
    text = TEXT.format(threshold=0.8).replace("[retrain]", settings)
    (tmp_path / "pipeline.toml").write_text(text, encoding="utf-8")
    run = PipelineRun(read_pipeline(tmp_path / "pipeline.toml"))
    rounds = Rounds(run, log_of(run), Accepted("w", "k"), analysis, None)
    rounds.go()
    return run.decisions


def test_what_is_compared_is_the_measure_of_the_headline(tmp_path, three_measures):
    """Settings whose analysis has no `gap_cosine`: the default of `compare` would be another."""
    analysis, asked = three_measures
    rounds_of(tmp_path, analysis, '[index]\nmeasure = "gap_pearson"\n[retrain]\ncontrol = true')
    assert asked == ["gap_pearson", "gap_pearson"]


@pytest.mark.parametrize(
    ("settings", "decision"),
    [
        ('[index]\nmeasure = "gap_pearson"\n[retrain]', "retraining: sameness is 0.6000"),
        ('[index]\nmeasure = "map_cosine"\n[retrain]', "no retraining: sameness is 0.9000"),
        (
            '[index]\nmeasure = "gap_pearson"\n[retrain]\nmeasure = "map_cosine"',
            "no retraining: sameness is 0.9000",
        ),
        (
            '[index]\nmeasure = "map_cosine"\n[retrain]\nmeasure = "gap_pearson"',
            "retraining: sameness is 0.6000",
        ),
    ],
)
def test_the_trigger_has_a_measure_of_its_own(tmp_path, three_measures, settings, decision):
    assert rounds_of(tmp_path, three_measures[0], settings)[0].startswith(decision)
