"""How alike networks see the same images: a matrix of networks, each value beside its null.

None of these knows labels. The null is what the value would be if the images of one network were
permuted: a value means something as far as it is above that. Its mean and deviation are exact for
CKA and RSA, whose values are sums over pairs of images (Mantel 1967), and from 200 permutations
for the others.

CKA and Procrustes are sums over images, so they are of all of them, block by block. Neighbours are
of a sample of very many, RSA of fewer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.analysis.blocks import (
    MEMORY,
    EvaluationSet,
    Jobs,
    Vectors,
    blocks,
    check_seed,
    held_vectors,
    here,
    stored_vectors,
)
from alike.analysis.neighbours import nearest
from alike.analysis.networks import MOMENT_DIM, NEIGHBOURS, RSA_IMAGES, centred_ranks, linear_cka
from alike.analysis.ranking import MOST, common_images
from alike.extract.measures import ready_measure
from alike.extract.progress import Progress, silent

if TYPE_CHECKING:
    from alike.extract.store import Features, StoreBase

Floats = NDArray[np.float64]

PERMUTATIONS = 200
NULL_COST = 5e12
"""Multiplications of the permutations of one pair of networks up to which Procrustes has a null."""
EVERY_COST = 5e13
"""The same of all pairs together, of which each may take `LEAST_COST` in any case."""
LEAST_COST = 2e11
NULL_FLOATS = 1 << 26
"""Numbers of one network up to which its images are permuted: 256 MiB."""
PLACE = "tables/network_pairs.parquet"
METHODS = {
    "linear_cka": "linear CKA, unbiased: 1 for equal features up to rotation and scale",
    "procrustes": "angle after the best rotation, in radians, a metric: 0 for the same",
    "mutual_knn": f"share of the {NEIGHBOURS} nearest that both networks name",
    "rsa": "rank correlation of the distances of all pairs of images",
}
"""The ways to compare two networks, in words."""


@dataclass(frozen=True)
class NetworkView:
    """What one network makes of the images, computed once.

    Attributes:
        vectors: of all images.
        sampled: of those whose neighbours are compared; the same if all are.
        near: (n, k) the nearest others of the latter.
        ranks: (m, m) centred ranks of the distances of up to 2,000 images, 0 on the diagonal.
        mean: (D,) of all vectors.
        norm: of all centred vectors, sqrt of their summed squares.
    """

    vectors: Vectors
    sampled: Vectors
    near: NDArray[np.int64]
    ranks: NDArray[np.float32]
    mean: Floats
    norm: float


@dataclass(frozen=True)
class NetworkPairs:
    """Networks against networks.

    Attributes:
        table: a, b (keys), method, value, null_mean, null_sd, z, note.
        places: network, x, y: classical scaling of the Procrustes angles; empty without them.
        record: measure, split, images (whose neighbours are compared), of (all, which CKA and
            Procrustes are of), rsa_images, seed, left_out, digests, and `shown`, the share of the
            squared distances that the map shows.
    """

    table: pd.DataFrame
    places: pd.DataFrame
    record: dict[str, Any]

    def save(self, store: "StoreBase") -> None:
        """Keep it for the report; the one before is replaced."""
        attrs = {"record": self.record, "places": self.places.to_dict("records")}
        store.write_table(PLACE, self.table, attrs)

    @staticmethod
    def load(store: "StoreBase") -> "NetworkPairs | None":
        """What `save` kept; None if nothing was."""
        try:
            table, attrs = store.read_table(PLACE)
        except FileNotFoundError:
            return None
        return NetworkPairs(table, pd.DataFrame(attrs["places"]), dict(attrs["record"]))


def network_pairs(
    networks: "Sequence[Features]",
    *,
    split: str = "held_out",
    measure: str = "gap_cosine",
    seed: int = 0,
    jobs: Jobs | None = None,
    progress: Progress = silent,
) -> NetworkPairs:
    """Compare every two networks on the images that all of them have.

    Args:
        networks: extractions; those that lack what the measure reads are left out.
        split: which images: `held_out`, `validation`, `train` or `all`.
        measure: a key of `MEASURES`, whose vectors are compared.
        seed: of samples and permutations.
        jobs: where blocks run; None: threads of this process.
        progress: told after every few blocks.

    Raises:
        BadInput: fewer than two networks that can be measured, or no images in common.
    """
    check_seed(seed)
    jobs = jobs or here()
    sets, left_out = common_images(networks, split, measure)
    usable = [one for one in networks if one.key in sets]
    first = sets[usable[0].key]
    at = first.sample_at(MOST, seed)
    images = first if at is None else first.take(at)
    few = np.sort(images.by_id[_some(len(images), seed)])
    memory = 0 if jobs.remote else MEMORY // len(usable)
    views = {}
    for one in usable:
        ready = ready_measure(one, measure)
        vectors = stored_vectors(one, ready, sets[one.key].rows, memory=memory)
        views[one.key] = view_of(vectors, images, few, jobs, progress, one.key, at)
    rows_of = []
    every = list(combinations(views, 2))
    cost = max(LEAST_COST, min(NULL_COST, EVERY_COST / len(every)))
    for done, (a, b) in enumerate(every, start=1):
        rows_of += [(a, b, *row) for row in _compared(views[a], views[b], seed, cost)]
        progress("pairs of networks", done, len(every))
    columns = ["a", "b", "method", "value", "null_mean", "null_sd", "z", "note"]
    table = pd.DataFrame(rows_of, columns=columns)
    places, shown = placed(table, list(views))
    record = {
        "measure": measure, "split": split, "images": len(images), "of": len(first),
        "rsa_images": len(few), "seed": seed, "left_out": left_out, "shown": shown,
        "digests": {one.key: one.digest for one in usable},
    }  # fmt: skip
    return NetworkPairs(table, places, record)


def _some(n: int, seed: int) -> NDArray[np.int64]:
    if n <= RSA_IMAGES:
        return np.arange(n)
    return np.random.default_rng(seed).choice(n, RSA_IMAGES, replace=False)


def view_of(
    vectors: Vectors,
    images: EvaluationSet,
    few: NDArray[np.int64],
    jobs: Jobs,
    progress: Progress = silent,
    name: str = "",
    at: NDArray[np.int64] | None = None,
) -> NetworkView:
    """What the comparisons read of one network.

    Args:
        vectors: of all images.
        images: those whose neighbours are found.
        few: positions in `images`, ascending, of those whose distances are ranked.
        jobs: where blocks run.
        progress: told after every few blocks.
        name: of the network, for progress.
        at: positions of `images` in `vectors`; None: they are all.
    """
    sampled = vectors if at is None else vectors.take(at)
    near = nearest(
        sampled, images, NEIGHBOURS, map_blocks=jobs.stage(f"{name} neighbours".strip(), progress)
    )
    ranks = np.zeros((len(few), len(few)), dtype=np.float32)
    ranks[np.triu_indices(len(few), 1)] = centred_ranks(sampled, few)
    ranks += ranks.T
    total, squares = np.zeros(vectors.dim), 0.0
    for low, high in blocks(vectors.n, vectors.dim):
        part = vectors.block(low, high)[0].astype(np.float64)
        total += part.sum(axis=0)
        squares += float((part * part).sum())
    mean = total / vectors.n
    norm = max(squares - vectors.n * float(mean @ mean), 0.0) ** 0.5
    return NetworkView(vectors, sampled, near.places, ranks, mean, norm)


def _compared(
    x: NetworkView, y: NetworkView, seed: int, cost: float = NULL_COST
) -> list[tuple[str, float, float, float, float, str]]:
    """Method, value, mean and deviation of its null, z, note."""
    rows = [_cka_with_null(x, y)]
    angle, null, note = _procrustes_with_null(x, y, seed, cost)
    rows.append(("procrustes", angle, *null, note))
    rows.append(_mutual_with_null(x, y, seed))
    rows.append(("rsa", *rsa_with_null(x.ranks, y.ranks), ""))
    out = []
    for method, value, mean, sd, why in rows:
        z = (value - mean) / sd if sd > 0 else float("nan")
        if not (np.isfinite(value) or why):
            why = "the features of one of the two do not vary"
        out.append((method, value, mean, sd, z, why))
    return out


def _mutual_with_null(
    x: NetworkView, y: NetworkView, seed: int
) -> tuple[str, float, float, float, str]:
    """NaN and the reason where the nearest are all other images, whatever the networks."""
    n, none = len(x.near), float("nan")
    if n <= NEIGHBOURS + 1:
        why = f"the {NEIGHBOURS} nearest of {n} images are all others: it takes {NEIGHBOURS + 2}"
        return "mutual_knn", none, none, none, why
    drawn = np.array([
        mutual_share(x.near, _renamed(y.near, order)) for order in _orders(n, seed)
    ])  # fmt: skip
    few = "" if x.sampled.n == x.vectors.n else _sample_note(x)
    value = mutual_share(x.near, y.near)
    return "mutual_knn", value, float(drawn.mean()), float(drawn.std(ddof=1)), few


def _orders(n: int, seed: int) -> list[NDArray[np.int64]]:
    draw = np.random.default_rng(seed)
    return [draw.permutation(n) for _ in range(PERMUTATIONS)]


def _sample_note(x: NetworkView) -> str:
    return f"a stratified sample of {x.sampled.n:,} of {x.vectors.n:,} images"


def _cka_with_null(x: NetworkView, y: NetworkView) -> tuple[str, float, float, float, str]:
    """Of all images; of very long vectors, which take N^2 D, of those that have neighbours."""
    sides, note = (x.vectors, y.vectors), ""
    if max(x.vectors.dim, y.vectors.dim) > MOMENT_DIM and x.sampled.n < x.vectors.n:
        sides, note = (x.sampled, y.sampled), _sample_note(x)
    return "linear_cka", linear_cka(*sides)[1], 0.0, cka_null_deviation(sides[0].n), note


def cka_null_deviation(n: int) -> float:
    """Standard deviation of unbiased CKA of permuted images, whose mean is 0: exact.

    U-centred Gram matrices have zero rows sums and zero diagonals, so that of Mantel's variance
    2 / (n (n - 3)) is left, whatever the networks.
    """
    return (2.0 / (n * (n - 3))) ** 0.5 if n > 3 else float("nan")


def rsa_with_null(a: NDArray[np.float32], b: NDArray[np.float32]) -> tuple[float, float, float]:
    """Spearman of two matrices of centred ranks, and mean and deviation under permuted images.

    Exact: with A2 the sum of squares, A3 that of a_ij a_ik over different j and k, and A4 that over
    pairs without an image in common, the variance of sum a_ij b_p(i)p(j) is
    2 A2 B2 / n(2) + 4 A3 B3 / n(3) + A4 B4 / n(4), n(k) = n (n - 1) .. (n - k + 1) (Mantel 1967).
    """
    n = len(a)
    sums = []
    for matrix in (a, b):
        wide = matrix.astype(np.float64)
        second = float((wide * wide).sum())
        third = float((wide.sum(axis=1) ** 2).sum()) - second
        sums.append((second, third, float(wide.sum()) ** 2 - 2 * second - 4 * third))
    (a2, a3, a4), (b2, b3, b4) = sums
    below = (a2 * b2) ** 0.5
    if not below > 0 or n < 4:
        return float("nan"), 0.0, float("nan")
    two, three, four = n * (n - 1), n * (n - 1) * (n - 2), n * (n - 1) * (n - 2) * (n - 3)
    variance = 2 * a2 * b2 / two + 4 * a3 * b3 / three + a4 * b4 / four
    value = float(np.einsum("ij,ij->", a, b, dtype=np.float64)) / below
    return value, 0.0, max(variance, 0.0) ** 0.5 / below


def mutual_share(near: NDArray[np.int64], others: NDArray[np.int64]) -> float:
    """Mean share of the k nearest (N, k) that both lists of an image name."""
    n, k = near.shape
    first, second = (of + n * np.arange(n)[:, None] for of in (near, others))
    return float(len(np.intersect1d(first, second, assume_unique=True)) / (n * k))


def _renamed(near: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """The lists of images that are named anew: image i is what `order[i]` was."""
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return np.asarray(place[near[order]])


def procrustes(x: NetworkView, y: NetworkView, order: NDArray[np.int64] | None = None) -> float:
    """arccos(||Xc^T Yc||_* / (||Xc|| ||Yc||)): 0 to pi/2, a metric up to rotation and scale.

    Args:
        x: of one network.
        y: of another, on the same images.
        order: positions (N,) of the images of y to take in turn; None: as they stand.
    """
    cross = np.zeros((x.vectors.dim, y.vectors.dim))
    if order is not None:
        y_all = y.vectors.block(0, y.vectors.n)[0]
    for low, high in blocks(x.vectors.n, max(x.vectors.dim, y.vectors.dim)):
        a = x.vectors.block(low, high)[0] - x.mean
        own = y.vectors.block(low, high)[0] if order is None else y_all[order[low:high]]
        cross += a.T @ (own - y.mean)
    return _angle(cross, x.norm * y.norm)


def _angle(cross: Floats, norms: float) -> float:
    if not norms > 0:
        return float("nan")
    nuclear = float(np.linalg.svd(cross, compute_uv=False).sum())
    return float(np.arccos(min(nuclear / norms, 1.0)))


def _procrustes_with_null(
    x: NetworkView, y: NetworkView, seed: int, cost: float
) -> tuple[float, tuple[float, float], str]:
    none = float("nan")
    d, e, n = x.vectors.dim, y.vectors.dim, x.vectors.n
    if max(d, e) > MOMENT_DIM:
        return none, (none, none), f"vectors of more than {MOMENT_DIM} numbers"
    value = procrustes(x, y)
    d, e = min(d, n), min(e, n)
    if PERMUTATIONS * (n * d * e + 10 * d * e * min(d, e)) > cost or n * e > NULL_FLOATS:
        return value, (none, none), "no null: permutations would take too long"
    x, y = _narrow(x), _narrow(y)
    drawn = np.array([procrustes(x, y, order) for order in _orders(n, seed)])
    return value, (float(drawn.mean()), float(drawn.std(ddof=1))), ""


def _narrow(x: NetworkView) -> NetworkView:
    """Of fewer images than numbers: the centred vectors in N coordinates, with the same angles."""
    n = x.vectors.n
    if n >= x.vectors.dim:
        return x
    wide = x.vectors.block(0, n)[0] - x.mean
    triangle = np.asarray(np.linalg.qr(wide.T, mode="r"), dtype=np.float32)
    vectors = held_vectors(triangle.T, "euclidean")
    mean = vectors.block(0, n)[0].astype(np.float64).mean(axis=0)
    return replace(x, vectors=vectors, mean=mean)


def placed(table: pd.DataFrame, networks: list[str]) -> tuple[pd.DataFrame, float]:
    """Classical scaling of the Procrustes angles in the plane (Torgerson 1952).

    Returns:
        network, x, y, and the share of the squared distances that the plane shows; an empty table
        if an angle is missing.
    """
    angles = table[table["method"] == "procrustes"]
    square = np.zeros((len(networks), len(networks)))
    at = {key: i for i, key in enumerate(networks)}
    for row in angles.itertuples():
        square[at[row.a], at[row.b]] = square[at[row.b], at[row.a]] = row.value**2
    if not np.isfinite(square).all():
        return pd.DataFrame(columns=["network", "x", "y"]), float("nan")
    off = np.eye(len(networks)) - 1.0 / len(networks)
    values, vectors = np.linalg.eigh(-off @ square @ off / 2)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    two = vectors[:, :2] * np.sqrt(values[:2])
    largest = np.abs(two).argmax(axis=0)
    two = two * np.where(two[largest, np.arange(two.shape[1])] < 0, -1.0, 1.0)
    two = np.pad(two, ((0, 0), (0, 2 - two.shape[1])))
    total = float(values.sum())
    shown = float(values[:2].sum() / total) if total > 0 else 1.0
    return pd.DataFrame({"network": networks, "x": two[:, 0], "y": two[:, 1]}), shown
