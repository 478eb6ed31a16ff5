"""Two networks, or two weights of one, on the same images: which scores differ, and how surely.

The comparison is paired: images are matched by their content, both sides see the same draws of
images, and the interval is that of the difference, which is far narrower than the two apart.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import scores as score
from analysis.bootstrap import image_weights, interval, weighted_histograms
from analysis.jobs import threads
from analysis.judged import Judged, judge
from analysis.neighbours import Nearest, nearest
from analysis.pairs import count_pairs
from analysis.score_table import SCORES
from analysis.vectors import stored_vectors
from extract.errors import BadInput
from extract.measures import ready_measure
from extract.progress import Progress, silent

if TYPE_CHECKING:
    from extract.store_features import Features

Replicates = dict[str, tuple[float, NDArray[np.float64]]]


def compare(
    a: "Features",
    b: "Features",
    *,
    split: str = "held_out",
    measure: str = "gap_cosine",
    bootstrap: int = 1000,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Scores of two extractions side by side.

    Args:
        a: first extraction.
        b: second extraction, of the same store or another; images are matched by content.
        split: which images of both are judged: `held_out`, `train` or `all`.
        measure: a key of `MEASURES`, used for both.
        bootstrap: draws of the images.
        seed: of the draws.
        workers: threads; None: one a core.
        progress: told after every few blocks.

    Returns:
        score, a, b, difference (b - a), low, high (95 % interval of the difference), better.

    Raises:
        BadInput: no images in common, or none that make pairs of both kinds.
    """
    judged_a, judged_b = matched(a, b, split)
    weights = image_weights(judged_a, bootstrap, seed)
    sides: list[Replicates] = []
    for name, features, judged in (("a", a, judged_a), ("b", b, judged_b)):
        ready = ready_measure(features, measure)
        if np.isin(judged.rows, ready.fitted_rows).any():
            msg = f"{measure} was fitted on images to be compared: judge --split held_out"
            raise BadInput(msg)
        vectors = stored_vectors(features, ready, judged.rows)

        def run(stage: str, name: str = name) -> Any:
            return threads(f"{name} {stage}", progress, workers)

        counts = count_pairs(vectors, judged, run=run("pairs"))
        drawn = weighted_histograms(vectors, judged, counts.bins, weights, run=run("bootstrap"))
        near = nearest(vectors, judged, run=run("neighbours"))
        same, different = counts.total
        sides.append(
            {**_pair_scores(same, different, drawn), **_image_scores(near, judged, weights)}
        )
    return _table(*sides)


def matched(a: "Features", b: "Features", split: str) -> tuple[Judged, Judged]:
    """The images that both sides have in this split, in one order on both sides.

    Raises:
        BadInput: none in common, or none that make pairs of both kinds.
    """
    of = None if split == "all" else split
    left, right = a.table(of), b.table(of)
    both = left[["image_id", "row", "label"]].merge(right[["image_id", "row"]], on="image_id")
    if not len(both):
        msg = (
            f"{a.key} and {b.key} have no image in common in the split {split}, expected the same "
            "images on both sides: extract one source with both networks"
        )
        raise BadInput(msg)
    first = judge(both["row_x"].to_numpy(), both["label"].tolist())
    to_b = both.set_index("row_x")["row_y"]
    rows_b = to_b.loc[first.rows].to_numpy(dtype=np.int64)
    second = Judged(rows_b, first.codes, first.classes, first.starts, first.unlabelled)
    return first, second


def _pair_scores(
    same: NDArray[np.int64],
    different: NDArray[np.int64],
    drawn: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> Replicates:
    rates = score.rates(same, different)
    curves = [score.rates(*pair) for pair in zip(drawn[0].T, drawn[1].T, strict=True)]
    whole, aucs = score.auc(same, different), score.auc_many(*drawn)
    return {
        "sameness": (whole.sameness, 2 * aucs - 1),
        "auc": (whole.value, aucs),
        "eer": (score.eer(*rates), np.array([score.eer(*curve) for curve in curves])),
        "tar_at_far_1pct": (
            score.tar_at_far(*rates, 0.01),
            np.array([score.tar_at_far(*curve, 0.01) for curve in curves]),
        ),
    }


def _image_scores(near: Nearest, judged: Judged, weights: NDArray[np.uint32]) -> Replicates:
    hits = near.hits(judged)
    kept = judged.counts[judged.codes] > 1
    w = weights[kept].astype(np.float64)
    out: Replicates = {}
    for name, values in (
        ("one_nn", hits[:, 0].astype(np.float64)),
        ("purity_at_10", hits.mean(axis=1)),
        ("r_precision", near.r_precision),
        ("map_at_r", near.map_at_r),
    ):
        known = values[kept]
        out[name] = (float(known.mean()), (known @ w) / w.sum(axis=0))
    return out


def _table(a: Replicates, b: Replicates) -> pd.DataFrame:
    rows = []
    for name, (value, draws) in a.items():
        other, other_draws = b[name]
        low, high = interval(other_draws - draws)
        rows.append((name, value, other, other - value, low, high, SCORES[name].better))
    return pd.DataFrame(rows, columns=["score", "a", "b", "difference", "low", "high", "better"])
