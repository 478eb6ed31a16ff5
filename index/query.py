"""The neighbours of images: opens index and network once, then answers a stream of queries."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from extract.errors import BadInput
from extract.measures import Measure, ready_measure
from index.encode import Encoder, check_weights, read_image
from index.engine import Engine, faiss_threads, own_distances
from index.files import folder_of, read_index
from index.neighbours import Neighbours, tidy
from index.specs import Card

SPARE = 4
"""Answers fetched beyond k, so that ties at the end fall by row and not by chance."""

Image = str | Path | bytes | int


class NeighbourIndex:
    """An index of one measure, open.

    Attributes:
        features: the extraction.
        measure: with its fitted arrays.
        card: of the index that was opened; it stays this one when a new one is built.
        images: usable images by store row: image_id, path, label, split.
    """

    def __init__(self, features: Any, measure: Measure, card: Card, engine: Engine) -> None:
        self.features = features
        self.measure = measure
        self.card = card
        self.images: pd.DataFrame = features.table().set_index("row")
        self._engine = engine
        alive = np.isin(engine.rows, self.images.index.to_numpy())
        self._alive = None if alive.all() else alive
        self._encoder: Encoder | None = None

    @classmethod
    def open(
        cls, store: Any, key: str | None = None, measure: str = "gap_cosine"
    ) -> "NeighbourIndex":
        """Open the index of a store.

        Args:
            store: a `Store`, or the place of one.
            key: extraction; None where there is only one.
            measure: whose index.

        Raises:
            BadInput: no such store, extraction or index, or an index of other features.
            StoreDamaged: the index file is not what was written.
        """
        from extract.store import Store

        opened = Store.open(store) if isinstance(store, str | Path) else store
        features = opened.features(key)
        card, index = read_index(folder_of(opened, features.key, measure))
        ready = ready_measure(features, measure)
        _check_card(card, features, ready)
        return cls(features, ready, card, Engine(index))

    def __len__(self) -> int:
        """Rows that can be answered: in the index, and still in the set."""
        return int(len(self._engine.rows) if self._alive is None else self._alive.sum())

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
        threads: int | None = None,
    ) -> Neighbours:
        """Nearest rows of images.

        Args:
            images: each a file, a URL of an fsspec filesystem, the bytes of an image file, or the
                number of a stored row. A stored row is never its own neighbour.
            k: neighbours an image.
            network: to embed with instead of the store's own; its weights must be the same.
            threads: of the search; None: FAISS's number.

        Raises:
            BadInput: k below 1, an image that cannot be read, a row that is not stored.
        """
        if k < 1:
            raise BadInput(f"k {k}: at least 1 neighbour expected")
        vectors, rows = self.vectors(images, network=network)
        return self._answer(vectors, rows, k, threads)

    def query_vectors(
        self,
        vectors: NDArray[np.float32],
        k: int = 10,
        *,
        weights_hash: str,
        threads: int | None = None,
    ) -> Neighbours:
        """Nearest rows of vectors (Q, D) that the measure made elsewhere.

        Args:
            vectors: as `Measure.embed` gives them.
            k: neighbours a vector.
            weights_hash: of the network that they come from.
            threads: of the search.

        Raises:
            BadInput: weights that are not those of the index, or another dimension.
        """
        check_weights(self.card.weights_hash, weights_hash, self.features.key)
        if vectors.ndim != 2 or vectors.shape[1] != self.card.dimension:
            msg = f"vectors of shape {vectors.shape}: (Q, {self.card.dimension}) expected"
            raise BadInput(msg)
        return self._answer(vectors, np.full(len(vectors), -1, dtype=np.int64), k, threads)

    def vectors(
        self, images: Sequence[Image], *, network: Any = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Vectors (Q, D) of images, and (Q,) their rows, -1 for those that are given as images."""
        from extract.measures import embed_rows

        rows = np.array([_row(image) for image in images], dtype=np.int64)
        unknown = rows[(rows >= 0) & ~np.isin(rows, self.images.index.to_numpy())]
        if len(unknown):
            msg = f"row {unknown[0]} has no usable feature in {self.features.key}"
            raise BadInput(f"{msg}: `alike store ls` lists the rows")
        out = np.empty((len(images), self.card.dimension), dtype=np.float32)
        stored = rows >= 0
        if stored.any():
            out[stored] = embed_rows(self.features, self.measure, rows[stored])
        if not stored.all():
            places = np.flatnonzero(~stored)
            given = [images[int(place)] for place in places]
            names = [name if isinstance(name, str | Path) else "of bytes" for name in given]
            data = [read_image(image) for image in given if not isinstance(image, int)]
            out[places] = self.encoder(network)(data, [str(name) for name in names])
        return out, rows

    def table(self, images: Sequence[Image], found: Neighbours) -> pd.DataFrame:
        """Answers as a table: query, query_row, rank (from 1), row, distance, path, label.

        Args:
            images: as given to `query`.
            found: what it answered.
        """
        places, ranks = np.nonzero(found.rows >= 0)
        rows = found.rows[places, ranks]
        known = self.images.loc[rows]
        return pd.DataFrame(
            {
                "query": [self._name(images[int(place)]) for place in places],
                "query_row": found.query_rows[places],
                "rank": ranks + 1,
                "row": rows,
                "distance": found.distances[places, ranks].astype(float),
                "path": known["path"].to_numpy(),
                "label": known["label"].to_numpy(),
            }
        )

    def _name(self, image: Image) -> str:
        if isinstance(image, bytes):
            return f"{len(image)} bytes"
        return str(self.images.loc[image, "path"]) if isinstance(image, int) else str(image)

    def contact_sheet(self, images: Sequence[Image], table: pd.DataFrame, path: Path) -> Path:
        """Write a PNG of queries and neighbours; see `index.sheet.contact_sheet`.

        Args:
            images: as given to `query`.
            table: from `table`.
            path: of the PNG.
        """
        from extract.source import open_source
        from index.sheet import Cell, contact_sheet

        spec, options = self.features.store.source()
        source = open_source(spec, **options)
        groups = {str(name): part for name, part in table.groupby("query", sort=False)}
        lines = []
        for image in images:
            name, label = self._name(image), None
            if isinstance(image, int):
                data, label = source.read(name), self.images.loc[image, "label"]
            else:
                data = read_image(image)
            near = [
                Cell(
                    source.read(one.path),
                    (f"{one.distance:.4f} {one.label or ''}", one.path),
                    one.label,
                )
                for one in groups.get(name, table[:0]).itertuples(index=False)
            ]
            lines.append((Cell(data, (f"query {label or ''}", name), label), near))
        return contact_sheet(lines, path)

    def _answer(
        self,
        vectors: NDArray[np.float32],
        own_rows: NDArray[np.int64],
        k: int,
        threads: int | None,
    ) -> Neighbours:
        n = len(self._engine.rows)
        wanted = min(k + 1 + SPARE, n)
        with faiss_threads(threads):
            raw, found = self._engine.search(vectors, wanted, self.card.spec.search, self._alive)
        distances = own_distances(self.measure.own, raw)
        rows = np.where(found >= 0, self._engine.rows[found], -1)
        distances, rows = tidy(distances, rows, min(k, n), own_rows)
        exact = np.full(len(vectors), self.card.spec.kind == "flat")
        return Neighbours(distances, rows, own_rows, exact)


def _row(image: Image) -> int:
    if isinstance(image, int | np.integer):
        if image < 0:
            raise BadInput(f"row {image}: a row number of the store, 0 or more, expected")
        return int(image)
    return -1


def _check_card(card: Card, features: Any, measure: Measure) -> None:
    wanted = (features.key, str(features.attrs["weights_hash"]))
    if (card.key, card.weights_hash) != wanted:
        msg = f"the index is of {card.key} with weights {card.weights_hash[:12]}, the store has"
        raise BadInput(f"{msg} {wanted[0]} with {wanted[1][:12]}: rebuild it by `alike index`")
    if card.measure_digest != measure.digest:
        msg = f"the index of {measure.name} was built before the measure was fitted anew"
        raise BadInput(f"{msg}: rebuild it by `alike index --measure {measure.name}`")
