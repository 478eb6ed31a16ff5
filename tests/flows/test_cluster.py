"""`[cluster]`: every step that can work on Dask workers does, and gives what it gives here."""

import os
import signal
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from changing_set import RIGHT, Place, without_prefect
from dask.utils import key_split
from distributed import Client, LocalCluster, SchedulerPlugin
from distributed.comm.tcp import TCP

from alike.analysis.blocks import jobs as blocks
from alike.analysis.blocks import open_jobs
from alike.extract.errors import BadInput
from alike.extract.store.store import Store
from alike.flows import steps
from alike.flows.cluster import Workers
from alike.flows.sections import ClusterSettings
from alike.flows.settings import read_pipeline
from alike.flows.steps import PipelineRun

MIB = 1 << 20


@pytest.fixture(scope="module")
def cluster():
    """Two processes; the scheduler lives in this one."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
        ) as local,
        Client(local) as client,
    ):
        client.wait_for_workers(2)
        local.scheduler.add_plugin(Ended(), name="ended")
        yield local


@pytest.fixture(scope="module")
def place(tmp_path_factory, cluster):
    """A set and two settings files that differ in where they compute."""
    made = Place(
        tmp_path_factory.mktemp("cluster"),
        now={**RIGHT, "measures": ["gap_cosine"], "train_share": 0.0},
    )
    for number in range(12):
        made.change("add", number)
    made.stores["there"] = f'[cluster]\ndask = "{cluster.scheduler_address}"\n'
    return made


class Ended(SchedulerPlugin):
    """Counts the tasks that ended well, by function."""

    def __init__(self):
        self.counts = Counter()

    def transition(self, key, start, finish, *_, **__):
        self.counts[key_split(key)] += (start, finish) == ("processing", "memory")


def tasks(cluster, name):
    """Tasks of a function that ended well."""
    return cluster.scheduler.plugins["ended"].counts[name]


def test_a_run_on_workers_gives_the_tables_of_one_here(place, cluster, monkeypatch):
    without_prefect(monkeypatch)
    tables, here = place.run("there"), place.run("here")
    assert tables.keys() == here.keys() >= {"scores", "neighbours", "class_pairs"}
    for name, table in here.items():
        pd.testing.assert_frame_equal(tables[name], table, rtol=0, atol=0, obj=name)
    assert tasks(cluster, "compute_unit") == 1
    assert tasks(cluster, "call") > 5
    one, two = (Store.open(place.folder / name / "store").features() for name in ("there", "here"))
    assert one.digest == two.digest
    (record,) = one.ledger.records().values()
    assert record.run["pid"] in {worker.pid for worker in cluster.workers.values()}
    # Where a run computes changes no result: no step runs again.
    seen = tasks(cluster, "compute_unit"), tasks(cluster, "call")
    place.stores["there"] = "[cluster]\nworkers = 2\n"
    place.run("there")
    assert (tasks(cluster, "compute_unit"), tasks(cluster, "call")) == seen


def test_two_networks_are_compared_by_workers(place, cluster):
    keys, tables = [], []
    for name in ("here", "there"):
        run = PipelineRun(read_pipeline(place.folder / f"{name}.toml"))
        if name == "there":
            run.workers = Workers(ClusterSettings(dask=cluster.scheduler_address))
        first = run.store().groups()[0]
        second = steps.extract_images(run, str(place.folder / "net.pth"), "other")
        keys.append((first, second))
        before = tasks(cluster, "call")
        tables.append(steps.set_side_by_side(run, first, second, "gap_cosine"))
        assert (tasks(cluster, "call") > before) == (name == "there")
    assert keys[0] == keys[1]
    assert tasks(cluster, "compute_unit") == 2
    pd.testing.assert_frame_equal(tables[0], tables[1], rtol=0, atol=0)


def test_an_unchanged_run_starts_no_workers(tmp_path, monkeypatch):
    workers = Workers(ClusterSettings(workers=2))
    workers.executor()
    assert not workers.here
    assert workers._address == ""
    workers.close()
    assert Workers(ClusterSettings()).here


@pytest.mark.quick
def test_what_may_be_written(tmp_path):
    def read(lines):
        file = tmp_path / "p.toml"
        file.write_text(f'[images]\nsource = "a"\n[network]\nname = "n"\n[cluster]\n{lines}')
        return read_pipeline(file)

    assert read("workers = 3").cluster.processes == 3
    assert read('dask = "local"').cluster.processes == len(os.sched_getaffinity(0))
    assert read('dask = "local"\nworkers = 2').cluster.processes == 2
    assert read('dask = "tcp://h:8786"').cluster.processes == 0
    assert read("workers = 3").written == read("").written
    with pytest.raises(BadInput, match=r"cluster\.dask = '10\.0\.0\.1'"):
        read('dask = "10.0.0.1"')
    with pytest.raises(BadInput, match="leave out dask or workers"):
        read('dask = "tcp://h:8786"\nworkers = 2')
    with pytest.raises(BadInput, match="workers = 0"):
        read("workers = 0")


def bytes_in(message):
    """Bytes of the buffers and arrays of a message, whatever holds them."""
    if isinstance(message, bytes | bytearray | memoryview | np.ndarray):
        return memoryview(message).nbytes
    if isinstance(message, dict):
        return sum(map(bytes_in, message.values()))
    if isinstance(message, list | tuple | set):
        return sum(map(bytes_in, message))
    return bytes_in(getattr(message, "frames", []))


class Sent:
    """Bytes of the largest message between this process, the scheduler's too, and each address."""

    def __init__(self, patch):
        self.most = {}
        write, read = TCP.write, TCP.read

        async def writes(comm, message, *args, **options):
            size = await write(comm, message, *args, **options)
            self.note(comm, size)
            return size

        async def reads(comm, *args, **options):
            message = await read(comm, *args, **options)
            self.note(comm, bytes_in(message))
            return message

        patch.setattr(TCP, "write", writes)
        patch.setattr(TCP, "read", reads)

    def note(self, comm, size):
        peer = comm.peer_address
        self.most[peer] = max(self.most.get(peer, 0), size)


def test_large_functions_and_answers_pass_the_scheduler_by(monkeypatch):
    draw = np.random.default_rng(0).random((1 << 18) + 7)
    with open_jobs(workers=2) as jobs:
        sent = Sent(monkeypatch)
        answers = list(jobs.stage("products")(lambda item: draw * item, range(4)))
        workers = set(jobs.client.scheduler_info()["workers"])
        scheduler = jobs.client.scheduler.address
        monkeypatch.undo()
    assert all(np.array_equal(answer, draw * item) for item, answer in enumerate(answers))
    assert draw.nbytes > 2 * MIB
    assert scheduler in sent.most
    to_workers = {peer: size for peer, size in sent.most.items() if peer in workers}
    assert max(size for peer, size in sent.most.items() if peer not in workers) < MIB
    assert max(to_workers.values()) > 2 * MIB


def test_a_large_function_outlives_its_only_worker(monkeypatch):
    monkeypatch.setattr(blocks, "LARGE", 0)
    answers = []
    with open_jobs(workers=1) as jobs:
        (pid,) = jobs.client.run(os.getpid).values()
        for answer in jobs.stage("squares")(lambda item: item * item, range(12)):
            answers.append(answer)
            if len(answers) == 2:
                os.kill(pid, signal.SIGKILL)
    assert answers == [item * item for item in range(12)]
