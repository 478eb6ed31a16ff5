"""How the classes lie: silhouettes, class overlap, neural collapse, all without pairs.

Two passes: the class moments, then every image against every class mean (N x C products).
Distances to class means are squared Euclid in the space of the vectors.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from alike.analysis.blocks import EvaluationSet, MapBlocks, Statistic, Vectors, blocks, many
from alike.analysis.classes.moments import ROW_NUMBERS, Moments

Floats = NDArray[np.float64]
RANK_CUT = 1e-6
COINCIDE = 1e-12
"""Distance of two means, as a share of the vectors' root mean square, which is rounding alone."""
CLOSE = 1e-8
"""Share of the squared lengths below which a squared distance is measured from the difference."""
DIFFERENCES = 1 << 22


@dataclass(frozen=True)
class ClassGeometry:
    """Sums over images that need the class means first; parts add.

    Attributes:
        silhouette: sum over images of the exact silhouette by the key (cosine, or squared Euclid);
            an image alone in its class counts 0, as in scikit-learn.
        simplified: sum of the silhouette by distances to class means; the same for an image alone,
            which would be at distance 0 of its own mean.
        scatter: sum of the Euclidean distance to the own mean, per class (C,).
        right: images whose nearest class mean is their own, without those alone in their class.
        nearest: (n,) nearest class mean of each image, in order.
        residual: sum of (u_k . (z - mean))^2 along the directions of the class means (K',).
    """

    silhouette: float
    simplified: float
    scatter: Floats
    right: int
    nearest: NDArray[np.int64]
    residual: Floats

    def __add__(self, other: "ClassGeometry") -> "ClassGeometry":
        """Return the sums over both sets; `other` follows."""
        return ClassGeometry(
            self.silhouette + other.silhouette,
            self.simplified + other.simplified,
            self.scatter + other.scatter,
            self.right + other.right,
            np.concatenate([self.nearest, other.nearest]),
            self.residual + other.residual,
        )


def class_geometry(
    vectors: Vectors, images: EvaluationSet, moments: Moments, *, map_blocks: MapBlocks = map
) -> ClassGeometry:
    """The second pass."""
    directions, _ = mean_directions(moments)
    items = blocks(vectors.n, vectors.dim)
    if many(len(moments.n)):
        step = max(1, ROW_NUMBERS // len(moments.n))
        items = [(at, min(at + step, high)) for low, high in items for at in range(low, high, step)]
    return Statistic(
        items=items,
        chunk=partial(block_geometry, vectors, images, moments, directions),
        start=list,
        combine=_sum,
        finalize=_only,
    ).compute(map_blocks)


def _sum(total: list[ClassGeometry], part: ClassGeometry) -> list[ClassGeometry]:
    return [total[0] + part] if total else [part]


def _only(total: list[ClassGeometry]) -> ClassGeometry:
    return total[0]


def mean_directions(moments: Moments) -> tuple[Floats, Floats]:
    """Left singular vectors and values of the class means less their mean: (D, K'), (K',).

    Of classes of two images or more: one image is no mean. K' is 0 where all means coincide.
    """
    means = moments.means[moments.n > 1]
    if not len(means):
        return np.zeros((means.shape[1], 0)), np.zeros(0)
    left, values, _ = np.linalg.svd((means - means.mean(axis=0)).T, full_matrices=False)
    significant = values > max(RANK_CUT * values.max(initial=0.0), COINCIDE * _size(moments) ** 0.5)
    return left[:, significant], values[significant]


def block_geometry(
    vectors: Vectors,
    images: EvaluationSet,
    moments: Moments,
    directions: Floats,
    block: tuple[int, int],
) -> ClassGeometry:
    """The sums of one block of positions."""
    z, b = vectors.block(*block)
    wide, codes = z.astype(np.float64), images.codes[block[0] : block[1]]
    n = moments.n
    at = np.arange(len(codes))
    nonempty = n > 0
    means = np.where(nonempty[:, None], np.nan_to_num(moments.means), 0.0)
    products = wide @ means.T
    # Mean key to each class; the own class without the image itself.
    with np.errstate(invalid="ignore", divide="ignore"):
        key = b[:, None] + (moments.b / n)[None, :] - products
        own = n[codes]
        itself = 2.0 * b - np.einsum("nd,nd->n", wide, wide)
        inner = (key[at, codes] * own - itself) / (own - 1.0)
    silhouette = _silhouette(key, inner, codes, nonempty, own > 1)
    squares = (
        np.einsum("nd,nd->n", wide, wide)[:, None]
        - 2.0 * products
        + np.einsum("cd,cd->c", means, means)[None, :]
    )
    squares = np.where(nonempty[None, :], np.maximum(squares, 0.0), np.inf)
    distance = np.sqrt(squares)
    nearest = squares.argmin(axis=1).astype(np.int64)
    simplified = _silhouette(distance, distance[at, codes], codes, nonempty, own > 1)
    residual = (wide - means[codes]) @ directions
    return ClassGeometry(
        float(silhouette.sum()),
        float(simplified.sum()),
        np.bincount(codes, distance[at, codes], len(n)).astype(np.float64),
        int(((nearest == codes) & (own > 1)).sum()),
        nearest,
        (residual**2).sum(axis=0),
    )


def _silhouette(
    to_class: Floats,
    inner: Floats,
    codes: NDArray[np.int64],
    nonempty: NDArray[np.bool_],
    defined: NDArray[np.bool_],
) -> Floats:
    others = np.where(nonempty[None, :], to_class, np.inf)
    others[np.arange(len(codes)), codes] = np.inf
    outer = others.min(axis=1)
    inner = np.where(defined, inner, 0.0)
    larger = np.maximum(inner, outer)
    ratio = np.divide(outer - inner, larger, out=np.zeros_like(larger), where=larger > 0)
    return np.where(defined, ratio, 0.0)


def geometry_scores(moments: Moments, geometry: ClassGeometry) -> dict[str, float]:
    """Scores of a measure's own space; what is undefined is NaN (see `shape_notes`)."""
    nonempty, several = moments.n > 0, moments.n > 1
    n, means = moments.n[nonempty], moments.means[nonempty]
    total, k = n.sum(), len(n)
    out = {
        "silhouette": geometry.silhouette / total,
        "simplified_silhouette": geometry.simplified / total,
        "davies_bouldin": float("nan"),
        "calinski_harabasz": float("nan"),
        "fisher": float("nan"),
        "cdnv": float("nan"),
        "nearest_mean_accuracy": float("nan"),
    }
    if do_not_vary(moments):
        return out
    scatter = geometry.scatter[nonempty] / n
    largest = []
    for at, apart in _rows_of_squares(means, _size(moments)):
        # As in scikit-learn, two classes with one mean do not overlap.
        distance = np.where(apart > 0, np.sqrt(apart), np.inf)
        largest.append(((scatter[at, None] + scatter[None, :]) / distance).max(axis=1))
    out["davies_bouldin"] = float(np.concatenate(largest).mean())
    between, within = _between(moments, nonempty), _within(moments, nonempty)
    out["calinski_harabasz"] = _ratio(between * (total - k), within.sum() * (k - 1))
    out["nearest_mean_accuracy"] = _ratio(geometry.right, float(moments.n[several].sum()))
    if several.sum() > 1:
        within = _within(moments, several)
        out["fisher"] = _ratio(_between(moments, several), float(within.sum()))
        variance, total = within / moments.n[several], 0.0
        for at, apart in _rows_of_squares(moments.means[several], _size(moments)):
            with np.errstate(divide="ignore", invalid="ignore"):
                cdnv = (variance[at, None] + variance[None, :]) / (2.0 * apart)
            cdnv[np.arange(len(apart)), np.arange(at.start, at.start + len(apart))] = 0.0
            total += cdnv.sum()
        out["cdnv"] = float(total / (len(variance) * (len(variance) - 1)))
    return out


def geometry_notes(moments: Moments) -> dict[str, str]:
    """What must be known beside `shape_scores` and `collapse_scores`, by the name of the score."""
    left_out = ("fisher", "cdnv", "nearest_mean_accuracy", *COLLAPSE)
    counted_0 = ("silhouette", "simplified_silhouette")
    without_spread = ("davies_bouldin", "calinski_harabasz")
    if do_not_vary(moments):
        return dict.fromkeys(left_out + counted_0 + without_spread, "features do not vary")
    notes_of: dict[str, list[str]] = {name: [] for name in left_out + counted_0 + without_spread}
    nonempty, several = moments.n > 0, moments.n > 1
    alone = int((moments.n == 1).sum())
    if alone:
        for names, how in (
            (left_out, "left out"),
            (counted_0, "count 0, as in scikit-learn"),
            (without_spread, "count as without spread, as in scikit-learn"),
        ):
            for name in names:
                notes_of[name].append(f"{alone} classes of one image {how}")
    for name, of in (("davies_bouldin", nonempty), ("cdnv", several)):
        rows = _rows_of_squares(moments.means[of], _size(moments))
        together = (sum(int((apart == 0).sum()) for _, apart in rows) - int(of.sum())) // 2
        if together:
            how = "left out, as in scikit-learn" if name == "davies_bouldin" else "infinite or NaN"
            notes_of[name].append(f"{together} pairs of classes with one mean {how}")
    if not len(mean_directions(moments)[1]):
        notes_of["nc1"].append("no two class means differ")
    return {name: "; ".join(notes) for name, notes in notes_of.items() if notes}


COLLAPSE = ("nc1", "nc2_norm", "nc2_angle", "nc3", "nc4")


def collapse_scores(
    moments: Moments,
    geometry: ClassGeometry,
    weight: Floats | None,
    predicted: NDArray[np.int64] | None,
) -> dict[str, float]:
    """NC1 to NC4 (Papyan, Han, Donoho 2020) of the vectors that enter the classifier.

    Classes of one image are left out: one image is no mean, and has no spread. What is undefined is
    NaN (see `shape_notes`).

    Args:
        moments: of those vectors.
        geometry: of those vectors.
        weight: (C, D) classifier rows in the order of the evaluated classes, or None: no NC3.
        predicted: (N,) class that the network names, in the order of the images; None: no NC4.
    """
    several = moments.n > 1
    k = int(several.sum())
    absent = {"nc3": weight is None, "nc4": predicted is None}
    out = {name: float("nan") for name in COLLAPSE if not absent.get(name)}
    if k < 2 or do_not_vary(moments):
        return out
    means = moments.means[several]
    deviations = means - means.mean(axis=0)
    _, values = mean_directions(moments)
    sizes = np.linalg.norm(deviations, axis=1)
    if len(values):
        within = geometry.residual / moments.n[several].sum()
        out["nc1"] = float((within / (values**2 / k)).sum() / k)
        out["nc2_norm"] = _ratio(float(sizes.std(ddof=1)), float(sizes.mean()))
    if len(values) and (sizes > 0).all():
        unit = deviations / sizes[:, None]
        total = 0.0
        for at in _row_slices(k):
            angles = np.abs(unit[at] @ unit.T + 1.0 / (k - 1))
            angles[np.arange(len(angles)), np.arange(at.start, at.start + len(angles))] = 0.0
            total += angles.sum()
        out["nc2_angle"] = float(total / (k * (k - 1)))
    if len(values) and weight is not None:
        rows = weight[several] / np.linalg.norm(weight[several])
        out["nc3"] = float(((rows - deviations / np.linalg.norm(deviations)) ** 2).sum())
    if predicted is not None:
        in_several = np.repeat(several, moments.n.astype(np.int64))
        out["nc4"] = float((geometry.nearest != predicted)[in_several].mean())
    return out


def do_not_vary(moments: Moments) -> bool:
    """Whether all vectors are one, up to the rounding of sums."""
    mean = moments.s.sum(axis=0) / moments.n.sum()
    return bool(_size(moments) - mean @ mean <= COINCIDE * _size(moments))


def _size(moments: Moments) -> float:
    """Mean squared length of the vectors."""
    return float(moments.norm2.sum() / moments.n.sum())


def _between(moments: Moments, of: NDArray[np.bool_]) -> float:
    """Scatter of the means of some classes about the mean of their images."""
    n, means = moments.n[of], moments.means[of]
    overall = (means * n[:, None]).sum(axis=0) / n.sum()
    return float((n * ((means - overall) ** 2).sum(axis=1)).sum())


def _within(moments: Moments, of: NDArray[np.bool_]) -> Floats:
    """Scatter of the images of each of some classes about its mean."""
    own = moments.norm2[of] - moments.n[of] * (moments.means[of] ** 2).sum(axis=1)
    scatter: Floats = np.maximum(own, 0.0)
    return scatter


def _row_slices(n: int) -> Iterator[slice]:
    """All rows of a matrix of n columns, a part at a time."""
    step = max(1, ROW_NUMBERS // max(n, 1))
    return (slice(low, low + step) for low in range(0, n, step))


def _rows_of_squares(x: Floats, size: float) -> Iterator[tuple[slice, Floats]]:
    """Squared distances of (C, D) to each other, some rows (r, C) at a time.

    They are exactly 0 where vectors coincide but for rounding.
    """
    norms = np.einsum("cd,cd->c", x, x)
    step = max(1, DIFFERENCES // max(x.shape[1], 1))
    for at in _row_slices(len(x)):
        both = norms[at, None] + norms[None, :]
        squares: Floats = np.maximum(both - 2.0 * x[at] @ x.T, 0.0)
        line, column = np.nonzero(squares <= CLOSE * both)
        for low in range(0, len(line), step):
            one, other = line[low : low + step], column[low : low + step]
            squares[one, other] = ((x[at][one] - x[other]) ** 2).sum(axis=1)
        squares[squares <= COINCIDE**2 * size] = 0.0
        yield at, squares


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else float("nan")
