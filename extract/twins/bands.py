"""Look-up of near hashes in sets too large to compare every pair.

A hash of 63 bits is cut into four bands of 16 bits (the last of 15). Two hashes that differ in 11
bits or fewer agree in one band up to 2 bits, since four bands with 3 each would make 12
(multi-index hashing: Norouzi, Punjani and Fleet 2012).
"""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

EXACT = 30_000
"""Images up to which every pair of hashes is compared."""
_BAND = 16
_VALUES = 1 << _BAND


def _flips() -> NDArray[np.int64]:
    """All patterns of at most two bits of a band, (137,)."""
    bits = [1 << at for at in range(_BAND)]
    return np.array([0, *bits, *(a | b for a, b in combinations(bits, 2))], dtype=np.int64)


class Bands:
    """The hashes of a set, sorted by each band of each part.

    Args:
        parts: (N, 10), as `links.part_hashes` gives them.
    """

    def __init__(self, parts: NDArray[np.uint64]) -> None:
        self._flips = _flips()
        self._tables = [
            [_table(_bands(parts[:, part])[band]) for band in range(4)]
            for part in range(parts.shape[1])
        ]

    def near(self, second: NDArray[np.uint64], turned: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Places of images that may be near in some part and under some symmetry, ascending.

        Args:
            second: (2, 10) hashes of the parts of an image, as it is and mirrored.
            turned: (8,) hashes of its whole under every symmetry.
        """
        whole = np.concatenate([turned, second[:, 1:].ravel()])
        places = [self._look_up(0, whole)]
        places += [self._look_up(part, turned[: len(second)]) for part in range(1, second.shape[1])]
        return np.unique(np.concatenate(places))

    def _look_up(self, part: int, queries: NDArray[np.uint64]) -> NDArray[np.int64]:
        places = []
        for band, values in enumerate(_bands(queries)):
            order, starts = self._tables[part][band]
            keys = np.unique(values[:, None] ^ self._flips[None, :])
            keys = keys[starts[keys + 1] > starts[keys]]
            counts = starts[keys + 1] - starts[keys]
            ends = np.cumsum(counts)
            at = np.arange(ends[-1] if len(ends) else 0)
            at += np.repeat(starts[keys] - (ends - counts), counts)
            places.append(order[at])
        return np.concatenate(places)


def _bands(hashed: NDArray[np.uint64]) -> list[NDArray[np.int64]]:
    mask = np.uint64(_VALUES - 1)
    return [((hashed >> np.uint64(_BAND * at)) & mask).astype(np.int64) for at in range(4)]


def _table(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places sorted by value, and where each value begins, (N,) and (65537,)."""
    starts = np.concatenate([[0], np.cumsum(np.bincount(values, minlength=_VALUES))])
    return np.argsort(values, kind="stable"), starts
