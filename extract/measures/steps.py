"""The small maps of which measures are made: pools turn taps into vectors, steps turn vectors on.

Every function takes and gives float32 arrays, one image a row, and works on any block of rows by
itself, so that a measure gives the same vectors for any chunking. What must be fitted gives its
arrays as a plain dictionary (`fit_*`); it is applied by a step that reads them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alike.extract.errors import BadInput

Array = NDArray[np.float32]
Arrays = Mapping[str, NDArray[Any]]

GEM_POWER = 3.0
GEM_FLOOR = 1e-6
CAM_FLOOR = 1e-6
BILINEAR_CHANNELS = 128
WEIGHT = "classifier/weight"


# --- pools: taps (and constants) to one vector an image -----------------------------------------


@dataclass(frozen=True)
class Take:
    """The tap itself, flattened: (N, ...) to (N, D). A class, so that it travels to workers."""

    tap: str

    def __call__(self, taps: Arrays, constants: Arrays) -> Array:
        """Return the tap as vectors."""
        return _flat(taps[self.tap])


def max_pool(taps: Arrays, constants: Arrays) -> Array:
    """The largest activation of each channel: (N, C, H, W) to (N, C)."""
    return _f32(_columns(taps["last_conv"]).max(axis=2))


def gem_pool(taps: Arrays, constants: Arrays) -> Array:
    """Generalised mean with q = 3: g_k = (mean_p max(a_kp, 1e-6)^q)^(1/q) (Radenovic 2018)."""
    floored = np.maximum(_columns(taps["last_conv"]), GEM_FLOOR)
    return _f32((floored**GEM_POWER).mean(axis=2) ** (1.0 / GEM_POWER))


def bilinear_pool(taps: Arrays, constants: Arrays) -> Array:
    """Second order, B = A A^T / P with signed root: (N, C, H, W) to (N, C (C + 1) / 2).

    B is symmetric, so its upper triangle with the off-diagonal weighed by sqrt(2) has the same
    inner products as the whole. More than 128 channels are first turned into 128 by a fixed
    orthonormal projection (seed 0), or the vector would have millions of entries.
    """
    columns = _columns(taps["last_conv"])
    basis = bilinear_basis(columns.shape[1])
    if basis is not None:
        columns = np.einsum("ck,ncp->nkp", basis, columns, optimize=True)
    second = columns @ columns.transpose(0, 2, 1) / np.float32(columns.shape[2])
    upper, lower = np.triu_indices(second.shape[1])
    weights = np.where(upper == lower, 1.0, np.sqrt(2.0)).astype(np.float32)
    picked = second[:, upper, lower]
    return _f32(np.sign(picked) * np.sqrt(np.abs(picked)) * weights)


@cache
def bilinear_basis(channels: int) -> Array | None:
    """The projection (C, 128) of `bilinear_pool`; None if the channels are few."""
    if channels <= BILINEAR_CHANNELS:
        return None
    noise = np.random.default_rng(0).standard_normal((channels, BILINEAR_CHANNELS))
    return _f32(np.linalg.qr(noise)[0])


def cam_pool(taps: Arrays, constants: Arrays) -> Array:
    """Mean of the feature columns weighed by the CAM of the *predicted* class.

    The weight of position p is relu(w_c . a_p), c = argmax of the logits; no label enters. If
    the CAM is zero everywhere, the weights are equal: the plain mean (GAP).
    """
    columns = _columns(taps["last_conv"])
    cam = np.einsum("nc,ncp->np", _predicted_weights(taps, constants, columns.shape[1]), columns)
    return _weighed(columns, np.maximum(cam, 0.0))


def energy_pool(taps: Arrays, constants: Arrays) -> Array:
    """Mean of the feature columns weighed by their summed activation: class-agnostic control."""
    columns = _columns(taps["last_conv"])
    return _weighed(columns, np.maximum(columns.sum(axis=1), 0.0))


def gap_predicted(taps: Arrays, constants: Arrays) -> Array:
    """GAP times relu(w_predicted): the classifier's decision without any place, a control."""
    gap = _flat(taps["gap"])
    return gap * np.maximum(_predicted_weights(taps, constants, gap.shape[1]), 0.0)


def softmax(taps: Arrays, constants: Arrays) -> Array:
    """Class probabilities of the logits: (N, K), rows sum to 1."""
    logits = _flat(taps["logits"])
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    return _f32(grown / grown.sum(axis=1, keepdims=True))


# --- steps: vectors to vectors ------------------------------------------------------------------


def normalise(x: Array, arrays: Arrays) -> Array:
    """Divide by the norm; a zero vector stays zero, so that its cosine with everything is 0."""
    norm = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))
    scale = np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)
    return _f32(x * scale[:, None])


def centre_each(x: Array, arrays: Arrays) -> Array:
    """Subtract each vector's own mean (Pearson's first half)."""
    return _f32(x - x.mean(axis=1, keepdims=True, dtype=np.float64))


def rank_each(x: Array, arrays: Arrays) -> Array:
    """Ranks of each vector's entries, ties shared (average ranks), as in Spearman's correlation."""
    from scipy.stats import rankdata

    return _f32(rankdata(x, method="average", axis=1))


def centre(x: Array, arrays: Arrays) -> Array:
    """Subtract the fitted mean."""
    return _f32(x - arrays["mean"])


def project(x: Array, arrays: Arrays) -> Array:
    """(x - mean) @ components, both fitted: (N, D) to (N, k)."""
    return _f32((x - arrays["mean"]) @ arrays["components"])


# --- fits: vectors (and labels) of rows that are never evaluated, to arrays ----------------------


def fit_mean(x: Array, labels: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """The mean of all fitted vectors, summed in float64."""
    return {"mean": _f32(x.mean(axis=0, dtype=np.float64))}


def fit_whitening(x: Array, labels: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Mean and S^(-1/2) of the total covariance, shrunk after Ledoit and Wolf (2004)."""
    mean = x.mean(axis=0, dtype=np.float64)
    values, vectors = np.linalg.eigh(_shrunk(x - mean))
    keep = values > values.max() * 1e-10
    root = vectors[:, keep] / np.sqrt(values[keep])
    return {"mean": _f32(mean), "components": _f32(root)}


def fit_lda(x: Array, labels: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Directions v of S_B v = lambda S_W' v, at most K - 1 (Fisher 1936, Rao 1948).

    S_W' is the pooled within-class covariance shrunk towards tr(S_W) / D times identity by Ledoit
    and Wolf's weight; the directions come scaled so that v^T S_W' v = 1.
    """
    from scipy.linalg import eigh

    classes, code = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        msg = f"LDA needs two classes or more to fit, found {len(classes)}: give more labelled rows"
        raise BadInput(msg)
    wide = x.astype(np.float64)
    counts = np.bincount(code).astype(np.float64)
    means = np.zeros((len(classes), x.shape[1]))
    np.add.at(means, code, wide)
    means /= counts[:, None]
    overall = wide.mean(axis=0)
    apart = (means - overall) * np.sqrt(counts / counts.sum())[:, None]
    within = _shrunk(wide - means[code])
    k = min(len(classes) - 1, x.shape[1])
    first = x.shape[1] - k
    _, vectors = eigh(apart.T @ apart, within, subset_by_index=[first, x.shape[1] - 1])
    vectors = vectors[:, ::-1]
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[largest, np.arange(k)])
    return {"mean": _f32(overall), "components": _f32(vectors)}


def _shrunk(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    from sklearn.covariance import ledoit_wolf

    covariance, _ = ledoit_wolf(centred, assume_centered=True)
    shrunk: NDArray[np.float64] = covariance
    if not np.trace(shrunk) > 0:
        msg = "the features to fit on do not vary, expected some variance: check the extraction"
        raise BadInput(msg)
    return shrunk


def _f32(x: NDArray[Any]) -> Array:
    return np.ascontiguousarray(x, dtype=np.float32)


def _flat(x: NDArray[Any]) -> Array:
    return _f32(x.reshape(len(x), -1))


def _columns(maps: NDArray[Any]) -> Array:
    if maps.ndim != 4:
        msg = f"a feature map must be (N, C, H, W), got {maps.shape}: extract the tap last_conv"
        raise BadInput(msg)
    return _f32(maps.reshape(*maps.shape[:2], -1))


def _predicted_weights(taps: Arrays, constants: Arrays, channels: int) -> Array:
    weight = constants[WEIGHT]
    if weight.shape[1] != channels:
        msg = (
            f"the classifier reads {weight.shape[1]} inputs but the map has {channels} channels, "
            "so no CAM exists for this network: use gap_cosine or map_cosine"
        )
        raise BadInput(msg)
    return _f32(weight[_flat(taps["logits"]).argmax(axis=1)])


def _weighed(columns: Array, weights: Array) -> Array:
    total = weights.sum(axis=1, keepdims=True, dtype=np.float64)
    even = np.full_like(weights, 1.0 / weights.shape[1])
    share = np.where(total > CAM_FLOOR, weights / np.maximum(total, CAM_FLOOR), even)
    return _f32(np.einsum("ncp,np->nc", columns, _f32(share), optimize=True))
