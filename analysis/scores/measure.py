"""Everything that one measure says about one set of labelled images."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.analysis.blocks import (
    CENTRE_ROWS,
    EvaluationSet,
    MapBlocks,
    Precision,
    Vectors,
    many,
    spread,
)
from alike.analysis.classes import class_geometry, class_moments, nearest_classes
from alike.analysis.neighbours import (
    Nearest,
    copies_note,
    counted_lists,
    gathers,
    linked_units,
    listing,
    nearest,
)
from alike.analysis.pairs import (
    BINS,
    NEAREST_CLASSES,
    Bins,
    Units,
    count_pairs,
    counting,
    folded_accuracy,
    measured_bins,
    pair_spreads,
    sure_pairs,
    units_of,
)
from alike.analysis.scores import tables as table_rows
from alike.analysis.scores.findings import Findings
from alike.analysis.scores.rows import folded_row, neighbour_scores, pair_scores, space_scores

NEIGHBOURS = 10

Tables = dict[str, pd.DataFrame]
Stage = Callable[[str], MapBlocks]


def evaluate_measure(
    name: str,
    vectors: Vectors,
    images: EvaluationSet,
    stage: Stage,
    *,
    seed: int = 0,
    intervals: bool = True,
    bins: int = BINS,
    precision: Precision = "float32",
    note: str = "",
    copies: NDArray[np.int64] | None = None,
    one_pass: bool = True,
) -> Tables:
    """All tables of one measure.

    Args:
        name: of the measure, written into every row.
        vectors: of the images.
        images: the evaluation set.
        stage: name of a stage to the way in which its blocks are mapped.
        seed: deals the folds, and draws for the worst class.
        intervals: compute them.
        bins: of the histograms.
        precision: of the products that the histograms are made of.
        note: added to the note of every score, such as that a sample was evaluated.
        copies: (N,) the unit of each image, near copies being one, for inner products, which tell
            none.
        one_pass: pairs and neighbours may be found in one pass; not where blocks run elsewhere.
    """
    everywhere = note
    moments = class_moments(vectors, images, map_blocks=stage(f"{name} moments"))
    geometry = class_geometry(vectors, images, moments, map_blocks=stage(f"{name} means"))
    n_classes, listed = len(images.classes), None
    if many(n_classes):
        first, second = nearest_classes(moments, NEAREST_CLASSES).T
        listed = first * n_classes + second
    units = units_of(images)
    counted = begun = None
    plan = listing(vectors, images, NEIGHBOURS, units=units if intervals else None)
    if one_pass and precision == "float32" and gathers(plan):
        found = measured_bins(vectors, images, bins)
        counted, begun = counted_lists(
            counting(vectors, images, bins=found, listed=listed), plan,
            map_blocks=stage(f"{name} pairs and neighbours"), rounding=stage(f"{name} rounding"),
        )  # fmt: skip
    vectors, counts = sure_pairs(
        vectors, images, bins, precision=precision, listed=listed,
        map_blocks=stage(f"{name} pairs"), rounding=stage(f"{name} rounding"),
        again=stage(f"{name} pairs in float64"), counted=counted,
    )  # fmt: skip
    if precision != "float32":
        note = "; ".join(filter(None, [note, _rounding(vectors, images, counts.bins, precision)]))
    near = nearest(
        vectors, images, NEIGHBOURS, units=units if intervals else None,
        map_blocks=stage(f"{name} neighbours"), begun=begun,
    )  # fmt: skip
    near, units, unit = _with_copies(
        name, vectors, images, stage, near, copies, intervals=intervals
    )
    spreads = None
    if intervals:
        spreads = pair_spreads(
            [(vectors, counts)], images, units, seed=seed, map_blocks=stage(f"{name} influence")
        )
    findings = Findings(name, images, counts, moments, geometry, near, units, spreads)
    folded = folded_accuracy(
        vectors, images, counts.bins, seed=seed, unit=unit, intervals=intervals,
        map_blocks=stage(f"{name} folds"), map_intervals=stage(f"{name} folds interval"),
    )  # fmt: skip
    classes = table_rows.per_class(findings)
    of_folds = folded_row(name, folded, len(units.stratum), intervals=intervals)
    rows = [
        *pair_scores(findings, classes, note),
        of_folds,
        *neighbour_scores(findings),
        *space_scores(findings),
    ]
    together = copies_note(unit) if intervals else ""
    for row in rows:
        further = "" if everywhere in row["note"] else everywhere
        of_copies = "" if np.isnan(row["low"]) else together
        row["note"] = "; ".join(filter(None, [row["note"], further, of_copies]))
    return {
        "scores": pd.DataFrame(rows),
        "per_class": classes,
        "class_pairs": table_rows.class_pairs(findings),
        "histograms": table_rows.histograms(findings),
        "roc": table_rows.roc(findings),
        "pairs_examples": table_rows.examples(findings),
        "neighbours": table_rows.neighbours(findings),
    }


def _with_copies(
    name: str,
    vectors: Vectors,
    images: EvaluationSet,
    stage: Stage,
    near: Nearest,
    copies: NDArray[np.int64] | None,
    *,
    intervals: bool,
) -> tuple[Nearest, Units, NDArray[np.int64] | None]:
    """Neighbours, what is left out together, and the unit of each image where there are copies."""
    # Keys of inner products are no squared distances, by which copies are known.
    inner = vectors.form == "inner"
    unit = copies if inner else linked_units(images, [(near.places, near.keys)])
    if unit is None:
        return near, units_of(images), None
    units = units_of(images, unit)
    if intervals:
        again = nearest(
            vectors, images, NEIGHBOURS, units=units, map_blocks=stage(f"{name} copies")
        )
        near = replace(near, changes=again.changes)
    return near, units, unit


def _rounding(vectors: Vectors, images: EvaluationSet, bins: Bins, precision: Precision) -> str:
    """What the coarser products do to the AUC of up to 2,048 of these images."""
    at = spread(vectors.n, CENTRE_ROWS)
    few, of = vectors.take(at), images.take(at)
    exact = count_pairs(few, of, bins=bins).area().value
    rough = count_pairs(few, of, bins=bins, precision=precision).area().value
    return f"{precision} products, which move the AUC of {len(at)} images by {rough - exact:+.1e}"
