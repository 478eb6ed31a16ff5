"""Exact search in half the bytes: candidates in bfloat16, certified, ranked again in float32.

For a query q and a row x, both centred by the mean of the rows, half the squared distance is

    h = |q|^2/2 + |x|^2/2 - q.x  >=  |q|^2/2 + |x|^2/2 - q'.x' - |q| e(x) - e(q) |x'|

where q', x' are rounded to bfloat16 and e(.) is the norm of what rounding took (Cauchy-Schwarz).
The right side is one inner product of vectors with eight columns more, so one bfloat16 matrix
product gives a *lower bound* of every distance. Rows that are not among the M smallest bounds are
farther than the M-th bound; if that is above the k-th true distance, the answer is certainly
exact. Other queries are searched again in float32.

Needs a CPU (or matrix library) that multiplies bfloat16 faster than float32; see `has_bfloat16`.
"""

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

EXTRA = 8
"""Columns added: three each for the two squared norms, one for each of the two error terms."""

ALIGN = 16
PART = 4096
"""Rows that are rounded at once: several copies of them are made meanwhile."""

QUERIES, ROWS = 256, 2048
"""One block of the product: its bounds (1 MiB) stay in the cache while they are selected."""

CANDIDATES = 32
HALF_ULP = 2.0**-8
"""Relative rounding of a bound to bfloat16, doubled for safety."""

Float = NDArray[np.float32]


@cache
def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively (AVX512-BF16 or AMX)."""
    import torch

    return bool(
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    )


@dataclass(frozen=True)
class _Rounded:
    """Vectors as the product takes them.

    Attributes:
        matrix: torch bfloat16 (n, D') with the extra columns.
        norms: (n,) of the centred vectors, float64.
    """

    matrix: Any
    norms: NDArray[np.float64]


def rounded_bytes(n: int, dimension: int) -> int:
    """Memory of a `BfloatSearch` of n vectors, besides the vectors."""
    return 2 * n * (-(-(dimension + EXTRA) // ALIGN) * ALIGN)


class BfloatSearch:
    """Exact nearest rows by squared Euclidean distance.

    Attributes:
        candidates: M, bounds kept for each query.
    """

    def __init__(self, vectors: Float, *, candidates: int = CANDIDATES) -> None:
        """Round the rows.

        Args:
            vectors: (N, D) float32, kept by reference; float16 overflow does not matter here,
                bfloat16 has the range of float32.
            candidates: M; more of them certify more answers and cost more.
        """
        self.candidates = candidates
        self._vectors = vectors
        self._mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        parts = [self._rows(vectors[low : low + PART]) for low in range(0, len(vectors), PART)]
        self._blocks = [
            part.matrix[low : low + ROWS]
            for part in parts
            for low in range(0, len(part.matrix), ROWS)
        ]
        self._widest = max(float(part.norms.max()) for part in parts)

    @property
    def bytes(self) -> int:
        """Memory besides the float32 vectors."""
        return sum(block.numel() * 2 for block in self._blocks)

    def search(
        self, queries: Float, k: int, *, threads: int = 1
    ) -> tuple[Float, NDArray[np.int64], NDArray[np.bool_]]:
        """The k nearest rows.

        Args:
            queries: (Q, D) float32.
            k: at most the number of rows.
            threads: of product and selection.

        Returns:
            Squared distances (Q, k) ascending, positions (Q, k), and (Q,) whether the answer is
            certified; answers that are not must be searched again by other means.
        """
        import torch

        queries = np.ascontiguousarray(queries, dtype=np.float32)
        n_kept = min(max(self.candidates, 2 * k), len(self._vectors))
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with torch.inference_mode(), ThreadPoolExecutor(threads) as pool:
                parts = [
                    self._search(queries[low : low + QUERIES], k, n_kept, pool, threads)
                    for low in range(0, len(queries), QUERIES)
                ]
        finally:
            torch.set_num_threads(before)
        distances, places, sure = (np.concatenate(part) for part in zip(*parts, strict=True))
        return distances, places, sure

    def _search(
        self, queries: Float, k: int, n_kept: int, pool: ThreadPoolExecutor, threads: int
    ) -> tuple[Float, NDArray[np.int64], NDArray[np.bool_]]:
        import torch

        # Here, for numba takes 0.2 s to import.
        from alike.index.select import SENTINEL, select_smallest, squared_distances

        bfloats = self._queries(queries)
        cuts = np.linspace(0, len(queries), threads + 1).astype(int)
        parts = [slice(low, high) for low, high in itertools.pairwise(cuts)]
        bounds = np.full((len(queries), n_kept), SENTINEL, dtype=np.int16)
        places = np.full((len(queries), n_kept), -1, dtype=np.int64)
        out = torch.empty(len(queries), ROWS, dtype=torch.bfloat16)
        first = 0
        for block in self._blocks:
            product = out if len(block) == ROWS else out.new_empty(len(queries), len(block))
            torch.mm(bfloats.matrix, block.T, out=product)
            # bits of bfloat16 at or above zero order as the numbers do
            bits = product.view(torch.int16).numpy()
            _each(pool, parts, select_smallest, (bits, bounds, places), first)
            first += len(block)
        exact = np.empty((len(queries), n_kept), dtype=np.float32)
        _each(pool, parts, squared_distances, (queries, places, exact), self._vectors)
        order = np.lexsort((places, exact), axis=-1)[:, :k]
        distances = np.take_along_axis(exact, order, axis=1)
        nearest = np.take_along_axis(places, order, axis=1)
        if n_kept == len(self._vectors):
            return distances, nearest, np.ones(len(queries), dtype=bool)
        return distances, nearest, self._sure(bounds[:, -1], distances[:, -1], bfloats)

    def _sure(
        self, last: NDArray[np.int16], farthest: Float, bfloats: _Rounded
    ) -> NDArray[np.bool_]:
        """Whether no row outside the candidates can be nearer than the k-th answer."""
        import torch

        bound = torch.from_numpy(last.copy()).view(torch.bfloat16).to(torch.float64).numpy()
        columns = float(bfloats.matrix.shape[1])
        # float32 accumulation of the product, whose terms are at most these in sum
        terms = (bfloats.norms + self._widest) ** 2 * 1.05
        slack = columns * 2.0**-23 * terms
        lower = np.maximum(bound, 0.0) * (1.0 - HALF_ULP) - slack
        sure: NDArray[np.bool_] = lower >= farthest.astype(np.float64) / 2.0 * (1.0 + 2.0**-12)
        return sure

    def _rows(self, vectors: Float) -> _Rounded:
        centred = vectors - self._mean
        near, norms, lost, rest = _round(centred)
        extra = [*_split(norms**2 / 2.0), *_ones(3, len(vectors)), -_up(lost), -_up(rest)]
        return _Rounded(_join(near, extra), norms)

    def _queries(self, queries: Float) -> _Rounded:
        near, norms, lost, _ = _round(queries - self._mean)
        extra = [*_ones(3, len(queries)), *_split(norms**2 / 2.0), _up(norms), _up(lost)]
        return _Rounded(_join(-near, extra), norms)


def _each(
    pool: ThreadPoolExecutor,
    parts: list[slice],
    loop: Any,
    lines: tuple[NDArray[Any], ...],
    *whole: Any,
) -> None:
    """Run a compiled loop on parts of the queries at the same time."""
    if len(parts) == 1:
        loop(*lines, *whole)
    else:
        list(pool.map(lambda at: loop(*(line[at] for line in lines), *whole), parts))


def _round(centred: Float) -> tuple[Any, NDArray[np.float64], Float, Float]:
    """bfloat16 of vectors; norms of them, of what rounding took, and of what it left."""
    import torch

    near = torch.from_numpy(centred).to(torch.bfloat16)
    rounded = near.to(torch.float32).numpy()
    norms = np.sqrt(np.einsum("nd,nd->n", centred, centred, dtype=np.float64))
    lost = np.sqrt(np.einsum("nd,nd->n", *(2 * [centred - rounded]), dtype=np.float64))
    left = np.sqrt(np.einsum("nd,nd->n", rounded, rounded, dtype=np.float64))
    return near, norms, lost.astype(np.float32), left.astype(np.float32)


def _split(values: NDArray[np.float64]) -> list[Any]:
    """Three bfloat16 columns whose sum is a float64 column to 24 bits."""
    import torch

    rest, parts = torch.from_numpy(values), []
    for _ in range(3):
        parts.append(rest.to(torch.bfloat16))
        rest = rest - parts[-1].to(torch.float64)
    return parts


def _up(values: Any) -> Any:
    """bfloat16 at or above non-negative numbers."""
    import torch

    return torch.as_tensor(values * (1.0 + 2.0**-7), dtype=torch.float32).to(torch.bfloat16)


def _ones(columns: int, n: int) -> list[Any]:
    import torch

    return columns * [torch.ones(n, dtype=torch.bfloat16)]


def _join(near: Any, extra: list[Any]) -> Any:
    import torch

    n, dimension = near.shape
    width = -(-(dimension + EXTRA) // ALIGN) * ALIGN
    joined = torch.zeros(n, width, dtype=torch.bfloat16)
    joined[:, :dimension] = near
    joined[:, dimension : dimension + EXTRA] = torch.stack(extra, dim=1)
    return joined
