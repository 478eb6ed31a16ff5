"""Everything that one measure says about one set of labelled images."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.analysis.blocks import CENTRE_ROWS, EvaluationSet, MapBlocks, Precision, Vectors, spread
from alike.analysis.classes import class_geometry, class_moments
from alike.analysis.neighbours import nearest
from alike.analysis.pairs import (
    BINS,
    Bins,
    Draws,
    count_pairs,
    folded_accuracy,
    measured_bins,
    weighted_histograms,
)
from alike.analysis.scores import tables as table_rows
from alike.analysis.scores.findings import Findings
from alike.analysis.scores.rows import neighbour_scores, pair_scores, score_row, space_scores

NEIGHBOURS = 10

Tables = dict[str, pd.DataFrame]
Stage = Callable[[str], MapBlocks]
BOOTSTRAP_WORK = 2e11
"""Weighted pairs (pairs times replicates) up to which every image takes part in the bootstrap."""


def evaluate_measure(
    name: str,
    vectors: Vectors,
    draws: Draws,
    stage: Stage,
    *,
    bins: int = BINS,
    precision: Precision = "float32",
    note: str = "",
) -> Tables:
    """All tables of one measure.

    Args:
        name: of the measure, written into every row.
        vectors: of the images.
        draws: of the bootstrap, with the images; its seed deals the folds too.
        stage: name of a stage to the way in which its blocks are mapped.
        bins: of the histograms.
        precision: of the products that the histograms are made of.
        note: added to the note of every score, such as that a sample was evaluated.
    """
    images, everywhere = draws.images, note
    moments = class_moments(vectors, images, map_blocks=stage(f"{name} moments"))
    geometry = class_geometry(vectors, images, moments, map_blocks=stage(f"{name} means"))
    chosen = measured_bins(vectors, images, bins)
    counts = count_pairs(
        vectors, images, bins=chosen, precision=precision, map_blocks=stage(f"{name} pairs"),
        rounding=stage(f"{name} rounding"),
    )  # fmt: skip
    if precision != "float32":
        note = "; ".join(filter(None, [note, _rounding(vectors, images, chosen, precision)]))
    near = nearest(vectors, images, NEIGHBOURS, map_blocks=stage(f"{name} neighbours"))
    drawn, shrink = _drawn(vectors, draws, counts.bins, stage(f"{name} bootstrap"))
    findings = Findings(name, images, counts, moments, geometry, near, draws, drawn, shrink)
    folded = folded_accuracy(
        vectors, images, counts.bins, seed=draws.seed, map_blocks=stage(f"{name} folds")
    )
    classes = table_rows.per_class(findings)
    folds = f"{len(folded.accuracies)} folds of images, interval over folds"
    if not np.isfinite(folded.value):
        folds = "no fold has pairs of both kinds: too few images"
    rows = [
        *pair_scores(findings, classes, note),
        score_row(name, "balanced_accuracy", folded.value, folded.interval, folds),
        *neighbour_scores(findings),
        *space_scores(findings),
    ]
    for row in rows:
        if everywhere not in row["note"]:
            row["note"] = "; ".join(filter(None, [row["note"], everywhere]))
    return {
        "scores": pd.DataFrame(rows),
        "per_class": classes,
        "class_pairs": table_rows.class_pairs(findings),
        "histograms": table_rows.histograms(findings),
        "roc": table_rows.roc(findings),
        "pairs_examples": table_rows.examples(findings),
        "neighbours": table_rows.neighbours(findings),
    }


def _rounding(vectors: Vectors, images: EvaluationSet, bins: Bins, precision: Precision) -> str:
    """What the coarser products do to the AUC of up to 2,048 of these images."""
    at = spread(vectors.n, CENTRE_ROWS)
    few, of = vectors.take(at), images.take(at)
    exact = count_pairs(few, of, bins=bins).area().value
    rough = count_pairs(few, of, bins=bins, precision=precision).area().value
    return f"{precision} products, which move the AUC of {len(at)} images by {rough - exact:+.1e}"


def _drawn(
    vectors: Vectors, draws: Draws, bins: Bins, map_blocks: MapBlocks
) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], float]:
    """Replicates of the histograms; of a sample, with the factor for its size, where N is large.

    A statistic of all pairs varies as 1 / sqrt(N), so the deviations found on m of N images are
    those of N images once multiplied by sqrt(m / N).
    """
    if not draws.replicates:
        return (np.zeros((1, 0)), np.zeros((1, 0))), 1.0
    most = int((2.0 * BOOTSTRAP_WORK / draws.replicates) ** 0.5)
    images = draws.images
    at = images.sample_at(most, draws.seed)
    if at is None:
        return weighted_histograms(vectors, draws, bins, map_blocks=map_blocks), 1.0
    few = Draws(images.take(at), draws.replicates, draws.seed)
    drawn = weighted_histograms(vectors.take(at), few, bins, map_blocks=map_blocks)
    return drawn, float((len(at) / len(images)) ** 0.5)
