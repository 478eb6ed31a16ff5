"""Measures: how different two images are in feature space, each a chain that ends in Euclid.

A measure is an embedding followed by squared Euclidean distance (or, for a few, by the inner
product), so that one matrix product serves them all: d(i, j) = a_i + a_j - 2 z_i . z_j. Formulas:
SCIENCE 1.1 (kept in docs/measures.md). A new measure is one row of `MEASURES`.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from extract import measure_steps as steps
from extract.again import UNKNOWN, extract_again
from extract.errors import BadInput
from extract.measure_steps import Array, Arrays

Form = Literal["cosine", "euclidean", "inner"]
FIT_ROWS = 20_000
BLOCK = 1024


class FeatureRows(Protocol):
    """What a measure needs of stored features; `extract.store.Features` is one."""

    key: str
    arrays: Any
    """Names of the stored arrays; `in` must work."""

    def read(self, name: str, rows: Any) -> NDArray[Any]:
        """Rows of one array, in the order asked for."""

    def constants(self) -> Any:
        """Names of the stored constants; `in` must work."""

    def read_constant(self, name: str) -> NDArray[Any]:
        """One array that belongs to the network or to a measure, not to an image."""

    def write_constant(self, name: str, value: NDArray[Any]) -> None:
        """Store such an array."""

    def table(self, split: str | None = None) -> Any:
        """Usable rows: row, image_id, path, label, split."""


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
        fitted_rows: rows that they were fitted on, int64, sorted: never to be judged by it.
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

    @property
    def steps(self) -> tuple[Step, ...]:
        """The chain, under the name that the design uses."""
        return self.chain

    @property
    def digest(self) -> str:
        """Changes with the name and with every fitted number; 12 hex digits."""
        told = hashlib.sha256(self.name.encode())
        for name in sorted(self.fitted):
            told.update(name.encode() + np.ascontiguousarray(self.fitted[name]).tobytes())
        return told.hexdigest()[:12]

    def embed(self, taps: Arrays, constants: Arrays) -> Array:
        """Vectors (N, D) float32 after which squared Euclid (or -inner) orders as the measure.

        Args:
            taps: the arrays named in `self.taps`, N rows each, float16 or float32.
            constants: at least those named in `self.constants`.

        Raises:
            BadInput: where the measure must be fitted first (see `ready_measure`).
        """
        if self.needs_fit:
            msg = f"measure {self.name} is not fitted, expected arrays: get it by ready_measure()"
            raise BadInput(msg)
        x = self.pool(taps, constants)
        for step in self.chain:
            x = step.apply(x, self.fitted)
        return x

    def own(self, squared_or_inner: Any) -> Any:
        """The measure's own distance, smaller is nearer.

        Args:
            squared_or_inner: squared Euclidean distance of two vectors, for the form `inner` their
                inner product; a number or an array.
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
            "pooled features less the training mean, angle only"),
    Measure("gap_euclid", *_GAP, (), "euclidean", "pooled features, plain distance"),
    Measure("gap_pearson", *_GAP, (_EACH, _UNIT), "cosine", "1 - correlation of pooled features"),
    Measure("gap_spearman", *_GAP, (_RANK, _EACH, _UNIT), "cosine",
            "1 - rank correlation of pooled features"),
    Measure("map_cosine", _MAP, steps.Take("last_conv"), (_UNIT,), "cosine",
            "whole feature maps, position by position"),
    Measure("max_cosine", _MAP, steps.max_pool, (_UNIT,), "cosine", "largest activation a channel"),
    Measure("gem_cosine", _MAP, steps.gem_pool, (_UNIT,), "cosine", "generalised mean, power 3"),
    Measure("bilinear_cosine", _MAP, steps.bilinear_pool, (_UNIT,), "cosine",
            "which channels fire together (second order)"),
    Measure("lda_cosine", *_GAP, (_LDA, _UNIT), "cosine",
            "directions that tell training classes apart (uses training labels)"),
    Measure("whitened_cosine", *_GAP, (_WHITEN, _UNIT), "cosine",
            "whitened features: inflates what carries no class", "warning"),
    Measure("mahalanobis", *_GAP, (_WHITEN,), "euclidean",
            "whitened features, plain distance: inflates what carries no class", "warning"),
    Measure("cam_pred_cosine", ("last_conv", "logits"), steps.cam_pool, (_UNIT,), "cosine",
            "features where the predicted class looks; read it beside its two controls",
            constants=_W),
    Measure("energy_cosine", _MAP, steps.energy_pool, (_UNIT,), "cosine",
            "features where anything fires: control of cam_pred_cosine", "control"),
    Measure("gap_wpred_cosine", ("gap", "logits"), steps.gap_predicted, (_UNIT,), "cosine",
            "the decision without a place: control of cam_pred_cosine", "control", _W),
    Measure("fc_cosine", ("fc",), steps.Take("fc"), (_UNIT,), "cosine",
            "what enters the classifier, angle only"),
    Measure("logits_cosine", ("logits",), steps.Take("logits"), (_UNIT,), "cosine",
            "class scores, angle only"),
    Measure("softmax_dot", ("logits",), steps.softmax, (), "inner",
            "chance that two predictions name one class: the classifier's ceiling", "ceiling"),
    Measure("pixel_euclid", ("pixels",), steps.Take("pixels"), (), "euclidean",
            "the input's own pixels: the floor", "floor"),
)  # fmt: skip

MEASURES: dict[str, Measure] = {measure.name: measure for measure in _ROWS}
"""Every measure by name; those that are fitted come without their arrays (see `ready_measure`)."""


def ready_measure(
    features: FeatureRows, name: str, *, fit_rows: NDArray[np.int64] | None = None
) -> Measure:
    """The measure, ready to embed: its taps are there, its arrays loaded or fitted and stored.

    Args:
        features: the extraction to measure.
        name: a key of `MEASURES`.
        fit_rows: rows to fit on; None: up to 20,000 rows of the train split, balanced by class,
            or what was fitted before on rows that are all still in the train split.

    Raises:
        BadInput: an unknown name, a tap or constant that is not stored, no rows to fit on.
    """
    measure = MEASURES.get(name)
    if measure is None:
        msg = f"unknown measure {name!r}, expected one of {', '.join(MEASURES)}"
        raise BadInput(msg)
    _check_stored(features, measure)
    if not measure.needs_fit:
        return measure
    known = _load(features, measure)
    if fit_rows is None:
        train = features.table("train")
        if known is not None and np.isin(known.fitted_rows, train["row"].to_numpy()).all():
            return known
        fit_rows = balanced_rows(train["row"].to_numpy(), train["label"].to_numpy(), FIT_ROWS)
    fit_rows = np.unique(np.asarray(fit_rows, dtype=np.int64))
    if known is not None and np.array_equal(known.fitted_rows, fit_rows):
        return known
    return _fit(features, measure, fit_rows)


def constants_of(features: FeatureRows, measure: Measure) -> dict[str, NDArray[Any]]:
    """The stored constants that the measure reads."""
    return {name: features.read_constant(name) for name in measure.constants}


def embed_rows(
    features: FeatureRows, measure: Measure, rows: NDArray[np.int64], *, block: int = BLOCK
) -> Array:
    """Vectors (N, D) float32 of these rows, in their order; reads `block` rows at a time.

    Raises:
        BadInput: rows whose features are NaN or infinite, named.
    """
    constants = constants_of(features, measure)
    rows = np.asarray(rows, dtype=np.int64)
    out: Array | None = None
    for low, high in _spans(len(rows), block):
        part = rows[low:high]
        taps = {tap: features.read(tap, part) for tap in measure.taps}
        vectors = measure.embed(taps, constants)
        check_finite(measure.name, vectors, part, features.key)
        if out is None:
            out = np.empty((len(rows), vectors.shape[1]), dtype=np.float32)
        out[low:high] = vectors
    return np.empty((0, 0), dtype=np.float32) if out is None else out


def check_finite(name: str, values: NDArray[Any], rows: NDArray[np.int64], key: str) -> None:
    """Refuse values (N, ...) of these rows (N,) of an extraction that are no numbers.

    Raises:
        BadInput: some are NaN or infinite; the rows are named.
    """
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        msg = (
            f"{name} is NaN or infinite in rows {_some(np.asarray(rows)[~finite])} of {key}: "
            "run `alike store verify`, or extract them again"
        )
        raise BadInput(msg)


def balanced_rows(
    rows: NDArray[np.int64], labels: NDArray[Any], limit: int, seed: int = 0
) -> NDArray[np.int64]:
    """At most `limit` of `rows`, as even over the classes as they allow; sorted, seeded.

    Each class gives its whole content or the same quota; rows without a label are left out.
    """
    known = np.array([isinstance(label, str) and label != "" for label in labels], dtype=bool)
    rows, labels = np.asarray(rows)[known], np.asarray(labels)[known].astype(str)
    if len(rows) <= limit:
        return np.sort(rows)
    draw = np.random.default_rng(seed)
    groups = [draw.permutation(rows[labels == label]) for label in np.unique(labels)]
    left, taken = limit, []
    for done, group in enumerate(sorted(groups, key=len)):
        quota = left // (len(groups) - done)
        taken.append(group[:quota])
        left -= len(taken[-1])
    return np.sort(np.concatenate(taken))


def _spans(total: int, block: int) -> Iterator[tuple[int, int]]:
    return ((low, min(low + block, total)) for low in range(0, total, block))


def _some(rows: NDArray[np.int64], most: int = 10) -> str:
    told = ", ".join(str(row) for row in rows[:most])
    return told if len(rows) <= most else f"{told} and {len(rows) - most} more"


def _check_stored(features: FeatureRows, measure: Measure) -> None:
    absent = [tap for tap in measure.taps if tap not in features.arrays]
    if absent:
        raise BadInput(missing_tap(measure.name, absent, features.key, extract_again(features)))
    lost = [name for name in measure.constants if name not in features.constants()]
    if lost:
        msg = (
            f"measure {measure.name} needs the weights of a linear classifier, and {features.key} "
            "has none: choose a network that ends in global pooling and one linear layer"
        )
        raise BadInput(msg)


def missing_tap(name: str, absent: Sequence[str], key: str, command: str = UNKNOWN) -> str:
    """The line that tells which taps a measure lacks, and the command that adds them."""
    return (
        f"measure {name} needs {', '.join(absent)}, not stored in {key}: add it by "
        f"`{command} --taps {','.join(absent)}`"
    )


def _place(measure: Measure, name: str) -> str:
    return f"measures/{measure.name}/{name}"


def _load(features: FeatureRows, measure: Measure) -> Measure | None:
    start = _place(measure, "")
    names = [name for name in features.constants() if name.startswith(start)]
    if _place(measure, "rows") not in names:
        return None
    found = {name.removeprefix(start): features.read_constant(name) for name in names}
    rows = found.pop("rows").astype(np.int64)
    return replace(measure, fitted=found, fitted_rows=rows)


def _fit(features: FeatureRows, measure: Measure, rows: NDArray[np.int64]) -> Measure:
    if len(rows) < 2:
        msg = (
            f"measure {measure.name} is fitted on rows that it never judges, and the train split "
            f"of {features.key} has {len(rows)}: set a train share (--train-share 0.5)"
        )
        raise BadInput(msg)
    table = features.table().set_index("row")
    labels = np.unique(table.loc[rows, "label"].astype(str).to_numpy(), return_inverse=True)[1]
    constants = constants_of(features, measure)
    taps = {tap: features.read(tap, rows) for tap in measure.taps}
    fitted = replace(measure.fit(taps, constants, labels.astype(np.int64)), fitted_rows=rows)
    for name, value in fitted.fitted.items():
        features.write_constant(_place(measure, name), value)
    features.write_constant(_place(measure, "rows"), rows)
    return fitted
