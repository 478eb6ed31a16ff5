"""What belongs to the network and to no measure: its accuracy, and neural collapse."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.analysis.blocks import EvaluationSet, Vectors, stored_vectors
from alike.analysis.classes import class_geometry, class_moments, collapse_scores, geometry_notes
from alike.analysis.neighbours import copies_note
from alike.analysis.pairs import (
    jackknife_groups,
    jackknife_ratio_interval,
    right_interval,
    units_of,
)
from alike.analysis.scores.rows import NO_SPAN, influence_note, score_row
from alike.extract.class_names import match_classes
from alike.extract.measures import WEIGHT, Measure, Take, check_finite

if TYPE_CHECKING:
    from alike.extract.store import Features

NAME = "network"
PENULTIMATE = Measure("fc", ("fc",), Take("fc"), (), "euclidean", "what enters the classifier")

JACKKNIFED = ("nc1", "nc2_norm", "nc2_angle")
"""Scores whose interval leaves a tenth of every class out in turn."""
MOST = 16_384
"""Images that are left out in turn; of more those of a stratified sample."""
ROUNDING = 1e-9
"""Share of the largest of what the jackknife gives below which a score is 0 but for rounding."""
NC1_NOTE = "the interval is too narrow where distances to class means have heavy tails"
NO_COLLAPSE_SPAN = "no interval: it is 0, or not there without a tenth of each class"


def network_scores(
    features: "Features",
    images: EvaluationSet,
    *,
    unit: NDArray[np.int64] | None = None,
    intervals: bool = True,
    seed: int = 0,
) -> pd.DataFrame:
    """Rows of `scores` under the measure `network`, as far as taps and class names allow.

    Accuracy and NC4 need logits, and labels that are classes of the network; NC3 the weights of a
    linear classifier as well. NC1 and NC2 need the tap `fc` only. The papers report collapse on
    training images; on held-out ones it says something else, so the note names the images.

    Args:
        features: the extraction.
        images: to evaluate.
        unit: (N,) the unit of each image where some are near copies; None: each is one.
        intervals: compute them, of accuracy, NC1 and NC2.
        seed: of the tenths that are left out.

    Raises:
        BadInput: logits or features that are NaN or infinite; the rows are named.
    """
    names = [name for name in ("logits", "fc") if name in features.arrays]
    held = features.committed(names, good=True)[images.rows]
    if not names or not (images.take(held).counts > 1).any():
        return pd.DataFrame([])
    lacking = "" if held.all() else f"; {int((~held).sum())} images have no {' or '.join(names)}"
    images = images.take(held)
    unit = None if unit is None else np.unique(unit[held], return_inverse=True)[1]
    copies = copies_note(unit) if intervals else ""
    places = logit_places(features)
    predicted, rows = None, []
    if places is not None:
        of_network = np.array([places[name] for name in images.classes])
        first = _first_choice(features, images)
        right = (first == of_network[images.codes]).astype(np.float64)
        span = right_interval(right, units_of(images, unit)) if intervals else NO_SPAN
        note = f"the logits' first choice against the label{lacking}"
        if not features.attrs.get("class_names"):
            note += "; classes taken to be the labels in alphabetical order"
        note = "; ".join(filter(None, [note, copies]))
        rows.append(score_row(NAME, "accuracy", float(right.mean()), span, note))
        code_of = np.full(features.arrays["logits"].tail[-1], -1, dtype=np.int64)
        code_of[of_network] = np.arange(len(of_network))
        predicted = code_of[first]
    if "fc" in features.arrays:
        weight = None if places is None else _weight(features, images, places)
        vectors = stored_vectors(features, PENULTIMATE, images.rows)
        of = left_out_in_turn(vectors, images, seed, unit) if intervals else None
        more = {"lacking": lacking, "copies": copies}
        rows += _collapse(vectors, images, weight, predicted, of, **more)
    return pd.DataFrame(rows)


def named_rightly(features: "Features", images: EvaluationSet) -> NDArray[np.bool_] | None:
    """Whether the logits' first choice is the label, (N,); None where that cannot be said."""
    places = logit_places(features)
    if places is None or not features.committed(["logits"], good=True)[images.rows].all():
        return None
    of_network = np.array([places[name] for name in images.classes])
    right: NDArray[np.bool_] = _first_choice(features, images) == of_network[images.codes]
    return right


def logit_places(features: "Features") -> dict[str, int] | None:
    """Which logit stands for each label; None where labels and classes do not match."""
    if "logits" not in features.arrays:
        return None
    # Here, for it brings torch, which the tables of an analysis are read without.

    names = [str(name) for name in features.attrs.get("class_names") or ()]
    labels = features.whole.table()["label"].dropna().unique()
    return match_classes(labels, names, features.arrays["logits"].tail[-1])


def _first_choice(
    features: "Features", images: EvaluationSet, block: int = 4096
) -> NDArray[np.int64]:
    parts = []
    for low in range(0, len(images), block):
        rows = images.rows[low : low + block]
        logits = features.read("logits", rows)
        # The largest of NaNs is the first of them: a class that nothing names.
        check_finite("logits", logits, rows, features.key)
        parts.append(logits.argmax(axis=1))
    return np.concatenate(parts).astype(np.int64)


def _weight(
    features: "Features", images: EvaluationSet, places: dict[str, int]
) -> NDArray[np.float64] | None:
    if WEIGHT not in features.constants():
        return None
    weight = features.read_constant(WEIGHT).astype(np.float64)
    return weight[[places[name] for name in images.classes]]


@dataclass(frozen=True)
class LeftOut:
    """Neural collapse with a tenth of every class left out in turn.

    Attributes:
        values: (11, 3) the scores `JACKKNIFED`: of all these images, then without each tenth.
        n: how many these images are.
        of: how many they stand for.
        classes: of two images or more.
    """

    values: NDArray[np.float64]
    n: int
    of: int
    classes: int

    def interval(self, score: str, value: float) -> tuple[tuple[float, float], str]:
        """Interval of a score, and what to know of it or why there is none.

        The scores scatter by a factor, so the interval is that of the logarithm. A sample of the
        images scatters more than all of them by the root of their numbers.

        Args:
            score: one of `JACKKNIFED`.
            value: of all images.
        """
        whole, *without = self.values[:, JACKKNIFED.index(score)]
        if score != "nc1" and self.classes == 2:
            return NO_SPAN, "no interval: it is 0 for any two classes"
        span = NO_SPAN
        # What is 0 but for rounding varies by any factor.
        if min(whole, *without) > ROUNDING * max(whole, *without):
            factors = (np.array(without) / whole) ** ((self.n / self.of) ** 0.5)
            span = jackknife_ratio_interval(value, value * factors)
        if not np.isfinite(span[0]):
            return NO_SPAN, NO_COLLAPSE_SPAN
        sampled = influence_note(self.n if self.n < self.of else 0, self.of)
        return span, "; ".join(filter(None, [NC1_NOTE if score == "nc1" else "", sampled]))


def left_out_in_turn(
    vectors: Vectors,
    images: EvaluationSet,
    seed: int,
    unit: NDArray[np.int64] | None = None,
    most: int = MOST,
) -> LeftOut:
    """NC1 and NC2 of at most so many images, and without a tenth of each class in turn.

    Args:
        vectors: of what enters the classifier.
        images: the evaluation set.
        seed: of the sample and of the tenths.
        unit: (N,) near copies, which are left out together; None: each image is a unit.
        most: images; of more a stratified sample is taken.
    """
    # Half of a unit would move a score less than all of it.
    of, at = len(images), images.sample_at(most, seed, unit)
    if at is not None:
        vectors, images = vectors.take(at), images.take(at)
        unit = None if unit is None else unit[at]
    parts = [np.arange(len(images)), *jackknife_groups(images, seed, unit)]
    values = [collapse_of(vectors.take(kept), images.take(kept)) for kept in parts]
    return LeftOut(np.array(values), len(images), of, int((images.counts > 1).sum()))


def collapse_of(vectors: Vectors, images: EvaluationSet) -> list[float]:
    """The scores `JACKKNIFED`; NaN with fewer than two classes."""
    if (images.counts > 0).sum() < 2:
        return [float("nan")] * len(JACKKNIFED)
    moments = class_moments(vectors, images, second=False)
    geometry = class_geometry(vectors, images, moments)
    scores = collapse_scores(moments, geometry, None, None)
    return [scores[name] for name in JACKKNIFED]


def _collapse(
    vectors: Vectors,
    images: EvaluationSet,
    weight: Any,
    predicted: NDArray[np.int64] | None,
    of: LeftOut | None,
    *,
    lacking: str,
    copies: str,
) -> list[dict[str, Any]]:
    if weight is not None and weight.shape[1] != vectors.dim:
        weight = None
    moments = class_moments(vectors, images, second=False)
    geometry = class_geometry(vectors, images, moments)
    about = f"of {len(images)} evaluated images, features entering the classifier{lacking}"
    more = geometry_notes(moments)
    rows = []
    for name, value in collapse_scores(moments, geometry, weight, predicted).items():
        span, why = NO_SPAN, ""
        if of is not None and name in JACKKNIFED and np.isfinite(value):
            span, why = of.interval(name, value)
        notes = [about, more.get(name), why, copies if np.isfinite(span[0]) else ""]
        rows.append(score_row(NAME, name, value, span, "; ".join(filter(None, notes))))
    return rows
