"""Choose an index by measuring: the fastest kind that keeps the wish on held-out queries."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from alike.extract.errors import BadInput
from alike.extract.progress import Progress, silent
from alike.index.engine import FEW
from alike.index.kinds import INDEX_KINDS, IndexKind
from alike.index.specs import Point, Wish
from alike.index.trial import (
    Candidate,
    Trial,
    build_candidate,
    holds,
    measure_candidate,
    remeasured,
    subset,
)

SOON = 1e-3
"""Seconds of one call below which exact search is taken and nothing else is tried."""

STAGE = 60_000
"""Vectors from which on kinds are first tried on a part."""

EQUAL = 0.95
"""Share of the fastest's speed that counts as equal: one timing differs from the next by as much.

Of equally fast kinds the smallest index is taken.
"""

PART = 20_000
FINALISTS = 3
SLOW = 0.5
"""Share of the speed that one reached, below which a kind that promises it is not built."""
EFFORT = 900.0


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        candidate: the built index, its queries not yet added.
        point: the point that was chosen.
        curve: all that was measured on the full set.
        why: one sentence.
    """

    candidate: Candidate
    point: Point
    curve: tuple[Point, ...]
    why: str


def choose(
    trial: Trial,
    *,
    kinds: Sequence[str] | None = None,
    effort: float = EFFORT,
    stage: int = STAGE,
    progress: Progress = silent,
) -> Choice:
    """Build candidates, measure them, keep the fastest that holds; of equally fast the smallest.

    Args:
        trial: what to index and to measure by.
        kinds: keys of `INDEX_KINDS` to try; None: all that fit the machine and the wish.
        effort: seconds to spend on building candidates, about.
        stage: vectors from which on kinds are first tried on a third of them, at most 20,000.
        progress: told what is being built.

    Raises:
        BadInput: nothing that was tried keeps the wish; the message says what came nearest.
    """
    start = time.perf_counter()
    pool = _allowed(trial, kinds)
    candidates = [(kind, _measured(kind, trial, 0.0, progress)) for kind in pool if kind.exact]
    best = _best(candidates, trial.wish)
    soon = trial.wish.latency if trial.wish.latency is not None else SOON
    if best is not None and best[1].latency <= soon and kinds is None:
        best = _remeasured(best, trial)
        summary = _in_words(best[1], trial)
        return _chosen(candidates, best, f"exact search answers in {_ms(best[1])}: {summary}")
    others = [kind for kind in pool if not kind.exact] if trial.wish.recall < 1 else []
    slow = []
    for kind, seconds, speed in _ranked(others, trial, stage, progress):
        spent = time.perf_counter() - start
        if candidates and spent + seconds > effort:
            continue
        least = best[1].queries_per_second if best is not None else 0.0
        if speed < SLOW * least:
            slow.append(kind.name)
            continue
        if trial.wish.memory is not None:
            # Two indexes at once would be more than was allowed.
            candidates = [(one, candidate.set_aside()) for one, candidate in candidates]
        candidates.append((kind, _measured(kind, trial, least, progress)))
        best = _best(candidates, trial.wish)
        candidates = _let_go(candidates, best)
    if best is None:
        raise BadInput(_nearest(candidates, trial))
    if best[0].engine is None:
        spec = replace(best[1].spec, search={})
        again = replace(best[0], engine=build_candidate(spec, trial, progress)[0])
        candidates = [(kind, again if one is best[0] else one) for kind, one in candidates]
        best = again, best[1]
    best = _remeasured(best, trial)
    summary = _in_words(best[1], trial)
    why = f"the fastest of {len(candidates)} kinds that holds: {summary}"
    if slow:
        why += f"; on a part of the vectors {', '.join(slow)} promised less than half of its speed"
    return _chosen(candidates, best, why)


def _allowed(trial: Trial, names: Sequence[str] | None) -> list[IndexKind]:
    n, dimension = trial.vectors.shape
    wish, pool, least = trial.wish, [], math.inf
    for kind in INDEX_KINDS.values() if names is None else [kind_of(name) for name in names]:
        unfit = _unfit(kind, trial)
        if unfit and names is not None:
            raise BadInput(f"index kind {kind.name} cannot be used here: {unfit}; leave it out")
        if unfit or (kind.rounded and wish.memory is None and names is None):
            continue
        size = kind.bytes(n, dimension)
        least = min(least, size)
        if wish.memory is None or size <= wish.memory:
            pool.append(kind)
    if not pool:
        msg = f"memory {wish.memory} bytes is too little for {n} vectors of {dimension} numbers"
        raise BadInput(f"{msg}: at least {int(least)} are needed, or lists on disk (--on-disk)")
    return pool


def _unfit(kind: IndexKind, trial: Trial) -> str:
    """Why a kind cannot be a candidate on this machine, for these vectors; empty if it can."""
    n, dimension = trial.vectors.shape
    if not kind.available():
        return "this CPU does not multiply bfloat16 natively (AVX512-BF16 or AMX)"
    if kind.spec(n, dimension) is None:
        return f"{dimension} numbers a vector divide into no product codes of 2 to 8"
    if kind.name == "flat_bfloat16" and trial.metric != "l2":
        return "it bounds distances, and this measure is an inner product"
    if kind.name == "flat_bfloat16" and trial.wish.batch < FEW:
        return f"it answers batches of {FEW} queries or more, the wish is {trial.wish.batch}"
    return ""


def kind_of(name: str) -> IndexKind:
    """A row of `INDEX_KINDS` by name.

    Raises:
        BadInput: no such row.
    """
    if name not in INDEX_KINDS:
        raise BadInput(f"unknown index kind {name!r}, expected one of {', '.join(INDEX_KINDS)}")
    return INDEX_KINDS[name]


def _measured(kind: IndexKind, trial: Trial, least: float, progress: Progress) -> Candidate:
    spec = kind.spec(len(trial.vectors), trial.vectors.shape[1])
    assert spec is not None, kind.name
    return measure_candidate(spec, trial, at_least=least, progress=progress)


def _ranked(
    kinds: Sequence[IndexKind], trial: Trial, stage: int, progress: Progress
) -> list[tuple[IndexKind, float, float]]:
    """Kinds worth building in full, the most promising first.

    Each with the seconds of it and the queries a second that a part of the vectors promises.
    """
    if trial.n < stage or not kinds:
        return [(kind, 0.0, math.inf) for kind in kinds]
    size = min(PART, trial.n // 3)
    part = subset(trial, size)
    ratio = len(trial.vectors) / size
    promising = []
    for kind in kinds:
        spec = kind.spec(size, trial.vectors.shape[1])
        assert spec is not None, kind.name
        candidate = measure_candidate(spec, part, progress=progress)
        fastest = max(
            (point for point in candidate.points if point.low >= trial.wish.recall),
            key=lambda point: point.queries_per_second,
            default=None,
        )
        if fastest is not None:
            speed = fastest.queries_per_second / _growth(kind, ratio)
            promising.append((speed, kind, fastest.build_seconds * ratio * 1.2))
    promising.sort(key=lambda one: -one[0])
    return [(kind, seconds, speed) for speed, kind, seconds in promising[:FINALISTS]]


def _growth(kind: IndexKind, ratio: float) -> float:
    """How many times longer a query takes in an index `ratio` times as large."""
    grown = {"n": ratio, "sqrt": math.sqrt(ratio)}
    return grown.get(kind.growth, 1 + math.log(ratio) / math.log(PART))


def _best(
    candidates: Sequence[tuple[IndexKind, Candidate]], wish: Wish
) -> tuple[Candidate, Point] | None:
    """Of those that hold and are as fast as any, the smallest."""
    holding = [(one, one.best) for _, one in candidates if one.best is not None]
    seen = [point for _, one in candidates for point in one.points if holds(point, wish)]
    enough = EQUAL * max((point.queries_per_second for point in seen), default=0.0)
    fast = [pair for pair in holding if pair[1].queries_per_second >= enough]
    return min(fast, key=lambda pair: pair[1].bytes, default=None)


def _let_go(
    candidates: Sequence[tuple[IndexKind, Candidate]], best: tuple[Candidate, Point] | None
) -> list[tuple[IndexKind, Candidate]]:
    """Drop the indexes that lost, keep what was measured of them."""
    measured = []
    for kind, one in candidates:
        lost = best is not None and one is not best[0]
        measured.append((kind, one.without_engine() if lost else one))
    return measured


def _remeasured(best: tuple[Candidate, Point], trial: Trial) -> tuple[Candidate, Point]:
    return best[0], remeasured(*best, trial)


def _chosen(
    candidates: Sequence[tuple[IndexKind, Candidate]], best: tuple[Candidate, Point], why: str
) -> Choice:
    curve = tuple(
        best[1] if one is best[0] and point.spec == best[1].spec else point
        for _, one in candidates
        for point in one.points
    )
    return Choice(best[0], best[1], curve, why)


def _ms(point: Point) -> str:
    return f"{1000 * point.latency:.3g} ms a call"


def _in_words(point: Point, trial: Trial) -> str:
    wish = trial.wish
    recall = f"recall@{wish.at} {point.recall:.4f} ({point.low:.4f} to {point.high:.4f})"
    many = (
        f"by {len(trial.queries) // 2} held-out queries"
        if len(trial.queries)
        else "by construction"
    )
    speed = f"{point.queries_per_second:,.0f} queries/s at batch {wish.batch}"
    return f"{point.spec}, {recall} {many}, {speed}, {point.bytes / 1e6:,.1f} MB"


def _nearest(candidates: Sequence[tuple[IndexKind, Candidate]], trial: Trial) -> str:
    points = [point for _, one in candidates for point in one.points]
    wish = trial.wish
    terms = f"recall@{wish.at} >= {wish.recall}"
    if wish.memory is not None:
        terms += f", memory <= {wish.memory} bytes"
    if wish.latency is not None:
        terms += f", latency <= {wish.latency} s"
    if not points:
        return f"no index with {terms} was found within the effort: raise it"
    near = max(points, key=lambda point: (min(point.low, wish.recall), -point.latency))
    few = near.recall >= wish.recall > near.low
    why = "so few queries cannot certify more: index more images, or relax" if few else "relax"
    return f"no index has {terms}; nearest is {_in_words(near, trial)}, {_ms(near)}: {why} the wish"
