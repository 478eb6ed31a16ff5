"""The kinds of index there are: a new one is one row of `INDEX_KINDS`.

FAISS factory strings: https://github.com/facebookresearch/faiss/wiki/The-index-factory

>>> INDEX_KINDS["ivf_sq8"].spec(100_000, 512)
IndexSpec(kind='ivf_sq8', factory='IVF1024,SQ8', search={})
>>> INDEX_KINDS["flat"].bytes(1000, 512)
2056000
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from alike.index.bfloat import has_bfloat16, rounded_bytes
from alike.index.specs import IndexSpec

Sweep = Mapping[str, tuple[int, ...]]

PROBES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
WIDTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024)
REFINED = (1, 2, 3, 4, 8, 16, 32, 64, 128)
LINKS = 32
POINTS_PER_LIST = 50
"""Rows that k-means sees for each list; FAISS warns below 39."""

POINTS_OF_CODES = 40 * 16
"""Rows that the k-means of 4-bit product codes sees at least, if there are so many."""


def lists(n: int) -> int:
    """Inverted lists for n vectors: the power of two nearest 2.6 sqrt(n), with 45 rows each."""
    wanted = round(math.log2(2.6 * math.sqrt(n)))
    return int(2 ** max(1, min(wanted, math.floor(math.log2(max(n / 45, 2))))))


def quantisers(dimension: int) -> int | None:
    """Sub-vectors of 4 numbers each (or the next size that divides), None if none does."""
    for size in (4, 5, 3, 6, 2, 7, 8):
        if dimension % size == 0:
            return dimension // size
    return None


@dataclass(frozen=True)
class IndexKind:
    """A way to index.

    Attributes:
        name: key of the table.
        factory: (n, dimension) to FAISS's factory string, None if it does not fit.
        vector_bytes: (dimension) to bytes held for each vector, rows and overhead of lists left
            out.
        sweep: search parameters and the values to try.
        about: one line.
        exact: whether it always finds the true neighbours.
        growth: how the time of one query grows with n: `n`, `sqrt` or `log`.
        available: whether this machine has what it needs.
        on_disk: whether its lists can stay on the disk.
        rounded: whether it holds no float32 vectors, so that distances of answers are measured
            again from the stored features: it is a candidate only if memory is bounded.
    """

    name: str
    factory: Callable[[int, int], str | None]
    vector_bytes: Callable[[int], float]
    sweep: Sweep
    about: str
    exact: bool = False
    growth: str = "sqrt"
    available: Callable[[], bool] = field(default=lambda: True)
    on_disk: bool = False
    rounded: bool = False

    @property
    def graph(self) -> bool:
        """Whether a row that is added must look for its place among the others."""
        return self.growth == "log"

    def spec(self, n: int, dimension: int) -> IndexSpec | None:
        """What to build for n vectors, without search parameters; None if it does not fit."""
        factory = self.factory(n, dimension)
        return None if factory is None else IndexSpec(self.name, factory)

    def bytes(self, n: int, dimension: int) -> int:
        """Memory of the index while it answers, estimated."""
        around = 8 if self.exact or self.graph else 16
        rows = n * (self.vector_bytes(dimension) + around)
        return int(rows + self.centroid_bytes(n, dimension))

    def centroid_bytes(self, n: int, dimension: int) -> int:
        """Of `bytes` those that rows added to the index do not change."""
        return 0 if self.exact or self.graph else 4 * lists(n) * dimension


def _ivf(code: str) -> Callable[[int, int], str | None]:
    return lambda n, dimension: f"IVF{lists(n)},{code}"


def _pq(refine: str) -> Callable[[int, int], str | None]:
    def factory(n: int, dimension: int) -> str | None:
        parts = quantisers(dimension)
        return None if parts is None else f"IVF{lists(n)},PQ{parts}x4fs,{refine}"

    return factory


def _bfloat_bytes(dimension: int) -> float:
    return 4 * dimension + rounded_bytes(1, dimension)


_IVF: Sweep = {"nprobe": PROBES}
_REFINE: Sweep = {"nprobe": PROBES, "k_factor": REFINED}
_HNSW: Sweep = {"efSearch": WIDTHS}
_GRAPH = LINKS * 2 * 4 + 16

_ROWS = (
    IndexKind("flat", lambda n, d: "Flat", lambda d: 4 * d, {}, "every vector, float32",
              exact=True, growth="n"),
    IndexKind("flat_bfloat16", lambda n, d: "Flat", _bfloat_bytes, {},
              "every vector, bfloat16 with a certificate, float32 if it fails",
              exact=True, growth="n", available=has_bfloat16),
    IndexKind("hnsw", lambda n, d: f"HNSW{LINKS}", lambda d: 4 * d + _GRAPH, _HNSW,
              "graph of neighbours, float32", growth="log"),
    IndexKind("hnsw_sq8", lambda n, d: f"HNSW{LINKS}_SQ8", lambda d: d + _GRAPH, _HNSW,
              "graph of neighbours, 8 bits a number", growth="log", rounded=True),
    IndexKind("ivf_flat", _ivf("Flat"), lambda d: 4 * d, _IVF, "nearest lists, float32",
              on_disk=True),
    IndexKind("ivf_fp16", _ivf("SQfp16"), lambda d: 2 * d, _IVF, "nearest lists, float16",
              on_disk=True, rounded=True),
    IndexKind("ivf_sq8", _ivf("SQ8"), lambda d: d, _IVF, "nearest lists, 8 bits a number",
              on_disk=True, rounded=True),
    IndexKind("ivf_pq", _pq("RFlat"), lambda d: 4 * d + d / 8, _REFINE,
              "nearest lists by 4-bit product codes, refined in float32"),
    IndexKind("ivf_pq_fp16", _pq("Refine(SQfp16)"), lambda d: 2 * d + d / 8, _REFINE,
              "nearest lists by 4-bit product codes, refined in float16", rounded=True),
    IndexKind("ivf_pq_sq8", _pq("Refine(SQ8)"), lambda d: d + d / 8, _REFINE,
              "nearest lists by 4-bit product codes, refined in 8 bits", rounded=True),
    IndexKind("ivf_rabitq", _ivf("RaBitQfs,RFlat"), lambda d: 4 * d + d / 8 + 8, _REFINE,
              "nearest lists by one bit a number, refined in float32"),
    IndexKind("ivf_rabitq_sq8", _ivf("RaBitQfs,Refine(SQ8)"), lambda d: d + d / 8 + 8, _REFINE,
              "nearest lists by one bit a number, refined in 8 bits", rounded=True),
)  # fmt: skip

INDEX_KINDS: dict[str, IndexKind] = {kind.name: kind for kind in _ROWS}
"""Every kind by name."""
