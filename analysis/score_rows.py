"""The rows of the table `scores` that one measure gives."""

from typing import Any

import numpy as np
import pandas as pd

from analysis import scores as score
from analysis.bootstrap import interval, mean_interval
from analysis.judgement import Judgement
from analysis.moments import pooled_statistics
from analysis.neighbours import hub_skew, two_nn
from analysis.score_table import SCORES
from analysis.shape import shape_scores

NO_SPAN = (float("nan"), float("nan"))


def score_row(
    measure: str, name: str, value: float, span: tuple[float, float], note: str = ""
) -> dict[str, Any]:
    """One row of the table `scores`; which end is good comes from `SCORES`."""
    return {
        "measure": measure, "score": name, "value": float(value), "low": span[0], "high": span[1],
        "better": SCORES[name].better, "note": note,
    }  # fmt: skip


def pair_scores(found: Judgement, per_class: pd.DataFrame) -> list[dict[str, Any]]:
    """Scores of the histograms of all pairs; means and d' are exact where own distance is key."""
    same, different = found.same, found.different
    middles = found.counts.middles(len(same))
    whole = score.auc(same, different)
    far, tar = score.rates(same, different)
    near, apart = (score.binned_moments(counts, middles) for counts in found.counts.total)
    if found.counts.form != "euclidean":
        exact = pooled_statistics(found.moments)
        near, apart = (
            (mean, variance if np.isfinite(variance) else binned[1])
            for (mean, variance), binned in zip(exact, (near, apart), strict=True)
        )
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


def neighbour_scores(found: Judgement) -> list[dict[str, Any]]:
    """Scores of the neighbour lists; intervals are of means over drawn images."""
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
        score_row(found.name, "two_nn", two_nn(near.keys), NO_SPAN, "describes, orders nothing"),
    ]


def space_scores(found: Judgement) -> list[dict[str, Any]]:
    """Scores of how classes lie in the measure's own space, and how the sphere is used."""
    rows = [
        score_row(found.name, name, value, NO_SPAN, "")
        for name, value in shape_scores(found.moments, found.shape).items()
    ]
    if found.counts.form == "cosine":
        near, _ = pooled_statistics(found.moments)
        counted = found.counts.total.sum(axis=0).astype(np.float64)
        # |u - v|^2 = 2 (1 - cos), so exp(-2 |u - v|^2) = exp(-4 key).
        kernel = np.exp(-4.0 * found.counts.middles(len(counted)))
        uniform = float(np.log(counted @ kernel / counted.sum()))
        note = "describes, orders nothing: an untrained network aligns best"
        rows.append(score_row(found.name, "alignment", 2.0 * near[0], NO_SPAN, note))
        rows.append(score_row(found.name, "uniformity", uniform, NO_SPAN, note))
    return rows
