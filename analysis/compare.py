"""Two networks, or two weights of one, on the same images: which scores differ, and how surely.

The comparison is paired: images are matched by their content, both sides see the same draws of
images, and the interval is that of the difference, which is far narrower than the two apart.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import scores as score
from analysis.bootstrap import Draws, interval, weighted_histograms
from analysis.jobs import Jobs, here
from analysis.judged import Judged, judge
from analysis.neighbours import Nearest, nearest
from analysis.network_scores import named_rightly
from analysis.pairs import count_pairs
from analysis.score_rows import pair_replicates
from analysis.score_table import SCORES
from analysis.vectors import MEMORY, stored_vectors
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
    jobs: Jobs | None = None,
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
        jobs: where blocks run (see `open_jobs`); None: threads of this process.
        progress: told after every few blocks.

    Returns:
        score, a, b, difference (b - a), low, high (95 % interval of the difference), better.

    Raises:
        BadInput: no images in common, or none that make pairs of both kinds.
    """
    judged_a, judged_b = matched(a, b, split)
    jobs = jobs or here()
    sides = [
        _side(name, features, Draws(judged, bootstrap, seed), measure, jobs, progress)
        for name, features, judged in (("a", a, judged_a), ("b", b, judged_b))
    ]
    return _table(*sides)


def _side(
    name: str, features: "Features", draws: Draws, measure: str, jobs: Jobs, progress: Progress
) -> Replicates:
    ready = ready_measure(features, measure)
    judged = draws.judged
    if np.isin(judged.rows, ready.fitted_rows).any():
        msg = f"{measure} was fitted on images to be compared: judge --split held_out"
        raise BadInput(msg)
    vectors = stored_vectors(features, ready, judged.rows, memory=0 if jobs.remote else MEMORY)
    counts = count_pairs(vectors, judged, run=jobs.run(f"{name} pairs", progress))
    drawn = weighted_histograms(
        vectors, draws, counts.bins, run=jobs.run(f"{name} bootstrap", progress)
    )
    near = nearest(vectors, judged, run=jobs.run(f"{name} neighbours", progress))
    return {
        **_pair_scores(counts.total, drawn),
        **_image_scores(near, draws),
        **_accuracy(features, draws),
    }


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


def _pair_scores(total: NDArray[np.int64], drawn: tuple[Any, Any]) -> Replicates:
    rates, whole = score.rates(*total), score.auc(*total)
    values = {
        "sameness": whole.sameness,
        "auc": whole.value,
        "eer": score.eer(*rates),
        "tar_at_far_1pct": score.tar_at_far(*rates, 0.01),
    }
    return {name: (values[name], found) for name, found in pair_replicates(drawn).items()}


def _image_scores(near: Nearest, draws: Draws) -> Replicates:
    judged = draws.judged
    hits = near.hits(judged)
    kept = judged.counts[judged.codes] > 1
    w = draws.weights[kept].astype(np.float64)
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


def _accuracy(features: "Features", draws: Draws) -> Replicates:
    """The network's own accuracy under the same draws; nothing where its classes are others."""
    right = named_rightly(features, draws.judged)
    if right is None:
        return {}
    weights = draws.weights.astype(np.float64)
    return {"accuracy": (float(right.mean()), (right @ weights) / weights.sum(axis=0))}


def _table(a: Replicates, b: Replicates) -> pd.DataFrame:
    rows = []
    for name, (value, draws) in a.items():
        if name not in b:
            continue
        other, other_draws = b[name]
        low, high = interval(other_draws - draws)
        rows.append((name, value, other, other - value, low, high, SCORES[name].better))
    return pd.DataFrame(rows, columns=["score", "a", "b", "difference", "low", "high", "better"])
