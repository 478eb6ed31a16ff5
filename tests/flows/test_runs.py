"""What `alike runs diff` says of two runs and more, against values written down by hand."""

import json

import pytest
from typer.testing import CliRunner

from alike.extract.errors import BadInput
from alike.extract.store import Store
from alike.flows.cli import app
from alike.flows.history import FurtherNetwork, History, RunRecord
from alike.flows.runs import difference

WIDE = FurtherNetwork(
    {"name": "wide", "weights": "w", "features": "wide-1"}, {"ok": 9}, "new", "gap_cosine",
    {"gap_cosine": {"sameness": [0.5, 0.4, 0.6]}},
)  # fmt: skip


def run(number, *, sameness, ok, series="new", others=None, **settings):
    """A good run of 2026-01-0NUMBER."""
    scores = {"gap_cosine": {"sameness": [sameness, sameness - 0.1, sameness + 0.1]}}
    return RunRecord(
        f"2026010{number}T000000000000-aaaaa{number}", f"2026-01-0{number}T00:00:00+00:00", 1.5,
        "good", settings=settings, versions={"torch": "2.0"}, network={"name": "small"},
        counts={"ok": ok, "bad": 1}, series=series, measure="gap_cosine", scores=scores,
        others=others or {},
    )  # fmt: skip


OLD = run(1, sameness=0.2, ok=8, series="old", seed=1)
FIRST = run(2, sameness=0.25, ok=8, seed=1)
SECOND = run(3, sameness=0.25, ok=9, seed=2, others={"wide": WIDE})
THIRD = run(4, sameness=0.375, ok=9, seed=2, others={"wide": WIDE})
FAILED = RunRecord(
    "20260105T000000000000-aaaaa5", "2026-01-05T00:00:00+00:00", 0.5, "failed",
    settings={"seed": 3}, versions={"torch": "2.0"}, error="BadInput: no images",
)  # fmt: skip


@pytest.mark.quick
def test_two_runs():
    document = difference([FIRST, SECOND])
    assert document["runs"] == [FIRST.id, SECOND.id]
    assert document["settings"] == {"seed": [1, 2]}
    assert document["versions"] == document["network"] == {}
    ok = {"count": "ok", "before": 8, "after": 9, "difference": 1, "network": "", "values": [8, 9]}
    assert document["counts"] == [ok]
    assert document["scores"] == []
    assert document["series"] == ""


def test_three_runs_and_a_further_network():
    document = difference([FIRST, SECOND, THIRD], everything=True)
    (sameness, wide) = document["scores"]
    assert sameness["values"] == [0.25, 0.25, 0.375]
    assert sameness["low"] == pytest.approx([0.15, 0.15, 0.275])
    assert [sameness[name] for name in ("before", "after", "difference")] == [0.25, 0.375, 0.125]
    assert wide["network"] == "wide"
    assert wide["values"] == [None, 0.5, 0.5]
    assert wide["high"] == [None, 0.6, 0.6]
    assert wide["difference"] is None
    assert document["measures"]["wide"] == ["", "gap_cosine", "gap_cosine"]
    assert document["versions"] == {"torch": ["2.0"] * 3}
    # What is the same is left out if it is not asked for.
    (only,) = difference([FIRST, SECOND, THIRD])["scores"]
    assert only == sameness


def test_scores_that_mean_something_else_have_no_difference():
    document = difference([OLD, THIRD])
    assert document["scores"] == []
    assert document["series"] == "the scores of the two runs mean different things"
    document = difference([OLD, FIRST, THIRD], everything=True)
    assert document["comparable"] == {"": [False, True, True], "wide": [True, True, True]}
    sameness = document["scores"][0]
    assert sameness["values"] == [0.2, 0.25, 0.375]
    assert sameness["difference"] is None
    assert (
        document["series"] == f"the scores of {OLD.id} mean something else than those of {THIRD.id}"
    )


def test_a_failed_run_stands_beside_others():
    document = difference([THIRD, FAILED])
    assert document["states"] == ["good", "failed"]
    assert document["errors"] == ["", "BadInput: no images"]
    assert document["settings"] == {"seed": [2, 3]}
    # It recorded no network, no images and no scores: these are not told as changes.
    assert document["network"] == document["further"] == {}
    assert document["counts"] == document["scores"] == []
    assert document["series"] == ""


def test_the_command_takes_more_than_two(tmp_path):
    history = History(Store.open(tmp_path / "store", create=True))
    for one in (OLD, FIRST, SECOND, THIRD, FAILED):
        history.write(one)

    def said(*words, status=0):
        answer = CliRunner().invoke(app, ["runs", "diff", str(tmp_path / "store"), *words])
        assert answer.exit_code == status, answer.output
        return answer.output

    named = ["aaaaa2", "aaaaa3", "20260104"]
    document = json.loads(said(*named, "--json"))
    assert document == json.loads(json.dumps(difference([FIRST, SECOND, THIRD])))
    whole = json.loads(said(*named, "--all", "--json"))
    assert whole == json.loads(json.dumps(difference([FIRST, SECOND, THIRD], everything=True)))
    lines = [line.split() for line in said(*named, "--all").splitlines()]
    assert ["gap_cosine", "sameness", "0.25", "0.25", "0.375", "0.125"] in lines
    assert ["gap_cosine", "sameness", "0.5", "0.5", "wide"] in lines
    assert ["seed", "1", "2", "2"] in lines
    assert said("aaaaa2", "aaaaa2") == f"{FIRST.id} and {FIRST.id} differ in nothing\n"
    # Without a second name it is the last, here one that failed.
    assert json.loads(said("aaaaa4", "--json"))["runs"] == [THIRD.id, FAILED.id]
    with pytest.raises(BadInput, match="no run has that id; the last are"):
        history.find_all(["last", "nothing"])
    # A torn record counts as absent: the last is the one before it, and no name means it.
    torn = tmp_path / "store" / "history" / f"{FAILED.id}.json"
    torn.write_bytes(torn.read_bytes()[:40])
    assert history.find("last") == THIRD
    assert history.find("last~1") == SECOND
    with pytest.raises(BadInput, match="'last~9': no run has that id"):
        history.find("last~9")
    with pytest.raises(BadInput, match="'': an empty name; name an id"):
        history.find("")
    with pytest.raises(BadInput, match="'accepted': no reference; accept one by"):
        history.find("accepted")
    history.accept(FIRST, "me")
    assert history.find("accepted") == FIRST
    assert history.find("20260104") == THIRD
    with pytest.raises(BadInput, match=f"the last are {OLD.id}, .*{THIRD.id}$"):
        history.find("aaaaa5")
