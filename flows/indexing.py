"""What an index is asked for, as the command line and `alike.build_index` name it."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from alike.extract.progress import Progress, silent

if TYPE_CHECKING:
    from alike.extract.store import Features
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


BUILD_SECONDS = 60.0
"""Effort for an index that nobody asked for; `alike index` spends more."""


def build_missing(
    features: "Features",
    measure: str,
    tell: Callable[[str], object],
    progress: Progress = silent,
) -> None:
    """Build the index of a measure, with the usual wish, if there is none.

    Args:
        features: that are indexed.
        measure: a key of `MEASURES`.
        tell: takes a line before and one after the index is built.
        progress: called as rows are embedded and added.

    Raises:
        BadInput: nothing to index.
        StoreDamaged: the card of an index is damaged. It is not taken for a missing one, so that
            its wish is not lost.
    """
    from alike.index.build import build_index
    from alike.index.places import card_of

    if card_of(features.store, features.key, measure) is not None:
        return
    tell(f"no index of {measure} yet: building it (alike index chooses more)")
    report = build_index(features, measure, effort=BUILD_SECONDS, progress=progress)
    tell(f"built in {report.seconds:.1f} s: {report.note}")


def shard_runner(workers: str | None) -> "MapShards":
    """What builds the shards: this process, or Dask workers."""
    from alike.index.disk import one_by_one

    if workers is None:
        return one_by_one
    from alike.extract.distributed import map_on_workers

    return partial(map_on_workers, workers=workers)
