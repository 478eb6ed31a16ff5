"""What belongs to the network and to no measure: its accuracy, and neural collapse."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.analysis.blocks import EvaluationSet, stored_vectors
from alike.analysis.classes import class_geometry, class_moments, collapse_scores, geometry_notes
from alike.analysis.scores.rows import NO_SPAN, score_row
from alike.extract.class_names import match_classes
from alike.extract.measures import WEIGHT, Measure, Take, check_finite

if TYPE_CHECKING:
    from alike.extract.store import Features

NAME = "network"
PENULTIMATE = Measure("fc", ("fc",), Take("fc"), (), "euclidean", "what enters the classifier")


def network_scores(features: "Features", images: EvaluationSet) -> pd.DataFrame:
    """Rows of `scores` under the measure `network`, as far as taps and class names allow.

    Accuracy and NC4 need logits, and labels that are classes of the network; NC3 the weights of a
    linear classifier as well. NC1 and NC2 need the tap `fc` only. The papers report collapse on
    training images; on held-out ones it says something else, so the note names the images.

    Raises:
        BadInput: logits or features that are NaN or infinite; the rows are named.
    """
    names = [name for name in ("logits", "fc") if name in features.arrays]
    held = features.committed(names, good=True)[images.rows]
    if not names or not (images.take(held).counts > 1).any():
        return pd.DataFrame([])
    lacking = "" if held.all() else f"; {int((~held).sum())} images have no {' or '.join(names)}"
    images = images.take(held)
    places = logit_places(features)
    predicted, rows = None, []
    if places is not None:
        of_network = np.array([places[name] for name in images.classes])
        first = _first_choice(features, images)
        right = float((first == of_network[images.codes]).mean())
        note = f"the logits' first choice against the label{lacking}"
        if not features.attrs.get("class_names"):
            note += "; classes taken to be the labels in alphabetical order"
        rows.append(score_row(NAME, "accuracy", right, NO_SPAN, note))
        code_of = np.full(features.arrays["logits"].tail[-1], -1, dtype=np.int64)
        code_of[of_network] = np.arange(len(of_network))
        predicted = code_of[first]
    if "fc" in features.arrays:
        weight = None if places is None else _weight(features, images, places)
        rows += _collapse(features, images, weight, predicted, lacking)
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


def _collapse(
    features: "Features",
    images: EvaluationSet,
    weight: Any,
    predicted: NDArray[np.int64] | None,
    lacking: str,
) -> list[dict[str, Any]]:
    vectors = stored_vectors(features, PENULTIMATE, images.rows)
    if weight is not None and weight.shape[1] != vectors.dim:
        weight = None
    moments = class_moments(vectors, images, second=False)
    geometry = class_geometry(vectors, images, moments)
    note = f"of {len(images)} evaluated images, features entering the classifier{lacking}"
    more = geometry_notes(moments)
    return [
        score_row(NAME, name, value, NO_SPAN, "; ".join(filter(None, [note, more.get(name)])))
        for name, value in collapse_scores(moments, geometry, weight, predicted).items()
    ]
