"""Did a score fall? The difference of two runs whose images overlap, at a sequential level.

Let run A have a_c images of class c, run B b_c, of which m_c are common: the same bytes under the
same label. With one network they have the same features. To first order a score is

    score = truth + sum_c 1/n_c sum_(i in c) f(i),    f with mean 0 and variance t_c^2,

so that its own variance is V = sum_c t_c^2 / n_c, and that of the difference

    Var(B - A) = sum_c t_c^2 (1/a_c + 1/b_c - 2 m_c / (a_c b_c)) = sum_c t_c^2/a_c * d_c/b_c

with d_c = a_c + b_c - 2 m_c, the images that are in one of them alone. The history holds V_A and
V_B, not the t_c: hence Var(B - A) <= V_A max_c d_c/b_c, likewise <= V_B max_c d_c/a_c. The larger
bound is used, and never more than V_A + V_B. No image exchanged: the difference is 0.

Where few images were exchanged a sum of few f is far from normal. One image of class c moves a pair
score by at most J = 4 (range of the score) / (C n_c): it is in 2/(C n_c) of the weight of same
pairs, and in as much of that of different pairs. So Bernstein's inequality holds for the
difference:

    P(B - A <= -t) <= exp(-t^2 / (2 (V + J t / 3))).

The level of a night is 1/3650, half of it for a fall: the expected number of false alarms in ten
years of nights is at most one, however the nights depend on each other.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 1.0 / 3650.0
"""Of one run, for both directions: one false alarm in ten years of nights."""
ROUNDING = 1e-6
"""A difference below it is rounding of another version of a library."""
RANGES = {
    "sameness": 2.0, "sameness_all_pairs": 2.0, "auc": 1.0, "auc_all_pairs": 1.0, "eer": 1.0,
    "accuracy": 1.0,
}  # fmt: skip
"""Scores of which the effect of one image is bounded as above, and their range."""
NORMAL_95 = 1.959964
"""Half the width of a 95 % interval in standard errors; more with few images: errors too large."""


@dataclass(frozen=True)
class Overlap:
    """How many images two runs have, by class.

    Attributes:
        a: (C,) images of the first.
        b: (C,) of the second.
        common: (C,) of both, with the same label.
    """

    a: np.ndarray
    b: np.ndarray
    common: np.ndarray

    @property
    def exchanged(self) -> np.ndarray:
        """(C,) images of one of them alone."""
        return np.asarray(self.a + self.b - 2 * self.common)


def overlap(a: "pd.DataFrame", b: "pd.DataFrame") -> Overlap | None:
    """The overlap of two tables of images (row, label); None if their classes differ."""
    labels = sorted(set(a["label"]))
    if labels != sorted(set(b["label"])) or not labels:
        return None
    both = a.merge(b, on=["row", "label"])
    counts = [
        one["label"].value_counts().reindex(labels, fill_value=0).to_numpy() for one in (a, b, both)
    ]
    return Overlap(*counts)


def standard_error(value: float, low: float, high: float) -> float:
    """From a 95 % interval, by its longer side; NaN without one."""
    return max(value - low, high - value) / NORMAL_95


def variance_bound(error_a: float, error_b: float, images: Overlap) -> float:
    """Largest variance of the difference of a score, by both standard errors and the overlap.

    Example:
        >>> same = Overlap(np.array([10]), np.array([10]), np.array([10]))
        >>> variance_bound(0.1, 0.1, same)
        0.0
    """
    exchanged = images.exchanged
    by_a = error_a**2 * float((exchanged / images.b).max())
    by_b = error_b**2 * float((exchanged / images.a).max())
    return min(max(by_a, by_b), error_a**2 + error_b**2)


def largest_step(score: str, images: Overlap) -> float:
    """What the exchange of one image does to a score at most."""
    touched = images.exchanged > 0
    if not touched.any():
        return 0.0
    n = np.minimum(images.a, images.b).astype(np.float64)
    balanced = 1.0 / (len(n) * n)
    weighted = n / (n**2).sum()
    return float(4.0 * RANGES[score] * np.maximum(balanced, weighted)[touched].max())


def threshold(variance: float, step: float, level: float = LEVEL) -> float:
    """Difference that is exceeded by chance with at most `level` / 2 on either side.

    Args:
        variance: of the difference.
        step: largest effect of one image.
        level: of both sides.

    Example:
        >>> round(threshold(1.0, 0.0), 2)
        4.22
    """
    log = math.log(2.0 / level)
    first = step * log / 3.0
    return max(first + math.sqrt(first**2 + 2.0 * log * variance), ROUNDING)
