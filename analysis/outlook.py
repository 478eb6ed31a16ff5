"""One line before a long analysis: images, pairs, about how long, and what the budget changes.

The time is a guess from a count of a million random pairs on this machine, which takes
milliseconds.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from alike.analysis.blocks import (
    Jobs,
    Product,
    best_product,
    evaluation_set_of,
    held_vectors,
    one_thread_each,
)
from alike.analysis.neighbours import one_pass_pays
from alike.analysis.pairs import INFLUENCE_ROWS, TILE, count_slab, measured_bins, plan_layers

LONG = 30.0
"""Seconds from which on an analysis is announced."""
LONGEST = 8192
"""Numbers of a vector from which on a product takes nearly all of the time."""
PASSES, ONE_PASS = 2.7, 1.7
"""Work of counting, neighbours, moments and folds, in units of counting all pairs; and where
neighbours are found in the pass that counts."""
INFLUENCE = 1.5
"""Work of the influences, in the same units. Both measured, see `docs/measured/analysis.md`."""
SECONDS_AN_IMAGE = 2e-4
"""Of lists, tables and scores of an image: 80 to 400 microseconds, more in large classes."""


@dataclass(frozen=True)
class Load:
    """The pairs of one measure.

    Attributes:
        n: images that are evaluated.
        dim: length of a vector.
        of: images before a sample was drawn of them; `n` where none was.
        sides: networks whose pairs are looked up at once.
        largest: images of the largest class of all; 0: not known, or blocks run elsewhere.
    """

    n: int
    dim: int
    of: int
    sides: int = 1
    largest: int = 0

    @property
    def pairs(self) -> int:
        """Pairs of images.

        Examples:
            >>> Load(1000, 512, 1000).pairs
            499500
        """
        return self.n * (self.n - 1) // 2

    @property
    def multiplications(self) -> float:
        """Of the pairs of all images, in the units of `--budget`."""
        return self.of**2 * self.dim / 2

    def within(self, budget: float) -> "Load":
        """The same with as many images as this budget allows, 1,000 at least."""
        return replace(self, n=min(self.of, most_images(budget, self.dim)))

    def seconds(self, *, intervals: bool) -> float:
        """About how long one thread takes."""
        longest = self.largest * self.n // max(self.of, 1)
        pays = bool(longest) and one_pass_pays(self.n, self.dim, longest)
        passes = ONE_PASS if pays else PASSES
        passes += INFLUENCE * min(1.0, 2 * INFLUENCE_ROWS / self.n) * intervals
        of_pairs = self.pairs * seconds_a_pair(self.dim, self.pairs) * passes
        return (of_pairs + self.n * SECONDS_AN_IMAGE) * self.sides


def most_images(budget: float, dim: int) -> int:
    """Images of which all pairs take at most so many multiplications, 1,000 at least.

    Examples:
        >>> most_images(1e14, 512)
        625000
    """
    return max(1000, int((2.0 * budget / dim) ** 0.5))


def seconds_a_pair(dim: int, pairs: float = 0.0) -> float:
    """Processor time in seconds of counting one pair of vectors of this length, measured now.

    Of longer ones than `LONGEST` it is in proportion to theirs.

    Args:
        dim: length of a vector.
        pairs: of all images; many are multiplied by the fastest product that the machine has.
    """
    if dim > LONGEST:
        return seconds_a_pair(LONGEST, pairs) * dim / LONGEST
    return _seconds_of_a_tile(dim, best_product(dim, pairs * dim))


@cache
def _seconds_of_a_tile(dim: int, product: Product) -> float:
    draw = np.random.default_rng(0)
    images = evaluation_set_of(np.arange(2 * TILE), ["a"] * TILE + ["b"] * TILE)
    values = draw.standard_normal((2 * TILE, dim), dtype=np.float32)
    vectors = held_vectors(values / np.linalg.norm(values, axis=1, keepdims=True), "cosine")
    bins = measured_bins(vectors, images)
    layers = plan_layers(2, 2 * TILE, bins.n)
    slab, times = ((0, TILE), (TILE, 2 * TILE)), []
    with one_thread_each():
        # The first one compiles what counts.
        for _ in range(4):
            started = time.thread_time()
            count_slab(vectors, images, bins, layers, product, None, slab)
            times.append(time.thread_time() - started)
    return min(times) / TILE**2


def outlook(loads: Sequence[Load], jobs: Jobs, *, intervals: bool, budget: float | None) -> str:
    """What a long analysis will do; empty if it takes less than about `LONG` seconds.

    Args:
        loads: one a measure, the headline first.
        jobs: where blocks run.
        intervals: whether they are asked for.
        budget: of the analysis, see `AnalysisSettings`; None: there is none to change.
    """
    seconds = sum(load.seconds(intervals=intervals) for load in loads) / max(jobs.workers, 1)
    if seconds < LONG:
        return ""
    first = max(loads, key=lambda load: load.n)
    measures = f" for each of {len(loads)} measures" if len(loads) > 1 else ""
    images = f"{first.n:,} images"
    if first.n < first.of:
        images = f"a stratified sample of {first.n:,} of {first.of:,} images"
    sentence = (
        f"{images}, {first.pairs:,} pairs{measures}: about {duration(seconds)}, guessed from a "
        f"trial of milliseconds on this machine"
    )
    if budget is None:
        return sentence
    cut = [load for load in loads if load.n < load.of]
    if cut:
        other = _ceiling(max(load.multiplications for load in cut))
    else:
        other = f"{max(load.multiplications for load in loads) / 10:.1g}"
    changed = [load.within(float(other)) for load in loads]
    took = sum(load.seconds(intervals=intervals) for load in changed) / max(jobs.workers, 1)
    fewest, most = (end(load.n for load in changed) for end in (min, max))
    # A measure of long vectors takes fewer images than one of short ones.
    sample = f"a sample of {most:,}" if fewest == most else f"samples of {fewest:,} to {most:,}"
    takes = "every image" if cut else sample
    return (
        f"{sentence}; a budget of {other} (--budget, in settings [analyse] budget) would take "
        f"{takes}: about {duration(took)}"
    )


def duration(seconds: float) -> str:
    """A time in words, as rough as a guess is.

    Examples:
        >>> duration(0.2), duration(42), duration(400), duration(9000), duration(1e6)
        ('1 s', '40 s', '7 min', '2.5 h', '12 days')
    """
    if seconds < 10:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 100:
        return f"{round(seconds, -1):.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.2g} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


def _ceiling(number: float) -> str:
    """A number in two digits that is not below it."""
    text = f"{number:.1e}"
    return text if float(text) >= number else f"{number * 1.05:.1e}"
