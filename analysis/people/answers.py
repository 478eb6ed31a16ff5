"""What people said about images, read from a file and matched to the rows of a store.

Three kinds, each known by the names in the file:
- votes: `counts` (N, classes), how many raters named each class;
- dissimilarities: `rdm` (N, N), or (raters, N, N);
- triplets: columns `a`, `b`, `odd` (the one of three that does not belong), or `anchor`, `near`,
  `far` (which of two is nearer); a line an answer. A column `rater` names who gave it.
"""

import hashlib
import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.extract.errors import BadInput

Kind = Literal["votes", "dissimilarities", "triplets"]

NAMES = ("image_id", "path")
"""Arrays or columns that say which image a row is of."""
CLASSES = "classes"
"""Array of an .npz that names the columns of votes."""
SHOWN = 30
"""Classes that a note names."""
NUMBERS = "biuf"
"""Kinds of arrays that are numbers."""
UNNAMED = re.compile(r"Unnamed: \d+|\s*")
"""A column of a table that has no name, as pandas calls it."""
RATER = "rater"
TRIPLETS = {"odd": ("a", "b", "odd"), "near": ("anchor", "near", "far")}
EXPECTED = (
    "an .npz with `counts` (N, classes) or `rdm` (N, N) or (raters, N, N), and `path` or "
    "`image_id` (N,); or a .csv or .parquet with the columns a, b, odd or anchor, near, far "
    "(and rater, if it is known), or with path or image_id and a column of counts for each class"
)


@dataclass(frozen=True)
class HumanAnswers:
    """What people said.

    Attributes:
        kind: see the module.
        rows: (N,) row in the store of each image of `values`, for votes and dissimilarities.
        values: votes (N, classes) or dissimilarities (raters, N, N), float64.
        triplets: (T, 3) rows in the store: the two that belong together, then the third.
        odd: triplets are odd-one-out; else the first is the anchor.
        digest: of the file, 12 hex digits.
        notes: how rows were matched, and what was left out.
        raters: (T,) who answered each triplet, a number for each rater; empty if the file does not
            say.
        classes: what votes are for, a name for each column; empty of other kinds.
    """

    kind: Kind
    rows: NDArray[np.int64]
    values: NDArray[np.float64]
    triplets: NDArray[np.int64]
    odd: bool
    digest: str
    notes: tuple[str, ...]
    raters: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    classes: tuple[str, ...] = ()

    @property
    def record(self) -> dict[str, Any]:
        """What tables keep of it: kind, digest, notes, and the classes of votes."""
        classes = {"classes": list(self.classes)} if self.classes else {}
        return {"kind": self.kind, "digest": self.digest, "notes": list(self.notes), **classes}

    @property
    def too_few(self) -> str:
        """Why there is no score if fewer than three answers are of the images evaluated."""
        of = "triplets" if self.kind == "triplets" else "images"
        return f"fewer than 3 of the {of} that people answered are evaluated, expected 3 or more"


def read_answers(file: str | Path, images: pd.DataFrame) -> HumanAnswers:
    """Read what people said, and find the rows of the images.

    A row of an .npz without names is the image of that place when paths are sorted, if the store,
    or one of its subsets (such as `test`), has as many images as the file has rows.

    Args:
        file: .npz, .csv or .parquet; see `EXPECTED`.
        images: row, image_id, path, subset of the store.

    Raises:
        BadInput: the file is none of these, or none of its images are in the store.
    """
    path = Path(file)
    content, digest = _read(path)
    for way, names in TRIPLETS.items():
        if set(names) <= set(content):
            return _triplets(path, content, names, way == "odd", digest, images)
    for kind, name in (("votes", "counts"), ("dissimilarities", "rdm")):
        if name in content:
            return _of_images(path, kind, content[name], content, digest, images)  # type: ignore[arg-type]
    raise _of_no_kind(path, content)


def check_answers(file: str | Path) -> tuple[int, int]:
    """Refuse a file that is no answers of any kind, before there is a store.

    Returns:
        Images, and matrices of pairs of them: one of votes, one a rater of dissimilarities, none
        of triplets.

    Raises:
        BadInput: as `read_answers`, but for what depends on the images.
    """
    content, _ = _read(Path(file))
    if any(set(names) <= set(content) for names in TRIPLETS.values()):
        return 0, 0
    if "counts" in content:
        return len(content["counts"]), 1
    if "rdm" in content:
        shape = content["rdm"].shape
        return shape[-1], shape[0] if len(shape) > 2 else 1
    raise _of_no_kind(Path(file), content)


def answers_digest(file: str | Path) -> str:
    """Of the bytes of the file, 12 hex digits; empty if it cannot be read."""
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12]
    except OSError:
        return ""


def _read(path: Path) -> tuple[dict[str, NDArray[Any]], str]:
    """Arrays by name, and the digest of the file."""
    if not path.is_file():
        fault = "a folder" if path.is_dir() else "no such file"
        raise BadInput(f"{path}: {fault}; expected {EXPECTED}")
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        content = _content(path)
        _check_columns(content)
    except _NoClass as error:
        raise BadInput(f"{path}: {error}") from None
    # What is damaged makes the readers of ZIP, Parquet and CSV raise errors of any type.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"{path} cannot be read ({reason}): expected {EXPECTED}") from error
    for name in ("counts", "rdm"):
        values = content.get(name)
        if values is None:
            continue
        if values.dtype.kind not in NUMBERS or not values.size or values.ndim < 2:
            raise BadInput(
                f"{path}: {name} of shape {values.shape} and the type {values.dtype}: expected "
                f"{EXPECTED}"
            )
    return content, digest


def _of_no_kind(path: Path, content: dict[str, NDArray[Any]]) -> BadInput:
    return BadInput(f"{path} holds {', '.join(content) or 'nothing'}: expected {EXPECTED}")


def _content(path: Path) -> dict[str, NDArray[Any]]:
    """Arrays by name; a table without triplets is votes, a column a class."""
    if path.suffix == ".npz":
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise ValueError("one .npy array, and no .npz file of named ones")
        with file:
            return {name: np.asarray(file[name]) for name in file.files}
    if path.suffix not in {".csv", ".parquet"}:
        raise ValueError(f"its name ends in {path.suffix or 'nothing'}")
    table = _lines(path) if path.suffix == ".csv" else pd.read_parquet(path)
    content = {str(name): column.to_numpy() for name, column in table.items()}
    if any(set(names) <= set(content) for names in TRIPLETS.values()):
        return content
    named = {name: content.pop(name) for name in NAMES if name in content}
    if not named or not any(values.dtype.kind in NUMBERS for values in content.values()):
        raise ValueError(f"its columns are {', '.join(map(str, table.columns))}")
    image = next(iter(named.values()))
    counts = [_numbers(name, values, image) for name, values in content.items()]
    return {**named, CLASSES: np.array(list(content)), "counts": np.stack(counts, axis=1)}


def _lines(path: Path) -> pd.DataFrame:
    """The table of a CSV file; lines at its top that begin with # are left out.

    Names of images are texts: one such as 00000012 is no number, and one may hold a #.
    """
    with path.open(encoding="utf-8-sig") as file:
        top = sum(1 for _ in itertools.takewhile(lambda line: line.startswith("#"), file))
    texts = {*NAMES, *itertools.chain.from_iterable(TRIPLETS.values())}
    table = pd.read_csv(path, skiprows=top, dtype=dict.fromkeys(texts, str))
    if not isinstance(table.index, pd.RangeIndex):
        n = table.shape[1]
        raise ValueError(f"it names {n} columns, but its lines have {n + table.index.nlevels}")
    return table


def _numbers(name: str, values: NDArray[Any], image: NDArray[Any]) -> NDArray[np.float64]:
    """A column of a table.

    Raises:
        _NoClass: one of its values is no number.
    """
    numbers = np.asarray(pd.to_numeric(pd.Series(values), errors="coerce"), dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(numbers))
    if not len(wrong):
        return numbers
    first = values[wrong[0]]
    said = "is empty" if pd.isna(first) else f"says {str(first)!r}"
    raise _NoClass(name, f"{said} for {image[wrong[0]]}", "correct it, or leave the column out")


class _NoClass(Exception):
    """A column that is taken for the votes for a class, and is none."""

    def __init__(self, name: str, wrong: str, advice: str) -> None:
        of = "every column beside path and image_id is the votes for a class"
        super().__init__(f"the column {name} {wrong}, and {of}: {advice}")


def _check_columns(content: dict[str, NDArray[Any]]) -> None:
    """Refuse columns of votes that are none.

    Raises:
        _NoClass: a column without a name, that numbers the rows, or that is the sum of the others.
    """
    counts = content.get("counts")
    if counts is None or counts.ndim != 2 or counts.dtype.kind not in NUMBERS:
        return
    wide = counts.astype(np.float64)
    rows, total = np.arange(len(wide)), wide.sum(axis=1)
    for name, column in zip(_classes(content), wide.T, strict=True):
        if UNNAMED.fullmatch(name):
            wrong = "has no name (the index of a table that was saved with it?)"
        elif len(rows) > 2 and np.array_equal(column - column[0], rows):
            wrong = "numbers the rows"
        elif min(wide.shape) > 2 and total.any() and np.allclose(2 * column, total, rtol=1e-6):
            wrong = "is the sum of the others"
        else:
            continue
        raise _NoClass(name, wrong, "leave it out")


def _classes(content: dict[str, NDArray[Any]]) -> tuple[str, ...]:
    """A name for each column of votes; its place, counted from 1, where the file has none."""
    columns = content["counts"].shape[1]
    names = content.get(CLASSES, np.empty(0))
    if names.shape != (columns,):
        return tuple(str(place + 1) for place in range(columns))
    return tuple(map(str, names))


def _of_images(
    path: Path,
    kind: Kind,
    values: NDArray[Any],
    content: dict[str, NDArray[Any]],
    digest: str,
    images: pd.DataFrame,
) -> HumanAnswers:
    wide = np.asarray(values, dtype=np.float64)
    if kind == "dissimilarities" and wide.ndim == 2:
        wide = wide[None]
    n = wide.shape[0] if kind == "votes" else wide.shape[-1]
    fits = wide.ndim == 2 if kind == "votes" else wide.ndim == 3 and wide.shape[1] == n
    if not fits or not np.isfinite(wide).all() or (kind == "votes" and wide.min() < 0):
        msg = f"{path}: {kind} of shape {values.shape}, with negative or missing numbers or none"
        raise BadInput(f"{msg}: expected {EXPECTED}")
    rows, note = _rows_of(path, n, content, images)
    here = rows >= 0
    voted = wide.sum(axis=1) > 0 if kind == "votes" else np.ones(n, dtype=bool)
    if here.any() and not (here & voted).any():
        raise BadInput(f"{path}: none of its {here.sum()} images in the store has a vote, expected "
                       "rows of votes above 0")  # fmt: skip
    here &= voted
    notes = [note] if note else []
    if not here.any():
        raise BadInput(f"{path}: none of its {n} images is in the store, expected its image ids "
                       "or paths (see `alike export`)")  # fmt: skip
    if len(np.unique(rows[here])) < here.sum():
        raise BadInput(f"{path} names an image twice, expected one row an image: add its rows up")
    if kind == "dissimilarities" and not np.allclose(wide, wide.transpose(0, 2, 1)):
        notes.append(f"{path.name} is not symmetric: each pair has the mean of its two numbers")
    if not here.all():
        notes.append(f"{int((~here).sum())} of {n} images are not in the store or have no votes")
    classes = _classes(content) if kind == "votes" else ()
    if CLASSES in content and classes:
        more = f" and {len(classes) - SHOWN:,} more" if len(classes) > SHOWN else ""
        notes.append(f"classes of the votes: {', '.join(classes[:SHOWN])}{more}")
    values = wide[here] if kind == "votes" else wide[:, here][:, :, here]
    empty = np.empty((0, 3), np.int64)
    return HumanAnswers(
        kind, rows[here], values, empty, False, digest, tuple(notes),
        classes=classes,
    )  # fmt: skip


def _rows_of(
    path: Path, n: int, content: dict[str, NDArray[Any]], images: pd.DataFrame
) -> tuple[NDArray[np.int64], str]:
    """Row of each image, -1 if the store lacks it, and how it was taken."""
    for name in NAMES:
        if name in content:
            names = content[name].ravel()
            if len(names) != n:
                raise BadInput(
                    f"{path} has {n} rows, and {len(names)} in `{name}`: expected as many"
                )
            return _found(_texts(path, names), name, images), ""
    parts = {"the store": images} | {
        f"the subset {name}": part for name, part in images.groupby("subset")
    }
    fitting = {name: part for name, part in parts.items() if len(part) == n}
    if not fitting:
        sizes = ", ".join(f"{len(part)} in {name}" for name, part in parts.items())
        msg = f"{path} has {n} rows without names, and there are {sizes} images"
        raise BadInput(f"{msg}: add an array `path` or `image_id` that names them")
    name, part = next(iter(fitting.items()))
    if len(fitting) > 1 and name != "the store":
        msg = f"{path} has {n} rows without names, which fit {' and '.join(fitting)}"
        raise BadInput(f"{msg}: add an array `path` or `image_id` that names them")
    note = f"row i of {path.name} is taken for the i-th image of {name} by path"
    return np.asarray(part.sort_values("path")["row"], dtype=np.int64), note


def _texts(path: Path, names: NDArray[Any]) -> NDArray[np.str_]:
    """Names of images as texts, also those that are bytes."""
    try:
        return np.array(
            [n.decode() if isinstance(n, bytes) else str(n) for n in names.tolist()], str
        )
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{path}: the name {error.object!r} is not UTF-8: write the names as UTF-8"
        ) from error


def _found(wanted: NDArray[Any], name: str, images: pd.DataFrame) -> NDArray[np.int64]:
    row_of = images.drop_duplicates(name).set_index(name)["row"]
    return np.asarray(row_of.reindex(wanted).fillna(-1), dtype=np.int64)


def _triplets(
    path: Path,
    content: dict[str, NDArray[Any]],
    names: tuple[str, ...],
    odd: bool,
    digest: str,
    images: pd.DataFrame,
) -> HumanAnswers:
    texts = np.stack([_texts(path, content[name]) for name in names], axis=1)
    by = max(NAMES, key=lambda name: int((_found(texts.ravel(), name, images) >= 0).sum()))
    rows = _found(texts.ravel(), by, images).reshape(-1, 3)
    here = (rows >= 0).all(axis=1)
    apart = (rows[:, 0] != rows[:, 1]) & (rows[:, 0] != rows[:, 2]) & (rows[:, 1] != rows[:, 2])
    if not (here & apart).any():
        raise BadInput(f"{path}: none of its {len(rows)} triplets is of three images of the store, "
                       "expected image ids or paths")  # fmt: skip
    lost = int((~(here & apart)).sum())
    note = f"{lost} of {len(rows)} triplets are not of three images of the store"
    none = np.empty(0, np.int64)
    usable = here & apart
    return HumanAnswers(
        "triplets", none, np.empty((0, 0)), rows[usable], odd, digest, (note,) if lost else (),
        _raters(path, content, usable),
    )  # fmt: skip


def _raters(
    path: Path, content: dict[str, NDArray[Any]], usable: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """A number for each rater of the usable triplets; empty if the file names none.

    Raises:
        BadInput: some of the answers have no rater.
    """
    if RATER not in content:
        return np.empty(0, np.int64)
    names = pd.Series(content[RATER])
    if names.isna().any():
        raise BadInput(f"{path}: {int(names.isna().sum())} of {len(names)} answers have no rater, "
                       "expected a name in every line, or no column `rater`")  # fmt: skip
    return np.asarray(pd.factorize(names[usable])[0], dtype=np.int64)
