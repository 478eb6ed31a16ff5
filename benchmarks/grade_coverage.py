"""How often the 95 % intervals of grades hold the truth, on made numbers and on real ones.

    python -m benchmarks.grade_coverage --sets 2000
    python -m benchmarks.grade_coverage --sets 2000 --store c.store --images 300

A made population is one from which numbers like those of grades are drawn: probabilities that pile
up at both ends, paired differences most of which are zero, correlations. A real one is the numbers
of Grad-CAM and of energy of the images of a store, which are drawn with replacement. Beside the
coverage of the interval that is printed stand the share of sets for which one is printed, and the
coverage of Student's t of all sets.
"""

import argparse
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t

from alike.analysis.explain import network_for, stored_frames
from alike.analysis.explain.grade import Grading, grades_of_images, mean_interval
from alike.extract.store import Store

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Floats]
SIZES = (4, 8, 16, 32, 64)
MADE: dict[str, Draw] = {
    "normal": lambda draw, n: draw.standard_normal(n),
    "probability, both ends": lambda draw, n: draw.beta(0.3, 0.3, n),
    "probability, near 0": lambda draw, n: draw.beta(0.5, 4.0, n),
    "probability, near 1": lambda draw, n: draw.beta(8.0, 1.0, n),
    "difference, heavy tails": lambda draw, n: draw.laplace(0.02, 0.05, n),
    "difference, 70 % zero": lambda draw, n: draw.exponential(0.1, n) * (draw.random(n) > 0.7),
    "difference, 90 % zero": lambda draw, n: draw.exponential(0.1, n) * (draw.random(n) > 0.9),
    "correlation": lambda draw, n: np.tanh(draw.normal(0.15, 0.3, n)),
}
TRUTH = 4_000_000


def coverage(draw_of: Draw, truth: float, n: int, sets: int, seed: int = 0) -> Floats:
    """Coverage where an interval is printed, share that is printed, coverage of Student's t.

    Args:
        draw_of: (generator, n) to the numbers of n images.
        truth: mean of the population.
        n: images of a set.
        sets: drawn.
        seed: of the sets.
    """
    draw = np.random.default_rng(seed)
    quantile = float(t.ppf(0.975, n - 1)) / n**0.5
    printed, held, plain = 0, 0, 0
    for _ in range(sets):
        values = draw_of(draw, n)
        _, low, high = mean_interval(values)
        printed += bool(np.isfinite(low))
        held += bool(low <= truth <= high)
        plain += bool(abs(values.mean() - truth) <= quantile * values.std(ddof=1))
    return np.array([held / printed if printed else np.nan, printed / sets, plain / sets])


def real(store: str, images: int) -> dict[str, Draw]:
    """The numbers of grades of a store's images as populations."""
    features = Store.open(store).features()
    network = network_for(features)
    rows = features.table()["row"].to_numpy()[:images]
    frames = np.stack(stored_frames(features, rows.tolist())).transpose(0, 3, 1, 2)
    inputs = network.transform.normalise(torch.from_numpy(np.ascontiguousarray(frames)))
    numbers, _ = grades_of_images(
        network.module, inputs, ["gradcam"], grading=Grading(draws=2, batch_size=50)
    )
    populations: dict[str, Draw] = {}
    for name in ("deletion", "insertion_to_energy", "deletion_to_random", "agreement"):
        values = numbers["gradcam"][name]
        kept = values[np.isfinite(values)]
        populations[f"gradcam, {name}"] = lambda draw, n, kept=kept: draw.choice(kept, n)
    return populations


def main() -> None:
    """Print a table: a row a population, a column a size of set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=2000)
    parser.add_argument("--store", default="")
    parser.add_argument("--images", type=int, default=300)
    options = parser.parse_args()
    populations = MADE | (real(options.store, options.images) if options.store else {})
    print("| numbers |" + "".join(f" {n} |" for n in SIZES))
    print("|---|" + "---|" * len(SIZES))
    for name, draw_of in populations.items():
        truth = float(draw_of(np.random.default_rng(1), TRUTH).mean())
        cells = [coverage(draw_of, truth, n, options.sets) for n in SIZES]
        shown = (
            f" {held:.3f} ({share:.0%}; {plain:.3f}) |" if share else f" none ({plain:.3f}) |"
            for held, share, plain in cells
        )  # fmt: skip
        print(f"| {name} |" + "".join(shown), flush=True)


if __name__ == "__main__":
    main()
