"""The words and the number formats of the report: one row for each score and measure."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from alike.analysis.scores import table as score_table
from alike.extract.measures import find_measure

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
    says: str = ""
    form: Form = "plain"


SCORE_WORDS: dict[str, Words] = {
    "sameness": Words(
        "Sameness",
        "2 × AUC − 1. At 1, every same-class pair is nearer than every different-class pair. "
        "At 0, distances are no better than chance. Every class weighs the same, however many "
        "images it has.",
    ),
    "auc": Words(
        "Pairs ranked correctly (AUC)",
        "How often a same-class pair is nearer than a different-class pair, when one of each is "
        "drawn at random, from classes drawn at random.",
        "share",
    ),
    "sameness_all_pairs": Words("Sameness, every pair weighing the same"),
    "auc_all_pairs": Words("AUC, every pair weighing the same", "", "share"),
    "balanced_accuracy": Words(
        "Balanced sameness accuracy",
        "Share of pairs that one distance threshold classifies correctly as same or different. "
        "The threshold was chosen on other images. Both kinds of pair count half.",
        "share",
    ),
    "accuracy": Words(
        "Accuracy of the network",
        "Share of images whose label is the network's first choice.",
        "share",
    ),
    "knn_probe": Words(
        "Named by the 20 nearest train images",
        "Share of images whose class most of the 20 nearest train images have. Channels are "
        "standardised on train images, so that their scale does not matter.",
        "share",
    ),
    "linear_probe": Words(
        "Named by a linear probe",
        "Share of images that a linear classifier fitted on train images names correctly. "
        "Channels are standardised on train images, so that their scale does not matter.",
        "share",
    ),
    "cka": Words("CKA with the last layer"),
    "human_all_pairs": Words(
        "Alike to people, all pairs",
        "Spearman's correlation of the similarities of the network with those of people.",
    ),
    "human_class_pairs": Words(
        "Alike to people, pairs of classes",
        "The same of the means over the images of each two classes.",
    ),
    "human_triplets": Words(
        "Answers as people do",
        "Share of triplets of images in which the network chooses as people did.",
        "share",
    ),
    "eer": Words(
        "Equal error rate",
        "Error at the threshold at which the shares of missed same-class pairs and of accepted "
        "different-class pairs are equal.",
        "share",
    ),
    "tar_at_far_1pct": Words(
        "Same-class pairs accepted at 1 % false accepts",
        "Share of same-class pairs within the threshold that accepts 1 % of different-class pairs.",
        "share",
    ),
    "d_prime": Words("d′ (separation)"),
    "intra_mean": Words(
        "Mean distance, same class", "Between two images of one class.", "distance"
    ),
    "inter_mean": Words(
        "Mean distance, different classes", "Between two images of two classes.", "distance"
    ),
    "worst_class_sameness": Words("Sameness of the worst class"),
    "one_nn": Words(
        "Nearest neighbour of the same class",
        "Share of images whose nearest other image has their label.",
        "share",
    ),
    "purity_at_10": Words(
        "Same class among the 10 nearest",
        "Mean share of the ten nearest images that have the label of the query.",
        "share",
    ),
    "recall_at_10": Words("Recall at 10", "", "share"),
    "r_precision": Words("R-precision", "", "share"),
    "map_at_r": Words("MAP@R"),
    "hub_skew": Words("Hub skewness"),
    "fisher": Words("Fisher ratio"),
    "cdnv": Words("CDNV"),
    "davies_bouldin": Words("Davies–Bouldin"),
    "calinski_harabasz": Words("Calinski–Harabasz"),
    "nc1": Words("NC1"),
    "nc2_norm": Words("NC2, lengths"),
    "nc2_angle": Words("NC2, angles"),
    "nc3": Words("NC3"),
    "nc4": Words("NC4", "", "share"),
    "nearest_mean_accuracy": Words("Nearest class mean correct", "", "share"),
    "two_nn": Words("Intrinsic dimension (TwoNN)"),
}
FIRST = (
    "sameness", "auc", "balanced_accuracy", "accuracy", "knn_probe", "linear_probe", "eer",
    "intra_mean", "inter_mean", "one_nn", "purity_at_10", "map_at_r",
)  # fmt: skip

BEFORE_TRAINING = "untrained_"
MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"


def words(score: str) -> Words:
    """The words of a score; what `SCORE_WORDS` does not say is taken from `score_table`."""
    own = SCORE_WORDS.get(score, Words(score.replace("_", " ").capitalize()))
    row = score_table.SCORES.get(score)
    if own.says or row is None:
        return own
    return replace(own, says=f"{row.about[0].upper()}{row.about[1:]} ({row.span}).")


def every_word(names: Iterable[str]) -> dict[str, Words]:
    """The words of these scores, and of all that `SCORE_WORDS` has."""
    return {name: words(name) for name in (*SCORE_WORDS, *names)}


def measure_words(measure: str) -> str:
    """What a measure compares, in words; empty for one that no table knows."""
    if measure.startswith(BEFORE_TRAINING):
        return (
            f"the same with random weights: {measure_words(measure.removeprefix(BEFORE_TRAINING))}"
        )
    row = find_measure(measure)
    return row.about if row else ""


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


def interval_words(low: Any, high: Any, form: Form = "plain", *, signed: bool = False) -> str:
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
