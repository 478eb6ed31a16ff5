"""The true neighbours, by blocked matrix products: what an index is measured against."""

import numpy as np
from numpy.typing import NDArray

from alike.index.bfloat import BfloatSearch, has_bfloat16, rounded_bytes
from alike.index.engine import faiss_threads
from alike.index.flat import faiss_metric, nearest, raw_distances

Float = NDArray[np.float32]

WORTH_ROUNDING = 1 << 24
"""Pairs from which on rounding the rows to bfloat16 first pays."""


def true_neighbours(
    queries: Float,
    vectors: Float,
    k: int,
    metric: str,
    *,
    threads: int | None = None,
    memory: int | None = None,
) -> tuple[Float, NDArray[np.int64]]:
    """The k nearest of `vectors`, exact in float32.

    Args:
        queries: (Q, D) float32.
        vectors: (N, D) float32.
        k: at most N.
        metric: `l2` (squared distances, ascending) or `inner` (inner products, descending).
        threads: None: FAISS's number.
        memory: bytes below which a rounded copy of the vectors must stay; None: any.

    Returns:
        Raw distances (Q, k) and positions (Q, k).
    """
    import faiss

    if faiss.get_num_gpus():
        return _by_gpu(queries, vectors, k, metric)
    with faiss_threads(threads):
        many = len(queries) * len(vectors) >= WORTH_ROUNDING
        many = many and (memory is None or rounded_bytes(*vectors.shape) <= memory)
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


def recall_interval(shares: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean recall with its 95 % interval, of queries that each found a share of their neighbours.

    What is lost is a weighted sum of rare events: gamma quantiles, on the upper side with one more
    query lost, by as much as the worst of them (Fay and Feuer 1997), or wholly where under ten lost
    anything. With nothing lost: .025^(1/n) as Clopper and Pearson.
    """
    from scipy.stats import gamma

    n = len(shares)
    losses = 1.0 - shares
    y, v = float(losses.mean()), float((losses**2).sum()) / n**2
    v = max(v - y**2 / n, 0.0)  # binomial, not Poisson
    tail = 0.025
    if y <= 0:
        return 1.0, float(tail ** (1 / n)), 1.0
    largest = float(losses.max()) / n if (losses > 0).sum() >= 10 else 1.0 / n
    more, spread_more = y + largest, v + largest**2
    high = gamma.ppf(1 - tail, more**2 / spread_more, scale=spread_more / more)
    low = gamma.ppf(tail, y**2 / max(v, 1e-300), scale=v / y) if v > 0 else 0.0
    return float(shares.mean()), max(0.0, 1 - float(high)), min(1.0, 1 - float(low))
