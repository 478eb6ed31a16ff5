"""Two ways to put vectors on a plane: PCA from the moment matrix, t-SNE by openTSNE."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from alike.extract.errors import BadInput
from alike.extract.machine import usable_cores
from alike.extract.progress import Progress, silent

MOST_DIMENSIONS = 4096
SAMPLE = 200_000
FEWEST = 5
"""Points from which on there is a t-SNE; fewer stay where they start."""


@dataclass(frozen=True)
class Pca:
    """Principal components of vectors.

    Attributes:
        mean: (D,) float64.
        components: (k, D) float64, rows orthonormal; the largest loading of each is positive.
        explained: (k,) share of the total variance.
        n: how many vectors it rests on.
    """

    mean: np.ndarray
    components: np.ndarray
    explained: np.ndarray
    n: int

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """(N, D) to (N, k) float64."""
        projected: np.ndarray = (vectors - self.mean) @ self.components.T
        return projected


def pca(blocks: Iterable[np.ndarray], dims: int) -> Pca:
    """Exact principal components in one pass: count, sum and moment matrix, then `eigh`.

    Memory is O(D²) whatever N is. Sums are float64 and taken about the first block's mean, so that
    a large common offset does not cancel digits.

    Args:
        blocks: vectors (n, D), block by block.
        dims: how many components; fewer come back where D is smaller.

    Raises:
        BadInput: D is above 4,096, where the moment matrix outgrows its use, or nothing is given.
    """
    n, shift, total, moment = 0, None, None, None
    for block in blocks:
        if shift is None or total is None or moment is None:
            width = block.shape[1]
            if width > MOST_DIMENSIONS:
                raise BadInput(
                    f"The vectors have {width} dimensions, a map takes at most {MOST_DIMENSIONS}; "
                    "choose a pooled measure such as gap_cosine."
                )
            shift = block.mean(axis=0, dtype=np.float64)
            total, moment = np.zeros(width), np.zeros((width, width))
        centred = block.astype(np.float64) - shift
        n += len(block)
        total += centred.sum(axis=0)
        moment += centred.T @ centred
    if shift is None or total is None or moment is None:
        raise BadInput("There are no vectors to make a map of.")
    scatter = moment - np.outer(total, total) / n
    values, vectors = np.linalg.eigh(scatter)
    order = np.argsort(values)[::-1][: min(dims, len(values))]
    components = vectors[:, order].T
    largest = np.abs(components).argmax(axis=1)
    components *= np.sign(components[np.arange(len(components)), largest])[:, None]
    whole = max(float(np.trace(scatter)), np.finfo(float).tiny)
    return Pca(shift + total / n, components, np.maximum(values[order], 0) / whole, n)


def tsne(
    vectors: np.ndarray,
    start: np.ndarray,
    *,
    perplexity: float = 30.0,
    sample: int = SAMPLE,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[np.ndarray, np.ndarray]:
    """t-SNE of vectors; above `sample` of them the rest is placed by the map of the sample.

    Args:
        vectors: (N, d); squared Euclidean distance must mean something between them.
        start: (N, 2) where the points begin; only its shape matters, not its scale.
        perplexity: about how many neighbours count; lowered where N is small.
        sample: how many points the map is fitted on at most, drawn at random by `seed`.
        seed: of the draw and of openTSNE.
        progress: told the iterations done.

    Returns:
        places (N, 2) float32 and a mask (N,) of the points that were fitted.
    """
    n = len(vectors)
    fitted = np.ones(n, dtype=bool)
    if n > sample:
        fitted[:] = False
        fitted[np.random.default_rng(seed).choice(n, sample, replace=False)] = True
    if n < FEWEST:
        return start.astype(np.float32), fitted
    perplexity = perplexity_of(n, perplexity, sample)
    model = _model(perplexity, start[fitted], seed, progress)
    embedding = model.fit(np.ascontiguousarray(vectors[fitted]))
    places = np.empty((n, 2), dtype=np.float32)
    places[fitted] = np.asarray(embedding, dtype=np.float32)
    rest = np.flatnonzero(~fitted)
    for low in range(0, len(rest), 20_000):
        part = rest[low : low + 20_000]
        places[part] = np.asarray(embedding.transform(vectors[part]), dtype=np.float32)
        progress("t-SNE, rest", min(low + 20_000, len(rest)), len(rest))
    return places, fitted


def perplexity_of(n: int, perplexity: float, sample: int = SAMPLE) -> float:
    """The perplexity of a map of so many points: a third of the other fitted ones at most.

    Example:
        >>> perplexity_of(40, 30.0)
        13.0
    """
    return min(perplexity, (min(n, sample) - 1) / 3)


def _model(perplexity: float, start: np.ndarray, seed: int, progress: Progress) -> Any:
    from openTSNE import TSNE

    done = 0

    def report(iteration: int, error: float, embedding: Any) -> None:
        nonlocal done
        done = min(done + 50, 750)
        progress("t-SNE", done, 750)

    spread = start.std(axis=0)
    scaled = (start - start.mean(axis=0)) / max(float(spread[0]), 1e-12) * 1e-4
    # Points that start in one place never part: a hair of seeded noise sets duplicates free.
    scaled = scaled + np.random.default_rng(seed).normal(0, 1e-7, scaled.shape)
    return TSNE(
        perplexity=perplexity,
        initialization=scaled,
        random_state=seed,
        n_jobs=_threads(len(start)),
        callbacks=report,
        callbacks_every_iters=50,
    )


def _threads(n: int) -> int:
    # OpenMP's threads wait for each other by spinning: on a busy machine two of them took 30 times
    # as long as one for a few hundred points, and gain nothing there on an idle one.
    if n < 4000:
        return 1
    return usable_cores()
