"""Exact means and variances of all pair distances from sums over classes: no loop over pairs.

With key(i, j) = b_i + b_j - z_i . z_j (see `vectors`) and per class n, s = sum z, B = sum b,
B2 = sum b^2, v = sum b z, M = sum z z^T, the ordered pairs of classes P and Q have
    sum key   = n_Q B_P + n_P B_Q - s_P . s_Q
    sum key^2 = n_Q B2_P + n_P B2_Q + 2 B_P B_Q + <M_P, M_Q> - 2 v_P . s_Q - 2 s_P . v_Q
from which the pairs of an image with itself are taken away within a class. The vectors are centred
already, sums are float64, and everything adds up over blocks, so any chunking gives the same
numbers.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from alike.analysis.blocks import EvaluationSet, MapBlocks, Statistic, Vectors, blocks, many
from alike.analysis.classes.kernels import add_class_sums, add_scaled_sums

Floats = NDArray[np.float64]
SECOND_BYTES = 512 << 20
ROW_NUMBERS = 1 << 22
"""Numbers, one for each pair of classes, that are held at once."""
BLOCKS = 4
"""Blocks to a task: one takes a third of a millisecond, as long as a scheduler needs for a task."""


@dataclass(frozen=True)
class Moments:
    """Sums over the images of each class; two sets of images add.

    Attributes:
        n: images (C,).
        s: sum of z (C, D).
        b: sum of b (C,).
        b2: sum of b^2 (C,).
        v: sum of b z (C, D); (C, 0) where M is None.
        self1: sum of key(i, i) (C,): 0 but for rounding, zero vectors and inner products.
        self2: sum of key(i, i)^2 (C,).
        norm2: sum of |z|^2 (C,).
        m: sum of z z^T (C, D, D), or None where that is too large: no variances then.
    """

    n: Floats
    s: Floats
    b: Floats
    b2: Floats
    v: Floats
    self1: Floats
    self2: Floats
    norm2: Floats
    m: Floats | None

    @property
    def means(self) -> Floats:
        """Class means of z (C, D); NaN for an empty class."""
        with np.errstate(invalid="ignore"):
            return self.s / self.n[:, None]


def class_moments(
    vectors: Vectors, images: EvaluationSet, *, map_blocks: MapBlocks = map, second: bool = True
) -> Moments:
    """One pass over the vectors; `second`: with M, if it fits in 512 MiB."""
    n_classes, dim = len(images.classes), vectors.dim
    second = second and n_classes * dim * dim * 8 <= SECOND_BYTES and not many(n_classes)
    every = blocks(vectors.n, dim)
    return Statistic(
        items=[every[low : low + BLOCKS] for low in range(0, len(every), BLOCKS)],
        chunk=partial(_block_moments, vectors, images, second),
        start=partial(_none, n_classes, dim, second),
        combine=_add,
    ).compute(map_blocks)


def _none(n_classes: int, dim: int, second: bool) -> Moments:
    """The sums of no images."""
    n, b, b2, self1, self2, norm2 = np.zeros((6, n_classes))
    s, v = np.zeros((n_classes, dim)), np.zeros((n_classes, dim if second else 0))
    m = np.zeros((n_classes, dim, dim)) if second else None
    return Moments(n, s, b, b2, v, self1, self2, norm2, m)


def _add(total: Moments, part: Moments) -> Moments:
    """Add in place: long vectors of many classes take gigabytes."""
    for name in vars(total):
        into = getattr(total, name)
        if into is not None:
            into += getattr(part, name)
    return total


def _block_moments(
    vectors: Vectors, images: EvaluationSet, second: bool, some: list[tuple[int, int]]
) -> Moments:
    """The sums of some blocks of positions."""
    sums = _none(len(images.classes), vectors.dim, second)
    for low, high in some:
        x, centre, b = vectors.uncentred(low, high)
        codes = images.codes[low:high]
        own = np.zeros(high - low)
        add_class_sums(x, centre, codes, sums.s, own)
        self_key = 2.0 * b - own
        if sums.m is not None:
            z = x - centre
            add_scaled_sums(z, b, codes, sums.v)
            for code in np.unique(codes):
                part = z[np.searchsorted(codes, code) : np.searchsorted(codes, code + 1)]
                wide = part.astype(np.float64)
                sums.m[code] += wide.T @ wide
        counted = {
            "n": None, "b": b, "b2": b * b, "self1": self_key, "self2": self_key**2, "norm2": own,
        }  # fmt: skip
        for name, values in counted.items():
            into = getattr(sums, name)
            into += np.bincount(codes, values, len(into))
    return sums


def pair_counts(moments: Moments) -> Floats:
    """Ordered pairs of two different images of each pair of classes (C, C)."""
    return np.outer(moments.n, moments.n) - np.diag(moments.n)


def pair_sums(moments: Moments) -> tuple[Floats, Floats | None]:
    """Sum of key and of key^2 over those ordered pairs, (C, C) each; the second needs M."""
    n, s, b, v = moments.n, moments.s, moments.b, moments.v
    first = np.outer(b, n) + np.outer(n, b) - s @ s.T - np.diag(moments.self1)
    if moments.m is None:
        return first, None
    flat = moments.m.reshape(len(n), -1)
    second = (
        np.outer(moments.b2, n) + np.outer(n, moments.b2) + 2.0 * np.outer(b, b)
        + flat @ flat.T - 2.0 * v @ s.T - 2.0 * s @ v.T - np.diag(moments.self2)
    )  # fmt: skip
    return first, second


def pair_statistics(moments: Moments) -> tuple[Floats, Floats | None]:
    """Mean and variance of key for every pair of classes (C, C); NaN where there is no pair."""
    return _mean_variance(pair_counts(moments), *pair_sums(moments))


def pair_means(moments: Moments, first: NDArray[np.int64], second: NDArray[np.int64]) -> Floats:
    """Mean of key over the pairs of some classes (P,), of a class with itself too."""
    n, b = moments.n, moments.b
    products = np.empty(len(first))
    step = max(1, ROW_NUMBERS // max(moments.s.shape[1], 1))
    for low in range(0, len(first), step):
        part = slice(low, low + step)
        products[part] = np.einsum("pd,pd->p", moments.s[first[part]], moments.s[second[part]])
    own = first == second
    sums = b[first] * n[second] + n[first] * b[second] - products - own * moments.self1[first]
    counts = n[first] * (n[second] - own)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(counts > 0, sums / counts, np.nan))


def pooled_statistics(
    moments: Moments,
) -> tuple[tuple[float, float], tuple[float, float]]:
    """(mean, variance) of key over all pairs of one class, and over all others.

    Both means are exact; the variances are NaN without M.
    """
    if moments.m is None:
        return _pooled_means(moments)
    counts, (first, second) = pair_counts(moments), pair_sums(moments)
    own = np.eye(len(counts), dtype=bool)
    out = []
    for kind in (own, ~own):
        n = counts[kind].sum()
        mean = first[kind].sum() / n
        square = second[kind].sum() / n if second is not None else np.nan
        out.append((float(mean), float(max(square - mean * mean, 0.0))))
    return out[0], out[1]


def _pooled_means(moments: Moments) -> tuple[tuple[float, float], tuple[float, float]]:
    """The means alone, without a number for each pair of classes."""
    n, s, b = moments.n, moments.s, moments.b
    own = 2.0 * n * b - np.einsum("cd,cd->c", s, s) - moments.self1
    total, sums = n.sum(), s.sum(axis=0)
    every = 2.0 * total * b.sum() - sums @ sums - moments.self1.sum()
    same = float((n * (n - 1.0)).sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        near = own.sum() / np.float64(same)
        apart = (every - own.sum()) / np.float64(total * (total - 1.0) - same)
    return (float(near), np.nan), (float(apart), np.nan)


def nearest_classes(moments: Moments, most: int) -> NDArray[np.int64]:
    """Pairs of classes (P, 2), a <= b, by mean key: each class with itself and the nearest others.

    Args:
        moments: of all classes; those without images are left out, those of one image with itself.
        most: other classes of each class.
    """
    there = np.flatnonzero(moments.n > 0)
    n, means = moments.n[there], moments.means[there]
    level = moments.b[there] / n
    most = min(most, len(there) - 1)
    found = [np.stack([there[n > 1]] * 2, axis=1)]
    step = max(1, ROW_NUMBERS // len(there))
    for low in range(0, len(there), step):
        own = np.arange(low, min(low + step, len(there)))
        key = level[own][:, None] + level - means[own] @ means.T
        key[np.arange(len(own)), own] = np.inf
        near = np.argpartition(key, most - 1, axis=1)[:, :most] if most else key[:, :0].astype(int)
        pairs = np.stack([np.repeat(there[own], most), there[near.ravel()]], axis=1)
        found.append(np.sort(pairs, axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _mean_variance(
    counts: Floats, first: Floats, second: Floats | None
) -> tuple[Floats, Floats | None]:
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(counts > 0, first / counts, np.nan)
        if second is None:
            return mean, None
        variance = np.where(counts > 0, second / counts - mean * mean, np.nan)
    return mean, np.maximum(variance, 0.0)
