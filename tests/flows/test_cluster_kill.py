"""`kill -9` of a worker and of the scheduler of `[cluster] dask` in the middle of a run.

A real scheduler, real workers and a real run, each a process of its own. What was killed is started
again, as systemd would do. The run ends by itself, with the tables of a run without workers.
"""

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
from changing_set import NETWORK, RIGHT, Place, by_id, without_prefect
from distributed import Client

from alike.analysis.stored import Analysis
from alike.extract.store.store import Store

ROOT = Path(__file__).parents[2]
SLOW = "    def forward(self, x):\n        time.sleep(0.5)\n"
"""A pass that lasts: the network is told by its code, so a run without workers has it too."""
SETTINGS = """
[cluster]
dask = "{address}"
[prefect]
retries = 8
retry_seconds = 1.0
"""


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Processes:
    """A scheduler and its workers."""

    def __init__(self, folder):
        self.folder, self.port = folder, free_port()
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.running = []

    def start(self, *words):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        log = (self.folder / f"{len(self.running)}.log").open("w")
        command = [sys.executable, "-m", *words]
        one = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=self.folder)
        log.close()
        self.running.append(one)
        return one

    def scheduler(self):
        return self.start(
            "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(self.port),
            "--no-dashboard",
        )  # fmt: skip

    def worker(self):
        return self.start(
            "distributed.cli.dask_worker", self.address, "--no-nanny", "--nthreads", "1",
            "--no-dashboard", "--host", "127.0.0.1",
        )  # fmt: skip

    def stop(self):
        for one in self.running:
            if one.poll() is None:
                one.kill()
            one.wait(30)


@pytest.fixture
def processes(tmp_path):
    made = Processes(tmp_path)
    try:
        yield made
    finally:
        made.stop()


def started(place):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    log = (place.folder / "run.log").open("w")
    command = "from alike.flows.cli import main; main()"
    run = subprocess.Popen(
        [sys.executable, "-c", command, "run", str(place.folder / "out.toml")],
        env={**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=log,
        stderr=log,
    )
    log.close()
    return run


def wait_for(condition, seconds=240.0):
    end = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return answer


def working(client):
    """Addresses of the workers that compute."""
    return [at for at, keys in client.processing().items() if keys]


def test_a_killed_worker_and_a_killed_scheduler_change_no_result(tmp_path, processes, monkeypatch):
    place = Place(tmp_path, now={**RIGHT, "measures": ["gap_cosine"]})
    slow = NETWORK.replace("import torch\n", "import time\n\nimport torch\n", 1)
    (tmp_path / "net.py").write_text(slow.replace("    def forward(self, x):\n", SLOW))
    place.stores["out"] = SETTINGS.format(address=processes.address)
    place.write_settings("out")
    processes.scheduler()
    workers = {one.pid: one for one in (processes.worker(), processes.worker())}
    run = started(place)
    try:
        with Client(processes.address, timeout=60) as client:
            client.wait_for_workers(2, timeout=60)
            busy = wait_for(lambda: working(client))
            pid = client.run(os.getpid, workers=busy[:1])[busy[0]]
            workers[pid].kill()
            # Lines of the run are in the log before its step begins.
            wait_for(lambda: "analyse network" in (tmp_path / "run.log").read_text())
            wait_for(lambda: working(client))
        scheduler, *_ = processes.running
        scheduler.kill()
        scheduler.wait(30)
        for one in workers.values():
            one.kill()
            one.wait(30)
        time.sleep(1.0)
        processes.scheduler()
        processes.worker()
        status = run.wait(300)
    finally:
        if run.poll() is None:
            family = psutil.Process(run.pid).children(recursive=True)
            for one in (*family, run):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
    log = (tmp_path / "run.log").read_text()
    assert status == 0, log
    assert "tried again" in log
    without_prefect(monkeypatch)
    here = place.run("here")
    store = Store.open(tmp_path / "out" / "store")
    served = store.features()
    assert served.digest == Store.open(tmp_path / "here" / "store").features().digest
    view = store.images()
    ids = dict(zip(view["row"], view["image_id"], strict=True))
    for name, table in Analysis.load(store, served.key).tables.items():
        there = by_id(name, table, ids)
        pd.testing.assert_frame_equal(there, here[name], rtol=0, atol=0, obj=name)
