"""A client of Dask workers that ends with one line if the cluster does not answer, or is lost.

Dask itself waits for ever for a peer that accepts a connection and says nothing, and for workers
if all are gone.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

from alike.extract.errors import ClusterLost, NoCluster

LOG = logging.getLogger(__name__)
STARTING = "300s"
"""How long workers started here may take until they answer."""
EVERY = 5.0
"""Seconds between two looks at the workers."""
TOLD_AFTER, LOST_AFTER = 30.0, 600.0
"""Seconds without a worker that takes tasks until a line says so, and until the work ends."""


@contextmanager
def dask_client(
    workers: str | int, timeout: float = 30.0, *, dashboard: bool = False
) -> Iterator[Any]:
    """A client of Dask workers; processes that are started here end with it.

    Args:
        workers: a number of processes of this machine, or the address of a scheduler.
        timeout: seconds to wait for that scheduler, and for its first worker.
        dashboard: whether workers started here have one, on a free port of this machine.

    Raises:
        NoCluster: no scheduler answers at the address, or no worker is there.
        ClusterLost: the scheduler or all workers went away while the client was used.
    """
    import dask
    from distributed import Client, LocalCluster

    if not str(workers).isdecimal():
        address = str(workers)
        _ask(address, timeout)
        try:
            # Answers come from the workers; where these cannot be reached, by the scheduler.
            client = Client(address, timeout=timeout, direct_to_workers=True)
        except (OSError, ValueError, TimeoutError) as error:
            raise _no_scheduler(address, str(error)) from error
        with client:
            try:
                # Without a worker every task would wait for ever, and nobody would say why.
                client.wait_for_workers(1, timeout=timeout)
            except TimeoutError as error:
                raise NoCluster(
                    f"the Dask scheduler at {address} has no worker after {timeout:g} s: start one "
                    f"by `dask worker {address}`"
                ) from error
            with _watched(client, f"the Dask scheduler at {address}"):
                yield client
        return
    # A process needs longer than Dask's 30 s to start and to connect where others use the cores.
    with dask.config.set({"distributed.comm.timeouts.connect": STARTING}):
        cluster = LocalCluster(
            n_workers=int(workers),
            threads_per_worker=1,
            processes=True,
            # Dask opens a port even without a dashboard: 8787, unless another is named here.
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": dashboard},
            protocol="tcp://",
        )
    with (
        cluster,
        Client(cluster, timeout=STARTING, direct_to_workers=True) as client,
        _watched(client, "the Dask scheduler of this process"),
    ):
        yield client


def _no_scheduler(address: str, why: str) -> NoCluster:
    return NoCluster(f"no Dask scheduler at {address} ({why}): start one by `dask scheduler`")


def _ask(address: str, timeout: float) -> None:
    """Ask who answers at an address, for at most `timeout` seconds.

    Raises:
        NoCluster: nobody, or no scheduler.
    """

    def asked() -> Any:
        return asyncio.run(_identity(address, timeout))

    # In a thread, for the one that calls may run a loop, as in a notebook.
    with ThreadPoolExecutor(1) as pool:
        try:
            kind = pool.submit(asked).result().get("type", "something else")
        except Exception as error:
            # Whatever a foreign server answers: too large a number, a closed line, no Dask at all.
            why = str(error) or f"it did not answer as one within {timeout:g} s"
            raise _no_scheduler(address, why) from error
    if kind != "Scheduler":
        raise NoCluster(
            f"no Dask scheduler at {address}, but a {kind}: give the address that "
            f"`dask scheduler` prints"
        )


async def _identity(address: str, timeout: float) -> Any:
    from distributed import Security
    from distributed.comm import connect
    from distributed.core import send_recv

    async with asyncio.timeout(timeout + 1.0):
        # The handshake has no time limit of its own.
        comm = await connect(address, timeout, **Security().get_connection_args("client"))
        try:
            return await send_recv(comm, op="identity")
        finally:
            comm.abort()


def _not_cancelled(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


@contextmanager
def _watched(client: Any, scheduler: str) -> Iterator[None]:
    """Say if no worker takes tasks; give up after `LOST_AFTER`, or if the scheduler is gone.

    Raises:
        ClusterLost: in place of what Dask raises then, in one line.
    """
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError, FuturesCancelledError

    done = threading.Event()
    why: list[str] = []
    watch = threading.Thread(
        target=_watch, args=(client, scheduler, done, why), name="workers", daemon=True
    )
    watch.start()
    # Its traceback of a reconnection that ends with the client says nothing more.
    logging.getLogger("distributed.client").addFilter(_not_cancelled)
    kept = "what was stored is kept, and the same again goes on from there"
    try:
        yield
    except KilledWorker as error:
        raise ClusterLost(
            f"{error.allowed_failures + 1} workers ended while they computed the same task, the "
            f"last at {error.last_worker.address}: the log of that worker says why, such as too "
            f"little memory; {kept}"
        ) from error
    except (FutureCancelledError, FuturesCancelledError) as error:
        line = why[0] if why else f"{scheduler} is gone, or was started anew: start its workers"
        raise ClusterLost(f"{line}; {kept}") from error
    finally:
        done.set()


def _watch(client: Any, scheduler: str, done: threading.Event, why: list[str]) -> None:
    since, told = time.monotonic(), False
    while not done.wait(EVERY):
        try:
            lack = _lack(client)
        except Exception:
            # The scheduler is gone: Dask cancels what waits for it, by itself.
            continue
        if not lack:
            since, told = time.monotonic(), False
            continue
        gone = time.monotonic() - since
        if gone > LOST_AFTER:
            why.append(f"{scheduler} {lack}, for {gone:.0f} s")
            with suppress(Exception):
                # Whoever waits for an answer is told that it does not come.
                client.close()
            return
        if gone > TOLD_AFTER and not told:
            told = True
            LOG.warning("%s %s; the work waits for it, %.0f s at most", scheduler, lack, LOST_AFTER)


def _lack(client: Any) -> str:
    """Why nobody computes what this client waits for; empty if somebody does."""
    if not any(state.status == "pending" for state in list(client.futures.values())):
        return ""
    if any(client.processing().values()):
        return ""
    workers = client.scheduler_info()["workers"].values()
    if not workers:
        return "has no worker: start one by `dask worker`"
    if all(one["status"] == "paused" for one in workers):
        return "has only paused workers: give them more memory (`dask worker --memory-limit`)"
    return (
        "has no worker that takes the tasks: start one, by `dask worker --resources GPU=1` if the "
        "others had GPUs"
    )
