"""Labels of images and classes of a network: which is which, and how often the logits are right."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from alike.extract.store import Features


def match_classes(
    labels: Iterable[str | None], class_names: Sequence[str] | None, outputs: int | None = None
) -> dict[str, int] | None:
    """Index of every label in the network's classes.

    Args:
        labels: of the images; None is left out.
        class_names: of the logits in order, or None. An entry may hold several names (``tench,
            Tinca tinca``) and begin with a WordNet id (``n01440764 tench``); each is a name.
        outputs: number of logits, for a network without class names. If there are as many labels,
            they are taken for its classes in alphabetical order, the usual numbering of folders.

    Returns:
        label -> index; None unless every label is a name of exactly one class, case, hyphens,
        underscores and spaces aside.
    """
    distinct = {label for label in labels if label is not None}
    if not class_names and outputs is not None and len(distinct) == outputs:
        return {label: index for index, label in enumerate(sorted(distinct))}
    if not class_names or not distinct:
        return None
    named: dict[str, set[int]] = {}
    for index, entry in enumerate(class_names):
        for name in _names_in(entry):
            named.setdefault(name, set()).add(index)
    candidates = {label: named.get(_plain(label), set()) for label in distinct}
    if any(len(indices) != 1 for indices in candidates.values()):
        return None
    return {label: indices.pop() for label, indices in candidates.items()}


def output_names(features: Features, outputs: int | None = None) -> list[str]:
    """Names of the outputs of a network, as every answer names its classes.

    Args:
        features: extracted with the network.
        outputs: number of its logits; None: that of the stored ones.

    Returns:
        the names that are stored; else the labels if there are as many (see `match_classes`); else
        ``class 0``, ``class 1``…; none where the number of outputs is unknown.
    """
    names = [str(name) for name in features.attrs.get("class_names") or ()]
    if outputs is None:
        outputs = features.arrays["logits"].tail[-1] if "logits" in features.arrays else len(names)
    if len(names) == outputs:
        return names
    places = match_classes(features.whole.table()["label"].dropna().unique(), None, outputs) or {}
    labels = {place: label for label, place in places.items()}
    return [labels.get(place, numbered_class(place)) for place in range(outputs)]


def numbered_class(index: int) -> str:
    """Name of a class of which only the number is known."""
    return f"class {index}"


def _names_in(entry: str) -> set[str]:
    identifier = re.match(r"(n\d{8})\s+", entry)
    rest = entry[identifier.end() :] if identifier else entry
    names = [entry, rest, *rest.split(","), *(identifier.groups() if identifier else ())]
    return {_plain(name) for name in names}


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().lower()


def stored_top1(
    features: Features, class_names: Sequence[str] | None, table: pd.DataFrame
) -> float | None:
    """Share of labelled images whose largest stored logit is their class, or None.

    Args:
        features: with the array ``logits``, else the answer is None.
        class_names: of the logits in order.
        table: row and label of usable images; those with logits count.
    """
    if "logits" not in features.arrays:
        return None
    has_logits = features.committed(["logits"], good=True)[table["row"].to_numpy()]
    table = table[has_logits & table["label"].notna()]
    outputs = features.arrays["logits"].tail[-1]
    index = match_classes(table["label"].unique(), class_names, outputs)
    if index is None:
        return None
    truth = table["label"].map(index).to_numpy(dtype=np.int64)
    rows = table["row"].to_numpy(dtype=np.int64)
    right = done = 0
    for block, logits in features.blocks("logits", rows):
        right += int((logits.argmax(1) == truth[done : done + len(block)]).sum())
        done += len(block)
    return right / done
