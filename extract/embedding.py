"""Vectors of stored rows in blocks, computed here or on workers: the same, to the last bit."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alike.extract.measures import Measure, embed_rows
from alike.extract.store import Features, Store

MapBlocks = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""`map`, or the like of it on workers: gives the answers in the order of the items."""


@dataclass(frozen=True)
class RowEmbedding:
    """A measure of an extraction; it travels to a worker by the place of the store.

    Attributes:
        features: the extraction.
        measure: ready.
    """

    features: Features
    measure: Measure

    def __call__(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors (n, D) of rows."""
        return embed_rows(self.features, self.measure, rows)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel without the store's open files."""
        return _reopened, (self.features.store.place, self.features.key, self.measure)


def _reopened(place: str, key: str, measure: Measure) -> RowEmbedding:
    return RowEmbedding(Store.open(place).features(key), measure)


def embed_blocks(
    features: Features,
    measure: Measure,
    rows: NDArray[np.int64],
    size: int,
    map_blocks: MapBlocks = map,
) -> Iterator[NDArray[np.float32]]:
    """Vectors of rows, block by block.

    Args:
        features: the extraction.
        measure: ready.
        rows: (N,).
        size: rows of a block.
        map_blocks: computes the blocks.
    """
    blocks = [rows[low : low + size] for low in range(0, len(rows), size)]
    yield from map_blocks(RowEmbedding(features, measure), blocks)


def reads_maps(features: Features, measure: Measure) -> bool:
    """Whether a measure reads feature maps.

    Then workers save reading and pooling. Vectors would only be sent in place of being read.
    """
    return any(len(features.arrays[tap].tail) > 1 for tap in measure.taps)
