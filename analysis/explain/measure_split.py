"""Two images explained in a measure's own terms: its number, split exactly over their positions.

If the vector of an image is a sum of parts, one a position, `v_a = sum_p a_p`, then

    cosine:     cos = sum_p a_p . v_b / (|v_a| |v_b|)
    euclidean:  d^2 = |v_a - v_b|^2 = sum_p (v_a - v_b) . a_p - sum_q (v_a - v_b) . b_q

and `1 - cos` is half of the second line for unit vectors. So it is for every measure that does
affine steps to the mean of the last map, and for the whole map, position by position. The others
(largest activation, second order, ranks, probabilities) are no sums over positions.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from alike.analysis.explain.likeness_maps import Likeness
from alike.extract.errors import BadInput
from alike.extract.measures import Take

if TYPE_CHECKING:
    from alike.extract.measures import Measure

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MeasureSplit:
    """What a measure says of two images, position by position.

    Attributes:
        likeness: each map sums to the cosine; of a Euclidean measure to the inner product v_a . v_b
            of d^2 = |v_a|^2 + |v_b|^2 - 2 v_a . v_b.
        difference: both maps together sum to 1 - cosine, or to d^2.
        pairs: (P, Q), what every pair of positions adds to the value of `likeness`.
        distance: the measure's own.
    """

    likeness: Likeness
    difference: Likeness
    pairs: npt.NDArray[np.float64]
    distance: float


def in_measure(
    measure: "Measure", map_a: npt.NDArray[np.floating], map_b: npt.NDArray[np.floating]
) -> MeasureSplit | None:
    """Split what a measure says of two images over the positions of their maps.

    Args:
        measure: fitted, if it needs to be.
        map_a: (C, h, w) feature map of image a, any float dtype.
        map_b: (C, h', w') of image b; of the same shape for a measure of whole maps.

    Returns:
        None if the measure is no sum over positions.

    Raises:
        BadInput: maps of other channels, or a vector of zeros, which has no angle.
    """
    if len(map_a) != len(map_b):
        raise BadInput(f"maps of {len(map_a)} and {len(map_b)} channels: give two of one network")
    a, b = _columns(map_a), _columns(map_b)
    if (
        measure.pool == Take("last_conv")
        and measure.form == "cosine"
        and map_a.shape == map_b.shape
    ):
        # The vector of a position has entries of its own, so it meets its own kind only.
        return _split(map_a.shape, map_b.shape, a, b, (a, b), np.diag(np.sum(a * b, axis=1)))
    parts = [measure.of_columns(columns.astype(np.float32)) for columns in (a, b)]
    if parts[0] is None or parts[1] is None or measure.form == "inner":
        return None
    a, b = (np.asarray(one, np.float64) / len(one) for one in parts if one is not None)
    whole = a.sum(axis=0)[None], b.sum(axis=0)[None]
    cosine = measure.form == "cosine"
    return _split(map_a.shape, map_b.shape, a, b, whole, a @ b.T, cosine=cosine)


def _split(
    shape_a: tuple[int, ...],
    shape_b: tuple[int, ...],
    a: Floats,
    b: Floats,
    whole: tuple[Floats, Floats],
    pairs: Floats,
    *,
    cosine: bool = True,
) -> MeasureSplit:
    """The maps of parts (P, D) and (Q, D); `whole` is what each meets, (1, D) or one a part."""
    v_a, v_b = whole
    n_a, n_b = (_length(one, name) if cosine else 1.0 for one, name in ((v_a, "a"), (v_b, "b")))
    # Not 1 - cosine, which loses the digits of what is nearly alike
    apart, half = v_a / n_a - v_b / n_b, 0.5 if cosine else 1.0
    pairs = pairs / (n_a * n_b)
    distance = half * float(np.square(apart).sum())
    near = pairs.sum(axis=1), pairs.sum(axis=0)
    far = half * np.sum(apart * a, axis=1) / n_a, -half * np.sum(apart * b, axis=1) / n_b
    on = [
        [
            one.reshape(shape[1:]).astype(np.float32)
            for one, shape in zip(maps, (shape_a, shape_b), strict=True)
        ]
        for maps in (near, far)
    ]
    return MeasureSplit(
        Likeness(float(pairs.sum()), on[0][0], on[0][1]),
        Likeness(distance, on[1][0], on[1][1], "difference"),
        pairs,
        distance if cosine else float(np.sqrt(distance)),
    )


def _columns(feature_map: npt.NDArray[np.floating]) -> Floats:
    if feature_map.ndim != 3:
        raise BadInput(f"a map of shape {feature_map.shape}: expected (channels, height, width)")
    return np.asarray(feature_map.reshape(len(feature_map), -1).T, np.float64)


def _length(vectors: Floats, which: str) -> float:
    length = float(np.linalg.norm(vectors))
    if not length > 0:
        raise BadInput(f"the vector of image {which} is zero: it has no direction to compare")
    return length
