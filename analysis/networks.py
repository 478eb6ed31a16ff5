"""Network against network on the same images: CKA, RSA, neighbours gained and lost.

None of these knows labels, except that gained and lost neighbours are told apart by them; they say
how alike two representations are, not which one is better.
"""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.analysis.blocks import (
    EvaluationSet,
    Jobs,
    Vectors,
    blocks,
    check_seed,
    here,
    stored_vectors,
)
from alike.analysis.compare import having_values, matched
from alike.analysis.neighbours import nearest
from alike.extract.measures import ready_measure

if TYPE_CHECKING:
    from alike.extract.store import Features

Floats = NDArray[np.float64]
RSA_IMAGES = 2000
NEIGHBOURS = 10
MOMENT_DIM = 4096
"""Numbers a vector up to which CKA takes D x D matrices: three of 128 MiB."""
SIMILARITY = {
    "linear_cka": "1: equal features up to rotation and scale",
    "linear_cka_unbiased": "the same, fair with few images; about 0 if unrelated",
    "rsa": "rank correlation of the distances of all pairs",
    "neighbours_kept": f"of the {NEIGHBOURS} nearest that stay, mean an image",
    "neighbours_gained_right": "new neighbours of the own class, mean an image",
    "neighbours_lost_right": "lost neighbours of the own class, mean an image",
}
"""What `likeness` tells, in words."""


def linear_cka(x: Vectors, y: Vectors) -> tuple[float, float]:
    """Linear CKA of two sets of vectors of the same images, and its unbiased version.

    ||Xc^T Yc||^2 / (||Xc^T Xc|| ||Yc^T Yc||) (Kornblith 2019), from three streamed cross-moment
    matrices or, where vectors are long, from inner products of images. The second number replaces
    the HSIC of each by the unbiased estimate (Song 2012, Nguyen 2021), which matters where there
    are fewer than some ten images a dimension.

    Returns:
        (biased, unbiased); 1 for representations equal up to rotation and scale.
    """
    n = x.n
    sums = [np.zeros(x.dim), np.zeros(y.dim)]
    # Of the Gram matrices K = X X^T and L = Y Y^T: their diagonals' products, and K 1, L 1.
    diagonals = {"xx": 0.0, "yy": 0.0, "xy": 0.0}
    traces = [0.0, 0.0]
    for low, high in blocks(n, max(x.dim, y.dim)):
        a, b = x.block(low, high)[0].astype(np.float64), y.block(low, high)[0].astype(np.float64)
        sums[0] += a.sum(axis=0)
        sums[1] += b.sum(axis=0)
        p, q = np.einsum("nd,nd->n", a, a), np.einsum("nd,nd->n", b, b)
        traces[0] += p.sum()
        traces[1] += q.sum()
        diagonals["xx"] += p @ p
        diagonals["yy"] += q @ q
        diagonals["xy"] += p @ q
    long = max(x.dim, y.dim) > MOMENT_DIM
    squares = _squares_of_images(x, y) if long else _squares_of_moments(x, y)
    row_sums = _row_sums(x, y, sums)
    biased = _biased(squares, row_sums, sums, n)
    hsic = {
        name: _unbiased_hsic(
            squares[name], diagonals[name], traces[i], traces[j],
            row_sums[name], float(sums[i] @ sums[i]), float(sums[j] @ sums[j]), n,
        )
        for name, i, j in (("xx", 0, 0), ("yy", 1, 1), ("xy", 0, 1))
    }  # fmt: skip
    below = hsic["xx"] * hsic["yy"]
    unbiased = hsic["xy"] / below**0.5 if n > 3 and below > 0 else float("nan")
    return biased, float(unbiased)


def _squares_of_moments(x: Vectors, y: Vectors) -> dict[str, float]:
    """||X^T X||^2, ||Y^T Y||^2 and ||X^T Y||^2 from cross-moments: D^2 memory, N D^2 time."""
    dims = {"xx": (x.dim, x.dim), "yy": (y.dim, y.dim), "xy": (x.dim, y.dim)}
    cross = {name: np.zeros(dim) for name, dim in dims.items()}
    for low, high in blocks(x.n, max(x.dim, y.dim)):
        a, b = x.block(low, high)[0].astype(np.float64), y.block(low, high)[0].astype(np.float64)
        cross["xx"] += a.T @ a
        cross["yy"] += b.T @ b
        cross["xy"] += a.T @ b
    return {name: float((moment**2).sum()) for name, moment in cross.items()}


def _squares_of_images(x: Vectors, y: Vectors) -> dict[str, float]:
    """The same from inner products of images, block by block: for long vectors, N^2 D time."""
    squares = {"xx": 0.0, "yy": 0.0, "xy": 0.0}
    cuts = blocks(x.n, max(x.dim, y.dim))
    for i, one in enumerate(cuts):
        left = [vectors.block(*one)[0] for vectors in (x, y)]
        for other in cuts[i:]:
            right = [vectors.block(*other)[0] for vectors in (x, y)]
            k, m = (np.asarray(a @ b.T, np.float64) for a, b in zip(left, right, strict=True))
            twice = 1.0 if one == other else 2.0
            squares["xx"] += twice * float((k * k).sum())
            squares["yy"] += twice * float((m * m).sum())
            squares["xy"] += twice * float((k * m).sum())
    return squares


def _biased(
    squares: dict[str, float], row_sums: dict[str, tuple[float, ...]], sums: list[Floats], n: int
) -> float:
    """CKA from ||Xc^T Yc||^2 = ||X^T Y||^2 - 2 1^T K L 1 / n + |X^T 1|^2 |Y^T 1|^2 / n^2."""
    centred = {
        name: squares[name] - 2.0 * row_sums[name][0] / n
        + float(sums[i] @ sums[i]) * float(sums[j] @ sums[j]) / n**2
        for name, i, j in (("xx", 0, 0), ("yy", 1, 1), ("xy", 0, 1))
    }  # fmt: skip
    below = centred["xx"] * centred["yy"]
    return float(centred["xy"] / below**0.5) if below > 0 else float("nan")


def _row_sums(x: Vectors, y: Vectors, sums: list[Floats]) -> dict[str, tuple[float, ...]]:
    """Sums over images of k l, k p_l, l p_k with k = K 1, l = L 1 and p the diagonals."""
    out = {name: np.zeros(3) for name in ("xx", "yy", "xy")}
    for low, high in blocks(x.n, max(x.dim, y.dim)):
        parts = []
        for vectors, total in ((x, sums[0]), (y, sums[1])):
            z = vectors.block(low, high)[0].astype(np.float64)
            parts.append((z @ total, np.einsum("nd,nd->n", z, z)))
        for name, i, j in (("xx", 0, 0), ("yy", 1, 1), ("xy", 0, 1)):
            (k, p), (m, q) = parts[i], parts[j]
            out[name] += np.array([k @ m, k @ q, m @ p])
    return {name: tuple(map(float, values)) for name, values in out.items()}


def _unbiased_hsic(
    product: float, diagonal: float, trace_k: float, trace_l: float,
    row_sums: tuple[float, ...], sum_k: float, sum_l: float, n: int,
) -> float:  # fmt: skip
    """HSIC_1 of K and L with zeroed diagonals, from sums over the whole matrices."""
    both, k_diagonal, l_diagonal = row_sums
    trace = product - diagonal
    ones = (sum_k - trace_k) * (sum_l - trace_l) / ((n - 1) * (n - 2))
    rows = both - k_diagonal - l_diagonal + diagonal
    return (trace + ones - 2.0 * rows / (n - 2)) / (n * (n - 3))


def rsa(
    x: Vectors, y: Vectors, seed: int = 0, order: NDArray[np.int64] | None = None
) -> tuple[float, int]:
    """Spearman correlation of the distances of all pairs of up to 2,000 images.

    Args:
        x: of one network.
        y: of the same images, by another.
        seed: of the sample.
        order: positions (N,) that the sample is drawn from; None: as they stand.

    Returns:
        (correlation, number of images).
    """
    at = np.arange(x.n)
    if x.n > RSA_IMAGES:
        drawn = np.random.default_rng(seed).choice(x.n, RSA_IMAGES, replace=False)
        at = np.sort(drawn if order is None else order[drawn])
    ranks = [centred_ranks(vectors, at) for vectors in (x, y)]
    below = np.linalg.norm(ranks[0]) * np.linalg.norm(ranks[1])
    return (float(ranks[0] @ ranks[1] / below) if below > 0 else float("nan")), len(at)


def centred_ranks(vectors: Vectors, at: NDArray[np.int64]) -> Floats:
    """Ranks of the distances of all pairs of some images (M (M - 1) / 2,), less their mean.

    Args:
        vectors: of all images.
        at: (M,) positions of those, ascending.
    """
    from scipy.stats import rankdata

    rank = rankdata(vectors.keys_among(at)[np.triu_indices(len(at), 1)])
    return np.asarray(rank - rank.mean())


def neighbour_changes(
    x: Vectors, y: Vectors, images: EvaluationSet, k: int, jobs: Jobs
) -> pd.DataFrame:
    """Per image: how many of its k neighbours by x are kept, lost and gained by y, of which right.

    Returns:
        row, kept, gained, lost, gained_right, lost_right: `right` means of the image's class.
    """
    first = nearest(x, images, k, map_blocks=jobs.stage("a neighbours")).places
    second = nearest(y, images, k, map_blocks=jobs.stage("b neighbours")).places
    gone = ~(first[:, :, None] == second[:, None, :]).any(axis=2)
    new = ~(second[:, :, None] == first[:, None, :]).any(axis=2)
    own = images.codes[:, None]
    return pd.DataFrame({
        "row": images.rows,
        "kept": (~gone).sum(axis=1), "gained": new.sum(axis=1), "lost": gone.sum(axis=1),
        "gained_right": (new & (images.codes[second] == own)).sum(axis=1),
        "lost_right": (gone & (images.codes[first] == own)).sum(axis=1),
    })  # fmt: skip


def network_similarity(
    a: "Features",
    b: "Features",
    *,
    split: str = "held_out",
    measure: str = "gap_cosine",
    k: int = NEIGHBOURS,
    seed: int = 0,
) -> tuple[dict[str, float], pd.DataFrame]:
    """How alike two networks see the same images.

    Args:
        a: first extraction.
        b: second extraction; images are matched by content.
        split: as in `compare`.
        measure: of both, for distances and neighbours; CKA reads its vectors too.
        k: neighbours an image.
        seed: of the sample of images for RSA.

    Returns:
        Numbers (linear_cka, linear_cka_unbiased, rsa, neighbours_kept, neighbours_gained_right,
        neighbours_lost_right; the last three are means an image) and the changes of each image.

    Raises:
        BadInput: as `compare`.
    """
    check_seed(seed)
    sides = having_values(a, b, matched(a, b, split), measure)
    x, y = (
        stored_vectors(features, ready_measure(features, measure), images.rows)
        for features, images in zip((a, b), sides, strict=True)
    )
    changes = neighbour_changes(x, y, sides[0], k, here())
    biased, unbiased = linear_cka(x, y)
    numbers = {
        "linear_cka": biased,
        "linear_cka_unbiased": unbiased,
        "rsa": rsa(x, y, seed, sides[0].by_id)[0],
        "neighbours_kept": float(changes["kept"].mean()),
        "neighbours_gained_right": float(changes["gained_right"].mean()),
        "neighbours_lost_right": float(changes["lost_right"].mean()),
    }
    return numbers, changes
