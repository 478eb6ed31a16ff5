"""How parts of a statistic are mapped: Dask's threads here, or the workers of a cluster."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from analysis.product import one_thread_each
from extract.progress import Progress, silent

WAVE = 4


def threads(
    stage: str, progress: Progress = silent, workers: int | None = None
) -> Callable[..., Any]:
    """A `map` over Dask's threads: results come in order, a few at a time, so memory stays small.

    Args:
        stage: name under which progress is told.
        progress: told after every wave.
        workers: threads; None: one a core.
    """
    import os

    import dask

    count = workers or len(os.sched_getaffinity(0))

    def run(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        todo = list(items)
        with one_thread_each():
            for low in range(0, len(todo), WAVE * count):
                part = [
                    dask.delayed(function, pure=False)(i) for i in todo[low : low + WAVE * count]
                ]
                yield from dask.compute(*part, scheduler="threads", num_workers=count)
                progress(stage, min(low + WAVE * count, len(todo)), len(todo))

    return run
