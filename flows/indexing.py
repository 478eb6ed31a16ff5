"""What an index is asked for, as the command line and `alike.build_index` name it."""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alike.index.disk import MapShards
    from alike.index.specs import Wish


def changed_wish(
    there: "Wish",
    recall: float | None,
    at: int | None,
    memory: str | None,
    latency: float | None,
    batch: int | None,
    threads: int | None,
) -> "Wish":
    """A wish with what was given on the command line in the place of what was asked before."""
    from alike.flows.settings import parse_bytes

    given: dict[str, Any] = {"recall": recall, "at": at, "batch": batch}
    given = {name: value for name, value in given.items() if value is not None}
    if memory is not None:
        given["memory"] = None if memory == "any" else parse_bytes(memory)
    if latency is not None:
        given["latency"] = None if latency == 0 else latency / 1000
    if threads is not None:
        given["threads"] = None if threads == 0 else threads
    return replace(there, **given)


def shard_runner(workers: str | None) -> "MapShards":
    """What builds the shards: this process, or Dask workers."""
    from alike.index.disk import one_by_one

    if workers is None:
        return one_by_one
    from alike.extract.distributed import map_on_workers

    return partial(map_on_workers, workers=workers)
