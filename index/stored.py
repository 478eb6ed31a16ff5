"""What an index over rows of a store is measured against, where its vectors lie in the store.

The true neighbours are found block by block: there may be more vectors than memory.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alike.extract.measures import Measure, embed_rows
from alike.index.engine import FaissEngine, faiss_threads
from alike.index.masked import search_filled
from alike.index.neighbours import tidy
from alike.index.truth import recall_of, true_neighbours

Float = NDArray[np.float32]

BLOCK = 8192
"""Rows that are read at once."""


@dataclass(frozen=True)
class StoredVectors:
    """The vectors of an index by position, read from the store as they are needed.

    Attributes:
        features: the extraction.
        measure: ready.
        rows: (n,) the store row of each position, in any order.
        in_memory: (n, D) float32 by position, if they are in memory anyway: nothing is read then.
    """

    features: Any
    measure: Measure
    rows: NDArray[np.int64]
    in_memory: Float | None = None

    def at(self, places: NDArray[np.int64]) -> Float:
        """Vectors (m, D) of positions (m,)."""
        if self.in_memory is not None:
            return self.in_memory[places]
        return embed_rows(self.features, self.measure, self.rows[places])

    def blocks(
        self, alive: NDArray[np.bool_] | None = None
    ) -> Iterator[tuple[NDArray[np.int64], Float]]:
        """Positions and vectors of all rows, or of those alive (n,), in parts."""
        if self.in_memory is not None and alive is None:
            yield np.arange(len(self.rows)), self.in_memory
            return
        # In the order of the store, each of whose shards is then read once.
        order = np.argsort(self.rows, kind="stable")
        order = order if alive is None else order[alive[order]]
        for low in range(0, len(order), BLOCK):
            places = order[low : low + BLOCK]
            yield places, self.at(places)


class StoredTruth:
    """Rows of an index that ask it, and their true neighbours among all its rows.

    The rows are in the index already, which does not help to find their neighbours in lists (it
    does in a graph); each is left out of its own answer, in the index and in the truth.

    Attributes:
        queries: (Q, D) float32.
        k: answers that recall counts: those asked for, or all others if there are fewer.
    """

    def __init__(
        self,
        vectors: StoredVectors,
        query_places: NDArray[np.int64],
        at: int,
        metric: str,
        *,
        alive: NDArray[np.bool_] | None = None,
        threads: int | None = None,
    ) -> None:
        """Find the truth.

        Args:
            vectors: of the index.
            query_places: (Q,) positions that ask, ascending.
            at: neighbours that recall counts.
            metric: `l2` or `inner`.
            alive: (n,) positions that may be answered; None: all.
            threads: of this and of the search; None: FAISS's number.
        """
        self._vectors, self._query_places = vectors, query_places
        self._metric, self._threads = metric, threads
        self._alive = None if alive is None or alive.all() else alive
        n = len(vectors.rows) if self._alive is None else int(self._alive.sum())
        self._sign = np.float32(1.0 if metric == "l2" else -1.0)
        self.queries = vectors.at(query_places)
        self.k = min(at, n - 1)
        near = np.full((len(query_places), self.k), np.inf, dtype=np.float32)
        places = np.full((len(query_places), self.k), -1, dtype=np.int64)
        for block_places, block in vectors.blocks(self._alive):
            # One more than wanted: a query finds itself.
            k = min(self.k + 1, len(block))
            raw, nearest = true_neighbours(self.queries, block, k, metric, threads=threads)
            all_near = np.concatenate([near, self._sign * raw], axis=1)
            all_places = np.concatenate([places, block_places[nearest]], axis=1)
            near, places = tidy(all_near, all_places, self.k, query_places)
        self._truth = (self._sign * near, places)

    def shares(
        self, engine: FaissEngine, search: Mapping[str, float], which: slice = slice(None)
    ) -> NDArray[np.float64]:
        """Share of the true neighbours that an index of these rows finds, by query of `which`."""
        queries, truth = self.queries[which], (self._truth[0][which], self._truth[1][which])
        with faiss_threads(self._threads):
            raw, answers = search_filled(engine, queries, self.k + 1, search, self._alive)
        answers = tidy(self._sign * raw, answers, self.k, self._query_places[which])[1]
        # Only the vectors of answers are read, so positions become positions among these.
        needed = np.unique(answers[answers >= 0])
        local = np.where(answers >= 0, np.searchsorted(needed, answers), -1)
        return recall_of(queries, self._vectors.at(needed), local, truth, self._metric)
