"""Everything that one measure says about one set of labelled images."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import table_rows
from analysis.bootstrap import weighted_histograms
from analysis.folds import folded_accuracy
from analysis.judged import Judged
from analysis.judgement import Judgement
from analysis.moments import class_moments
from analysis.neighbours import nearest
from analysis.pairs import count_pairs
from analysis.score_rows import neighbour_scores, pair_scores, score_row, space_scores
from analysis.shape import class_shape
from analysis.vectors import Vectors

NEIGHBOURS = 10

Tables = dict[str, pd.DataFrame]
Runner = Callable[[str], Callable[..., Any]]


def judge_measure(
    name: str, vectors: Vectors, judged: Judged, weights: NDArray[np.uint32], run: Runner, seed: int
) -> Tables:
    """All tables of one measure.

    Args:
        name: of the measure, written into every row.
        vectors: of the judged images.
        judged: the images.
        weights: draws of the bootstrap (N, R).
        run: stage name to a `map`.
        seed: of the folds.
    """
    moments = class_moments(vectors, judged, run=run(f"{name} moments"))
    shape = class_shape(vectors, judged, moments, run=run(f"{name} moments"))
    counts = count_pairs(vectors, judged, run=run(f"{name} pairs"))
    near = nearest(vectors, judged, NEIGHBOURS, run=run(f"{name} neighbours"))
    drawn = np.zeros((1, 0)), np.zeros((1, 0))
    if weights.shape[1]:
        drawn = weighted_histograms(
            vectors, judged, counts.bins, weights, run=run(f"{name} bootstrap")
        )
    found = Judgement(name, judged, counts, moments, shape, near, weights, drawn)
    folded = folded_accuracy(vectors, judged, counts.bins, seed=seed, run=run(f"{name} folds"))
    classes = table_rows.per_class(found)
    note = f"{len(folded.accuracies)} folds of images, interval over folds"
    rows = [
        *pair_scores(found, classes),
        score_row(name, "balanced_accuracy", folded.value, folded.interval, note),
        *neighbour_scores(found),
        *space_scores(found),
    ]
    return {
        "scores": pd.DataFrame(rows),
        "per_class": classes,
        "class_pairs": table_rows.class_pairs(found),
        "histograms": table_rows.histograms(found),
        "roc": table_rows.roc(found),
        "pairs_examples": table_rows.examples(found),
        "neighbours": table_rows.neighbours(found),
    }
