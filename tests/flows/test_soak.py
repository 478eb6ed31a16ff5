"""Scheduled runs in one serving process over a set that changes slowly: nothing grows for ever.

Two runs; with `ALIKE_FULL=1` 200, or as many as `ALIKE_SOAK` says. What each of them added is
written to standard error.
"""

import os
import sqlite3
import sys
import time

import pytest
from scheduled_service import START, Service, until

FULL = os.environ.get("ALIKE_FULL") == "1"
RUNS = int(os.environ.get("ALIKE_SOAK", "200" if FULL else "2"))
KEEP = "[keep]\nreports = 2\nremoved_days = 0.0\n"
MB = 1e6


def measured(service):
    """What may grow: memory, open files, files and bytes on the disk."""
    serving, server = service.the("serving"), service.the("server")
    out = service.folder / "out"
    files = [one for one in out.rglob("*") if one.is_file()]
    own = [one for one in files if "prefect" not in one.relative_to(out).parts[0]]
    return {
        "serving MB": serving.memory_info().rss / MB,
        "server MB": server.memory_info().rss / MB,
        "serving files": serving.num_fds(),
        "server files": server.num_fds(),
        "processes": len(service.family()),
        "folder files": len(own),
        "folder MB": sum(one.stat().st_size for one in own) / MB,
        "database MB": sum(one.stat().st_size for one in set(files) - set(own)) / MB,
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
