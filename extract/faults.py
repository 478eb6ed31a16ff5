"""Which faults pass by themselves, so that a step may be tried again.

Those of a storage, a network or a worker do. Wrong input does not, whatever it was caused by, nor
does a full disk or a damaged file: trying again costs time and ends the same.
"""

import errno
import socket
from collections.abc import Iterator
from typing import Any

from alike.extract.errors import BadImage, BadInput, ClusterLost, StoreDamaged, StoreFull

_LASTING = (BadImage, BadInput, StoreDamaged, StoreFull)

_PASSING_NUMBERS = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EIO,
    errno.ENETDOWN,
    errno.ENETRESET,
    errno.ENETUNREACH,
    errno.EPIPE,
    errno.ESTALE,
    errno.ETIMEDOUT,
    socket.EAI_AGAIN,
}
"""Numbers of an `OSError`: of networks, of network file systems, and of a disk that stutters."""

_PASSING_NAMES = {
    "aiohttp.client_exceptions.ClientConnectionError",
    "aiohttp.client_exceptions.ClientPayloadError",
    "botocore.exceptions.ConnectionError",
    "botocore.exceptions.HTTPClientError",
    "concurrent.futures.process.BrokenProcessPool",
    "distributed.client.FutureCancelledError",
    "distributed.client.FuturesCancelledError",
    "distributed.comm.core.CommClosedError",
    "distributed.scheduler.KilledWorker",
    "httpx.TransportError",
    "urllib3.exceptions.ProtocolError",
    "urllib3.exceptions.TimeoutError",
}
"""Classes of libraries that may not be installed, or not be imported yet."""

_BUSY = 429
_SERVER_FAULT = 500


def passes(error: BaseException) -> bool:
    """Whether the fault may be gone when the same is done again.

    Args:
        error: with what it was raised from; one cause that lasts is enough to say no.

    Example:
        >>> passes(ConnectionResetError("peer")), passes(BadInput("no such tap"))
        (True, False)
    """
    chain = list(_with_causes(error))
    return not any(isinstance(one, _LASTING) for one in chain) and any(map(_passing, chain))


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__


def _passing(error: BaseException) -> bool:
    if isinstance(error, ClusterLost | ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno in _PASSING_NUMBERS:
        return True
    if any(f"{kind.__module__}.{kind.__name__}" in _PASSING_NAMES for kind in type(error).__mro__):
        return True
    status = _http_status(error)
    return status == _BUSY or status >= _SERVER_FAULT


def _http_status(error: BaseException) -> int:
    """The status with which a server answered, as botocore, aiohttp and httpx keep it; else 0."""
    answer: Any = getattr(error, "response", None)
    if isinstance(answer, dict):
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    else:
        status = getattr(answer, "status_code", None) or getattr(error, "status", 0)
    return status if isinstance(status, int) else 0
