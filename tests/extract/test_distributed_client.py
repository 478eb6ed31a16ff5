"""Clusters that do not answer, or that go away while they work."""

import socket
import threading
import time
from contextlib import closing
from types import SimpleNamespace

import pytest
from distributed import KilledWorker
from distributed.client import FutureCancelledError

from alike.extract import distributed, distributed_client
from alike.extract.distributed import _check_gone, _compute, _Unseen
from alike.extract.distributed_client import _lack, _watched, dask_client
from alike.extract.errors import BadImage, BadInput, ClusterLost, NoCluster
from alike.extract.faults import passes
from alike.extract.images import image_id
from alike.extract.loading import Image


def server(answer):
    """A listening socket whose peers get these bytes, and then nothing."""
    listening = socket.create_server(("127.0.0.1", 0))
    peers = []

    def serve():
        try:
            while True:
                peer, _ = listening.accept()
                peer.sendall(answer)
                peers.append(peer)
        except OSError:
            for one in peers:
                one.close()

    threading.Thread(target=serve, daemon=True).start()
    return listening


@pytest.mark.quick
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_server_that_is_no_scheduler_is_left(answer):
    """Dask waits for ever for the end of the handshake."""
    with closing(server(answer)) as listening:
        address = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        begun = time.monotonic()
        with pytest.raises(NoCluster, match=f"no Dask scheduler at {address}"):
            dask_client(address, 0.3).__enter__()
        assert time.monotonic() - begun < 60
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.quick
def test_tls_without_certificates_is_one_line():
    with pytest.raises(NoCluster, match="TLS"):
        dask_client("tls://127.0.0.1:9", 0.3).__enter__()


class Cluster:
    """What a watch asks a client, and the tasks that it waits for."""

    def __init__(self, statuses=(), computing=()):
        self.futures = {"a": SimpleNamespace(status="pending")}
        self.workers = {
            f"tcp://h:{number}": {"status": one} for number, one in enumerate(statuses, 1)
        }
        self.computing = computing
        self.closed = threading.Event()

    def processing(self):
        return dict.fromkeys(self.workers, self.computing)

    def scheduler_info(self):
        return {"workers": self.workers}

    def close(self):
        self.closed.set()


@pytest.mark.quick
def test_why_nobody_computes():
    assert "no worker: start one by `dask worker`" in _lack(Cluster())
    assert "only paused workers" in _lack(Cluster(["paused", "paused"]))
    assert "--resources GPU=1" in _lack(Cluster(["running"]))
    assert not _lack(Cluster(["running"], ["a"]))
    done = Cluster()
    done.futures["a"].status = "finished"
    assert not _lack(done)


def lose(client, error, wait=lambda: True):
    with _watched(client, "the scheduler"):
        assert wait()
        raise error


@pytest.mark.quick
def test_work_that_no_worker_takes_is_told_and_given_up(monkeypatch, caplog):
    monkeypatch.setattr(distributed_client, "EVERY", 0.01)
    monkeypatch.setattr(distributed_client, "TOLD_AFTER", 0.0)
    monkeypatch.setattr(distributed_client, "LOST_AFTER", 0.1)
    client = Cluster()
    said = "the scheduler has no worker: start one by `dask worker`"
    with pytest.raises(ClusterLost, match=said) as lost:
        # Dask cancels what a closed client waits for.
        lose(client, FutureCancelledError("a", "closed"), lambda: client.closed.wait(60))
    assert "the same again goes on from there" in str(lost.value)
    assert passes(lost.value)
    assert said in caplog.text


@pytest.mark.quick
def test_a_lost_scheduler_and_killed_workers_are_one_line_and_tried_again():
    with pytest.raises(ClusterLost, match="is gone, or was started anew") as lost:
        lose(Cluster(), FutureCancelledError("a", "scheduler-connection-lost"))
    assert passes(lost.value)
    killed = KilledWorker("a", SimpleNamespace(address="tcp://h:1"), 3)
    with pytest.raises(ClusterLost, match=r"4 workers ended while .* last at tcp://h:1: ") as lost:
        lose(Cluster(), killed)
    assert passes(lost.value)


@pytest.mark.quick
def test_an_extraction_sees_that_the_scheduler_is_gone(monkeypatch):
    """Dask gives the error in the place of an answer."""
    gone = (SimpleNamespace(key="a"), FutureCancelledError("a", "scheduler-connection-lost"))
    monkeypatch.setattr("distributed.as_completed", lambda **_: iter([gone]))
    monkeypatch.setattr(distributed, "_recipe_of", lambda *_: None)
    client = SimpleNamespace(loop=None, scheduler_info=lambda: {"workers": {}})
    images = SimpleNamespace(runs=[SimpleNamespace(settings=SimpleNamespace(threads=1))])
    with pytest.raises(FutureCancelledError):
        _compute(client, images, {}, lambda *_: None)


@pytest.mark.quick
def test_a_worker_without_the_images_is_named():
    """All its images would count as missing; one that is gone here too is."""

    class Source:
        def read(self, path):
            if path != "there.png":
                raise BadImage("unreadable", "no such file")
            return b"bytes"

    unseen = _Unseen(
        Image(0, "there.png", image_id(b"bytes"), True), "tcp://h:1", "No such file or directory"
    )
    with pytest.raises(BadInput, match=r"worker at tcp://h:1 does not have there\.png"):
        _check_gone(Source(), unseen)
    gone = Image(0, "gone.png", image_id(b"bytes"), True)
    _check_gone(Source(), _Unseen(gone, "tcp://h:1", "No such file or directory"))
