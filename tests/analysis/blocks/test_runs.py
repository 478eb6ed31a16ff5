"""Where and how often blocks run changes no answer: threads, workers, runs that die."""

import hashlib
import os
import signal
import urllib.request
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from distributed import LocalCluster
from typer.testing import CliRunner

from alike.analysis.analyse import AnalysisSettings, analyse
from alike.analysis.blocks import Statistic, checkpoint, jobs, vectors
from alike.analysis.classes.geometry import ClassGeometry
from alike.analysis.compare import compare
from alike.analysis.stored import Analysis
from alike.extract.errors import BadInput
from alike.flows.cli import app


@pytest.fixture
def features(tmp_path, made, write_features):
    return write_features(tmp_path / "store", made)


def value(analysis, measure, score):
    rows = analysis.tables["scores"]
    return float(rows[(rows["measure"] == measure) & (rows["score"] == score)]["value"].iloc[0])


def test_a_run_that_dies_resumes_from_finished_blocks(tmp_path, make, write_features, monkeypatch):
    monkeypatch.setattr(vectors, "SLAB", 256)
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    monkeypatch.setattr(checkpoint, "WRITING", 0.0)
    made = make(sizes=(700, 500))
    features = write_features(tmp_path / "s", made, taps=["gap"])
    wanted = analyse(features, AnalysisSettings(measures=["gap_cosine"], bootstrap=5))
    calls = []

    def dies(stage, done, total, note=""):
        calls.append(stage)
        if stage.endswith("pairs") and done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyse(features, AnalysisSettings(measures=["gap_cosine"], bootstrap=5), progress=dies)
    kept = [path for path in features.store.path("runs").rglob("*.npz") if "pairs" in path.parts]
    assert [path.name for path in kept] == ["to-000000008.npz"]
    seen = {}
    settings = AnalysisSettings(measures=["gap_cosine"], bootstrap=5)
    found = analyse(
        features, settings,
        progress=lambda stage, done, total, note="": seen.setdefault(stage, total),
    )  # fmt: skip
    assert "gap_cosine moments" not in seen
    assert seen["gap_cosine pairs"] < 15
    for name, table in wanted.tables.items():
        pd.testing.assert_frame_equal(found.tables[name], table)
    assert not [path for path in features.store.path("runs").rglob("*") if path.is_file()]


LATER = ("neighbours", "influence", "folds", "folds interval")


def test_a_run_that_dies_keeps_the_measures_that_were_finished(
    tmp_path, make, write_features, monkeypatch
):
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    features = write_features(tmp_path / "s", make(sizes=(30, 20, 1)))
    measures = ["chamfer", "gap_cosine", "gap_euclid"]
    wanted = analyse(features, AnalysisSettings(measures=measures, bootstrap=5))

    def dies(stage, done, total, note=""):
        if stage == "gap_euclid neighbours":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyse(features, AnalysisSettings(measures=measures, bootstrap=5), progress=dies)
    seen = set()
    again = {"progress": lambda stage, *more: seen.add(stage)}
    settings = AnalysisSettings(measures=measures, bootstrap=5)
    found = analyse(features, settings, **again)
    assert seen == {f"gap_euclid {stage}" for stage in LATER}
    for name, table in wanted.tables.items():
        pd.testing.assert_frame_equal(found.tables[name], table)
    assert not [path for path in features.store.path("runs").rglob("*") if path.is_file()]
    # Other labels are another question, and a table that was damaged is made again.
    with pytest.raises(KeyboardInterrupt):
        analyse(features, AnalysisSettings(measures=measures, bootstrap=5), progress=dies)
    kept = next(features.store.path("runs").rglob("per_class.parquet"))
    kept.write_bytes(kept.read_bytes()[:100])
    found = analyse(features, settings, **again)
    assert "gap_cosine pairs" in seen
    for name, table in wanted.tables.items():
        pd.testing.assert_frame_equal(found.tables[name], table)


@pytest.mark.quick
def test_a_damaged_block_is_done_again(tmp_path, features):
    files = features.store.files
    answers = [np.arange(3), (np.ones(2), np.zeros(1))]
    files.write("runs/x/000000000-000000002.npz", checkpoint.pack(answers))
    files.write("runs/x/000000002-000000004.npz", b"not a zip file")
    asked = []

    def run(function, items):
        asked.extend(items)
        return map(function, items)

    found = list(checkpoint.remembering(run, files, "runs/x")(lambda item: item, range(5)))
    assert asked == [2, 3, 4]
    assert found[2:] == [2, 3, 4]
    assert np.array_equal(found[1][0], np.ones(2))


def test_answers_of_another_version_are_computed_again(tmp_path, features):
    """Version 0.9 called `ClassGeometry` `Shape`; later ones may give it other fields."""

    @dataclass(frozen=True)
    class Shape:
        scatter: np.ndarray

    answers = [Shape(np.ones(2)), Shape(np.zeros(2))]
    assert len(checkpoint.unpack(checkpoint.pack(answers), [Shape])) == 2
    assert checkpoint.unpack(checkpoint.pack(answers), [ClassGeometry]) == []
    renamed = type("ClassGeometry", (Shape,), {})
    assert checkpoint.unpack(checkpoint.pack([renamed(np.ones(2))]), [ClassGeometry]) == []
    files = features.store.files
    files.write("runs/x/000000000-000000002.npz", checkpoint.pack(answers))
    files.write("runs/x/._00000000-000000002.npz", b"of a file manager")
    stage = checkpoint.remembering(map, files, "runs/x", [ClassGeometry], every=0.0)
    assert list(stage(lambda item: item, range(3))) == [0, 1, 2]
    # What was written in its place is read the next time.
    stage = checkpoint.remembering(map, files, "runs/x", [ClassGeometry])
    assert list(stage(lambda item: 1 / 0, range(3))) == [0, 1, 2]


@dataclass(frozen=True)
class Sum:
    """In place, as the largest states are; with what else a state may hold."""

    total: np.ndarray
    wide: np.ndarray
    seen: list

    @classmethod
    def none(cls):
        return cls(np.zeros(3), np.zeros((400, 400), dtype=np.int64), [])

    def plus(self, part):
        self.total[:] += part
        self.wide[0] += 1 << 20
        self.seen.append((int(part[0] * 1e6), "x"))
        return self


@pytest.mark.quick
def test_sums_go_on_from_their_last_state_bit_for_bit(tmp_path, features, monkeypatch):
    """A run that dies after every few blocks, whose last file is damaged once, and lies once."""
    monkeypatch.setattr(checkpoint, "WRITING", 0.0)
    files, folder = features.store.files, features.store.path("runs/x")
    draw = np.random.default_rng(0).standard_normal((200, 3))

    def statistic():
        return Statistic(
            items=list(range(200)), chunk=lambda at: draw[at], start=Sum.none, combine=Sum.plus
        )

    wanted, asked = statistic().compute(), []

    def dying(function, items):
        for at in items[: 30 if items else 0]:
            asked.append(at)
            yield function(at)
        if len(items) > 30:
            raise KeyboardInterrupt

    def found():
        return sorted(path.name for path in folder.glob("*"))

    for run in range(9):
        stage = checkpoint.remembering(dying, files, "runs/x", [Sum], every=0.0)
        if run == 2:
            (folder / found()[-1]).write_bytes(b"cut off")
        if run == 5:
            files.write("runs/x/to-000000999.npz", checkpoint.pack([Sum.none()]))
        if run == 6:
            files.write("runs/x/000000000-000000002.npz", checkpoint.pack([1, 2]))
        try:
            got = statistic().compute(stage)
        except KeyboardInterrupt:
            # What was joined before is deleted, so that the disk does not fill.
            assert [name for name in found() if name.startswith("to-")] == [
                f"to-{asked[-1] + 1:09d}.npz"
            ]
            continue
    assert np.array_equal(got.total, wanted.total)
    assert got.wide.dtype == np.int64
    assert np.array_equal(got.wide, wanted.wide)
    assert got.seen == wanted.seen
    assert asked.count(0) == 2
    assert len(asked) == 200 + 60


def test_answers_do_not_wait_by_the_gigabyte(tmp_path, features, monkeypatch):
    """In a run of more than ten seconds what waits to be written is bounded by its bytes."""
    monkeypatch.setattr(checkpoint, "MOST", 1 << 20)
    clock = iter(range(10_000))
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: next(clock) / 10)
    files = features.store.files
    stage = checkpoint.remembering(map, files, "runs/x", every=10.0)
    list(stage(lambda at: np.zeros(1 << 16), range(300)))
    sizes = {path.name: path.stat().st_size for path in features.store.path("runs/x").glob("*")}
    assert max(list(sizes.values())[1:]) > 1 << 20
    first, *rest = (sizes[name] for name in sorted(sizes))
    # Of the first ten seconds all, as a short run writes nothing.
    assert first > 40 << 20
    assert max(rest) < 2 << 20


def test_workers_give_what_threads_give(tmp_path, make, write_features, monkeypatch):
    monkeypatch.setattr(vectors, "SLAB", 256)
    features = write_features(tmp_path / "s", make(sizes=(300, 200, 100)))
    wanted = analyse(features, AnalysisSettings(measures=["gap_cosine", "map_cosine"], bootstrap=5))
    one = jobs.Jobs(None, 1)
    alone = analyse(
        features, AnalysisSettings(measures=["gap_cosine", "map_cosine"], bootstrap=5), jobs=one
    )
    for name, table in wanted.tables.items():
        pd.testing.assert_frame_equal(alone.tables[name], table)
    with jobs.open_jobs(workers=1) as cluster:
        page = urllib.request.urlopen(cluster.dashboard, timeout=60).read()
        assert b"Dask" in page
        # The same cluster again, as a user who has one names it.
        said = CliRunner().invoke(app, [
            "analyse", "--store", features.store.url, "--measures", "gap_cosine,map_cosine",
            "--bootstrap", "5", "--cluster", cluster.client.scheduler.address,
        ])  # fmt: skip
        assert said.exit_code == 0, said.output
        assert f"dask dashboard: {cluster.dashboard}" in said.stderr
        side = compare(features, features, bootstrap=5, jobs=cluster)
        pd.testing.assert_frame_equal(side, compare(features, features, bootstrap=5))
        again = Analysis.load(features.store, features.key)
        for name, table in wanted.tables.items():
            pd.testing.assert_frame_equal(again.tables[name], table, check_dtype=False)
        found = analyse(
            features,
            AnalysisSettings(measures=["gap_cosine", "map_cosine"], bootstrap=5),
            jobs=cluster,
        )
    for name, table in wanted.tables.items():
        pd.testing.assert_frame_equal(found.tables[name], table)


def test_any_order_of_rows_gives_the_same_answer(tmp_path, make, write_features):
    made = make(sizes=(300, 200, 100))
    order = np.random.default_rng(5).permutation(600)
    ids = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(600)]
    straight = write_features(tmp_path / "s", made, ids=ids)
    made.arrays = {name: values[order] for name, values in made.arrays.items()}
    made.labels = [made.labels[i] for i in order]
    turned = write_features(tmp_path / "t", made, ids=[ids[i] for i in order])
    measures = ["gap_cosine", "gap_euclid", "softmax_dot"]
    one, other = (
        analyse(f, AnalysisSettings(measures=measures, bootstrap=0)) for f in (straight, turned)
    )
    # Folds are dealt by position, so this one only agrees within its interval.
    rows = [a.tables["scores"].query("score != 'balanced_accuracy'") for a in (one, other)]
    assert list(rows[0]["score"]) == list(rows[1]["score"])
    np.testing.assert_allclose(rows[0]["value"], rows[1]["value"], rtol=2e-4, atol=1e-6)
    for name in ("class_pairs", "per_class"):
        left, right = (a.tables[name] for a in (one, other))
        pd.testing.assert_frame_equal(left, right, rtol=2e-3, atol=1e-4)


def test_a_lost_worker_costs_its_blocks_only(tmp_path, make, write_features, monkeypatch):
    monkeypatch.setattr(vectors, "SLAB", 512)
    features = write_features(tmp_path / "s", make(sizes=(75,) * 40), taps=["gap"])
    wanted = analyse(features, AnalysisSettings(measures=["gap_cosine"], bootstrap=20))
    killed = []
    with jobs.open_jobs(workers=2) as cluster:
        workers = list(cluster.client.run(os.getpid).values())

        def kills(stage, done, total, note=""):
            if stage.endswith("influence") and done == 1 and not killed:
                killed.append(workers[0])
                os.kill(workers[0], signal.SIGKILL)

        found = analyse(
            features,
            AnalysisSettings(measures=["gap_cosine"], bootstrap=20),
            jobs=cluster,
            progress=kills,
        )
    assert killed
    for name, table in wanted.tables.items():
        # A worker has no torch, and with some kernels another product than this process, which
        # rounds float32 otherwise: half a unit of a distance in the last place is 6e-8.
        pd.testing.assert_frame_equal(found.tables[name], table, atol=2e-7)


def test_no_scheduler_at_the_address():
    with (
        pytest.raises(BadInput, match="no Dask scheduler at tcp://127"),
        jobs.open_jobs("tcp://127.0.0.1:9", timeout=1),
    ):
        pass


def test_a_scheduler_without_workers_is_told():
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        pytest.raises(BadInput, match="has no worker after 1 s: start one by `dask worker inproc:"),
        jobs.open_jobs(cluster.scheduler_address, timeout=1),
    ):
        pass
