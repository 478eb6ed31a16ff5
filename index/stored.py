"""What an index over rows of a store is judged against, where its vectors lie in the store.

The true neighbours are found block by block: there may be more vectors than memory.
"""

from collections.abc import Iterator, Mapping
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
        features: Any,
        measure: Measure,
        rows: NDArray[np.int64],
        asked: NDArray[np.int64],
        at: int,
        metric: str,
        *,
        held: Float | None = None,
        alive: NDArray[np.bool_] | None = None,
        threads: int | None = None,
    ) -> None:
        """Find the truth.

        Args:
            features: the extraction.
            measure: ready.
            rows: (n,) the store row of each position of the index, in any order.
            asked: (Q,) positions that ask, ascending.
            at: neighbours that recall counts.
            metric: `l2` or `inner`.
            held: (n, D) vectors by position, if they are in memory anyway.
            alive: (n,) positions that may be answered; None: all.
            threads: of this and of the search; None: FAISS's number.
        """
        self._features, self._measure, self._rows, self._held = features, measure, rows, held
        self._asked, self._metric, self._threads = asked, metric, threads
        self._alive = None if alive is None or alive.all() else alive
        n = len(rows) if self._alive is None else int(self._alive.sum())
        self._sign = np.float32(1.0 if metric == "l2" else -1.0)
        self.queries = self._vectors(asked)
        self.k = min(at, n - 1)
        near = np.full((len(asked), self.k), np.inf, dtype=np.float32)
        places = np.full((len(asked), self.k), -1, dtype=np.int64)
        for here, block in self._blocks():
            k = min(self.k + 1, len(block))
            raw, nearest = true_neighbours(self.queries, block, k, metric, threads=threads)
            both = np.concatenate([near, self._sign * raw], axis=1)
            both_places = np.concatenate([places, here[nearest]], axis=1)
            near, places = tidy(both, both_places, self.k, asked)
        self._truth = (self._sign * near, places)

    def _blocks(self) -> Iterator[tuple[NDArray[np.int64], Float]]:
        """Positions and vectors of all rows that may be answered, in parts."""
        if self._held is not None and self._alive is None:
            yield np.arange(len(self._rows)), self._held
            return
        # In the order of the store, each of whose shards is then read once
        order = np.argsort(self._rows, kind="stable")
        order = order if self._alive is None else order[self._alive[order]]
        for low in range(0, len(order), BLOCK):
            here = order[low : low + BLOCK]
            yield here, self._vectors(here)

    def _vectors(self, places: NDArray[np.int64]) -> Float:
        if self._held is not None:
            return self._held[places]
        return embed_rows(self._features, self._measure, self._rows[places])

    def shares(self, engine: FaissEngine, search: Mapping[str, float]) -> NDArray[np.float64]:
        """Share of the true neighbours that an index of these rows finds, by query, (Q,)."""
        with faiss_threads(self._threads):
            raw, answers = search_filled(engine, self.queries, self.k + 1, search, self._alive)
        answers = tidy(self._sign * raw, answers, self.k, self._asked)[1]
        needed = np.unique(answers[answers >= 0])
        local = np.where(answers >= 0, np.searchsorted(needed, answers), -1)
        return recall_of(self.queries, self._vectors(needed), local, self._truth, self._metric)
