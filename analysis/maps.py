"""Two-dimensional maps of the features: PCA from the moment matrix, t-SNE by openTSNE.

Both are seeded and stored, so that a report, a page and an export show the same map. A map is for
the eyes: no score is ever computed on one (SCIENCE 5).
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from extract.errors import BadInput
from extract.measures import embed_rows, ready_measure
from extract.progress import Progress, silent

MOST_DIMENSIONS = 4096
BEFORE_TSNE = 50
SAMPLE = 200_000
BLOCK = 8192


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
    if n < 5:
        return start.astype(np.float32), fitted
    perplexity = min(perplexity, (min(n, sample) - 1) / 3)
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


def _model(perplexity: float, start: np.ndarray, seed: int, progress: Progress) -> Any:
    from openTSNE import TSNE

    done = 0

    def told(iteration: int, error: float, embedding: Any) -> None:
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
        callbacks=told,
        callbacks_every_iters=50,
    )


def _threads(n: int) -> int:
    # OpenMP's threads wait for each other by spinning: on a busy machine two of them took 30 times
    # as long as one for a few hundred points, and gain nothing there on an idle one.
    if n < 4000:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else -1


@dataclass(frozen=True)
class MapSettings:
    """What a map depends on, besides the features.

    Attributes:
        measure: whose vectors are mapped.
        split: `held_out`, `train` or `all`.
        perplexity: of t-SNE: about how many neighbours count.
        sample: above so many images t-SNE is fitted on a random sample and places the rest.
        seed: of everything random.
    """

    measure: str = "gap_cosine"
    split: str = "held_out"
    perplexity: float = 30.0
    sample: int = SAMPLE
    seed: int = 0


def find_map(
    features: Any, settings: MapSettings = MapSettings(), *, like: pd.DataFrame | None = None
) -> pd.DataFrame | None:
    """The stored map of exactly these features, images and settings; None where there is none."""
    return _stored(features.store, *_asked(features, settings, like))


def make_map(
    features: Any,
    settings: MapSettings = MapSettings(),
    *,
    like: pd.DataFrame | None = None,
    progress: Progress = silent,
) -> pd.DataFrame:
    """The map of a set of images, from the store where nothing changed, else made and stored.

    Args:
        features: the features of one extraction.
        settings: which images and how.
        like: another map of the same images; t-SNE starts from it, so that the two look alike
            where the features are.
        progress: told how far it is.

    Returns:
        row, pca_x, pca_y, tsne_x, tsne_y (float32), fitted (whether t-SNE was fitted on the row);
        its `attrs` hold the settings and the share of variance that PCA shows.

    Raises:
        BadInput: no image in this split, a measure without its array, too many dimensions.
    """
    place, asked = _asked(features, settings, like)
    known = _stored(features.store, place, asked)
    if known is not None:
        return known
    rows = _rows(features, settings.split)
    ready = ready_measure(features, settings.measure)

    def blocks() -> Iterator[np.ndarray]:
        for low in range(0, len(rows), BLOCK):
            yield embed_rows(features, ready, rows[low : low + BLOCK])
            progress("map: PCA", min(low + BLOCK, len(rows)), len(rows))

    found = pca(blocks(), BEFORE_TSNE)
    short = np.concatenate([found.project(block).astype(np.float32) for block in blocks()])
    flat = short[:, :2] if short.shape[1] > 1 else np.column_stack([short, 0 * short])
    places, fitted = tsne(
        short,
        _start(rows, flat, like),
        perplexity=settings.perplexity,
        sample=settings.sample,
        seed=settings.seed,
        progress=progress,
    )
    made = pd.DataFrame(
        {
            "row": rows, "pca_x": flat[:, 0], "pca_y": flat[:, 1],
            "tsne_x": places[:, 0], "tsne_y": places[:, 1], "fitted": fitted,
        }
    )  # fmt: skip
    made.attrs = {**asked, "explained": [round(float(x), 6) for x in found.explained[:2]]}
    features.store.write_table(place, made, made.attrs)
    return made


def _rows(features: Any, split: str) -> np.ndarray:
    table = features.table(None if split == "all" else split)
    if table.empty:
        raise BadInput(f"{features.key} has no image in split {split!r}; choose another split.")
    return np.asarray(table["row"], dtype=np.int64)


def _asked(
    features: Any, settings: MapSettings, like: pd.DataFrame | None
) -> tuple[str, dict[str, Any]]:
    """Where a map is stored, and everything that it depends on."""
    asked = {
        **asdict(settings),
        "digest": features.digest,
        "rows": hash_of(_rows(features, settings.split)),
        "like": None if like is None else hash_of(like.to_numpy(np.float32, copy=True)),
    }
    name = f"{settings.measure}.{settings.split}{'' if like is None else '.like'}"
    return f"maps/{features.key}/{name}.parquet", asked


def _start(rows: np.ndarray, flat: np.ndarray, like: pd.DataFrame | None) -> np.ndarray:
    if like is None:
        return flat
    other = like.set_index("row")[["tsne_x", "tsne_y"]].reindex(rows).to_numpy(float)
    known = np.isfinite(other).all(axis=1)
    if not known.any():
        return flat
    # Rows that the other map lacks begin in its middle.
    start: np.ndarray = np.where(known[:, None], other, other[known].mean(axis=0))
    return start


def _stored(store: Any, place: str, asked: dict[str, Any]) -> pd.DataFrame | None:
    try:
        table, attrs = store.read_table(place)
    except FileNotFoundError:
        return None
    if any(attrs.get(key) != value for key, value in asked.items()):
        return None
    known = pd.DataFrame(table)
    known.attrs = attrs
    return known


def hash_of(values: np.ndarray) -> str:
    """Twelve hexadecimal digits that change with any value."""
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:12]
