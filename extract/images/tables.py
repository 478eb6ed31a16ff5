"""Images named by a table: a CSV or Parquet manifest of paths, or Parquet with the images in it."""

import codecs
import json
import posixpath
import re
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from alike.extract.errors import BadImage, BadInput, not_utf8
from alike.extract.images.labels import LabelRule, check_text, shared_name, text_of
from alike.extract.images.source import (
    ImageSource,
    Listed,
    Stamp,
    check_bytes,
    filesystem_of,
    local_path,
    one_line,
    read_local,
    read_url,
    stamp_local,
    stamp_of_container,
    stamp_url,
)

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
CHUNK = 1 << 14
"""Rows of a manifest that are in memory at a time; of a Parquet file, a row group."""
Row = tuple[Any, ...]
OPEN_GROUPS = 4
"""Row groups of a Parquet file kept in memory."""


def open_table(
    spec: str,
    path: str = "path",
    label: str = "label",
    root: str = "",
    image: str = "image",
    subset: str = "subset",
    first_label: bool | None = None,
    group: str = "",
) -> ImageSource:
    """Open a manifest, or Parquet with embedded images.

    Args:
        spec: .csv or .parquet, a path or a URL of any fsspec filesystem.
        path: column of paths or URLs; relative ones start at `root`.
        label: column of class names; may be missing.
        root: folder or URL of relative paths; "" for the manifest's own folder.
        image: column of embedded images: bytes, or a struct with the field ``bytes``.
        subset: column of the part of the set that an image belongs to; may be missing.
        first_label: what to do with several labels of one image; see `LabelRule`.
        group: column of what images share that must stand on the same side of the split; "" for
            none.

    Raises:
        BadInput: not readable, or it has neither column, or none of the group.
    """
    with _Readable(spec):
        filesystem, name = filesystem_of(spec)
    given = {
        "path": (path, "path"), "label": (label, "label"), "root": (root, ""),
        "image": (image, "image"), "subset": (subset, "subset"), "group": (group, ""),
    }  # fmt: skip
    options: dict[str, Any] = {
        key: value for key, (value, default) in given.items() if value != default
    }
    options |= {} if first_label is None else {"first_label": first_label}
    rule = LabelRule(_absolute(spec), first_label)
    if spec.lower().endswith(".parquet"):
        import pyarrow.parquet as pq

        stamp = stamp_of_container(spec)
        with _Readable(spec):
            file = pq.ParquetFile(filesystem.open(name, "rb"))
        names = file.schema_arrow.names
        check_columns(names, (path, label, image, subset, group), f"manifest {spec}")
        if path not in names:
            named = (image, label, subset, group)
            return EmbeddedSource(_absolute(spec), options, file, named, rule, stamp)
        rule.names = class_names(file.schema_arrow.metadata, label)
        check_names(file.schema_arrow, label, spec)
        read = partial(_parquet_rows, file, spec, threading.Lock())
    else:
        # Its first line as it stands: pandas tells columns of one name apart by a number.
        with closing(_csv_parts(filesystem, name, spec, header=None, nrows=1)) as parts:
            names = [str(one).strip() for one in next(parts).iloc[0]]
        # Most faults show in its first rows: they are said before anything starts.
        with closing(_csv_parts(filesystem, name, spec)) as parts:
            next(parts, None)
        if "\0" in "".join(names):
            raise BadInput(f"manifest {spec} is not UTF-8: it holds zero bytes; save it as UTF-8")
        check_columns(names, (path, label, subset, group), f"manifest {spec}")
        read = partial(_csv_rows, filesystem, name, spec)
    if path not in names:
        other = next((mark for mark in ";\t" if mark in "".join(names)), "")
        if len(names) == 1 and other:
            raise BadInput(
                f"manifest {spec} has one column, {names[0]!r}: it is separated by "
                f"{other!r}; save it with commas"
            )
        raise BadInput(
            f"manifest {spec} has columns {', '.join(names)}; none is {path!r}: name the column "
            "of paths by --source-option path=COLUMN, and that of classes by --label-column COLUMN"
        )
    if label not in names and label != "label":
        raise BadInput(f"manifest {spec} has columns {', '.join(names)}; none is {label!r}")
    base = root or posixpath.dirname(_absolute(spec))
    _check_group(group, names, spec)
    columns = (path, label, subset, group or None)
    there = tuple(one if one in names else None for one in columns)
    source = ManifestSource(_absolute(spec), options, partial(read, there), base, rule)
    source.about = [no_label_note(label, names)] if label not in names else []
    return source


def _parquet_rows(
    file: Any, spec: str, lock: threading.Lock, columns: Sequence[str | None]
) -> Iterator[Row]:
    """Rows of a Parquet file, a row group at a time; no two threads read the file at once."""
    wanted = [one for one in dict.fromkeys(columns) if one is not None]
    for group in range(file.num_row_groups):
        with _Readable(spec), lock:
            table = file.read_row_group(group, wanted)
        for batch in table.to_batches(CHUNK):
            values = {one: cells(batch[one], one, spec) for one in wanted}
            yield from _rows(values, columns)


def cells(column: Any, name: str, spec: str) -> list[Any]:
    """Values of an Arrow column.

    Raises:
        BadInput: texts that are not UTF-8, or values that cannot be read.
    """
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{spec}: column {name!r} holds {error.object!r}, which is not UTF-8: write its texts "
            "as UTF-8"
        ) from error
    # Numbers beyond what Python's dates hold, and whatever else damage makes of them.
    except Exception as error:
        raise BadInput(f"{spec}: column {name!r} cannot be read: {one_line(error)}") from error


def check_columns(names: Sequence[str], wanted: Iterable[str], what: str) -> None:
    """Refuse a table in which a name of a wanted column stands twice.

    Raises:
        BadInput: names the column.
    """
    for one in filter(None, wanted):
        if names.count(one) > 1:
            raise BadInput(
                f"{what} has {names.count(one)} columns named {one!r}: rename or remove all but one"
            )


def _csv_rows(
    filesystem: Any, name: str, spec: str, columns: Sequence[str | None]
) -> Iterator[Row]:
    """Rows of a manifest, `CHUNK` at a time."""
    for part in _csv_parts(filesystem, name, spec):
        values = (part.iloc[:, place].tolist() for place in range(part.shape[1]))
        yield from _rows(dict(zip(_stripped(part), values, strict=True)), columns)


def _stripped(part: Any) -> list[str]:
    """Names of a table's columns: spaces after a comma are no part of one."""
    return [str(one).strip() for one in part.columns]


def _rows(values: Mapping[str, list[Any]], columns: Sequence[str | None]) -> Iterator[Row]:
    n = len(next(iter(values.values()), []))
    yield from zip(*([None] * n if one is None else values[one] for one in columns), strict=True)


def _csv_parts(filesystem: Any, name: str, spec: str, **reading: Any) -> Generator[Any]:
    """Tables of at most `CHUNK` rows of UTF-8, or of UTF-16 that says so in its first bytes."""
    import pandas as pd

    with _Readable(spec), filesystem.open(name, "rb") as opened:
        encoding = "utf-16" if opened.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else ""
    try:
        # As text: a class named "1" or "NA" stays what it is.
        with (
            _Readable(spec),
            filesystem.open(name, "rb") as opened,
            pd.read_csv(
                opened, dtype=str, keep_default_na=False, encoding=encoding or "utf-8",
                chunksize=CHUNK, **reading,
            ) as parts,
        ):  # fmt: skip
            for part in parts:
                # Pandas would take the first column for numbers of the rows, and shift the others.
                if not isinstance(part.index, pd.RangeIndex):
                    n = part.shape[1]
                    raise BadInput(
                        f"manifest {spec} names {n} columns, but its lines have "
                        f"{n + part.index.nlevels}: name all columns in the first line, or remove "
                        "the commas that are too many"
                    )
                yield part
    except BadInput as error:
        if not isinstance(error.__cause__, UnicodeDecodeError) or encoding:
            raise
        with filesystem.open(name, "rb") as opened:
            raise not_utf8(f"manifest {spec}", opened) from error


def _check_group(name: str, columns: Iterable[str], spec: str) -> None:
    if name and name not in columns:
        raise BadInput(f"{spec} has columns {', '.join(columns)}: none is {name!r} for the groups")


@dataclass
class _Examples:
    """How many paths are of a kind, and the first of them."""

    count: int = 0
    first: str = ""

    def add(self, path: str, is_one: bool) -> None:
        self.count += is_one
        self.first = self.first or (path if is_one else "")


class ManifestSource:
    """Files named one by one, anywhere that fsspec reads.

    Args:
        spec: of the manifest.
        options: that were given.
        rows: gives path, label, subset and group of every image, from the first at every call.
        base: folder or URL of relative paths.
        rule: that names the classes.
    """

    def __init__(
        self,
        spec: str,
        options: dict[str, Any],
        rows: Callable[[], Iterator[Row]],
        base: str,
        rule: LabelRule,
    ) -> None:
        self.spec, self.options = spec, options
        self._rows, self._base, self._rule = rows, base, rule
        self.about: list[str] = []
        self.notes: list[str] = []

    def __iter__(self) -> Iterator[Listed]:
        """In the manifest's order."""
        turned, drives = _Examples(), _Examples()
        for number, (given, label, subset, group) in enumerate(self._rows(), 1):
            path = self._path(given, number)
            if "\\" in path:
                turned.add(path, self._whole(path) != self._place(path))
                drives.add(path, bool(_DRIVE.match(path)))
            part = shared_name(subset, self.spec, "subset")
            shared = shared_name(group, self.spec, "group")
            yield Listed(path, self._rule(label), subset=part, group=shared)
        lines = []
        if turned.count:
            lines.append(
                f"{turned.count} paths are written with \\ and read with /, for no file has the "
                f"name as written: {turned.first}"
            )
        if drives.count:
            lines.append(
                f"{drives.count} paths begin with a drive of Windows, the first is {drives.first}: "
                "write them without it, and name their folder by --source-option root=FOLDER"
            )
        self.notes = [*self.about, *self._rule.notes, *lines]

    def read(self, path: str) -> bytes:
        """The file's bytes."""
        place = self._whole(path)
        return read_url(place) if "://" in place else read_local(Path(place))

    def stamp(self, path: str) -> Stamp | None:
        """Says whether the file is as it was."""
        place = self._whole(path)
        return stamp_url(place) if "://" in place else stamp_local(place)

    def _path(self, given: Any, number: int) -> str:
        """The path in a row; an empty cell names no file."""
        is_none = given is None or given != given or not str(given).strip()
        if is_none:
            raise BadInput(
                f"manifest {self.spec}: its row {number} has no path; give one, or remove the row"
            )
        path = text_of(given, self.spec, "path")
        check_text(path, self.spec, "path")
        return path

    def _whole(self, path: str) -> str:
        """The place of a path; one written as on Windows only if no file has that very name."""
        place = self._place(path)
        local = local_path(place)
        if "\\" not in path or local is None or stamp_local(local):
            return place
        other = self._place(path.replace("\\", "/"))
        return other if stamp_local(local_path(other) or other) else place

    def _place(self, path: str) -> str:
        is_whole = "://" in path or path.startswith("/")
        return path if is_whole else f"{self._base}/{path}"


class EmbeddedSource:
    """Images inside a Parquet file; a path is the number of the row.

    Row groups are read as they are needed, `OPEN_GROUPS` at a time, so memory is theirs.
    """

    def __init__(
        self,
        spec: str,
        options: dict[str, Any],
        file: Any,
        columns: tuple[str, str, str, str],
        rule: LabelRule,
        stamp: Stamp | None = None,
    ) -> None:
        names = file.schema_arrow.names
        image, label, subset, group = columns
        if image not in names:
            raise BadInput(
                f"{spec} has columns {', '.join(names)}: no column of paths and none of images "
                f"named {image!r}; name one by --source-option path=COLUMN or image=COLUMN"
            )
        if label not in names and label != "label":
            raise BadInput(f"{spec} has columns {', '.join(names)}; none is {label!r}")
        _check_group(group, names, spec)
        self.spec, self.options = spec, options
        self._stamp = stamp
        self._file, self._image, self._rule = file, image, rule
        check_names(file.schema_arrow, label, spec)
        self._label = label if label in names else None
        self._subset = subset if subset in names else None
        self._shared = group or None
        rule.names = class_names(file.schema_arrow.metadata, label)
        self.notes: list[str] = []
        groups = range(file.num_row_groups)
        sizes = [file.metadata.row_group(group).num_rows for group in groups]
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._lock = threading.Lock()
        self._group = lru_cache(OPEN_GROUPS)(self._read_group)

    def __iter__(self) -> Iterator[Listed]:
        """In the order of rows."""
        columns = (self._label, self._subset, self._shared)
        for row, (label, subset, group) in enumerate(self._listed(columns)):
            part = shared_name(subset, self.spec, "subset")
            shared = shared_name(group, self.spec, "group")
            yield Listed(f"{row:08d}", self._rule(label), subset=part, group=shared)
        self.notes = [*self._rule.notes]
        if self._label is None:
            self.notes = [no_label_note("label", self._file.schema_arrow.names), *self.notes]

    def _listed(self, columns: Sequence[str | None]) -> Iterator[Row]:
        """Values of columns of every row; None for one that there is not."""
        if any(columns):
            yield from _parquet_rows(self._file, self.spec, self._lock, columns)
        else:
            yield from ((None,) * len(columns) for _ in range(int(self._starts[-1])))

    def _read_group(self, group: int) -> Any:
        return self._file.read_row_group(group, columns=[self._image])[self._image]

    def stamp(self, _path: str) -> Stamp | None:
        """Says whether the Parquet file is as it was."""
        return self._stamp

    def together(self, path: str) -> str:
        """Names the row group, which is read for one image as for all of them."""
        return f"row group {self._group_of(path)}"

    def _group_of(self, path: str) -> int:
        return int(np.searchsorted(self._starts, int(path), side="right")) - 1

    def read(self, path: str) -> bytes:
        """The stored bytes of a row."""
        if not path.isdecimal() or int(path) >= self._starts[-1]:
            raise BadImage("unreadable", f"no row {path}")
        row, group = int(path), self._group_of(path)
        try:
            with self._lock:
                value = self._group(group)[row - int(self._starts[group])].as_py()
        # Damaged pages make Arrow raise OSError or ArrowInvalid, a filesystem any type of its own.
        except Exception as error:
            raise BadImage("unreadable", one_line(error)) from error
        return embedded_bytes(value)


def class_names(metadata: Mapping[bytes, bytes] | None, label: str) -> list[str]:
    """Names of integer labels that Hugging Face `datasets` writes into a schema; [] if none."""
    try:
        written = json.loads((metadata or {}).get(b"huggingface", b"{}"))
    except (ValueError, RecursionError):
        return []
    return names_in(written.get("info") if isinstance(written, dict) else None, label)


def check_names(schema: Any, label: str, spec: str) -> None:
    """Refuse integer labels whose names are lost: `datasets` writes them into the schema.

    Raises:
        BadInput: what stands there describes no data set.
    """
    try:
        described: Any = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    except (ValueError, RecursionError):
        described = None
    info = described.get("info", {}) if isinstance(described, dict) else None
    if label in schema.names and not tells_names(info, label, schema.field(label).type):
        raise BadInput(
            f"{spec}: the description of the data set in its schema (huggingface) is damaged, so "
            "the names of its classes are lost: write the file again, with its description or "
            "without one"
        )


def tells_names(info: Any, label: str, kind: Any) -> bool:
    """Whether a description of a data set can be read as far as names of integer labels go.

    Args:
        info: the description.
        label: column of the classes.
        kind: its Arrow type; only integers need names.
    """
    import pyarrow as pa

    if not pa.types.is_integer(kind):
        return True
    for key in ("features", label):
        info = info.get(key, {}) if isinstance(info, dict) else None
    names = info.get("names") if isinstance(info, dict) else info
    return isinstance(info, dict) and (names is None or _are_names(names))


def names_in(info: Any, label: str) -> list[str]:
    """Names of integer labels in the description of a data set; [] if it is of another form."""
    for key in ("features", label, "names"):
        info = info.get(key) if isinstance(info, dict) else None
    return info if _are_names(info) else []


def _are_names(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def no_label_note(label: str, columns: Iterable[str]) -> str:
    """One line that says that the images of a table have no class."""
    return (
        f"no column {label!r}, so no image has a class; columns are {', '.join(columns)}; "
        "--label-column names one"
    )


def embedded_bytes(value: Any) -> bytes:
    """Bytes of an embedded image: bytes, or a struct with the field ``bytes``.

    Raises:
        BadImage: empty, or no bytes.
    """
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise BadImage("unreadable", "no bytes in this row")
    check_bytes(len(data))
    return data


def _absolute(spec: str) -> str:
    return spec if "://" in spec else posixpath.abspath(posixpath.expanduser(spec))


class _Readable:
    """Turns what a reader of tables raises into one line."""

    def __init__(self, spec: str) -> None:
        self.spec = spec

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _trace: object) -> None:
        # Every filesystem raises its own errors: no credentials, an unknown protocol…
        if isinstance(error, Exception) and not isinstance(error, BadInput):
            raise BadInput(f"manifest {self.spec} cannot be read: {one_line(error)}") from error
