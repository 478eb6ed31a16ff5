"""Indexes larger than memory: inverted lists on disk, built in shards, merged, memory-mapped.

Shards are built one by one or by many workers, each from its own rows and the same trained
centroids; merging copies lists from mapped file to mapped file. At no time does more than one
shard of vectors lie in memory.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from extract.errors import BadInput
from extract.measures import Measure, embed_rows, ready_measure
from extract.progress import Progress, silent
from index.engine import DiskEngine, faiss_threads, ranges_of, rows_of, train
from index.files import publish, read_lists, sync, told_on_stderr
from index.flat import faiss_metric
from index.kinds import INDEX_KINDS, POINTS_PER_LIST, lists
from index.neighbours import tidy
from index.sample import draw_sample
from index.specs import Card, IndexSpec, Point, Wish
from index.trial import ceiling, holds, set_exam, sweep, time_of
from index.truth import interval, recall_of, true_neighbours

Float = NDArray[np.float32]
Run = Callable[[Callable[["Shard"], str], Sequence["Shard"]], Iterable[str]]
"""`map`, or the same on workers: applies a function to shards, gives results in any order."""

KINDS = ("ivf_sq8", "ivf_fp16", "ivf_flat")
"""From small to large: the first whose rounding leaves the recall that is asked."""

PART = 20_000
BLOCK = 8192


@dataclass(frozen=True)
class Shard:
    """One part of an index, as a worker builds it; plain values, so that it can be sent.

    Attributes:
        store: place of the store.
        key: extraction.
        measure: name.
        trained: file of the trained, empty index.
        rows: store rows, ascending.
        out: file to write.
    """

    store: str
    key: str
    measure: str
    trained: str
    rows: NDArray[np.int64]
    out: str


def build_shard(shard: Shard) -> str:
    """Build one part; gives its file. Runs in any process that sees the store's files."""
    import faiss

    from extract.store import Store

    features = Store.open(shard.store).features(shard.key)
    measure = ready_measure(features, shard.measure)
    index = faiss.read_index(shard.trained)
    for low in range(0, len(shard.rows), BLOCK):
        rows = shard.rows[low : low + BLOCK]
        index.add_with_ids(embed_rows(features, measure, rows), rows)
    faiss.write_index(index, shard.out)
    return shard.out


def one_by_one(build: Callable[[Shard], str], shards: Sequence[Shard]) -> Iterator[str]:
    """Run shards in this process, one after the other."""
    return map(build, shards)


def build_on_disk(
    features: Any,
    measure: Measure,
    folder: Path,
    table: pd.DataFrame,
    card: Card,
    *,
    kinds: Sequence[str] | None = None,
    run: Run = one_by_one,
    progress: Progress = silent,
) -> Card:
    """Build an index whose lists stay on disk, and measure it.

    Args:
        features: the extraction.
        measure: ready.
        folder: of the index; the caller holds `building`.
        table: usable rows.
        card: new, with wish and metric.
        kinds: codes to choose from; None: all of `KINDS`.
        run: builds the shards.
        progress: told of shards.

    Raises:
        BadInput: recall cannot be met by any code.
    """
    import faiss

    start = time.perf_counter()
    rows = table["row"].to_numpy()
    sample = draw_sample(table["label"].to_numpy(), POINTS_PER_LIST * lists(len(rows)))
    vectors = embed_rows(features, measure, rows[sample.train])
    spec = _code(vectors, len(rows), card, kinds)
    with faiss_threads(card.wish.threads):
        trained = faiss.index_factory(card.dimension, spec.factory, faiss_metric(card.metric))
        train(trained, vectors)
    del vectors
    stem = uuid.uuid4().hex[:12]
    empty = folder / f"{stem}-trained.faiss"
    faiss.write_index(trained, str(empty))
    size = shard_rows(card.wish.memory, card.dimension)
    shards = [
        Shard(
            # Full paths: a worker may run in another folder.
            features.store.place, features.key, measure.name, str(empty.absolute()), part,
            str(folder.absolute() / f"{stem}-{number}.faiss"),
        )
        for number, part in enumerate(np.array_split(rows, -(-len(rows) // size)))
    ]  # fmt: skip
    for done, _ in enumerate(run(build_shard, shards), start=1):
        progress("shards", done, len(shards))
    parts = [faiss.read_index(shard.out, faiss.IO_FLAG_MMAP) for shard in shards]
    index = merge(trained, parts, folder / f"{stem}.ivfdata")
    seconds = time.perf_counter() - start
    engine = DiskEngine(index, rows)
    exam = _Exam(features, measure, rows, sample.queries, card, seconds)
    points = list(
        sweep(lambda search: exam.measure(engine, spec, search), spec.kind, card.wish.recall)
    )
    point = _best(points, card.wish)
    told = {"rows": len(sample.train), "classes": int(table["label"].nunique()), "balanced": True}
    card = replace(
        card,
        spec=point.spec,
        n_rows=len(rows),
        n_built=len(rows),
        ranges=ranges_of(rows),
        lists=f"{stem}.ivfdata",
        lists_size=(folder / f"{stem}.ivfdata").stat().st_size,
        curve=tuple(points),
        recall=(point.recall, point.low, point.high),
        trained_on=told,
        why=f"lists on disk from {len(shards)} shards: {point.spec}, recall {point.recall:.4f}",
    )
    return publish(folder, index, card)


def shard_rows(memory: int | None, dimension: int) -> int:
    """Rows of one shard: its vectors take a quarter of the memory, at most 1 GiB."""
    held = min(memory or (1 << 32), 1 << 32) / 4
    return max(int(held / (4 * dimension)), BLOCK)


def merge(empty: Any, parts: Sequence[Any], target: Path) -> Any:
    """Fill an empty trained index with the lists of others, which are laid on disk in `target`."""
    import faiss

    held = faiss.OnDiskInvertedLists(empty.nlist, empty.code_size, str(target))
    lists_of_parts = faiss.InvertedListsPtrVector()
    for part in parts:
        lists_of_parts.push_back(part.invlists)
    with told_on_stderr():
        empty.ntotal = held.merge_from_multiple(lists_of_parts.data(), lists_of_parts.size(), False)
    empty.replace_invlists(held, True)
    held.this.disown()
    sync(target)
    return empty


def add_on_disk(
    features: Any, measure: Measure, folder: Path, card: Card, new: NDArray[np.int64]
) -> tuple[Any, Card]:
    """The index with new rows, its lists in a new file; readers of the old file keep it.

    Args:
        features: the extraction.
        measure: ready.
        folder: of the index; the caller holds `building`.
        card: of the index.
        new: rows to add, ascending.
    """
    import faiss

    def opened() -> Any:
        return read_lists(folder / card.file)

    old, shard, merged = opened(), opened(), opened()
    held = faiss.ArrayInvertedLists(shard.nlist, shard.code_size)
    shard.replace_invlists(held, True)
    # the index owns them now
    held.this.disown()
    shard.ntotal = 0
    for low in range(0, len(new), BLOCK):
        rows = new[low : low + BLOCK]
        shard.add_with_ids(embed_rows(features, measure, rows), rows)
    target = folder / f"{uuid.uuid4().hex[:12]}.ivfdata"
    merge(merged, [old, shard], target)
    rows = np.union1d(rows_of(card.ranges), new)
    size = target.stat().st_size
    card = replace(card, ranges=ranges_of(rows), lists=target.name, lists_size=size)
    return merged, replace(card, n_rows=len(rows))


def _code(vectors: Float, n: int, card: Card, kinds: Sequence[str] | None) -> IndexSpec:
    """The smallest code that keeps the recall where all lists are searched, on a part."""
    named = [name for name in KINDS if kinds is None or name in kinds]
    part = vectors[:: max(len(vectors) // PART, 1)]
    taken = max(len(part) // 10, 1)
    train = np.arange(len(part) - taken)
    exam = set_exam(part, np.arange(len(part)), len(train), train, card.metric, card.wish)
    for name in named:
        if ceiling(INDEX_KINDS[name], exam) >= card.wish.recall or name == named[-1]:
            spec = INDEX_KINDS[name].spec(n, card.dimension)
            assert spec is not None, name
            return spec
    raise BadInput(f"no kind of {kinds} has lists on disk, expected one of {', '.join(KINDS)}")


def _best(points: Sequence[Point], wish: Wish) -> Point:
    # memory is what the lists on disk are for: the wish is kept by not loading them
    free = replace(wish, memory=None)
    holding = [point for point in points if holds(point, free)]
    if not holding:
        near = max(points, key=lambda point: point.low)
        msg = f"lists on disk reach recall@{wish.at} {near.recall:.4f}, {1000 * near.latency:.3g}"
        raise BadInput(f"{msg} ms a call; asked was {wish.recall}: relax the wish")
    return max(holding, key=lambda point: point.queries_per_second)


class _Exam:
    """Held-out rows and their true neighbours, found block by block.

    The rows are in the lists already, which does not help to find their neighbours (it would in
    a graph); each is left out of its own answer.
    """

    def __init__(
        self,
        features: Any,
        measure: Measure,
        rows: NDArray[np.int64],
        asked: NDArray[np.int64],
        card: Card,
        seconds: float,
    ) -> None:
        self._card, self._seconds, self._rows, self._asked = card, seconds, rows, asked
        self._queries = embed_rows(features, measure, rows[asked])
        self._k = min(card.wish.at, len(rows) - 1)
        self._sign = np.float32(1.0 if card.metric == "l2" else -1.0)
        near = np.full((len(asked), self._k), np.inf, dtype=np.float32)
        places = np.full((len(asked), self._k), -1, dtype=np.int64)
        for low in range(0, len(rows), BLOCK):
            block = embed_rows(features, measure, rows[low : low + BLOCK])
            k = min(self._k + 1, len(block))
            raw, found = true_neighbours(self._queries, block, k, card.metric)
            both = np.concatenate([near, self._sign * raw], axis=1)
            known = np.concatenate([places, found + low], axis=1)
            near, places = tidy(both, known, self._k, asked)
        self._truth = (self._sign * near, places)
        self._features, self._measure = features, measure

    def measure(self, engine: DiskEngine, spec: IndexSpec, search: Mapping[str, float]) -> Point:
        """One point of the curve."""
        card = self._card
        with faiss_threads(card.wish.threads):
            raw, found = engine.search(self._queries, self._k + 1, search)
            call = time_of(
                lambda part: engine.search(part, self._k, search), self._queries, card.wish.batch
            )
        found = tidy(self._sign * raw, found, self._k, self._asked)[1]
        needed = np.unique(found[found >= 0])
        vectors = embed_rows(self._features, self._measure, self._rows[needed])
        local = np.where(found >= 0, np.searchsorted(needed, found), -1)
        shares = recall_of(self._queries, vectors, local, self._truth, card.metric)
        recall, low, high = interval(shares)
        speed = card.wish.batch / call
        tried = replace(spec, search=dict(search))
        return Point(
            tried, recall, low, high, speed, call, self._seconds, engine.bytes, len(self._rows)
        )
