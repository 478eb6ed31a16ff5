"""Where the blocks of a statistic run: Dask's threads here, or the workers of a cluster."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Queue
from threading import Event, Thread
from typing import Any

from alike.analysis.blocks.product import one_thread_each
from alike.analysis.blocks.statistic import Run
from alike.extract.machine import usable_cores
from alike.extract.progress import Progress, silent

AHEAD = 4
"""Blocks in flight for each worker: enough to keep it busy, few enough to hold their answers."""


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

    def run(self, stage: str, progress: Progress = silent) -> Run:
        """A `map` whose progress is told under the name `stage`."""

        def mapped(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
            todo = list(items)
            started = time.monotonic()
            answers = self._remote(function, todo) if self.remote else self._here(function, todo)
            for done, answer in enumerate(answers, start=1):
                rate = done / max(time.monotonic() - started, 1e-9)
                progress(stage, done, len(todo), f"{rate:.3g} blocks/s")
                yield answer

        return mapped

    def _here(self, function: Callable[[Any], Any], todo: list[Any]) -> Iterator[Any]:
        with one_thread_each():
            if len(todo) == 1 or self.workers == 1:
                yield from map(function, todo)
            else:
                yield from _threaded(function, todo, self.workers)

    def _remote(self, function: Callable[[Any], Any], todo: list[Any]) -> Iterator[Any]:
        import cloudpickle  # type: ignore[import-untyped]

        # One task turns the function's bytes into the function, so that a worker which replaces a
        # lost one can make it again; the blocks depend on it.
        loaded = self.client.submit(cloudpickle.loads, cloudpickle.dumps(function), pure=False)
        window: deque[Any] = deque()
        most = AHEAD * max(1, sum(self.client.nthreads().values()))
        for item in todo:
            window.append(self.client.submit(_call, loaded, item, pure=False, retries=2))
            if len(window) >= most:
                yield window.popleft().result()
        while window:
            yield window.popleft().result()


def _call(function: Callable[[Any], Any], item: Any) -> Any:
    with one_thread_each():
        return function(item)


def _threaded(function: Callable[[Any], Any], todo: list[Any], workers: int) -> Iterator[Any]:
    """Dask's threaded scheduler, its answers handed over in order while it works."""
    from dask.threaded import get

    answers: Queue[tuple[int, Any, BaseException | None]] = Queue(AHEAD * workers)
    stop = Event()

    def one(index: int) -> None:
        if stop.is_set():
            return
        try:
            answers.put((index, function(todo[index]), None))
        except BaseException as error:
            answers.put((index, None, error))

    def schedule() -> None:
        # Written down, since `dask.delayed` and the optimiser take as long as short blocks do.
        get({str(index): (one, index) for index in range(len(todo))},
            [str(index) for index in range(len(todo))], num_workers=workers)  # fmt: skip

    thread = Thread(target=schedule, daemon=True)
    thread.start()
    waiting: dict[int, Any] = {}
    try:
        for index in range(len(todo)):
            while index not in waiting:
                at, answer, error = answers.get()
                if error is not None:
                    raise error
                waiting[at] = answer
            yield waiting.pop(index)
    finally:
        stop.set()
        while thread.is_alive():
            while not answers.empty():
                answers.get()
            thread.join(0.01)


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
    # Statistics of stored features need no network, and importing torch takes seconds.
    from alike.extract.distributed import dask_client

    place = dask if dask is not None else int(workers or 1)
    with dask_client(place, timeout, dashboard="127.0.0.1:0") as client:
        yield Jobs(client, sum(client.nthreads().values()))
