"""Blocks run in order in a bounded window, and a run that dies half way goes on from there."""

import sys
import threading
from contextlib import contextmanager
from types import ModuleType

import pytest
from distributed import Client, LocalCluster

from alike.analysis.blocks.checkpoint import remembering
from alike.analysis.blocks.jobs import Jobs
from alike.extract.errors import BadInput
from alike.extract.store.store import Store

WORKERS = 2


@contextmanager
def threads():
    yield Jobs(None, WORKERS)


@contextmanager
def cluster():
    """Workers in this process, so that blocks can be counted here."""
    with (
        LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=1,
            processes=False,
            dashboard_address="127.0.0.1:0",
        ) as local,
        Client(local) as client,
    ):
        yield Jobs(client, WORKERS)


class Counts(ModuleType):
    """Blocks begun, and answers done but not taken; found by name, so that no copy travels."""

    def __init__(self):
        super().__init__("block_counts")
        self.lock = threading.Lock()
        self.begun = []
        self.done = self.taken = self.most = 0

    def work(self, item):
        with self.lock:
            self.begun.append(item)
            self.done += 1
            self.most = max(self.most, self.done - self.taken)
        return item * item

    def take(self):
        with self.lock:
            self.taken += 1


def square(item):
    import sys

    return sys.modules["block_counts"].work(item)


@pytest.mark.parametrize(("place", "blocks"), [(threads, 2000), (cluster, 300)])
def test_few_answers_wait_and_a_dead_run_goes_on_half_way(place, blocks, tmp_path, monkeypatch):
    files = Store.open(str(tmp_path / "store"), create=True).files
    for dies_at in (blocks // 2, None):
        counts = Counts()
        monkeypatch.setitem(sys.modules, "block_counts", counts)
        told = []
        with place() as jobs:

            def progress(name, done, total, note, counts=counts, told=told):
                counts.take()
                told.append(done)

            stage = jobs.stage("squares", progress)
            # Every 100 answers or so are written, as every ten seconds in a long run.
            kept = remembering(stage, files, "runs/x", every=0.01)
            answers = []
            for answer in kept(square, range(blocks)):
                answers.append(answer)
                if len(answers) == dies_at:
                    break
            assert answers == [item * item for item in range(len(answers))]
            assert told == list(range(1, len(told) + 1))
            assert counts.most < 4 * WORKERS
            if dies_at:
                assert len(told) == dies_at
                assert max(counts.begun) < dies_at + 4 * WORKERS
            else:
                assert len(answers) == blocks
                assert 0 < min(counts.begun) <= blocks // 2
                assert sorted(counts.begun) == list(range(min(counts.begun), blocks))


@pytest.mark.quick
def test_an_error_in_a_thread_reaches_the_caller_and_ends_the_rest():
    begun = []

    def fails(item):
        begun.append(item)
        if item == 5:
            raise BadInput("five")
        return item

    with pytest.raises(BadInput, match="five"):
        list(Jobs(None, 2).stage("stage")(fails, range(500)))
    assert max(begun) < 5 + 4 * 2
