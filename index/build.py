"""Build the index of a measure, or bring it up to date: embed, choose, add, write."""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.extract.command import taps_again
from alike.extract.display import Displayed, Summary, with_interval
from alike.extract.embedding import MapBlocks, embed_blocks
from alike.extract.errors import BadInput, StoreDamaged
from alike.extract.measures import Measure, ready_measure
from alike.extract.progress import Progress, silent
from alike.index.choose import EFFORT, choose
from alike.index.disk import MapShards, build_on_disk, one_by_one
from alike.index.engine import METRICS, new_index
from alike.index.files import CARD, publish, read_card
from alike.index.kinds import INDEX_KINDS, POINTS_OF_CODES, POINTS_PER_LIST, lists
from alike.index.places import building_of, card_of
from alike.index.sample import draw_sample
from alike.index.specs import Card, IndexSpec, Point, Wish
from alike.index.trial import add_rows, new_trial
from alike.index.update import bring_up_to_date

EMBED_ROWS = 8192
SMALL = 1000
"""Rows below which search is exact and nothing is measured."""

FEWEST = 100
"""Rows below which only exact search is tried: a tenth of them are too few queries for recall."""

Float = NDArray[np.float32]


@dataclass(frozen=True, repr=False)
class IndexReport(Displayed):
    """What `build_index` did.

    Attributes:
        card: of the index as it is now.
        action: `built`, `added`, `rebuilt` or `unchanged`.
        note: one sentence: why this index, or what changed.
        seconds: in all.
    """

    card: Card
    action: str
    note: str
    seconds: float

    def _summary(self) -> Summary:
        card = self.card
        facts = {
            "images": card.n_rows,
            "index": str(card.spec),
            f"recall at {card.wish.at}": with_interval(*card.recall) if card.recall else "exact",
            "seconds": float(self.seconds),
        }
        notes = [f"{self.action}: {self.note}"]
        return Summary(f"index of {card.measure}, {card.key}", facts, notes)


def build_index(
    features: Any,
    measure: str = "gap_cosine",
    *,
    recall: float = 0.95,
    at: int = 10,
    memory: int | None = None,
    wish: Wish | None = None,
    kinds: Sequence[str] | None = None,
    on_disk: bool = False,
    map_shards: MapShards = one_by_one,
    map_blocks: MapBlocks = map,
    rebuild: bool = False,
    effort: float = EFFORT,
    progress: Progress = silent,
) -> IndexReport:
    """Choose, build and store the index of one measure, or add what is new to the one there is.

    An index is built anew if another wish or other kinds are asked for, if the measure was fitted
    anew, if recall has drifted below the wish, or if the set has doubled.

    Args:
        features: the extraction, from `Store.features`.
        measure: a key of `MEASURES`.
        recall: share of the true `at` nearest neighbours to find.
        at: see `recall`.
        memory: most bytes of the index while it answers.
        wish: instead of the three above, with latency, batch size and threads.
        kinds: rows of `INDEX_KINDS` to choose from; None: all that fit.
        on_disk: leave inverted lists on disk and map them; the memory of the wish then bounds
            the shards that the index is built from.
        map_shards: builds these shards: `map`, or the like of it on workers.
        map_blocks: embeds the rows of an index in memory: `map`, or the like of it on workers.
        rebuild: build anew in any case.
        effort: seconds to spend on building candidates, about.
        progress: told of rows embedded and added.

    Raises:
        BadInput: nothing to index, or a wish that cannot be met.
        StoreBusy: another process builds this index.
    """
    start = time.perf_counter()
    wish = Wish(recall, at, memory) if wish is None else wish
    ready = ready_measure(features, measure)
    with building_of(features.store, features.key, measure) as folder:
        table = _rows_of(features, ready.taps)
        if len(table) < FEWEST and (on_disk or kinds not in (None, ["flat"])):
            msg = f"{len(table)} rows: fewer than {FEWEST} are searched exactly, in memory"
            raise BadInput(f"{msg}; leave out the kind of index and --on-disk")
        card, why = _card_there(folder)
        if card is not None and not rebuild:
            why = _asked_anew(card, wish, kinds, on_disk)
            if not why:
                update = bring_up_to_date(features, ready, folder, table, progress)
                if not update.stale:
                    seconds = time.perf_counter() - start
                    return IndexReport(update.card, update.action, update.note, seconds)
                why = update.stale
        if on_disk:
            card = new_card(
                features, ready, wish, embed(features, ready, table["row"].to_numpy()[:1])
            )
            card = build_on_disk(
                features,
                ready,
                folder,
                table,
                card,
                kinds=kinds,
                map_shards=map_shards,
                progress=progress,
            )
        else:
            embedding = partial(embed, features, ready, map_blocks=map_blocks)
            card = _build(features, ready, folder, table, wish, kinds, effort, embedding, progress)
    note = f"{why}: {card.why}" if why else card.why
    return IndexReport(card, "rebuilt" if why else "built", note, time.perf_counter() - start)


def _rows_of(features: Any, taps: Sequence[str]) -> pd.DataFrame:
    # A map beyond float16's range is lost alone: such an image has no place in an index of maps.
    table: pd.DataFrame = features.table(names=taps)
    if not len(table):
        raise BadInput(f"{features.key} has no usable row: run `{taps_again(features)}` first")
    return table


def _card_there(folder: Path) -> tuple[Card | None, str]:
    """The card of the index there is; if it cannot be read None, and why."""
    try:
        return read_card(folder), ""
    except StoreDamaged:
        return None, f"{folder / CARD} could not be read"


def _asked_anew(card: Card, wish: Wish, kinds: Sequence[str] | None, on_disk: bool) -> str:
    """What is asked otherwise than of the index there is; empty if it is the same."""
    changes = card.wish.changes(wish)
    if bool(card.lists) != on_disk:
        changes.append("lists in memory -> on disk" if on_disk else "lists on disk -> in memory")
    if kinds is not None and card.spec.kind not in kinds:
        changes.append(f"kind {card.spec.kind} -> {' or '.join(kinds)}")
    return f"the wish changed: {', '.join(changes)}" if changes else ""


def card_there(features: Any, measure: str) -> Card | None:
    """The card of the index of a measure; None if there is none, or none that can be read."""
    try:
        return card_of(features.store, features.key, measure)
    except StoreDamaged:
        return None


def _build(
    features: Any,
    measure: Measure,
    folder: Path,
    table: pd.DataFrame,
    wish: Wish,
    kinds: Sequence[str] | None,
    effort: float,
    embedding: Callable[..., Float],
    progress: Progress,
) -> Card:
    rows, labels = table["row"].to_numpy(), table["label"].to_numpy()
    sample = draw_sample(labels, max(POINTS_PER_LIST * lists(len(rows)), POINTS_OF_CODES))
    order, train = _queries_last(len(rows), sample.queries, sample.train)
    # One copy of the vectors, in the order of the index; beyond the wish's memory on the disk, in a
    # file that this build deletes, or the next one if this is killed.
    small = len(rows) < SMALL
    places = None if small else np.argsort(order)
    scratch = None if small else folder / f"{uuid.uuid4().hex[:12]}.vectors"
    vectors = embedding(rows, progress, places, scratch, wish.memory)
    card = new_card(features, measure, wish, vectors)
    size = INDEX_KINDS["flat"].bytes(*vectors.shape)
    fits = wish.memory is None or size <= wish.memory
    if len(rows) < FEWEST and not fits:
        msg = f"memory {wish.memory} bytes is too little for {len(rows)} vectors"
        raise BadInput(
            f"{msg}: {size} are needed to search them exactly, as fewer than {FEWEST} are"
        )
    if len(rows) < FEWEST or (len(rows) < SMALL and kinds is None and fits):
        spec = IndexSpec("flat", "Flat")
        index = new_index(spec.factory, vectors.shape[1], card.metric)
        add_rows(index, vectors, rows, spec, progress)
        return publish(folder, index, replace(card, spec=spec, why=f"{len(rows)} rows: exact"))
    rows, vectors = rows[order], vectors[order] if small else vectors
    n = len(rows) - len(sample.queries)
    trial = new_trial(vectors, rows, n, train, card.metric, wish)
    choice = choose(trial, kinds=kinds, effort=effort, progress=progress)
    assert choice.candidate.engine is not None
    index = choice.candidate.engine.index
    # they were held out of the index until it had been measured
    add_rows(index, vectors, rows, choice.point.spec, progress, after=n)
    sample_facts = {"rows": len(train), "classes": int(pd.unique(labels).size), "balanced": True}
    return publish(
        folder, index, _filled(card, choice.point, choice.curve, choice.why, sample_facts)
    )


def _filled(
    card: Card, point: Point, curve: tuple[Point, ...], why: str, trained_on: dict[str, Any]
) -> Card:
    recall = (point.recall, point.low, point.high)
    return replace(
        card, spec=point.spec, why=why, curve=curve, recall=recall, trained_on=trained_on
    )


def _queries_last(
    n: int, queries: NDArray[np.int64], train: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Order of positions with the queries last, and where the training rows then are."""
    others = np.setdiff1d(np.arange(n), queries)
    return np.concatenate([others, queries]), np.searchsorted(others, train)


def embed(
    features: Any,
    measure: Measure,
    rows: NDArray[np.int64],
    progress: Progress = silent,
    places: NDArray[np.int64] | None = None,
    scratch: Path | None = None,
    memory: int | None = None,
    map_blocks: MapBlocks = map,
) -> Float:
    """Vectors (N, D) float32 of rows, read in whole shards.

    Args:
        features: the extraction.
        measure: ready.
        rows: (N,) ascending.
        progress: told of rows embedded.
        places: (N,) where the vector of each row goes; None: in the order of rows.
        scratch: a file for them, if they take more than `memory`.
        memory: see `scratch`; None: they are in memory in any case.
        map_blocks: embeds blocks of rows.
    """
    out: Float | None = None
    low = 0
    for part in embed_blocks(features, measure, rows, EMBED_ROWS, map_blocks):
        if out is None:
            shape = (len(rows), part.shape[1])
            if scratch is None or memory is None or 4 * shape[0] * shape[1] <= memory:
                out = np.empty(shape, dtype=np.float32)
            else:
                # A plain array over the file: FAISS with its bindings for torch takes no subclass.
                out = np.asarray(np.memmap(scratch, dtype=np.float32, mode="w+", shape=shape))
        at = slice(low, low + len(part))
        out[at if places is None else places[at]] = part
        low += len(part)
        progress("embed", low, len(rows))
    assert out is not None
    return out


def new_card(features: Any, measure: Measure, wish: Wish, vectors: Float) -> Card:
    """The card of an index, before anything is chosen."""
    import faiss

    return Card(
        key=features.key,
        measure=measure.name,
        measure_digest=measure.digest,
        weights_hash=str(features.attrs["weights_hash"]),
        metric=METRICS[measure.form],
        dimension=vectors.shape[1],
        spec=IndexSpec("flat", "Flat"),
        wish=wish,
        n_rows=len(vectors),
        n_built=len(vectors),
        digest=features.digest,
        file="",
        size=0,
        checksum="",
        versions={"faiss": faiss.__version__, "numpy": np.__version__},
    )
