"""Build the index of a measure: embed, choose, build, write."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.errors import BadInput
from extract.measures import Measure, embed_rows, ready_measure
from extract.progress import Progress, silent
from index.engine import METRICS, faiss_metric
from index.files import building, folder_of, publish, read_card
from index.specs import Card, IndexSpec, Wish

EMBED_ROWS = 8192


@dataclass(frozen=True)
class IndexReport:
    """What `build_index` did.

    Attributes:
        card: of the index as it is now.
        action: `built`, `added` or `unchanged`.
        seconds: in all.
    """

    card: Card
    action: str
    seconds: float


def build_index(
    features: Any,
    measure: str = "gap_cosine",
    *,
    recall: float = 0.95,
    at: int = 10,
    memory: int | None = None,
    progress: Progress = silent,
) -> IndexReport:
    """Choose, build and store the index of one measure.

    Args:
        features: the extraction, from `Store.features`.
        measure: a key of `MEASURES`.
        recall: share of the true `at` nearest neighbours to find.
        at: see `recall`.
        memory: most bytes of the index while it answers.
        progress: told of rows embedded.

    Raises:
        BadInput: nothing to index, or a wish that cannot be met.
        StoreBusy: another process builds this index.
    """
    import time

    start = time.perf_counter()
    wish = Wish(recall, at, memory)
    ready = ready_measure(features, measure)
    folder = folder_of(features.store, features.key, measure)
    with building(folder):
        digest = features.digest
        rows = features.table()["row"].to_numpy()
        card = read_card(folder)
        if card is not None and card.digest == digest and card.n_rows == len(rows):
            return IndexReport(card, "unchanged", time.perf_counter() - start)
        vectors = embed(features, ready, rows, progress)
        spec = IndexSpec("flat", "Flat")
        index = new_index(spec.factory, vectors.shape[1], METRICS[ready.form])
        index.add_with_ids(vectors, rows)
        card = publish(folder, index, new_card(features, ready, spec, wish, vectors, digest))
    return IndexReport(card, "built", time.perf_counter() - start)


def embed(
    features: Any, measure: Measure, rows: NDArray[np.int64], progress: Progress
) -> NDArray[np.float32]:
    """Vectors (N, D) float32 of rows.

    Raises:
        BadInput: no rows.
    """
    if not len(rows):
        raise BadInput(f"{features.key} has no usable row: run `alike extract` first")
    parts = []
    for low in range(0, len(rows), EMBED_ROWS):
        parts.append(embed_rows(features, measure, rows[low : low + EMBED_ROWS]))
        progress("embed", min(low + EMBED_ROWS, len(rows)), len(rows))
    return np.concatenate(parts)


def new_index(factory: str, dimension: int, metric: str) -> Any:
    """An empty FAISS index of a factory string, that answers store rows."""
    import faiss

    base = faiss.index_factory(dimension, factory, faiss_metric(metric))
    index = faiss.IndexIDMap(base)
    # the map does not own what it wraps, unless told
    base.this.disown()
    index.own_fields = True
    return index


def new_card(
    features: Any,
    measure: Measure,
    spec: IndexSpec,
    wish: Wish,
    vectors: NDArray[np.float32],
    digest: str,
) -> Card:
    """The card of an index, before its file is written."""
    import faiss

    return Card(
        key=features.key,
        measure=measure.name,
        measure_digest=measure.digest,
        weights_hash=str(features.attrs["weights_hash"]),
        metric=METRICS[measure.form],
        dimension=vectors.shape[1],
        spec=spec,
        wish=wish,
        n_rows=len(vectors),
        n_built=len(vectors),
        digest=digest,
        file="",
        size=0,
        checksum="",
        versions={"faiss": faiss.__version__, "numpy": np.__version__},
    )
