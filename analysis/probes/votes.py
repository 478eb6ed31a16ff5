"""A k-nearest-neighbour probe: the k nearest train images vote, by cosine of standardised channels.

Equal distances at the k-th place share the votes that are left, and equal votes share the answer,
so that nothing depends on the order of the images.
"""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alike.analysis.blocks import MapBlocks, Statistic, Vectors, append_part, blocks
from alike.analysis.probes.standard import Standard

Floats = NDArray[np.float64]
TIE = 1e-6
"""Cosine distances that differ by less are equal: the rounding of float32 products."""
MARGIN = 16
"""Train images that are held beyond the k-th, for ties with it."""
PANEL = 512


def vote_rights(
    asking: Vectors,
    true_codes: NDArray[np.int64],
    gallery: Vectors,
    codes: NDArray[np.int64],
    standard: Standard,
    k: int,
    *,
    map_blocks: MapBlocks = map,
) -> Floats:
    """Chance (N,) that the vote of the k nearest names each image right; O(N G D) time.

    Args:
        asking: vectors of the images that ask, less `gallery.centre`.
        true_codes: (N,) code of their class; -1 for a class that the gallery lacks.
        gallery: vectors of the train images.
        codes: (G,) code of their class.
        standard: of the train images.
        k: how many vote.
        map_blocks: how panels of images are mapped.
    """
    k = min(k, gallery.n)
    parts: list[Floats] = Statistic(
        items=[(low, min(low + PANEL, asking.n)) for low in range(0, asking.n, PANEL)],
        chunk=partial(_panel, asking, true_codes, gallery, codes, standard, k),
        start=list,
        combine=append_part,
    ).compute(map_blocks)
    return np.concatenate(parts)


def _panel(
    asking: Vectors,
    true_codes: NDArray[np.int64],
    gallery: Vectors,
    codes: NDArray[np.int64],
    standard: Standard,
    k: int,
    span: tuple[int, int],
) -> Floats:
    x = standard.units(asking.block(*span)[0] + asking.centre - gallery.centre)
    own = true_codes[slice(*span)]
    held = min(k + MARGIN, gallery.n)
    keys: NDArray[Any] = np.full((len(x), 0), np.inf, dtype=np.float32)
    at: NDArray[Any] = np.zeros((len(x), 0), dtype=np.int64)
    for low, high in blocks(gallery.n, gallery.dim):
        far = 1.0 - x @ standard.units(gallery.block(low, high)[0]).T
        keys = np.concatenate([keys, far], axis=1)
        at = np.concatenate([at, np.broadcast_to(np.arange(low, high), far.shape)], axis=1)
        if keys.shape[1] > held:
            first = np.argpartition(keys, held - 1, axis=1)[:, :held]
            keys, at = (np.take_along_axis(of, first, axis=1) for of in (keys, at))
    last = np.partition(keys, k - 1, axis=1)[:, k - 1]
    n_classes = int(codes.max()) + 1
    votes = _votes(keys, codes[at], last, k, n_classes)
    crowded = (keys.max(axis=1) <= last + TIE) & (held < gallery.n)
    if crowded.any():
        far = np.concatenate(
            [
                1.0 - x[crowded] @ standard.units(gallery.block(*part)[0]).T
                for part in blocks(gallery.n, gallery.dim)
            ],
            axis=1,
        )
        every = np.broadcast_to(codes, far.shape)
        votes[crowded] = _votes(far, every, last[crowded], k, n_classes)
    most = votes.max(axis=1, keepdims=True)
    first = votes >= most - 1e-9
    mine = first[np.arange(len(x)), np.maximum(own, 0)] & (own >= 0)
    return np.where(mine, 1.0 / first.sum(axis=1), 0.0)


def _votes(
    keys: NDArray[np.float32], codes: NDArray[np.int64], last: NDArray[np.float32], k: int, n: int
) -> Floats:
    """Votes (m, n) for each class: those at the last place share what is left."""
    nearer = keys < last[:, None] - TIE
    tied = np.abs(keys - last[:, None]) <= TIE
    left = (k - nearer.sum(axis=1)) / np.maximum(tied.sum(axis=1), 1)
    weights = nearer + tied * left[:, None]
    place = codes + n * np.arange(len(keys))[:, None]
    counts = np.bincount(place.ravel(), weights.ravel(), n * len(keys))
    return np.asarray(counts, dtype=np.float64).reshape(len(keys), n)
