"""The neighbours of images: opens index and network once, then answers a stream of queries."""

import operator
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.extract.command import command_at
from alike.extract.errors import BadInput
from alike.extract.frames import ImageLike, NamedImage, read_image
from alike.extract.measures import Measure, embed_rows, ready_measure
from alike.index.encode import Encoder, check_weights
from alike.index.engine import FaissEngine, faiss_threads, open_engine, own_distances
from alike.index.filters import Among
from alike.index.kinds import INDEX_KINDS
from alike.index.masked import search_filled, search_masked
from alike.index.neighbours import Neighbours, Query, tidy
from alike.index.places import card_of, index_command, open_index
from alike.index.rerank import TAP, rerank_neighbours, wanted_candidates
from alike.index.specs import Card

SPARE = 4
"""Answers fetched beyond k, so that ties at the end fall by row and not by chance."""

Image = ImageLike | int
Float = NDArray[np.float32]
ALL = Among()


def check_k(k: Any) -> int:
    """The number of neighbours as a number of Python: FAISS takes no other.

    Raises:
        BadInput: no whole number, or below 1.
    """
    try:
        number = operator.index(k)
    except TypeError:
        raise BadInput(f"k {k!r}: a whole number of neighbours expected") from None
    if number < 1:
        raise BadInput(f"k {number}: at least 1 neighbour expected")
    return number


def check_query_vectors(vectors: Float, names: Sequence[str] | None = None) -> None:
    """Refuse vectors (Q, D) without a distance to anything.

    Args:
        vectors: of the queries.
        names: of their images; None: they are told by their number.

    Raises:
        BadInput: names the first of them.
    """
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        at = int(np.argmin(finite))
        what = f"vector {at} of {len(vectors)}" if names is None else f"the vector of {names[at]}"
        raise BadInput(
            f"{what} holds NaN, or a number beyond float32: it has no distance to any image"
        )


class NeighbourIndex:
    """An index of one measure, open.

    Attributes:
        features: the extraction.
        measure: with its fitted arrays.
        card: of the index that was opened; it stays this one when a new one is built.
        lookup: usable images, of which only what is asked is read.
    """

    def __init__(self, features: Any, measure: Measure, card: Card, engine: FaissEngine) -> None:
        self.features = features
        self.measure = measure
        self.card = card
        self._stamp = features.stamp()
        self.lookup = features.lookup()
        self._engine = engine
        self._alive = np.isin(engine.rows, self.lookup.rows)
        self._encoder: Encoder | None = None

    @cached_property
    def images(self) -> pd.DataFrame:
        """Usable images by store row: image_id, path, label, split; all of them, in memory."""
        return self.lookup.table().set_index("row")

    @cached_property
    def _labels(self) -> NDArray[Any]:
        """Class of each position, (n,) of `object`."""
        labels: NDArray[Any] = self.lookup.labels(self._engine.rows)
        return labels

    @classmethod
    def open(
        cls, store: Any, key: str | None = None, measure: str = "gap_cosine"
    ) -> "NeighbourIndex":
        """Open the index of a store.

        Args:
            store: a `Store`, or the place of one.
            key: extraction; None for the only one, or the one that the store serves.
            measure: whose index.

        Raises:
            BadInput: no such store, extraction or index, or an index of other features.
            StoreDamaged: the index file is not what was written.
        """
        from alike.extract.store import Store

        opened = Store.open(store) if isinstance(store, str | Path) else store
        features = opened.features(key)
        card, index = open_index(opened, features.key, measure, mapped=True)
        ready = ready_measure(features, measure, as_fitted=True)
        _check_card(card, features, ready)
        return cls(features, ready, card, open_engine(index, card.spec, card.ranges))

    def __len__(self) -> int:
        """Rows that can be answered: in the index, and still in the set."""
        return int(self._alive.sum())

    def refreshed(self) -> "NeighbourIndex":
        """This index of the images as they are now, or the one that has replaced it since.

        The network stays loaded.
        """
        store, key, measure = self.features.store, self.features.key, self.measure.name
        if card_of(store, key, measure) != self.card:
            fresh = NeighbourIndex.open(store, key, measure)
        elif self.features.stamp() != self._stamp:
            # Images were added or removed, or have other labels: the index itself is the same.
            ready = ready_measure(self.features, measure, as_fitted=True)
            _check_card(self.card, self.features, ready)
            fresh = NeighbourIndex(self.features, ready, self.card, self._engine)
        else:
            return self
        fresh._encoder = self._encoder
        return fresh

    def encoder(self, network: Any = None) -> Encoder:
        """The network of the store, loaded at the first use; a given one is checked."""
        if network is not None:
            return Encoder(self.features, self.measure, network)
        if self._encoder is None:
            self._encoder = Encoder(self.features, self.measure)
        return self._encoder

    def query(
        self,
        images: Sequence[Image],
        k: int = 10,
        *,
        network: Any = None,
        among: Among = ALL,
        label: str | None = None,
        rerank: str | None = None,
        threads: int | None = None,
    ) -> Neighbours:
        """Nearest rows of images.

        Args:
            images: each a file, a URL of an fsspec filesystem, the bytes of an image file, or the
                number of a stored row. A stored image is never its own neighbour, whichever way
                it is given.
            k: neighbours an image.
            network: to embed with instead of the store's own; its weights must be the same.
            among: which rows may answer.
            label: class of the images that are not stored, for `among`.
            rerank: a key of `SET_MEASURES`, to order the candidates anew by their feature maps.
            threads: of the search; None: those of the wish, or FAISS's number.

        Raises:
            BadInput: k below 1, an image that cannot be read, a row that is not stored.
        """
        k = check_k(k)
        queries = self.read(images)
        vectors = self.vectors(queries, network=network)
        check_query_vectors(vectors, [query.name for query in queries])
        rows = np.array([query.row for query in queries], dtype=np.int64)
        stored = self.lookup.labels(rows)
        labels = [label if row < 0 else own for row, own in zip(rows, stored, strict=True)]
        fetched = k if rerank is None else wanted_candidates(rerank, k)
        answer = self._answer(vectors, rows, fetched, among, labels, threads)
        if rerank is None:
            return answer

        def map_of(image: NamedImage) -> NDArray[Any]:
            return np.asarray(self.encoder(network).taps([image], [TAP])[TAP][0])

        return rerank_neighbours(self.features, map_of, rerank, queries, answer, k)

    def query_vectors(
        self,
        vectors: Float,
        k: int = 10,
        *,
        weights_hash: str,
        rows: NDArray[np.int64] | None = None,
        among: Among = ALL,
        label: str | None = None,
        threads: int | None = None,
    ) -> Neighbours:
        """Nearest rows of vectors (Q, D) that the measure made elsewhere.

        Args:
            vectors: as `Measure.embed` gives them.
            k: neighbours a vector.
            weights_hash: of the network that they come from.
            rows: (Q,) own row of each, left out of its answer; -1 for none.
            among: which rows may answer.
            label: class of the vectors, for `among`.
            threads: of the search.

        Raises:
            BadInput: weights that are not those of the index, another dimension, k below 1, or a
                vector with NaN or infinity.
        """
        k = check_k(k)
        check_weights(self.card.weights_hash, weights_hash, self.features.key)
        if vectors.ndim != 2 or vectors.shape[1] != self.card.dimension:
            msg = f"vectors of shape {vectors.shape}: (Q, {self.card.dimension}) expected"
            raise BadInput(msg)
        check_query_vectors(vectors)
        own = np.full(len(vectors), -1, dtype=np.int64) if rows is None else rows
        return self._answer(vectors, own, k, among, [label] * len(vectors), threads)

    def read(self, images: Sequence[Image]) -> list[Query]:
        """The queries that images are.

        Raises:
            BadInput: an image that cannot be read, a row that has no usable feature.
        """
        return [self._read(image) for image in images]

    def _read(self, image: Image) -> Query:
        if isinstance(image, int | np.integer):
            row = int(image)
            if row not in self.lookup:
                msg = f"row {row} has no usable feature in {self.features.key}"
                command = command_at("store ls", self.features.store)
                raise BadInput(f"{msg}: `{command}` lists what is stored")
            return Query(row, str(self.lookup.table(np.array([row]))["path"].iloc[0]))
        named = read_image(image)
        return Query(self.lookup.row_of(named.image_id), named.name, named)

    def vectors(self, queries: Sequence[Query], *, network: Any = None) -> Float:
        """Vectors (Q, D) of queries; images that were not given by row go through the network."""
        out = np.empty((len(queries), self.card.dimension), dtype=np.float32)
        by_row = np.array([query.image is None for query in queries], dtype=bool)
        if by_row.any():
            rows = np.array([q.row for q in queries if q.image is None], dtype=np.int64)
            out[by_row] = self.of_rows(rows)
        images = [query.image for query in queries if query.image is not None]
        if images:
            out[~by_row] = self.encoder(network)(images)
        return out

    def missing(self) -> int:
        """Images with features that the index lacks: they are never an answer."""
        rows = self.lookup.rows
        return len(rows) - int(np.isin(rows, self._engine.rows).sum())

    @cached_property
    def _by_row(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions in the order of rows, and the rows in this order."""
        order = np.argsort(self._engine.rows, kind="stable")
        return order, self._engine.rows[order]

    def of_rows(self, rows: NDArray[np.int64]) -> Float:
        """Vectors (n, D) of stored rows: those that the index holds, else from the store."""
        held = self._engine.vectors
        if held is None or not len(held):
            return embed_rows(self.features, self.measure, rows)
        order, ascending = self._by_row
        places = np.searchsorted(ascending, rows).clip(max=len(ascending) - 1)
        there = ascending[places] == rows
        out: Float = held[order[places]]
        if not there.all():
            out[~there] = embed_rows(self.features, self.measure, rows[~there])
        return out

    def _answer(
        self,
        vectors: Float,
        own_rows: NDArray[np.int64],
        k: int,
        among: Among,
        labels: Sequence[str | None],
        threads: int | None,
    ) -> Neighbours:
        threads = self.card.wish.threads if threads is None else threads
        n_answers = min(k + 1 + SPARE, max(len(self), 1))
        raw = np.full((len(vectors), n_answers), np.inf, dtype=np.float32)
        positions = np.full((len(vectors), n_answers), -1, dtype=np.int64)
        sure = np.zeros(len(vectors), dtype=bool)
        search, kind = self.card.spec.search, INDEX_KINDS[self.card.spec.kind]
        with faiss_threads(threads):
            for queries, mask in self._groups(among, labels):
                part = vectors[queries]
                if among.all or mask is None:
                    answer = (
                        *search_filled(self._engine, part, n_answers, search, mask),
                        kind.exact,
                    )
                else:
                    answer = search_masked(
                        self.features, self.measure, self.card, self._engine, part, n_answers, mask
                    )
                width = answer[1].shape[1]
                raw[queries, :width], positions[queries, :width] = answer[:2]
                sure[queries] = answer[2]
        rows = np.where(positions >= 0, self._engine.rows[positions], -1)
        if not self._engine.float32:
            raw = self._exact_distances(vectors, rows, raw)
        distances = own_distances(self.measure.own, raw)
        distances, rows = tidy(distances, rows, min(k, len(self._engine.rows)), own_rows)
        return Neighbours(distances, rows, own_rows, sure)

    def _groups(
        self, among: Among, labels: Sequence[str | None]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_] | None]]:
        """Queries that share a mask of positions; a mask of None allows all."""
        if among.all:
            yield np.arange(len(labels)), None if self._alive.all() else self._alive
            return
        among.check(sorted({label for label in self._labels if isinstance(label, str)}))
        alive = self._alive & among.selected(self.images.reindex(self._engine.rows))
        for queries, mask in among.groups(labels, self._labels):
            yield queries, mask & alive

    def _exact_distances(self, vectors: Float, rows: NDArray[np.int64], raw: Float) -> Float:
        """Distances of answers from the stored features, for an index of rounded vectors."""
        distinct = np.unique(rows[rows >= 0])
        if not len(distinct):
            return raw
        stored = embed_rows(self.features, self.measure, distinct)
        out = raw.copy()
        for line in range(len(rows)):
            good = rows[line] >= 0
            near = stored[np.searchsorted(distinct, rows[line][good])]
            if self.card.metric == "l2":
                out[line][good] = np.square(near - vectors[line]).sum(axis=1)
            else:
                out[line][good] = near @ vectors[line]
        return out


def _check_card(card: Card, features: Any, measure: Measure) -> None:
    wanted = (features.key, str(features.attrs["weights_hash"]))
    command = index_command(features.store, features.key, measure.name)
    if (card.key, card.weights_hash) != wanted:
        msg = f"the index is of {card.key} with weights {card.weights_hash[:12]}, the store has"
        raise BadInput(f"{msg} {wanted[0]} with {wanted[1][:12]}: rebuild it by `{command}`")
    if card.measure_digest != measure.digest:
        msg = f"the index of {measure.name} was built before the measure was fitted anew"
        raise BadInput(f"{msg}: rebuild it by `{command}`")
