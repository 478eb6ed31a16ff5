"""Runs side by side: the API says what `alike runs` prints, and the page shows it."""

import asyncio
import csv
import io
import json
import threading
from dataclasses import asdict

import httpx
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import alike
from alike.extract.errors import BadInput
from alike.extract.store import Store
from alike.flows.cli import app
from alike.flows.history import History
from alike.flows.served_runs import StoredRuns
from alike.serve import run_models
from alike.serve.app import create_app
from alike.serve.pictures import NotThere
from alike.serve.run_history import NoRuns
from alike.serve.service import NeighbourService
from alike.serve.stores import ServedStore

from .browser import missing
from .conftest import write_runs
from .test_browser import saved
from .visiting import READY, assert_quiet, visit

with_browser = pytest.mark.skipif(bool(missing()), reason=missing() or "there is a browser")
IDS = [f"2026010{number}T000000000000-aaaaa{number}" for number in range(1, 5)]
BESIDE = "document.querySelector('.beside-runs table')"


@pytest.fixture(scope="module")
def command(place):
    """What `alike runs … --json` prints of the store."""

    def run(name, *words):
        answer = CliRunner().invoke(app, ["runs", name, str(place / "store"), *words, "--json"])
        assert answer.exit_code == 0, answer.output
        return json.loads(answer.output)

    return run


@pytest.mark.quick
def test_a_history_as_the_server_reads_it(tmp_path):
    store = Store.open(tmp_path / "store", create=True)
    empty = {"runs": [], "unchanged": None, "faults": []}
    assert StoredRuns(store).listed() == NoRuns().listed() == empty
    runs = write_runs(store)
    stored = StoredRuns(store)
    assert [one["run"] for one in stored.listed()["runs"]] == IDS
    # A number that a run lacks is null, not NaN.
    assert stored.listed()["runs"][2]["sameness"] is None
    # Titles are of features, which this store has none of.
    assert stored.record("last") == {**asdict(runs[3]), "titles": {}}
    assert [one["id"] for one in stored.good()] == [IDS[0], IDS[1], IDS[3]]
    assert stored.difference(["aaaaa1", "last"], everything=False)["runs"] == [IDS[0], IDS[3]]
    for history, words in ((stored, "no run has that id"), (NoRuns(), "knows no runs")):
        with pytest.raises(NotThere, match=words):
            history.record("nothing")
        with pytest.raises(NotThere, match=words):
            history.difference(["nothing", "last"], everything=True)


def test_a_history_is_read_again_only_if_a_file_of_it_changed(tmp_path, monkeypatch):
    store = Store.open(tmp_path / "store", create=True)
    runs = write_runs(store)
    read = []
    monkeypatch.setattr(
        History, "_read", lambda self, run, read_one=History._read: read.append(run)
        or read_one(self, run)
    )  # fmt: skip
    stored = StoredRuns(store)
    first = stored.listed()
    assert stored.listed() == first
    assert read == IDS
    History(store).accept(runs[1], "somebody")
    assert [one["state"] for one in stored.listed()["runs"]][1] == "reference"
    store.remove_file(f"history/{IDS[0]}.json")
    assert [one["run"] for one in stored.listed()["runs"]] == IDS[1:]
    assert [one["id"] for one in stored.good()] == [IDS[1], IDS[3]]


def test_stored_rows_do_not_wait_for_past_runs(place):
    """Eight questions about runs, of which none is answered before the row is."""
    store, answered = Store.open(place / "store"), threading.Event()

    class Slow(StoredRuns):
        def listed(self):
            assert answered.wait(30)
            return super().listed()

    transport = httpx.ASGITransport(
        create_app([ServedStore("store", NeighbourService(store), Slow(store))])
    )

    async def main():
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            runs = [asyncio.ensure_future(client.get("/api/v1/runs")) for _ in range(8)]
            await asyncio.sleep(0.1)
            row = await asyncio.wait_for(client.get("/api/v1/images/3/neighbours"), 20)
            assert row.status_code == 200
            assert not any(one.done() for one in runs)
            answered.set()
            return await asyncio.gather(*runs)

    for one in asyncio.run(main()):
        assert [run["run"] for run in one.json()["runs"]] == IDS


def test_the_documents_are_those_of_the_command(client, command):
    assert client.json("/api/v1/runs") == command("ls")
    assert client.json("/api/v1/runs/aaaaa3") == command("show", "aaaaa3")
    two = client.json("/api/v1/run-difference?run=aaaaa2&run=last")
    assert two == command("diff", "aaaaa2", "last")
    assert two["settings"] == {"analyse.bootstrap": [10, 50]}
    asked = "&".join(f"run={one}" for one in IDS)
    every = client.json(f"/api/v1/run-difference?{asked}&everything=true")
    assert every == command("diff", *IDS, "--all")
    assert every["comparable"][""] == [False, True, True, True]
    # As the description of the API has them: nothing more, nothing less.
    for model, document in (
        (run_models.RunList, command("ls")),
        (run_models.Run, command("show", "last")),
        (run_models.Run, command("show", "aaaaa3")),
        (run_models.RunDifference, two),
        (run_models.RunDifference, every),
    ):
        assert model.model_validate(document).model_dump() == document


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("runs/nothing", 404, "no run has that id"),
        ("run-difference?run=last&run=2026", 404, "4 runs match"),
        ("run-difference?run=last", 422, "at least 2"),
        ("run-difference?" + "&".join(["run=last"] * 13), 422, "at most 12"),
        ("run-difference?run=last&run=../..", 422, "match pattern"),
    ],
)
def test_runs_that_there_are_not(client, path, status, words):
    answered, _, body = client.get(f"/api/v1/{path}")
    assert answered == status
    assert words in json.loads(body)["error"]


def test_the_client_gives_tables(client, command):
    with alike.connect(client.address) as server:
        runs = server.runs()
        assert runs["run"].tolist() == IDS
        assert runs.attrs == {"unchanged": None, "faults": []}
        assert server.run() == command("show", "last")
        tables = server.run_difference("aaaaa2", "last", everything=True)
        with pytest.raises(BadInput, match="no run has that id"):
            server.run("nothing")
    assert tables["settings"].loc["analyse.bootstrap"].tolist() == [10, 50]
    assert tables["nets.py:wide"].loc["features"].tolist() == [None, "wide-1"]
    scores = tables["scores"].set_index(["network", "score", "run"])
    line = scores.loc[("", "sameness", IDS[3])]
    assert [line["value"], line["low"], line["high"]] == [0.375, 0.275, 0.475]
    assert np.isnan(scores.loc[("nets.py:wide", "sameness", IDS[1]), "value"])
    assert scores.attrs["comparable"][""] == [True, True]
    counts = tables["counts"].pivot(index=["network", "count"], columns="run", values="value")
    assert counts.loc[("", "ok")].tolist() == [19, 20]
    assert pd.isna(counts.loc[("nets.py:wide", "ok"), IDS[1]])


def cells(page, place):
    """Text of the cells of a table, row by row."""
    return page.run(
        "return [...document.querySelectorAll(`${arguments[0]} tr`)].map((row) =>"
        "[...row.cells].map((cell) => cell.innerText.replaceAll('\\n', ' ').trim()))",
        place,
    )


@with_browser
def test_the_last_two_good_runs_stand_side_by_side(page, client, analysed):
    visit(page, f"{client.address}/#scores", BESIDE)
    head, *rows = cells(page, "[aria-label='Scores of nets.py:small']")
    assert head == ["Score", "2026-01-02 00:00 aaaaa2", "2026-01-04 00:00 aaaaa4", "Change"]
    assert rows == [
        ["Sameness", "0.250 0.150 to 0.350", "0.375 0.275 to 0.475", "+0.125"],
        ["Nearest neighbour of the same class", "12.5 %", "18.8 %", "+6.3 points"],
        ["Accuracy of the network", *["50.0 % 25.0 % to 75.0 %"] * 2, "0.0 points"],
    ]
    assert cells(page, "[aria-label='Scores of nets.py:wide']")[1] == [
        "Sameness", "–", "0.625 0.500 to 0.750", "–",
    ]  # fmt: skip
    assert cells(page, "[aria-label='Images of nets.py:small']")[1:] == [
        ["listed", "20", "21", "+1"], ["bad", "1", "1", "0"], ["ok", "19", "20", "+1"],
    ]  # fmt: skip
    assert cells(page, "[aria-label='Settings']")[1:] == [["analyse.bootstrap", "10", "50"]]
    folded = "[aria-label='Settings, all']"
    page.run("document.querySelectorAll('#runs details').forEach((one) => { one.open = true; })")
    assert ["images.source", "set", "set"] in cells(page, folded)
    rows = csv.reader(io.StringIO(saved(page, ".beside-runs .sidebox", "CSV")))
    assert next(row for row in rows if row[0] == "Sameness") == [
        "Sameness", "0.250", "0.150 to 0.350", "0.375", "0.275 to 0.475", "+0.125",
    ]  # fmt: skip
    assert_quiet(page, client.address)


@with_browser
def test_the_address_holds_the_chosen_runs(page, client, analysed):
    visit(page, f"{client.address}/#scores", BESIDE)
    # The newest stand first; by the keyboard, as any box.
    boxes = "[...document.querySelectorAll('#runs input')]"
    assert page.run(f"return {boxes}.map((one) => one.checked)") == [True, False, True, False]
    for run in (IDS[2], IDS[0]):
        page.send(f"#runs input[value='{run}']", " ")
    link = page.wait("location.hash.includes('aaaaa1') && location.hash")
    assert link == "#scores?runs=" + "%2C".join(IDS)
    for address in (link, "#scores?runs=aaaaa1,aaaaa2,aaaaa3,last"):
        visit(page, client.address + "/" + address, BESIDE)
        head, sameness, *_ = cells(page, "[aria-label='Scores of nets.py:small']")
        assert head[1:] == [
            "2026-01-01 00:00 aaaaa1 · not compared", "2026-01-02 00:00 aaaaa2",
            "2026-01-03 00:00 aaaaa3 · failed", "2026-01-04 00:00 aaaaa4", "Change first to last",
        ]  # fmt: skip
        assert [sameness[1][:5], sameness[3], sameness[5]] == ["0.500", "–", "–"]
        says = page.run("return document.querySelector('#runs').innerText")
        assert f"The scores of {IDS[0]} mean something else than those of {IDS[3]}." in says
        assert "aaaaa3 failed: BadInput: no <images>" in says
    page.run(f"{boxes}.slice(1).forEach((one) => one.checked && one.click())")
    page.wait(f"{READY} && document.querySelector('#runs .empty')")
    assert "Choose two runs" in page.run("return document.querySelector('#runs .empty').innerText")
    notes = "document.querySelector('#notes')"
    assert page.run(f"return {notes}.hidden")
    for names, why in (("zzz", "no run is named zzz"), ("last,last", f"it names one run, {IDS[3]}"),
                       ("2026", "4 runs match 2026")):  # fmt: skip
        page.run("location.hash = `scores?runs=${arguments[0]}`", names)
        page.wait(f"{notes}.textContent === arguments[0]", f"runs={names} in the address: {why}.")
    assert_quiet(page, client.address)


@with_browser
def test_runs_that_did_not_arrive_are_asked_for_again(page, client, analysed):
    visit(page, f"{client.address}/#map?split=all", "document.querySelector('.legend button')")
    page.run(
        "window.arrive = window.fetch;"
        "window.fetch = (path, ...more) => String(path).endsWith('/runs')"
        " ? Promise.reject(new TypeError('no network')) : window.arrive(path, ...more);"
        "location.hash = 'scores';"
    )
    alert = "document.querySelector('#runs [role=alert]')"
    assert "The server does not answer" in page.wait(f"{alert} && {alert}.innerText")
    page.run(f"window.fetch = window.arrive; {alert}.querySelector('button').click()")
    page.wait(f"{READY} && {BESIDE}")
    assert_quiet(page, client.address)


@with_browser
def test_a_link_to_a_run_that_is_gone_says_so(page, client, analysed):
    visit(
        page,
        f"{client.address}/#scores?runs=aaaaa2,gone",
        "document.querySelector('#runs [role=alert]')",
    )
    says = page.run("return document.querySelector('#runs [role=alert]').innerText")
    assert "run 'gone': no run has that id" in says
    page.run("document.querySelector('#runs [role=alert] button:last-child').click()")
    page.wait(f"{READY} && {BESIDE} && location.hash === '#scores'")
    complaints = [one for one in page.complaints() if "status of 404" not in one]
    assert complaints == []
