"""One FAISS index as it is searched: parameters per call, rows for positions, masks."""

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alike.index.bfloat import BfloatSearch, has_bfloat16
from alike.index.flat import faiss_metric, flat_vectors, nearest
from alike.index.specs import IndexSpec

FEW = 8
"""Queries in one call from which on bfloat16 is the faster way (measured: 8 in 5 ms, not 28)."""

FEW_MASKED = 64
"""Rows up to which as many more answers are fetched, instead of leaving rows out of the search."""

SHARE = 16
"""Queries that are worth a thread: FAISS's own threads spin after a search, in the way of ours."""

PREFETCH = 4
"""Threads that read lists from disk ahead of a search."""

METRICS = {"cosine": "l2", "euclidean": "l2", "inner": "inner"}
"""Form of a measure to the metric of its index.

Unit vectors are searched by squared distance too, 2 - 2 cos, because inverted lists are then
probed in a better order: recall 0.996 beside 0.978 at equal work (IVF512, N = 50,000, D = 512).
"""


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


def own_distances(own: Any, raw: NDArray[np.float32]) -> NDArray[np.float32]:
    """A measure's own distances from what its index answers.

    Args:
        own: `Measure.own`.
        raw: what METRICS says of the measure's form: squared distances, or inner products.
    """
    return np.asarray(own(raw), dtype=np.float32)


def new_index(factory: str, dimension: int, metric: str) -> Any:
    """An empty FAISS index of a factory string, that answers store rows."""
    import faiss

    base = faiss.index_factory(dimension, factory, faiss_metric(metric))
    inner = faiss.try_extract_index_ivf(base)
    if inner is not None:
        lists = faiss.downcast_index(inner)
        # What few rows train badly is seen when it is measured; FAISS would print it on each build.
        lists.cp.min_points_per_centroid = 1
        if hasattr(lists, "pq"):
            lists.pq.cp.min_points_per_centroid = 1
    index = faiss.IndexIDMap(base)
    # the map does not own what it wraps, unless told
    base.this.disown()
    index.own_fields = True
    return index


def train(index: Any, vectors: NDArray[np.float32]) -> None:
    """Train an index; the k-means of its lists runs on the GPUs, if there are some.

    The index itself stays in the memory of the processor, which serves it.
    """
    import faiss

    inner = faiss.try_extract_index_ivf(index)
    if inner is None or not faiss.get_num_gpus():
        index.train(vectors)
        return
    lists = faiss.downcast_index(inner)
    # FAISS keeps a bare pointer: this must live until it has trained
    assigning = faiss.index_cpu_to_all_gpus(faiss.IndexFlat(lists.d, lists.metric_type))
    lists.clustering_index = assigning
    try:
        index.train(vectors)
    finally:
        lists.clustering_index = None


class FaissEngine:
    """A FAISS index over rows of a store.

    Attributes:
        index: as it is written to its file: with the map of rows.
        rows: (n,) int64, the store row of each position.
        base: the index itself, without the map of rows.
    """

    def __init__(self, index: Any) -> None:
        import faiss

        # what `downcast_index` gives does not own: the index itself must stay
        self.index = index
        mapped = faiss.downcast_index(index)
        self.base = faiss.downcast_index(mapped.index)
        self.rows: NDArray[np.int64] = faiss.vector_to_array(mapped.id_map).copy()
        self.inner = self.base.metric_type == faiss.METRIC_INNER_PRODUCT

    @property
    def float32(self) -> bool:
        """Whether its distances are those of the float32 vectors, not of rounded ones."""
        import faiss

        index = self.base
        if isinstance(index, faiss.IndexRefine):
            index = faiss.downcast_index(index.refine_index)
        return isinstance(index, faiss.IndexFlat | faiss.IndexHNSWFlat | faiss.IndexIVFFlat)

    @property
    def refined_here(self) -> bool:
        """Whether candidates are measured again by squared distances of float32 vectors."""
        import faiss

        return isinstance(self.base, faiss.IndexRefine) and self.float32 and not self.inner

    @property
    def vectors(self) -> NDArray[np.float32] | None:
        """The float32 vectors (n, D) by position, if the index holds them; not copied."""
        import faiss

        index = self.base
        if isinstance(index, faiss.IndexRefine):
            index = faiss.downcast_index(index.refine_index)
        elif isinstance(index, faiss.IndexHNSWFlat):
            index = faiss.downcast_index(index.storage)
        return flat_vectors(index) if isinstance(index, faiss.IndexFlat) else None

    @property
    def bytes(self) -> int:
        """Memory of the index: what its file holds."""
        import faiss

        counter = _Counter()
        faiss.write_index(self.index, faiss.PyCallbackIOWriter(counter, 1 << 20))
        return counter.total

    def search(
        self,
        vectors: NDArray[np.float32],
        k: int,
        search: Mapping[str, float],
        allowed: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Raw answers of FAISS and positions, (Q, k) each; -1 if nothing was found.

        Args:
            vectors: (Q, D) float32.
            k: answers wanted; at most the number of vectors.
            search: parameters, as in `IndexSpec.search`.
            allowed: (n,) positions that may be answered; None allows all.
        """
        import faiss

        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        n_masked = 0 if allowed is None else len(allowed) - int(allowed.sum())
        if n_masked > FEW_MASKED or not isinstance(self.base, faiss.IndexFlat):
            return _ask(self.base, vectors, k, search, allowed)
        # FAISS goes through masked rows one query at a time
        raw, positions = self._every(vectors, min(k + n_masked, self.base.ntotal))
        if allowed is None or not n_masked:
            return raw, positions
        last = np.argsort(~allowed[positions], axis=1, kind="stable")[:, :k]
        raw = np.take_along_axis(raw, last, 1)
        positions = np.take_along_axis(positions, last, 1)
        gone = ~allowed[positions]
        raw[gone], positions[gone] = -np.inf if self.inner else np.inf, -1
        return raw, positions

    def _every(
        self, vectors: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k nearest of all rows of a flat index."""
        return nearest(vectors, flat_vectors(self.base), k, "inner" if self.inner else "l2")


class BfloatEngine(FaissEngine):
    """A flat index that answers batches through `BfloatSearch`, exactly as it would itself."""

    def __init__(self, index: Any) -> None:
        super().__init__(index)
        self._fast = BfloatSearch(flat_vectors(self.base))

    @property
    def bytes(self) -> int:
        """Memory of the float32 and the rounded vectors."""
        return super().bytes + self._fast.bytes

    def _every(
        self, vectors: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """See `FaissEngine`; few queries are answered in float32."""
        import faiss

        if len(vectors) < FEW:
            return super()._every(vectors, k)
        threads = faiss.omp_get_max_threads()
        distances, places, sure = self._fast.search(vectors, k, threads=threads)
        again = np.flatnonzero(~sure)
        if len(again):
            distances[again], places[again] = super()._every(vectors[again], k)
        return distances, places


class RefineEngine(FaissEngine):
    """An index whose candidates are measured in float32, by a loop of ours instead of FAISS's.

    FAISS measures one candidate after the other and mostly waits for memory; this loop reads four
    rows at a time.
    """

    def search(
        self,
        vectors: NDArray[np.float32],
        k: int,
        search: Mapping[str, float],
        allowed: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """See `FaissEngine.search`; equal distances are in the order of positions."""
        import faiss

        # Here, for numba takes 0.2 s to import, and most indexes do not need it.
        from alike.index.select import nearest_of

        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        base = faiss.downcast_index(self.base.base_index)
        n_candidates = max(k, int(k * search.get("k_factor", 1)))
        near = np.empty((len(vectors), k), dtype=np.float32)
        nearest_places = np.empty((len(vectors), k), dtype=np.int64)
        # Asked for at every search: rows that are added may move them.
        refined = self.vectors

        def answer(part: slice) -> None:
            places = _ask(base, vectors[part], n_candidates, search, allowed)[1]
            nearest_of(vectors[part], places, near[part], nearest_places[part], refined)

        def alone(part: slice) -> None:
            faiss.omp_set_num_threads(1)
            answer(part)

        parts = min(faiss.omp_get_max_threads(), len(vectors) // SHARE)
        if parts < 2:
            answer(slice(None))
            return near, nearest_places
        cuts = np.linspace(0, len(vectors), parts + 1).astype(int)
        with ThreadPoolExecutor(parts) as pool:
            list(pool.map(alone, [slice(*ends) for ends in itertools.pairwise(cuts)]))
        return near, nearest_places


class DiskEngine(FaissEngine):
    """An IVF index whose lists stay on disk; it numbers vectors by store row itself."""

    def __init__(self, index: Any, rows: NDArray[np.int64]) -> None:
        """Take an index.

        Args:
            index: IVF, without a map of rows.
            rows: (n,) ascending rows that may be in it; others that it finds are left out.
        """
        import faiss

        self.index = index
        self.base = faiss.downcast_index(index)
        # FAISS starts so many threads for every call; 32 cost more than lists in the cache do
        faiss.downcast_InvertedLists(self.base.invlists).prefetch_nthread = PREFETCH
        self.rows = rows
        self.inner = self.base.metric_type == faiss.METRIC_INNER_PRODUCT

    def search(
        self,
        vectors: NDArray[np.float32],
        k: int,
        search: Mapping[str, float],
        allowed: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """See `FaissEngine.search`."""
        by_row = None
        if allowed is not None:
            by_row = np.zeros(int(self.rows[-1]) + 1, dtype=bool)
            by_row[self.rows[allowed]] = True
        raw, rows = super().search(vectors, k, search, by_row)
        places = np.searchsorted(self.rows, rows).clip(max=len(self.rows) - 1)
        return raw, np.where(self.rows[places] == rows, places, -1)


def ranges_of(rows: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """Ascending rows as [first, last + 1] pairs."""
    cuts = np.flatnonzero(np.diff(rows) > 1) + 1
    parts = np.split(rows, cuts) if len(rows) else []
    return tuple((int(part[0]), int(part[-1]) + 1) for part in parts)


def rows_of(ranges: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """The rows of `ranges_of`."""
    parts = [np.arange(low, high, dtype=np.int64) for low, high in ranges]
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])


class _Counter:
    """Counts the bytes that FAISS writes, and keeps none of them."""

    total = 0

    def __call__(self, data: bytes) -> None:
        self.total += len(data)


def open_engine(index: Any, spec: IndexSpec, ranges: Sequence[tuple[int, int]] = ()) -> FaissEngine:
    """The engine that searches an index of this specification.

    Args:
        index: FAISS index.
        spec: its card's.
        ranges: its card's; of an index whose lists are on disk.
    """
    if ranges:
        return DiskEngine(index, rows_of(ranges))
    engine = FaissEngine(index)
    # Bounds are those of squared distances, on a machine that multiplies bfloat16; elsewhere its
    # file is a flat index as any other.
    if spec.kind == "flat_bfloat16" and not engine.inner and has_bfloat16():
        return BfloatEngine(index)
    return RefineEngine(index) if engine.refined_here else engine


def _ask(
    index: Any,
    vectors: NDArray[np.float32],
    k: int,
    search: Mapping[str, float],
    allowed: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """FAISS's own answers, (Q, k) each; arguments as of `FaissEngine.search`."""
    selector = None if allowed is None else _selector(allowed)
    parameters = search_parameters(index, search, selector)
    answer: tuple[NDArray[np.float32], NDArray[np.int64]]
    # Whoever imports faiss.contrib.torch_utils replaces `search` by one without `params`.
    answer = getattr(index, "search_numpy", index.search)(vectors, k, params=parameters)
    return answer


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

    parameters: dict[str, Any] = {} if selector is None else {"sel": selector}
    if isinstance(index, faiss.IndexRefine):
        base = search_parameters(faiss.downcast_index(index.base_index), search, selector)
        factor = float(search.get("k_factor", 1))
        return faiss.IndexRefineSearchParameters(k_factor=factor, base_index_params=base)
    if isinstance(index, faiss.IndexPreTransform):
        base = search_parameters(faiss.downcast_index(index.index), search, selector)
        return faiss.SearchParametersPreTransform(index_params=base)
    if isinstance(index, faiss.IndexHNSW):
        width = int(search.get("efSearch", 64))
        return faiss.SearchParametersHNSW(efSearch=width, **parameters)
    if isinstance(index, faiss.IndexIVFRaBitQ | faiss.IndexIVFRaBitQFastScan):
        probes = int(search.get("nprobe", 1))
        return faiss.IVFRaBitQSearchParameters(
            nprobe=probes, qb=int(search.get("qb", 8)), **parameters
        )
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(nprobe=int(search.get("nprobe", 1)), **parameters)
    return faiss.SearchParameters(**parameters)
