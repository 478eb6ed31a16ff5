"""Where the blocks of a statistic run: threads of this process, or the workers of a Dask cluster.

Blocks run in order, in a window of a few blocks for each worker. So the first answer comes after
the first block, answers are stored and progress is told all along, and few answers wait in memory.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from alike.analysis.blocks.product import one_thread_each
from alike.analysis.blocks.statistic import MapBlocks
from alike.extract.machine import release_memory, usable_cores
from alike.extract.progress import Progress, silent

LARGE = 1 << 20
"""Bytes above which a function goes to the workers themselves, past the scheduler."""
TRIES = 3
"""Times that it is sent again if every worker that held it is gone."""
AHEAD, AHEAD_HERE = 3, 2
"""Blocks in flight for each worker, and thread: enough to keep it busy, few enough to hold their
answers."""


@dataclass(frozen=True)
class Jobs:
    """A place to run blocks.

    Attributes:
        client: a `distributed.Client`, or None: threads of this process.
        workers: threads that work side by side.
    """

    client: Any = None
    workers: int = 1

    @property
    def remote(self) -> bool:
        """Whether blocks run in other processes, which must read the store themselves."""
        return self.client is not None

    @property
    def dashboard(self) -> str | None:
        """Address of Dask's dashboard, where there is one."""
        return str(self.client.dashboard_link) if self.client is not None else None

    def stage(self, name: str, progress: Progress = silent) -> MapBlocks:
        """A way to map whose progress is told under this name."""

        def map_blocks(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
            todo = list(items)
            started = time.monotonic()
            mapped = self._remote if self.remote else self._here
            if len(todo) > 1:
                # What the stage before freed, often hundreds of megabytes, would lie beside it.
                release_memory()
            for done, answer in enumerate(mapped(function, todo), start=1):
                rate = done / max(time.monotonic() - started, 1e-9)
                progress(name, done, len(todo), f"{rate:.3g} blocks/s")
                yield answer
            if len(todo) > 1:
                release_memory()

        return map_blocks

    def _here(self, function: Callable[[Any], Any], todo: list[Any]) -> Iterator[Any]:
        with one_thread_each():
            if len(todo) == 1 or self.workers == 1:
                yield from map(function, todo)
                return
            pool = ThreadPoolExecutor(self.workers)

            def submit(item: Any) -> Any:
                return pool.submit(function, item)

            try:
                yield from _in_order(submit, todo, AHEAD_HERE * self.workers)
            finally:
                # If the caller stopped or a block failed, what has not begun must not begin.
                pool.shutdown(cancel_futures=True)

    def _remote(self, function: Callable[[Any], Any], todo: list[Any]) -> Iterator[Any]:
        import cloudpickle  # type: ignore[import-untyped]
        from distributed.client import FutureCancelledError

        data, done = cloudpickle.dumps(function), 0
        for attempt in range(TRIES):
            # Means and second moments of many classes are megabytes, which would wait in the
            # scheduler; all workers get a copy, so that the loss of one loses none.
            large = len(data) > LARGE
            held = self.client.scatter(data, direct=True, broadcast=True) if large else data
            # One task turns the bytes into the function, so that a worker which replaces a lost
            # one can make it again; the blocks depend on it.
            loaded = self.client.submit(cloudpickle.loads, held, pure=False)
            submit = partial(self.client.submit, _call, loaded, pure=False, retries=2)
            threads = max(1, sum(self.client.nthreads().values()))
            try:
                for answer in _in_order(submit, todo[done:], AHEAD * threads):
                    yield answer
                    done += 1
                return
            except FutureCancelledError:
                if not large or attempt == TRIES - 1:
                    raise


def _call(function: Callable[[Any], Any], item: Any) -> Any:
    with one_thread_each():
        return function(item)


def _in_order(submit: Callable[[Any], Any], todo: Iterable[Any], most: int) -> Iterator[Any]:
    """Yield the answers in the order of the items, of which at most `most` are in flight.

    A finished answer waits for those before it, so the window also bounds the memory of answers.

    Args:
        submit: item to a future, of `concurrent.futures` or of `distributed`.
        todo: the items.
        most: blocks that run, wait to run or wait to be taken.
    """
    window: deque[Any] = deque()
    try:
        for item in todo:
            window.append(submit(item))
            if len(window) == most:
                yield window.popleft().result()
        while window:
            yield window.popleft().result()
    finally:
        # A cluster drops the blocks of futures that nobody holds; an error would hold this frame.
        window.clear()


def here() -> Jobs:
    """Threads of this process, one a core."""
    return Jobs(None, usable_cores())


@contextmanager
def open_jobs(
    dask: str | None = None, workers: int | None = None, *, timeout: float = 10.0
) -> Iterator[Jobs]:
    """Give a place to run blocks; a cluster started here ends with it.

    Args:
        dask: address of a scheduler that runs already, such as `tcp://10.0.0.1:8786`.
        workers: processes of a cluster of this machine; None: threads, one a core.
        timeout: seconds to wait for an answer of that address, and for a worker there.

    Raises:
        BadInput: nobody answers at the address, or no worker is there.
    """
    if dask is None and workers is None:
        yield here()
        return
    # Here, for it brings Dask, which an analysis on threads has no use for.
    from alike.extract.distributed_client import dask_client

    place = dask if dask is not None else int(workers or 1)
    with dask_client(place, timeout, dashboard=True) as client:
        yield Jobs(client, sum(client.nthreads().values()))
