"""How often the interval of a predicted nearest-neighbour accuracy contains the true one.

    python -m benchmarks.sufficiency --sets 200
    python -m benchmarks.sufficiency --sets 200 --case 10,16,.6,150 --least 1

Normal classes: centres are standard normal, images scatter by `spread`. The truth is the mean over
sets of twice and four times the images. With `--least` intervals are computed from this number of
images named wrongly on, where Alike asks for ten.
"""

import argparse

import numpy as np
from scipy.spatial.distance import cdist

from alike.analysis import sufficiency as module
from alike.analysis.blocks import evaluation_set_of
from alike.analysis.sufficiency import LEAST_WRONG, LISTED, sufficiency

CASES = (
    (10, 16, 0.75, 150), (10, 16, 0.9, 150), (10, 16, 1.6, 150), (2, 8, 1.2, 150),
    (5, 3, 0.7, 150), (10, 16, 0.65, 600), (40, 24, 0.9, 600),
)  # fmt: skip


def drawn(case: tuple[int, int, float, int], draw: np.random.Generator, times: int = 1):
    """Vectors and classes of a set of so many times the images."""
    classes, dim, spread, n = case
    centres = np.random.default_rng(7).standard_normal((classes, dim))
    codes = np.arange(n * times) % classes
    return centres[codes] + spread * draw.standard_normal((n * times, dim)), codes


def nearest_of(x: np.ndarray, k: int) -> np.ndarray:
    """Positions (N, k) of the nearest others."""
    distance = cdist(x, x)
    np.fill_diagonal(distance, np.inf)
    near = np.argpartition(distance, k - 1, axis=1)[:, :k]
    order = np.argsort(np.take_along_axis(distance, near, axis=1), axis=1)
    return np.take_along_axis(near, order, axis=1)


def main() -> None:
    """Print one line a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--case", help="classes,dimensions,spread,images; default: seven of them")
    parser.add_argument("--least", type=int, default=LEAST_WRONG)
    given = parser.parse_args()
    sets, cases = given.sets, CASES
    if given.case:
        classes, dim, spread, n = given.case.split(",")
        cases = ((int(classes), int(dim), float(spread), int(n)),)
    module.LEAST_WRONG = given.least
    for case in cases:
        draw = np.random.default_rng(0)
        truth = []
        for times in (2, 4):
            rights = []
            for _ in range(max(4, 20_000 // (case[3] * times))):
                x, codes = drawn(case, draw, times)
                rights.append((codes[nearest_of(x, 1)[:, 0]] == codes).mean())
            truth.append(np.mean(rights))
        inside, wrong, without = [], [], 0
        for seed in range(sets):
            x, codes = drawn(case, draw)
            images = evaluation_set_of(np.arange(len(x)), [f"{code:03d}" for code in codes])
            places = nearest_of(x[images.rows], LISTED)
            same = (images.codes[places] == images.codes[:, None]).astype(float)
            wrong.append((images.codes[places[:, 0]] != images.codes).sum())
            table = sufficiency("m", places, same, images, (0.9, 0.9, 0.9), seed=seed)
            of = table[(table["score"] == "one_nn") & (table["kind"] == "predicted")]
            if of["low"].isna().any():
                without += 1
                continue
            inside.append((of["low"].to_numpy() <= truth) & (truth <= of["high"].to_numpy()))
        errors = ", ".join(f"{1 - value:.3f}" for value in truth)
        covered = ", ".join(f"{value:.3f}" for value in np.mean(inside, axis=0))
        print(
            f"{case}: errors {errors}; covered {covered}; without {without}; "
            f"{np.mean(wrong):.1f} images named wrongly",
            flush=True,
        )


if __name__ == "__main__":
    main()
