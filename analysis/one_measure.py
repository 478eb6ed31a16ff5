"""Everything that one measure says about one set of labelled images, as rows of the tables."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import scores as score
from analysis.bootstrap import interval, mean_interval, weighted_histograms
from analysis.folds import folded_accuracy
from analysis.judged import Judged
from analysis.neighbours import Nearest, hub_skew, nearest
from analysis.pairs import PairCounts, class_pairs, count_pairs, pair_slot
from analysis.score_table import SCORES
from analysis.vectors import Vectors

SHOWN_BINS = 256
EXAMPLES = 12
NEIGHBOURS = 10

Tables = dict[str, pd.DataFrame]
Runner = Callable[[str], Callable[..., Any]]


@dataclass(frozen=True)
class Judgement:
    """What is measured once and read by several tables.

    Attributes:
        name: of the measure.
        judged: the images.
        counts: histograms of all pairs.
        near: neighbours.
        weights: draws of the bootstrap (N, R); R = 0: no intervals.
        drawn: weighted histograms of same and different, (B', R) each.
    """

    name: str
    judged: Judged
    counts: PairCounts
    near: Nearest
    weights: NDArray[np.uint32]
    drawn: tuple[NDArray[np.float64], NDArray[np.float64]]

    @property
    def same(self) -> NDArray[np.int64]:
        """Histogram of all pairs of one class (B,)."""
        total: NDArray[np.int64] = self.counts.total[0]
        return total

    @property
    def different(self) -> NDArray[np.int64]:
        """Histogram of all pairs of different classes (B,)."""
        total: NDArray[np.int64] = self.counts.total[1]
        return total


def judge_measure(
    name: str, vectors: Vectors, judged: Judged, weights: NDArray[np.uint32], run: Runner, seed: int
) -> tuple[Tables, Judgement]:
    """All tables of one measure.

    Args:
        name: of the measure, written into every row.
        vectors: of the judged images.
        judged: the images.
        weights: draws of the bootstrap (N, R).
        run: stage name to a `map`.
        seed: of the folds.
    """
    counts = count_pairs(vectors, judged, run=run(f"{name} pairs"))
    near = nearest(vectors, judged, NEIGHBOURS, run=run(f"{name} neighbours"))
    drawn = np.zeros((1, 0)), np.zeros((1, 0))
    if weights.shape[1]:
        drawn = weighted_histograms(
            vectors, judged, counts.bins, weights, run=run(f"{name} bootstrap")
        )
    found = Judgement(name, judged, counts, near, weights, drawn)
    folded = folded_accuracy(vectors, judged, counts.bins, seed=seed, run=run(f"{name} folds"))
    per_class = _per_class(found)
    rows = [
        *_pair_scores(found, per_class),
        score_row(name, "balanced_accuracy", folded.value, folded.interval,
             f"{len(folded.accuracies)} folds of images, interval over folds"),
        *_neighbour_scores(found),
    ]  # fmt: skip
    tables = {
        "scores": pd.DataFrame(rows),
        "per_class": per_class,
        "class_pairs": _class_pairs(found),
        "histograms": _histograms(found),
        "roc": _roc(found),
        "pairs_examples": _examples(found),
        "neighbours": _neighbours(found),
    }
    return tables, found


def score_row(
    measure: str, name: str, value: float, span: tuple[float, float], note: str = ""
) -> dict[str, Any]:
    """One row of the table `scores`; which end is good comes from `SCORES`."""
    return {
        "measure": measure, "score": name, "value": float(value), "low": span[0], "high": span[1],
        "better": SCORES[name].better, "note": note,
    }  # fmt: skip


NO_SPAN = (float("nan"), float("nan"))


def _pair_scores(found: Judgement, per_class: pd.DataFrame) -> list[dict[str, Any]]:
    same, different = found.same, found.different
    middles = found.counts.middles(len(same))
    whole = score.auc(same, different)
    far, tar = score.rates(same, different)
    near, apart = (score.binned_moments(counts, middles) for counts in (same, different))
    aucs = score.auc_many(*found.drawn)
    curves = [score.rates(*pair) for pair in zip(*(part.T for part in found.drawn), strict=True)]
    draws = f"{len(aucs)} draws of images within classes" if len(aucs) else "no bootstrap"
    certified = f"certain to {whole.low:.6f}..{whole.high:.6f} by the bins"
    worst = (
        per_class.loc[per_class["sameness"].idxmin()]
        if per_class["sameness"].notna().any()
        else None
    )
    low, high = interval(aucs)
    values = [
        ("sameness", whole.sameness, (2 * low - 1, 2 * high - 1), draws),
        ("auc", whole.value, (low, high), f"{draws}; {certified}"),
        ("eer", score.eer(far, tar), interval(np.array([score.eer(*c) for c in curves])), draws),
        ("tar_at_far_1pct", score.tar_at_far(far, tar, 0.01),
         interval(np.array([score.tar_at_far(*c, 0.01) for c in curves])), draws),
        ("d_prime", score.d_prime(near, apart), NO_SPAN, ""),
        ("intra_mean", near[0], NO_SPAN, f"{int(same.sum())} pairs"),
        ("inter_mean", apart[0], NO_SPAN, f"{int(different.sum())} pairs"),
    ]  # fmt: skip
    if worst is not None:
        values.append(
            ("worst_class_sameness", worst["sameness"], NO_SPAN, f"class {worst['class']}")
        )
    return [score_row(found.name, *value) for value in values]


def _neighbour_scores(found: Judgement) -> list[dict[str, Any]]:
    near, weights = found.near, found.weights
    hits = near.hits(found.judged)
    alone = int((found.judged.counts == 1).sum())
    note = f"{alone} classes of one image left out" if alone else ""
    has_kin = found.judged.counts[found.judged.codes] > 1

    def over_images(name: str, values: Any) -> dict[str, Any]:
        values = np.where(has_kin, values, np.nan)
        span = mean_interval(values, weights) if weights.shape[1] else NO_SPAN
        return score_row(found.name, name, float(np.nanmean(values)), span, note)

    return [
        over_images("one_nn", hits[:, 0].astype(np.float64)),
        over_images("purity_at_10", hits.sum(axis=1) / hits.shape[1]),
        over_images("recall_at_10", hits.any(axis=1).astype(np.float64)),
        over_images("r_precision", near.r_precision),
        over_images("map_at_r", near.map_at_r),
        score_row(found.name, "hub_skew", hub_skew(near.places, len(hits)), NO_SPAN, ""),
    ]


def _per_class(found: Judgement) -> pd.DataFrame:
    middles = found.counts.middles(found.counts.same.shape[1])
    rows = []
    for name, n, same, different in zip(
        found.judged.classes, found.judged.counts, found.counts.same, found.counts.different,
        strict=True,
    ):  # fmt: skip
        area = score.auc(same, different)
        both = same.any() and different.any()
        rows.append({
            "measure": found.name, "class": name, "n": int(n), "auc": area.value,
            "sameness": area.sameness,
            "balanced_accuracy":
                score.best_balanced(*score.rates(same, different))[0] if both else np.nan,
            "intra_mean": score.binned_moments(same, middles)[0],
            "inter_mean": score.binned_moments(different, middles)[0],
        })  # fmt: skip
    return pd.DataFrame(rows)


def _class_pairs(found: Judgement) -> pd.DataFrame:
    names = found.judged.classes
    middles = found.counts.middles(found.counts.pairs.shape[1])
    rows = []
    for a, b in class_pairs(len(names)):
        counted = found.counts.pairs[pair_slot(a, b, len(names))]
        mean, variance = score.binned_moments(counted, middles)
        for one, other in {(a, b), (b, a)}:
            rows.append((found.name, names[one], names[other], mean, variance**0.5, counted.sum()))
    columns = ["measure", "class_a", "class_b", "mean", "std", "n_pairs"]
    return pd.DataFrame(rows, columns=columns).sort_values(columns[:3], ignore_index=True)


def _histograms(found: Judgement) -> pd.DataFrame:
    step = max(1, found.counts.bins.n // SHOWN_BINS)
    edges = found.counts.edges(found.counts.bins.n // step)
    same, different = (c.reshape(-1, step).sum(axis=1) for c in (found.same, found.different))
    return pd.DataFrame({
        "measure": found.name, "bin_low": edges[:-1], "bin_high": edges[1:],
        "same": same, "different": different,
    })  # fmt: skip


def _roc(found: Judgement, points: int = 400) -> pd.DataFrame:
    far, tar = score.rates(found.same, found.different)
    wanted = np.unique(np.concatenate([np.linspace(0, 1, points), np.geomspace(1e-5, 1, points)]))
    at = np.unique(np.concatenate([
        np.searchsorted(far, wanted), np.searchsorted(tar, wanted),
        [score.best_balanced(far, tar)[1]],
    ]).clip(0, len(far) - 1))  # fmt: skip
    return pd.DataFrame({
        "measure": found.name, "far": far[at], "tar": tar[at],
        "threshold": found.counts.edges(len(far) - 1)[at],
    })  # fmt: skip


def _examples(found: Judgement) -> pd.DataFrame:
    near, rows, own = found.near, found.judged.rows, found.counts.own
    everyone = np.arange(len(rows))
    hits = near.hits(found.judged)
    first = np.where(hits.any(axis=1), hits.argmax(axis=1), -1)
    friend = np.where(first >= 0, near.places[everyone, first], -1)
    kinds = (
        ("most alike different", near.alien, near.alien_key, 1.0),
        ("least alike same", near.kin, near.kin_key, -1.0),
        ("most alike same", friend, near.keys[everyone, first], 1.0),
    )
    out = []
    for kind, other, key, sign in kinds:
        kept = np.flatnonzero((other >= 0) & np.isfinite(key))
        kept = kept[np.argsort(sign * key[kept], kind="stable")]
        seen: set[tuple[int, int]] = set()
        for at in kept:
            pair = (min(int(at), int(other[at])), max(int(at), int(other[at])))
            if pair not in seen and len(seen) < EXAMPLES:
                seen.add(pair)
                out.append((found.name, kind, rows[pair[0]], rows[pair[1]], float(own(key[at]))))
    return pd.DataFrame(out, columns=["measure", "kind", "row_a", "row_b", "distance"])


def _neighbours(found: Judgement) -> pd.DataFrame:
    n, k = found.near.places.shape
    return pd.DataFrame({
        "measure": found.name,
        "row": np.repeat(found.judged.rows, k),
        "rank": np.tile(np.arange(1, k + 1), n),
        "neighbour": found.judged.rows[found.near.places.ravel()],
        "distance": np.asarray(found.counts.own(found.near.keys.ravel()), dtype=np.float64),
    })  # fmt: skip
