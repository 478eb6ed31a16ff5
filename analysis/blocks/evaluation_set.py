"""Which images are evaluated, in the order in which pairs are counted: by class, then by row."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.extract.errors import BadInput
from alike.extract.measures import FeatureRows

BY_ID = 100_000
"""Images up to which those of a class are in the order of their ids.

Products of matrices round otherwise in another order: with this one the last digits do not depend
on the order in which images arrived. Larger sets are read faster by rows.
"""


MANY = 2048
"""Classes above which nothing that grows with the square of their number is held: of pairs of
classes only the nearest of each class are listed."""


def many(n_classes: int) -> bool:
    """Whether classes are so many that their pairs are not all listed; see `MANY`."""
    return n_classes > MANY


@dataclass(frozen=True)
class EvaluationSet:
    """Labelled images sorted by class, so that every pair of classes is a rectangle of pairs.

    Attributes:
        rows: row numbers in the store, int64 (N,); within a class by image id, and ascending in
            sets of more than `BY_ID` images.
        codes: class of each, int64 (N,), ascending.
        classes: names; `classes[code]`.
        starts: int64 (C + 1,); class c has the positions `starts[c]` up to `starts[c + 1]`.
        ranks: place of each image among all when they are sorted by image id, int64 (N,); any
            ascending numbers do. Draws follow them, for rows are numbered as images arrived.
        unlabelled: images of the split that have no label and are left out.
        sampled_from: how many images there were before a budget cut them down; 0: all are here.
    """

    rows: NDArray[np.int64]
    codes: NDArray[np.int64]
    classes: tuple[str, ...]
    starts: NDArray[np.int64]
    ranks: NDArray[np.int64]
    unlabelled: int = 0
    sampled_from: int = 0

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.rows)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Images of each class, int64 (C,)."""
        return np.diff(self.starts)

    @cached_property
    def by_id(self) -> NDArray[np.int64]:
        """Positions by class, then by image id, int64 (N,): the order in which draws are dealt.

        Class c has the entries `starts[c]` up to `starts[c + 1]`, as it has the positions.
        """
        return np.lexsort((self.ranks, self.codes)).astype(np.int64)

    def take(self, keep: NDArray[Any]) -> "EvaluationSet":
        """The images at these positions (a mask or ascending numbers), classes unchanged."""
        codes = self.codes[keep]
        starts = np.searchsorted(codes, np.arange(len(self.classes) + 1))
        return replace(
            self,
            rows=self.rows[keep],
            codes=codes,
            starts=starts.astype(np.int64),
            ranks=self.ranks[keep],
        )

    def sample_at(
        self, limit: int, seed: int, unit: NDArray[np.int64] | None = None
    ) -> NDArray[np.int64] | None:
        """Positions of about `limit` images, the same share of every class, two of each at least.

        None where there are no more images than that.

        Args:
            limit: images.
            seed: of the draws.
            unit: (N,) images of one unit of a class are drawn together; None: each is its own.
        """
        if len(self) <= limit:
            return None
        draw = np.random.default_rng(seed)
        places = []
        for low, high in zip(self.starts[:-1], self.starts[1:], strict=True):
            at = self.by_id[low:high]
            units = None if unit is None else pd.factorize(unit[at])[0]
            n = high - low if units is None else int(units.max(initial=-1)) + 1
            size = max(min(2, n), round(n * limit / len(self)))
            drawn = draw.choice(np.arange(n), size=size, replace=False)
            places.append(np.sort(at[drawn if units is None else np.isin(units, drawn)]))
        return np.concatenate(places)

    def sample(self, limit: int, seed: int) -> "EvaluationSet":
        """These images, or a stratified sample of about `limit` that remembers how many."""
        at = self.sample_at(limit, seed)
        return self if at is None else replace(self.take(at), sampled_from=len(self))


def evaluation_set_of(
    rows: NDArray[np.int64], labels: Sequence[Any], image_ids: Sequence[str] | None = None
) -> EvaluationSet:
    """Sort labelled rows by class.

    Args:
        rows: row numbers, any order, no row twice.
        labels: class names of the same length; None, NaN and "" mean unlabelled.
        image_ids: of the same length, which draws follow; None: they follow the rows.

    Raises:
        BadInput: fewer than two classes, or no class with two images.
    """
    has_label = np.array([isinstance(label, str) and label != "" for label in labels], dtype=bool)
    rows = np.asarray(rows, dtype=np.int64)
    ranks = rows if image_ids is None else _ranks(image_ids)
    rows, ranks = rows[has_label], ranks[has_label]
    names = np.array([label for label in labels if isinstance(label, str) and label != ""], str)
    classes, codes = np.unique(names, return_inverse=True)
    order = np.lexsort((ranks if len(rows) <= BY_ID else rows, codes))
    rows, ranks, codes = rows[order], ranks[order], codes[order].astype(np.int64)
    starts = np.searchsorted(codes, np.arange(len(classes) + 1)).astype(np.int64)
    unlabelled = int((~has_label).sum())
    images = EvaluationSet(rows, codes, tuple(map(str, classes)), starts, ranks, unlabelled)
    check(images)
    return images


def _ranks(image_ids: Sequence[str]) -> NDArray[np.int64]:
    """The place of each id among the sorted ones."""
    codes, _ = pd.factorize(pd.Series(image_ids, dtype="str"), sort=True)
    return np.asarray(codes, dtype=np.int64)


def check(images: EvaluationSet) -> None:
    """Refuse what has no pairs of both kinds.

    Raises:
        BadInput: fewer than two classes, or no class with two images.
    """
    nonempty = images.counts > 0
    if nonempty.sum() < 2:
        name = images.classes[int(nonempty.argmax())] if nonempty.any() else None
        content = f"one class ({name})" if name else "no labelled image"
        msg = (
            f"the images to evaluate hold {content}, expected two classes or more, since pairs of "
            "different classes are compared: label them by class folders or a manifest"
        )
        raise BadInput(msg)
    if images.counts.max() < 2:
        msg = (
            f"every one of the {nonempty.sum()} classes has a single image, expected two or more "
            "in some class, since pairs of one class are compared: add images, or "
            "evaluate more of them (--split all, if that was not asked for)"
        )
        raise BadInput(msg)


def check_seed(seed: int) -> None:
    """Refuse a seed that NumPy does not take.

    Raises:
        BadInput: a negative seed.
    """
    if seed < 0:
        raise BadInput(f"seed {seed}: expected a whole number from 0 on")


def stored_evaluation_set(features: FeatureRows, split: str) -> EvaluationSet:
    """The labelled images of a split: `held_out`, `validation`, `train` or `all`.

    Raises:
        BadInput: an unknown or empty split, or one without pairs of both kinds.
    """
    if split not in ("held_out", "validation", "train", "all"):
        msg = f"unknown split {split!r}, expected held_out, validation, train or all"
        raise BadInput(msg)
    table = features.table(None if split == "all" else split)
    if not len(table):
        of = f" with {features.where}" if features.where else ""
        msg = (
            f"the split {split} of {features.key}{of} is empty: use --split all, or extract images"
        )
        raise BadInput(msg)
    return evaluation_set_of(table["row"].to_numpy(), table["label"].tolist(), table["image_id"])
