"""Add new rows to an index, and see whether it still finds what it should."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.extract.measures import Measure, embed_rows
from alike.extract.progress import Progress
from alike.index.disk import add_on_disk
from alike.index.engine import FaissEngine, faiss_threads, open_engine, rows_of
from alike.index.files import publish, publish_tail, read_index, read_tail, rewrite_card
from alike.index.kinds import INDEX_KINDS
from alike.index.specs import Card
from alike.index.stored import StoredTruth, StoredVectors
from alike.index.truth import recall_interval

CHECKED = 100
"""Stored rows, first of those added last, that are asked again after rows came or went."""

TAIL = 0.05
"""Share of an index's rows up to which rows added to it are kept beside its file.

Whoever opens the index adds them, which takes that share of the time of adding all rows; beyond it
the file is written anew with all of them.
"""

LARGE = 1 << 24
"""Bytes of an index file below which it is always written anew, in some milliseconds."""

DOUBLED = 2.0
GONE = 0.3
"""Share of removed rows from which on masking them costs more than building anew."""


@dataclass(frozen=True)
class Update:
    """What became of an index.

    Attributes:
        card: as it is now.
        action: `added` or `unchanged`.
        note: one sentence.
        stale: why it must be built anew; empty while it serves.
    """

    card: Card
    action: str
    note: str
    stale: str = ""


def bring_up_to_date(
    features: Any, measure: Measure, folder: Path, table: pd.DataFrame, progress: Progress
) -> Update:
    """Add the rows that the index lacks; the file and its card are replaced in one step.

    Args:
        features: the extraction.
        measure: ready.
        folder: of the index; the caller holds `building`.
        table: usable rows now.
        progress: told of rows added.
    """
    card, index = read_index(folder)
    rows = table["row"].to_numpy()
    if card.key != features.key or card.weights_hash != str(features.attrs["weights_hash"]):
        return Update(card, "unchanged", "", f"the index is of {card.key}, not of {features.key}")
    if card.measure_digest != measure.digest:
        return Update(card, "unchanged", "", f"{measure.name} was fitted anew")
    indexed = rows_of(card.ranges) if card.ranges else FaissEngine(index).rows
    new = np.setdiff1d(rows, indexed, assume_unique=True)
    n_removed = len(np.setdiff1d(indexed, rows, assume_unique=True))
    stale = _outgrown(card, len(indexed) + len(new), n_removed)
    if stale:
        return Update(card, "unchanged", "", stale)
    if not len(new):
        note = (
            f"{card.n_rows} rows, {n_removed} of them removed and masked"
            if n_removed
            else "nothing new"
        )
        if n_removed != card.removed:
            engine = open_engine(index, card.spec, card.ranges)
            card, remark = _recall_anew(features, measure, engine, card, rows)
            rewrite_card(folder, card)
            note += remark
        return Update(card, "unchanged", note, card.stale)
    before, vectors = card, np.empty((0, card.dimension), dtype=np.float32)
    if card.lists:
        index, card = add_on_disk(features, measure, folder, card, new)
    else:
        vectors = embed_rows(features, measure, new)
        with faiss_threads(card.wish.threads):
            index.add_with_ids(vectors, new)
    progress("add", len(new), len(new))
    engine = open_engine(index, card.spec, card.ranges)
    card = replace(card, n_rows=len(engine.rows), digest=features.digest)
    card, remark = _recall_anew(features, measure, engine, card, rows)
    card = replace(card, stale=card.stale or _too_large(card, engine))
    note = f"{len(new)} rows added to {before.n_rows}{remark}"
    if card.stale:
        # a rebuild replaces the file as a whole: what was added need not be written first
        rewrite_card(folder, replace(before, recall=card.recall, stale=card.stale))
    elif _goes_beside(card, len(new)):
        if card.tail:
            tail, earlier = read_tail(folder, card)
            vectors, new = np.concatenate([tail, vectors]), np.concatenate([earlier, new])
        card = publish_tail(folder, vectors, new, card)
    else:
        card = publish(folder, engine.index, card)
    return Update(card, "added", note, card.stale)


def _recall_anew(
    features: Any, measure: Measure, engine: FaissEngine, card: Card, rows: NDArray[np.int64]
) -> tuple[Card, str]:
    """The card with its recall of now, and a few words on it."""
    card = replace(card, removed=len(engine.rows) - int(np.isin(engine.rows, rows).sum()))
    if INDEX_KINDS[card.spec.kind].exact:
        return card, ""
    recall = measured(features, measure, engine, card, rows)
    card = replace(card, recall=recall)
    return replace(card, stale=_drifted(card)), f", recall@{card.wish.at} is now {recall[0]:.4f}"


def _goes_beside(card: Card, n_added: int) -> bool:
    """Whether rows that were added last are kept beside the index file.

    Not with a graph, where every reader would look for their places anew.
    """
    if card.lists or INDEX_KINDS[card.spec.kind].graph or card.size < LARGE:
        return False
    return card.tail_rows + n_added <= TAIL * card.n_rows


def _outgrown(card: Card, n: int, n_removed: int) -> str:
    if card.stale:
        return card.stale
    if n > DOUBLED * card.n_built:
        return f"the set grew from {card.n_built} to {n} rows"
    if n_removed > GONE * n:
        return f"{n_removed} of {n} rows were removed"
    return ""


def _too_large(card: Card, engine: FaissEngine) -> str:
    # lists on disk are not held: the memory of the wish bounds what they are built in
    most = None if card.lists else card.wish.memory
    if most is None or (size := engine.bytes) <= most:
        return ""
    return f"{card.n_rows} rows take {size:,} bytes, the wish allows {most:,}"


def _drifted(card: Card) -> str:
    if card.recall is None or card.recall[2] >= card.wish.recall:
        return ""
    fall = f"recall@{card.wish.at} fell to {card.recall[0]:.4f}"
    return f"{fall} ({card.recall[1]:.4f} to {card.recall[2]:.4f}), the wish is {card.wish.recall}"


def measured(
    features: Any,
    measure: Measure,
    engine: FaissEngine,
    card: Card,
    rows: NDArray[np.int64],
    *,
    checked: int = CHECKED,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Recall of an index as it is, with its 95 % interval, asked by rows added last.

    They were never trained on, and they show drift first; if there are few, older rows ask too.
    Each is left out of its own answer, in the index and in the truth.

    Args:
        features: the extraction.
        measure: ready.
        engine: the index.
        card: its wish and search parameters.
        rows: usable rows now, ascending; no other may be answered, and no other asks.
        checked: how many rows ask.
        seed: of their draw.
    """
    alive = np.isin(engine.rows, rows)
    able = np.flatnonzero(alive)
    draw = np.random.default_rng(seed)
    order = draw.permutation(able)
    # Those that were added come first
    order = order[np.argsort(order < card.n_built, kind="stable")]
    query_places = np.sort(order[:checked])
    stored = StoredVectors(features, measure, engine.rows, engine.vectors)
    truth = StoredTruth(
        stored, query_places, card.wish.at, card.metric, alive=alive, threads=card.wish.threads
    )
    return recall_interval(truth.shares(engine, card.spec.search))
