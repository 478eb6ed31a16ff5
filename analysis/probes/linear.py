"""A linear probe in closed form: discriminant analysis with a ridge, from moments of one pass.

With class means m_c, shares p_c and the pooled covariance S within classes of standardised
channels, an image x is of the class of the largest w_c . x + b_c with
    w_c = (S + r s I)^-1 m_c,  b_c = log p_c - m_c . w_c / 2,  s = trace(S) / D,
D being the number of channels that vary (Hastie, Tibshirani and Friedman 2009, 4.3). The ridge r is
the one that names most images of every fifth train image right if it is fitted on the others. The
moments are sums over images, so the vectors are read once for the fit and never all in memory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from alike.analysis.blocks import EvaluationSet, MapBlocks, Statistic, Vectors, blocks
from alike.analysis.probes.standard import Standard, standard_of
from alike.extract.errors import BadInput

Floats = NDArray[np.float64]
Stage = Callable[[str], MapBlocks]

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
FIFTH = 5
"""One image of so many chooses the ridge."""
MOST_TUNED = 20_000
"""Images by which the ridge is chosen, at most."""


@dataclass(frozen=True)
class Sums:
    """Sums over images; two sets of images add.

    Attributes:
        n: images of each class (C,).
        s: sum of their vectors (C, D).
        square: sum of z z^T over all classes (D, D).
    """

    n: Floats
    s: Floats
    square: Floats

    def __add__(self, other: "Sums") -> "Sums":
        """Return the sums over both."""
        return Sums(self.n + other.n, self.s + other.s, self.square + other.square)


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier of standardised channels.

    Attributes:
        standard: how the channels are standardised.
        weight: (C, D).
        bias: (C,).
        ridge: that was chosen.
    """

    standard: Standard
    weight: Floats
    bias: Floats
    ridge: float

    def codes(self, x: NDArray[np.float32]) -> NDArray[np.int64]:
        """The class of each vector (N, D), as its code among the train classes."""
        named = self.standard(x) @ self.weight.T + self.bias
        return np.asarray(named.argmax(axis=1), dtype=np.int64)


def fit_linear(vectors: Vectors, train: EvaluationSet, stage: Stage) -> LinearProbe:
    """Fit on train images: O(N D^2) time, O(D^2 + C D) memory.

    Args:
        vectors: of the train images, of any scale.
        train: these images.
        stage: name of a stage to the way in which its blocks are mapped.

    Raises:
        BadInput: fewer than five train images.
    """
    if len(train) < FIFTH:
        msg = f"{len(train)} labelled train images, expected {FIFTH} or more to fit probes on"
        raise BadInput(msg)
    tuned = np.zeros(len(train), dtype=bool)
    tuned[train.by_id[FIFTH - 1 :: FIFTH]] = True
    spans = blocks(vectors.n, vectors.dim)
    parts: tuple[Sums, Sums] = Statistic(
        items=spans,
        chunk=partial(_sums_of, vectors, train, tuned),
        start=partial(_no_sums, len(train.classes), vectors.dim),
        combine=_add,
    ).compute(stage("probe moments"))
    first, rest = parts
    at = np.flatnonzero(tuned)
    at = at[np.unique(np.linspace(0, len(at) - 1, min(len(at), MOST_TUNED)).astype(int))]
    right: Floats = Statistic(
        items=[at[low : low + 1024] for low in range(0, len(at), 1024)],
        chunk=partial(_right_by_ridge, vectors, train, _fits(first, RIDGES)),
        start=partial(np.zeros, len(RIDGES)),
        combine=_sum,
    ).compute(stage("probe ridge"))
    # Of equal ones the strongest.
    best = RIDGES[int(np.flatnonzero(right == right.max())[-1])]
    return _fits(first + rest, (best,))[0]


def _sum(total: Floats, part: Floats) -> Floats:
    return total + part


def _no_sums(classes: int, dim: int) -> tuple[Sums, Sums]:
    none = Sums(np.zeros(classes), np.zeros((classes, dim)), np.zeros((dim, dim)))
    return none, none


def _add(total: tuple[Sums, Sums], part: tuple[Sums, Sums]) -> tuple[Sums, Sums]:
    return total[0] + part[0], total[1] + part[1]


def _sums_of(
    vectors: Vectors, train: EvaluationSet, tuned: NDArray[np.bool_], span: tuple[int, int]
) -> tuple[Sums, Sums]:
    """Sums of the images that fit, and of those that choose the ridge."""
    z, codes = vectors.block(*span)[0], train.codes[slice(*span)]
    part = tuned[slice(*span)]
    out = []
    for chosen in (~part, part):
        wide, own = z[chosen].astype(np.float64), codes[chosen]
        n = np.bincount(own, minlength=len(train.classes)).astype(np.float64)
        s = np.zeros((len(n), vectors.dim))
        # Sorted by class: one run a class.
        starts = np.flatnonzero(np.diff(own, prepend=-1))
        if len(starts):
            s[own[starts]] = np.add.reduceat(wide, starts)
        out.append(Sums(n, s, wide.T @ wide))
    return out[0], out[1]


def _fits(sums: Sums, ridges: tuple[float, ...]) -> list[LinearProbe]:
    """The probes of some ridges, from one eigendecomposition."""
    n, live = float(sums.n.sum()), sums.n > 0
    standard = standard_of(sums.s.sum(axis=0), np.diag(sums.square).copy(), n)
    means = sums.s[live] / sums.n[live][:, None]
    within = (sums.square - (means * sums.n[live][:, None]).T @ means) / n
    within *= np.outer(standard.scale, standard.scale)
    values, basis = np.linalg.eigh(within)
    values = np.maximum(values, 0.0)
    # A channel that does not vary is no channel: the ridge is the same with it or without.
    level = float(values.sum()) / max(int((standard.scale > 0).sum()), 1) or 1.0
    turned = standard(means) @ basis
    prior = np.log(sums.n[live] / n)
    out = []
    for ridge in ridges:
        weight = np.zeros((len(live), len(values)))
        bias = np.full(len(live), -np.inf)
        weight[live] = (turned / (values + ridge * level)) @ basis.T
        bias[live] = prior - np.einsum("cd,cd->c", standard(means), weight[live]) / 2
        out.append(LinearProbe(standard, weight, bias, ridge))
    return out


def _right_by_ridge(
    vectors: Vectors, train: EvaluationSet, probes: list[LinearProbe], at: NDArray[np.int64]
) -> Floats:
    z = vectors.rows(at)[0]
    return np.array([float((probe.codes(z) == train.codes[at]).sum()) for probe in probes])
