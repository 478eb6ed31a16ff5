"""Scores of a measure against people, with ceilings and intervals. Nothing is fitted.

The ceilings say how well people agree with people. The lower one is that of a model which is one
part of them, scored by the rest; the upper one that of a model which knows all of them.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.analysis.blocks import EvaluationSet, Vectors
from alike.analysis.people.answers import HumanAnswers
from alike.analysis.people.correlation import agreement

Floats = NDArray[np.float64]

MOST = 2000
"""Images whose pairs are compared with people; of more a stratified sample is."""
SPLITS = 20
"""Ways to split the raters in halves."""
DRAWS = 200
"""Draws of the bootstrap."""
COLUMNS = (
    "score", "value", "low", "high", "ceiling_low", "ceiling_high", "against_half", "n", "note",
)  # fmt: skip


def human_scores(
    answers: HumanAnswers,
    vectors: Vectors,
    images: EvaluationSet,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    splits: int = SPLITS,
) -> pd.DataFrame:
    """How alike people and a measure find the same images.

    Args:
        answers: what people said.
        vectors: of the images.
        images: the evaluation set.
        seed: of what is drawn.
        draws: of the bootstrap over images and raters; 0: no intervals.
        splits: of the raters of votes in halves; 0: no ceilings.

    Returns:
        score (a name of `correlation.KINDS`, or `triplets`), value, low, high, ceiling_low,
        ceiling_high, against_half (the value if half of the votes are used), n (pairs or triplets),
        note. Empty if people said nothing of these images.
    """
    draw = np.random.default_rng(seed)
    if answers.kind == "triplets":
        return _of_triplets(answers, vectors, images, draw, draws)
    place = np.argsort(images.rows, kind="stable")
    at = np.searchsorted(images.rows, answers.rows, sorter=place)
    at = place[np.minimum(at, len(images) - 1)]
    here = images.rows[at] == answers.rows
    order = np.argsort(at[here])
    places, of = at[here][order], np.flatnonzero(here)[order]
    note = ""
    if len(places) > MOST:
        sampled = np.isin(places, _sample(images.take(places), places, seed))
        note = f"a stratified sample of {int(sampled.sum())} of {len(places)} images"
        places, of = places[sampled], of[sampled]
    if len(places) < 3:
        return pd.DataFrame(columns=list(COLUMNS))
    similarity, codes = _similarity(vectors, places), images.codes[places]
    if answers.kind == "votes":
        people: _People = _Votes(answers.values[of])
    else:
        people = _Raters(answers.values[:, of][:, :, of])
    return _of_pairs(similarity, codes, people, draw, draws, splits, note)


def _sample(images: EvaluationSet, places: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    at = images.sample_at(MOST, seed)
    return places if at is None else places[at]


def _similarity(vectors: Vectors, at: NDArray[np.int64]) -> Floats:
    """Less the measure's own distance (n, n)."""
    z, b = vectors.rows(at)
    wide = z.astype(np.float64)
    return -np.asarray(vectors.own(b[:, None] + b[None, :] - wide @ wide.T))


class _Votes:
    """Raters who named classes: two images are as alike as two raters name one class for them."""

    def __init__(self, counts: NDArray[Any]) -> None:
        self.counts = np.rint(counts).astype(np.int64)

    def compare(self, model: Floats, codes: Any, at: Any = None) -> dict[str, float]:
        return agreement(model, _agreeing(self.counts), codes, at)

    def drawn(self, draw: np.random.Generator) -> "_Votes":
        total = self.counts.sum(axis=1)
        return _Votes(draw.multinomial(total, self.counts / total[:, None]))

    def ceilings(
        self, model: Floats, codes: Any, draw: np.random.Generator, splits: int
    ) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
        """Half against half, what that is for all (Spearman and Brown), the model against half."""
        between, against = [], []
        for _ in range(splits):
            half = np.stack([
                draw.multivariate_hypergeometric(row, int(row.sum() // 2)) for row in self.counts
            ])  # fmt: skip
            one, other = _agreeing(half), _agreeing(self.counts - half)
            between.append(agreement(one, other, codes))
            against.append(agreement(model, one, codes))
        low, mine = _means(between), _means(against)
        high = {name: (2 * r / (1 + r)) ** 0.5 if r > 0 else np.nan for name, r in low.items()}
        # What halves tie by chance lowers rho-a, so it is no reliability.
        high["rho_a"] = np.nan
        return low, high, mine


def _agreeing(counts: NDArray[np.int64]) -> Floats:
    total = counts.sum(axis=1, keepdims=True)
    p = counts / np.maximum(total, 1)
    return np.asarray(p @ p.T)


class _Raters:
    """Raters who each gave a dissimilarity of all pairs."""

    def __init__(self, rdms: Floats) -> None:
        self.rdms = (rdms + rdms.transpose(0, 2, 1)) / 2

    def compare(self, model: Floats, codes: Any, at: Any = None) -> dict[str, float]:
        return _means([agreement(model, -rdm, codes, at) for rdm in self.rdms])

    def drawn(self, draw: np.random.Generator) -> "_Raters":
        return _Raters(self.rdms[draw.integers(len(self.rdms), size=len(self.rdms))])

    def ceilings(
        self, model: Floats, codes: Any, draw: np.random.Generator, splits: int
    ) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
        """Each rater against the mean of the others, and against that of all (Nili 2014)."""
        n = len(self.rdms)
        if n < 2:
            return {}, {}, {}
        ranked = np.stack([_ranked(rdm) for rdm in self.rdms])
        total = ranked.sum(axis=0)
        low = [agreement(rank, total - rank, codes) for rank in ranked]
        high = [agreement(rank, total, codes) for rank in ranked]
        return _means(low), _means(high), {}


_People = _Votes | _Raters


def _ranked(rdm: Floats) -> Floats:
    from scipy.stats import rankdata

    out = np.zeros_like(rdm)
    upper = np.triu_indices(len(rdm), 1)
    out[upper] = rankdata(rdm[upper])
    return out + out.T


def _means(each: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each number over those that have it."""
    with np.errstate(invalid="ignore"):
        return {
            name: float(np.mean([one[name] for one in each])) for name in (each[0] if each else ())
        }


def _of_pairs(
    similarity: Floats,
    codes: NDArray[np.int64],
    people: _People,
    draw: np.random.Generator,
    draws: int,
    splits: int,
    note: str,
) -> pd.DataFrame:
    values = people.compare(similarity, codes)
    low, high, half = people.ceilings(similarity, codes, draw, splits) if splits else ({}, {}, {})
    classes = [np.flatnonzero(codes == code) for code in np.unique(codes)]
    replicas = []
    for _ in range(draws):
        at = np.concatenate([draw.choice(each, len(each)) for each in classes])
        replicas.append(people.drawn(draw).compare(similarity, codes, at))
    n = len(codes)
    same = sum(len(each) * (len(each) - 1) // 2 for each in classes)
    pairs = n * (n - 1) // 2
    counted = {
        "same_class": same, "different_class": pairs - same,
        "class_pairs": len(classes) * (len(classes) - 1) // 2,
    }  # fmt: skip
    rows = []
    for name, value in values.items():
        span = correlation_interval(value, np.array([one[name] for one in replicas]))
        ends = (low.get(name, np.nan), high.get(name, np.nan), half.get(name, np.nan))
        rows.append((name, value, *span, *ends, counted.get(name, pairs), note))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def correlation_interval(value: float, replicas: Floats) -> tuple[float, float]:
    """95 % interval of a correlation from its spread over draws, on the scale of Fisher.

    Drawn votes are noisier than votes, so the draws lie lower than the value: only their spread
    is used.
    """
    finite = replicas[np.isfinite(replicas)]
    if not np.isfinite(value) or abs(value) >= 1 or len(finite) < max(20, len(replicas) // 2):
        return float("nan"), float("nan")
    reach = 1.96 * float(np.arctanh(np.clip(finite, -0.9999, 0.9999)).std(ddof=1))
    low, high = np.tanh(np.arctanh(value) + np.array([-reach, reach]))
    return float(low), float(high)


def _of_triplets(
    answers: HumanAnswers,
    vectors: Vectors,
    images: EvaluationSet,
    draw: np.random.Generator,
    draws: int,
) -> pd.DataFrame:
    """Share of triplets in which the measure chooses as people did; ties share the choice."""
    place = {int(row): at for at, row in enumerate(images.rows)}
    at = np.array([[place.get(int(row), -1) for row in three] for three in answers.triplets])
    at = at[(at >= 0).all(axis=1)]
    if len(at) < 3:
        return pd.DataFrame(columns=list(COLUMNS))
    used, where = np.unique(at, return_inverse=True)
    own = where.reshape(-1, 3)
    right = triplet_rights(_distances_of(vectors, used), own, odd=answers.odd)
    low, high, repeated = _repeated(own, answers.odd)
    replicas = np.empty(draws)
    for turn in range(draws):
        m = np.bincount(draw.integers(len(used), size=len(used)), minlength=len(used))
        raters = np.bincount(draw.integers(len(own), size=len(own)), minlength=len(own))
        weight = m[own].prod(axis=1) * raters
        replicas[turn] = (weight @ right) / weight.sum() if weight.sum() else np.nan
    span = _share_span(float(right.mean()), replicas)
    note = "chance is .333" if answers.odd else "chance is .5"
    if repeated:
        note += f"; ceilings from {repeated} triplets that were asked more than once"
    row = ("triplets", float(right.mean()), *span, low, high, np.nan, len(own), note)
    return pd.DataFrame([row], columns=list(COLUMNS))


def _distances_of(vectors: Vectors, used: NDArray[np.int64]) -> Callable[[Any, Any], Floats]:
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


def _repeated(own: NDArray[np.int64], odd: bool) -> tuple[float, float, int]:
    """How often one answer agrees with the most common of the others, and with that of all."""
    question = np.sort(own, axis=1) if odd else np.column_stack([own[:, 0], np.sort(own[:, 1:])])
    answer = own[:, 2]
    _, asked = np.unique(question, axis=0, return_inverse=True)
    low, high, n = 0.0, 0.0, 0
    many = np.flatnonzero(np.bincount(asked.ravel()) > 1)
    for each in many:
        _, counts = np.unique(answer[asked.ravel() == each], return_counts=True)
        for kind, count in enumerate(counts):
            others = counts.copy()
            others[kind] -= 1
            first = others == others.max()
            low += count * (first[kind] / first.sum())
        high += counts.max()
        n += counts.sum()
    return (low / n, high / n, len(many)) if n else (float("nan"), float("nan"), 0)


def _share_span(value: float, replicas: Floats) -> tuple[float, float]:
    finite = replicas[np.isfinite(replicas)]
    if len(finite) < 20 or not 0 < value < 1:
        return float("nan"), float("nan")
    reach = 1.96 * float(finite.std(ddof=1)) / (value * (1 - value))
    ends = 1 / (1 + np.exp(-(np.log(value / (1 - value)) + np.array([-reach, reach]))))
    return float(ends[0]), float(ends[1])
