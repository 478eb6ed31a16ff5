"""Candidates of an index on trial: each is built, then measured on held-out queries."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alike.extract.progress import Progress, silent
from alike.index.engine import FaissEngine, faiss_threads, new_index, open_engine, train
from alike.index.flat import view_vectors
from alike.index.kinds import INDEX_KINDS, IndexKind
from alike.index.specs import IndexSpec, Point, Wish
from alike.index.truth import recall_interval, recall_of, true_neighbours

Float = NDArray[np.float32]

ADD_ROWS = 16384
TIMED_SECONDS, TIMED_CALLS = 0.3, 200
EXACT_QUERIES = 256
CHOOSE, MEASURE = slice(0, None, 2), slice(1, None, 2)
"""Of the held-out queries: those that choose a kind and its search, those that measure it."""


@dataclass(frozen=True)
class Trial:
    """What candidates are built of, and the queries and true neighbours that they are measured by.

    Attributes:
        vectors: (N, D) float32, the held-out queries last.
        rows: (N,) int64 store rows of them.
        n: vectors that are in the index while it is measured; the queries are `vectors[n:]`.
        train: positions below n to train on.
        metric: `l2` or `inner`.
        wish: recall, batch size, threads.
        truth: raw distances (Q, at) and positions (Q, at) of the true neighbours.
    """

    vectors: Float
    rows: NDArray[np.int64]
    n: int
    train: NDArray[np.int64]
    metric: str
    wish: Wish
    truth: tuple[Float, NDArray[np.int64]]

    @property
    def queries(self) -> Float:
        """(Q, D) held-out vectors."""
        return self.vectors[self.n :]

    @property
    def inside(self) -> Float:
        """(n, D) vectors in the index."""
        return self.vectors[: self.n]


def new_trial(
    vectors: Float,
    rows: NDArray[np.int64],
    n: int,
    train: NDArray[np.int64],
    metric: str,
    wish: Wish,
) -> Trial:
    """A trial with its true neighbours; see `Trial`."""
    at = min(wish.at, n)
    truth = true_neighbours(
        vectors[n:], vectors[:n], at, metric, threads=wish.threads, memory=wish.memory
    )
    return Trial(vectors, rows, n, train, metric, wish, truth)


@dataclass(frozen=True)
class Candidate:
    """An index that was built, and what was measured of it.

    Attributes:
        engine: the index over the first n vectors of the trial; None once it lost, or while
            another is built that would not fit beside it.
        points: as measured, in that order.
        best: the fastest point that holds the wish; None if none does.
    """

    engine: FaissEngine | None
    points: tuple[Point, ...]
    best: Point | None

    def without_engine(self) -> "Candidate":
        """What was measured, the index let go."""
        return Candidate(None, self.points, None)

    def set_aside(self) -> "Candidate":
        """The same, its index let go; `build_candidate` makes it again."""
        return Candidate(None, self.points, self.best)


def build_candidate(
    spec: IndexSpec, trial: Trial, progress: Progress = silent
) -> tuple[FaissEngine, float]:
    """Train and fill an index; gives it and the seconds that this took."""
    start = time.perf_counter()
    with faiss_threads(trial.wish.threads):
        index = new_index(spec.factory, trial.vectors.shape[1], trial.metric)
        if not index.is_trained:
            train(index, trial.vectors[trial.train])
        add_rows(index, trial.inside, trial.rows[: trial.n], spec, progress)
    return open_engine(index, spec), time.perf_counter() - start


def add_rows(
    index: Any,
    vectors: Float,
    rows: NDArray[np.int64],
    spec: IndexSpec,
    progress: Progress,
    *,
    after: int = 0,
) -> None:
    """Add vectors in blocks, so that progress is seen.

    What an index holds of the vectors as they are is not copied but looked at where it lies: most
    of an index in float32.

    Args:
        index: from `new_index`, which holds the first `after` of the vectors.
        vectors: (n, D) float32, all that it will hold then; they must outlive it.
        rows: (n,) store rows.
        spec: of the index, for the progress.
        progress: told of rows added.
        after: vectors that were added before.
    """
    import faiss

    base = faiss.downcast_index(index.index)
    coded, flat = None, base
    if isinstance(base, faiss.IndexRefine):
        coded, flat = base.base_index, faiss.downcast_index(base.refine_index)
    viewed = isinstance(flat, faiss.IndexFlat)
    for low in range(after, len(vectors), ADD_ROWS):
        part = slice(low, low + ADD_ROWS)
        if not viewed:
            index.add_with_ids(vectors[part], rows[part])
        elif coded is not None:
            coded.add(vectors[part])
        done = min(low + ADD_ROWS, len(vectors)) - after
        progress(f"build {spec.factory}", done, len(vectors) - after)
    if viewed:
        view_vectors(flat, vectors)
        faiss.copy_array_to_vector(rows, index.id_map)
        base.ntotal = index.ntotal = len(vectors)
        # FAISS keeps a bare pointer.
        index.referenced_objects = [vectors]


def measure_candidate(
    spec: IndexSpec, trial: Trial, *, at_least: float = 0.0, progress: Progress = silent
) -> Candidate:
    """Build a candidate and sweep its search parameters.

    Args:
        spec: without search parameters.
        trial: from `new_trial`.
        at_least: queries a second below which nothing is worth measuring.
        progress: told of rows added.
    """
    engine, seconds = build_candidate(spec, trial, progress)
    size = _with_queries(engine.bytes, spec, trial)

    def measure(search: Mapping[str, float]) -> Point:
        tried = replace(spec, search=dict(search))
        return _measure(engine, tried, trial, seconds, size)

    points = list(sweep(measure, spec.kind, trial.wish.recall, at_least))
    holding = [point for point in points if holds(point, trial.wish)]
    best = max(holding, key=lambda point: point.queries_per_second, default=None)
    return Candidate(engine, tuple(points), best)


def _with_queries(size: int, spec: IndexSpec, trial: Trial) -> int:
    """Bytes of an index once the queries are in it too, as they are when it is kept."""
    n, dimension = trial.vectors.shape
    fixed = INDEX_KINDS[spec.kind].centroid_bytes(n, dimension)
    return int(fixed + math.ceil((size - fixed) * n / trial.n))


def holds(point: Point, wish: Wish) -> bool:
    """Whether a point keeps the wish: its whole interval of recall, its memory, its latency."""
    return (
        point.low >= wish.recall
        and (wish.memory is None or point.bytes <= wish.memory)
        and (wish.latency is None or point.latency <= wish.latency)
    )


def _measure(
    engine: FaissEngine, spec: IndexSpec, trial: Trial, seconds: float, size: int
) -> Point:
    exact = INDEX_KINDS[spec.kind].exact
    queries = trial.queries[:EXACT_QUERIES] if exact else trial.queries
    k = trial.truth[1].shape[1]
    shares = _shares(engine, spec, trial, slice(0, len(queries)) if exact else CHOOSE)
    with faiss_threads(trial.wish.threads):
        call = time_of(lambda part: engine.search(part, k, spec.search), queries, trial.wish.batch)
    # What an exact index finds is exact by how it works, not by this sample
    recall, low, high = (1.0, 1.0, 1.0) if exact and shares.all() else recall_interval(shares)
    speed = trial.wish.batch / call
    return Point(spec, recall, low, high, speed, call, seconds, size, trial.n)


def _shares(
    engine: FaissEngine, spec: IndexSpec, trial: Trial, which: slice
) -> NDArray[np.float64]:
    """Share of the true neighbours found, by query, of these queries."""
    queries, truth = trial.queries[which], (trial.truth[0][which], trial.truth[1][which])
    with faiss_threads(trial.wish.threads):
        answers = engine.search(queries, truth[1].shape[1], spec.search)[1]
    return recall_of(queries, trial.inside, answers, truth, trial.metric)


def remeasured(candidate: Candidate, point: Point, trial: Trial) -> Point:
    """The point with its recall on the queries that did not choose it.

    Every second query chooses: the best of many points is better on these than it is.
    """
    if candidate.engine is None or INDEX_KINDS[point.spec.kind].exact or len(trial.queries) < 2:
        return point
    shares = _shares(candidate.engine, point.spec, trial, MEASURE)
    recall, low, high = recall_interval(shares)
    return replace(point, recall=recall, low=low, high=high)


def time_of(search: Callable[[Float], object], queries: Float, batch: int) -> float:
    """Seconds of one call with `batch` queries: the median of at most 200, or of 0.3 s."""
    if batch > len(queries):
        queries = np.tile(queries, (-(-batch // len(queries)), 1))
    times: list[float] = []
    place = 0
    search(queries[:batch])
    while len(times) < 3 or (sum(times) < TIMED_SECONDS and len(times) < TIMED_CALLS):
        part = queries[place : place + batch]
        place = (place + batch) % (len(queries) - batch + 1)
        start = time.perf_counter()
        search(part)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def ceiling(kind: IndexKind, trial: Trial) -> float:
    """Recall of a kind that searches everything it has: what its codes leave."""
    spec = kind.spec(trial.n, trial.vectors.shape[1])
    assert spec is not None, kind.name
    engine, seconds = build_candidate(spec, trial)
    everything = {name: values[-1] for name, values in kind.sweep.items()}
    tried = replace(spec, search=everything)
    return _measure(engine, tried, trial, seconds, engine.bytes).low


def sweep(
    measure: Callable[[Mapping[str, float]], Point],
    kind: str,
    recall: float,
    at_least: float = 0.0,
) -> Iterator[Point]:
    """Points along the grid of a kind, from cheap to dear.

    For each value of the second parameter the first one rises until recall holds, and is then
    narrowed; it ends where nothing faster can come.
    """
    grid = dict(INDEX_KINDS[kind].sweep)
    if not grid:
        yield measure({})
        return
    (first, values), *others = grid.items()
    best = at_least
    for second in others[0][1] if others else (None,):
        constants = {} if second is None else {others[0][0]: second}
        low, high = 0, None
        for value in values:
            point = measure({first: value, **constants})
            yield point
            if point.low >= recall:
                high = value
                break
            low = value
            if point.queries_per_second < best:
                break
        if high is None:
            continue
        good = point
        for _ in range(2):
            middle = (low + high) // 2
            if middle in (low, high):
                break
            point = measure({first: middle, **constants})
            yield point
            if point.low >= recall:
                high, good = middle, point
            else:
                low = middle
        if good.queries_per_second < 0.9 * best:
            return
        best = max(best, good.queries_per_second)


def subset(trial: Trial, n: int, seed: int = 0) -> Trial:
    """A smaller trial over a random part of the vectors, with the same queries and wish."""
    draw = np.random.default_rng(seed)
    chosen = np.sort(draw.choice(trial.n, n, replace=False))
    vectors = np.concatenate([trial.vectors[chosen], trial.queries])
    rows = np.concatenate([trial.rows[chosen], trial.rows[trial.n :]])
    drawn = np.flatnonzero(np.isin(chosen, trial.train))
    return new_trial(vectors, rows, n, drawn, trial.metric, trial.wish)
