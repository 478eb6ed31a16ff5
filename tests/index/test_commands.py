"""`alike index` and `alike neighbours` as a user runs them."""

import json

import pytest
from typer.testing import CliRunner

from alike.extract.errors import BadInput
from alike.flows.cli import app


@pytest.fixture
def run():
    def run(*words):
        done = CliRunner().invoke(app, [str(word) for word in words])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.stdout

    return run


def test_index_then_neighbours(make_store, run):
    store = make_store(n=1500, classes=30)
    told = run("index", "--store", store.url, "--kind", "ivf_flat", "--recall", 0.85)
    assert "what was measured" in told
    assert "built in" in told
    card = json.loads(
        run("index", "--store", store.url, "--kind", "ivf_flat", "--recall", 0.85, "--json")
    )
    assert card["action"] == "unchanged"
    assert card["recall"][1] >= 0.85
    near = json.loads(run("neighbours", 3, "--store", store.url, "-k", 4, "--json"))
    assert [one["rank"] for one in near] == [1, 2, 3, 4]
    assert near[0]["query_row"] == 3
    other = json.loads(
        run("neighbours", 3, "--store", store.url, "-k", 4, "--other-class", "--json")
    )
    assert {one["label"] for one in other}.isdisjoint({"0"})
    assert "nearest by gap_cosine" in run("neighbours", 3, 9, "--store", store.url, "-k", 2)


def test_lists_on_disk_by_workers(make_store, run):
    store = make_store(n=9000)
    options = ["--on-disk", "--cluster", 2, "--recall", 0.3, "--memory", "1MB", "--at", 3]
    told = run("index", "--store", store.url, *options, "--kind", "ivf_flat")
    assert "lists on disk from 2 shards" in told
    assert len(json.loads(run("neighbours", 5, "--store", store.url, "-k", 3, "--json"))) == 3


def test_what_is_not_given_stays_as_it_was_asked(make_store, run):
    store = make_store(n=1500)
    index = ("index", "--store", store.url, "--kind", "ivf_flat")
    first = ["--recall", 0.5, "--at", 3, "--memory", "1MB", "--latency", 900, "--batch", 2]
    assert "wish of the index" not in run(*index, *first, "--threads", 1, "--on-disk")
    told = run(*index)
    wish = "recall 0.5 at 3, memory 1,000,000 bytes, latency 900 ms, batch 2, threads 1"
    assert f"wish of the index there is: {wish}, lists on disk\n" in told
    assert "unchanged in" in told
    again = json.loads(run(*index, "--recall", 0.6, "--json"))
    assert again["action"] == "rebuilt"
    assert again["note"].startswith("the wish changed: recall 0.5 -> 0.6: lists on disk from")
    free = ["--memory", "any", "--latency", 0, "--threads", 0, "--in-memory"]
    told = run(*index, *free)
    asked = "memory 1,000,000 bytes -> any, latency 900 ms -> any, threads 1 -> any"
    assert "rebuilt in" in told
    assert f"the wish changed: {asked}, lists on disk -> in memory" in " ".join(told.split())
    assert run(*index, "--measure", "gap_euclid").count("wish of the index") == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--same-class", "--other-class"], "exclude each other"),
        (["--to", "x.parquet"], "needs a folder"),
    ],
)
def test_what_does_not_go_together(make_store, run, words, told):
    with pytest.raises(BadInput, match=told):
        run("neighbours", 3, "--store", make_store(n=9).url, *words)


@pytest.mark.quick
def test_a_folder_has_no_contact_sheet(make_store, run, tmp_path):
    words = ["--store", make_store(n=9).url, "--to", tmp_path / "x.parquet"]
    with pytest.raises(BadInput, match="--contact-sheet shows named images"):
        run("neighbours", tmp_path, *words, "--contact-sheet", tmp_path / "x.png")


def test_an_answer_without_rows_says_why(make_store, run):
    store = make_store(n=300)
    run("index", "--store", store.url)
    told = run("neighbours", 5, "--store", store.url, "--same-class", "--among", "1")
    assert "no stored image may be an answer: ask with fewer filters" in told


def test_neighbours_build_a_missing_index_and_say_so(make_store, run):
    store = make_store(n=40)
    told = run("neighbours", 3, "--store", store.url, "-k", 2)
    assert "no index of gap_cosine yet: building it" in told
    again = run("neighbours", 3, "--store", store.url, "-k", 2)
    assert "building" not in again
    done = CliRunner().invoke(app, ["neighbours", "3", "4", "--store", store.url, "-k", "50"])
    line = "2 of 2 queries have fewer than 50 neighbours, one has 39: no other stored image may"
    assert line in done.stderr
    done = CliRunner().invoke(app, ["neighbours", "3", "--store", store.url, "-k", "39"])
    assert "fewer" not in done.stderr
    near = told[told.index("nearest by") :]
    assert near == again[again.index("nearest by") :]
