"""Triplets that people answered: which a measure answers as they did, and how surely."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alike.analysis.blocks import EvaluationSet, Vectors
from alike.analysis.people.answers import HumanAnswers

Floats = NDArray[np.float64]
Places = NDArray[np.int64]

ONE_RATER = "no interval: it would be over images and raters, and one rater answered"


@dataclass(frozen=True)
class AskedTriplets:
    """The answers of which all three images are evaluated.

    Attributes:
        used: places, in the evaluation set, of the images that are in any.
        own: (T, 3) positions in `used`: the two that belong together, then the third.
        raters: (T,) who answered.
        odd: triplets are odd-one-out; else the first is the anchor.
        named: the file says who answered; else each answer counts as a rater of its own.
    """

    used: Places
    own: Places
    raters: Places
    odd: bool
    named: bool

    @staticmethod
    def of(answers: HumanAnswers, images: EvaluationSet) -> "AskedTriplets | None":
        """Those of an evaluation set; None if there are fewer than three."""
        place = {int(row): at for at, row in enumerate(images.rows)}
        at = np.array([[place.get(int(row), -1) for row in three] for three in answers.triplets])
        here = (at >= 0).all(axis=1)
        if here.sum() < 3:
            return None
        used, where = np.unique(at[here], return_inverse=True)
        named = len(answers.raters) > 0
        raters = answers.raters[here] if named else np.arange(here.sum())
        return AskedTriplets(used, where.reshape(-1, 3), raters, answers.odd, named)

    def rights(self, vectors: Vectors) -> Floats:
        """Chance (T,) that a measure chooses as people did; ties share the choice."""
        return triplet_rights(_distances_of(vectors, self.used), self.own, odd=self.odd)

    def spread(self, values: Floats) -> float:
        """Standard deviation of the mean of values (T,) over images and raters drawn again."""
        return shared_spread(values, self.own, self.raters)

    @property
    def freedom(self) -> int:
        """Degrees of freedom of `spread`: raters or images, the fewer, less one."""
        return min(len(self.used), len(np.unique(self.raters))) - 1

    @property
    def note(self) -> str:
        """Chance, and over what the interval is."""
        chance = "chance is .333" if self.odd else "chance is .5"
        if self.named and len(np.unique(self.raters)) < 2:
            return f"{chance}; {ONE_RATER}"
        over = "images and raters" if self.named else "images and answers: no column names raters"
        return f"{chance}; the interval is over {over}"


def _distances_of(vectors: Vectors, used: Places) -> Callable[[Any, Any], Floats]:
    z, b = vectors.rows(used)
    wide = z.astype(np.float64)

    def distance(i: Any, j: Any) -> Floats:
        return np.asarray(b[i] + b[j] - np.einsum("nd,nd->n", wide[i], wide[j]))

    return distance


def triplet_rights(distance: Callable[[Any, Any], Floats], own: Any, *, odd: bool) -> Floats:
    """Chance (T,) that the nearest of the distances is the one that people chose.

    Args:
        distance: of images i and j, arrays of positions.
        own: (T, 3) positions: the two that belong together, then the third.
        odd: all three pairs compete; else the two of the first.
    """
    a, b, c = own.T
    rest = [distance(a, c)] + ([distance(b, c)] if odd else [])
    first = distance(a, b)
    least = np.minimum.reduce([first, *rest])
    tied = sum((each == least).astype(float) for each in (first, *rest))
    return np.where(first == least, 1.0 / tied, 0.0)


def shared_spread(values: Floats, own: Places, raters: Places) -> float:
    """Standard deviation of a mean over triplets that share images and raters.

    The variance is the sum of e_s e_t over all s and t that share an image or the rater, over
    T^2 (Aronow, Samii and Assenova 2015, "Cluster-robust variance estimation for dyadic data"), by
    inclusion and exclusion over what they share (Cameron, Gelbach and Miller 2011). The residuals
    e add up to 0, which takes away the share f of such s and t: divided by 1 - f. A bootstrap
    that multiplies how often the three images and the rater were drawn is far too wide where
    triplets share little.

    Args:
        values: (T,) of each triplet.
        own: (T, 3) positions of its images, all different.
        raters: (T,) who answered.

    Returns:
        At least what it is if no triplets share anything, since the estimate may be below 0 with
        few images; NaN if all share something.

    Example:
        >>> own = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8]])
        >>> round(shared_spread(np.array([0.0, 1, 1]), own, np.arange(3)), 3)
        0.333
    """
    images = np.sort(own, axis=1)
    e = values - values.mean()
    shared, products = 0.0, 0.0
    for count in range(4):
        for of_rater in (False, True):
            if not count + of_rater:
                continue
            members = list(combinations(range(3), count))
            columns = [
                np.concatenate([images[:, which[at]] for which in members]) for at in range(count)
            ]
            columns += [np.tile(raters, len(members))] if of_rater else []
            group = _groups(columns)
            sign = -1.0 if (count + of_rater) % 2 == 0 else 1.0
            sums = np.bincount(group, np.tile(e, len(members)))
            products += sign * float((sums**2).sum())
            shared += sign * float((np.bincount(group).astype(np.float64) ** 2).sum())
    n = float(len(values))
    left = 1.0 - shared / n**2
    apart = float(e @ e) / (1.0 - 1.0 / n)
    return max(products / left, apart) ** 0.5 / n if left > 0 else float("nan")


def _groups(columns: list[Places]) -> Places:
    """A number for each row of the columns, the same for equal rows."""
    group = columns[0]
    for column in columns[1:]:
        _, group = np.unique(group * (int(column.max()) + 1) + column, return_inverse=True)
    return group


def repeated(asked: AskedTriplets) -> tuple[float, float, int]:
    """How often one answer agrees with the most common of the others, and with that of all.

    Returns:
        Both ceilings, NaN if no question was asked twice, and how many were.
    """
    own = asked.own
    first, rest = own[:, :1], np.sort(own[:, 1:], axis=1)
    question = np.sort(own, axis=1) if asked.odd else np.column_stack([first, rest])
    _, group = np.unique(question, axis=0, return_inverse=True)
    low, high, n = 0.0, 0.0, 0
    many = np.flatnonzero(np.bincount(group.ravel()) > 1)
    for each in many:
        _, counts = np.unique(own[group.ravel() == each, 2], return_counts=True)
        for kind, count in enumerate(counts):
            others = counts.copy()
            others[kind] -= 1
            most = others == others.max()
            low += count * (most[kind] / most.sum())
        high += counts.max()
        n += counts.sum()
    return (low / n, high / n, len(many)) if n else (float("nan"), float("nan"), 0)
