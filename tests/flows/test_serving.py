"""`alike schedule` ended in every way: no orphan, no run that stays running, no port taken.

Real processes on a free port. The schedule that is killed is always tested; the other ends, Dask
workers, and the slots that are free again need `ALIKE_FULL=1`.
"""

import os
import signal
import subprocess
import sys
import time

import httpx
import pytest
from scheduled_service import END, START, Service, free_port, lines_of, until

from alike.flows.parent import GRACE

FULL = os.environ.get("ALIKE_FULL") == "1"
SLOT = 120.0
"""Seconds after which the slot of a run that was killed must be free: docs/prefect.md says so."""
SETTLED = 60.0
"""Seconds after which no step of a killed run is shown as going on: it says so too."""
full = pytest.mark.skipif(not FULL, reason="minutes: set ALIKE_FULL=1")


@pytest.fixture
def service(tmp_path):
    """One whose log is JSON."""
    one = Service(tmp_path, lines='logs = "json"\n')
    one.start()
    yield one
    one.kill_all()


@pytest.mark.parametrize(
    ("which", "how", "status"),
    [
        ("serving", signal.SIGKILL, -signal.SIGKILL),
        pytest.param("server", signal.SIGKILL, 1, marks=full),
        pytest.param("serving", signal.SIGTERM, 0, marks=full),
        pytest.param("serving", signal.SIGINT, 0, marks=full),
    ],
)
def test_an_end_leaves_nothing_behind_and_it_can_start_again(service, which, how, status):
    run = service.run_at_gate()
    family = service.family()
    assert len(family) >= 3
    service.the(which).send_signal(how)
    assert service.process.wait(END) == status
    service.gone(family)
    service.start()
    until(lambda: service.state(run) == "CRASHED", END, "the run has crashed")
    until(lambda: not service.steps_running(), END, "no step goes on")
    service.open()
    if FULL:
        until(lambda: service.slots() == 0, SLOT, "the slots are free")
        again = service.ask()
        until(lambda: service.state(again) == "COMPLETED", START, "another run ends well")
    assert service.end() == 0
    said = lines_of(service.log.read_text())
    # What the schedule says, and what its run does.
    assert any("next 20" in one["message"] for one in said)
    assert any(one.get("logger") == "prefect.flow_runs" for one in said)
    if FULL:
        assert any(one["step"] == "index net.py:small" for one in said)


@full
@pytest.mark.parametrize("cluster", [False, True])
def test_a_run_that_is_killed_has_crashed_and_the_next_one_goes_on(tmp_path, cluster):
    lines = "[cluster]\nworkers = 1\n" if cluster else ""
    service = Service(tmp_path, lines=lines, where="Dask" if cluster else "Spawn")
    service.start()
    try:
        run = service.run_at_gate()
        victim = service.the("run")
        below = victim.children(recursive=True)
        assert not cluster or below
        victim.kill()
        until(lambda: service.state(run) == "CRASHED", END, "the run has crashed")
        until(lambda: not any(one.is_running() for one in below), END, "no worker is left")
        until(lambda: not service.steps_running(), SETTLED, "no step goes on")
        service.open()
        again = service.ask()
        until(lambda: service.state(again) == "COMPLETED", SLOT + START, "another run ends well")
        assert service.end() == 0
    finally:
        service.kill_all()


@full
def test_a_server_that_keeps_leases_in_memory_forgets_them(tmp_path):
    """What docs/prefect.md says of a server that is started without our setting, and with it."""
    for storage, free in (("memory", False), ("filesystem", True)):
        home = tmp_path / storage
        server, url = start_plain_server(home, storage)
        try:
            body = {"name": "one", "limit": 1}
            httpx.post(f"{url}/v2/concurrency_limits/", json=body).raise_for_status()
            lease = {"names": ["one"], "slots": 1, "mode": "concurrency", "lease_duration": 60}
            where = f"{url}/v2/concurrency_limits/increment-with-lease"
            httpx.post(where, json=lease).raise_for_status()
        finally:
            server.kill()
            server.wait()
        server, url = start_plain_server(home, storage)
        try:
            until_then = time.monotonic() + SLOT
            while (taken := slots_of(url)) and time.monotonic() < until_then:
                time.sleep(1)
            assert (taken == 0) == free, storage
        finally:
            server.kill()
            server.wait()


def start_plain_server(home, storage):
    """A Prefect server as a user starts it; gives its process and address."""
    port = free_port()
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    leases = f"prefect.server.concurrency.lease_storage.{storage}"
    server = subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)],
        env={**clean, "PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
             "DO_NOT_TRACK": "1", "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": leases},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}/api"

    def answers():
        try:
            return httpx.get(f"{url}/health").is_success
        except httpx.HTTPError:
            return False

    until(answers, START, "the server answers")
    return server, url


def slots_of(url):
    return httpx.get(f"{url}/v2/concurrency_limits/one").json()["active_slots"]


ORPHAN = """
import subprocess, sys
child = '''
import signal, sys, time
from alike.flows.parent import end_with_parent
stubborn = sys.argv[2] == "stubborn"
signal.signal(signal.SIGTERM, signal.SIG_IGN if stubborn else signal.SIG_DFL)
end_with_parent(int(sys.argv[1]))
print("up", flush=True)
time.sleep(600)
'''
import os
one = subprocess.Popen([sys.executable, "-c", child, str(os.getpid()), sys.argv[1]])
print(one.pid, flush=True)
one.wait()
"""


@pytest.mark.parametrize(("manner", "seconds"), [("willing", 5.0), ("stubborn", GRACE + 5.0)])
def test_a_child_ends_with_its_parent(manner, seconds):
    import psutil

    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, manner], stdout=subprocess.PIPE, text=True
    )
    child = psutil.Process(int(parent.stdout.readline()))
    assert parent.stdout.readline() == "up\n"
    assert child.is_running()
    parent.kill()
    parent.communicate()
    until(lambda: not child.is_running(), seconds, "the child has ended")
