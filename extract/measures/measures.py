"""Measures: how different two images are in feature space, each a chain that ends in Euclid.

A measure is an embedding followed by squared Euclidean distance (or, for a few, by the inner
product), so that one matrix product serves them all: d(i, j) = a_i + a_j - 2 z_i . z_j. Formulas:
docs/measures.md. A new measure is one row of `MEASURES`.

>>> MEASURES["gap_pearson"].about
'1 - correlation of pooled features'
>>> [name for name, measure in MEASURES.items() if measure.needs_fit]
['gap_cosine_centred', 'lda_cosine', 'whitened_cosine', 'mahalanobis']
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from alike.extract.errors import BadInput
from alike.extract.measures import steps
from alike.extract.measures.steps import Array, Arrays

Form = Literal["cosine", "euclidean", "inner"]


@dataclass(frozen=True)
class Step:
    """One map from vectors to vectors.

    Attributes:
        apply: (x (N, D), fitted arrays) to (N, D').
        fit: (x (N, D), labels (N,) int64) to the arrays that `apply` reads; None: nothing to fit.
    """

    apply: Callable[[Array, Arrays], Array]
    fit: Callable[[Array, NDArray[np.int64]], dict[str, NDArray[Any]]] | None = None


@dataclass(frozen=True)
class Measure:
    """A way to say how different two images are.

    Attributes:
        name: as in `MEASURES`.
        taps: stored arrays that it reads.
        pool: (taps, constants) to one vector an image.
        chain: steps from there; at most one of them is fitted.
        form: `cosine` (vectors are normalised; own distance 1 - cos, in [0, 2]), `euclidean`
            (own distance is Euclid's) or `inner` (own distance 1 - inner product).
        about: one line for tables and help.
        role: `measure`, `floor`, `ceiling`, `control` or `warning`: how to read its scores.
        constants: stored constants that it reads besides its own.
        fitted: arrays found by fitting; empty until then.
        fitted_rows: rows that they were fitted on, int64, sorted: never to be evaluated by it.
    """

    name: str
    taps: tuple[str, ...]
    pool: Callable[[Arrays, Arrays], Array]
    chain: tuple[Step, ...]
    form: Form
    about: str
    role: str = "measure"
    constants: tuple[str, ...] = ()
    fitted: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    fitted_rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def needs_fit(self) -> bool:
        """Whether some step is still without its arrays."""
        return not self.fitted and any(step.fit for step in self.chain)

    def read(self, taps: Mapping[str, Any]) -> tuple[Callable[..., Any], Mapping[str, Any]]:
        """The pool as it was written, and the taps by the names that it was written for."""
        if isinstance(self.pool, _Elsewhere):
            return self.pool.pool, {name: taps[tap] for name, tap in self.pool.taps.items()}
        return self.pool, taps

    @property
    def digest(self) -> str:
        """Changes with the name and with every fitted number; 12 hex digits."""
        content = hashlib.sha256(self.name.encode())
        for name in sorted(self.fitted):
            content.update(name.encode() + np.ascontiguousarray(self.fitted[name]).tobytes())
        return content.hexdigest()[:12]

    def embed(self, taps: Arrays, constants: Arrays) -> Array:
        """Vectors (N, D) float32 after which squared Euclid (or -inner) orders as the measure.

        Args:
            taps: the arrays named in `self.taps`, N rows each, float16 or float32.
            constants: at least those named in `self.constants`.

        Raises:
            BadInput: the measure must be fitted first (see `ready_measure`).

        Example:
            >>> import numpy as np
            >>> gap = np.array([[3.0, 4.0], [6.0, 8.0], [4.0, -3.0]], dtype=np.float32)
            >>> z = MEASURES["gap_cosine"].embed({"gap": gap}, {})
            >>> np.square(z - z[0]).sum(axis=1).round(4).tolist()  # 2 (1 - cos) to the first
            [0.0, 0.0, 2.0]
        """
        if self.needs_fit:
            msg = f"measure {self.name} is not fitted, expected arrays: get it by ready_measure()"
            raise BadInput(msg)
        x = self.pool(taps, constants)
        for step in self.chain:
            x = step.apply(x, self.fitted)
        return x

    def of_columns(self, columns: Array) -> Array | None:
        """Vectors of the columns of a map, whose mean is that of the image before it is normalised.

        Args:
            columns: (P, C) of the map whose mean the measure reads, a row for each position.

        Returns:
            (P, D); None if the measure is no sum over positions, or reads another layer.

        Example:
            >>> import numpy as np
            >>> MEASURES["gap_euclid"].of_columns(np.eye(2)).tolist()
            [[1.0, 0.0], [0.0, 1.0]]
            >>> MEASURES["gap_spearman"].of_columns(np.eye(2)) is None
            True
        """
        chain = self.chain[:-1] if self.form == "cosine" else self.chain
        if self.pool != steps.Take("gap") or not all(step.apply in _AFFINE for step in chain):
            return None
        for step in chain:
            columns = step.apply(columns, self.fitted)
        return columns

    def own(self, squared_or_inner: Any) -> Any:
        """The measure's own distance, smaller is nearer.

        Args:
            squared_or_inner: squared Euclidean distance of two vectors, for the form `inner` their
                inner product; a number or an array.

        Example:
            >>> float(MEASURES["gap_euclid"].own(25.0)), float(MEASURES["gap_cosine"].own(2.0))
            (5.0, 1.0)
        """
        if self.form == "inner":
            return 1.0 - squared_or_inner
        clamped = np.maximum(squared_or_inner, 0.0)
        return clamped / 2.0 if self.form == "cosine" else np.sqrt(clamped)

    def fit(self, taps: Arrays, constants: Arrays, labels: NDArray[np.int64]) -> "Measure":
        """The same measure with the arrays of its fitted step found on these rows."""
        x = self.pool(taps, constants)
        for step in self.chain:
            if step.fit is not None:
                return replace(self, fitted=step.fit(x, labels))
            x = step.apply(x, self.fitted)
        return self


_AFFINE = (steps.centre, steps.project, steps.centre_each)
"""Steps that take the mean of vectors to the mean of what they make of each."""
_UNIT = Step(steps.normalise)
_CENTRE = Step(steps.centre, steps.fit_mean)
_LDA = Step(steps.project, steps.fit_lda)
_WHITEN = Step(steps.project, steps.fit_whitening)
_EACH = Step(steps.centre_each)
_RANK = Step(steps.rank_each)
_GAP = (("gap",), steps.Take("gap"))
_MAP = ("last_conv",)
_W = (steps.WEIGHT,)

_ROWS = (
    Measure("gap_cosine", *_GAP, (_UNIT,), "cosine", "pooled features, angle only: the default"),
    Measure("gap_cosine_centred", *_GAP, (_CENTRE, _UNIT), "cosine",
            "pooled features minus the training mean, angle only"),
    Measure("gap_euclid", *_GAP, (), "euclidean", "pooled features, plain distance"),
    Measure("gap_pearson", *_GAP, (_EACH, _UNIT), "cosine", "1 - correlation of pooled features"),
    Measure("gap_spearman", *_GAP, (_RANK, _EACH, _UNIT), "cosine",
            "1 - rank correlation of pooled features"),
    Measure("map_cosine", _MAP, steps.Take("last_conv"), (_UNIT,), "cosine",
            "whole feature maps, position by position"),
    Measure("max_cosine", _MAP, steps.max_pool, (_UNIT,), "cosine", "largest activation a channel"),
    Measure("gem_cosine", _MAP, steps.gem_pool, (_UNIT,), "cosine", "generalised mean, power 3"),
    Measure("bilinear_cosine", _MAP, steps.bilinear_pool, (_UNIT,), "cosine",
            "which channels are active together (second order)"),
    Measure("lda_cosine", *_GAP, (_LDA, _UNIT), "cosine",
            "directions that separate the training classes (uses training labels)"),
    Measure("whitened_cosine", *_GAP, (_WHITEN, _UNIT), "cosine",
            "whitened features: inflates directions without class", "warning"),
    Measure("mahalanobis", *_GAP, (_WHITEN,), "euclidean",
            "whitened features, plain distance: inflates directions without class", "warning"),
    Measure("cam_pred_cosine", ("last_conv", "logits"), steps.cam_pool, (_UNIT,), "cosine",
            "features weighted by the CAM of the predicted class; compare its two controls",
            constants=_W),
    Measure("energy_cosine", _MAP, steps.energy_pool, (_UNIT,), "cosine",
            "features weighted by any activation: control of cam_pred_cosine", "control"),
    Measure("gap_wpred_cosine", ("gap", "logits"), steps.gap_predicted, (_UNIT,), "cosine",
            "weighted by the decision, no position: control of cam_pred_cosine", "control", _W),
    Measure("fc_cosine", ("fc",), steps.Take("fc"), (_UNIT,), "cosine",
            "input of the classifier, angle only"),
    Measure("logits_cosine", ("logits",), steps.Take("logits"), (_UNIT,), "cosine",
            "class scores, angle only"),
    Measure("softmax_dot", ("logits",), steps.softmax, (), "inner",
            "probability that two predictions agree: the classifier's ceiling", "ceiling"),
    Measure("pixel_euclid", ("pixels",), steps.Take("pixels"), (), "euclidean",
            "the input's own pixels: the floor", "floor"),
)  # fmt: skip

MEASURES: dict[str, Measure] = {measure.name: measure for measure in _ROWS}
"""Every measure by name; those that are fitted come without their arrays (see `ready_measure`)."""


_PLACES = {"gap": "gap@{}", "last_conv": "{}"}
"""What a measure of the last map reads at another place of the network."""


@dataclass(frozen=True)
class _Elsewhere:
    """A pool that reads other taps than it was written for."""

    pool: Callable[[Arrays, Arrays], Array]
    taps: Mapping[str, str]

    def __call__(self, taps: Arrays, constants: Arrays) -> Array:
        return self.pool({name: taps[place] for name, place in self.taps.items()}, constants)


def find_measure(name: str) -> Measure | None:
    """The measure of a name, None if there is none.

    Args:
        name: a key of `MEASURES`, or one with ``@`` and the path of a module: a measure of pooled
            features then reads the mean of its output (tap ``gap@path``), one of maps the output
            itself (tap ``path``).

    Example:
        >>> find_measure("gap_cosine@layer3").taps, find_measure("map_cosine@layer3").taps
        (('gap@layer3',), ('layer3',))
        >>> find_measure("logits_cosine@layer3") is None
        True
    """
    base, at, path = name.partition("@")
    measure = MEASURES.get(base)
    if measure is None or not at:
        return measure
    if not path or measure.constants or not set(measure.taps) <= set(_PLACES):
        return None
    places = {tap: _PLACES[tap].format(path) for tap in measure.taps}
    return replace(
        measure, name=name, taps=tuple(places.values()), pool=_Elsewhere(measure.pool, places),
        about=f"{measure.about}, of {path}",
    )  # fmt: skip


def measure_named(name: str) -> Measure:
    """The measure of a name, as `find_measure` reads it.

    Raises:
        BadInput: there is none.
    """
    measure = find_measure(name)
    if measure is None:
        raise BadInput(
            f"unknown measure {name!r}, expected one of {', '.join(MEASURES)}; those of pooled "
            "features and of maps also as gap_cosine@PATH, of the output of a module"
        )
    return measure
