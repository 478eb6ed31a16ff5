"""Exact neighbours of every judged image among all others, and the scores that follow.

Leave-one-out: an image is excluded from its own list by its position, never as "the first hit",
so duplicates count as what they are. Formulas: SCIENCE 2.3; equal to pytorch-metric-learning's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.judged import Judged
from analysis.vectors import SLAB, Vectors

PANEL_BYTES = 64 << 20

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Nearest:
    """What the distances from each image say, images by position.

    Attributes:
        places: (N, k) positions of the nearest others, nearest first.
        keys: (N, k) their keys (see `vectors`).
        r_precision: (N,) share of the R nearest that are of the image's class, R = n_c - 1; NaN in
            a class of one.
        map_at_r: (N,) mean over r <= R of precision at r where the r-th is of the class, over R.
        alien: (N,) position of the nearest image of another class; `alien_key` its key.
        kin: (N,) position of the farthest image of the same class (-1: none); `kin_key` its key.
    """

    places: Places
    keys: Floats
    r_precision: Floats
    map_at_r: Floats
    alien: Places
    alien_key: Floats
    kin: Places
    kin_key: Floats

    def hits(self, judged: Judged) -> NDArray[np.bool_]:
        """Whether each neighbour is of the image's class: (N, k)."""
        return np.asarray(judged.codes[self.places] == judged.codes[:, None], dtype=np.bool_)


def nearest(
    vectors: Vectors, judged: Judged, k: int = 10, *, run: Callable[..., Any] = map
) -> Nearest:
    """Neighbours and R-precision of every image, exactly, O(N^2 D) time and O(N) memory a panel."""
    k = min(k, vectors.n - 1)
    size = max(1, min(1024, PANEL_BYTES // (4 * vectors.n)))
    panels = [(low, min(low + size, vectors.n)) for low in range(0, vectors.n, size)]
    found = list(run(lambda panel: _panel(vectors, judged, k, *panel), panels))
    return Nearest(*(np.concatenate(column) for column in zip(*found, strict=True)))


def _panel(vectors: Vectors, judged: Judged, k: int, low: int, high: int) -> tuple[Any, ...]:
    keys = _keys(vectors, low, high)
    m = high - low
    at = np.arange(m)
    keys[at, at + low] = np.inf
    codes = judged.codes[low:high]
    most = int(max(k, judged.counts[np.unique(codes)].max() - 1, 1))
    order = _smallest(keys, most)
    sorted_keys = np.take_along_axis(keys, order, axis=1)
    hits = judged.codes[order] == codes[:, None]
    rank = np.arange(1, most + 1)
    wanted = judged.counts[codes] - 1
    kept = hits & (rank <= wanted[:, None])
    with np.errstate(invalid="ignore"):
        r_precision = np.where(wanted > 0, kept.sum(axis=1) / wanted, np.nan)
        precision = np.cumsum(hits, axis=1) / rank
        map_at_r = np.where(wanted > 0, (precision * kept).sum(axis=1) / wanted, np.nan)
    same = judged.codes[None, :] == codes[:, None]
    apart = np.where(same, np.inf, keys)
    alien = apart.argmin(axis=1)
    same[at, at + low] = False
    together = np.where(same, keys, -np.inf)
    kin = together.argmax(axis=1)
    kin_key = together[at, kin].astype(np.float64)
    return (
        order[:, :k].astype(np.int64),
        sorted_keys[:, :k].astype(np.float64),
        r_precision,
        map_at_r,
        alien.astype(np.int64),
        apart[at, alien].astype(np.float64),
        np.where(np.isfinite(kin_key), kin, -1).astype(np.int64),
        np.where(np.isfinite(kin_key), kin_key, np.nan),
    )


def _keys(vectors: Vectors, low: int, high: int) -> NDArray[np.float32]:
    z, b = vectors.block(low, high)
    out = np.empty((high - low, vectors.n), dtype=np.float32)
    for start in range(0, vectors.n, SLAB):
        stop = min(start + SLAB, vectors.n)
        z_other, b_other = vectors.block(start, stop)
        np.subtract(
            (b[:, None] + b_other[None, :]).astype(np.float32),
            z @ z_other.T,
            out=out[:, start:stop],
        )
    return out


def _smallest(keys: NDArray[np.float32], most: int) -> Places:
    n = keys.shape[1]
    if most < n:
        part = np.argpartition(keys, most - 1, axis=1)[:, :most]
        part.sort(axis=1)
    else:
        part = np.broadcast_to(np.arange(n), keys.shape)
    order = np.argsort(np.take_along_axis(keys, part, axis=1), axis=1, kind="stable")[:, :most]
    return np.asarray(np.take_along_axis(part, order, axis=1), dtype=np.int64)


def hub_skew(places: Places, n: int) -> float:
    """Skewness of how often an image is among the k nearest of others; 0: no hubs."""
    listed = np.bincount(places.ravel(), minlength=n).astype(np.float64)
    spread = listed.std()
    return float(((listed - listed.mean()) ** 3).mean() / spread**3) if spread > 0 else 0.0


def two_nn(keys: Floats, kept: float = 0.9) -> float:
    """Intrinsic dimension by the ratio of the two nearest distances (Facco 2017).

    -log(1 - F(mu)) = d log mu is fitted through the origin on the smallest 90 % of mu = r2 / r1;
    images with a duplicate (r1 = 0) or with r1 = r2 are left out. NaN where fewer than 10 remain.

    Args:
        keys: (N, k >= 2) keys of the nearest, half the squared distance.
        kept: share of the ratios that is fitted.
    """
    if keys.shape[1] < 2:
        return float("nan")
    first, second = np.maximum(keys[:, 0], 0.0), np.maximum(keys[:, 1], 0.0)
    usable = (first > 0) & (second > first)
    if usable.sum() < 10:
        return float("nan")
    log_mu = np.sort(0.5 * np.log(second[usable] / first[usable]))
    n = int(len(log_mu) * kept)
    grown = -np.log(1.0 - np.arange(n) / len(log_mu))
    return float(log_mu[:n] @ grown / (log_mu[:n] @ log_mu[:n]))
