"""`alike schedule` in processes of its own, on a free port, with a run that waits at a gate."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from changing_set import NETWORK, Place

ROOT = Path(__file__).parents[2]
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00")
COMMAND = "from alike.flows.cli import main; main()"
POLLED = {"PREFECT_RUNNER_POLL_FREQUENCY": "1", "OMP_NUM_THREADS": "1"}
START, END = 240.0, 60.0
"""Seconds in which a process must have started or ended: a busy machine is slow."""
BUSY = 60.0
"""Seconds for which a server that says 503 is asked again."""
GATE = """
import multiprocessing
import time
from pathlib import Path

here = Path(__file__).parent
if "{where}" in multiprocessing.current_process().name:
    (here / "at the gate").touch()
    while (here / "gate").exists():
        time.sleep(0.05)
"""
"""Part of the network's file: a process of that name waits in it while a file is there."""


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def until(condition, seconds, what):
    """Wait until a condition holds; gives its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"after {seconds:.0f} s still not: {what}"
        time.sleep(0.1)
    return value


def lines_of(text):
    """JSON lines: each must be an object with the four names that all have."""
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert list(line)[:4] == ["time", "level", "step", "message"], line
        assert TIME.fullmatch(line["time"])
        assert line["level"] in ("debug", "info", "warning", "error", "critical")
        assert isinstance(line["step"], str)
        assert isinstance(line["message"], str)
    return lines


@dataclass
class Service:
    """`alike schedule` of a set of 24 images, once a year, so that only tests start runs."""

    folder: Path
    port: int = field(default_factory=free_port)
    lines: str = ""
    variables: dict = field(default_factory=dict)
    where: str = "Spawn"
    process: Any = None

    def __post_init__(self):
        self.place = Place(self.folder)
        self.place.stores["out"] = self.lines
        self.settings = self.place.write_settings("out")
        (self.folder / "net.py").write_text(NETWORK + GATE.format(where=self.where))
        (self.folder / "gate").touch()

    def start(self):
        """Start it; returns once it serves."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
        self.log = self.folder / "schedule.log"
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", COMMAND, "schedule", str(self.settings),
                 "--cron", "0 0 1 1 *", "--timezone", "UTC", "--port", str(self.port)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
                env={**environment, **POLLED, "PYTHONPATH": str(ROOT), **self.variables},
            )  # fmt: skip
        self.until_served()

    def until_served(self):
        self.deployment = until(self._served, START, "the deployment is served")

    def _served(self):
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        try:
            (one,) = self.post("deployments/filter", {}) or [None]
        except (httpx.HTTPError, ValueError):
            return None
        return one if one and not one["paused"] and one["status"] == "READY" else None

    def post(self, where, body):
        end = time.monotonic() + BUSY
        while True:
            answer = httpx.post(f"http://127.0.0.1:{self.port}/api/{where}", json=body, timeout=30)
            # Its database was locked: Prefect's own client asks again too.
            if answer.status_code != 503 or time.monotonic() > end:
                answer.raise_for_status()
                return answer.json()
            time.sleep(0.5)

    def ask(self):
        """Ask for a run now; gives its id."""
        return self.post(f"deployments/{self.deployment['id']}/create_flow_run", {})["id"]

    def state(self, run):
        """Type of a run's state."""
        by_id = {"flow_runs": {"id": {"any_": [run]}}}
        return self.post("flow_runs/filter", by_id)[0]["state"]["type"]

    def slots(self):
        """Taken slots of all limits."""
        limits = self.post("v2/concurrency_limits/filter", {})
        return sum(one["active_slots"] for one in limits)

    def steps_running(self):
        """Names of the steps that the server takes for going on."""
        active = {"task_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}}
        return [one["name"] for one in self.post("task_runs/filter", active)]

    def run_at_gate(self):
        """Ask for a run and wait until it loads the network, where it stays; gives its id."""
        run = self.ask()
        until((self.folder / "at the gate").exists, START, "the run loads the network")
        assert self.state(run) == "RUNNING"
        return run

    def open(self):
        """Let runs pass the gate."""
        (self.folder / "gate").unlink(missing_ok=True)

    def family(self):
        """The serving process and all below it."""
        serving = psutil.Process(self.process.pid)
        return [serving, *serving.children(recursive=True)]

    def the(self, which):
        """One of the three: `server`, `serving` or `run`."""
        serving, *others = self.family()
        words = {one: " ".join(one.cmdline()) for one in others if one.ppid() == serving.pid}
        if which == "serving":
            return serving
        mark = "prefect_server" if which == "server" else "spawn_main"
        (found,) = [one for one, line in words.items() if mark in line]
        return found

    def end(self, how=signal.SIGTERM):
        """End it as systemd does; all of it must be gone, and the port free."""
        family = self.family()
        self.process.send_signal(how)
        self.gone(family)
        return self.process.wait(END)

    def gone(self, family):
        """Wait until none of these processes is left; the port must be free then."""
        _, left = psutil.wait_procs([one for one in family if one.pid != self.process.pid], END)
        assert not left, [one.cmdline() for one in left]
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("127.0.0.1", self.port))

    def kill_all(self):
        """After a test: nothing stays."""
        if self.process and self.process.poll() is None:
            for one in self.family():
                one.kill()
            self.process.wait()
