"""The rows of the table `scores` that one measure gives."""

from typing import Any

import numpy as np
import pandas as pd

from alike.analysis.blocks import MANY, EvaluationSet
from alike.analysis.classes import geometry_notes, geometry_scores, pooled_statistics
from alike.analysis.neighbours import hub_skew, score_spread, two_nn
from alike.analysis.pairs import Folded, share_interval
from alike.analysis.pairs import curves as score
from alike.analysis.pairs.folds import FEWEST
from alike.analysis.scores.findings import Findings
from alike.analysis.scores.table import SCORES

NO_SPAN = (float("nan"), float("nan"))
LISTED = 10
"""Neighbours that `purity_at_10` and `recall_at_10` are named after."""
FAR_APART = 0.02
"""Difference of the balanced and the plain sameness from which on a note says so."""
RESOLVED = 1e-3
"""Span of cosine distances from which on 16,384 bins are wider than float32's rounding of 1."""


def score_row(
    measure: str, name: str, value: float, span: tuple[float, float], note: str = ""
) -> dict[str, Any]:
    """One row of the table `scores`; which end is good comes from `SCORES`."""
    return {
        "measure": measure, "score": name, "value": float(value), "low": span[0], "high": span[1],
        "better": SCORES[name].better, "note": note,
    }  # fmt: skip


def _unresolved(findings: Findings) -> str:
    """A warning where cosines differ by less than a bin of float32's own rounding would be wide."""
    if findings.counts.form != "cosine":
        return ""
    filled = np.flatnonzero(findings.counts.total.sum(axis=0))
    edges = findings.counts.edges(findings.counts.bins.n)
    span = float(edges[filled[-1] + 1] - edges[filled[0]])
    if span >= RESOLVED:
        return ""
    return f"; but all distances lie within {span:.1e}, where float32 rounds them too: not certain"


def pair_scores(
    findings: Findings, per_class: pd.DataFrame, note: str = ""
) -> list[dict[str, Any]]:
    """Scores of the histograms of all pairs; means and d' are exact where own distance is key."""
    same, different = findings.same, findings.different
    middles = findings.counts.middles(len(same))
    whole, plain = findings.counts.area(), findings.counts.plain_area()
    far, tar = score.rates(same, different)
    near, apart = (score.binned_moments(counts, middles) for counts in findings.counts.total)
    if findings.counts.form != "euclidean":
        # Here the key is the distance, whose sums the class sums give. Euclid's is a root of it.
        exact = pooled_statistics(findings.moments)
        near, apart = (
            (mean, variance if np.isfinite(variance) else binned[1])
            for (mean, variance), binned in zip(exact, (near, apart), strict=True)
        )
    pairs = findings.counts.total.sum(axis=1).tolist()
    worst = (
        per_class.loc[per_class["sameness"].idxmin()]
        if per_class["sameness"].notna().any()
        else None
    )

    certain, of_all = _certified(findings, whole), _certified(findings, plain)

    def sure_row(name: str, value: float, more: str = "", of: str = "") -> tuple[Any, ...]:
        span, why = pair_interval(findings, of or name, value)
        if of:
            # 2 AUC - 1: the interval of the AUC, moved as its value is.
            span = 2.0 * span[0] - 1.0, 2.0 * span[1] - 1.0
            value = 2.0 * value - 1.0
        return name, value, span, "; ".join(filter(None, [why, more, note]))

    values = [
        sure_row("sameness", whole.value, certain + _told_apart(whole, plain), of="auc"),
        sure_row("auc", whole.value, certain),
        sure_row("eer", score.eer(far, tar)),
        sure_row("tar_at_far_1pct", score.tar_at_far(far, tar, 0.01)),
        sure_row("sameness_all_pairs", plain.value, of_all, of="auc_all_pairs"),
        sure_row("auc_all_pairs", plain.value, of_all),
        ("d_prime", score.d_prime(near, apart), NO_SPAN, ""),
        ("intra_mean", near[0], NO_SPAN, f"{pairs[0]} pairs"),
        ("inter_mean", apart[0], NO_SPAN, f"{pairs[1]} pairs"),
    ]  # fmt: skip
    if worst is not None:
        worst_name = f"class “{worst['class']}”"
        values.append(
            sure_row("worst_class_sameness", worst["auc"], worst_name, of="worst_class_auc")
        )
    return [score_row(findings.name, *value) for value in values]


def _certified(findings: Findings, area: score.Auc) -> str:
    limits = f"AUC certain to {area.low:.6f}..{area.high:.6f} by the bins and the rounding"
    return f"{limits}{_unresolved(findings)}"


def _told_apart(balanced: score.Auc, plain: score.Auc) -> str:
    """A note where the largest classes say something else than all classes do."""
    if not abs(balanced.sameness - plain.sameness) > FAR_APART:
        return ""
    return (
        f"; every class weighs the same here: weighing every pair the same, so that large classes "
        f"say most, it is {plain.sameness:.3f}"
    )


def pair_interval(findings: Findings, score: str, value: float) -> tuple[tuple[float, float], str]:
    """Interval of a score of pairs, and why there is none."""
    if findings.spreads is None:
        return NO_SPAN, "intervals were not asked for"
    # With classes of one size both weights are one.
    equal = score == "auc_all_pairs" and score not in findings.spreads.sides[0]
    span = findings.spreads.interval("auc" if equal else score, value)
    why = findings.spreads.why_not.get(score, "")
    if why:
        return span, f"no interval: {why}"
    return span, influence_note(findings.spreads.looked_up, len(findings.images))


def influence_note(looked_up: int, n: int) -> str:
    """What to say of an interval if the influence of a sample of the images stands for all.

    Examples:
        >>> influence_note(16384, 100000)
        'interval from the influence of a stratified sample of 16,384 of 100,000 images'
    """
    sample = f"a stratified sample of {looked_up:,} of {n:,} images"
    return f"interval from the influence of {sample}" if looked_up else ""


def folded_row(name: str, folded: Folded, units: int, *, intervals: bool) -> dict[str, Any]:
    """The row of the balanced accuracy."""
    note = f"{len(folded.accuracies)} folds of images"
    spread = folded.spread
    if not np.isfinite(folded.value):
        note = "no fold has pairs of both kinds: too few images"
    elif intervals and spread is None:
        few = np.isfinite(folded.accuracies).sum() < FEWEST
        why = "fewer than three folds" if few else f"more than {MANY:,} classes"
        note += f"; no interval: {why}"
    span = NO_SPAN if spread is None else share_interval(folded.value, spread, max(1, units / 4))
    return score_row(name, "balanced_accuracy", folded.value, span, note)


def neighbour_scores(findings: Findings) -> list[dict[str, Any]]:
    """Scores of the neighbour lists; each unit is left out as query and as neighbour."""
    near = findings.near
    hits = near.hits(findings.images)
    alone = int((findings.images.counts == 1).sum())
    note = f"{alone} classes of one image left out" if alone else ""
    if hits.shape[1] < LISTED:
        few = f"k cut to {hits.shape[1]}, since there are {len(hits)} images"
        note = f"{note}; {few}" if note else few
    has_kin = findings.images.counts[findings.images.codes] > 1

    def over_images(name: str, values: Any) -> dict[str, Any]:
        values = np.where(has_kin, values, np.nan)
        value = float(np.nanmean(values))
        span = neighbour_interval(findings, name, value)
        return score_row(findings.name, name, value, span, note)

    return [
        over_images("one_nn", hits[:, 0].astype(np.float64)),
        over_images("purity_at_10", hits.sum(axis=1) / hits.shape[1]),
        over_images("recall_at_10", near.recall),
        over_images("r_precision", near.r_precision),
        over_images("map_at_r", near.map_at_r),
        score_row(findings.name, "hub_skew", hub_skew(near.places, len(hits)), NO_SPAN, ""),
        _two_nn(findings),
    ]


def neighbour_interval(findings: Findings, score: str, value: float) -> tuple[float, float]:
    """Interval of a score of neighbours; NaN where none was asked for."""
    changes = findings.near.changes
    if changes is None:
        return NO_SPAN
    of = score_spread(changes.without, score, findings.images, findings.units)
    top = purity_top(findings.images) if score == "purity_at_10" else 1.0
    return share_interval(value, of, len(findings.units.stratum), top)


def purity_top(images: EvaluationSet, k: int = LISTED) -> float:
    """The largest purity that these classes allow: a class of 4 fills 3 of 10 places."""
    n = images.counts[images.counts > 1].astype(np.float64)
    k = min(k, len(images) - 1)
    return float((np.minimum(k, n - 1) * n).sum() / (k * n.sum()))


def _two_nn(findings: Findings) -> dict[str, Any]:
    if findings.counts.form == "inner":
        # 1 - p . q is no half of a squared distance: its ratios say nothing about dimension.
        note = "undefined: the measure's distance is 1 - an inner product, which is no metric"
        return score_row(findings.name, "two_nn", float("nan"), NO_SPAN, note)
    note = "describes, orders nothing"
    return score_row(findings.name, "two_nn", two_nn(findings.near.keys), NO_SPAN, note)


def space_scores(findings: Findings) -> list[dict[str, Any]]:
    """Scores of how classes lie in the measure's own space, and how the sphere is used."""
    notes = geometry_notes(findings.moments)
    rows = [
        score_row(findings.name, name, value, NO_SPAN, notes.get(name, ""))
        for name, value in geometry_scores(findings.moments, findings.geometry).items()
    ]
    if findings.counts.form == "cosine":
        near, _ = pooled_statistics(findings.moments)
        counted = findings.counts.total.sum(axis=0).astype(np.float64)
        # |u - v|^2 = 2 (1 - cos), so exp(-2 |u - v|^2) = exp(-4 key).
        kernel = np.exp(-4.0 * findings.counts.middles(len(counted)))
        uniform = float(np.log(counted @ kernel / counted.sum()))
        note = "describes, orders nothing: an untrained network aligns best"
        rows.append(score_row(findings.name, "alignment", 2.0 * near[0], NO_SPAN, note))
        rows.append(score_row(findings.name, "uniformity", uniform, NO_SPAN, note))
    return rows
