"""`[cluster]`: every step that can work on Dask workers does, and gives what it gives here."""

import json
import os
import signal
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from changing_set import NETWORK, RIGHT, Place, without_prefect
from dask.utils import key_split
from distributed import Client, LocalCluster, Nanny, Scheduler, SchedulerPlugin, SpecCluster
from distributed.comm.tcp import TCP
from typer.testing import CliRunner

from alike.analysis.analyse import AnalysisSettings, evaluate
from alike.analysis.blocks import jobs as blocks
from alike.analysis.blocks import open_jobs
from alike.analysis.explain import all_images
from alike.analysis.explain.all_images import explain_set, stored_relevance
from alike.analysis.explain.continuity.stored import continuity_of, read_continuity
from alike.analysis.maps import MapSettings, make_map
from alike.extract import distributed
from alike.extract.embedding import embed_blocks
from alike.extract.errors import AlikeError, BadInput
from alike.extract.images import open_source
from alike.extract.measures import ready_measure
from alike.extract.networks import load_network
from alike.extract.store.store import Store
from alike.flows import cluster as flows_cluster
from alike.flows import steps
from alike.flows.cli import app
from alike.flows.cluster import Workers, cluster_jobs, place_of, row_mapper
from alike.flows.explaining import graded
from alike.flows.sections import ClusterSettings
from alike.flows.settings import read_pipeline
from alike.flows.steps import PipelineRun
from alike.index.build import embed

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
        now={
            **RIGHT,
            "measures": ["gap_cosine"],
            "train_share": 0.0,
            "index": "map_cosine",
        },
    )
    for number in range(12):
        made.change("add", number)
    made.stores["there"] = f'[cluster]\ndask = "{cluster.scheduler_address}"\n'
    return made


class Ended(SchedulerPlugin):
    """Counts the tasks that ended well, by function, and the most that there were at once."""

    def __init__(self):
        self.counts, self.there, self.most = Counter(), set(), 0

    def transition(self, key, start, finish, *_, **__):
        self.counts[key_split(key)] += (start, finish) == ("processing", "memory")
        (self.there.discard if finish == "forgotten" else self.there.add)(key)
        self.most = max(self.most, len(self.there))


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
    assert len(set(map(index_bytes, (one, two)))) == 1
    (record,) = one.ledger.records().values()
    assert record.run["pid"] in {worker.pid for worker in cluster.workers.values()}
    # Where a run computes changes no result: no step runs again.
    seen = tasks(cluster, "compute_unit"), tasks(cluster, "call")
    place.stores["there"] = "[cluster]\nworkers = 2\n"
    place.run("there")
    assert (tasks(cluster, "compute_unit"), tasks(cluster, "call")) == seen


def index_bytes(features):
    (file,) = Path(features.store.path("index")).glob("*/map_cosine/*.faiss")
    return file.read_bytes()


def test_rows_of_feature_maps_are_embedded_by_workers(place, cluster):
    """Those of vectors are read here: workers would only send what they read."""
    there, here = (
        Store.open(place.folder / name / "store").features() for name in ("there", "here")
    )
    rows = here.table()["row"].to_numpy()
    ready = ready_measure(here, "map_cosine")
    settings = MapSettings("map_cosine", split="all")
    with cluster_jobs(cluster.scheduler_address) as jobs:
        assert row_mapper(jobs, here, "gap_cosine", "embed") is map
        before = tasks(cluster, "call")
        by_workers = row_mapper(jobs, here, "map_cosine", "embed")
        blocks = list(embed_blocks(here, ready, rows, 8, by_workers))
        assert tasks(cluster, "call") == before + len(blocks) > before + 3
        table = make_map(there, settings, map_blocks=row_mapper(jobs, there, "map_cosine", "map"))
        # Two passes over one block: of sums, and of projections.
        assert tasks(cluster, "call") == before + len(blocks) + 2
    np.testing.assert_array_equal(np.concatenate(blocks), embed(here, ready, rows))
    pd.testing.assert_frame_equal(table, make_map(here, settings), rtol=0, atol=0)
    with cluster_jobs(None) as jobs:
        assert row_mapper(jobs, here, "map_cosine", "embed") is map


def test_every_image_is_explained_by_workers(place, cluster, monkeypatch):
    monkeypatch.setattr(all_images, "PART", 15)
    there, here = (
        Store.open(place.folder / name / "store").features() for name in ("there", "here")
    )
    methods = ("sa", "cam")
    before = tasks(cluster, "call")
    with cluster_jobs(cluster.scheduler_address) as jobs:
        report = explain_set(there, methods=methods, map_parts=jobs.stage("explain"))
        n_parts = -(-len(there.table("held_out")) // 15)
        assert tasks(cluster, "call") == before + n_parts * len(methods)
        # What is there is asked of nobody.
        again = explain_set(there, methods=methods, map_parts=jobs.stage("explain"))
        assert tasks(cluster, "call") == before + n_parts * len(methods)
    local = explain_set(here, methods=methods)
    assert (report.n_computed, report.n_reused, again.n_computed) == (len(local.table), 0, 0)
    pd.testing.assert_frame_equal(report.table, local.table, rtol=0, atol=0)
    for method in methods:
        parts = [list(stored_relevance(one, method)) for one in (there, here)]
        for one, other in zip(*parts, strict=True):
            assert one.keys() == other.keys()
            for name in one:
                np.testing.assert_array_equal(one[name], other[name])


def test_continuity_is_measured_by_workers_method_by_method(place, cluster):
    there, here = (
        Store.open(place.folder / name / "store").features() for name in ("there", "here")
    )
    asked = {"methods": ("sa", "lrp", "cam"), "n_images": 6}
    before, left_out = tasks(cluster, "call"), {"there": [], "here": []}
    with cluster_jobs(cluster.scheduler_address) as jobs:
        stage = jobs.stage("continuity")
        remote = continuity_of(there, map_methods=stage, tell=left_out["there"].append, **asked)
    assert tasks(cluster, "call") == before + 3
    local = continuity_of(here, tell=left_out["here"].append, **asked)
    assert left_out["there"] == left_out["here"]
    pd.testing.assert_frame_equal(remote.table, local.table, rtol=0, atol=0)
    pictures = [read_continuity(one.store, one.key)[1] for one in (there, here)]
    assert pictures[0] == pictures[1]


def test_explainers_are_graded_by_workers_method_by_method(place, cluster):
    there, here = (
        Store.open(place.folder / name / "store").features() for name in ("there", "here")
    )
    asked = {"methods": ("sa", "lrp", "cam", "likeness"), "limit": 6, "split": "held_out"}
    before, left_out = tasks(cluster, "call"), {"there": [], "here": []}
    with cluster_jobs(cluster.scheduler_address) as jobs:
        stage = jobs.stage("grade")
        remote = graded(there, map_methods=stage, tell=left_out["there"].append, **asked)
    assert tasks(cluster, "call") == before + 4
    local = graded(here, tell=left_out["here"].append, **asked)
    assert left_out["there"] == left_out["here"]
    assert remote.keys() == local.keys() == {"grade", "pair_grade"}
    for name, table in local.items():
        pd.testing.assert_frame_equal(remote[name], table, rtol=0, atol=0)


def test_images_are_signed_by_workers(place, cluster):
    """Signatures and twins of a store that has none, as of one that an earlier version made."""
    stores = {name: Store.open(place.folder / name / "store") for name in ("there", "here")}
    tables = {}
    for name, store in stores.items():
        for file in store.files.walk("twins"):
            store.files.remove(f"twins/{file}")
        store.write_settings({**store.settings(), "written": []})
        option = ["--cluster", cluster.scheduler_address] if name == "there" else []
        done = CliRunner().invoke(app, ["twins", "--store", store.url, "--json", *option])
        assert done.exit_code == 0, done.output
        said = json.loads(done.stdout)
        assert said["unsigned"] == 0
        tables[name] = said["pairs"], [one.tolist() for one in store.signatures.read()]
    assert tables["there"] == tables["here"]
    assert len(tables["here"][1][0]) > 6


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
def test_what_an_option_may_name(monkeypatch, capsys):
    cores = len(os.sched_getaffinity(0))
    named = [None, "local", "3", 4, "tcp://h:8786", "tls://h:1"]
    assert [place_of(one) for one in named] == [None, cores, 3, 4, "tcp://h:8786", "tls://h:1"]
    for wrong in (
        "http://h:1",
        "tcp://h",
        "0",
        "-1",
        "1025",
        "1.5",
        "10.0.0.1",
        "10.0.0.1:8786",
        "\u0663",
        "",
    ):
        with pytest.raises(BadInput, match="expected local, a number of processes from 1 to 1024"):
            place_of(wrong)
    before = {"extract": "--workers", "analyse": "--dask", "compare": "--workers"}
    for command, option in {**before, "index": "--shards"}.items():
        asked = [command, "--store", "none", *(["set", "--network", "n"] * (command == "extract"))]
        asked += ["a", "b"] * (command == "compare") + ["--on-disk"] * (command == "index")
        done = CliRunner().invoke(app, [*asked, option, "tcp://h:1"])
        assert f"note: {option} tcp://h:1 is now --cluster tcp://h:1\n" in done.stderr
        assert isinstance(done.exception, AlikeError)


@pytest.mark.quick
def test_no_worker_starts_for_rows_of_vectors(monkeypatch, caplog):
    started = []

    @contextmanager
    def jobs(place):
        started.append(place)
        yield place

    monkeypatch.setattr(flows_cluster, "cluster_jobs", jobs)
    for saves, place in ((False, None), (True, 4)):
        monkeypatch.setattr(flows_cluster, "_saves_reading", lambda *_, saves=saves: saves)
        with flows_cluster.row_jobs("4", [None], "gap_cosine") as used:
            assert used == place
    assert started == [None, 4]
    assert caplog.messages == [
        "note: workers (4) are not used: they embed feature maps, and gap_cosine reads vectors"
    ]


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


def test_the_scheduler_sees_few_units_of_an_extraction_at_once(tmp_path, cluster, monkeypatch):
    draw = np.random.default_rng(0)
    images = draw.integers(0, 255, (4 * 1024, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=np.arange(len(images)) % 3)
    (tmp_path / "net.py").write_text(NETWORK.replace("[8, 8]", "[4, 4]"))
    network = load_network(f"{tmp_path / 'net.py'}:small")
    monkeypatch.setattr(distributed, "AHEAD", 1)
    seen = cluster.scheduler.plugins["ended"]
    seen.most, before = 0, seen.counts["compute_unit"]
    store = Store.open(tmp_path / "store", create=True)
    sent = Sent(monkeypatch)
    distributed.extract_distributed(
        open_source(str(tmp_path / "set.npz")), network, store,
        workers=cluster.scheduler_address, device="cpu", batch_size=256, threads=2,
    )  # fmt: skip
    assert seen.counts["compute_unit"] == before + 4
    # One a worker, and one that is done and not yet forgotten.
    assert seen.most <= 3
    assert max(sent.most.values()) < MIB // 8


def test_workers_with_a_gpu_extract_if_any_says_that_it_has_one(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (1500, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=np.arange(1500) % 3)
    (tmp_path / "net.py").write_text(NETWORK.replace("[8, 8]", "[4, 4]"))
    network = load_network(f"{tmp_path / 'net.py'}:small")
    source, store = open_source(str(tmp_path / "set.npz")), Store.open(tmp_path / "s", create=True)
    plain, able = ({"nthreads": 1, "resources": {"GPU": n} if n else {}} for n in (0, 1))
    workers = {at: {"cls": Nanny, "options": one} for at, one in enumerate((plain, able))}
    scheduler = {"cls": Scheduler, "options": {"dashboard": False, "port": 0}}
    with SpecCluster(workers, scheduler) as made, Client(made) as client:
        client.wait_for_workers(2)
        there = client.scheduler_info()["workers"]
        (at,) = [name for name, one in there.items() if one["resources"]]
        pid = client.run(os.getpid, workers=[at])[at]
        distributed.extract_distributed(
            source, network, store, workers=made.scheduler_address, device="cpu", threads=2
        )
    records = store.features().ledger.records().values()
    assert [record.run["pid"] for record in records] == [pid, pid]


def test_moments_of_many_classes_pass_the_scheduler_by(tmp_path, cluster, monkeypatch):
    """Second moments of 40 classes of 256 numbers are 21 MB, both as a function and an answer."""
    draw, n = np.random.default_rng(0), 240
    store = Store.open(tmp_path / "store", create=True)
    ids = [f"{row:064x}" for row in range(2**200, 2**200 + n)]
    listing = pd.DataFrame({"image_id": ids, "path": ids, "size": 1, "state": "ok", "reason": ""})
    store.list_images(listing.assign(label=[f"class {row % 40:02}" for row in range(n)]))
    shapes = {"gap": ((256,), "float32"), "fc": ((256,), "float32")}
    features = store.create_features({"network": "n", "weights_hash": "0" * 64}, "n-1", shapes)
    values = draw.standard_normal((n, 256)).astype(np.float32)
    features.write_unit(0, {"gap": values, "fc": values})
    settings = AnalysisSettings(measures=("gap_euclid",), bootstrap=0)
    here = evaluate(features, settings)
    with cluster_jobs(cluster.scheduler_address) as jobs:
        sent = Sent(monkeypatch)
        there = evaluate(features, settings, jobs=jobs)
        workers = set(jobs.client.scheduler_info(n_workers=-1)["workers"])
    monkeypatch.undo()
    pd.testing.assert_frame_equal(there, here, rtol=0, atol=0)
    to_workers = {peer: size for peer, size in sent.most.items() if peer in workers}
    assert max(to_workers.values()) > 20 * MIB
    assert max(size for peer, size in sent.most.items() if peer not in workers) < MIB


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
