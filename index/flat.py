"""Exact float32 search over vectors in memory, as fast as FAISS can and as exact as it should.

FAISS answers few queries one by one, and many by a matrix product. The product is many times
faster, but gives |q|^2 + |x|^2 - 2 q.x, in which small distances drown: two copies of an image
would be 3e-4 apart (in units of their length) and no longer in the order of rows. So the answers
of a product are measured again, from the difference.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]

PRODUCT = 6
"""Queries in one call from which on a product is the faster way.

FAISS 1.15 waits for 128,000 numbers, which are 250 queries of 512, and takes 770 ms for 64 of them
over 50,000 rows on one core of an AMD EPYC; by a product 80 ms (4 queries: 45 and 38 ms).
"""


def faiss_metric(metric: str) -> int:
    """FAISS's number of `inner` or `l2`."""
    import faiss

    return int(faiss.METRIC_INNER_PRODUCT if metric == "inner" else faiss.METRIC_L2)


def flat_vectors(flat: Any) -> Float:
    """The vectors (n, D) of a flat index, not copied; the index must outlive them."""
    import faiss

    pointer = flat.get_xb()
    shape = (flat.ntotal, flat.d)
    vectors: Float = faiss.rev_swig_ptr(pointer, shape[0] * shape[1]).reshape(shape)
    return vectors


def view_vectors(flat: Any, vectors: Float) -> None:
    """Make a flat index answer of vectors (n, D) that lie elsewhere, without a copy of them.

    They must outlive it, and nothing can be added to it; it is written to a file as any other.
    """
    import faiss

    data = vectors.view(np.uint8).reshape(-1)
    # An owner of nothing, which is how FAISS marks a view.
    owner = faiss.IndexFlat(1).codes.owner
    flat.codes = type(flat.codes).create_view(faiss.swig_ptr(data), data.size, owner)
    flat.ntotal = len(vectors)


def nearest(queries: Float, vectors: Float, k: int, metric: str) -> tuple[Float, NDArray[np.int64]]:
    """The k nearest of `vectors`.

    Args:
        queries: (Q, D) float32.
        vectors: (N, D) float32.
        k: at most N.
        metric: `l2` (squared distances, ascending) or `inner` (inner products, descending).

    Returns:
        Raw distances (Q, k) and positions (Q, k).
    """
    import faiss

    count, dimension = queries.shape
    unit = dimension if _counts_numbers() else 1
    faiss.cvar.distance_compute_blas_threshold = PRODUCT * unit
    neighbours: tuple[Float, NDArray[np.int64]]
    neighbours = faiss.knn(np.ascontiguousarray(queries), vectors, k, metric=faiss_metric(metric))
    if metric == "inner" or count < PRODUCT or not len(vectors):
        return neighbours
    # Here and below, for numba takes 0.2 s to import.
    from alike.index.select import nearest_of

    exact, places = np.empty_like(neighbours[0]), np.empty_like(neighbours[1])
    nearest_of(np.ascontiguousarray(queries), neighbours[1], exact, places, vectors)
    return exact, places


@cache
def _counts_numbers() -> bool:
    """Whether FAISS's threshold counts numbers, as since 1.15; before it was 20 queries."""
    import faiss

    return int(faiss.cvar.distance_compute_blas_threshold) > 1000


def raw_distances(queries: Float, vectors: Float, places: NDArray[np.int64], metric: str) -> Float:
    """Squared distances, or inner products, of queries (Q, D) to chosen vectors (Q, m)."""
    out = np.empty(places.shape, dtype=np.float32)
    if metric == "l2":
        from alike.index.select import squared_distances

        squared_distances(np.ascontiguousarray(queries), places, out, vectors)
        return out
    for line in range(len(queries)):
        out[line] = vectors[places[line]] @ queries[line]
    return out
