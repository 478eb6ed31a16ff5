"""How often the 95 % intervals that are printed hold the truth, on made sets.

    python -m benchmarks.coverage --sets 1000 --truths 2000
    python -m benchmarks.coverage --sets 200 --cells 5x10,unequal

    python -m benchmarks.coverage --sets 300 --truths 600 --cells unfitted
    python -m benchmarks.coverage --sets 300 --truths 600 --cells rare --alone
    python -m benchmarks.coverage --sets 400 --truths 800 --cells nc1
    python -m benchmarks.coverage --sets 1000 --cells shares

The sets are Gaussian clusters whose centres stay and whose images are drawn anew, twice: the second
network sees most of what the first does. The truth of a score is its mean over further sets. A
cell's own error with 1,000 sets is .007. The functions are those that `alike analyse` and
`alike compare` call, from vectors to intervals. The cells of `UNFITTED` were never used to choose
a factor of `alike.analysis`: they say whether the factors carry over.
"""

import argparse
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from alike.analysis.blocks import evaluation_set_of, held_vectors
from alike.analysis.compare import (
    copies_of,
    differences_of,
    measured_side,
    nc1_by_group,
    nc1_difference,
    share_difference,
)
from alike.analysis.pairs import right_interval, units_of
from alike.analysis.scores import evaluate_measure
from alike.analysis.scores.network import JACKKNIFED, MOST, collapse_of, left_out_in_turn

Numbers = NDArray[np.float64]

ALONE = (
    "sameness", "sameness_all_pairs", "eer", "tar_at_far_1pct", "worst_class_sameness",
    "balanced_accuracy", "one_nn", "purity_at_10", "recall_at_10", "r_precision", "map_at_r",
)  # fmt: skip
PAIRED = (
    "sameness", "eer", "tar_at_far_1pct", "worst_class_sameness", "one_nn", "purity_at_10",
    "r_precision", "map_at_r",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One kind of set.

    Attributes:
        sizes: images of each class, before copies.
        apart: spread of the centres; that of the images is 1.
        copies: how often each image is there, with `noise`.
        noise: spread of the copies.
        dim: length of a vector.
        signs: whether only the signs of the numbers are kept, so that distances tie.
        freedom: degrees of freedom of Student's t, of which images are drawn; 0: a Gaussian.
    """

    sizes: tuple[int, ...]
    apart: float
    copies: int = 1
    noise: float = 0.0
    dim: int = 16
    signs: bool = False
    freedom: int = 0

    def draw(self, draw: np.random.Generator) -> tuple[Numbers, Numbers, NDArray[np.int64]]:
        """Vectors of both networks and the classes."""
        codes = np.repeat(np.arange(len(self.sizes)), self.sizes)
        centres = np.random.default_rng(1).standard_normal((len(self.sizes), self.dim))
        shape = (2, len(codes), self.dim)
        one, other = (
            draw.standard_t(self.freedom, shape) if self.freedom else draw.standard_normal(shape)
        )
        x = self.apart * centres[codes] + one
        y = 1.1 * self.apart * centres[codes] + 0.8 * one + 0.6 * other
        codes, x, y = (np.repeat(each, self.copies, axis=0) for each in (codes, x, y))
        if self.copies > 1:
            x, y = (each + self.noise * draw.standard_normal(each.shape) for each in (x, y))
        return (np.sign(x), np.sign(y), codes) if self.signs else (x, y, codes)


CELLS = {
    "5x10": Cell((10,) * 5, 0.8),
    "10x30": Cell((30,) * 10, 0.8),
    "25x4": Cell((4,) * 25, 1.0),
    "50x2": Cell((2,) * 50, 1.2),
    "3x5": Cell((5,) * 3, 0.8),
    "unequal": Cell((100, 50, 20, 10, 5, 3), 0.8),
    "3x20 near 1": Cell((20,) * 3, 2.45),
    "5x10 four times": Cell((10,) * 5, 0.8, 4, 0.2),
    "10x8 four times": Cell((8,) * 10, 1.0, 4, 0.2),
    "5x10 of 8 signs": Cell((10,) * 5, 0.8, dim=8, signs=True),
}
UNFITTED = {
    "5x10 of 64": Cell((10,) * 5, 0.4, dim=64),
    "7x12 of 4": Cell((12,) * 7, 1.0, dim=4),
    "7x12": Cell((12,) * 7, 0.6),
    "40x3": Cell((3,) * 40, 1.2),
    "5x10 of t": Cell((10,) * 5, 1.2, freedom=3),
}
RARE = {
    "unequal and rare": Cell((100, 50, 20, 10, 5, 5, 2, 2, 1), 0.8),
    "2 and rare": Cell((40, 15, 1, 1), 0.8),
}
"""Classes too small for a spread of their own beside larger ones."""

COLLAPSE = {
    "5x10 of 8": Cell((10,) * 5, 1.0, dim=8),
    "20x5": Cell((5,) * 20, 1.0),
    "10x30": Cell((30,) * 10, 1.0),
    "10x50 of 64": Cell((50,) * 10, 1.0, dim=64),
    "unequal": Cell((100, 50, 20, 10, 5, 3), 1.0),
    "10x50 of 64, t": Cell((50,) * 10, 1.0, dim=64, freedom=3),
    "25x4": Cell((4,) * 25, 1.0),
    "unequal and rare": Cell((100, 50, 20, 10, 5, 5, 2, 2, 1), 1.0),
    "5x10 four times": Cell((10,) * 5, 1.0, 4, 0.2),
    "10x50, a sample of 200": Cell((50,) * 10, 1.0),
}
"""Sets whose NC1 and NC2 are measured, of vectors as they are: nothing else of them is."""
SAMPLED = {"10x50, a sample of 200": 200}
"""Images that are left out in turn, where a sample is."""


@cache
def _images(sizes: tuple[int, ...]):
    codes = np.repeat(np.arange(len(sizes)), sizes)
    return evaluation_set_of(np.arange(len(codes)), [f"{code:04d}" for code in codes])


def evaluate(
    cell: Cell, seed: int, *, intervals: bool, paired: bool = True
) -> tuple[Numbers, Numbers, Numbers]:
    """Value, low, high (scores, 3): of the first network, of the difference, and of its classes."""
    x, y, _ = cell.draw(np.random.default_rng(seed))
    images = _images(tuple(n * cell.copies for n in cell.sizes))
    vectors = [
        held_vectors(each / np.linalg.norm(each, axis=1, keepdims=True), "cosine")
        for each in (x, y)
    ]
    alone = np.full((len(ALONE), 3), np.nan)
    tables = evaluate_measure(
        "m", vectors[0], images, lambda _: map, seed=seed, intervals=intervals
    )
    rows = tables["scores"].set_index("score")
    alone[:] = rows.loc[list(ALONE), ["value", "low", "high"]].to_numpy()
    columns = ["sameness", "sameness_low", "sameness_high"]
    of_classes = tables["per_class"][columns].to_numpy(np.float64)
    if not paired:
        return alone, np.zeros((0, 3)), of_classes
    sides = [measured_side(each, images) for each in vectors]
    differences = differences_of(*sides, seed=seed)
    apart = [
        (differences[name].b - differences[name].a, *differences[name].span) for name in PAIRED
    ]
    return alone, np.array(apart), of_classes


def evaluate_collapse(cell: Cell, seed: int, *, intervals: bool, most: int = MOST) -> Numbers:
    """Value, low, high (5, 3): NC1, NC2 (norm, angle), NC1 of the second network, its difference.

    Args:
        cell: kind of set.
        seed: of the set.
        intervals: compute them.
        most: images that are left out in turn; of more a sample.
    """
    x, y, _ = cell.draw(np.random.default_rng(seed))
    images = _images(tuple(n * cell.copies for n in cell.sizes))
    vectors = [held_vectors(each.astype(np.float32), "euclidean") for each in (x, y)]
    if not intervals:
        (one, two, three), (other, *_) = (collapse_of(each, images) for each in vectors)
        values = (one, two, three, other, other - one)
        return np.array([(value, np.nan, np.nan) for value in values])
    sides = [measured_side(each, images) for each in vectors] if cell.copies > 1 else []
    units = [copies_of([side]) for side in sides] or [None, None]
    one, other = (
        left_out_in_turn(each, images, seed, unit, most)
        for each, unit in zip(vectors, units, strict=True)
    )
    whole, (value, *_) = (collapse_of(each, images) for each in vectors)
    rows = [
        (value, *one.interval(name, value)[0])
        for name, value in zip(JACKKNIFED, whole, strict=True)
    ]
    rows.append((value, *other.interval("nc1", value)[0]))
    unit = copies_of(sides) if sides else None
    apart = nc1_difference(*(nc1_by_group(each, images, seed, unit) for each in vectors))
    return np.array([*rows, (apart.b - apart.a, *apart.span)])


def print_collapse(sets: int, truths: int, workers: int) -> None:
    """Print coverage of NC1 and NC2 of the cells of `COLLAPSE`."""
    heads = "NC1 | NC2, norm | NC2, angle | NC1 of the other | difference of NC1"
    print(f"| set | {heads} |\n|{'---|' * 6}", flush=True)
    one_thread = {"initializer": threadpool_limits, "initargs": (1,)}
    with threadpool_limits(1), ProcessPoolExecutor(workers, **one_thread) as pool:
        run = pool.map if workers > 1 else map
        for name, cell in COLLAPSE.items():
            of_cell = partial(evaluate_collapse, cell, most=SAMPLED.get(name, MOST))
            of_truth = list(run(partial(of_cell, intervals=False), range(10_000, 10_000 + truths)))
            of_sets = list(run(partial(of_cell, intervals=True), range(sets)))
            truth = np.mean(of_truth, axis=0)[:, 0]
            share, printed = covered(np.array(of_sets), truth)
            cells = (
                f"{s:.3f}" + (f" ({p:.0%} printed)" if p < 1 else "")
                for s, p in zip(share, printed, strict=True)
            )
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


SHARES = (
    (0.002, 0.05, 0.6), (0.01, 0.05, 0.6), (0.05, 0.05, 0.6), (0.002, 0.6, 0.6),
    (0.03, 0.01, 0.95), (0.3, 0.29, 0.97),
)  # fmt: skip
"""Errors of two networks, and how often a picture is as hard for both."""


def evaluate_shares(
    n: int, copies: int, wrong: float, more: float, shared: float, seed: int
) -> Numbers:
    """Value, low, high of the images that are right, and of the difference to a second network.

    Args:
        n: pictures of five classes.
        copies: images of each picture, which are right or wrong together.
        wrong: share that the first network errs on.
        more: share that the second errs on.
        shared: share of the pictures that are as hard for the second.
        seed: of what is drawn.
    """
    draw = np.random.default_rng(seed)
    images, picture = _images((n * copies // 5,) * 5), np.repeat(np.arange(n), copies)
    units = units_of(images, picture)
    hard = draw.random(n)
    other = np.where(draw.random(n) < shared, hard, draw.random(n))
    a, b = ((x >= p).astype(np.float64)[picture] for x, p in ((hard, wrong), (other, more)))
    apart = share_difference(a, b, units)
    return np.array([
        (a.mean(), *right_interval(a, units)), (apart.b - apart.a, *apart.span)
    ])  # fmt: skip


def print_shares(sets: int) -> None:
    """Print coverage, and the mean width, of shares near an end of their range."""
    heads = (
        "pictures | copies | errors | of the other | as hard | share | width | difference | width"
    )
    print(f"| {heads} |\n|{'---|' * 9}", flush=True)
    for n, copies in ((50, 1), (100, 1), (200, 1), (50, 4)):
        for wrong, more, shared in SHARES:
            of_sets = np.array([
                evaluate_shares(n, copies, wrong, more, shared, seed) for seed in range(sets)
            ])  # fmt: skip
            share, _ = covered(of_sets, np.array([1 - wrong, wrong - more]))
            width = (of_sets[:, :, 2] - of_sets[:, :, 1]).mean(axis=0)
            pairs = " | ".join(f"{s:.3f} | {w:.3f}" for s, w in zip(share, width, strict=True))
            print(f"| {n} | {copies} | {wrong} | {more} | {shared} | {pairs} |", flush=True)


def covered(values: Numbers, truth: Numbers) -> tuple[Numbers, Numbers]:
    """Share of the printed intervals that hold the truth (scores,), and share that is printed."""
    printed = np.isfinite(values[:, :, 1])
    low, high = values[:, :, 1] - 1e-9, values[:, :, 2] + 1e-9
    inside = printed & (low <= truth) & (truth <= high)
    with np.errstate(invalid="ignore"):
        return inside.sum(axis=0) / printed.sum(axis=0), printed.mean(axis=0)


def measure(
    cell: Cell, sets: int, truths: int, workers: int = 1, *, paired: bool = True
) -> Iterator[tuple[str, Numbers, Numbers, Numbers]]:
    """Yield kind, truth, coverage and share printed of every score, and of every class."""
    # The sets are small: threads of BLAS would only wait for each other.
    one_thread = {"initializer": threadpool_limits, "initargs": (1,)}
    with threadpool_limits(1), ProcessPoolExecutor(workers, **one_thread) as pool:
        run = pool.map if workers > 1 else map
        of_truth = list(
            run(
                partial(evaluate, cell, intervals=False, paired=paired),
                range(10_000, 10_000 + truths),
            )
        )
        of_sets = list(run(partial(evaluate, cell, intervals=True, paired=paired), range(sets)))
    for at, kind in enumerate(("alone", "difference", "classes")):
        if kind == "difference" and not paired:
            continue
        # A class of one image has no value in any set.
        mean = np.mean if kind == "classes" else np.nanmean
        truth = mean([each[at][:, 0] for each in of_truth], axis=0)
        yield kind, truth, *covered(np.array([each[at] for each in of_sets]), truth)


def by_size(cell: Cell, share: Numbers, printed: Numbers) -> str:
    """Coverage of the sameness of classes, the mean and the lowest of each size."""
    parts = []
    for n in dict.fromkeys(cell.sizes):
        of = [c for c, size in enumerate(cell.sizes) if size == n and printed[c]]
        shown = f"{share[of].mean():.3f} (lowest {share[of].min():.3f})" if of else "none printed"
        parts.append(f"{n}: {shown}")
    return "; ".join(parts)


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--truths", type=int, default=2000)
    parser.add_argument(
        "--cells", default=",".join(CELLS), help="names, `unfitted`, `rare`, `nc1` or `shares`"
    )
    parser.add_argument("--alone", action="store_true", help="leave the differences out")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if options.cells == "shares":
        print_shares(options.sets)
        return
    if options.cells == "nc1":
        print_collapse(options.sets, options.truths, options.workers)
        return
    for kind, names in (("alone", ALONE), ("difference", PAIRED)):
        print(f"| {kind} | {' | '.join(names)} |\n|---{'|---' * len(names)}|", flush=True)
    cells, groups = {**CELLS, **UNFITTED, **RARE}, {"unfitted": UNFITTED, "rare": RARE}
    for name in groups.get(options.cells, options.cells.split(",")):
        started = time.monotonic()
        for kind, _, share, line in measure(
            cells[name], options.sets, options.truths, options.workers,
            paired=not options.alone,
        ):  # fmt: skip
            if kind == "classes":
                print(f"| {name}, images of a class | {by_size(cells[name], share, line)} |")
                continue
            row = [
                f"{s:.3f}" + (f" ({p:.0%} printed)" if p < 1 else "") if p else "none printed"
                for s, p in zip(share, line, strict=True)
            ]
            print(f"| {name}, {kind} | {' | '.join(row)} |", flush=True)
        print(f"<!-- {name}: {time.monotonic() - started:.0f} s -->", flush=True)


if __name__ == "__main__":
    main()
