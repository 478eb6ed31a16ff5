"""What intervals cost, and what the line before a long analysis guesses: processor time.

    python -m benchmarks.intervals
    git worktree add /tmp/before fe2e400
    python -m benchmarks.intervals --before /tmp/before

With `--before`, a checkout of 0.1.0, its whole analysis with 200 draws is measured too. One measure
on one thread; the least of some rounds, turn by turn. The sizes are those of the digits of the demo
and of half of PACS, and one with many classes.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from threadpoolctl import threadpool_limits

from alike.analysis.blocks import EvaluationSet, Vectors, evaluation_set_of, held_vectors
from alike.analysis.outlook import Load
from alike.analysis.scores import evaluate_measure

SIZES = {
    "digits": (893, 64, 10),
    "half of PACS": (4995, 512, 7),
    "many classes": (3000, 64, 200),
}
"""Images, length of a vector, classes."""


BEFORE = """
import sys, time
import numpy as np
from threadpoolctl import threadpool_limits
from analysis.bootstrap import Draws
from analysis.judged import judge
from analysis.one_measure import judge_measure
from analysis.vectors import held_vectors

n, dim, classes, rounds = map(int, sys.argv[1:])
draw = np.random.default_rng(0)
images = judge(np.arange(n), [str(at % classes) for at in range(n)])
centres = draw.standard_normal((classes, dim))
x = 0.4 * centres[images.codes] + draw.standard_normal((n, dim))
x /= np.linalg.norm(x, axis=1, keepdims=True)
vectors, taken = held_vectors(x.astype(np.float32), "cosine"), []
with threadpool_limits(1):
    for _ in range(rounds + 1):
        started = time.thread_time()
        judge_measure("m", vectors, Draws(images, 200, 0), lambda _: map)
        taken.append(time.thread_time() - started)
print(min(taken[1:]))
"""
"""The analysis of 0.1.0, whose packages had other names, of the vectors of `synthetic`."""


def seconds_before(checkout: str, size: tuple[int, int, int], rounds: int) -> float:
    """Processor time of the analysis of 0.1.0 with its 200 draws."""
    arguments = [str(one) for one in (*size, rounds)]
    done = subprocess.run(
        [sys.executable, "-c", BEFORE, *arguments], capture_output=True, text=True, check=True,
        cwd=checkout, env={**os.environ, "PYTHONPATH": checkout},
    )  # fmt: skip
    return float(done.stdout)


def synthetic(n: int, dim: int, classes: int) -> tuple[Vectors, EvaluationSet]:
    """Gaussian clusters on the sphere."""
    draw = np.random.default_rng(0)
    images = evaluation_set_of(np.arange(n), [str(at % classes) for at in range(n)])
    centres = draw.standard_normal((classes, dim))
    x = 0.4 * centres[images.codes] + draw.standard_normal((n, dim))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return held_vectors(x.astype(np.float32), "cosine"), images


def seconds(work: Callable[[], object]) -> float:
    """Processor time of this thread."""
    started = time.thread_time()
    work()
    return time.thread_time() - started


def main() -> None:
    """Print one row a size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--before", help="a checkout of 0.1.0, to be measured beside")
    asked = parser.parse_args()
    more = ["0.1.0 with draws, s", "with, to 0.1.0"] if asked.before else []
    heads = ["images", "without, s", "with, s", "ratio", *more, "guess without", "guess with"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    with threadpool_limits(1):
        for name, (n, dim, classes) in SIZES.items():
            vectors, images = synthetic(n, dim, classes)
            times: dict[bool, list[float]] = {False: [], True: []}
            # The first round compiles and loads.
            for _ in range(asked.rounds + 1):
                for intervals, taken in times.items():
                    taken.append(
                        seconds(
                            lambda wanted=intervals, of=(vectors, images): evaluate_measure(
                                "m", *of, lambda _: map, intervals=wanted
                            )
                        )
                    )
            bare, whole = (min(taken[1:]) for taken in times.values())
            size = f"{name}: {n:,} of {dim} numbers, {classes} classes"
            load = Load(n, dim, n)
            guess = [f"{load.seconds(intervals=wanted):.2f}" for wanted in times]
            row = [size, f"{bare:.2f}", f"{whole:.2f}", f"{whole / bare:.2f}"]
            if asked.before:
                before = seconds_before(asked.before, (n, dim, classes), asked.rounds)
                row += [f"{before:.2f}", f"{whole / before:.2f}"]
            row += guess
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
