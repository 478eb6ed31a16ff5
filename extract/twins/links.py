"""Which images are twins: the same picture re-encoded, resized, turned, cropped or brightened."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alike.extract.twins.bands import EXACT, Bands
from alike.extract.twins.hashes import BOXES, CROPPED, SYMMETRIES, Thumbnails, hashes
from alike.extract.twins.kernels import FLAT, high_pass, twins_of

BITS = 11
"""Bits in which the hashes of two candidates may differ."""
CORRELATION = 0.88
"""Least correlation of the details of two twins, once one is laid over the other."""
CHUNK = 64


@dataclass(frozen=True)
class Links:
    """Pairs of twins.

    Attributes:
        first: (n,) places, each smaller than its `second`.
        second: (n,) places.
        correlation: (n,) of their details, `CORRELATION` to 1.
        symmetry: (n,) place in `NAMES` of how the second lies on the first.
        tried: pairs that were looked at in pixels.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    correlation: NDArray[np.float64]
    symmetry: NDArray[np.int64]
    tried: int = 0


def part_hashes(thumbnails: Thumbnails) -> NDArray[np.uint64]:
    """Give the hashes of the parts `BOXES` of thumbnails (N, 64, 64), (N, 10)."""
    return np.stack([hashes(thumbnails, box) for box in BOXES], axis=1)


def flat(thumbnails: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether each thumbnail (N, 64, 64) has too little detail to confirm a twin by: (N,)."""
    scratch = np.empty(thumbnails.shape[1:], dtype=np.int8)
    states = [high_pass(one, scratch) for one in thumbnails]
    return np.asarray(np.array(states) == FLAT, dtype=np.bool_)


def find_links(
    thumbnails: Thumbnails,
    parts: NDArray[np.uint64],
    new: NDArray[np.int64] | None = None,
    *,
    least: float = CORRELATION,
    threads: int = 1,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Links:
    """Find the twins of new images among all.

    Args:
        thumbnails: (N, 64, 64).
        parts: (N, 10), by `part_hashes`.
        new: places of the images whose twins are wanted; None for all. Pairs of two others are
            known already.
        least: correlation of twins.
        threads: to use.
        progress: told (images done, of).

    Returns:
        The links, sorted. Memory is 4 KiB an image beside the thumbnails. Up to `EXACT` images
        every pair of hashes is compared, above that those that agree in a band.
    """
    n = len(thumbnails)
    queries = np.arange(n) if new is None else np.asarray(new, dtype=np.int64)
    is_new = np.zeros(n, dtype=bool)
    is_new[queries] = True
    details = np.empty_like(thumbnails, dtype=np.int8)
    states = np.zeros(n, dtype=np.int8)
    boxes = np.array(BOXES, dtype=np.float64)
    bands = Bands(parts) if n > EXACT else None
    columns = np.ascontiguousarray(parts.T)
    every, old = np.arange(n), np.flatnonzero(~is_new)

    def of_chunk(places: NDArray[np.int64]) -> tuple[NDArray[np.float64], int]:
        rows, n_tried = [np.empty((0, 4))], 0
        images = thumbnails[places]
        views = np.stack([one(images) for one in SYMMETRIES], axis=1)
        turned = np.stack([hashes(views[:, at]) for at in range(8)], axis=1)
        second = np.stack([part_hashes(views[:, at]) for at in range(CROPPED)], axis=1)
        for at, place in enumerate(places):
            if bands is not None:
                near = bands.near(second[at], turned[at])
                near = near[(near < place) | ~is_new[near]]
            else:
                near = np.concatenate([every[:place][is_new[:place]], old])
            twins, looked = twins_of(
                int(place), near, parts, columns, second[at], turned[at], views[at],
                thumbnails, details, states, boxes, BITS, least,
            )  # fmt: skip
            n_tried += looked
            if len(twins):
                rows.append(np.column_stack([np.full(len(twins), place), twins]))
        return np.concatenate(rows), n_tried

    n_done, tables, n_tried = 0, [np.empty((0, 4))], 0
    chunks = [queries[lo : lo + CHUNK] for lo in range(0, len(queries), CHUNK)]
    with ThreadPoolExecutor(max(threads, 1), "twins") as pool:
        for chunk, (table, looked) in zip(chunks, pool.map(of_chunk, chunks), strict=True):
            tables.append(table)
            n_tried += looked
            n_done += len(chunk)
            progress(n_done, len(queries))
    return _sorted(np.concatenate(tables), n_tried)


def _sorted(table: NDArray[np.float64], tried: int) -> Links:
    pair = np.sort(table[:, :2].astype(np.int64), axis=1)
    order = np.lexsort((pair[:, 1], pair[:, 0]))
    pair, table = pair[order], table[order]
    return Links(pair[:, 0], pair[:, 1], table[:, 2], table[:, 3].astype(np.int64), tried)
