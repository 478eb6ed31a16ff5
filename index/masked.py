"""Search where only some rows may answer."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alike.extract.measures import Measure, embed_rows
from alike.index.engine import FaissEngine
from alike.index.flat import nearest
from alike.index.kinds import INDEX_KINDS
from alike.index.specs import Card

Float = NDArray[np.float32]

EXACT_BYTES = 1 << 26
"""Vectors of the allowed rows up to which they are read and searched exactly."""

MOST = {"nprobe": 1 << 14, "efSearch": 4096, "k_factor": 256}


def search_filled(
    engine: FaissEngine,
    vectors: Float,
    k: int,
    search: Mapping[str, float],
    mask: NDArray[np.bool_] | None = None,
) -> tuple[Float, NDArray[np.int64]]:
    """Raw distances and positions (Q, k) of rows that a mask leaves; -1 if there are no more.

    The more rows are masked, the deeper the search. If it still finds fewer than k, the rows around
    the query are masked, or k is large: then everything is searched, of which a graph may still
    miss some.

    Args:
        engine: an index.
        vectors: (Q, D).
        k: answers wanted.
        search: its parameters, as in `IndexSpec.search`.
        mask: (n,) positions that may answer; None: all.
    """
    n, free = len(engine.rows), len(engine.rows) if mask is None else int(mask.sum())
    deeper = {name: min(value * n / max(free, 1), MOST[name]) for name, value in search.items()}
    raw, positions = engine.search(vectors, k, deeper, mask)
    short = np.flatnonzero((positions >= 0).sum(axis=1) < min(k, free))
    if len(short) and search:
        every = {name: MOST[name] for name in search}
        raw[short], positions[short] = engine.search(vectors[short], k, every, mask)
    return raw, positions


def search_masked(
    features: Any,
    measure: Measure,
    card: Card,
    engine: FaissEngine,
    vectors: Float,
    k: int,
    mask: NDArray[np.bool_],
) -> tuple[Float, NDArray[np.int64], bool]:
    """Raw distances and positions (Q, k'), and whether they are exact.

    A mask that leaves few rows is answered exactly; an approximate index that mostly meets rows
    it may not answer would find few of the others. Otherwise it searches in proportion deeper.

    Args:
        features: the extraction.
        measure: of the index, ready.
        card: of the index.
        engine: the index.
        vectors: (Q, D).
        k: answers wanted; fewer columns come if the mask leaves fewer.
        mask: (n,) positions that may answer.
    """
    places_allowed = np.flatnonzero(mask)
    k = min(k, len(places_allowed))
    if k == 0:
        empty = np.empty((len(vectors), 0))
        return empty.astype(np.float32), empty.astype(np.int64), True
    exact = INDEX_KINDS[card.spec.kind].exact
    if exact or len(places_allowed) * card.dimension * 4 > EXACT_BYTES:
        return *search_filled(engine, vectors, k, card.spec.search, mask), exact
    rows = engine.rows[places_allowed]
    order = np.argsort(rows)
    stored = embed_rows(features, measure, rows[order])
    raw, places = nearest(vectors, stored, k, card.metric)
    return raw, places_allowed[order][places], True
