"""Scores of a measure against people, with ceilings and intervals. Nothing is fitted.

The ceilings say how well people agree with people. The lower one is that of a model which is one
part of them, scored by the rest; the upper one that of a model which knows all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.analysis.blocks import EvaluationSet, Vectors
from alike.analysis.people.answers import HumanAnswers
from alike.analysis.people.correlation import agreement
from alike.analysis.people.triplets import AskedTriplets, repeated

Floats = NDArray[np.float64]
Span = tuple[float, float]
NO_SPAN = (float("nan"), float("nan"))

MOST = 2000
"""Images whose pairs are compared with people; of more a stratified sample is."""
SPLITS = 100
"""Ways to split the raters in halves, of up to `ALL_SPLITS` images; see `splits_of`."""
ALL_SPLITS = 1000
"""Images that are split so often; of more the time of all splits stays about the same."""
DRAWS = 200
"""Draws of the bootstrap."""
ONE_RATER = "one rater: the interval is over images alone, and there are no ceilings"
ONE_VOTE = "one vote an image: the interval is over images alone, and there are no ceilings"
SHARES = (
    "votes are shares, not whole numbers, so how many people voted is not known: the interval is "
    "over images alone, and there are no ceilings"
)
PAIR_SECONDS = 1e-6
"""Of ranking one pair of images by two similarities, on one core; up to 2.5e-6 of `MOST` images."""
COLUMNS = (
    "score", "value", "low", "high", "ceiling_low", "ceiling_high", "against_half", "n", "note",
)  # fmt: skip
DIFFERENCES = (
    "score", "value", "low", "high", "difference", "difference_low", "difference_high", "n", "note",
)  # fmt: skip


def human_scores(
    answers: HumanAnswers,
    vectors: Vectors,
    images: EvaluationSet,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    splits: int | None = None,
) -> pd.DataFrame:
    """How alike people and a measure find the same images.

    Args:
        answers: what people said.
        vectors: of the images.
        images: the evaluation set.
        seed: of what is drawn.
        draws: of the bootstrap over images and raters; 0: no intervals. Intervals of triplets need
            none.
        splits: of the raters of votes in halves; 0: no ceilings; None: `splits_of` the images.

    Returns:
        score (a name of `correlation.KINDS`, or `triplets`), value, low, high, ceiling_low,
        ceiling_high, against_half (the value if half of the votes are used), n (pairs or triplets),
        note. Empty if people said nothing of these images.
    """
    if answers.kind == "triplets":
        asked = AskedTriplets.of(answers, images)
        if asked is None:
            return _none(COLUMNS)
        return _of_triplets(asked, vectors, intervals=draws > 0)
    asked_pairs = _AskedPairs.of(answers, images, seed)
    if asked_pairs is None:
        return _none(COLUMNS)
    splits = splits_of(len(asked_pairs.codes)) if splits is None else splits
    similarity = _similarity(vectors, asked_pairs.places)
    return _of_pairs(similarity, asked_pairs, np.random.default_rng(seed), draws, splits)


def splits_of(images: int) -> int:
    """Ways to split the raters of so many images; beyond `ALL_SPLITS` fewer, by pairs of images.

    Example:
        >>> splits_of(500), splits_of(2000)
        (100, 25)
    """
    return round(SPLITS * min(1.0, (ALL_SPLITS / images) ** 2))


def human_notes(table: pd.DataFrame) -> list[str]:
    """What a table of scores against people says of them, each note once."""
    return [note for note in dict.fromkeys(table["note"].astype(str)) if note]


def human_seconds(images: int, matrices: int) -> float:
    """About how long `human_scores` takes, with intervals and ceilings, on one core.

    Args:
        images: that people said something about.
        matrices: of pairs: one, or one a rater.
    """
    n = min(images, MOST)
    # Votes are split; the ceilings of several raters compare each of them twice.
    ceilings = 3 * splits_of(n) if matrices == 1 else 2
    return (DRAWS + ceilings) * matrices * n * (n - 1) / 2 * PAIR_SECONDS


def _sample(images: EvaluationSet, places: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    at = images.sample_at(MOST, seed)
    return places if at is None else places[at]


def _similarity(vectors: Vectors, at: NDArray[np.int64]) -> Floats:
    """Less the measure's own distance (n, n)."""
    return -np.asarray(vectors.own(vectors.keys_among(at)))


class _Votes:
    """Raters who named classes: two images are as alike as two raters name one class for them.

    Rows that are not whole are shares of votes, of raters whose number is not known: none of them
    are drawn.
    """

    def __init__(self, votes: Floats) -> None:
        self.votes = votes
        self.counted = bool((votes == np.rint(votes)).all())

    @property
    def note(self) -> str:
        """Why there are no ceilings; empty if there are."""
        if not self.counted:
            return SHARES
        single = int((self.votes.sum(axis=1) < 2).sum())
        if single == len(self.votes):
            return ONE_VOTE
        return f"no ceilings: {single} of {len(self.votes)} images have one vote" if single else ""

    def compare(self, model: Floats, codes: Any, at: Any = None) -> dict[str, float]:
        return agreement(model, _agreeing(self.votes), codes, at)

    def drawn(self, draw: np.random.Generator) -> "_Votes":
        if not self.counted:
            return self
        total = self.votes.sum(axis=1)
        drawn = draw.multinomial(total.astype(np.int64), self.votes / total[:, None])
        return _Votes(drawn.astype(np.float64))

    def ceilings(
        self, model: Floats, codes: Any, draw: np.random.Generator, splits: int
    ) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
        """Half against half, what that is for all (Spearman and Brown), the model against half."""
        if self.note:
            return {}, {}, {}
        between, against = [], []
        counts = self.votes.astype(np.int64)
        for _ in range(splits):
            half = np.stack([
                draw.multivariate_hypergeometric(row, int(row.sum() // 2)) for row in counts
            ])  # fmt: skip
            one, other = _agreeing(half), _agreeing(counts - half)
            between.append(agreement(one, other, codes))
            against.append(agreement(model, one, codes))
        low, mine = _means(between), _means(against)
        high = {name: (2 * r / (1 + r)) ** 0.5 if r > 0 else np.nan for name, r in low.items()}
        # What halves tie by chance lowers rho-a, so it is no reliability.
        high["rho_a"] = np.nan
        return low, high, mine


def _agreeing(votes: NDArray[Any]) -> Floats:
    total = votes.sum(axis=1, keepdims=True)
    p = np.divide(votes, total, out=np.zeros(votes.shape), where=total > 0)
    # Agreement that is equal ties, whatever its last bits: ranks would order them.
    return np.asarray(np.round(p @ p.T, 12))


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


@dataclass(frozen=True)
class _AskedPairs:
    """Pairs of images that people said something about.

    Attributes:
        places: of the images in the evaluation set.
        codes: (n,) their classes.
        people: what was said of them.
        note: that they are some of the images, a sample, or of one rater.
    """

    places: NDArray[np.int64]
    codes: NDArray[np.int64]
    people: _People
    note: str

    @staticmethod
    def of(answers: HumanAnswers, images: EvaluationSet, seed: int) -> "_AskedPairs | None":
        """Those of an evaluation set; None of fewer than three images."""
        place = np.argsort(images.rows, kind="stable")
        at = np.searchsorted(images.rows, answers.rows, sorter=place)
        at = place[np.minimum(at, len(images) - 1)]
        here = images.rows[at] == answers.rows
        order = np.argsort(at[here])
        places, of = at[here][order], np.flatnonzero(here)[order]
        votes = answers.kind == "votes"
        notes = [] if votes or len(answers.values) > 1 else [ONE_RATER]
        if len(places) < len(images):
            notes.append(f"people saw {len(places)} of the {len(images)} images")
        if len(places) > MOST:
            sampled = np.isin(places, _sample(images.take(places), places, seed))
            notes.append(f"a stratified sample of {int(sampled.sum())} of {len(places)} images")
            places, of = places[sampled], of[sampled]
        if len(places) < 3:
            return None
        people: _People = (
            _Votes(answers.values[of]) if votes else _Raters(answers.values[:, of][:, :, of])
        )
        notes += [people.note] if isinstance(people, _Votes) and people.note else []
        return _AskedPairs(places, images.codes[places], people, "; ".join(notes))

    def replicas(
        self, similarities: Sequence[Floats], draw: np.random.Generator, draws: int
    ) -> list[list[dict[str, float]]]:
        """Scores of every similarity, for each draw of images within classes and of raters."""
        classes = [np.flatnonzero(self.codes == code) for code in np.unique(self.codes)]
        every = []
        for _ in range(draws):
            at = np.concatenate([draw.choice(each, len(each)) for each in classes])
            people = self.people.drawn(draw)
            every.append([people.compare(one, self.codes, at) for one in similarities])
        return every

    def counted(self, name: str) -> int:
        """Pairs that a score is over."""
        n, sizes = len(self.codes), np.unique(self.codes, return_counts=True)[1]
        pairs, same = n * (n - 1) // 2, int((sizes * (sizes - 1) // 2).sum())
        of_classes = len(sizes) * (len(sizes) - 1) // 2
        counts = {"same_class": same, "different_class": pairs - same, "class_pairs": of_classes}
        return counts.get(name, pairs)


def _of_pairs(
    similarity: Floats, asked: _AskedPairs, draw: np.random.Generator, draws: int, splits: int
) -> pd.DataFrame:
    people, codes = asked.people, asked.codes
    values = people.compare(similarity, codes)
    note = asked.note
    if not np.isfinite(values["all_pairs"]):
        one = "people, or the measure, gave all pairs of images one similarity: no correlation"
        note = "; ".join([*filter(None, [note]), one])
    low, high, half = people.ceilings(similarity, codes, draw, splits) if splits else ({}, {}, {})
    if isinstance(people, _Votes) and low and splits < SPLITS:
        note = "; ".join([*filter(None, [note]), f"ceilings from {splits} splits of the raters"])
    replicas = [one for (one,) in asked.replicas([similarity], draw, draws)]
    rows = []
    for name, value in values.items():
        span = correlation_interval(value, np.array([one[name] for one in replicas]))
        ends = (low.get(name, np.nan), high.get(name, np.nan), half.get(name, np.nan))
        rows.append((name, value, *span, *ends, asked.counted(name), note))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def correlation_interval(value: float, replicas: Floats) -> Span:
    """95 % interval of a correlation from its spread over draws, on the scale of Fisher.

    Drawn votes are noisier than votes, so the draws lie lower than the value: only their spread
    is used.
    """
    finite = replicas[np.isfinite(replicas)]
    if not np.isfinite(value) or abs(value) >= 1 or len(finite) < max(20, len(replicas) // 2):
        return NO_SPAN
    reach = 1.96 * float(np.arctanh(np.clip(finite, -0.9999, 0.9999)).std(ddof=1))
    low, high = np.tanh(np.arctanh(value) + np.array([-reach, reach]))
    return float(low), float(high)


def _of_triplets(asked: AskedTriplets, vectors: Vectors, *, intervals: bool) -> pd.DataFrame:
    """Share of triplets in which the measure chooses as people did."""
    right = asked.rights(vectors)
    value = float(right.mean())
    low, high, repetitions = repeated(asked)
    span = _share_span(value, asked.spread(right), asked.freedom) if intervals else NO_SPAN
    note = asked.note
    if repetitions:
        note += f"; ceilings from {repetitions} triplets that were asked more than once"
    row = ("triplets", value, *span, low, high, np.nan, len(right), note)
    return pd.DataFrame([row], columns=list(COLUMNS))


def _share_span(value: float, spread: float, freedom: int) -> Span:
    """Of a share, on the scale of the logit."""
    from scipy.stats import t

    if not 0 < value < 1 or freedom < 1 or not np.isfinite(spread):
        return NO_SPAN
    reach = float(t.ppf(0.975, freedom)) * spread / (value * (1 - value))
    ends = 1 / (1 + np.exp(-(np.log(value / (1 - value)) + np.array([-reach, reach]))))
    return float(ends[0]), float(ends[1])


def human_differences(
    answers: HumanAnswers,
    networks: Sequence[Vectors],
    images: EvaluationSet,
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> list[pd.DataFrame]:
    """How alike people and each network find the images, and how that differs from the first.

    The difference is paired: both networks are scored in the same draws of images and raters. Its
    interval is the difference and 1.96 standard deviations of the draws' differences; for triplets
    Student's t of `shared_spread`. `benchmarks/human_coverage.py` measures how often it holds.

    Args:
        answers: what people said.
        networks: vectors of each network, of the same images in the same order.
        images: the evaluation set; its rows are those of `answers`.
        seed: of what is drawn.
        draws: of the bootstrap.

    Returns:
        For each network score, value, low, high, difference (to the first network),
        difference_low, difference_high, n, note; NaN for differences of the first. Empty if people
        said nothing of these images.
    """
    if answers.kind == "triplets":
        asked = AskedTriplets.of(answers, images)
        return [_none(DIFFERENCES)] * len(networks) if asked is None else _triplets(asked, networks)
    asked_pairs = _AskedPairs.of(answers, images, seed)
    if asked_pairs is None:
        return [_none(DIFFERENCES)] * len(networks)
    similarities = [_similarity(vectors, asked_pairs.places) for vectors in networks]
    values = [
        asked_pairs.people.compare(similarity, asked_pairs.codes) for similarity in similarities
    ]
    replicas = asked_pairs.replicas(similarities, np.random.default_rng(seed), draws)
    tables = []
    for place, value in enumerate(values):
        rows = []
        for name in value:
            drawn = np.array([[of[0][name], of[place][name]] for of in replicas]).reshape(-1, 2)
            span = correlation_interval(value[name], drawn[:, 1])
            apart = value[name] - values[0][name] if place else float("nan")
            of_first = _normal_span(apart, drawn[:, 1] - drawn[:, 0])
            counted = asked_pairs.counted(name)
            rows.append((name, value[name], *span, apart, *of_first, counted, asked_pairs.note))
        tables.append(pd.DataFrame(rows, columns=list(DIFFERENCES)))
    return tables


def _triplets(asked: AskedTriplets, networks: Sequence[Vectors]) -> list[pd.DataFrame]:
    from scipy.stats import t

    rights = [asked.rights(vectors) for vectors in networks]
    reach = float(t.ppf(0.975, asked.freedom)) if asked.freedom > 0 else float("nan")
    tables = []
    for place, right in enumerate(rights):
        value, less = float(right.mean()), right - rights[0]
        span = _share_span(value, asked.spread(right), asked.freedom)
        apart, low, high = (float("nan"),) * 3
        if place:
            apart, wide = float(less.mean()), reach * asked.spread(less)
            low, high = apart - wide, apart + wide
        row = ("triplets", value, *span, apart, low, high, len(right), asked.note)
        tables.append(pd.DataFrame([row], columns=list(DIFFERENCES)))
    return tables


def _normal_span(value: float, replicas: Floats) -> Span:
    finite = replicas[np.isfinite(replicas)]
    if not np.isfinite(value) or len(finite) < max(20, len(replicas) // 2):
        return NO_SPAN
    reach = 1.96 * float(finite.std(ddof=1))
    return (value - reach, value + reach) if reach > 0 else NO_SPAN


def _none(columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(columns=list(columns))
