"""The tables of one measure besides its scores: classes, pairs of classes, curves, examples."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.analysis.classes import pair_means, pair_statistics
from alike.analysis.pairs import curves as score
from alike.analysis.scores.findings import Findings

Floats = NDArray[np.float64]

SHOWN_BINS = 256
QUANTILES = {"q05": 0.05, "median": 0.5, "q95": 0.95}
PAIR_NUMBERS = 1 << 22
"""Counts that are turned into floats at once."""
EXAMPLES = 12
NO_SPAN = (float("nan"), float("nan"))


def per_class(findings: Findings) -> pd.DataFrame:
    """Scores of each class, each other class weighing the same.

    Its balanced accuracy is at its own best threshold, so optimistic.
    """
    images, counts, spreads = findings.images, findings.counts, findings.spreads
    middles = counts.middles(counts.same.shape[1])
    rows = []
    for c, (name, n, same, different) in enumerate(
        zip(images.classes, images.counts, counts.same, counts.different, strict=True)
    ):
        area = score.auc(same, different)
        low, high = NO_SPAN if spreads is None else spreads.class_interval(c, area.value)
        both = same.any() and different.any()
        rows.append({
            "measure": findings.name, "class": name, "n": int(n), "auc": area.value,
            "sameness": area.sameness, "sameness_low": 2.0 * low - 1.0,
            "sameness_high": 2.0 * high - 1.0,
            "balanced_accuracy":
                score.best_balanced(*score.rates(same, different))[0] if both else np.nan,
            "intra_mean": score.binned_moments(same, middles)[0],
            "inter_mean": score.binned_moments(different, middles)[0],
        })  # fmt: skip
    return pd.DataFrame(rows)


def class_pairs(findings: Findings) -> pd.DataFrame:
    """Mean, deviation and quantiles of the distances of each pair of classes, both ways round.

    Exact from moments where the own distance is the key (cosine, inner product); for Euclid, and
    for variances that need too much memory, from the histogram of the pair, as the quantiles are
    (float32, since a bin is coarser than that). Of more than `MANY` classes each with itself and
    with the others that it is nearest to, or that are nearest to it. Names are categories: as text
    the million rows a measure of 1,000 classes would fill the memory.
    """
    names = list(findings.images.classes)
    n_classes, listed = len(names), findings.counts.listed
    columns = _of_pair_histograms(findings)
    if listed is None:
        first, second = np.triu_indices(n_classes)
        a, b = np.divmod(np.arange(n_classes**2), n_classes)
    else:
        first, second = np.divmod(listed, n_classes)
        # Both ways round, in the order of the classes.
        own = first == second
        a, b = np.append(first, second[~own]), np.append(second, first[~own])
        order = np.lexsort((b, a))
        a, b = a[order], b[order]
    if findings.counts.form != "euclidean":
        if listed is None:
            exact, exact_variance = pair_statistics(findings.moments)
            columns["mean"] = exact[first, second]
            if exact_variance is not None:
                columns["std"] = np.sqrt(exact_variance[first, second])
        else:
            columns["mean"] = pair_means(findings.moments, first, second)
    table: dict[str, Any] = {
        "measure": pd.Categorical.from_codes(np.zeros(len(a), np.int8), [findings.name]),
        "class_a": pd.Categorical.from_codes(a, names),
        "class_b": pd.Categorical.from_codes(b, names),
    }
    for name, values in columns.items():
        if listed is None:
            square = np.empty((n_classes, n_classes), dtype=values.dtype)
            square[first, second] = square[second, first] = values
            table[name] = square.ravel()
        else:
            table[name] = np.append(values, values[~own])[order]
    return pd.DataFrame(table)


def _of_pair_histograms(findings: Findings) -> dict[str, NDArray[Any]]:
    """Columns of the table of class pairs, each (C (C + 1) / 2,); a part of the pairs at a time."""
    counts = findings.counts.pairs
    middles, edges = (
        at(counts.shape[1]) for at in (findings.counts.middles, findings.counts.edges)
    )
    parts: dict[str, list[NDArray[Any]]] = {}
    step = max(1, PAIR_NUMBERS // counts.shape[1])
    for low in range(0, len(counts), step):
        part = counts[low : low + step].astype(np.int64)
        n = part.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = part @ middles / n
            variance = np.maximum(part @ middles**2 / n - mean**2, 0.0)
        shown = score.quantiles(part, edges, list(QUANTILES.values())).astype(np.float32)
        columns = {
            "mean": mean,
            "std": np.sqrt(variance),
            **dict(zip(QUANTILES, shown.T, strict=True)),
            "n_pairs": n,
        }
        for name, values in columns.items():
            parts.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in parts.items()}


def histograms(findings: Findings) -> pd.DataFrame:
    """How many same and different pairs lie in each of 256 equal ranges of distance, balanced.

    A fine bin that lies across a boundary is shared out between both sides.
    """
    fine = findings.counts.edges(findings.counts.bins.n)
    edges = np.linspace(fine[0], fine[-1], SHOWN_BINS + 1)
    same, different = (
        _shared(counts, fine, edges) for counts in (findings.same, findings.different)
    )
    return pd.DataFrame({
        "measure": findings.name, "bin_low": edges[:-1], "bin_high": edges[1:],
        "same": same, "different": different,
    })  # fmt: skip


def _shared(counts: Floats, fine: Floats, edges: Floats) -> Floats:
    below = np.concatenate([[0], np.cumsum(counts)]).astype(np.float64)
    at = np.interp(edges, fine, below)
    if (counts == np.rint(counts)).all():
        at = np.rint(at)
    at[0], at[-1] = 0, below[-1]
    return np.diff(at)


def roc(findings: Findings, points: int = 400) -> pd.DataFrame:
    """FAR and TAR at thresholds spread over both, and at the one of best balanced accuracy."""
    far, tar = score.rates(findings.same, findings.different)
    targets = np.unique(np.concatenate([np.linspace(0, 1, points), np.geomspace(1e-5, 1, points)]))
    at = np.unique(np.concatenate([
        np.searchsorted(far, targets), np.searchsorted(tar, targets),
        [score.best_balanced(far, tar)[1]],
    ]).clip(0, len(far) - 1))  # fmt: skip
    return pd.DataFrame({
        "measure": findings.name, "far": far[at], "tar": tar[at],
        "threshold": findings.counts.edges(len(far) - 1)[at],
    })  # fmt: skip


def examples(findings: Findings) -> pd.DataFrame:
    """Pairs worth a look: 12 of each kind, each image with its own extreme partner."""
    near, rows, own = findings.near, findings.images.rows, findings.counts.own
    everyone = np.arange(len(rows))
    hits = near.hits(findings.images)
    first = np.where(hits.any(axis=1), hits.argmax(axis=1), -1)
    friend = np.where(first >= 0, near.places[everyone, first], -1)
    kinds = (
        ("most alike different", near.alien, near.alien_key, 1.0),
        ("least alike same", near.kin, near.kin_key, -1.0),
        ("most alike same", friend, near.keys[everyone, first], 1.0),
    )
    out = []
    for kind, other, key, sign in kinds:
        candidates = np.flatnonzero((other >= 0) & np.isfinite(key))
        candidates = candidates[np.argsort(sign * key[candidates], kind="stable")]
        listed: set[tuple[int, int]] = set()
        for at in candidates:
            pair = (min(int(at), int(other[at])), max(int(at), int(other[at])))
            if pair not in listed and len(listed) < EXAMPLES:
                listed.add(pair)
                out.append((findings.name, kind, rows[pair[0]], rows[pair[1]], float(own(key[at]))))
    return pd.DataFrame(out, columns=["measure", "kind", "row_a", "row_b", "distance"])


def neighbours(findings: Findings) -> pd.DataFrame:
    """The 10 nearest others of every image."""
    n, k = findings.near.places.shape
    return pd.DataFrame({
        "measure": findings.name,
        "row": np.repeat(findings.images.rows, k),
        "rank": np.tile(np.arange(1, k + 1), n),
        "neighbour": findings.images.rows[findings.near.places.ravel()],
        "distance": np.asarray(findings.counts.own(findings.near.keys.ravel()), dtype=np.float64),
    })  # fmt: skip
