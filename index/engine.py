"""One FAISS index as it is searched: parameters per call, rows for positions, masks."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

METRICS = {"cosine": "inner", "inner": "inner", "euclidean": "l2"}
"""Form of a measure to the metric of its index; unit vectors are searched by inner product."""


def faiss_metric(metric: str) -> int:
    """FAISS's number of `inner` or `l2`."""
    import faiss

    return int(faiss.METRIC_INNER_PRODUCT if metric == "inner" else faiss.METRIC_L2)


@contextlib.contextmanager
def faiss_threads(threads: int | None) -> Iterator[None]:
    """Search with so many threads; None leaves FAISS's own number.

    FAISS and torch each bring their own OpenMP, so each must be told by itself.
    """
    import faiss

    before = faiss.omp_get_max_threads()
    if threads is not None:
        faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def own_distances(form: str, own: Any, raw: NDArray[np.float32]) -> NDArray[np.float32]:
    """A measure's own distances from what its index answers.

    Args:
        form: of the measure.
        own: `Measure.own`.
        raw: inner products (`cosine`, `inner`) or squared distances (`euclidean`).
    """
    value = 2.0 - 2.0 * raw if form == "cosine" else raw
    return np.asarray(own(value), dtype=np.float32)


class Engine:
    """A FAISS index over rows of a store.

    Attributes:
        rows: (n,) int64, the store row of each position.
        base: the index itself, without the map of rows.
    """

    def __init__(self, index: Any) -> None:
        import faiss

        # what `downcast_index` gives does not own: the index itself must stay
        self._owner = index
        mapped = faiss.downcast_index(index)
        self.base = faiss.downcast_index(mapped.index)
        self.rows: NDArray[np.int64] = faiss.vector_to_array(mapped.id_map).copy()
        self.inner = self.base.metric_type == faiss.METRIC_INNER_PRODUCT

    def search(
        self,
        vectors: NDArray[np.float32],
        k: int,
        search: Mapping[str, float],
        allowed: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Raw answers of FAISS and positions, (Q, k) each; -1 where nothing was found.

        Args:
            vectors: (Q, D) float32.
            k: answers wanted; at most the number of vectors.
            search: parameters, as in `IndexSpec.search`.
            allowed: (n,) positions that may be answered; None allows all.
        """
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        selector = None if allowed is None else _selector(allowed)
        parameters = search_parameters(self.base, search, selector)
        found: tuple[NDArray[np.float32], NDArray[np.int64]]
        found = self.base.search(vectors, k, params=parameters)
        return found


def _selector(allowed: NDArray[np.bool_]) -> Any:
    import faiss

    bits = np.packbits(allowed, bitorder="little")
    selector = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
    # FAISS keeps a bare pointer: the array must live as long as the selector
    selector.bits = bits
    return selector


def search_parameters(index: Any, search: Mapping[str, float], selector: Any) -> Any:
    """FAISS's search parameters for an index of any kind, nested as the index is.

    Args:
        index: downcast.
        search: `nprobe`, `efSearch`, `k_factor`; those that the kind lacks are left alone.
        selector: positions allowed, or None.
    """
    import faiss

    chosen: dict[str, Any] = {} if selector is None else {"sel": selector}
    if isinstance(index, faiss.IndexRefine):
        base = search_parameters(faiss.downcast_index(index.base_index), search, selector)
        factor = float(search.get("k_factor", 1))
        return faiss.IndexRefineSearchParameters(k_factor=factor, base_index_params=base)
    if isinstance(index, faiss.IndexPreTransform):
        base = search_parameters(faiss.downcast_index(index.index), search, selector)
        return faiss.SearchParametersPreTransform(index_params=base)
    if isinstance(index, faiss.IndexHNSW):
        width = int(search.get("efSearch", 64))
        return faiss.SearchParametersHNSW(efSearch=width, **chosen)
    if isinstance(index, faiss.IndexIVFRaBitQ | faiss.IndexIVFRaBitQFastScan):
        probes = int(search.get("nprobe", 1))
        return faiss.IVFRaBitQSearchParameters(nprobe=probes, qb=int(search.get("qb", 8)), **chosen)
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(nprobe=int(search.get("nprobe", 1)), **chosen)
    return faiss.SearchParameters(**chosen)
