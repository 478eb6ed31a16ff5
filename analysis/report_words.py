"""The words and the number formats of the report: one row for each score and measure."""

import math
from dataclasses import dataclass
from typing import Any, Literal

Form = Literal["share", "plain", "distance"]


@dataclass(frozen=True)
class Words:
    """How a score is shown.

    Attributes:
        label: its name in the report.
        says: what it says, in one sentence that needs no statistics.
        form: `share` is printed in per cent, `plain` to three decimals, `distance` to four digits.
    """

    label: str
    says: str
    form: Form = "plain"


SCORES: dict[str, Words] = {
    "sameness": Words(
        "Sameness",
        "2 × AUC − 1. 1: every same-class pair is nearer than every different-class pair; "
        "0: no better than chance.",
    ),
    "auc": Words(
        "Pairs judged rightly (AUC)",
        "How often a same-class pair is nearer than a different-class pair, when one of each is "
        "drawn at random.",
        "share",
    ),
    "balanced_accuracy": Words(
        "Balanced sameness accuracy",
        "Share of pairs called “same” or “different” rightly by one distance threshold that was "
        "chosen on other images; both kinds of pair count half.",
        "share",
    ),
    "accuracy": Words(
        "Accuracy of the network",
        "Share of images whose label is the network's first choice.",
        "share",
    ),
    "eer": Words(
        "Equal error rate",
        "Error at the threshold where as many same pairs are missed as different pairs are let in.",
        "share",
    ),
    "tar_at_far_1pct": Words(
        "Same pairs found at 1 % false alarms",
        "Share of same-class pairs accepted by the threshold that lets in 1 % of the others.",
        "share",
    ),
    "d_prime": Words(
        "d′ (separation)", "Gap between the two mean distances in standard deviations."
    ),
    "intra_mean": Words(
        "Mean distance, same class", "Between two images of one class.", "distance"
    ),
    "inter_mean": Words(
        "Mean distance, different classes", "Between two images of two classes.", "distance"
    ),
    "one_nn": Words(
        "Nearest neighbour of the same class",
        "Share of images whose nearest other image has their label.",
        "share",
    ),
    "purity_at_10": Words(
        "Same class among 10 nearest",
        "Mean share of the ten nearest images that have the label of the query.",
        "share",
    ),
    "map_at_r": Words(
        "MAP@R", "Precision over the R nearest, R the size of the class; early ranks count more."
    ),
    "r_precision": Words(
        "R-precision",
        "Share of the R nearest that have the label, R the size of the class.",
        "share",
    ),
    "silhouette": Words(
        "Silhouette",
        "How much nearer an image lies to its own class than to the next one, −1 to 1.",
    ),
    "fisher": Words("Fisher ratio", "Spread between classes over spread within them."),
    "cdnv": Words("CDNV", "Spread within two classes over the distance of their means."),
    "davies_bouldin": Words(
        "Davies–Bouldin", "Worst overlap of each class with another, averaged."
    ),
    "nc1": Words("NC1", "Spread within classes relative to that between their means."),
    "nc2": Words("NC2", "How far the class means are from equal angles."),
    "nc3": Words("NC3", "How far the classifier's weights are from the class means."),
    "nc4": Words("NC4", "Share of images that the nearest class mean judges unlike the network."),
    "hub_skew": Words("Hub skewness", "Whether few images are the neighbours of very many."),
    "alignment": Words("Alignment", "Mean squared distance within classes on the unit sphere."),
    "uniformity": Words("Uniformity", "How evenly the features cover the unit sphere."),
    "two_nn": Words("Intrinsic dimension (TwoNN)", "From the ratio of the two nearest distances."),
}

MEASURES: dict[str, str] = {
    "gap_cosine": "cosine of pooled maps",
    "gap_cosine_centred": "cosine of pooled maps, mean removed",
    "gap_euclid": "Euclidean distance of pooled maps",
    "gap_pearson": "correlation of pooled maps",
    "gap_spearman": "rank correlation of pooled maps",
    "map_cosine": "cosine of whole maps, position by position",
    "fc_cosine": "cosine of the vector before the classifier",
    "logits_cosine": "cosine of the logits",
    "softmax_dot": "the classifier's own probabilities (ceiling)",
    "pixel_euclid": "raw pixels (floor)",
    "lda_cosine": "cosine after discriminant analysis",
    "cam_pred_cosine": "cosine, weighted by the map of the predicted class",
    "whitened_cosine": "cosine after whitening (a warning example)",
    "mahalanobis": "Mahalanobis distance (a warning example)",
}

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"


def words(score: str) -> Words:
    """The words of a score; one that is not in the table is shown by its own name."""
    return SCORES.get(score, Words(score.replace("_", " "), ""))


def measure_words(measure: str) -> str:
    """What a measure compares, in words; its own name where the table has none."""
    return MEASURES.get(measure, measure.replace("_", " "))


def number(value: Any, form: Form = "plain") -> str:
    """A number as the report prints it; an en dash where there is none."""
    value = _float(value)
    if not math.isfinite(value):
        return DASH
    if form == "share":
        text = f"{100 * value:.1f} %"
    elif form == "distance" or abs(value) >= 100:
        text = f"{value:.4g}"
    else:
        text = f"{value:.3f}"
    return text.replace("-", MINUS)


def change(value: Any, form: Form = "plain") -> str:
    """A difference with its sign; of shares in points, since they are per cent already."""
    value = _float(value)
    if not math.isfinite(value):
        return DASH
    if form == "share":
        text = f"{100 * value:+.1f} points"
    elif form == "distance" or abs(value) >= 100:
        text = f"{value:+.3g}"
    else:
        text = f"{value:+.3f}"
    return text.replace("-", MINUS)


def interval(low: Any, high: Any, form: Form = "plain", *, signed: bool = False) -> str:
    """`0.81 to 0.84`; empty where there is no interval."""
    low, high = _float(low), _float(high)
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    if form == "share":
        sign = "+" if signed else ""
        span = f"{100 * low:{sign}.1f} to {100 * high:{sign}.1f}"
        return span.replace("-", MINUS) + ("" if signed else " %")
    if signed:
        return f"{change(low, form)} to {change(high, form)}"
    return f"{number(low, form)} to {number(high, form)}"


def count(value: int) -> str:
    """A count with thin spaces between thousands."""
    return f"{int(value):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def seconds(value: float) -> str:
    """A duration: `4.2 s`, `3 min 05 s`, `2 h 07 min`."""
    if value < 60:
        return f"{value:.1f} s"
    if value < 3600:
        return f"{int(value // 60)} min {int(value % 60):02d} s"
    return f"{int(value // 3600)} h {int(value % 3600 // 60):02d} min"


def _float(value: Any) -> float:
    return float("nan") if value is None else float(value)
