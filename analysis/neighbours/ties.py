"""Scores of neighbour lists as they are on average over the order of equal distances.

If distances tie, which neighbour comes first is an accident of the order of images: features that
are all equal would score the share of the class that is listed first. So each score takes its
expected value if every order of a tie is as likely. In a tie of t images of which h are of the
class, each rank is of the class with chance h / t, and two ranks both are with chance
h (h - 1) / (t (t - 1)).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alike.analysis.blocks import EvaluationSet, Vectors, blocks, compiled

UNSURE = 2.0**-19
"""Share of the larger of squared length and key within which float32 products tell no order."""
TIE = {"euclidean": 1e-12, "cosine": 2.0**-22, "inner": 2.0**-22}
"""The same within which keys that were measured in float64 are equal. Integers are exact; vectors
of length 1 were rounded to float32, by 2^-24 of their length, which moves half the squared distance
of two by up to 2^-22; inner products are not measured again."""
MARGIN = 16
"""Neighbours that are kept beyond those that are scored, to see where a tie at the end ends."""
ROOM = 1 << 24
"""Keys that are held at once for the images whose ties do not fit into their lists."""

Floats = NDArray[np.float64]


class ExpectedScores(NamedTuple):
    """Scores of m images.

    Attributes:
        hits: (m, k) chance that the neighbour of each rank is of the class.
        recall: (m,) chance that one of the k is.
        r_precision: (m,) expected; NaN in a class of one.
        map_at_r: (m,) expected; NaN in a class of one.
    """

    hits: Floats
    recall: Floats
    r_precision: Floats
    map_at_r: Floats


def no_scores(m: int, k: int) -> ExpectedScores:
    """Room for the scores of m images."""
    return ExpectedScores(np.zeros((m, k)), np.zeros(m), np.full(m, np.nan), np.full(m, np.nan))


@compiled
def score_lists(
    keys: Floats,
    same: NDArray[np.bool_],
    wanted: NDArray[np.int64],
    tolerance: Floats,
    slack: Floats,
    hits: Floats,
    recall: Floats,
    r_precision: Floats,
    map_at_r: Floats,
) -> NDArray[np.bool_]:
    """Write the expected scores of lists.

    Args:
        keys: (m, n) ascending.
        same: (m, n) whether each is of the asking image's class.
        wanted: (m,) R of each, the number of others of its class.
        tolerance: (m,) within which keys tie with the first of their tie.
        slack: (m,) by how much the last key must be beyond a tie for the tie to be whole; -inf for
            lists of all other images.
        hits: (m, k) written, as are the next three; see `ExpectedScores`.
        recall: (m,).
        r_precision: (m,).
        map_at_r: (m,).

    Returns:
        (m,) whether the list was long enough; the others are not written.
    """
    m, n = keys.shape
    k = hits.shape[1]
    enough = np.ones(m, dtype=np.bool_)
    for i in range(m):
        r_wanted = wanted[i]
        needed = max(k, r_wanted)
        first, before, total, precision = 0, 0, 0.0, 0.0
        miss = 1.0
        while first < needed and first < n:
            end, own = first, 0
            while end < n and keys[i, end] - keys[i, first] <= tolerance[i]:
                own += 1 if same[i, end] else 0
                end += 1
            if keys[i, n - 1] - keys[i, end - 1] <= slack[i]:
                enough[i] = False
                break
            size = end - first
            chance = own / size
            both = (own - 1) / (size - 1) if size > 1 else 0.0
            for place in range(size):
                rank = first + place
                if rank < k:
                    hits[i, rank] = chance
                    # The chance that this one is none either, given that those before are none.
                    miss *= max(size - place - own, 0) / (size - place)
                if rank < r_wanted:
                    total += chance
                    precision += chance * (before + 1.0 + place * both) / (rank + 1.0)
            before += own
            first = end
        recall[i] = 1.0 - miss
        if r_wanted > 0:
            r_precision[i] = total / r_wanted
            map_at_r[i] = precision / r_wanted
    return enough


def expected_scores(
    vectors: Vectors,
    images: EvaluationSet,
    k: int,
    low: int,
    block: tuple[NDArray[np.float32], Floats],
    lists: tuple[NDArray[np.int64], Floats],
) -> ExpectedScores:
    """The expected scores of the images from position `low` on.

    Args:
        vectors: of all images.
        images: the evaluation set.
        k: neighbours that are listed.
        low: position of the first image that asks.
        block: z and b (m,) of the images that ask.
        lists: positions and keys (m, n) of their nearest, ascending, near ones in float64.
    """
    z, b = block
    places, keys = lists
    m, n = keys.shape
    codes = images.codes[low : low + m]
    n_same = images.counts[codes] - 1
    sizes = np.einsum("nd,nd->n", z, z, dtype=np.float64)
    scale = np.maximum(sizes, keys[np.arange(m), np.minimum(np.maximum(k, n_same), n) - 1])
    tolerance = TIE[vectors.form] * scale
    whole = np.full(m, -np.inf)
    scores = no_scores(m, k)
    slack = whole if n == vectors.n - 1 else UNSURE * scale
    same = images.codes[places] == codes[:, None]
    enough = score_lists(keys, same, n_same, tolerance, slack, *scores)
    unsure = np.flatnonzero(~enough)
    step = max(1, ROOM // vectors.n)
    for start in range(0, len(unsure), step):
        some = unsure[start : start + step]
        places, keys = _all_others(vectors, (z[some], b[some]), low + some)
        same = images.codes[places] == codes[some, None]
        part = no_scores(len(some), k)
        score_lists(keys, same, n_same[some], tolerance[some], whole[some], *part)
        for written, of_some in zip(scores, part, strict=True):
            written[some] = of_some
    return scores


def _all_others(
    vectors: Vectors, block: tuple[NDArray[np.float32], Floats], own: NDArray[np.int64]
) -> tuple[NDArray[np.int64], Floats]:
    """Positions of all other images, and their keys (m, N - 1) in float64, ascending."""
    keys = np.empty((len(own), vectors.n))
    for start, stop in blocks(vectors.n, vectors.dim):
        keys[:, start:stop] = vectors.wide_keys(block, vectors.block(start, stop))
    keys[np.arange(len(own)), own] = np.inf
    order = np.argsort(keys, axis=1, kind="stable")[:, :-1]
    return order, np.take_along_axis(keys, order, axis=1)
