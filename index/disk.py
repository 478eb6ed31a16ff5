"""Indexes larger than memory: inverted lists on disk, built in shards, merged, memory-mapped.

Shards are built one by one or by many workers, each from its own rows and the same trained
centroids; merging copies lists from mapped file to mapped file. At no time does more than one
shard of vectors lie in memory, but for the sample that the centroids are trained on, if the
memory of the wish is small: k-means needs some rows of each list (39 rows of N = 1e6 are 8 %, of
1e8 1.3 %).
"""

import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.extract.errors import BadInput, StoreDamaged
from alike.extract.measures import Measure, embed_rows, ready_measure
from alike.extract.progress import Progress, silent
from alike.index.engine import DiskEngine, faiss_threads, ranges_of, rows_of, train
from alike.index.files import publish, read_lists, silent_faiss, sync, write_faiss
from alike.index.flat import faiss_metric
from alike.index.kinds import INDEX_KINDS, POINTS_PER_LIST, lists
from alike.index.sample import draw_sample
from alike.index.specs import Card, IndexSpec, Point, Wish
from alike.index.stored import BLOCK, StoredTruth, StoredVectors
from alike.index.trial import CHOOSE, MEASURE, ceiling, holds, new_trial, sweep, time_of
from alike.index.truth import recall_interval

Float = NDArray[np.float32]
MapShards = Callable[[Callable[["Shard"], str], Sequence["Shard"]], Iterable[str]]
"""`map`, or the same on workers: applies a function to shards, gives results in any order."""

KINDS = ("ivf_sq8", "ivf_fp16", "ivf_flat")
"""From small to large: the first whose rounding leaves the recall that is asked."""

PART = 20_000

ID_BYTES = 8
"""Of a row's number in a list."""

LEAST_POINTS = 39
"""Rows of each list that k-means is given at least; FAISS warns below."""


@dataclass(frozen=True)
class Shard:
    """One part of an index, as a worker builds it; short values, so that it can be sent.

    Attributes:
        store: place of the store.
        key: extraction.
        measure: name.
        trained: file of the trained, empty index.
        count: rows of this part.
        rows: file of the store rows (count,) int64, ascending.
        out: file to write.
    """

    store: str
    key: str
    measure: str
    trained: str
    count: int
    rows: str
    out: str


def build_shard(shard: Shard) -> str:
    """Build one part; gives its file. Runs in any process that sees the store's files."""
    import faiss

    from alike.extract.store import Store

    features = Store.open(shard.store).features(shard.key)
    measure = ready_measure(features, shard.measure, as_fitted=True)
    index = faiss.read_index(shard.trained)
    rows = np.frombuffer(Path(shard.rows).read_bytes(), dtype=np.int64)
    for low in range(0, len(rows), BLOCK):
        block = rows[low : low + BLOCK]
        index.add_with_ids(embed_rows(features, measure, block), block)
    write_faiss(index, Path(shard.out))
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
    map_shards: MapShards = one_by_one,
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
        map_shards: builds the shards.
        progress: told of shards.

    Raises:
        BadInput: recall cannot be met by any code.
        StoreDamaged: a shard was lost.
    """
    import faiss

    start = time.perf_counter()
    rows = table["row"].to_numpy()
    most = training_rows(len(rows), card.wish.memory, card.dimension)
    sample = draw_sample(table["label"].to_numpy(), most)
    vectors = embed_rows(features, measure, rows[sample.train])
    spec = _code(vectors, len(rows), card, kinds)
    with faiss_threads(card.wish.threads):
        quantiser = faiss.index_factory(card.dimension, spec.factory, faiss_metric(card.metric))
        train(quantiser, vectors)
    del vectors
    stem = uuid.uuid4().hex[:12]
    empty = folder / f"{stem}-trained.faiss"
    write_faiss(quantiser, empty)
    shards = _shards(features, measure, empty, rows, card)
    for done, _ in enumerate(map_shards(build_shard, shards), start=1):
        progress("shards", done, len(shards))
    index = merge(quantiser, [mapped(shard.out) for shard in shards], folder / f"{stem}.ivfdata")
    _none_lost(index, rows)
    seconds = time.perf_counter() - start
    engine = DiskEngine(index, rows)
    stored = StoredVectors(features, measure, rows)
    truth = StoredTruth(
        stored, sample.queries, card.wish.at, card.metric, threads=card.wish.threads
    )

    def measured(search: Mapping[str, float]) -> Point:
        return _point(engine, replace(spec, search=dict(search)), truth, card.wish, seconds)

    points = list(sweep(measured, spec.kind, card.wish.recall))
    fastest = _best(points, card.wish)
    point = _remeasured(engine, fastest, truth)
    n_classes = int(table["label"].nunique())
    card = replace(
        card,
        spec=point.spec,
        n_rows=len(rows),
        n_built=len(rows),
        ranges=ranges_of(rows),
        lists=f"{stem}.ivfdata",
        lists_size=(folder / f"{stem}.ivfdata").stat().st_size,
        curve=tuple(point if one is fastest else one for one in points),
        recall=(point.recall, point.low, point.high),
        trained_on={"rows": len(sample.train), "classes": n_classes, "balanced": True},
        why=(
            f"lists on disk from {len(shards)} shards: {point.spec}, recall@{card.wish.at} "
            f"{point.recall:.4f} ({point.low:.4f} to {point.high:.4f}) by "
            f"{len(sample.queries) // 2} held-out queries"
        ),
    )
    return publish(folder, index, card)


def shard_rows(memory: int | None, dimension: int) -> int:
    """Rows of one shard: its vectors take a quarter of the memory, at most 1 GiB."""
    budget = min(memory or (1 << 32), 1 << 32) / 4
    return max(int(budget / (4 * dimension)), BLOCK)


def training_rows(n: int, memory: int | None, dimension: int) -> int:
    """Rows that centroids are trained on: one shard at most, unless k-means needs more."""
    least, most = LEAST_POINTS * lists(n), POINTS_PER_LIST * lists(n)
    return min(most, max(least, shard_rows(memory, dimension)))


def _shards(
    features: Any, measure: Measure, empty: Path, rows: NDArray[np.int64], card: Card
) -> list[Shard]:
    """Parts of these rows, each built from the trained, empty index in a file, beside it."""
    count = -(-len(rows) // shard_rows(card.wish.memory, card.dimension))
    # Full paths: a worker may run in another folder.
    trained = empty.absolute()
    shards = []
    for number, part in enumerate(np.array_split(rows, count)):
        out = trained.with_name(f"{trained.stem}-{number}.faiss")
        out.with_suffix(".rows").write_bytes(part.astype(np.int64).tobytes())
        files = str(out.with_suffix(".rows")), str(out)
        place = features.store.place, features.key, measure.name, str(trained)
        shards.append(Shard(*place, len(part), *files))
    return shards


def merge(empty: Any, parts: Sequence[Any], target: Path) -> Any:
    """Fill an empty trained index with the lists of others, which are laid on disk in `target`.

    Raises:
        OSError: the disk has no room for them.
    """
    import faiss

    disk_lists = faiss.OnDiskInvertedLists(empty.nlist, empty.code_size, str(target))
    lists_of_parts = faiss.InvertedListsPtrVector()
    for part in parts:
        lists_of_parts.push_back(part.invlists)
    rows = sum(part.invlists.compute_ntotal() for part in parts)
    _make_room(target, rows * (empty.code_size + ID_BYTES))
    with silent_faiss():
        parts_of = (lists_of_parts.data(), lists_of_parts.size())
        empty.ntotal = disk_lists.merge_from_multiple(*parts_of, False)
    empty.replace_invlists(disk_lists, True)
    # The index owns them now.
    disk_lists.this.disown()
    sync(target)
    return empty


def _make_room(target: Path, size: int) -> None:
    """Refuse a file that the disk cannot hold.

    FAISS writes it through a map of the file, and a full disk then kills the process (SIGBUS).
    """
    if not size or not hasattr(os, "posix_fallocate"):
        return
    with target.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            target.unlink()
            raise OSError(error.errno, error.strerror, str(target)) from error


def _none_lost(index: Any, rows: NDArray[np.int64]) -> None:
    if index.ntotal != len(rows):
        msg = f"the merged lists hold {index.ntotal} vectors, {len(rows)} expected"
        raise StoreDamaged(f"{msg}: a part was lost while it was built, so build again")


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

    Raises:
        StoreDamaged: a shard was lost.
    """
    old, union = read_lists(folder / card.file), read_lists(folder / card.file)
    stem = uuid.uuid4().hex[:12]
    empty = folder / f"{stem}-trained.faiss"
    _empty(union)
    write_faiss(union, empty)
    shards = _shards(features, measure, empty, new, card)
    parts = [mapped(build_shard(shard)) for shard in shards]
    target = folder / f"{stem}.ivfdata"
    index = merge(union, [old, *parts], target)
    rows = np.union1d(rows_of(card.ranges), new)
    _none_lost(index, rows)
    size = target.stat().st_size
    card = replace(card, ranges=ranges_of(rows), lists=target.name, lists_size=size)
    return index, replace(card, n_rows=len(rows))


def mapped(file: str) -> Any:
    """A part that was built; its lists stay in their file."""
    import faiss

    return faiss.read_index(file, faiss.IO_FLAG_MMAP)


def _empty(index: Any) -> None:
    """Take the lists out of an index, and leave what it was trained to."""
    import faiss

    no_lists = faiss.ArrayInvertedLists(index.nlist, index.code_size)
    index.replace_invlists(no_lists, True)
    # The index owns them now.
    no_lists.this.disown()
    index.ntotal = 0


def _code(vectors: Float, n: int, card: Card, kinds: Sequence[str] | None) -> IndexSpec:
    """The smallest code that keeps the recall if all lists are searched, on a part."""
    names = [name for name in KINDS if kinds is None or name in kinds]
    part = vectors[:: max(len(vectors) // PART, 1)]
    taken = max(len(part) // 10, 1)
    train = np.arange(len(part) - taken)
    trial = new_trial(part, np.arange(len(part)), len(train), train, card.metric, card.wish)
    for name in names:
        if ceiling(INDEX_KINDS[name], trial) >= card.wish.recall or name == names[-1]:
            spec = INDEX_KINDS[name].spec(n, card.dimension)
            assert spec is not None, name
            return spec
    raise BadInput(f"no kind of {kinds} has lists on disk, expected one of {', '.join(KINDS)}")


def _best(points: Sequence[Point], wish: Wish) -> Point:
    # Memory is what the lists on disk are for: the wish is kept by not loading them
    free = replace(wish, memory=None)
    holding = [point for point in points if holds(point, free)]
    if not holding:
        near = max(points, key=lambda point: point.low)
        msg = f"lists on disk reach recall@{wish.at} {near.recall:.4f}, {1000 * near.latency:.3g}"
        few = near.recall >= wish.recall
        why = "the held-out queries are too few to certify that: relax" if few else "relax"
        raise BadInput(f"{msg} ms a call; the wish is {wish.recall}: {why} the wish")
    return max(holding, key=lambda point: point.queries_per_second)


def _remeasured(engine: DiskEngine, point: Point, truth: StoredTruth) -> Point:
    """The point with its recall on the queries that did not choose it."""
    if len(truth.queries) < 2:
        return point
    recall, low, high = recall_interval(truth.shares(engine, point.spec.search, MEASURE))
    return replace(point, recall=recall, low=low, high=high)


def _point(
    engine: DiskEngine, spec: IndexSpec, truth: StoredTruth, wish: Wish, seconds: float
) -> Point:
    """One point of the curve of an index that took so many seconds to build.

    Every second query chooses, the others measure what was chosen (see `trial.remeasured`).
    """
    recall, low, high = recall_interval(truth.shares(engine, spec.search, CHOOSE))
    with faiss_threads(wish.threads):
        call = time_of(
            lambda part: engine.search(part, truth.k, spec.search), truth.queries, wish.batch
        )
    speed, n = wish.batch / call, len(engine.rows)
    return Point(spec, recall, low, high, speed, call, seconds, engine.bytes, n)
