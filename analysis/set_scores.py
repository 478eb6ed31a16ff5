"""Scores of a set measure: all pairs of a stratified sample of images, with their uncertainty."""

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.bootstrap import Draws, interval
from analysis.judged import Judged
from analysis.score_rows import NO_SPAN, score_row
from analysis.scores import auc, auc_many
from analysis.statistic import Run, Statistic
from extract.errors import BadInput
from extract.measures import check_finite, missing_tap
from extract.set_measures import SetMeasure

if TYPE_CHECKING:
    from extract.store_features import Features

TAP = "last_conv"
BINS = 4096


def judge_sets(
    features: "Features", measure: SetMeasure, judged: Judged, replicates: int, seed: int, run: Run
) -> pd.DataFrame:
    """Rows of `scores`: sameness, auc, mean distances, one_nn of a sample of the images.

    Raises:
        BadInput: the feature maps are not stored, or some are NaN or infinite.
    """
    if TAP not in features.arrays:
        raise BadInput(missing_tap(measure.name, (TAP,), features.key))
    few = judged.sample(measure.sample, seed)
    note = f"all pairs of a stratified sample of {len(few)} of {len(judged)} images"
    distances = all_pairs(features, measure, few.rows, run)
    upper = np.triu_indices(len(few), 1)
    same = few.codes[upper[0]] == few.codes[upper[1]]
    found = distances[upper]
    bins = np.minimum((found / max(found.max(), 1e-12) * BINS).astype(np.int64), BINS - 1)
    counts = [np.bincount(bins[kind], minlength=BINS) for kind in (same, ~same)]
    draws = Draws(few, replicates, seed).weights.astype(np.float64)
    weight = draws[upper[0]] * draws[upper[1]]
    drawn = [
        np.stack([np.bincount(bins[kind], column[kind], BINS) for column in weight.T], axis=1)
        if replicates
        else np.zeros((BINS, 0))
        for kind in (same, ~same)
    ]
    area, (low, high) = auc(counts[0], counts[1]), interval(auc_many(*drawn))
    np.fill_diagonal(distances, np.inf)
    hits = few.codes[distances.argmin(axis=1)] == few.codes
    return pd.DataFrame([
        score_row(measure.name, "sameness", area.sameness, (2 * low - 1, 2 * high - 1), note),
        score_row(measure.name, "auc", area.value, (low, high), note),
        score_row(measure.name, "intra_mean", float(found[same].mean()), NO_SPAN, note),
        score_row(measure.name, "inter_mean", float(found[~same].mean()), NO_SPAN, note),
        score_row(measure.name, "one_nn", float(hits.mean()), NO_SPAN, note),
    ])  # fmt: skip


def all_pairs(
    features: "Features", measure: SetMeasure, rows: NDArray[np.int64], run: Run = map
) -> NDArray[np.float64]:
    """Distances of all pairs of few images: (n, n), symmetric, zero diagonal."""
    maps = features.read(TAP, rows)
    check_finite(TAP, maps, rows, features.key)
    found: NDArray[np.float64] = Statistic(
        items=range(len(rows)),
        chunk=partial(_to_later, measure, maps),
        start=list,
        combine=_append,
        finalize=np.stack,
    ).compute(run)
    return found + found.T


def _to_later(measure: SetMeasure, maps: NDArray[Any], at: int) -> NDArray[np.float64]:
    out = np.zeros(len(maps))
    if at + 1 < len(maps):
        out[at + 1 :] = measure.to_all(maps[at], maps[at + 1 :])
    return out


def _append(rows: list[Any], row: Any) -> list[Any]:
    return [*rows, row]
