"""What the data allow, from the neighbours of every image: Bayes error, suspected labels, outliers.

All three are of the features as they are: another network may tell apart what this one does not.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.analysis.blocks import EvaluationSet

Floats = NDArray[np.float64]

VOTERS = 5
"""Neighbours of the second pair of bounds."""
MOST = 1000
"""Suspected labels and outliers that are listed, of each kind."""
VOTES_BYTES = 32 << 20
"""Of the votes that are held at a time."""
OPINION_BYTES = 512 << 20
"""Of the votes that cleanlab is given, who copies them."""
FAR = 3.5
"""Robust z-score from which on an image is an outlier (Iglewicz and Hoaglin 1993)."""


@dataclass(frozen=True)
class Listed:
    """The nearest others of every image, images by position.

    Attributes:
        places: (N, k), nearest first.
        distances: (N, k) the measure's own.
    """

    places: NDArray[np.int64]
    distances: Floats


def listed_neighbours(images: EvaluationSet, neighbours: pd.DataFrame) -> Listed:
    """The table `neighbours` of one measure as positions.

    Args:
        images: that were evaluated.
        neighbours: row, rank, neighbour, distance; sorted by position and rank, as it is stored.
    """
    n = len(images)
    order = np.argsort(images.rows, kind="stable")
    near = neighbours["neighbour"].to_numpy().reshape(n, -1)
    places = order[np.searchsorted(images.rows, near, sorter=order)]
    return Listed(places, neighbours["distance"].to_numpy(np.float64).reshape(n, -1))


def bayes_lower(error: float, classes: int, k: int = 1) -> float:
    """Least Bayes error that fits an error of the k-NN rule, for many images.

    Cover and Hart (1967) for 1-NN, which holds for k-NN too since its error is not larger; for two
    classes the tighter ones of Devroye (1981), as in dataeval's `ber_knn`.

    Args:
        error: share of images that their neighbours name wrongly.
        classes: how many there are.
        k: neighbours that vote.

    Example:
        >>> round(bayes_lower(0.04, 2), 6)
        0.020417
    """
    if not error > 0:
        return 0.0 if error == 0 else float("nan")
    if classes == 2 and k > 5:
        a = 0.3399 * k**0.5 / (k - 3.25) * (1 + 0.9749 / (k - 3) ** 0.5)
        return float(error / (1 + a))
    if classes == 2 and k > 1:
        return float(error / (1 + k**-0.5)) if k > 2 else error / 2
    share = (classes - 1) / classes
    return float(share * (1 - max(0.0, 1 - error / share) ** 0.5))


def votes_of(
    near: Listed, codes: NDArray[np.int64], weights: Floats, rows: slice = slice(None)
) -> Floats:
    """Votes (N, C) of the first neighbours for each class, shares of 1.

    Args:
        near: neighbours.
        codes: (N,) classes.
        weights: (k,) of each rank, as many as vote.
        rows: of these images alone: of a million with a thousand classes they take 8 GB.
    """
    c, k = int(codes.max()) + 1, len(weights)
    classes = codes[near.places[rows, :k]]
    n = len(classes)
    at = classes + c * np.arange(n)[:, None]
    cast = np.broadcast_to(weights / weights.sum(), at.shape)
    return np.bincount(at.ravel(), cast.ravel(), n * c).astype(np.float64).reshape(n, c)


def blocks_of_votes(
    near: Listed, codes: NDArray[np.int64], weights: Floats
) -> Iterator[tuple[slice, Floats]]:
    """`votes_of` a block of images at a time, with their positions."""
    step = max(1, VOTES_BYTES // (8 * (int(codes.max()) + 1)))
    for low in range(0, len(codes), step):
        rows = slice(low, low + step)
        yield rows, votes_of(near, codes, weights, rows)


def bayes_bounds(
    name: str, near: Listed, images: EvaluationSet, one_nn: tuple[float, float, float]
) -> pd.DataFrame:
    """Bounds on the error of the best classifier of these features: one row a number of voters.

    None is above what is wrong if every image is named after the largest class.

    Args:
        name: of the measure.
        near: neighbours.
        images: the evaluation set.
        one_nn: the score of that name, its low and its high.

    Returns:
        measure, voters, lower, upper, lower_low (of the interval of the lower bound), upper_high
        (of that of the upper one), note. With more than one voter there is no interval.
    """
    classes = int((images.counts > 0).sum())
    guessed = 1 - images.counts.max() / len(images)
    value, low, high = one_nn

    def at_most(*errors: float) -> tuple[float, ...]:
        return tuple(float(np.minimum(error, guessed)) for error in errors)

    bounds = at_most(
        bayes_lower(1 - value, classes), 1 - value, bayes_lower(1 - high, classes), 1 - low
    )
    rows = [(name, 1, *bounds, "1-NN and Cover-Hart")]
    k = min(VOTERS, near.places.shape[1])
    right = np.empty(len(images))
    for part, votes in blocks_of_votes(near, images.codes, np.ones(k)):
        first = votes >= votes.max(axis=1, keepdims=True) - 1e-9
        own = first[np.arange(len(votes)), images.codes[part]]
        right[part] = np.where(own, 1 / first.sum(axis=1), 0.0)
    wrong = float((1 - right).mean())
    none = float("nan")
    several = at_most(bayes_lower(wrong, classes, k), wrong)
    rows.append((name, k, *several, none, none, "no interval"))
    columns = ["measure", "voters", "lower", "upper", "lower_low", "upper_high", "note"]
    return pd.DataFrame(rows, columns=columns)


def second_opinion(near: Listed, images: EvaluationSet) -> tuple[NDArray[np.bool_] | None, str]:
    """Labels that cleanlab suspects, by confident learning (Northcutt 2021), from the same votes.

    It asks for each pair of classes how many labels of one are the other, by the mean votes that
    images of a class give it, and suspects so many; a margin knows nothing of the other images.

    Args:
        near: neighbours.
        images: the evaluation set.

    Returns:
        (N,) whether a label is suspected, and the version that says so (`cleanlab 2.9.0`); None
        and the reason if there is no answer.
    """
    try:
        from cleanlab.filter import find_label_issues
        from cleanlab.version import __version__
    except ImportError as error:
        return None, f"a second opinion on labels needs cleanlab (pip install cleanlab): {error}"
    present, codes = np.unique(images.codes, return_inverse=True)
    size = 8 * len(codes) * len(present)
    if size > OPINION_BYTES:
        return None, (
            f"cleanlab reads the votes of all images at once, and those of {len(codes)} images for "
            f"{len(present)} classes take {size / 1e9:.1f} GB"
        )
    votes = votes_of(near, codes, np.arange(near.places.shape[1], 0, -1.0))
    with warnings.catch_warnings():
        # It warns of classes of few images, and keeps what it says of them to itself.
        warnings.simplefilter("ignore", UserWarning)
        flags = find_label_issues(labels=codes, pred_probs=votes, n_jobs=1)
    return np.asarray(flags, dtype=bool), f"cleanlab {__version__}"


def suspects(
    name: str,
    near: Listed,
    images: EvaluationSet,
    cleanlab: NDArray[np.bool_] | None = None,
) -> pd.DataFrame:
    """Images whose label the neighbours contradict, and images far from all others.

    A label is suspected if another class has more votes. The 10 nearest vote, the nearest with
    weight 10 and the last with 1. Its score is the margin of its own class, (p_own - p_other + 1)
    / 2, below .5, the most suspected first (cleanlab's `normalized_margin` of these votes). The
    score of an outlier is the robust z-score of its mean distance to its neighbours.

    Args:
        name: of the measure.
        near: neighbours.
        images: the evaluation set.
        cleanlab: (N,) from `second_opinion`; None: the table has no such column.

    Returns:
        measure, kind (`label` or `outlier`), row, label, suggested (the class with most votes of
        others), score, cleanlab (`yes` or `no`; empty for outliers): at most 1,000 of each kind.
    """
    k = near.places.shape[1]
    other, margin = np.empty(len(images), np.int64), np.empty(len(images))
    for rows, votes in blocks_of_votes(near, images.codes, np.arange(k, 0, -1.0)):
        mine = np.arange(len(votes)), images.codes[rows]
        own = votes[mine]
        votes[mine] = -1.0
        other[rows] = votes.argmax(axis=1)
        margin[rows] = (own - votes.max(axis=1) + 1) / 2
    # A class of one image has nobody to vote for it.
    with_kin = images.counts[images.codes] > 1
    labels = np.flatnonzero(with_kin & (margin < 0.5))
    labels = labels[np.argsort(margin[labels], kind="stable")][:MOST]
    far, z = far_images(near.distances.mean(axis=1))
    names = np.array(images.classes, dtype=object)
    parts = [
        pd.DataFrame({
            "measure": name, "kind": kind, "row": images.rows[at],
            "label": names[images.codes[at]], "suggested": suggested, "score": score,
        })
        for kind, at, suggested, score in (
            ("label", labels, names[other[labels]], margin[labels]), ("outlier", far, "", z)
        )
    ]  # fmt: skip
    if cleanlab is not None:
        opinions = np.where(cleanlab, "yes", "no").astype(object)
        parts = [
            part.assign(cleanlab=opinion)
            for part, opinion in zip(parts, (opinions[labels], ""), strict=True)
        ]
    return pd.concat(parts, ignore_index=True)


def far_images(means: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Images far from all others, by the mean distance (N,) of each to its nearest.

    Returns:
        Places of those whose robust z-score is above 3.5, the farthest first, at most 1,000; and
        their scores.
    """
    middle = float(np.median(means))
    spread = 1.4826 * float(np.median(np.abs(means - middle)))
    z = (means - middle) / spread if spread > 0 else np.zeros(len(means))
    far = np.flatnonzero(z > FAR)
    far = far[np.argsort(-z[far], kind="stable")][:MOST]
    return far, z[far]


def data_sentences(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """What the tables `bayes` and `suspects` say, in sentences; nothing without them."""
    bounds, suspects = tables.get("bayes"), tables.get("suspects")
    if bounds is None or bounds.empty or suspects is None:
        return []
    row = bounds.iloc[0]
    ends = f"{100 * row['lower']:.1f} % and {100 * row['upper']:.1f} %"
    low, high = row["lower_low"], row["upper_high"]
    span = f"; 95 % interval {100 * low:.1f} % to {100 * high:.1f} %" if high >= low else ""
    counts = suspects["kind"].value_counts()
    labels, far = (int(counts.get(kind, 0)) for kind in ("label", "outlier"))
    second = ""
    if "cleanlab" in suspects and labels:
        agreeing = int((suspects["cleanlab"] == "yes").sum())
        second = f" Of these labels cleanlab suspects {agreeing}, from the same neighbours."
    return [
        f"By their neighbours, the best classifier of these features errs on between {ends} of "
        f"images (for many images; {row['measure']}{span}).",
        f"Labels that the neighbours contradict: {labels}. Images far from all others: {far}."
        + second
        + (f" At most {MOST} of each kind are listed." if max(labels, far) >= MOST else ""),
    ]
