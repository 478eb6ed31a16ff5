"""What an index is asked for, as the command line and `alike.build_index` name it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from alike.extract.progress import Progress, silent

if TYPE_CHECKING:
    from alike.extract.store import Features
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
    from alike.index.places import card_of, index_command

    if card_of(features.store, features.key, measure) is not None:
        return
    command = index_command(features.store, features.key, measure)
    tell(f"no index of {measure} yet: building it (`{command}` chooses more)")
    report = build_index(features, measure, effort=BUILD_SECONDS, progress=progress)
    tell(f"built in {report.seconds:.1f} s: {report.note}")


@contextmanager
def index_workers(
    cluster: str | int | None, features: "Features", measure: str, *, on_disk: bool
) -> Iterator[dict[str, Any]]:
    """What builds parts of an index, as arguments of `build_index`.

    Shards of lists on disk are built by workers. Of an index in memory they embed the rows of a
    measure that reads feature maps; it is chosen by measurement here, where it will answer.

    Args:
        cluster: as `place_of` takes it; None: this process builds all.
        features: that are indexed.
        measure: a key of `MEASURES`.
        on_disk: whether its lists stay on disk.

    Raises:
        BadInput: no such workers, or no such measure.
    """
    from alike.extract.distributed import map_on_workers
    from alike.flows.cluster import place_of, row_jobs, row_mapper

    place = place_of(cluster)
    if place is None:
        yield {}
    elif on_disk:
        yield {"map_shards": partial(map_on_workers, workers=place)}
    else:
        with row_jobs(place, [features], measure) as jobs:
            yield {"map_blocks": row_mapper(jobs, features, measure, "embed")}
