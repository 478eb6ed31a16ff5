"""Which faults are tried again, by the errors that libraries raise themselves."""

import errno
import socket

import pytest

from alike.extract.errors import AlikeError, BadInput, StoreBusy, StoreDamaged, StoreFull
from alike.extract.faults import passes


def raised_from(error, cause):
    error.__cause__ = cause
    return error


def answered(status):
    import httpx

    request = httpx.Request("GET", "http://127.0.0.1/")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status))


def client_error(status):
    exceptions = pytest.importorskip("botocore.exceptions")
    answer = {"Error": {"Code": "x"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return exceptions.ClientError(answer, "GetObject")


def no_endpoint():
    exceptions = pytest.importorskip("botocore.exceptions")
    return exceptions.EndpointConnectionError(endpoint_url="http://127.0.0.1")


def dropped():
    aiohttp = pytest.importorskip("aiohttp")
    return aiohttp.ServerDisconnectedError()


def killed_worker():
    from distributed.scheduler import KilledWorker

    return KilledWorker("key", None, 3)


def closed():
    from distributed.comm.core import CommClosedError

    return CommClosedError("gone")


def refused():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(ConnectionRefusedError) as caught:
        socket.create_connection(("127.0.0.1", port), timeout=5)
    return caught.value


@pytest.mark.parametrize(
    "make",
    [
        refused, no_endpoint, dropped, killed_worker, closed,
        lambda: TimeoutError("slow"), lambda: OSError(errno.EIO, "disk"),
        lambda: OSError(errno.ESTALE, "nfs"), lambda: answered(503), lambda: answered(429),
        lambda: client_error(500), lambda: raised_from(AlikeError("x"), ConnectionResetError()),
    ],
)  # fmt: skip
def test_faults_that_pass(make):
    assert passes(make())


@pytest.mark.quick
@pytest.mark.parametrize(
    "make",
    [
        lambda: BadInput("x"), lambda: StoreBusy("x"), lambda: StoreFull("x"),
        lambda: StoreDamaged("x"), lambda: ValueError("x"), lambda: MemoryError(),
        lambda: OSError(errno.ENOSPC, "full"), lambda: FileNotFoundError(errno.ENOENT, "gone"),
        lambda: PermissionError(errno.EACCES, "no"), lambda: answered(404),
        lambda: client_error(403), lambda: raised_from(BadInput("x"), ConnectionResetError()),
    ],
)  # fmt: skip
def test_faults_that_last(make):
    assert not passes(make())
