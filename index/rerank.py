"""Order candidates anew by comparing feature maps position by position.

Distances between sets of positions are no embeddings, so no index serves them: they look again at
the candidates that a measure has found: those of `SET_MEASURES`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from alike.extract.command import extract_again
from alike.extract.errors import BadInput
from alike.extract.measures import SET_MEASURES, check_finite, missing_tap
from alike.index.neighbours import Neighbours, tidy

if TYPE_CHECKING:
    from alike.index.query import NeighbourIndex

CANDIDATES = 50
TAP = "last_conv"


def wanted_candidates(name: str, k: int) -> int:
    """How many candidates to fetch.

    Raises:
        BadInput: no such re-ranker.
    """
    if name not in SET_MEASURES:
        raise BadInput(f"unknown rerank {name!r}, expected one of {', '.join(SET_MEASURES)}")
    return max(CANDIDATES, 2 * k)


def rerank_neighbours(
    index: "NeighbourIndex",
    name: str,
    given: Sequence[tuple[int, bytes | None, str]],
    found: Neighbours,
    k: int,
    network: Any = None,
) -> Neighbours:
    """The k nearest of the candidates by another distance, which is then the one told.

    Args:
        index: whose features are read.
        name: a key of `SET_MEASURES`.
        given: queries, from `NeighbourIndex.read`.
        found: their candidates.
        k: neighbours wanted.
        network: as in `NeighbourIndex.query`.

    Raises:
        BadInput: feature maps are not stored, or those of a candidate or query are NaN or infinite.
    """
    if TAP not in index.features.arrays:
        again = extract_again(index.features)
        raise BadInput(missing_tap(name, (TAP,), index.features.key, again))
    distances = np.full(found.rows.shape, np.inf, dtype=np.float32)
    for line, (row, data, image) in enumerate(given):
        rows = found.rows[line]
        good = rows >= 0
        if not good.any():
            continue
        if data is None:
            own = np.array([row])
            query = index.features.read(TAP, own)[0]
            check_finite(TAP, query[None], own, index.features.key)
        else:
            query = index.encoder(network).taps([data], [TAP], [image])[TAP][0]
        others = index.features.read(TAP, rows[good])
        check_finite(TAP, others, rows[good], index.features.key)
        distances[line, good] = SET_MEASURES[name].to_all(query, others)
    best, rows = tidy(distances, found.rows, min(k, found.rows.shape[1]), found.query_rows)
    # the candidates are those of the measure: farther ones may be nearer by this distance
    return replace(found, distances=best, rows=rows, exact=np.zeros(len(rows), dtype=bool))
