"""What a reader of stored features must know: images left out, unusual taps, a wrong input."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

SELF_CHECK = "self_check"
"""Attribute of a group that holds the fields of its last `SelfCheck`."""
SOURCE_NOTES = "source_notes"
"""Attribute of a group: what its source took the images for, and what it left out. The store reads
it by the same name in `extract/store/upkeep.py`, which may not import this."""


@dataclass(frozen=True)
class SelfCheck:
    """Whether the preprocessing of a set of images looked right.

    Attributes:
        images: usable images at the last check, 0 if there was none.
        top1: share of labelled images that were classified correctly then.
        warning: what looks wrong, or None.
    """

    images: int = 0
    top1: float = 0.0
    warning: str | None = None

    @staticmethod
    def stored(attrs: Mapping[str, Any]) -> "SelfCheck":
        """The last check of a group, from its attributes."""
        return SelfCheck(**attrs.get(SELF_CHECK, {}))


def stored_warning(attrs: Mapping[str, Any]) -> str | None:
    """The warning of a group's last self-check."""
    return SelfCheck.stored(attrs).warning


def source_notes(attrs: Mapping[str, Any]) -> list[str]:
    """What the source of a group's images left out and guessed, a line each."""
    return list(attrs.get(SOURCE_NOTES, ()))


def tap_notes(attrs: Mapping[str, Any]) -> list[str]:
    """What is unusual about the taps of a group: ``name: note``."""
    return [f"{name}: {note}" for name, note in attrs.get("tap_notes", {}).items()]


def unturned_notes(count: int, of: str) -> list[str]:
    """What became of images whose orientation is not known.

    Args:
        count: of them.
        of: which images were counted, such as ``looked at``.
    """
    if not count:
        return []
    return [
        f"{count} images {of} have damaged or empty metadata, or an orientation that is none "
        "of 1 to 8: they are taken as they are stored, not turned"
    ]


def set_notes(n_classes: int, unlabelled: int, total: int) -> list[str]:
    """What a set lacks for scores.

    Args:
        n_classes: classes that it has.
        unlabelled: images without a class.
        total: images.
    """
    if unlabelled == total:
        return ["no image has a class: neighbours work, scores and retraining need classes"]
    lines = ["there is one class only: scores and retraining need two"] if n_classes == 1 else []
    return lines + ([f"{unlabelled} of {total} images have no class"] if unlabelled else [])


def only_some(features: Any) -> list[str]:
    """That only a part of the set is looked at, if so (see `Features.only`)."""
    return [f"only images of {features.where} are evaluated"] if features.where else []


def flat_notes(name: str, values: np.ndarray) -> list[str]:
    """What must be said of features that tell nothing apart: zero, or the same for all images.

    Args:
        name: of the array.
        values: (N, D) of N images.
    """
    if len(values) < 2:
        return []
    zero = int((values == 0).all(axis=1).sum())
    n = len(values)
    if zero == n:
        return [f"{name} is zero for all {n} images looked at: it tells none of them apart"]
    if (values == values[0]).all():
        return [f"{name} is the same for all {n} images looked at: it tells none of them apart"]
    return [f"{name} is zero for {zero} of {n} images looked at"] if zero else []


def flat_features(features: Any, rows: np.ndarray, most: int = 2048) -> list[str]:
    """`flat_notes` of the stored vectors of some rows.

    Args:
        features: the extraction.
        rows: (N,) of images with features, ascending.
        most: rows that are read at most, evenly over all.
    """
    at = np.unique(np.linspace(0, max(len(rows) - 1, 0), min(most, len(rows))).astype(np.int64))
    some = np.sort(np.asarray(rows)[at])
    names = [name for name in ("gap", "fc", "logits") if name in features.arrays]
    held = [name for name in names if features.committed([name])[some].all()]
    return [note for name in held for note in flat_notes(name, features.read(name, some))]
