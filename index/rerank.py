"""Order candidates anew by comparing feature maps position by position.

Distances between sets of positions are no embeddings, so no index serves them: they look again at
the candidates that a measure has found. A new one is a row of `RERANKERS`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from extract.errors import BadInput
from index.neighbours import Neighbours, tidy

if TYPE_CHECKING:
    from index.query import NeighbourIndex

Maps = NDArray[Any]

CANDIDATES = 50
TAP = "last_conv"


def chamfer(query: Maps, others: Maps) -> NDArray[np.float32]:
    """1 - (mean over p of max over q of cos(a_p, b_q), and the same the other way) / 2.

    Every position looks for its best counterpart, so parts may lie elsewhere in the other image
    (SCIENCE 1.1, number 10).

    Args:
        query: (C, H, W).
        others: (M, C, H', W').

    Returns:
        (M,) float32 in [0, 2].
    """
    import torch

    def columns(maps: Maps) -> Any:
        flat = torch.from_numpy(np.ascontiguousarray(maps, dtype=np.float32)).flatten(-2)
        return torch.nn.functional.normalize(flat, dim=-2)

    with torch.inference_mode():
        alike = torch.einsum("cp,mcq->mpq", columns(query), columns(others))
        there, back = alike.amax(dim=2).mean(dim=1), alike.amax(dim=1).mean(dim=1)
        distance: NDArray[np.float32] = (1.0 - (there + back) / 2.0).numpy()
    return distance


RERANKERS: Mapping[str, Callable[[Maps, Maps], NDArray[np.float32]]] = {"chamfer": chamfer}
"""(map of the query, maps of candidates) to distances, smaller is nearer."""


def wanted_candidates(name: str, k: int) -> int:
    """How many candidates to fetch.

    Raises:
        BadInput: no such re-ranker.
    """
    if name not in RERANKERS:
        raise BadInput(f"unknown rerank {name!r}, expected one of {', '.join(RERANKERS)}")
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
        name: a key of `RERANKERS`.
        given: queries, from `NeighbourIndex.read`.
        found: their candidates.
        k: neighbours wanted.
        network: as in `NeighbourIndex.query`.

    Raises:
        BadInput: feature maps are not stored.
    """
    if TAP not in index.features.arrays:
        msg = f"rerank {name} compares {TAP}, not stored in {index.features.key}"
        raise BadInput(f"{msg}: add it by `alike extract ... --taps {TAP}`")
    distances = np.full(found.rows.shape, np.inf, dtype=np.float32)
    for line, (row, data, image) in enumerate(given):
        rows = found.rows[line]
        good = rows >= 0
        if not good.any():
            continue
        if data is None:
            query = index.features.read(TAP, np.array([row]))[0]
        else:
            query = index.encoder(network).taps([data], [TAP], [image])[TAP][0]
        distances[line, good] = RERANKERS[name](query, index.features.read(TAP, rows[good]))
    best, rows = tidy(distances, found.rows, min(k, found.rows.shape[1]), found.query_rows)
    # the candidates are those of the measure: farther ones may be nearer by this distance
    return replace(found, distances=best, rows=rows, exact=np.zeros(len(rows), dtype=bool))
