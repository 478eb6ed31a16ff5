"""Scheduled runs in one serving process over a set that changes slowly: nothing grows for ever.

Two runs, and twenty nights of the run alone, in one process without a server; with `ALIKE_FULL=1`
200 scheduled runs, or as many as `ALIKE_SOAK` says. What each of them added is written to standard
error.
"""

import contextlib
import os
import sqlite3
import sys
import time

import psutil
import pytest
from changing_set import RIGHT, Place, without_prefect
from scheduled_service import START, Service, until

from alike.flows.history import History
from alike.flows.run import run_settings_file
from alike.flows.runs import store_of
from alike.flows.settings import read_pipeline
from alike.flows.unchanged import unchanged_run

FULL = os.environ.get("ALIKE_FULL") == "1"
RUNS = int(os.environ.get("ALIKE_SOAK", "200" if FULL else "2"))
KEEP = "[keep]\nreports = 2\nremoved_days = 0.0\n"
MB = 1e6


def measured(service):
    """What may grow: memory, open files, files and bytes on the disk."""
    serving, server = service.the("serving"), service.the("server")
    out = service.folder / "out"
    sizes = {}
    for one in out.rglob("*"):
        # The server's leases come and go.
        with contextlib.suppress(FileNotFoundError):
            if one.is_file():
                sizes[one] = one.stat().st_size
    own = [one for one in sizes if "prefect" not in one.relative_to(out).parts[0]]
    return {
        "serving MB": serving.memory_info().rss / MB,
        "server MB": server.memory_info().rss / MB,
        "serving files": serving.num_fds(),
        "server files": server.num_fds(),
        "processes": len(service.family()),
        "folder files": len(own),
        "folder MB": sum(sizes[one] for one in own) / MB,
        "database MB": (sum(sizes.values()) - sum(sizes[one] for one in own)) / MB,
    }


def one_run(service):
    run = service.ask()
    until(lambda: service.state(run) in ("COMPLETED", "FAILED", "CRASHED"), START, "a run ends")
    assert service.state(run) == "COMPLETED"
    until(lambda: len(service.family()) <= 3, START, "the run's process is gone")


def test_nothing_grows_for_ever(tmp_path):
    service = Service(tmp_path, lines=KEEP)
    service.open()
    service.start()
    try:
        one_run(service)
        history = []
        for number in range(RUNS):
            # Two nights of three nothing changes; the set keeps its size.
            if number % 3 == 0:
                service.place.add("abc"[number // 3 % 3])
                service.place.pick(7 * number).unlink()
            one_run(service)
            history.append(measured(service))
            sys.stderr.write(f"{number + 1}: {history[-1]}\n")
        first, last = history[min(RUNS // 10, 1)], history[-1]
        more = {name: last[name] - first[name] for name in last}
        runs = len(history) - 1
        sys.stderr.write(f"beyond the first: {more}\n")
        assert more["serving MB"] <= 20 + 0.1 * runs
        assert more["server MB"] <= 80 + 0.2 * runs
        assert more["serving files"] <= 4
        assert more["server files"] <= 12
        assert more["processes"] <= 0
        # A run that changed something leaves a record and some lines of the log.
        assert more["folder files"] <= 8 + 8 * runs / 3
        assert more["folder MB"] <= 1 + 0.1 * runs / 3
        assert more["database MB"] <= 5 + 0.5 * runs
        assert len(list((tmp_path / "out" / "reports").glob("*.html"))) == 2
        assert service.end() == 0
    finally:
        service.kill_all()


def test_twenty_nights_without_a_server(tmp_path, monkeypatch):
    """The set changes in every seventh night; files count as settled at once."""
    without_prefect(monkeypatch)
    monkeypatch.setattr("alike.extract.images.source.SETTLED", -(10**15))
    place = Place(tmp_path, now={**RIGHT, "measures": ["gap_cosine"]})
    place.stores["out"] = KEEP
    settings, process, nights = place.write_settings("out"), psutil.Process(), []
    run_settings_file(settings, lambda *_: None)
    for number in range(20):
        if number % 7 == 0:
            place.add("abc"[number // 7 % 3])
            place.pick(7 * number).unlink()
        if unchanged_run(read_pipeline(settings)) is None:
            assert number % 7 == 0
            run_settings_file(settings, lambda *_: None)
        files = [one.stat().st_size for one in (tmp_path / "out").rglob("*") if one.is_file()]
        nights.append((len(files), sum(files), process.num_fds(), process.memory_info().rss))
    files, size, opened, memory = (
        last - first for first, last in zip(nights[1], nights[-1], strict=True)
    )
    # Two nights that changed something: a record and some lines of the log each.
    assert files <= 2 * 8
    assert size <= 0.1 * MB
    assert opened <= 0
    assert memory <= 60 * MB
    assert len(list((tmp_path / "out" / "reports").glob("*.html"))) == 2
    history = History(store_of(str(settings)))
    assert len(history.records()) == 4
    assert history.unchanged().since == history.records()[-1].id


@pytest.mark.skipif(not FULL, reason="a minute: set ALIKE_FULL=1")
def test_the_server_deletes_runs_of_90_days_ago(tmp_path):
    fast = {"PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS": "2"}
    service = Service(tmp_path, variables=fast)
    service.open()
    service.start()
    try:
        one_run(service)
        assert service.end() == 0
        (database,) = (tmp_path / "out" / "prefect").glob("*.db")
        with sqlite3.connect(database) as open_database:
            count = "select count(*) from {}"
            assert open_database.execute(count.format("task_run")).fetchone()[0] >= 5
            open_database.execute("update flow_run set end_time = datetime('now', '-91 days')")
        service.start()
        gone = ("flow_run", "task_run", "log")

        def left():
            with sqlite3.connect(database, timeout=30) as read:
                return [
                    read.execute(f"select count(*) from {table}").fetchone()[0] for table in gone
                ]

        end = time.monotonic() + START
        while any(left()) and time.monotonic() < end:
            time.sleep(1)
        assert left() == [0, 0, 0]
        assert service.end() == 0
    finally:
        service.kill_all()
