"""A measure meets stored rows: fitted or loaded, then vectors block by block."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from alike.extract.command import extract_again
from alike.extract.errors import BadInput
from alike.extract.measures.measures import Measure, measure_named
from alike.extract.measures.steps import Array

FIT_ROWS = 20_000
"""Rows that a measure is fitted on, if there are so many."""

RECORD = "record"
"""Name of the constant that holds the digest of a fitted measure and the hash of its labels."""

BLOCK = 1024
"""Rows that are embedded at once."""
READ_BYTES = 128 << 20
"""Of stored features, read at once."""


class FeatureRows(Protocol):
    """What a measure needs of stored features; `alike.extract.store.store.Features` is one."""

    key: str
    arrays: Any
    """Names of the stored arrays; `in` must work."""
    where: str
    """Which images `table` gives, "" for all."""

    def read(self, name: str, rows: Any) -> NDArray[Any]:
        """Rows of one array, in the order asked for."""

    def constants(self) -> Any:
        """Names of the stored constants; `in` must work."""

    def read_constant(self, name: str) -> NDArray[Any]:
        """One array that belongs to the network or to a measure, not to an image."""

    def write_constant(self, name: str, value: NDArray[Any]) -> None:
        """Store such an array."""

    def table(self, split: str | None = None, *, names: Iterable[str] | None = None) -> Any:
        """Rows that have these arrays (None: any): row, image_id, path, label, split."""

    @property
    def whole(self) -> "FeatureRows":
        """The same features with a `table` of all images, if this one is of some."""


def ready_measure(
    features: FeatureRows,
    name: str,
    *,
    fit_rows: NDArray[np.int64] | None = None,
    as_fitted: bool = False,
) -> Measure:
    """The measure, ready to embed: its taps are there, its arrays loaded or fitted and stored.

    What was fitted before counts if it was fitted on these rows with these labels. So a measure
    follows from the images that are there, and not from those that were there first.

    Args:
        features: the extraction to measure.
        name: of a measure, see `find_measure`.
        fit_rows: rows to fit on; None: up to 20,000 rows of the train split, balanced by class.
        as_fitted: take what was fitted before on whatever rows, as one who asks an index must
            that was built by it.

    Raises:
        BadInput: an unknown name, a tap or constant that is not stored, no rows to fit on.
    """
    measure = measure_named(name)
    _check_stored(features, measure)
    if not measure.needs_fit:
        return measure
    earlier, labels_then = _load(features, measure)
    if earlier is not None and as_fitted:
        return earlier
    if fit_rows is None:
        fit_rows = _rows_to_fit(features, measure)
    table = features.whole.table(names=measure.taps).set_index("row")
    # By image id, for sums depend on the order a little, and rows are numbered by arrival.
    images = table.loc[np.unique(np.asarray(fit_rows, dtype=np.int64))].sort_values("image_id")
    rows, labels = images.index.to_numpy(np.int64), images["label"].astype(str).to_numpy()
    # Version 0.1 did not record the labels.
    same_labels = labels_then in ("", _hash_of(labels))
    if earlier is not None and same_labels and np.array_equal(earlier.fitted_rows, np.sort(rows)):
        return earlier
    return _fit(features, measure, rows, labels)


def _rows_to_fit(features: FeatureRows, measure: Measure) -> NDArray[np.int64]:
    """Labelled rows of the train split, balanced by class."""
    train = features.whole.table("train", names=measure.taps).sort_values("image_id")
    return balanced_rows(train["row"].to_numpy(), train["label"].to_numpy(), FIT_ROWS)


def cannot_measure(features: FeatureRows, name: str) -> str:
    """Why a measure cannot compare features, even if it were fitted now; empty if it can.

    Args:
        features: the extraction to measure.
        name: of a measure, see `find_measure`.
    """
    measure = measure_named(name)
    try:
        _check_stored(features, measure)
        if measure.needs_fit and _load(features, measure)[0] is None:
            _check_fit_rows(features, measure, _rows_to_fit(features, measure))
    except BadInput as error:
        return str(error)
    return ""


def fitted_measure(features: FeatureRows, name: str) -> Measure:
    """The measure, ready to embed, without fitting it: nothing is written.

    Args:
        features: the extraction to measure.
        name: of a measure, see `find_measure`.

    Raises:
        BadInput: as `ready_measure`, and a measure that was never fitted on these features.
    """
    measure = measure_named(name)
    if measure.needs_fit:
        earlier, _ = _load(features, measure)
        if earlier is None:
            raise BadInput(f"measure {name} was not fitted on {features.key} yet")
        measure = earlier
    _check_stored(features, measure)
    return measure


def constants_of(features: FeatureRows, measure: Measure) -> dict[str, NDArray[Any]]:
    """The stored constants that the measure reads."""
    return {name: features.read_constant(name) for name in measure.constants}


def embed_rows(
    features: FeatureRows,
    measure: Measure,
    rows: NDArray[np.int64],
    *,
    block: int = BLOCK,
    into: Array | None = None,
) -> Array:
    """Vectors (N, D) float32 of these rows, in their order; embeds `block` rows at a time.

    Many blocks are read at once: rows in the order of their classes lie all over the store, of
    which every read then takes a piece of each shard. `into` is written, if given.

    Raises:
        BadInput: rows whose features are NaN or infinite, named.
    """
    constants = constants_of(features, measure)
    rows = np.asarray(rows, dtype=np.int64)
    out = into
    low, most = 0, block
    while low < len(rows):
        window = rows[low : low + most]
        taps = {tap: features.read(tap, window) for tap in measure.taps}
        for begin, end in _spans(len(window), block):
            part = {tap: values[begin:end] for tap, values in taps.items()}
            vectors = measure.embed(part, constants)
            check_finite(measure.name, vectors, window[begin:end], features.key)
            if out is None:
                out = np.empty((len(rows), vectors.shape[1]), dtype=np.float32)
            out[low + begin : low + end] = vectors
        low += len(window)
        a_row = sum(values.nbytes for values in taps.values()) // len(window)
        most = max(READ_BYTES // max(a_row, 1) // block, 1) * block
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
            "run `alike store verify`, or extract them again; a program that writes features names "
            "such rows as bad"
        )
        raise BadInput(msg)


def balanced_rows(
    rows: NDArray[np.int64], labels: NDArray[Any], limit: int, seed: int = 0
) -> NDArray[np.int64]:
    """At most `limit` of `rows`, as even over the classes as they allow; sorted, seeded.

    Each class gives its whole content or the same quota; rows without a label are left out. The
    draw follows the order of the rows.
    """
    labelled = np.array([isinstance(label, str) and label != "" for label in labels], dtype=bool)
    rows, labels = np.asarray(rows)[labelled], np.asarray(labels)[labelled].astype(str)
    if len(rows) <= limit:
        return np.sort(rows)
    draw = np.random.default_rng(seed)
    groups = [draw.permutation(rows[labels == label]) for label in np.unique(labels)]
    room, parts = limit, []
    for number, group in enumerate(sorted(groups, key=len)):
        quota = room // (len(groups) - number)
        parts.append(group[:quota])
        room -= len(parts[-1])
    return np.sort(np.concatenate(parts))


def _spans(total: int, block: int) -> Iterator[tuple[int, int]]:
    return ((low, min(low + block, total)) for low in range(0, total, block))


def _some(rows: NDArray[np.int64], most: int = 10) -> str:
    first = ", ".join(str(row) for row in rows[:most])
    return first if len(rows) <= most else f"{first} and {len(rows) - most} more"


def _check_stored(features: FeatureRows, measure: Measure) -> None:
    absent = [tap for tap in measure.taps if tap not in features.arrays]
    if absent:
        raise BadInput(missing_tap(measure.name, absent, features))
    lost = [name for name in measure.constants if name not in features.constants()]
    if lost:
        msg = (
            f"measure {measure.name} needs the weights of a linear classifier, and {features.key} "
            "has none: choose a network that ends in global pooling and one linear layer"
        )
        raise BadInput(msg)


def missing_tap(name: str, absent: Sequence[str], features: Any) -> str:
    """The message that a measure lacks taps, with the command that adds them."""
    return (
        f"measure {name} needs {', '.join(absent)}, not stored in {features.key}: add it by "
        f"`{extract_again(features, absent)}`"
    )


def _place(measure: Measure, name: str) -> str:
    return f"measures/{measure.name}/{name}"


def _hash_of(labels: NDArray[Any]) -> str:
    return hashlib.sha256("\0".join(labels).encode()).hexdigest()


def _load(features: FeatureRows, measure: Measure) -> tuple[Measure | None, str]:
    """What was fitted before, and the hash of the labels that it was fitted with.

    Arrays of two fits, of which the second was killed, count as nothing fitted.
    """
    start = _place(measure, "")
    names = [name for name in features.constants() if name.startswith(start)]
    if _place(measure, "rows") not in names:
        return None, ""
    arrays = {name.removeprefix(start): features.read_constant(name) for name in names}
    rows = arrays.pop("rows").astype(np.int64)
    record = arrays.pop(RECORD, np.empty(0, np.uint8)).tobytes().decode()
    stored = replace(measure, fitted=arrays, fitted_rows=rows)
    digest, _, labels_hash = record.partition(" ")
    return (stored, labels_hash) if digest == stored.digest else (None, "")


def _check_fit_rows(features: FeatureRows, measure: Measure, rows: NDArray[np.int64]) -> None:
    if len(rows) < 2:
        msg = (
            f"measure {measure.name} is fitted on labelled rows that it never evaluates, and the "
            f"train split of {features.key} has {len(rows)}: set a train share (--train-share 0.5)"
        )
        raise BadInput(msg)


def _fit(
    features: FeatureRows, measure: Measure, rows: NDArray[np.int64], labels: NDArray[Any]
) -> Measure:
    _check_fit_rows(features, measure, rows)
    codes = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    constants = constants_of(features, measure)
    taps = {tap: features.read(tap, rows) for tap in measure.taps}
    ready = replace(measure.fit(taps, constants, codes), fitted_rows=np.sort(rows))
    for name, value in ready.fitted.items():
        features.write_constant(_place(measure, name), value)
    record = f"{ready.digest} {_hash_of(labels)}".encode()
    features.write_constant(_place(measure, RECORD), np.frombuffer(record, dtype=np.uint8))
    features.write_constant(_place(measure, "rows"), ready.fitted_rows)
    return ready
