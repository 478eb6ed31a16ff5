"""Does the network know these images? Top-1 where the set's classes are the network's own."""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from extract.store import Features


def match_classes(
    labels: Iterable[str | None], class_names: Sequence[str] | None
) -> dict[str, int] | None:
    """Index of every label in the network's classes.

    Args:
        labels: of the images; None is left out.
        class_names: of the logits in order, or None.

    Returns:
        label -> index; None unless every label is the name of exactly one class, case, hyphens,
        underscores and spaces aside.
    """
    wanted = {label for label in labels if label is not None}
    if not class_names or not wanted:
        return None
    plain = [_plain(name) for name in class_names]
    index = {name: number for number, name in enumerate(plain) if plain.count(name) == 1}
    if not all(_plain(label) in index for label in wanted):
        return None
    return {label: index[_plain(label)] for label in wanted}


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().lower()


def stored_top1(features: "Features", class_names: Sequence[str] | None) -> float | None:
    """Share of labelled images whose largest stored logit is their class, or None.

    Args:
        features: with the array ``logits``, else the answer is None.
        class_names: of the logits in order.
    """
    if "logits" not in features.arrays:
        return None
    table = features.table(names=["logits"])
    table = table[table["label"].notna()]
    index = match_classes(table["label"].unique(), class_names)
    if index is None:
        return None
    truth = table["label"].map(index).to_numpy(dtype=np.int64)
    rows = table["row"].to_numpy(dtype=np.int64)
    right = done = 0
    for block, logits in features.blocks("logits", rows):
        right += int((logits.argmax(1) == truth[done : done + len(block)]).sum())
        done += len(block)
    return right / done
