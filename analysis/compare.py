"""Two networks, or two weights of one, on the same images: which scores differ, and how surely.

The comparison is paired: images are matched by their content, both sides see the same draws of
images, and the interval is that of the difference, which is far narrower than the two apart.
The sameness of the worst class and NC1 are computed again with a tenth of the images left out in
turn (see `jackknife`).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.analysis.blocks import (
    MEMORY,
    EvaluationSet,
    Jobs,
    Vectors,
    check_seed,
    evaluation_set_of,
    here,
    stored_vectors,
)
from alike.analysis.classes import class_geometry, class_moments, collapse_scores
from alike.analysis.neighbours import Nearest, nearest
from alike.analysis.pairs import (
    GROUPS,
    Draws,
    PairCounts,
    count_pairs,
    jackknife_groups,
    jackknife_interval,
    quantile_interval,
    weighted_histograms,
    weighted_means,
)
from alike.analysis.pairs import curves as score
from alike.analysis.scores import PENULTIMATE, SCORES, named_rightly, pair_replicates
from alike.extract.errors import BadInput
from alike.extract.measures import MEASURES, SET_MEASURES, ready_measure
from alike.extract.progress import Progress, silent

if TYPE_CHECKING:
    from alike.extract.store import Features

WORK = 2e12
"""Weighted pairs (pairs times draws) of one side above which a sample is compared: minutes."""
WORST_PAIRS = 1e9
"""Pairs up to which the worst class has an interval: beyond, ten more counts take minutes."""


@dataclass(frozen=True)
class Replicated:
    """A score, and what it is on other images.

    Attributes:
        value: of all images.
        values: of each draw of the images (R,), or with each tenth left out (10,).
        jackknifed: which of the two.
    """

    value: float
    values: NDArray[np.float64]
    jackknifed: bool = False


Side = dict[str, Replicated]


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
        split: which images of both are evaluated: `held_out`, `train` or `all`.
        measure: a key of `MEASURES`, used for both.
        bootstrap: draws of the images.
        seed: of the draws.
        jobs: where blocks run (see `open_jobs`); None: threads of this process.
        progress: told after every few blocks.

    Returns:
        score, a, b, difference (b - a), low, high (95 % interval of the difference), better. NC1
        is there where both sides store `fc`, accuracy where labels are classes of both networks.
        `attrs` holds how many `images` were compared `of` how many: beyond 2e12 weighted pairs
        (63,000 images at 1,000 draws) a stratified sample is.

    Raises:
        BadInput: no images in common, or none that make pairs of both kinds; a negative seed.
    """
    check_seed(seed)
    if measure in SET_MEASURES:
        able = ", ".join(MEASURES)
        raise BadInput(f"{measure} compares maps of few images, not vectors: choose one of {able}")
    both = matched(a, b, split)
    at = both[0].sample_at(int((2.0 * WORK / max(bootstrap, 1)) ** 0.5), seed)
    images_a, images_b = both if at is None else (side.take(at) for side in both)
    jobs = jobs or here()
    sides = [
        _side(name, features, Draws(images, bootstrap, seed), measure, jobs, progress)
        for name, features, images in (("a", a, images_a), ("b", b, images_b))
    ]
    table = _table(*sides)
    table.attrs = {"images": len(images_a), "of": len(both[0])}
    return table


def _side(
    name: str, features: "Features", draws: Draws, measure: str, jobs: Jobs, progress: Progress
) -> Side:
    ready = ready_measure(features, measure)
    images = draws.images
    if np.isin(images.rows, ready.fitted_rows).any():
        msg = f"{measure} was fitted on images to be compared: use --split held_out"
        raise BadInput(msg)
    vectors = stored_vectors(features, ready, images.rows, memory=0 if jobs.remote else MEMORY)
    counts = count_pairs(vectors, images, map_blocks=jobs.stage(f"{name} pairs", progress))
    drawn = weighted_histograms(
        vectors, draws, counts.bins, map_blocks=jobs.stage(f"{name} bootstrap", progress)
    )
    near = nearest(vectors, images, map_blocks=jobs.stage(f"{name} neighbours", progress))
    kept = jackknife_groups(images, draws.seed)
    return {
        **_pair_scores(counts, drawn),
        **_worst_class(name, vectors, images, counts, kept, jobs, progress),
        **_image_scores(near, draws),
        **_accuracy(features, draws),
        **_collapse(features, images, kept),
    }


def matched(a: "Features", b: "Features", split: str) -> tuple[EvaluationSet, EvaluationSet]:
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
    first = evaluation_set_of(both["row_x"].to_numpy(), both["label"].tolist())
    to_b = both.set_index("row_x")["row_y"]
    rows_b = to_b.loc[first.rows].to_numpy(dtype=np.int64)
    second = EvaluationSet(rows_b, first.codes, first.classes, first.starts, first.unlabelled)
    return first, second


def _pair_scores(counts: PairCounts, drawn: tuple[Any, Any]) -> Side:
    rates, whole = score.rates(*counts.balanced), counts.area()
    values = {
        "sameness": whole.sameness,
        "auc": whole.value,
        "eer": score.eer(*rates),
        "tar_at_far_1pct": score.tar_at_far(*rates, 0.01),
    }
    return {name: Replicated(values[name], got) for name, got in pair_replicates(drawn).items()}


def _worst_class(
    name: str,
    vectors: Vectors,
    images: EvaluationSet,
    counts: PairCounts,
    kept: list[NDArray[np.int64]],
    jobs: Jobs,
    progress: Progress,
) -> Side:
    """Sameness of the worst class, whichever it is; without an interval above a billion pairs."""
    values = np.full(GROUPS, np.nan)
    if len(images) ** 2 / 2 <= WORST_PAIRS:
        for group, at in enumerate(kept):
            map_blocks = jobs.stage(f"{name} worst class {group + 1} of {GROUPS}", progress)
            values[group] = _least_sameness(
                count_pairs(
                    vectors.take(at), images.take(at), bins=counts.bins, map_blocks=map_blocks
                )
            )
    return {"worst_class_sameness": Replicated(_least_sameness(counts), values, jackknifed=True)}


def _least_sameness(counts: PairCounts) -> float:
    each = [score.auc(*pair).sameness for pair in zip(counts.same, counts.different, strict=True)]
    return min((value for value in each if np.isfinite(value)), default=float("nan"))


def _collapse(features: "Features", images: EvaluationSet, kept: list[NDArray[np.int64]]) -> Side:
    """NC1 of what enters the classifier; nothing where that is not stored."""
    if "fc" not in features.arrays:
        return {}
    vectors = stored_vectors(features, PENULTIMATE, images.rows)
    every = [(vectors, images), *((vectors.take(at), images.take(at)) for at in kept)]
    value, *others = (_nc1(some, of) for some, of in every)
    return {"nc1": Replicated(value, np.array(others), jackknifed=True)}


def _nc1(vectors: Vectors, images: EvaluationSet) -> float:
    if (images.counts > 0).sum() < 2:
        return float("nan")
    moments = class_moments(vectors, images, second=False)
    geometry = class_geometry(vectors, images, moments)
    return collapse_scores(moments, geometry, None, None)["nc1"]


def _image_scores(near: Nearest, draws: Draws) -> Side:
    images = draws.images
    hits = near.hits(images)
    kept = images.counts[images.codes] > 1
    w = draws.weights[kept]
    out: Side = {}
    for name, values in (
        ("one_nn", hits[:, 0].astype(np.float64)),
        ("purity_at_10", hits.mean(axis=1)),
        ("r_precision", near.r_precision),
        ("map_at_r", near.map_at_r),
    ):
        known = values[kept]
        out[name] = Replicated(float(known.mean()), weighted_means(known, w))
    return out


def _accuracy(features: "Features", draws: Draws) -> Side:
    """The network's own accuracy under the same draws; nothing where its classes are others."""
    right = named_rightly(features, draws.images)
    if right is None:
        return {}
    return {"accuracy": Replicated(float(right.mean()), weighted_means(right, draws.weights))}


def _table(a: Side, b: Side) -> pd.DataFrame:
    rows = []
    for name, one in a.items():
        if name not in b:
            continue
        other = b[name]
        apart, values = other.value - one.value, other.values - one.values
        low, high = (
            jackknife_interval(apart, values) if one.jackknifed else quantile_interval(values)
        )
        rows.append((name, one.value, other.value, apart, low, high, SCORES[name].better))
    return pd.DataFrame(rows, columns=["score", "a", "b", "difference", "low", "high", "better"])
