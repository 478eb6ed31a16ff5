"""How often the 95 % intervals of likeness to people hold the truth, on simulated people.

    python -m benchmarks.human_coverage --sets 200

People and two networks see the same hidden features, each with noise of its own. In half of the
rows both networks are equally noisy, so that the true difference is 0; in the others the second one
is noisier. A set is new images, new raters and new noise of the networks' views of the images. The
truth is the mean of the score over many sets of that size. Printed are the coverage of the interval
of the score (of the second network), that of the paired difference, the standard deviation of the
difference over sets, and the mean half width of its intervals over 1.96 of those.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alike.analysis.blocks import EvaluationSet, Vectors, evaluation_set_of, held_vectors
from alike.analysis.people import HumanAnswers, human_differences

Floats = NDArray[np.float64]
Answered = Callable[[np.random.Generator, Floats], HumanAnswers]
"""What simulated people say of hidden features of images."""
NONE = np.empty((0, 3), np.int64)
DIM = 4
TRUTH = 5
OF_PAIRS = ("all_pairs", "same_class", "different_class", "class_pairs", "rho_a", "pearson")


@dataclass(frozen=True)
class Case:
    """One kind of people.

    Attributes:
        name: printed.
        scores: whose intervals are judged.
        images: of a set, in four classes.
        answers: what people say of hidden features.
    """

    name: str
    scores: tuple[str, ...]
    images: int
    answers: Answered


def votes(raters: int) -> Answered:
    """Each of `raters` names one of four classes for every image."""

    def answered(draw: np.random.Generator, hidden: Floats) -> HumanAnswers:
        p = np.exp(2 * hidden) / np.exp(2 * hidden).sum(axis=1, keepdims=True)
        counts = draw.multinomial(raters, p).astype(np.float64)
        return HumanAnswers("votes", np.arange(len(hidden)), counts, NONE, False, "0", ())

    return answered


def dissimilarities(raters: int) -> Answered:
    """Each of `raters` gives distances of the features as it sees them, some better than others."""

    def answered(draw: np.random.Generator, hidden: Floats) -> HumanAnswers:
        noise = np.exp(draw.normal(-0.3, 0.5, raters))
        seen = hidden + noise[:, None, None] * draw.standard_normal((raters, *hidden.shape))
        rdms = np.linalg.norm(seen[:, :, None] - seen[:, None], axis=3)
        return HumanAnswers("dissimilarities", np.arange(len(hidden)), rdms, NONE, False, "0", ())

    return answered


def triplets(raters: int, each: int, *, named: bool = True) -> Answered:
    """Each of `raters` answers some odd-one-outs, some better than others."""

    def answered(draw: np.random.Generator, hidden: Floats) -> HumanAnswers:
        who = np.repeat(np.arange(raters), each)
        three = np.stack([draw.choice(len(hidden), 3, replace=False) for _ in who])
        a, b, c = three.T
        apart = np.stack(
            [np.linalg.norm(hidden[i] - hidden[j], axis=1) for i, j in ((b, c), (a, c), (a, b))]
        )
        noise = np.exp(draw.normal(-0.3, 0.8, raters))[who]
        odd = (apart + noise * draw.standard_normal(apart.shape)).argmin(axis=0)
        chosen = three[np.arange(len(who))[:, None], (odd[:, None] + np.array([1, 2, 0])) % 3]
        rows, values = np.empty(0, np.int64), np.empty((0, 0))
        of = who if named else np.empty(0, np.int64)
        return HumanAnswers("triplets", rows, values, chosen, True, "0", (), of)

    return answered


CASES = (
    Case("votes, 40 images, 10 raters", OF_PAIRS, 40, votes(10)),
    Case("votes, 100 images, 50 raters", OF_PAIRS, 100, votes(50)),
    Case("dissimilarities, 40 images, 6 raters", OF_PAIRS, 40, dissimilarities(6)),
    Case("triplets, 40 images, 10 raters of 60", ("triplets",), 40, triplets(10, 60)),
    Case("triplets, 60 images, 30 raters of 20", ("triplets",), 60, triplets(30, 20)),
    Case("triplets, 1,000 images, 20 raters of 40", ("triplets",), 1000, triplets(20, 40)),
    Case("triplets, 300 images, 400 answers, no raters", ("triplets",), 300,
         triplets(400, 1, named=False)),
)  # fmt: skip


def one_set(
    case: Case, images: EvaluationSet, noisier: float, draw: np.random.Generator, draws: int
) -> Floats:
    """(scores, 6) value, low, high, difference and its ends of the second network, on a new set."""
    hidden = np.eye(DIM)[images.codes] + 0.8 * draw.standard_normal((len(images), DIM))
    answers = case.answers(draw, hidden)
    networks: list[Vectors] = []
    for noise in (0.5, 0.5 + noisier):
        view = hidden + noise * draw.standard_normal(hidden.shape)
        networks.append(held_vectors(view.astype(np.float32), "euclidean"))
    seed = int(draw.integers(1 << 31))
    _, table = human_differences(answers, networks, images, seed=seed, draws=draws)
    names = ["value", "low", "high", "difference", "difference_low", "difference_high"]
    rows = table.set_index("score").loc[list(case.scores), names]
    return np.asarray(rows, dtype=np.float64)


def coverage(case: Case, noisier: float, sets: int, seed: int = 0) -> Floats:
    """For each score coverage of value and difference, deviation of the difference, width.

    Args:
        case: which people.
        noisier: noise of the second network less that of the first.
        sets: of which intervals are judged; the truth is of `TRUTH` times as many.
        seed: of the sets.
    """
    draw = np.random.default_rng(seed)
    sizes = [case.images // DIM] * DIM
    images = evaluation_set_of(np.arange(sum(sizes)), np.repeat(list("abcd"), sizes).tolist())
    many = np.array([one_set(case, images, noisier, draw, 0) for _ in range(TRUTH * sets)])
    value, difference = many[:, :, 0].mean(axis=0), many[:, :, 3].mean(axis=0)
    judged = np.array([one_set(case, images, noisier, draw, 100) for _ in range(sets)])
    held = [
        ((judged[:, :, at] <= truth) & (truth <= judged[:, :, at + 1])).mean(axis=0)
        for at, truth in ((1, value), (4, difference))
    ]
    deviation = many[:, :, 3].std(axis=0)
    half = np.nanmean(judged[:, :, 5] - judged[:, :, 4], axis=0) / 2
    return np.column_stack([*held, deviation, half / (1.96 * deviation)])


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=200)
    sets = parser.parse_args().sets
    print("| people | score | true difference | value | difference | deviation | width |")
    print("|---|---|---|---|---|---|---|")
    for case in CASES:
        for noisier, truth in ((0.0, "0"), (0.5, "below 0")):
            for score, row in zip(case.scores, coverage(case, noisier, sets), strict=True):
                numbers = f"{row[0]:.3f} | {row[1]:.3f} | {row[2]:.3f} | {row[3]:.2f}"
                print(f"| {case.name} | {score} | {truth} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
