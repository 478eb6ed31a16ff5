"""Measures that compare two feature maps as sets of columns: no embedding, so pair by pair.

They re-rank the candidates that an embedding found, and are evaluated on samples of images; all
pairs of a large set would take too long (P^2 C multiplications a pair).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Maps = NDArray[Any]
Floats = NDArray[np.float64]
REGULARISATION = 0.05
ITERATIONS = 200
WEIGHT_FLOOR = 1e-3


@dataclass(frozen=True)
class SetMeasure:
    """A distance between feature maps.

    Attributes:
        name: as in `SET_MEASURES`.
        to_all: (one map (C, H, W), others (M, C, H, W)) to distances (M,), smaller is nearer,
            0 for equal maps, symmetric. Maps must be finite (see `measures.check_finite`).
        about: one line for tables and help.
        sample: images of which all pairs are evaluated by default.
    """

    name: str
    to_all: Callable[[Maps, Maps], Floats]
    about: str
    sample: int


def chamfer(one: Maps, others: Maps) -> Floats:
    """1 - (mean_p max_q cos + mean_q max_p cos) / 2 over the positions of both maps, in [0, 2].

    Every part looks for its likest part in the other map, wherever that lies. A column of zeros
    has cosine 0 with everything.
    """
    likeness = _likeness(_columns(one[None])[0], _columns(others))
    best = likeness.max(axis=2).mean(axis=1) + likeness.max(axis=1).mean(axis=1)
    return np.asarray(1.0 - best / 2.0, dtype=np.float64)


def sinkhorn(one: Maps, others: Maps) -> Floats:
    """Debiased optimal transport of the columns of one map onto those of the other.

    Cost 1 - cos; a column weighs max(a_p . mean_q a_q of the other map, 0) + 0.001, made to sum to
    1 (DeepEMD's cross-reference); entropic regularisation 0.05, 200 iterations. Debiased:
    T(i, j) - (T(i, i) + T(j, j)) / 2, each with the weights of the pair, or T(i, i) > 0 would make
    an image unlike itself.
    """
    one_columns, other_columns = _columns(one[None])[0], _columns(others)
    raw_left, raw_right = _raw(one[None])[0], _raw(others)
    weigh_left = _weights(raw_left @ raw_right.mean(axis=1).T).T
    weigh_right = _weights((raw_right @ raw_left.mean(axis=0)).T).T
    across = _transport(1.0 - _likeness(one_columns, other_columns), weigh_left, weigh_right)
    own_cost = np.broadcast_to(
        1.0 - one_columns @ one_columns.T, (len(others), len(one_columns), len(one_columns))
    )
    own = _transport(own_cost, weigh_left, weigh_left)
    theirs = _transport(
        1.0 - other_columns @ other_columns.transpose(0, 2, 1), weigh_right, weigh_right
    )
    return np.maximum(across - (own + theirs) / 2.0, 0.0)


def _raw(maps: Maps) -> Floats:
    return np.asarray(maps.reshape(*maps.shape[:2], -1).transpose(0, 2, 1), dtype=np.float64)


def _columns(maps: Maps) -> Floats:
    raw = _raw(maps)
    norm = np.linalg.norm(raw, axis=2, keepdims=True)
    return np.asarray(np.divide(raw, norm, out=np.zeros_like(raw), where=norm > 0))


def _likeness(left: Floats, right: Floats) -> Floats:
    flat = left @ right.reshape(-1, right.shape[2]).T
    return np.asarray(flat.reshape(len(left), len(right), -1).transpose(1, 0, 2))


def _weights(scores: Floats) -> Floats:
    """(P, M) to columns that sum to 1."""
    raised = np.maximum(scores, 0.0) + WEIGHT_FLOOR
    return np.asarray(raised / raised.sum(axis=0, keepdims=True), dtype=np.float64)


def _transport(cost: Floats, a: Floats, b: Floats) -> Floats:
    """Cost of the regularised plan of each pair: (M, P, Q), (M, P), (M, Q) to (M,)."""
    kernel = np.exp(-cost / REGULARISATION)
    u, v = np.ones_like(a)[..., None], np.ones_like(b)[..., None]
    turned = kernel.transpose(0, 2, 1)
    for _ in range(ITERATIONS):
        u = a[..., None] / (kernel @ v)
        v = b[..., None] / (turned @ u)
    moved = u * kernel * v.transpose(0, 2, 1)
    return np.asarray((moved * cost).sum(axis=(1, 2)), dtype=np.float64)


SET_MEASURES: dict[str, SetMeasure] = {
    measure.name: measure
    for measure in (
        SetMeasure("chamfer", chamfer, "each part against its likest part, wherever it lies", 300),
        SetMeasure("sinkhorn", sinkhorn, "moving one map's parts onto the other's (slow)", 100),
    )
}
