"""Share of images that the linear probe names right, beside scikit-learn's logistic regression.

    python -m benchmarks.probes

Synthetic images: centres of classes are normal with the standard deviation `--apart`, images
scatter around them by 1 in every channel. Channels are standardised on the train images for both,
and every fifth train image chooses how strongly each is regularised.
"""

import argparse
import time

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from alike.analysis.blocks import evaluation_set_of, held_vectors
from alike.analysis.probes import fit_linear

STRENGTHS = (1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5)


def main() -> None:
    """Print both shares, and the seconds of processor time of both fits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=int, default=20_000)
    parser.add_argument("--others", type=int, default=5_000)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--apart", type=float, default=0.2)
    given = parser.parse_args()
    draw = np.random.default_rng(0)
    centres = given.apart * draw.standard_normal((given.classes, given.channels))
    sets = []
    for n in (given.train, given.others):
        codes = np.sort(draw.integers(given.classes, size=n))
        x = centres[codes] + draw.standard_normal((n, given.channels))
        sets.append((x.astype(np.float32), codes))
    (x, codes), (others, wanted) = sets
    train = evaluation_set_of(np.arange(len(x)), [f"{code:04d}" for code in codes])
    start = time.process_time()
    probe = fit_linear(held_vectors(x, "euclidean"), train, lambda _: map)
    seconds = [time.process_time() - start]
    right = [(probe.codes(others.astype(np.float64)) == wanted).mean()]
    start = time.process_time()
    scaler = StandardScaler().fit(x)
    z, fifth = scaler.transform(x), np.arange(len(x)) % 5 == 0

    def fitted(strength: float, rows: np.ndarray) -> LogisticRegression:
        return LogisticRegression(C=strength, max_iter=1000).fit(z[rows], codes[rows])

    best = max(STRENGTHS, key=lambda one: fitted(one, ~fifth).score(z[fifth], codes[fifth]))
    model = fitted(best, fifth | True)
    seconds.append(time.process_time() - start)
    right.append(model.score(scaler.transform(others), wanted))
    for name, share, time_of in zip(("probe", "scikit-learn"), right, seconds, strict=True):
        print(f"{name}: {share:.4f} right, {time_of:.1f} s")


if __name__ == "__main__":
    main()
