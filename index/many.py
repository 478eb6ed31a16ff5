"""Many query images at once: read ahead, embedded in batches, answers into one Parquet file."""

import collections
import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from alike.extract.errors import BadImage, BadInput
from alike.extract.progress import Progress, silent
from alike.extract.replacing import aside
from alike.extract.row_groups import RowGroups
from alike.index.encode import BATCH
from alike.index.filters import Among
from alike.index.query import ALL, NeighbourIndex
from alike.index.show import neighbour_table

COLUMNS = {
    "number": "int64", "query": "string", "query_row": "int64", "rank": "int64", "row": "int64",
    "distance": "float64", "path": "string", "label": "string",
}  # fmt: skip
"""Of the file: those of `neighbour_table`, with their types."""

AHEAD = 4
"""Batches that are read while one is embedded."""


@dataclass(frozen=True)
class ManyReport:
    """What `query_many` did.

    Attributes:
        path: of the Parquet file.
        n_queries: images answered.
        bad: images that could not be used: path, state, reason.
    """

    path: Path
    n_queries: int
    bad: pd.DataFrame


def query_many(
    index: NeighbourIndex,
    source: Any,
    path: Path,
    k: int = 10,
    *,
    among: Among = ALL,
    label: str | None = None,
    rerank: str | None = None,
    readers: int = 4,
    progress: Progress = silent,
) -> ManyReport:
    """Write the neighbours of every image of a source to a Parquet file.

    The file has the columns of `neighbour_table`, the number counting over all queries, and
    appears only when it is whole. A query's class is the source's if it names one, else `label`.

    Args:
        index: to ask.
        source: an `ImageSource`.
        path: of the Parquet file.
        k: neighbours an image.
        among: which rows may answer.
        label: class of the images whose class the source does not name.
        rerank: as in `NeighbourIndex.query`.
        readers: threads that read and check images.
        progress: told of images answered.

    Raises:
        BadInput: no image of the source can be used.
    """
    import pyarrow as pa

    entries = list(source)
    bad: list[tuple[str, str, str]] = []
    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])
    count = 0
    with aside(path) as part:
        with RowGroups(part, schema) as groups, ThreadPoolExecutor(readers) as pool:
            for batch in _read_ahead(pool, source, entries, bad):
                # one class at a time: the class of an image matters to what may answer it
                for named, queries in itertools.groupby(batch, key=lambda one: one[1] or label):
                    paths, _, images = zip(*queries, strict=True)
                    answer = index.query(images, k, among=among, label=named, rerank=rerank)
                    table = neighbour_table(index, paths, answer)
                    table["number"] += count
                    groups.add(pa.Table.from_pandas(table, schema, preserve_index=False))
                    count += len(images)
                progress("neighbours", count + len(bad), len(entries))
        if not count:
            raise BadInput(f"no usable image among {len(entries)} of {source.spec}")
    return ManyReport(path, count, pd.DataFrame(bad, columns=["path", "state", "reason"]))


def _read_ahead(
    pool: ThreadPoolExecutor, source: Any, entries: Iterable[Any], bad: list[tuple[str, str, str]]
) -> Iterator[list[tuple[str, str | None, bytes]]]:
    """Batches of (path, label, content) of images that can be decoded; notes the others."""
    waiting: collections.deque[tuple[Any, Future[bytes]]] = collections.deque()
    rest, batch = iter(entries), []
    while True:
        for one in itertools.islice(rest, AHEAD * BATCH - len(waiting)):
            waiting.append((one, pool.submit(_checked, source, one.path)))
        if not waiting:
            break
        one, future = waiting.popleft()
        try:
            batch.append((one.path, one.label, future.result()))
        except BadImage as error:
            bad.append((one.path, error.state, error.reason))
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _checked(source: Any, path: str) -> bytes:
    from alike.extract.images import decode

    data: bytes = source.read(path)
    decode(data)
    return data
