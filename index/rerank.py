"""Order candidates anew by comparing feature maps position by position.

Distances between sets of positions are no embeddings, so no index serves them: they look again at
the candidates that a measure has found: those of `SET_MEASURES`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alike.extract.errors import BadInput
from alike.extract.frames import NamedImage
from alike.extract.measures import SET_MEASURES, check_finite, missing_tap
from alike.index.neighbours import Neighbours, Query, tidy

Maps = NDArray[Any]
MapOf = Callable[[NamedImage], Maps]
"""An image to its feature map (C, H, W)."""

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
    features: Any,
    map_of: MapOf,
    name: str,
    queries: Sequence[Query],
    candidates: Neighbours,
    k: int,
) -> Neighbours:
    """The k nearest of the candidates by another distance, which is then the distance given.

    Args:
        features: the extraction; its feature maps are compared.
        map_of: gives the feature map of an image that is not stored.
        name: a key of `SET_MEASURES`.
        queries: the images that ask.
        candidates: what a measure found for them.
        k: neighbours wanted.

    Raises:
        BadInput: feature maps are not stored, or those of a candidate or query are NaN or infinite.
    """
    if TAP not in features.arrays:
        raise BadInput(missing_tap(name, (TAP,), features))
    distances = np.full(candidates.rows.shape, np.inf, dtype=np.float32)
    for line, query in enumerate(queries):
        rows = candidates.rows[line]
        good = rows >= 0
        if not good.any():
            continue
        if query.image is None:
            own = _stored_maps(features, np.array([query.row]))[0]
        else:
            own = map_of(query.image)
        others = _stored_maps(features, rows[good])
        distances[line, good] = SET_MEASURES[name].to_all(own, others)
    width = min(k, candidates.rows.shape[1])
    best, rows = tidy(distances, candidates.rows, width, candidates.query_rows)
    # The candidates are those of the measure: rows that it left out may be nearer by this distance.
    return replace(candidates, distances=best, rows=rows, exact=np.zeros(len(rows), dtype=bool))


def _stored_maps(features: Any, rows: NDArray[np.int64]) -> Maps:
    maps: Maps = features.read(TAP, rows)
    check_finite(TAP, maps, rows, features.key)
    return maps
