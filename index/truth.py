"""The true neighbours, by blocked matrix products: what an index is judged against."""

import numpy as np
from numpy.typing import NDArray

from alike.index.bfloat import BfloatSearch, has_bfloat16
from alike.index.engine import faiss_threads
from alike.index.flat import faiss_metric, nearest, raw_distances

Float = NDArray[np.float32]

WORTH_ROUNDING = 1 << 24
"""Pairs from which on rounding the rows to bfloat16 first pays."""


def true_neighbours(
    queries: Float, vectors: Float, k: int, metric: str, *, threads: int | None = None
) -> tuple[Float, NDArray[np.int64]]:
    """The k nearest of `vectors`, exact in float32.

    Args:
        queries: (Q, D) float32.
        vectors: (N, D) float32.
        k: at most N.
        metric: `l2` (squared distances, ascending) or `inner` (inner products, descending).
        threads: None: FAISS's number.

    Returns:
        Raw distances (Q, k) and positions (Q, k).
    """
    import faiss

    if faiss.get_num_gpus():
        return _by_gpu(queries, vectors, k, metric)
    with faiss_threads(threads):
        many = len(queries) * len(vectors) >= WORTH_ROUNDING
        if metric == "l2" and many and has_bfloat16():
            used = faiss.omp_get_max_threads()
            return certified(BfloatSearch(vectors), queries, vectors, k, used)
        return nearest(queries, vectors, k, metric)


def certified(
    search: BfloatSearch, queries: Float, vectors: Float, k: int, threads: int
) -> tuple[Float, NDArray[np.int64]]:
    """Answers of a `BfloatSearch`, those without a certificate found again in float32."""
    distances, places, sure = search.search(queries, k, threads=threads)
    again = np.flatnonzero(~sure)
    if len(again):
        distances[again], places[again] = nearest(queries[again], vectors, k, "l2")
    return distances, places


def _by_gpu(queries: Float, vectors: Float, k: int, metric: str) -> tuple[Float, NDArray[np.int64]]:
    import faiss

    resources = faiss.StandardGpuResources()
    neighbours: tuple[Float, NDArray[np.int64]]
    neighbours = faiss.knn_gpu(resources, queries, vectors, k, metric=faiss_metric(metric))
    return neighbours


def recall_of(
    queries: Float,
    vectors: Float,
    answers: NDArray[np.int64],
    truth: tuple[Float, NDArray[np.int64]],
    metric: str,
) -> NDArray[np.float64]:
    """Share of the true neighbours found by each query, (Q,).

    A row that is as near as the last true neighbour counts as found: of equally near rows any is
    right. So distances are computed again here, whatever the index answered.

    Args:
        queries: (Q, D).
        vectors: (N, D).
        answers: (Q, k) positions, -1 for none.
        truth: from `true_neighbours`, with the same k.
        metric: as there.
    """
    k = truth[1].shape[1]
    places = np.where(answers[:, :k] >= 0, answers[:, :k], 0)
    near = raw_distances(queries, vectors, places, metric)
    last = truth[0][:, -1:]
    # Float32 rounding of two ways to compute one distance
    slack = 1e-5 * np.abs(last) + 1e-6 * float(np.abs(truth[0]).max(initial=1e-12))
    good = near <= last + slack if metric == "l2" else near >= last - slack
    good &= answers[:, :k] >= 0
    share: NDArray[np.float64] = good.sum(axis=1) / k
    return share


def recall_interval(
    shares: NDArray[np.float64], *, draws: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean recall with its 95 % bootstrap interval over queries."""
    draw = np.random.default_rng(seed)
    picks = draw.integers(0, len(shares), (draws, len(shares)))
    means = shares[picks].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(shares.mean()), float(low), float(high)
