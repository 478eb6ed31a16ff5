"""Where two images are alike: their similarity, split exactly over the positions of their maps.

With `g_a = (1/P) sum_p a_p` the pooled map of image a, the cosine of two images is a sum over pairs
of positions of dot products of their feature columns:

    cos(g_a, g_b) = sum_p a_p . g_b / (P |g_a| |g_b|) = sum_q b_q . g_a / (Q |g_a| |g_b|)

so each side is one heat map, on a and on b, that sums to the similarity without remainder. With a
centre m (the mean pooled feature of the data set) a_p - m and b_q - m take the place of a_p, b_q:
that is the measure `gap_cosine_centred`, and its maps do not show what every image has.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alike.extract.errors import BadInput

Floats = npt.NDArray[np.floating]
FORMS = ("cosine", "inner")


@dataclass(frozen=True)
class Likeness:
    """A number about two images and its share at every position.

    Attributes:
        value: the similarity, or the distance for `difference`.
        on_a: (h, w) float32; share of every position of image a.
        on_b: (h, w) float32; share of every position of image b.
        what: `likeness` (each map sums to value) or `difference` (both maps together do).
    """

    value: float
    on_a: Floats
    on_b: Floats
    what: str = "likeness"


def likeness(
    map_a: Floats, map_b: Floats, *, form: str = "cosine", centre: Floats | None = None
) -> Likeness:
    """Split the similarity of two images over the positions of each.

    Args:
        map_a: (C, h, w) feature map of image a, any float dtype.
        map_b: (C, h', w') feature map of image b; h', w' may differ from h, w.
        form: `cosine` of the pooled maps, or their `inner` product.
        centre: (C,) vector taken off every column first, or None.

    Returns:
        A Likeness whose maps sum to the similarity, each of them.

    Raises:
        BadInput: where the maps have other channels, the form is unknown, or a pooled map is zero.
    """
    a, b = _column_pair(map_a, map_b, centre)
    if form not in FORMS:
        raise BadInput(f"form {form!r}: expected one of {', '.join(FORMS)}")
    g_a, g_b = a.mean(axis=1), b.mean(axis=1)
    scale = 1.0 if form == "inner" else 1.0 / (_length(g_a, "a") * _length(g_b, "b"))
    on_a = (g_b @ a) * (scale / a.shape[1])
    on_b = (g_a @ b) * (scale / b.shape[1])
    return Likeness(float(g_a @ g_b * scale), _shaped(on_a, map_a), _shaped(on_b, map_b))


def difference(map_a: Floats, map_b: Floats, *, centre: Floats | None = None) -> Likeness:
    """Split the cosine distance of two images over the positions of both: where they differ.

    `1 - cos = (1/2) |u_a - u_b|^2 = (1/2) (u_a - u_b) . u_a + (1/2) (u_b - u_a) . u_b` with unit
    vectors u; both terms are linear in the columns of one image, and each is half of the distance.

    Args and errors as `likeness`; the two maps together sum to `value = 1 - cos`.
    """
    a, b = _column_pair(map_a, map_b, centre)
    g_a, g_b = a.mean(axis=1), b.mean(axis=1)
    n_a, n_b = _length(g_a, "a"), _length(g_b, "b")
    apart = g_a / n_a - g_b / n_b
    on_a = 0.5 * (apart @ a) / (a.shape[1] * n_a)
    on_b = -0.5 * (apart @ b) / (b.shape[1] * n_b)
    value = 0.5 * float(apart @ apart)
    return Likeness(value, _shaped(on_a, map_a), _shaped(on_b, map_b), "difference")


def likeness_to(maps: Floats, direction: Floats, *, centre: Floats | None = None) -> Floats:
    """Split the similarity of every image to one direction over its positions.

    Args:
        maps: (N, C, h, w) feature maps.
        direction: (C,) or (N, C); a class direction of `class_direction`, centred as the maps are.
        centre: (C,) vector taken off every column first, or None.

    Returns:
        (N, h, w) float32 whose sum over positions is `u_i . direction_i`, with u_i the unit pooled
        map; for a class direction that is the mean cosine of image i to the images of the class.
        Zero everywhere for a pooled map of zeros, which is like nothing.
    """
    n, channels, h, w = maps.shape
    columns = maps.reshape(n, channels, h * w).astype(np.float64)
    if centre is not None:
        columns -= np.asarray(centre, np.float64)[None, :, None]
    lengths = np.linalg.norm(columns.mean(axis=2), axis=1)
    toward = np.broadcast_to(np.asarray(direction, np.float64), (n, channels))
    shares = np.einsum("ncp,nc->np", columns, toward)
    shares /= h * w * np.where(lengths > 0, lengths, np.inf)[:, None]
    return np.asarray(shares.reshape(n, h, w), np.float32)


def class_direction(pooled: Floats, *, centre: Floats | None = None) -> Floats:
    """Return the mean unit vector (C,) of pooled features (n, C): what makes one of its class.

    Its dot product with a unit vector is the mean cosine to the n images.
    """
    direction: Floats = unit(pooled, centre=centre).mean(axis=0)
    return direction


def leave_one_out(pooled: Floats, *, centre: Floats | None = None) -> Floats:
    """Return (n, C): for every image the mean unit vector of the other images of its class."""
    if len(pooled) < 2:
        raise BadInput("a class of one image has no other image to be like: give two or more")
    units = unit(pooled, centre=centre)
    others: Floats = (units.sum(axis=0) - units) / (len(units) - 1)
    return others


def position_pairs(map_a: Floats, map_b: Floats, *, centre: Floats | None = None) -> Floats:
    """Return (P, Q) float32: the share of every pair of positions in the cosine of two images.

    Row p, shaped like map b, tells which positions of b position p of a is like; the row sums are
    `likeness(...).on_a`, the column sums `.on_b`.
    """
    a, b = _column_pair(map_a, map_b, centre)
    scale = _length(a.mean(axis=1), "a") * _length(b.mean(axis=1), "b") * a.shape[1] * b.shape[1]
    return np.asarray(a.T @ b / scale, np.float32)


def directed(pooled: Floats) -> npt.NDArray[np.bool_]:
    """Return (N,): whether each row of (N, C) has a direction, for zeros are like nothing."""
    return np.asarray(np.linalg.norm(np.asarray(pooled, np.float64), axis=1) > 0)


def unit(pooled: Floats, *, centre: Floats | None = None) -> Floats:
    """Return the rows of (N, C), centred and scaled to unit length, as float64."""
    rows = np.asarray(pooled, np.float64)
    rows = rows if centre is None else rows - np.asarray(centre, np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.all(lengths > 0):
        raise BadInput(f"row {int(np.argmin(lengths))} of the pooled features is zero")
    return np.asarray(rows / lengths)


def mean_map(maps: Sequence[Floats] | Floats) -> Floats:
    """Return the mean (h, w) float32 of maps of one shape."""
    return np.asarray(np.mean(np.asarray(maps, np.float64), axis=0), np.float32)


def _column_pair(
    map_a: Floats, map_b: Floats, centre: Floats | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Feature columns (C, P) and (C, Q) of two maps of one network."""
    a, b = _columns(map_a, centre), _columns(map_b, centre)
    if len(a) != len(b):
        raise BadInput(f"maps of {len(a)} and {len(b)} channels: give two maps of one network")
    return a, b


def _columns(feature_map: Floats, centre: Floats | None) -> npt.NDArray[np.float64]:
    if feature_map.ndim != 3:
        raise BadInput(f"a map of shape {feature_map.shape}: expected (channels, height, width)")
    columns = np.asarray(feature_map.reshape(len(feature_map), -1), np.float64)
    return columns if centre is None else columns - np.asarray(centre, np.float64)[:, None]


def _length(pooled: npt.NDArray[np.float64], which: str) -> float:
    length = float(np.linalg.norm(pooled))
    if not length > 0:
        raise BadInput(f"the pooled map of image {which} is zero: it has no direction to compare")
    return length


def _shaped(shares: Floats, feature_map: Floats) -> Floats:
    return shares.reshape(feature_map.shape[1:]).astype(np.float32)
