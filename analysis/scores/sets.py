"""Scores of a set measure: all pairs of a stratified sample of images, with their uncertainty."""

from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.analysis.blocks import EvaluationSet, MapBlocks, Statistic, append_part, check
from alike.analysis.neighbours import copies_note
from alike.analysis.pairs import auc, balance, spreads_of_matrix, units_of
from alike.analysis.scores.rows import NO_SPAN, score_row
from alike.extract.errors import BadInput
from alike.extract.measures import SET_MEASURES, SetMeasure, check_finite, missing_tap

if TYPE_CHECKING:
    from alike.extract.store import Features

TAP = "last_conv"
BINS = 1024


def evaluate_sets(
    features: "Features",
    measure: SetMeasure,
    images: EvaluationSet,
    intervals: bool,
    seed: int,
    map_blocks: MapBlocks,
    copies: NDArray[np.int64] | None = None,
) -> pd.DataFrame:
    """Rows of `scores`: sameness, auc, mean distances, one_nn of a sample of the images.

    Args:
        features: the extraction.
        measure: the set measure.
        images: the evaluation set.
        intervals: compute them.
        seed: of the sample.
        map_blocks: how images are mapped.
        copies: (N,) the unit of each image, near copies being one, as another measure tells them.

    Raises:
        BadInput: the feature maps are not stored, or some are NaN or infinite.
    """
    check_maps(features, measure)
    held = features.committed([TAP], good=True)[images.rows]
    if not held.all():
        images = images.take(held)
        check(images)
        copies = None if copies is None else copies[held]
    at = images.sample_at(measure.sample, seed)
    few, unit = (images, copies) if at is None else (images.take(at), None)
    if at is not None and copies is not None:
        unit = copies[at]
    whole = len(few) == len(images)
    which = f"all {len(few)}" if whole else f"a stratified sample of {len(few)} of {len(images)}"
    note = f"all pairs of {which} images"
    if not held.all():
        note += f"; {int((~held).sum())} images have no {TAP}"
    distances = all_pairs(features, measure, few.rows, map_blocks)
    upper = np.triu_indices(len(few), 1)
    same = few.codes[upper[0]] == few.codes[upper[1]]
    between = distances[upper]
    placed = np.minimum(distances / max(between.max(), 1e-12) * BINS, BINS - 1).astype(np.int64)
    every = np.arange(len(few.classes))
    weight = balance(few.counts).of_pairs(every, every)[few.codes[upper[0]], few.codes[upper[1]]]
    bins = placed[upper]
    total, balanced = (
        np.stack([np.bincount(bins[kind], w[kind], minlength=BINS) for kind in (same, ~same)])
        for w in (np.ones(len(bins)), weight)
    )
    area, plain = auc(*balanced), auc(*total)
    low, high = NO_SPAN
    of_auc = note
    if intervals:
        spreads = spreads_of_matrix(placed, balanced, total, few, units_of(few, unit))
        low, high = spreads.interval("auc", area.value)
        named = None if unit is None else np.unique(unit, return_inverse=True)[1]
        of_auc = "; ".join(filter(None, [note, copies_note(named)]))
    np.fill_diagonal(distances, np.inf)
    hits = few.codes[distances.argmin(axis=1)] == few.codes
    return pd.DataFrame([
        score_row(measure.name, "sameness", area.sameness, (2 * low - 1, 2 * high - 1), of_auc),
        score_row(measure.name, "auc", area.value, (low, high), of_auc),
        score_row(measure.name, "sameness_all_pairs", plain.sameness, NO_SPAN, note),
        score_row(measure.name, "auc_all_pairs", plain.value, NO_SPAN, note),
        score_row(measure.name, "intra_mean", float(between[same].mean()), NO_SPAN, note),
        score_row(measure.name, "inter_mean", float(between[~same].mean()), NO_SPAN, note),
        score_row(measure.name, "one_nn", float(hits.mean()), NO_SPAN, note),
    ])  # fmt: skip


def check_maps(features: "Features", measure: SetMeasure) -> None:
    """Refuse features without maps.

    Raises:
        BadInput: the feature maps are not stored.
    """
    if TAP not in features.arrays:
        raise BadInput(missing_tap(measure.name, (TAP,), features))


def all_pairs(
    features: "Features", measure: SetMeasure, rows: NDArray[np.int64], map_blocks: MapBlocks = map
) -> NDArray[np.float64]:
    """Distances of all pairs of few images: (n, n), symmetric, zero diagonal."""
    stored = _Maps(features, rows)
    # Read here too, so that what is refused is not told by the log of a worker first.
    stored()
    later: NDArray[np.float64] = Statistic(
        items=range(len(rows)),
        chunk=partial(_to_later, measure.name, stored),
        start=list,
        combine=append_part,
        finalize=np.stack,
    ).compute(map_blocks)
    return later + later.T


class _Maps:
    """Maps of few rows, read where they are first asked for; travels as names (see `vectors`)."""

    def __init__(self, features: "Features", rows: NDArray[np.int64]) -> None:
        self.features = features
        self.rows = rows
        self._read: NDArray[Any] | None = None
        self._lock = Lock()

    def __call__(self) -> NDArray[Any]:
        """Give the maps (n, C, H, W).

        Raises:
            BadInput: some are NaN or infinite; the rows are named.
        """
        with self._lock:
            if self._read is None:
                maps = self.features.read(TAP, self.rows)
                check_finite(TAP, maps, self.rows, self.features.key)
                self._read = maps
            return self._read

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel by the store's place and the extraction's key."""
        return _reopen, (self.features.store.place, self.features.key, self.rows)


def _reopen(url: str, key: str, rows: NDArray[np.int64]) -> _Maps:
    from alike.extract.store import Store

    return _Maps(Store.open(url).features(key), rows)


def _to_later(measure: str, stored: _Maps, at: int) -> NDArray[np.float64]:
    maps = stored()
    out = np.zeros(len(maps))
    if at + 1 < len(maps):
        out[at + 1 :] = SET_MEASURES[measure].to_all(maps[at], maps[at + 1 :])
    return out
