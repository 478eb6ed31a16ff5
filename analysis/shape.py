"""How the classes lie: silhouettes, class overlap, neural collapse, all without pairs.

Two passes: the class moments, then every image against every class mean (N x C products). Formulas:
SCIENCE 2.4 and 2.5. Distances to class means are squared Euclid in the space of the vectors.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from analysis.judged import Judged
from analysis.moments import Moments
from analysis.statistic import Run, Statistic
from analysis.vectors import Vectors, blocks

Floats = NDArray[np.float64]
RANK_CUT = 1e-6


@dataclass(frozen=True)
class Shape:
    """Sums over images that need the class means first; parts add.

    Attributes:
        silhouette: sum over images of the exact silhouette by the key (cosine, or squared Euclid);
            an image alone in its class counts 0, as in scikit-learn.
        simplified: sum of the silhouette by distances to class means.
        scatter: sum of the Euclidean distance to the own mean, per class (C,).
        right: images whose nearest class mean is their own.
        nearest: (n,) nearest class mean of each image, in order.
        residual: sum of (u_k . (z - mean))^2 along the directions of the class means (K',).
    """

    silhouette: float
    simplified: float
    scatter: Floats
    right: int
    nearest: NDArray[np.int64]
    residual: Floats

    def __add__(self, other: "Shape") -> "Shape":
        """Return the sums over both sets; `other` follows."""
        return Shape(
            self.silhouette + other.silhouette,
            self.simplified + other.simplified,
            self.scatter + other.scatter,
            self.right + other.right,
            np.concatenate([self.nearest, other.nearest]),
            self.residual + other.residual,
        )


def class_shape(vectors: Vectors, judged: Judged, moments: Moments, *, run: Run = map) -> Shape:
    """The second pass."""
    directions, _ = mean_directions(moments)
    return Statistic(
        items=blocks(vectors.n, vectors.dim),
        chunk=partial(block_shape, vectors, judged, moments, directions),
        start=list,
        combine=_sum,
        finalize=_only,
    ).compute(run)


def _sum(total: list[Shape], part: Shape) -> list[Shape]:
    return [total[0] + part] if total else [part]


def _only(total: list[Shape]) -> Shape:
    return total[0]


def mean_directions(moments: Moments) -> tuple[Floats, Floats]:
    """Left singular vectors and values of the class means less their mean: (D, K'), (K',)."""
    means = moments.means[moments.n > 0]
    left, values, _ = np.linalg.svd((means - means.mean(axis=0)).T, full_matrices=False)
    kept = values > RANK_CUT * values.max(initial=0.0)
    return left[:, kept], values[kept]


def block_shape(
    vectors: Vectors,
    judged: Judged,
    moments: Moments,
    directions: Floats,
    block: tuple[int, int],
) -> Shape:
    """The sums of one block of positions."""
    z, b = vectors.block(*block)
    wide, codes = z.astype(np.float64), judged.codes[block[0] : block[1]]
    n = moments.n
    at = np.arange(len(codes))
    filled = n > 0
    means = np.where(filled[:, None], np.nan_to_num(moments.means), 0.0)
    products = wide @ means.T
    # Mean key to each class; the own class without the image itself.
    with np.errstate(invalid="ignore", divide="ignore"):
        key = b[:, None] + (moments.b / n)[None, :] - products
        own = n[codes]
        itself = 2.0 * b - np.einsum("nd,nd->n", wide, wide)
        inner = (key[at, codes] * own - itself) / (own - 1.0)
    silhouette = _silhouette(key, inner, codes, filled, own > 1)
    squared = (
        np.einsum("nd,nd->n", wide, wide)[:, None]
        - 2.0 * products
        + np.einsum("cd,cd->c", means, means)[None, :]
    )
    squared = np.where(filled[None, :], np.maximum(squared, 0.0), np.inf)
    distance = np.sqrt(squared)
    nearest = squared.argmin(axis=1).astype(np.int64)
    simplified = _silhouette(distance, distance[at, codes], codes, filled, own > 0)
    residual = (wide - means[codes]) @ directions
    return Shape(
        float(silhouette.sum()),
        float(simplified.sum()),
        np.bincount(codes, distance[at, codes], len(n)).astype(np.float64),
        int((nearest == codes).sum()),
        nearest,
        (residual**2).sum(axis=0),
    )


def _silhouette(
    to_class: Floats,
    inner: Floats,
    codes: NDArray[np.int64],
    filled: NDArray[np.bool_],
    defined: NDArray[np.bool_],
) -> Floats:
    others = np.where(filled[None, :], to_class, np.inf)
    others[np.arange(len(codes)), codes] = np.inf
    outer = others.min(axis=1)
    inner = np.where(defined, inner, 0.0)
    larger = np.maximum(inner, outer)
    ratio = np.divide(outer - inner, larger, out=np.zeros_like(larger), where=larger > 0)
    return np.where(defined, ratio, 0.0)


def shape_scores(moments: Moments, shape: Shape) -> dict[str, float]:
    """Scores of a measure's own space; what is undefined is NaN."""
    filled = moments.n > 0
    n, means = moments.n[filled], moments.means[filled]
    total, k = n.sum(), len(n)
    overall = (means * n[:, None]).sum(axis=0) / total
    between = float((n * ((means - overall) ** 2).sum(axis=1)).sum())
    within_class = np.maximum(moments.norm2[filled] - n * (means**2).sum(axis=1), 0.0)
    within = float(within_class.sum())
    apart = _squared_distances(means)
    scatter = shape.scatter[filled] / n
    with np.errstate(divide="ignore", invalid="ignore"):
        overlap = (scatter[:, None] + scatter[None, :]) / np.sqrt(apart)
        variance = within_class / n
        cdnv = (variance[:, None] + variance[None, :]) / (2.0 * apart)
    off = ~np.eye(k, dtype=bool)
    overlap[~off] = -np.inf
    return {
        "silhouette": shape.silhouette / total,
        "simplified_silhouette": shape.simplified / total,
        "davies_bouldin": float(np.nan_to_num(overlap.max(axis=1), posinf=np.inf).mean()),
        "calinski_harabasz": _ratio(between * (total - k), within * (k - 1)),
        "fisher": _ratio(between, within),
        "cdnv": float(cdnv[off].mean()),
        "nearest_mean_accuracy": shape.right / total,
    }


def collapse_scores(
    moments: Moments,
    shape: Shape,
    weight: Floats | None,
    predicted: NDArray[np.int64] | None,
) -> dict[str, float]:
    """NC1 to NC4 (Papyan, Han, Donoho 2020) of the vectors that enter the classifier.

    Args:
        moments: of those vectors.
        shape: of those vectors.
        weight: (C, D) classifier rows in the order of the judged classes, or None: no NC3.
        predicted: (N,) class that the network names, in judged order; None: no NC4.
    """
    filled = moments.n > 0
    means = moments.means[filled]
    k = len(means)
    centred = means - means.mean(axis=0)
    _, values = mean_directions(moments)
    sizes = np.linalg.norm(centred, axis=1)
    out = {
        "nc1": float((shape.residual / moments.n.sum() / (values**2 / k)).sum() / k),
        "nc2_norm": _ratio(float(sizes.std(ddof=1)), float(sizes.mean())),
        "nc2_angle": float("nan"),
    }
    if (sizes > 0).all():
        unit = centred / sizes[:, None]
        angles = np.abs(unit @ unit.T + 1.0 / (k - 1))
        out["nc2_angle"] = float(angles[~np.eye(k, dtype=bool)].mean())
    if weight is not None and np.linalg.norm(centred) > 0:
        rows = weight[filled] / np.linalg.norm(weight[filled])
        out["nc3"] = float(((rows - centred / np.linalg.norm(centred)) ** 2).sum())
    if predicted is not None:
        out["nc4"] = float((shape.nearest != predicted).mean())
    return out


def _squared_distances(x: Floats) -> Floats:
    norms = np.einsum("cd,cd->c", x, x)
    squared: Floats = np.maximum(norms[:, None] + norms[None, :] - 2.0 * x @ x.T, 0.0)
    return squared


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else float("nan")
